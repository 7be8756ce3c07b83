//! The pace of a shard's turns: whether it stood still, and whether it falls short of what comes
//! in.
//!
//! A shard stands still if its process was stopped, its machine paused, or its CPU taken away. What
//! peers sent meanwhile is still in their sockets. So the time that passed counts against no peer:
//! every deadline moves by it.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::Stage;
use super::journal::ShardJournal;
use crate::clock::{Moment, Now};
use crate::io::{Io, Wait};
use crate::session::{Service, Session};
use std::time::Duration;

/// A turn that comes later than asked by this much says that the shard stood still. A busy turn
/// takes some milliseconds; the shortest timeouts that make sense are a second.
const STANDSTILL_MIN: Duration = Duration::from_millis(250);

/// How long timers wait for completions that have come in and are not handled yet. In an overload
/// that lasts they fire all the same.
const BACKLOG_TIME_MAX: Duration = Duration::from_secs(1);

/// When the turns of a shard began.
#[derive(Debug)]
pub(super) struct TurnClock {
    /// When the last turn began to handle what it found.
    turned_at: Moment,
    /// Since when each turn leaves completions for the next one.
    backlog_since: Option<Moment>,
}

impl TurnClock {
    pub(super) fn new(now: Moment) -> Self {
        TurnClock { turned_at: now, backlog_since: None }
    }

    /// A turn begins. `wait` is what the submit before it was asked to wait for. Returns how long
    /// the shard stood still, if it did.
    fn begin_turn(&mut self, now: Moment, wait: Wait) -> Option<Duration> {
        let last = std::mem::replace(&mut self.turned_at, now);
        let asked = match wait {
            Wait::No => Duration::ZERO,
            Wait::Gather { gather, limit: Some(limit), .. } => limit.max(gather),
            // Without any deadline there is nothing to move.
            Wait::Gather { limit: None, .. } => return None,
        };
        let gap = now.since(last);
        (gap > asked + STANDSTILL_MIN).then_some(gap)
    }

    /// A turn has reaped what it may. `is_all`: there was no more.
    pub(super) fn handle_reaped(&mut self, now: Moment, is_all: bool) {
        match is_all {
            true => self.backlog_since = None,
            false => _ = self.backlog_since.get_or_insert(now),
        }
    }

    /// Whether the last turn has left completions.
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog_since.is_some()
    }

    /// Whether timers have to wait: what a peer sent in time may not be reaped yet. After the
    /// machine has stood still, that is so for all peers.
    pub(super) fn holds_timers(&self, now: Moment) -> bool {
        self.backlog_since.is_some_and(|since| now.since(since) < BACKLOG_TIME_MAX)
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Once a turn, before anything is handled: `wait` is what the submit before it was asked to
    /// wait for.
    pub(super) fn notice_standstill(&mut self, now: Now, wait: Wait) {
        if let Some(gap) = self.clock.begin_turn(now.moment, wait) {
            self.move_deadlines(now, gap);
        }
    }

    /// Wheel entries stay where they are: one that fires too early finds nothing due, and is set
    /// again.
    fn move_deadlines(&mut self, now: Now, gap: Duration) {
        self.counters.standstills.add(1);
        tracing::warn!(
            shard = self.index,
            seconds = gap.as_secs_f64(),
            "the shard did not run for this long: the process was stopped or its CPU was taken; all timeouts move by it"
        );
        let later = |moment: &mut Option<Moment>| *moment = moment.map(|moment| moment + gap);
        let ids: Vec<_> = self.connections.ids().collect();
        for id in ids {
            let Some(connection) = self.connections.get(id) else { continue };
            later(&mut connection.deadline);
            later(&mut connection.drain_at);
            connection.reading.handle_standstill(now.moment, gap);
            if let Stage::Open(open) = &mut connection.stage {
                open.session.handle_standstill(now, gap);
            }
        }
        self.with_journal(|journal: &mut ShardJournal| journal.handle_standstill(now, gap));
        if let Some(replication) = &mut self.replication {
            replication.handle_standstill(now.moment, gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATHER: Duration = Duration::from_millis(2);

    #[test]
    fn only_a_turn_that_comes_much_later_than_asked_is_a_standstill() {
        let second = Duration::from_secs(1);
        let wait = |limit| Wait::Gather { want: 1, gather: GATHER, limit };
        for (wait, in_time) in [
            (Wait::No, STANDSTILL_MIN),
            (wait(Some(second)), second + STANDSTILL_MIN),
            (wait(Some(Duration::ZERO)), GATHER + STANDSTILL_MIN),
        ] {
            let mut clock = TurnClock::new(Moment::ZERO);
            let now = Moment::ZERO + in_time;
            assert_eq!(clock.begin_turn(now, wait), None, "{wait:?}");
            let late = in_time + Duration::from_nanos(1);
            assert_eq!(clock.begin_turn(now + late, wait), Some(late), "{wait:?}");
        }
        let mut clock = TurnClock::new(Moment::ZERO);
        assert_eq!(clock.begin_turn(Moment::ZERO + second * 3600, wait(None)), None);
    }

    #[test]
    fn timers_wait_for_a_backlog_but_not_for_ever() {
        let at = |millis| Moment::ZERO + Duration::from_millis(millis);
        let mut clock = TurnClock::new(at(0));
        assert!(!clock.has_backlog() && !clock.holds_timers(at(0)));
        clock.handle_reaped(at(5), false);
        clock.handle_reaped(at(900), false);
        assert!(clock.has_backlog() && clock.holds_timers(at(1004)));
        assert!(!clock.holds_timers(at(1005)), "it counts from the first turn");
        clock.handle_reaped(at(1006), true);
        assert!(!clock.has_backlog() && !clock.holds_timers(at(1006)));
    }
}
