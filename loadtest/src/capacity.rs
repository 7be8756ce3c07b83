//! `capacity`: the most calls that a node carries under each of several goals, found by playing.
//!
//! - [`search`] decides what to play next, and keeps a bracket for each goal.
//! - [`goal`] judges a run against a goal.
//! - [`bound`] says what bound the answer.
//! - [`play`] plays the runs, and shows how far the search is.
//! - [`node`] starts a node for the search, where `--node` says how.
//! - [`setting`] says how the search was made.
//! - [`table`], [`markdown`] and [`page`] show the answer.

use serde::Serialize;

use crate::plural::counted;
use crate::verdict::{INTERRUPTED, Verdict};

mod bound;
mod goal;
mod markdown;
mod node;
mod node_load;
mod page;
pub mod play;
mod search;
mod setting;
mod step;
mod table;

use bound::{Bound, Evidence, Kind};
use goal::{Goal, State};
use search::{Bracket, Search};
use setting::Setting;
use step::Step;

/// What `capacity.json` holds.
pub const SCHEMA: &str = include_str!("../capacity.schema.json");

/// Version of `capacity.json`.
const VERSION: u32 = 1;

/// The answer of the command: one search, or one for each number of shards.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Name and version of the format.
    pub schema: Schema,
    /// How the searches were made.
    pub setting: Setting,
    /// The searches, in order.
    pub searches: Vec<Capacity>,
}

/// Name and version of the format.
#[derive(Debug, Clone, Serialize)]
pub struct Schema {
    name: &'static str,
    version: u32,
}

/// The kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// `calls` passed every goal, and more did not.
    Found,
    /// The most that were tried passed: the limit is higher.
    AtLeast,
    /// Not even the fewest calls passed.
    None,
    /// A goal was not missed, and no run had enough samples to say that it held.
    InsufficientSamples,
    /// Runs were invalid: `calls` passed, and more is not known.
    Unknown,
    /// Ctrl-C ended the search: `calls` passed, and more is not known.
    Interrupted,
}

/// What was found for one goal.
#[derive(Debug, Clone, Serialize)]
pub struct GoalAnswer {
    /// The goal.
    pub goal: String,
    /// The bound of an objective, nanoseconds, where it is a time.
    pub bound_ns: Option<u64>,
    /// The most calls that met it, with enough samples.
    pub passed: Option<u64>,
    /// The fewest that missed it.
    pub failed: Option<u64>,
    /// The fewest calls above `passed` whose runs prove nothing.
    pub unclear: Option<u64>,
    /// Runs at `passed`, and at `failed`.
    pub runs: [usize; 2],
    /// In words.
    pub text: String,
}

/// The answer of one search.
#[derive(Debug, Clone, Serialize)]
pub struct Capacity {
    /// Shards of the node, in a sweep.
    pub cores: Option<u64>,
    /// Calls that passed every goal; 0 for none.
    pub calls: u64,
    /// What that number means.
    pub conclusion: Conclusion,
    /// Whether a longer run at that number passed too.
    pub is_confirmed: bool,
    /// The goal that `calls` is the answer to: the first one that is missed.
    pub limited_by_goal: String,
    /// What bound it.
    pub bound_by: Bound,
    /// The answer in a sentence.
    pub summary: String,
    /// The answer to each goal.
    pub goals: Vec<GoalAnswer>,
    /// All runs, in order.
    pub steps: Vec<Step>,
}

impl Answer {
    /// The searches, in order.
    pub fn new(setting: Setting, searches: Vec<Capacity>) -> Self {
        let schema = Schema { name: "exo-load/capacity", version: VERSION };
        Self { schema, setting, searches }
    }

    /// The exit code: that of the worst search.
    pub fn exit_code(&self) -> u8 {
        self.searches.iter().map(Capacity::exit_code).max().unwrap_or(crate::COULD_NOT_RUN)
    }
}

