//! The metric families of `/metrics`, with their series in one scrape. Names begin with
//! `exo_ingest_`, except for those of the process, which have the names that dashboards know.
//!
//! The number of series is bounded whatever peers send. Labels are shards, reasons, and tenants. A
//! node counts [`TENANT_COUNT_MAX`] less one tenants by name. (Rejected: naming the hundred largest
//! tenants. A tenant that enters and leaves that list looks like a counter that is reset.) No label
//! holds a call's id.

use super::node_info::{KeyCounts, NodeInfo, Reloads};
use super::process::Process;
use super::ready::{NAMES, Reason};
use crate::constants::{COMMIT, TENANT_COUNT_MAX};
use crate::latency::Latencies;
use crate::metrics::{self, Description, Kind, TlsFailure};
use crate::node::NodeView;
use crate::tls::load::LoadedCertificate;
use hdrhistogram::Histogram;
use std::time::{SystemTime, UNIX_EPOCH};

mod files;
mod memory;
mod sinks;
mod store;

/// Upper bounds of a histogram's buckets, microseconds: three for each decade, because latencies
/// are read on a logarithmic scale. They reach from the length of a turn to that of a dead disk.
/// The histograms themselves are finer: take quantiles from `/debug/latency.*`.
const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

const MICROS_PER_SEC: f64 = 1e6;
const MS_PER_SEC: f64 = 1e3;

/// Name and value.
pub(super) type Label = (&'static str, String);

/// The unit of a family. It is the end of the family's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Seconds,
}

impl Unit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
        }
    }
}

/// All series of one name.
#[derive(Clone, Debug)]
pub(super) struct Family {
    /// The name without unit and suffix.
    pub(crate) name: String,
    pub(crate) unit: Option<Unit>,
    pub(crate) kind: Kind,
    /// Names of the labels that each series has.
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: String,
    pub(crate) series: Vec<Series>,
}

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(crate) labels: Vec<Label>,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    /// Counts of buckets, not cumulative, with their upper bounds. The last bound is infinite.
    Distribution {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

/// The data of a scrape.
pub(super) struct Scrape<'a> {
    pub(crate) view: &'a NodeView,
    pub(crate) node_info: &'a NodeInfo,
    pub(crate) keys: KeyCounts,
    pub(crate) certificates: &'a [LoadedCertificate],
    pub(crate) reloads: &'a Reloads,
    pub(crate) latencies: &'a Latencies,
    /// The reasons why the node is not ready.
    pub(crate) reasons: &'a [Reason],
    pub(crate) process: Process,
    pub(crate) started: SystemTime,
}

/// All families, with or without series. Their list does not depend on the scrape.
pub(super) fn families(scrape: &Scrape<'_>) -> Vec<Family> {
    let mut families = node(scrape);
    families.extend(files::families(scrape));
    families.extend(store::families(scrape));
    families.extend(sinks::families(scrape));
    families.extend(by_shard(scrape));
    families.extend(by_cause(scrape));
    families.extend(by_tenant(scrape));
    families.extend(latencies(scrape));
    families.push(memory::family(scrape));
    families.extend(process(scrape));
    families
}

/// The families of a node that has done nothing yet.
pub(super) fn declared() -> Vec<Family> {
    of_view(&NodeView { counters: vec![Default::default()], ..NodeView::default() })
}

/// The metric families of a node, if only its counters are known.
fn of_view(view: &NodeView) -> Vec<Family> {
    of_process(view, Process::default())
}

fn of_process(view: &NodeView, process: Process) -> Vec<Family> {
    families(&Scrape {
        view,
        node_info: &NodeInfo { ack: "", calls_max: 0, log_lines_dropped: || 0 },
        keys: KeyCounts::default(),
        certificates: &[],
        reloads: &Reloads::default(),
        latencies: &Latencies::new(),
        reasons: &[],
        process,
        started: UNIX_EPOCH,
    })
}

