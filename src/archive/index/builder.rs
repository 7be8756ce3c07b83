//! Builds an index from a segment's records, in the order in which they were written.

#![forbid(unsafe_code)]

use super::places::{RecordPlace, RecordPlaces};
use super::{CallFacts, EpochIndex, SegmentIndex};
use crate::archive::ranges::SeqRange;
use crate::archive::scan::{Found, SegmentScan};
use crate::archive::source::Source;
use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::constants::SEGMENT_AGE_MAX;
use crate::format::{CallRecord, EndRecord, RecordHeader, RecordKind, SegmentHeader};
use crate::journal::frame_ring::NotedChunk;
use std::collections::HashMap;

/// The part of an epoch's state that changes with each chunk. It is one cache line, so that a frame
/// costs one cache line even with thousands of epochs.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// The frame that is being assembled.
    seq: u64,
    /// Where its next chunk starts; greater than any offset once the frame is complete.
    next_offset: u64,
    /// The latest run of completed frames without a gap; empty while `last` is 0 and `first` is 1.
    completed: SeqRange,
    bytes: u64,
    first_received_at: UnixMicros,
    last_received_at: UnixMicros,
    is_begun: bool,
    is_whole: bool,
    is_erased: bool,
}

const _: () = assert!(size_of::<Progress>() == 64);

/// What a chunk of audio adds to an epoch.
#[derive(Clone, Copy, Debug)]
struct ChunkFacts {
    seq: u64,
    offset: u64,
    length: u64,
    last: bool,
    erased: bool,
}

/// A frame has nothing after its last chunk.
const COMPLETE: u64 = u64::MAX;

/// Takes records and makes an index.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    epochs: Vec<EpochIndex>,
    progress: Vec<Progress>,
    places_of_records: Vec<Option<RecordPlaces>>,
    places: HashMap<(u64, Epoch), usize>,
}

impl IndexBuilder {
    /// Takes the next record. Does not look at the payload of audio.
    pub fn add(&mut self, found: &Found<'_>) {
        self.add_record(&found.header, found.payload, found.offset);
    }

    /// Takes the next record, which is at `offset` in the file. Returns the position of its epoch.
    pub(super) fn add_record(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        offset: u64,
    ) -> usize {
        let place = *self.places.entry((header.call, header.epoch)).or_insert_with(|| {
            let (call, epoch) = (header.call, header.epoch);
            self.epochs.push(EpochIndex { call, epoch, ..EpochIndex::default() });
            self.progress.push(Progress::new(header.received_at));
            self.places_of_records.push(Some(RecordPlaces::default()));
            self.epochs.len() - 1
        });
        let (call_epoch, progress) = (&mut self.epochs[place], &mut self.progress[place]);
        progress.receive(header.received_at);
        match header.kind {
            RecordKind::Call => {
                call_epoch.facts =
                    CallRecord::decode(payload).ok().map(|record| CallFacts::from(&record))
            }
            RecordKind::End => call_epoch.end = EndRecord::decode(payload).ok(),
            RecordKind::Audio => {
                add_place(
                    &mut self.places_of_records[place],
                    RecordPlace { offset, size: header.record_size() as u64 },
                );
                let (offset, length) = (u64::from(header.offset), u64::from(header.length));
                let (seq, last, erased) = (header.seq.0, header.last, header.erased);
                add_chunk(call_epoch, progress, ChunkFacts { seq, offset, length, last, erased });
            }
            RecordKind::Pad => {}
        }
        place
    }

    /// The index of the segment, once `scan` has reached its end.
    pub fn finish<S: Source>(
        self,
        run: u64,
        shard: u16,
        id: u64,
        scan: &SegmentScan<S>,
    ) -> SegmentIndex {
        SegmentIndex {
            run,
            shard,
            id,
            uuid: scan.uuid(),
            start: scan.start(),
            end: scan.offset(),
            batches: scan.stats().batches,
            records: scan.stats().records,
            torn_at: scan.torn_at(),
            durable_end: scan.durable_end(),
            bytes_unsynced: scan.stats().bytes_unsynced,
            is_lossy: scan.stats().is_lossy,
            damage_count: u32::try_from(scan.damages().len()).unwrap_or(u32::MAX),
            ended_at: scan.header().map_or(UnixMicros(0), |header| ended_at(header, scan)),
            epochs: self.into_epochs(),
        }
    }

    /// The index with the epochs of the records so far. `head` says everything else.
    pub(crate) fn finish_as(self, head: SegmentIndex) -> SegmentIndex {
        SegmentIndex { epochs: self.into_epochs(), ..head }
    }

    pub(super) fn into_epochs(mut self) -> Vec<EpochIndex> {
        let places = std::mem::take(&mut self.places_of_records);
        for ((call_epoch, progress), places) in
            self.epochs.iter_mut().zip(self.progress).zip(places)
        {
            progress.complete(call_epoch);
            call_epoch.places = places;
        }
        self.epochs
    }

