//! The bytes that a scan has just passed, for callers that copy whole batches.

#![forbid(unsafe_code)]

use super::{SegmentScan, Source};
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;
use crate::format::BatchHeader;

/// A stretch of a segment: a batch, or bytes without a sound batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Where it starts, offset in the file: a multiple of the block size.
    pub offset: u64,
    /// Its bytes as they are in the file. If the file was cut, they end before the batch does.
    pub bytes: &'a [u8],
    /// When the batch was closed to new records; `None` if there is no sound batch header.
    pub sealed_at: Option<UnixMicros>,
    /// Whether everything in it is sound. If not, some records in it may be.
    pub is_sound: bool,
}

impl<S: Source> SegmentScan<S> {
    /// Whether the segment is being written.
    pub(crate) fn is_live(&self) -> bool {
        self.options.is_live
    }

    /// The bytes of the last [`SegmentScan::advance`]. Of a torn tail, those up to its last sound
    /// record.
    pub fn piece(&self) -> Piece<'_> {
        let held = self.window.held_bytes(self.base);
        let size = match self.is_finished {
            true => self.entries.last().map_or(0, |entry| {
                (entry.offset + entry.header.record_size()).next_multiple_of(BLOCK_SIZE)
            }),
            false => usize::try_from(self.offset - self.base).unwrap_or(usize::MAX),
        };
        let bytes = &held[..held.len().min(size)];
        let batch = held.first_chunk().and_then(|header| BatchHeader::decode(header).ok());
        let batch = batch.filter(|batch| {
            !self.is_finished && batch.segment == self.uuid && u64::from(batch.size) == size as u64
        });
        let range = self.base..self.base + size as u64;
        let has_fault = self.pending.iter().any(|suspect| suspect.batch.start == self.base)
            || self.damages.iter().any(|damage| range.contains(&damage.offset));
        Piece {
            offset: self.base,
            bytes,
            sealed_at: batch.map(|batch| batch.sealed_at),
            is_sound: batch.is_some() && bytes.len() == size && !has_fault,
        }
    }
}
