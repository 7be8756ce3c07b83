//! Results of earlier runs: read from their `--out` directories, compared, added up, shown.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::report::RESULT_VERSION;
use crate::stats::{Metric, Stats};

pub mod compare;
pub mod html;
pub mod merge;
pub mod sizing;

/// The metrics that `latency.hlog` holds.
pub const LOGGED: [Metric; 3] = [Metric::Ack, Metric::Setup, Metric::Sendlag];

/// The log's times are rounded to milliseconds, up or down by this, seconds.
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
    /// When it began, seconds since the run's start.
    pub start: f64,
    /// The same as Unix time.
    pub start_unix: f64,
    /// How long it was, seconds.
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
            fs::read(&file)
                .map_err(|error| format!("cannot read {}: {error}; give the --out directory of a run", file.display()))
        };
        let result = parse_result(&path.join("result.json"), &read("result.json")?)?;
        let intervals =
            parse_log(&read("latency.hlog")?).map_err(|error| format!("{}/latency.hlog: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), result, intervals })
    }

    /// What a run is judged by, as far as the log has it: setup of the whole run, ack and send lag of its steady part.
    pub fn judged(&self) -> Stats {
        // An interval begins a moment after the look that ended the one before it.
        let begin = number(&self.result, "/run/steady_s/0").unwrap_or(0.0);
        let end = number(&self.result, "/run/steady_s/1").unwrap_or(f64::MAX);
        let mut stats = Stats::new();
        for interval in &self.intervals {
            let is_steady = interval.start + ROUNDING >= begin && interval.start + ROUNDING < end;
            if interval.metric == Metric::Setup || is_steady {
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

/// Only `result.json` of a directory.
pub fn read_result(directory: &Path) -> Result<Value, String> {
    let path = directory.join("result.json");
    let text = fs::read(&path)
        .map_err(|error| format!("cannot read {}: {error}; give the --out directory of a run", path.display()))?;
    parse_result(&path, &text)
}

fn parse_result(path: &Path, text: &[u8]) -> Result<Value, String> {
    let result: Value = serde_json::from_slice(text).map_err(|error| format!("{}: {error}", path.display()))?;
    let schema = (result["schema"]["name"].as_str(), result["schema"]["version"].as_u64());
    if schema != (Some("exo-load/result"), Some(u64::from(RESULT_VERSION))) {
        return Err(format!("{} is no result of this version of exo-load: {}", path.display(), result["schema"]));
    }
    Ok(result)
}

fn parse_log(text: &[u8]) -> Result<Vec<Interval>, String> {
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
        let Some(metric) = LOGGED.into_iter().find(|metric| metric.name() == name) else { continue };
        let bytes = STANDARD.decode(interval.encoded_histogram()).map_err(|error| error.to_string())?;
        let histogram = deserializer.deserialize(&mut &bytes[..]).map_err(|error| error.to_string())?;
        let start = interval.start_timestamp().as_secs_f64();
        let length = interval.duration().as_secs_f64();
        intervals.push(Interval { start, start_unix: base + start, length, metric, histogram });
    }
    Ok(intervals)
}
