//! The cgroups of this process: CPU quota, CPU set and memory, of version 1 and 2.

use super::check::{Check, Severity, Source, Topic};
use super::demand::Demand;
use super::memory::MemoryFacts;
use super::plan::Plan;
use super::root::{Root, read};
use crate::config::cpus;
use crate::config::ring_size::show_rounded;

static CPU_QUOTA: Topic = Topic {
    id: "cgroup.cpu_quota",
    severity: Severity::Warning,
    condition: "No CPU quota stops the shards",
    why: "A quota stops a pinned thread in the middle of its work, up to 100 ms. All calls of the \
          shard wait. Whole CPUs (a CPU set) do not do that.",
    by_hand: "cat /sys/fs/cgroup/…/cpu.max",
    fix: "remove CPUQuota= or docker's --cpus, and give whole CPUs: AllowedCPUs=, --cpuset-cpus, \
          or the static CPU manager of Kubernetes",
    reference: "tuning/README.md, Containers",
    source: Source::Kernel(
        "scheduler/sched-bwc.rst",
        "threads that have used the quota do not run until the next period, 100 ms by default",
    ),
};

static CPUSET: Topic = Topic {
    id: "cgroup.cpuset",
    severity: Severity::Warning,
    condition: "The CPU set of the cgroup contains the CPU of each shard",
    why: "A shard that may not run on its CPU is not started, or runs beside another shard.",
    by_hand: "cat /sys/fs/cgroup/…/cpuset.cpus.effective",
    fix: "widen the CPU set (AllowedCPUs=, --cpuset-cpus), or choose --cpus from it",
    reference: "tuning/README.md, CPUs",
    source: Source::Kernel(
        "admin-guide/cgroup-v2.rst",
        "cpuset.cpus.effective lists the CPUs that tasks of the cgroup may use",
    ),
};

static MEMORY: Topic = Topic {
    id: "cgroup.memory",
    severity: Severity::Warning,
    condition: "The memory limit of the cgroup holds the node and its sockets in a stall",
    why: "Socket buffers count for the cgroup. At memory.max the kernel kills the node; above \
          memory.high it slows it down.",
    by_hand: "cat /sys/fs/cgroup/…/memory.max /sys/fs/cgroup/…/memory.high",
    fix: "raise MemoryMax= and MemoryHigh=, the container's memory limit, or lower --max-calls",
    reference: "docs/sizing.md, Memory",
    source: Source::Kernel(
        "admin-guide/cgroup-v2.rst",
        "above memory.high a cgroup is slowed down, and at memory.max the OOM killer is called; \
         `sock` is part of the sum",
    ),
};

pub(super) static TOPICS: [&Topic; 3] = [&CPU_QUOTA, &CPUSET, &MEMORY];

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct CgroupFacts {
    /// `/proc/self/cgroup` could be read.
    pub(super) is_known: bool,
    /// The lowest quota, thousandths of a CPU, and its file.
    pub(super) quota: Option<(u64, String)>,
    /// CPUs of the innermost set that says so.
    pub(super) cpus: Option<Vec<usize>>,
}

impl CgroupFacts {
    pub(super) fn read(root: &Root) -> CgroupFacts {
        let second = root.cgroup_values("cpu", "cpu.max", "");
        let second = second
            .iter()
            .filter_map(|(file, text)| Some((quota_of(text.split_once(' ')?)?, file.clone())));
        let first = root.cgroup_values("cpu", "", "cpu.cfs_quota_us");
        let first = first.iter().filter_map(|(file, quota)| {
            let directory = std::path::Path::new(file).parent()?;
            let period = read(&directory.join("cpu.cfs_period_us"))?;
            Some((quota_of((quota, &period))?, file.clone()))
        });
        // The innermost directory comes first. A set without CPUs of its own is that of a parent.
        let sets = [
            root.cgroup_values("cpuset", "cpuset.cpus.effective", ""),
            root.cgroup_values("cpuset", "", "cpuset.effective_cpus"),
        ];
        CgroupFacts {
            is_known: root.text("proc/self/cgroup").is_some(),
            quota: second.chain(first).min_by_key(|(quota, _)| *quota),
            cpus: sets.concat().iter().find_map(|(_, text)| cpus::parse(text).ok()),
        }
    }
}

/// Thousandths of a CPU; `None`: no quota (`max`, or -1 in version 1).
fn quota_of((quota, period): (&str, &str)) -> Option<u64> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (quota * 1_000).checked_div(period)
}

