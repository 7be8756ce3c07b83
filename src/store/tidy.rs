#![forbid(unsafe_code)]
//! What ended processes left in a data directory: prepared files, allocated space after the last
//! batch, unfinished files, runs without a segment.
//!
//! A process holds a lock on its run's directory as long as it lives. Processes of the first format
//! do not. So each file is locked by itself too before it is changed.

use super::gone;
use crate::archive::first_block::{self, Start};
use crate::archive::layout::{
    self, Leftover, RunName, index_path, leftover, live_index_path, preparing_path, segment_path,
    sync_dir,
};
use crate::archive::marks::{self, FoundMarks, MARKS_FILE, Marks};
use crate::archive::{lock, seal};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::io::memory::Region;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// An unfinished index younger than this may belong to a reader that is making it.
const YOUNG: Duration = Duration::from_secs(60);

/// Segments at the end of a shard that a crash may have left with allocated space: the one being
/// written, the next one, and failed ones.
const UNCUT_MAX: usize = 4;

/// Bytes read at once in search of the last ones written.
const LOOK_SIZE: usize = 1 << 20;

/// What a run is after tidying up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// Its process runs.
    Alive,
    /// It has segments.
    Ended,
    /// It had none, and is removed.
    Removed,
}

/// Tidies up after a run, if its process has ended.
pub(super) fn tidy_run(data_dir: &Path, run: &RunName) -> io::Result<RunState> {
    let run_dir = layout::run_dir(data_dir, run);
    let directory = match File::open(&run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RunState::Removed),
        opened => opened?,
    };
    if !lock::try_exclusive(&directory)? {
        return Ok(RunState::Alive);
    }
    for shard in layout::shards(&run_dir).or_else(gone)? {
        let shard_dir = layout::shard_dir(&run_dir, shard);
        if let Err(error) = tidy_shard(&shard_dir) {
            tracing::warn!("cannot tidy up {}: {error}", shard_dir.display());
        }
    }
    match remove_if_empty(data_dir, run)? {
        true => Ok(RunState::Removed),
        false => Ok(RunState::Ended),
    }
}

/// Removes what was left of runs that did not begin, or whose removal was interrupted.
pub(super) fn remove_unfinished_runs(data_dir: &Path) -> io::Result<()> {
    for run_dir in layout::unfinished_runs(data_dir)? {
        if File::open(&run_dir).is_ok_and(|file| lock::try_exclusive(file).unwrap_or(false)) {
            // One that cannot be removed keeps no other.
            if let Err(error) = remove_files(&run_dir) {
                tracing::warn!("cannot tidy up {}: {error}", run_dir.display());
            }
        }
    }
    Ok(())
}

/// Tidies up a shard's directory of an ended run.
fn tidy_shard(shard_dir: &Path) -> io::Result<()> {
    let mut ids = layout::segments(shard_dir)?;
    // Prepared and not begun. One with a later segment failed before it began, and stays: a missing
    // one would count as lost.
    while let Some(id) = ids.last().copied()
        && first_block::start(&segment_path(shard_dir, id))? == Start::Unbegun
        && remove_locked(&segment_path(shard_dir, id))?
    {
        ids.pop();
    }
    let found = Marks::find(shard_dir)?;
    let has_ended = matches!(found, FoundMarks::Sound(Marks { ended: Some(_), .. }));
    let mut is_cut = true;
    for id in ids.iter().rev().take(UNCUT_MAX).filter(|_| !has_ended) {
        // What the disk cannot read stays as it is.
        is_cut &= cut_rest(&segment_path(shard_dir, *id)).unwrap_or(false);
    }
    if let FoundMarks::Sound(marks) = found
        && !has_ended
        && is_cut
    {
        let ended = ids.last().copied().unwrap_or(0).max(marks.removed_to);
        Marks { ended: Some(ended), ..marks }.store(shard_dir)?;
    }
    for entry in std::fs::read_dir(shard_dir)? {
        let path = entry?.path();
        let is_left = match leftover(&path) {
            Some(Leftover::Index(id)) => ids.binary_search(&id).is_err(),
            Some(Leftover::LiveIndex) => true,
            Some(Leftover::IndexUnfinished) => is_old(&path),
            Some(Leftover::Preparing) => {
                File::open(&path).is_ok_and(|file| lock::try_exclusive(file).unwrap_or(false))
            }
            None => path == marks::next_path(shard_dir),
        };
        if is_left {
            super::remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn is_old(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > YOUNG))
}

/// Removes a file unless another process has locked it.
fn remove_locked(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let is_won = lock::try_exclusive(&file)? && lock::is_still(path, &file)?;
    if is_won {
        std::fs::remove_file(path)?;
    }
    Ok(is_won)
}

/// Gives back what is allocated after the last written byte of a segment. Its last batch may end
/// with zeros, so as many bytes as the largest batch stay. `false` if the file is being read.
fn cut_rest(path: &Path) -> io::Result<bool> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
        opened => opened?,
    };
    if !lock::try_exclusive(&file)? || !lock::is_still(path, &file)? {
        return Ok(false);
    }
    let size = file.metadata()?.len();
    let keep =
        (last_written(&file, size)? + BATCH_SIZE_MAX as u64).next_multiple_of(BLOCK_SIZE as u64);
    if keep < size {
        file.set_len(keep)?;
    }
    Ok(true)
}

