//! Makes messages from the records of a shard's journal.
//!
//! ```text
//! records in order ──► handle_record, handle_time ──► poll_message ──► messages in order
//!                                                     position: what a new start must read again
//! ```
//! A message of audio is a *chunk*: the frames of one ACK. Where a chunk begins and ends depends
//! only on the journal, so that a message made again is the same, and the engine drops it:
//! - It ends with every tenth frame, as ACKs do.
//! - It ends before a gap, and at the end of the epoch.
//! - It ends before it gets larger than [`CHUNK_SIZE_MAX`].
//! - It ends if its call brings nothing more for [`CHUNK_TIME_MAX`] of the journal's time. A call
//!   that says nothing must not keep the journal's oldest segment.
//!
//! After a start in the middle of a chunk, the first chunk is shorter than it was. Then a reader
//! finds frames twice, and its rule keeps the first copy.
//!
//! Only durable records may be given in. Nothing here does IO or reads a clock.

#![forbid(unsafe_code)]

use super::event::Events;
use super::message::{Chunk, Content, EpochName, FrameSizes, LiveMessage};
use crate::archive::index::CallFacts;
use crate::archive::reader::GapReason;
use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::constants::ACK_INTERVAL_FRAMES;
use crate::format::{CallRecord, EndRecord, Lsn, RecordHeader, RecordKind};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Largest chunk, bytes. The engine takes messages of 1 MiB, headers included, by default.
const CHUNK_SIZE_MAX: usize = 512 << 10;

/// How long a chunk waits for more frames.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(5);

/// How often to look for chunks that wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Which calls' audio is handed over. Events are handed over for all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum AudioOf {
    /// All calls.
    #[default]
    All,
    /// Calls of these tenants.
    Tenants(Vec<Box<str>>),
}

