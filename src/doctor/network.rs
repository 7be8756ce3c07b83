//! Network settings of the kernel: queues of new connections, memory of sockets, tracking.

use super::check::{Check, Severity, Source, Topic};
use super::demand::Demand;
use super::root::Root;
use crate::config::ring_size::{show_count, show_rounded};

static SOMAXCONN: Topic = Topic {
    id: "net.somaxconn",
    severity: Severity::Warning,
    condition: "4,096 connections may wait for accept on each listener",
    why: "When many clients connect at once, those that find the queue full try again after \
          seconds. Each shard asks for 4,096; more has no effect.",
    by_hand: "sysctl net.core.somaxconn; ss -ltn   (Send-Q)",
    fix: "sysctl -w net.core.somaxconn=4096",
    reference: "tuning/README.md, Network; tuning/host.sh",
    source: Source::Manual(
        "listen(2)",
        "a longer backlog is cut to somaxconn, 4,096 by default since Linux 5.4; each listener of \
         the node asks for 4,096 (src/io/socket.rs)",
    ),
};

static SYN_BACKLOG: Topic = Topic {
    id: "net.syn_backlog",
    severity: Severity::Warning,
    condition: "4,096 handshakes may be under way at once",
    why: "After an outage all clients connect at once.",
    by_hand: "sysctl net.ipv4.tcp_max_syn_backlog",
    fix: "sysctl -w net.ipv4.tcp_max_syn_backlog=4096",
    reference: "tuning/host.sh; Documentation/networking/ip-sysctl.rst of the kernel",
    source: Source::Choice(
        "because the other queue has 4,096 places too. Documentation/networking/ip-sysctl.rst of \
         the kernel: a limit for each listener, which grows with the memory of the machine; raise \
         it if the server is overloaded",
    ),
};

static SYNCOOKIES: Topic = Topic {
    id: "net.syncookies",
    severity: Severity::Warning,
    condition: "A full queue of handshakes answers with cookies",
    why: "Without cookies the kernel drops the packets of new clients when the queue is full.",
    by_hand: "sysctl net.ipv4.tcp_syncookies",
    fix: "sysctl -w net.ipv4.tcp_syncookies=1",
    reference: "tuning/README.md, Network; tuning/host.sh",
    source: Source::Kernel(
        "networking/ip-sysctl.rst",
        "sends cookies when the queue overflows; 1 is the default",
    ),
};

static TCP_MEM: Topic = Topic {
    id: "net.tcp_mem",
    severity: Severity::Warning,
    condition: "TCP may use the memory that N calls fill in a stall",
    why: "When a disk stalls longer than the frame rings last, sockets hold the audio: calls × \
          48,000 B/s × 2 s × 2, because a buffer counts its pages and not its bytes. Above the \
          second number of tcp_mem the kernel shrinks windows, above the third it drops packets \
          of all connections.",
    by_hand: "sysctl net.ipv4.tcp_mem   (pages of 4 KiB); cat /proc/net/sockstat",
    fix: "raise the second and the third number of net.ipv4.tcp_mem",
    reference: "docs/sizing.md, Memory; Documentation/networking/ip-sysctl.rst of the kernel",
    source: Source::Kernel(
        "networking/ip-sysctl.rst",
        "above `pressure` TCP moderates its memory, and `max` pages are all that its sockets may \
         queue; the need is our count for a stall (memory.sockets)",
    ),
};

static TCP_RMEM: Topic = Topic {
    id: "net.tcp_rmem",
    severity: Severity::Warning,
    condition: "The receive buffer of a call may grow to what it sends in a stall of 2 s",
    why: "If it is smaller, the peer stops to send earlier. It must hold 48,000 B/s × 2 s × 2, \
          because half of the buffer is window.",
    by_hand: "sysctl net.ipv4.tcp_rmem   (the third number)",
    fix: "raise the third number of net.ipv4.tcp_rmem",
    reference: "tuning/README.md, Network; Documentation/networking/ip-sysctl.rst of the kernel",
    source: Source::Kernel(
        "networking/ip-sysctl.rst",
        "the third number is the largest buffer that is chosen by itself; the need is our count \
         for a stall (memory.sockets)",
    ),
};

