//! The boot counter of a data directory. It is the first part of every epoch, so that epochs of
//! later boots compare greater, although the boot-time clock starts again.
//!
//! The file `boot` has two lines: the counter in decimal, and the kernel's boot id for that count.
//! A new boot id adds one. If the file cannot be read, the counter continues after the greatest
//! number in the name of any run. It never counts back.

#![forbid(unsafe_code)]

use super::layout::{BOOT_FILE, runs, sync_dir};
use super::lock;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file in which the kernel names this boot.
const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Another process that starts at the same time needs only a few file operations.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The number of this boot in `data_dir`. It is greater than that of any other boot of the
/// directory, and durable before this returns. Several processes may call it at the same time.
pub(crate) fn current(data_dir: &Path) -> io::Result<u32> {
    number(data_dir, std::fs::read_to_string(KERNEL_BOOT_ID)?.trim())
}

/// As [`current`], in the boot that the kernel calls `boot_id`.
pub(crate) fn number(data_dir: &Path, boot_id: &str) -> io::Result<u32> {
    // Processes lock the directory, not the file: the file is replaced, so they cannot wait for it.
    let directory = File::open(data_dir)?;
    let start = Instant::now();
    while !lock::try_exclusive(&directory)? {
        if start.elapsed() >= LOCK_WAIT {
            let reason = format!(
                "another process has locked {} for more than {LOCK_WAIT:?}",
                data_dir.display()
            );
            return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let path = data_dir.join(BOOT_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let known = parse(&text);
    if let Some((number, id)) = known
        && id == boot_id
    {
        return Ok(number);
    }
    let seen = runs(data_dir)?.last().map_or(0, |run| run.boot);
    let number = known.map_or(0, |(number, _)| number).max(seen).checked_add(1);
    let number =
        number.ok_or_else(|| io::Error::other("the boot counter has reached its maximum"))?;
    replace(data_dir, &path, &format!("{number}\n{boot_id}\n"))?;
    Ok(number)
}

fn parse(text: &[u8]) -> Option<(u32, &str)> {
    let mut lines = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split('\n');
    let parsed = (lines.next()?.parse().ok()?, lines.next()?);
    lines.next().is_none().then_some(parsed)
}

/// Replaces a file. After a power failure it has either the old or the new text.
fn replace(data_dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    // A killed process may have left this file, or a user a link. Never write through it.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    sync_dir(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layout::{RunName, create_shard_dir};
    use crate::clock::UnixMicros;

    #[test]
    fn it_counts_boots_and_not_starts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(number(dir.path(), "a").unwrap(), 1);
        assert_eq!(number(dir.path(), "a").unwrap(), 1);
        assert_eq!(number(dir.path(), "b").unwrap(), 2);
        assert_eq!(
            number(dir.path(), "a").unwrap(),
            3,
            "an id that returns counts as another boot"
        );
        assert_eq!(std::fs::read(dir.path().join(BOOT_FILE)).unwrap(), b"3\na\n");
        assert_eq!(current(dir.path()).unwrap(), 4);
        assert_eq!(current(dir.path()).unwrap(), 4);
    }

    #[test]
    fn it_never_writes_through_a_file_or_link_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (next, elsewhere) = (dir.path().join("boot.next"), dir.path().join("elsewhere"));
        std::fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &next).unwrap();
        assert_eq!(number(dir.path(), "a").unwrap(), 1);
        std::fs::write(&next, "left over").unwrap();
        assert_eq!(number(dir.path(), "b").unwrap(), 2);
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
        assert!(dir.path().join(BOOT_FILE).symlink_metadata().unwrap().is_file() && !next.exists());
    }

    #[test]
    fn it_never_counts_back() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunName { boot: 7, started_at: UnixMicros(1), pid: 1 };
        create_shard_dir(dir.path(), &run, 0).unwrap();
        for (round, text) in
            ["", "x\na\n", "1", "7\na", "7\na\nb\n", "\n\n"].into_iter().enumerate()
        {
            std::fs::write(dir.path().join(BOOT_FILE), text).unwrap();
            assert_eq!(number(dir.path(), "a").unwrap(), 8, "round {round}: {text:?}");
        }
        std::fs::write(dir.path().join(BOOT_FILE), format!("{}\nz\n", u32::MAX)).unwrap();
        assert!(number(dir.path(), "a").is_err());
    }

    #[test]
    fn processes_that_start_together_agree() {
        let dir = tempfile::tempdir().unwrap();
        let ask = || number(dir.path(), "a").unwrap();
        let numbers: Vec<u32> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(numbers, [1; 8]);
    }
}
