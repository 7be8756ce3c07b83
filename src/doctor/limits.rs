//! Limits of the process, as `ulimit` and systemd set them.
//!
//! They are those of this command. Run it the way the node runs, or its limits may differ.

use super::check::{Check, Severity, Source, Topic};
use super::demand::Demand;
use super::kernel::status_field;
use super::plan::Plan;
use super::root::Root;
use crate::config::ring_size::{show_count, show_rounded};

static OPEN_FILES: Topic = Topic {
    id: "limits.open_files",
    severity: Severity::Fatal,
    condition: "The process may open a descriptor for each call, and some more",
    why: "Each call is a socket. With fewer descriptors than --max-calls needs, serve does not \
          start.",
    by_hand: "ulimit -Hn",
    fix: "raise the hard limit: LimitNOFILE=524288 in the unit, `ulimit -Hn 524288`, or docker's \
          --ulimit nofile=524288; or lower --max-calls",
    reference: "docs/sizing.md, Other limits; tuning/README.md, Limits of the process",
    source: Source::Node(
        "src/node/open_files.rs",
        "`serve` counts descriptors in the same way, and does not start with fewer",
    ),
};

static LOCKED_MEMORY: Topic = Topic {
    id: "limits.locked_memory",
    severity: Severity::Fatal,
    condition: "The process may lock the frame rings of all shards",
    why: "Frame rings are registered with the kernel, which counts as locked memory. Otherwise \
          each write looks up its pages again, and serve asks for --allow-unregistered.",
    by_hand: "ulimit -l",
    fix: "raise the limit: LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited`, or docker's \
          --ulimit memlock=-1; or pass --allow-unregistered",
    reference: "docs/sizing.md, Frame ring; tuning/README.md, Limits of the process",
    source: Source::Node(
        "src/config/ring_size.rs",
        "registered rings count as locked memory, and `serve` does not start if they do not fit",
    ),
};

static FILE_SIZE: Topic = Topic {
    id: "limits.file_size",
    severity: Severity::Fatal,
    condition: "The process may write files as large as a segment of the journal",
    why: "A segment is allocated in full before it is used. With a lower limit serve does not \
          start.",
    by_hand: "ulimit -f",
    fix: "raise the limit: `ulimit -f unlimited`, LimitFSIZE=infinity in the unit; or set a \
          smaller journal.segment_size",
    reference: "docs/configuration.md, journal.segment_size",
    source: Source::Manual(
        "getrlimit(2), RLIMIT_FSIZE",
        "a file cannot grow beyond the limit; a segment is allocated in full",
    ),
};

static CPU_TIME: Topic = Topic {
    id: "limits.cpu_time",
    severity: Severity::Warning,
    condition: "The CPU time of the process is not limited",
    why: "At the limit the kernel sends SIGXCPU, and the node drains and exits.",
    by_hand: "ulimit -t",
    fix: "remove the limit: `ulimit -t unlimited`, LimitCPU=infinity in the unit",
    reference: "docs/operations.md, Signals and exit codes",
    source: Source::Manual(
        "getrlimit(2), RLIMIT_CPU",
        "SIGXCPU at the soft limit, SIGKILL at the hard one",
    ),
};

static MAX_CALLS: Topic = Topic {
    id: "limits.max_calls",
    severity: Severity::Fatal,
    condition: "The node's own limits admit N calls",
    why: "Calls beyond --max-calls, or beyond limits.connections_max of their shard, get 503.",
    by_hand: "exo-ingest config | grep -E 'calls_max|connections_max'",
    fix: "raise --max-calls, or limits.connections_max, or use more shards",
    reference: "docs/sizing.md, Other limits",
    source: Source::Node(
        "src/shard/admission.rs",
        "a call beyond these limits is refused with 503",
    ),
};

pub(super) static TOPICS: [&Topic; 5] =
    [&OPEN_FILES, &LOCKED_MEMORY, &FILE_SIZE, &CPU_TIME, &MAX_CALLS];

/// Bit of CAP_IPC_LOCK: such a process may lock any amount.
const CAP_IPC_LOCK: u32 = 14;

/// A limit: `None` is unlimited.
type Limit = Option<u64>;

/// What was found; the outer `None` is unknown.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitFacts {
    /// The hard limit: the node raises its soft limit to it.
    pub(super) open_files: Option<Limit>,
    pub(super) locked: Option<Limit>,
    pub(super) file_size: Option<Limit>,
    /// Seconds.
    pub(super) cpu_time: Option<Limit>,
}

impl LimitFacts {
    pub(super) fn read(root: &Root) -> LimitFacts {
        let Some(text) = root.text("proc/self/limits") else { return LimitFacts::default() };
        let locked = limit(&text, "Max locked memory", 0);
        LimitFacts {
            open_files: limit(&text, "Max open files", 1),
            locked: if may_lock_all(root) { Some(None) } else { locked },
            file_size: limit(&text, "Max file size", 0),
            cpu_time: limit(&text, "Max cpu time", 0),
        }
    }
}

/// The soft (0) or hard (1) value of a row of `/proc/self/limits`.
fn limit(text: &str, row: &str, column: usize) -> Option<Limit> {
    let values = text.lines().find_map(|line| line.strip_prefix(row))?;
    match values.split_whitespace().nth(column)? {
        "unlimited" => Some(None),
        value => value.parse().ok().map(Some),
    }
}

