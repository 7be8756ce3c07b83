#![forbid(unsafe_code)]
//! Removes one segment in small steps.
//!
//! First the file loses its name, so that no reader finds half of it. Then it is cut step by step,
//! with pauses. A filesystem mounted with `discard` tells the disk of each freed block, and the
//! disk takes no writes meanwhile. If the process ends in between, the kernel frees the rest.

use crate::archive::layout::{index_path, segment_path};
use crate::archive::lock;
use crate::archive::marks::{FoundMarks, Marks};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes freed in one step.
const STEP_SIZE: u64 = 8 << 20;

/// A segment that has lost its name.
#[derive(Debug)]
pub(super) struct Removal {
    file: File,
    /// Bytes of the file that are left.
    size: u64,
    /// Bytes on disk that are still counted.
    bytes: u64,
}

/// The result of [`begin`].
#[derive(Debug)]
pub(super) enum Begun {
    /// Its bytes are to be freed: [`Removal::step`].
    Removing(Removal),
    /// It is being written or read.
    Locked,
    /// It is not there.
    Gone,
    /// It cannot be removed.
    Held(io::Error),
}

/// Takes a segment of `bytes` bytes on disk out of its directory, together with its index. The mark
/// that it is expired is durable before.
pub(super) fn begin(shard_dir: &Path, id: u64, bytes: u64) -> io::Result<Begun> {
    let path = segment_path(shard_dir, id);
    let file = match open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Begun::Gone),
        Err(error) => return Ok(Begun::Held(error)),
    };
    if !lock::try_exclusive(&file)? {
        return Ok(Begun::Locked);
    }
    if !lock::is_still(&path, &file)? {
        return Ok(Begun::Gone);
    }
    raise_mark(shard_dir, id)?;
    if let Err(error) = std::fs::remove_file(&path) {
        return Ok(Begun::Held(error));
    }
    super::remove_if_there(&index_path(shard_dir, id))?;
    let size = file.metadata()?.len();
    Ok(Begun::Removing(Removal { file, size, bytes }))
}

/// Opens a file so that it can be cut. The file of another user is only opened for its lock: it is
/// freed in one piece.
fn open(path: &Path) -> io::Result<File> {
    match File::options().read(true).write(true).open(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => File::open(path),
        opened => opened,
    }
}

/// Makes durable that segments up to `id` may be missing. A run of the first format has no marks.
fn raise_mark(shard_dir: &Path, id: u64) -> io::Result<()> {
    match Marks::find(shard_dir)? {
        FoundMarks::Sound(marks) if marks.removed_to < id => {
            Marks { removed_to: id, ..marks }.store(shard_dir)
        }
        _ => Ok(()),
    }
}

impl Removal {
    /// Frees the next bytes. Returns how many count as freed, and whether that was all.
    pub(super) fn step(&mut self) -> (u64, bool) {
        self.size = self.size.saturating_sub(STEP_SIZE);
        // If it cannot be cut, closing the file frees the rest.
        if self.size > 0 && self.file.set_len(self.size).is_ok() {
            let freed = self.bytes.min(STEP_SIZE);
            self.bytes -= freed;
            return (freed, false);
        }
        (std::mem::take(&mut self.bytes), true)
    }
}
