//! The admin listener's knowledge of its node.
//!
//! Counters are read directly. The histograms belong to the shards, which are asked for them by
//! mail, once a second and for each scrape ([`LatencyCollector`]). That mail also wakes an idle
//! shard. So a shard that makes no turn for some seconds is stuck, not idle.

use super::document::StatusDocument;
use super::families::{Family, Scrape, families};
use super::node_info::{KeyCounts, NodeInfo, Reloads};
use super::process;
use super::ready::{EngineCondition, NodeCondition, Notices, Reason, reasons};
use super::recent::Recent;
use super::shard_cpu::ShardCpu;
use super::snapshot::{self, Sources};
use crate::control::expiry;
use crate::latency::{Latencies, LatencyCollector};
use crate::node::{Node, NodeView};
use crate::tls::load::LoadedCertificate;
use crate::worst_calls::{CallsCollector, LiveCall};
use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Scrapes within this time share one collection.
const COLLECT_INTERVAL: Duration = Duration::from_millis(50);

/// How long shards have to answer. The next scrape gets late answers.
const ANSWER_WAIT: Duration = Duration::from_millis(20);

/// Viewers within this time see the same calls, so that many viewers cost shards no more than one.
const CALLS_INTERVAL: Duration = Duration::from_millis(500);

/// How long a round over the calls of all shards may take. If it takes longer, the calls of the
/// last one are shown.
const CALLS_WAIT: Duration = Duration::from_millis(250);

/// How often to check whether all have answered. A turn takes about half of it.
const ANSWER_POLL: Duration = Duration::from_millis(1);

/// A shard is stuck after this many looks without a turn. There is one look a second.
const STUCK_LOOKS: u32 = 5;

/// The status of a node: see the module.
pub(crate) struct Status {
    view: NodeView,
    node_info: Cell<NodeInfo>,
    keys: Cell<KeyCounts>,
    certificates: RefCell<Vec<LoadedCertificate>>,
    /// Reloads since the start, by what was read and its result.
    reloads: RefCell<Reloads>,
    started: SystemTime,
    is_draining: Cell<bool>,
    collector: Mutex<LatencyCollector>,
    collected_at: Cell<Option<Instant>>,
    /// By shard: what it did lately.
    recent: RefCell<Vec<Recent>>,
    shard_cpu: RefCell<ShardCpu>,
    calls: Mutex<CallsCollector>,
    calls_at: Cell<Option<Instant>>,
    turns: RefCell<Vec<Turns>>,
}

