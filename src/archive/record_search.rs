//! Finds the records in a batch's bytes, even after damage.
//!
//! [`crate::format::batch::BatchReader`] says whether a batch is sound. If it is not, each record
//! counts by itself: its header has a checksum and names its batch. After a bad header the next
//! record is searched for. The length in the bad header is used if the payload's checksum confirms
//! it. Otherwise the search goes line by line. There audio could look like a record of this batch.
//! The batch's count of records shows that: if more were found than it holds, no record after the
//! damage counts.

#![forbid(unsafe_code)]

use crate::constants::RECORD_ALIGNMENT;
use crate::format::record::chain_crc;
use crate::format::{BatchHeader, FormatError, HEADER_SIZE, RecordHeader, RecordKind, record_size};

/// A record with a sound header; its payload has not been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Offset of its header in the bytes that were searched.
    pub(crate) offset: usize,
    pub(crate) header: RecordHeader,
}

/// A fault, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Defect {
    pub(crate) offset: usize,
    pub(crate) fault: FormatError,
}

/// The records of a batch with a sound header, without pads. `bytes` is the batch, or as much of it
/// as there is.
pub(super) fn walk(
    bytes: &[u8],
    batch: &BatchHeader,
    entries: &mut Vec<Entry>,
    defects: &mut Vec<Defect>,
) {
    let (first_entry, first_defect) = (entries.len(), defects.len());
    let mut entries_before = None;
    let (mut offset, mut records_crc, mut count) = (HEADER_SIZE, 0, 0u32);
    let end = batch.size as usize;
    while offset < end {
        match record_at(bytes, offset, |number| number == batch.number as u32) {
            Ok(header) => {
                let encoded =
                    bytes[offset..].first_chunk().map_or(0, |encoded| header.chained_crc(encoded));
                records_crc = chain_crc(records_crc, encoded);
                if header.kind != RecordKind::Pad {
                    count += 1;
                    entries.push(Entry { offset, header });
                }
                offset += header.record_size();
            }
            Err(fault) => {
                defects.push(Defect { offset, fault });
                entries_before.get_or_insert(entries.len());
                offset = resume(bytes, offset, batch.number as u32).unwrap_or(end);
            }
        }
    }
    let bad = defects.len() - first_defect;
    if let Some(before) = entries_before {
        // Each bad header cost one record, except that of the pad, which is the last.
        let last_entry = entries.last().map_or(0, |entry| entry.offset);
        let pads = usize::from(defects.last().is_some_and(|defect| defect.offset > last_entry));
        if entries.len() - first_entry + bad > usize::from(batch.record_count) + pads {
            entries.truncate(before);
        }
    } else if records_crc != batch.records_crc {
        defects.push(Defect { offset: 0, fault: FormatError::RecordsCrc });
    } else if count != u32::from(batch.record_count) {
        defects.push(Defect { offset: 0, fault: FormatError::RecordCount });
    }
}

/// The records in a stretch without a batch header. `is_expected` accepts the batch numbers (their
/// low halves) that may be there.
pub(super) fn search(bytes: &[u8], is_expected: impl Fn(u32) -> bool, entries: &mut Vec<Entry>) {
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

/// Where a walk continues after a bad header at `offset`.
fn resume(bytes: &[u8], offset: usize, number: u32) -> Option<usize> {
    // Use the length in the header if its payload has the checksum in the header. An empty payload
    // does not count: zeros have that checksum too.
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
fn record_at(
    bytes: &[u8],
    offset: usize,
    is_expected: impl Fn(u32) -> bool,
) -> Result<RecordHeader, FormatError> {
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
    use crate::archive::image;

    /// A batch of five records, and their positions.
    fn batch() -> (Vec<u8>, BatchHeader, Vec<Entry>) {
        let bytes = image::batch(&[9_600, 0, 1, 64, 100]);
        let header = BatchHeader::decode(bytes.first_chunk().unwrap()).unwrap();
        let (mut entries, mut defects) = (Vec::new(), Vec::new());
        walk(&bytes, &header, &mut entries, &mut defects);
        assert_eq!((entries.len(), defects.len()), (5, 0));
        (bytes, header, entries)
    }

    #[test]
    fn one_bad_record_header_costs_one_record() {
        let (bytes, header, all) = batch();
        for (lost, entry) in all.iter().enumerate() {
            for at in 0..HEADER_SIZE {
                let mut bytes = bytes.clone();
                bytes[entry.offset + at] ^= 0x11;
                let (mut entries, mut defects) = (Vec::new(), Vec::new());
                walk(&bytes, &header, &mut entries, &mut defects);
                let mut expected = all.clone();
                expected.remove(lost);
                assert_eq!(entries, expected, "record {lost}, byte {at}");
                assert_eq!(
                    defects,
                    [Defect { offset: entry.offset, fault: FormatError::HeaderCrc }]
                );
            }
        }
    }

    #[test]
    fn audio_that_looks_like_a_record_is_not_believed() {
        let (mut bytes, header, all) = batch();
        let forged = RecordHeader { length: 64, ..all[3].header };
        let at = all[0].offset + HEADER_SIZE + 9_600 - 128;
        bytes[at..at + HEADER_SIZE].copy_from_slice(&forged.encode());
        // The length: the next record has to be searched for.
        bytes[all[0].offset + 9] ^= 0x7F;
        let (mut entries, mut defects) = (Vec::new(), Vec::new());
        walk(&bytes, &header, &mut entries, &mut defects);
        assert_eq!(
            (entries.len(), defects.len()),
            (0, 1),
            "the search found six records in a batch of five"
        );
    }

    #[test]
    fn a_stretch_without_a_batch_header_is_searched() {
        let (mut bytes, header, all) = batch();
        bytes[..HEADER_SIZE].fill(0xA5);
        let mut entries = Vec::new();
        search(&bytes, |number| number == header.number as u32, &mut entries);
        assert_eq!(entries, all);
        entries.clear();
        search(&bytes, |number| number == header.number as u32 + 1, &mut entries);
        search(&bytes[..40], |_| true, &mut entries);
        assert!(entries.is_empty());
    }
}
