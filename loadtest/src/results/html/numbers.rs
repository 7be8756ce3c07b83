//! The figures of a run as plain numbers, to paste into a table.

use std::fmt::Write as _;

use serde_json::Value;

use crate::results::number;
use crate::stats::Metric;

/// Figures besides the latencies: name, place in the result, unit.
const FIGURES: [(&str, &str, &str); 9] = [
    ("calls", "/run/calls", ""),
    ("duration", "/run/duration_s", "s"),
    ("frames", "/counts/frames", ""),
    ("bytes", "/counts/bytes", "B"),
    ("acks", "/counts/acks", ""),
    ("frames lost", "/counts/frames_lost", ""),
    ("node CPU", "/server/cpu_percent", "% of a core"),
    ("node CPU a frame", "/server/cpu_ns_per_frame", "ns"),
    ("exo-load CPU", "/generator/cpu_percent", "% of its cores"),
];

/// A line a figure: name, value and unit, with tabs between them. What was not measured is left
/// out.
pub fn numbers(result: &Value) -> String {
    let mut out = String::new();
    if let Some(verdict) = result["verdict"].as_str() {
        // Writing to a string does not fail.
        let _ = writeln!(out, "verdict\t{verdict}\t");
    }
    for (name, pointer, unit) in FIGURES {
        if let Some(value) = number(result, pointer) {
            let _ = writeln!(out, "{name}\t{value}\t{unit}");
        }
    }
    for metric in Metric::ALL {
        let figures = &result["latency_ns"][metric.name()];
        if figures["count"].as_u64().unwrap_or(0) == 0 {
            continue;
        }
        for name in ["p50", "p99", "p99.9", "max"] {
            if let Some(nanos) = figures[name].as_u64() {
                let _ = writeln!(out, "{} {name}\t{:.3}\tms", metric.name(), nanos as f64 / 1e6);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_measured_is_there_with_its_unit() {
        let result = json!({
            "verdict": "pass",
            "run": {"calls": 4_000, "duration_s": 60.0},
            "latency_ns": {"ack": {"count": 9, "p50": 1_234_567}, "setup": {"count": 0, "p50": 0}},
            "server": null,
        });
        assert_eq!(
            numbers(&result),
            "verdict\tpass\t\ncalls\t4000\t\nduration\t60\ts\nack p50\t1.235\tms\n"
        );
    }
}