impl AudioOf {
    fn includes(&self, tenant: &str) -> bool {
        match self {
            AudioOf::All => true,
            AudioOf::Tenants(tenants) => tenants.iter().any(|name| **name == *tenant),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Chunker {
    node: Box<str>,
    audio_of: AudioOf,
    calls: HashMap<(u64, Epoch), LiveCall>,
    messages: VecDeque<LiveMessage>,
    looked_at: UnixMicros,
    /// Segments before the records that come now are not there. Next come the calls that go on.
    missing: Option<GapReason>,
    /// Records of audio whose call record is not in the journal: no message can name their call.
    nameless: u64,
}

/// An epoch that has not ended.
#[derive(Debug)]
struct LiveCall {
    identity: CallIdentity,
    /// Its number in journal records.
    call: u64,
    epoch: EpochName,
    sample_rate: u32,
    takes_audio: bool,
    /// The last frame that was seen; `None` if the call began before the first record that was
    /// given in, and no frame was seen since.
    last_seq: Option<u64>,
    /// Why the next frames may be missing, if not by damage.
    missing: Option<GapReason>,
    /// The segment after the missing ones names it: it goes on.
    is_repeated: bool,
    frame: OpenFrame,
    chunk: Option<OpenChunk>,
}

/// A frame whose last piece has not come.
#[derive(Debug, Default)]
struct OpenFrame {
    seq: u64,
    audio: Vec<u8>,
    /// Bytes of it so far, those that are missing included.
    size: u64,
    is_whole: bool,
    is_erased: bool,
    from: Lsn,
}

#[derive(Debug)]
struct OpenChunk {
    seq: u64,
    sizes: FrameSizes,
    audio: Vec<u8>,
    received_at: UnixMicros,
    from: Lsn,
}

impl Chunker {
    /// For records of this node.
    pub(crate) fn new(node: &str, audio_of: AudioOf) -> Chunker {
        Chunker {
            node: node.into(),
            audio_of,
            calls: HashMap::new(),
            messages: VecDeque::new(),
            looked_at: UnixMicros(0),
            missing: None,
            nameless: 0,
        }
    }

    /// Takes the next record. `is_known`: messages before the start of this run said it. So it
    /// becomes no message, but tells which calls there are, and how far they had come. That is so
    /// for records before the cursor, and in a batch with number 0, which repeats the records of
    /// calls that began in earlier segments.
    pub(crate) fn handle_record(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        lsn: Lsn,
        is_known: bool,
    ) {
        let key = (header.call, header.epoch);
        if header.batch > 0
            && let Some(reason) = self.missing.take()
        {
            self.end_unseen(reason, header.received_at, lsn);
        }
        match header.kind {
            // If what came before is missing, no message has said it.
            RecordKind::Call => {
                self.handle_call(key, payload, lsn, is_known && self.missing.is_none());
            }
            RecordKind::Audio => match self.calls.get_mut(&key) {
                Some(call) if is_known => {
                    call.last_seq = call.last_seq.max(header.last.then_some(header.seq.0));
                }
                Some(call) => call.handle_audio(header, payload, lsn, &mut self.messages),
                None => self.nameless += 1,
            },
            RecordKind::End => {
                let Some(mut call) = self.calls.remove(&key).filter(|_| !is_known) else { return };
                call.end_chunk(&mut self.messages);
                if let Ok(end) = EndRecord::decode(payload) {
                    let json = call.events().ended(&end);
                    self.messages.push_back(call.event("ended", 0, json, lsn));
                }
            }
            RecordKind::Pad => {}
        }
    }

    fn handle_call(&mut self, key: (u64, Epoch), payload: &[u8], lsn: Lsn, is_known: bool) {
        let missing = self.missing;
        if let Some(call) = self.calls.get_mut(&key) {
            call.is_repeated = true;
            return;
        }
        let Ok(record) = CallRecord::decode(payload) else { return };
        let facts = CallFacts::from(&record);
        let epoch =
            EpochName { started_at: facts.started_at, node: self.node.clone(), epoch: key.1 };
        let call = LiveCall {
            takes_audio: self.audio_of.includes(&facts.identity.tenant),
            sample_rate: facts.sample_rate,
            epoch,
            last_seq: (!is_known).then_some(0),
            missing,
            is_repeated: true,
            frame: OpenFrame::default(),
            chunk: None,
            identity: facts.identity.clone(),
            call: key.0,
        };
        if !is_known {
            let json = call.events().started(&facts);
            self.messages.push_back(call.event("started", 0, json, lsn));
        }
        self.calls.insert(key, call);
    }

    /// Segments are missing between the records so far and those that come.
    pub(crate) fn handle_missing(&mut self, reason: GapReason) {
        self.missing = Some(reason);
        for call in self.calls.values_mut() {
            (call.missing, call.is_repeated) = (Some(reason), false);
        }
    }

    /// Calls that the first segment after the missing ones does not name have ended in these.
    fn end_unseen(&mut self, reason: GapReason, at: UnixMicros, lsn: Lsn) {
        let ended = self.calls.extract_if(|_, call| !call.is_repeated);
        let mut ended: Vec<LiveCall> = ended.map(|(_, call)| call).collect();
        ended.sort_by(|one, other| one.epoch.cmp(&other.epoch));
        for mut call in ended {
            let first = call.last_seq.unwrap_or(0) + 1;
            call.gap((first, None), reason, at, lsn, &mut self.messages);
            let json = call.events().ended_unseen(at);
            self.messages.push_back(call.event("ended", 0, json, lsn));
        }
    }

    /// Takes the time of the batch that was just given in, or a later time if the shard is idle.
    pub(crate) fn handle_time(&mut self, now: UnixMicros) {
        // The clock may have been set back: then it is time, too.
        if between(now, self.looked_at) < LOOK_INTERVAL {
            return;
        }
        self.looked_at = now;
        let mut due: Vec<&mut LiveCall> = self
            .calls
            .values_mut()
            .filter(|call| call.chunk.as_ref().is_some_and(|chunk| chunk.is_due(now)))
            .collect();
        due.sort_by_key(|call| call.chunk.as_ref().map(|chunk| chunk.from));
        due.into_iter().for_each(|call| call.end_chunk(&mut self.messages));
    }

    /// The shard's run has ended, and there are no more records: its calls have ended, too.
    pub(crate) fn handle_end(&mut self, now: UnixMicros, lsn: Lsn) {
        let mut calls: Vec<LiveCall> = self.calls.drain().map(|(_, call)| call).collect();
        calls.sort_by(|one, other| one.epoch.cmp(&other.epoch));
        for mut call in calls {
            call.end_chunk(&mut self.messages);
            let json = call.events().cut(call.last_seq, now);
            self.messages.push_back(call.event("ended", 0, json, lsn));
        }
    }

    /// The next message.
    pub(crate) fn poll_message(&mut self) -> Option<LiveMessage> {
        self.messages.pop_front()
    }

    /// The first position that a new start must read, if all messages before were acknowledged:
    /// that of the oldest open chunk or frame, or `next`.
    pub(crate) fn position(&self, next: Lsn) -> Lsn {
        let open = self.calls.values().filter_map(|call| {
            let frame = (call.frame.seq > 0 && !call.frame.is_done(call.last_seq))
                .then_some(call.frame.from);
            call.chunk.as_ref().map(|chunk| chunk.from).into_iter().chain(frame).min()
        });
        open.chain(self.messages.iter().map(|message| message.from)).fold(next, Lsn::min)
    }

    /// Whether a call goes on.
    pub(crate) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Records of audio without a call record.
    pub(crate) fn nameless(&self) -> u64 {
        self.nameless
    }
}

impl LiveCall {
    fn handle_audio(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        lsn: Lsn,
        messages: &mut VecDeque<LiveMessage>,
    ) {
        let seq = header.seq.0;
        if self.last_seq.is_some_and(|last| seq <= last) {
            // A copy, written again after a disk's failure.
            return;
        }
        if !self.frame.add(header, payload, lsn) || !header.last {
            return;
        }
        let reason = self.missing.take().unwrap_or(GapReason::Damaged);
        if let Some(last) = self.last_seq
            && seq > last + 1
        {
            self.gap((last + 1, Some(seq - 1)), reason, header.received_at, lsn, messages);
        }
        self.last_seq = Some(seq);
        match (self.frame.is_erased, self.frame.is_whole) {
            (true, _) => {
                self.gap((seq, Some(seq)), GapReason::Erased, header.received_at, lsn, messages);
            }
            (_, false) => {
                self.gap((seq, Some(seq)), GapReason::Damaged, header.received_at, lsn, messages);
            }
            _ if self.takes_audio => self.take_frame(seq, header.received_at, messages),
            _ => {}
        }
    }

    fn take_frame(
        &mut self,
        seq: u64,
        received_at: UnixMicros,
        messages: &mut VecDeque<LiveMessage>,
    ) {
        let size = self.frame.audio.len();
        if self.chunk.as_ref().is_some_and(|chunk| chunk.audio.len() + size > CHUNK_SIZE_MAX) {
            self.end_chunk(messages);
        }
        let from = self.frame.from;
        let chunk = self.chunk.get_or_insert_with(|| OpenChunk {
            seq,
            sizes: FrameSizes::default(),
            audio: Vec::with_capacity(size * (ACK_INTERVAL_FRAMES as usize).min(64)),
            received_at,
            from,
        });
        chunk.sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
        chunk.audio.extend_from_slice(&self.frame.audio);
        if seq.is_multiple_of(ACK_INTERVAL_FRAMES) {
            self.end_chunk(messages);
        }
    }

    fn gap(
        &mut self,
        range: (u64, Option<u64>),
        reason: GapReason,
        at: UnixMicros,
        lsn: Lsn,
        messages: &mut VecDeque<LiveMessage>,
    ) {
        self.end_chunk(messages);
        let json = self.events().gap(range, reason, at);
        messages.push_back(self.event("gap", range.0, json, lsn));
    }

    fn end_chunk(&mut self, messages: &mut VecDeque<LiveMessage>) {
        let Some(chunk) = self.chunk.take() else { return };
        let from = chunk.from;
        let content = Content::Audio(Chunk {
            seq: chunk.seq,
            sizes: chunk.sizes,
            sample_rate: self.sample_rate,
            received_at: chunk.received_at,
            audio: Bytes::from(chunk.audio),
        });
        messages.push_back(self.message(content, from));
    }

    fn events(&self) -> Events<'_> {
        Events { identity: &self.identity, epoch: &self.epoch }
    }

    fn event(&self, name: &'static str, seq: u64, json: Bytes, from: Lsn) -> LiveMessage {
        self.message(Content::Event { name, seq, json }, from)
    }

    fn message(&self, content: Content, from: Lsn) -> LiveMessage {
        let (identity, epoch) = (self.identity.clone(), self.epoch.clone());
        LiveMessage { identity, call: self.call, epoch, content, from }
    }
}

impl OpenFrame {
    /// Adds a piece of a frame. `false`: it is a copy of a piece that is there.
    fn add(&mut self, header: &RecordHeader, payload: &[u8], lsn: Lsn) -> bool {
        let (seq, offset) = (header.seq.0, u64::from(header.offset));
        if seq != self.seq {
            self.audio.clear();
            (self.seq, self.size, self.from) = (seq, 0, lsn);
            (self.is_whole, self.is_erased) = (true, false);
        } else if offset < self.size {
            return false;
        }
        self.is_whole &= offset == self.size;
        self.is_erased |= header.erased;
        self.size = offset + payload.len() as u64;
        if self.is_whole {
            self.audio.extend_from_slice(payload);
        }
        true
    }

    fn is_done(&self, last_seq: Option<u64>) -> bool {
        last_seq == Some(self.seq)
    }
}

impl OpenChunk {
    fn is_due(&self, now: UnixMicros) -> bool {
        between(now, self.received_at) >= CHUNK_TIME_MAX
    }
}

fn between(one: UnixMicros, other: UnixMicros) -> Duration {
    Duration::from_micros(one.0.abs_diff(other.0))
}

#[cfg(test)]
mod tests;
