//! Reads an index of version 1. It has no table and no places, and one checksum at its end.
//!
//! ```text
//!   0 as in version 2, up to the flags at 108
//! 112 entries as in version 2, without peer, places and checksums
//!   … zeros, up to the size of a larger index that was in the file before
//!   … u32 crc over everything before
//! ```

#![forbid(unsafe_code)]

use super::{Bytes, CallFacts, EpochIndex, HAS_END, HAS_FACTS, MAGIC, SegmentIndex};
use crate::format::payload::END_SIZE;
use crate::format::{EndRecord, FormatError};

/// Version of the file.
pub(super) const VERSION: u16 = 1;

/// Decodes a file's bytes.
pub(super) fn decode(bytes: &[u8]) -> Result<SegmentIndex, FormatError> {
    let (body, crc) = bytes.split_last_chunk().ok_or(FormatError::Truncated)?;
    let mut rest = Bytes(body);
    if rest.take()? != MAGIC {
        return Err(FormatError::Magic);
    }
    if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
        return Err(FormatError::HeaderCrc);
    }
    let version = rest.u16()?;
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let (shard, epoch_count) = (rest.u16()?, rest.u32()?);
    let mut index = SegmentIndex::read_header(shard, &mut rest)?;
    for _ in 0..epoch_count {
        let (mut call_epoch, flags) = EpochIndex::read(&mut rest)?;
        if flags & HAS_FACTS != 0 {
            call_epoch.facts = Some(CallFacts::read(&mut rest)?);
        }
        if flags & HAS_END != 0 {
            call_epoch.end = Some(EndRecord::decode(&rest.take::<END_SIZE>()?)?);
        }
        index.epochs.push(call_epoch);
    }
    let is_over = rest.0.iter().all(|byte| *byte == 0);
    if is_over { Ok(index) } else { Err(FormatError::Padding) }
}
