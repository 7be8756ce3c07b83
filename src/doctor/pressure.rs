//! Pressure: how long tasks wait for CPU, memory and disk (PSI).

use super::check::{Check, Severity, Source, Topic};
use super::root::Root;

static CPU: Topic = Topic {
    id: "pressure.cpu",
    severity: Severity::Warning,
    condition: "Tasks waited for a CPU in at most 20 % of the last minute",
    why: "A shard that waits for its CPU answers late. Other programs belong on other CPUs.",
    by_hand: "cat /proc/pressure/cpu   (some avg60)",
    fix: "move other programs to other CPUs, or use a larger machine",
    reference: "tuning/README.md, CPUs; Documentation/accounting/psi.rst of the kernel",
    source: Source::Choice(
        "because on an otherwise idle host a shard waits for nothing but work, and a fifth of a \
         minute is no chance. Documentation/accounting/psi.rst of the kernel defines the figure \
         and sets no limit",
    ),
};

static MEMORY: Topic = Topic {
    id: "pressure.memory",
    severity: Severity::Warning,
    condition: "Tasks waited for memory in at most 1 % of the last minute",
    why: "The kernel is short of memory and takes pages from running programs.",
    by_hand: "cat /proc/pressure/memory   (some avg60)",
    fix: "free memory, or give the machine more",
    reference: "docs/sizing.md, Memory; Documentation/accounting/psi.rst of the kernel",
    source: Source::Choice(
        "because a node has its memory from the start: on a healthy host nothing waits for memory. \
         Documentation/accounting/psi.rst of the kernel defines the figure and sets no limit",
    ),
};

static IO: Topic = Topic {
    id: "pressure.io",
    severity: Severity::Warning,
    condition: "All tasks waited for the disk in at most 10 % of the last minute",
    why: "The disk is busy. Durable ACKs wait for it too.",
    by_hand: "cat /proc/pressure/io   (full avg60)",
    fix: "find what uses the disk (iotop -o), and give the journal a disk of its own",
    reference: "docs/sizing.md, Disk; Documentation/accounting/psi.rst of the kernel",
    source: Source::Choice(
        "because a journal of its own keeps no task waiting for long: writes are asynchronous. \
         Documentation/accounting/psi.rst of the kernel defines the figure and sets no limit",
    ),
};

pub(super) static TOPICS: [&Topic; 3] = [&CPU, &MEMORY, &IO];

/// File, row, and most percent of a minute, for each topic.
const LIMITS: [(&str, &str, f64); 3] =
    [("cpu", "some", 20.0), ("memory", "some", 1.0), ("io", "full", 10.0)];

/// Percent of the last minute, in the order of [`TOPICS`].
#[derive(Clone, Debug, Default)]
pub(crate) struct PressureFacts {
    pub(super) percents: [Option<f64>; 3],
}

impl PressureFacts {
    pub(super) fn read(root: &Root) -> PressureFacts {
        let percents = LIMITS.map(|(file, row, _)| {
            let text = root.text(&format!("proc/pressure/{file}"))?;
            average(&text, row)
        });
        PressureFacts { percents }
    }
}

/// `avg60` of a row.
fn average(text: &str, row: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(row))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("avg60=")?.parse().ok())
}

pub(super) fn checks(facts: &PressureFacts) -> Vec<Check> {
    let all = TOPICS.into_iter().zip(LIMITS).zip(facts.percents);
    let checks = all.map(|((topic, (_, _, most)), percent)| {
        let check = Check::of(topic).required(format!("at most {most} %")).restless();
        match percent {
            Some(percent) => check.current(format!("{percent} %")).holds(percent <= most),
            None => check.skipped("this kernel has no pressure information (CONFIG_PSI, psi=1)"),
        }
    });
    checks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips};

    #[test]
    fn each_check_passes_and_fails() {
        for topic in TOPICS {
            let judge = |percents| checks(&PressureFacts { percents });
            assert_passes(judge([Some(0.5); 3]), topic.id);
            assert_fails(judge([Some(50.0); 3]), topic.id);
            assert_skips(judge([None; 3]), topic.id);
        }
    }

    #[test]
    fn the_average_of_a_minute_is_read() {
        let text = "some avg10=1.00 avg60=2.50 avg300=3.00 total=4\nfull avg10=0.00 avg60=0.25 x";
        assert_eq!((average(text, "some"), average(text, "full")), (Some(2.5), Some(0.25)));
        assert_eq!(average("", "some"), None);
    }
}
