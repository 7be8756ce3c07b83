//! `plan`: how many calls a node carries, and how many boxes a number of calls wants, from runs that measured the node's CPU.
//!
//! A straight line through CPU over calls: a node's work per frame does not depend on how many calls there are until its cores
//! are full. What that leaves out stands beside every answer.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::number;
use crate::report::Verdict;

/// What an answer rests on; printed with it.
const ASSUMPTIONS: [&str; 5] = [
    "CPU time grows with calls in a straight line, as between the runs that were read",
    "another core carries as many calls as one of these did",
    "frames are as large and as frequent as in these runs, at the same ack level",
    "disks and network keep up: see the bytes a second",
    "a box that fails leaves its calls to the others only if there is a spare one",
];

/// An answer.
#[derive(Debug, Clone, Serialize)]
pub struct Sizing {
    /// CPU of a node without calls, percent of a core.
    pub idle_percent: f64,
    /// CPU of one call, percent of a core.
    pub percent_per_call: f64,
    /// Calls of one core at the highest load allowed.
    pub calls_per_core: u64,
    /// Calls of one box.
    pub calls_per_box: u64,
    /// Boxes for the calls asked for.
    pub boxes: Option<u64>,
    /// Audio of a full box, bytes a second: into the network, and onto the disk.
    pub bytes_per_second_per_box: u64,
    /// The runs.
    pub points: Vec<(u64, f64)>,
    /// What it rests on.
    pub assumptions: [&'static str; 5],
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Calls in all.
    pub calls: Option<u64>,
    /// Cores of a box that carry calls.
    pub cores: u64,
    /// Load that a core may have, percent.
    pub cpu_max: f64,
}

/// Answers from results; two or more, of different numbers of calls.
pub fn size(results: &[(String, Value)], question: Question) -> Result<Sizing, String> {
    let mut points: Vec<(u64, f64)> = Vec::new();
    for (name, result) in results {
        let verdict = result["verdict"].as_str().and_then(Verdict::parse);
        if !matches!(verdict, Some(Verdict::Pass | Verdict::Worse)) {
            return Err(format!("plan: the run in {name} did not pass: its figures prove nothing"));
        }
        for condition in ["frame_bytes", "frame_ms", "ack_level"] {
            let (first, this) = (&results[0].1["run"][condition], &result["run"][condition]);
            if first != this {
                return Err(format!(
                    "plan: {name} was another kind of run: {condition} is {this}, and {first} in the first"
                ));
            }
        }
        let calls = result["run"]["calls"].as_u64().unwrap_or(0);
        let cpu = number(result, "/server/cpu_percent")
            .ok_or_else(|| format!("plan: the run in {name} did not measure the node; play it with --server-pid"))?;
        points.push((calls, cpu));
    }
    let (idle_percent, percent_per_call) =
        line_through(&points).ok_or("plan: give two or more runs with different --calls")?;
    if percent_per_call <= 0.0 {
        return Err("plan: in these runs CPU does not grow with calls; give runs that are further apart".to_owned());
    }
    // A hair more, so that a whole number stays one.
    let calls_of = |cores: f64| ((cores * question.cpu_max - idle_percent).max(0.0) / percent_per_call + 1e-6) as u64;
    let (calls_per_core, calls_per_box) = (calls_of(1.0), calls_of(question.cores as f64));
    let run = &results[0].1["run"];
    let frames_per_second = 1_000.0 / number(run, "/frame_ms").unwrap_or(200.0);
    let rate = number(run, "/frame_bytes").unwrap_or(0.0) * frames_per_second;
    Ok(Sizing {
        idle_percent,
        percent_per_call,
        calls_per_core,
        calls_per_box,
        boxes: question.calls.filter(|_| calls_per_box > 0).map(|calls| calls.div_ceil(calls_per_box)),
        bytes_per_second_per_box: (calls_per_box as f64 * rate) as u64,
        points,
        assumptions: ASSUMPTIONS,
    })
}

/// Least squares: the value at zero, and the slope. None through fewer than two different places.
fn line_through(points: &[(u64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| *x as f64).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (*x as f64 - mean_x).powi(2)).sum();
    let slope = points.iter().map(|(x, y)| (*x as f64 - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    (spread > 0.0).then_some((mean_y - slope * mean_x, slope))
}

impl Sizing {
    /// As text.
    pub fn table(&self, question: Question) -> String {
        let mut out = format!("{:>10}{:>12}{:>12}\n", "calls", "node CPU", "by the line");
        let line = |calls: u64| self.idle_percent + self.percent_per_call * calls as f64;
        for (calls, cpu) in &self.points {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{calls:>10}{cpu:>10.1} %{:>10.1} %", line(*calls));
        }
        let Question { cores, cpu_max, .. } = question;
        let _ = writeln!(out, "\na core at {cpu_max} %     {} calls", self.calls_per_core);
        let rate = self.bytes_per_second_per_box as f64 / 1e6;
        let _ = writeln!(out, "a box of {cores} core(s)  {} calls, {rate:.0} MB a second", self.calls_per_box);
        if let (Some(calls), Some(boxes)) = (question.calls, self.boxes) {
            let _ = writeln!(out, "{calls} calls         {boxes} box(es)");
        }
        out.push_str("\nThis assumes that\n");
        for assumption in self.assumptions {
            let _ = writeln!(out, "- {assumption}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(calls: u64, cpu: f64) -> (String, Value) {
        let run = json!({"calls": calls, "frame_bytes": 9_600, "frame_ms": 200, "ack_level": "durable"});
        (format!("run-{calls}"), json!({"verdict": "pass", "run": run, "server": {"cpu_percent": cpu}}))
    }

    const QUESTION: Question = Question { calls: Some(16_000), cores: 4, cpu_max: 70.0 };

    #[test]
    fn a_line_through_the_runs_answers() {
        let sizing = size(&[result(1_000, 12.0), result(2_000, 22.0), result(4_000, 42.0)], QUESTION).unwrap();
        assert!((sizing.idle_percent - 2.0).abs() < 1e-9 && (sizing.percent_per_call - 0.01).abs() < 1e-9, "{sizing:?}");
        assert_eq!((sizing.calls_per_core, sizing.calls_per_box, sizing.boxes), (6_800, 27_800, Some(1)));
        assert_eq!(sizing.bytes_per_second_per_box, 27_800 * 48_000);
        let text = sizing.table(QUESTION);
        assert!(text.contains("27800 calls") && text.contains("straight line"), "{text}");
    }

    #[test]
    fn what_cannot_answer_is_refused() {
        let refused = |results: &[(String, Value)]| size(results, QUESTION).unwrap_err();
        assert!(refused(&[result(1_000, 12.0)]).contains("two or more"));
        assert!(refused(&[result(1_000, 12.0), result(1_000, 13.0)]).contains("two or more"));
        assert!(refused(&[result(1_000, 12.0), result(2_000, 11.0)]).contains("does not grow"));
        let mut other = result(2_000, 22.0);
        other.1["run"]["frame_ms"] = 20.into();
        assert!(refused(&[result(1_000, 12.0), other.clone()]).contains("frame_ms is 20"));
        other = result(2_000, 22.0);
        other.1["verdict"] = "invalid".into();
        assert!(refused(&[result(1_000, 12.0), other.clone()]).contains("did not pass"));
        other = result(2_000, 22.0);
        other.1["server"] = Value::Null;
        assert!(refused(&[result(1_000, 12.0), other]).contains("--server-pid"));
    }
}
