//! `report.html`: a run on one page. Styles and pictures are in the file; it loads nothing else.
//!
//! [`Page`] is what the page shows, ready as text. `templates/report.html` is how it looks, and
//! escapes every text: some of them come from a peer.

use std::fs;
use std::path::Path;

use askama::Template;
use serde_json::Value;

use super::summary::summary;
use super::{RunDir, compare, connections, items, text};
use crate::duration::show;
use crate::files;
use crate::host;
use crate::plural::{counted, grouped};
use crate::stats::{Metric, Stats};
use crate::verdict::Verdict;

pub mod chart;
mod charts;
mod invalid;
mod numbers;
mod reasons;
mod seconds;
mod value;

use chart::Chart;
use charts::percentiles;
use invalid::Invalid;
use reasons::measured;
use value::{is_empty, label, shown, utc};

/// The lines of the first chart.
const DRAWN: [Metric; 4] = [Metric::Ack, Metric::Setup, Metric::Sendlag, Metric::Tls];

/// The lines of the storm's chart.
const STORM: [Metric; 4] =
    [Metric::AckBefore, Metric::AckDuring, Metric::AckAfter, Metric::StormBack];

/// The columns of the table of latencies.
const COLUMNS: [&str; 6] = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];

/// Shown if nothing was measured.
const NOTHING: &str = "–";

/// The sections of names and values, in order: member of the result, heading, explanation.
const SECTIONS: [(&str, &str, &str); 7] = [
    (
        "server",
        "Node",
        "The node's process over the steady part, all its threads. CPU is in percent of one core: \
         150 % is one and a half cores.",
    ),
    (
        "generator",
        "Generator",
        "exo-load itself over the steady part. CPU is a share of its cores. A run is INVALID if \
         more than one frame in 1,000, and at least ten, had a send lag over 5 ms, or with CPU \
         over 85 % (unless set otherwise).",
    ),
    (
        "counts",
        "Counts",
        "Of the whole run. Pushbacks: frames that were due while TCP still held the previous one.",
    ),
    (
        "tls",
        "TLS",
        "As the first handshake agreed. Handshakes: of the whole run. Own CPU: that of exo-load, \
         for each handshake. Node: the growth of the node's own counters.",
    ),
    (
        "storm",
        "Storm",
        "Many calls lost their connections at one moment and came back. All back: from then until \
         the last of them was up again. Server: its CPU time until then, less the cost of the \
         frames.",
    ),
    ("churn", "Churn", "Calls that ended while the others went on. A new call replaced each."),
    (
        "verify",
        "Journal",
        "Every frame that an ACK or 'stopped' promised, as found in the node's journal.",
    ),
];

const RUN_EXPLAINED: &str = "What the flags asked for. Steady: start and end of the judged part, \
                             since the start of the run.";

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    title: String,
    verdict: Verdict,
    verdict_shown: String,
    summary: String,
    meaning: String,
    reasons: Vec<String>,
    /// The machine, the program and the time.
    machine: String,
    percentiles: Chart,
    storm: Option<Storm>,
    invalid: Option<Invalid>,
    seconds: Chart,
    throughput: Chart,
    cpu: Chart,
    numbers: String,
    columns: [&'static str; COLUMNS.len()],
    latencies: Vec<Latency>,
    objectives: Vec<Objective>,
    failures: Vec<Failures>,
    sections: Vec<Section>,
    baseline: Option<Baseline>,
    run: Option<Section>,
    environment: Option<Environment>,
}

struct Storm {
    text: String,
    percentiles: Chart,
}

struct Latency {
    name: &'static str,
    count: String,
    figures: [String; COLUMNS.len()],
    meaning: &'static str,
}

struct Objective {
    bound: String,
    measured: String,
    held: bool,
}

/// The failures of one kind.
struct Failures {
    name: String,
    count: String,
    examples: Vec<String>,
}

/// A part of the result as a table of names and values.
struct Section {
    title: &'static str,
    explanation: &'static str,
    members: Vec<Member>,
}

