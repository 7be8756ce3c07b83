//! `capacity`: the largest number of calls that a node carries within the objectives, found by
//! playing.
//!
//! The search doubles the number of calls until a run fails. Then it halves the distance between
//! the most that passed and the fewest that failed. It does not try fewer calls than it began with:
//! if these fail, the answer is what they missed, and by how much.
//!
//! A run that fails or is invalid is played once more, because one hiccup of a busy machine is not
//! a limit. The node's own limit (503) is not a hiccup, and counts at once. If both runs are
//! invalid there is no conclusion.

use std::fmt::Write as _;

use serde::Serialize;

use crate::duration::show;
use crate::plural::counted;
use crate::report::Report;
use crate::results::table::why_invalid;
use crate::stats::Metric;
use crate::verdict::{INTERRUPTED, Verdict};

/// How often a number of calls is played before it counts as too many.
const ATTEMPTS: usize = 2;

/// The failure that the node's own limit causes: its `--max-calls`, a tenant's quota, or too little
/// disk or memory.
const NODE_LIMIT: &str = "refused_503";

/// A reason that lies with the generator starts with this.
const GENERATOR: &str = "generator: ";

/// The state of the search.
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
    /// A search that begins at `first` calls and ends at `max`, or once it knows the answer to
    /// `resolution_percent`.
    pub fn new(first: u64, max: u64, resolution_percent: f64) -> Self {
        Self { passed: 0, failed: None, first: first.clamp(1, max), max, resolution_percent }
    }

    /// The next number of calls; none once the answer is known.
    pub fn poll_calls(&self) -> Option<u64> {
        if self.passed == 0 && self.failed.is_some() {
            return None;
        }
        let Some(failed) = self.failed else {
            let next = if self.passed == 0 {
                self.first
            } else {
                self.passed.saturating_mul(2).min(self.max)
            };
            return (next > self.passed).then_some(next);
        };
        let distance = failed - self.passed;
        let is_near = distance as f64 <= self.passed as f64 * self.resolution_percent / 100.0;
        (distance > 1 && !is_near).then_some(self.passed + distance / 2)
    }

    /// Takes the outcome of a run.
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
    /// Ack latency of the steady part at p50, nanoseconds; none without an ack.
    pub ack_p50_ns: Option<u64>,
    /// The same at p99.9.
    pub ack_p999_ns: Option<u64>,
    /// Nanoseconds; none where no call came up.
    pub setup_p99_ns: Option<u64>,
    /// CPU of the node, percent of a core, with `--server-pid`.
    pub server_cpu_percent: Option<f64>,
    /// CPU of the generator, percent of its cores.
    pub generator_cpu_percent: Option<f64>,
    /// The node's own limit has refused calls with 503.
    pub is_node_limit: bool,
    /// The first objective that was missed, and the measured value.
    pub missed: Option<String>,
    /// Why it did not pass.
    pub reason: Option<String>,
}

impl Step {
    /// Makes it from the report of a run.
    pub fn new(calls: u64, report: &Report) -> Self {
        let at = |metric, percentile| {
            let histogram = report.judged.latency(metric);
            (!histogram.is_empty()).then(|| histogram.value_at_percentile(percentile))
        };
        let json = &report.json;
        let number = |pointer| crate::results::number(json, pointer);
        let failures = json["failures"].as_object();
        let failure = failures.and_then(|all| {
            let (name, tally) = all.get_key_value(NODE_LIMIT).or_else(|| all.iter().next())?;
            Some(format!("{name}, {}", counted(tally["count"].as_u64().unwrap_or(0), "time")))
        });
        let missed =
            json["slos"].as_array().and_then(|slos| slos.iter().find(|slo| slo["held"] == false));
        let missed = missed.and_then(|slo| {
            let value = slo["value_ns"].as_u64().map_or("not measured".to_owned(), show);
            Some(format!("{}: {value}", slo["slo"].as_str()?))
        });
        let ill = json["generator"]["ills"][0].as_str().map(|ill| format!("{GENERATOR}{ill}"));
        let lost = json["verify"]["faults"]
            .as_object()
            .and_then(|all| all.keys().next())
            .map(|kind| format!("journal: {kind}"));
        let reason = match report.verdict {
            Verdict::Pass | Verdict::Worse => None,
            Verdict::Invalid => ill.or_else(|| Some(why_invalid(json))),
            Verdict::Fail => failure
                .or_else(|| missed.as_ref().map(|missed| format!("missed {missed}")))
                .or(lost),
        };
        Self {
            calls,
            verdict: report.verdict,
            ack_p50_ns: at(Metric::Ack, 50.0),
            ack_p999_ns: at(Metric::Ack, 99.9),
            setup_p99_ns: at(Metric::Setup, 99.0),
            server_cpu_percent: number("/server/cpu_percent"),
            generator_cpu_percent: number("/generator/cpu_percent"),
            is_node_limit: failures.is_some_and(|all| all.contains_key(NODE_LIMIT)),
            missed,
            reason,
        }
    }

