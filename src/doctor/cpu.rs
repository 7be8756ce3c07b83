//! CPUs and clocks: how many, how fast they are awake, and what else runs on them.

use super::check::{Check, Severity, Source, Topic};
use super::demand::{CALLS_OF_CORE, Demand};
use super::plan::Plan;
use super::root::Root;
use crate::config::cpus;
use crate::config::ring_size::show_count;
use crate::io::clocks::Clocks;

static SHARDS: Topic = Topic {
    id: "cpu.shards",
    severity: Severity::Warning,
    condition: "There is a shard for each 8,000 calls",
    why: "8,000 durable calls used 40 % of a core, and 48 % with TLS. More on one core we have \
          not measured.",
    by_hand: "nproc; exo-ingest config | grep -E 'cpus|shards'",
    fix: "give the node more CPUs (--cpus), or use more nodes",
    reference: "docs/sizing.md, Cores",
    source: Source::Measured(
        "docs/performance/b564169.md",
        "8,000 durable calls on one core; more on a core was tried in 3566b19, without a clear \
         answer",
    ),
};

static OWN_CPUS: Topic = Topic {
    id: "cpu.own",
    severity: Severity::Info,
    condition: "No two shards share a CPU, and one CPU is left for the kernel",
    why: "Interrupts, the control thread and other programs then delay no shard.",
    by_hand: "ps -L -o comm,psr -p $(pidof exo-ingest)",
    fix: "leave one CPU out of --cpus",
    reference: "docs/sizing.md, Cores; tuning/README.md, CPUs",
    source: Source::Choice(
        "because a node keeps one CPU free by itself if there are more than two; what it gains is \
         not measured",
    ),
};

static GOVERNOR: Topic = Topic {
    id: "cpu.governor",
    severity: Severity::Warning,
    condition: "The clock of the CPUs does not slow down between frames",
    why: "A slow clock shows as late ACKs.",
    by_hand: "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    fix: "cpupower frequency-set -g performance",
    reference: "tuning/host.sh; Documentation/admin-guide/pm/cpufreq.rst of the kernel",
    source: Source::Kernel(
        "admin-guide/pm/cpufreq.rst",
        "`performance` asks for the highest frequency, and keeps to it",
    ),
};

static IDLE_STATES: Topic = Topic {
    id: "cpu.idle_states",
    severity: Severity::Info,
    condition: "No idle state of the CPUs takes over 200 µs to wake up",
    why: "A shard sleeps between two turns. The time to wake adds to each of them. Not measured.",
    by_hand: "grep . /sys/devices/system/cpu/cpu0/cpuidle/state*/{name,latency,disable}",
    fix: "cpupower idle-set -D 200",
    reference: "Documentation/admin-guide/pm/cpuidle.rst of the kernel",
    source: Source::Choice(
        "because 200 µs are a tenth of the time in which a shard gathers completions. \
         Documentation/admin-guide/pm/cpuidle.rst of the kernel defines the exit latency",
    ),
};

static ISOLATION: Topic = Topic {
    id: "cpu.isolation",
    severity: Severity::Info,
    condition: "The scheduler keeps other programs off the CPUs of the shards",
    why: "On a machine for the node alone it saves interruptions. Not measured.",
    by_hand: "cat /sys/devices/system/cpu/isolated /sys/devices/system/cpu/nohz_full",
    fix: "kernel parameters isolcpus=CPUS and nohz_full=CPUS, or AllowedCPUs= of other units",
    reference: "tuning/README.md, CPUs; Documentation/admin-guide/kernel-parameters.txt",
    source: Source::Kernel(
        "admin-guide/kernel-parameters.txt",
        "isolcpus= and nohz_full= keep the scheduler and its tick off these CPUs",
    ),
};

static CLOCK_SOURCE: Topic = Topic {
    id: "clock.source",
    severity: Severity::Warning,
    condition: "The clock is read without a system call",
    why: "A shard reads the clock in every turn. With hpet or acpi_pm each reading takes a \
          microsecond.",
    by_hand: "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    fix: "use tsc (x86) or arch_sys_counter (ARM): look for `clocksource` in dmesg",
    reference: "Documentation/timers/timekeeping.rst of the kernel",
    source: Source::Manual(
        "vdso(7)",
        "clock_gettime runs without a system call where the vDSO can read the clock; others are \
         read by a system call",
    ),
};

