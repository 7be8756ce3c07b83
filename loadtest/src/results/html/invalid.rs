//! What made a run INVALID: each figure with its limit, and the seconds in which it happened.

use serde_json::Value;

use super::chart::Chart;
use super::charts::send_lag;
use crate::duration::show;
use crate::plural::grouped;
use crate::results::{RunDir, has_no_ack_due, number};
use crate::stats::Metric;
use crate::verdict::Verdict;

/// Seconds that are named.
const WORST: usize = 3;

/// The section of the page.
pub struct Invalid {
    /// The figures that a run is judged by.
    pub rows: Vec<Row>,
    /// The seconds with the worst send lag, in words; empty if no frame was late.
    pub worst: String,
    /// The send lag by second.
    pub send_lag: Chart,
}

/// A figure.
pub struct Row {
    /// What was measured.
    pub figure: &'static str,
    /// Its value.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
    /// Whether it made the run invalid.
    pub is_bad: bool,
}

impl Invalid {
    /// None for other verdicts.
    pub fn new(verdict: Verdict, run: &RunDir) -> Option<Self> {
        if verdict != Verdict::Invalid {
            return None;
        }
        let rows = rows(&run.result);
        Some(Self { rows, worst: worst(run), send_lag: send_lag(run) })
    }
}

fn rows(result: &Value) -> Vec<Row> {
    let generator = &result["generator"];
    let ills = generator["ills"].to_string();
    let time = |name: &str| generator[name].as_u64();
    let mut rows = Vec::new();
    if let (Some(late), Some(limit)) = (time("frames_late"), time("sendlag_max_ns")) {
        let frames = result["latency_ns"]["sendlag"]["count"].as_u64().unwrap_or(0);
        let is_short = frames < 1_000;
        rows.push(Row {
            figure: "frames sent late",
            found: format!("{} of {} by more than {}", grouped(late), grouped(frames), show(limit)),
            allowed: if is_short { "half of them" } else { "one in 1,000, or nine" }.to_owned(),
            is_bad: ills.contains("send lag"),
        });
    }
    if let Some(cpu) = generator["cpu_percent"].as_f64() {
        let limit = number(result, "/generator/cpu_percent_max");
        rows.push(Row {
            figure: "exo-load's CPU, of its cores",
            found: format!("{cpu:.0} %"),
            allowed: limit.map_or_else(|| "85 %, unless set".to_owned(), |it| format!("{it:.0} %")),
            is_bad: ills.contains("of its cores"),
        });
    }
    if let Some(due) = result["counts"]["acks_due"].as_u64() {
        rows.push(Row {
            figure: "ACKs that were due",
            found: grouped(due),
            allowed: "one at least".to_owned(),
            is_bad: has_no_ack_due(result),
        });
    }
    rows
}

/// The seconds with the longest send lag above the limit.
fn worst(run: &RunDir) -> String {
    let limit = number(&run.result, "/generator/sendlag_max_ns").unwrap_or(0.0) as u64;
    let lags = run.intervals.iter().filter(|interval| interval.metric == Metric::Sendlag);
    let mut late: Vec<(u64, f64)> = lags
        .map(|interval| (interval.histogram.max(), interval.start))
        .filter(|(lag, _)| *lag > limit)
        .collect();
    late.sort_by_key(|(lag, _)| std::cmp::Reverse(*lag));
    let words = late.iter().take(WORST);
    let words = words.map(|(lag, at)| format!("{} in the second from {at:.0} s", show(*lag)));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use serde_json::json;

    use super::*;
    use crate::results::Interval;

    fn run(result: Value, lags: &[u64]) -> RunDir {
        let interval = |(at, ms): (usize, &u64)| {
            let mut histogram = Histogram::new(3).unwrap();
            histogram.record(ms * 1_000_000).unwrap();
            let (start, metric) = (at as f64, Metric::Sendlag);
            Interval { start, start_unix: start, length: 1.0, metric, histogram }
        };
        let intervals = lags.iter().enumerate().map(interval).collect();
        RunDir { path: "x".into(), result, intervals }
    }

    #[test]
    fn the_figure_that_was_too_large_is_named_with_its_limit() {
        let result = json!({
            "generator": {
                "frames_late": 300, "sendlag_max_ns": 5_000_000, "cpu_percent": 40.0,
                "ills": ["its send lag was above 5.00 ms for 300 of 20,000 frames"],
            },
            "latency_ns": {"sendlag": {"count": 20_000}},
            "counts": {"acks_due": 7},
        });
        let run = run(result, &[1, 48, 2, 9]);
        assert!(Invalid::new(Verdict::Pass, &run).is_none());
        let invalid = Invalid::new(Verdict::Invalid, &run).unwrap();
        let rows: Vec<(&str, bool)> =
            invalid.rows.iter().map(|row| (row.found.as_str(), row.is_bad)).collect();
        assert_eq!(
            rows,
            [("300 of 20,000 by more than 5.00 ms", true), ("40 %", false), ("7", false)]
        );
        let [first, second] = ["48.0 ms in the second from 1 s", "9.00 ms in the second from 3 s"];
        // The histogram has three digits.
        assert!(
            invalid.worst.starts_with(&first[..2]) && invalid.worst.ends_with(&second[8..]),
            "{}",
            invalid.worst
        );
        assert!(invalid.send_lag.to_string().contains("late above 5.00 ms"));
    }

    #[test]
    fn a_run_without_an_ack_due_says_so() {
        let result = json!({"counts": {"acks_due": 0}, "generator": {"ills": []}});
        let invalid = Invalid::new(Verdict::Invalid, &run(result, &[])).unwrap();
        assert!(invalid.rows.len() == 1 && invalid.rows[0].is_bad);
    }
}