/// As [`crate::io::host::Host`] decides it, but from the tree's files.
fn may_lock_all(root: &Root) -> bool {
    let effective = status_field(root, "CapEff");
    let effective = effective.and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(0);
    let users = root.text("proc/self/uid_map").unwrap_or_default();
    let is_first_namespace = users.split_whitespace().eq(["0", "0", "4294967295"]);
    effective >> CAP_IPC_LOCK & 1 == 1 && is_first_namespace
}

pub(super) fn checks(facts: &LimitFacts, plan: &Plan, demand: &Demand) -> Vec<Check> {
    vec![
        open_files(facts, plan, demand),
        locked_memory(facts, plan, demand),
        file_size(facts, plan),
        cpu_time(facts),
        max_calls(plan),
    ]
}

const UNREADABLE: &str = "/proc/self/limits cannot be read";

fn open_files(facts: &LimitFacts, plan: &Plan, demand: &Demand) -> Check {
    let calls = show_count(plan.calls.max(plan.calls_max));
    let check = Check::of(&OPEN_FILES)
        .required(format!("{} for {calls} calls", show_count(demand.open_files as usize)));
    match facts.open_files {
        None => check.skipped(UNREADABLE),
        Some(None) => check.current("unlimited").holds(true),
        Some(Some(limit)) => {
            check.current(show_count(limit as usize)).holds(limit >= demand.open_files)
        }
    }
}

fn locked_memory(facts: &LimitFacts, plan: &Plan, demand: &Demand) -> Check {
    let check = Check::of(&LOCKED_MEMORY).required(show_rounded(demand.locked));
    match facts.locked {
        None => check.skipped(UNREADABLE),
        Some(None) => check.current("unlimited").holds(true),
        Some(Some(limit)) if plan.allow_unregistered => check
            .current(show_rounded(limit))
            .severity(Severity::Info)
            .holds(limit >= demand.locked),
        Some(Some(limit)) => check.current(show_rounded(limit)).holds(limit >= demand.locked),
    }
}

fn file_size(facts: &LimitFacts, plan: &Plan) -> Check {
    let wanted = plan.journal.segment_size;
    let check = Check::of(&FILE_SIZE).required(show_rounded(wanted));
    match facts.file_size {
        _ if !plan.has_journal => check.skipped("there is no journal"),
        None => check.skipped(UNREADABLE),
        Some(None) => check.current("unlimited").holds(true),
        Some(Some(limit)) => check.current(show_rounded(limit)).holds(limit >= wanted),
    }
}

fn cpu_time(facts: &LimitFacts) -> Check {
    let check = Check::of(&CPU_TIME).required("unlimited");
    match facts.cpu_time {
        None => check.skipped(UNREADABLE),
        Some(None) => check.current("unlimited").holds(true),
        Some(Some(seconds)) => check.current(format!("{seconds} s")).holds(false),
    }
}

fn max_calls(plan: &Plan) -> Check {
    let shards = plan.shards.len();
    let of_shards = plan.connections_max.saturating_mul(shards);
    let admitted = plan.calls_max.min(of_shards);
    let from = if plan.calls_max <= of_shards { "--max-calls" } else { "limits.connections_max" };
    Check::of(&MAX_CALLS)
        .required(format!("{} calls", show_count(plan.calls)))
        .current(format!("{} calls ({from})", show_count(admitted)))
        .fix(format!("raise {from}, or use more nodes"))
        .holds(plan.calls <= admitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};
    use crate::io::host::Host;

    fn judge(facts: &LimitFacts, plan: &Plan) -> Vec<Check> {
        checks(facts, plan, &Demand::of(plan))
    }

    #[test]
    fn each_check_passes_and_fails() {
        let plan = Plan::of_calls(8_000);
        let unlimited = LimitFacts {
            open_files: Some(None),
            locked: Some(None),
            file_size: Some(None),
            cpu_time: Some(None),
        };
        let low = LimitFacts {
            open_files: Some(Some(1024)),
            locked: Some(Some(8 << 20)),
            file_size: Some(Some(1 << 20)),
            cpu_time: Some(Some(60)),
        };
        let small = Plan { calls_max: 4_000, ..plan.clone() };
        for topic in TOPICS {
            assert_passes(judge(&unlimited, &plan), topic.id);
            assert_fails(judge(&low, &small), topic.id);
        }
        for topic in &TOPICS[..4] {
            assert_skips(judge(&LimitFacts::default(), &plan), topic.id);
        }
        let unregistered = Plan { allow_unregistered: true, ..plan };
        let check = find(judge(&low, &unregistered), "limits.locked_memory");
        assert!(check.has_failed(Severity::Info), "serve starts: {check:?}");
    }

    #[test]
    fn a_full_shard_limits_the_node_too() {
        let plan = Plan { connections_max: 1_000, ..Plan::of_calls(8_000) };
        let check = find(judge(&LimitFacts::default(), &plan), "limits.max_calls");
        assert!(check.has_failed(Severity::Fatal) && check.fix.contains("connections_max"));
    }

    #[test]
    fn files_say_what_the_kernel_says() {
        let facts = LimitFacts::read(&Root::live());
        assert_eq!(facts.locked, Some(Host::read().locked));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        assert_eq!(facts.open_files, Some(limit));
        assert!(facts.file_size.is_some() && facts.cpu_time.is_some(), "{facts:?}");
    }
}
