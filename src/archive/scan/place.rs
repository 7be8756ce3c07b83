//! Where a segment belongs, by its path and its neighbours, and by its first sound batch if its
//! header is bad.

#![forbid(unsafe_code)]

use crate::archive::layout::RunName;
use crate::archive::source::{Source, Window};
use crate::constants::BLOCK_SIZE;
use crate::format::{BatchHeader, HEADER_SIZE, Lsn, RecordHeader, SegmentUuid};
use std::io;

/// What a segment's path and its neighbours say about it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The run its directory belongs to.
    pub run: RunName,
    /// The shard its directory belongs to.
    pub shard: u16,
    /// The number in its name.
    pub id: u64,
    /// Where the segment before starts; this one starts later.
    pub after: Option<Lsn>,
    /// Where it ended, as the next segment says.
    pub end: Option<Lsn>,
    /// No file of its run was another segment before, so all batches in it are its own.
    pub is_fresh: bool,
}

/// What the header of a segment said, according to its first sound batch. Used when the header is
/// bad.
///
/// The time in a batch proves nothing: a wall clock may be set back while a run goes on.
///
/// A file of version 1 may also hold sound batches of its earlier use, if its new header never
/// reached the disk. The place of a segment's first batch was zeroed before the file got its name.
/// So a batch at that place belongs to this use. Batches further on need a proof: see
/// [`is_at_home`].
///
/// After a `blank` header only that one place is read. Nearly always the file was only allocated.
pub(super) fn infer<S: Source>(
    window: &mut Window<S>,
    place: &Place,
    blank: bool,
) -> io::Result<Option<(SegmentUuid, Lsn)>> {
    let first = BLOCK_SIZE as u64;
    let size = window.source().size();
    let mut offset = first;
    while offset < if blank { 2 * first } else { size } {
        let bytes = window.bytes(offset, BLOCK_SIZE)?;
        let batch = bytes.first_chunk().map(BatchHeader::decode);
        if let Some(Ok(batch)) = batch
            && let Some(start) = batch.lsn.0.checked_sub(offset)
        {
            let is_later = place.after.is_none_or(|after| after.0 < start);
            let is_certain = offset == first || place.is_fresh;
            let is_ours = is_later && (is_certain || is_at_home(bytes, place, start, size));
            return Ok(is_ours.then_some((batch.segment, Lsn(start))));
        }
        offset += first;
    }
    Ok(None)
}

/// Whether a batch that is not the first of its file belongs to this segment. The file may have
/// held another segment of the same run, maybe of another shard. The batch's first record names its
/// shard. Of a shard's own segments the earlier use is the older one; a neighbouring segment shows
/// which is older. Without a neighbour the batch is not trusted.
fn is_at_home(batch: &[u8], place: &Place, start: u64, size: u64) -> bool {
    let record = batch.get(HEADER_SIZE..).and_then(<[u8]>::first_chunk).map(RecordHeader::decode);
    let is_of_shard = record.is_some_and(|record| {
        record.is_ok_and(|record| {
            (record.epoch.boot, record.epoch.shard) == (place.run.boot, place.shard)
        })
    });
    let fits = place.end.is_some_and(|end| start < end.0 && end.0 - start <= size);
    is_of_shard && (place.after.is_some() || fits)
}

/// Whether bytes that are no batch header were once one of this segment at this position: its uuid
/// or its position is there.
pub(super) fn is_remnant(bytes: &[u8], uuid: SegmentUuid, lsn: Lsn) -> bool {
    bytes.get(16..32) == Some(&uuid.0) || bytes.get(40..48) == Some(&lsn.0.to_le_bytes())
}
