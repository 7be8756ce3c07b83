//! `report.html`: a run on one page, without anything from elsewhere: styles and pictures are in it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::{Interval, LOGGED, RunDir, number};
use crate::duration::show;
use crate::report::Verdict;
use crate::stats::Metric;

mod chart;
mod reasons;
mod value;

use chart::{Chart, Series};
use reasons::{items, measured};
use value::{escape, grouped, is_empty, label, shown, text, utc};

const STYLE: &str = include_str!("html/style.css");

/// The sections of names and values, in their order: member of the result, heading, what it is.
const SECTIONS: [(&str, &str, &str); 6] = [
    (
        "server",
        "Node",
        "The node's process over the steady part, all its threads. CPU is of one core: 150 % are one and a half.",
    ),
    (
        "generator",
        "Generator",
        "exo-load itself over the steady part, CPU as a share of its cores. Send lag p99.9 over 5 ms or CPU over 85 % (unless \
         set otherwise) make a run INVALID.",
    ),
    ("counts", "Counts", "Of the whole run. Pushbacks: frames that fell due while TCP still held the one before."),
    ("verify", "Journal", "Every frame that was promised by an ACK or by 'stopped', looked for in the node's journal."),
    ("baseline", "Baseline", ""),
    ("run", "Run", "What was asked for. Steady: begin and end of the part that is judged, since the start."),
];

/// Writes the page of the run in `directory`, from its other files.
pub fn write(directory: &Path) -> Result<(), String> {
    let run = RunDir::read(directory)?;
    let env = fs::read_to_string(directory.join("env.json")).unwrap_or_default();
    let path = directory.join("report.html");
    fs::write(&path, page(&run, &env)).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn page(run: &RunDir, env: &str) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, run, env);
    out
}

fn write_page(out: &mut String, run: &RunDir, env_text: &str) -> std::fmt::Result {
    let result = &run.result;
    // Without it the page still shows what there is.
    let env: Value = serde_json::from_str(env_text).unwrap_or_default();
    write_head(out, result, &env)?;
    let judged = run.judged();
    writeln!(out, "<h2>Latency by percentile</h2>")?;
    explain(
        out,
        "How slow (upwards, logarithmic) how many were: at 99 %, one in a hundred was slower. Each line ends with its slowest.",
    )?;
    writeln!(out, "{}", percentiles(&LOGGED.map(|metric| (metric, judged.latency(metric)))))?;
    writeln!(out, "<h2>ACK latency by second</h2>")?;
    explain(
        out,
        "Of the ACKs that came within each second since the start; latency logarithmic. Only the part after the ramp is judged.",
    )?;
    writeln!(out, "{}", seconds(run))?;
    writeln!(out, "<h2>Latencies</h2>")?;
    explain(
        out,
        "Counted from when a frame was due, whatever the node did before. ACK and send lag: the steady part; others: the whole run.",
    )?;
    write_latencies(out, &result["latency_ns"])?;
    write_objectives(out, &result["slos"])?;
    write_failures(out, &result["failures"])?;
    for (name, title, explanation) in SECTIONS {
        match name {
            "baseline" => write_baseline(out, &result[name])?,
            name => write_section(out, title, explanation, &result[name])?,
        }
    }
    write_environment(out, env_text, &env)?;
    writeln!(out, "</html>")
}

fn write_head(out: &mut String, result: &Value, env: &Value) -> std::fmt::Result {
    let verdict = result["verdict"].as_str().and_then(Verdict::parse).unwrap_or(Verdict::Fail);
    let name = format!("{verdict:?}");
    let title = format!("exo-load: {} calls, {}", result["run"]["calls"], name.to_lowercase());
    writeln!(out, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{}</title>", escape(&title))?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<style>{STYLE}</style>")?;
    writeln!(out, "<h1>exo-load <span class=\"{}\">{}</span></h1>", name.to_lowercase(), name.to_uppercase())?;
    writeln!(out, "<p>{}</p>\n<p>{}</p>", escape(&summary(result)), reasons::meaning(verdict))?;
    let reasons = reasons::reasons(result, env);
    if !reasons.is_empty() {
        let reasons: String = reasons.iter().map(|reason| format!("<li>{}</li>", escape(reason))).collect();
        writeln!(out, "<ul>{reasons}</ul>")?;
    }
    explain(out, &machine(result, env))
}

