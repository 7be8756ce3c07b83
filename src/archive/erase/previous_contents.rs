//! A call's audio in recycled files: old bytes after the end of a new segment.
//!
//! Only segments that were not cut are searched. These are the few being written or prepared, and
//! those of a killed process. Records are found by their headers. The first old record after the
//! end may have lost its header to new data. It may belong to any call, so its rest is erased
//! together with the records that are found. A torn segment is the exception: there that rest may
//! be the last new batch.

#![forbid(unsafe_code)]

use super::{EraseError, blank, lock};
use crate::archive::index::SegmentIndex;
use crate::archive::reader::{Journal, JournalError, ShardJournal};
use crate::archive::source::{SegmentFile, Source, Window};
use crate::constants::BATCH_SIZE_MAX;
use crate::format::{HEADER_SIZE, RecordHeader, RecordKind};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A stretch of a file.
type Stretch = (u64, u64);

/// The segments of a journal that hold records which are `ours` from an earlier use of their file,
/// and where their batches end. Skips the targets of an erasure: see [`erase_behind`].
pub(super) fn find(
    journal: &Journal,
    ours: impl Fn(&RecordHeader) -> bool,
    is_target: impl Fn((usize, usize)) -> bool,
) -> Result<Vec<(PathBuf, End)>, EraseError> {
    let mut found = Vec::new();
    for (number, shard) in journal.shards().iter().enumerate() {
        for position in 0..shard.segment_count() {
            // Of a run of the second format, no file was recycled. Its first header says so.
            let header = shard.header(position)?;
            if header.is_some_and(|header| !header.may_be_recycled()) {
                break;
            }
            if is_target((number, position)) {
                continue;
            }
            let path = shard.path(position);
            let failed = |error| JournalError { path: path.clone(), error };
            let size = match std::fs::metadata(&path) {
                // Retention removed it first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(failed)?.len(),
            };
            let Some(end) = end(shard, position, size)? else { continue };
            match search(&path, end, &ours) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found if found.as_ref().is_ok_and(Vec::is_empty) => continue,
                found => found.map_err(failed)?,
            };
            match lock(&path) {
                Ok(Some(_)) => found.push((path, end)),
                Ok(None) => return Err(EraseError::Held(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
    }
    Ok(found)
}

/// Erases records which are `ours` after the end of a segment that is locked. `None`: there are
/// none.
pub(super) fn erase_behind(
    path: &Path,
    file: &File,
    end: Option<End>,
    ours: impl Fn(&RecordHeader) -> bool,
) -> io::Result<()> {
    let Some(end) = end else { return Ok(()) };
    let records = search(path, end, &ours)?;
    if records.is_empty() { Ok(()) } else { overwrite(file, &records) }
}

/// Where a segment's batches end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    /// Offset in the file, bytes; 0 if it holds no batch.
    pub(super) offset: u64,
    /// Part of a batch may follow.
    pub(super) is_torn: bool,
}

/// Where a segment's batches end. `None`: it was sealed, and cut there.
///
/// The bytes before the end are not searched: audio of any call is there, and may look like a
/// record of another call.
fn end(shard: &ShardJournal, position: usize, size: u64) -> Result<Option<End>, JournalError> {
    if shard.header(position)?.is_some_and(|header| size < header.size) {
        return Ok(None);
    }
    let end = |index: SegmentIndex| End { offset: index.end, is_torn: index.torn_at.is_some() };
    Ok(Some(shard.index(position)?.map_or(End::default(), |(index, _)| end(index))))
}

/// Finds the records which are `ours` after the end, which is the start of a block. Adds the rest
/// of a record without header there. Reads around the page cache, because a writer may be at work,
/// and steps over what the disk cannot read.
fn search(
    path: &Path,
    end: End,
    ours: &impl Fn(&RecordHeader) -> bool,
) -> io::Result<Vec<Stretch>> {
    let mut window = Window::new(SegmentFile::of_owner(path)?)?;
    let size = window.source().size();
    let (mut found, mut offset, mut first) = (Vec::new(), end.offset, size);
    while offset < size {
        let bytes = window.bytes(offset, BATCH_SIZE_MAX)?;
        for (line, bytes) in bytes.as_chunks::<HEADER_SIZE>().0.iter().enumerate() {
            let Ok(header) = RecordHeader::decode(bytes) else { continue };
            let at = offset + (line * HEADER_SIZE) as u64;
            let is_ours = header.kind == RecordKind::Audio && ours(&header);
            first = first.min(at);
            if is_ours {
                found.push((at, (header.record_size() as u64).min(size - at)));
            }
        }
        if bytes.len() < BATCH_SIZE_MAX {
            break;
        }
        offset += BATCH_SIZE_MAX as u64;
    }
    if !found.is_empty() && !end.is_torn {
        found.push((end.offset, first - end.offset));
    }
    Ok(found)
}

/// Overwrites whole records with their headers: no reader needs them.
fn overwrite(file: &File, records: &[Stretch]) -> io::Result<()> {
    records.iter().try_for_each(|(offset, size)| blank(file, *offset, *size))?;
    file.sync_data()
}
