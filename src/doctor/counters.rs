//! The kernel's counters of what it dropped: how much they grew between two looks.

use super::check::{Check, Severity, Source, Topic};
use super::root::Root;
use std::collections::BTreeMap;
use std::time::Duration;

static LISTEN: Topic = Topic {
    id: "counters.listen",
    severity: Severity::Warning,
    condition: "No new connection found a full queue",
    why: "A client whose connection was dropped tries again after a second, then after three.",
    by_hand: "nstat -az TcpExtListenOverflows TcpExtListenDrops TcpExtTCPReqQFullDrop",
    fix: "raise net.core.somaxconn and net.ipv4.tcp_max_syn_backlog, or add shards",
    reference: "tuning/README.md, Network",
    source: Source::Kernel(
        "networking/snmp_counter.rst",
        "TcpExtListenOverflows and TcpExtListenDrops count connections that a full queue dropped; \
         one is too many",
    ),
};

static RECEIVE_QUEUE: Topic = Topic {
    id: "counters.receive_queue",
    severity: Severity::Warning,
    condition: "No received packet was dropped for lack of socket memory",
    why: "The node did not read in time, because a ring was full or a shard was busy. The peer \
          sends the data again, later.",
    by_hand: "nstat -az TcpExtTCPRcvQDrop TcpExtPruneCalled TcpExtRcvPruned TcpExtOfoPruned",
    fix: "look at the disk and at limits.ring_size first, then at net.ipv4.tcp_rmem and tcp_mem",
    reference: "docs/troubleshooting.md, ACKs come late",
    source: Source::Kernel(
        "networking/snmp_counter.rst",
        "TcpExtPruneCalled and its like count when a socket ran out of memory; one is too many",
    ),
};

static TCP_MEMORY: Topic = Topic {
    id: "counters.tcp_memory",
    severity: Severity::Warning,
    condition: "TCP was not short of memory",
    why: "Above the second number of tcp_mem the kernel shrinks the windows of all connections.",
    by_hand: "nstat -az TcpExtTCPMemoryPressures TcpExtTCPAbortOnMemory",
    fix: "raise net.ipv4.tcp_mem",
    reference: "tuning/README.md, Network",
    source: Source::Kernel(
        "networking/ip-sysctl.rst",
        "tcp_mem: above `pressure` TCP moderates its memory; the counter says that it happened",
    ),
};

static SOFTNET_DROPS: Topic = Topic {
    id: "counters.softnet_drops",
    severity: Severity::Warning,
    condition: "No packet was dropped on the way from the network card to TCP",
    why: "The queue of a CPU was full (net.core.netdev_max_backlog). Peers send again, later.",
    by_hand: "cat /proc/net/softnet_stat   (the second column, hexadecimal)",
    fix: "sysctl -w net.core.netdev_max_backlog=10000, and spread interrupts over more CPUs",
    reference: "Documentation/networking/scaling.rst of the kernel",
    source: Source::Kernel(
        "admin-guide/sysctl/net.rst",
        "netdev_max_backlog: packets that wait for a CPU; beyond it they are dropped",
    ),
};

static SOFTNET_SQUEEZES: Topic = Topic {
    id: "counters.softnet_squeezes",
    severity: Severity::Info,
    condition: "The kernel took all packets that waited each time it looked",
    why: "It stopped at its budget (net.core.netdev_budget) while packets waited: more of them \
          come than the CPU of these interrupts can take.",
    by_hand: "cat /proc/net/softnet_stat   (the third column, hexadecimal)",
    fix: "spread interrupts over more CPUs, or raise net.core.netdev_budget",
    reference: "Documentation/networking/scaling.rst of the kernel",
    source: Source::Kernel(
        "admin-guide/sysctl/net.rst",
        "netdev_budget and netdev_budget_usecs end a look of the kernel before all is taken",
    ),
};

