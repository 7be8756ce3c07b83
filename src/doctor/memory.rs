//! Memory: what the node, its rings and its sockets take, and what may delay a page.

use super::check::{Check, Severity, Source, Topic};
use super::demand::Demand;
use super::plan::Plan;
use super::root::{Root, chosen};
use crate::config::ring_size::{self, show_count, show_rounded, show_stall};
use crate::io::host::{Host, Memory};

static NODE: Topic = Topic {
    id: "memory.node",
    severity: Severity::Fatal,
    condition: "The memory holds the frame rings, the shards and N calls",
    why: "A node takes its rings at start, every page of them. A node that is too large does not \
          start, or the kernel kills it.",
    by_hand: "free -m; systemctl show exo-ingest -p MemoryMax",
    fix: "lower limits.ring_size or the number of shards, or give the node more memory",
    reference: "docs/sizing.md, Memory",
    source: Source::Measured(
        "docs/sizing.md",
        "memory of rings, shards and calls; a ring has every page from the start",
    ),
};

static SOCKETS: Topic = Topic {
    id: "memory.sockets",
    severity: Severity::Warning,
    condition: "The memory also holds what N calls send in a stall of 2 s after the rings are full",
    why: "The kernel then keeps the audio in socket buffers, and counts it for the cgroup: calls × \
          48,000 B/s × 2 s × 2, because a buffer counts its pages and not its bytes.",
    by_hand: "cat /proc/net/sockstat   (mem, in pages)",
    fix: "give the node more memory, or lower --max-calls",
    reference: "docs/sizing.md, Memory",
    source: Source::Choice(
        "because a ring bridges 2 s, and we give the sockets the same time. The factor 2 is how \
         much memory the kernel counted for a payload by default until Linux 6.5 \
         (net.ipv4.tcp_adv_win_scale, Documentation/networking/ip-sysctl.rst); since then it goes \
         by the packets of each socket (Linux commit dfa2f0483360)",
    ),
};

static FRAME_RING: Topic = Topic {
    id: "memory.frame_ring",
    severity: Severity::Warning,
    condition: "The frame rings bridge a disk stall of 2 s at N calls",
    why: "A full ring stops the reading of calls, and new calls get 503. Ordinary disks stall for \
          a second now and then.",
    by_hand: "exo-ingest config | grep ring_size",
    fix: "raise limits.ring_size, or what limits it: LimitMEMLOCK= and memory",
    reference: "docs/sizing.md, Frame ring",
    source: Source::Choice(
        "because ordinary disks stall for a second now and then, and twice that leaves room. \
         src/config/ring_size.rs sizes rings for the same 2 s",
    ),
};

static HUGE_PAGES: Topic = Topic {
    id: "memory.huge_pages",
    severity: Severity::Info,
    condition: "No page fault waits until the kernel has made room for a huge page",
    why: "With transparent huge pages and their defragmentation both `always`, a fault may wait \
          for compaction. A shard that waits stops all of its calls. Not measured.",
    by_hand: "cat /sys/kernel/mm/transparent_hugepage/{enabled,defrag}",
    fix: "echo madvise > /sys/kernel/mm/transparent_hugepage/defrag",
    reference: "Documentation/admin-guide/mm/transhuge.rst of the kernel",
    source: Source::Kernel(
        "admin-guide/mm/transhuge.rst",
        "with `always` an allocation stalls to reclaim and compact memory; `madvise` is the \
         default",
    ),
};

static SWAP: Topic = Topic {
    id: "memory.swap",
    severity: Severity::Warning,
    condition: "The node's memory is not swapped out",
    why: "A shard that waits for a page stops all of its calls.",
    by_hand: "swapon --show; cat /sys/fs/cgroup/…/memory.swap.max",
    fix: "MemorySwapMax=0 in the unit, or swapoff -a",
    reference: "tuning/README.md, Memory",
    source: Source::Kernel(
        "admin-guide/cgroup-v2.rst",
        "at memory.swap.max the memory of the cgroup is not swapped out",
    ),
};

