//! What a run comes to: verdict, `result.json`, and the table for a person.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::RunArgs;
use crate::duration::show;
use crate::monitor::{Outcome, Sample};
use crate::plan::Plan;
use crate::results::compare::Comparison;
use crate::slo::SloResult;
use crate::stats::{Metric, Stats};
use crate::verify::Verification;

/// Version of `result.json`: raised when a field changes its meaning or goes.
pub const RESULT_VERSION: u32 = 1;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every check and every SLO held.
    Pass,
    /// Something did not.
    Fail,
    /// The generator was the bottleneck: its figures prove nothing.
    Invalid,
    /// Every check held, and a figure is worse than the baseline's.
    Worse,
}

impl Verdict {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 2,
            Self::Invalid => 3,
            Self::Worse => 4,
        }
    }

    /// The greater, the worse: of several runs the worst counts.
    pub fn weight(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Worse => 1,
            Self::Invalid => 2,
            Self::Fail => 3,
        }
    }

    /// Out of a `result.json`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pass" => Some(Self::Pass),
            "fail" => Some(Self::Fail),
            "invalid" => Some(Self::Invalid),
            "worse" => Some(Self::Worse),
            _ => None,
        }
    }

    /// Faults that no slow generator can cause fail a run in any case; all others count only if the generator was well.
    fn of(judged: &Stats, slos: &[SloResult], ill: bool) -> Self {
        let failed = judged.failure_count() > 0 || judged.counts.frames == 0 || slos.iter().any(|slo| !slo.held);
        match (judged.hard_failures > 0, ill, failed) {
            (true, ..) => Self::Fail,
            (false, true, _) => Self::Invalid,
            (false, false, true) => Self::Fail,
            (false, false, false) => Self::Pass,
        }
    }
}

/// A run's result.
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// `result.json`.
    pub json: Value,
    /// What was judged: setup and all counts of the whole run, ack and send lag of its steady part.
    pub judged: Stats,
    /// Ctrl-C ended the run.
    cut: bool,
    slos: Vec<SloResult>,
    generator: Generator,
    server: Option<Server>,
    verification: Option<Verification>,
    comparison: Option<Comparison>,
}

/// The generator's own health over the steady part.
#[derive(Debug, Serialize)]
struct Generator {
    /// CPU time as a share of its cores.
    cpu_percent: Option<f64>,
    cores: usize,
    #[serde(skip)]
    realtime: bool,
    cpu_ns_per_frame: Option<u64>,
    sendlag_p999_ns: u64,
    rss_bytes: Option<u64>,
    /// Why its figures prove nothing; empty if they do.
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
}

impl Report {
    /// Judges a run.
    pub fn new(args: &RunArgs, plan: &Plan, outcome: &Outcome, verification: Option<Verification>) -> Self {
        let mut judged = outcome.whole.clone();
        judged.take_latency(Metric::Ack, &outcome.steady);
        judged.take_latency(Metric::Sendlag, &outcome.steady);
        let slos: Vec<SloResult> = args.slo.iter().map(|slo| slo.check(&judged)).collect();
        let generator = Generator::new(args, plan, outcome);
        let server = Server::new(outcome);
        let is_lost = verification.as_ref().is_some_and(|verification| !verification.holds());
        let verdict = if is_lost { Verdict::Fail } else { Verdict::of(&judged, &slos, !generator.ills.is_empty()) };
        let mut report = Self {
            verdict,
            json: Value::Null,
            judged,
            cut: outcome.cut,
            slos,
            generator,
            server,
            verification,
            comparison: None,
        };
        report.json = report.to_json(args, plan, outcome);
        report
    }

    /// Holds it against an earlier result. Only a run that passes can be worse: of any other the figures do not count.
    pub fn compare(&mut self, baseline: &Value, margin_percent: f64) -> Result<(), serde_json::Error> {
        let comparison = Comparison::new(baseline, &self.json, margin_percent);
        if self.verdict == Verdict::Pass && comparison.is_worse {
            self.verdict = Verdict::Worse;
            self.json["verdict"] = serde_json::to_value(self.verdict)?;
            self.json["exit_code"] = self.verdict.exit_code().into();
        }
        self.json["baseline"] = serde_json::to_value(&comparison)?;
        self.comparison = Some(comparison);
        Ok(())
    }

