//! `plan`: how many calls a box carries, what limits it, and how many boxes a number of calls
//! needs.
//!
//! It fits a straight line to CPU over calls: until its cores are full, a node's work for a frame
//! does not depend on the number of calls. The disk, the network and the node's own `--max-calls`
//! may be the limit before, if they are known. An answer far beyond the largest run is a guess, and
//! says so. What the line assumes is printed with every answer.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::{number, objection};
use crate::plural::{counted, grouped};

/// An answer up to this many times the largest measured load is trusted.
const TRUSTED: f64 = 2.0;

/// Bytes that the journal writes with the audio of a frame: the header of its record.
const RECORD_HEAD: f64 = 64.0;

/// Audio bytes of a full TCP segment, and the bytes that Ethernet, IP and TCP add to each: headers,
/// checksum, preamble and gap.
const SEGMENT_SIZE: f64 = 1_448.0;
const SEGMENT_HEAD: f64 = 90.0;

/// Bytes of the header of a WebSocket frame, masked and of medium length.
const WS_HEAD: f64 = 8.0;

/// What an answer assumes; printed with it.
const ASSUMPTIONS: [&str; 4] = [
    "CPU time grows with calls in a straight line, as it does between these runs",
    "another core carries as many calls as one of these cores",
    "frames are as large and as frequent as in these runs, at the same ack level",
    "if a box fails, the others can take its calls only if there is a spare box",
];

/// What limits the calls of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Resource {
    /// The cores, at their highest load.
    #[serde(rename = "cpu")]
    Cpu,
    /// `--disk-mb-s`.
    #[serde(rename = "disk")]
    Disk,
    /// `--network-gbit-s`.
    #[serde(rename = "network")]
    Network,
    /// The node's own limit.
    #[serde(rename = "max-calls")]
    MaxCalls,
}

/// Calls that one resource of a box carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// Which.
    pub resource: Resource,
    /// How many.
    pub calls: u64,
}

/// An answer.
#[derive(Debug, Clone, Serialize)]
pub struct Sizing {
    /// CPU of a node without calls, percent of a core.
    pub idle_percent: f64,
    /// CPU of one call, percent of a core.
    pub percent_per_call: f64,
    /// Calls of one core at the highest load allowed, and no more than the node takes.
    pub calls_per_core: u64,
    /// Calls of one box: the least of `bounds`.
    pub calls_per_box: u64,
    /// What limits it.
    pub bound_by: Resource,
    /// The calls that each known resource carries.
    pub bounds: Vec<Bound>,
    /// The node's `--max-calls`, from the runs or the flag.
    pub max_calls: Option<u64>,
    /// Boxes for the calls asked for.
    pub boxes: Option<u64>,
    /// The largest load measured, calls.
    pub calls_measured_max: u64,
    /// Calls of a box, as a multiple of the largest measured load.
    pub extrapolation: f64,
    /// Whether that is more than twice.
    pub is_extrapolated: bool,
    /// Audio of a full box, bytes a second: into the network, and onto the disk.
    pub bytes_per_second_per_box: u64,
    /// The runs.
    pub points: Vec<(u64, f64)>,
    /// Warnings about the answer.
    pub warnings: Vec<String>,
    /// What it assumes.
    pub assumptions: [&'static str; 4],
}

/// The question.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Calls on all boxes together.
    pub calls: Option<u64>,
    /// Cores of a box that carry calls.
    pub cores: u64,
    /// Highest load of a core, percent.
    pub cpu_max: f64,
    /// The node's `--max-calls`; if not given, that of the runs.
    pub max_calls: Option<u64>,
    /// What a box's disk writes, MB a second.
    pub disk_mb_s: Option<f64>,
    /// What a box's network receives, Gbit a second.
    pub network_gbit_s: Option<f64>,
}

