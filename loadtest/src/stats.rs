//! Counters and histograms: written by one worker each, collected by the main thread once a second.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use hdrhistogram::Histogram;

use crate::failure::Failure;
use crate::ledger::Entry;

/// Failures kept with their details, per reason.
const EXAMPLES_MAX: usize = 3;

/// The latencies we measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// From when an ack's tenth frame was due to the ack.
    Ack,
    /// From connecting to `started`.
    Setup,
    /// TCP connect, a part of setup.
    Connect,
    /// Upgrade request to 101, a part of setup.
    Upgrade,
    /// `start` to `started`, a part of setup.
    Started,
    /// From when a frame was due to its submission: the generator's own delay.
    Sendlag,
}

impl Metric {
    /// All of them, in the order of the table.
    pub const ALL: [Metric; 6] = [Self::Setup, Self::Connect, Self::Upgrade, Self::Started, Self::Ack, Self::Sendlag];

    /// The name in files, tables and SLOs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Setup => "setup",
            Self::Connect => "connect",
            Self::Upgrade => "upgrade",
            Self::Started => "started",
            Self::Sendlag => "sendlag",
        }
    }
}

/// Everything measured in one stretch of time.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Indexed by `Metric as usize`.
    latencies: [Histogram<u64>; 6],
    /// Plain counts.
    pub counts: Counts,
    /// Failures by name.
    pub failures: BTreeMap<String, Tally>,
    /// Failures that a generator with too little time cannot have caused.
    pub hard_failures: u64,
}

/// Plain counts.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Counts {
    /// Audio frames handed to the kernel.
    pub frames: u64,
    /// Their bytes on the wire, headers included.
    pub bytes: u64,
    /// Right acks.
    pub acks: u64,
    /// Calls that were played to their end and confirmed.
    pub calls_completed: u64,
    /// Calls with at least one failure.
    pub calls_failed: u64,
    /// Connections lost and replaced (`--reconnect`).
    pub reconnects: u64,
    /// Frames that were due while the call had no connection, or lost with it.
    pub frames_lost: u64,
    /// Frames that were due while TCP still held the one before: the node, not the generator, was behind.
    pub pushbacks: u64,
}

/// How often a failure happened, and the first few.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// Call and detail.
    pub examples: Vec<String>,
}

impl Stats {
    /// Nothing measured yet.
    pub fn new() -> Self {
        let latencies = std::array::from_fn(|_| {
            // 1 µs to 10 minutes at three digits; what lies beyond counts as the largest.
            Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("constant bounds are valid")
        });
        Self { latencies, counts: Counts::default(), failures: BTreeMap::new(), hard_failures: 0 }
    }

    /// The histogram of one metric, in nanoseconds.
    pub fn latency(&self, metric: Metric) -> &Histogram<u64> {
        &self.latencies[metric as usize]
    }

    /// Records one latency, in nanoseconds.
    pub fn record(&mut self, metric: Metric, nanos: u64) {
        self.latencies[metric as usize].saturating_record(nanos);
    }

    /// Puts one metric of `other` in the place of this one's.
    pub fn take_latency(&mut self, metric: Metric, other: &Self) {
        self.latencies[metric as usize] = other.latencies[metric as usize].clone();
    }

