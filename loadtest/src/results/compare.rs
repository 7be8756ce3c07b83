//! One run held against another: which figures are worse, and by how much.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::number;
use crate::duration::show;

/// The figures that are compared, all in nanoseconds, lower is better. CPU only where both runs measured it.
const FIGURES: [(&str, &str); 5] = [
    ("ack p50", "/latency_ns/ack/p50"),
    ("ack p99", "/latency_ns/ack/p99"),
    ("ack p99.9", "/latency_ns/ack/p99.9"),
    ("setup p99", "/latency_ns/setup/p99"),
    ("server CPU a frame", "/server/cpu_ns_per_frame"),
];

/// What has to be alike for a comparison to mean anything.
const CONDITIONS: [(&str, &str); 7] = [
    ("calls", "/run/calls"),
    ("frame bytes", "/run/frame_bytes"),
    ("frame ms", "/run/frame_ms"),
    ("sample rate", "/run/sample_rate"),
    ("ack level", "/run/ack_level"),
    ("reconnect", "/run/reconnect"),
    ("real-time priority", "/run/realtime"),
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
    /// By how much it grew.
    pub change_percent: f64,
    /// By more than the margin.
    pub is_worse: bool,
}

/// A comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Margin, percent.
    pub margin_percent: f64,
    /// The figures that both runs have.
    pub rows: Vec<Row>,
    /// In what the runs are not alike.
    pub differences: Vec<String>,
    /// Any figure is worse.
    pub is_worse: bool,
}

impl Comparison {
    /// Compares two results.
    pub fn new(before: &Value, after: &Value, margin_percent: f64) -> Self {
        let rows: Vec<Row> = FIGURES
            .into_iter()
            .filter_map(|(figure, pointer)| {
                let is_measured = |value: &f64| *value > 0.0;
                let before = number(before, pointer).filter(is_measured)?;
                let after = number(after, pointer).filter(is_measured)?;
                let change_percent = (after / before - 1.0) * 100.0;
                // Without a division: a figure that grew by just the margin is not worse.
                let is_worse = after * 100.0 > before * (100.0 + margin_percent);
                Some(Row { figure, before_ns: before as u64, after_ns: after as u64, change_percent, is_worse })
            })
            .collect();
        let is_worse = rows.iter().any(|row| row.is_worse);
        Self { margin_percent, rows, differences: differences(before, after), is_worse }
    }

    /// As a table.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{:<20}{:>12}{:>12}{:>10}", "", "before", "after", "change")?;
        for row in &self.rows {
            let (before, after) = (show(row.before_ns), show(row.after_ns));
            let worse = if row.is_worse { "  WORSE" } else { "" };
            writeln!(out, "{:<20}{before:>12}{after:>12}{:>+9.1} %{worse}", row.figure, row.change_percent)?;
        }
        for difference in &self.differences {
            writeln!(out, "not alike: {difference}")?;
        }
        Ok(())
    }
}

/// What differs between the conditions of two runs; a person's sentence each.
pub fn differences(before: &Value, after: &Value) -> Vec<String> {
    let differing = CONDITIONS.into_iter().filter_map(|(name, pointer)| {
        let (before, after) = (before.pointer(pointer), after.pointer(pointer));
        let text = |value: Option<&Value>| match value {
            // Results of before there was the flag.
            None if pointer == "/run/realtime" => "false".to_owned(),
            None | Some(Value::Null) => "not said".to_owned(),
            Some(value) => value.to_string(),
        };
        (text(before) != text(after)).then(|| format!("{name}: {} before, {} now", text(before), text(after)))
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
            "latency_ns": {"ack": {"p50": ack, "p99": 2 * ack, "p99.9": 3 * ack}, "setup": {"p99": 1_000}},
            "server": cpu,
        })
    }

    #[test]
    fn a_figure_is_worse_beyond_the_margin_only() {
        let before = result(1_000, json!({"cpu_ns_per_frame": 500}));
        for (ack, cpu, worse) in [(1_000, 500, 0), (1_100, 550, 0), (1_101, 500, 3), (900, 551, 1), (500, 250, 0)] {
            let comparison = Comparison::new(&before, &result(ack, json!({"cpu_ns_per_frame": cpu})), 10.0);
            assert_eq!(comparison.rows.iter().filter(|row| row.is_worse).count(), worse, "{ack} {cpu}");
            assert_eq!((comparison.is_worse, comparison.rows.len()), (worse > 0, 5));
        }
        assert_eq!(Comparison::new(&before, &result(1_000, Value::Null), 10.0).rows.len(), 4, "only what both have");
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
            ["calls: 10 before, 20 now", "ack level: not said before, \"written\" now"]
        );
        let mut realtime = before.clone();
        realtime["run"]["realtime"] = true.into();
        assert_eq!(differences(&before, &realtime), ["real-time priority: false before, true now"]);
    }
}
