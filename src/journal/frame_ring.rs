//! The frame ring: preallocated memory of one shard. Audio is laid out in it as journal records
//! from the start.
//!
//! ```text
//!   position ─►   durable       written       sealed       head
//!   ──────────────┼─────────────┼─────────────┼────────────┼──────────────┐
//!     free        │ not synced  │ to be       │ the open   │ free         │ end of
//!                 │             │ written     │ batch      │              │ the lap
//!   ──────────────┴─────────────┴─────────────┴────────────┴──────────────┘
//! ```
//! Positions are logical and count on over all laps. A batch that might not fit before the end of
//! the lap starts on the next lap. The bytes between two positions have the journal's format:
//! batches on blocks, records on lines (see [`crate::format`]). The disk takes them as
//! they are.
//!
//! The ring does no IO and reads no clock. Once a turn the shard tells it the time. The shard takes
//! sealed batches from it, and reports how far they were written. Without a journal it reports that
//! at once ([`FrameRing::release_sealed`]).

#![forbid(unsafe_code)]

use crate::call::{Epoch, Seq};
use crate::clock::{Moment, Now, UnixMicros};
use crate::constants::{BATCH_SIZE_MAX, BATCH_SIZE_QUEUED, BLOCK_SIZE};
use crate::format::payload::CALL_SIZE_MAX;
use crate::format::record::{PAYLOAD_SIZE_MAX, chain_crc, header_crc};
use crate::format::{
    BatchHeader, CallRecord, EndRecord, HEADER_SIZE, HeaderBytes, Lsn, RecordHeader, RecordKind,
    SegmentUuid, Unsynced, record_size,
};
use crate::io::memory::Region;
use crate::proto::MaskKey;
use crate::proto::mask::{self, Kernel};
use calls::CallTable;
use record_headers::PendingHeaders;
use std::collections::VecDeque;

mod calls;
mod input;
mod note;
mod record_headers;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use calls::RepeatedCall;
pub use input::{CallEnd, CallStart, Chunk};
pub use note::{Noted, NotedChunk, Records};
pub(crate) use record_headers::HeadersView;
pub use record_headers::{Notes, RecordHeaders};
pub use room::audio_size;

/// Smallest ring: one batch being filled, one being written, one being synced, and one that may be
/// skipped at the end of the lap.
pub(crate) const RING_SIZE_MIN: usize = 4 * BATCH_SIZE_MAX;

/// A logical byte position in the frame ring; counts on over all laps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingPosition(pub u64);

/// There is no room, and nothing was appended. Wait until more is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFull;

/// A batch that takes no more records. The journal writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    /// Counts the shard's batches from 1.
    pub number: u64,
    /// Where it starts in the ring.
    pub(crate) start: RingPosition,
    /// Its size, bytes: whole blocks.
    pub(crate) size: usize,
    /// Records in it, pads not counted.
    pub(crate) record_count: u16,
    /// Running checksum over the headers of its records, pads included.
    pub(crate) records_crc: u32,
    /// When its first record was appended.
    pub(crate) opened_at: Moment,
    /// When it was sealed.
    pub(crate) sealed_at: UnixMicros,
    /// Number of its notes for the [`RecordHeaders`] of its segment; `None` if there was no room
    /// for all of them.
    note_count: Option<u32>,
}

impl SealedBatch {
    /// Where it ends: the position for [`FrameRing::set_written`] and [`FrameRing::set_durable`].
    pub const fn end(&self) -> RingPosition {
        RingPosition(self.start.0 + self.size as u64)
    }
}

/// The batch that takes new records.
#[derive(Debug)]
struct OpenBatch {
    number: u64,
    start: RingPosition,
    record_count: u16,
    records_crc: u32,
    opened_at: Moment,
}

/// Preallocated ring of batches of records.
///
/// Invariant, asserted once per batch: `durable ≤ written ≤ sealed ≤ head`, and
/// `head - durable ≤ size`.
#[derive(Debug)]
pub struct FrameRing {
    memory: Region,
    kernel: Kernel,
    now: Now,
    durable: RingPosition,
    written: RingPosition,
    sealed: RingPosition,
    head: RingPosition,
    open: Option<OpenBatch>,
    /// Sealed batches that were not given out yet. The shard takes them each turn.
    sealed_batches: VecDeque<SealedBatch>,
    sealed_count: u64,
    /// Bytes that no seal may use: see [`FrameRing::set_reserve`].
    reserve: usize,
    calls: CallTable,
    pending_headers: PendingHeaders,
    /// Nothing from here on is released.
    #[cfg(test)]
    pub(crate) held: Option<RingPosition>,
}