static SWAPPINESS: Topic = Topic {
    id: "memory.swappiness",
    severity: Severity::Warning,
    condition: "The kernel prefers to drop cached files before it swaps",
    why: "Reading segments fills the page cache. The memory of shards must not make room for it.",
    by_hand: "sysctl vm.swappiness",
    fix: "sysctl -w vm.swappiness=10",
    reference: "tuning/README.md, Memory; tuning/host.sh",
    source: Source::Choice(
        "because low values tell the kernel that swapping costs more than dropping cached files \
         (Documentation/admin-guide/sysctl/vm.rst; the default is 60, the best value takes \
         trials). 10 still lets it swap what is never used",
    ),
};

pub(super) static TOPICS: [&Topic; 6] =
    [&NODE, &SOCKETS, &FRAME_RING, &HUGE_PAGES, &SWAP, &SWAPPINESS];

/// As in `tuning/host.sh`.
pub(super) const SWAPPINESS_MAX: u64 = 10;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryFacts {
    /// The machine's memory, or the cgroup's limit.
    pub(crate) memory: Memory,
    /// Bytes of all swap devices; `None`: unknown.
    pub(super) swap: Option<u64>,
    /// The cgroup allows no swap.
    pub(super) is_swap_denied: bool,
    pub(super) swappiness: Option<u64>,
    /// `always`, `madvise` or `never`; `None`: not in this kernel.
    pub(super) huge_pages: Option<String>,
    pub(super) defrag: Option<String>,
}

impl MemoryFacts {
    pub(super) fn read(root: &Root) -> MemoryFacts {
        let huge = |name: &str| {
            let text = root.text(&format!("sys/kernel/mm/transparent_hugepage/{name}"))?;
            chosen(&text).map(str::to_owned)
        };
        MemoryFacts {
            memory: memory(root),
            swap: root.text("proc/swaps").map(|text| swap_size(&text)),
            is_swap_denied: root
                .cgroup_values("memory", "memory.swap.max", "")
                .iter()
                .any(|(_, value)| value == "0"),
            swappiness: root.number("proc/sys/vm/swappiness"),
            huge_pages: huge("enabled"),
            defrag: huge("defrag"),
        }
    }
}

fn memory(root: &Root) -> Memory {
    if root.is_live() {
        return Host::read().memory;
    }
    let info = root.text("proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let memberships = root.text("proc/self/cgroup").unwrap_or_default();
    Memory::within(kib.unwrap_or(0) * 1024, &memberships, &root.path("sys/fs/cgroup"))
}

/// Bytes of the devices in `/proc/swaps`.
fn swap_size(text: &str) -> u64 {
    let kib = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2));
    kib.filter_map(|size| size.parse::<u64>().ok()).sum::<u64>() * 1024
}

pub(super) fn checks(facts: &MemoryFacts, plan: &Plan, demand: &Demand) -> Vec<Check> {
    vec![
        node(facts, demand),
        sockets(facts, demand),
        frame_ring(plan, demand),
        huge_pages(facts),
        swap(facts),
        swappiness(facts),
    ]
}

fn found(memory: &Memory) -> String {
    match &memory.cgroup {
        Some(file) => format!("{} ({})", show_rounded(memory.size), file.display()),
        None => show_rounded(memory.size),
    }
}

fn node(facts: &MemoryFacts, demand: &Demand) -> Check {
    let check = Check::of(&NODE).required(show_rounded(demand.memory));
    match facts.memory.size {
        0 => check.skipped("the size of the memory is unknown"),
        size => check.current(found(&facts.memory)).holds(demand.memory <= size),
    }
}

fn sockets(facts: &MemoryFacts, demand: &Demand) -> Check {
    let wanted = demand.memory + demand.socket_memory;
    let check = Check::of(&SOCKETS).required(format!(
        "{} (node {}, sockets {})",
        show_rounded(wanted),
        show_rounded(demand.memory),
        show_rounded(demand.socket_memory)
    ));
    match facts.memory.size {
        0 => check.skipped("the size of the memory is unknown"),
        size => check.current(found(&facts.memory)).holds(wanted <= size),
    }
}

fn frame_ring(plan: &Plan, demand: &Demand) -> Check {
    let check = Check::of(&FRAME_RING);
    if !plan.has_journal {
        return check.skipped("without a journal no audio waits in a ring");
    }
    let bridged = ring_size::bridged(plan.ring_size, plan.calls_of_shard());
    check
        .required(format!("{} a shard", show_rounded(demand.ring_size as u64)))
        .current(format!(
            "{} a shard: {} at {} calls",
            show_rounded(plan.ring_size as u64),
            show_stall(bridged),
            show_count(plan.calls)
        ))
        .holds(bridged >= ring_size::STALL)
}

