//! Reads one batch from its bytes and trusts none of them. The bytes may come from a ring or a
//! file.

#![forbid(unsafe_code)]

use super::record::chain_crc;
use super::{BatchHeader, FormatError, HEADER_SIZE, HeaderBytes, RecordHeader, RecordKind};

#[cfg(test)]
mod tests;

/// What is wrong with a batch, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the batch, bytes, of the header that shows the fault: the batch's or a record's.
    pub offset: usize,
    /// What is wrong there.
    pub(crate) fault: FormatError,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "at byte {} of the batch: {}", self.offset, self.fault)
    }
}

impl std::error::Error for Damage {}

/// A record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload, checked.
    pub payload: &'a [u8],
    /// Offset of its header in the batch, bytes.
    pub offset: usize,
}

/// The records of a batch, in order, pads left out.
///
/// [`BatchReader::open`] has checked all headers and their common checksum. So iteration can find
/// only a record with a wrong payload or padding, and it continues with the next record.
#[derive(Clone, Debug)]
pub struct BatchReader<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> BatchReader<'a> {
    /// The batch at the start of `bytes`; more bytes may follow it.
    pub fn open(bytes: &'a [u8]) -> Result<BatchReader<'a>, Damage> {
        let at_start = |fault| Damage { offset: 0, fault };
        let first = bytes.first_chunk::<HEADER_SIZE>().ok_or(at_start(FormatError::Truncated))?;
        let header = BatchHeader::decode(first).map_err(at_start)?;
        let bytes = bytes.get(..header.size as usize).ok_or(at_start(FormatError::Truncated))?;
        let (mut records_crc, mut record_count, mut offset) = (0, 0u32, HEADER_SIZE);
        while offset < bytes.len() {
            let (record, encoded) = record_at(bytes, offset, header.number)
                .map_err(|fault| Damage { offset, fault })?;
            records_crc = chain_crc(records_crc, record.chained_crc(encoded));
            record_count += u32::from(record.kind != RecordKind::Pad);
            offset += record.record_size();
        }
        if records_crc != header.records_crc {
            return Err(at_start(FormatError::RecordsCrc));
        }
        if record_count != u32::from(header.record_count) {
            return Err(at_start(FormatError::RecordCount));
        }
        Ok(BatchReader { header, bytes, offset: HEADER_SIZE })
    }

    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
}

impl<'a> Iterator for BatchReader<'a> {
    type Item = Result<Record<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.offset < self.bytes.len() {
            let offset = self.offset;
            let (header, _) = match record_at(self.bytes, offset, self.header.number) {
                Ok(found) => found,
                Err(fault) => {
                    // `open` found this header good. If the bytes ever change between two reads,
                    // stop here.
                    self.offset = self.bytes.len();
                    return Some(Err(Damage { offset, fault }));
                }
            };
            self.offset += header.record_size();
            let (payload, padding) =
                self.bytes[offset + HEADER_SIZE..self.offset].split_at(header.length as usize);
            if let Err(fault) = header.check_payload(payload) {
                return Some(Err(Damage { offset, fault }));
            }
            if padding.iter().any(|byte| *byte != 0) {
                return Some(Err(Damage { offset, fault: FormatError::Padding }));
            }
            if header.kind != RecordKind::Pad {
                return Some(Ok(Record { header, payload, offset }));
            }
        }
        None
    }
}

/// The record header at `offset` of the batch with this `number`: decoded, and as bytes. The whole
/// record lies within `bytes`.
fn record_at(
    bytes: &[u8],
    offset: usize,
    number: u64,
) -> Result<(RecordHeader, &HeaderBytes), FormatError> {
    let rest = bytes.get(offset..).ok_or(FormatError::Truncated)?;
    let encoded = rest.first_chunk::<HEADER_SIZE>().ok_or(FormatError::Truncated)?;
    let header = RecordHeader::decode(encoded)?;
    if header.record_size() > rest.len() {
        return Err(FormatError::Size(u64::from(header.length)));
    }
    if header.batch != number as u32 {
        return Err(FormatError::Batch);
    }
    Ok((header, encoded))
}
