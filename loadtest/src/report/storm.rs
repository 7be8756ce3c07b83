//! The sections `storm` and `churn` of a result.

use serde_json::{Value, json};

use crate::monitor::{Outcome, StormSample};
use crate::plan::Plan;

/// Null without `--reconnect-all-at`.
pub fn section(plan: &Plan, outcome: &Outcome) -> Value {
    let Some(storm) = &plan.storm else { return Value::Null };
    let asked = storm.plan;
    let summary = storm.summary(plan.schedule.calls);
    let server = server(outcome, summary.calls_back);
    let mut section = json!(summary);
    section["at_s"] = (asked.at as f64 / 1e9).into();
    section["how"] = json!(asked.how);
    section["jitter_s"] = asked.jitter.as_secs_f64().into();
    section["share"] = asked.share.into();
    section["own_cpu_percent"] = own_cpu_percent(outcome, plan.workers()).into();
    section["server"] = server;
    section
}

/// The share of its cores that exo-load used in the storm. Near 100, exo-load was the slower side.
fn own_cpu_percent(outcome: &Outcome, cores: usize) -> Option<f64> {
    let ([_, begin], end) = outcome.storm_samples?;
    let (begin, end) = (begin.sample, end?.sample);
    let time = end.at.saturating_sub(begin.at) as f64 * cores as f64;
    (time > 0.0).then(|| end.own_cpu.saturating_sub(begin.own_cpu) as f64 * 100.0 / time)
}

/// What the storm cost the node until all calls were back: its CPU time, less the cost of the
/// frames (as measured before the storm), divided by the calls that came back.
fn server(outcome: &Outcome, calls_back: u64) -> Value {
    let Some(([calm, begin], Some(end))) = outcome.storm_samples else { return Value::Null };
    let cpu = |from: &StormSample, to: &StormSample| {
        let of = |sample: &StormSample| {
            sample.sample.server.map(|server| server.user_ns + server.system_ns)
        };
        Some(of(to)?.saturating_sub(of(from)?))
    };
    let Some((before, during)) = cpu(&calm, &begin).zip(cpu(&begin, &end)) else {
        return Value::Null;
    };
    let seconds = end.sample.at.saturating_sub(begin.sample.at) as f64 / 1e9;
    let frame_ns = before.checked_div(begin.frames - calm.frames);
    let of_frames = frame_ns.map(|ns| ns * (end.frames - begin.frames));
    let of_calls = of_frames.map(|of_frames| during.saturating_sub(of_frames));
    json!({
        "seconds": seconds,
        "cpu_percent": during as f64 / 1e7 / seconds.max(1e-9),
        "cpu_ns_per_call_back": of_calls.and_then(|of_calls| of_calls.checked_div(calls_back)),
    })
}

/// Null without `--churn`.
pub fn churn(plan: &Plan) -> Value {
    let churn = plan.schedule.churn;
    if churn.calls == 0 {
        return Value::Null;
    }
    json!({"calls_per_s": 1e9 / churn.interval as f64, "calls_replaced": churn.calls})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ServerSample;
    use crate::monitor::Sample;

    #[test]
    fn a_storms_cost_is_what_the_frames_do_not_explain() {
        let sample = |at_s: u64, cpu_ms: u64, frames| {
            let server = Some(ServerSample {
                user_ns: cpu_ms * 400_000,
                system_ns: cpu_ms * 600_000,
                rss: 0,
            });
            StormSample {
                sample: Sample { at: at_s * 1_000_000_000, own_cpu: 0, own_rss: 0, server },
                frames,
            }
        };
        let mut outcome = Outcome::new(None);
        assert_eq!(server(&outcome, 10), Value::Null);
        // 10 µs a frame before it; then 2 s of CPU time, 0.1 s of it for frames.
        outcome.storm_samples = Some((
            [sample(10, 100, 0), sample(20, 1_100, 100_000)],
            Some(sample(24, 3_100, 110_000)),
        ));
        let cost = server(&outcome, 19_000);
        assert_eq!(
            (&cost["cpu_ns_per_call_back"], &cost["cpu_percent"]),
            (&100_000.into(), &50.0.into()),
            "{cost}"
        );
        assert_eq!(server(&outcome, 0)["cpu_ns_per_call_back"], Value::Null);
    }
}
