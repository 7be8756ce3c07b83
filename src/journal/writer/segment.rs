//! The segment that is being written, and the messages between the writer and the part that
//! prepares its files.

#![forbid(unsafe_code)]

use crate::call::Epoch;
use crate::clock::{Moment, UnixMicros};
use crate::format::{Lsn, SegmentHeader, SegmentUuid, Unsynced, segment};
use crate::io::FileHandle;
use crate::journal::frame_ring::{FrameRing, RecordHeaders, SealedBatch};

/// A file that is allocated and locked, and whose name is durable. Nothing of this use has been
/// written to it.
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
    /// Space for notes about its contents.
    pub headers: RecordHeaders,
}

/// A request of the writer to the part that prepares its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentRequest {
    /// Prepare one more segment.
    Prepare,
    /// Nothing more will be written to this segment.
    Retire {
        /// Its number.
        id: u64,
        /// Bytes in it that count: the header and durable batches.
        size: u64,
        /// A write or sync of it failed. Everything beyond `size` is written again, to later
        /// segments.
        is_fenced: bool,
        /// Its contents, unless it is fenced.
        headers: RecordHeaders,
    },
    /// Everything that the shard had received when it was asked to seal is in retired segments.
    Sealed,
}

/// How much of a segment's start is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The header is next, followed by call records.
    Header,
    /// More call records are next: those after this epoch.
    Calls(Epoch),
    /// Batches follow.
    Batches,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) prepared: PreparedSegment,
    /// When it was begun, and the same as journal time.
    pub(super) opened_at: Moment,
    created_at: UnixMicros,
    pub(super) stage: Stage,
    /// Position of its first byte.
    pub(super) start: Lsn,
    /// Where the next write goes, bytes. All writes under way end before it.
    pub(super) offset: u64,
    /// Everything before this offset is written, without a hole, bytes.
    pub(super) written: u64,
    /// Everything before this offset is durable, bytes.
    pub(super) durable: u64,
    /// It holds a batch of the ring.
    pub(super) has_batch: bool,
    /// It takes no further batch: it is old enough, or is to be sealed.
    pub(super) is_closing: bool,
    /// A write or sync failed: no further operation uses it.
    pub(super) is_fenced: bool,
}

impl OpenSegment {
    pub(super) fn new(
        mut prepared: PreparedSegment,
        start: Lsn,
        (opened_at, created_at): (Moment, UnixMicros),
    ) -> Self {
        prepared.headers.begin(prepared.uuid, start);
        let (offset, written, durable) = (0, 0, 0);
        OpenSegment {
            prepared,
            opened_at,
            created_at,
            stage: Stage::Header,
            start,
            offset,
            written,
            durable,
            has_batch: false,
            is_closing: false,
            is_fenced: false,
        }
    }

    /// Position of the next write.
    pub(super) fn lsn(&self) -> Lsn {
        Lsn(self.start.0 + self.offset)
    }

    /// Position up to which the segment is durable.
    pub(super) fn durable_end(&self) -> Lsn {
        Lsn(self.start.0 + self.durable)
    }

    /// Whether a batch of `size` bytes fits. The first batch always does: the file grows, or no
    /// segment would ever be large enough.
    pub(super) fn takes(&self, size: usize) -> bool {
        !self.has_batch || (!self.is_closing && self.offset + size as u64 <= self.prepared.size)
    }

    /// From now on it takes no further batch, if it has any.
    pub(super) fn close(&mut self) {
        self.is_closing |= self.has_batch;
    }

    pub(super) fn header(
        &self,
        (shard, run): (u16, u64),
        (predecessor, predecessor_end): (SegmentUuid, Lsn),
    ) -> SegmentHeader {
        SegmentHeader {
            version: segment::VERSION,
            shard,
            run,
            id: self.prepared.id,
            uuid: self.prepared.uuid,
            predecessor,
            predecessor_end,
            start: self.start,
            size: self.prepared.size,
            created_at: self.created_at,
        }
    }

    /// Stamps the first of `batches`, and those that follow it in the ring and fit into the
    /// segment, up to `size_max` bytes. Returns their number and size.
    pub(super) fn stamp_run<'a>(
        &self,
        batches: impl Iterator<Item = &'a SealedBatch>,
        size_max: usize,
        ring: &mut FrameRing,
    ) -> (usize, usize) {
        let (mut count, mut size, mut next) = (0, 0, None);
        for batch in batches {
            let goes_in = size + batch.size <= size_max
                && self.offset + (size + batch.size) as u64 <= self.prepared.size;
            if next.is_some_and(|next| next != ring.batch_offset(batch) || !goes_in) {
                break;
            }
            let offset = self.offset + size as u64;
            ring.stamp(
                batch,
                self.prepared.uuid,
                Lsn(self.start.0 + offset),
                Unsynced::at(offset, self.durable),
            );
            size += batch.size;
            count += 1;
            next = Some(ring.batch_offset(batch) + batch.size);
        }
        (count, size)
    }
}
