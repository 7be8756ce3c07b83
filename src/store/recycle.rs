#![forbid(unsafe_code)]
//! Makes a new segment out of the file of an old one. Its blocks are allocated and have been
//! written. This spares the filesystem the allocation, and the note that they were written.
//! [`Disk::create`] says what that costs.
//!
//! ```text
//!  0123.segment ──1 index put aside──2 renamed──► 0456.preparing
//!      ──3 start blanked, length set, synced──4 renamed──► 0456.segment
//! ```
//! If it is interrupted before 2, the file is still the old segment. Before 4, readers ignore it
//! and [`tidy`](super::retention::tidy) removes it. After 4, it is a segment that has not begun.
//! The new name is durable before the start is blanked, and the blank start before the next name.
//! The file is locked all the time. There is one such file at a time, for the shard that asked.
//! (Rejected: spare files. Each would be a segment less of audio, and would hold expired audio out
//! of sight.)
//!
//! The new index overwrites the old one. So a journal of a steady size gives no block back to the
//! filesystem. A filesystem mounted with `discard` tells the disk of each freed block, and the disk
//! takes no writes meanwhile. *Measured* at 8,000 calls on a virtual disk, with three segments a
//! second that were cut and indexes that were removed: ACK p99.9 was 207 ms. On the same filesystem
//! without `discard` it was 57 ms just before.
//!
//! After its start the file holds the old bytes, until they are overwritten, or blanked when the
//! segment is sealed. Readers tell them apart by the segment's uuid in each batch header:
//! [`format`](crate::format) says how.
//!
//! Only segments of the node's own run are recycled. Batch numbers count through a run. So after a
//! partial write no record of an old batch looks like one of the new batch at that place. With an
//! age limit no segment is recycled, because expired audio must be gone, not only out of sight. A
//! segment with a failed write or sync is not recycled either.

use super::disk::Disk;
use super::retention::Claimed;
use crate::archive::layout;
use crate::constants::BLOCK_SIZE;
use crate::io::memory::Region;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The header, and the place of the first batch. Readers look there to see whether a segment has
/// begun.
const START_SIZE: usize = 2 * BLOCK_SIZE;

/// Turns a segment into a file `preparing` of `size` bytes, which readers take as not begun. Turns
/// its index into a file `unfinished`. With `prefill` the file grows by written zeros. If this
/// fails, the segment is as before, or the file `preparing` is useless.
pub(super) fn recycle(
    disk: Disk,
    claimed: Claimed,
    (preparing, unfinished): (&Path, &Path),
    size: u64,
    prefill: bool,
) -> io::Result<File> {
    let Claimed { segment, file } = claimed;
    super::missing_is_fine(std::fs::rename(&segment.index, unfinished))?;
    std::fs::rename(&segment.path, preparing)?;
    for directory in [segment.path.parent(), preparing.parent()].into_iter().flatten() {
        layout::sync_dir(directory)?;
    }
    let zeros = Region::allocate(START_SIZE)?;
    file.write_all_at(&zeros, 0)?;
    disk.resize(&file, size, prefill)?;
    Ok(file)
}
