//! The batch header: see the [picture](super).

#![forbid(unsafe_code)]

use super::{FormatError, HEADER_SIZE, HeaderBytes, Lsn, SegmentUuid, field, set};
use crate::clock::UnixMicros;
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};

/// First bytes of every batch.
pub(crate) const MAGIC: [u8; 4] = *b"XBAT";

/// Version of the batch header.
pub(crate) const VERSION: u8 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 4;
const RESERVED: usize = 5;
const HEADER_SIZE_AT: usize = 6;
const SIZE: usize = 8;
const RECORD_COUNT: usize = 12;
const UNSYNCED: usize = 14;
const SEGMENT: usize = 16;
const NUMBER: usize = 32;
const LSN: usize = 40;
const SEALED_AT: usize = 48;
const RECORDS_CRC: usize = 56;
const HEADER_CRC: usize = 60;

const _: () = assert!(HEADER_CRC + 4 == HEADER_SIZE);
const _: () = assert!(BATCH_SIZE_MAX <= u32::MAX as usize);
// The most records that fit into a batch, each only a header, must be countable.
const _: () = assert!((BATCH_SIZE_MAX - HEADER_SIZE) / HEADER_SIZE <= u16::MAX as usize);

/// The number of blocks directly before a batch that no completed sync covered when the batch was
/// stamped.
///
/// It stays true as long as the batch exists, because durable bytes stay durable. It may only be
/// too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsynced(u16);

impl Unsynced {
    /// More blocks than fit into the field, or not counted.
    pub(crate) const UNKNOWN: Unsynced = Unsynced(u16::MAX);

    /// The value for a batch at `offset` of a segment whose first `durable` bytes are durable.
    pub(crate) fn at(offset: u64, durable: u64) -> Unsynced {
        // A block that is durable only in part counts as not durable.
        let blocks = offset.saturating_sub(durable).div_ceil(BLOCK_SIZE as u64);
        u16::try_from(blocks).map_or(Unsynced::UNKNOWN, Unsynced)
    }

    /// How many bytes at the start of the segment were durable, according to a batch at `offset`.
    /// `None` if the batch cannot tell.
    pub(crate) fn durable_end(self, offset: u64) -> Option<u64> {
        (self != Unsynced::UNKNOWN)
            .then(|| offset.saturating_sub(u64::from(self.0) * BLOCK_SIZE as u64))
    }
}

/// The header of a batch, without its own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of the batch, with this header and the pad: whole blocks.
    pub size: u32,
    /// Records, pads not counted.
    pub(crate) record_count: u16,
    /// What was durable of its segment when it was stamped; [`Unsynced::UNKNOWN`] until then.
    pub(crate) unsynced: Unsynced,
    /// The segment it was written to; zeros until then.
    pub segment: SegmentUuid,
    /// Counts the batches of a shard in a run, from 1; the same when it is written again.
    pub(crate) number: u64,
    /// Where in the shard's journal it was written; 0 until then.
    pub lsn: Lsn,
    /// When it was closed to new records.
    pub(crate) sealed_at: UnixMicros,
    /// Running CRC-32C over the header checksums of all records.
    pub(crate) records_crc: u32,
}