static NIC_DROPS: Topic = Topic {
    id: "counters.nic_drops",
    severity: Severity::Warning,
    condition: "The network card dropped no packet",
    why: "Its receive ring was full, or the host had no memory for a packet.",
    by_hand: "ip -s link; ethtool -S NIC",
    fix: "raise its receive ring (ethtool -G NIC rx MAX), and spread its interrupts",
    reference: "tuning/host.sh --nic",
    source: Source::Kernel(
        "networking/statistics.rst",
        "rx_dropped and rx_missed_errors; one is too many",
    ),
};

static CONNTRACK: Topic = Topic {
    id: "counters.conntrack_drops",
    severity: Severity::Warning,
    condition: "Connection tracking dropped no packet",
    why: "A full table drops new connections.",
    by_hand: "cat /proc/net/stat/nf_conntrack   (drop, early_drop: hexadecimal)",
    fix: "raise net.netfilter.nf_conntrack_max, or do not track the node's port (NOTRACK)",
    reference: "Documentation/networking/nf_conntrack-sysctl.rst of the kernel",
    source: Source::Kernel(
        "networking/nf_conntrack-sysctl.rst",
        "nf_conntrack_max is the most entries; beyond it packets of new connections are dropped",
    ),
};

static THROTTLED: Topic = Topic {
    id: "cgroup.throttled",
    severity: Severity::Warning,
    condition: "The cgroup's CPU quota stopped no thread",
    why: "All calls of a shard that is stopped wait.",
    by_hand: "cat /sys/fs/cgroup/…/cpu.stat   (nr_throttled)",
    fix: "remove the quota, and give whole CPUs",
    reference: "tuning/README.md, Containers",
    source: Source::Kernel(
        "scheduler/sched-bwc.rst",
        "nr_throttled counts how often the group was stopped; one is too many",
    ),
};

static STEAL: Topic = Topic {
    id: "cpu.steal",
    severity: Severity::Warning,
    condition: "The hypervisor took at most 1 % of the CPU time from this machine",
    why: "A shard does not run while another virtual machine has its CPU, and nothing in this \
          machine shows why ACKs are late.",
    by_hand: "vmstat 1   (st)",
    fix: "use a machine with dedicated CPUs",
    reference: "docs/performance/README.md",
    source: Source::Choice(
        "because 1 % of a second is 10 ms, half of what an ACK waits for the next sync. proc(5) \
         defines the figure",
    ),
};

pub(super) static TOPICS: [&Topic; 9] = [
    &LISTEN,
    &RECEIVE_QUEUE,
    &TCP_MEMORY,
    &SOFTNET_DROPS,
    &SOFTNET_SQUEEZES,
    &NIC_DROPS,
    &CONNTRACK,
    &THROTTLED,
    &STEAL,
];

/// The counters that must not grow, by topic. A name is that of the kernel's file.
const GROUPS: [(&Topic, &[&str]); 8] = [
    (&LISTEN, &["ListenOverflows", "ListenDrops", "TCPReqQFullDrop"]),
    (&RECEIVE_QUEUE, &["TCPRcvQDrop", "PruneCalled", "RcvPruned", "OfoPruned"]),
    (&TCP_MEMORY, &["TCPMemoryPressures", "TCPAbortOnMemory"]),
    (&SOFTNET_DROPS, &["softnet_dropped"]),
    (&SOFTNET_SQUEEZES, &["softnet_squeezed"]),
    (&NIC_DROPS, &["rx_dropped", "rx_missed_errors", "rx_fifo_errors", "rx_over_errors"]),
    (&CONNTRACK, &["conntrack_drop", "conntrack_early_drop", "conntrack_insert_failed"]),
    (&THROTTLED, &["nr_throttled"]),
];

/// Most of the CPU time that may be stolen, thousandths.
const STEAL_MAX: u64 = 10;

