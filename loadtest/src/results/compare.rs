//! Compares two runs: which figures are worse, and by how much.
//!
//! A quantile is judged only if both runs have ten samples beyond it. With fewer, one late ACK of
//! fifty would decide.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::{items, number};
use crate::duration::show;

/// The figures that are compared, in nanoseconds; lower is better. CPU only if both runs measured
/// it.
///
/// Name, its place in a result, the place of its number of samples, and the samples that it needs.
const FIGURES: [(&str, &str, &str, u64); 5] = [
    ("ack p50", "/latency_ns/ack/p50", "/latency_ns/ack/count", 20),
    ("ack p99", "/latency_ns/ack/p99", "/latency_ns/ack/count", 1_000),
    ("ack p99.9", "/latency_ns/ack/p99.9", "/latency_ns/ack/count", 10_000),
    ("setup p99", "/latency_ns/setup/p99", "/latency_ns/setup/count", 1_000),
    // This one is a mean. With this many frames the ticks of the CPU clock do not matter.
    ("server CPU a frame", "/server/cpu_ns_per_frame", "/latency_ns/sendlag/count", 1_000),
];

/// What must be equal in both runs for a comparison to mean anything.
const CONDITIONS: [(&str, &str); 11] = [
    ("calls", "/run/calls"),
    ("frame bytes", "/run/frame_bytes"),
    ("frame ms", "/run/frame_ms"),
    ("sample rate", "/run/sample_rate"),
    ("ack level", "/run/ack_level"),
    ("reconnect", "/run/reconnect"),
    ("real-time priority", "/run/realtime"),
    ("TLS", "/run/tls"),
    ("tickets of TLS", "/run/tls_resume"),
    ("all reconnect at", "/run/reconnect_all_at_s"),
    ("churn", "/run/churn"),
];

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub figure: &'static str,
    /// In the earlier run, nanoseconds.
    pub before_ns: u64,
    /// In the later one.
    pub after_ns: u64,
    /// Growth, percent.
    pub change_percent: f64,
    /// Samples of the run that has fewer.
    pub samples: u64,
    /// Whether there are enough samples to tell worse from chance.
    pub is_judged: bool,
    /// Whether it is judged, and grew by more than the margin.
    pub is_worse: bool,
}

/// A comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Margin, percent.
    pub margin_percent: f64,
    /// The figures that both runs have.
    pub rows: Vec<Row>,
    /// What is not equal in the two runs, a sentence each.
    pub differences: Vec<String>,
    /// Whether any figure is worse.
    pub is_worse: bool,
}

impl Comparison {
    /// Compares two results.
    pub fn new(before: &Value, after: &Value, margin_percent: f64) -> Self {
        let rows: Vec<Row> = FIGURES
            .into_iter()
            .filter_map(|(figure, pointer, count, samples_min)| {
                let count_of = |result: &Value| number(result, count).unwrap_or(0.0) as u64;
                let samples = count_of(before).min(count_of(after));
                let is_judged = samples >= samples_min;
                let is_measured = |value: &f64| *value > 0.0;
                let before = number(before, pointer).filter(is_measured)?;
                let after = number(after, pointer).filter(is_measured)?;
                let change_percent = (after / before - 1.0) * 100.0;
                // No division here: a figure that grew by exactly the margin is not worse.
                let is_worse = is_judged && after * 100.0 > before * (100.0 + margin_percent);
                let (before_ns, after_ns) = (before as u64, after as u64);
                Some(Row {
                    figure,
                    before_ns,
                    after_ns,
                    change_percent,
                    samples,
                    is_judged,
                    is_worse,
                })
            })
            .collect();
        let is_worse = rows.iter().any(|row| row.is_worse);
        Self { margin_percent, rows, differences: differences(before, after), is_worse }
    }
}