/// A sentence in the softer colour.
fn explain(out: &mut String, sentence: &str) -> std::fmt::Result {
    if sentence.is_empty() { Ok(()) } else { writeln!(out, "<p class=\"soft\">{}</p>", escape(sentence)) }
}

/// Where, with what and when it was played.
fn machine(result: &Value, env: &Value) -> String {
    let parts: Vec<String> = items(&result["merged_from"]).map(text).collect();
    if !parts.is_empty() {
        return format!("The sum of {}; their own reports say on which machines they ran.", parts.join(" and "));
    }
    let host = &env["host"];
    if !host.is_object() {
        return String::new();
    }
    let kibibytes = host["memory"].as_str().and_then(|memory| memory.split_once(' ')?.0.parse::<f64>().ok());
    let memory = kibibytes.map_or_else(String::new, |memory| format!(", {:.1} GiB", memory / 1_048_576.0));
    let ended = env["finished_unix_s"].as_u64().map_or_else(String::new, |at| format!(", ended {}", utc(at)));
    let note = env["note"].as_str().map_or_else(String::new, |note| format!("; {note}"));
    format!(
        "Generator on {}: {}, {} CPUs{memory}, Linux {} {}; {}{ended}{note}",
        text(&host["hostname"]),
        text(&host["cpu_model"]),
        host["cores"],
        text(&host["kernel"]),
        text(&host["architecture"]),
        text(&env["program"]),
    )
}

/// The run in a sentence.
fn summary(result: &Value) -> String {
    let run = &result["run"];
    let [frame, interval, duration, ramp] =
        ["frame_bytes", "frame_ms", "duration_s", "ramp_s"].map(|name| shown(name, &run[name]));
    let level = run["ack_level"].as_str().map_or_else(String::new, |level| format!(", ACKs of level {level}"));
    let calls = run["calls"].as_u64().map_or_else(|| "–".to_owned(), grouped);
    format!("{calls} calls, {frame} bytes every {interval}, {duration} after a ramp of {ramp}, {}{level}", text(&run["url"]))
}

/// A result as a table on a terminal.
pub fn table(result: &Value) -> String {
    let mut out = format!("{}\n\n{:<10}{:>10}", summary(result), "", "count");
    for name in ["p50", "p99", "p99.9", "max"] {
        let _ = write!(out, "{name:>12}");
    }
    out.push('\n');
    for (name, figures) in result["latency_ns"].as_object().into_iter().flatten() {
        let _ = write!(out, "{name:<10}{:>10}", figures["count"].as_u64().unwrap_or(0));
        for percentile in ["p50", "p99", "p99.9", "max"] {
            let _ = write!(out, "{:>12}", show(figures[percentile].as_u64().unwrap_or(0)));
        }
        out.push('\n');
    }
    for name in ["counts", "slos", "failures", "generator", "server", "verify"] {
        if !is_empty(&result[name]) {
            let _ = writeln!(out, "{name:<10} {}", result[name]);
        }
    }
    let _ = writeln!(out, "\n{}", text(&result["verdict"]).to_uppercase());
    out
}

/// From what to what a latency counts.
fn meaning(metric: Metric) -> &'static str {
    match metric {
        Metric::Setup => "connecting, until the call was started",
        Metric::Connect => "of it: TCP",
        Metric::Upgrade => "of it: HTTP upgrade, with the token",
        Metric::Started => "of it: start to started",
        Metric::Ack => "an ACK's tenth frame was due, until the ACK was read",
        Metric::Sendlag => "a frame was due, until it was sent: the generator's own delay, which the ACK's holds too",
    }
}

