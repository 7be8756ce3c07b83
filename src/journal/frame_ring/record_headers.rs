//! Notes about the records of a segment, taken while they are laid out. They hold the facts of each
//! chunk of audio, and the whole of each other record. So no segment has to be read back for its
//! index.
//!
//! ```text
//!  FrameRing ─note─► PendingHeaders ─batch durable─► RecordHeaders (segment) ─sealed─► index
//! ```
//! Both have a fixed size, and take 16 bytes for each chunk of audio ([`note`](super::note)). That
//! is enough for the shortest frames that carriers send, 160 bytes, even if each comes in a turn of
//! its own. With shorter frames record headers may become incomplete. Then the segment is read for
//! its index.
//!
//! The memory is not touched until notes need it, and blocks used last are used again first. So it
//! costs what the frames of a node need, not what the shortest frames would need.
//!
//! Rejected:
//! - Walking through the headers in the ring once their batch is durable. They were written around
//!   the cache, so each costs a cache miss, about 1 % of the cost of a frame.
//! - Copying headers. 64 bytes for a chunk overflowed with frames of 20 ms, and decoding them was
//!   most of the store's work.
//! - Joining the chunks of a call in a batch. In real time a batch has one frame of 20 ms of each
//!   call, so there is nothing to join.
//! - Joining them in a segment, here. A batch learns its segment only when it is written, and may
//!   go to another one after a failed write. The index builder joins them, away from the shard.

#![forbid(unsafe_code)]

use super::note::{self, NOTE_SIZE, Note, Records};
use crate::clock::UnixMicros;
use crate::format::{HeaderBytes, Lsn, RecordHeader, SegmentUuid};
use std::collections::VecDeque;

/// What the writer knows about a segment: its records in order, audio without payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordHeaders {
    segment: SegmentUuid,
    start: Lsn,
    batches: u64,
    is_incomplete: bool,
    notes: Vec<Note>,
}

impl RecordHeaders {
    /// With room for `size` bytes of notes. [`RecordHeaders::default`] has none.
    pub fn with_room(size: usize) -> RecordHeaders {
        RecordHeaders { notes: Vec::with_capacity(size / NOTE_SIZE), ..RecordHeaders::default() }
    }

    /// Clears the notes and keeps the room.
    pub fn begin(&mut self, segment: SegmentUuid, start: Lsn) {
        (self.segment, self.start, self.batches, self.is_incomplete) = (segment, start, 0, false);
        self.notes.clear();
    }

    /// Ends a batch of `size` bytes. Its notes come before.
    pub(crate) fn end_batch(&mut self, size: usize) {
        self.batches += 1;
        if self.has_room(1) {
            self.notes.push(note::batch(size));
        }
    }

    /// Notes a record with its whole payload.
    pub(crate) fn note(&mut self, header: &HeaderBytes, payload: &[u8]) {
        if self.has_room(note::record_count(payload.len())) {
            self.notes.extend(note::record(header, payload));
        }
    }

    /// Whether `count` notes fit. If not, the record headers are incomplete from now on.
    fn has_room(&mut self, count: usize) -> bool {
        self.is_incomplete |= count > self.notes.capacity() - self.notes.len();
        !self.is_incomplete
    }

    /// The segment, as one use of its file.
    pub(crate) fn segment(&self) -> SegmentUuid {
        self.segment
    }

    /// Position of the segment's first byte.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// Number of batches.
    pub(crate) fn batches(&self) -> u64 {
        self.batches
    }

    /// The records of the segment in order, audio without its payload. `None` if some of them were
    /// not noted.
    pub fn records(&self) -> Option<Records<'_>> {
        (!self.is_incomplete).then(|| Records::new(&self.notes))
    }
}

/// Notes that are taken from the free memory, and given back, together: a page.
const BLOCK_NOTES: usize = 256;

/// Notes of the batches that are not durable yet, and of the open one after them.
///
/// A queue over blocks. The block that was used last is taken first, so a short queue touches
/// little memory.
#[derive(Debug, Default)]
pub(super) struct PendingHeaders {
    memory: Vec<Note>,
    /// Blocks without notes. The one that was used last is at the end.
    free: Vec<u32>,
    /// Blocks with notes, in order.
    blocks: VecDeque<u32>,
    /// Notes at the front of the first block that were already handed over.
    front: usize,
    /// Notes after them.
    count: usize,
    /// Notes of the open batch.
    open_count: usize,
    is_open_incomplete: bool,
    /// When the last chunk of the open batch arrived.
    received_at: Option<UnixMicros>,
}

