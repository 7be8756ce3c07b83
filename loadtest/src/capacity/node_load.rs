//! What the node itself says while a run is played: its metrics, read once a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::admin::{self, Scrape};

/// Time between two scrapes. The ring may fill and drain within it; its largest fill is a lower
/// bound.
const INTERVAL: Duration = Duration::from_secs(1);

/// The load of a node in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeLoad {
    /// Its shards.
    pub shards: u64,
    /// Its CPU between two scrapes, at most, percent of a core.
    pub cpu_percent_max: Option<f64>,
    /// Its CPU over the run, percent of a core.
    pub cpu_percent: Option<f64>,
    /// Resident memory at most, bytes.
    pub rss_bytes_max: Option<u64>,
    /// The fullest frame ring, percent of its size.
    pub ring_percent_max: f64,
    /// 99 % of the syncs in the run took at most this, nanoseconds; none without a journal. It is
    /// the upper edge of a bucket.
    pub sync_p99_ns: Option<u64>,
    /// Why `/ready` said no at some moment, by the names of `docs/metrics.md`.
    pub not_ready: BTreeSet<String>,
    /// Times that a shard's CPU was taken away.
    pub standstills: u64,
    /// Requests refused, by reason.
    pub refusals: BTreeMap<String, u64>,
}

/// Reads the metrics of a node until it is asked for the result.
pub struct NodeWatch {
    stop: Sender<()>,
    thread: JoinHandle<Option<NodeLoad>>,
}

impl NodeWatch {
    /// Begins to read `http://ADDRESS/metrics`.
    pub fn start(address: String) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let body = move || {
            let first = Reading::take(&address)?;
            let mut all = Samples::new(first);
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // A node that does not answer has its calls fail, and they say so.
                if let Some(reading) = Reading::take(&address) {
                    all.add(reading);
                }
            }
            if let Some(reading) = Reading::take(&address) {
                all.add(reading);
            }
            Some(all.load())
        };
        let thread = std::thread::Builder::new().name("exo-load-admin".to_owned()).spawn(body)?;
        Ok(Self { stop, thread })
    }

    /// The load since the start; none if the node's metrics could not be read.
    pub fn finish(self) -> Option<NodeLoad> {
        drop(self.stop);
        self.thread.join().ok().flatten()
    }
}

/// The metrics at one moment.
struct Reading {
    at: Instant,
    scrape: Scrape,
}

impl Reading {
    fn take(address: &str) -> Option<Self> {
        let scrape = admin::read(address).ok()?;
        Some(Self { at: Instant::now(), scrape })
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.scrape.sum("process_cpu_seconds_total")
    }
}

struct Samples {
    first: Reading,
    last: Reading,
    cpu_percent_max: Option<f64>,
    rss_bytes_max: Option<u64>,
    ring_percent_max: f64,
    not_ready: BTreeSet<String>,
}

impl Samples {
    fn new(first: Reading) -> Self {
        let last = Reading { at: first.at, scrape: first.scrape.clone() };
        Self {
            first,
            last,
            cpu_percent_max: None,
            rss_bytes_max: None,
            ring_percent_max: 0.0,
            not_ready: BTreeSet::new(),
        }
    }

    fn add(&mut self, reading: Reading) {
        let scrape = &reading.scrape;
        // The last one may come right after the one before it: too short a time for a share.
        if reading.at - self.last.at >= INTERVAL / 2 {
            let share = cpu_percent(&self.last, &reading);
            self.cpu_percent_max = share.into_iter().chain(self.cpu_percent_max).reduce(f64::max);
        }
        let rss = scrape.sum("process_resident_memory_bytes").map(|bytes| bytes as u64);
        self.rss_bytes_max = rss.max(self.rss_bytes_max);
        let sizes = scrape.by_label("exo_ingest_ring_size_bytes", "shard");
        let used = scrape.by_label("exo_ingest_ring_used_bytes", "shard");
        let fill = used.iter().map(|(shard, used)| {
            used * 100.0 / sizes.get(shard).copied().unwrap_or(f64::MAX).max(1.0)
        });
        self.ring_percent_max = fill.fold(self.ring_percent_max, f64::max);
        let reasons = scrape.by_label("exo_ingest_not_ready", "reason").into_iter();
        self.not_ready.extend(reasons.filter(|(_, holds)| *holds > 0.0).map(|(name, _)| name));
        self.last = reading;
    }

