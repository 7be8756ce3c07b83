//! The answer as text.

use std::fmt::Write as _;

use super::goal::{Judgement, State};
use super::search::Why;
use super::{Answer, Capacity, GoalAnswer};
use crate::duration::show;
use crate::plural::{counted, grouped};

/// Shown where nothing was measured: a zero would say that it took no time.
const NOTHING: &str = "-";

impl Answer {
    /// As a table.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        for search in &self.searches {
            if let Some(cores) = search.cores {
                writeln!(out, "--- {} ---", counted(cores, "shard"))?;
            }
            search.write_table(out)?;
        }
        if self.searches.len() < 2 {
            return Ok(());
        }
        writeln!(out, "\n{:>8}{:>10}{:>14}  bound by", "shards", "calls", "calls a shard")?;
        for search in &self.searches {
            let cores = search.cores.unwrap_or(1).max(1);
            let (calls, each) = (grouped(search.calls), grouped(search.calls / cores));
            writeln!(out, "{cores:>8}{calls:>10}{each:>14}  {}", search.bound_by.text)?;
        }
        Ok(())
    }
}

impl Capacity {
    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{:>8}  {:<7}{:>11}{:>11}{:>11}{:>11}{:>8}{:>10}  missed",
            "calls", "", "ack p50", "ack p99", "ack p99.9", "setup p99", "node", "exo-load"
        )?;
        let (time, percent) = (|value| time(value, NOTHING), |value| percent(value, NOTHING));
        for step in &self.steps {
            writeln!(
                out,
                "{:>8}  {:<7}{:>11}{:>11}{:>11}{:>11}{:>8}{:>10}  {}",
                grouped(step.calls),
                why(step.why),
                time(step.ack_p50_ns),
                time(step.ack_p99_ns),
                time(step.ack_p999_ns),
                time(step.setup_p99_ns),
                percent(step.server_cpu_percent),
                percent(step.generator_cpu_percent),
                missed(&step.goals, &self.goals),
            )?;
        }
        writeln!(out, "\n{:<24}{:>10}{:>10}{:>9}", "goal", "passes", "fails", "runs")?;
        for goal in &self.goals {
            let [at_passed, at_failed] = goal.runs;
            writeln!(
                out,
                "{:<24}{:>10}{:>10}{:>9}  {}",
                goal.goal,
                goal.passes(),
                goal.fails(),
                format!("{at_passed} + {at_failed}"),
                goal.text
            )?;
        }
        writeln!(out, "\n{}", self.summary)
    }
}

impl GoalAnswer {
    /// The largest load that passed, or why there is no number.
    pub fn passes(&self) -> String {
        match (self.passed, self.failed) {
            (Some(passed), _) => grouped(passed),
            (None, _) if self.text.contains("insufficient samples") => "too few".to_owned(),
            (None, _) => "none".to_owned(),
        }
    }

    /// The smallest load that failed.
    pub fn fails(&self) -> String {
        match (self.failed, self.unclear) {
            (failed, Some(unclear)) if failed.is_none_or(|failed| unclear < failed) => {
                format!("{} ?", grouped(unclear))
            }
            (Some(failed), _) => grouped(failed),
            (None, _) => NOTHING.to_owned(),
        }
    }
}

/// A time, nanoseconds; or `nothing`, which stands where nothing was measured.
pub fn time(value: Option<u64>, nothing: &str) -> String {
    value.map_or_else(|| nothing.to_owned(), show)
}

/// The same for a percentage.
pub fn percent(value: Option<f64>, nothing: &str) -> String {
    value.map_or_else(|| nothing.to_owned(), |value| format!("{value:.0} %"))
}

/// Why a run was played, in a word.
pub fn why(why: Why) -> &'static str {
    match why {
        Why::Climb => "climb",
        Why::Again => "again",
        Why::Narrow => "narrow",
        Why::Edge => "edge",
        Why::Hold => "hold",
    }
}

/// The goals that a run missed, and what it measured. A load that was not carried misses every
/// objective: the loss says so already.
pub fn missed(judgements: &[Judgement], goals: &[GoalAnswer]) -> String {
    let words =
        judgements.iter().zip(goals).filter_map(|(judgement, goal)| match judgement.state {
            State::Met | State::TooFew => None,
            State::Missed if judgement.is_not_carried() => None,
            State::Missed => Some(format!("{}: {}", goal.goal, judgement.measured)),
            State::Unclear => Some(judgement.measured.clone()),
        });
    let mut words: Vec<String> = words.collect();
    // A generator that is too slow is so for every goal.
    words.dedup();
    words.join("; ")
}
