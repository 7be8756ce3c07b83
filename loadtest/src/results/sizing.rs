//! `plan`: how many calls a box carries, what limits it, and how many boxes a number of calls
//! needs.
//!
//! [`fit`] has the node's CPU by its calls. The disk, the network, the memory and the node's own
//! `--max-calls` may be the limit before, if they are known ([`machine`]). An answer far beyond the
//! largest run is a guess, and says so. What it assumes is printed with every answer.

use serde::Serialize;
use serde_json::Value;

use super::{number, objection};
use crate::erlang;

mod fit;
pub mod machine;
mod table;

use fit::Fit;
use machine::Machine;

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

/// Seconds of audio that the frame rings of a node hold by default, and the share of the memory
/// that they take at most. With more calls the rings bridge a shorter stall.
const RING_SECONDS: f64 = 2.0;
const RING_SHARE: f64 = 0.25;

/// What an answer assumes; printed with it.
const ASSUMPTIONS: [&str; 4] = [
    "CPU time grows with calls in a straight line, as it does between these runs",
    "another core carries as many calls as one of these cores",
    "frames are as large and as frequent as in these runs, at the same ack level",
    "all boxes are alike, and a balancer spreads the calls evenly",
];

/// What limits the calls of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Resource {
    /// The cores, at their highest load.
    #[serde(rename = "cpu")]
    Cpu,
    /// `--disk`.
    #[serde(rename = "disk")]
    Disk,
    /// `--network`.
    #[serde(rename = "network")]
    Network,
    /// `--memory`.
    #[serde(rename = "memory")]
    Memory,
    /// The node's own limit.
    #[serde(rename = "max-calls")]
    MaxCalls,
}

/// Calls that one resource of a box carries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// Which.
    pub resource: Resource,
    /// How many.
    pub calls: u64,
    /// Calls that it carries beyond those of the box.
    pub room_calls: u64,
    /// How much of it the calls of the box take, percent.
    pub used_percent: f64,
}

/// Calls at once that a traffic needs, by Erlang B.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Traffic {
    /// Attempts in the busy hour.
    pub busy_hour_attempts: f64,
    /// Mean length of a call, seconds.
    pub hold_s: f64,
    /// The share of attempts that may find no place.
    pub blocking: f64,
    /// Attempts a second times their length.
    pub erlangs: f64,
    /// The fewest places that are enough.
    pub calls: u64,
}

/// An answer.
#[derive(Debug, Clone, Serialize)]
pub struct Sizing {
    /// CPU of a node without calls, percent of a core.
    pub idle_percent: f64,
    /// CPU of one call, percent of a core.
    pub percent_per_call: f64,
    /// Cores of a box that carry calls.
    pub cores: u64,
    /// Calls of one core at the highest load allowed, and no more than the node takes.
    pub calls_per_core: u64,
    /// Calls of one box: the least of `bounds`.
    pub calls_per_box: u64,
    /// The least and the most, by the spread of the runs; none for a single run.
    pub calls_per_box_range: Option<[u64; 2]>,
    /// What limits it.
    pub limited_by: Resource,
    /// The calls that each known resource carries.
    pub bounds: Vec<Bound>,
    /// The node's `--max-calls`, from the runs or the flag.
    pub max_calls: Option<u64>,
    /// Where the number of calls comes from, if not from `--calls`.
    pub traffic: Option<Traffic>,
    /// Calls on all boxes together.
    pub calls: Option<u64>,
    /// Boxes for these calls.
    pub boxes: Option<u64>,
    /// Boxes for them with one box down.
    pub boxes_with_spare: Option<u64>,
    /// Boxes by the ends of the range: the fewest and the most.
    pub boxes_range: Option<[u64; 2]>,
    /// The largest load measured, calls.
    pub calls_measured_max: u64,
    /// Calls of a box, as a multiple of the largest measured load.
    pub extrapolation_factor: f64,
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
    /// The traffic that `calls` follows from.
    pub traffic: Option<Traffic>,
    /// What a box has.
    pub machine: Machine,
    /// Highest load of a core, percent.
    pub cpu_max: f64,
    /// The node's `--max-calls`; if not given, that of the runs.
    pub max_calls: Option<u64>,
}

