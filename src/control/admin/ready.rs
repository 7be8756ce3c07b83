//! Whether the node should get calls, and if not, why. The names of reasons are stable: alerts use
//! them.

use super::node_info::NodeInfo;
use serde::Serialize;

/// New calls should go elsewhere once the disk has made no progress for this time. A shorter pause
/// is normal.
const STALLED_MS_MAX: u64 = 2_000;

/// The data that decides readiness.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeCondition {
    pub(crate) is_draining: bool,
    /// The longest of all shards' times.
    pub(crate) stalled_ms: u64,
    /// Whether a shard refuses calls.
    pub(crate) refuses_calls: bool,
    /// Whether a shard refuses calls because of its frame ring.
    pub(crate) ring_refuses_calls: bool,
    /// Whether a shard refuses calls because too much waits for required sinks.
    pub(crate) budget_refuses_calls: bool,
    pub(crate) calls_live: usize,
    pub(crate) calls_max: usize,
    /// Shards that do not run.
    pub(crate) stuck: Vec<usize>,
}

/// One reason not to be ready.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reason {
    /// One of [`NAMES`].
    #[serde(rename = "reason")]
    pub(super) name: &'static str,
    /// Text for people.
    pub(super) message: String,
}

const DRAINING: &str = "draining";
const JOURNAL_STALLED: &str = "journal_stalled";
const JOURNAL_UNAVAILABLE: &str = "journal_unavailable";
const RING_NEARLY_FULL: &str = "ring_nearly_full";
const AT_CAPACITY: &str = "at_capacity";
const SHARD_STUCK: &str = "shard_stuck";

const SINK_BUDGET: &str = "sink_budget";

/// All names.
pub(super) const NAMES: [&str; 7] = [
    DRAINING,
    JOURNAL_STALLED,
    JOURNAL_UNAVAILABLE,
    RING_NEARLY_FULL,
    SINK_BUDGET,
    AT_CAPACITY,
    SHARD_STUCK,
];

/// All reasons that hold now.
pub(super) fn reasons(condition: &NodeCondition) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |name, message| reasons.push(Reason { name, message });
    if condition.is_draining {
        add(DRAINING, "the node is draining: it takes no new calls".into());
    }
    if condition.stalled_ms > STALLED_MS_MAX {
        add(
            JOURNAL_STALLED,
            format!("the disk has made no progress for {} ms", condition.stalled_ms),
        );
    }
    if condition.refuses_calls {
        let message =
            "less than journal.reserve is free, or the disk takes no data: new calls get 503";
        add(JOURNAL_UNAVAILABLE, message.into());
    }
    if condition.ring_refuses_calls {
        add(
            RING_NEARLY_FULL,
            "the disk is too slow and a frame ring is nearly full: new calls get 503".into(),
        );
    }
    if condition.budget_refuses_calls {
        let message = "required sinks lack more of the journal than forward.budget allows: new \
                       calls get 503 until they have taken an eighth of it";
        add(SINK_BUDGET, message.into());
    }
    if condition.calls_live >= condition.calls_max {
        add(
            AT_CAPACITY,
            format!(
                "calls live: {}, of {} allowed by limits.calls_max",
                condition.calls_live, condition.calls_max
            ),
        );
    }
    if !condition.stuck.is_empty() {
        add(SHARD_STUCK, format!("these shards have not run for seconds: {:?}", condition.stuck));
    }
    reasons
}

#[derive(Serialize)]
struct Document<'a> {
    status: &'static str,
    ack: &'static str,
    /// ACKs are at a lower level now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ack_degraded: bool,
    calls: usize,
    calls_max: usize,
    #[serde(skip_serializing_if = "<[Reason]>::is_empty")]
    reasons: &'a [Reason],
    /// Things that need attention but keep no call away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

/// A warning: it is well now and will not stay so.
#[derive(Debug, Serialize)]
struct Warning {
    #[serde(rename = "warning")]
    name: &'static str,
    message: String,
}

