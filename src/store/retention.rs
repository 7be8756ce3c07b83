#![forbid(unsafe_code)]
//! Retention removes the oldest sealed segments, by bytes and by age. It locks each segment before
//! it removes or recycles it, so it never takes one that is being written or read.
//!
//! By bytes it works in advance: it makes room for a segment before the segment is made
//! (`Inventory`). If possible the oldest file itself becomes the new segment (`recycle.rs`). So a
//! journal exceeds its limit only by segments in use.

use super::disk::{Disk, is_unused};
use crate::archive::layout::{self, RunName};
use crate::archive::lock;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A directory or an unfinished index younger than this may belong to a process that has just
/// begun.
pub(super) const YOUNG: Duration = Duration::from_secs(60);

/// The store may spend one part in this many of its time on listing segments to make room.
const LOOKING_SHARE: u32 = 20;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Segments.
    pub(crate) segments: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A segment on disk.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) run: RunName,
    pub(super) shard: u16,
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) index: PathBuf,
    /// Bytes on disk, with its index.
    bytes: u64,
    written_at: SystemTime,
}

/// A segment that is not being written or read. Its file is locked, so it stays so.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) segment: Segment,
    pub(super) file: File,
}

/// Removes the oldest segments until all runs together take up at most `bytes`. Removes segments
/// last written longer than `age` ago, too.
pub(crate) fn enforce(
    data_dir: &Path,
    bytes: Option<u64>,
    age: Option<Duration>,
    now: SystemTime,
) -> io::Result<Removed> {
    let (segments, mut total) = collect(data_dir)?;
    let mut removed = Removed::default();
    for segment in segments {
        let is_over = bytes.is_some_and(|bytes| total > bytes);
        let is_old = age.is_some_and(|age| {
            now.duration_since(segment.written_at).is_ok_and(|since| since > age)
        });
        if (is_over || is_old)
            && let Some(_file) = claim(&segment.path, |path| File::open(path))?
        {
            remove(&segment)?;
            total -= segment.bytes;
            removed.count(segment.bytes);
        }
    }
    Ok(removed)
}

/// The segments of the journal when they were last listed, with the store's changes since.
///
/// With a few hundred segments it is listed again for each new one. With a hundred thousand a
/// listing takes as long as filling a segment, so it is made less often. Files added meanwhile,
/// indexes and segments of other processes, count at the next listing.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Oldest first; newer ones may be missing.
    segments: VecDeque<Segment>,
    total: u64,
    /// When to list again.
    pub(super) good_until: Option<Instant>,
}

impl Inventory {
    /// Counts a new segment of `size` bytes.
    pub(super) fn add(&mut self, size: u64) {
        self.total += size;
    }

    /// Discards the list: it is not valid any more.
    pub(super) fn forget(&mut self) {
        self.good_until = None;
    }

    /// Makes room for a segment of `size` bytes within `bytes`: takes as few of the oldest segments
    /// as it can. If `may_recycle` allows one of them, that one is not removed but returned, to
    /// become the new segment.
    pub(super) fn make_room(
        &mut self,
        data_dir: &Path,
        (bytes, size): (u64, u64),
        disk: Disk,
        may_recycle: impl Fn(&Segment) -> bool,
    ) -> io::Result<(Removed, Option<Claimed>)> {
        self.look(data_dir, false)?;
        if self.total.saturating_add(size) > bytes && self.segments.is_empty() {
            self.look(data_dir, true)?;
        }
        let (mut removed, mut recycled, mut held) = (Removed::default(), None, Vec::new());
        // If an error ends this, the next call lists again.
        let good_until = self.good_until.take();
        while self.total.saturating_add(size) > bytes
            && let Some(segment) = self.segments.pop_front()
        {
            let is_wanted = recycled.is_none() && may_recycle(&segment);
            // Open a file for writing only to reuse it: a file to be removed may belong to another
            // user.
            let open = |path: &Path| if is_wanted { disk.open(path) } else { File::open(path) };
            let Some(file) = claim(&segment.path, open)? else {
                if segment.path.exists() {
                    held.push(segment);
                } else {
                    self.total -= segment.bytes;
                }
                continue;
            };
            self.total -= segment.bytes;
            if is_wanted {
                recycled = Some(Claimed { segment, file });
            } else {
                remove(&segment)?;
                removed.count(segment.bytes);
            }
        }
        held.into_iter().rev().for_each(|segment| self.segments.push_front(segment));
        self.good_until = good_until;
        Ok((removed, recycled))
    }

