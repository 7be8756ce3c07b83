//! Which number of calls to play next.
//!
//! One search serves all goals. Each run is judged against every goal, and each goal keeps a
//! bracket: the most calls that met it, and the fewest that missed it. The search doubles the
//! number of calls until every goal is missed, and then halves the widest gaps. It plays the edges
//! of each bracket several times, and at last plays the answer once more, for longer.
//!
//! No clock and no IO: [`Search::poll_next`] says what to play, and [`Search::handle_run`] takes
//! what came of it. The brackets are computed from all runs each time. So a run that contradicts
//! earlier ones moves the bracket, and needs no case of its own.

use std::collections::BTreeSet;

use serde::Serialize;

use super::goal::State;

/// A load is not played more often than this to decide between runs that contradict each other.
const RUNS_MAX: usize = 5;

/// Long runs at the answer that may fail before the search ends without confirmation.
const HOLDS_MAX: usize = 3;

/// An end for a search that noise keeps alive: more runs than any search without noise takes.
const RUNS_OF_SEARCH_MAX: usize = 120;

/// The state of the search.
#[derive(Debug, Clone)]
pub struct Search {
    limits: Limits,
    goals: usize,
    runs: Vec<Run>,
}

/// Where the search begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The fewest calls that are tried.
    pub first: u64,
    /// The most.
    pub max: u64,
    /// A bracket is narrow enough if it is this wide, percent of its lower edge.
    pub resolution_percent: f64,
    /// Runs at each edge of a bracket.
    pub repeats: usize,
    /// Play the answer once more, for longer.
    pub hold: bool,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Calls.
    pub calls: u64,
    /// One for each goal, in their order.
    pub states: Vec<State>,
    /// Playing it again is pointless: the node's own limit refused calls.
    pub is_final: bool,
    /// The long run at the answer.
    pub is_hold: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Calls.
    pub calls: u64,
    /// Why.
    pub why: Why,
}

/// Why a number of calls is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Every goal held up to here.
    Climb,
    /// The runs of this load contradict each other, or a single one failed.
    Again,
    /// Between a load that met a goal and one that missed it.
    Narrow,
    /// The edge of a bracket, to be sure.
    Edge,
    /// The answer, for longer.
    Hold,
}

/// What is known about a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bracket {
    /// The most calls that did not miss it. Too few samples do not miss it.
    pub reached: Option<u64>,
    /// The most calls that met it with enough samples.
    pub passed: Option<u64>,
    /// The fewest that missed it.
    pub failed: Option<u64>,
    /// The fewest calls above `reached` whose runs prove nothing.
    pub unclear: Option<u64>,
}

/// What the runs of one load say about a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opinion {
    Met,
    TooFew,
    Missed,
    /// The runs prove nothing.
    Unclear,
    /// One more run is needed.
    Open,
}

impl Search {
    /// A search for so many goals.
    pub fn new(limits: Limits, goals: usize) -> Self {
        let first = limits.first.clamp(1, limits.max);
        let limits = Limits { first, repeats: limits.repeats.max(1), ..limits };
        Self { limits, goals, runs: Vec::new() }
    }

