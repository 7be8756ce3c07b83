//! The segment header: one block at the start of a segment file.
//!
//! ```text
//!   0  [u8;8] magic        "XSEGMENT"
//!   8  u16 version         2; 1 is read too
//!  10  u16 shard           the shard that writes it
//!  12  u32 header_size     4,096
//!  16  u64 run             the run's number: one process on one data directory
//!  24  u64 id              counts the segments of a shard in a run, from 1
//!  32  [u8;16] uuid        of the segment; in version 1, of this use of the file
//!  48  [u8;16] predecessor uuid of the last segment before with durable data; zeros: none
//!  64  u64 predecessor_end lsn of its end: its bytes from there on do not count; 0: none
//!  72  u64 start           lsn of this header's first byte
//!  80  u64 size            of the file as it was allocated, bytes
//!  88  u64 created_at      journal time when it was begun; in version 1, Unix time when its file
//!                         was made; microseconds
//!  96  zeros
//! 4092 u32 header_crc      over bytes 0..4092
//! ```
//! In version 2 the file was never another segment: after its last batch there are only zeros. In
//! version 1 it may have been [recycled](super#what-a-recycled-segment-holds).
//!
//! `predecessor_end` fences a segment whose sync failed. The writer wrote its batches from there on
//! again, into this segment. A segment between the two was abandoned before any of it was durable.
//! Nothing in it counts.

#![forbid(unsafe_code)]

use super::{FormatError, Lsn, SegmentUuid, field, set};
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"XSEGMENT";

/// Version of the segment headers that are written.
pub(crate) const VERSION: u16 = 2;

/// The first version, in which a file may have held another segment before.
pub(crate) const VERSION_1: u16 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const SHARD: usize = 10;
const HEADER_SIZE: usize = 12;
const RUN: usize = 16;
const ID: usize = 24;
const UUID: usize = 32;
const PREDECESSOR: usize = 48;
const PREDECESSOR_END: usize = 64;
const START: usize = 72;
const SIZE: usize = 80;
const CREATED_AT: usize = 88;
const RESERVED: usize = 96;
const HEADER_CRC: usize = BLOCK_SIZE - 4;

/// The header of a segment, without its own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its version: [`VERSION`], or an older one that is still read.
    pub(crate) version: u16,
    /// The shard that writes this segment.
    pub(crate) shard: u16,
    /// The run that this segment belongs to.
    pub run: u64,
    /// Counts the segments of a shard in a run, from 1.
    pub id: u64,
    /// Names this use of the file.
    pub uuid: SegmentUuid,
    /// The last segment before this one with durable data; zeros if there is none.
    pub(crate) predecessor: SegmentUuid,
    /// Where that segment ended.
    pub(crate) predecessor_end: Lsn,
    /// Position of the header's first byte.
    pub start: Lsn,
    /// Bytes of the file as it was allocated.
    pub(crate) size: u64,
    /// When it was begun, journal time. In version 1: when its file was made, Unix time.
    pub(crate) created_at: UnixMicros,
}

impl SegmentHeader {
    /// Whether its file may have held another segment before. Parts of that may still be there.
    pub(crate) fn may_be_recycled(&self) -> bool {
        self.version == VERSION_1
    }

    /// Encodes the header as a block, with its checksum.
    pub(crate) fn encode(&self, block: &mut [u8; BLOCK_SIZE]) {
        block.fill(0);
        set(block, MAGIC_AT, MAGIC);
        set(block, VERSION_AT, self.version.to_le_bytes());
        set(block, SHARD, self.shard.to_le_bytes());
        set(block, HEADER_SIZE, (BLOCK_SIZE as u32).to_le_bytes());
        set(block, RUN, self.run.to_le_bytes());
        set(block, ID, self.id.to_le_bytes());
        set(block, UUID, self.uuid.0);
        set(block, PREDECESSOR, self.predecessor.0);
        set(block, PREDECESSOR_END, self.predecessor_end.0.to_le_bytes());
        set(block, START, self.start.0.to_le_bytes());
        set(block, SIZE, self.size.to_le_bytes());
        set(block, CREATED_AT, self.created_at.0.to_le_bytes());
        let crc = crc32c::crc32c(&block[..HEADER_CRC]);
        set(block, HEADER_CRC, crc.to_le_bytes());
    }