fn write_latencies(out: &mut String, latencies: &Value) -> std::fmt::Result {
    const COLUMNS: [&str; 6] = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
    write!(out, "<div class=\"wide\"><table><tr><th></th><th>count</th>")?;
    COLUMNS.iter().try_for_each(|name| write!(out, "<th>{name}</th>"))?;
    writeln!(out, "<th></th></tr>")?;
    for metric in Metric::ALL {
        let figures = &latencies[metric.name()];
        let Some(count) = figures["count"].as_u64() else { continue };
        write!(out, "<tr><td>{}</td><td>{}</td>", metric.name(), grouped(count))?;
        let figure = |name: &str| figures[name].as_u64().filter(|_| count > 0).map_or_else(|| "–".to_owned(), show);
        COLUMNS.iter().try_for_each(|name| write!(out, "<td>{}</td>", figure(name)))?;
        writeln!(out, "<td class=\"soft\">{}</td></tr>", meaning(metric))?;
    }
    writeln!(out, "</table></div>")
}

fn write_objectives(out: &mut String, slos: &Value) -> std::fmt::Result {
    if is_empty(slos) {
        return Ok(());
    }
    writeln!(out, "<h2>Objectives</h2><div class=\"wide\"><table class=\"text\">")?;
    for slo in items(slos) {
        let (class, held) = if slo["held"] == true { ("pass", "held") } else { ("fail", "MISSED") };
        let (bound, figure) = (escape(&text(&slo["slo"])), escape(&measured(slo)));
        writeln!(out, "<tr><td>{bound}</td><td>{figure}</td><td class=\"{class}\">{held}</td></tr>")?;
    }
    writeln!(out, "</table></div>")
}

fn write_failures(out: &mut String, failures: &Value) -> std::fmt::Result {
    if is_empty(failures) {
        return Ok(());
    }
    writeln!(
        out,
        "<h2>Failures</h2><div class=\"wide\"><table class=\"text\"><tr><th>check</th><th>times</th><th>the first of them</th></tr>"
    )?;
    for (name, tally) in failures.as_object().into_iter().flatten() {
        let examples: Vec<String> = items(&tally["examples"]).map(|example| escape(&text(example))).collect();
        let count = escape(&shown("count", &tally["count"]));
        writeln!(out, "<tr><td>{}</td><td>{count}</td><td>{}</td></tr>", escape(name), examples.join("<br>"))?;
    }
    writeln!(out, "</table></div>")
}

fn write_baseline(out: &mut String, baseline: &Value) -> std::fmt::Result {
    if is_empty(baseline) {
        return Ok(());
    }
    writeln!(out, "<h2>Baseline</h2>")?;
    explain(out, &format!("Margin {}.", shown("percent", &baseline["margin_percent"])))?;
    writeln!(out, "<div class=\"wide\"><table><tr><th></th><th>before</th><th>now</th><th>change</th><th></th></tr>")?;
    for row in items(&baseline["rows"]) {
        let [before, after] = ["before_ns", "after_ns"].map(|name| shown(name, &row[name]));
        let change = row["change_percent"].as_f64().unwrap_or_default();
        let worse = if row["is_worse"] == true { "WORSE" } else { "" };
        writeln!(
            out,
            "<tr><td>{}</td><td>{before}</td><td>{after}</td><td>{change:+.1} %</td><td class=\"worse\">{worse}</td></tr>",
            escape(&text(&row["figure"]))
        )?;
    }
    writeln!(out, "</table></div>")
}

