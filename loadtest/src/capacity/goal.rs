//! The goals of a search, and how a run is judged against each of them.
//!
//! A goal is met or missed by evidence only. A percentile takes ten samples beyond it, and a run in
//! which the generator was late proves nothing about the node.

use serde::Serialize;

use crate::duration::show;
use crate::plural::{counted, grouped};
use crate::report::Report;
use crate::slo::Slo;

/// The failure that the node's own limit causes: its `--max-calls`, a tenant's quota, or too little
/// disk or memory.
pub const NODE_LIMIT: &str = "refused_503";

/// Why an objective is missed by a load that the node did not carry.
const NOT_CARRIED: &str = "not carried";

/// A goal.
#[derive(Debug, Clone)]
pub enum Goal {
    /// Every check of every call holds, and the journal has every promised frame.
    NoLoss,
    /// At most so many percent of calls, frames or ACKs are lost.
    Loss(f64),
    /// An objective, for a load that the node carries.
    Slo(Slo),
}

/// What a run says about a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It held.
    Met,
    /// It did not.
    Missed,
    /// It was not missed, and there were too few samples to say that it held.
    TooFew,
    /// The run proves nothing: the generator was too slow.
    Unclear,
}

impl State {
    /// Whether it was not missed.
    pub fn is_well(self) -> bool {
        matches!(self, Self::Met | Self::TooFew)
    }
}

/// A judgement.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// What the run says.
    pub state: State,
    /// What was measured, in words.
    pub measured: String,
    /// The measured figure of an objective, nanoseconds.
    pub value_ns: Option<u64>,
    /// Samples, and how many a judgement takes; none for a goal that counts losses.
    pub samples: Option<[u64; 2]>,
}

impl Judgement {
    /// Whether an objective was missed only because too much of the load was lost.
    pub fn is_not_carried(&self) -> bool {
        self.measured.starts_with(NOT_CARRIED)
    }
}

/// What a run lost.
#[derive(Debug, Clone, Copy)]
pub struct Losses {
    /// Percent of the calls, the frames or the ACKs, whichever is the worst.
    pub percent: f64,
    /// Nothing at all was lost, and no check failed.
    pub is_none: bool,
    /// A slow generator cannot have caused it.
    pub is_hard: bool,
}

impl Losses {
    /// Counts the losses of a run of `calls` calls.
    pub fn new(calls: u64, report: &Report) -> Self {
        let counts = &report.judged.counts;
        let share = |lost: u64, all: u64| lost as f64 * 100.0 / all.max(1) as f64;
        let frames = counts.frames + counts.frames_lost;
        let percent = [
            share(calls.saturating_sub(counts.calls_completed), calls),
            share(counts.acks_due.saturating_sub(counts.acks), counts.acks_due),
            share(counts.frames_lost, frames),
        ];
        let is_journal_short =
            report.json["verify"]["faults"].as_object().is_some_and(|faults| !faults.is_empty());
        let hard = report.judged.hard_failures > 0 || is_journal_short;
        Self {
            percent: percent.into_iter().fold(0.0, f64::max),
            is_none: report.judged.failure_count() == 0 && counts.frames > 0 && !is_journal_short,
            is_hard: hard,
        }
    }
}

impl Goal {
    /// The goals of a search: nothing lost, little lost, and each objective.
    pub fn all(loss_percent: f64, slos: &[Slo]) -> Vec<Self> {
        let slos = slos.iter().cloned().map(Self::Slo);
        [Self::NoLoss, Self::Loss(loss_percent)].into_iter().chain(slos).collect()
    }

    /// Its name in tables and files.
    pub fn name(&self) -> String {
        match self {
            Self::NoLoss => "no loss".to_owned(),
            Self::Loss(percent) => format!("loss <= {percent} %"),
            Self::Slo(slo) => slo.to_string(),
        }
    }

    /// Judges a run. `loss_percent` is the most that may be lost for the load to count as carried.
    pub fn judge(&self, report: &Report, losses: Losses, loss_percent: f64) -> Judgement {
        let is_ill = report.json["generator"]["ills"].as_array().is_some_and(|it| !it.is_empty());
        let is_lost = match self {
            Self::NoLoss => !losses.is_none,
            Self::Loss(percent) => losses.percent > *percent,
            Self::Slo(_) => losses.percent > loss_percent,
        };
        let lost = format!("{:.2} % lost", losses.percent);
        let plain = |state, measured| Judgement { state, measured, value_ns: None, samples: None };
        if is_lost && (losses.is_hard || !is_ill) {
            let measured = match (self, first_failure(report)) {
                (Self::NoLoss, Some(failure)) => failure,
                (Self::Slo(_), _) => format!("{NOT_CARRIED}: {lost}"),
                _ => lost,
            };
            return plain(State::Missed, measured);
        }
        if is_ill {
            return plain(State::Unclear, "the generator was too slow".to_owned());
        }
        match self {
            Self::Slo(slo) => of_slo(slo, report),
            _ if report.judged.counts.acks_due == 0 => {
                plain(State::Unclear, "no ACK was due".to_owned())
            }
            _ => plain(State::Met, lost),
        }
    }
}

/// Judges an objective by its samples.
fn of_slo(slo: &Slo, report: &Report) -> Judgement {
    let result = slo.check(&report.judged);
    let evidence = slo.evidence(&report.judged);
    let samples = Some([evidence.samples, evidence.samples_min]);
    let is_enough = evidence.samples >= evidence.samples_min;
    let state = match result.held {
        true if is_enough => State::Met,
        false if is_enough || evidence.beyond >= evidence.beyond_min => State::Missed,
        _ => State::TooFew,
    };
    let measured = match (result.value_ns, state) {
        (_, State::TooFew) => {
            let (samples, least) = (evidence.samples, evidence.samples_min);
            format!("insufficient samples: {} of {}", grouped(samples), grouped(least))
        }
        (value, _) => value.map_or_else(|| "not measured".to_owned(), show),
    };
    Judgement { state, measured, value_ns: result.value_ns, samples }
}

/// The first check that failed, and how often.
fn first_failure(report: &Report) -> Option<String> {
    let failures = &report.judged.failures;
    let (name, tally) = failures.get_key_value(NODE_LIMIT).or_else(|| failures.iter().next())?;
    Some(format!("{name}, {}", counted(tally.count, "time")))
}