impl PendingHeaders {
    /// Notes with room for `size` bytes.
    pub(super) fn with_room(size: usize) -> PendingHeaders {
        let block_count = (size / NOTE_SIZE).div_ceil(BLOCK_NOTES);
        PendingHeaders {
            // Zeroed by the kernel: this touches no page.
            memory: vec![[0; NOTE_SIZE]; block_count * BLOCK_NOTES],
            free: (0..block_count as u32).rev().collect(),
            blocks: VecDeque::with_capacity(block_count),
            ..PendingHeaders::default()
        }
    }

    /// Notes a chunk of audio of the open batch.
    #[inline]
    pub(super) fn push_chunk(&mut self, header: &RecordHeader, encoded: &HeaderBytes) {
        if self.is_open_incomplete {
            return;
        }
        let Some(chunk) = note::chunk(header) else { return self.push_record(encoded, &[]) };
        if self.received_at != Some(header.received_at) {
            self.received_at = Some(header.received_at);
            self.push(note::time(header.received_at));
        }
        if header.offset > 0 {
            self.push(note::offset(header.offset));
        }
        self.push(chunk);
    }

    /// Notes a record of the open batch, with its whole payload.
    pub(super) fn push_record(&mut self, header: &HeaderBytes, payload: &[u8]) {
        note::record(header, payload).for_each(|note| self.push(note));
    }

    #[inline]
    fn push(&mut self, note: Note) {
        let at = (self.front + self.count) % BLOCK_NOTES;
        if at == 0 && !self.is_open_incomplete {
            let block = self.free.pop();
            self.is_open_incomplete = block.is_none();
            self.blocks.extend(block);
        }
        if self.is_open_incomplete {
            return;
        }
        if let Some(block) = self.blocks.back() {
            self.memory[*block as usize * BLOCK_NOTES + at] = note;
            self.count += 1;
            self.open_count += 1;
        }
    }

    /// Closes the open batch and returns its number of notes. `None` if some are missing; then all
    /// of them are dropped.
    pub(super) fn close(&mut self) -> Option<u32> {
        self.received_at = None;
        let count = std::mem::take(&mut self.open_count);
        if !std::mem::take(&mut self.is_open_incomplete) {
            return Some(count as u32);
        }
        self.count -= count;
        let kept = (self.front + self.count).div_ceil(BLOCK_NOTES);
        self.free.extend(self.blocks.drain(kept..).rev());
        None
    }

    /// Moves the notes of the oldest batch, of `size` bytes, to the record headers of its segment.
    pub(super) fn hand_over(
        &mut self,
        count: Option<u32>,
        size: usize,
        headers: &mut RecordHeaders,
    ) {
        self.move_notes(count, headers);
        headers.end_batch(size);
    }

