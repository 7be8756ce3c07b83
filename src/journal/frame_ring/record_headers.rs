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
use crate::io::memory::zeroed_words;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Words of a note.
const NOTE_WORDS: usize = NOTE_SIZE / size_of::<u64>();

/// What the writer knows about a segment: its records in order, audio without payload.
///
/// It has one writer. Other threads read what is published by a [`HeadersView`], while the writer
/// goes on. It never waits for them: there is neither a lock nor a queue.
#[derive(Debug, Default)]
pub struct RecordHeaders {
    shared: Arc<Shared>,
    segment: SegmentUuid,
    start: Lsn,
    batches: u64,
    is_incomplete: bool,
    /// Number of notes.
    count: usize,
}

/// The memory of the notes.
#[derive(Debug, Default)]
struct Shared {
    words: Box<[AtomicU64]>,
    /// Notes that others may read. They do not change until the next segment begins.
    published: AtomicUsize,
    /// Position of the segment's first byte. Valid once a note is published.
    start: AtomicU64,
}

impl Shared {
    fn with_room(count: usize) -> Arc<Shared> {
        let words = zeroed_words(count * NOTE_WORDS);
        Arc::new(Shared { words, ..Shared::default() })
    }

    fn room(&self) -> usize {
        self.words.len() / NOTE_WORDS
    }

    fn copy(&self, from: usize, to: usize) -> Vec<Note> {
        let words = self.words.get(from * NOTE_WORDS..to * NOTE_WORDS).unwrap_or_default();
        let notes = words.as_chunks::<NOTE_WORDS>().0.iter().map(|[first, second]| {
            note::of_words([first, second].map(|word| word.load(Ordering::Relaxed)))
        });
        notes.collect()
    }
}

impl RecordHeaders {
    /// With room for `size` bytes of notes. [`RecordHeaders::default`] has none.
    pub fn with_room(size: usize) -> RecordHeaders {
        RecordHeaders { shared: Shared::with_room(size / NOTE_SIZE), ..RecordHeaders::default() }
    }

    /// Clears the notes and keeps the room.
    pub fn begin(&mut self, segment: SegmentUuid, start: Lsn) {
        self.shared.published.store(0, Ordering::Relaxed);
        self.shared.start.store(start.0, Ordering::Relaxed);
        (self.segment, self.start, self.batches, self.is_incomplete) = (segment, start, 0, false);
        self.count = 0;
    }

    /// Lets others read everything noted so far. All of it must be durable.
    pub(crate) fn publish(&self) {
        if !self.is_incomplete {
            self.shared.published.store(self.count, Ordering::Release);
        }
    }

    /// Reads what is published of this segment, from now on.
    pub(crate) fn view(&self) -> HeadersView {
        HeadersView { shared: Arc::clone(&self.shared), segment: self.segment }
    }

    /// Ends a batch of `size` bytes. Its notes come before.
    pub(crate) fn end_batch(&mut self, size: usize) {
        self.batches += 1;
        if self.has_room(1) {
            self.push(&note::batch(size));
        }
    }

    /// Notes a record with its whole payload.
    pub(crate) fn note(&mut self, header: &HeaderBytes, payload: &[u8]) {
        if self.has_room(note::record_count(payload.len())) {
            note::record(header, payload).for_each(|note| self.push(&note));
        }
    }

    fn push(&mut self, note: &Note) {
        self.extend(std::slice::from_ref(note));
    }

    /// Adds notes. The caller has made sure that there is room.
    fn extend(&mut self, notes: &[Note]) {
        let at = self.count * NOTE_WORDS;
        let into = self.shared.words[at..].as_chunks::<NOTE_WORDS>().0;
        for (note, [first, second]) in notes.iter().zip(into) {
            let words = note::words(note);
            first.store(words[0], Ordering::Relaxed);
            second.store(words[1], Ordering::Relaxed);
        }
        self.count += notes.len();
    }

    /// Whether `count` notes fit. If not, the record headers are incomplete from now on.
    fn has_room(&mut self, count: usize) -> bool {
        self.is_incomplete |= count > self.shared.room() - self.count;
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

    /// The notes from the one with this number on. `None` if some of the segment's records were not
    /// noted.
    pub fn notes(&self, from: usize) -> Option<Notes> {
        (!self.is_incomplete).then(|| Notes(self.shared.copy(from, self.count)))
    }
}

/// A copy, in memory of its own.
impl Clone for RecordHeaders {
    fn clone(&self) -> RecordHeaders {
        let shared = Shared::with_room(self.shared.room());
        let RecordHeaders { segment, start, batches, is_incomplete, .. } = *self;
        let mut copy = RecordHeaders { shared, segment, start, batches, is_incomplete, count: 0 };
        copy.extend(&self.shared.copy(0, self.count));
        copy
    }
}

impl PartialEq for RecordHeaders {
    fn eq(&self, other: &RecordHeaders) -> bool {
        let facts = |it: &RecordHeaders| (it.segment, it.start, it.batches, it.is_incomplete);
        let notes = |it: &RecordHeaders| it.shared.copy(0, it.count);
        facts(self) == facts(other) && notes(self) == notes(other)
    }
}

impl Eq for RecordHeaders {}

/// The published notes of a segment that is being written, for another thread.
#[derive(Clone, Debug)]
pub(crate) struct HeadersView {
    shared: Arc<Shared>,
    segment: SegmentUuid,
}

impl HeadersView {
    /// The segment, as one use of its file.
    pub(crate) fn segment(&self) -> SegmentUuid {
        self.segment
    }

    /// Position of the segment's first byte. Valid once a note is published.
    pub(crate) fn start(&self) -> Lsn {
        Lsn(self.shared.start.load(Ordering::Relaxed))
    }

    /// Number of published notes. They are those of whole batches, and all durable.
    pub(crate) fn count(&self) -> usize {
        self.shared.published.load(Ordering::Acquire)
    }

    /// The published notes from the one with this number on.
    pub(crate) fn notes(&self, from: usize) -> Notes {
        Notes(self.shared.copy(from, self.count()))
    }
}

/// Notes, copied out of the writer's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notes(Vec<Note>);

impl Notes {
    /// The records in order, audio without its payload.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.0)
    }

    /// Number of notes.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
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
                headers.extend(&self.memory[start..start + size]);
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
mod tests;