    /// Decodes a block. [`FormatError::Magic`] means that this is no segment. Any other error means
    /// that it may be a damaged one.
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> Result<SegmentHeader, FormatError> {
        if field(block, MAGIC_AT) != MAGIC {
            return Err(FormatError::Magic);
        }
        if u32::from_le_bytes(field(block, HEADER_CRC)) != crc32c::crc32c(&block[..HEADER_CRC]) {
            return Err(FormatError::HeaderCrc);
        }
        let version = u16::from_le_bytes(field(block, VERSION_AT));
        if !(VERSION_1..=VERSION).contains(&version) {
            return Err(FormatError::Version(version));
        }
        let header_size = u32::from_le_bytes(field(block, HEADER_SIZE));
        if header_size as usize != BLOCK_SIZE {
            return Err(FormatError::Size(u64::from(header_size)));
        }
        if block[RESERVED..HEADER_CRC].iter().any(|byte| *byte != 0) {
            return Err(FormatError::Reserved);
        }
        Ok(SegmentHeader {
            version,
            shard: u16::from_le_bytes(field(block, SHARD)),
            run: u64::from_le_bytes(field(block, RUN)),
            id: u64::from_le_bytes(field(block, ID)),
            uuid: SegmentUuid(field(block, UUID)),
            predecessor: SegmentUuid(field(block, PREDECESSOR)),
            predecessor_end: Lsn(u64::from_le_bytes(field(block, PREDECESSOR_END))),
            start: Lsn(u64::from_le_bytes(field(block, START))),
            size: u64::from_le_bytes(field(block, SIZE)),
            created_at: UnixMicros(u64::from_le_bytes(field(block, CREATED_AT))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            version: VERSION,
            shard: 0x1211,
            run: 0x2827_2625_2423_2221,
            id: 0x3837_3635_3433_3231,
            uuid: SegmentUuid(*b"0123456789abcdef"),
            predecessor: SegmentUuid(*b"ABCDEFGHIJKLMNOP"),
            predecessor_end: Lsn(0x4847_4645_4443_4241),
            start: Lsn(0x5857_5655_5453_5251),
            size: 0x6867_6665_6463_6261,
            created_at: UnixMicros(0x7877_7675_7473_7271),
        }
    }

    fn block() -> [u8; BLOCK_SIZE] {
        let mut block = [0xEE; BLOCK_SIZE];
        header().encode(&mut block);
        block
    }

    #[test]
    fn every_field_has_its_place() {
        let block = block();
        let mut expected = b"XSEGMENT\x02\0\x11\x12\0\x10\0\0".to_vec();
        expected.extend(0x21..=0x28);
        expected.extend(0x31..=0x38);
        expected.extend(b"0123456789abcdefABCDEFGHIJKLMNOP");
        for start in [0x41, 0x51, 0x61, 0x71] {
            expected.extend(start..start + 8);
        }
        expected.resize(4092, 0);
        assert!(block[..4092] == expected);
        assert_eq!(block[4092..], crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
    }

    #[test]
    fn the_first_version_is_read_and_later_ones_are_not() {
        let mut block = [0; BLOCK_SIZE];
        for (version, is_read) in [(0, false), (1, true), (2, true), (3, false)] {
            let header = SegmentHeader { version, ..header() };
            header.encode(&mut block);
            let expected = if is_read { Ok(header) } else { Err(FormatError::Version(version)) };
            assert_eq!(SegmentHeader::decode(&block), expected);
            assert_eq!(header.may_be_recycled(), version == 1);
        }
    }

    #[test]
    fn damage_anywhere_in_the_block_is_noticed() {
        for at in 0..BLOCK_SIZE {
            let mut damaged = block();
            damaged[at] ^= 0x40;
            let expected = if at < 8 { FormatError::Magic } else { FormatError::HeaderCrc };
            assert_eq!(SegmentHeader::decode(&damaged), Err(expected));
        }
    }

    #[test]
    fn impossible_fields_are_named() {
        for (at, fault) in [
            (VERSION_AT, FormatError::Version(0xFF)),
            (HEADER_SIZE, FormatError::Size(0x10FF)),
            (RESERVED, FormatError::Reserved),
            (HEADER_CRC - 1, FormatError::Reserved),
        ] {
            let mut forged = block();
            forged[at] = 0xFF;
            let crc = crc32c::crc32c(&forged[..HEADER_CRC]);
            set(&mut forged, HEADER_CRC, crc.to_le_bytes());
            assert_eq!(SegmentHeader::decode(&forged), Err(fault));
        }
    }
}
