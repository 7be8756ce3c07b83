//! The kernel: io_uring and what may forbid it.

use super::check::{Check, Severity, Source, Topic};
use super::plan::Plan;
use super::root::Root;
use crate::io::probe::probe;
use rustix::system::uname;

static IO_URING: Topic = Topic {
    id: "kernel.io_uring",
    severity: Severity::Fatal,
    condition: "The kernel allows io_uring, with every operation that a node uses",
    why: "All sockets and files of a node go through io_uring. Without it serve does not start.",
    by_hand: "exo-ingest serve --check …   (the line io_uring)",
    fix: "use Linux 6.1 or later, and allow io_uring to this process",
    reference: "tuning/README.md, Kernel and Containers; src/io/probe.rs",
    source: Source::Node(
        "src/io/probe.rs",
        "the probe makes a ring and asks for each operation that a node uses; it needs \
         IORING_SETUP_DEFER_TASKRUN, which came with Linux 6.1",
    ),
};

static IO_URING_DISABLED: Topic = Topic {
    id: "kernel.io_uring_disabled",
    severity: Severity::Warning,
    condition: "The sysctl kernel.io_uring_disabled allows io_uring to all users",
    why: "With 1, only root and the group of kernel.io_uring_group may use io_uring. With 2, \
          nothing may. A node that runs as another user than this command then does not start.",
    by_hand: "sysctl kernel.io_uring_disabled",
    fix: "sysctl -w kernel.io_uring_disabled=0, if your security policy agrees",
    reference: "tuning/README.md, Kernel; tuning/host.sh --io-uring",
    source: Source::Kernel(
        "admin-guide/sysctl/kernel.rst",
        "0 allows io_uring to all, 1 to root and the group of io_uring_group, 2 to nothing",
    ),
};

static SECCOMP: Topic = Topic {
    id: "kernel.seccomp",
    severity: Severity::Fatal,
    condition: "No seccomp filter of this process refuses io_uring",
    why: "The default profiles of Docker (since 25.0) and containerd (since 2.0) refuse io_uring \
          with EPERM.",
    by_hand: "grep Seccomp /proc/self/status   (2: there is a filter)",
    fix: "use the profile tuning/seccomp.json instead of the container runtime's default",
    reference: "tuning/README.md, Containers",
    source: Source::Manual(
        "Docker (github.com/moby/moby/pull/46762) and containerd \
         (github.com/containerd/containerd/pull/9320)",
        "their default profiles no longer allow io_uring; that the filter matters is what the \
         probe in src/io/probe.rs finds",
    ),
};

static VERSION: Topic = Topic {
    id: "kernel.version",
    severity: Severity::Info,
    condition: "The kernel is 6.12 or later, which has the node's fastest paths",
    why: "On 6.1 to 6.11 a node uses whole receive buffers, and waits with a time-out.",
    by_hand: "uname -r",
    fix: "use Linux 6.12 or later",
    reference: "tuning/README.md, Kernel",
    source: Source::Manual(
        "Linux commit ae98dbf43d75 (6.12)",
        "adds buffers that are consumed piece by piece, which the node uses where they are",
    ),
};

pub(super) static TOPICS: [&Topic; 4] = [&IO_URING, &IO_URING_DISABLED, &SECCOMP, &VERSION];

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelFacts {
    /// `uname -r`.
    pub(super) release: Option<String>,
    /// What the probe said: the paths that would run, or why none can. `None`: not asked.
    pub(super) io_uring: Option<Result<String, String>>,
    /// `kernel.io_uring_disabled`.
    pub(super) disabled: Option<u8>,
    /// Mode of seccomp: 0 none, 1 strict, 2 a filter.
    pub(super) seccomp: Option<u8>,
}

impl KernelFacts {
    /// `can_probe`: a node that has started knows the answer already.
    pub(super) fn read(root: &Root, plan: &Plan, can_probe: bool) -> KernelFacts {
        let asked = (root.is_live() && can_probe).then(|| {
            let found = probe(plan.kernel_features);
            found.map(|features| features.describe()).map_err(|error| error.to_string())
        });
        let release = match root.is_live() {
            true => Some(uname().release().to_string_lossy().into_owned()),
            false => root.text("proc/sys/kernel/osrelease"),
        };
        KernelFacts {
            release,
            io_uring: asked,
            disabled: root.number("proc/sys/kernel/io_uring_disabled"),
            seccomp: status_field(root, "Seccomp").and_then(|text| text.parse().ok()),
        }
    }
}