impl FrameRing {
    /// A ring over all of `memory`. Its size is a multiple of the block size and at least
    /// [`RING_SIZE_MIN`].
    pub fn new(memory: Region, kernel: Kernel) -> Self {
        assert!(memory.len() >= RING_SIZE_MIN, "a frame ring has room for four batches");
        assert!(memory.len().is_multiple_of(BLOCK_SIZE), "a frame ring is made of whole blocks");
        assert!(
            memory.as_ptr().addr().is_multiple_of(BLOCK_SIZE),
            "a frame ring starts on a block"
        );
        let batch_count = memory.len() / BATCH_SIZE_QUEUED;
        FrameRing {
            memory,
            kernel,
            now: Now::default(),
            durable: RingPosition(0),
            written: RingPosition(0),
            sealed: RingPosition(0),
            head: RingPosition(0),
            open: None,
            sealed_batches: VecDeque::with_capacity(batch_count),
            sealed_count: 0,
            reserve: 0,
            calls: CallTable::default(),
            pending_headers: PendingHeaders::default(),
            #[cfg(test)]
            held: None,
        }
    }

    /// Keeps notes for the record headers of segments from now on, at most `size_max` bytes.
    /// Without this call all record headers are incomplete.
    pub fn keep_headers(&mut self, size_max: usize) {
        assert!(self.head == RingPosition(0), "notes are kept from the first record on");
        self.pending_headers = PendingHeaders::with_room(size_max);
    }

    /// Sets the time of the batches that are opened and sealed from now on. Call it once a turn.
    pub(crate) fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Appends a piece of a frame and unmasks it: this is the only copy of audio in the node. A
    /// piece larger than a batch becomes several records, and only the last one completes the
    /// frame.
    pub fn append_audio(
        &mut self,
        chunk: Chunk,
        masked: &[u8],
        key: MaskKey,
    ) -> Result<(), RingFull> {
        let mut header = RecordHeader {
            payload_crc: 0,
            length: 0,
            kind: RecordKind::Audio,
            last: chunk.last,
            erased: false,
            call: chunk.call,
            epoch: chunk.epoch,
            seq: chunk.seq,
            offset: chunk.offset,
            batch: 0,
            received_at: chunk.received_at,
        };
        if audio_size(masked.len()) > self.free_size() {
            return Err(RingFull);
        }
        let (mut rest, mut key) = (masked, key);
        while rest.len() > PAYLOAD_SIZE_MAX {
            let (piece, behind) = rest.split_at(PAYLOAD_SIZE_MAX);
            header.last = false;
            self.append(header, piece, key);
            header.last = chunk.last;
            header.offset = header.offset.wrapping_add(PAYLOAD_SIZE_MAX as u32);
            key = key.advanced(PAYLOAD_SIZE_MAX);
            rest = behind;
        }
        self.append(header, rest, key);
        Ok(())
    }

    /// Appends a call record.
    pub fn append_call(&mut self, start: &CallStart<'_>) -> Result<(), RingFull> {
        let record = CallRecord {
            call: start.call,
            tenant: &start.identity.tenant,
            interaction: &start.identity.interaction,
            sample_rate: start.sample_rate,
            started_at: start.started_at,
            token_issued_at: start.token_issued_at,
            token_expires_at: start.token_expires_at,
            peer: start.peer,
        };
        let mut payload = [0; CALL_SIZE_MAX];
        let size = record.encode(&mut payload);
        let (call, payload) = (start.call.record_number(), &payload[..size]);
        self.append_other(RecordKind::Call, call, start.epoch, start.started_at, payload)?;
        self.calls.begin(start.epoch, self.head, payload);
        Ok(())
    }

    /// Appends an end record. It is the last record of the call, even if there was no room for it.
    pub fn append_end(&mut self, end: &CallEnd) -> Result<(), RingFull> {
        let record = EndRecord {
            frames: end.frames,
            bytes: end.bytes,
            ending: end.ending,
            ended_at: end.ended_at,
        };
        let appended =
            self.append_other(RecordKind::End, end.call, end.epoch, end.ended_at, &record.encode());
        self.calls.end(end.epoch, self.head);
        appended
    }

    fn append_other(
        &mut self,
        kind: RecordKind,
        call: u64,
        epoch: Epoch,
        received_at: UnixMicros,
        payload: &[u8],
    ) -> Result<(), RingFull> {
        if record_size(payload.len()) > self.free_size() {
            return Err(RingFull);
        }
        let header = RecordHeader {
            payload_crc: 0,
            length: 0,
            kind,
            last: false,
            erased: false,
            call,
            epoch,
            seq: Seq(0),
            offset: 0,
            batch: 0,
            received_at,
        };
        self.append(header, payload, MaskKey::default());
        Ok(())
    }