static SYNCHRONISED: Topic = Topic {
    id: "clock.synchronised",
    severity: Severity::Warning,
    condition: "The wall clock follows another clock (NTP, PTP)",
    why: "Tokens expire by the wall clock, and recordings are dated by it.",
    by_hand: "timedatectl; adjtimex --print",
    fix: "systemctl enable --now systemd-timesyncd, or install chrony",
    reference: "docs/operations.md, Retention; adjtimex(2)",
    source: Source::Manual("adjtimex(2)", "STA_UNSYNC: the clock is not synchronised"),
};

pub(super) static TOPICS: [&Topic; 7] =
    [&SHARDS, &OWN_CPUS, &GOVERNOR, &IDLE_STATES, &ISOLATION, &CLOCK_SOURCE, &SYNCHRONISED];

/// Longest time to wake up, µs: a tenth of the time in which a shard gathers completions.
const WAKE_MAX: u64 = 200;

/// Clock sources that a program reads by itself (vDSO).
const FAST_CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource"];

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuFacts {
    /// CPUs that this process may use.
    pub(crate) allowed: Vec<usize>,
    /// Governors of all CPUs; empty: the kernel does not set the clock.
    pub(super) governors: Vec<String>,
    /// The slowest idle state that is on, µs; `None`: there are none.
    pub(super) wake_micros: Option<u64>,
    pub(super) isolated: Vec<usize>,
    pub(super) clock_source: Option<String>,
    /// `None`: not asked.
    pub(super) is_synchronised: Option<bool>,
}

impl CpuFacts {
    pub(super) fn read(root: &Root, allowed: &[usize]) -> CpuFacts {
        let directory = "sys/devices/system/cpu";
        let names = root.names(directory);
        let cpus = names.iter().filter(|name| {
            name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<usize>().is_ok())
        });
        let cpus: Vec<String> = cpus.map(|name| format!("{directory}/{name}")).collect();
        let governors =
            cpus.iter().filter_map(|cpu| root.text(&format!("{cpu}/cpufreq/scaling_governor")));
        let list = |name: &str| {
            let text = root.text(&format!("{directory}/{name}")).unwrap_or_default();
            cpus::parse(&text).unwrap_or_default()
        };
        CpuFacts {
            allowed: allowed.to_vec(),
            governors: governors.collect(),
            wake_micros: cpus.iter().filter_map(|cpu| slowest_state(root, cpu)).max(),
            isolated: [list("isolated"), list("nohz_full")].concat(),
            clock_source: root
                .text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            is_synchronised: root.is_live().then(|| Clocks::read().is_synchronised),
        }
    }
}

/// The time to wake from the slowest idle state of a CPU that is on, µs.
fn slowest_state(root: &Root, cpu: &str) -> Option<u64> {
    let states = root.names(&format!("{cpu}/cpuidle"));
    let states = states.iter().map(|state| format!("{cpu}/cpuidle/{state}"));
    let on = states.filter(|state| root.text(&format!("{state}/disable")).as_deref() != Some("1"));
    on.filter_map(|state| root.number(&format!("{state}/latency"))).max()
}

/// The CPUs that a copy of a machine's files allows.
pub(crate) fn allowed_in(root: &Root) -> Vec<usize> {
    let text = super::kernel::status_field(root, "Cpus_allowed_list")
        .or_else(|| root.text("sys/devices/system/cpu/online"));
    text.and_then(|text| cpus::parse(&text).ok()).unwrap_or_default()
}

pub(super) fn checks(facts: &CpuFacts, plan: &Plan, demand: &Demand) -> Vec<Check> {
    vec![
        shards(plan, demand),
        own_cpus(facts, plan),
        governor(facts),
        idle_states(facts),
        isolation(facts, plan),
        clock_source(facts),
        synchronised(facts),
    ]
}

fn shards(plan: &Plan, demand: &Demand) -> Check {
    let most = plan.shards.len() * CALLS_OF_CORE;
    let current = format!("{} ({} calls)", plan.shards.len(), show_count(most));
    Check::of(&SHARDS)
        .required(demand.shards.to_string())
        .current(current)
        .holds(demand.shards <= plan.shards.len())
}

fn own_cpus(facts: &CpuFacts, plan: &Plan) -> Check {
    let used = plan.cpus();
    let check = Check::of(&OWN_CPUS).required("a CPU for each shard, and one more");
    if used.is_empty() || facts.allowed.is_empty() {
        return check.skipped("the shards are not pinned");
    }
    let free = facts.allowed.iter().filter(|cpu| !used.contains(cpu)).count();
    check.current(format!("shards on CPUs {}, {free} left", cpus::show(&used))).holds(free > 0)
}