/// A certificate expires within two weeks, or has expired. Then clients refuse the node, which
/// cannot see that.
const CERTIFICATE_EXPIRES: &str = "certificate_expires";

/// Retention cannot remove a file: the immutable attribute, for example. Others are removed
/// instead, and the disk may fill up.
const SEGMENTS_HELD: &str = "segments_held";

/// An archive does not take the journal. The journal waits for it, and the disk may fill up.
const SINK_FAILS: &str = "sink_fails";

/// The settings of a message engine may lose what it has acknowledged.
const SINK_UNSAFE: &str = "sink_unsafe";

/// The journal grows because it waits for a sink, and the disk is full within hours.
const DISK_FILLS: &str = "disk_fills";

/// ACKs wait, because the message engine does not acknowledge audio.
const ENGINE_LATE: &str = "engine_late";

/// ACKs mean `durable` and not `replicated`, for the same reason.
const ACK_DEGRADED: &str = "ack_degraded";

/// How ACKs fare that are to wait for a message engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EngineCondition {
    /// Calls whose frames it has not acknowledged.
    pub(super) calls_waiting: u64,
    /// It has not done so in time.
    pub(super) is_late: bool,
    /// ACKs go out without it.
    pub(super) is_degraded: bool,
}

impl EngineCondition {
    /// A sentence about it, with its name, if it needs attention.
    pub(super) fn notice(self) -> Option<(&'static str, String)> {
        let calls = self.calls_waiting;
        if self.is_degraded {
            let message = format!(
                "the message engine does not acknowledge audio in time: ACKs mean durable, not \
                 replicated; calls with audio that it lacks: {calls}"
            );
            return Some((ACK_DEGRADED, message));
        }
        let message = || {
            format!(
                "the message engine does not acknowledge audio in time: ACKs wait, and calls are \
                 closed after journal.stall_timeout; calls with audio that it lacks: {calls}"
            )
        };
        self.is_late.then(|| (ENGINE_LATE, message()))
    }
}

/// Sentences about what needs attention, by their subject.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    /// Certificates that expire.
    pub(super) expiry: Vec<String>,
    /// Segments that cannot be removed.
    pub(super) held: Option<String>,
    /// Sinks of the journal that take nothing.
    pub(super) sinks: Vec<String>,
    /// Settings of sinks that may lose something.
    pub(super) risks: Vec<String>,
    /// A message engine that is late, with the name of the warning.
    pub(super) engine: Option<(&'static str, String)>,
    /// When the disk is full.
    pub(super) disk: Option<String>,
}

/// The answer to `/ready`.
pub(super) fn document(
    node_info: &NodeInfo,
    calls: usize,
    reasons: &[Reason],
    notices: Notices,
) -> Result<String, serde_json::Error> {
    let document = Document {
        status: if reasons.is_empty() { "ready" } else { "not ready" },
        ack: node_info.ack,
        ack_degraded: notices.engine.as_ref().is_some_and(|(name, _)| *name == ACK_DEGRADED),
        calls,
        calls_max: node_info.calls_max,
        reasons,
        warnings: warnings(notices).map(|(name, message)| Warning { name, message }).collect(),
    };
    serde_json::to_string(&document).map(|text| text + "\n")
}

