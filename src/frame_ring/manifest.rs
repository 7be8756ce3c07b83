//! What is in the segments, noted while their records are laid out, so that nobody has to read a segment back to know: the
//! headers of all records, and the payloads of those that are not audio.
//!
//! ```text
//!  FrameRing ──note──► notes of what is not durable yet ──batch durable──► Manifest of its segment ──sealed──► index
//! ```
//! Both have room of a fixed size: 64 bytes go into them for each piece of audio. Where that is not enough, with very short
//! frames or behind a disk that stands still, a manifest is incomplete, and who wants an index reads the segment.
//! (Rejected: to walk through the headers in the ring once their batch is durable. They were written around the cache, so each
//! one costs a miss, about 1 % of what a frame costs.)

#![forbid(unsafe_code)]

use crate::journal::format::{FormatError, HEADER_SIZE, HeaderBytes, Lsn, RecordHeader, RecordKind, SegmentUuid};
use std::collections::VecDeque;

/// What its writer knows of a segment: the headers of its records, in order, and the payloads of those that are not audio.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    segment: SegmentUuid,
    start: Lsn,
    batches: u64,
    is_incomplete: bool,
    bytes: Vec<u8>,
}

impl Manifest {
    /// With room for notes of so many bytes; [`Manifest::default`] has none. The memory is touched here, so that a shard does
    /// not have to.
    pub fn with_room(size: usize) -> Manifest {
        let mut bytes = vec![0xFF; size];
        bytes.clear();
        Manifest { bytes, ..Manifest::default() }
    }

    /// Forgets everything, and keeps the room.
    pub fn begin(&mut self, segment: SegmentUuid, start: Lsn) {
        (self.segment, self.start, self.batches, self.is_incomplete) = (segment, start, 0, false);
        self.bytes.clear();
    }

    /// Counts a batch, whose notes come before.
    pub fn count_batch(&mut self) {
        self.batches += 1;
    }

    /// Notes a record.
    pub fn note(&mut self, header: &HeaderBytes, payload: &[u8]) {
        if self.has_room(HEADER_SIZE + payload.len()) {
            self.bytes.extend_from_slice(header);
            self.bytes.extend_from_slice(payload);
        }
    }

    /// Whether so many bytes fit; if not, something is missing from now on.
    fn has_room(&mut self, size: usize) -> bool {
        self.is_incomplete |= size > self.bytes.capacity() - self.bytes.len();
        !self.is_incomplete
    }

    /// The use of the file that it is about.
    pub fn segment(&self) -> SegmentUuid {
        self.segment
    }

    /// Position of the segment's first byte.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Batches of the segment.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// The records of the segment in order, audio without its payload; `None` if not all of them were noted.
    pub fn records(&self) -> Option<Records<'_>> {
        (!self.is_incomplete).then_some(Records { rest: &self.bytes })
    }
}

/// Iterates over the records of a manifest.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(RecordHeader, &'a [u8]), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (encoded, behind) = self.rest.split_first_chunk::<HEADER_SIZE>()?;
        let header = match RecordHeader::decode(encoded) {
            Ok(header) => header,
            Err(fault) => {
                // Memory went bad: nothing behind it can be told apart.
                self.rest = &[];
                return Some(Err(fault));
            }
        };
        let size = if header.kind == RecordKind::Audio { 0 } else { header.length as usize };
        let Some((payload, rest)) = behind.split_at_checked(size) else {
            self.rest = &[];
            return Some(Err(FormatError::Truncated));
        };
        self.rest = rest;
        Some(Ok((header, payload)))
    }
}

/// Notes of the batches that are not durable yet, and of the open one behind them.
#[derive(Debug, Default)]
pub(super) struct Notes {
    bytes: VecDeque<u8>,
    /// Most bytes to hold; it never grows.
    size_max: usize,
    /// Of the open batch.
    open_size: usize,
    is_open_incomplete: bool,
}

impl Notes {
    /// With room for so many bytes, which are touched here.
    pub(super) fn with_room(size: usize) -> Notes {
        let mut bytes = VecDeque::from(vec![0xFF; size]);
        bytes.clear();
        Notes { bytes, size_max: size, ..Notes::default() }
    }

    /// Notes a record of the open batch.
    pub(super) fn note(&mut self, header: &HeaderBytes, payload: &[u8]) {
        let size = HEADER_SIZE + payload.len();
        self.is_open_incomplete |= self.bytes.len() + size > self.size_max;
        if self.is_open_incomplete {
            return;
        }
        self.bytes.extend(header);
        self.bytes.extend(payload);
        self.open_size += size;
    }

    /// The open batch takes no more; the size of its notes, or `None` if some are missing, and so all of them are dropped.
    pub(super) fn close(&mut self) -> Option<u32> {
        let size = std::mem::take(&mut self.open_size);
        if std::mem::take(&mut self.is_open_incomplete) {
            self.bytes.truncate(self.bytes.len() - size);
            return None;
        }
        Some(size as u32)
    }