impl Traffic {
    /// Counts the calls at once.
    pub fn new(busy_hour_attempts: f64, hold_s: f64, blocking: f64) -> Self {
        let erlangs = busy_hour_attempts * hold_s / 3_600.0;
        let calls = erlang::lines(erlangs, blocking);
        Self { busy_hour_attempts, hold_s, blocking, erlangs, calls }
    }
}

/// Answers from one or more results.
pub fn size(results: &[(String, Value)], question: Question) -> Result<Sizing, String> {
    let points = points(results)?;
    let fit = Fit::new(&points)?;
    let max_calls = question.max_calls.or_else(|| calls_max_of(results));
    let cores = question.machine.cores.unwrap_or(1);
    let percent = cores as f64 * question.cpu_max;
    let mut carried = vec![(Resource::Cpu, fit.calls(percent))];
    carried.extend(others(results, &question.machine, max_calls));
    let least = carried.iter().min_by_key(|(_, calls)| *calls).copied();
    let (limited_by, calls_per_box) = least.ok_or("plan: nothing limits a box")?;
    let others = carried[1..].iter().map(|(_, calls)| *calls).min().unwrap_or(u64::MAX);
    let range = fit.calls_range(percent).map(|ends| ends.map(|calls| calls.min(others)));
    let calls_measured_max = points.iter().map(|(calls, _)| *calls).max().unwrap_or(0);
    let extrapolation_factor = calls_per_box as f64 / calls_measured_max.max(1) as f64;
    let calls = question.calls.or(question.traffic.map(|traffic| traffic.calls));
    let boxes_of =
        |per_box: u64| calls.filter(|_| per_box > 0).map(|calls| calls.div_ceil(per_box));
    let mut sizing = Sizing {
        idle_percent: fit.idle,
        percent_per_call: fit.per_call,
        cores,
        calls_per_core: fit.calls(question.cpu_max).min(max_calls.unwrap_or(u64::MAX)),
        calls_per_box,
        calls_per_box_range: range,
        limited_by,
        bounds: carried.into_iter().map(|it| Bound::new(it, calls_per_box)).collect(),
        max_calls,
        traffic: question.traffic,
        calls,
        boxes: boxes_of(calls_per_box),
        boxes_with_spare: boxes_of(calls_per_box).map(|boxes| boxes + 1),
        boxes_range: range.and_then(|[low, high]| Some([boxes_of(high)?, boxes_of(low)?])),
        calls_measured_max,
        extrapolation_factor,
        is_extrapolated: extrapolation_factor > TRUSTED,
        bytes_per_second_per_box: (calls_per_box as f64 * Rate::of(results).audio) as u64,
        points,
        warnings: Vec::new(),
        assumptions: ASSUMPTIONS,
    };
    sizing.warnings = sizing.warnings(question);
    Ok(sizing)
}

/// What the resources besides the CPU carry, as far as they are known.
fn others(
    results: &[(String, Value)],
    machine: &Machine,
    max_calls: Option<u64>,
) -> impl Iterator<Item = (Resource, u64)> {
    let rate = Rate::of(results);
    let ring = rate.disk * RING_SECONDS;
    let memory = |bytes: f64| {
        let rings = bytes * RING_SHARE / ring;
        rings.min(bytes / (ring + memory_per_call(results)))
    };
    [
        (Resource::Disk, machine.disk.map(|disk| (disk / rate.disk) as u64)),
        (Resource::Network, machine.network.map(|bits| (bits / 8.0 / rate.network) as u64)),
        (Resource::Memory, machine.memory.map(|bytes| memory(bytes) as u64)),
        (Resource::MaxCalls, max_calls),
    ]
    .into_iter()
    .filter_map(|(resource, calls)| Some((resource, calls?)))
}

/// Resident memory of a call besides the ring, bytes: the most that a run measured.
fn memory_per_call(results: &[(String, Value)]) -> f64 {
    let all = results.iter().filter_map(|(_, result)| number(result, "/server/bytes_per_call"));
    all.fold(0.0, f64::max)
}

impl Bound {
    fn new((resource, calls): (Resource, u64), calls_per_box: u64) -> Self {
        let used_percent = calls_per_box as f64 * 100.0 / calls.max(1) as f64;
        Self { resource, calls, room_calls: calls.saturating_sub(calls_per_box), used_percent }
    }
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
    /// That of the first run; all are alike.
    fn of(results: &[(String, Value)]) -> Self {
        let none = Value::Null;
        let run = results.first().map_or(&none, |(_, result)| &result["run"]);
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

#[cfg(test)]
mod tests;
