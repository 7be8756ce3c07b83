//! What the admin listener knows of its node, and keeps up to date.
//!
//! Counters are read as they stand. Histograms are the shards' own: they are asked for by mail, once a second and for each scrape
//! ([`LatencyCollector`]). That mail also wakes a shard that has nothing to do; so one that does not turn for some seconds is
//! stuck, and not idle.

use super::families::{Family, Scrape, families};
use super::process;
use super::ready::{Reason, Sight, reasons};
use crate::latency::{Latencies, LatencyCollector};
use crate::node::{Node, NodeView};
use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Scrapes that come together share what the first of them collects.
const COLLECT_INTERVAL: Duration = Duration::from_millis(50);

/// How long shards have to answer. What they do not, the next scrape has.
const ANSWER_WAIT: Duration = Duration::from_millis(20);

/// How often it is looked whether they all have: a turn takes about half of it.
const ANSWER_POLL: Duration = Duration::from_millis(1);

/// Looks, of one a second, in which a shard has not turned once: then it is stuck.
const STUCK_LOOKS: u32 = 5;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The promise of an ACK, by its name.
    pub ack: &'static str,
    /// `limits.calls_max`.
    pub calls_max: usize,
}

/// See the module.
pub struct Status {
    view: NodeView,
    facts: Facts,
    started: SystemTime,
    is_draining: Cell<bool>,
    collector: Mutex<LatencyCollector>,
    collected_at: Cell<Option<Instant>>,
    turns: RefCell<Vec<Turns>>,
}

/// A shard's turns as of the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turns {
    count: u64,
    /// Looks since they last changed.
    looks: u32,
}

impl Turns {
    fn look(&mut self, count: u64) {
        let looks = if count == self.count { self.looks.saturating_add(1) } else { 0 };
        *self = Turns { count, looks };
    }

    fn is_stuck(self) -> bool {
        self.looks >= STUCK_LOOKS
    }
}

impl Status {
    /// Of a node that has just started.
    pub fn new(node: &Node, facts: Facts) -> Status {
        let view = node.view();
        Status {
            turns: RefCell::new(vec![Turns::default(); view.counters.len()]),
            view,
            facts,
            started: SystemTime::now(),
            is_draining: Cell::new(false),
            collector: Mutex::new(node.latency_collector()),
            collected_at: Cell::new(None),
        }
    }

    /// The node goes away: from now on it is not ready.
    pub fn drain(&self) {
        self.is_draining.set(true);
    }

    /// To be called once a second.
    pub async fn look(&self) {
        self.collect().await;
        for (turns, counters) in self.turns.borrow_mut().iter_mut().zip(&self.view.counters) {
            turns.look(counters.turns.read());
        }
    }

    /// Why the node should get no calls now; nothing: it is ready.
    pub fn reasons(&self) -> Vec<Reason> {
        let counters = &self.view.counters;
        let stuck =
            self.turns.borrow().iter().enumerate().filter(|(_, turns)| turns.is_stuck()).map(|(shard, _)| shard).collect();
        reasons(&Sight {
            is_draining: self.is_draining.get(),
            stalled_ms: counters.iter().map(|counters| counters.journal_stalled_ms.read()).max().unwrap_or(0),
            refuses_calls: counters.iter().any(|counters| counters.journal_refuses_calls.read() != 0),
            calls_live: self.calls_live(),
            calls_max: self.facts.calls_max,
            stuck,
        })
    }

    /// Calls connected now.
    pub fn calls_live(&self) -> usize {
        self.view.tenants.as_ref().map_or(0, |tenants| tenants.calls_live())
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// Everything there is to scrape, as it is now.
    pub(super) async fn families(&self) -> Vec<Family> {
        let reasons = self.reasons();
        self.with_latencies(|latencies| {
            families(&Scrape {
                view: &self.view,
                facts: &self.facts,
                latencies,
                reasons: &reasons,
                process: process::sample(),
                started: self.started,
            })
        })
        .await
    }

    /// Calls `f` with everything measured since the start, up to now.
    pub(super) async fn with_latencies<T>(&self, f: impl FnOnce(&Latencies) -> T) -> T {
        self.collect().await;
        f(self.collector.lock().await.totals())
    }

    async fn collect(&self) {
        let mut collector = self.collector.lock().await;
        if self.collected_at.get().is_some_and(|at| at.elapsed() < COLLECT_INTERVAL) {
            return;
        }
        collector.request();
        let until = Instant::now() + ANSWER_WAIT;
        while !collector.collect() && Instant::now() < until {
            sleep(ANSWER_POLL).await;
        }
        self.collected_at.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_stuck_once_it_has_not_turned_for_some_looks_and_no_longer_when_it_turns() {
        let mut turns = Turns::default();
        turns.look(7);
        for _ in 1..STUCK_LOOKS {
            turns.look(7);
            assert!(!turns.is_stuck());
        }
        turns.look(7);
        assert!(turns.is_stuck());
        turns.look(8);
        assert!(!turns.is_stuck());
    }
}
