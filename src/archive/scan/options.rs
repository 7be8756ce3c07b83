//! What a scan is asked for, and what it answers.

#![forbid(unsafe_code)]

use crate::clock::UnixMicros;
use crate::format::{FormatError, Lsn, RecordHeader};

/// What to search for, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanOptions {
    /// Only this call's records, by its number. Payloads of other calls are not checked.
    pub call: Option<u64>,
    /// The segment is being written. A bad batch is read once more, because it may be whole a
    /// moment later.
    pub is_live: bool,
    /// Do not search for sound batches after a bad one of a live segment: the bad one is its end so
    /// far ([`Advance::Pending`]).
    pub follows: bool,
    /// Give records without a check, even those with a bad payload.
    pub takes_unchecked: bool,
}

/// A segment with nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Allocated or recycled, and not begun: it holds nothing of this segment.
    Unbegun,
    /// Its header is bad, and no batch in it is sound.
    Lost(FormatError),
}

/// The result of [`SegmentScan::advance`](super::SegmentScan::advance).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// [`SegmentScan::records`](super::SegmentScan::records) has the records of a batch, or those
    /// found in bad batches. There may be none.
    Batch,
    /// Nothing more yet; ask again later. Only if [`ScanOptions::follows`] is set.
    Pending,
    /// The end of the segment.
    End,
}

/// A sound record.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload, checked unless the options say otherwise; zeros if it was erased.
    pub payload: &'a [u8],
    /// Its offset in the file, bytes.
    pub offset: u64,
    /// Its position in the shard's journal.
    pub(crate) lsn: Lsn,
}

/// Counts of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Sound batch headers.
    pub(crate) batches: u64,
    /// Records given.
    pub(crate) records: u64,
    /// Records found in bad batches.
    pub(crate) salvaged: u64,
    /// Number of the first batch; 0 before the first.
    pub(crate) first_batch: u64,
    /// Number of the last batch; 0 before the first.
    pub(crate) last_batch: u64,
    /// When the first batch was sealed, and when the last one was.
    pub(crate) sealed_at: (UnixMicros, UnixMicros),
    /// Bytes of bad batches that were not durable and have a sound batch after them. Known at the
    /// end.
    pub(crate) bytes_unsynced: u64,
    /// Some bad bytes were not durable: here, in a torn tail, or after the end that another segment
    /// states.
    pub is_lossy: bool,
}
