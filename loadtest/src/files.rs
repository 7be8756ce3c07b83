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
use crate::stats::{LOGGED, Metric};

/// What `result.json` holds.
pub const SCHEMA: &str = include_str!("../result.schema.json");

/// What an `--out` directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// One run.
    Run,
    /// The sum of several.
    Sum,
    /// The runs of a search for the capacity, each in a directory of its own.
    Search,
}

impl Holds {
    /// Whether the same command replaces a file of this name when it writes here again. A file that
    /// is not replaced would afterwards lie beside results that it does not belong to.
    fn owns(self, name: &str) -> bool {
        let is_step = || {
            let numbers = name.split_once('-').map(|(calls, attempt)| [calls, attempt]);
            numbers
                .is_some_and(|numbers| numbers.iter().all(|number| number.parse::<u64>().is_ok()))
        };
        match self {
            Self::Run => {
                is_of_sum(name) || OF_RUN.contains(&name) || is_distribution(name, &Metric::ALL)
            }
            Self::Sum => is_of_sum(name),
            Self::Search => {
                [OF_SEARCH, "capacity.html", "capacity.md", "capacity.schema.json"].contains(&name)
                    || is_step()
                    || name.strip_prefix("cores-").is_some_and(|it| it.parse::<u64>().is_ok())
            }
        }
    }
}

const OF_RUN: [&str; 4] = ["env.json", "intervals.csv", ledger::FILE, OF_ABUSE];
const OF_SUM: [&str; 4] = ["result.json", "result.schema.json", "latency.hlog", "report.html"];

/// The result of an attack, beside that of the live calls.
pub const OF_ABUSE: &str = "abuse.json";

/// The answer of a search.
pub const OF_SEARCH: &str = "capacity.json";

fn is_of_sum(name: &str) -> bool {
    OF_SUM.contains(&name) || is_distribution(name, &LOGGED)
}

fn is_distribution(name: &str, metrics: &[Metric]) -> bool {
    name.strip_suffix(".hgrm")
        .is_some_and(|stem| metrics.iter().any(|metric| metric.name() == stem))
}

/// Makes the directory, so that we know before the run whether it can be written to. Refuses a
/// directory that holds something else, unless `force` is set.
pub fn prepare(directory: &Path, holds: Holds, force: bool) -> Result<(), String> {
    let failed =
        |error: io::Error| format!("--out: cannot write to {}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(failed)?;
    if !force && let Some(name) = foreign(directory, holds).map_err(failed)? {
        return Err(format!(
            "--out: {} holds something else ({name}); give a new directory, or --force to write to \
             this one",
            directory.display()
        ));
    }
    let probe = directory.join(format!(".exo-load-{}", std::process::id()));
    let written = fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    written.and_then(|_| fs::remove_file(&probe)).map_err(failed)
}

/// The first name in a directory that is not ours to replace.
fn foreign(directory: &Path, holds: Holds) -> io::Result<Option<String>> {
    let names =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<String>>>()?;
    names.sort_unstable();
    if let Some(name) = names.iter().find(|name| !holds.owns(name)) {
        return Ok(Some(name.clone()));
    }
    // Other programs write a report.html too. Ours has a result beside it.
    let is_result = |text: String| text.contains("\"exo-load/result\"");
    let is_ours = holds == Holds::Search
        || fs::read_to_string(directory.join("result.json")).is_ok_and(is_result);
    Ok(names.into_iter().next().filter(|_| !is_ours))
}

/// Writes all files.
pub fn write(
    directory: &Path,
    report: &Report,
    outcome: &Outcome,
    note: Option<&str>,
) -> Result<(), String> {
    let mut files: Vec<(PathBuf, Vec<u8>)> = vec![
        ("result.json".into(), pretty(&report.json)),
        ("result.schema.json".into(), SCHEMA.into()),
        ("env.json".into(), pretty(&environment(note))),
        (ledger::FILE.into(), outcome.ledger.to_text().into_bytes()),
        ("latency.hlog".into(), outcome.log.clone()),
        ("intervals.csv".into(), outcome.csv.clone().into_bytes()),
    ];
    let is_there =
        |metric: &Metric| metric.is_common() || !report.judged.latency(*metric).is_empty();
    for metric in Metric::ALL.into_iter().filter(is_there) {
        let text = percentiles(report.judged.latency(metric));
        files.push((format!("{}.hgrm", metric.name()).into(), text.into_bytes()));
    }
    for (name, bytes) in files {
        let path = directory.join(name);
        save(&path, bytes).map_err(|error: io::Error| {
            format!("--out: cannot write {}: {error}", path.display())
        })?;
    }
    Ok(())
}

/// Writes one file, whole or not at all.
pub fn save(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    exo_output::write(path, content.as_ref(), exo_output::PUBLIC)
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn environment(note: Option<&str>) -> serde_json::Value {
    let finished = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "schema": {"name": "exo-load/env", "version": 1},
        "program": concat!("exo-load ", env!("CARGO_PKG_VERSION")),
        "debug_build": cfg!(debug_assertions),
        "command": cli::redact(std::env::args()),
        "finished_unix_s": finished.as_secs(),
        "note": note,
        "host": host::describe(),
    })
}

