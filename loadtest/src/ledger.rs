//! What each connection of the run has sent, and what the node has promised of it: what a journal is held against.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audio::{Audio, AudioError, Source};
use crate::plan::Plan;

/// The file in `--out` that a later `verify` reads.
pub const FILE: &str = "ledger.json";

/// Version of that file: raised when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// One connection that came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place of the call among this run's calls.
    pub call: u64,
    /// Frames of the call that came before this connection.
    pub frames_before: u64,
    /// When its frame 1 was due, nanoseconds since the run's start.
    pub first_due: u64,
    /// Frames handed to the kernel.
    pub sent: u64,
    /// Frames that an ack or `stopped` has promised.
    pub promised: u64,
}

/// What was said, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Speech {
    /// The clock's zero, Unix time in microseconds.
    pub started_at: u64,
    /// Hz.
    pub sample_rate: u32,
    /// Time between two frames of a call, nanoseconds.
    pub interval: u64,
    /// Bytes of a frame.
    pub frame_size: usize,
    /// As `--audio` has it.
    pub audio: String,
    /// What tells this run's `prng` audio from other runs'.
    pub run: u32,
    /// The first call's number in its audio.
    pub first_call: u64,
    /// Tenant of all calls.
    pub tenant: String,
    /// Each call's `interaction_id`.
    pub interactions: Vec<String>,
}

impl Speech {
    /// That of a run.
    pub fn of(plan: &Plan, source: &Source) -> Self {
        Self {
            started_at: plan.started_at,
            sample_rate: plan.sample_rate,
            interval: plan.schedule.interval,
            frame_size: plan.audio.payload_size(),
            audio: source.to_string(),
            run: plan.run,
            first_call: plan.first_call,
            tenant: plan.calls.first().map_or(String::new(), |ids| ids.tenant.to_string()),
            interactions: plan.calls.iter().map(|ids| ids.interaction.clone()).collect(),
        }
    }

    /// The audio, made anew.
    pub fn audio(&self) -> Result<Audio, AudioError> {
        let source = self.audio.parse().unwrap_or_else(|_| Source::File(self.audio.clone().into()));
        Audio::prepare(&source, self.sample_rate, self.frame_size, self.run)
    }
}

/// All connections that sent something, by call and in order.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What they said.
    pub speech: Speech,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Puts what the workers wrote down in order.
    pub fn new(speech: Speech, mut entries: Vec<Entry>) -> Self {
        // One that sent nothing leaves nothing in a journal but the record of its call.
        entries.retain(|entry| entry.sent > 0);
        entries.sort_unstable_by_key(|entry| (entry.call, entry.frames_before));
        Self { speech, entries }
    }

    /// As a file's text.
    pub fn to_text(&self) -> String {
        let schema = json!({"name": "exo-load/ledger", "version": VERSION});
        format!("{}\n", json!({"schema": schema, "speech": self.speech, "entries": self.entries}))
    }

    /// Out of a run's directory.
    pub fn read(directory: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Schema {
            name: String,
            version: u32,
        }
        #[derive(Deserialize)]
        struct Whole {
            schema: Schema,
            speech: Speech,
            entries: Vec<Entry>,
        }
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}; give the --out directory of a run", path.display()))?;
        let malformed = |what: &str| format!("{} is no ledger of this version of exo-load ({what})", path.display());
        let Whole { schema, speech, entries } =
            serde_json::from_str(&text).map_err(|error| malformed(&error.to_string()))?;
        if (schema.name.as_str(), schema.version) != ("exo-load/ledger", VERSION) {
            return Err(malformed(&format!("{} {}", schema.name, schema.version)));
        }
        if entries.iter().any(|entry| entry.call >= speech.interactions.len() as u64 || entry.promised > entry.sent) {
            return Err(malformed("an entry that cannot be"));
        }
        Ok(Self::new(speech, entries))
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where a call's connections are among [`Ledger::entries`].
    pub fn range_of(&self, call: u64) -> std::ops::Range<usize> {
        let first = self.entries.partition_point(|entry| entry.call < call);
        let count = self.entries[first..].partition_point(|entry| entry.call == call);
        first..first + count
    }

    /// Frames promised in all.
    pub fn promised(&self) -> u64 {
        self.entries.iter().map(|entry| entry.promised).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_connections_stand_together_in_order() {
        let entry = |call, frames_before, sent| Entry { call, frames_before, first_due: 0, sent, promised: sent / 10 * 10 };
        let ledger = Ledger::new(
            Speech::default(),
            vec![entry(2, 0, 15), entry(1, 31, 20), entry(3, 0, 0), entry(1, 0, 30), entry(1, 30, 0)],
        );
        assert_eq!(ledger.entries()[ledger.range_of(1)], [entry(1, 0, 30), entry(1, 31, 20)]);
        assert_eq!(ledger.entries()[ledger.range_of(2)], [entry(2, 0, 15)]);
        assert!(ledger.range_of(0).is_empty() && ledger.range_of(3).is_empty() && ledger.range_of(9).is_empty());
        assert_eq!(ledger.promised(), 60);
        let directory = tempfile::tempdir().unwrap();
        let refused = |entries| {
            fs::write(directory.path().join(FILE), Ledger::new(Speech::default(), entries).to_text()).unwrap();
            Ledger::read(directory.path()).err().unwrap()
        };
        assert!(refused(vec![entry(0, 0, 10)]).contains("cannot be"), "a call without a name");
    }
}
