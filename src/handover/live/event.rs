//! Events of calls: one JSON object each.
//!
//! ```text
//! {"version":1,"event":"started", …}   the epoch has started
//! {"version":1,"event":"gap", …}       frames are missing, and why
//! {"version":1,"event":"ended", …}     the epoch has ended: its receipt
//! {"version":1,"event":"erased", …}    its audio was deleted on demand: keep no copy
//! {"version":1,"event":"recording_ready", …}
//!                                      an archive has the WAV file and the receipt of a recording
//! ```
//! All have `tenant`, `interaction`, `node`, `epoch` and `at` (RFC 3339).

#![forbid(unsafe_code)]

use super::message::EpochName;
use crate::archive::index::CallFacts;
use crate::archive::reader::GapReason;
use crate::call::CallIdentity;
use crate::clock::UnixMicros;
use crate::format::EndRecord;
use crate::session::ingest::Ending;
use bytes::Bytes;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// Version of the events.
const VERSION: u32 = 1;

/// The first part of every event.
#[derive(Debug, Serialize)]
struct Event<'a, T> {
    version: u32,
    event: &'static str,
    tenant: &'a str,
    interaction: &'a str,
    node: &'a str,
    epoch: String,
    at: String,
    #[serde(flatten)]
    more: T,
}

#[derive(Debug, Serialize)]
struct Started {
    sample_rate: u32,
    peer: Option<String>,
}

#[derive(Debug, Serialize)]
struct Missing {
    first_seq: u64,
    /// Null: up to the end of the epoch, which is not known.
    last_seq: Option<u64>,
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Ended {
    /// As in `calls list`; `cut` if the node ended first.
    reason: &'static str,
    /// Complete frames, as the node counted them; null if the node ended first.
    frames: Option<u64>,
    /// Bytes of whole samples in them.
    bytes: Option<u64>,
    /// The last frame; null if the node ended first and it is not known.
    last_seq: Option<u64>,
}

/// An event that says all with its name.
#[derive(Debug, Serialize)]
struct Nothing {}

/// What an archive has of a recording.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReadyRecording<'a> {
    /// The archive's URL.
    pub(crate) archive: &'a str,
    /// Names in it: of the WAV file, and of the receipt.
    pub(crate) object: &'a str,
    pub(crate) receipt: &'a str,
    /// Of the WAV file.
    pub(crate) sha256: &'a str,
    pub(crate) started_at: &'a str,
    pub(crate) sample_rate: u32,
    pub(crate) frames: u64,
    /// Of samples.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// No audio is missing.
    pub(crate) is_complete: bool,
}

/// Names in events of why frames are not in the engine.
const fn label(reason: GapReason) -> &'static str {
    match reason {
        // Retention removed their segments before they were handed over.
        GapReason::Expired => "expired",
        // Their segments are not there.
        GapReason::Lost => "lost",
        // The journal does not have them, or has them damaged.
        GapReason::Damaged => "damaged",
        // They were erased on demand.
        GapReason::Erased => "erased",
    }
}

/// Makes the events of an epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Events<'a> {
    pub(crate) identity: &'a CallIdentity,
    pub(crate) epoch: &'a EpochName,
}

impl Events<'_> {
    /// The epoch has started.
    pub(crate) fn started(&self, facts: &CallFacts) -> Bytes {
        let peer = facts.peer.map(|peer| peer.to_string());
        let more = Started { sample_rate: facts.sample_rate, peer };
        self.event("started", self.epoch.started_at, more)
    }

    /// Frames are missing.
    pub(crate) fn gap(
        &self,
        (first_seq, last_seq): (u64, Option<u64>),
        reason: GapReason,
        at: UnixMicros,
    ) -> Bytes {
        self.event("gap", at, Missing { first_seq, last_seq, reason: label(reason) })
    }

    /// The epoch has ended.
    pub(crate) fn ended(&self, end: &EndRecord) -> Bytes {
        let reason = Ending::from_number(end.ending).map_or("unknown", Ending::label);
        let (frames, bytes) = (Some(end.frames), Some(end.bytes));
        self.event("ended", end.ended_at, Ended { reason, frames, bytes, last_seq: frames })
    }

    /// The node ended before the epoch did. `last_seq` is its last complete frame.
    pub(crate) fn cut(&self, last_seq: Option<u64>, at: UnixMicros) -> Bytes {
        self.event("ended", at, Ended { reason: "cut", frames: None, bytes: None, last_seq })
    }

    /// The epoch has ended in segments that are not there.
    pub(crate) fn ended_unseen(&self, at: UnixMicros) -> Bytes {
        let (frames, bytes, last_seq) = (None, None, None);
        self.event("ended", at, Ended { reason: "unknown", frames, bytes, last_seq })
    }

    /// The audio of the epoch was deleted on demand.
    pub(crate) fn erased(&self, at: UnixMicros) -> Bytes {
        self.event("erased", at, Nothing {})
    }

    /// An archive has the recording that begins with this epoch.
    pub(crate) fn recording_ready(&self, recording: &ReadyRecording<'_>, at: UnixMicros) -> Bytes {
        self.event("recording_ready", at, recording)
    }

    fn event<T: Serialize>(&self, event: &'static str, at: UnixMicros, more: T) -> Bytes {
        let event = Event {
            version: VERSION,
            event,
            tenant: &self.identity.tenant,
            interaction: &self.identity.interaction,
            node: &self.epoch.node,
            epoch: self.epoch.epoch_text(),
            at: rfc3339(at),
            more,
        };
        // Strings and numbers under constant names always become JSON.
        Bytes::from(serde_json::to_vec(&event).expect("an event is JSON"))
    }
}

/// A time in RFC 3339, to the microsecond.
fn rfc3339(at: UnixMicros) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at.0));
    humantime::format_rfc3339_micros(time.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}