    fn move_notes(&mut self, count: Option<u32>, headers: &mut RecordHeaders) {
        let Some(count) = count.map(|count| count as usize) else {
            headers.is_incomplete = true;
            return;
        };
        let (has_room, mut left) = (headers.has_room(count), count);
        while let Some(block) = self.blocks.front().filter(|_| left > 0) {
            let (start, size) =
                (*block as usize * BLOCK_NOTES + self.front, left.min(BLOCK_NOTES - self.front));
            if has_room {
                headers.notes.extend_from_slice(&self.memory[start..start + size]);
            }
            left -= size;
            self.front += size;
            self.count -= size;
            if self.front == BLOCK_NOTES {
                self.front = 0;
                self.free.extend(self.blocks.pop_front());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::{Noted, NotedChunk};
    use super::*;
    use crate::call::{Epoch, Seq};
    use crate::format::{FormatError, HEADER_SIZE, RecordKind};

    /// The size of each batch, bytes.
    const BATCH: usize = 12_288;

    fn header(kind: RecordKind, seq: u64, length: u32) -> RecordHeader {
        let epoch = Epoch { boot: 1, micros: 2, shard: 3 };
        let (last, erased) = (kind == RecordKind::Audio, false);
        RecordHeader {
            payload_crc: 0,
            length,
            kind,
            last,
            erased,
            call: 42,
            epoch,
            seq: Seq(seq),
            offset: 0,
            batch: 1,
            received_at: UnixMicros(9),
        }
    }

    fn push_chunk(notes: &mut PendingHeaders, seq: u64) {
        let header = header(RecordKind::Audio, seq, 9_600);
        notes.push_chunk(&header, &header.encode());
    }

    /// The numbers of the frames in record headers; `None` if they are incomplete.
    fn frames(headers: &RecordHeaders) -> Option<Vec<u64>> {
        let seq = |record: Result<Noted<'_>, FormatError>| match record.unwrap() {
            Noted::Chunk(NotedChunk { seq, .. }) => Some(seq),
            Noted::Record(header, _) => Some(header.seq.0),
            Noted::Batch(size) => {
                assert_eq!(size, BATCH as u64);
                None
            }
        };
        Some(headers.records()?.filter_map(seq).collect())
    }

    fn room(notes: usize) -> usize {
        notes * NOTE_SIZE
    }

    #[test]
    fn notes_go_to_the_record_headers_of_the_segment_that_their_batch_goes_to() {
        // Two blocks, each used many times.
        let mut notes = PendingHeaders::with_room(room(2 * BLOCK_NOTES));
        for count in 1..=500u64 {
            let mut headers = RecordHeaders::with_room(4096);
            headers.begin(SegmentUuid([7; 16]), Lsn(99));
            headers.note(&header(RecordKind::Call, 0, 5).encode(), b"facts");
            (1..=30).for_each(|seq| push_chunk(&mut notes, seq));
            let first = notes.close();
            notes.push_record(&header(RecordKind::End, 31, 3).encode(), b"end");
            (32..=40).for_each(|seq| push_chunk(&mut notes, seq));
            let beyond = RecordHeader { seq: Seq(1 << 60), ..header(RecordKind::Audio, 0, 1) };
            notes.push_chunk(&beyond, &beyond.encode());
            let second = notes.close();
            assert_eq!(
                (first, second),
                (Some(31), Some(6 + 10 + 5)),
                "each batch begins with a time"
            );
            push_chunk(&mut notes, 77);
            notes.hand_over(first, BATCH, &mut headers);
            assert_eq!(
                (frames(&headers), headers.batches()),
                (Some((0..=30).collect()), 1),
                "{count}"
            );
            notes.hand_over(second, BATCH, &mut headers);
            assert_eq!(
                (frames(&headers), headers.batches()),
                (Some((0..=40).chain([1 << 60]).collect()), 2)
            );
            let records = headers.records().unwrap().filter_map(|record| match record.unwrap() {
                Noted::Record(_, payload) => Some(payload),
                Noted::Chunk(_) | Noted::Batch(_) => None,
            });
            assert_eq!(records.collect::<Vec<_>>(), [&b"facts"[..], b"end", b""]);
            assert_eq!((headers.segment(), headers.start()), (SegmentUuid([7; 16]), Lsn(99)));
            let third = notes.close();
            notes.hand_over(third, BATCH, &mut headers);
        }
        assert!(notes.free.len() + notes.blocks.len() == 2 && notes.count == 0);
    }

    #[test]
    fn times_and_offsets_are_noted_when_they_change() {
        let mut notes = PendingHeaders::with_room(4096);
        let facts = [(0, 5), (0, 5), (100, 5), (0, 6), (7, 6)];
        for batch in 0..2 {
            for (offset, time) in facts {
                let header = RecordHeader {
                    offset,
                    received_at: UnixMicros(time),
                    ..header(RecordKind::Audio, batch, 1)
                };
                notes.push_chunk(&header, &header.encode());
            }
            assert_eq!(notes.close(), Some(5 + 2 + 2), "the next batch may go to another segment");
        }
        let mut headers = RecordHeaders::with_room(4096);
        for _ in 0..2 {
            notes.hand_over(Some(9), BATCH, &mut headers);
        }
        let read = headers.records().unwrap().filter_map(|record| match record.unwrap() {
            Noted::Chunk(chunk) => Some((chunk.offset as u32, chunk.received_at.0)),
            Noted::Batch(_) => None,
            Noted::Record(..) => unreachable!(),
        });
        assert!(read.eq(facts.into_iter().chain(facts)));
    }

    #[test]
    fn notes_without_room_make_record_headers_incomplete_and_never_wrong() {
        let mut notes = PendingHeaders::with_room(room(2 * BLOCK_NOTES));
        let whole_count = BLOCK_NOTES as u64 + 9;
        (1..=whole_count).for_each(|seq| push_chunk(&mut notes, seq));
        let whole = notes.close();
        (1..=BLOCK_NOTES as u64).for_each(|seq| push_chunk(&mut notes, seq));
        let cut = notes.close();
        push_chunk(&mut notes, 5);
        let next = notes.close();
        assert_eq!(
            (whole, cut, next),
            (Some(whole_count as u32 + 1), None, Some(2)),
            "dropped notes give their room back"
        );

        let mut headers = RecordHeaders::with_room(8192);
        notes.hand_over(whole, BATCH, &mut headers);
        assert_eq!(frames(&headers), Some((1..=whole_count).collect()));
        notes.hand_over(cut, BATCH, &mut headers);
        assert_eq!(frames(&headers), None);
        headers.begin(SegmentUuid([8; 16]), Lsn(0));
        notes.hand_over(next, BATCH, &mut headers);
        assert_eq!(frames(&headers), Some(vec![5]), "the next segment is complete again");

        // Record headers without room for them: the notes are removed all the same.
        let mut small = RecordHeaders::with_room(room(2));
        (6..=7).for_each(|seq| push_chunk(&mut notes, seq));
        let count = notes.close();
        notes.hand_over(count, BATCH, &mut small);
        assert_eq!((frames(&small), notes.count), (None, 0));
        assert_eq!(frames(&RecordHeaders::default()), Some(vec![]));
        // Notes without any room.
        let mut none = PendingHeaders::default();
        push_chunk(&mut none, 1);
        none.push_record(&header(RecordKind::End, 31, 3).encode(), b"end");
        assert_eq!((none.close(), none.count), (None, 0));
    }

    #[test]
    fn a_dropped_batch_takes_nothing_that_is_freed_meanwhile() {
        let mut notes = PendingHeaders::with_room(room(BLOCK_NOTES));
        (1..BLOCK_NOTES as u64).for_each(|seq| push_chunk(&mut notes, seq));
        let whole = notes.close();
        assert_eq!(whole, Some(BLOCK_NOTES as u32));
        push_chunk(&mut notes, 1);
        notes.hand_over(whole, BATCH, &mut RecordHeaders::with_room(8192));
        push_chunk(&mut notes, 2);
        assert_eq!((notes.close(), notes.count, notes.free.len()), (None, 0, 1));
    }

    #[test]
    fn in_calm_the_same_little_memory_is_used_again() {
        let mut notes = PendingHeaders::with_room(1 << 20);
        let mut headers = RecordHeaders::with_room(8192);
        for _ in 0..1000 {
            (1..=100).for_each(|seq| push_chunk(&mut notes, seq));
            let count = notes.close();
            headers.begin(SegmentUuid::default(), Lsn(0));
            notes.hand_over(count, BATCH, &mut headers);
        }
        let touched = notes.memory.iter().filter(|note| **note != [0; NOTE_SIZE]).count();
        assert!(touched <= 2 * BLOCK_NOTES, "{touched} notes");
    }

    #[test]
    fn a_manifest_in_bad_memory_says_so_and_stops() {
        let mut headers = RecordHeaders::with_room(1024);
        headers.note(&header(RecordKind::Call, 0, 5).encode(), b"facts");
        headers.note(&header(RecordKind::Audio, 1, 9_600).encode(), &[]);
        for at in 0..NOTE_SIZE + HEADER_SIZE {
            let mut bad = headers.clone();
            bad.notes[at / NOTE_SIZE][at % NOTE_SIZE] ^= 0x10;
            let records: Vec<_> = bad.records().unwrap().collect();
            assert!(records.len() == 1 && records[0].is_err(), "byte {at}: {records:?}");
        }
        headers.notes.truncate(3);
        assert_eq!(headers.records().unwrap().next(), Some(Err(FormatError::Truncated)));
    }
}
