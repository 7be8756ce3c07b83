//! What `/ready` and `/metrics` tell of a node beside what its threads count: its configuration,
//! its keys, and how often and when files were read again.

use std::time::SystemTime;

/// The part of the configuration that is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeInfo {
    /// The name of the ACK level.
    pub(crate) ack: &'static str,
    /// `limits.calls_max`.
    pub(crate) calls_max: usize,
    /// Counts the lines of the log that were dropped. The log is a part of the process, not of the
    /// node.
    pub(crate) log_lines_dropped: fn() -> u64,
}

/// Number of keys in the key file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyCounts {
    /// Keys that verify tokens.
    pub(crate) used: usize,
    /// All other keys.
    pub(crate) skipped: usize,
}

/// Counts of reloaded files.
#[derive(Clone, Debug)]
pub(crate) struct Reloads {
    /// What was read, with which result, and how often.
    pub(super) counts: [(&'static str, &'static str, u64); 6],
    /// What was read, when it was last taken, and when it was last refused.
    pub(super) times: [(&'static str, Option<SystemTime>, Option<SystemTime>); 3],
}

impl Default for Reloads {
    fn default() -> Self {
        let row = |what, outcome| (what, outcome, 0);
        let [keys, certificates, settings] = ["keys", "certificates", "settings"];
        Reloads {
            counts: [
                row(keys, TAKEN),
                row(keys, REFUSED),
                row(certificates, TAKEN),
                row(certificates, REFUSED),
                row(settings, TAKEN),
                row(settings, REFUSED),
            ],
            times: [keys, certificates, settings].map(|what| (what, None, None)),
        }
    }
}

impl Reloads {
    /// Counts a reload.
    pub(super) fn count(&mut self, what: &str, is_taken: bool, now: SystemTime) {
        let outcome = if is_taken { TAKEN } else { REFUSED };
        let row = self.counts.iter_mut().find(|row| (row.0, row.1) == (what, outcome));
        debug_assert!(row.is_some(), "{what} is one of those that are counted");
        row.into_iter().for_each(|row| row.2 += 1);
        self.set_time(what, is_taken, now);
    }

    /// The node was started with this.
    pub(super) fn start(&mut self, what: &str, now: SystemTime) {
        self.set_time(what, true, now);
    }

    fn set_time(&mut self, what: &str, is_taken: bool, now: SystemTime) {
        for (_, taken, refused) in self.times.iter_mut().filter(|row| row.0 == what) {
            *(if is_taken { taken } else { refused }) = Some(now);
        }
    }
}

const TAKEN: &str = "taken";
const REFUSED: &str = "refused";