/// Answers from two or more results with different numbers of calls.
pub fn size(results: &[(String, Value)], question: Question) -> Result<Sizing, String> {
    let points = points(results)?;
    let (idle_percent, percent_per_call) =
        line_through(&points).ok_or("plan: give two or more runs with different --calls")?;
    if percent_per_call <= 0.0 {
        return Err(
            "plan: in these runs CPU does not grow with calls; give runs that are further apart"
                .to_owned(),
        );
    }
    // A little more, so that rounding down keeps a whole number.
    let calls_of = |cores: f64| {
        ((cores * question.cpu_max - idle_percent).max(0.0) / percent_per_call + 1e-6) as u64
    };
    let max_calls = question.max_calls.or_else(|| calls_max_of(results));
    let rate = Rate::of(&results[0].1["run"]);
    let bounds: Vec<Bound> = [
        (Resource::Cpu, Some(calls_of(question.cores as f64))),
        (Resource::Disk, question.disk_mb_s.map(|mb| (mb * 1e6 / rate.disk) as u64)),
        (
            Resource::Network,
            question.network_gbit_s.map(|gbit| (gbit * 1e9 / 8.0 / rate.network) as u64),
        ),
        (Resource::MaxCalls, max_calls),
    ]
    .into_iter()
    .filter_map(|(resource, calls)| Some(Bound { resource, calls: calls? }))
    .collect();
    let Some(Bound { resource: bound_by, calls: calls_per_box }) =
        bounds.iter().min_by_key(|bound| bound.calls).copied()
    else {
        return Err("plan: nothing limits a box".to_owned());
    };
    let calls_measured_max = points.iter().map(|(calls, _)| *calls).max().unwrap_or(0);
    let extrapolation = calls_per_box as f64 / calls_measured_max.max(1) as f64;
    let mut sizing = Sizing {
        idle_percent,
        percent_per_call,
        calls_per_core: calls_of(1.0).min(max_calls.unwrap_or(u64::MAX)),
        calls_per_box,
        bound_by,
        bounds,
        max_calls,
        boxes: question
            .calls
            .filter(|_| calls_per_box > 0)
            .map(|calls| calls.div_ceil(calls_per_box)),
        calls_measured_max,
        extrapolation,
        is_extrapolated: extrapolation > TRUSTED,
        bytes_per_second_per_box: (calls_per_box as f64 * rate.audio) as u64,
        points,
        warnings: Vec::new(),
        assumptions: ASSUMPTIONS,
    };
    sizing.warnings = sizing.warnings(question);
    Ok(sizing)
}

/// Calls and CPU of each run. Refuses runs that cannot be used.
fn points(results: &[(String, Value)]) -> Result<Vec<(u64, f64)>, String> {
    let mut points = Vec::new();
    for (name, result) in results {
        if let Some(objection) = objection(result) {
            return Err(format!("plan: the run in {name} {objection}"));
        }
        for condition in ["frame_bytes", "frame_ms", "ack_level"] {
            let (first, this) = (&results[0].1["run"][condition], &result["run"][condition]);
            if first != this {
                return Err(format!(
                    "plan: {name} is another kind of run: {condition} is {this}, and {first} in \
                     the first run"
                ));
            }
        }
        let calls = result["run"]["calls"].as_u64().unwrap_or(0);
        let cpu = number(result, "/server/cpu_percent").ok_or_else(|| {
            format!("plan: the run in {name} did not measure the node; play it with --server-pid")
        })?;
        points.push((calls, cpu));
    }
    Ok(points)
}

/// The lowest `--max-calls` of the runs.
fn calls_max_of(results: &[(String, Value)]) -> Option<u64> {
    results.iter().filter_map(|(_, result)| result["server"]["calls_max"].as_u64()).min()
}

/// What a call needs, bytes a second.
struct Rate {
    audio: f64,
    /// With the headers of records.
    disk: f64,
    /// With all headers down to Ethernet's.
    network: f64,
}

impl Rate {
    fn of(run: &Value) -> Self {
        let frames_per_second = 1_000.0 / number(run, "/frame_ms").unwrap_or(200.0);
        let frame = number(run, "/frame_bytes").unwrap_or(0.0).max(1.0);
        let wire = frame + WS_HEAD;
        Self {
            audio: frame * frames_per_second,
            disk: (frame + RECORD_HEAD) * frames_per_second,
            network: (wire + (wire / SEGMENT_SIZE).ceil() * SEGMENT_HEAD) * frames_per_second,
        }
    }
}

