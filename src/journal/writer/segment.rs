//! The segment that is being written, and what passes between the writer and whoever prepares its files.

#![forbid(unsafe_code)]

use super::WRITE_SIZE_MAX;
use crate::call::Epoch;
use crate::clock::UnixMicros;
use crate::frame_ring::{FrameRing, Manifest, SealedBatch};
use crate::io::FileHandle;
use crate::journal::format::{Lsn, SegmentHeader, SegmentUuid, Unsynced};

/// A file that is allocated, locked, and durable by name: nothing of this use has been written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedSegment {
    /// Counts the segments of the shard in this run, from 1.
    pub id: u64,
    /// Names this use of the file.
    pub uuid: SegmentUuid,
    /// The file, open until it is retired.
    pub file: FileHandle,
    /// Bytes allocated: whole blocks.
    pub size: u64,
    /// When it was made.
    pub created_at: UnixMicros,
    /// Room to note in what is written to it.
    pub manifest: Manifest,
}

/// What the writer wants done by whoever prepares its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentRequest {
    /// One more segment.
    Prepare,
    /// Nothing more is written to this one.
    Retire {
        /// Which.
        id: u64,
        /// What is in it and counts, bytes: header and batches that are durable.
        size: u64,
        /// A write or sync of it failed: what it held beyond `size` comes again in the segments behind it.
        is_fenced: bool,
        /// What is in it, unless it is fenced.
        manifest: Manifest,
    },
}

/// How far a segment has been begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its header is to be written, with call records behind it.
    Header,
    /// More call records are to be written: those behind this epoch.
    Calls(Epoch),
    /// Batches follow.
    Batches,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) prepared: PreparedSegment,
    pub(super) stage: Stage,
    /// Position of its first byte.
    pub(super) start: Lsn,
    /// Where the next write goes, bytes. A write under way is before it.
    pub(super) offset: u64,
    /// Everything before it has been written, bytes.
    pub(super) written: u64,
    /// Everything before it is durable, bytes.
    pub(super) durable: u64,
    /// It holds a batch of the ring.
    pub(super) has_batch: bool,
    /// A write or sync failed: nothing more is done to it.
    pub(super) is_fenced: bool,
}

impl OpenSegment {
    pub(super) fn new(mut prepared: PreparedSegment, start: Lsn) -> Self {
        prepared.manifest.begin(prepared.uuid, start);
        let (offset, written, durable) = (0, 0, 0);
        OpenSegment { prepared, stage: Stage::Header, start, offset, written, durable, has_batch: false, is_fenced: false }
    }

    /// Position of the next write.
    pub(super) fn lsn(&self) -> Lsn {
        Lsn(self.start.0 + self.offset)
    }

    /// Position up to which it is durable.
    pub(super) fn durable_end(&self) -> Lsn {
        Lsn(self.start.0 + self.durable)
    }

    /// Whether a batch of `size` bytes still goes into it. Its first one always does: the file then grows, rather than that
    /// no segment would ever be large enough.
    pub(super) fn takes(&self, size: usize) -> bool {
        !self.has_batch || self.offset + size as u64 <= self.prepared.size
    }

    pub(super) fn header(
        &self,
        (shard, run): (u16, u64),
        (predecessor, predecessor_end): (SegmentUuid, Lsn),
    ) -> SegmentHeader {
        SegmentHeader {
            shard,
            run,
            id: self.prepared.id,
            uuid: self.prepared.uuid,
            predecessor,
            predecessor_end,
            start: self.start,
            size: self.prepared.size,
            created_at: self.prepared.created_at,
        }
    }

    /// Stamps the first of `batches`, and those that lie behind it in the ring and go into the segment as well, up to the
    /// largest write; returns their number and size.
    pub(super) fn stamp_run<'a>(
        &self,
        batches: impl Iterator<Item = &'a SealedBatch>,
        ring: &mut FrameRing,
    ) -> (usize, usize) {
        let (mut count, mut size, mut next) = (0, 0, None);
        for batch in batches {
            let goes_in =
                size + batch.size <= WRITE_SIZE_MAX && self.offset + (size + batch.size) as u64 <= self.prepared.size;
            if next.is_some_and(|next| next != ring.batch_offset(batch) || !goes_in) {
                break;
            }
            let offset = self.offset + size as u64;
            ring.stamp(batch, self.prepared.uuid, Lsn(self.start.0 + offset), Unsynced::at(offset, self.durable));
            size += batch.size;
            count += 1;
            next = Some(ring.batch_offset(batch) + batch.size);
        }
        (count, size)
    }
}
