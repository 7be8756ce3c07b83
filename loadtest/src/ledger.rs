//! What each connection of the run has sent, and what the node has promised of it. `verify`
//! compares a journal with it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audio::{Audio, AudioError, Source};

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

/// The calls that a journal must hold, and their audio.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpectedAudio {
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
    /// Number of the run: its `prng` audio differs from that of other runs.
    pub run: u32,
    /// Whether files were played from their start. Older ledgers lack this field: there they were
    /// not.
    #[serde(default)]
    pub from_start: bool,
    /// The first call's number in its audio.
    pub first_call: u64,
    /// Tenant of all calls.
    pub tenant: String,
    /// Each call's `interaction_id`.
    pub interactions: Vec<String>,
}

impl ExpectedAudio {
    /// The frames, made again.
    pub fn frames(&self) -> Result<Audio, AudioError> {
        let source = self.audio.parse().unwrap_or_else(|_| Source::File(self.audio.clone().into()));
        let audio = Audio::prepare(&source, self.sample_rate, self.frame_size, self.run)?;
        Ok(if self.from_start { audio } else { audio.at_offsets() })
    }
}

/// All connections that sent something, by call and in order.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Their audio.
    pub audio: ExpectedAudio,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Sorts what the workers have recorded.
    pub fn new(audio: ExpectedAudio, mut entries: Vec<Entry>) -> Self {
        // A connection that sent nothing leaves only the record of its call in a journal.
        entries.retain(|entry| entry.sent > 0);
        entries.sort_unstable_by_key(|entry| (entry.call, entry.frames_before));
        Self { audio, entries }
    }

    /// As a file's text.
    pub fn to_text(&self) -> String {
        let schema = json!({"name": "exo-load/ledger", "version": VERSION});
        // The member is called `speech` in files of every version.
        format!("{}\n", json!({"schema": schema, "speech": self.audio, "entries": self.entries}))
    }

    /// Reads it from a run's directory.
    pub fn read(directory: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Schema {
            name: String,
            version: u32,
        }
        #[derive(Deserialize)]
        struct Whole {
            schema: Schema,
            speech: ExpectedAudio,
            entries: Vec<Entry>,
        }
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            format!("cannot read {}: {error}; give the --out directory of a run", path.display())
        })?;
        let malformed = |what: &str| {
            format!("{} is no ledger of this version of exo-load ({what})", path.display())
        };
        let Whole { schema, speech, entries } =
            serde_json::from_str(&text).map_err(|error| malformed(&error.to_string()))?;
        if (schema.name.as_str(), schema.version) != ("exo-load/ledger", VERSION) {
            return Err(malformed(&format!("{} {}", schema.name, schema.version)));
        }
        if entries.iter().any(|entry| {
            entry.call >= speech.interactions.len() as u64 || entry.promised > entry.sent
        }) {
            return Err(malformed("an entry is impossible"));
        }
        Ok(Self::new(speech, entries))
    }

    /// All connections.
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
        let entry = |call, frames_before, sent| Entry {
            call,
            frames_before,
            first_due: 0,
            sent,
            promised: sent / 10 * 10,
        };
        let ledger = Ledger::new(
            ExpectedAudio::default(),
            vec![
                entry(2, 0, 15),
                entry(1, 31, 20),
                entry(3, 0, 0),
                entry(1, 0, 30),
                entry(1, 30, 0),
            ],
        );
        assert_eq!(ledger.entries()[ledger.range_of(1)], [entry(1, 0, 30), entry(1, 31, 20)]);
        assert_eq!(ledger.entries()[ledger.range_of(2)], [entry(2, 0, 15)]);
        assert!(
            ledger.range_of(0).is_empty()
                && ledger.range_of(3).is_empty()
                && ledger.range_of(9).is_empty()
        );
        assert_eq!(ledger.promised(), 60);
        let directory = tempfile::tempdir().unwrap();
        let refused = |entries| {
            fs::write(
                directory.path().join(FILE),
                Ledger::new(ExpectedAudio::default(), entries).to_text(),
            )
            .unwrap();
            Ledger::read(directory.path()).err().unwrap()
        };
        assert!(refused(vec![entry(0, 0, 10)]).contains("impossible"), "a call without a name");
    }
}
