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
use crate::constants::BATCH_SIZE_MAX;
use crate::format::{HEADER_SIZE, RecordHeader, RecordKind};
use crate::io::memory::Region;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A stretch of a file.
type Stretch = (u64, u64);

/// A segment that holds old audio from an earlier use of its file, locked.
pub(super) struct PreviousContents {
    path: PathBuf,
    file: File,
    records: Vec<Stretch>,
}

impl PreviousContents {
    pub(super) fn erase(&self) -> Result<(), JournalError> {
        overwrite(&self.file, &self.records)
            .map_err(|error| JournalError { path: self.path.clone(), error })
    }
}

/// The segments of a journal that hold records which are `ours` from an earlier use of their file.
/// Skips the targets of an erasure: see [`erase_behind`].
pub(super) fn find(
    journal: &Journal,
    ours: impl Fn(&RecordHeader) -> bool,
    is_target: impl Fn(&Path) -> bool,
) -> Result<Vec<PreviousContents>, EraseError> {
    let mut found = Vec::new();
    for shard in journal.shards() {
        for position in 0..shard.segment_count() {
            let path = shard.path(position);
            let failed = |error| JournalError { path: path.clone(), error };
            if is_target(&path) {
                continue;
            }
            let file = match File::open(&path) {
                // Retention removed it first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            let size = file.metadata().map_err(failed)?.len();
            let Some(end) = end(shard, position, size)? else { continue };
            if search(&file, end, &ours).map_err(failed)?.is_empty() {
                continue;
            }
            match lock(&path) {
                Ok(Some(file)) => {
                    let records = search(&file, end, &ours).map_err(failed)?;
                    found.push(PreviousContents { path, file, records });
                }
                Ok(None) => return Err(EraseError::Held(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
    }
    Ok(found)
}

/// Erases records which are `ours` after the end of a segment.
pub(super) fn erase_behind(
    file: &File,
    end: End,
    ours: impl Fn(&RecordHeader) -> bool,
) -> io::Result<()> {
    let records = search(file, end, &ours)?;
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

/// Where a segment's batches end. `None`: it was sealed, and cut there, or its file is new.
///
/// The bytes before the end are not searched: audio of any call is there, and may look like a
/// record of another call.
fn end(shard: &ShardJournal, position: usize, size: u64) -> Result<Option<End>, JournalError> {
    if let Some(header) = shard.header(position)?
        && (size < header.size || !header.may_be_recycled())
    {
        return Ok(None);
    }
    let end = |index: SegmentIndex| End { offset: index.end, is_torn: index.torn_at.is_some() };
    Ok(Some(shard.index(position)?.map_or(End::default(), |(index, _)| end(index))))
}

/// Finds the records which are `ours` after the end, which is the start of a block. Adds the rest
/// of a record without header there.
fn search(
    file: &File,
    end: End,
    ours: &impl Fn(&RecordHeader) -> bool,
) -> io::Result<Vec<Stretch>> {
    let size = file.metadata()?.len();
    let (mut found, mut offset, mut first) = (Vec::new(), end.offset, size);
    let mut memory = Region::allocate(BATCH_SIZE_MAX)?;
    while offset < size {
        let read = file.read_at(&mut memory, offset)?;
        for (line, bytes) in memory[..read].as_chunks::<HEADER_SIZE>().0.iter().enumerate() {
            let Ok(header) = RecordHeader::decode(bytes) else { continue };
            let at = offset + (line * HEADER_SIZE) as u64;
            let is_ours = header.kind == RecordKind::Audio && ours(&header);
            first = first.min(at);
            if is_ours {
                found.push((at, (header.record_size() as u64).min(size - at)));
            }
        }
        // After a short read, continue at a whole line.
        let taken = read / HEADER_SIZE * HEADER_SIZE;
        if taken == 0 {
            break;
        }
        offset += taken as u64;
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