/// A shard's turns at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turns {
    count: u64,
    /// Looks since the number last changed.
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
    /// Status of a node that has just started.
    pub(crate) fn new(node: &Node, node_info: NodeInfo, keys: KeyCounts) -> Status {
        let view = node.view();
        Status {
            turns: RefCell::new(vec![Turns::default(); view.counters.len()]),
            recent: RefCell::new(view.counters.iter().map(|_| Recent::default()).collect()),
            shard_cpu: RefCell::default(),
            calls: Mutex::new(node.calls_collector()),
            calls_at: Cell::new(None),
            view,
            node_info: Cell::new(node_info),
            keys: Cell::new(keys),
            certificates: RefCell::default(),
            reloads: RefCell::new(Reloads::default()),
            started: SystemTime::now(),
            is_draining: Cell::new(false),
            collector: Mutex::new(node.latency_collector()),
            collected_at: Cell::new(None),
        }
    }

    /// Reports that the node has new keys.
    pub(crate) fn set_key_counts(&self, keys: KeyCounts) {
        self.keys.set(keys);
    }

    /// Reports that the node has new certificates.
    pub(crate) fn set_certificates(&self, certificates: Vec<LoadedCertificate>) {
        *self.certificates.borrow_mut() = certificates;
    }

    /// Sets the limit on calls that is shown.
    pub(crate) fn set_calls_max(&self, calls_max: usize) {
        self.node_info.set(NodeInfo { calls_max, ..self.node_info.get() });
    }

    /// Reports that `what` (`keys`, `certificates` or `settings`) was read again, and taken or
    /// refused.
    pub(crate) fn count_reload(&self, what: &'static str, is_taken: bool) {
        self.reloads.borrow_mut().count(what, is_taken, SystemTime::now());
    }

    /// Reports that the node was started with `what`: see [`Status::count_reload`].
    pub(crate) fn read_at_start(&self, what: &'static str) {
        self.reloads.borrow_mut().start(what, SystemTime::now());
    }

    /// Sentences about certificates that are not valid, or will soon be invalid.
    pub(crate) fn expiry_notices(&self) -> Vec<String> {
        expiry::notices(&self.certificates.borrow(), SystemTime::now())
    }

    /// What needs attention but keeps no call away.
    pub(super) fn notices(&self) -> Notices {
        let held = self.view.store.as_ref().and_then(|store| store.held_notice());
        let sinks = self.view.sinks.iter().filter_map(|sink| sink.notice()).collect();
        let risks = self.view.sinks.iter().flat_map(|sink| sink.risks()).collect();
        let engine = self.engine().notice();
        let disk = self.view.store.as_ref().and_then(|store| store.full_notice());
        Notices { expiry: self.expiry_notices(), held, sinks, risks, disk, engine }
    }

    /// How ACKs fare that are to wait for a message engine.
    fn engine(&self) -> EngineCondition {
        let counters = &self.view.counters;
        EngineCondition {
            calls_waiting: counters.iter().map(|it| it.engine_calls_waiting.read()).sum(),
            is_late: counters.iter().any(|it| it.engine_late.read() != 0),
            is_degraded: counters.iter().any(|it| it.engine_degrades.read() != 0),
        }
    }

    /// Reports that the node drains: from now on it is not ready.
    pub(crate) fn drain(&self) {
        self.is_draining.set(true);
    }

    /// Call it once a second.
    pub(crate) async fn look(&self) {
        self.collect().await;
        for (turns, counters) in self.turns.borrow_mut().iter_mut().zip(&self.view.counters) {
            turns.look(counters.turns.read());
        }
        let now = Instant::now();
        for (recent, counters) in self.recent.borrow_mut().iter_mut().zip(&self.view.counters) {
            recent.note_fill(now, snapshot::ring_bytes(counters));
        }
    }

    /// Why the node should get no calls now. Empty: it is ready.
    pub(crate) fn reasons(&self) -> Vec<Reason> {
        let counters = &self.view.counters;
        let stuck = self
            .turns
            .borrow()
            .iter()
            .enumerate()
            .filter(|(_, turns)| turns.is_stuck())
            .map(|(shard, _)| shard)
            .collect();
        reasons(&NodeCondition {
            is_draining: self.is_draining.get(),
            stalled_ms: counters
                .iter()
                .map(|counters| counters.journal_stalled_ms.read())
                .max()
                .unwrap_or(0),
            refuses_calls: counters
                .iter()
                .any(|counters| counters.journal_refuses_calls.read() != 0),
            ring_refuses_calls: counters
                .iter()
                .any(|counters| counters.ring_refuses_calls.read() != 0),
            budget_refuses_calls: counters
                .iter()
                .any(|counters| counters.budget_refuses_calls.read() != 0),
            calls_live: self.calls_live(),
            calls_max: self.node_info.get().calls_max,
            stuck,
        })
    }

    /// Calls connected now.
    pub(crate) fn calls_live(&self) -> usize {
        self.view.tenants.as_ref().map_or(0, |tenants| tenants.calls_live())
    }

    pub(super) fn node_info(&self) -> NodeInfo {
        self.node_info.get()
    }

    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// All metric families, with their current values.
    pub(super) async fn families(&self) -> Vec<Family> {
        let reasons = self.reasons();
        self.with_latencies(|latencies| {
            families(&Scrape {
                view: &self.view,
                node_info: &self.node_info.get(),
                keys: self.keys.get(),
                certificates: &self.certificates.borrow(),
                reloads: &self.reloads.borrow(),
                latencies,
                reasons: &reasons,
                process: process::sample(),
                started: self.started,
            })
        })
        .await
    }

    /// What viewers show.
    pub(super) async fn document(&self) -> StatusDocument {
        self.collect().await;
        let calls = self.worst_calls().await;
        let cpu_us = self.shard_cpu.borrow_mut().read(self.view.counters.len());
        snapshot::document(&Sources {
            view: &self.view,
            node_info: self.node_info.get(),
            is_draining: self.is_draining.get(),
            reasons: &self.reasons(),
            notices: self.notices(),
            ack_degraded: self.engine().is_degraded,
            process: process::sample(),
            started: self.started,
            recent: &self.recent.borrow(),
            cpu_us: &cpu_us,
            calls: &calls,
            now: Instant::now(),
        })
    }

    async fn worst_calls(&self) -> Vec<LiveCall> {
        let mut collector = self.calls.lock().await;
        if self.calls_at.get().is_none_or(|at| at.elapsed() >= CALLS_INTERVAL) {
            collector.request();
            let until = Instant::now() + CALLS_WAIT;
            while !collector.collect() && Instant::now() < until {
                sleep(ANSWER_POLL).await;
            }
            self.calls_at.set(Some(Instant::now()));
        }
        collector.found().cloned().collect()
    }

    /// Calls `f` with all latencies since the start, up to now.
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
        while !collector.collect_each(|shard, found| self.note_recent(shard, found))
            && Instant::now() < until
        {
            sleep(ANSWER_POLL).await;
        }
        self.collected_at.set(Some(Instant::now()));
    }

    fn note_recent(&self, shard: usize, found: &Latencies) {
        let (ack, sync) = (found.ack.histogram(), found.journal_sync.histogram());
        self.recent.borrow_mut()[shard].add(Instant::now(), ack, sync);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_stuck_after_some_looks_without_a_turn_and_until_it_turns() {
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
