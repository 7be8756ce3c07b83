//! The deadlines of a session. They are lazy: receiving only stores a moment. When the earliest
//! known deadline comes, the deadlines are computed again from the stored moments.
//!
//! ```text
//! last_received ─┬─ ping_after ──► ping, again after each further ping_after of silence
//!                └─ idle_timeout ─────────────► 4408 idle_timeout
//! upgrade ───────── start_timeout ──► 4408 start_timeout      (until a valid start)
//! blocked_since ─── ack_stalled_timeout ──► 4408 ack_stalled  (while our output makes no progress)
//! token's exp ──────────────────────► 4401 token_expired      (if calls must close on expiry)
//! close ─────────── close_timeout ──► what is still owed is dropped
//! ```

#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::limits::Limits;
use std::time::Duration;

/// Stands for "no deadline": 584 years after boot.
const NEVER: Moment = Moment::from_nanos(u64::MAX);

/// Which deadlines count in a phase of the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Armed {
    pub(super) start: bool,
    /// Ping and idle.
    pub(super) silence: bool,
    pub(super) stalled: bool,
    pub(super) expiry: bool,
    pub(super) close: bool,
}

/// A deadline that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Close,
    Expiry,
    Stalled,
    Start,
    Idle,
    Ping,
}

/// The moments from which a session's deadlines count. [`NEVER`] means that it has not happened; an
/// option would need twice the size.
#[derive(Debug)]
pub(super) struct Timers {
    /// At most the earliest deadline.
    wake_at: Moment,
    last_received: Moment,
    pinged_at: Moment,
    start_due: Moment,
    expiry_due: Moment,
    close_due: Moment,
    blocked_since: Moment,
    paused_since: Moment,
}

impl Timers {
    /// Starts at the upgrade. `expires_in`: time left for the token, if calls must close on expiry.
    pub(super) fn new(now: Moment, expires_in: Option<Duration>, limits: &Limits) -> Self {
        let mut timers = Timers {
            wake_at: NEVER,
            last_received: now,
            pinged_at: now,
            start_due: now + limits.start_timeout,
            expiry_due: expires_in.map_or(NEVER, |left| now + left),
            close_due: NEVER,
            blocked_since: NEVER,
            paused_since: NEVER,
        };
        let armed = Armed { start: true, silence: true, stalled: true, expiry: true, close: false };
        timers.plan(armed, limits);
        timers
    }

    /// At most the earliest deadline. It may be earlier, and then nothing is due.
    #[inline]
    pub(super) fn wake_at(&self) -> Option<Moment> {
        (self.wake_at != NEVER).then_some(self.wake_at)
    }

    /// Bytes came. This only moves deadlines further away, so there is nothing else to do.
    #[inline]
    pub(super) fn receive(&mut self, now: Moment) {
        self.last_received = now;
    }

    /// A ping was sent.
    pub(super) fn ping(&mut self, now: Moment) {
        self.pinged_at = now;
    }

    /// From now on only `limits.close_timeout` counts.
    pub(super) fn close(&mut self, now: Moment, limits: &Limits) {
        self.close_due = now + limits.close_timeout;
        self.wake_at = self.wake_at.min(self.close_due);
    }

    /// Bytes of our output wait, and none were sent.
    pub(super) fn block(&mut self, now: Moment, limits: &Limits) {
        if self.blocked_since == NEVER {
            self.blocked_since = now;
            self.wake_at = self.wake_at.min(now + limits.ack_stalled_timeout);
        }
    }

    /// Some of them were sent.
    pub(super) fn progress(&mut self, now: Moment) {
        if self.blocked_since != NEVER {
            self.blocked_since = now;
        }
    }

    /// All of them were sent.
    pub(super) fn drain(&mut self) {
        self.blocked_since = NEVER;
    }

    /// The shard stood still for `gap`: moves every deadline by it, except that of the token. A
    /// moment that is then in the future becomes `now`.
    pub(super) fn stand_still(&mut self, now: Moment, gap: Duration) {
        self.start_due = self.start_due + gap;
        self.close_due = self.close_due + gap;
        for since in [
            &mut self.last_received,
            &mut self.pinged_at,
            &mut self.blocked_since,
            &mut self.paused_since,
        ] {
            if *since != NEVER {
                *since = (*since + gap).min(now);
            }
        }
    }

    /// We stop reading. The peer cannot be heard, so its deadlines stand still.
    pub(super) fn pause(&mut self, now: Moment) {
        if self.paused_since == NEVER {
            self.paused_since = now;
        }
    }

    /// We read again.
    pub(super) fn resume(&mut self, now: Moment, armed: Armed, limits: &Limits) {
        if self.paused_since == NEVER {
            return;
        }
        let pause = now.since(self.paused_since);
        self.paused_since = NEVER;
        self.start_due = self.start_due + pause;
        // What arrived during the pause was already on its way, so it counts from now at most.
        self.last_received = (self.last_received + pause).min(now);
        self.pinged_at = (self.pinged_at + pause).min(now);
        self.plan(armed, limits);
    }

    /// Since when some bytes have not been read; what is read now may have arrived at any time
    /// since.
    pub(super) fn unread_since(&self, now: Moment) -> Moment {
        self.paused_since.min(now)
    }

    /// Since when nothing has come, as far as we have read.
    pub(super) fn silent(&self, now: Moment) -> Duration {
        self.unread_since(now).since(self.last_received)
    }

    /// Returns a deadline that has come, the most severe first. The caller handles it so that it is
    /// no longer due, and asks again. After `None` the next wake-up is planned.
    pub(super) fn take_due(&mut self, now: Moment, armed: Armed, limits: &Limits) -> Option<Due> {
        if now < self.wake_at {
            return None;
        }
        let deadlines = self.deadlines(armed, limits);
        let due = deadlines.into_iter().find(|(_, deadline)| *deadline <= now);
        if due.is_none() {
            self.plan(armed, limits);
        }
        due.map(|(due, _)| due)
    }