    /// Adds a histogram, whatever its bounds: what is beyond ours counts as the largest.
    pub fn add_latency(&mut self, metric: Metric, histogram: &Histogram<u64>) {
        let sum = &mut self.latencies[metric as usize];
        for step in histogram.iter_recorded() {
            sum.saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
    }

    /// Counts a failure of the named call.
    pub fn fail(&mut self, call: &str, failure: &Failure) {
        self.hard_failures += u64::from(!failure.reason.is_timing());
        let tally = self.failures.entry(failure.reason.to_string()).or_default();
        tally.count += 1;
        if tally.examples.len() < EXAMPLES_MAX {
            tally.examples.push(format!("{call}: {}", failure.detail));
        }
    }

    /// Sum of all failures.
    pub fn failure_count(&self) -> u64 {
        self.failures.values().map(|tally| tally.count).sum()
    }

    /// Adds `other` to this.
    pub fn merge(&mut self, other: &Self) {
        for (sum, part) in self.latencies.iter_mut().zip(&other.latencies) {
            if !part.is_empty() {
                sum.add(part).expect("all histograms have the same bounds");
            }
        }
        self.counts.add(&other.counts);
        self.hard_failures += other.hard_failures;
        for (name, part) in &other.failures {
            let sum = self.failures.entry(name.clone()).or_default();
            sum.count += part.count;
            let room = EXAMPLES_MAX.saturating_sub(sum.examples.len());
            sum.examples.extend(part.examples.iter().take(room).cloned());
        }
    }

    /// Back to nothing, memory kept.
    pub fn reset(&mut self) {
        self.latencies.iter_mut().filter(|histogram| !histogram.is_empty()).for_each(Histogram::reset);
        self.counts = Counts::default();
        self.failures.clear();
        self.hard_failures = 0;
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.acks += other.acks;
        self.calls_completed += other.calls_completed;
        self.calls_failed += other.calls_failed;
        self.reconnects += other.reconnects;
        self.frames_lost += other.frames_lost;
        self.pushbacks += other.pushbacks;
    }
}

/// Where one worker writes. The lock is taken per frame and is free but once a second: some 20 ns.
#[derive(Debug)]
pub struct Recorder {
    window: Mutex<Stats>,
    calls_up: AtomicI64,
    ledger: Mutex<Vec<Entry>>,
}

impl Recorder {
    /// An empty recorder.
    pub fn new() -> Self {
        Self { window: Mutex::new(Stats::new()), calls_up: AtomicI64::new(0), ledger: Mutex::default() }
    }

    /// Writes into the current window.
    pub fn write<R>(&self, write: impl FnOnce(&mut Stats) -> R) -> R {
        write(&mut self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Adds the window to `into` and starts a new one. `spare` must be empty, and is again.
    pub fn collect(&self, spare: &mut Stats, into: &mut Stats) {
        self.write(|window| std::mem::swap(window, spare));
        into.merge(spare);
        spare.reset();
    }

    /// A connection has ended: what it sent, and what it was promised.
    pub fn enter(&self, entry: Entry) {
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
    }

    /// All that was entered.
    pub fn take_entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A call came up (1) or ended (-1).
    pub fn count_up(&self, change: i64) {
        self.calls_up.fetch_add(change, Ordering::Relaxed);
    }

    /// Calls that are up.
    pub fn calls_up(&self) -> i64 {
        self.calls_up.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;

    #[test]
    fn windows_add_up() {
        let recorder = Recorder::new();
        let (mut spare, mut total) = (Stats::new(), Stats::new());
        for round in 1..=3 {
            recorder.write(|stats| {
                stats.record(Metric::Ack, round * 1_000_000);
                stats.counts.frames += 10;
                stats.fail("load-1", &Failure::new(Reason::AckWrong, format!("round {round}")));
                stats.fail("load-2", &Failure::new(Reason::AckLate, "late"));
            });
            recorder.collect(&mut spare, &mut total);
            assert_eq!(spare.latency(Metric::Ack).len(), 0);
        }
        assert_eq!(total.latency(Metric::Ack).len(), 3);
        assert_eq!(total.latency(Metric::Sendlag).len(), 0);
        assert_eq!(total.counts.frames, 30);
        assert_eq!(total.failure_count(), 6);
        assert_eq!(total.hard_failures, 3);
        assert_eq!(total.failures["ack_wrong"].count, 3);
        assert_eq!(total.failures["ack_wrong"].examples, ["load-1: round 1", "load-1: round 2", "load-1: round 3"]);
    }
}