    /// Takes a chunk of the epoch at this position, whose record is at `place`.
    pub(super) fn add_noted(&mut self, position: usize, chunk: &NotedChunk, place: RecordPlace) {
        let (call_epoch, progress) = (&mut self.epochs[position], &mut self.progress[position]);
        progress.receive(chunk.received_at);
        add_place(&mut self.places_of_records[position], place);
        let (seq, offset, length, last) = (chunk.seq, chunk.offset, chunk.length, chunk.last);
        add_chunk(call_epoch, progress, ChunkFacts { seq, offset, length, last, erased: false });
    }

    /// What is known so far of the epoch at this position, without its places.
    pub(super) fn epoch(&self, position: usize) -> EpochIndex {
        let mut call_epoch = self.epochs[position].clone();
        self.progress[position].complete(&mut call_epoch);
        call_epoch
    }

    /// The places so far of the epoch at this position.
    pub(super) fn places(&self, position: usize) -> Option<&RecordPlaces> {
        self.places_of_records[position].as_ref()
    }
}

impl Progress {
    fn new(received_at: UnixMicros) -> Progress {
        Progress {
            seq: 0,
            next_offset: 0,
            completed: SeqRange { first: 1, last: 0 },
            bytes: 0,
            first_received_at: received_at,
            last_received_at: received_at,
            is_begun: false,
            is_whole: false,
            is_erased: false,
        }
    }

    /// Adds to an epoch what is only known here.
    fn complete(&self, call_epoch: &mut EpochIndex) {
        call_epoch.frames.add(self.completed);
        call_epoch.bytes = self.bytes;
        (call_epoch.first_received_at, call_epoch.last_received_at) =
            (self.first_received_at, self.last_received_at);
        if self.next_offset != COMPLETE {
            call_epoch.open_seq = self.seq;
        }
    }

    fn receive(&mut self, at: UnixMicros) {
        self.first_received_at = self.first_received_at.min(at);
        self.last_received_at = self.last_received_at.max(at);
    }

    /// Whether the chunk is the whole frame that comes after the completed ones.
    fn is_next_frame(&self, chunk: &ChunkFacts) -> bool {
        let is_next = self.seq.checked_add(1) == Some(chunk.seq) && self.completed.last == self.seq;
        is_next && self.next_offset == COMPLETE && chunk.offset == 0 && chunk.last && !chunk.erased
    }
}

/// Adds a record's place. Records come in the order of the file. If one does not, the places are
/// not known, and readers read the segment.
fn add_place(places: &mut Option<RecordPlaces>, place: RecordPlace) {
    if places.as_mut().is_some_and(|known| !known.add(place)) {
        *places = None;
    }
}

/// When a segment was ended, if only its bytes say: by the times in its first and last batch. More
/// than [`SEGMENT_AGE_MAX`] is not believed: the wall clock may have been set.
fn ended_at<S: Source>(header: &SegmentHeader, scan: &SegmentScan<S>) -> UnixMicros {
    let (first, last) = scan.stats().sealed_at;
    let age_max = SEGMENT_AGE_MAX.as_micros() as u64;
    let written_for = last.0.saturating_sub(first.0).min(age_max);
    UnixMicros(header.created_at.0.saturating_add(written_for))
}

fn add_chunk(call_epoch: &mut EpochIndex, progress: &mut Progress, chunk: ChunkFacts) {
    let ChunkFacts { seq, offset, .. } = chunk;
    if progress.is_next_frame(&chunk) {
        (progress.seq, progress.completed.last) = (seq, seq);
        progress.bytes += chunk.length - chunk.length % 2;
        return;
    }
    if seq < progress.seq || (seq == progress.seq && offset < progress.next_offset) {
        call_epoch.doubles += 1;
        return;
    }
    if seq > progress.seq {
        call_epoch.broken += u64::from(progress.seq > 0 && progress.next_offset != COMPLETE);
        // The segment before may hold chunks of the first frame.
        progress.is_whole = offset == 0 || !progress.is_begun;
        (progress.seq, progress.next_offset, progress.is_erased) = (seq, offset, false);
    }
    if !progress.is_begun {
        progress.is_begun = seq > 0;
        call_epoch.first_seq = seq;
    }
    progress.is_whole &= offset == progress.next_offset;
    progress.is_erased |= chunk.erased;
    progress.next_offset = offset + chunk.length;
    if !chunk.last {
        return;
    }
    if progress.is_whole {
        if progress.completed.last > 0 && progress.completed.last.checked_add(1) == Some(seq) {
            progress.completed.last = seq;
        } else {
            call_epoch.frames.add(progress.completed);
            progress.completed = SeqRange { first: seq, last: seq };
        }
        progress.bytes += progress.next_offset - progress.next_offset % 2;
        call_epoch.erased += u64::from(progress.is_erased);
    } else {
        call_epoch.broken += 1;
    }
    progress.next_offset = COMPLETE;
}

impl From<&CallRecord<'_>> for CallFacts {
    fn from(record: &CallRecord<'_>) -> CallFacts {
        CallFacts {
            identity: CallIdentity {
                tenant: record.tenant.into(),
                interaction: record.interaction.into(),
            },
            key: record.call,
            sample_rate: record.sample_rate,
            started_at: record.started_at,
            token_issued_at: record.token_issued_at,
            token_expires_at: record.token_expires_at,
            peer: record.peer,
        }
    }
}

#[cfg(test)]
mod tests;