    /// Moves the notes of the oldest batch to the manifest of its segment.
    pub(super) fn hand_over(&mut self, size: Option<u32>, manifest: &mut Manifest) {
        manifest.count_batch();
        let Some(size) = size.map(|size| size as usize) else {
            manifest.is_incomplete = true;
            return;
        };
        if manifest.has_room(size) {
            let (front, back) = self.bytes.as_slices();
            let (front, back) = (&front[..front.len().min(size)], &back[..size.saturating_sub(front.len())]);
            manifest.bytes.extend_from_slice(front);
            manifest.bytes.extend_from_slice(back);
        }
        self.bytes.drain(..size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Epoch, Seq};
    use crate::clock::UnixMicros;

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
            received_at: UnixMicros(seq),
        }
    }

    /// The numbers of the frames that a manifest tells of; `None` if it is incomplete.
    fn frames(manifest: &Manifest) -> Option<Vec<u64>> {
        Some(manifest.records()?.map(|record| record.unwrap().0.seq.0).collect())
    }

    #[test]
    fn notes_become_the_manifest_of_whatever_segment_their_batch_goes_to() {
        // Room for ten headers: the queue goes round many times.
        let mut notes = Notes::with_room(10 * HEADER_SIZE);
        for count in 1..=50u64 {
            let mut manifest = Manifest::with_room(1024);
            manifest.begin(SegmentUuid([7; 16]), Lsn(99));
            manifest.note(&header(RecordKind::Call, 0, 5).encode(), b"facts");
            (1..=3).for_each(|seq| notes.note(&header(RecordKind::Audio, seq, 9_600).encode(), &[]));
            let first = notes.close();
            notes.note(&header(RecordKind::End, 4, 3).encode(), b"end");
            (5..=6).for_each(|seq| notes.note(&header(RecordKind::Audio, seq, 0).encode(), &[]));
            let second = notes.close();
            assert_eq!((first, second), (Some(192), Some(195)));
            notes.hand_over(first, &mut manifest);
            assert_eq!((frames(&manifest), manifest.batches()), (Some(vec![0, 1, 2, 3]), 1), "{count}");
            notes.hand_over(second, &mut manifest);
            assert_eq!((frames(&manifest), manifest.batches()), (Some(vec![0, 1, 2, 3, 4, 5, 6]), 2));
            let payloads: Vec<&[u8]> = manifest.records().unwrap().map(|record| record.unwrap().1).collect();
            assert_eq!(payloads, [&b"facts"[..], b"", b"", b"", b"end", b"", b""]);
            assert_eq!((manifest.segment(), manifest.start()), (SegmentUuid([7; 16]), Lsn(99)));
        }
    }

    #[test]
    fn what_has_no_room_makes_a_manifest_incomplete_and_never_wrong() {
        let note = |notes: &mut Notes, seq| notes.note(&header(RecordKind::Audio, seq, 9_600).encode(), &[]);
        let mut notes = Notes::with_room(3 * HEADER_SIZE);
        (1..=2).for_each(|seq| note(&mut notes, seq));
        let whole = notes.close();
        (3..=4).for_each(|seq| note(&mut notes, seq));
        let cut = notes.close();
        note(&mut notes, 5);
        let behind = notes.close();
        assert_eq!((whole, cut, behind), (Some(128), None, Some(64)), "the room of a batch that is cut is free again");

        let mut manifest = Manifest::with_room(1024);
        notes.hand_over(whole, &mut manifest);
        assert_eq!(frames(&manifest), Some(vec![1, 2]));
        notes.hand_over(cut, &mut manifest);
        assert_eq!(frames(&manifest), None);
        manifest.begin(SegmentUuid([8; 16]), Lsn(0));
        notes.hand_over(behind, &mut manifest);
        assert_eq!(frames(&manifest), Some(vec![5]), "the next segment is known again");

        // One without room for them: the notes go all the same.
        let mut small = Manifest::with_room(HEADER_SIZE);
        (6..=7).for_each(|seq| note(&mut notes, seq));
        let size = notes.close();
        notes.hand_over(size, &mut small);
        assert_eq!((frames(&small), notes.bytes.len()), (None, 0));
        assert_eq!(frames(&Manifest::default()), Some(vec![]));
    }

    #[test]
    fn a_manifest_in_bad_memory_says_so_and_ends() {
        let mut manifest = Manifest::with_room(1024);
        manifest.note(&header(RecordKind::Call, 0, 5).encode(), b"facts");
        manifest.note(&header(RecordKind::Audio, 1, 9_600).encode(), &[]);
        for at in 0..HEADER_SIZE {
            let mut bad = manifest.clone();
            bad.bytes[at] ^= 0x10;
            let records: Vec<_> = bad.records().unwrap().collect();
            assert!(records.len() == 1 && records[0].is_err(), "byte {at}: {records:?}");
        }
        manifest.bytes.truncate(HEADER_SIZE + 3);
        assert_eq!(manifest.records().unwrap().next(), Some(Err(FormatError::Truncated)));
    }
}