fn huge_pages(facts: &MemoryFacts) -> Check {
    let check = Check::of(&HUGE_PAGES)
        .required("not both `always`")
        .command("echo madvise > /sys/kernel/mm/transparent_hugepage/defrag");
    let (Some(enabled), Some(defrag)) = (&facts.huge_pages, &facts.defrag) else {
        return check.skipped("this kernel has no transparent huge pages");
    };
    check
        .current(format!("enabled {enabled}, defrag {defrag}"))
        .holds(enabled != "always" || defrag != "always")
}

fn swap(facts: &MemoryFacts) -> Check {
    let check = Check::of(&SWAP).required("no swap, or none for this cgroup");
    match facts.swap {
        None => check.skipped("/proc/swaps cannot be read"),
        Some(0) => check.current("no swap").holds(true),
        Some(size) if facts.is_swap_denied => {
            check.current(format!("{}, none for this cgroup", show_rounded(size))).holds(true)
        }
        Some(size) => check.current(show_rounded(size)).holds(false),
    }
}

fn swappiness(facts: &MemoryFacts) -> Check {
    let name = "vm.swappiness";
    let check = Check::of(&SWAPPINESS)
        .required(format!("at most {SWAPPINESS_MAX}"))
        .setting(name)
        .command(format!("sysctl -w {name}={SWAPPINESS_MAX}"));
    let has_swap = facts.swap.is_none_or(|size| size > 0) && !facts.is_swap_denied;
    let check = if has_swap { check } else { check.severity(Severity::Info) };
    match facts.swappiness {
        None => check.skipped("vm.swappiness cannot be read"),
        Some(value) => check.current(value.to_string()).holds(value <= SWAPPINESS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};

    fn judge(facts: &MemoryFacts, plan: &Plan) -> Vec<Check> {
        checks(facts, plan, &Demand::of(plan))
    }

    fn good() -> MemoryFacts {
        MemoryFacts {
            memory: Memory { size: 64 << 30, cgroup: None },
            swap: Some(0),
            is_swap_denied: false,
            swappiness: Some(10),
            huge_pages: Some("madvise".into()),
            defrag: Some("madvise".into()),
        }
    }

    #[test]
    fn each_check_passes_and_fails() {
        let plan = Plan::of_calls(8_000);
        let bad = MemoryFacts {
            memory: Memory { size: 1 << 30, cgroup: Some("memory.max".into()) },
            swap: Some(1 << 30),
            is_swap_denied: false,
            swappiness: Some(60),
            huge_pages: Some("always".into()),
            defrag: Some("always".into()),
        };
        let short = Plan { ring_size: 128 << 20, ..plan.clone() };
        for topic in TOPICS {
            assert_passes(judge(&good(), &plan), topic.id);
        }
        for topic in &TOPICS[..2] {
            assert_fails(judge(&bad, &plan), topic.id);
        }
        for topic in &TOPICS[2..] {
            assert_fails(judge(&bad, &short), topic.id);
        }
        for id in ["memory.node", "memory.huge_pages", "memory.swap", "memory.swappiness"] {
            assert_skips(judge(&MemoryFacts::default(), &plan), id);
        }
    }

    #[test]
    fn without_swap_swappiness_is_no_danger() {
        let facts = MemoryFacts { swappiness: Some(60), ..good() };
        let check = find(judge(&facts, &Plan::of_calls(1)), "memory.swappiness");
        assert!(check.has_failed(Severity::Info), "{check:?}");
        let denied = MemoryFacts { swap: Some(1), is_swap_denied: true, ..good() };
        assert_passes(judge(&denied, &Plan::of_calls(1)), "memory.swap");
    }

    #[test]
    fn swap_devices_are_added_up() {
        let text = "Filename Type Size Used Priority\n/a partition 1024 0 -2\n/b file 2048 0 -3\n";
        assert_eq!(swap_size(text), 3 << 20);
        assert_eq!(swap_size("Filename Type Size Used Priority"), 0);
    }
}
