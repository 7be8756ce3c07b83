//! The calls in a journal: the indexes of all segments, merged.

#![forbid(unsafe_code)]

use super::{Journal, JournalError, ShardJournal};
use crate::archive::index::{CallFacts, EpochIndex, SegmentIndex};
use crate::archive::ranges::{SeqRange, SeqRanges};
use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::format::EndRecord;
use serde::Serialize;
use std::collections::BTreeMap;

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
    pub parts: Vec<Part>,
}

/// The part of an epoch in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position of the segment in its shard.
    pub segment: usize,
    /// The first frame with a chunk in this segment; 0 if there is none.
    pub first_seq: u64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// Their segments have been removed.
    Expired,
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
    /// Lists the calls. Reads the index of each segment, or the segment itself if it has none.
    /// Calls `progress` after each segment.
    pub fn catalog(&self, progress: &mut dyn FnMut()) -> Result<Catalog, JournalError> {
        let mut builder = CatalogBuilder::default();
        for (position, shard) in self.shards().iter().enumerate() {
            for segment in 0..shard.segment_count() {
                if let Some((index, is_live)) = shard.index(segment)? {
                    builder.add(position, segment, index, is_live);
                }
                progress();
            }
        }
        self.complete(builder)
    }

    /// The catalog of all indexes that were added.
    pub(in crate::archive) fn complete(
        &self,
        builder: CatalogBuilder,
    ) -> Result<Catalog, JournalError> {
        let mut catalog = builder.finish(self.shards());
        for call_epoch in
            catalog.calls.iter_mut().flat_map(|call| &mut call.epochs).chain(&mut catalog.nameless)
        {
            if call_epoch.doubles > 0 {
                self.count_bytes(call_epoch)?;
            }
        }
        Ok(catalog)
    }

    /// Overlapping segments hold some frames twice, so frames are read to count each once.
    fn count_bytes(&self, call_epoch: &mut CallEpoch) -> Result<(), JournalError> {
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

/// Takes indexes and makes a catalog.
#[derive(Debug, Default)]
pub(in crate::archive) struct CatalogBuilder {
    epochs: BTreeMap<(usize, u64, Epoch), Gathered>,
    live_shards: Vec<usize>,
}

/// An epoch while its indexes are merged.
#[derive(Debug, Default)]
struct Gathered {
    facts: Option<CallFacts>,
    end: Option<EndRecord>,
    frames: SeqRanges,
    bytes: u64,
    erased: u64,
    broken: u64,
    completed: u64,
    open_seq: u64,
    first_received_at: UnixMicros,
    last_received_at: UnixMicros,
    parts: Vec<Part>,
    /// The completed frames in each part. They tell why frames are missing.
    spans: Vec<(usize, SeqRanges)>,
}

impl CatalogBuilder {
    /// Takes the index of a segment. The segments of a shard come in order.
    pub(crate) fn add(&mut self, shard: usize, segment: usize, index: SegmentIndex, is_live: bool) {
        if is_live && self.live_shards.last() != Some(&shard) {
            self.live_shards.push(shard);
        }
        for call_epoch in index.epochs {
            let gathered =
                self.epochs.entry((shard, call_epoch.call, call_epoch.epoch)).or_default();
            gathered.add(segment, call_epoch);
        }
    }

    /// Makes the catalog.
    pub(crate) fn finish(self, shards: &[ShardJournal]) -> Catalog {
        let mut catalog = Catalog::default();
        let mut call_epochs: Vec<CallEpoch> = Vec::new();
        for ((shard, call, epoch), gathered) in self.epochs {
            let Some(journal) = shards.get(shard) else { continue };
            call_epochs.push(gathered.finish(
                shard,
                call,
                epoch,
                journal,
                self.live_shards.contains(&shard),
            ));
        }
        call_epochs.sort_by_key(|call_epoch| (call_epoch.epoch, call_epoch.shard));
        let mut places: BTreeMap<u128, usize> = BTreeMap::new();
        for call_epoch in call_epochs {
            let Some(facts) = &call_epoch.facts else {
                catalog.nameless.push(call_epoch);
                continue;
            };
            let place = *places.entry(facts.key.0).or_insert_with(|| {
                catalog.calls.push(Call { identity: facts.identity.clone(), epochs: Vec::new() });
                catalog.calls.len() - 1
            });
            catalog.calls[place].epochs.push(call_epoch);
        }
        catalog
    }
}

impl Gathered {
    fn add(&mut self, segment: usize, call_epoch: EpochIndex) {
        if self.parts.is_empty() {
            self.first_received_at = call_epoch.first_received_at;
        }
        self.first_received_at = self.first_received_at.min(call_epoch.first_received_at);
        self.last_received_at = self.last_received_at.max(call_epoch.last_received_at);
        self.parts.push(Part { segment, first_seq: call_epoch.first_seq });
        for range in call_epoch.frames.iter() {
            self.frames.add(range);
        }
        self.completed += call_epoch.frames.count();
        self.bytes += call_epoch.bytes;
        self.erased += call_epoch.erased;
        self.broken += call_epoch.broken;
        if call_epoch.first_seq > 0 {
            self.open_seq = call_epoch.open_seq;
        }
        self.facts = call_epoch.facts.or(self.facts.take());
        self.end = call_epoch.end.or(self.end.take());
        self.spans.push((segment, call_epoch.frames));
    }

    fn finish(
        self,
        shard: usize,
        call: u64,
        epoch: Epoch,
        journal: &ShardJournal,
        is_live: bool,
    ) -> CallEpoch {
        let state = match self.end {
            Some(end) => EpochState::Ended(end),
            None if is_live => EpochState::Live,
            None => EpochState::Cut,
        };
        let expected = self.end.map_or(0, |end| end.frames);
        let reason = |range: SeqRange| {
            if self.is_expired(range, journal) { GapReason::Expired } else { GapReason::Damaged }
        };
        let gaps = self
            .frames
            .gaps(expected)
            .into_iter()
            .map(|range| Gap { range, reason: reason(range) })
            .collect();
        CallEpoch {
            call,
            epoch,
            state,
            bytes: self.bytes,
            erased: self.erased,
            cut: self.broken + u64::from(self.open_seq > self.frames.last()),
            doubles: self.completed.saturating_sub(self.frames.count()),
            gaps,
            first_received_at: self.first_received_at,
            last_received_at: self.last_received_at,
            shard,
            parts: self.parts,
            facts: self.facts,
            frames: self.frames,
        }
    }

    /// Whether a segment is missing between those with the frames on both sides of a gap.
    fn is_expired(&self, gap: SeqRange, journal: &ShardJournal) -> bool {
        let holds = |range: &SeqRanges, seq: u64| {
            range.iter().any(|range| (range.first..=range.last).contains(&seq))
        };
        let before =
            self.spans.iter().rfind(|(_, frames)| holds(frames, gap.first.saturating_sub(1)));
        let behind =
            self.spans.iter().find(|(_, frames)| holds(frames, gap.last.saturating_add(1)));
        let id =
            |span: Option<&(usize, SeqRanges)>| span.and_then(|(segment, _)| journal.id(*segment));
        let last =
            journal.segment_count().checked_sub(1).and_then(|last| journal.id(last)).unwrap_or(0);
        let (from, to) = (id(before).unwrap_or(0), id(behind).unwrap_or(last));
        let ids = (0..journal.segment_count()).filter_map(|segment| journal.id(segment));
        let there = ids.filter(|id| (from.max(1)..=to).contains(id)).count() as u64;
        there < (to + 1).saturating_sub(from.max(1))
    }
}