/// Least squares: the value at zero, and the slope. None if all points have the same x.
fn line_through(points: &[(u64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| *x as f64).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (*x as f64 - mean_x).powi(2)).sum();
    let slope =
        points.iter().map(|(x, y)| (*x as f64 - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    (spread > 0.0).then_some((mean_y - slope * mean_x, slope))
}

impl Resource {
    fn words(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Disk => "the disk",
            Self::Network => "the network",
            Self::MaxCalls => "the node's --max-calls",
        }
    }
}

impl Sizing {
    fn warnings(&self, question: Question) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.is_extrapolated {
            warnings.push(format!(
                "EXTRAPOLATED: {} a box is {:.1} times the largest load measured ({}); play a run \
                 of at least {} to know",
                counted(self.calls_per_box, "call"),
                self.extrapolation,
                counted(self.calls_measured_max, "call"),
                counted((self.calls_per_box as f64 / TRUSTED).ceil() as u64, "call"),
            ));
        }
        let unknown: Vec<&str> = [
            (self.max_calls.is_none(), "--max-calls (or play the runs with --admin)"),
            (question.disk_mb_s.is_none(), "--disk-mb-s"),
            (question.network_gbit_s.is_none(), "--network-gbit-s"),
        ]
        .into_iter()
        .filter_map(|(is_unknown, flag)| is_unknown.then_some(flag))
        .collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            warnings.push(format!("not taken into account, because not given: {unknown}"));
        }
        if self.calls_per_box == 0 {
            warnings.push(format!(
                "a box carries no call: {} is not enough for one",
                self.bound_by.words()
            ));
        }
        warnings
    }

    /// As text.
    pub fn table(&self, question: Question) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_table(&mut out, question);
        out
    }

    fn write_table(&self, out: &mut String, question: Question) -> std::fmt::Result {
        writeln!(out, "{:>10}{:>12}{:>12}", "calls", "node CPU", "by the line")?;
        let line = |calls: u64| self.idle_percent + self.percent_per_call * calls as f64;
        for (calls, cpu) in &self.points {
            writeln!(out, "{:>10}{cpu:>10.1} %{:>10.1} %", grouped(*calls), line(*calls))?;
        }
        let Question { cores, cpu_max, .. } = question;
        let extrapolated = if self.is_extrapolated { "  EXTRAPOLATED" } else { "" };
        let is_far = self.calls_per_core as f64 > TRUSTED * self.calls_measured_max as f64;
        let far = if is_far { "  EXTRAPOLATED" } else { "" };
        let row = |left: String, right: String| format!("{left:<32}{right}\n");
        writeln!(out)?;
        out.push_str(&row(
            format!("a core at {cpu_max} %"),
            format!("{}{far}", counted(self.calls_per_core, "call")),
        ));
        for bound in &self.bounds {
            let binds = if bound.resource == self.bound_by { "  <- the limit" } else { "" };
            let left = format!("{} carries", bound.resource.words());
            out.push_str(&row(left, format!("{}{binds}", counted(bound.calls, "call"))));
        }
        let rate = self.bytes_per_second_per_box as f64 / 1e6;
        let calls = counted(self.calls_per_box, "call");
        let bound_by = self.bound_by.words();
        let left = format!("a box of {}", counted(cores, "core"));
        out.push_str(&row(
            left,
            format!("{calls}, {rate:.0} MB a second, limited by {bound_by}{extrapolated}"),
        ));
        if let (Some(calls), Some(boxes)) = (question.calls, self.boxes) {
            out.push_str(&row(
                counted(calls, "call"),
                format!("{}{extrapolated}", counted(boxes, "box")),
            ));
        }
        writeln!(out)?;
        for warning in &self.warnings {
            writeln!(out, "{warning}")?;
        }
        writeln!(out, "\nThis assumes that")?;
        self.assumptions.iter().try_for_each(|assumption| writeln!(out, "- {assumption}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(calls: u64, cpu: f64) -> (String, Value) {
        let run =
            json!({"calls": calls, "frame_bytes": 9_600, "frame_ms": 200, "ack_level": "durable"});
        (
            format!("run-{calls}"),
            json!({"verdict": "pass", "run": run, "server": {"cpu_percent": cpu}}),
        )
    }

    const QUESTION: Question = Question {
        calls: Some(16_000),
        cores: 4,
        cpu_max: 70.0,
        max_calls: None,
        disk_mb_s: None,
        network_gbit_s: None,
    };

    #[test]
    fn a_line_through_the_runs_answers() {
        let sizing =
            size(&[result(1_000, 12.0), result(2_000, 22.0), result(14_000, 142.0)], QUESTION)
                .unwrap();
        assert!(
            (sizing.idle_percent - 2.0).abs() < 1e-9
                && (sizing.percent_per_call - 0.01).abs() < 1e-9,
            "{sizing:?}"
        );
        assert_eq!(
            (sizing.calls_per_core, sizing.calls_per_box, sizing.boxes),
            (6_800, 27_800, Some(1))
        );
        assert_eq!((sizing.bound_by, sizing.is_extrapolated), (Resource::Cpu, false));
        assert_eq!(sizing.bytes_per_second_per_box, 27_800 * 48_000);
        let text = sizing.table(QUESTION);
        assert!(
            text.contains("27,800 calls")
                && text.contains("1 box\n")
                && text.contains("straight line"),
            "{text}"
        );
        assert!(
            !text.contains("EXTRAPOLATED") && text.contains("not given: --max-calls"),
            "{text}"
        );
    }

    #[test]
    fn beyond_twice_the_largest_load_it_is_a_guess() {
        // Runs of 500 and 1,500 calls say nothing reliable about 87,500 calls.
        let question = Question { calls: Some(50_000), cores: 8, ..QUESTION };
        let runs = [result(500, 3.2), result(1_500, 9.6)];
        let sizing = size(&runs, question).unwrap();
        assert!(
            sizing.is_extrapolated && (sizing.extrapolation - 58.33).abs() < 0.01,
            "{sizing:?}"
        );
        let text = sizing.table(question);
        let warning = "EXTRAPOLATED: 87,500 calls a box is 58.3 times the largest load measured \
                       (1,500 calls)";
        assert!(text.contains(warning) && text.contains("1 box  EXTRAPOLATED"), "{text}");
        let json = serde_json::to_value(&sizing).unwrap();
        assert_eq!((&json["is_extrapolated"], &json["bound_by"]), (&true.into(), &"cpu".into()));
        assert!(json["warnings"][0].as_str().unwrap().starts_with("EXTRAPOLATED"), "{json:#}");
        for (calls_max, is_extrapolated) in [(3_000, false), (3_001, true)] {
            let sizing = size(&runs, Question { max_calls: Some(calls_max), ..question }).unwrap();
            assert_eq!(sizing.is_extrapolated, is_extrapolated, "{calls_max}");
        }
    }

    #[test]
    fn the_first_limit_is_named() {
        let mut runs = [result(4_000, 42.0), result(14_000, 142.0)];
        let bound = |runs: &[(String, Value)], question| {
            let sizing = size(runs, question).unwrap();
            assert!(sizing.calls_per_core <= sizing.max_calls.unwrap_or(u64::MAX), "{sizing:?}");
            (sizing.bound_by, sizing.calls_per_box)
        };
        assert_eq!(bound(&runs, QUESTION), (Resource::Cpu, 27_800));
        let disk = Question { disk_mb_s: Some(483.2), ..QUESTION };
        assert_eq!(bound(&runs, disk), (Resource::Disk, 10_000), "48,320 bytes a second and call");
        let network = Question { network_gbit_s: Some(1.0), ..disk };
        assert_eq!(bound(&runs, network), (Resource::Network, 2_441), "7 segments a frame");
        let both = Question { network_gbit_s: Some(10.0), disk_mb_s: Some(2_000.0), ..QUESTION };
        assert_eq!(
            bound(&runs, Question { max_calls: Some(6_000), ..both }),
            (Resource::MaxCalls, 6_000)
        );
        // The runs know the limit of their node. A limit in the question replaces it.
        runs[0].1["server"]["calls_max"] = 5_000.into();
        assert_eq!(bound(&runs, both), (Resource::MaxCalls, 5_000));
        assert_eq!(
            bound(&runs, Question { max_calls: Some(6_000), ..both }),
            (Resource::MaxCalls, 6_000)
        );
        let text = size(&runs, both).unwrap().table(both);
        assert!(
            text.contains("limited by the node's --max-calls") && text.contains("4 boxes"),
            "{text}"
        );
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
        other.1["interrupted"] = true.into();
        assert!(refused(&[result(1_000, 12.0), other.clone()]).contains("was interrupted"));
        other = result(2_000, 22.0);
        other.1["server"] = Value::Null;
        assert!(refused(&[result(1_000, 12.0), other]).contains("--server-pid"));
    }
}
