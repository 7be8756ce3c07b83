//! The network card of the calls: the one that has the address of `--listen`, or the default route.

use super::check::{Check, Severity, Source, Topic};
use super::demand::Demand;
use super::ethtool::{self, Ethtool};
use super::plan::Plan;
use super::root::Root;
use super::show;
use crate::config::cpus;
use std::net::IpAddr;

static SPEED: Topic = Topic {
    id: "nic.speed",
    severity: Severity::Fatal,
    condition: "The network card takes the audio of N calls",
    why: "A call of 24 kHz is 48,000 B/s, and 7 % more for headers. Beyond its speed, all calls \
          are late.",
    by_hand: "cat /sys/class/net/NIC/speed   (Mbit/s)",
    fix: "use a faster network card, or more nodes",
    reference: "docs/sizing.md, Network",
    source: Source::Measured("docs/sizing.md", "bits for each call, headers counted"),
};

static QUEUES: Topic = Topic {
    id: "nic.queues",
    severity: Severity::Info,
    condition: "The network card has a receive queue for each shard, or RPS spreads the packets",
    why: "The interrupts of one queue run on one CPU. At 8,000 calls that CPU takes 280,000 \
          packets a second. Not measured.",
    by_hand: "ls /sys/class/net/NIC/queues; ethtool -l NIC",
    fix: "ethtool -L NIC combined SHARDS, or set rps_cpus of its queues",
    reference: "Documentation/networking/scaling.rst of the kernel; tuning/README.md, CPUs",
    source: Source::Kernel(
        "networking/scaling.rst",
        "for low latency, as many queues as CPUs; with fewer queues RPS may help",
    ),
};

static INTERRUPTS: Topic = Topic {
    id: "nic.interrupts",
    severity: Severity::Info,
    condition: "The interrupts of the network card are spread over the CPUs of the shards",
    why: "Packets and shard then share a cache, and no CPU gets all interrupts. Not measured.",
    by_hand: "cat /proc/irq/*/smp_affinity_list; cat /proc/interrupts",
    fix: "tuning/host.sh apply --nic NIC --cpus CPUS, and keep irqbalance off these CPUs",
    reference: "tuning/README.md, CPUs; tuning/host.sh --nic",
    source: Source::Kernel(
        "networking/scaling.rst",
        "interrupts that are spread over the CPUs shorten the queues",
    ),
};

static RPS: Topic = Topic {
    id: "nic.steering",
    severity: Severity::Info,
    condition: "RPS and XPS do not move packets to CPUs without a shard",
    why: "RPS hands a received packet to another CPU, and XPS sends through the queue of another. \
          Both help if there are fewer queues than shards, and cost time otherwise. Not measured.",
    by_hand: "grep . /sys/class/net/NIC/queues/*/{rps_cpus,xps_cpus}",
    fix: "write 0 to rps_cpus of a card with enough queues, otherwise the mask of the shards' CPUs",
    reference: "Documentation/networking/scaling.rst of the kernel",
    source: Source::Kernel(
        "networking/scaling.rst",
        "RPS is redundant where each CPU has a queue; otherwise its CPUs should share the memory \
         domain of the interrupt",
    ),
};

static RINGS: Topic = Topic {
    id: "nic.rings",
    severity: Severity::Info,
    condition: "The receive ring of the network card has at least 1,024 entries, or its maximum",
    why: "A burst of many calls fills a short ring before the CPU looks. Then packets are dropped.",
    by_hand: "ethtool -g NIC",
    fix: "ethtool -G NIC rx MAX",
    reference: "tuning/host.sh --nic",
    source: Source::Choice(
        "because 1,024 packets are 4 ms of 8,000 calls, longer than a CPU should be away. Not \
         measured: our machines have no real card",
    ),
};

static COALESCING: Topic = Topic {
    id: "nic.coalescing",
    severity: Severity::Info,
    condition: "The network card gathers packets for some time, but not over 200 µs",
    why: "Without a pause each packet is an interrupt. A long one delays frames and ACKs. Not \
          measured.",
    by_hand: "ethtool -c NIC",
    fix: "ethtool -C NIC adaptive-rx on, or rx-usecs 50",
    reference: "Documentation/networking/ethtool-netlink.rst of the kernel",
    source: Source::Choice(
        "because 200 µs are a tenth of the time in which a shard gathers completions. \
         Documentation/networking/ethtool-netlink.rst of the kernel defines rx-usecs and \
         adaptive-rx",
    ),
};

