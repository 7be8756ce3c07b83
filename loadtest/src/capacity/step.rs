//! One run of a search: what it measured, and what it says about each goal.

use std::time::Duration;

use serde::Serialize;

use super::goal::{Goal, Judgement, Losses, NODE_LIMIT};
use super::node_load::NodeLoad;
use super::search::{Next, Run, Why};
use crate::report::Report;
use crate::results::number;
use crate::results::table::why_invalid;
use crate::stats::Metric;
use crate::verdict::Verdict;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Calls played.
    pub calls: u64,
    /// Why it was played.
    pub why: Why,
    /// How long all calls were up, seconds.
    pub duration_s: f64,
    /// The verdict of the run by itself.
    pub verdict: Verdict,
    /// One for each goal, in their order.
    pub goals: Vec<Judgement>,
    /// Percent of the calls, the frames or the ACKs that were lost, whichever is the worst.
    pub loss_percent: f64,
    /// ACK latency of the steady part at p50, nanoseconds; none without an ACK.
    pub ack_p50_ns: Option<u64>,
    /// The same at p99.
    pub ack_p99_ns: Option<u64>,
    /// The same at p99.9.
    pub ack_p999_ns: Option<u64>,
    /// Nanoseconds; none where no call came up.
    pub setup_p99_ns: Option<u64>,
    /// CPU of the node, percent of a core, with `--server-pid`, `--node` or `--admin`.
    pub server_cpu_percent: Option<f64>,
    /// CPU of the generator, percent of its cores.
    pub generator_cpu_percent: Option<f64>,
    /// Send lag of the generator at p99.9, nanoseconds.
    pub sendlag_p999_ns: Option<u64>,
    /// The node's own limit has refused calls with 503.
    pub is_node_limit: bool,
    /// Free memory of the host at the end of the run, percent, for a node on this machine.
    pub memory_free_percent: Option<f64>,
    /// What the node's metrics say, with `--admin`.
    pub node: Option<NodeLoad>,
    /// Why the generator was not good enough.
    pub ill: Option<String>,
    /// Directory of the run in `--out`.
    pub directory: Option<String>,
}

impl Step {
    /// Makes it from the report of a run.
    pub fn new(
        next: Next,
        duration: Duration,
        calls_in_all: u64,
        report: &Report,
        goals: &[Goal],
        loss_percent: f64,
    ) -> Self {
        let at = |metric, percentile| {
            let histogram = report.judged.latency(metric);
            (!histogram.is_empty()).then(|| histogram.value_at_percentile(percentile))
        };
        let json = &report.json;
        let losses = Losses::new(calls_in_all, report);
        let ill = (report.verdict == Verdict::Invalid).then(|| {
            json["generator"]["ills"][0].as_str().map_or_else(|| why_invalid(json), str::to_owned)
        });
        Self {
            calls: next.calls,
            why: next.why,
            duration_s: duration.as_secs_f64(),
            verdict: report.verdict,
            goals: goals.iter().map(|goal| goal.judge(report, losses, loss_percent)).collect(),
            loss_percent: losses.percent,
            ack_p50_ns: at(Metric::Ack, 50.0),
            ack_p99_ns: at(Metric::Ack, 99.0),
            ack_p999_ns: at(Metric::Ack, 99.9),
            setup_p99_ns: at(Metric::Setup, 99.0),
            server_cpu_percent: number(json, "/server/cpu_percent"),
            generator_cpu_percent: number(json, "/generator/cpu_percent"),
            sendlag_p999_ns: at(Metric::Sendlag, 99.9),
            is_node_limit: report.judged.failures.contains_key(NODE_LIMIT),
            memory_free_percent: None,
            node: None,
            ill,
            directory: None,
        }
    }

    /// How long a run with as many calls must be, so that every percentile has enough samples;
    /// a tenth longer, because samples do not come evenly.
    pub fn seconds_needed(&self) -> f64 {
        let samples = self.goals.iter().filter_map(|goal| goal.samples);
        let share = samples.map(|[samples, least]| least as f64 / samples.max(1) as f64);
        share.fold(0.0, f64::max) * self.duration_s * 1.1
    }

    /// What the search takes of it.
    pub fn run(&self) -> Run {
        Run {
            calls: self.calls,
            states: self.goals.iter().map(|judgement| judgement.state).collect(),
            is_final: self.is_node_limit,
            is_hold: self.why == Why::Hold,
        }
    }
}
