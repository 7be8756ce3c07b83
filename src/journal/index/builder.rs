//! Makes an index from a segment's records, in the order in which they were written.

#![forbid(unsafe_code)]

use super::{CallFacts, SegmentIndex, TurnIndex};
use crate::call::{CallIdentity, Epoch};
use crate::frame_ring::Manifest;
use crate::journal::format::{CallRecord, EndRecord, RecordHeader, RecordKind};
use crate::journal::ranges::SeqRange;
use crate::journal::scan::SegmentScan;
use crate::journal::source::Source;
use std::collections::HashMap;

/// The frame of a turn that is being put together.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    seq: u64,
    /// Where its next chunk starts; beyond every chunk once it is complete.
    next_offset: u64,
    is_whole: bool,
    is_erased: bool,
}

/// Nothing of a frame comes behind its last chunk.
const COMPLETE: u64 = u64::MAX;

/// Takes records, gives an index.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    turns: Vec<TurnIndex>,
    open: Vec<Open>,
    places: HashMap<(u64, Epoch), usize>,
}

impl IndexBuilder {
    /// Takes the next record. The payload of audio is not looked at.
    pub fn add(&mut self, header: &RecordHeader, payload: &[u8]) {
        let place = *self.places.entry((header.call, header.epoch)).or_insert_with(|| {
            let (call, epoch, first_received_at) = (header.call, header.epoch, header.received_at);
            self.turns.push(TurnIndex { call, epoch, first_received_at, ..TurnIndex::default() });
            self.open.push(Open::default());
            self.turns.len() - 1
        });
        let (turn, open) = (&mut self.turns[place], &mut self.open[place]);
        turn.first_received_at = turn.first_received_at.min(header.received_at);
        turn.last_received_at = turn.last_received_at.max(header.received_at);
        match header.kind {
            RecordKind::Call => turn.facts = CallRecord::decode(payload).ok().map(|record| facts(&record)),
            RecordKind::End => turn.end = EndRecord::decode(payload).ok(),
            RecordKind::Audio => add_chunk(turn, open, header),
            RecordKind::Pad => {}
        }
    }

    /// The index of the segment that `scan` has come to the end of.
    pub fn finish<S: Source>(self, run: u64, shard: u16, id: u64, scan: &SegmentScan<S>) -> SegmentIndex {
        SegmentIndex {
            run,
            shard,
            id,
            uuid: scan.uuid(),
            start: scan.start(),
            end: scan.offset(),
            batches: scan.tally().batches,
            records: scan.tally().records,
            torn_at: scan.torn_at(),
            durable_end: scan.durable_end(),
            bytes_unsynced: scan.tally().bytes_unsynced,
            is_lossy: scan.tally().is_lossy,
            damage_count: u32::try_from(scan.damages().len()).unwrap_or(u32::MAX),
            turns: self.into_turns(),
        }
    }

    /// The index of a segment of which all is durable, `end` bytes, from what its writer noted; `None` if that is not all.
    pub fn of_manifest(manifest: &Manifest, run: u64, shard: u16, id: u64, end: u64) -> Option<SegmentIndex> {
        let (mut builder, mut records) = (IndexBuilder::default(), 0);
        for record in manifest.records()? {
            let (header, payload) = record.ok()?;
            builder.add(&header, payload);
            records += 1;
        }
        Some(SegmentIndex {
            run,
            shard,
            id,
            uuid: manifest.segment(),
            start: manifest.start(),
            end,
            batches: manifest.batches(),
            records,
            torn_at: None,
            durable_end: end,
            bytes_unsynced: 0,
            is_lossy: false,
            damage_count: 0,
            turns: builder.into_turns(),
        })
    }

    fn into_turns(mut self) -> Vec<TurnIndex> {
        for (turn, open) in self.turns.iter_mut().zip(self.open) {
            if open.next_offset != COMPLETE {
                turn.open_seq = open.seq;
            }
        }
        self.turns
    }
}

fn add_chunk(turn: &mut TurnIndex, open: &mut Open, header: &RecordHeader) {
    let (seq, offset) = (header.seq.0, u64::from(header.offset));
    let is_first = turn.first_seq == 0;
    if seq < open.seq || (seq == open.seq && offset < open.next_offset) {
        turn.doubles += 1;
        return;
    }
    if seq > open.seq {
        turn.broken += u64::from(open.seq > 0 && open.next_offset != COMPLETE);
        // Of the first one, chunks may be in the segment before.
        *open = Open { seq, next_offset: offset, is_whole: offset == 0 || is_first, is_erased: false };
    }
    if is_first {
        turn.first_seq = seq;
    }
    open.is_whole &= offset == open.next_offset;
    open.is_erased |= header.erased;
    open.next_offset = offset + u64::from(header.length);
    if !header.last {
        return;
    }
    if open.is_whole {
        turn.frames.add(SeqRange { first: seq, last: seq });
        turn.bytes += open.next_offset - open.next_offset % 2;
        turn.erased += u64::from(open.is_erased);
    } else {
        turn.broken += 1;
    }
    open.next_offset = COMPLETE;
}

fn facts(record: &CallRecord<'_>) -> CallFacts {
    CallFacts {
        identity: CallIdentity { tenant: record.tenant.into(), interaction: record.interaction.into() },
        key: record.call,
        sample_rate: record.sample_rate,
        started_at: record.started_at,
        token_issued_at: record.token_issued_at,
        token_expires_at: record.token_expires_at,
    }
}