static OFFLOADS: Topic = Topic {
    id: "nic.offloads",
    severity: Severity::Info,
    condition: "The network card checks checksums, and packets of a connection are joined (GRO)",
    why: "A frame of 9,600 bytes comes in seven packets. With GRO they pass TCP together.",
    by_hand: "ethtool -k NIC | grep -E 'rx-checksumming|generic-receive-offload'",
    fix: "ethtool -K NIC rx on gro on",
    reference: "Documentation/networking/segmentation-offloads.rst of the kernel",
    source: Source::Kernel(
        "networking/segmentation-offloads.rst",
        "GRO joins the packets of a connection; a frame then passes TCP at once",
    ),
};

static NUMA: Topic = Topic {
    id: "nic.numa",
    severity: Severity::Info,
    condition: "The shards run on the NUMA node of the network card",
    why: "Packets are in the memory and the cache of the card's node. Not measured.",
    by_hand: "cat /sys/class/net/NIC/device/numa_node; numactl --hardware",
    fix: "choose --cpus from the card's node; with two sockets run a node on each",
    reference: "tuning/README.md, CPUs",
    source: Source::Kernel(
        "networking/scaling.rst",
        "queues, interrupts and CPUs should share a memory domain",
    ),
};

pub(super) static TOPICS: [&Topic; 8] =
    [&SPEED, &QUEUES, &INTERRUPTS, &RPS, &RINGS, &COALESCING, &OFFLOADS, &NUMA];

/// Entries of a receive ring that are enough: 1,024 packets are 4 ms of 8,000 calls.
const RING_MIN: u32 = 1_024;

/// Longest time to gather packets, µs: a tenth of the time in which a shard gathers completions.
const GATHER_MAX: u32 = 200;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct NicFacts {
    /// Its name; `None`: there is none, and [`NicFacts::missing`] says why.
    pub(crate) name: Option<String>,
    pub(super) missing: String,
    /// Bits a second; `None`: it does not say, like most virtual cards.
    pub(crate) speed: Option<u64>,
    pub(super) receive_queues: usize,
    /// CPUs that RPS, or XPS, gives packets to; empty: off.
    pub(super) rps: Vec<usize>,
    pub(super) xps: Vec<usize>,
    /// Its interrupts, and the CPUs of each.
    pub(super) interrupts: Vec<(u32, Vec<usize>)>,
    /// `None`: the machine has one node, or does not say.
    pub(super) numa_node: Option<usize>,
    /// CPUs of that node.
    pub(super) numa_cpus: Vec<usize>,
    pub(super) ethtool: Ethtool,
}

impl NicFacts {
    pub(super) fn read(root: &Root, plan: &Plan, asks_kernel: bool) -> NicFacts {
        let name = match interface(root, plan.listen.ip()) {
            Ok(name) => name,
            Err(missing) => return NicFacts { missing, ..NicFacts::default() },
        };
        let directory = format!("sys/class/net/{name}");
        let queues = root.names(&format!("{directory}/queues"));
        let steered = |kind: &str, file: &str| {
            let queues = queues.iter().filter(|queue| queue.starts_with(kind));
            let masks =
                queues.filter_map(|queue| root.text(&format!("{directory}/queues/{queue}/{file}")));
            let mut cpus: Vec<usize> = masks.flat_map(|mask| cpus_of_mask(&mask)).collect();
            cpus.sort_unstable();
            cpus.dedup();
            cpus
        };
        let numa_node = root.number::<usize>(&format!("{directory}/device/numa_node"));
        let numa_cpus = numa_node
            .and_then(|node| root.text(&format!("sys/devices/system/node/node{node}/cpulist")));
        let speed = root.number::<u64>(&format!("{directory}/speed")).filter(|speed| *speed > 0);
        NicFacts {
            speed: speed.map(|megabits| megabits * 1_000_000),
            receive_queues: queues.iter().filter(|queue| queue.starts_with("rx-")).count(),
            rps: steered("rx-", "rps_cpus"),
            xps: steered("tx-", "xps_cpus"),
            interrupts: interrupts(root, &directory),
            numa_node,
            numa_cpus: numa_cpus.and_then(|text| cpus::parse(&text).ok()).unwrap_or_default(),
            ethtool: if root.is_live() && asks_kernel {
                ethtool::ask(&name)
            } else {
                Ethtool::default()
            },
            name: Some(name),
            missing: String::new(),
        }
    }
}

/// The card's interrupts. The device of a virtio card is below the PCI device that has them.
fn interrupts(root: &Root, directory: &str) -> Vec<(u32, Vec<usize>)> {
    let names = ["device/msi_irqs", "device/../msi_irqs"]
        .iter()
        .map(|below| root.names(&format!("{directory}/{below}")))
        .find(|names| !names.is_empty());
    let numbers = names.unwrap_or_default().into_iter().filter_map(|name| name.parse().ok());
    let placed = numbers.filter_map(|number: u32| {
        // Of the CPUs that are allowed, the kernel uses one.
        let cpus = root
            .text(&format!("proc/irq/{number}/effective_affinity_list"))
            .filter(|text| !text.is_empty())
            .or_else(|| root.text(&format!("proc/irq/{number}/smp_affinity_list")))?;
        Some((number, cpus::parse(&cpus).ok()?))
    });
    placed.collect()
}