    /// Lays out one record and fills in checksum, length and batch. The caller has made sure that
    /// there is room.
    fn append(&mut self, mut header: RecordHeader, masked: &[u8], key: MaskKey) {
        let size = record_size(masked.len());
        self.make_way(size);
        let at = self.index(self.head);
        let (header_bytes, payload) = self.memory[at..at + size].split_at_mut(HEADER_SIZE);
        let (payload, padding) = payload.split_at_mut(masked.len());
        header.payload_crc = mask::unmask_copy(self.kernel, payload, masked, key);
        padding.fill(0);
        let open = self.open.as_mut().expect("make_way leaves a batch open");
        header.length = masked.len() as u32;
        header.batch = open.number as u32;
        let encoded = header.encode();
        mask::store_line(self.kernel, line(header_bytes), &encoded);
        open.records_crc = chain_crc(open.records_crc, header_crc(&encoded));
        open.record_count += 1;
        match header.kind {
            RecordKind::Audio => self.pending_headers.push_chunk(&header, &encoded),
            _ => self.pending_headers.push_record(&encoded, payload),
        }
        self.head.0 += size as u64;
    }

    /// Leaves a batch open with room for a record of `size` bytes.
    fn make_way(&mut self, size: usize) {
        if let Some(open) = &self.open
            && (self.head.0 - open.start.0) as usize + size > BATCH_SIZE_MAX
        {
            self.close_batch();
        }
        if self.open.is_some() {
            return;
        }
        let ring_size = self.memory.len() as u64;
        let left = ring_size - self.head.0 % ring_size;
        let skipped = if left < BATCH_SIZE_MAX as u64 { left } else { 0 };
        let start = RingPosition(self.head.0 + skipped);
        self.head = RingPosition(start.0 + HEADER_SIZE as u64);
        let number = self.sealed_count + 1;
        self.open = Some(OpenBatch {
            number,
            start,
            record_count: 0,
            records_crc: 0,
            opened_at: self.now.moment,
        });
    }

    /// Seals the open batch, if there is one. Then [`FrameRing::poll_sealed`] gives it out. Does
    /// nothing if the pad would leave less than the reserve. In that case the ring is full of
    /// sealed batches that are not released yet. The disk has enough to do, and a seal would save
    /// no time. It can be made once something has been released.
    ///
    /// Without this rule the reserve would need a block for each record that it is meant for. While
    /// a disk stands still, each of these records may come alone and be sealed alone.
    pub fn seal(&mut self) {
        if self.may_pad() {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let rest = (self.block_end().0 - self.head.0) as usize;
        if rest > 0 {
            let at = self.index(self.head);
            let (header_bytes, payload) = self.memory[at..at + rest].split_at_mut(HEADER_SIZE);
            let encoded = RecordHeader::pad(rest, open.number as u32).encode();
            header_bytes.copy_from_slice(&encoded);
            payload.fill(0);
            open.records_crc = chain_crc(open.records_crc, header_crc(&encoded));
            self.head.0 += rest as u64;
        }
        let batch = SealedBatch {
            number: open.number,
            start: open.start,
            size: (self.head.0 - open.start.0) as usize,
            record_count: open.record_count,
            records_crc: open.records_crc,
            opened_at: open.opened_at,
            sealed_at: self.now.unix,
            note_count: self.pending_headers.close(),
        };
        self.sealed = self.head;
        self.sealed_count += 1;
        self.stamp(&batch, SegmentUuid::default(), Lsn(0), Unsynced::UNKNOWN);
        mask::fence();
        self.sealed_batches.push_back(batch);
        self.invariants();
    }

    /// The next sealed batch to be written, in order. Each is given out once. Its bytes stay until
    /// it is durable.
    pub fn poll_sealed(&mut self) -> Option<SealedBatch> {
        self.sealed_batches.pop_front()
    }

    /// Sets where a batch will be written, for the first time or again. This changes only its
    /// header. No write of the batch may be under way. `unsynced` says how much of the segment is
    /// durable.
    pub(crate) fn stamp(
        &mut self,
        batch: &SealedBatch,
        segment: SegmentUuid,
        lsn: Lsn,
        unsynced: Unsynced,
    ) {
        let header = BatchHeader {
            size: batch.size as u32,
            record_count: batch.record_count,
            unsynced,
            segment,
            number: batch.number,
            lsn,
            sealed_at: batch.sealed_at,
            records_crc: batch.records_crc,
        };
        self.assert_held(batch);
        let at = self.index(batch.start);
        self.memory[at..at + HEADER_SIZE].copy_from_slice(&header.encode());
    }

    /// The bytes of a batch that is not released yet.
    pub fn batch_bytes(&self, batch: &SealedBatch) -> &[u8] {
        self.assert_held(batch);
        let at = self.index(batch.start);
        &self.memory[at..at + batch.size]
    }

    /// Offset of a batch in the ring's memory, bytes. A write from the registered buffer needs it.
    pub(crate) fn batch_offset(&self, batch: &SealedBatch) -> usize {
        self.assert_held(batch);
        self.index(batch.start)
    }

    /// Reports that everything before `position`, the end of a batch, is written.
    pub fn set_written(&mut self, position: RingPosition) {
        assert!(
            self.written <= position && position <= self.sealed,
            "written moves forward, up to what is sealed"
        );
        self.written = position;
        self.invariants();
    }

    /// Reports that everything before `position`, the end of a batch, is durable. This releases its
    /// space.
    pub fn set_durable(&mut self, position: RingPosition) {
        assert!(
            self.durable <= position && position <= self.written,
            "durable moves forward, up to what is written"
        );
        self.durable = position;
        self.calls.forget(position);
        self.invariants();
    }

    /// Moves the notes of a batch to its segment's record headers. Call it once for each batch, in
    /// order, as soon as it is durable.
    pub fn hand_over_headers(&mut self, batch: &SealedBatch, headers: &mut RecordHeaders) {
        self.pending_headers.hand_over(batch.note_count, batch.size, headers);
    }

    /// For a node without a journal: everything sealed counts as written and durable at once.
    /// [`FrameRing::poll_sealed`] never gives out what it has not given out yet.
    pub fn release_sealed(&mut self) {
        self.sealed_batches.clear();
        self.written = self.sealed;
        self.durable = self.sealed;
        self.calls.forget(self.durable);
        self.invariants();
    }

    /// The calls with records in the ring that are not durable yet, or still to come. In order of
    /// their epochs, starting after `after`.
    pub(crate) fn calls_after(
        &self,
        after: Option<Epoch>,
    ) -> impl Iterator<Item = RepeatedCall<'_>> {
        self.calls.iter_after(after)
    }