impl Capacity {
    /// Concludes from all runs of a search.
    fn new(
        search: &Search,
        goals: &[Goal],
        steps: Vec<Step>,
        is_interrupted: bool,
        cores: Option<u64>,
    ) -> Self {
        let brackets: Vec<Bracket> = (0..goals.len()).map(|goal| search.bracket(goal)).collect();
        let index = first_missed(&brackets);
        let bracket = brackets[index];
        let calls = brackets.iter().map(|it| it.passed.unwrap_or(0)).min().unwrap_or(0);
        let evidence = Evidence { goal: &goals[index], index, bracket, steps: &steps, cores };
        let bound_by = Bound::new(&evidence);
        let conclusion = conclusion(&brackets, bracket, is_interrupted);
        let answers: Vec<GoalAnswer> = goals
            .iter()
            .zip(&brackets)
            .enumerate()
            .map(|(index, (goal, bracket))| GoalAnswer::new(goal, index, *bracket, &steps))
            .collect();
        let is_confirmed = calls > 0 && search.is_held(calls);
        let mut capacity = Self {
            cores,
            calls,
            conclusion,
            is_confirmed,
            limited_by_goal: goals[index].name(),
            bound_by,
            summary: String::new(),
            goals: answers,
            steps,
        };
        capacity.summary = capacity.sentence(index);
        capacity
    }

    /// The exit code: 0 where the answer is known.
    fn exit_code(&self) -> u8 {
        match self.conclusion {
            Conclusion::Found | Conclusion::AtLeast => 0,
            Conclusion::None => Verdict::Fail.exit_code(),
            Conclusion::Unknown | Conclusion::InsufficientSamples => Verdict::Invalid.exit_code(),
            Conclusion::Interrupted => INTERRUPTED,
        }
    }

    /// The answer in a sentence. `index` is the place of the goal that was missed first.
    fn sentence(&self, index: usize) -> String {
        let calls = counted(self.calls, "call");
        let goal = &self.limited_by_goal;
        let bound = &self.bound_by.text;
        let is_held_in_vain = self.steps.iter().any(|step| step.why == search::Why::Hold);
        let confirmed = match (self.is_confirmed, is_held_in_vain) {
            (true, _) => ", confirmed by a longer run",
            (false, true) => ", NOT confirmed by a longer run",
            (false, false) => "",
        };
        match self.conclusion {
            Conclusion::Found => {
                format!(
                    "capacity: {calls} under every goal{confirmed}. First limit: '{goal}'. \
                         Bound by {bound}"
                )
            }
            Conclusion::AtLeast => format!(
                "capacity: at least {calls} under every goal{confirmed}; give more --calls to find \
                 the limit"
            ),
            Conclusion::None => {
                let fewest = self.goals[index].failed.unwrap_or(0);
                let hint = match self.bound_by.kind {
                    Kind::Slo => "",
                    _ => "; give fewer --calls-min to try fewer",
                };
                let fewest = counted(fewest, "call");
                format!("capacity: none, not even {fewest} meet '{goal}'. Bound by {bound}{hint}")
            }
            Conclusion::InsufficientSamples => {
                format!("capacity: no number for '{goal}': {}", self.goals[index].text)
            }
            Conclusion::Unknown => format!("no conclusion: {calls} passed. {bound}"),
            Conclusion::Interrupted => {
                format!("no conclusion: interrupted; {calls} passed until then")
            }
        }
    }
}

/// The goal with the lowest answer. If several have it, one that is known to fail at some load.
fn first_missed(brackets: &[Bracket]) -> usize {
    let rank =
        |bracket: &Bracket| (bracket.reached.unwrap_or(0), bracket.failed.unwrap_or(u64::MAX));
    let short = |bracket: &Bracket| bracket.reached.is_some() && bracket.passed.is_none();
    let places = || brackets.iter().enumerate();
    let least = places().min_by_key(|(_, bracket)| rank(bracket)).map_or(0, |(index, _)| index);
    // A goal without enough samples leaves the whole answer open, unless another is missed at once.
    let is_missed = brackets[least].reached.is_none();
    let open = places().find(|(_, bracket)| !is_missed && short(bracket));
    open.map_or(least, |(index, _)| index)
}

