#![forbid(unsafe_code)]
//! What a filesystem can do: direct writes, allocation, and how much room it has.

use crate::archive::lock;
use crate::constants::BLOCK_SIZE;
use crate::io::memory::Region;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl, statvfs};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of zeros in one write.
const ZEROS_SIZE: usize = 1 << 20;

/// Least free space that new calls may not use, unless it is set.
const RESERVE_MIN: u64 = 1 << 30;

/// New calls may not use one part in this many of the filesystem, unless it is set.
const RESERVE_SHARE: u64 = 20;

/// One part in this many of a segment may stay allocated after its end: 4 MiB of 128. A segment
/// ends where the next batch would not fit, less than a batch (1 MiB) before the end of its file.
/// So with segments of 32 MiB or more only a node's last ones are cut.
const REST_SHARE: u64 = 32;

/// What a filesystem can do for a journal's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    /// It takes O_DIRECT.
    is_direct: bool,
    /// It allocates without writing.
    allocates: bool,
}

impl Disk {
    /// Tests both with a small file, which is removed again. An error means that it cannot be
    /// written.
    pub(super) fn probe(directory: &Path) -> io::Result<Disk> {
        let path = directory.join(format!(".probe-{}", std::process::id()));
        super::remove_if_there(&path)?;
        let outcome = try_disk(&path);
        std::fs::remove_file(&path)?;
        outcome
    }

    /// It takes O_DIRECT; it allocates without writing.
    pub(super) fn abilities(self) -> (bool, bool) {
        (self.is_direct, self.allocates)
    }

    pub(super) fn describe(self) -> &'static str {
        match (self.is_direct, self.allocates) {
            (true, true) => "written directly (O_DIRECT) to preallocated segments",
            (true, false) => {
                "written directly (O_DIRECT); this filesystem does not preallocate: it costs more"
            }
            (false, true) => {
                "written through the page cache: this filesystem has no O_DIRECT; it costs more"
            }
            (false, false) => {
                "written through the page cache: this filesystem has no O_DIRECT and does not \
                 preallocate"
            }
        }
    }

    /// Makes a new file of `size` bytes, all allocated, and durable as zeros. It is locked from the
    /// first moment: a process that finds it without a lock may remove it.
    ///
    /// By default it is only allocated. Measured on ext4 without a filesystem journal, on a busy
    /// machine, for a write of 1 MiB with its sync: 97 to 145 µs of CPU in new extents, 69 to 97 µs
    /// in extents with zeros. But the zeros double the bytes to disk, and writing them costs CPU
    /// too: about what they save at 4,000 calls, by estimate. If a sync of new extents must commit
    /// a filesystem journal, `prefill` may be better: measure there.
    pub(super) fn create(self, path: &Path, size: u64, prefill: bool) -> io::Result<File> {
        let file = open_new(path, self.is_direct)?;
        if !lock::try_exclusive(&file)? {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process has locked a new segment",
            ));
        }
        if self.allocates {
            fallocate(&file, FallocateFlags::empty(), 0, size)?;
        } else {
            file.set_len(size)?;
        }
        if prefill {
            write_zeros(&file, size)?;
        }
        file.sync_all()?;
        Ok(file)
    }
}

impl Disk {
    /// Turns a file that is locked into one of `size` bytes, all allocated, and durable as zeros.
    /// Frees no block where the filesystem can. An error means that it may hold anything.
    pub(super) fn blank(self, file: &File, size: u64, prefill: bool) -> io::Result<()> {
        if !self.allocates {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fallocate(file, FallocateFlags::ZERO_RANGE, 0, size)?;
        if prefill {
            write_zeros(file, size)?;
        }
        if self.is_direct {
            fcntl_setfl(file, fcntl_getfl(file)? | OFlags::DIRECT)?;
        }
        file.sync_all()
    }
}

/// Ends a segment's file after `size` bytes, whole blocks. Gives the rest back, unless it is small:
/// a filesystem mounted with `discard` tells the disk of each freed block, and the disk takes no
/// writes meanwhile. A small rest holds only zeros, as it was made.
pub(super) fn end(file: &File, size: u64) -> io::Result<()> {
    let allocated = file.metadata()?.len();
    if allocated.saturating_sub(size) > allocated / REST_SHARE {
        file.set_len(size)?;
    }
    Ok(())
}

fn write_zeros(file: &File, size: u64) -> io::Result<()> {
    let (zeros, mut at) = (Region::allocate(ZEROS_SIZE)?, 0);
    while at < size {
        let count = (size - at).min(ZEROS_SIZE as u64);
        file.write_all_at(&zeros[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

fn open_new(path: &Path, is_direct: bool) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(flags(is_direct))
        .open(path)
}

fn flags(is_direct: bool) -> i32 {
    if is_direct { OFlags::DIRECT.bits().cast_signed() } else { 0 }
}

fn try_disk(path: &Path) -> io::Result<Disk> {
    let block = Region::allocate(BLOCK_SIZE)?;
    // Some filesystems refuse the flag, others the first write.
    let direct = open_new(path, true).and_then(|file| file.write_all_at(&block, 0));
    let is_direct = match direct {
        Ok(()) => true,
        Err(error)
            if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) =>
        {
            false
        }
        Err(error) => return Err(error),
    };
    super::remove_if_there(path)?;
    let file = open_new(path, is_direct)?;
    let allocates = match fallocate(&file, FallocateFlags::empty(), 0, BLOCK_SIZE as u64) {
        Ok(()) => true,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => false,
        Err(error) => return Err(error.into()),
    };
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    Ok(Disk { is_direct, allocates })
}

/// The room on a filesystem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes free to this user.
    pub(super) free: u64,
    /// Bytes of the whole filesystem.
    pub(super) size: u64,
}

impl Room {
    /// Free space that new calls may not use.
    pub(super) fn default_reserve(self) -> u64 {
        (self.size / RESERVE_SHARE).max(RESERVE_MIN)
    }
}

pub(super) fn free_bytes(directory: &Path) -> io::Result<Room> {
    let found = statvfs(directory)?;
    Ok(Room {
        free: found.f_bavail.saturating_mul(found.f_frsize),
        size: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

/// Whether an error means that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