    fn to_json(&self, args: &RunArgs, plan: &Plan, outcome: &Outcome) -> Value {
        let latencies = |stats: &Stats, metrics: &[Metric]| -> Value {
            metrics.iter().map(|metric| (metric.name().to_owned(), figures(stats.latency(*metric)))).collect()
        };
        json!({
            "schema": {"name": "exo-load/result", "version": RESULT_VERSION},
            "verdict": self.verdict,
            "exit_code": self.verdict.exit_code(),
            "interrupted": outcome.cut,
            "run": {
                "url": args.url,
                "calls": args.calls,
                "ramp_s": plan.schedule.ramp as f64 / 1e9,
                "hang_up_s": plan.schedule.hang_up() as f64 / 1e9,
                "duration_s": args.duration.as_secs_f64(),
                "steady_s": outcome.steady_samples.map(|(begin, end)| [begin.at as f64 / 1e9, end.at as f64 / 1e9]),
                "frame_ms": args.frame_ms,
                "frame_bytes": plan.audio.payload_size(),
                "sample_rate": args.sample_rate,
                "audio": args.audio.to_string(),
                "first_call": args.first_call,
                "interaction_prefix": args.interaction_prefix,
                "ack_level": args.ack_level,
                "reconnect": args.reconnect,
                "end": if plan.stop { "stop" } else { "close" },
                "ack_timeout_s": args.ack_timeout.as_secs_f64(),
                "workers": plan.workers(),
                "realtime": args.realtime,
            },
            "counts": self.judged.counts,
            "calls_up_max": outcome.calls_up_max,
            "latency_ns": latencies(&self.judged, &Metric::ALL),
            "latency_with_ramp_ns": latencies(&outcome.whole, &[Metric::Ack, Metric::Sendlag]),
            "failures": self.judged.failures,
            "slos": self.slos,
            "generator": self.generator,
            "server": self.server,
            "verify": self.verification,
        })
    }

    /// The table.
    pub fn table(&self, args: &RunArgs, plan: &Plan) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_table(&mut text, args, plan);
        text
    }

    fn write_table(&self, out: &mut String, args: &RunArgs, plan: &Plan) -> std::fmt::Result {
        let counts = &self.judged.counts;
        writeln!(
            out,
            "{} calls, {} B every {} ms, {:.0} s after a ramp of {:.1} s, {}\n",
            args.calls,
            plan.audio.payload_size(),
            args.frame_ms,
            args.duration.as_secs_f64(),
            plan.schedule.ramp as f64 / 1e9,
            args.url
        )?;
        writeln!(out, "{:<10}{:>10}{:>12}{:>12}{:>12}{:>12}", "", "count", "p50", "p99", "p99.9", "max")?;
        for metric in Metric::ALL {
            let histogram = self.judged.latency(metric);
            let at = |percentile| show(histogram.value_at_percentile(percentile));
            let (p50, p99, p999, max) = (at(50.0), at(99.0), at(99.9), at(100.0));
            writeln!(out, "{:<10}{:>10}{p50:>12}{p99:>12}{p999:>12}{max:>12}", metric.name(), histogram.len())?;
        }
        writeln!(out, "\nframes     {} ({} bytes), {} acks", counts.frames, counts.bytes, counts.acks)?;
        writeln!(out, "calls      {} completed, {} failed", counts.calls_completed, counts.calls_failed)?;
        if counts.reconnects + counts.frames_lost + counts.pushbacks > 0 {
            let (reconnects, lost, held) = (counts.reconnects, counts.frames_lost, counts.pushbacks);
            writeln!(out, "losses     {reconnects} reconnects, {lost} frames unconfirmed, {held} frames held back by TCP")?;
        }
        self.generator.write(out)?;
        if let Some(server) = &self.server {
            server.write(out)?;
        }
        if let Some(verification) = &self.verification {
            verification.write(out)?;
        }
        for slo in &self.slos {
            let value = slo.value_ns.map_or("not measured".to_owned(), show);
            writeln!(out, "slo        {}: {value}, {}", slo.slo, if slo.held { "held" } else { "MISSED" })?;
        }
        for (name, tally) in &self.judged.failures {
            writeln!(out, "failure    {name}: {}", tally.count)?;
            for example in &tally.examples {
                writeln!(out, "             {example}")?;
            }
        }
        for ill in &self.generator.ills {
            writeln!(out, "generator  {ill}")?;
        }
        if let Some(comparison) = &self.comparison {
            writeln!(out, "\nbaseline, margin {} %", comparison.margin_percent)?;
            comparison.write(out)?;
        }
        if self.cut {
            writeln!(out, "note       interrupted: shorter than asked for")?;
        }
        write!(out, "\n{}", format!("{:?}", self.verdict).to_uppercase())
    }
}

