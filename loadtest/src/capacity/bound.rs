//! What bound the answer: the resource or the limit that the first failing load ran into.
//!
//! It is judged by figures, in an order in which the surest comes first. If no figure tells, the
//! answer says which flags would.

use serde::Serialize;

use super::goal::{Goal, State};
use super::search::Bracket;
use super::step::Step;
use crate::duration::show;
use crate::plural::counted;
use crate::slo::Slo;

/// A ring this full means that the disk was late. The node refuses calls from here on.
const RING_PERCENT: f64 = 75.0;

/// A shard with more CPU than this does not catch up after a stall.
const CPU_PERCENT: f64 = 85.0;

/// Less free memory than this is none.
const MEMORY_PERCENT: f64 = 5.0;

/// The syncs are to blame if they take this share of the latency that is asked for.
const SYNC_SHARE: f64 = 0.5;

/// Reasons of `/ready` that lie with the disk.
const DISK_REASONS: [&str; 3] = ["journal_stalled", "journal_unavailable", "ring_nearly_full"];

/// What bound the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bound {
    /// The kind.
    pub kind: Kind,
    /// In a sentence, with figures.
    pub text: String,
}

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The node's CPU.
    NodeCpu,
    /// The node's disk.
    Disk,
    /// A limit of the node's configuration: `--max-calls` or a quota.
    NodeLimit,
    /// Memory of the node's host.
    Memory,
    /// exo-load itself.
    Generator,
    /// An objective that not even the fewest calls meet.
    Slo,
    /// The most calls that were asked for: all held.
    CallsMax,
    /// The figures do not tell.
    Unknown,
}

/// What a bound is judged by.
pub struct Evidence<'a> {
    /// The goal that was missed first.
    pub goal: &'a Goal,
    /// Its place among the goals.
    pub index: usize,
    /// What is known about it.
    pub bracket: Bracket,
    /// All runs.
    pub steps: &'a [Step],
    /// Shards of the node, if a sweep has set them.
    pub cores: Option<u64>,
}

impl Bound {
    /// Judges it.
    pub fn new(evidence: &Evidence<'_>) -> Self {
        let Bracket { reached, failed, unclear, .. } = evidence.bracket;
        let is_unclear =
            unclear.is_some_and(|unclear| failed.is_none_or(|failed| unclear < failed));
        if is_unclear {
            return evidence.generator();
        }
        let Some(step) = failed.and_then(|calls| evidence.failing(calls)) else {
            let calls = counted(reached.unwrap_or(0), "call");
            return Self::of(Kind::CallsMax, format!("{calls} were the most that were tried"));
        };
        evidence
            .node_limit(step)
            .or_else(|| evidence.unmeetable(step))
            .or_else(|| evidence.disk(step))
            .or_else(|| evidence.cpu(step))
            .or_else(|| evidence.memory(step))
            .unwrap_or_else(|| evidence.unknown(step))
    }

    fn of(kind: Kind, text: String) -> Self {
        Self { kind, text }
    }
}