struct Member {
    label: String,
    value: String,
}

struct Baseline {
    margin: String,
    rows: Vec<Change>,
}

/// How a figure changed since the baseline.
struct Change {
    figure: String,
    before: String,
    after: String,
    change: String,
    remark: String,
}

struct Environment {
    command: String,
    /// `env.json` as it is.
    text: String,
}

/// Writes the page of the run in `directory`, from its other files.
pub fn write(directory: &Path) -> Result<(), String> {
    let run = RunDir::read(directory)?;
    let env = fs::read_to_string(directory.join("env.json")).unwrap_or_default();
    let csv = fs::read_to_string(directory.join("intervals.csv")).unwrap_or_default();
    let path = directory.join("report.html");
    let page = Page::new(&run, &env, &csv).render();
    page.map_err(|error| error.to_string())
        .and_then(|page| files::save(&path, page).map_err(|error| error.to_string()))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

impl Page {
    fn new(run: &RunDir, env_text: &str, csv: &str) -> Self {
        let result = &run.result;
        // Without env.json the page shows all the rest.
        let env: Value = serde_json::from_str(env_text).unwrap_or_default();
        let judged = run.judged();
        // The sum of several runs has no such file: there the page shows all the rest.
        let by_second = seconds::read(csv);
        let verdict = result["verdict"].as_str().and_then(Verdict::parse).unwrap_or(Verdict::Fail);
        let calls = result["run"]["calls"].as_u64();
        let calls = calls.map_or_else(String::new, |calls| counted(calls, "call"));
        Self {
            title: format!("exo-load: {calls}, {}", verdict.name()),
            verdict,
            verdict_shown: verdict.name().to_uppercase(),
            summary: summary(result),
            meaning: reasons::meaning(verdict, result),
            reasons: reasons::reasons(result, &env),
            machine: machine(result, &env),
            percentiles: chart("Latency by percentile", &judged, DRAWN, &result["slos"]),
            storm: Storm::new(result, &judged),
            invalid: Invalid::new(verdict, run),
            seconds: charts::seconds(run),
            throughput: charts::throughput(&by_second, result),
            cpu: charts::cpu(&by_second, result),
            numbers: numbers::numbers(result),
            columns: COLUMNS,
            latencies: latencies(&result["latency_ns"]),
            objectives: items(&result["slos"]).map(Objective::new).collect(),
            failures: failures(&result["failures"]),
            sections: SECTIONS
                .into_iter()
                .filter_map(|(name, title, explanation)| {
                    Section::new(title, explanation, &result[name])
                })
                .collect(),
            baseline: Baseline::new(&result["baseline"]),
            run: Section::new("Run", RUN_EXPLAINED, &result["run"]),
            environment: Environment::new(env_text, &env),
        }
    }
}

fn chart(title: &'static str, judged: &Stats, metrics: [Metric; 4], slos: &Value) -> Chart {
    percentiles(title, &metrics.map(|metric| (metric, judged.latency(metric))), slos)
}

fn machine(result: &Value, env: &Value) -> String {
    let parts: Vec<String> = items(&result["merged_from"]).map(text).collect();
    if !parts.is_empty() {
        return format!("The sum of {}. Their own reports name the machines.", parts.join(" and "));
    }
    let host = &env["host"];
    if !host.is_object() {
        return String::new();
    }
    let ended = env["finished_unix_s"]
        .as_u64()
        .map_or_else(String::new, |at| format!(", ended {}", utc(at)));
    let note = env["note"].as_str().map_or_else(String::new, |note| format!("; {note}"));
    format!(
        "Generator on {}: {}; {}{ended}{note}",
        text(&host["hostname"]),
        host::words(host),
        text(&env["program"]),
    )
}

impl Storm {
    fn new(result: &Value, judged: &Stats) -> Option<Self> {
        let lines = connections::storm(result);
        (!lines.is_empty()).then(|| Self {
            text: format!("{}.", lines.join(". ")),
            percentiles: chart("Latency in the storm", judged, STORM, &result["slos"]),
        })
    }
}

fn latencies(latencies: &Value) -> Vec<Latency> {
    let latency = |metric: Metric| {
        let figures = &latencies[metric.name()];
        let count = figures["count"].as_u64()?;
        let figure = |name: &str| {
            figures[name].as_u64().filter(|_| count > 0).map_or_else(|| NOTHING.to_owned(), show)
        };
        Some(Latency {
            name: metric.name(),
            count: grouped(count),
            figures: COLUMNS.map(figure),
            meaning: meaning(metric),
        })
    };
    Metric::ALL.into_iter().filter_map(latency).collect()
}

/// From when to when a latency counts.
fn meaning(metric: Metric) -> &'static str {
    match metric {
        Metric::Setup => "from connecting until the call was started",
        Metric::Connect => "a part of setup: TCP",
        Metric::Tls => "a part of setup: the TLS handshake",
        Metric::StormSetup => "setup of calls that came back from the storm",
        Metric::StormBack => {
            "from the storm until the call was up again: all attempts, and the waits between them"
        }
        Metric::AckBefore => "ack of calls that stayed up, from the end of the ramp to the storm",
        Metric::AckDuring => "ack of the same calls, from the storm until all others were back",
        Metric::AckAfter => "ack of the same calls, after that",
        Metric::ChurnSetup => "setup of calls that replaced others",
        Metric::Upgrade => "a part of setup: HTTP upgrade, with the token",
        Metric::Started => "a part of setup: from start to started",
        Metric::Ack => "from when an ACK's tenth frame was due until the ACK was read",
        Metric::Sendlag => {
            "from when a frame was due until it was sent: the generator's own delay, also a part \
             of the ACK's"
        }
    }
}