impl Family {
    /// The name with its unit.
    pub(super) fn full_name(&self) -> String {
        match self.unit {
            Some(unit) => format!("{}_{}", self.name, unit.name()),
            None => self.name.clone(),
        }
    }

    /// The name of its samples: the full name, and what tells its kind.
    pub(super) fn sample_name(&self) -> String {
        let kind = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
            Kind::Info => "_info",
        };
        self.full_name() + kind
    }

    /// The names of all its samples.
    #[cfg(test)]
    pub(crate) fn sample_names(&self) -> Vec<String> {
        let name = self.sample_name();
        match self.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| name.clone() + end).into(),
            _ => vec![name],
        }
    }

    fn new(name: &str, kind: Kind, help: &str) -> Family {
        Family {
            name: format!("exo_ingest_{name}"),
            unit: None,
            kind,
            labels: &[],
            help: help.into(),
            series: Vec::new(),
        }
    }

    /// A family of the process, without our prefix.
    fn of_process(name: &str, kind: Kind, help: &str) -> Family {
        Family { name: format!("process_{name}"), ..Family::new("", kind, help) }
    }

    fn in_unit(mut self, unit: Unit) -> Family {
        self.unit = Some(unit);
        self
    }

    fn by(mut self, labels: &'static [&'static str]) -> Family {
        self.labels = labels;
        self
    }

    /// Adds a series, with a value for each label.
    fn add<const N: usize>(&mut self, labels: [String; N], value: Value) {
        debug_assert_eq!(self.labels.len(), N, "{}", self.name);
        self.series
            .push(Series { labels: self.labels.iter().copied().zip(labels).collect(), value });
    }

    /// Adds the one series of a family without labels, if it has a value.
    fn with_some(self, value: Option<Value>) -> Family {
        match value {
            Some(value) => self.with([], value),
            None => self,
        }
    }

    fn with<const N: usize>(mut self, labels: [String; N], value: Value) -> Family {
        self.add(labels, value);
        self
    }
}

fn node(scrape: &Scrape<'_>) -> Vec<Family> {
    let Scrape { view, node_info, keys, reasons, .. } = scrape;
    let calls_live = view.tenants.as_ref().map_or(0, |tenants| tenants.calls_live());
    let mut not_ready =
        Family::new("not_ready", Kind::Gauge, "Whether this is a reason why `/ready` says no.")
            .by(&["reason"]);
    for name in NAMES {
        let holds = reasons.iter().any(|reason| reason.name == name);
        not_ready.add([name.into()], Value::Whole(holds.into()));
    }
    vec![
        Family::new("build", Kind::Info, "Version and commit of the program.")
            .by(&["version", "commit"])
            .with([env!("CARGO_PKG_VERSION").into(), COMMIT.into()], Value::Whole(1)),
        Family::new("node", Kind::Info, "What an ACK of this node promises.")
            .by(&["ack"])
            .with([node_info.ack.into()], Value::Whole(1)),
        Family::new("ready", Kind::Gauge, "Whether `/ready` says yes.")
            .with([], Value::Whole(reasons.is_empty().into())),
        not_ready,
        Family::new("calls_live", Kind::Gauge, "Calls connected now.")
            .with([], Value::Whole(calls_live as u64)),
        Family::new("calls_max", Kind::Gauge, "Limit on live calls: `limits.calls_max`.")
            .with([], Value::Whole(node_info.calls_max as u64)),
        Family::new(
            "keys",
            Kind::Gauge,
            "Keys of the key file: `used`, and `skipped` because they cannot verify RS256.",
        )
        .by(&["state"])
        .with(["used".into()], Value::Whole(keys.used as u64))
        .with(["skipped".into()], Value::Whole(keys.skipped as u64)),
        Family::new(
            "log_lines_dropped",
            Kind::Counter,
            "Lines of the log that were lost because standard error did not take them in time.",
        )
        .with([], Value::Whole((node_info.log_lines_dropped)())),
    ]
}