/// The CPUs of a mask such as `0000000f,00000003`: words of 32 bits, the highest first.
fn cpus_of_mask(mask: &str) -> Vec<usize> {
    let words = mask.split(',').rev().enumerate();
    let bits = words.flat_map(|(index, word)| {
        let word = u32::from_str_radix(word.trim(), 16).unwrap_or(0);
        (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 32 + bit)
    });
    bits.collect()
}

/// The interface of the calls; the error says why there is none.
fn interface(root: &Root, listen: IpAddr) -> Result<String, String> {
    if listen.is_loopback() {
        return Err(format!("--listen {listen} is a loopback address: no card carries the calls"));
    }
    let v4 = root.text("proc/net/route").unwrap_or_default();
    let v6 = root.text("proc/net/if_inet6").unwrap_or_default();
    let found = match listen {
        IpAddr::V4(address) if !address.is_unspecified() => {
            // Destination and mask are written as the machine reads their four bytes.
            let address = u32::from_ne_bytes(address.octets());
            route(&v4, |destination, mask| mask != 0 && address & mask == destination)
        }
        IpAddr::V6(address) if !address.is_unspecified() => {
            let wanted: String = address.octets().iter().map(|it| format!("{it:02x}")).collect();
            let line = v6.lines().find(|line| line.starts_with(&wanted));
            line.and_then(|line| line.split_whitespace().nth(5)).map(str::to_owned)
        }
        _ => route(&v4, |destination, mask| destination == 0 && mask == 0)
            .or_else(|| default_route_v6(root)),
    };
    found.ok_or_else(|| format!("no interface was found for {listen}: there is no route"))
}

/// The interface of the narrowest IPv4 route that fits, and of equal ones the first.
fn route(text: &str, fits: impl Fn(u32, u32) -> bool) -> Option<String> {
    let routes = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let (destination, mask) = (number(1)?, number(7)?);
        fits(destination, mask).then(|| (mask.count_zeros(), fields[0].to_owned()))
    });
    routes.min_by_key(|(width, _)| *width).map(|(_, name)| name)
}

/// The interface of the IPv6 default route. Routes of loopback refuse packets.
fn default_route_v6(root: &Root) -> Option<String> {
    let text = root.text("proc/net/ipv6_route")?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.first()?.bytes().all(|digit| digit == b'0') && fields[1] == "00";
        let name = *fields.get(9)?;
        (is_default && name != "lo").then(|| name.to_owned())
    })
}

pub(super) fn checks(facts: &NicFacts, plan: &Plan, demand: &Demand) -> Vec<Check> {
    let Some(name) = &facts.name else {
        return TOPICS.into_iter().map(|topic| Check::of(topic).skipped(&facts.missing)).collect();
    };
    let checks = vec![
        speed(facts, name, demand),
        queues(facts, name, plan),
        interrupt_placement(facts, name, plan),
        steering(facts, plan),
        rings(facts, name),
        coalescing(facts, name),
        offloads(facts, name),
        numa(facts, plan),
    ];
    let named = checks.into_iter().map(|check| {
        let fix = check.fix.replace("NIC", name);
        check.fix(fix)
    });
    named.collect()
}

fn speed(facts: &NicFacts, name: &str, demand: &Demand) -> Check {
    let check = Check::of(&SPEED).required(show::bits(demand.network_rate));
    match facts.speed {
        None => check.skipped(format!("{name} does not say how fast it is")),
        Some(speed) => check
            .current(format!("{} ({name})", show::bits(speed)))
            .holds(demand.network_rate <= speed),
    }
}

fn queues(facts: &NicFacts, name: &str, plan: &Plan) -> Check {
    let (have, shards) = (facts.receive_queues, plan.shards.len());
    let check = Check::of(&QUEUES).required(format!("{shards}, or RPS"));
    if have == 0 {
        return check.skipped(format!("{name} does not name its queues"));
    }
    let rps = if facts.rps.is_empty() { "no RPS" } else { "RPS" };
    let most = facts.ethtool.queues.filter(|(_, most)| *most as usize > have);
    let check = match most {
        Some((_, most)) => {
            let count = shards.min(most as usize);
            check.fixed_by(format!("ethtool -L {name} combined {count}"))
        }
        None => check.fix(format!(
            "{name} has no more queues: write the mask of the shards' CPUs to rps_cpus"
        )),
    };
    check.current(format!("{have} ({name}), {rps}")).holds(have >= shards || !facts.rps.is_empty())
}