pub(super) fn checks(
    facts: &CgroupFacts,
    memory: &MemoryFacts,
    plan: &Plan,
    demand: &Demand,
) -> Vec<Check> {
    vec![quota(facts, demand), cpuset(facts, plan), limit(memory, demand)]
}

fn show_cpus(thousandths: u64) -> String {
    format!("{:.2} CPUs", thousandths as f64 / 1_000.0)
}

fn quota(facts: &CgroupFacts, demand: &Demand) -> Check {
    let check = Check::of(&CPU_QUOTA)
        .required(format!("no quota (N calls use {})", show_cpus(demand.core_thousandths)));
    match &facts.quota {
        _ if !facts.is_known => check.skipped("/proc/self/cgroup cannot be read"),
        None => check.current("no quota").holds(true),
        Some((quota, file)) => {
            let is_short = *quota < demand.core_thousandths;
            let severity = if is_short { Severity::Fatal } else { Severity::Warning };
            let current = format!("{} ({file})", show_cpus(*quota));
            check.current(current).severity(severity).holds(false)
        }
    }
}

fn cpuset(facts: &CgroupFacts, plan: &Plan) -> Check {
    let wanted = plan.cpus();
    let check = Check::of(&CPUSET).required(format!("CPUs {}", cpus::show(&wanted)));
    match &facts.cpus {
        _ if wanted.is_empty() => check.skipped("the shards are not pinned"),
        None => check.skipped("the cgroup names no CPUs"),
        Some(allowed) => check
            .current(format!("CPUs {}", cpus::show(allowed)))
            .holds(wanted.iter().all(|cpu| allowed.contains(cpu))),
    }
}

fn limit(facts: &MemoryFacts, demand: &Demand) -> Check {
    let wanted = demand.memory + demand.socket_memory;
    let check = Check::of(&MEMORY).required(show_rounded(wanted));
    let Some(file) = &facts.memory.cgroup else {
        return check.current("no limit").holds(true);
    };
    check
        .current(format!("{} ({})", show_rounded(facts.memory.size), file.display()))
        .holds(wanted <= facts.memory.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};
    use crate::io::host::Memory;

    fn judge(facts: &CgroupFacts, memory: Memory) -> Vec<Check> {
        let plan = Plan::of_calls(8_000);
        let memory = MemoryFacts { memory, ..MemoryFacts::default() };
        checks(facts, &memory, &plan, &Demand::of(&plan))
    }

    fn unlimited() -> Memory {
        Memory { size: 64 << 30, cgroup: None }
    }

    #[test]
    fn each_check_passes_and_fails() {
        let good = CgroupFacts { is_known: true, quota: None, cpus: Some(vec![0, 1, 2, 3]) };
        let bad = CgroupFacts {
            is_known: true,
            quota: Some((2_500, "cpu.max".into())),
            cpus: Some(vec![0]),
        };
        let small = Memory { size: 1 << 30, cgroup: Some("memory.max".into()) };
        for topic in TOPICS {
            assert_passes(judge(&good, unlimited()), topic.id);
            assert_fails(judge(&bad, small.clone()), topic.id);
        }
        for id in ["cgroup.cpu_quota", "cgroup.cpuset"] {
            assert_skips(judge(&CgroupFacts::default(), unlimited()), id);
        }
        let tiny = CgroupFacts { quota: Some((100, "cpu.max".into())), ..bad };
        let check = find(judge(&tiny, unlimited()), "cgroup.cpu_quota");
        assert!(check.has_failed(Severity::Fatal), "8,000 calls need half a CPU: {check:?}");
    }

    #[test]
    fn both_versions_are_read_and_the_lowest_quota_counts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = Root::copy(directory.path());
        assert!(!CgroupFacts::read(&root).is_known);
        write("proc/self/cgroup", "3:cpuset:/job\n1:cpu,cpuacct:/job\n0::/unit\n");
        write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
        write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
        write("sys/fs/cgroup/unit/cpu.max", "max 100000\n");
        let facts = CgroupFacts::read(&root);
        assert_eq!((facts.is_known, facts.quota, facts.cpus), (true, None, None));
        write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n");
        write("sys/fs/cgroup/unit/cpu.max", "250000 100000\n");
        write("sys/fs/cgroup/cpuset/job/cpuset.effective_cpus", "0-1\n");
        let facts = CgroupFacts::read(&root);
        let (quota, file) = facts.quota.unwrap();
        assert!(quota == 2_500 && file.ends_with("unit/cpu.max"), "{file}");
        assert_eq!(facts.cpus, Some(vec![0, 1]));
    }
}