/// The shards' counters, with the names and helps of their declaration.
fn by_shard(scrape: &Scrape<'_>) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for (shard, counters) in scrape.view.counters.iter().enumerate() {
        let mut index = 0;
        counters.for_each(|description, value| {
            if shard == 0 {
                families.push(declare(description));
            }
            let family = &mut families[index];
            let value = match family.unit {
                Some(Unit::Seconds) => Value::Real(value as f64 / MS_PER_SEC),
                _ => Value::Whole(value),
            };
            family.add([shard.to_string()], value);
            index += 1;
        });
    }
    families
}

/// The unit becomes the end of the name, and milliseconds become seconds.
fn declare(Description { name, help, kind, unit }: Description) -> Family {
    let (suffix, unit) = match unit {
        metrics::Unit::Count | metrics::Unit::Flag => ("", None),
        metrics::Unit::Bytes => ("_bytes", Some(Unit::Bytes)),
        metrics::Unit::Milliseconds => ("_ms", Some(Unit::Seconds)),
    };
    let name = name.strip_suffix(suffix).unwrap_or(name);
    Family { unit, ..Family::new(name, kind, &help.replace("Milliseconds", "Seconds")) }
        .by(&["shard"])
}

/// The families of `IngestCounters::for_each`, with their help.
const CAUSES: [(&str, &str); 4] = [
    ("refusals", "Requests answered with an HTTP status other than 101, by reason."),
    ("token_failures", "Tokens refused, by reason."),
    (
        "closes",
        "Close frames that the node sent first, by reason. Answers to a peer's Close do not count.",
    ),
    ("endings", "Calls ended after a valid `start`, by reason."),
];

/// Counts of the sessions, summed over the shards. By shard there would be a hundred series more
/// for each shard.
fn by_cause(scrape: &Scrape<'_>) -> Vec<Family> {
    let mut families = Vec::new();
    for (name, help) in CAUSES {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for shared in &scrape.view.ingest {
            shared.counters.for_each(|family, label, value| {
                if family == name {
                    match sums.iter_mut().find(|(known, _)| *known == label) {
                        Some((_, sum)) => *sum += value,
                        None => sums.push((label, value)),
                    }
                }
            });
        }
        let mut family = Family::new(name, Kind::Counter, help).by(&["reason"]);
        sums.into_iter().for_each(|(label, sum)| family.add([label.into()], Value::Whole(sum)));
        families.push(family);
    }
    let mut tls =
        Family::new("tls_failures", Kind::Counter, "TLS connections that failed, by reason.")
            .by(&["reason"]);
    for failure in TlsFailure::ALL {
        let counters = scrape.view.counters.iter();
        let sum = counters.map(|counters| counters.tls_failures[failure.index()].read()).sum();
        tls.add([failure.label().into()], Value::Whole(sum));
    }
    families.push(tls);
    let (mut texts_after_stop, mut ends_unrecorded) = (0, 0);
    for shared in &scrape.view.ingest {
        texts_after_stop += shared.counters.texts_after_stop.read();
        ends_unrecorded += shared.counters.ends_unrecorded.read();
    }
    let texts = "Text messages ignored because they came after `stop`.";
    let ends = "Calls whose end did not fit into the frame ring. In the journal they look cut off.";
    families.extend([
        Family::new("texts_after_stop", Kind::Counter, texts)
            .with([], Value::Whole(texts_after_stop)),
        Family::new("ends_unrecorded", Kind::Counter, ends).with([], Value::Whole(ends_unrecorded)),
    ]);
    families
}

