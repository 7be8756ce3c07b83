//! Which calls are in a journal: the indexes of all segments, put together.

#![forbid(unsafe_code)]

use super::{Journal, JournalError, ShardJournal};
use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::journal::format::EndRecord;
use crate::journal::index::{CallFacts, SegmentIndex, TurnIndex};
use crate::journal::ranges::{SeqRange, SeqRanges};
use serde::Serialize;
use std::collections::BTreeMap;

/// A connection's turn at a call: all that the journal has of it.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The call's record number.
    pub call: u64,
    /// Which turn.
    pub epoch: Epoch,
    /// Who the call is, and at what rate; `None` if no call record of it is left.
    pub facts: Option<CallFacts>,
    /// How it ended, or whether it goes on.
    pub state: TurnState,
    /// Frames that are complete, erased ones included.
    pub frames: SeqRanges,
    /// Bytes of whole samples in them.
    pub bytes: u64,
    /// How many of the frames are erased.
    pub erased: u64,
    /// Frames of which chunks are there, and which were never completed.
    pub cut: u64,
    /// Frames that are there twice.
    pub doubles: u64,
    /// Frames that are missing.
    pub gaps: Vec<Gap>,
    /// When its first record came.
    pub first_received_at: UnixMicros,
    /// When its last record came.
    pub last_received_at: UnixMicros,
    /// Which shard of the journal it is in: a position in [`Journal::shards`].
    pub shard: usize,
    /// The segments it is in, in order.
    pub parts: Vec<Part>,
}

/// What of a turn is in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position of the segment in its shard.
    pub segment: usize,
    /// The first frame of which a chunk is in it; 0 if there is none.
    pub first_seq: u64,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnState {
    /// A node is writing it.
    Live,
    /// As its end record says.
    Ended(EndRecord),
    /// The node ended first.
    Cut,
}

/// Why frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The segments they were in have been removed.
    Expired,
    /// The segments they were in are there, and they are not.
    Damaged,
    /// They were erased on demand.
    Erased,
}

/// Frames that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which ones.
    pub range: SeqRange,
    /// Why.
    pub reason: GapReason,
}

/// A call: one (tenant, interaction), and the turns at it in order.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who it is.
    pub identity: CallIdentity,
    /// At least one; the first one is shown as epoch 1.
    pub turns: Vec<Turn>,
}

/// All calls.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// In the order in which they were first heard of.
    pub calls: Vec<Call>,
    /// Turns of which no call record is left: nobody can say whose they are.
    pub nameless: Vec<Turn>,
}

impl Catalog {
    /// The call with these ids.
    pub fn call(&self, identity: &CallIdentity) -> Option<&Call> {
        self.calls.iter().find(|call| call.identity == *identity)
    }
}

impl Journal {
    /// Which calls there are. Reads an index for each segment, and the segment itself where there is none. `progress` is
    /// told after each segment.
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
    pub(in crate::journal) fn complete(&self, builder: CatalogBuilder) -> Result<Catalog, JournalError> {
        let mut catalog = builder.finish(self.shards());
        for turn in catalog.calls.iter_mut().flat_map(|call| &mut call.turns).chain(&mut catalog.nameless) {
            if turn.doubles > 0 {
                self.count_bytes(turn)?;
            }
        }
        Ok(catalog)
    }

    /// Where segments overlap, what they hold does not add up: frames are read to be counted once.
    fn count_bytes(&self, turn: &mut Turn) -> Result<(), JournalError> {
        let (mut bytes, mut erased) = (0, 0);
        let mut frames = self.frames(turn);
        while let Some(frame) = frames.next_frame()? {
            bytes += (frame.size - frame.size % 2) as u64;
            erased += u64::from(frame.is_erased);
        }
        (turn.bytes, turn.erased) = (bytes, erased);
        Ok(())
    }
}

/// Takes indexes, gives a catalog.
#[derive(Debug, Default)]
pub(in crate::journal) struct CatalogBuilder {
    turns: BTreeMap<(usize, u64, Epoch), Gathered>,
    live_shards: Vec<usize>,
}