impl BatchHeader {
    /// Encodes the header, with its checksum.
    pub(crate) fn encode(&self) -> HeaderBytes {
        let mut bytes = [0; HEADER_SIZE];
        set(&mut bytes, MAGIC_AT, MAGIC);
        bytes[VERSION_AT] = VERSION;
        set(&mut bytes, HEADER_SIZE_AT, (HEADER_SIZE as u16).to_le_bytes());
        set(&mut bytes, SIZE, self.size.to_le_bytes());
        set(&mut bytes, RECORD_COUNT, self.record_count.to_le_bytes());
        set(&mut bytes, UNSYNCED, self.unsynced.0.to_le_bytes());
        set(&mut bytes, SEGMENT, self.segment.0);
        set(&mut bytes, NUMBER, self.number.to_le_bytes());
        set(&mut bytes, LSN, self.lsn.0.to_le_bytes());
        set(&mut bytes, SEALED_AT, self.sealed_at.0.to_le_bytes());
        set(&mut bytes, RECORDS_CRC, self.records_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..HEADER_CRC]);
        set(&mut bytes, HEADER_CRC, crc.to_le_bytes());
        bytes
    }

    /// Decodes a header. [`FormatError::Magic`] means that no batch starts here. Any other error
    /// means that a damaged one may start here.
    pub(crate) fn decode(bytes: &HeaderBytes) -> Result<BatchHeader, FormatError> {
        if field(bytes, MAGIC_AT) != MAGIC {
            return Err(FormatError::Magic);
        }
        if u32::from_le_bytes(field(bytes, HEADER_CRC)) != crc32c::crc32c(&bytes[..HEADER_CRC]) {
            return Err(FormatError::HeaderCrc);
        }
        if bytes[VERSION_AT] != VERSION {
            return Err(FormatError::Version(u16::from(bytes[VERSION_AT])));
        }
        if bytes[RESERVED] != 0 {
            return Err(FormatError::Reserved);
        }
        let header_size = u16::from_le_bytes(field(bytes, HEADER_SIZE_AT));
        if usize::from(header_size) != HEADER_SIZE {
            return Err(FormatError::Size(u64::from(header_size)));
        }
        let size = u32::from_le_bytes(field(bytes, SIZE));
        if size == 0
            || !(size as usize).is_multiple_of(BLOCK_SIZE)
            || size as usize > BATCH_SIZE_MAX
        {
            return Err(FormatError::Size(u64::from(size)));
        }
        Ok(BatchHeader {
            size,
            record_count: u16::from_le_bytes(field(bytes, RECORD_COUNT)),
            unsynced: Unsynced(u16::from_le_bytes(field(bytes, UNSYNCED))),
            segment: SegmentUuid(field(bytes, SEGMENT)),
            number: u64::from_le_bytes(field(bytes, NUMBER)),
            lsn: Lsn(u64::from_le_bytes(field(bytes, LSN))),
            sealed_at: UnixMicros(u64::from_le_bytes(field(bytes, SEALED_AT))),
            records_crc: u32::from_le_bytes(field(bytes, RECORDS_CRC)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            size: 0x0002_3000,
            record_count: 0x2221,
            unsynced: Unsynced(0x2423),
            segment: SegmentUuid(*b"0123456789abcdef"),
            number: 0x3837_3635_3433_3231,
            lsn: Lsn(0x4847_4645_4443_4241),
            sealed_at: UnixMicros(0x5857_5655_5453_5251),
            records_crc: 0x6463_6261,
        }
    }

    #[test]
    fn every_field_has_its_place() {
        let bytes = header().encode();
        let mut expected =
            b"XBAT\x01\0\x40\0\x00\x30\x02\x00\x21\x22\x23\x240123456789abcdef".to_vec();
        expected.extend([0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]);
        expected.extend([0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]);
        expected.extend([0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58]);
        expected.extend([0x61, 0x62, 0x63, 0x64]);
        assert_eq!(bytes[..60], expected);
        assert_eq!(bytes[60..], crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(BatchHeader::decode(&bytes), Ok(header()));
    }

    #[test]
    fn durable_blocks_are_counted_back_from_the_batch() {
        const MIB: u64 = 1024 * 1024;
        for (offset, durable, blocks) in [
            (4096, 0, 1),
            (4096, 4096, 0),
            (3 * MIB, MIB, 512),
            (256 * MIB - 8192, 0, 65_534),
            (300 * MIB, 44 * MIB + 8192, 65_534),
        ] {
            let unsynced = Unsynced::at(offset, durable);
            assert_eq!((unsynced, unsynced.durable_end(offset)), (Unsynced(blocks), Some(durable)));
        }
        for (offset, durable) in
            [(256 * MIB - 4096, 0), (1024 * MIB, 0), (300 * MIB, 44 * MIB + 4096)]
        {
            assert_eq!(Unsynced::at(offset, durable), Unsynced::UNKNOWN);
            assert_eq!(Unsynced::UNKNOWN.durable_end(offset), None);
        }
        // The value errs to less durable, never to more. No value in a file makes it overflow.
        assert_eq!(Unsynced::at(8192, 4097).durable_end(8192), Some(4096));
        assert_eq!(Unsynced(9).durable_end(8192), Some(0));
        assert_eq!(Unsynced::at(0, 4096), Unsynced(0));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 32 { FormatError::Magic } else { FormatError::HeaderCrc };
            assert_eq!(BatchHeader::decode(&damaged), Err(expected));
        }
        assert_eq!(BatchHeader::decode(&[0; 64]), Err(FormatError::Magic));
    }

    /// Changes bytes and corrects the checksum.
    fn forged<const N: usize>(at: usize, value: [u8; N]) -> Result<BatchHeader, FormatError> {
        let mut bytes = header().encode();
        set(&mut bytes, at, value);
        let crc = crc32c::crc32c(&bytes[..60]);
        set(&mut bytes, HEADER_CRC, crc.to_le_bytes());
        BatchHeader::decode(&bytes)
    }

    #[test]
    fn impossible_fields_are_named() {
        assert_eq!(forged(VERSION_AT, [9]), Err(FormatError::Version(9)));
        assert_eq!(forged(RESERVED, [1]), Err(FormatError::Reserved));
        assert_eq!(forged(HEADER_SIZE_AT, [0x80, 0]), Err(FormatError::Size(128)));
        for size in [0u32, 64, 4095, 4097, 1024 * 1024 + 4096, u32::MAX] {
            assert_eq!(forged(SIZE, size.to_le_bytes()), Err(FormatError::Size(u64::from(size))));
        }
    }
}
