//! `abuse.json`, and the table.

#![forbid(unsafe_code)]

use std::fmt::{Result, Write as _};

use serde_json::{Value, json};

use super::endings::{self, Endings};
use super::phases::Phase;
use super::times::Times;
use super::verdict;
use super::watch::Seen;
use crate::cli::AbuseArgs;
use crate::duration::show;
use crate::monitor::Outcome;
use crate::plural::{counted, grouped};
use crate::report::Report;
use crate::verdict::Verdict;

/// Version of `abuse.json`: raised when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// Width of the table's first column.
const LABEL: usize = 18;

/// The result of an attack.
pub struct Findings {
    /// `abuse.json`.
    pub json: Value,
    /// The live calls, judged as `run` does.
    pub live: Report,
    /// All that was measured of the live calls.
    pub outcome: Outcome,
    verdict: Verdict,
}

impl Findings {
    /// Judges an attack.
    pub fn new(
        args: &AbuseArgs,
        times: &Times,
        phases: [Phase; 3],
        endings: &Endings,
        seen: &Seen,
        live: Report,
        outcome: Outcome,
    ) -> Self {
        let checks = verdict::checks(&phases, endings, &args.slo);
        let ills = ills(&live, endings);
        let verdict = verdict::judge(live.verdict, &checks, &ills);
        let parts = times.parts();
        let [before, during, after] = [0, 1, 2].map(|part| phases[part].to_json(parts[part]));
        let json = json!({
            "schema": {"name": "exo-load/abuse", "version": VERSION},
            "verdict": verdict,
            "exit_code": verdict.exit_code_of_run(outcome.cut),
            "interrupted": outcome.cut,
            "kind": args.kind.name(),
            "url": args.play.url,
            "calls_live": args.calls_live,
            "peers": args.peers(),
            "rate": args.rate(),
            "duration_s": args.duration().as_secs_f64(),
            "phases": {"before": before, "during": during, "after": after},
            "endings": endings.to_json(),
            "counters": seen.growth(),
            "checks": checks,
            "ills": ills,
            "live": live.json,
        });
        Self { json, live, outcome, verdict }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.verdict.exit_code_of_run(self.outcome.cut)
    }
}

/// Why the figures say nothing about the node.
fn ills(live: &Report, endings: &Endings) -> Vec<String> {
    let list = live.json["generator"]["ills"].as_array().into_iter().flatten();
    let mut ills: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
    if endings.no_room > 0 {
        let connections = counted(endings.no_room, "connection");
        ills.push(format!(
            "{connections} could not be made: no port or descriptor was left on this machine; give \
             fewer --peers"
        ));
    }
    ills
}

/// The table.
pub fn table(json: &Value) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_table(&mut out, json);
    out
}

fn write_table(out: &mut String, json: &Value) -> Result {
    let number = |key: &str| json[key].as_u64().unwrap_or(0);
    let kind = json["kind"].as_str().unwrap_or_default();
    let (peers, rate) =
        (counted(number("peers"), "peer"), grouped(json["rate"].as_f64().unwrap_or(0.0) as u64));
    let seconds = json["duration_s"].as_f64().unwrap_or(0.0);
    let calls = counted(number("calls_live"), "live call");
    writeln!(
        out,
        "{kind}: {peers}, {rate} connections a second for {seconds} s, beside {calls}\n"
    )?;
    writeln!(out, "{:LABEL$}{:>12}{:>12}{:>12}", "", "before", "during", "after")?;
    for (label, pointer) in [
        ("ack p50", "/ack_ns/p50"),
        ("ack p99", "/ack_ns/p99"),
        ("ack p99.9", "/ack_ns/p99.9"),
        ("ack max", "/ack_ns/max"),
        ("new call p50", "/new_call_setup_ns/p50"),
        ("new call max", "/new_call_setup_ns/max"),
        ("send lag p99.9", "/sendlag_ns/p99.9"),
    ] {
        let count =
            pointer.rsplit_once('/').map_or(String::new(), |(group, _)| format!("{group}/count"));
        row(out, json, label, |phase| {
            let is_measured = phase.pointer(&count).and_then(Value::as_u64) != Some(0);
            phase.pointer(pointer)?.as_u64().filter(|_| is_measured).map(show)
        })?;
    }
    row(out, json, "acks", |phase| phase["ack_ns"]["count"].as_u64().map(grouped))?;
    row(out, json, "failures", |phase| phase["failures"].as_u64().map(grouped))?;
    row(out, json, "new calls failed", |phase| {
        Some(phase["new_calls_failed"].as_array()?.len().to_string())
    })?;
    row(out, json, "node CPU", |phase| {
        Some(format!("{:.0} %", phase["node_cpu_percent"].as_f64()?))
    })?;
    row(out, json, "node RSS", |phase| {
        Some(format!("{:.1} MB", phase["node_rss_bytes"].as_f64()? / 1e6))
    })?;
    write_peers(out, &json["endings"])?;
    write_counters(out, &json["counters"])?;
    writeln!(out)?;
    for check in items(&json["checks"]) {
        let held = if check["held"] == true { "held" } else { "MISSED" };
        writeln!(out, "{held:8}{}", check["what"].as_str().unwrap_or_default())?;
    }
    for (name, tally) in json["live"]["failures"].as_object().into_iter().flatten() {
        writeln!(
            out,
            "failure {name}: {}, {}",
            tally["count"],
            tally["examples"][0].as_str().unwrap_or_default()
        )?;
    }
    for ill in items(&json["ills"]) {
        writeln!(out, "generator: {}", ill.as_str().unwrap_or_default())?;
    }
    writeln!(out, "\n{}", last_line(json))
}

