//! What `/metrics` shows: the families, with their series as of one scrape. Names begin with `exo_ingest_`, but for those of the
//! process, which have the names that dashboards know.
//!
//! Series are bounded whatever peers send: labels are shards, reasons, and tenants, of which a node counts
//! [`TENANT_COUNT_MAX`] less one by name. Not "the largest hundred": a tenant that moved in and out of
//! a row of others would look like a counter that is reset. A call's id is in no label.

use super::process::Process;
use super::ready::{NAMES, Reason};
use super::status::Facts;
use crate::constants::TENANT_COUNT_MAX;
use crate::latency::Latencies;
use crate::metrics::{self, Description};
use crate::node::NodeView;
use hdrhistogram::Histogram;
use std::time::{SystemTime, UNIX_EPOCH};

/// Upper bounds of a histogram's buckets, microseconds: three a decade, as latencies are read on a logarithmic scale, from what a
/// turn takes to what a dead disk does. The histograms themselves are finer; quantiles are best taken from `/debug/latency.*`.
const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

const MICROS_PER_SEC: f64 = 1e6;
const MS_PER_SEC: f64 = 1e3;

/// Name and value.
pub(super) type Label = (&'static str, String);

/// What a family's name ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Seconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// All series of one name.
#[derive(Clone, Debug)]
pub(super) struct Family {
    /// Without unit and suffix.
    pub name: String,
    pub unit: Option<Unit>,
    pub kind: Kind,
    /// Names of the labels that each series has.
    pub labels: &'static [&'static str],
    pub help: String,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub labels: Vec<Label>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Count(u64),
    CountReal(f64),
    Level(u64),
    LevelReal(f64),
    Info,
    /// Counts of buckets, not cumulative, with their upper bounds; the last is infinite.
    Distribution {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

/// What a scrape is made from.
pub(super) struct Scrape<'a> {
    pub view: &'a NodeView,
    pub facts: &'a Facts,
    pub latencies: &'a Latencies,
    /// Why the node is not ready.
    pub reasons: &'a [Reason],
    pub process: Process,
    pub started: SystemTime,
}

/// All families, with or without series: which there are does not depend on the scrape.
pub(super) fn families(scrape: &Scrape<'_>) -> Vec<Family> {
    let mut families = node(scrape);
    families.extend(by_shard(scrape));
    families.extend(by_cause(scrape));
    families.extend(by_tenant(scrape));
    families.extend(latencies(scrape));
    families.extend(process(scrape));
    families
}

/// The families of a node that has done nothing yet.
pub(super) fn declared() -> Vec<Family> {
    families(&Scrape {
        view: &NodeView { counters: vec![Default::default()], ..NodeView::default() },
        facts: &Facts { ack: "", calls_max: 0 },
        latencies: &Latencies::new(),
        reasons: &[],
        process: Process::default(),
        started: UNIX_EPOCH,
    })
}

impl Family {
    fn new(name: &str, kind: Kind, help: &str) -> Family {
        Family { name: format!("exo_ingest_{name}"), unit: None, kind, labels: &[], help: help.into(), series: Vec::new() }
    }

    /// One whose name is not of ours.
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

    /// One more series, with a value for each label.
    fn add<const N: usize>(&mut self, labels: [String; N], value: Value) {
        debug_assert_eq!(self.labels.len(), N, "{}", self.name);
        self.series.push(Series { labels: self.labels.iter().copied().zip(labels).collect(), value });
    }

    fn with<const N: usize>(mut self, labels: [String; N], value: Value) -> Family {
        self.add(labels, value);
        self
    }
}

fn node(scrape: &Scrape<'_>) -> Vec<Family> {
    let Scrape { view, facts, reasons, .. } = scrape;
    let calls_live = view.tenants.as_ref().map_or(0, |tenants| tenants.calls_live());
    let mut not_ready =
        Family::new("not_ready", Kind::Gauge, "Whether this is a reason why `/ready` says no.").by(&["reason"]);
    for name in NAMES {
        let holds = reasons.iter().any(|reason| reason.name == name);
        not_ready.add([name.into()], Value::Level(holds.into()));
    }
    vec![
        Family::new("build", Kind::Info, "Which program this is.")
            .by(&["version"])
            .with([env!("CARGO_PKG_VERSION").into()], Value::Info),
        Family::new("node", Kind::Info, "What an ACK of this node promises.")
            .by(&["ack"])
            .with([facts.ack.into()], Value::Info),
        Family::new("ready", Kind::Gauge, "Whether `/ready` says yes.").with([], Value::Level(reasons.is_empty().into())),
        not_ready,
        Family::new("calls_live", Kind::Gauge, "Calls connected now.").with([], Value::Level(calls_live as u64)),
        Family::new("calls_max", Kind::Gauge, "Calls the node takes at most: `limits.calls_max`.")
            .with([], Value::Level(facts.calls_max as u64)),
    ]
}

/// The shards' counters, under the names and helps that they are declared with.
fn by_shard(scrape: &Scrape<'_>) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for (shard, counters) in scrape.view.counters.iter().enumerate() {
        let mut index = 0;
        counters.for_each_kind(|description, value| {
            if shard == 0 {
                families.push(declare(description));
            }
            let family = &mut families[index];
            let is_gauge = family.kind == Kind::Gauge;
            let value = match (is_gauge, family.unit) {
                (true, Some(Unit::Seconds)) => Value::LevelReal(value as f64 / MS_PER_SEC),
                (true, _) => Value::Level(value),
                (false, _) => Value::Count(value),
            };
            family.add([shard.to_string()], value);
            index += 1;
        });
    }
    families
}

