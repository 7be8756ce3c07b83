//! Counters and histograms. Each worker writes its own; the main thread collects them once a
//! second.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use hdrhistogram::Histogram;

use crate::failure::Failure;
use crate::ledger::Entry;
use crate::socket::Handshake;

/// Failures kept with their details, per reason.
const EXAMPLES_MAX: usize = 3;

/// The latencies we measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// From when an ack's tenth frame was due to the ack.
    Ack,
    /// From connecting to `started`, of calls that are not new because of a storm or churn.
    Setup,
    /// TCP connect, a part of setup.
    Connect,
    /// TLS handshake, a part of setup.
    Tls,
    /// Upgrade request to 101, a part of setup.
    Upgrade,
    /// `start` to `started`, a part of setup.
    Started,
    /// From when a frame was due to its submission: the generator's own delay.
    Sendlag,
    /// Setup of the connection with which a call came back from a storm.
    StormSetup,
    /// From the storm to `started`, with all attempts and the waits between them.
    StormBack,
    /// Acks of the calls that stayed, from the ramp's end to the storm.
    AckBefore,
    /// Acks of the same calls, from the storm until all others were back.
    AckDuring,
    /// Acks of the same calls, after that.
    AckAfter,
    /// Setup of calls that replaced others (`--churn`).
    ChurnSetup,
}

/// Number of metrics.
const METRICS: usize = 13;

impl Metric {
    /// All of them, in the order of the table.
    pub const ALL: [Metric; METRICS] = [
        Self::Setup,
        Self::Connect,
        Self::Tls,
        Self::Upgrade,
        Self::Started,
        Self::Ack,
        Self::Sendlag,
        Self::StormSetup,
        Self::StormBack,
        Self::AckBefore,
        Self::AckDuring,
        Self::AckAfter,
        Self::ChurnSetup,
    ];

    /// Whether every run has it. Other metrics are shown only where they were measured.
    pub fn is_common(self) -> bool {
        matches!(
            self,
            Self::Setup | Self::Connect | Self::Upgrade | Self::Started | Self::Ack | Self::Sendlag
        )
    }

    /// Judged over the steady part, not over the whole run.
    pub fn is_of_steady_part(self) -> bool {
        matches!(self, Self::Ack | Self::Sendlag)
    }

    /// The name in files, tables and SLOs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Setup => "setup",
            Self::Connect => "connect",
            Self::Upgrade => "upgrade",
            Self::Started => "started",
            Self::Sendlag => "sendlag",
            Self::Tls => "tls",
            Self::StormSetup => "storm_setup",
            Self::StormBack => "storm_back",
            Self::AckBefore => "ack_before",
            Self::AckDuring => "ack_during",
            Self::AckAfter => "ack_after",
            Self::ChurnSetup => "churn_setup",
        }
    }
}

/// The metrics that `latency.hlog` holds, where they were measured.
pub const LOGGED: [Metric; 10] = [
    Metric::Ack,
    Metric::Setup,
    Metric::Sendlag,
    Metric::Tls,
    Metric::StormSetup,
    Metric::StormBack,
    Metric::AckBefore,
    Metric::AckDuring,
    Metric::AckAfter,
    Metric::ChurnSetup,
];

/// Everything that was measured in a time span.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Indexed by `Metric as usize`.
    latencies: [Histogram<u64>; METRICS],
    /// Plain counts.
    pub counts: Counts,
    /// Handshakes of TLS.
    pub handshakes: Handshakes,
    /// Failures by name.
    pub failures: BTreeMap<String, Tally>,
    /// Failures that a slow generator cannot have caused.
    pub hard_failures: u64,
}

