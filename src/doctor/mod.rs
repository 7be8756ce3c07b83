//! The doctor: checks whether a host can hold N calls.
//!
//! ```text
//!  /proc, /sys, the kernel, the disk ──► Facts ──┐
//!  settings, N ──► Plan ──► Demand ──────────────┴──► checks() ──► Check, Check, …
//! ```
//! Each group of checks has a file with its facts, how they are collected, and its checks. A check
//! is a pure function of facts, so tests make the facts. Files are read below a [`root::Root`],
//! which tests can fill. What N calls need is counted in [`demand`] alone.
//!
//! It changes nothing on the host. It prints what to do: [`script`].

#![forbid(unsafe_code)]

mod cgroup;
pub(crate) mod check;
pub(crate) mod counters;
pub(crate) mod cpu;
pub(crate) mod demand;
mod disk;
mod disk_run;
mod ethtool;
mod facts;
pub(crate) mod files;
mod kernel;
mod limits;
mod memory;
mod mount;
mod network;
mod nic;
pub(crate) mod outage;
pub(crate) mod plan;
mod pressure;
pub(crate) mod root;
pub(crate) mod script;
mod show;
#[cfg(test)]
mod testing;

use check::{Check, Outcome, Severity, Topic};
use demand::Demand;
pub(crate) use facts::{Facts, HostFacts, Look};
use plan::Plan;

/// All checks of a host, in the order of [`topics`].
pub(crate) fn checks(facts: &Facts, plan: &Plan) -> Vec<Check> {
    let demand = Demand::of(plan);
    let groups = [
        kernel::checks(&facts.kernel),
        limits::checks(&facts.limits, plan, &demand),
        cgroup::checks(&facts.cgroup, &facts.memory, plan, &demand),
        memory::checks(&facts.memory, plan, &demand),
        cpu::checks(&facts.cpu, plan, &demand),
        pressure::checks(&facts.pressure),
        network::checks(&facts.network, &demand),
        nic::checks(&facts.nic, plan, &demand),
        counters::checks(facts.counters.as_ref()),
        disk::checks(&facts.disk, plan, &demand),
        files::checks(&facts.files),
    ];
    groups.into_iter().flatten().collect()
}

/// What each check is about.
pub(crate) fn topics() -> impl Iterator<Item = &'static Topic> {
    let groups: [&[&Topic]; 11] = [
        &kernel::TOPICS,
        &limits::TOPICS,
        &cgroup::TOPICS,
        &memory::TOPICS,
        &cpu::TOPICS,
        &pressure::TOPICS,
        &network::TOPICS,
        &nic::TOPICS,
        &counters::TOPICS,
        &disk::TOPICS,
        &files::TOPICS,
    ];
    groups.into_iter().flatten().copied()
}

/// Counts of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: usize,
    pub(crate) skipped: usize,
    /// Failed, by severity.
    pub(crate) fatal: usize,
    pub(crate) warnings: usize,
    pub(crate) infos: usize,
}

impl Summary {
    pub(crate) fn of(checks: &[Check]) -> Summary {
        let with = |outcome| checks.iter().filter(|check| check.result == outcome).count();
        let failed = |severity| checks.iter().filter(|check| check.has_failed(severity)).count();
        Summary {
            passed: with(Outcome::Pass),
            skipped: with(Outcome::Skipped),
            fatal: failed(Severity::Fatal),
            warnings: failed(Severity::Warning),
            infos: failed(Severity::Info),
        }
    }
}

/// One line for the log of a node: what failed, by id, and how to see more.
pub(crate) fn log_line(checks: &[Check], calls: usize) -> String {
    let summary = Summary::of(checks);
    let ids = |severity| {
        let failed = checks.iter().filter(move |check| check.has_failed(severity));
        failed.map(Check::id).collect::<Vec<_>>().join(", ")
    };
    let mut line = format!("host check: {} passed", summary.passed);
    for (count, one, many, severity) in [
        (summary.fatal, "fatal", "fatal", Severity::Fatal),
        (summary.warnings, "warning", "warnings", Severity::Warning),
    ] {
        if count > 0 {
            let word = if count == 1 { one } else { many };
            line += &format!(", {count} {word}: {}", ids(severity));
        }
    }
    format!("{line}; run `exo-ingest doctor --calls {calls}` for details")
}