    /// Where the next record goes: everything before it has been appended. That is durable
    /// (written) once [`FrameRing::durable`] ([`FrameRing::written`]) has reached this position.
    pub(crate) fn head(&self) -> RingPosition {
        self.head
    }

    /// Everything before it is in sealed batches.
    pub(crate) fn sealed(&self) -> RingPosition {
        self.sealed
    }

    /// Everything before it has been written.
    pub(crate) fn written(&self) -> RingPosition {
        self.written
    }

    /// Everything before it is durable.
    pub(crate) fn durable(&self) -> RingPosition {
        self.durable
    }

    /// Everything before it may be overwritten.
    fn released(&self) -> RingPosition {
        #[cfg(test)]
        if let Some(held) = self.held {
            return held.min(self.durable);
        }
        self.durable
    }

    /// Bytes in use: appended and not released.
    pub(crate) fn used_size(&self) -> usize {
        (self.head.0 - self.released().0) as usize
    }

    /// When the first record of the open batch was appended; `None` if everything is sealed.
    pub(crate) fn open_since(&self) -> Option<Moment> {
        self.open.as_ref().map(|open| open.opened_at)
    }

    /// Batches sealed so far, with those that were sealed because they were full.
    pub(crate) fn sealed_count(&self) -> u64 {
        self.sealed_count
    }

    /// The memory, for registration with the kernel.
    pub(crate) fn memory(&self) -> &Region {
        &self.memory
    }

    fn index(&self, position: RingPosition) -> usize {
        (position.0 % self.memory.len() as u64) as usize
    }

    fn assert_held(&self, batch: &SealedBatch) {
        assert!(
            self.released() <= batch.start && batch.end() <= self.sealed,
            "the batch's bytes are still in the ring"
        );
    }

    /// What holds between any two calls. Checked once per batch.
    fn invariants(&self) {
        let cursors = [self.durable, self.written, self.sealed, self.head];
        assert!(cursors.is_sorted(), "durable, written, sealed, head in order: {cursors:?}");
        assert!(
            self.head.0 - self.released().0 <= self.memory.len() as u64,
            "nothing overwrites what is not released"
        );
        assert!(self.sealed.0.is_multiple_of(BLOCK_SIZE as u64), "batches end on a block");
        assert!(
            self.sealed_batches.front().is_none_or(|batch| self.written <= batch.start),
            "written after it was given out"
        );
        match &self.open {
            Some(open) => assert!(self.sealed <= open.start && open.start < self.head),
            None => assert!(self.sealed == self.head),
        }
    }
}

/// The bytes of a header. `split_at_mut` has just made the slice that long.
fn line(bytes: &mut [u8]) -> &mut HeaderBytes {
    bytes.try_into().expect("a header is one line")
}