fn interrupt_placement(facts: &NicFacts, name: &str, plan: &Plan) -> Check {
    let wanted = plan.cpus();
    let mut check = Check::of(&INTERRUPTS).required(format!("on CPUs {}", cpus::show(&wanted)));
    if facts.interrupts.is_empty() {
        return check.skipped(format!("the interrupts of {name} are not listed (msi_irqs)"));
    }
    if wanted.is_empty() {
        return check.skipped("the shards are not pinned");
    }
    let mut used = Vec::new();
    for (index, (number, cpus)) in facts.interrupts.iter().enumerate() {
        used.extend(cpus);
        // The same order as tuning/host.sh.
        let cpu = wanted[index % wanted.len()];
        check = check.command(format!("echo {cpu} > /proc/irq/{number}/smp_affinity_list"));
    }
    used.sort_unstable();
    used.dedup();
    let spread = used.len() >= wanted.len().min(facts.interrupts.len());
    let holds = used.iter().all(|cpu| wanted.contains(cpu)) && spread;
    let count = facts.interrupts.len();
    check.current(format!("{count} on CPUs {} ({name})", cpus::show(&used))).holds(holds)
}

fn steering(facts: &NicFacts, plan: &Plan) -> Check {
    let wanted = plan.cpus();
    let check = Check::of(&RPS).required(format!("off, or CPUs {}", cpus::show(&wanted)));
    if wanted.is_empty() {
        return check.skipped("the shards are not pinned");
    }
    let shown = |cpus: &[usize]| match cpus {
        [] => "off".to_owned(),
        cpus => format!("CPUs {}", cpus::show(cpus)),
    };
    // XPS to all CPUs is what drivers set by themselves, one CPU for each queue.
    check
        .current(format!("RPS {}, XPS {}", shown(&facts.rps), shown(&facts.xps)))
        .holds(facts.rps.iter().all(|cpu| wanted.contains(cpu)))
}

fn rings(facts: &NicFacts, name: &str) -> Check {
    let check = Check::of(&RINGS).required(format!("at least {RING_MIN}, or the maximum"));
    match facts.ethtool.receive_ring {
        None => check.skipped(facts.ethtool.reason(name)),
        Some((now, most)) => check
            .current(format!("{now} of {most} ({name})"))
            .fixed_by(format!("ethtool -G {name} rx {most}"))
            .holds(now >= RING_MIN.min(most)),
    }
}

fn coalescing(facts: &NicFacts, name: &str) -> Check {
    let check = Check::of(&COALESCING).required(format!("adaptive, or 1 to {GATHER_MAX} µs"));
    match (facts.ethtool.gather_micros, facts.ethtool.is_adaptive) {
        (_, Some(true)) => check.current(format!("adaptive ({name})")).holds(true),
        // A driver without a time counts packets, or decides by itself.
        (None, _) => check.skipped(facts.ethtool.reason(name)),
        (Some(micros), _) => check
            .current(format!("{micros} µs ({name})"))
            .command(format!("ethtool -C {name} rx-usecs 50"))
            .holds((1..=GATHER_MAX).contains(&micros)),
    }
}

fn offloads(facts: &NicFacts, name: &str) -> Check {
    let check = Check::of(&OFFLOADS)
        .required("rx-checksum and rx-gro")
        .command(format!("ethtool -K {name} rx on gro on"));
    let Some(active) = &facts.ethtool.offloads else {
        return check.skipped(facts.ethtool.reason(name));
    };
    let shown = ["rx-checksum", "rx-gro", "rx-gro-hw", "rx-lro", "tx-tcp-segmentation"];
    let shown: Vec<&str> =
        shown.into_iter().filter(|it| active.iter().any(|name| name == it)).collect();
    let text = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    let has = |wanted: &str| shown.contains(&wanted);
    check.current(format!("{text} ({name})")).holds(has("rx-checksum") && has("rx-gro"))
}

fn numa(facts: &NicFacts, plan: &Plan) -> Check {
    let wanted = plan.cpus();
    let Some(node) = facts.numa_node else {
        return Check::of(&NUMA).skipped("the card belongs to no NUMA node");
    };
    let check = Check::of(&NUMA).required(format!("CPUs of node {node}"));
    if wanted.is_empty() || facts.numa_cpus.is_empty() {
        return check.skipped("the shards are not pinned, or the node does not list its CPUs");
    }
    check
        .current(format!(
            "shards on CPUs {}, the node has {}",
            cpus::show(&wanted),
            cpus::show(&facts.numa_cpus)
        ))
        .holds(wanted.iter().all(|cpu| facts.numa_cpus.contains(cpu)))
}

#[cfg(test)]
mod tests;
