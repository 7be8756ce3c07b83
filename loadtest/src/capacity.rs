//! `capacity`: the largest number of calls that a node carries within the objectives, found by playing.
//!
//! Doubles the number of calls until a run fails, then halves the distance between the most that passed and the fewest that
//! failed. A run that fails is played once more: a single stumble of a busy machine is no limit. Where the generator is the
//! bottleneck nothing is concluded.

use std::fmt::Write as _;

use serde::Serialize;

use crate::duration::show;
use crate::report::{Report, Verdict};
use crate::stats::Metric;

/// Times a number of calls is played before it counts as too much.
const ATTEMPTS: u32 = 2;

/// What to play next.
#[derive(Debug, Clone, Serialize)]
pub struct Search {
    /// The most calls that passed; 0 if none did yet.
    pub passed: u64,
    /// The fewest that failed.
    pub failed: Option<u64>,
    first: u64,
    max: u64,
    resolution_percent: f64,
}

impl Search {
    /// Begins at `first` calls, tries no more than `max`, and is done when it knows the answer to `resolution_percent`.
    pub fn new(first: u64, max: u64, resolution_percent: f64) -> Self {
        Self { passed: 0, failed: None, first: first.clamp(1, max), max, resolution_percent }
    }

    /// The next number of calls; none once the answer is known.
    pub fn poll_calls(&self) -> Option<u64> {
        let Some(failed) = self.failed else {
            let next = if self.passed == 0 { self.first } else { self.passed.saturating_mul(2).min(self.max) };
            return (next > self.passed).then_some(next);
        };
        let distance = failed - self.passed;
        let is_near = distance as f64 <= self.passed as f64 * self.resolution_percent / 100.0;
        (distance > 1 && !is_near).then_some(self.passed + distance / 2)
    }

    /// Takes what became of it.
    pub fn handle_outcome(&mut self, calls: u64, passed: bool) {
        if passed {
            self.passed = self.passed.max(calls);
        } else {
            self.failed = Some(self.failed.map_or(calls, |failed| failed.min(calls)));
        }
    }
}

/// One run of the search.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Calls played.
    pub calls: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// Of the steady part, nanoseconds.
    pub ack_p50_ns: u64,
    /// Likewise.
    pub ack_p999_ns: u64,
    /// Nanoseconds.
    pub setup_p99_ns: u64,
    /// Of a core, where `--server-pid` is given.
    pub server_cpu_percent: Option<f64>,
    /// Of its cores.
    pub generator_cpu_percent: Option<f64>,
    /// The first objective that was missed, or the first failure; or why the run is invalid.
    pub reason: Option<String>,
}

impl Step {
    /// Out of a run's report.
    pub fn new(calls: u64, report: &Report) -> Self {
        let at = |metric, percentile| report.judged.latency(metric).value_at_percentile(percentile);
        let json = &report.json;
        let number = |pointer| crate::results::number(json, pointer);
        let failure = json["failures"].as_object().and_then(|all| all.keys().next().cloned());
        let missed = json["slos"].as_array().and_then(|slos| slos.iter().find(|slo| slo["held"] == false));
        let missed = missed.and_then(|slo| Some(format!("missed {}", slo["slo"].as_str()?)));
        let ill = json["generator"]["ills"][0].as_str().map(|ill| format!("generator: {ill}"));
        let lost =
            json["verify"]["faults"].as_object().and_then(|all| all.keys().next()).map(|kind| format!("journal: {kind}"));
        let reason = match report.verdict {
            Verdict::Pass | Verdict::Worse => None,
            Verdict::Invalid => ill,
            Verdict::Fail => failure.or(missed).or(lost),
        };
        Self {
            calls,
            verdict: report.verdict,
            ack_p50_ns: at(Metric::Ack, 50.0),
            ack_p999_ns: at(Metric::Ack, 99.9),
            setup_p99_ns: at(Metric::Setup, 99.0),
            server_cpu_percent: number("/server/cpu_percent"),
            generator_cpu_percent: number("/generator/cpu_percent"),
            reason,
        }
    }
}

/// What the search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// As many as `calls` and no more.
    Found,
    /// The most that were tried passed: the limit is higher.
    AtLeast,
    /// Not even one call passed.
    None,
    /// The generator was the bottleneck, or somebody ended the search: `calls` passed, and more is not known.
    Unknown,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Capacity {
    /// Calls that passed.
    pub calls: u64,
    /// What that says.
    pub conclusion: Conclusion,
    /// All runs, in order.
    pub steps: Vec<Step>,
}

/// Plays until the answer is known. `play` plays a number of calls, or says that the search is over.
pub fn find<E>(mut search: Search, mut play: impl FnMut(u64, u32) -> Result<Option<Step>, E>) -> Result<Capacity, E> {
    let mut steps: Vec<Step> = Vec::new();
    let capacity = |search: &Search, conclusion, steps| Capacity { calls: search.passed, conclusion, steps };
    while let Some(calls) = search.poll_calls() {
        let mut passed = false;
        for attempt in 1..=ATTEMPTS {
            let Some(step) = play(calls, attempt)? else { return Ok(capacity(&search, Conclusion::Unknown, steps)) };
            let verdict = step.verdict;
            steps.push(step);
            match verdict {
                Verdict::Invalid => return Ok(capacity(&search, Conclusion::Unknown, steps)),
                Verdict::Pass | Verdict::Worse => passed = true,
                Verdict::Fail => continue,
            }
            break;
        }
        search.handle_outcome(calls, passed);
    }
    let conclusion = match (search.passed, search.failed) {
        (0, _) => Conclusion::None,
        (_, None) => Conclusion::AtLeast,
        (_, Some(_)) => Conclusion::Found,
    };
    Ok(capacity(&search, conclusion, steps))
}

