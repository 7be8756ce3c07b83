//! The files of `--out`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::cli;
use crate::host;
use crate::ledger;
use crate::monitor::Outcome;
use crate::report::Report;
use crate::stats::Metric;

/// What `result.json` holds.
pub const SCHEMA: &str = include_str!("../result.schema.json");

/// Makes the directory, and so finds out before the run whether it can be written.
pub fn prepare(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(directory.join("env.json"), ""))
        .map_err(|error| format!("--out: cannot write to {}: {error}", directory.display()))
}

/// Writes all files.
pub fn write(directory: &Path, report: &Report, outcome: &Outcome, note: Option<&str>) -> Result<(), String> {
    let mut files: Vec<(PathBuf, Vec<u8>)> = vec![
        ("result.json".into(), pretty(&report.json)),
        ("result.schema.json".into(), SCHEMA.into()),
        ("env.json".into(), pretty(&environment(note))),
        (ledger::FILE.into(), outcome.ledger.to_text().into_bytes()),
        ("latency.hlog".into(), outcome.log.clone()),
        ("intervals.csv".into(), outcome.csv.clone().into_bytes()),
    ];
    for metric in Metric::ALL {
        let text = percentiles(report.judged.latency(metric));
        files.push((format!("{}.hgrm", metric.name()).into(), text.into_bytes()));
    }
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::write(&path, bytes).map_err(|error: io::Error| format!("--out: cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn environment(note: Option<&str>) -> serde_json::Value {
    json!({
        "schema": {"name": "exo-load/env", "version": 1},
        "program": concat!("exo-load ", env!("CARGO_PKG_VERSION")),
        "debug_build": cfg!(debug_assertions),
        "command": cli::redact(std::env::args()),
        "finished_unix_s": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "note": note,
        "host": host::describe(),
    })
}

/// HdrHistogram's percentile distribution, in milliseconds: what its plotters read.
pub fn percentiles(histogram: &Histogram<u64>) -> String {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let ms = |nanos: f64| nanos / 1e6;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        let _ = write!(text, "{value:>12.3} {quantile:>14.12} {count:>10}");
        let _ = if quantile < 1.0 { writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let (mean, deviation, max) = (ms(histogram.mean()), ms(histogram.stdev()), ms(histogram.max() as f64));
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {max:>12.3}, Total count    = {:>12}]", histogram.len());
    let _ = writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", histogram.buckets(), 2048);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_end_at_the_maximum() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3).unwrap();
        (1..=1_000u64).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let text = percentiles(&histogram);
        let last = text.lines().rfind(|line| line.contains("1.000000000000")).unwrap();
        assert!(last.contains(" 1000"), "{last}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
        assert!(percentiles(&Histogram::<u64>::new(3).unwrap()).contains("Total count    =            0]"));
    }
}
