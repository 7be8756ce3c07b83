//! The notes of a record: 16 bytes for a chunk of audio, and the whole of any other record.
//!
//! ```text
//!          bits 0..52            52..56   56..64    second half
//! chunk    epoch.micros          1        check     0..40 seq, 40..61 length, bit 61 LAST
//! offset   of the next chunk     2        check     0; only if the offset is not 0
//! time     0                     3        check     received_at of the chunks that follow
//! record   size of the record    4        check     0
//!          then header and payload as they are, zeros up to 16 bytes
//! batch    size of the batch     5        check     0
//! ```
//! A chunk names its call only by the microseconds of its epoch. Boot number and shard are the same
//! for all calls of a journal, and each call's record is in the same segment before its audio. A
//! chunk that does not fit into this form is noted as a record.
//!
//! The note of a batch follows those of its records, and is made once the batch is durable. Records
//! lie one after the other in a batch, and batches in a segment. So the notes tell where each
//! record is.
//!
//! The check finds every flipped bit. A header of 64 bytes has its own checksum.

#![forbid(unsafe_code)]

use crate::clock::UnixMicros;
use crate::format::{FormatError, HEADER_SIZE, HeaderBytes, RecordHeader};

/// Bytes of one note.
pub(super) const NOTE_SIZE: usize = 16;

/// One note, or a part of a longer one.
pub(super) type Note = [u8; NOTE_SIZE];

const CHUNK: u64 = 1;
const OFFSET: u64 = 2;
const TIME: u64 = 3;
const RECORD: u64 = 4;
const BATCH: u64 = 5;

const KIND_SHIFT: u32 = 52;
const CHECK_SHIFT: u32 = 56;
const LENGTH_SHIFT: u32 = 40;
const LAST_SHIFT: u32 = 61;

const FIRST_MAX: u64 = (1 << KIND_SHIFT) - 1;
const SEQ_MAX: u64 = (1 << LENGTH_SHIFT) - 1;
const LENGTH_MAX: u64 = (1 << (LAST_SHIFT - LENGTH_SHIFT)) - 1;

/// Odd, and without eight equal bits in a row. So each flipped bit changes the top byte of the
/// product.
const CHECK_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// The header fields of a chunk of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedChunk {
    /// Microseconds of its call's epoch.
    pub(crate) epoch_micros: u64,
    /// Its frame's number.
    pub(crate) seq: u64,
    /// Where it starts in the frame, bytes.
    pub(crate) offset: u64,
    /// Its size, bytes.
    pub(crate) length: u64,
    /// Whether it completes the frame.
    pub(crate) last: bool,
    /// When it arrived.
    pub(crate) received_at: UnixMicros,
}

/// A record that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted<'a> {
    /// A chunk of audio.
    Chunk(NotedChunk),
    /// Another record, with its payload. Or audio, without its payload.
    Record(RecordHeader, &'a [u8]),
    /// The end of a batch of this size, bytes. The records before it are its records.
    Batch(u64),
}

fn note(kind: u64, first: u64, second: u64) -> Note {
    let first = first | (kind << KIND_SHIFT);
    let first = first | (check(first, second) << CHECK_SHIFT);
    of_words([first, second])
}

/// A note as two numbers.
#[inline]
pub(super) fn words(note: &Note) -> [u64; 2] {
    let [first, second] = *note.as_chunks::<8>().0 else { return [0; 2] };
    [u64::from_le_bytes(first), u64::from_le_bytes(second)]
}

/// The note of two numbers.
pub(super) fn of_words([first, second]: [u64; 2]) -> Note {
    let mut bytes = [0; NOTE_SIZE];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

/// The check of a note, from its first half without the check, and its second half.
fn check(first: u64, second: u64) -> u64 {
    (first ^ second.rotate_left(29)).wrapping_mul(CHECK_FACTOR) >> CHECK_SHIFT
}

/// The note of a chunk; `None` if it does not fit into one.
#[inline]
pub(super) fn chunk(header: &RecordHeader) -> Option<Note> {
    let (micros, seq, length) = (header.epoch.micros, header.seq.0, u64::from(header.length));
    let fits = micros <= FIRST_MAX && seq <= SEQ_MAX && length <= LENGTH_MAX && !header.erased;
    fits.then(|| {
        note(CHUNK, micros, seq | (length << LENGTH_SHIFT) | (u64::from(header.last) << LAST_SHIFT))
    })
}

/// The note before a chunk that does not start its frame.
pub(super) fn offset(offset: u32) -> Note {
    note(OFFSET, u64::from(offset), 0)
}

/// The note before chunks that arrived at another time than those before them.
pub(super) fn time(received_at: UnixMicros) -> Note {
    note(TIME, 0, received_at.0)
}

/// The note after the records of a batch of `size` bytes.
pub(super) fn batch(size: usize) -> Note {
    note(BATCH, size as u64, 0)
}

/// Number of notes of a whole record.
pub(super) const fn record_count(payload_size: usize) -> usize {
    1 + (HEADER_SIZE + payload_size).div_ceil(NOTE_SIZE)
}

/// The notes of a whole record.
pub(super) fn record(header: &HeaderBytes, payload: &[u8]) -> impl Iterator<Item = Note> {
    let size = (HEADER_SIZE + payload.len()) as u64;
    let (header, _) = header.as_chunks::<NOTE_SIZE>();
    let padded = payload.chunks(NOTE_SIZE).map(|part| {
        let mut bytes = [0; NOTE_SIZE];
        bytes[..part.len()].copy_from_slice(part);
        bytes
    });
    std::iter::once(note(RECORD, size, 0)).chain(header.iter().copied()).chain(padded)
}

/// Iterates over the records in notes.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [Note],
    offset: u64,
    received_at: UnixMicros,
}