/// The percentile distribution in milliseconds, in the format of HdrHistogram's plotters.
pub fn percentiles(histogram: &Histogram<u64>) -> String {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let ms = |nanos: f64| nanos / 1e6;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        let _ = write!(text, "{value:>12.3} {quantile:>14.12} {count:>10}");
        let _ = if quantile < 1.0 {
            writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    let (mean, deviation, max) =
        (ms(histogram.mean()), ms(histogram.stdev()), ms(histogram.max() as f64));
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {max:>12.3}, Total count    = {:>12}]", histogram.len());
    let _ =
        writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", histogram.buckets(), 2048);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_else_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let refused = |holds| prepare(&directory, holds, false).err();
        assert_eq!(refused(Holds::Run), None, "it is made");
        assert_eq!(refused(Holds::Run), None, "it is empty, and stays so");
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        write("report.html", "");
        assert!(refused(Holds::Run).unwrap().contains("(report.html)"), "another program's");
        write("result.json", r#"{"schema": {"name": "exo-load/result"}}"#);
        write("connect.hgrm", "");
        assert_eq!(refused(Holds::Run), None, "an earlier run's");
        // A sum would leave the files of the run beside its own result.
        assert!(refused(Holds::Sum).unwrap().contains("(connect.hgrm)"));
        assert!(refused(Holds::Search).unwrap().contains("--force"));
        write("thesis.tex", "");
        assert!(refused(Holds::Run).unwrap().contains("(thesis.tex)"));
        assert_eq!(prepare(&directory, Holds::Run, true), Ok(()));
        assert_eq!(
            fs::read_dir(&directory).unwrap().count(),
            4,
            "nothing else is written, nothing is lost"
        );
    }

    #[test]
    fn a_search_goes_where_an_earlier_one_went() {
        for (name, owned) in [
            ("capacity.json", true),
            ("400-2", true),
            ("cores-4", true),
            ("capacity.html", true),
            ("capacity.md", true),
            ("cores-x", false),
            ("400", false),
            ("a-1", false),
            ("-", false),
        ] {
            assert_eq!(Holds::Search.owns(name), owned, "{name}");
        }
    }

    #[test]
    fn distributions_end_at_the_maximum() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3).unwrap();
        (1..=1_000u64).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let text = percentiles(&histogram);
        let last = text.lines().rfind(|line| line.contains("1.000000000000")).unwrap();
        assert!(last.contains(" 1000"), "{last}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
        assert!(
            percentiles(&Histogram::<u64>::new(3).unwrap())
                .contains("Total count    =            0]")
        );
    }
}
