//! Finds the records in a batch's bytes, and goes on behind damage.
//!
//! A sound batch is what [`super::batch::BatchReader`] says. Where it is not, records stand for themselves: each header has
//! a checksum and names its batch. Behind a bad header the next record is looked for: where the bad header says, if the
//! payload bears it out, else line by line. Audio that looks like a record of this batch could be taken for one there, and
//! the batch's own count of records tells: if more were found than it held, nothing behind the damage is believed.

#![forbid(unsafe_code)]

use super::format::record::chain_crc;
use super::format::{BatchHeader, FormatError, HEADER_SIZE, RecordHeader, RecordKind, record_size};
use crate::constants::RECORD_ALIGNMENT;

/// A record whose header is sound; its payload has not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Offset of its header in the bytes that were walked.
    pub offset: usize,
    pub header: RecordHeader,
}

/// Something that is not as it should be, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub offset: usize,
    pub fault: FormatError,
}

/// The records of a batch whose header is sound, pads left out. `bytes` is the batch, or what there is of it.
pub(super) fn walk(bytes: &[u8], batch: &BatchHeader, entries: &mut Vec<Entry>, spots: &mut Vec<Spot>) {
    let (first_entry, first_spot) = (entries.len(), spots.len());
    let mut entries_before = None;
    let (mut offset, mut records_crc, mut count) = (HEADER_SIZE, 0, 0u32);
    let end = batch.size as usize;
    while offset < end {
        match record_at(bytes, offset, |number| number == batch.number as u32) {
            Ok(header) => {
                let encoded = bytes[offset..].first_chunk().map_or(0, |encoded| header.chained_crc(encoded));
                records_crc = chain_crc(records_crc, encoded);
                if header.kind != RecordKind::Pad {
                    count += 1;
                    entries.push(Entry { offset, header });
                }
                offset += header.record_size();
            }
            Err(fault) => {
                spots.push(Spot { offset, fault });
                entries_before.get_or_insert(entries.len());
                offset = resume(bytes, offset, batch.number as u32).unwrap_or(end);
            }
        }
    }
    let bad = spots.len() - first_spot;
    if let Some(before) = entries_before {
        // Each bad header cost a record, unless it was the pad's, which is the last one.
        let last_entry = entries.last().map_or(0, |entry| entry.offset);
        let pads = usize::from(spots.last().is_some_and(|spot| spot.offset > last_entry));
        if entries.len() - first_entry + bad > usize::from(batch.record_count) + pads {
            entries.truncate(before);
        }
    } else if records_crc != batch.records_crc {
        spots.push(Spot { offset: 0, fault: FormatError::RecordsCrc });
    } else if count != u32::from(batch.record_count) {
        spots.push(Spot { offset: 0, fault: FormatError::RecordCount });
    }
}

/// The records in a stretch where a batch header is missing. `is_expected` knows the batch numbers (their low halves) that
/// may be there.
pub(super) fn sift(bytes: &[u8], is_expected: impl Fn(u32) -> bool, entries: &mut Vec<Entry>) {
    let mut offset = 0;
    while offset + HEADER_SIZE <= bytes.len() {
        match record_at(bytes, offset, &is_expected) {
            Ok(header) => {
                if header.kind != RecordKind::Pad {
                    entries.push(Entry { offset, header });
                }
                offset += header.record_size();
            }
            Err(_) => offset += RECORD_ALIGNMENT,
        }
    }
}

/// Where a walk goes on behind a bad header at `offset`.
fn resume(bytes: &[u8], offset: usize, number: u32) -> Option<usize> {
    // The length it says is believed where so many bytes have the checksum it says. None have that of zeros, too.
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let (crc, length) = (word(offset + 4)?, word(offset + 8)? as usize);
    let payload = bytes.get(offset + HEADER_SIZE..).and_then(|rest| rest.get(..length));
    if payload.is_some_and(|payload| !payload.is_empty() && crc32c::crc32c(payload) == crc) {
        return Some(offset + record_size(length));
    }
    let mut lines = (offset + RECORD_ALIGNMENT..bytes.len()).step_by(RECORD_ALIGNMENT);
    lines.find(|at| record_at(bytes, *at, |found| found == number).is_ok())
}

/// The record header at `offset`, if a whole record of an expected batch is there.
fn record_at(bytes: &[u8], offset: usize, is_expected: impl Fn(u32) -> bool) -> Result<RecordHeader, FormatError> {
    let rest = bytes.get(offset..).ok_or(FormatError::Truncated)?;
    let header = RecordHeader::decode(rest.first_chunk().ok_or(FormatError::Truncated)?)?;
    if !is_expected(header.batch) {
        return Err(FormatError::Batch);
    }
    if header.record_size() > rest.len() {
        return Err(FormatError::Truncated);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::image;

    /// A batch of five records, and where they are.
    fn batch() -> (Vec<u8>, BatchHeader, Vec<Entry>) {
        let bytes = image::batch(&[9_600, 0, 1, 64, 100]);
        let header = BatchHeader::decode(bytes.first_chunk().unwrap()).unwrap();
        let (mut entries, mut spots) = (Vec::new(), Vec::new());
        walk(&bytes, &header, &mut entries, &mut spots);
        assert_eq!((entries.len(), spots.len()), (5, 0));
        (bytes, header, entries)
    }

    #[test]
    fn one_bad_record_header_costs_one_record() {
        let (bytes, header, all) = batch();
        for (lost, entry) in all.iter().enumerate() {
            for at in 0..HEADER_SIZE {
                let mut bytes = bytes.clone();
                bytes[entry.offset + at] ^= 0x11;
                let (mut entries, mut spots) = (Vec::new(), Vec::new());
                walk(&bytes, &header, &mut entries, &mut spots);
                let mut expected = all.clone();
                expected.remove(lost);
                assert_eq!(entries, expected, "record {lost}, byte {at}");
                assert_eq!(spots, [Spot { offset: entry.offset, fault: FormatError::HeaderCrc }]);
            }
        }
    }

    #[test]
    fn audio_that_looks_like_a_record_is_not_believed() {
        let (mut bytes, header, all) = batch();
        let forged = RecordHeader { length: 64, ..all[3].header };
        let at = all[0].offset + HEADER_SIZE + 9_600 - 128;
        bytes[at..at + HEADER_SIZE].copy_from_slice(&forged.encode());
        bytes[all[0].offset + 9] ^= 0x7F; // the length: the next record has to be searched for
        let (mut entries, mut spots) = (Vec::new(), Vec::new());
        walk(&bytes, &header, &mut entries, &mut spots);
        assert_eq!((entries.len(), spots.len()), (0, 1), "six records were found in a batch of five");
    }

    #[test]
    fn a_stretch_without_a_batch_header_is_sifted() {
        let (mut bytes, header, all) = batch();
        bytes[..HEADER_SIZE].fill(0xA5);
        let mut entries = Vec::new();
        sift(&bytes, |number| number == header.number as u32, &mut entries);
        assert_eq!(entries, all);
        entries.clear();
        sift(&bytes, |number| number == header.number as u32 + 1, &mut entries);
        sift(&bytes[..40], |_| true, &mut entries);
        assert!(entries.is_empty());
    }
}