impl Objective {
    fn new(slo: &Value) -> Self {
        Self { bound: text(&slo["slo"]), measured: measured(slo), held: slo["held"] == true }
    }
}

fn failures(failures: &Value) -> Vec<Failures> {
    let of_kind = |(name, tally): (&String, &Value)| Failures {
        name: name.clone(),
        count: shown("count", &tally["count"]),
        examples: items(&tally["examples"]).map(text).collect(),
    };
    failures.as_object().into_iter().flatten().map(of_kind).collect()
}

impl Section {
    /// None if the result has nothing to show.
    fn new(title: &'static str, explanation: &'static str, value: &Value) -> Option<Self> {
        let members = value.as_object().filter(|_| !is_empty(value))?;
        let member =
            |(name, value): (&String, _)| Member { label: label(name), value: shown(name, value) };
        Some(Self { title, explanation, members: members.iter().map(member).collect() })
    }
}

impl Baseline {
    fn new(baseline: &Value) -> Option<Self> {
        let change = |row: &Value| Change {
            figure: text(&row["figure"]),
            before: shown("before_ns", &row["before_ns"]),
            after: shown("after_ns", &row["after_ns"]),
            change: format!("{:+.1} %", row["change_percent"].as_f64().unwrap_or_default()),
            remark: compare::remark(row),
        };
        (!is_empty(baseline)).then(|| Self {
            margin: shown("percent", &baseline["margin_percent"]),
            rows: items(&baseline["rows"]).map(change).collect(),
        })
    }
}

