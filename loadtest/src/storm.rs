//! A storm: many calls lose their connections at once and come back, while the others stay up.
//!
//! All workers share the counts here. Latencies go into [`crate::stats`], as all others do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Reason;
use crate::stats::Metric;

/// How calls lose their connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The socket is reset (RST), as when a network path or a box fails
    Rst,
    /// The call sends a Close, and waits for the node's
    Close,
}

/// The storm that the flags ask for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// When, nanoseconds since the run's start.
    pub at: u64,
    /// How.
    pub how: How,
    /// Each call waits up to this long before it connects again.
    pub jitter: Duration,
    /// Share of the calls that take part, 0 to 1.
    pub share: f64,
}

/// One storm, and its counts.
pub struct Storm {
    /// What the flags ask for.
    pub plan: Plan,
    /// Calls that take part.
    pub calls: u64,
    /// Calls whose fate is not settled yet.
    pending: AtomicU64,
    /// When the last call was settled; `u64::MAX` before.
    over_at: AtomicU64,
    left: AtomicU64,
    back: AtomicU64,
    lost: AtomicU64,
    retries: AtomicU64,
    refusals: Mutex<BTreeMap<String, u64>>,
}

/// How a call comes out of the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is up again.
    Back,
    /// It left and never came back.
    Lost,
    /// It was not up when the storm came.
    Absent,
}

/// The counts for `result.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Calls that lost their connections.
    pub calls_left: u64,
    /// Calls that did not take part.
    pub calls_stayed: u64,
    /// Calls that lost their connections and are up again.
    pub calls_back: u64,
    /// Calls that lost their connections and did not come back.
    pub calls_lost: u64,
    /// From the storm until all calls that left were up again; none if one was not.
    pub all_back_ns: Option<u64>,
    /// Failed attempts that were followed by another.
    pub retries: u64,
    /// Why attempts failed, by name.
    pub refusals: BTreeMap<String, u64>,
}

impl Storm {
    /// A storm among `calls` calls.
    pub fn new(plan: Plan, calls: u64) -> Self {
        let participants =
            (0..calls).filter(|number| takes_part(*number, plan.share)).count() as u64;
        Self {
            plan,
            calls: participants,
            pending: AtomicU64::new(participants),
            over_at: AtomicU64::new(u64::MAX),
            left: AtomicU64::new(0),
            back: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            refusals: Mutex::default(),
        }
    }

    /// Whether call `number` takes part.
    pub fn takes(&self, number: u64) -> bool {
        takes_part(number, self.plan.share)
    }

    /// A call has lost its connection.
    pub fn note_left(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// An attempt to come back has failed. `again`: the call tries once more.
    pub fn note_refusal(&self, reason: Reason, again: bool) {
        self.retries.fetch_add(u64::from(again), Relaxed);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry(reason.to_string()).or_default() += 1;
    }

    /// Settles the fate of a call at `now`. Once for each call that takes part.
    pub fn settle(&self, fate: Fate, now: u64) {
        match fate {
            Fate::Back => self.back.fetch_add(1, Relaxed),
            Fate::Lost => self.lost.fetch_add(1, Relaxed),
            Fate::Absent => 0,
        };
        if self.pending.fetch_sub(1, Relaxed) == 1 {
            self.over_at.store(now.max(self.plan.at), Relaxed);
        }
    }

    /// When the storm was over; none before.
    pub fn over_at(&self) -> Option<u64> {
        Some(self.over_at.load(Relaxed)).filter(|at| *at < u64::MAX)
    }

    /// The part of the run that an ack of a call that stayed counts for. The ack came at `now`, and
    /// its frame was due `latency` before.
    ///
    /// An ack that was due in the storm counts for it, however late it came.
    pub fn part(&self, now: u64, latency: u64) -> Metric {
        let due = now.saturating_sub(latency);
        match self.over_at() {
            _ if now < self.plan.at => Metric::AckBefore,
            Some(over_at) if due >= over_at => Metric::AckAfter,
            _ => Metric::AckDuring,
        }
    }

    /// The counts, among `calls` calls.
    pub fn summary(&self, calls: u64) -> Summary {
        let [left, back, lost, retries] =
            [&self.left, &self.back, &self.lost, &self.retries].map(|count| count.load(Relaxed));
        let is_whole = left > 0 && back == left;
        Summary {
            calls_left: left,
            calls_stayed: calls - self.calls,
            calls_back: back,
            calls_lost: lost,
            all_back_ns: self.over_at().filter(|_| is_whole).map(|at| at - self.plan.at),
            retries,
            refusals: self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Participants are spread evenly: of the first n calls, n times the share take part.
fn takes_part(number: u64, share: f64) -> bool {
    let until = |number: u64| (number as f64 * share + 1e-9).floor();
    until(number + 1) > until(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { at: 1_000, how: How::Rst, jitter: Duration::ZERO, share: 0.9 };

    #[test]
    fn the_share_takes_part_spread_evenly() {
        for (share, calls, expected) in
            [(1.0, 10, 10), (0.9, 10, 9), (0.5, 7, 3), (0.1, 1_000, 100), (0.7, 10_000, 7_000)]
        {
            let storm = Storm::new(Plan { share, ..PLAN }, calls);
            assert_eq!(storm.calls, expected, "{share} of {calls}");
            assert_eq!((0..calls).filter(|number| storm.takes(*number)).count() as u64, expected);
        }
        let stays: Vec<u64> = (0..20).filter(|number| !takes_part(*number, 0.9)).collect();
        assert_eq!(stays, [0, 10]);
    }

    #[test]
    fn it_is_over_when_the_last_call_is_settled() {
        let storm = Storm::new(PLAN, 4);
        assert_eq!(storm.calls, 3);
        for _ in 0..2 {
            storm.note_left();
        }
        storm.settle(Fate::Absent, 500);
        storm.settle(Fate::Back, 1_500);
        storm.note_refusal(Reason::Refused(503), true);
        storm.note_refusal(Reason::Refused(503), true);
        assert_eq!((storm.over_at(), storm.summary(4).all_back_ns), (None, None));
        storm.settle(Fate::Back, 1_900);
        let summary = storm.summary(4);
        assert_eq!((summary.calls_left, summary.calls_back, summary.calls_stayed), (2, 2, 1));
        assert_eq!((summary.all_back_ns, summary.retries), (Some(900), 2));
        assert_eq!(summary.refusals["refused_503"], 2);
    }

    #[test]
    fn a_lost_call_leaves_no_time_until_all_are_back() {
        let storm = Storm::new(Plan { share: 1.0, ..PLAN }, 2);
        storm.note_left();
        storm.note_left();
        storm.settle(Fate::Back, 2_000);
        storm.settle(Fate::Lost, 3_000);
        assert_eq!(storm.over_at(), Some(3_000), "what comes later is after the storm");
        assert_eq!((storm.summary(2).all_back_ns, storm.summary(2).calls_lost), (None, 1));
    }

    #[test]
    fn an_ack_belongs_to_the_storm_that_it_waited_in() {
        let storm = Storm::new(Plan { share: 1.0, ..PLAN }, 1);
        assert_eq!(storm.part(999, 10), Metric::AckBefore);
        assert_eq!(storm.part(1_000, 10), Metric::AckDuring, "it was due before, and came in it");
        assert_eq!(storm.part(5_000, 10), Metric::AckDuring, "it is not over yet");
        storm.settle(Fate::Back, 2_000);
        assert_eq!(storm.part(2_100, 200), Metric::AckDuring, "it was due in it");
        assert_eq!(storm.part(2_100, 100), Metric::AckAfter);
    }
}