/// A unit is the end of a name, and milliseconds become seconds.
fn declare(Description { name, help, kind, unit }: Description) -> Family {
    let kind = match kind {
        metrics::Kind::Counter => Kind::Counter,
        metrics::Kind::Gauge => Kind::Gauge,
    };
    let (suffix, unit) = match unit {
        metrics::Unit::Count | metrics::Unit::Flag => ("", None),
        metrics::Unit::Bytes => ("_bytes", Some(Unit::Bytes)),
        metrics::Unit::Milliseconds => ("_ms", Some(Unit::Seconds)),
    };
    let name = name.strip_suffix(suffix).unwrap_or(name);
    Family { unit, ..Family::new(name, kind, &help.replace("Milliseconds", "Seconds")) }.by(&["shard"])
}

/// The families of `IngestCounters::for_each`, and what they mean.
const CAUSES: [(&str, &str); 4] = [
    ("refusals", "Requests answered with an HTTP status other than 101, by reason."),
    ("token_failures", "Tokens refused, by what is wrong with them."),
    ("closes", "Closes sent on our own account, by reason; answers to a peer's Close are not among them."),
    ("endings", "Calls ended after a valid `start`, by how."),
];

/// What sessions count, summed over the shards: by shard as well there would be a hundred series more for each.
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
        sums.into_iter().for_each(|(label, sum)| family.add([label.into()], Value::Count(sum)));
        families.push(family);
    }
    let (mut texts_after_stop, mut ends_unrecorded) = (0, 0);
    for shared in &scrape.view.ingest {
        texts_after_stop += shared.counters.texts_after_stop.read();
        ends_unrecorded += shared.counters.ends_unrecorded.read();
    }
    let texts = "Texts that came after `stop`, ignored.";
    let ends = "Calls whose end the frame ring had no room for: in the journal they look cut.";
    families.extend([
        Family::new("texts_after_stop", Kind::Counter, texts).with([], Value::Count(texts_after_stop)),
        Family::new("ends_unrecorded", Kind::Counter, ends).with([], Value::Count(ends_unrecorded)),
    ]);
    families
}

fn by_tenant(scrape: &Scrape<'_>) -> Vec<Family> {
    let named = TENANT_COUNT_MAX - 1;
    let family = |name, kind, help: &str| {
        let help = format!("{help} `tenant` is empty for all that came after the first {named} tenants, together.");
        Family::new(name, kind, &help).by(&["tenant"])
    };
    let mut live = family("tenant_calls_live", Kind::Gauge, "Calls of a tenant connected now.");
    let mut calls = family("tenant_calls", Kind::Counter, "Calls of a tenant connected since the start.");
    let mut frames = family("tenant_frames", Kind::Counter, "Audio frames of a tenant, counted when an ACK is due.");
    let mut bytes =
        family("tenant_audio", Kind::Counter, "Audio of a tenant, counted when an ACK is due.").in_unit(Unit::Bytes);
    let mut rows = Vec::new();
    if let Some(tenants) = &scrape.view.tenants {
        tenants.for_each(|index, name, usage| match name {
            None if usage.calls == 0 => {}
            name => rows.push((index, name.unwrap_or_default().to_owned(), usage)),
        });
    }
    // In the same order each time.
    rows.sort_unstable_by_key(|(index, _, _)| *index);
    for (_, name, usage) in rows {
        live.add([name.clone()], Value::Level(usage.calls_live as u64));
        calls.add([name.clone()], Value::Count(usage.calls));
        frames.add([name.clone()], Value::Count(usage.frames));
        bytes.add([name], Value::Count(usage.bytes));
    }
    vec![live, calls, frames, bytes]
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

/// A histogram of microseconds as one of seconds. Its sum is as exact as its values are.
fn distribution(histogram: &Histogram<u64>) -> Value {
    let mut buckets: Vec<(f64, u64)> = BOUNDS_US.iter().map(|bound| (*bound as f64 / MICROS_PER_SEC, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let (mut sum, mut count) = (0.0, 0);
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        // The least of the values that it stands for: what was recorded as a bound is within it.
        let index = BOUNDS_US.partition_point(|bound| *bound < histogram.lowest_equivalent(value));
        buckets[index].1 += step.count_at_value();
        sum += histogram.median_equivalent(value) as f64 * step.count_at_value() as f64;
        count += step.count_at_value();
    }
    Value::Distribution { sum: sum / MICROS_PER_SEC, count, buckets }
}

fn process(scrape: &Scrape<'_>) -> Vec<Family> {
    let Process { cpu_seconds, resident_size, open_files, open_files_max } = scrape.process;
    let started = scrape.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let optional = |family: Family, value: Option<u64>| match value {
        Some(value) => family.with([], Value::Level(value)),
        None => family,
    };
    vec![
        Family::of_process("cpu", Kind::Counter, "User and system CPU time of all threads.")
            .in_unit(Unit::Seconds)
            .with([], Value::CountReal(cpu_seconds)),
        optional(Family::of_process("resident_memory", Kind::Gauge, "Resident memory.").in_unit(Unit::Bytes), resident_size),
        optional(Family::of_process("open_fds", Kind::Gauge, "Open descriptors."), open_files),
        optional(Family::of_process("max_fds", Kind::Gauge, "Descriptors it may open."), open_files_max),
        Family::of_process("start_time", Kind::Gauge, "When the node started, since 1970.")
            .in_unit(Unit::Seconds)
            .with([], Value::LevelReal(started)),
    ]
}

#[cfg(test)]
mod tests;
