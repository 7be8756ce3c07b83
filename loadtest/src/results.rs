//! Results of earlier runs: read from their `--out` directories, compared, added up, shown.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::stats::{LOGGED, Metric, Stats};
use crate::verdict::Verdict;

pub mod compare;
mod connections;
pub mod html;
pub mod merge;
pub mod sizing;
mod summary;
pub mod table;

/// Version of `result.json`. Version 2 adds TLS, storms and churn to version 1. Readers take both.
pub const RESULT_VERSION: u32 = 2;

/// The oldest version that is read.
pub const RESULT_VERSION_MIN: u32 = 1;

/// The times in the log are rounded to milliseconds, so they can be off by this, seconds.
const ROUNDING: f64 = 0.000_5;

/// One run's directory.
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
    /// `result.json`.
    pub result: Value,
    /// `latency.hlog`.
    pub intervals: Vec<Interval>,
}

/// A line of `latency.hlog`.
pub struct Interval {
    /// Start, seconds since the run's start.
    pub start: f64,
    /// Start as Unix time.
    pub start_unix: f64,
    /// Length, seconds.
    pub length: f64,
    /// What was measured.
    pub metric: Metric,
    /// In nanoseconds.
    pub histogram: Histogram<u64>,
}

impl RunDir {
    /// Reads a directory that `--out` has written.
    pub fn read(path: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let file = path.join(name);
            fs::read(&file).map_err(|error| {
                format!(
                    "cannot read {}: {error}; give the --out directory of a run",
                    file.display()
                )
            })
        };
        let result = parse_result(&path.join("result.json"), &read("result.json")?)?;
        let intervals = parse_log(&read("latency.hlog")?)
            .map_err(|error| format!("{}/latency.hlog: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), result, intervals })
    }

    /// The judged figures, as far as the log has them: ack and send lag of the steady part, all
    /// others of the whole run.
    pub fn judged(&self) -> Stats {
        // An interval begins a moment after the collection that ended the previous one.
        let begin = number(&self.result, "/run/steady_s/0").unwrap_or(0.0);
        let end = number(&self.result, "/run/steady_s/1").unwrap_or(f64::MAX);
        let mut stats = Stats::new();
        for interval in &self.intervals {
            let is_steady = interval.start + ROUNDING >= begin && interval.start + ROUNDING < end;
            if !interval.metric.is_of_steady_part() || is_steady {
                stats.add_latency(interval.metric, &interval.histogram);
            }
        }
        stats
    }
}

/// A number of a result.
pub fn number(result: &Value, pointer: &str) -> Option<f64> {
    result.pointer(pointer)?.as_f64()
}

/// A text as it is, anything else as JSON.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The items of an array; none of anything else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether nothing failed, but no call sent enough frames for an ack.
pub fn has_no_ack_due(result: &Value) -> bool {
    result["counts"]["acks_due"] == 0
        && result["failures"].as_object().is_none_or(|all| all.is_empty())
}

/// Why the figures of a result must not be used; none if they may be.
pub fn objection(result: &Value) -> Option<&'static str> {
    let verdict = result["verdict"].as_str().and_then(Verdict::parse);
    if !matches!(verdict, Some(Verdict::Pass | Verdict::Worse)) {
        return Some("did not pass: its figures prove nothing");
    }
    (result["interrupted"] == true).then_some(
        "was interrupted: its figures are those of a part \
             of it",
    )
}

/// Reads only `result.json` of a directory.
pub fn read_result(directory: &Path) -> Result<Value, String> {
    let path = directory.join("result.json");
    let text = fs::read(&path).map_err(|error| {
        format!("cannot read {}: {error}; give the --out directory of a run", path.display())
    })?;
    parse_result(&path, &text)
}

fn parse_result(path: &Path, text: &[u8]) -> Result<Value, String> {
    let result: Value =
        serde_json::from_slice(text).map_err(|error| format!("{}: {error}", path.display()))?;
    let versions = u64::from(RESULT_VERSION_MIN)..=u64::from(RESULT_VERSION);
    let is_read =
        result["schema"]["version"].as_u64().is_some_and(|version| versions.contains(&version));
    if result["schema"]["name"] != "exo-load/result" || !is_read {
        return Err(format!(
            "{} is no result of this version of exo-load: {}",
            path.display(),
            result["schema"]
        ));
    }
    Ok(result)
}

/// The lines of a `latency.hlog`.
pub fn parse_log(text: &[u8]) -> Result<Vec<Interval>, String> {
    let mut base = 0.0;
    let mut intervals = Vec::new();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(text) {
        let interval = match entry.map_err(|error| format!("{error:?}"))? {
            LogEntry::Interval(interval) => interval,
            LogEntry::BaseTime(time) => {
                base = time.as_secs_f64();
                continue;
            }
            LogEntry::StartTime(_) => continue,
        };
        let tag = interval.tag();
        let name = tag.as_ref().map_or("", |tag| tag.as_str());
        let Some(metric) = LOGGED.into_iter().find(|metric| metric.name() == name) else {
            continue;
        };
        let bytes =
            STANDARD.decode(interval.encoded_histogram()).map_err(|error| error.to_string())?;
        let histogram =
            deserializer.deserialize(&mut &bytes[..]).map_err(|error| error.to_string())?;
        let start = interval.start_timestamp().as_secs_f64();
        let length = interval.duration().as_secs_f64();
        intervals.push(Interval { start, start_unix: base + start, length, metric, histogram });
    }
    Ok(intervals)
}