/// All counters at one moment, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// `nic`: the interface of the calls.
    pub(crate) fn read(root: &Root, nic: Option<&str>) -> Counters {
        let mut counters = Counters::default();
        let netstat = root.text("proc/net/netstat").unwrap_or_default();
        for (topic, names) in GROUPS {
            let source = |name: &str| match topic.id {
                "counters.nic_drops" => {
                    root.number(&format!("sys/class/net/{}/statistics/{name}", nic?))
                }
                "cgroup.throttled" => throttled(root),
                "counters.softnet_drops" => softnet(root, 1),
                "counters.softnet_squeezes" => softnet(root, 2),
                "counters.conntrack_drops" => conntrack(root, name.strip_prefix("conntrack_")?),
                _ => pair(&netstat, "TcpExt:", name),
            };
            for name in names {
                counters.0.extend(source(name).map(|value| (*name, value)));
            }
        }
        let cpu = root.text("proc/stat").and_then(|text| cpu_times(&text));
        if let Some((all, stolen)) = cpu {
            counters.0.extend([("cpu_time", all), ("cpu_stolen", stolen)]);
        }
        counters
    }
}

/// A value of `/proc/net/netstat`: a line of names, then a line of values.
fn pair(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let index = names.split_whitespace().position(|it| it == name)?;
    values.split_whitespace().nth(index)?.parse().ok()
}

/// The sum of a column of `/proc/net/softnet_stat` over all CPUs.
fn softnet(root: &Root, column: usize) -> Option<u64> {
    hexadecimal_sum(&root.text("proc/net/softnet_stat")?, column)
}

/// The sum of a named column of `/proc/net/stat/nf_conntrack`, whose first line has the names.
fn conntrack(root: &Root, name: &str) -> Option<u64> {
    let text = root.text("proc/net/stat/nf_conntrack")?;
    let (names, rows) = text.split_once('\n')?;
    hexadecimal_sum(rows, names.split_whitespace().position(|it| it == name)?)
}

fn hexadecimal_sum(rows: &str, column: usize) -> Option<u64> {
    let values = rows.lines().map(|row| {
        let value = row.split_whitespace().nth(column)?;
        u64::from_str_radix(value, 16).ok()
    });
    values.sum()
}

/// How often any cgroup of this process was throttled.
fn throttled(root: &Root) -> Option<u64> {
    let files = root.cgroup_values("cpu", "cpu.stat", "cpu.stat");
    let counts = files.iter().filter_map(|(_, text)| {
        text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok())
    });
    counts.reduce(|sum, count| sum + count)
}

/// All time and stolen time of the first line of `/proc/stat`, in ticks. Time of guests is in that
/// of users already.
fn cpu_times(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> =
        line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((times.iter().sum(), *times.get(7)?))
}

/// Two looks at the counters.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) before: Counters,
    pub(crate) after: Counters,
    pub(crate) time: Duration,
}

impl Sample {
    /// How much a counter grew, and its value since boot. A counter that was reset has grown by
    /// what it has now.
    fn growth(&self, name: &str) -> Option<(u64, u64)> {
        let (before, after) = (self.before.0.get(name)?, *self.after.0.get(name)?);
        Some((after.checked_sub(*before).unwrap_or(after), after))
    }

    /// The counters that grew, by how much: for `--watch`.
    pub(crate) fn grown(&self) -> Vec<(&'static str, &'static str, u64)> {
        let names =
            GROUPS.iter().flat_map(|(topic, names)| names.iter().map(|name| (*topic, *name)));
        names
            .filter_map(|(topic, name)| {
                let (grown, _) = self.growth(name)?;
                (grown > 0).then_some((topic.id, name, grown))
            })
            .collect()
    }
}

/// `sample`: `None` if there was one look only.
pub(super) fn checks(sample: Option<&Sample>) -> Vec<Check> {
    let counters = GROUPS.into_iter().map(|(topic, names)| grown(topic, names, sample));
    counters.chain([steal(sample)]).collect()
}

const ONE_LOOK: &str = "counters take two looks: use `exo-ingest doctor`, which waits a second";

