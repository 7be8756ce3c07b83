#![forbid(unsafe_code)]
//! Retention: the oldest sealed segments go, by bytes and by age. Never one that is being written or read: each is locked
//! before it is removed or recycled.
//!
//! By bytes it works ahead: room for a segment is made before the segment is (`Inventory`), and where it can be the oldest
//! file itself becomes the new one (`recycle.rs`). So a journal never holds more than it may, but for what is in use.

use super::disk::{Disk, is_unused};
use crate::journal::layout::{self, RunName};
use crate::journal::lock;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A directory or an unfinished index younger than this may belong to a process that has only just begun.
pub(super) const YOUNG: Duration = Duration::from_secs(60);

/// Share of its time that the keeper may spend on looking what is there, to make room: one part in so many.
const LOOKING_SHARE: u32 = 20;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A segment that is there.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) run: RunName,
    pub(super) shard: u16,
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) index: PathBuf,
    /// On disk, its index included.
    bytes: u64,
    written_at: SystemTime,
}

/// A segment that nobody writes or reads, and nobody will: its file is locked.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) segment: Segment,
    pub(super) file: File,
}

/// Removes the oldest segments until those of all runs together take up no more than `bytes`, and those last written longer
/// than `age` ago.
pub fn enforce(data_dir: &Path, bytes: Option<u64>, age: Option<Duration>, now: SystemTime) -> io::Result<Removed> {
    let (segments, mut total) = collect(data_dir)?;
    let mut removed = Removed::default();
    for segment in segments {
        let is_over = bytes.is_some_and(|bytes| total > bytes);
        let is_old = age.is_some_and(|age| now.duration_since(segment.written_at).is_ok_and(|since| since > age));
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

/// What the journal holds, as it was when it was looked at, and what the keeper did to it since.
///
/// With a few hundred segments it is looked at again for each new one. With a hundred thousand that takes as long as the
/// segment does to be filled, so it is done as often as is bearable; what is added meanwhile, indexes and the segments of
/// other processes, is counted then.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Oldest first, newer ones may be missing.
    segments: VecDeque<Segment>,
    total: u64,
    /// When it is to be looked at again.
    pub(super) good_until: Option<Instant>,
}

impl Inventory {
    /// A segment of `size` bytes was made.
    pub(super) fn add(&mut self, size: u64) {
        self.total += size;
    }

    /// What is known does not hold any more.
    pub(super) fn forget(&mut self) {
        self.good_until = None;
    }

    /// Makes room for a segment of `size` bytes within `bytes`: takes the oldest segments, as few as will do. Of those that
    /// `may_recycle` allows one is not removed but handed out, to be the new segment.
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
        // Where an error ends this, it is looked at again.
        let good_until = self.good_until.take();
        while self.total.saturating_add(size) > bytes
            && let Some(segment) = self.segments.pop_front()
        {
            let is_wanted = recycled.is_none() && may_recycle(&segment);
            // What is written to is opened for that; what is removed may be another user's.
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

/// Bytes on disk that the journal takes up, segments in use included.
pub(super) fn bytes_held(data_dir: &Path) -> io::Result<u64> {
    Ok(collect(data_dir)?.1)
}

/// Removes what processes that are gone have prepared and not used, indexes without a segment, and directories with nothing
/// in them.
pub fn tidy(data_dir: &Path, now: SystemTime) -> io::Result<()> {
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

/// All segments, that last written first at the end, and the bytes of all.
fn collect(data_dir: &Path) -> io::Result<(Vec<Segment>, u64)> {
    let mut segments = Vec::new();
    for run in layout::runs(data_dir)? {
        let run_dir = layout::run_dir(data_dir, &run);
        for shard in layout::shards(&run_dir).or_else(gone)? {
            let directory = layout::shard_dir(&run_dir, shard);
            for id in layout::segments(&directory).or_else(gone)? {
                let (path, index) = (layout::segment_path(&directory, id), layout::index_path(&directory, id));
                let Ok(metadata) = std::fs::metadata(&path) else { continue };
                let of_index = std::fs::metadata(&index).map_or(0, |metadata| metadata.blocks());
                let (bytes, written_at) = ((metadata.blocks() + of_index) * 512, metadata.modified()?);
                segments.push(Segment { run, shard, id, path, index, bytes, written_at });
            }
        }
    }
    segments.sort_by_key(|segment| segment.written_at);
    let total = segments.iter().map(|segment| segment.bytes).sum();
    Ok((segments, total))
}

/// Locks a segment's file, unless somebody writes or reads it.
fn claim(path: &Path, open: impl FnOnce(&Path) -> io::Result<File>) -> io::Result<Option<File>> {
    let Ok(file) = open(path) else { return Ok(None) };
    let is_won = lock::try_exclusive(&file)? && lock::is_still(path, &file)?;
    Ok(is_won.then_some(file))
}

/// Removes a segment that is locked, and its index. Interrupted in between, it leaves an index that [`tidy`] finds.
fn remove(segment: &Segment) -> io::Result<()> {
    std::fs::remove_file(&segment.path)?;
    super::remove_if_there(&segment.index)
}

/// What processes that are gone have left unfinished, and runs of them of which nothing is left.
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
                    // A segment has its name before its index is stored, and never gets it again.
                    Some(layout::Leftover::Index(id)) => !layout::segment_path(&directory, id).exists(),
                    Some(layout::Leftover::IndexUnfinished) => is_old(&path),
                    // Locked since it was made, but for a moment; taken away in that moment it is made again.
                    Some(layout::Leftover::Preparing) => {
                        File::open(&path).is_ok_and(|file| lock::try_exclusive(file).unwrap_or(false))
                    }
                    None => false,
                };
                if is_left {
                    super::remove_if_there(&path)?;
                }
            }
            if is_old(&directory) {
                // Fails where anything is in it, which is what is wanted.
                let _ = std::fs::remove_dir(&directory);
            }
        }
        if is_old(&run_dir) {
            let _ = std::fs::remove_dir(&run_dir);
        }
    }
    Ok(())
}

/// What another process has removed in the meantime is not there to be kept.
fn gone<T: Default>(error: io::Error) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(T::default()) } else { Err(error) }
}