impl Capacity {
    /// The exit code: 0 where the answer is known.
    pub fn exit_code(&self) -> u8 {
        match self.conclusion {
            Conclusion::Found | Conclusion::AtLeast => 0,
            Conclusion::None => Verdict::Fail.exit_code(),
            Conclusion::Unknown => Verdict::Invalid.exit_code(),
        }
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:>8}  {:<8}{:>12}{:>12}{:>12}{:>10}{:>10}\n",
            "calls", "", "ack p50", "ack p99.9", "setup p99", "node", "exo-load"
        );
        let percent = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.0} %"));
        for step in &self.steps {
            let verdict = format!("{:?}", step.verdict).to_lowercase();
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{:>8}  {verdict:<8}{:>12}{:>12}{:>12}{:>10}{:>10}  {}",
                step.calls,
                show(step.ack_p50_ns),
                show(step.ack_p999_ns),
                show(step.setup_p99_ns),
                percent(step.server_cpu_percent),
                percent(step.generator_cpu_percent),
                step.reason.as_deref().unwrap_or_default(),
            );
        }
        let calls = self.calls;
        let _ = match self.conclusion {
            Conclusion::Found => writeln!(out, "\ncapacity: {calls} calls"),
            Conclusion::AtLeast => writeln!(out, "\ncapacity: at least {calls} calls; give more --calls to find the limit"),
            Conclusion::None => writeln!(out, "\ncapacity: none, not even the fewest calls passed"),
            Conclusion::Unknown => writeln!(
                out,
                "\nno conclusion: {calls} calls passed, and beyond that the generator was the bottleneck or was stopped; \
                 give it more or faster cores (--cpus)"
            ),
        };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(calls: u64, verdict: Verdict) -> Step {
        Step {
            calls,
            verdict,
            ack_p50_ns: 0,
            ack_p999_ns: 0,
            setup_p99_ns: 0,
            server_cpu_percent: None,
            generator_cpu_percent: None,
            reason: None,
        }
    }

    /// A node that carries `limit` calls; the generator `able`.
    fn found(limit: u64, able: u64, search: Search) -> Capacity {
        let play = |calls, _| {
            let verdict = match calls {
                calls if calls > able => Verdict::Invalid,
                calls if calls > limit => Verdict::Fail,
                _ => Verdict::Pass,
            };
            Ok::<_, ()>(Some(step(calls, verdict)))
        };
        find(search, play).unwrap()
    }

    #[test]
    fn every_limit_is_found_to_the_resolution() {
        for limit in (1..3_000).step_by(7) {
            let capacity = found(limit, u64::MAX, Search::new(100, 10_000, 5.0));
            assert_eq!(capacity.conclusion, Conclusion::Found);
            assert!(capacity.calls <= limit && limit as f64 <= capacity.calls as f64 * 1.05 + 1.0, "{limit}: {capacity:?}");
            assert!(capacity.steps.len() < 30, "{limit}: {}", capacity.steps.len());
        }
    }

    #[test]
    fn what_is_not_known_is_not_concluded() {
        let search = || Search::new(100, 1_000, 5.0);
        let all = found(5_000, u64::MAX, search());
        assert_eq!((all.conclusion, all.calls, all.exit_code()), (Conclusion::AtLeast, 1_000, 0));
        let none = found(0, u64::MAX, search());
        assert_eq!((none.conclusion, none.calls, none.exit_code()), (Conclusion::None, 0, 2));
        let ill = found(5_000, 300, search());
        assert_eq!((ill.conclusion, ill.calls, ill.exit_code()), (Conclusion::Unknown, 200, 3));
        assert!(ill.table().contains("no conclusion"));
        let stopped = find(search(), |calls, _| Ok::<_, ()>((calls < 400).then(|| step(calls, Verdict::Pass)))).unwrap();
        assert_eq!((stopped.conclusion, stopped.calls), (Conclusion::Unknown, 200));
    }

    #[test]
    fn one_stumble_is_no_limit() {
        let mut stumbled = false;
        let play = |calls, attempt| {
            let stumbles = calls == 400 && attempt == 1 && !std::mem::replace(&mut stumbled, true);
            Ok::<_, ()>(Some(step(calls, if stumbles { Verdict::Fail } else { Verdict::Pass })))
        };
        let capacity = find(Search::new(100, 1_000, 5.0), play).unwrap();
        assert_eq!((capacity.conclusion, capacity.calls), (Conclusion::AtLeast, 1_000));
        assert_eq!(capacity.steps.iter().map(|step| step.calls).collect::<Vec<_>>(), [100, 200, 400, 400, 800, 1_000]);
    }
}