/// Where the last byte ends that is not zero. Allocated extents that were never written are holes
/// to `lseek`, so they are not read.
fn last_written(file: &File, size: u64) -> io::Result<u64> {
    let mut buffer = Region::allocate(LOOK_SIZE)?;
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(LOOK_SIZE as u64);
        if rustix::fs::seek(file, rustix::fs::SeekFrom::Data(start)).is_ok_and(|data| data < end) {
            let count = file.read_at(&mut buffer[..(end - start) as usize], start)?;
            if let Some(last) = buffer[..count].iter().rposition(|byte| *byte != 0) {
                return Ok(start + last as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// Removes the directory of a run that holds no segment and has lost none. Returns whether it did.
pub(super) fn remove_if_empty(data_dir: &Path, run: &RunName) -> io::Result<bool> {
    let run_dir = layout::run_dir(data_dir, run);
    for shard in layout::shards(&run_dir).or_else(gone)? {
        let shard_dir = layout::shard_dir(&run_dir, shard);
        let is_expired = match Marks::find(&shard_dir)? {
            FoundMarks::Sound(marks) => marks.kept_ids(0).is_empty(),
            FoundMarks::Missing => true,
            FoundMarks::Damaged => false,
        };
        if !is_expired || !holds_only_our_leftovers(&shard_dir)? {
            return Ok(false);
        }
    }
    let removed = layout::removed_dir(data_dir, run);
    match std::fs::rename(&run_dir, &removed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        renamed => renamed?,
    }
    // From here on no reader sees a part of the run.
    sync_dir(data_dir)?;
    remove_files(&removed)?;
    Ok(true)
}

/// Whether a shard's directory holds no segment, and no file of others.
fn holds_only_our_leftovers(shard_dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(shard_dir)? {
        if !is_ours(&entry?.path()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file in a shard's directory may go with its run.
fn is_ours(path: &Path) -> bool {
    let is_table = path.extension().is_some_and(|extension| extension == "calls");
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_marks = name == MARKS_FILE || name.strip_prefix(MARKS_FILE) == Some(".next");
    is_marks
        || is_table
        || matches!(
            leftover(path),
            Some(Leftover::Index(_) | Leftover::IndexUnfinished | Leftover::LiveIndex)
        )
}

/// Removes our files from a run's directory, and the directories. Others stay.
fn remove_files(run_dir: &Path) -> io::Result<()> {
    for shard in layout::shards(run_dir).or_else(gone)? {
        let shard_dir = layout::shard_dir(run_dir, shard);
        for entry in std::fs::read_dir(&shard_dir)? {
            let path = entry?.path();
            if is_ours(&path) {
                super::remove_if_there(&path)?;
            }
        }
        // This fails if the directory is not empty, as intended.
        let _ = std::fs::remove_dir(&shard_dir);
    }
    for path in [seal::request_path(run_dir), seal::sealing_path(run_dir)] {
        super::remove_if_there(&path)?;
    }
    let _ = std::fs::remove_dir(run_dir);
    Ok(())
}

/// The prepared segments of a shard that ends, from the last on, until one was begun. Returns how
/// many bytes they had.
pub(super) fn remove_unused(shard_dir: &Path, id: u64) -> io::Result<bool> {
    let path: PathBuf = segment_path(shard_dir, id);
    if first_block::start(&path)? != Start::Unbegun {
        return Ok(false);
    }
    super::remove_if_there(&preparing_path(shard_dir, id))?;
    super::remove_if_there(&index_path(shard_dir, id))?;
    super::remove_if_there(&live_index_path(shard_dir, id))?;
    super::remove_if_there(&path)?;
    Ok(true)
}