impl Generator {
    fn new(args: &RunArgs, plan: &Plan, outcome: &Outcome) -> Self {
        let cores = plan.workers();
        let frames = outcome.steady.counts.frames;
        let cpu = outcome.steady_samples.map(|(begin, end)| (end.own_cpu - begin.own_cpu, end.at - begin.at));
        let cpu_percent = cpu.map(|(cpu, time)| cpu as f64 * 100.0 / (time as f64 * cores as f64));
        let sendlag_p999_ns = outcome.steady.latency(Metric::Sendlag).value_at_percentile(99.9);
        let mut ills = Vec::new();
        if u128::from(sendlag_p999_ns) > args.sendlag_max.as_nanos() {
            ills.push(format!("its send lag p99.9 is {}, above {:?}", show(sendlag_p999_ns), args.sendlag_max));
        }
        if let Some(percent) = cpu_percent.filter(|percent| *percent > args.cpu_max) {
            ills.push(format!("it used {percent:.0} % of its cores, above {} %", args.cpu_max));
        }
        Self {
            cpu_percent,
            cores,
            realtime: plan.realtime,
            cpu_ns_per_frame: cpu.and_then(|(cpu, _)| cpu.checked_div(frames)),
            sendlag_p999_ns,
            rss_bytes: outcome.steady_samples.map(|(_, end)| end.own_rss),
            ills,
        }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let percent = self.cpu_percent.map_or("–".to_owned(), |percent| format!("{percent:.0} %"));
        let frame = self.cpu_ns_per_frame.map_or("–".to_owned(), |ns| format!("{ns} ns"));
        let rss = self.rss_bytes.map_or("–".to_owned(), mebibytes);
        let realtime = if self.realtime { "; real-time priority" } else { "" };
        writeln!(out, "generator  CPU {percent} of {} core(s), {frame} a frame; {rss} resident{realtime}", self.cores)
    }
}

impl Server {
    fn new(outcome: &Outcome) -> Option<Self> {
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
        })
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let ns = |value: Option<u64>| value.map_or("–".to_owned(), |ns| format!("{ns} ns"));
        writeln!(
            out,
            "server     CPU {:.0} % of a core, {} a frame (user {}, system {}); {} resident, {} before the calls, {} a call",
            self.cpu_percent,
            ns(self.cpu_ns_per_frame),
            ns(self.user_ns_per_frame),
            ns(self.system_ns_per_frame),
            mebibytes(self.rss_bytes),
            mebibytes(self.rss_idle_bytes),
            self.bytes_per_call.map_or("–".to_owned(), |bytes| format!("{bytes} B")),
        )
    }
}

fn time_between(begin: &Sample, end: &Sample) -> f64 {
    end.at.saturating_sub(begin.at).max(1) as f64
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// What `result.json` says of a histogram.
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
    use crate::failure::{Failure, Reason};

    fn stats(reasons: &[Reason]) -> Stats {
        let mut stats = Stats::new();
        stats.counts.frames = 10;
        reasons.iter().for_each(|reason| stats.fail("load-0", &Failure::new(*reason, "")));
        stats
    }

    #[test]
    fn a_sick_generator_excuses_only_what_it_can_cause() {
        let held = |held| [SloResult { slo: "ack.max<1ms".to_owned(), value_ns: Some(1), held }];
        for (reasons, slo_held, ill, verdict) in [
            (&[][..], true, false, Verdict::Pass),
            (&[], false, false, Verdict::Fail),
            (&[], true, true, Verdict::Invalid),
            (&[], false, true, Verdict::Invalid),
            (&[Reason::AckLate], true, false, Verdict::Fail),
            (&[Reason::AckLate], true, true, Verdict::Invalid),
            (&[Reason::AckWrong], true, true, Verdict::Fail),
            (&[Reason::Refused(401)], true, false, Verdict::Fail),
        ] {
            assert_eq!(Verdict::of(&stats(reasons), &held(slo_held), ill), verdict, "{reasons:?} {slo_held} {ill}");
        }
    }

    #[test]
    fn a_run_that_sent_nothing_proves_nothing() {
        assert_eq!(Verdict::of(&Stats::new(), &[], false), Verdict::Fail);
    }
}
