#![forbid(unsafe_code)]
//! Retention: the oldest sealed segments go, by bytes and by age. Never one that is being written or read: each is locked
//! before it is removed.

use super::disk::is_unused;
use crate::journal::{layout, lock};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A directory or an unfinished file younger than this may belong to a process that has only just begun.
const YOUNG: Duration = Duration::from_secs(60);

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    index: PathBuf,
    bytes: u64,
    written_at: SystemTime,
}

/// Removes the oldest segments until those of all runs together take up no more than `bytes`, and those last written longer
/// than `age` ago.
pub fn enforce(data_dir: &Path, bytes: Option<u64>, age: Option<Duration>, now: SystemTime) -> io::Result<Removed> {
    let mut segments = collect(data_dir)?;
    segments.sort_by_key(|segment| segment.written_at);
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut removed = Removed::default();
    for segment in segments {
        let is_over = bytes.is_some_and(|bytes| total > bytes);
        let is_old = age.is_some_and(|age| now.duration_since(segment.written_at).is_ok_and(|since| since > age));
        if (is_over || is_old) && remove(&segment)? {
            total -= segment.bytes;
            removed.segments += 1;
            removed.bytes += segment.bytes;
        }
    }
    Ok(removed)
}

/// Removes what processes that are gone have prepared and not used, and directories with nothing in them.
pub fn tidy(data_dir: &Path, now: SystemTime) -> io::Result<()> {
    for segment in collect(data_dir)? {
        if is_unused(&segment.path).unwrap_or(false) {
            remove(&segment)?;
        }
    }
    remove_empty(data_dir, now)
}

fn collect(data_dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for run in layout::runs(data_dir)? {
        let run_dir = layout::run_dir(data_dir, &run);
        for shard in layout::shards(&run_dir).or_else(gone)? {
            let directory = layout::shard_dir(&run_dir, shard);
            for id in layout::segments(&directory).or_else(gone)? {
                let (path, index) = (layout::segment_path(&directory, id), layout::index_path(&directory, id));
                let Ok(metadata) = std::fs::metadata(&path) else { continue };
                let (bytes, written_at) = (metadata.blocks() * 512, metadata.modified()?);
                segments.push(Segment { path, index, bytes, written_at });
            }
        }
    }
    Ok(segments)
}

/// Removes a segment and its index, unless somebody writes or reads it.
fn remove(segment: &Segment) -> io::Result<bool> {
    let Ok(file) = File::open(&segment.path) else { return Ok(false) };
    if !lock::try_exclusive(&file)? || !lock::is_still(&segment.path, &file)? {
        return Ok(false);
    }
    std::fs::remove_file(&segment.path)?;
    super::remove_if_there(&segment.index)?;
    Ok(true)
}

/// Runs of processes that are gone, and of which nothing is left.
fn remove_empty(data_dir: &Path, now: SystemTime) -> io::Result<()> {
    let is_old = |path: &Path| {
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|since| since > YOUNG))
    };
    for run in layout::runs(data_dir)? {
        let run_dir = layout::run_dir(data_dir, &run);
        for shard in layout::shards(&run_dir).or_else(gone)? {
            let directory = layout::shard_dir(&run_dir, shard);
            for entry in std::fs::read_dir(&directory)?.flatten() {
                let path = entry.path();
                let is_preparing = path.extension().is_some_and(|extension| extension == layout::PREPARING_EXTENSION);
                if is_preparing
                    && is_old(&path)
                    && File::open(&path).is_ok_and(|file| lock::try_exclusive(file).unwrap_or(false))
                {
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