    /// Whether an objective was missed, and no check failed.
    fn is_slo(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| reason.starts_with("missed "))
    }

    /// Whether a second run of as many calls is pointless.
    fn is_final(&self) -> bool {
        match self.verdict {
            Verdict::Pass | Verdict::Worse => true,
            Verdict::Fail => self.is_node_limit,
            Verdict::Invalid => false,
        }
    }
}

/// The kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// `calls` passed, and more did not.
    Found,
    /// The most that were tried passed: the limit is higher.
    AtLeast,
    /// Not even the fewest calls passed.
    None,
    /// Both runs of a number of calls were invalid: `calls` passed, and more is not known.
    Unknown,
    /// Ctrl-C ended the search: `calls` passed, and more is not known.
    Interrupted,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Capacity {
    /// Calls that passed.
    pub calls: u64,
    /// What that number means.
    pub conclusion: Conclusion,
    /// The node's own limit refused more calls than that.
    pub is_node_limit: bool,
    /// The answer in a sentence.
    pub summary: String,
    /// All runs, in order.
    pub steps: Vec<Step>,
}

/// Plays until the answer is known. `play` plays a number of calls; it returns none to end the
/// search.
pub fn find<E>(
    mut search: Search,
    mut play: impl FnMut(u64, u32) -> Result<Option<Step>, E>,
) -> Result<Capacity, E> {
    let mut steps: Vec<Step> = Vec::new();
    while let Some(calls) = search.poll_calls() {
        let mut verdicts = Vec::new();
        while verdicts.len() < ATTEMPTS {
            let Some(step) = play(calls, verdicts.len() as u32 + 1)? else {
                return Ok(Capacity::new(&search, Conclusion::Interrupted, steps));
            };
            let is_final = step.is_final();
            verdicts.push(step.verdict);
            steps.push(step);
            if is_final {
                break;
            }
        }
        // A run that fails with a fast generator decides, even if the other run was invalid.
        let passed =
            verdicts.iter().any(|verdict| matches!(verdict, Verdict::Pass | Verdict::Worse));
        if !passed && !verdicts.contains(&Verdict::Fail) {
            return Ok(Capacity::new(&search, Conclusion::Unknown, steps));
        }
        search.handle_outcome(calls, passed);
    }
    let conclusion = match (search.passed, search.failed) {
        (0, _) => Conclusion::None,
        (_, None) => Conclusion::AtLeast,
        (_, Some(_)) => Conclusion::Found,
    };
    Ok(Capacity::new(&search, conclusion, steps))
}

impl Capacity {
    fn new(search: &Search, conclusion: Conclusion, steps: Vec<Step>) -> Self {
        // The run that limits the answer: the fewest calls that failed.
        let limit = steps
            .iter()
            .rfind(|step| Some(step.calls) == search.failed && step.verdict == Verdict::Fail);
        let is_node_limit = limit.is_some_and(|step| step.is_node_limit);
        let summary = summary(search.passed, conclusion, limit, steps.last());
        Self { calls: search.passed, conclusion, is_node_limit, summary, steps }
    }