fn conclusion(brackets: &[Bracket], first: Bracket, is_interrupted: bool) -> Conclusion {
    if is_interrupted {
        return Conclusion::Interrupted;
    }
    let is_unclear = |bracket: &Bracket| {
        bracket.unclear.is_some_and(|unclear| bracket.failed.is_none_or(|failed| unclear < failed))
    };
    match (first.passed, first.failed) {
        _ if is_unclear(&first) => Conclusion::Unknown,
        (None, Some(_)) if first.reached.is_none() => Conclusion::None,
        (None, _) => Conclusion::InsufficientSamples,
        (Some(_), Some(_)) => Conclusion::Found,
        (Some(_), None) if brackets.iter().any(is_unclear) => Conclusion::Unknown,
        (Some(_), None) => Conclusion::AtLeast,
    }
}

impl GoalAnswer {
    fn new(goal: &Goal, index: usize, bracket: Bracket, steps: &[Step]) -> Self {
        let runs = |calls: Option<u64>| {
            steps.iter().filter(|step| Some(step.calls) == calls && step.ill.is_none()).count()
        };
        let Bracket { passed, failed, unclear, .. } = bracket;
        let bound_ns = match goal {
            Goal::Slo(slo) => slo.bound_ns(),
            Goal::NoLoss | Goal::Loss(_) => None,
        };
        Self {
            goal: goal.name(),
            bound_ns,
            passed,
            failed,
            unclear,
            runs: [runs(passed), runs(failed)],
            text: words(index, bracket, steps),
        }
    }
}

/// What is known about a goal, in words.
fn words(index: usize, bracket: Bracket, steps: &[Step]) -> String {
    let Bracket { reached, passed, failed, unclear } = bracket;
    let measured = |calls: u64, state: State| {
        let of = |step: &Step| Some(step.goals.get(index)?).filter(|it| it.state == state).cloned();
        let found = steps.iter().rev().filter(|step| step.calls == calls).find_map(of);
        found.map_or_else(String::new, |it| it.measured)
    };
    let above = match (failed, unclear) {
        (_, Some(unclear)) if failed.is_none_or(|failed| unclear < failed) => {
            format!("{} were too many for exo-load", counted(unclear, "call"))
        }
        (Some(failed), _) => {
            format!("{} missed it: {}", counted(failed, "call"), measured(failed, State::Missed))
        }
        (None, _) => "more was not tried".to_owned(),
    };
    match (passed, reached) {
        (Some(passed), _) => {
            let figure = measured(passed, State::Met);
            format!("{} met it: {figure}; {above}", counted(passed, "call"))
        }
        (None, Some(reached)) => {
            let few = steps.iter().rev().filter(|step| step.calls == reached);
            let few = few.filter_map(|step| step.goals.get(index).map(|goal| (step, goal)));
            let longer = few
                .filter(|(_, goal)| goal.state == State::TooFew)
                .find_map(|(step, goal)| longer(step, goal.samples?));
            format!(
                "{} with {}{}",
                measured(reached, State::TooFew),
                counted(reached, "call"),
                longer.unwrap_or_default()
            )
        }
        (None, None) => above,
    }
}

/// How long a run would have enough samples.
fn longer(step: &Step, [samples, least]: [u64; 2]) -> Option<String> {
    let seconds = (step.duration_s * 1.1 * least as f64 / samples as f64).ceil();
    (samples > 0 && seconds.is_finite())
        .then(|| format!("; give --duration {seconds}s, or more --calls-min"))
}

#[cfg(test)]
mod tests;
