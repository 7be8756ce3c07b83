//! Watches the node meanwhile: CPU and memory once a second, its counters before and after.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::schedule::Clock;
use crate::{admin, host};

/// Time between two samples.
const EVERY: u64 = 1_000_000_000;

/// Time within which the end of the run is noticed.
const STEP: Duration = Duration::from_millis(50);

/// Where the node's figures come from.
pub struct Watch {
    /// Its process, on this machine.
    pub pid: Option<u32>,
    /// Its admin address.
    pub admin: Option<String>,
    /// The run's clock.
    pub clock: Clock,
}

/// The node at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// When.
    pub at: u64,
    /// CPU time so far, nanoseconds.
    pub cpu: u64,
    /// Resident memory, bytes.
    pub rss: u64,
}

/// All samples.
#[derive(Debug, Default)]
pub struct Seen {
    /// Once a second.
    pub looks: Vec<Look>,
    /// Counters when the watch began and when it ended, by name and labels.
    pub counters: Option<(BTreeMap<String, u64>, BTreeMap<String, u64>)>,
}

impl Watch {
    /// Samples until `done`. If the node does not answer any more, its calls fail and say so.
    pub fn run(&self, done: &AtomicBool) -> Seen {
        let mut seen = Seen::default();
        let before = self.admin.as_deref().and_then(|address| admin::counters(address).ok());
        let mut next = self.clock.now();
        while !done.load(Ordering::Relaxed) {
            if self.clock.now() >= next {
                next += EVERY;
                seen.looks.extend(self.look());
            }
            std::thread::sleep(STEP);
        }
        let after = self.admin.as_deref().and_then(|address| admin::counters(address).ok());
        seen.counters = before.zip(after);
        seen
    }

    fn look(&self) -> Option<Look> {
        let at = self.clock.now();
        if let Some(pid) = self.pid {
            let sample = host::sample_server(pid).ok()?;
            return Some(Look { at, cpu: sample.user_ns + sample.system_ns, rss: sample.rss });
        }
        let (cpu, rss) = admin::process(self.admin.as_deref()?).ok()?;
        Some(Look { at, cpu, rss })
    }
}

impl Seen {
    /// CPU in percent of one core, and the most memory, between two times. None with fewer than two
    /// samples.
    pub fn between(&self, from: u64, until: u64) -> Option<(f64, u64)> {
        let looks: Vec<&Look> =
            self.looks.iter().filter(|look| (from..until).contains(&look.at)).collect();
        let (first, last) = (looks.first()?, looks.last()?);
        let time = last.at.checked_sub(first.at).filter(|time| *time > 0)?;
        let cpu = last.cpu.saturating_sub(first.cpu) as f64 * 100.0 / time as f64;
        Some((cpu, looks.iter().map(|look| look.rss).max()?))
    }

    /// The counters that went up, and by how much.
    pub fn growth(&self) -> BTreeMap<String, u64> {
        self.counters
            .as_ref()
            .map(|(before, after)| admin::growth(before, after))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_phase_come_from_the_looks_in_it() {
        let look = |second: u64, cpu_ms: u64, rss| Look {
            at: second * EVERY,
            cpu: cpu_ms * 1_000_000,
            rss,
        };
        let seen = Seen {
            looks: vec![look(1, 0, 10), look(2, 500, 30), look(3, 1_000, 20), look(4, 3_000, 99)],
            counters: None,
        };
        assert_eq!(seen.between(EVERY, 4 * EVERY), Some((50.0, 30)));
        assert_eq!(seen.between(4 * EVERY, 9 * EVERY), None);
    }

    #[test]
    fn only_what_went_up_is_told() {
        let counters = |acks, closes| {
            BTreeMap::from([("acks".to_owned(), acks), ("closes".to_owned(), closes)])
        };
        let seen = Seen { looks: Vec::new(), counters: Some((counters(5, 1), counters(9, 1))) };
        assert_eq!(seen.growth(), BTreeMap::from([("acks".to_owned(), 4)]));
    }
}