/// A turn so far.
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
    /// The frames completed in each part, for the reasons of gaps.
    spans: Vec<(usize, SeqRanges)>,
}

impl CatalogBuilder {
    /// Takes the index of a segment; segments of a shard come in order.
    pub fn add(&mut self, shard: usize, segment: usize, index: SegmentIndex, is_live: bool) {
        if is_live && self.live_shards.last() != Some(&shard) {
            self.live_shards.push(shard);
        }
        for turn in index.turns {
            let gathered = self.turns.entry((shard, turn.call, turn.epoch)).or_default();
            gathered.add(segment, turn);
        }
    }

    /// The catalog.
    pub fn finish(self, shards: &[ShardJournal]) -> Catalog {
        let mut catalog = Catalog::default();
        let mut turns: Vec<Turn> = Vec::new();
        for ((shard, call, epoch), gathered) in self.turns {
            let Some(journal) = shards.get(shard) else { continue };
            turns.push(gathered.finish(shard, call, epoch, journal, self.live_shards.contains(&shard)));
        }
        turns.sort_by_key(|turn| (turn.epoch, turn.shard));
        let mut places: BTreeMap<u128, usize> = BTreeMap::new();
        for turn in turns {
            let Some(facts) = &turn.facts else {
                catalog.nameless.push(turn);
                continue;
            };
            let place = *places.entry(facts.key.0).or_insert_with(|| {
                catalog.calls.push(Call { identity: facts.identity.clone(), turns: Vec::new() });
                catalog.calls.len() - 1
            });
            catalog.calls[place].turns.push(turn);
        }
        catalog
    }
}

impl Gathered {
    fn add(&mut self, segment: usize, turn: TurnIndex) {
        if self.parts.is_empty() {
            self.first_received_at = turn.first_received_at;
        }
        self.first_received_at = self.first_received_at.min(turn.first_received_at);
        self.last_received_at = self.last_received_at.max(turn.last_received_at);
        self.parts.push(Part { segment, first_seq: turn.first_seq });
        for range in turn.frames.iter() {
            self.frames.add(range);
        }
        self.completed += turn.frames.count();
        self.bytes += turn.bytes;
        self.erased += turn.erased;
        self.broken += turn.broken;
        if turn.first_seq > 0 {
            self.open_seq = turn.open_seq;
        }
        self.facts = turn.facts.or(self.facts.take());
        self.end = turn.end.or(self.end.take());
        self.spans.push((segment, turn.frames));
    }

    fn finish(self, shard: usize, call: u64, epoch: Epoch, journal: &ShardJournal, is_live: bool) -> Turn {
        let state = match self.end {
            Some(end) => TurnState::Ended(end),
            None if is_live => TurnState::Live,
            None => TurnState::Cut,
        };
        let expected = self.end.map_or(0, |end| end.frames);
        let reason = |range: SeqRange| if self.is_expired(range, journal) { GapReason::Expired } else { GapReason::Damaged };
        let gaps = self.frames.gaps(expected).into_iter().map(|range| Gap { range, reason: reason(range) }).collect();
        Turn {
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

    /// Whether a segment is missing between those that hold the frames on both sides of a gap.
    fn is_expired(&self, gap: SeqRange, journal: &ShardJournal) -> bool {
        let holds = |range: &SeqRanges, seq: u64| range.iter().any(|range| (range.first..=range.last).contains(&seq));
        let before = self.spans.iter().rfind(|(_, frames)| holds(frames, gap.first.saturating_sub(1)));
        let behind = self.spans.iter().find(|(_, frames)| holds(frames, gap.last.saturating_add(1)));
        let id = |span: Option<&(usize, SeqRanges)>| span.and_then(|(segment, _)| journal.id(*segment));
        let last = journal.segment_count().checked_sub(1).and_then(|last| journal.id(last)).unwrap_or(0);
        let (from, to) = (id(before).unwrap_or(0), id(behind).unwrap_or(last));
        let ids = (0..journal.segment_count()).filter_map(|segment| journal.id(segment));
        let there = ids.filter(|id| (from.max(1)..=to).contains(id)).count() as u64;
        there < (to + 1).saturating_sub(from.max(1))
    }
}