/// Writes a comparison, given as JSON, as a table.
pub fn write(out: &mut String, comparison: &Value) -> std::fmt::Result {
    writeln!(out, "{:<20}{:>12}{:>12}{:>10}", "", "before", "after", "change")?;
    let rows = || items(&comparison["rows"]);
    for (figure, ..) in FIGURES {
        let Some(row) = rows().find(|row| row["figure"] == figure) else {
            writeln!(out, "{figure:<20}{:>12}{:>12}{:>10}    not measured in both", "-", "-", "-")?;
            continue;
        };
        let [before, after] =
            ["before_ns", "after_ns"].map(|name| show(row[name].as_u64().unwrap_or(0)));
        let change = row["change_percent"].as_f64().unwrap_or(0.0);
        let line = format!("{figure:<20}{before:>12}{after:>12}{change:>+9.1} %  {}", remark(row));
        writeln!(out, "{}", line.trim_end())?;
    }
    if !rows().any(|row| row["is_judged"] == true) {
        writeln!(out, "nothing is judged: play longer, or more calls")?;
    }
    for difference in items(&comparison["differences"]) {
        writeln!(out, "not alike: {}", difference.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// The remark on a row.
pub fn remark(row: &Value) -> String {
    if row["is_worse"] == true {
        return "WORSE".to_owned();
    }
    // Older results lack this member: there all rows were judged.
    if row["is_judged"] == false {
        format!("not judged: {} samples are too few", row["samples"])
    } else {
        String::new()
    }
}

/// The conditions that differ between two runs, a sentence each.
pub fn differences(before: &Value, after: &Value) -> Vec<String> {
    let differing = CONDITIONS.into_iter().filter_map(|(name, pointer)| {
        let (before, after) = (before.pointer(pointer), after.pointer(pointer));
        let text = |value: Option<&Value>| match value {
            // Older results, without the flag.
            None if ["/run/realtime", "/run/tls", "/run/tls_resume"].contains(&pointer) => {
                "false".to_owned()
            }
            None | Some(Value::Null) => "not given".to_owned(),
            Some(value) => value.to_string(),
        };
        (text(before) != text(after))
            .then(|| format!("{name}: {} before, {} now", text(before), text(after)))
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(ack: u64, cpu: Value) -> Value {
        json!({
            "run": {"calls": 10, "frame_bytes": 9600, "ack_level": null},
            "latency_ns": {
                "ack": {"count": 10_000, "p50": ack, "p99": 2 * ack, "p99.9": 3 * ack},
                "setup": {"count": 1_000, "p99": 1_000},
                "sendlag": {"count": 100_000},
            },
            "server": cpu,
        })
    }

    #[test]
    fn too_few_samples_are_not_judged() {
        let (before, mut after) = (result(1_000, Value::Null), result(2_000, Value::Null));
        let judged = |after: &Value| -> Vec<&'static str> {
            let comparison = Comparison::new(&before, after, 10.0);
            let rows = comparison.rows.into_iter().filter(|row| row.is_worse);
            rows.map(|row| row.figure).collect()
        };
        for (count, worse) in [
            (10_000, &["ack p50", "ack p99", "ack p99.9"][..]),
            (9_999, &["ack p50", "ack p99"]),
            (999, &["ack p50"]),
            (19, &[]),
        ] {
            after["latency_ns"]["ack"]["count"] = count.into();
            assert_eq!(judged(&after), worse, "{count}");
        }
        let mut table = String::new();
        write(&mut table, &serde_json::to_value(Comparison::new(&before, &after, 10.0)).unwrap())
            .unwrap();
        assert!(
            table.contains("19 samples are too few") && table.contains("not measured in both"),
            "{table}"
        );
    }

    #[test]
    fn a_figure_is_worse_beyond_the_margin_only() {
        let before = result(1_000, json!({"cpu_ns_per_frame": 500}));
        for (ack, cpu, worse) in
            [(1_000, 500, 0), (1_100, 550, 0), (1_101, 500, 3), (900, 551, 1), (500, 250, 0)]
        {
            let comparison =
                Comparison::new(&before, &result(ack, json!({"cpu_ns_per_frame": cpu})), 10.0);
            assert_eq!(
                comparison.rows.iter().filter(|row| row.is_worse).count(),
                worse,
                "{ack} {cpu}"
            );
            assert_eq!((comparison.is_worse, comparison.rows.len()), (worse > 0, 5));
        }
        assert_eq!(
            Comparison::new(&before, &result(1_000, Value::Null), 10.0).rows.len(),
            4,
            "only what both have"
        );
    }

    #[test]
    fn other_conditions_are_named() {
        let (before, mut after) = (result(1, Value::Null), result(1, Value::Null));
        assert_eq!(differences(&before, &after), Vec::<String>::new());
        after["run"]["calls"] = 20.into();
        after["run"]["ack_level"] = "written".into();
        after["run"]["realtime"] = false.into();
        assert_eq!(
            differences(&before, &after),
            ["calls: 10 before, 20 now", "ack level: not given before, \"written\" now"]
        );
        let mut realtime = before.clone();
        realtime["run"]["realtime"] = true.into();
        assert_eq!(differences(&before, &realtime), ["real-time priority: false before, true now"]);
    }
}
