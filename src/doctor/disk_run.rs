//! Two seconds of writing: how much a disk takes, how often it syncs, and its slowest moment.
//!
//! It writes like a shard whose disk keeps up: one write at a time, past the page cache, to an
//! allocated file. The file has no name, so nothing is left, however this ends.

use crate::io::memory::Region;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, fdatasync, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of the file, which is written over and over: more than the cache of a drive takes at once.
pub(super) const FILE_SIZE: u64 = 512 << 20;

/// The largest write of a journal.
const WRITE_SIZE: usize = 4 << 20;

/// The journal syncs after this many bytes if the disk is slow.
const SYNC_SIZE: u64 = 32 << 20;

/// A block: the smallest write of a journal.
const BLOCK_SIZE: usize = crate::constants::BLOCK_SIZE;

/// Time for each of the two parts.
const TIME: Duration = Duration::from_secs(1);

/// What the disk did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct DiskRun {
    /// Large writes, with a sync after each 32 MiB.
    pub(crate) bytes_per_second: u64,
    /// Writes of one block, with a sync after each.
    pub(crate) syncs_per_second: u64,
    /// The slowest write of both parts.
    pub(crate) write_millis_max: f64,
    /// The slowest sync of both parts.
    pub(crate) sync_millis_max: f64,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Measures the disk of a directory.
pub(super) fn measure(directory: &Path) -> io::Result<DiskRun> {
    let file = unnamed(directory)?;
    match fallocate(&file, FallocateFlags::empty(), 0, FILE_SIZE) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(FILE_SIZE)?,
        allocated => allocated?,
    }
    file.sync_all()?;
    let mut data = Region::allocate(WRITE_SIZE)?;
    fill(&mut data);
    let (start, mut run) = (Instant::now(), DiskRun::default());
    let (bytes, time) = write_flat_out(&file, &data, &mut run)?;
    run.bytes_per_second = per_second(bytes, time);
    let (syncs, time) = sync_often(&file, &data[..BLOCK_SIZE], &mut run)?;
    run.syncs_per_second = per_second(syncs, time);
    run.seconds = start.elapsed().as_secs_f64();
    Ok(run)
}

/// Bytes that became durable, and how long that took.
fn write_flat_out(file: &File, data: &[u8], run: &mut DiskRun) -> io::Result<(u64, Duration)> {
    let (start, mut written) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        for _ in 0..SYNC_SIZE / WRITE_SIZE as u64 {
            timed(&mut run.write_millis_max, || file.write_all_at(data, written % FILE_SIZE))?;
            written += data.len() as u64;
        }
        timed(&mut run.sync_millis_max, || Ok(fdatasync(file)?))?;
    }
    Ok((written, start.elapsed()))
}

/// The number of syncs, and how long they took.
fn sync_often(file: &File, block: &[u8], run: &mut DiskRun) -> io::Result<(u64, Duration)> {
    let (start, mut syncs) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        let at = syncs * BLOCK_SIZE as u64 % FILE_SIZE;
        timed(&mut run.write_millis_max, || file.write_all_at(block, at))?;
        timed(&mut run.sync_millis_max, || Ok(fdatasync(file)?))?;
        syncs += 1;
    }
    Ok((syncs, start.elapsed()))
}

/// Runs a step, and keeps the time of the slowest one, milliseconds.
fn timed(slowest: &mut f64, step: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    step()?;
    *slowest = slowest.max(start.elapsed().as_secs_f64() * 1_000.0);
    Ok(())
}

fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64()) as u64
}

/// A file without a name, with O_DIRECT where the filesystem takes it.
fn unnamed(directory: &Path) -> io::Result<File> {
    let open = |extra: OFlags| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | extra;
        openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    match open(OFlags::DIRECT) {
        Err(Errno::INVAL) => open(OFlags::empty()).or_else(|_| named(directory)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => named(directory),
        opened => Ok(opened?),
    }
}

/// On filesystems that cannot make a file without a name: it loses its name at once.
fn named(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
}

/// Bytes that no drive can compress (xorshift64).
fn fill(data: &mut [u8]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for chunk in data.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_ne_bytes());
    }
}
