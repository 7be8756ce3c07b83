//! The header of an index, and where the other parts are.

#![forbid(unsafe_code)]

use super::table::{Block, CRC_AT, Fences, Table, block_count};
use super::{Bytes, FENCES_AT, FILE_SIZE_MAX, LIVE_MAGIC, ROW_SIZE, SegmentIndex, VERSION, seed};
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;
use crate::format::FormatError;
use std::ops::Range;

/// The header of an index.
#[derive(Debug)]
pub(super) struct Header {
    /// The index, with no epochs yet.
    pub(super) index: SegmentIndex,
    pub(super) table: Table<ROW_SIZE>,
    entries_size: u64,
    places_size: u64,
    /// It is that of a live index: see [`live`](super::live). Its sizes are offsets in the file.
    pub(super) is_live: bool,
}

impl Header {
    pub(super) fn decode(block: &Block, magic: [u8; 8]) -> Result<Header, FormatError> {
        let mut rest = Bytes(&block[..CRC_AT]);
        if rest.take()? != magic {
            return Err(FormatError::Magic);
        }
        if block[CRC_AT..] != crc32c::crc32c(&block[..CRC_AT]).to_le_bytes() {
            return Err(FormatError::HeaderCrc);
        }
        let version = rest.u16()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let (shard, epoch_count) = (rest.u16()?, u64::from(rest.u32()?));
        let index = SegmentIndex::read_header(shard, &mut rest)?;
        let index = SegmentIndex { ended_at: UnixMicros(rest.u64()?), ..index };
        let (entries_size, places_size) = (rest.u64()?, rest.u64()?);
        let fences =
            Fences::decode(&block[FENCES_AT..CRC_AT], block_count::<ROW_SIZE>(epoch_count))?;
        let table = Table { row_count: epoch_count, seed: seed(index.uuid), fences };
        let is_live = magic == LIVE_MAGIC;
        let header = Header { index, table, entries_size, places_size, is_live };
        let is_possible = entries_size.max(places_size) <= FILE_SIZE_MAX;
        if is_possible { Ok(header) } else { Err(FormatError::Size(entries_size)) }
    }

    /// Where the table starts, bytes in the file.
    pub(super) fn table_at(&self) -> u64 {
        if self.is_live { self.entries_size } else { BLOCK_SIZE as u64 }
    }

    /// The bytes of the file that the places of entries count from, and where they end.
    pub(super) fn entries(&self) -> Range<u64> {
        if self.is_live {
            return 0..self.places_size;
        }
        let start = (1 + self.table.block_count()) * BLOCK_SIZE as u64;
        start..start + self.entries_size
    }

    /// The same for the places of records.
    pub(super) fn places(&self) -> Range<u64> {
        if self.is_live {
            return 0..self.places_size;
        }
        let start = self.entries().end;
        start..start + self.places_size
    }
}