fn governor(facts: &CpuFacts) -> Check {
    let check = Check::of(&GOVERNOR)
        .required("performance")
        .setting("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
        .command(
            "for governor in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do echo \
             performance > \"$governor\"; done",
        );
    if facts.governors.is_empty() {
        return check.skipped("the kernel does not set the CPUs' clock here (no cpufreq)");
    }
    let others: Vec<&String> =
        facts.governors.iter().filter(|governor| *governor != "performance").collect();
    match others.first() {
        None => check.current("performance").holds(true),
        Some(other) => check.current(format!("{other} on {} CPUs", others.len())).holds(false),
    }
}

fn idle_states(facts: &CpuFacts) -> Check {
    let check = Check::of(&IDLE_STATES).required(format!("at most {WAKE_MAX} µs"));
    match facts.wake_micros {
        None => check.skipped("the kernel does not list idle states here (no cpuidle)"),
        Some(micros) => check
            .current(format!("{micros} µs"))
            .command(format!("cpupower idle-set -D {WAKE_MAX}"))
            .holds(micros <= WAKE_MAX),
    }
}

fn isolation(facts: &CpuFacts, plan: &Plan) -> Check {
    let wanted = plan.cpus();
    let check = Check::of(&ISOLATION).required(format!("CPUs {}", cpus::show(&wanted)));
    if wanted.is_empty() {
        return check.skipped("the shards are not pinned");
    }
    let mut isolated = facts.isolated.clone();
    isolated.sort_unstable();
    isolated.dedup();
    let shown = if isolated.is_empty() { "none".into() } else { cpus::show(&isolated) };
    check
        .current(format!("isolated: {shown}"))
        .holds(wanted.iter().all(|cpu| isolated.contains(cpu)))
}

fn clock_source(facts: &CpuFacts) -> Check {
    let check = Check::of(&CLOCK_SOURCE).required("tsc, or another that needs no system call");
    match &facts.clock_source {
        None => check.skipped("the kernel does not name its clock source"),
        Some(source) => check.current(source.clone()).holds(FAST_CLOCKS.contains(&source.as_str())),
    }
}

fn synchronised(facts: &CpuFacts) -> Check {
    let check = Check::of(&SYNCHRONISED).required("synchronised");
    match facts.is_synchronised {
        None => check.skipped("the clock is that of another machine"),
        Some(true) => check.current("synchronised").holds(true),
        Some(false) => check.current("not synchronised").holds(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips};

    fn judge(facts: &CpuFacts, plan: &Plan) -> Vec<Check> {
        checks(facts, plan, &Demand::of(plan))
    }

    #[test]
    fn each_check_passes_and_fails() {
        let good = CpuFacts {
            allowed: vec![0, 1, 2],
            governors: vec!["performance".into(); 3],
            wake_micros: Some(20),
            isolated: vec![1, 2],
            clock_source: Some("tsc".into()),
            is_synchronised: Some(true),
        };
        let bad = CpuFacts {
            allowed: vec![1, 2],
            governors: vec!["performance".into(), "powersave".into()],
            wake_micros: Some(900),
            isolated: vec![1],
            clock_source: Some("hpet".into()),
            is_synchronised: Some(false),
        };
        let (plan, large) = (Plan::of_calls(8_000), Plan::of_calls(16_001));
        for topic in TOPICS {
            assert_passes(judge(&good, &plan), topic.id);
            assert_fails(judge(&bad, &large), topic.id);
        }
        let unpinned = Plan { shards: vec![None], ..plan };
        for topic in &TOPICS[1..] {
            assert_skips(judge(&CpuFacts::default(), &unpinned), topic.id);
        }
    }

    #[test]
    fn the_slowest_state_that_is_on_counts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join("sys/devices/system/cpu").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (state, latency, disable) in
            [("state0", "1", "0"), ("state1", "90", "0"), ("state2", "800", "1")]
        {
            write(&format!("cpu3/cpuidle/{state}/latency"), latency);
            write(&format!("cpu3/cpuidle/{state}/disable"), disable);
        }
        write("cpu3/cpufreq/scaling_governor", "schedutil\n");
        write("cpuidle/current_driver", "none");
        write("isolated", "3\n");
        write("online", "0-3\n");
        let root = Root::copy(directory.path());
        let facts = CpuFacts::read(&root, &[3]);
        assert_eq!((facts.wake_micros, facts.isolated), (Some(90), vec![3]));
        assert_eq!(facts.governors, ["schedutil"]);
        assert_eq!(allowed_in(&root), [0, 1, 2, 3]);
    }
}