    fn plan(&mut self, armed: Armed, limits: &Limits) {
        let deadlines = self.deadlines(armed, limits);
        self.wake_at = deadlines.into_iter().map(|(_, deadline)| deadline).fold(NEVER, Moment::min);
    }

    fn deadlines(&self, armed: Armed, limits: &Limits) -> [(Due, Moment); 6] {
        let heard = self.paused_since == NEVER;
        let when = |is_armed: bool, deadline: Moment| if is_armed { deadline } else { NEVER };
        let silent_since = self.last_received.max(self.pinged_at);
        // A ping always moves its own deadline, whatever the setting. Otherwise it would be due
        // again at once, forever.
        let ping_after = limits.ping_after.max(Duration::from_nanos(1));
        [
            (Due::Close, when(armed.close, self.close_due)),
            (Due::Expiry, when(armed.expiry, self.expiry_due)),
            (Due::Stalled, when(armed.stalled, self.blocked_since + limits.ack_stalled_timeout)),
            (Due::Start, when(armed.start && heard, self.start_due)),
            (Due::Idle, when(armed.silence && heard, self.last_received + limits.idle_timeout)),
            (Due::Ping, when(armed.silence && heard, silent_since + ping_after)),
        ]
    }
}

/// Budget of one peer for messages that cost us more than their bytes: control frames and texts.
///
/// Stored as one moment: the time at which the bucket is full again. One bucket serves both kinds,
/// because a call must stay small. Each kind takes its own share of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    full_at: Moment,
    /// Microseconds in which the shard stood still, and whose share has not been used yet.
    stood_still_us: u32,
}

/// Size of a bucket, and how fast it fills.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Average, shares per second.
    pub(super) rate: u32,
    /// Burst, shares.
    pub(super) burst: u32,
}

impl Budget {
    /// Takes `count` shares; returns false if fewer are left. The messages came at some time from
    /// `since` to `now`.
    pub(super) fn take(
        &mut self,
        since: Moment,
        now: Moment,
        count: u32,
        allowance: Allowance,
    ) -> bool {
        let share = Duration::from_secs(1) / allowance.rate.max(1);
        let cost = share.saturating_mul(count);
        let full_at = self.full_at.max(since) + cost;
        let fits = full_at.since(now) <= share.saturating_mul(allowance.burst);
        if fits {
            self.full_at = full_at;
            return true;
        }
        let left = self.stood_still_us.checked_sub(micros(cost));
        self.stood_still_us = left.unwrap_or(self.stood_still_us);
        left.is_some()
    }

    /// The shard stood still for `gap`. What came meanwhile, at its normal rate, now arrives at
    /// once and is not a flood. Gaps are not added up, so a peer cannot save them.
    pub(super) fn stand_still(&mut self, gap: Duration) {
        self.stood_still_us = self.stood_still_us.max(micros(gap));
    }
}

/// At most an hour: a peer gets nothing back for more.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_come_in_a_burst_and_then_at_their_rate() {
        let allowance = Allowance { rate: 10, burst: 5 };
        let mut budget = Budget::default();
        let mut now = Moment::from_nanos(1_000_000_000_000);
        assert!((0..5).all(|_| budget.take(now, now, 1, allowance)));
        assert!(!budget.take(now, now, 1, allowance));
        for _ in 0..100 {
            now = now + Duration::from_millis(100);
            let just_before = Moment::from_nanos(now.as_nanos() - 1);
            assert!(!budget.take(just_before, just_before, 1, allowance));
            assert!(budget.take(now, now, 1, allowance));
        }
        now = now + Duration::from_secs(1);
        assert!(
            (0..5).all(|_| budget.take(now, now, 1, allowance)),
            "no more than a burst is saved up"
        );
        assert!(!budget.take(now, now, 1, allowance));
        now = now + Duration::from_millis(300);
        assert!(!budget.take(now, now, 4, allowance));
        assert!(budget.take(now, now, 3, allowance), "shares may be taken together");
    }

    #[test]
    fn frames_that_waited_unread_are_not_a_flood() {
        let allowance = Allowance { rate: 10, burst: 5 };
        let mut budget = Budget::default();
        let now = Moment::from_nanos(1_000_000_000_000);
        budget.stand_still(Duration::from_secs(60));
        budget.stand_still(Duration::from_secs(1));
        assert!((0..600 + 5).all(|_| budget.take(now, now, 1, allowance)));
        assert!(!budget.take(now, now, 1, allowance), "no more than came meanwhile at the rate");
    }

    #[test]
    fn a_wake_up_is_never_later_than_its_deadline() {
        let limits = Limits {
            ping_after: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(10),
            ..Limits::tiny()
        };
        let armed = Armed { silence: true, ..Armed::default() };
        let at = |millis: u64| Moment::from_nanos(millis * 1_000_000);
        let mut timers = Timers::new(at(0), None, &limits);
        assert_eq!(timers.take_due(at(1000), armed, &limits), Some(Due::Ping));
        timers.ping(at(1000));
        assert_eq!(timers.take_due(at(1000), armed, &limits), None);
        // Received after the ping: the next ping is due a second later, long before the idle
        // deadline.
        timers.receive(at(1100));
        assert!(timers.wake_at().unwrap() <= at(2100));
        assert_eq!(timers.take_due(at(2000), armed, &limits), None);
        assert_eq!(timers.wake_at(), Some(at(2100)));
        assert_eq!(timers.take_due(at(2100), armed, &limits), Some(Due::Ping));
    }
}
