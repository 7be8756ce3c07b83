//! Makes an index from what the writer of a segment noted, all at once or step by step while the
//! segment is being written.

#![forbid(unsafe_code)]

use super::builder::IndexBuilder;
use super::places::{Cursor, RecordPlace, RecordPlaces};
use super::{EpochIndex, SegmentIndex};
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;
use crate::format::{HEADER_SIZE, record_size};
use crate::journal::frame_ring::{Noted, Notes, RecordHeaders};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Positions of epochs, by the microseconds of their ids.
type PlacesByMicros = HashMap<u64, usize, BuildHasherDefault<MicrosHasher>>;

/// Hashes numbers that no peer chooses: faster than the usual hash.
#[derive(Clone, Copy, Debug, Default)]
struct MicrosHasher(u64);

impl Hasher for MicrosHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

/// Takes the notes of a segment in order.
#[derive(Debug)]
pub(crate) struct NotedIndex {
    builder: IndexBuilder,
    positions: PlacesByMicros,
    /// Where the next batch and its next record start in the file.
    batch_at: u64,
    at: u64,
    batches: u64,
    records: u64,
    note_count: usize,
    /// Epochs that have changed since they were taken, and whether an epoch is one of them.
    changed: Vec<usize>,
    is_changed: Vec<bool>,
    /// The places of each epoch that were taken.
    taken: Vec<Cursor>,
}

impl NotedIndex {
    /// Before the first note.
    pub(crate) fn new() -> NotedIndex {
        let batch_at = BLOCK_SIZE as u64;
        NotedIndex {
            builder: IndexBuilder::default(),
            positions: PlacesByMicros::default(),
            batch_at,
            at: batch_at + HEADER_SIZE as u64,
            batches: 0,
            records: 0,
            note_count: 0,
            changed: Vec::new(),
            is_changed: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Takes the next notes. `None`: they make no index, and those after them do not either.
    pub(crate) fn add(&mut self, notes: &Notes) -> Option<()> {
        self.note_count += notes.count();
        for record in notes.records() {
            match record.ok()? {
                Noted::Batch(size) => self.end_batch(size)?,
                Noted::Chunk(chunk) => {
                    let size = record_size(chunk.length as usize) as u64;
                    // The call's record comes before it. If that is missing, only reading the
                    // segment can identify the call.
                    let position = *self.positions.get(&chunk.epoch_micros)?;
                    let place = RecordPlace { offset: self.at, size };
                    self.builder.add_noted(position, &chunk, place);
                    self.count_record(position, size);
                }
                Noted::Record(header, payload) => {
                    let position = self.builder.add_record(&header, payload, self.at);
                    self.count_record(position, header.record_size() as u64);
                    let known = self.positions.insert(header.epoch.micros, position);
                    if known.is_some_and(|known| known != position) {
                        return None;
                    }
                }
            }
        }
        Some(())
    }

    fn end_batch(&mut self, size: u64) -> Option<()> {
        let end = self.batch_at.checked_add(size)?;
        if self.at.checked_next_multiple_of(BLOCK_SIZE as u64) != Some(end) {
            return None;
        }
        self.batches += 1;
        self.batch_at = end;
        self.at = end + HEADER_SIZE as u64;
        Some(())
    }

    fn count_record(&mut self, position: usize, size: u64) {
        self.records += 1;
        self.at += size;
        if self.is_changed.len() <= position {
            self.is_changed.resize(position + 1, false);
            self.taken.resize(position + 1, Cursor::default());
        }
        if !std::mem::replace(&mut self.is_changed[position], true) {
            self.changed.push(position);
        }
    }

    /// Number of notes taken in.
    pub(crate) fn note_count(&self) -> usize {
        self.note_count
    }

    /// Where the batches so far end, bytes in the file.
    pub(crate) fn end(&self) -> u64 {
        self.batch_at
    }

    /// Number of epochs so far.
    pub(crate) fn epoch_count(&self) -> usize {
        self.taken.len()
    }

    /// Number of epochs that have changed since the last time.
    pub(crate) fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// Number of batches and records so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.batches, self.records)
    }

    /// The epochs that have changed since the last time, with their positions and the places that
    /// have come since. A position never changes.
    pub(crate) fn take_changed(&mut self) -> Vec<(usize, EpochIndex)> {
        let changed = std::mem::take(&mut self.changed);
        let take = |position: usize| {
            self.is_changed[position] = false;
            let all = self.builder.places(position);
            let places = all.map(|all| {
                let mut rest = all.cursor_at(self.taken[position]);
                let mut new = RecordPlaces::default();
                // They are in order, so each is accepted.
                rest.by_ref().for_each(|place| _ = new.add(place));
                self.taken[position] = all.cursor_of(&rest);
                new
            });
            (position, EpochIndex { places, ..self.builder.epoch(position) })
        };
        changed.into_iter().map(take).collect()
    }

    /// The index of the segment, whose notes were all taken in. All of its `end` bytes are durable.
    /// It was ended at `ended_at` in journal time. `None` if its notes do not reach that far.
    pub(crate) fn finish(
        self,
        headers: &RecordHeaders,
        (run, shard, id): (u64, u16, u64),
        end: u64,
        ended_at: UnixMicros,
    ) -> Option<SegmentIndex> {
        if self.batch_at != end {
            return None;
        }
        Some(SegmentIndex {
            run,
            shard,
            id,
            uuid: headers.segment(),
            start: headers.start(),
            end,
            batches: headers.batches(),
            records: self.records,
            torn_at: None,
            durable_end: end,
            bytes_unsynced: 0,
            is_lossy: false,
            damage_count: 0,
            ended_at,
            epochs: self.builder.into_epochs(),
        })
    }
}

impl IndexBuilder {
    /// The index of a segment, made from what its writer noted. All of its `end` bytes are durable.
    /// It was ended at `ended_at` in journal time. `None` if the notes are incomplete.
    pub fn of_headers(
        headers: &RecordHeaders,
        run: u64,
        shard: u16,
        id: u64,
        end: u64,
        ended_at: UnixMicros,
    ) -> Option<SegmentIndex> {
        let mut noted = NotedIndex::new();
        noted.add(&headers.notes(0)?)?;
        noted.finish(headers, (run, shard, id), end, ended_at)
    }
}