static CONNTRACK: Topic = Topic {
    id: "net.conntrack",
    severity: Severity::Warning,
    condition: "Connection tracking is not loaded, or has room for four times N connections",
    why: "With a full table the kernel drops new connections, and only its log says so. Old \
          connections stay in the table for minutes after a reconnect.",
    by_hand: "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
    fix: "raise net.netfilter.nf_conntrack_max, or do not track the node's port (NOTRACK)",
    reference: "tuning/host.sh; Documentation/networking/nf_conntrack-sysctl.rst of the kernel",
    source: Source::Choice(
        "because after a mass reconnect the table holds old and new connections: the kernel keeps \
         closed ones for up to 120 s, lost ones for days \
         (Documentation/networking/nf_conntrack-sysctl.rst). The factor 4 allows two reconnects, \
         with room",
    ),
};

pub(super) static TOPICS: [&Topic; 6] =
    [&SOMAXCONN, &SYN_BACKLOG, &SYNCOOKIES, &TCP_MEM, &TCP_RMEM, &CONNTRACK];

/// The listeners' own backlog: see [`crate::io::socket`]. `tuning/host.sh` has the same number.
const QUEUE_MIN: u64 = 4096;

/// Rows of the tracking table for each call. `tuning/host.sh` has the same factor.
const TRACKED_OF_CALL: u64 = 4;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkFacts {
    pub(super) somaxconn: Option<u64>,
    pub(super) syn_backlog: Option<u64>,
    pub(super) syncookies: Option<u64>,
    /// Low, pressure, high: bytes.
    pub(super) tcp_mem: Option<[u64; 3]>,
    /// Minimum, default, maximum: bytes.
    pub(super) tcp_rmem: Option<[u64; 3]>,
    /// `None`: not loaded.
    pub(super) conntrack_max: Option<u64>,
    pub(super) conntrack_count: Option<u64>,
}

impl NetworkFacts {
    pub(super) fn read(root: &Root) -> NetworkFacts {
        let three = |name: &str| numbers(&root.text(&format!("proc/sys/net/ipv4/{name}"))?);
        let page = rustix::param::page_size() as u64;
        NetworkFacts {
            somaxconn: root.number("proc/sys/net/core/somaxconn"),
            syn_backlog: root.number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syncookies: root.number("proc/sys/net/ipv4/tcp_syncookies"),
            tcp_mem: three("tcp_mem").map(|pages| pages.map(|count| count.saturating_mul(page))),
            tcp_rmem: three("tcp_rmem"),
            conntrack_max: root.number("proc/sys/net/netfilter/nf_conntrack_max"),
            conntrack_count: root.number("proc/sys/net/netfilter/nf_conntrack_count"),
        }
    }
}

fn numbers(text: &str) -> Option<[u64; 3]> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

pub(super) fn checks(facts: &NetworkFacts, demand: &Demand) -> Vec<Check> {
    vec![
        at_least(&SOMAXCONN, "net.core.somaxconn", facts.somaxconn, QUEUE_MIN),
        at_least(&SYN_BACKLOG, "net.ipv4.tcp_max_syn_backlog", facts.syn_backlog, QUEUE_MIN),
        at_least(&SYNCOOKIES, "net.ipv4.tcp_syncookies", facts.syncookies, 1),
        tcp_mem(facts, demand),
        tcp_rmem(facts, demand),
        conntrack(facts, demand),
    ]
}

/// A sysctl that must be at least this.
fn at_least(topic: &'static Topic, name: &str, value: Option<u64>, least: u64) -> Check {
    let check = Check::of(topic)
        .required(format!("at least {least}"))
        .setting(name)
        .command(format!("sysctl -w {name}={least}"));
    match value {
        Some(value) => check.current(value.to_string()).holds(value >= least),
        None => check.skipped(format!("{name} cannot be read")),
    }
}

