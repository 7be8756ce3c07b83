#![forbid(unsafe_code)]
//! Tests whether a directory could hold a journal, and removes all files of the test again.

use super::StoreError;
use super::disk::{Disk, free_bytes};
use super::filesystem::{Durability, durability, require_durability};
use crate::ack_level::AckLevel;
use crate::archive::{layout, lock, seal};
use rustix::fs::{Access, access};
use std::fs::File;
use std::io;
use std::path::Path;

/// Tests `directory` as a node at its start would use it. Returns a description for people. Does
/// not make a missing directory.
pub(crate) fn try_directory(directory: &Path, level: AckLevel) -> Result<String, StoreError> {
    let failed = |step: &'static str| {
        move |error: io::Error| StoreError { path: directory.to_owned(), step, error }
    };
    match directory.metadata() {
        Ok(found) if found.is_dir() => {
            let disk = Disk::probe(directory).map_err(failed("writing to the data directory"))?;
            try_lock(directory).map_err(failed("locking the data directory"))?;
            let room = free_bytes(directory).map_err(failed("measuring the data directory"))?;
            let mut found = format!("writable, {} MiB free; {}", room.free >> 20, disk.describe());
            let doubts = require_durability(directory, level);
            if let Some(doubts) = doubts.map_err(failed("promising durable ACKs in"))? {
                found.push_str(&format!("; {doubts}"));
            }
            Ok(found)
        }
        Ok(_) => Err(failed("opening the data directory")(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = directory.ancestors().skip(1).find(|above| above.exists());
            // The last parent of a relative path is empty: it is the current directory.
            let above =
                above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let is_writable =
                access(above, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from);
            is_writable.map_err(failed("making the data directory"))?;
            Ok(format!("missing, a node will make it in {}", above.display()))
        }
        Err(error) => Err(failed("opening the data directory")(error)),
    }
}

/// What a directory offers to a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Examined {
    /// Why its ACKs are worth less than those of a local disk; `None`: they are not.
    pub(crate) doubt: Option<Doubt>,
    /// Bytes free to this user.
    pub(crate) free: u64,
    /// Bytes of the filesystem.
    pub(crate) size: u64,
    /// Free bytes that new calls may not use, unless it is set.
    pub(crate) default_reserve: u64,
}

/// A filesystem that is no local disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Its name, such as `NFS`.
    pub(crate) kind: &'static str,
    /// Half a sentence.
    pub(crate) reason: &'static str,
    /// A restart of the machine empties it, so durable ACKs are refused.
    pub(crate) is_in_memory: bool,
}

/// Looks at a directory, and writes nothing.
pub(crate) fn examine(directory: &Path) -> io::Result<Examined> {
    let room = free_bytes(directory)?;
    let doubt = match durability(directory)? {
        Durability::Disk => None,
        Durability::Doubtful { kind, reason } => Some(Doubt { kind, reason, is_in_memory: false }),
        Durability::None { kind } => {
            let reason = "it is in memory, and a restart of the machine empties it";
            Some(Doubt { kind, reason, is_in_memory: true })
        }
    };
    Ok(Examined {
        doubt,
        free: room.free,
        size: room.size,
        default_reserve: room.default_reserve(),
    })
}

/// Whether the files of a directory can be written with O_DIRECT, and allocated without writing.
/// Tests it with a small file, which is removed again.
pub(crate) fn try_disk(directory: &Path) -> io::Result<(bool, bool)> {
    Disk::probe(directory).map(Disk::abilities)
}

/// The process of a node that serves on a directory, if there is one. On a missing directory there
/// is none.
pub(crate) fn live_node(directory: &Path) -> io::Result<Option<u32>> {
    for run in layout::runs(directory).or_else(super::gone)? {
        if seal::is_alive(&layout::run_dir(directory, &run))? {
            return Ok(Some(run.pid));
        }
    }
    Ok(None)
}

/// The lock that a starting node takes for a moment.
fn try_lock(directory: &Path) -> io::Result<()> {
    let file = File::open(directory)?;
    match lock::try_exclusive(&file)? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has locked it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_directory(directory: &Path) -> Result<String, StoreError> {
        super::try_directory(directory, AckLevel::Written)
    }

    #[test]
    fn a_test_leaves_a_directory_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let found = try_directory(&directory).unwrap();
        assert!(found.contains("missing") && !directory.exists(), "{found}");
        std::fs::create_dir_all(&directory).unwrap();
        assert!(try_directory(&directory).unwrap().starts_with("writable, "));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn a_file_and_a_locked_directory_are_errors() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = try_directory(&file).unwrap_err().to_string();
        assert!(error.contains("choose a directory with --data-dir"), "{error}");
        assert!(try_directory(&file.join("below")).is_err());
        let holder = File::open(parent.path()).unwrap();
        assert!(lock::try_exclusive(&holder).unwrap());
        let error = try_directory(parent.path()).unwrap_err().to_string();
        assert!(error.contains("another process has locked it"), "{error}");
    }
}
