//! The calls in a journal, as the indexes of all segments describe them.

#![forbid(unsafe_code)]

use super::{Journal, JournalError};
use crate::archive::index::CallFacts;
use crate::archive::index::places::{put, take};
use crate::archive::ranges::{SeqRange, SeqRanges};
use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::format::{EndRecord, FormatError};
use serde::{Deserialize, Serialize};

/// All that the journal has of an epoch: one connection's share of a call.
#[derive(Clone, Debug)]
pub struct CallEpoch {
    /// The call's record number.
    pub call: u64,
    /// The epoch's id.
    pub epoch: Epoch,
    /// Identity and rate of the call; `None` if no call record of it is left.
    pub facts: Option<CallFacts>,
    /// How the epoch ended, or whether it is live.
    pub state: EpochState,
    /// Frames that are complete, erased ones included.
    pub frames: SeqRanges,
    /// Bytes of whole samples in them.
    pub bytes: u64,
    /// How many of the frames are erased.
    pub erased: u64,
    /// Frames with chunks in the journal that were never completed.
    pub cut: u64,
    /// Frames that occur twice.
    pub doubles: u64,
    /// Frames that are missing.
    pub gaps: Vec<Gap>,
    /// When its first record arrived.
    pub first_received_at: UnixMicros,
    /// When its last record arrived.
    pub last_received_at: UnixMicros,
    /// The shard of the journal that holds it: a position in [`Journal::shards`].
    pub shard: usize,
    /// The segments that hold it, in order.
    pub parts: Parts,
}

/// The part of an epoch in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position of the segment in its shard.
    pub segment: usize,
}

/// The segments that hold an epoch, in order. Neighbours are kept as ranges: an epoch of an hour is
/// in thousands of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<(usize, usize)>);

impl Parts {
    /// Adds the segment at this position, after those that are there.
    pub(super) fn add(&mut self, position: usize) {
        self.add_range(position, position);
    }

    fn add_range(&mut self, first: usize, last: usize) {
        match self.0.last_mut() {
            Some((_, end)) if *end >= last => {}
            Some((_, end)) if *end + 1 >= first => *end = last,
            _ => self.0.push((first, last)),
        }
    }

    /// Adds later segments.
    pub(super) fn append(&mut self, later: &Parts) {
        later.0.iter().for_each(|(first, last)| self.add_range(*first, *last));
    }

    /// The segments, in order.
    pub fn iter(&self) -> impl Iterator<Item = Part> {
        self.0.iter().flat_map(|(first, last)| *first..=*last).map(|segment| Part { segment })
    }

    /// The first segment.
    pub fn first(&self) -> Option<Part> {
        self.0.first().map(|(first, _)| Part { segment: *first })
    }

    /// The last segment.
    pub fn last(&self) -> Option<Part> {
        self.0.last().map(|(_, last)| Part { segment: *last })
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of memory.
    pub(super) fn size(&self) -> usize {
        self.0.len() * size_of::<(usize, usize)>()
    }

    /// Appends them as bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.0.len() as u64);
        for (first, last) in &self.0 {
            put(out, *first as u64);
            put(out, (last - first) as u64);
        }
    }

    /// Decodes what [`Parts::encode`] has made, and moves on.
    pub(super) fn decode(rest: &mut &[u8]) -> Result<Parts, FormatError> {
        let mut number = || take(rest).ok_or(FormatError::Truncated);
        let mut parts = Parts::default();
        for _ in 0..number()? {
            let (first, more) = (number()? as usize, number()? as usize);
            parts.0.push((first, first.checked_add(more).ok_or(FormatError::Truncated)?));
        }
        Ok(parts)
    }
}

impl<'a> IntoIterator for &'a Parts {
    type Item = Part;
    type IntoIter = Box<dyn Iterator<Item = Part> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

/// How an epoch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochState {
    /// It has not ended: a node is writing it.
    Live,
    /// As its end record says.
    Ended(EndRecord),
    /// The node ended before it did.
    Cut,
}

/// Why frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// Retention removed their segments.
    Expired,
    /// Their segments are gone, and retention did not remove them.
    Lost,
    /// Their segments are there, but the frames are not.
    Damaged,
    /// They were erased on demand.
    Erased,
}

/// A range of missing frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The range.
    pub range: SeqRange,
    /// Why they are missing.
    pub reason: GapReason,
}

/// A call: one (tenant, interaction), and its epochs in order.
#[derive(Clone, Debug)]
pub struct Call {
    /// Tenant and interaction.
    pub identity: CallIdentity,
    /// At least one. The first one is shown as epoch 1.
    pub epochs: Vec<CallEpoch>,
}

/// All calls.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// In order of their first record.
    pub calls: Vec<Call>,
    /// Epochs with no call record left: the journal does not say to which call they belong.
    pub nameless: Vec<CallEpoch>,
}

impl Catalog {
    /// The call with these ids.
    pub fn call(&self, identity: &CallIdentity) -> Option<&Call> {
        self.calls.iter().find(|call| call.identity == *identity)
    }
}

impl Journal {
    /// Overlapping segments hold some frames twice, so frames are read to count each once.
    pub(super) fn count_bytes(&self, call_epoch: &mut CallEpoch) -> Result<(), JournalError> {
        let (mut bytes, mut erased) = (0, 0);
        let mut frames = self.frames(call_epoch);
        while let Some(frame) = frames.next_frame()? {
            bytes += (frame.size - frame.size % 2) as u64;
            erased += u64::from(frame.is_erased);
        }
        (call_epoch.bytes, call_epoch.erased) = (bytes, erased);
        Ok(())
    }
}
