//! `report.html`: a run on one page, without anything from elsewhere: styles and pictures are in it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::{Interval, LOGGED, RunDir};
use crate::duration::show;
use crate::stats::Metric;

mod chart;

use chart::{Chart, Series};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222;\
    background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse}td,th{padding:.2em .8em;\
    text-align:right;border-bottom:1px solid #ddd;vertical-align:top}td:first-child,th:first-child{text-align:left}\
    .text td{text-align:left}.pass{color:#176d2c}.fail,.invalid,.worse{color:#b3261e}svg{width:100%;height:auto}\
    pre{white-space:pre-wrap}svg text{font:12px system-ui,sans-serif;fill:#444}svg .grid{stroke:#ddd}";

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

fn write_page(out: &mut String, run: &RunDir, env: &str) -> std::fmt::Result {
    let result = &run.result;
    let verdict = result["verdict"].as_str().unwrap_or("fail");
    let title = format!("exo-load: {} calls, {verdict}", result["run"]["calls"]);
    writeln!(out, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{}</title>", escape(&title))?;
    writeln!(out, "<style>{STYLE}</style>\n<h1>exo-load <span class=\"{verdict}\">{}</span></h1>", verdict.to_uppercase())?;
    writeln!(out, "<p>{}</p>", escape(&summary(result)))?;
    let judged = run.judged();
    writeln!(out, "<h2>Latency by percentile</h2>{}", percentiles(&LOGGED.map(|metric| (metric, judged.latency(metric)))))?;
    writeln!(out, "<h2>ACK latency by second</h2>{}", seconds(&run.intervals))?;
    writeln!(out, "<h2>Latencies</h2>")?;
    write_latencies(out, &result["latency_ns"])?;
    for (name, title) in [("slos", "Objectives"), ("failures", "Failures")] {
        write_section(out, title, &result[name])?;
    }
    for (name, title) in [
        ("counts", "Counts"),
        ("verify", "Journal"),
        ("baseline", "Baseline"),
        ("generator", "Generator"),
        ("server", "Node"),
    ] {
        write_section(out, title, &result[name])?;
    }
    write_section(out, "Run", &result["run"])?;
    if !env.is_empty() {
        writeln!(out, "<h2>Environment</h2><pre>{}</pre>", escape(env))?;
    }
    writeln!(out, "</html>")
}

/// The run in a sentence.
fn summary(result: &Value) -> String {
    let run = &result["run"];
    format!(
        "{} calls, {} bytes every {} ms, {} s after a ramp of {} s, {}",
        run["calls"],
        run["frame_bytes"],
        run["frame_ms"],
        run["duration_s"],
        run["ramp_s"],
        text(&run["url"])
    )
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

fn write_latencies(out: &mut String, latencies: &Value) -> std::fmt::Result {
    const COLUMNS: [&str; 6] = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
    write!(out, "<table><tr><th></th><th>count</th>")?;
    COLUMNS.iter().try_for_each(|name| write!(out, "<th>{name}</th>"))?;
    writeln!(out, "</tr>")?;
    for (name, figures) in latencies.as_object().into_iter().flatten() {
        write!(out, "<tr><td>{}</td><td>{}</td>", escape(name), figures["count"])?;
        COLUMNS.iter().try_for_each(|name| write!(out, "<td>{}</td>", show(figures[*name].as_u64().unwrap_or(0))))?;
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</table>")
}

/// Whatever a result holds under a name, as a table of names and values; nothing where there is nothing.
fn write_section(out: &mut String, title: &str, value: &Value) -> std::fmt::Result {
    if is_empty(value) {
        return Ok(());
    }
    writeln!(out, "<h2>{title}</h2><table class=\"text\">")?;
    let rows: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().map(|item| (text(&item["slo"]), item)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in rows {
        writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(&name.replace('_', " ")), escape(&text(value)))?;
    }
    writeln!(out, "</table>")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Reports hold what a peer has said.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Percentiles over how rare they are: 90 %, 99 %, 99.9 % … lie equally far apart.
fn percentiles(histograms: &[(Metric, &Histogram<u64>)]) -> String {
    let rarity = |quantile: f64| -(1.0 - quantile).log10();
    let series = histograms.iter().filter(|(_, histogram)| !histogram.is_empty()).map(|(metric, histogram)| {
        // The rarest that its count can tell.
        let last = (histogram.len() as f64).log10().clamp(0.5, 6.0);
        let points = (0..=120).map(|step| {
            let x = last * f64::from(step) / 120.0;
            (x, histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64)
        });
        Series { name: metric.name(), points: points.collect() }
    });
    let tick = |(quantile, name): (f64, &str)| (rarity(quantile), name.to_owned());
    let ticks = [
        (0.0, "0"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
    ];
    Chart { series: series.collect(), ticks: ticks.map(tick).to_vec() }.to_svg()
}

fn seconds(intervals: &[Interval]) -> String {
    let acks: Vec<&Interval> = intervals.iter().filter(|interval| interval.metric == Metric::Ack).collect();
    let line = |name, percentile| {
        let point = |interval: &&Interval| (interval.start, interval.histogram.value_at_percentile(percentile) as f64);
        Series { name, points: acks.iter().map(point).collect() }
    };
    let end = acks.iter().map(|interval| interval.start).fold(1.0, f64::max);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0]
        .into_iter()
        .find(|step| end / step <= 12.0)
        .unwrap_or(3_600.0);
    let ticks = (0..=(end / step) as u32).map(|tick| (f64::from(tick) * step, format!("{} s", f64::from(tick) * step)));
    let series = vec![line("max", 100.0), line("p99.9", 99.9), line("p99", 99.0), line("p50", 50.0)];
    Chart { series, ticks: ticks.collect() }.to_svg()
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

    #[test]
    fn a_page_is_whole_and_lets_nothing_in() {
        let result = json!({
            "verdict": "fail",
            "run": {"calls": 3, "ramp_s": 0.0, "duration_s": 3.0, "url": "ws://<b>"},
            "latency_ns": {"ack": {"count": 200, "p50": 1_000_000}},
            "failures": {"closed_4400": {"count": 1, "examples": ["load-1: <script>alert(\"x\")</script>"]}},
        });
        let run = RunDir { path: "x".into(), result, intervals: vec![interval(0.0, 1), interval(1.0, 100)] };
        let page = page(&run, "{\"host\": \"<i>\"}");
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(page.contains("FAIL") && page.contains("1.00 ms") && page.matches("<polyline").count() >= 5, "{page}");
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<script") && !page.contains("<b>") && !page.contains("<i>")
        );
        // Nothing is fetched.
        assert!(!page.contains("href=") && !page.contains("src=") && !page.contains("@import") && !page.contains("url("));
    }

    #[test]
    fn a_run_without_figures_has_a_page_too() {
        let run = RunDir { path: "x".into(), result: json!({"verdict": "fail"}), intervals: Vec::new() };
        assert!(page(&run, "").contains("FAIL"));
        assert!(table(&run.result).ends_with("FAIL\n"));
    }
}
