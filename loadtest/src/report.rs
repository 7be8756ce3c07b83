//! The result of a run: how it is judged, and its `result.json`.

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::RunArgs;
use crate::duration::show;
use crate::monitor::{Outcome, Sample};
use crate::plan::Plan;
use crate::plural::{counted, grouped};
use crate::results::RESULT_VERSION;
use crate::results::compare::Comparison;
use crate::slo::SloResult;
use crate::stats::{Metric, Stats};
use crate::verdict::Verdict;
use crate::verify::Verification;

pub mod storm;
pub mod tls;

/// Fewer late frames than this are accepted, whatever share of the frames they are.
const LATE_MIN: u64 = 10;

/// Below this number of frames there is no p99.9.
const P999_FRAMES_MIN: u64 = 1_000;

/// A run's result.
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// `result.json`.
    pub json: Value,
    /// The judged figures: ack and send lag of the steady part, all others of the whole run.
    pub judged: Stats,
    /// Ctrl-C ended the run.
    cut: bool,
    slos: Vec<SloResult>,
    generator: Generator,
    server: Option<Server>,
    verification: Option<Verification>,
}

/// The generator's own figures over the steady part.
#[derive(Debug, Serialize)]
struct Generator {
    /// CPU time as a share of its cores.
    cpu_percent: Option<f64>,
    /// More than this is too much (`--cpu-max`).
    cpu_percent_max: f64,
    cores: usize,
    cpu_ns_per_frame: Option<u64>,
    sendlag_p999_ns: u64,
    /// A frame with more send lag is late (`--sendlag-max`).
    sendlag_max_ns: u64,
    frames_late: u64,
    rss_bytes: Option<u64>,
    /// Why the figures prove nothing; empty if they do.
    ills: Vec<String>,
}

/// The server's costs over the steady part.
#[derive(Debug, Serialize)]
struct Server {
    cpu_percent: f64,
    cpu_ns_per_frame: Option<u64>,
    user_ns_per_frame: Option<u64>,
    system_ns_per_frame: Option<u64>,
    rss_idle_bytes: u64,
    rss_bytes: u64,
    /// Growth since before the first call, per call that was up.
    bytes_per_call: Option<i64>,
    /// The node's own limit, if it is known.
    calls_max: Option<u64>,
}

impl Report {
    /// Judges a run.
    pub fn new(
        args: &RunArgs,
        plan: &Plan,
        outcome: &Outcome,
        verification: Option<Verification>,
    ) -> Self {
        let mut judged = outcome.whole.clone();
        judged.take_latency(Metric::Ack, &outcome.steady);
        judged.take_latency(Metric::Sendlag, &outcome.steady);
        let slos: Vec<SloResult> = args.slo.iter().map(|slo| slo.check(&judged)).collect();
        let generator = Generator::new(args, plan, outcome);
        let server = Server::new(outcome, plan.server_calls_max);
        let is_lost = verification.as_ref().is_some_and(|verification| !verification.holds());
        let verdict = if is_lost {
            Verdict::Fail
        } else {
            Verdict::of(&judged, &slos, !generator.ills.is_empty())
        };
        let mut report = Self {
            verdict,
            json: Value::Null,
            judged,
            cut: outcome.cut,
            slos,
            generator,
            server,
            verification,
        };
        report.json = report.to_json(args, plan, outcome);
        report
    }

    /// Compares it with an earlier result. Only a run that passes can be worse: the figures of
    /// others do not count.
    pub fn compare(
        &mut self,
        baseline: &Value,
        margin_percent: f64,
    ) -> Result<(), serde_json::Error> {
        let comparison = Comparison::new(baseline, &self.json, margin_percent);
        if self.verdict == Verdict::Pass && comparison.is_worse {
            self.verdict = Verdict::Worse;
            self.json["verdict"] = serde_json::to_value(self.verdict)?;
            self.json["exit_code"] = self.exit_code().into();
        }
        self.json["baseline"] = serde_json::to_value(&comparison)?;
        Ok(())
    }

    /// The exit code of the run.
    pub fn exit_code(&self) -> u8 {
        self.verdict.exit_code_of_run(self.cut)
    }

    fn to_json(&self, args: &RunArgs, plan: &Plan, outcome: &Outcome) -> Value {
        let latencies = |stats: &Stats, metrics: &[Metric]| -> Value {
            let is_there =
                |metric: &&Metric| metric.is_common() || !stats.latency(**metric).is_empty();
            let figures =
                |metric: &Metric| (metric.name().to_owned(), figures(stats.latency(*metric)));
            metrics.iter().filter(is_there).map(figures).collect()
        };
        let storm = plan.storm.as_ref().map(|storm| storm.plan);
        let steady_s = outcome
            .steady_samples
            .map(|(begin, end)| [begin, end].map(|sample| sample.at as f64 / 1e9));
        let node_tls = outcome.node_tls.as_ref();
        json!({
            "schema": {"name": "exo-load/result", "version": RESULT_VERSION},
            "verdict": self.verdict,
            "exit_code": self.exit_code(),
            "interrupted": outcome.cut,
            "run": {
                "url": args.play.url,
                "calls": args.calls,
                "ramp_s": plan.schedule.ramp as f64 / 1e9,
                "hang_up_s": plan.schedule.hang_up() as f64 / 1e9,
                "duration_s": args.duration.as_secs_f64(),
                "steady_s": steady_s,
                "frame_ms": args.play.frame_ms,
                "frame_bytes": plan.audio.payload_size(),
                "sample_rate": args.sample_rate,
                "audio": args.audio.to_string(),
                "first_call": args.first_call,
                "interaction_prefix": args.interaction_prefix,
                "ack_level": args.ack_level,
                "reconnect": args.reconnect,
                "tls": plan.tls.is_some(),
                "tls_resume": args.tls.tls_resume,
                "reconnect_all_at_s": storm.map(|storm| storm.at as f64 / 1e9),
                "reconnect_share": storm.map(|storm| storm.share),
                "churn": args.storm.churn,
                "end": if plan.stop { "stop" } else { "close" },
                "ack_timeout_s": args.ack_timeout.as_secs_f64(),
                "workers": plan.workers(),
                "realtime": args.play.realtime,
            },
            "counts": self.judged.counts,
            "calls_up_max": outcome.calls_up_max,
            "latency_ns": latencies(&self.judged, &Metric::ALL),
            "latency_with_ramp_ns": latencies(&outcome.whole, &[Metric::Ack, Metric::Sendlag]),
            "failures": self.judged.failures,
            "slos": self.slos,
            "generator": self.generator,
            "server": self.server,
            "tls": tls::section(plan.tls.as_deref(), &self.judged.handshakes, node_tls),
            "storm": storm::section(plan, outcome),
            "churn": storm::churn(plan),
            "verify": self.verification,
        })
    }
}

