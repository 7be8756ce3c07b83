//! One file of a scripted world, and what a shard may do to it.

use super::ReadMemory;
use crate::io::{FileHandle, UserData};
use rustix::io::Errno;

/// Bytes that a disk writes as a whole or not at all.
pub const SECTOR_SIZE: usize = 512;

/// Bytes, and their offset.
pub(super) type Write = (usize, Vec<u8>);

/// The memory that a write takes its bytes from, and their position in it; `None` for the scratch
/// memory.
pub(super) type Source = Option<(ReadMemory, usize)>;

/// One file.
#[derive(Default)]
pub(super) struct File {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Completed writes that no sync has covered yet, in order.
    pub(super) unsynced: Vec<Write>,
    pub(super) write_error: Option<Errno>,
    pub(super) write_size_max: Option<usize>,
    pub(super) sync_error: Option<Errno>,
    pub(super) sync_count: usize,
}

/// A write or sync that was submitted and has not completed.
pub(super) enum FileOperation {
    Write(FileHandle, Write, UserData, Source),
    /// Covers this many of the file's unsynced writes: those that had completed when it was
    /// submitted.
    Sync(FileHandle, usize, UserData),
}

impl File {
    pub(super) fn write(&mut self, offset: usize, mut bytes: Vec<u8>) -> Result<u32, Errno> {
        if let Some(error) = self.write_error.take() {
            return Err(error);
        }
        bytes.truncate(self.write_size_max.take().unwrap_or(usize::MAX));
        lay(&mut self.live, offset, &bytes);
        let size = bytes.len() as u32;
        self.unsynced.push((offset, bytes));
        Ok(size)
    }

    pub(super) fn sync(&mut self, covered: usize) -> Result<u32, Errno> {
        let covered = self.unsynced.drain(..covered);
        if let Some(error) = self.sync_error.take() {
            // The kernel marks failed pages clean: they never reach the disk, and no later sync
            // reports it.
            drop(covered);
            self.live.clone_from(&self.durable);
            self.unsynced.iter().for_each(|(offset, bytes)| lay(&mut self.live, *offset, bytes));
            return Err(error);
        }
        covered.for_each(|(offset, bytes)| lay(&mut self.durable, offset, &bytes));
        Ok(0)
    }
}

/// Puts bytes into an image, which grows if needed.
pub(super) fn lay(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}