#[cfg(test)]
mod tests {
    use super::*;
    use check::Source;
    use std::collections::BTreeSet;

    #[test]
    fn every_topic_has_one_check_in_the_same_order_and_says_everything() {
        let checks = checks(&Facts::default(), &Plan::of_calls(8_000));
        let (mut found, mut topics): (Vec<_>, Vec<_>) =
            (checks.iter().map(Check::id).collect(), topics().collect());
        let wanted: Vec<_> = topics.iter().map(|topic| topic.id).collect();
        assert_eq!(found, wanted);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), topics.len(), "an id is used twice");
        for topic in topics.drain(..) {
            let Topic { id, condition, why, by_hand, fix, reference, .. } = topic;
            let is_id = |part: &str| {
                !part.is_empty() && part.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
            };
            assert!(id.split('.').count() == 2 && id.split('.').all(is_id), "{id}");
            assert!(condition.len() > 20 && !condition.ends_with('.'), "{id}: {condition}");
            assert!(why.ends_with('.'), "{id}: {why}");
            assert!(!by_hand.is_empty() && !fix.is_empty() && !reference.is_empty(), "{id}");
        }
    }

    #[test]
    fn references_name_files_that_exist() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut names = BTreeSet::new();
        for topic in topics() {
            let words = topic.reference.split([' ', ',', ';']);
            names.extend(words.filter(|word| {
                ["docs/", "tuning/", "src/"].iter().any(|room| word.starts_with(room))
            }));
        }
        assert!(names.len() > 8, "{names:?}");
        for name in names {
            assert!(root.join(name).is_file(), "{name}");
        }
    }

    #[test]
    fn every_check_says_where_its_limit_comes_from() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut choices = 0;
        for Topic { id, source, .. } in topics() {
            let (name, words) = match source {
                Source::Node(file, what) | Source::Measured(file, what) => {
                    assert!(root.join(file).is_file(), "{id}: there is no {file}");
                    (*file, *what)
                }
                Source::Kernel(file, what) => {
                    let is_page = file.ends_with(".rst") || file.ends_with(".txt");
                    assert!(is_page && !file.starts_with("Documentation"), "{id}: {file}");
                    (*file, *what)
                }
                Source::Manual(name, what) => (*name, *what),
                Source::Choice(why) => {
                    choices += 1;
                    let reason = why.strip_prefix("because ");
                    ("our choice", reason.unwrap_or_else(|| panic!("{id}: why? {why}")))
                }
            };
            assert!(name.len() > 5 && words.len() > 20, "{id}: {name}: {words}");
            assert!(!words.ends_with('.'), "{id}: {words}");
            // Pages of ours that a reason names are there.
            for word in words.split([' ', ',', ';', ')', '(']).filter(|it| it.starts_with("docs/"))
            {
                assert!(root.join(word).is_file(), "{id}: there is no {word}");
            }
        }
        assert!(choices < topics().count() / 2, "{choices} limits are only our choice");
    }

    #[test]
    fn the_log_names_what_failed() {
        let plan = Plan { calls_max: 10, ..Plan::of_calls(8_000) };
        let checks = checks(&Facts::default(), &plan);
        let line = log_line(&checks, 8_000);
        assert!(line.starts_with("host check: ") && line.contains("limits.max_calls"), "{line}");
        assert!(line.contains("1 fatal: ") && line.contains("--calls 8000"), "{line}");
        let summary = Summary::of(&checks);
        let sum = summary.passed + summary.skipped + summary.fatal + summary.warnings;
        assert_eq!(sum + summary.infos, checks.len());
    }
}
