//! A session's deadlines. They are lazy: receiving stores one moment, and what that moves is worked out when the earliest
//! deadline known before has come.
//!
//! ```text
//! last_received ─┬─ ping_after ──► ping, again after each further ping_after of silence
//!                └─ idle_timeout ─────────────► 4408 idle_timeout
//! upgrade ───────── start_timeout ──► 4408 start_timeout      (until a valid start)
//! blocked_since ─── ack_stalled_timeout ──► 4408 ack_stalled  (while bytes we gave out make no progress)
//! token's exp ──────────────────────► 4401 token_expired      (where calls are to close on expiry)
//! close ─────────── close_timeout ──► what is still owed is given up
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

/// The moments that a session's deadlines count from. [`NEVER`] stands for what has not happened, to halve the size of
/// options.
#[derive(Debug)]
pub(super) struct Timers {
    /// Not later than the earliest deadline.
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
    /// From the upgrade on. `expires_in`: what is left of the token, where calls are to close on expiry.
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

    /// Not later than the earliest deadline; may be earlier, when nothing will be due yet.
    #[inline]
    pub(super) fn wake_at(&self) -> Option<Moment> {
        (self.wake_at != NEVER).then_some(self.wake_at)
    }

    /// Bytes came, whatever they were. Moves deadlines only further away, so there is nothing else to do.
    #[inline]
    pub(super) fn receive(&mut self, now: Moment) {
        self.last_received = now;
    }

    /// A ping is on its way.
    pub(super) fn ping(&mut self, now: Moment) {
        self.pinged_at = now;
    }

    /// From now on only `limits.close_timeout` is left.
    pub(super) fn close(&mut self, now: Moment, limits: &Limits) {
        self.close_due = now + limits.close_timeout;
        self.wake_at = self.wake_at.min(self.close_due);
    }

    /// Bytes that we gave out wait, and none of them went.
    pub(super) fn block(&mut self, now: Moment, limits: &Limits) {
        if self.blocked_since == NEVER {
            self.blocked_since = now;
            self.wake_at = self.wake_at.min(now + limits.ack_stalled_timeout);
        }
    }

    /// Some of them went.
    pub(super) fn progress(&mut self, now: Moment) {
        if self.blocked_since != NEVER {
            self.blocked_since = now;
        }
    }

    /// All of them went.
    pub(super) fn drain(&mut self) {
        self.blocked_since = NEVER;
    }

    /// We do not read: the peer cannot be heard, so its deadlines stand still.
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
        // What was received during the pause (it was on its way) counts from now at most.
        self.last_received = (self.last_received + pause).min(now);
        self.pinged_at = (self.pinged_at + pause).min(now);
        self.plan(armed, limits);
    }

    /// A deadline that has come, the most severe first. The caller acts on it so that it is gone, and asks again; at `None`
    /// the next wake-up has been planned.
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
        // A ping moves its own deadline on, whatever the setting: else it would be due again at once, for ever.
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

/// How many control frames a peer may still send: `limits.control_burst` at once and `limits.control_rate` a second for
/// long.
///
/// Kept as one moment: when the bucket, drained by what has come, is full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ControlBudget {
    full_at: Moment,
}

impl ControlBudget {
    /// Takes one frame's share; false where none is left.
    pub(super) fn take(&mut self, now: Moment, limits: &Limits) -> bool {
        let share = Duration::from_secs(1) / limits.control_rate.max(1);
        let full_at = self.full_at.max(now) + share;
        let fits = full_at.since(now) <= share * limits.control_burst;
        if fits {
            self.full_at = full_at;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_come_in_a_burst_and_then_at_their_rate() {
        let limits = Limits { control_rate: 10, control_burst: 5, ..Limits::tiny() };
        let mut budget = ControlBudget::default();
        let mut now = Moment::from_nanos(1_000_000_000_000);
        assert!((0..5).all(|_| budget.take(now, &limits)));
        assert!(!budget.take(now, &limits));
        for _ in 0..100 {
            now = now + Duration::from_millis(100);
            assert!(!budget.take(Moment::from_nanos(now.as_nanos() - 1), &limits));
            assert!(budget.take(now, &limits));
        }
        now = now + Duration::from_secs(1);
        assert!((0..5).all(|_| budget.take(now, &limits)), "no more than a burst is saved up");
        assert!(!budget.take(now, &limits));
    }

    #[test]
    fn a_wake_up_is_never_later_than_what_is_due() {
        let limits = Limits { ping_after: Duration::from_secs(1), idle_timeout: Duration::from_secs(10), ..Limits::tiny() };
        let armed = Armed { silence: true, ..Armed::default() };
        let at = |millis: u64| Moment::from_nanos(millis * 1_000_000);
        let mut timers = Timers::new(at(0), None, &limits);
        assert_eq!(timers.take_due(at(1000), armed, &limits), Some(Due::Ping));
        timers.ping(at(1000));
        assert_eq!(timers.take_due(at(1000), armed, &limits), None);
        // Received after the ping: the next one is due a second later, long before the idle deadline.
        timers.receive(at(1100));
        assert!(timers.wake_at().unwrap() <= at(2100));
        assert_eq!(timers.take_due(at(2000), armed, &limits), None);
        assert_eq!(timers.wake_at(), Some(at(2100)));
        assert_eq!(timers.take_due(at(2100), armed, &limits), Some(Due::Ping));
    }
}
