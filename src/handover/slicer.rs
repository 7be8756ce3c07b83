//! Cuts the batches of a shard into slices.
//!
//! Where a slice ends depends on the bytes of its segment alone, never on when or in what portions
//! they are read. A slice ends
//! - before a batch, if the slice has 16 MiB or more;
//! - before a batch that was sealed in another minute than the slice's first batch;
//! - at the end of the segment.
//!
//! So a slice that is made again, by any program, has the same bytes. The exception is erased
//! audio.
//!
//! The caller passes whole segments, from their start. Otherwise the slicer would not know the
//! calls whose records are in earlier batches.

#![forbid(unsafe_code)]

use super::slice::{self, NodeName, Slice, SliceHeader};
use crate::archive::index::{CallFacts, IndexBuilder, SegmentIndex};
use crate::archive::layout::RunName;
use crate::archive::reader::Batch;
use crate::archive::scan::{Damage, Found};
use crate::call::Epoch;
use crate::clock::UnixMicros;
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::format::{Lsn, SegmentHeader};
use std::collections::{HashMap, VecDeque};

#[cfg(test)]
mod tests;

/// A slice of this size takes no more batches, bytes. Large enough that requests cost little, and
/// small enough that sixteen of them fit into memory.
pub const SLICE_SIZE: usize = 16 * 1024 * 1024;

/// Bytes without a sound batch header stay with the batches before them, up to this size.
const SLICE_SIZE_MAX: usize = 2 * SLICE_SIZE;

const MINUTE: u64 = 60_000_000;

/// Takes batches, gives slices: see the module's documentation.
#[derive(Debug)]
pub struct Slicer {
    node: NodeName,
    slice_size: usize,
    segment: Option<(RunName, SegmentHeader)>,
    /// The calls of the segment so far.
    facts: HashMap<(u64, Epoch), CallFacts>,
    open: Option<Building>,
    /// Slices that are complete. Later batches tell whether they are durable.
    complete: VecDeque<Building>,
}

/// A slice under way.
#[derive(Debug)]
struct Building {
    first: Lsn,
    /// Where it starts in the segment's file.
    offset: u64,
    minute: Option<u64>,
    /// Room for the header, and the batches.
    bytes: Vec<u8>,
    index: IndexBuilder,
    batches: u64,
    records: u64,
    has_fault: bool,
    is_last: bool,
}

impl Building {
    fn end(&self) -> Lsn {
        Lsn(self.first.0 + (self.bytes.len() - BLOCK_SIZE) as u64)
    }
}

/// Memory for a slice, with an empty header. It is taken at once: a vector that grows by doubling
/// would take twice as much in the end. What is never touched costs nothing.
fn room() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLICE_SIZE + 2 * BATCH_SIZE_MAX);
    bytes.resize(BLOCK_SIZE, 0);
    bytes
}

impl Slicer {
    /// For journals of this node.
    pub fn new(node: NodeName) -> Slicer {
        Slicer {
            node,
            slice_size: SLICE_SIZE,
            segment: None,
            facts: HashMap::new(),
            open: None,
            complete: VecDeque::new(),
        }
    }

    /// With smaller slices, for tests.
    #[cfg(test)]
    pub(super) fn with_size(node: NodeName, slice_size: usize) -> Slicer {
        Slicer { slice_size, ..Slicer::new(node) }
    }

    /// Begins a segment. What is left of another one is dropped.
    pub fn begin_segment(&mut self, run: RunName, header: &SegmentHeader) {
        self.segment = Some((run, SegmentHeader { size: 0, ..*header }));
        self.facts.clear();
        self.open = None;
        self.complete.clear();
    }

    /// Takes the next batch of the segment and its sound records.
    pub fn add<'a>(&mut self, batch: &Batch<'_>, records: impl Iterator<Item = Found<'a>>) {
        let minute = batch.sealed_at.map(|at| at.0 / MINUTE);
        let ends = self.open.as_ref().is_some_and(|open| {
            let size = open.bytes.len() - BLOCK_SIZE;
            match (minute, open.minute) {
                (None, _) => size >= SLICE_SIZE_MAX,
                (Some(now), Some(first)) if now != first => true,
                (Some(_), _) => size >= self.slice_size,
            }
        });
        if ends {
            self.complete.extend(self.open.take());
        }
        let open = self.open.get_or_insert_with(|| Building {
            first: batch.lsn,
            offset: batch.offset,
            minute: None,
            bytes: room(),
            index: IndexBuilder::default(),
            batches: 0,
            records: 0,
            has_fault: false,
            is_last: false,
        });
        open.minute = open.minute.or(minute);
        open.bytes.extend_from_slice(batch.bytes);
        // A file that was cut may end within a block.
        open.bytes.resize(open.bytes.len().next_multiple_of(BLOCK_SIZE), 0);
        open.batches += u64::from(minute.is_some());
        open.has_fault |= !batch.is_sound;
        for found in records {
            let offset = found.offset - open.offset + BLOCK_SIZE as u64;
            open.index.add(&Found { offset, ..found });
            open.records += 1;
        }
    }

    /// Ends the segment: its last slice is complete.
    pub fn end_segment(&mut self) {
        if let Some(open) = self.open.take() {
            self.complete.push_back(Building { is_last: true, ..open });
        }
    }

    /// The next slice, if all of it is `durable`. `synced`: up to here no crash can have taken
    /// anything. `damages`: those of the segment, by their offsets in its file.
    pub fn poll_slice(&mut self, durable: Lsn, synced: Lsn, damages: &[Damage]) -> Option<Slice> {
        let building = self.complete.pop_front_if(|building| building.end() <= durable)?;
        let (run, segment) = self.segment?;
        let end = building.end();
        let Building { first, offset, bytes, index, batches, records, .. } = building;
        let header = SliceHeader {
            node: self.node.clone(),
            run,
            segment,
            first,
            end,
            durable_end: synced.clamp(first, end),
            is_last: building.is_last,
        };
        let stretch = offset..offset + (end.0 - first.0);
        let damage_count = damages.iter().filter(|damage| stretch.contains(&damage.offset)).count();
        let mut index = index.finish_as(SegmentIndex {
            run: run.number(),
            shard: segment.shard,
            id: segment.id,
            uuid: segment.uuid,
            start: header.start(),
            end: bytes.len() as u64,
            batches,
            records,
            torn_at: None,
            durable_end: header.durable_end.0 - header.start().0,
            bytes_unsynced: 0,
            is_lossy: building.has_fault && damage_count == 0,
            damage_count: u32::try_from(damage_count).unwrap_or(u32::MAX),
            ended_at: UnixMicros(0),
            epochs: Vec::new(),
        });
        for call_epoch in &mut index.epochs {
            let name = (call_epoch.call, call_epoch.epoch);
            match &call_epoch.facts {
                Some(facts) => {
                    self.facts.insert(name, facts.clone());
                }
                None => call_epoch.facts = self.facts.get(&name).cloned(),
            }
        }
        Some(slice::finish(header, bytes, &index))
    }
}