fn grown(topic: &'static Topic, names: &[&'static str], sample: Option<&Sample>) -> Check {
    let check = Check::of(topic).required("0 more").restless();
    let Some(sample) = sample else { return check.skipped(ONE_LOOK) };
    let found: Vec<_> =
        names.iter().filter_map(|name| Some((*name, sample.growth(name)?))).collect();
    if found.is_empty() {
        return check.skipped(format!("this host does not count {}", names.join(", ")));
    }
    let grown: Vec<String> = found
        .iter()
        .filter(|(_, (grown, _))| *grown > 0)
        .map(|(name, (grown, _))| format!("{name} {grown}"))
        .collect();
    let total: u64 = found.iter().map(|(_, (_, total))| total).sum();
    let more = if grown.is_empty() { "0".to_owned() } else { grown.join(", ") };
    check
        .current(format!("{more} more in {:.1} s, {total} since boot", sample.time.as_secs_f64()))
        .holds(grown.is_empty())
}

fn steal(sample: Option<&Sample>) -> Check {
    let check = Check::of(&STEAL).required("at most 1 %").restless();
    let Some(sample) = sample else { return check.skipped(ONE_LOOK) };
    match (sample.growth("cpu_time"), sample.growth("cpu_stolen")) {
        (Some((all, _)), Some((stolen, _))) if all > 0 => check
            .current(format!("{:.1} %", stolen as f64 * 100.0 / all as f64))
            .holds(stolen * 1_000 <= all * STEAL_MAX),
        _ => check.skipped("/proc/stat does not say"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};

    /// All counters at this value.
    fn all_at(value: u64) -> Counters {
        let names = GROUPS.iter().flat_map(|(_, names)| names.iter().copied());
        let names = names.chain(["cpu_time", "cpu_stolen"]);
        Counters(names.map(|name| (name, value)).collect())
    }

    fn sample(before: u64, after: u64) -> Sample {
        Sample { before: all_at(before), after: all_at(after), time: Duration::from_secs(1) }
    }

    #[test]
    fn each_check_passes_and_fails() {
        let mut calm = sample(5, 5);
        calm.after.0.insert("cpu_time", 500);
        for topic in TOPICS {
            assert_passes(checks(Some(&calm)), topic.id);
            assert_fails(checks(Some(&sample(5, 7))), topic.id);
            assert_skips(checks(None), topic.id);
        }
        let empty = Counters::default();
        let nothing = Sample { before: empty.clone(), after: empty, time: Duration::ZERO };
        for topic in TOPICS {
            assert_skips(checks(Some(&nothing)), topic.id);
        }
        let check = find(checks(Some(&sample(5, 7))), "counters.tcp_memory");
        let said = "TCPMemoryPressures 2, TCPAbortOnMemory 2 more in 1.0 s, 14 since boot";
        assert_eq!(check.current.as_deref(), Some(said));
        assert_eq!(calm.grown(), []);
        assert!(sample(5, 7).grown().contains(&("counters.listen", "ListenDrops", 2)));
        // A counter of an interface that was made anew.
        assert_eq!(sample(9, 2).growth("rx_dropped"), Some((2, 2)));
    }

    #[test]
    fn the_kernels_files_are_read() {
        let text = "TcpExt: A ListenDrops\nTcpExt: 1 17\nIpExt: A\nIpExt: 3\n";
        assert_eq!(pair(text, "TcpExt:", "ListenDrops"), Some(17));
        assert_eq!(pair(text, "TcpExt:", "B"), None);
        assert_eq!(hexadecimal_sum("00000019 0000000a 1\n00000ebf 00000001 2", 1), Some(11));
        assert_eq!(cpu_times("cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 …"), Some((36, 8)));
        assert_eq!(cpu_times("cpu  1 2"), None);
        let counters = Counters::read(&Root::live(), None);
        for name in ["ListenOverflows", "TCPRcvQDrop", "softnet_squeezed", "cpu_stolen"] {
            assert!(counters.0.contains_key(name), "{name} {counters:?}");
        }
    }
}
