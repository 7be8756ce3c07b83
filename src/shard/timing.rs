//! What a connection remembers for the [latency recorder](super::latency_recorder): when the things
//! began that are measured at their end.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use std::num::NonZero;

/// A moment of the last 71 minutes in half the space: microseconds, modulo 2^32. For what takes
/// seconds, in a table that has an entry for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Micros32(u32);

impl Micros32 {
    /// A moment, cut to 32 bits.
    pub(crate) const fn of(moment: Moment) -> Self {
        Micros32(moment.as_micros() as u32)
    }

    /// The latest moment up to `now` that is cut to this.
    pub(super) const fn before(self, now: Moment) -> Moment {
        let elapsed = (now.as_micros() as u32).wrapping_sub(self.0);
        Moment::from_nanos(now.as_nanos().saturating_sub(elapsed as u64 * 1_000))
    }
}

/// A number of acks. Zero is not zero in memory: that tells the variants of [`Timing`] apart. A
/// call's share of the tables is so close to its limit that the four bytes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckCount(NonZero<u16>);

impl AckCount {
    pub(super) const ZERO: AckCount = AckCount(NonZero::<u16>::MIN);

    pub(super) const fn get(self) -> u64 {
        self.0.get() as u64 - 1
    }

    /// Stops at 65,534: a peer that lets more of them wait does not read them.
    fn plus(self, count: u64) -> Self {
        AckCount(self.0.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)))
    }
}

/// When the phases of a connection began, or its acks became due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timing {
    /// Until `started`.
    Setup {
        /// When it was accepted.
        accepted: Micros32,
        /// When its current phase began.
        phase: Micros32,
    },
    /// From `started` on: acks on their way, measured from the turn that completed the frame of the
    /// first one.
    Call {
        /// When the first ack became due that no send carries yet.
        owed_since: Micros32,
        /// Number of acks that no send carries yet.
        owed: AckCount,
        /// When the first ack became due that the current send carries.
        sending_since: Micros32,
        /// Number of acks that the current send carries.
        sending: AckCount,
    },
}

impl Timing {
    /// Of a connection that is accepted now.
    pub(crate) const fn accepted(now: Moment) -> Self {
        Timing::Setup { accepted: Micros32::of(now), phase: Micros32::of(now) }
    }

    /// `count` more acks may go out. The first of them became due in a turn at `since`.
    pub(super) fn owe(&mut self, since: Moment, count: u64) {
        if let Timing::Call { owed_since, owed, .. } = self {
            if *owed == AckCount::ZERO {
                *owed_since = Micros32::of(since);
            }
            *owed = owed.plus(count);
        }
    }

    /// Since when the oldest ack waits that the kernel has not taken, if one does.
    pub(super) fn acks_wait_since(&self, now: Moment) -> Option<Moment> {
        match self {
            Timing::Call { sending_since, sending, .. } if *sending != AckCount::ZERO => {
                Some(sending_since.before(now))
            }
            Timing::Call { owed_since, owed, .. } if *owed != AckCount::ZERO => {
                Some(owed_since.before(now))
            }
            Timing::Call { .. } | Timing::Setup { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Moment = Moment::from_nanos(10_000_000_123_456_789);

    #[test]
    fn a_moment_comes_back_to_the_microsecond() {
        for elapsed in [0, 1, 999, 60_000_000, 4_000_000_000] {
            let now = NOW + Duration::from_micros(elapsed);
            assert_eq!(now.since(Micros32::of(NOW).before(now)), Duration::from_micros(elapsed));
        }
        // Shortly after boot there may be no such moment.
        assert_eq!(Micros32::of(NOW).before(Moment::from_nanos(5)), Moment::ZERO);
    }

    #[test]
    fn acks_that_are_owed_count_from_the_first() {
        let mut timing = Timing::accepted(NOW);
        timing.owe(NOW, 1);
        assert_eq!(timing, Timing::accepted(NOW), "a call that has not started owes none");
        let (none, never) = (AckCount::ZERO, Micros32::default());
        timing =
            Timing::Call { owed_since: never, owed: none, sending_since: never, sending: none };
        timing.owe(NOW, 2);
        timing.owe(NOW + Duration::from_secs(1), u64::MAX);
        let Timing::Call { owed_since, owed, .. } = timing else { panic!("{timing:?}") };
        assert_eq!((owed_since, owed.get()), (Micros32::of(NOW), 65_534));
        let size = size_of::<Timing>() + size_of::<Micros32>();
        assert_eq!(size, 16, "a connection has no room for more");
    }
}