/// An object's names and values; nothing where there is nothing.
fn write_section(out: &mut String, title: &str, explanation: &str, value: &Value) -> std::fmt::Result {
    if is_empty(value) {
        return Ok(());
    }
    writeln!(out, "<h2>{title}</h2>")?;
    explain(out, explanation)?;
    writeln!(out, "<table class=\"text\">")?;
    for (name, value) in value.as_object().into_iter().flatten() {
        writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(&label(name)), escape(&shown(name, value)))?;
    }
    writeln!(out, "</table>")
}

fn write_environment(out: &mut String, env_text: &str, env: &Value) -> std::fmt::Result {
    if env_text.is_empty() {
        return Ok(());
    }
    let command: Vec<String> = items(&env["command"]).map(text).collect();
    writeln!(out, "<h2>Command</h2><pre>{}</pre>", escape(&command.join(" ")))?;
    writeln!(out, "<details><summary>env.json</summary><pre>{}</pre></details>", escape(env_text))
}

/// Percentiles over how rare they are: 90 %, 99 %, 99.9 % … lie equally far apart.
fn percentiles(histograms: &[(Metric, &Histogram<u64>)]) -> String {
    let rarity = |quantile: f64| -(1.0 - quantile).log10();
    let series = histograms.iter().filter(|(_, histogram)| !histogram.is_empty()).map(|(metric, histogram)| {
        // The rarest that its count can tell.
        let last = (histogram.len() as f64).log10().clamp(0.5, 6.0);
        let point = |step: u32| {
            let x = last * f64::from(step) / 120.0;
            (x, histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64)
        };
        // The slowest of n has no percentile short of 100: it stands where one in n does.
        let slowest = (last, histogram.max() as f64);
        Series { name: metric.name(), points: (0..120).map(point).chain([slowest]).collect() }
    });
    let tick = |(quantile, name): (f64, &str)| (rarity(quantile), name.to_owned());
    let ticks = [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
    ];
    let title = "Latency by percentile";
    Chart { title, series: series.collect(), ticks: ticks.map(tick).to_vec(), marks: Vec::new() }.to_svg()
}

