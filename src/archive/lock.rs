//! Locks on segment files. They say which process writes a segment, which ones read it, and when it
//! may be removed.
//!
//! | holder | lock | on |
//! | --- | --- | --- |
//! | writer | exclusive, from before the file has its name until it is sealed | its segments |
//! | reader | shared; tried, never waited for; refused: it is being written | a segment it reads |
//! | retention, delete | exclusive; tried, never waited for | a segment to be removed or changed |
//!
//! These are `flock` locks, not `fcntl` locks: the lock belongs to the open file and ends with its
//! last descriptor. io_uring keeps files open until their last operation is done, even after the
//! process has ended. So a won lock proves that no more writes come. After locking, check that the
//! name still means this file: another file may have taken it meanwhile.

#![forbid(unsafe_code)]

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between two attempts at a lock.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long recovery tries to lock a segment. A process that was just killed may still have
/// operations to finish.
pub(crate) const RECOVERY_WAIT: Duration = Duration::from_secs(5);

/// Takes the lock of a writer or of retention. `false` if another process holds a lock.
pub fn try_exclusive(file: impl AsFd) -> io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockExclusive)
}

/// Takes a reader's lock. `false` if a writer holds the file. A lock already held turns into it.
pub fn try_shared(file: impl AsFd) -> io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockShared)
}

/// Tries [`try_shared`] again and again for as long as `wait`. Blocks: for start-up and the command
/// line.
pub fn shared_within(file: impl AsFd, wait: Duration) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        if try_shared(&file)? {
            return Ok(true);
        }
        if start.elapsed() >= wait {
            return Ok(false);
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Gives a lock back. Closing the file does so too, once no operation uses it.
pub fn release(file: impl AsFd) -> io::Result<()> {
    flock(file, FlockOperation::Unlock).map_err(Into::into)
}

/// Whether `path` still names the open `file`. Ask after a lock was won: until then the file might
/// have been removed.
pub fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn attempt(file: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let open = || {
            File::options().create(true).truncate(false).write(true).read(true).open(&path).unwrap()
        };
        let (one, other, third) = (open(), open(), open());
        assert!(try_shared(&one).unwrap() && try_shared(&other).unwrap());
        assert!(!try_exclusive(&third).unwrap(), "retention must not win while a reader reads");
        drop(other);
        release(&one).unwrap();
        assert!(try_exclusive(&third).unwrap());
        assert!(!try_shared(&one).unwrap() && !shared_within(&one, Duration::ZERO).unwrap());
        drop(third);
        assert!(shared_within(&one, Duration::ZERO).unwrap());
    }

    #[test]
    fn a_lock_that_ends_soon_is_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = File::open(file.path()).unwrap();
        assert!(try_exclusive(&writer).unwrap());
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(writer);
        });
        assert!(shared_within(file.as_file(), RECOVERY_WAIT).unwrap());
        thread.join().unwrap();
    }

    #[test]
    fn a_file_that_lost_its_name_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_still(&path, &file).unwrap());
        std::fs::rename(&path, &other).unwrap();
        assert!(!is_still(&path, &file).unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(!is_still(&path, &file).unwrap());
    }
}