    /// The exit code: 0 where the answer is known.
    pub fn exit_code(&self) -> u8 {
        match self.conclusion {
            Conclusion::Found | Conclusion::AtLeast => 0,
            Conclusion::None => Verdict::Fail.exit_code(),
            Conclusion::Unknown => Verdict::Invalid.exit_code(),
            Conclusion::Interrupted => INTERRUPTED,
        }
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:>8}  {:<8}{:>12}{:>12}{:>12}{:>10}{:>10}\n",
            "calls", "", "ack p50", "ack p99.9", "setup p99", "node", "exo-load"
        );
        // A zero would say that it took no time.
        let unmeasured = || "-".to_owned();
        let percent =
            |value: Option<f64>| value.map_or_else(unmeasured, |value| format!("{value:.0} %"));
        let time = |value: Option<u64>| value.map_or_else(unmeasured, show);
        for step in &self.steps {
            let verdict = step.verdict.name();
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{:>8}  {verdict:<8}{:>12}{:>12}{:>12}{:>10}{:>10}  {}",
                step.calls,
                time(step.ack_p50_ns),
                time(step.ack_p999_ns),
                time(step.setup_p99_ns),
                percent(step.server_cpu_percent),
                percent(step.generator_cpu_percent),
                step.reason.as_deref().unwrap_or_default(),
            );
        }
        let _ = writeln!(out, "\n{}", self.summary);
        out
    }
}

/// The answer in a sentence. `limit` is the run that failed with the fewest calls, `last` the last
/// one.
fn summary(
    passed: u64,
    conclusion: Conclusion,
    limit: Option<&Step>,
    last: Option<&Step>,
) -> String {
    let passed = counted(passed, "call");
    let reason =
        |step: Option<&Step>| step.and_then(|step| step.reason.clone()).unwrap_or_default();
    let node_limit = limit.filter(|step| step.is_node_limit).map(|step| {
        format!(
            "the node's own limit: it refused {} with 503 (its --max-calls, a quota, or too little \
             disk or memory)",
            if step.calls == 1 {
                "the one call".to_owned()
            } else {
                format!("some of {}", counted(step.calls, "call"))
            }
        )
    });
    match conclusion {
        Conclusion::Found => match (node_limit, limit) {
            (Some(limit), _) => format!("capacity: {passed}, by {limit}"),
            (None, Some(step)) => {
                format!("capacity: {passed}; with {}: {}", step.calls, reason(limit))
            }
            (None, None) => format!("capacity: {passed}"),
        },
        Conclusion::AtLeast => {
            format!("capacity: at least {passed}; give more --calls to find the limit")
        }
        Conclusion::None => {
            let fewest = fewest(limit.map_or(0, |step| step.calls));
            match (
                node_limit,
                limit.and_then(|step| step.missed.as_ref().filter(|_| step.is_slo())),
            ) {
                (Some(limit), _) => format!("capacity: none, by {limit}"),
                (None, Some(missed)) => {
                    format!(
                        "capacity: none, {fewest} hold {missed}; give fewer --calls-min to try \
                         fewer"
                    )
                }
                (None, None) => format!("capacity: none, {fewest} passed: {}", reason(limit)),
            }
        }
        Conclusion::Unknown => {
            let (calls, why) = (last.map_or(0, |step| step.calls), reason(last));
            let mut text =
                format!("no conclusion: {passed} passed; with {calls} the run was invalid: {why}");
            if let Some(missed) = last.and_then(|step| step.missed.as_ref()) {
                text += &format!("; it missed {missed}, which the generator may have caused");
            }
            if why.starts_with(GENERATOR) {
                text += "; give exo-load CPUs of its own (--cpus), or try --realtime";
            }
            text
        }
        Conclusion::Interrupted => {
            format!("no conclusion: interrupted; {passed} passed until then")
        }
    }
}

