//! What `/ready` and `/metrics` tell of a node beside what its threads count: its configuration,
//! its keys, and how often files were read again.

/// The part of the configuration that is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeInfo {
    /// The name of the ACK level.
    pub(crate) ack: &'static str,
    /// `limits.calls_max`.
    pub(crate) calls_max: usize,
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
        }
    }
}

impl Reloads {
    pub(super) fn count(&mut self, what: &str, is_taken: bool) {
        let outcome = if is_taken { TAKEN } else { REFUSED };
        let row = self.counts.iter_mut().find(|row| (row.0, row.1) == (what, outcome));
        debug_assert!(row.is_some(), "{what} is one of those that are counted");
        row.into_iter().for_each(|row| row.2 += 1);
    }
}

const TAKEN: &str = "taken";
const REFUSED: &str = "refused";