    /// Takes what came of a run.
    pub fn handle_run(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// What to play next; none once the answer is known.
    pub fn poll_next(&self) -> Option<Next> {
        if self.runs.len() >= RUNS_OF_SEARCH_MAX {
            return None;
        }
        let brackets: Vec<Bracket> = (0..self.goals).map(|goal| self.bracket(goal)).collect();
        let next = |(calls, why)| Next { calls, why };
        self.open(&brackets)
            .or_else(|| self.climb(&brackets))
            .or_else(|| self.gap(&brackets))
            .or_else(|| self.edge(&brackets))
            .or_else(|| self.hold(&brackets))
            .map(next)
    }

    /// What the runs say about a goal.
    pub fn bracket(&self, goal: usize) -> Bracket {
        let opinions: Vec<(u64, Opinion)> =
            self.loads().into_iter().map(|calls| (calls, self.opinion(calls, goal))).collect();
        let of = |wanted: &[Opinion], range: std::ops::Range<u64>| {
            let fits = |(calls, opinion): &(u64, Opinion)| {
                (wanted.contains(opinion) && range.contains(calls)).then_some(*calls)
            };
            opinions.iter().filter_map(fits).collect::<Vec<u64>>()
        };
        let failed = of(&[Opinion::Missed], 0..u64::MAX).first().copied();
        let below = 0..failed.unwrap_or(u64::MAX);
        let reached = of(&[Opinion::Met, Opinion::TooFew], below.clone()).last().copied();
        let above = reached.map_or(0, |calls| calls + 1)..below.end;
        Bracket {
            reached,
            passed: of(&[Opinion::Met], below).last().copied(),
            failed,
            unclear: of(&[Opinion::Unclear], above).first().copied(),
        }
    }

    /// Whether the long run at this load met every goal, or had too few samples to miss it.
    pub fn is_held(&self, calls: u64) -> bool {
        let mut holds = self.runs.iter().filter(|run| run.is_hold && run.calls == calls);
        holds.any(|run| run.states.iter().all(|state| state.is_well()))
    }

    /// The least and the most seconds that the rest of the search takes, and the runs of both, if
    /// one run takes `seconds_of` seconds. The search is played to its end for several limits that
    /// the node may have.
    pub fn estimate(&self, seconds_of: impl Fn(Next) -> f64) -> [(f64, usize); 2] {
        // Each goal may have its limit anywhere between what was reached and what failed: all at
        // one place, or each at another, which takes more runs.
        let limit = |goal: usize, share: f64| {
            let bracket = self.bracket(goal);
            let low = bracket.reached.unwrap_or(0);
            let high = bracket.ceiling().map_or(self.limits.max, |ceiling| ceiling - 1).max(low);
            let (least, most) = (low.max(1) as f64, high.max(1) as f64);
            match share {
                0.0 => low,
                1.0 => high,
                _ => (least * (most / least).powf(share)) as u64,
            }
        };
        let spread = |goal: usize| (goal + 1) as f64 / (self.goals + 1) as f64;
        let shares: [&dyn Fn(usize) -> f64; 5] = [&|_| 0.0, &|_| 0.5, &|_| 0.9, &|_| 1.0, &spread];
        let mut all: Vec<(f64, usize)> = shares
            .into_iter()
            .map(|share| (0..self.goals).map(|goal| limit(goal, share(goal))).collect())
            .map(|limits: Vec<u64>| self.imagine(&limits, &seconds_of))
            .collect();
        all.sort_by(|one, other| one.0.total_cmp(&other.0));
        [all[0], all[all.len() - 1]]
    }

    /// Seconds and runs of the rest, if the node meets each goal up to so many calls.
    fn imagine(&self, limits: &[u64], seconds_of: impl Fn(Next) -> f64) -> (f64, usize) {
        let (mut search, mut seconds, mut runs) = (self.clone(), 0.0, 0);
        while let Some(next) = search.poll_next() {
            seconds += seconds_of(next);
            runs += 1;
            let state = |limit: &u64| if next.calls <= *limit { State::Met } else { State::Missed };
            search.handle_run(Run {
                calls: next.calls,
                states: limits.iter().map(state).collect(),
                is_final: false,
                is_hold: next.why == Why::Hold,
            });
        }
        (seconds, runs)
    }

    fn loads(&self) -> BTreeSet<u64> {
        self.runs.iter().map(|run| run.calls).collect()
    }

    fn runs_at(&self, calls: u64) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.calls == calls)
    }

    /// The majority decides. A single miss is played again, because one hiccup of a busy machine is
    /// no limit; the node's own limit and a long run are no hiccups.
    fn opinion(&self, calls: u64, goal: usize) -> Opinion {
        let count = |wanted: State| {
            self.runs_at(calls).filter(|run| run.states.get(goal) == Some(&wanted)).count()
        };
        let is_decided = self.runs_at(calls).any(|run| {
            run.states.get(goal) == Some(&State::Missed) && (run.is_final || run.is_hold)
        });
        let (met, few, missed, unclear) =
            (count(State::Met), count(State::TooFew), count(State::Missed), count(State::Unclear));
        let (well, runs) = (met + few, met + few + missed + unclear);
        let passes = if met > 0 { Opinion::Met } else { Opinion::TooFew };
        if is_decided {
            return Opinion::Missed;
        }
        match (well, missed) {
            (0, 0) if unclear >= 2 => Opinion::Unclear,
            (0, 0) => Opinion::Open,
            (well, missed) if well > missed => passes,
            (well, missed) if missed > well && missed >= self.limits.repeats.min(2) => {
                Opinion::Missed
            }
            _ if runs >= RUNS_MAX => Opinion::Missed,
            _ => Opinion::Open,
        }
    }

    /// The fewest calls that need one more run.
    fn open(&self, brackets: &[Bracket]) -> Option<(u64, Why)> {
        let is_open = |calls: &u64| {
            brackets.iter().enumerate().any(|(goal, bracket)| {
                bracket.ceiling().is_none_or(|ceiling| *calls < ceiling)
                    && self.opinion(*calls, goal) == Opinion::Open
            })
        };
        Some((self.loads().into_iter().find(is_open)?, Why::Again))
    }

    /// Twice the most that was reached, while a goal was not missed yet.
    fn climb(&self, brackets: &[Bracket]) -> Option<(u64, Why)> {
        let steps = brackets.iter().filter(|bracket| bracket.ceiling().is_none());
        let steps = steps.filter_map(|bracket| match bracket.reached {
            None => Some(self.limits.first),
            Some(reached) => {
                let next = reached.saturating_mul(2).min(self.limits.max);
                (next > reached).then_some(next)
            }
        });
        Some((steps.min()?, Why::Climb))
    }

    /// The middle of the lowest bracket that is not narrow yet.
    fn gap(&self, brackets: &[Bracket]) -> Option<(u64, Why)> {
        let middles = brackets.iter().filter_map(|bracket| {
            let (reached, ceiling) = (bracket.reached?, bracket.ceiling()?);
            let distance = ceiling - reached;
            let is_near =
                distance as f64 <= reached as f64 * self.limits.resolution_percent / 100.0;
            (distance > 1 && !is_near).then_some(reached + distance / 2)
        });
        Some((middles.min()?, Why::Narrow))
    }

    /// An edge of a bracket that was not played often enough.
    fn edge(&self, brackets: &[Bracket]) -> Option<(u64, Why)> {
        let edges = brackets.iter().flat_map(|bracket| [bracket.reached, bracket.failed]);
        let is_short = |calls: &u64| {
            let mut runs = self.runs_at(*calls);
            let is_final = runs.any(|run| run.is_final || run.is_hold);
            !is_final && self.runs_at(*calls).count() < self.limits.repeats
        };
        Some((edges.flatten().filter(is_short).min()?, Why::Edge))
    }

    /// The answer, if it was not held yet.
    fn hold(&self, brackets: &[Bracket]) -> Option<(u64, Why)> {
        let answers: Option<Vec<u64>> = brackets.iter().map(|bracket| bracket.reached).collect();
        let answer = answers?.into_iter().min()?;
        let holds = || self.runs.iter().filter(|run| run.is_hold);
        let is_over = holds().count() >= HOLDS_MAX || self.is_held(answer);
        (self.limits.hold && !is_over).then_some((answer, Why::Hold))
    }
}

impl Bracket {
    /// The search does not go up to this.
    fn ceiling(&self) -> Option<u64> {
        match (self.failed, self.unclear) {
            (Some(failed), Some(unclear)) => Some(failed.min(unclear)),
            (failed, unclear) => failed.or(unclear),
        }
    }
}

#[cfg(test)]
mod tests;