fn fewest(calls: u64) -> String {
    format!("not even {}", counted(calls, "call"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(calls: u64, verdict: Verdict) -> Step {
        Step {
            calls,
            verdict,
            ack_p50_ns: None,
            ack_p999_ns: Some(24_000_000),
            setup_p99_ns: None,
            server_cpu_percent: None,
            generator_cpu_percent: Some(2.0),
            is_node_limit: false,
            missed: None,
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
            let capacity = found(limit, u64::MAX, Search::new(limit.min(100), 10_000, 5.0));
            assert_eq!(capacity.conclusion, Conclusion::Found);
            assert!(
                capacity.calls <= limit && limit as f64 <= capacity.calls as f64 * 1.05 + 1.0,
                "{limit}: {capacity:?}"
            );
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
        assert!(
            ill.table().contains("no conclusion: 200 calls passed; with 400 the run was invalid"),
            "{}",
            ill.table()
        );
        let stopped = find(search(), |calls, _| {
            Ok::<_, ()>((calls < 400).then(|| step(calls, Verdict::Pass)))
        })
        .unwrap();
        assert_eq!(
            (stopped.conclusion, stopped.calls, stopped.exit_code()),
            (Conclusion::Interrupted, 200, 130)
        );
        assert!(
            stopped.table().ends_with("no conclusion: interrupted; 200 calls passed until then\n"),
            "{}",
            stopped.table()
        );
    }

    fn missed(calls: u64) -> Step {
        let missed = Some("ack.p99.9<5ms: 24.0 ms".to_owned());
        let reason = Some("missed ack.p99.9<5ms: 24.0 ms".to_owned());
        Step { missed, reason, ..step(calls, Verdict::Fail) }
    }

    #[test]
    fn the_fewest_calls_that_miss_an_objective_are_the_answer() {
        let none =
            find(Search::new(50, 1_000, 5.0), |calls, _| Ok::<_, ()>(Some(missed(calls)))).unwrap();
        assert_eq!(
            (none.conclusion, none.steps.len()),
            (Conclusion::None, 2),
            "nothing below is tried"
        );
        assert!(
            none.summary.contains("not even 50 calls hold ack.p99.9<5ms: 24.0 ms"),
            "{}",
            none.summary
        );
        let table = none.table();
        assert!(!table.contains("generator") && !table.contains("0 ns"), "{table}");
        // Whatever comes of the second try: one proof that they failed is enough.
        for order in [[Verdict::Invalid, Verdict::Fail], [Verdict::Fail, Verdict::Invalid]] {
            let play = |calls, attempt: u32| {
                let verdict = order[attempt as usize - 1];
                Ok::<_, ()>(Some(Step { verdict, ..missed(calls) }))
            };
            let none = find(Search::new(50, 1_000, 5.0), play).unwrap();
            assert_eq!(none.conclusion, Conclusion::None);
            assert!(none.summary.contains("not even 50 calls hold"), "{}", none.summary);
        }
    }

    #[test]
    fn the_nodes_own_limit_is_named_and_believed_at_once() {
        let play = |limit: u64| {
            move |calls, _| {
                let reason = Some("refused_503, 5 times".to_owned());
                let refused = Step { is_node_limit: true, reason, ..step(calls, Verdict::Fail) };
                Ok::<_, ()>(Some(if calls > limit { refused } else { step(calls, Verdict::Pass) }))
            }
        };
        let some = find(Search::new(4, 64, 5.0), play(11)).unwrap();
        assert_eq!(
            (some.conclusion, some.calls, some.is_node_limit),
            (Conclusion::Found, 11, true)
        );
        assert_eq!(
            some.steps.iter().map(|step| step.calls).collect::<Vec<_>>(),
            [4, 8, 16, 12, 10, 11]
        );
        assert!(
            some.summary.contains("some of 12 calls with 503 (its --max-calls"),
            "{}",
            some.summary
        );
        let none = find(Search::new(1, 64, 5.0), play(0)).unwrap();
        assert!(
            none.summary.contains("none, by the node's own limit: it refused the one call"),
            "{}",
            none.summary
        );
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
        assert_eq!(
            capacity.steps.iter().map(|step| step.calls).collect::<Vec<_>>(),
            [100, 200, 400, 400, 800, 1_000]
        );
    }
}