    fn load(self) -> NodeLoad {
        let (first, last) = (&self.first.scrape, &self.last.scrape);
        let standstills = "exo_ingest_standstills_total";
        let grown = |name| last.sum(name).unwrap_or(0.0) - first.sum(name).unwrap_or(0.0);
        let before = first.by_label("exo_ingest_refusals_total", "reason");
        let after = last.by_label("exo_ingest_refusals_total", "reason");
        let refusals = after.into_iter().filter_map(|(reason, count)| {
            let count = count - before.get(&reason).copied().unwrap_or(0.0);
            (count > 0.0).then_some((reason, count as u64))
        });
        NodeLoad {
            shards: last.by_label("exo_ingest_turns_total", "shard").len() as u64,
            cpu_percent_max: self.cpu_percent_max,
            cpu_percent: cpu_percent(&self.first, &self.last),
            rss_bytes_max: self.rss_bytes_max,
            ring_percent_max: self.ring_percent_max,
            sync_p99_ns: quantile(first, last, "exo_ingest_journal_sync_seconds_bucket", 0.99),
            not_ready: self.not_ready,
            standstills: grown(standstills).max(0.0) as u64,
            refusals: refusals.collect(),
        }
    }
}

fn cpu_percent(first: &Reading, last: &Reading) -> Option<f64> {
    let seconds = (last.at - first.at).as_secs_f64();
    let cpu = last.cpu_seconds()? - first.cpu_seconds()?;
    (seconds > 0.0).then(|| cpu.max(0.0) * 100.0 / seconds)
}

/// The upper edge of the bucket that a quantile of the growth lies in, nanoseconds.
fn quantile(first: &Scrape, last: &Scrape, name: &str, share: f64) -> Option<u64> {
    let before = first.by_label(name, "le");
    let mut buckets: Vec<(f64, f64)> = last
        .by_label(name, "le")
        .into_iter()
        .filter_map(|(edge, count)| {
            let grown = count - before.get(&edge).copied().unwrap_or(0.0);
            Some((edge.replace("+Inf", "inf").parse().ok()?, grown))
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let (edge, _) = buckets.iter().find(|(_, count)| *count >= all * share)?;
    // Beyond the last bucket: at least its lower edge.
    let last = buckets.iter().map(|(edge, _)| *edge).filter(|edge| edge.is_finite());
    let edge = if edge.is_finite() { *edge } else { last.fold(0.0, f64::max) };
    Some((edge * 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(cpu: f64, used: u64, sync: [u64; 3], refused: u64, seconds: u64) -> Reading {
        let text = format!(
            "process_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes {}\n\
             exo_ingest_turns_total{{shard=\"0\"}} 5\nexo_ingest_turns_total{{shard=\"1\"}} 5\n\
             exo_ingest_ring_size_bytes{{shard=\"0\"}} 1000\n\
             exo_ingest_ring_size_bytes{{shard=\"1\"}} 1000\n\
             exo_ingest_ring_used_bytes{{shard=\"0\"}} {used}\n\
             exo_ingest_ring_used_bytes{{shard=\"1\"}} 10\n\
             exo_ingest_refusals_total{{reason=\"capacity\"}} {refused}\n\
             exo_ingest_not_ready{{reason=\"draining\"}} 0\n\
             exo_ingest_not_ready{{reason=\"at_capacity\"}} {}\n\
             exo_ingest_journal_sync_seconds_bucket{{le=\"0.01\"}} {}\n\
             exo_ingest_journal_sync_seconds_bucket{{le=\"0.1\"}} {}\n\
             exo_ingest_journal_sync_seconds_bucket{{le=\"+Inf\"}} {}\n",
            used * 3,
            u8::from(used == 800),
            sync[0],
            sync[1],
            sync[2],
        );
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = START.get_or_init(Instant::now);
        Reading { at: *start + Duration::from_secs(seconds), scrape: Scrape::new(&text) }
    }

    #[test]
    fn the_worst_moment_of_a_run_is_kept() {
        let mut samples = Samples::new(scrape(1.0, 0, [100, 100, 100], 3, 0));
        samples.add(scrape(1.5, 800, [190, 195, 195], 3, 1));
        samples.add(scrape(1.6, 20, [198, 199, 200], 5, 2));
        let load = samples.load();
        assert_eq!((load.shards, load.ring_percent_max), (2, 80.0));
        assert!((load.cpu_percent_max.unwrap() - 50.0).abs() < 1e-6, "{load:?}");
        assert!((load.cpu_percent.unwrap() - 30.0).abs() < 1e-6, "{load:?}");
        assert_eq!(load.rss_bytes_max, Some(2_400));
        // Of the hundred syncs of the run 98 took up to 10 ms, and one more up to 100 ms.
        assert_eq!(load.sync_p99_ns, Some(100_000_000));
        assert_eq!(load.refusals, BTreeMap::from([("capacity".to_owned(), 2)]));
        assert_eq!(load.not_ready, BTreeSet::from(["at_capacity".to_owned()]));
    }

    #[test]
    fn a_node_without_syncs_has_no_sync_time() {
        let samples = Samples::new(scrape(1.0, 0, [7, 7, 7], 0, 0));
        let load = samples.load();
        assert_eq!((load.sync_p99_ns, load.cpu_percent_max), (None, None));
        assert!(load.refusals.is_empty());
    }
}