fn by_tenant(scrape: &Scrape<'_>) -> Vec<Family> {
    let named = TENANT_COUNT_MAX - 1;
    let family = |name, kind, help: &str| {
        let help = format!("{help} Tenants after the first {named} share an empty `tenant`.");
        Family::new(name, kind, &help).by(&["tenant"])
    };
    let mut live = family("tenant_calls_live", Kind::Gauge, "Calls of a tenant connected now.");
    let mut calls =
        family("tenant_calls", Kind::Counter, "Calls of a tenant connected since the start.");
    let mut frames = family(
        "tenant_frames",
        Kind::Counter,
        "Audio frames of a tenant, counted when an ACK is due.",
    );
    let mut bytes =
        family("tenant_audio", Kind::Counter, "Audio of a tenant, counted when an ACK is due.")
            .in_unit(Unit::Bytes);
    let mut refused = family(
        "tenant_calls_refused",
        Kind::Counter,
        "Calls of a tenant refused because it was at its quota. For all tenants: \
         `exo_ingest_refusals_total{reason=\"quota\"}`.",
    );
    let mut rows = Vec::new();
    if let Some(tenants) = &scrape.view.tenants {
        tenants.for_each(|index, name, usage| match name {
            None if usage.calls == 0 && usage.refused == 0 => {}
            name => rows.push((index, name.unwrap_or_default().to_owned(), usage)),
        });
    }
    // The same order in each scrape.
    rows.sort_unstable_by_key(|(index, _, _)| *index);
    for (_, name, usage) in rows {
        live.add([name.clone()], Value::Whole(usage.calls_live as u64));
        calls.add([name.clone()], Value::Whole(usage.calls));
        frames.add([name.clone()], Value::Whole(usage.frames));
        refused.add([name.clone()], Value::Whole(usage.refused));
        bytes.add([name], Value::Whole(usage.bytes));
    }
    vec![live, calls, refused, frames, bytes]
}

fn latencies(scrape: &Scrape<'_>) -> Vec<Family> {
    let mut families = Vec::new();
    scrape.latencies.for_each(|tag, help, histogram| {
        let name = tag.replace(['.', '-'], "_");
        let family = Family::new(&name, Kind::Histogram, help).in_unit(Unit::Seconds);
        families.push(family.with([], distribution(histogram)));
    });
    families
}

/// A histogram of microseconds as one of seconds. Its sum is as exact as its values.
fn distribution(histogram: &Histogram<u64>) -> Value {
    let mut buckets: Vec<(f64, u64)> =
        BOUNDS_US.iter().map(|bound| (*bound as f64 / MICROS_PER_SEC, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let (mut sum, mut count) = (0.0, 0);
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        // Take the least of the equal values, so that a recorded bound is in its own bucket.
        let index = BOUNDS_US.partition_point(|bound| *bound < histogram.lowest_equivalent(value));
        buckets[index].1 += step.count_at_value();
        sum += histogram.median_equivalent(value) as f64 * step.count_at_value() as f64;
        count += step.count_at_value();
    }
    Value::Distribution { sum: sum / MICROS_PER_SEC, count, buckets }
}

fn process(scrape: &Scrape<'_>) -> Vec<Family> {
    let Process { cpu_seconds, resident_size, open_files, open_files_max, .. } = scrape.process;
    let started = scrape.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let optional = |family: Family, value: Option<u64>| family.with_some(value.map(Value::Whole));
    vec![
        Family::of_process("cpu", Kind::Counter, "User and system CPU time of all threads.")
            .in_unit(Unit::Seconds)
            .with([], Value::Real(cpu_seconds)),
        optional(
            Family::of_process("resident_memory", Kind::Gauge, "Resident memory.")
                .in_unit(Unit::Bytes),
            resident_size,
        ),
        optional(Family::of_process("open_fds", Kind::Gauge, "Open descriptors."), open_files),
        optional(
            Family::of_process("max_fds", Kind::Gauge, "Limit on open descriptors."),
            open_files_max,
        ),
        Family::of_process("start_time", Kind::Gauge, "When the node started, in Unix time.")
            .in_unit(Unit::Seconds)
            .with([], Value::Real(started)),
    ]
}

#[cfg(test)]
mod tests;