fn row(
    out: &mut String,
    json: &Value,
    label: &str,
    cell: impl Fn(&Value) -> Option<String>,
) -> Result {
    write!(out, "{label:LABEL$}")?;
    for part in ["before", "during", "after"] {
        let text = cell(&json["phases"][part]).unwrap_or_else(|| "-".to_owned());
        write!(out, "{text:>12}")?;
    }
    writeln!(out)
}

fn write_peers(out: &mut String, endings: &Value) -> Result {
    let number = |key: &str| endings[key].as_u64().unwrap_or(0);
    let (connections, megabytes) =
        (counted(number("connections"), "connection"), number("bytes") as f64 / 1e6);
    let expected = endings["expected"].as_str().unwrap_or_default();
    writeln!(out, "\npeers: {connections}, {megabytes:.1} MB sent; expected: {expected}")?;
    for (name, figures) in endings["endings"].as_object().into_iter().flatten() {
        writeln!(out, "  {}", endings::words(name, figures))?;
    }
    for example in items(&endings["examples"]) {
        writeln!(out, "  not as expected: {}", example.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// Writes the node's counters of refusals and endings. All counters are in `abuse.json`.
fn write_counters(out: &mut String, counters: &Value) -> Result {
    const SHOWN: [&str; 5] = [
        "refusals_total",
        "token_failures_total",
        "closes_total",
        "endings_total",
        "connections_shed_total",
    ];
    let is_shown = |name: &str| SHOWN.iter().any(|shown| name.split('{').next() == Some(shown));
    let counters = counters.as_object().into_iter().flatten();
    for (name, value) in counters.filter(|(name, _)| is_shown(name)) {
        writeln!(out, "  node: {name} +{}", value.as_u64().map_or_else(String::new, grouped))?;
    }
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn last_line(json: &Value) -> String {
    let missed = || {
        let missed = items(&json["checks"]).filter(|check| check["held"] == false);
        missed.filter_map(|check| check["what"].as_str()).collect::<Vec<_>>().join("; ")
    };
    let verdict = match json["verdict"].as_str() {
        Some("pass") => "PASS".to_owned(),
        Some("fail") if missed().is_empty() => "FAIL: see the live calls' failures".to_owned(),
        Some("fail") => format!("FAIL: {}", missed()),
        _ => "INVALID: the generator was late, so the figures prove nothing about the node; give \
        it a CPU of its own (--cpus), --realtime, or fewer peers"
            .to_owned(),
    };
    if json["interrupted"] == true { format!("INTERRUPTED, until then {verdict}") } else { verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(verdict: &str) -> Value {
        let phase = json!({
            "ack_ns": {
                "count": 5, "p50": 3_000_000, "p99": 9_000_000, "p99.9": 9_500_000,
                "max": 9_900_000,
            },
            "new_call_setup_ns": {"count": 0, "p50": 0, "max": 0},
            "sendlag_ns": {"count": 5, "p99.9": 100_000},
            "failures": 0, "new_calls_failed": [],
            "node_cpu_percent": null, "node_rss_bytes": 12_300_000,
        });
        json!({
            "verdict": verdict, "interrupted": false, "kind": "pings", "peers": 1, "rate": 50.0,
            "duration_s": 2.0, "calls_live": 20,
            "phases": {"before": phase, "during": phase, "after": phase},
            "endings": {"connections": 1, "bytes": 5, "expected": "Close 1008", "examples": [],
                "endings": {"close_1008": {
                    "count": 1, "after_p50_ns": 2_000_000, "after_max_ns": 2_000_000,
                }}},
            "counters": {"closes_total{reason=\"flood\"}": 1, "frames_total": 7},
            "checks": [
                {"what": "live calls: 1 failure", "held": verdict == "pass", "is_timing": false},
            ],
            "ills": [], "live": {"failures": {}},
        })
    }

    #[test]
    fn the_table_shows_three_parts_and_ends_with_the_verdict() {
        let table = table(&json("pass"));
        assert!(
            table.starts_with(
                "pings: 1 peer, 50 connections a second for 2 s, beside 20 live calls\n"
            ),
            "{table}"
        );
        let line = |label: &str| {
            table.lines().find(|line| line.starts_with(label)).unwrap().split_whitespace().count()
        };
        assert_eq!(line("ack p99 "), 2 + 3 * 2, "{table}");
        assert_eq!(line("new call p50"), 3 + 3, "what was not measured is no zero: {table}");
        assert!(table.contains("  1 close_1008 (p50 2.00 ms, max 2.00 ms)\n"), "{table}");
        assert!(
            table.contains("node: closes_total{reason=\"flood\"} +1\n")
                && !table.contains("frames_total"),
            "{table}"
        );
        assert!(table.ends_with("\nPASS\n"), "{table}");
    }

    #[test]
    fn a_failure_says_what_was_missed() {
        assert!(table(&json("fail")).ends_with("\nFAIL: live calls: 1 failure\n"));
        assert!(table(&json("invalid")).contains("INVALID: the generator was late"));
    }
}