fn tcp_mem(facts: &NetworkFacts, demand: &Demand) -> Check {
    let name = "net.ipv4.tcp_mem";
    let wanted = demand.socket_memory;
    let check = Check::of(&TCP_MEM)
        .required(format!("at least {} before pressure", show_rounded(wanted)))
        .setting(name);
    let Some([low, pressure, high]) = facts.tcp_mem else {
        return check.skipped(format!("{name} cannot be read: in a container, ask its host"));
    };
    let pages = |bytes: u64| bytes.div_ceil(rustix::param::page_size() as u64);
    check
        .current(format!("pressure at {}, limit {}", show_rounded(pressure), show_rounded(high)))
        .fixed_by(format!(
            "sysctl -w {name}='{} {} {}'",
            pages(low.max(wanted * 3 / 4)),
            pages(pressure.max(wanted)),
            pages(high.max(wanted * 3 / 2))
        ))
        .holds(pressure >= wanted)
}

fn tcp_rmem(facts: &NetworkFacts, demand: &Demand) -> Check {
    let name = "net.ipv4.tcp_rmem";
    let wanted = demand.socket_memory_of_call;
    let check = Check::of(&TCP_RMEM)
        .required(format!("at least {wanted} as the third number"))
        .setting(name);
    let Some([least, first, most]) = facts.tcp_rmem else {
        return check.skipped(format!("{name} cannot be read: in a container, ask its host"));
    };
    check
        .current(most.to_string())
        .fixed_by(format!("sysctl -w {name}='{least} {first} {}'", wanted.max(1 << 20)))
        .holds(most >= wanted)
}

fn conntrack(facts: &NetworkFacts, demand: &Demand) -> Check {
    let name = "net.netfilter.nf_conntrack_max";
    let wanted = TRACKED_OF_CALL * demand.calls;
    let check = Check::of(&CONNTRACK)
        .required(format!("at least {wanted}"))
        .setting(name)
        .command(format!("sysctl -w {name}={wanted}"))
        .fix(format!("sysctl -w {name}={wanted}, or do not track the node's port (NOTRACK)"));
    match (facts.conntrack_max, facts.conntrack_count) {
        (None, _) => check.current("not loaded").holds(true),
        (Some(most), Some(used)) => check
            .current(format!("{most}, {} in use", show_count(used as usize)))
            .restless()
            .holds(most >= wanted),
        (Some(most), None) => check.current(most.to_string()).holds(most >= wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::plan::Plan;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};

    fn judge(facts: &NetworkFacts) -> Vec<Check> {
        checks(facts, &Demand::of(&Plan::of_calls(8_000)))
    }

    fn good() -> NetworkFacts {
        NetworkFacts {
            somaxconn: Some(4096),
            syn_backlog: Some(4096),
            syncookies: Some(1),
            tcp_mem: Some([1 << 30, 1_536_000_000, 2 << 30]),
            tcp_rmem: Some([4096, 131_072, 6 << 20]),
            conntrack_max: Some(32_000),
            conntrack_count: Some(7),
        }
    }

    #[test]
    fn each_check_passes_and_fails() {
        let bad = NetworkFacts {
            somaxconn: Some(128),
            syn_backlog: Some(512),
            syncookies: Some(0),
            tcp_mem: Some([1 << 20, 1_535_999_999, 2 << 30]),
            tcp_rmem: Some([4096, 8192, 131_072]),
            conntrack_max: Some(31_999),
            conntrack_count: None,
        };
        for topic in TOPICS {
            assert_passes(judge(&good()), topic.id);
            assert_fails(judge(&bad), topic.id);
        }
        let unknown = NetworkFacts::default();
        for topic in &TOPICS[..5] {
            assert_skips(judge(&unknown), topic.id);
        }
        let check = find(judge(&unknown), "net.conntrack");
        assert_eq!(check.current.as_deref(), Some("not loaded"));
        let check = find(judge(&bad), "net.tcp_mem");
        assert!(check.commands[0].contains("tcp_mem='281250 375000 "), "{check:?}");
    }

    #[test]
    fn three_numbers_are_read() {
        assert_eq!(numbers("4096\t131072\t6291456"), Some([4096, 131_072, 6_291_456]));
        assert_eq!((numbers("1 2"), numbers("1 2 x")), (None, None));
        let facts = NetworkFacts::read(&Root::live());
        assert!(facts.tcp_mem.is_some() && facts.somaxconn.is_some(), "{facts:?}");
    }
}