/// A field of `/proc/self/status`.
pub(super) fn status_field(root: &Root, name: &str) -> Option<String> {
    let status = root.text("proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

pub(super) fn checks(facts: &KernelFacts) -> Vec<Check> {
    vec![io_uring(facts), io_uring_disabled(facts), seccomp(facts), version(facts)]
}

fn io_uring(facts: &KernelFacts) -> Check {
    let check = Check::of(&IO_URING).required("Linux 6.1 or later, io_uring allowed");
    match &facts.io_uring {
        Some(Ok(paths)) => check.current(paths.clone()).holds(true),
        Some(Err(sentence)) => check.current("refused").fix(sentence.clone()).holds(false),
        None => check.skipped(NOT_ASKED),
    }
}

const NOT_ASKED: &str = "the kernel was not asked what it allows";

fn io_uring_disabled(facts: &KernelFacts) -> Check {
    let name = "kernel.io_uring_disabled";
    let check = Check::of(&IO_URING_DISABLED)
        .required("0")
        .setting(name)
        .command(format!("sysctl -w {name}=0"));
    match facts.disabled {
        Some(value) => check.current(value.to_string()).holds(value == 0),
        None => check.skipped("this kernel has no such setting (it came with 6.6)"),
    }
}

fn seccomp(facts: &KernelFacts) -> Check {
    let check = Check::of(&SECCOMP).required("no filter, or one that allows io_uring");
    let refused = matches!(&facts.io_uring, Some(Err(sentence)) if sentence.contains("seccomp"));
    match facts.seccomp {
        Some(0) => check.current("no filter").holds(true),
        Some(_) if facts.io_uring.is_none() => check.skipped(NOT_ASKED),
        Some(_) if refused => check.current("a filter, and io_uring is refused").holds(false),
        Some(_) => check.current("a filter that allows io_uring").holds(true),
        None => check.skipped("/proc/self/status cannot be read"),
    }
}

fn version(facts: &KernelFacts) -> Check {
    let check = Check::of(&VERSION).required("6.12 or later");
    let Some(release) = &facts.release else {
        return check.skipped("the release of the kernel cannot be read");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => {
            check.current(release.clone()).holds((major, minor) >= (6, 12))
        }
        _ => check.skipped(format!("{release} is no release that we can read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips};

    fn good() -> KernelFacts {
        KernelFacts {
            release: Some("6.12.0-1".into()),
            io_uring: Some(Ok("kernel paths: …".into())),
            disabled: Some(0),
            seccomp: Some(0),
        }
    }

    #[test]
    fn each_check_passes_and_fails() {
        for id in ["kernel.io_uring", "kernel.io_uring_disabled", "kernel.seccomp"] {
            assert_passes(checks(&good()), id);
        }
        let refused = "this process may not use io_uring: see the seccomp profile";
        let bad = KernelFacts {
            release: Some("6.1.0".into()),
            io_uring: Some(Err(refused.into())),
            disabled: Some(2),
            seccomp: Some(2),
        };
        for topic in TOPICS {
            assert_fails(checks(&bad), topic.id);
        }
        assert_eq!(checks(&bad)[0].fix, refused, "the probe's own words");
        // A filter that lets io_uring through.
        assert_passes(checks(&KernelFacts { seccomp: Some(2), ..good() }), "kernel.seccomp");
        for topic in TOPICS {
            assert_skips(checks(&KernelFacts::default()), topic.id);
        }
    }

    #[test]
    fn this_machine_is_read() {
        let facts = KernelFacts::read(&Root::live(), &Plan::of_calls(1), true);
        assert!(facts.io_uring.as_ref().is_some_and(Result::is_ok), "{facts:?}");
        assert!(facts.seccomp.is_some() && facts.release.is_some());
        let unasked = KernelFacts::read(&Root::live(), &Plan::of_calls(1), false);
        assert_eq!(unasked.io_uring, None);
    }
}