/// Names and messages of what needs attention.
pub(super) fn warnings(notices: Notices) -> impl Iterator<Item = (&'static str, String)> {
    let expiry = notices.expiry.into_iter().map(|message| (CERTIFICATE_EXPIRES, message));
    let held = notices.held.into_iter().map(|message| (SEGMENTS_HELD, message));
    let sinks = notices.sinks.into_iter().map(|message| (SINK_FAILS, message));
    let risks = notices.risks.into_iter().map(|message| (SINK_UNSAFE, message));
    let disk = notices.disk.into_iter().map(|message| (DISK_FILLS, message));
    expiry.chain(held).chain(sinks).chain(risks).chain(disk).chain(notices.engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_listed_by_their_names() {
        let info = NodeInfo { ack: "durable", calls_max: 10, log_lines_dropped: || 0 };
        let notices = Notices {
            expiry: vec!["soon".into()],
            held: Some("a file".into()),
            sinks: vec!["away".into()],
            risks: vec!["lazy".into()],
            disk: Some("full".into()),
            engine: Some((ACK_DEGRADED, "late".into())),
        };
        let text = document(&info, 1, &[], notices).unwrap();
        let expiry = r#"{"warning":"certificate_expires","message":"soon"}"#;
        let held = r#"{"warning":"segments_held","message":"a file"}"#;
        let sink = r#"{"warning":"sink_fails","message":"away"}"#;
        let risk = r#"{"warning":"sink_unsafe","message":"lazy"}"#;
        let disk = r#"{"warning":"disk_fills","message":"full"}"#;
        let engine = r#"{"warning":"ack_degraded","message":"late"}"#;
        let all = format!(r#""warnings":[{expiry},{held},{sink},{risk},{disk},{engine}]"#);
        assert!(text.contains(&all) && text.contains(r#""ack_degraded":true,"#), "{text}");
        let text = document(&info, 1, &[], Notices::default()).unwrap();
        assert!(!text.contains("warnings") && !text.contains("degraded"), "{text}");
        assert!(text.contains("\"ready\""), "{text}");
    }

    #[test]
    fn a_late_engine_is_told_with_what_it_means_for_acks() {
        let condition = EngineCondition { calls_waiting: 7, is_late: false, is_degraded: false };
        assert_eq!(condition.notice(), None);
        let late = EngineCondition { is_late: true, ..condition };
        let (name, message) = late.notice().unwrap();
        assert!(name == ENGINE_LATE && message.contains("wait") && message.ends_with(": 7"));
        let (name, message) = EngineCondition { is_degraded: true, ..late }.notice().unwrap();
        assert!(name == ACK_DEGRADED && message.contains("mean durable"), "{message}");
    }

    fn names(change: impl FnOnce(&mut NodeCondition)) -> Vec<&'static str> {
        let mut condition = NodeCondition {
            calls_max: 10,
            calls_live: 9,
            stalled_ms: 2_000,
            ..NodeCondition::default()
        };
        change(&mut condition);
        let reasons = reasons(&condition);
        assert!(
            reasons.iter().all(|reason| NAMES.contains(&reason.name) && !reason.message.is_empty())
        );
        reasons.into_iter().map(|reason| reason.name).collect()
    }

    #[test]
    fn each_reason_has_its_name_and_all_that_hold_are_listed() {
        assert_eq!(names(|_| {}), [""; 0]);
        assert_eq!(names(|condition| condition.is_draining = true), ["draining"]);
        assert_eq!(names(|condition| condition.stalled_ms = 2_001), ["journal_stalled"]);
        assert_eq!(names(|condition| condition.refuses_calls = true), ["journal_unavailable"]);
        assert_eq!(names(|condition| condition.ring_refuses_calls = true), ["ring_nearly_full"]);
        assert_eq!(names(|condition| condition.budget_refuses_calls = true), ["sink_budget"]);
        assert_eq!(names(|condition| condition.calls_live = 10), ["at_capacity"]);
        assert_eq!(names(|condition| condition.stuck.push(1)), ["shard_stuck"]);
        let all = names(|condition| {
            let (stuck, stalled_ms) = (vec![0], 9_999);
            let (refuses_calls, ring_refuses_calls) = (true, true);
            let budget_refuses_calls = true;
            *condition = NodeCondition {
                is_draining: true,
                stalled_ms,
                refuses_calls,
                ring_refuses_calls,
                budget_refuses_calls,
                stuck,
                ..NodeCondition::default()
            };
        });
        assert_eq!(all, NAMES);
    }
}