impl Evidence<'_> {
    /// A run with so many calls that missed the goal.
    fn failing(&self, calls: u64) -> Option<&Step> {
        let missed = |step: &&Step| {
            step.calls == calls
                && step.goals.get(self.index).is_some_and(|goal| goal.state == State::Missed)
        };
        self.steps.iter().rfind(missed)
    }

    fn generator(&self) -> Bound {
        let step = self.steps.iter().rfind(|step| Some(step.calls) == self.bracket.unclear);
        let (calls, why) = step.map_or_else(
            || (0, "its runs prove nothing".to_owned()),
            |step| (step.calls, step.ill.clone().unwrap_or_default()),
        );
        let calls = counted(calls, "call");
        Bound::of(
            Kind::Generator,
            format!(
                "exo-load was too slow for {calls}: {why}; give it CPUs of its own (--cpus), \
                 --realtime, or play from two machines and merge"
            ),
        )
    }

    fn node_limit(&self, step: &Step) -> Option<Bound> {
        if !step.is_node_limit {
            return None;
        }
        let some = match step.calls {
            1 => "the one call".to_owned(),
            calls => format!("some of {}", counted(calls, "call")),
        };
        let node = step.node.as_ref();
        let blamed = node.and_then(|node| {
            DISK_REASONS.into_iter().find(|reason| node.not_ready.contains(*reason))
        });
        if let Some(reason) = blamed {
            let text = format!("the node refused {some} with 503 because of its disk: {reason}");
            return Some(Bound::of(Kind::Disk, text));
        }
        let reason = match node {
            Some(node) if node.refusals.contains_key("quota") => "a tenant's quota",
            Some(node) if node.not_ready.contains("at_capacity") => "its --max-calls",
            _ => "its --max-calls, a quota, or too little disk or memory",
        };
        let text = format!("the node's own limit: it refused {some} with 503 ({reason})");
        Some(Bound::of(Kind::NodeLimit, text))
    }

    /// Not even the fewest calls meet the objective, although the node carries them.
    fn unmeetable(&self, step: &Step) -> Option<Bound> {
        let slo = self.slo().filter(|_| self.bracket.reached.is_none())?;
        let value = step.goals[self.index].value_ns?;
        let asked = slo.bound_ns().map_or_else(|| slo.to_string(), show);
        let mut text = format!(
            "{}: {}, asked for {asked} ({slo}): no number of calls meets it",
            counted(step.calls, "call"),
            show(value),
        );
        if let Some(disk) = self.disk(step) {
            text += &format!("; {}", disk.text);
        }
        Some(Bound::of(Kind::Slo, text))
    }

    fn disk(&self, step: &Step) -> Option<Bound> {
        let node = step.node.as_ref()?;
        let calls = counted(step.calls, "call");
        if node.ring_percent_max >= RING_PERCENT {
            let text = format!(
                "the disk: with {calls} a frame ring was {:.0} % full",
                node.ring_percent_max
            );
            return Some(Bound::of(Kind::Disk, text));
        }
        let asked = self.slo().filter(|slo| slo.metric() == crate::stats::Metric::Ack)?;
        let (sync, bound) = (node.sync_p99_ns?, asked.bound_ns()?);
        (sync as f64 >= bound as f64 * SYNC_SHARE).then(|| {
            let text = format!(
                "the disk: with {calls} one sync in a hundred took up to {} or more, and the \
                 objective is {asked}",
                show(sync)
            );
            Bound::of(Kind::Disk, text)
        })
    }

    fn cpu(&self, step: &Step) -> Option<Bound> {
        let node = step.node.as_ref();
        let cores = self.cores.or(node.map(|node| node.shards)).filter(|cores| *cores > 0)?;
        let peak = node.and_then(|node| node.cpu_percent_max);
        let used = step.server_cpu_percent.into_iter().chain(peak).fold(0.0, f64::max);
        (used >= CPU_PERCENT * cores as f64).then(|| {
            let (calls, shards) = (counted(step.calls, "call"), counted(cores, "shard"));
            let text = format!(
                "the node's CPU: with {calls} it used {used:.0} % of a core, and has {shards}"
            );
            Bound::of(Kind::NodeCpu, text)
        })
    }

    fn memory(&self, step: &Step) -> Option<Bound> {
        let free = step.memory_free_percent.filter(|free| *free < MEMORY_PERCENT)?;
        let calls = counted(step.calls, "call");
        let text = format!("memory: with {calls} only {free:.1} % of the host's was free");
        Some(Bound::of(Kind::Memory, text))
    }

    /// No figure is near its limit: says which are known, and which flags bring more.
    fn unknown(&self, step: &Step) -> Bound {
        let judgement = &step.goals[self.index];
        let mut text = format!(
            "not clear: {} missed '{}' ({})",
            counted(step.calls, "call"),
            self.goal.name(),
            judgement.measured
        );
        if let Some(cpu) = step.server_cpu_percent {
            text += &format!("; the node used {cpu:.0} % of a core");
        }
        if let Some(cpu) = step.generator_cpu_percent {
            text += &format!("; exo-load used {cpu:.0} % of its cores");
        }
        match &step.node {
            Some(node) if node.standstills > 0 => {
                let times = counted(node.standstills, "time");
                text += &format!("; the CPU was taken away from a shard {times}");
            }
            Some(node) => {
                text += &format!("; its fullest ring was {:.0} % full", node.ring_percent_max);
            }
            None => text += "; give --admin to see the node's disk and shards",
        }
        Bound::of(Kind::Unknown, text)
    }

    fn slo(&self) -> Option<&Slo> {
        match self.goal {
            Goal::Slo(slo) => Some(slo),
            Goal::NoLoss | Goal::Loss(_) => None,
        }
    }
}
