//! Whether the node should get calls, and why not. The names of reasons are stable: alerts are written against them.

use super::status::Status;
use serde::Serialize;

/// A disk that makes no progress for so long is a reason to send new calls elsewhere. Before that it is an ordinary hiccup.
const STALLED_MS_MAX: u64 = 2_000;

/// What readiness is judged by.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    pub is_draining: bool,
    /// The longest of all shards.
    pub stalled_ms: u64,
    /// Of any shard.
    pub refuses_calls: bool,
    pub calls_live: usize,
    pub calls_max: usize,
    /// Shards that do not turn.
    pub stuck: Vec<usize>,
}

/// One reason not to be ready.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// One of [`NAMES`].
    #[serde(rename = "reason")]
    pub(super) name: &'static str,
    /// For people.
    message: String,
}

const DRAINING: &str = "draining";
const JOURNAL_STALLED: &str = "journal_stalled";
const JOURNAL_UNAVAILABLE: &str = "journal_unavailable";
const AT_CAPACITY: &str = "at_capacity";
const SHARD_STUCK: &str = "shard_stuck";

/// All of them.
pub(super) const NAMES: [&str; 5] = [DRAINING, JOURNAL_STALLED, JOURNAL_UNAVAILABLE, AT_CAPACITY, SHARD_STUCK];

/// All that hold.
pub(super) fn reasons(sight: &Sight) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |name, message| reasons.push(Reason { name, message });
    if sight.is_draining {
        add(DRAINING, "the node is going away".into());
    }
    if sight.stalled_ms > STALLED_MS_MAX {
        add(JOURNAL_STALLED, format!("the disk has made no progress for {} ms", sight.stalled_ms));
    }
    if sight.refuses_calls {
        let message = "the disk has less free than journal.reserve, or takes no more: new calls get 503";
        add(JOURNAL_UNAVAILABLE, message.into());
    }
    if sight.calls_live >= sight.calls_max {
        add(AT_CAPACITY, format!("{} calls are live, of {} allowed by limits.calls_max", sight.calls_live, sight.calls_max));
    }
    if !sight.stuck.is_empty() {
        add(SHARD_STUCK, format!("these shards have not turned for seconds: {:?}", sight.stuck));
    }
    reasons
}

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    ack: &'static str,
    calls: usize,
    calls_max: usize,
    #[serde(skip_serializing_if = "<[Reason]>::is_empty")]
    reasons: &'a [Reason],
}

/// The answer to `/ready`.
pub(super) fn document(status: &Status, reasons: &[Reason]) -> Result<String, serde_json::Error> {
    let document = Document {
        status: if reasons.is_empty() { "ready" } else { "not ready" },
        ack: status.facts().ack,
        calls: status.calls_live(),
        calls_max: status.facts().calls_max,
        reasons,
    };
    serde_json::to_string(&document).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(change: impl FnOnce(&mut Sight)) -> Vec<&'static str> {
        let mut sight = Sight { calls_max: 10, calls_live: 9, stalled_ms: 2_000, ..Sight::default() };
        change(&mut sight);
        let reasons = reasons(&sight);
        assert!(reasons.iter().all(|reason| NAMES.contains(&reason.name) && !reason.message.is_empty()));
        reasons.into_iter().map(|reason| reason.name).collect()
    }

    #[test]
    fn each_reason_has_its_name_and_they_add_up() {
        assert_eq!(names(|_| {}), [""; 0]);
        assert_eq!(names(|sight| sight.is_draining = true), ["draining"]);
        assert_eq!(names(|sight| sight.stalled_ms = 2_001), ["journal_stalled"]);
        assert_eq!(names(|sight| sight.refuses_calls = true), ["journal_unavailable"]);
        assert_eq!(names(|sight| sight.calls_live = 10), ["at_capacity"]);
        assert_eq!(names(|sight| sight.stuck.push(1)), ["shard_stuck"]);
        let all = names(|sight| {
            *sight = Sight { is_draining: true, stalled_ms: 9_999, refuses_calls: true, stuck: vec![0], ..Sight::default() };
        });
        assert_eq!(all, NAMES);
    }
}