impl<'a> Records<'a> {
    pub(super) fn new(notes: &'a [Note]) -> Records<'a> {
        Records { rest: notes, offset: 0, received_at: UnixMicros(0) }
    }

    /// Splits off the next record, of `size` bytes.
    fn record(&mut self, size: usize) -> Result<Noted<'a>, FormatError> {
        let (notes, rest) =
            self.rest.split_at_checked(size.div_ceil(NOTE_SIZE)).ok_or(FormatError::Truncated)?;
        self.rest = rest;
        let bytes = notes.as_flattened().get(..size).ok_or(FormatError::Truncated)?;
        let (header, payload) =
            bytes.split_first_chunk::<HEADER_SIZE>().ok_or(FormatError::Truncated)?;
        Ok(Noted::Record(RecordHeader::decode(header)?, payload))
    }

    /// The next record; `None` at the end.
    fn read(&mut self) -> Option<Result<Noted<'a>, FormatError>> {
        loop {
            let (bytes, rest) = self.rest.split_first()?;
            self.rest = rest;
            let [first, second] = words(bytes);
            let plain = first & ((1 << CHECK_SHIFT) - 1);
            if first >> CHECK_SHIFT != check(plain, second) {
                return Some(Err(FormatError::HeaderCrc));
            }
            let value = plain & FIRST_MAX;
            match plain >> KIND_SHIFT {
                CHUNK => {
                    return Some(Ok(Noted::Chunk(NotedChunk {
                        epoch_micros: value,
                        seq: second & SEQ_MAX,
                        offset: std::mem::take(&mut self.offset),
                        length: (second >> LENGTH_SHIFT) & LENGTH_MAX,
                        last: second >> LAST_SHIFT != 0,
                        received_at: self.received_at,
                    })));
                }
                OFFSET => self.offset = value,
                TIME => self.received_at = UnixMicros(second),
                RECORD => return Some(self.record(value as usize)),
                BATCH => return Some(Ok(Noted::Batch(value))),
                kind => return Some(Err(FormatError::Kind(kind as u8))),
            }
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Noted<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read();
        if let Some(Err(_)) = next {
            // Memory has failed: what follows cannot be decoded.
            self.rest = &[];
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Epoch, Seq};
    use crate::format::RecordKind;

    fn header(micros: u64, seq: u64, length: u32, offset: u32) -> RecordHeader {
        RecordHeader {
            payload_crc: 7,
            length,
            kind: RecordKind::Audio,
            last: seq.is_multiple_of(2),
            erased: false,
            call: 42,
            epoch: Epoch { boot: 1, micros, shard: 3 },
            seq: Seq(seq),
            offset,
            batch: 9,
            received_at: UnixMicros(u64::MAX),
        }
    }

    #[test]
    fn chunks_read_back_as_they_were_noted() {
        for (micros, seq, length) in
            [(0, 0, 0), (1, 2, 320), (FIRST_MAX, SEQ_MAX, LENGTH_MAX as u32)]
        {
            let header = header(micros, seq, length, u32::MAX);
            let notes = [
                time(header.received_at),
                offset(header.offset),
                chunk(&header).unwrap(),
                chunk(&header).unwrap(),
            ];
            let expected = |offset| {
                let (length, last) = (u64::from(length), header.last);
                Ok(Noted::Chunk(NotedChunk {
                    epoch_micros: micros,
                    seq,
                    offset,
                    length,
                    last,
                    received_at: UnixMicros(u64::MAX),
                }))
            };
            let read: Vec<_> = Records::new(&notes).collect();
            assert_eq!(
                read,
                [expected(u64::from(u32::MAX)), expected(0)],
                "an offset belongs to one chunk"
            );
        }
        let beyond = [
            header(FIRST_MAX + 1, 1, 1, 0),
            header(1, SEQ_MAX + 1, 1, 0),
            header(1, 1, LENGTH_MAX as u32 + 1, 0),
        ];
        assert!(beyond.iter().all(|header| chunk(header).is_none()));
    }

    #[test]
    fn records_keep_header_and_payload() {
        for size in [0, 1, 15, 16, 17, 500] {
            let (header, payload) = (header(u64::MAX, u64::MAX, 9_600, 0), vec![0xEE; size]);
            let notes: Vec<Note> = record(&header.encode(), &payload).chain([offset(7)]).collect();
            assert_eq!(notes.len(), record_count(size) + 1);
            let read: Vec<_> = Records::new(&notes).collect();
            assert_eq!(read, [Ok(Noted::Record(header, &payload[..]))]);
            let cut: Vec<_> = Records::new(&notes[..record_count(size) - 1]).collect();
            assert_eq!(cut, [Err(FormatError::Truncated)]);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_ends_the_reading() {
        for seed in 1..500u64 {
            let micros = seed.wrapping_mul(CHECK_FACTOR) & FIRST_MAX;
            let header = header(micros, seed * 7, seed as u32 * 13, 0);
            let good = [
                chunk(&header).unwrap(),
                time(UnixMicros(micros)),
                offset(seed as u32),
                batch(seed as usize * 4096),
                chunk(&header).unwrap(),
            ];
            for at in 0..4 {
                for bit in 0..8 * NOTE_SIZE {
                    let mut bad = good;
                    bad[at][bit / 8] ^= 1 << (bit % 8);
                    let read: Vec<_> = Records::new(&bad).collect();
                    assert!(
                        read.len() == 1 + usize::from(at > 0) && read.last().unwrap().is_err(),
                        "{seed} {at} {bit}"
                    );
                }
            }
        }
    }
}
