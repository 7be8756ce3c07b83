//! The acks of one connection: 10, 20, 30 …, each in time, none skipped, merged or repeated.

use crate::failure::{Failure, Reason};

/// Frames from one ack to the next.
pub const ACK_EVERY: u64 = 10;

/// The judgement of an ack.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The expected one.
    Right {
        /// Nanoseconds since its frame was due.
        latency: u64,
        /// Set if it came after the time-out, once per ack.
        late: Option<Failure>,
    },
    /// Another one.
    Wrong(Failure),
}

/// Which acks have come, and which are due.
#[derive(Debug)]
pub struct Acks {
    /// When frame 1 was due, and the time from frame to frame.
    first_due: u64,
    interval: u64,
    timeout: u64,
    /// The next `seq` to come.
    expected: u64,
    /// The expected ack was already reported as late.
    late: bool,
}

impl Acks {
    /// Acks of a connection whose frame 1 is due at `first_due`.
    pub fn new(first_due: u64, interval: u64, timeout: u64) -> Self {
        Self { first_due, interval, timeout, expected: ACK_EVERY, late: false }
    }

    /// When frame `seq` (from 1) is due.
    pub fn due(&self, seq: u64) -> u64 {
        self.first_due + seq.saturating_sub(1) * self.interval
    }

    /// Takes an ack that came at `now`, when `sent` frames had been sent.
    pub fn handle_ack(&mut self, seq: u64, sent: u64, now: u64) -> Verdict {
        let expected = self.expected;
        let found = |reason| {
            Verdict::Wrong(Failure::new(
                reason,
                format!("expected ack {expected}, got {seq} ({sent} frames were sent)"),
            ))
        };
        if seq == 0 || !seq.is_multiple_of(ACK_EVERY) || seq > sent {
            return found(Reason::AckWrong);
        }
        if seq < expected {
            return found(Reason::AckRepeated);
        }
        self.expected = seq + ACK_EVERY;
        let called_late = std::mem::replace(&mut self.late, false);
        if seq > expected {
            return found(Reason::AckSkipped);
        }
        let latency = now.saturating_sub(self.due(seq));
        let late = (latency > self.timeout && !called_late).then(|| {
            Failure::new(
                Reason::AckLate,
                format!("ack {seq} took {}", crate::duration::show(latency)),
            )
        });
        Verdict::Right { latency, late }
    }

    /// The expected ack, if it is overdue at `now` and was not reported before.
    pub fn poll_overdue(&mut self, sent: u64, now: u64) -> Option<Failure> {
        let overdue =
            !self.late && self.expected <= sent && now > self.due(self.expected) + self.timeout;
        if !overdue {
            return None;
        }
        self.late = true;
        Some(Failure::new(Reason::AckLate, format!("ack {} has not come in time", self.expected)))
    }

    /// The number of acks that are due after `sent` frames and have not come.
    pub fn missing(&self, sent: u64) -> u64 {
        (sent / ACK_EVERY + 1).saturating_sub(self.expected / ACK_EVERY)
    }

    /// The last `seq` that came, 0 before any. Every frame up to it is promised.
    pub fn acked(&self) -> u64 {
        self.expected - ACK_EVERY
    }

    /// The next `seq` to come.
    pub fn expected(&self) -> u64 {
        self.expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn acks() -> Acks {
        Acks::new(1_000 * MS, 200 * MS, 5_000 * MS)
    }

    fn reason(verdict: Verdict) -> Reason {
        let Verdict::Wrong(failure) = verdict else { panic!("{verdict:?}") };
        failure.reason
    }

    #[test]
    fn latency_counts_from_when_the_tenth_frame_was_due() {
        let mut acks = acks();
        assert_eq!(acks.due(10), 2_800 * MS);
        assert_eq!(
            acks.handle_ack(10, 10, 2_803 * MS),
            Verdict::Right { latency: 3 * MS, late: None }
        );
        assert_eq!(acks.handle_ack(20, 29, 4_800 * MS), Verdict::Right { latency: 0, late: None });
        assert_eq!(acks.missing(29), 0);
        assert_eq!(acks.missing(30), 1);
    }

    #[test]
    fn wrong_repeated_and_skipped_are_told_apart() {
        let mut acks = acks();
        for seq in [0, 1, 11, 20, u64::MAX] {
            assert_eq!(reason(acks.handle_ack(seq, 15, 0)), Reason::AckWrong, "{seq}");
        }
        assert!(matches!(acks.handle_ack(10, 15, 0), Verdict::Right { .. }));
        assert_eq!(reason(acks.handle_ack(10, 15, 0)), Reason::AckRepeated);
        assert_eq!(reason(acks.handle_ack(40, 45, 0)), Reason::AckSkipped);
        assert!(matches!(acks.handle_ack(50, 50, 0), Verdict::Right { .. }));
        assert_eq!((acks.expected(), acks.acked()), (60, 50));
    }

    #[test]
    fn a_late_ack_is_reported_once() {
        let mut acks = acks();
        assert_eq!(acks.poll_overdue(10, 7_800 * MS), None);
        assert_eq!(acks.poll_overdue(9, 9_000 * MS), None);
        assert_eq!(acks.poll_overdue(10, 7_801 * MS).unwrap().reason, Reason::AckLate);
        assert_eq!(acks.poll_overdue(12, 8_000 * MS), None);
        assert!(matches!(acks.handle_ack(10, 12, 8_100 * MS), Verdict::Right { late: None, .. }));
        let Verdict::Right { late: Some(late), .. } = acks.handle_ack(20, 20, 20_000 * MS) else {
            panic!("not late")
        };
        assert_eq!(late.reason, Reason::AckLate);
    }
}