/// Plain counts.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Counts {
    /// Audio frames handed to the kernel.
    pub frames: u64,
    /// Their bytes on the wire, WebSocket headers included, before TLS.
    pub bytes: u64,
    /// Right acks.
    pub acks: u64,
    /// Acks that the frames sent should bring, in the whole run.
    pub acks_due: u64,
    /// Calls that were played to their end and confirmed.
    pub calls_completed: u64,
    /// Calls with at least one failure.
    pub calls_failed: u64,
    /// Connections lost and replaced (`--reconnect`).
    pub reconnects: u64,
    /// Frames that were due while the call had no connection, or were lost with one.
    pub frames_lost: u64,
    /// Frames that were due while TCP still held the previous one: there the node was slow, not the
    /// generator.
    pub pushbacks: u64,
}

/// Handshakes of TLS, and what they cost this side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// With certificate and signature.
    pub full: u64,
    /// By a ticket.
    pub resumed: u64,
    /// CPU time of the full ones, nanoseconds.
    pub full_cpu_ns: u64,
    /// CPU time of the resumed ones, nanoseconds.
    pub resumed_cpu_ns: u64,
    /// Connections that the node has ended without close_notify.
    pub unclosed: u64,
}

impl Handshakes {
    /// Counts one.
    pub fn note(&mut self, handshake: Handshake) {
        if handshake.is_resumed {
            self.resumed += 1;
            self.resumed_cpu_ns += handshake.cpu_ns;
        } else {
            self.full += 1;
            self.full_cpu_ns += handshake.cpu_ns;
        }
    }

    fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.resumed += other.resumed;
        self.full_cpu_ns += other.full_cpu_ns;
        self.resumed_cpu_ns += other.resumed_cpu_ns;
        self.unclosed += other.unclosed;
    }
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
            // 1 µs to 10 minutes at three digits. Larger values count as the largest.
            Histogram::new_with_bounds(1_000, 600_000_000_000, 3)
                .expect("constant bounds are valid")
        });
        Self {
            latencies,
            counts: Counts::default(),
            handshakes: Handshakes::default(),
            failures: BTreeMap::new(),
            hard_failures: 0,
        }
    }

    /// The histogram of one metric, in nanoseconds.
    pub fn latency(&self, metric: Metric) -> &Histogram<u64> {
        &self.latencies[metric as usize]
    }

    /// Records one latency, in nanoseconds.
    pub fn record(&mut self, metric: Metric, nanos: u64) {
        self.latencies[metric as usize].saturating_record(nanos);
    }

    /// Replaces one metric with that of `other`.
    pub fn take_latency(&mut self, metric: Metric, other: &Self) {
        self.latencies[metric as usize] = other.latencies[metric as usize].clone();
    }

    /// Adds a histogram with any bounds. Values beyond ours count as the largest.
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
        self.handshakes.add(&other.handshakes);
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
        self.latencies
            .iter_mut()
            .filter(|histogram| !histogram.is_empty())
            .for_each(Histogram::reset);
        self.counts = Counts::default();
        self.handshakes = Handshakes::default();
        self.failures.clear();
        self.hard_failures = 0;
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.acks += other.acks;
        self.acks_due += other.acks_due;
        self.calls_completed += other.calls_completed;
        self.calls_failed += other.calls_failed;
        self.reconnects += other.reconnects;
        self.frames_lost += other.frames_lost;
        self.pushbacks += other.pushbacks;
    }
}

/// What one worker writes to. The lock is taken for each frame. The main thread takes it once a
/// second, so it costs some 20 ns.
#[derive(Debug)]
pub struct Recorder {
    window: Mutex<Stats>,
    calls_up: AtomicI64,
    ledger: Mutex<Vec<Entry>>,
}

impl Recorder {
    /// An empty recorder.
    pub fn new() -> Self {
        Self {
            window: Mutex::new(Stats::new()),
            calls_up: AtomicI64::new(0),
            ledger: Mutex::default(),
        }
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

    /// Records what a connection that has ended had sent, and what was promised.
    pub fn enter(&self, entry: Entry) {
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
    }

    /// All entries, and forgets them.
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
        assert_eq!(
            total.failures["ack_wrong"].examples,
            ["load-1: round 1", "load-1: round 2", "load-1: round 3"]
        );
    }
}