impl Environment {
    fn new(text: &str, env: &Value) -> Option<Self> {
        let command: Vec<String> = items(&env["command"]).map(super::text).collect();
        (!text.is_empty()).then(|| Self { command: command.join(" "), text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use serde_json::json;

    use super::*;
    use crate::results::Interval;

    fn interval(start: f64, ms: u64) -> Interval {
        let mut histogram = Histogram::new(3).unwrap();
        (1..=100).for_each(|n| histogram.record(n * ms * 10_000).unwrap());
        Interval { start, start_unix: start, length: 1.0, metric: Metric::Ack, histogram }
    }

    fn run(result: Value, intervals: Vec<Interval>) -> RunDir {
        RunDir { path: "x".into(), result, intervals }
    }

    fn page(run: &RunDir, env: &str) -> String {
        Page::new(run, env, "seconds,frames,generator_cpu_percent\n1.0,50,3.0\n").render().unwrap()
    }

    #[test]
    fn a_page_is_whole_and_lets_nothing_in() {
        let result = json!({
            "verdict": "fail",
            "run": {"calls": 3, "ramp_s": 0.0, "duration_s": 3.0, "url": "ws://<b>"},
            "latency_ns": {"ack": {"count": 200, "p50": 1_000_000}},
            "slos": [{"slo": "ack.p99<1ms", "value_ns": 2_000_000, "held": false}],
            "failures": {
                "closed_4400": {"count": 1, "examples": ["load-1: <script>alert(\"x\")</script>"]},
            },
            "server": {"cpu_percent": 12.34, "cpu_ns_per_frame": 9_900, "<u>": "<u>"},
            "baseline": {
                "margin_percent": 10.0,
                "rows": [{"figure": "<s>", "before_ns": 1, "after_ns": 2, "is_worse": true}],
            },
            "merged_from": null,
        });
        let run = run(result, vec![interval(0.0, 1), interval(1.0, 100)]);
        let env =
            "{\"host\": {\"hostname\": \"<i>\"}, \"note\": \"<em>\", \"command\": [\"<tt>\"]}";
        let page = page(&run, env);
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        for part in ["FAIL", "1.00 ms", "MISSED", "WORSE", "Margin 10.0 %", "<td>12.3 %</td>"] {
            assert!(page.contains(part), "'{part}' is not in: {page}");
        }
        assert!(page.matches("<polyline").count() >= 5, "{page}");
        for tag in ["<script", "<b>", "<i>", "<em>", "<tt>", "<u>", "<s>"] {
            assert!(!page.contains(tag), "{tag}: {page}");
        }
        for escaped in ["&#60;script&#62;", "&#60;tt&#62;"] {
            assert!(page.contains(escaped), "{escaped}: {page}");
        }
        // The page loads nothing, and runs nothing.
        for way_out in ["http:", "https:", "href", "src=", "@import", "url(", "<link", "onload"] {
            assert!(!page.contains(way_out), "{way_out}: {page}");
        }
    }

    #[test]
    fn a_page_says_what_a_verdict_means_and_where_it_was_played() {
        let env = json!({
            "program": "exo-load 0.1.0",
            "finished_unix_s": 1_795_374_256,
            "note": "node at 1234567",
            "host": {
                "hostname": "h", "cpu_model": "EPYC", "cores": 2, "memory": "24684084 kB",
                "kernel": "6.18", "architecture": "x",
            },
        });
        for (verdict, meaning) in [
            ("pass", "fast enough"),
            ("fail", "did not carry"),
            ("invalid", "proves nothing"),
            ("worse", "than in the baseline"),
        ] {
            let result = json!({
                "verdict": verdict,
                "run": {"calls": 8_000},
                "failures": {"dropped": {"count": 2_000}},
            });
            let page = page(&run(result, Vec::new()), &env.to_string());
            let host = "Generator on h: EPYC, 2 CPUs, 23.5 GiB, Linux 6.18 x; exo-load 0.1.0, \
                        ended 2026-11-22 19:04 UTC; node at 1234567";
            for part in [
                meaning,
                host,
                "8,000 calls",
                "dropped, 2,000 times",
                "name=\"viewport\"",
                "prefers-color-scheme:dark",
            ] {
                assert!(page.contains(part), "'{part}' is not in: {page}");
            }
        }
        let merged = json!({"verdict": "pass", "merged_from": ["a", "b"]});
        assert!(page(&run(merged, Vec::new()), "").contains("The sum of a and b"));
    }

    #[test]
    fn a_run_without_figures_has_a_page_too() {
        let run = run(json!({"verdict": "fail"}), Vec::new());
        assert!(page(&run, "").contains("FAIL"));
        assert!(super::super::table::table(&run.result).ends_with("FAIL\n"));
    }
}
