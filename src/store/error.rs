#![forbid(unsafe_code)]
//! What goes wrong with a journal's directory and its disk, and what to do about it.

use super::disk;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory cannot hold a journal.
#[derive(Debug)]
pub struct StoreError {
    pub(super) path: PathBuf,
    pub(super) step: &'static str,
    pub(super) error: io::Error,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoreError { path, step, error } = self;
        write!(f, "{step} {} failed ({error}): ", path.display())?;
        f.write_str(match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "let this user write there, or choose another directory with --data-dir"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ROOM_ADVICE,
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount it for writing, or choose another directory with --data-dir"
            }
            io::ErrorKind::Unsupported => {
                "choose a directory on a disk with --data-dir, or promise less with --ack written"
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "choose a directory with --data-dir"
            }
            _ => "choose a directory on a local disk with --data-dir",
        })
    }
}

impl std::error::Error for StoreError {}

/// What to do about a full disk.
const ROOM_ADVICE: &str = "free some space, or set --retain-bytes to less than the disk can hold";

/// Why a segment cannot be made, for the log. Shards are told the same for each reason, and calls
/// end with 1013.
pub(super) fn trouble(data_dir: &Path, error: &io::Error) -> String {
    let data_dir = data_dir.display();
    if disk::is_full(error) {
        return format!("no room for a segment in {data_dir} ({error}): {ROOM_ADVICE}");
    }
    let remedy = match (error.kind(), Errno::from_io_error(error)) {
        (io::ErrorKind::PermissionDenied, _) => "let this user write there",
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "the disk may have failed: the kernel's log says more"
        }
        (io::ErrorKind::FileTooLarge, _) => {
            "raise the limit on file sizes (`prlimit --fsize=unlimited --pid PID`, systemd's \
             LimitFSIZE=), or set a smaller journal.segment_size"
        }
        (_, Some(Errno::MFILE)) => {
            "raise the limit on open files (`prlimit --nofile=N --pid PID`, systemd's LimitNOFILE=)"
        }
        _ => "the kernel's log may say more",
    };
    format!("cannot make a segment in {data_dir} ({error}): {remedy}")
}