impl Generator {
    fn new(args: &RunArgs, plan: &Plan, outcome: &Outcome) -> Self {
        let cores = plan.workers();
        let frames = outcome.steady.counts.frames;
        let cpu = outcome
            .steady_samples
            .map(|(begin, end)| (end.own_cpu - begin.own_cpu, end.at - begin.at));
        let cpu_percent = cpu.map(|(cpu, time)| cpu as f64 * 100.0 / (time as f64 * cores as f64));
        let sendlag = outcome.steady.latency(Metric::Sendlag);
        let sendlag_max_ns = u64::try_from(args.play.sendlag_max.as_nanos()).unwrap_or(u64::MAX);
        let frames_late = sendlag.len() - sendlag.count_between(0, sendlag_max_ns);
        let sendlag_p999_ns = sendlag.value_at_percentile(99.9);
        let mut ills = Vec::new();
        if is_late(frames_late, sendlag.len()) {
            let (late, max, p999) =
                (grouped(frames_late), show(sendlag_max_ns), show(sendlag_p999_ns));
            let frames = counted(sendlag.len(), "frame");
            ills.push(format!(
                "its send lag was above {max} for {late} of {frames}; p99.9 was {p999}"
            ));
        }
        if let Some(percent) = cpu_percent.filter(|percent| *percent > args.cpu_max) {
            ills.push(format!("it used {percent:.0} % of its cores, above {} %", args.cpu_max));
        }
        Self {
            cpu_percent,
            cpu_percent_max: args.cpu_max,
            cores,
            cpu_ns_per_frame: cpu.and_then(|(cpu, _)| cpu.checked_div(frames)),
            sendlag_p999_ns,
            sendlag_max_ns,
            frames_late,
            rss_bytes: outcome.steady_samples.map(|(_, end)| end.own_rss),
            ills,
        }
    }
}

/// Whether this many late frames mean that the generator was too slow.
///
/// With many frames that is a p99.9 above the bound. But one late frame of fifty is something that
/// happens on every machine. So at least ten must be late. With too few frames for a p99.9, more
/// than half of them must be.
fn is_late(late: u64, frames: u64) -> bool {
    let is_share = if frames < P999_FRAMES_MIN { late * 2 > frames } else { late * 1_000 > frames };
    late >= LATE_MIN && is_share
}

impl Server {
    fn new(outcome: &Outcome, calls_max: Option<u64>) -> Option<Self> {
        let (begin, end) = outcome.steady_samples?;
        let (idle, first, last) = (outcome.server_idle?, begin.server?, end.server?);
        let frames = outcome.steady.counts.frames;
        let user = last.user_ns.saturating_sub(first.user_ns);
        let system = last.system_ns.saturating_sub(first.system_ns);
        let growth = last.rss as i64 - idle.rss as i64;
        Some(Self {
            cpu_percent: (user + system) as f64 * 100.0 / time_between(&begin, &end),
            cpu_ns_per_frame: (user + system).checked_div(frames),
            user_ns_per_frame: user.checked_div(frames),
            system_ns_per_frame: system.checked_div(frames),
            rss_idle_bytes: idle.rss,
            rss_bytes: last.rss,
            bytes_per_call: growth.checked_div(outcome.calls_up_max),
            calls_max,
        })
    }
}

fn time_between(begin: &Sample, end: &Sample) -> f64 {
    end.at.saturating_sub(begin.at).max(1) as f64
}

/// A text as it is, anything else as JSON, null as a dash.
pub fn text_of(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { crate::results::text(value) }
}

/// The figures of a histogram, for `result.json`.
pub fn figures(histogram: &Histogram<u64>) -> Value {
    let at = |percentile| histogram.value_at_percentile(percentile);
    json!({
        "count": histogram.len(),
        "mean": histogram.mean() as u64,
        "p50": at(50.0),
        "p90": at(90.0),
        "p99": at(99.0),
        "p99.9": at(99.9),
        "p99.99": at(99.99),
        "max": at(100.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_late_frames_are_accepted() {
        for (late, frames, expected) in [
            (0, 0, false),
            (1, 50, false),
            (9, 9, false),
            (25, 50, false),
            (26, 50, true),
            (300, 999, false),
            (9, 1_000, false),
            (10, 1_000, true),
            (10, 10_000, false),
            (11, 10_000, true),
        ] {
            assert_eq!(is_late(late, frames), expected, "{late} of {frames}");
        }
    }
}