fn seconds(run: &RunDir) -> String {
    let acks: Vec<&Interval> = run.intervals.iter().filter(|interval| interval.metric == Metric::Ack).collect();
    let line = |name, percentile| {
        let point = |interval: &&Interval| (interval.start, interval.histogram.value_at_percentile(percentile) as f64);
        Series { name, points: acks.iter().map(point).collect() }
    };
    let steady = [("/run/steady_s/0", "ramp ends"), ("/run/steady_s/1", "audio ends")];
    let marks: Vec<(f64, &str)> =
        steady.into_iter().filter_map(|(pointer, what)| Some((number(&run.result, pointer)?, what))).collect();
    let times = acks.iter().map(|interval| interval.start).chain(marks.iter().map(|(at, _)| *at));
    let end = times.fold(1.0, f64::max);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0]
        .into_iter()
        .find(|step| end / step <= 12.0)
        .unwrap_or(3_600.0);
    let ticks = (0..=(end / step) as u32).map(|tick| (f64::from(tick) * step, format!("{} s", f64::from(tick) * step)));
    let series = vec![line("max", 100.0), line("p99.9", 99.9), line("p99", 99.0), line("p50", 50.0)];
    Chart { title: "ACK latency by second", series, ticks: ticks.collect(), marks }.to_svg()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn interval(start: f64, ms: u64) -> Interval {
        let mut histogram = Histogram::new(3).unwrap();
        (1..=100).for_each(|n| histogram.record(n * ms * 10_000).unwrap());
        Interval { start, start_unix: start, length: 1.0, metric: Metric::Ack, histogram }
    }

    fn run(result: Value, intervals: Vec<Interval>) -> RunDir {
        RunDir { path: "x".into(), result, intervals }
    }

    #[test]
    fn a_page_is_whole_and_lets_nothing_in() {
        let result = json!({
            "verdict": "fail",
            "run": {"calls": 3, "ramp_s": 0.0, "duration_s": 3.0, "url": "ws://<b>"},
            "latency_ns": {"ack": {"count": 200, "p50": 1_000_000}},
            "slos": [{"slo": "ack.p99<1ms", "value_ns": 2_000_000, "held": false}],
            "failures": {"closed_4400": {"count": 1, "examples": ["load-1: <script>alert(\"x\")</script>"]}},
            "server": {"cpu_percent": 12.34, "cpu_ns_per_frame": 9_900, "<u>": "<u>"},
            "baseline": {"margin_percent": 10.0, "rows": [{"figure": "<s>", "before_ns": 1, "after_ns": 2, "is_worse": true}]},
            "merged_from": null,
        });
        let run = run(result, vec![interval(0.0, 1), interval(1.0, 100)]);
        let env = "{\"host\": {\"hostname\": \"<i>\"}, \"note\": \"<em>\", \"command\": [\"<tt>\"]}";
        let page = page(&run, env);
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(page.contains("FAIL") && page.contains("1.00 ms") && page.matches("<polyline").count() >= 5, "{page}");
        for tag in ["<script", "<b>", "<i>", "<em>", "<tt>", "<u>", "<s>"] {
            assert!(!page.contains(tag), "{tag}: {page}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("&lt;tt&gt;"));
        // Nothing is fetched, and nothing runs.
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
            "host": {"hostname": "h", "cpu_model": "EPYC", "cores": 2, "memory": "24684084 kB", "kernel": "6.18", "architecture": "x"},
        });
        for (verdict, meaning) in [
            ("pass", "fast enough"),
            ("fail", "did not carry"),
            ("invalid", "prove nothing"),
            ("worse", "than the baseline"),
        ] {
            let result = json!({"verdict": verdict, "run": {"calls": 8_000}, "failures": {"dropped": {"count": 2_000}}});
            let page = page(&run(result, Vec::new()), &env.to_string());
            let host = "Generator on h: EPYC, 2 CPUs, 23.5 GiB, Linux 6.18 x; exo-load 0.1.0, ended 2026-11-22 19:04 UTC; node at 1234567";
            for part in
                [meaning, host, "8,000 calls", "dropped, 2,000 times", "name=\"viewport\"", "prefers-color-scheme:dark"]
            {
                assert!(page.contains(part), "'{part}' is not in: {page}");
            }
        }
        let merged = json!({"verdict": "pass", "merged_from": ["a", "b"]});
        assert!(page(&run(merged, Vec::new()), "").contains("The sum of a and b"));
    }

    #[test]
    fn a_percentile_line_ends_with_the_slowest() {
        let mut histogram = Histogram::new(3).unwrap();
        (0..59).for_each(|_| histogram.record(2_000_000).unwrap());
        histogram.record(900_000_000).unwrap();
        let chart = percentiles(&[(Metric::Ack, &histogram)]);
        let points = chart.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        let heights: Vec<f64> =
            points.split_whitespace().map(|point| point.split_once(',').unwrap().1.parse().unwrap()).collect();
        // SVG counts downwards.
        assert!(heights.last() < heights.first(), "{points}");
    }

    #[test]
    fn seconds_are_marked_where_the_judged_part_begins_and_ends() {
        let result = json!({"run": {"steady_s": [2.0, 9.5]}});
        let chart = seconds(&run(result, vec![interval(1.0, 1)]));
        assert!(chart.contains("ramp ends") && chart.contains("audio ends") && chart.contains(">8 s<"), "{chart}");
        assert!(!seconds(&run(json!({"run": {"steady_s": null}}), vec![interval(1.0, 1)])).contains("ends"));
    }

    #[test]
    fn a_run_without_figures_has_a_page_too() {
        let run = run(json!({"verdict": "fail"}), Vec::new());
        assert!(page(&run, "").contains("FAIL"));
        assert!(table(&run.result).ends_with("FAIL\n"));
    }
}