    fn look(&mut self, data_dir: &Path, is_due: bool) -> io::Result<()> {
        let start = Instant::now();
        if is_due || self.good_until.is_none_or(|until| until <= start) {
            let (segments, total) = collect(data_dir)?;
            (self.segments, self.total) = (segments.into(), total);
            let end = Instant::now();
            self.good_until = Some(end + (end - start) * (LOOKING_SHARE - 1));
        }
        Ok(())
    }
}

/// Bytes on disk of the journal, with segments in use.
pub(super) fn bytes_held(data_dir: &Path) -> io::Result<u64> {
    Ok(collect(data_dir)?.1)
}

/// Removes unused prepared files of ended processes, indexes without a segment, and empty
/// directories.
pub(crate) fn tidy(data_dir: &Path, now: SystemTime) -> io::Result<()> {
    for segment in collect(data_dir)?.0 {
        if is_unused(&segment.path).unwrap_or(false)
            && let Some(_file) = claim(&segment.path, |path| File::open(path))?
        {
            remove(&segment)?;
        }
    }
    remove_empty(data_dir, now)
}

impl Removed {
    fn count(&mut self, bytes: u64) {
        self.segments += 1;
        self.bytes += bytes;
    }
}

/// All segments, the one written longest ago first, and their bytes on disk.
fn collect(data_dir: &Path) -> io::Result<(Vec<Segment>, u64)> {
    let mut segments = Vec::new();
    for run in layout::runs(data_dir)? {
        let run_dir = layout::run_dir(data_dir, &run);
        for shard in layout::shards(&run_dir).or_else(gone)? {
            let directory = layout::shard_dir(&run_dir, shard);
            for id in layout::segments(&directory).or_else(gone)? {
                let (path, index) =
                    (layout::segment_path(&directory, id), layout::index_path(&directory, id));
                let Ok(metadata) = std::fs::metadata(&path) else { continue };
                let of_index = std::fs::metadata(&index).map_or(0, |metadata| metadata.blocks());
                let (bytes, written_at) =
                    ((metadata.blocks() + of_index) * 512, metadata.modified()?);
                segments.push(Segment { run, shard, id, path, index, bytes, written_at });
            }
        }
    }
    segments.sort_by_key(|segment| segment.written_at);
    let total = segments.iter().map(|segment| segment.bytes).sum();
    Ok((segments, total))
}

/// Locks a segment's file, unless it is being written or read.
fn claim(path: &Path, open: impl FnOnce(&Path) -> io::Result<File>) -> io::Result<Option<File>> {
    let Ok(file) = open(path) else { return Ok(None) };
    let is_won = lock::try_exclusive(&file)? && lock::is_still(path, &file)?;
    Ok(is_won.then_some(file))
}

/// Removes a locked segment and its index. If it is interrupted, the index remains for [`tidy`].
fn remove(segment: &Segment) -> io::Result<()> {
    std::fs::remove_file(&segment.path)?;
    super::remove_if_there(&segment.index)
}

/// Removes unfinished files of ended processes, and their empty runs.
fn remove_empty(data_dir: &Path, now: SystemTime) -> io::Result<()> {
    let is_old = |path: &Path| {
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|since| since > YOUNG))
    };
    for run in layout::runs(data_dir)? {
        let run_dir = layout::run_dir(data_dir, &run);
        for shard in layout::shards(&run_dir).or_else(gone)? {
            let directory = layout::shard_dir(&run_dir, shard);
            for path in std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path()) {
                let is_left = match layout::leftover(&path) {
                    // A segment has its name before its index is stored, and never gets that name
                    // again.
                    Some(layout::Leftover::Index(id)) => {
                        !layout::segment_path(&directory, id).exists()
                    }
                    Some(layout::Leftover::IndexUnfinished) => is_old(&path),
                    // It is locked from its start, except for a moment. If it is removed in that
                    // moment, it is made again.
                    Some(layout::Leftover::Preparing) => File::open(&path)
                        .is_ok_and(|file| lock::try_exclusive(file).unwrap_or(false)),
                    None => false,
                };
                if is_left {
                    super::remove_if_there(&path)?;
                }
            }
            if is_old(&directory) {
                // This fails if the directory is not empty, as intended.
                let _ = std::fs::remove_dir(&directory);
            }
        }
        if is_old(&run_dir) {
            let _ = std::fs::remove_dir(&run_dir);
        }
    }
    Ok(())
}

/// A file that another process has removed meanwhile is fine.
fn gone<T: Default>(error: io::Error) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(T::default()) } else { Err(error) }
}
