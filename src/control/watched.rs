#![forbid(unsafe_code)]
//! Files that are read at start and again when they change. This module notices a change and reads
//! a file.
//!
//! It reads by `tokio_uring::fs`, so it runs inside the control plane's runtime. A disk that does
//! not answer blocks no other task there.

use rustix::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};
use tokio_uring::fs::{File, StatxBuilder};

/// Bytes in one read: most key files are smaller.
const READ_SIZE: usize = 16 << 10;

/// Permission for every user of the machine to read.
const OTHERS_READ: u32 = 0o004;

/// Some files that belong together, and their state when they were last read or refused.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    paths: Vec<PathBuf>,
    /// Their state at the last attempt; `None` for a missing file.
    settled: Vec<Option<Fingerprint>>,
    /// A change seen in the last poll, which may still continue.
    changing: Option<Vec<Option<Fingerprint>>>,
}

/// A file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The reason, as the system or this module names it.
    pub(crate) reason: String,
    /// Whether another attempt may succeed without a change of the file or its path.
    pub(crate) may_pass: bool,
}

/// The contents of a file.
#[derive(Debug)]
pub(super) struct FileText {
    /// All of its bytes.
    pub(crate) text: Vec<u8>,
    /// Every user of this machine may read it.
    pub(crate) is_world_readable: bool,
}

impl WatchedFiles {
    /// Files that have not been read yet.
    pub(crate) fn new(paths: Vec<PathBuf>) -> WatchedFiles {
        WatchedFiles { settled: vec![None; paths.len()], changing: None, paths }
    }

    /// The paths, in the order given.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Call it before the files are read. A change during the reading then shows in the next poll.
    pub(crate) async fn settle(&mut self) {
        self.settled = self.look().await;
        self.changing = None;
    }

    /// Call it about once a second. Returns whether a file has changed since the files were last
    /// settled, and all of them were the same in two polls. So a file that is being written in
    /// place is not read half.
    pub(crate) async fn have_changed(&mut self) -> bool {
        let current = self.look().await;
        if current == self.settled {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() != Some(&current) {
            self.changing = Some(current);
            return false;
        }
        true
    }

    async fn look(&self) -> Vec<Option<Fingerprint>> {
        let mut found = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            found.push(look(path).await.ok());
        }
        found
    }
}

/// Tells one state of a file from another. A rename over the path changes the inode, a write in
/// place the times. Symbolic links are followed, because Kubernetes swaps a mounted secret by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    mode: u32,
}

impl Fingerprint {
    fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::RegularFile
    }
}

async fn look(path: &Path) -> io::Result<Fingerprint> {
    let found = StatxBuilder::new().pathname(path)?.statx().await?;
    Ok(Fingerprint {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        mode: found.stx_mode.into(),
    })
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
        };
        let is_lasting = matches!(
            error.kind(),
            NotFound
                | PermissionDenied
                | NotADirectory
                | IsADirectory
                | InvalidFilename
                | InvalidInput
        );
        Unreadable { reason: error.to_string(), may_pass: !is_lasting }
    }
}

/// Reads a regular file of at most `size_max` bytes.
pub(super) async fn read(path: &Path, size_max: u64) -> Result<FileText, Unreadable> {
    // Check the type before opening: opening a pipe waits for a writer. (O_NONBLOCK does not help:
    // on file systems without NOWAIT, reads of such a file fail if they would wait for the disk.)
    let found = look(path).await?;
    if !found.is_file() {
        return Err(Unreadable { reason: "it is not a regular file".into(), may_pass: false });
    }
    let file = File::open(path).await?;
    let read = read_to_end(&file, size_max).await;
    // An error of the close does not matter after the file was read.
    let _ = file.close().await;
    let text = read?;
    match text.len() as u64 > size_max {
        true => Err(Unreadable {
            reason: format!("it is larger than {size_max} bytes"),
            may_pass: false,
        }),
        false => Ok(FileText { text, is_world_readable: found.mode & OTHERS_READ != 0 }),
    }
}

/// The whole file, or more than `size_max` bytes of it.
async fn read_to_end(file: &File, size_max: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut buffer = Vec::with_capacity(READ_SIZE);
    while text.len() as u64 <= size_max {
        buffer.clear();
        let (size, filled) = file.read_at(buffer, text.len() as u64).await;
        if size? == 0 {
            break;
        }
        text.extend_from_slice(&filled);
        buffer = filled;
    }
    Ok(text)
}
