//! Seal on demand: asks the node of a live run to seal the segments that hold audio, so that it can
//! be deleted.
//!
//! A file `seal` in the run's directory is the request. The node renames it to `sealing` when it
//! begins, and removes that once everything it had received before is in sealed segments with an
//! index. Several processes may ask at the same time.

#![forbid(unsafe_code)]

use super::layout::{self, RunName};
use super::lock;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause between two looks at the answer.
const PAUSE: Duration = Duration::from_millis(50);

/// The result of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Runs whose nodes have sealed.
    pub sealed: Vec<RunName>,
    /// Runs whose nodes have not answered in time.
    pub late: Vec<RunName>,
}

/// Asks all nodes on a data directory to seal, and waits at most `timeout` for them. Without a live
/// node the report is empty: everything is sealed.
pub fn request(data_dir: &Path, timeout: Duration) -> io::Result<SealReport> {
    let mut report = SealReport::default();
    for run in layout::runs(data_dir)? {
        let run_dir = layout::run_dir(data_dir, &run);
        if is_alive(&run_dir)? {
            ask(&run_dir)?;
            report.late.push(run);
        }
    }
    let deadline = Instant::now() + timeout;
    while !report.late.is_empty() {
        let mut late = Vec::new();
        for run in std::mem::take(&mut report.late) {
            let run_dir = layout::run_dir(data_dir, &run);
            let is_waiting = request_path(&run_dir).exists() || sealing_path(&run_dir).exists();
            match is_waiting && is_alive(&run_dir)? {
                true => late.push(run),
                false => report.sealed.push(run),
            }
        }
        report.late = late;
        if Instant::now() >= deadline {
            break;
        }
        if !report.late.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(report)
}

/// The file that asks.
pub(crate) fn request_path(run_dir: &Path) -> PathBuf {
    run_dir.join("seal")
}

/// The same file while the node seals.
pub(crate) fn sealing_path(run_dir: &Path) -> PathBuf {
    run_dir.join("sealing")
}

fn ask(run_dir: &Path) -> io::Result<()> {
    let path = request_path(run_dir);
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        // Somebody else asks, and the node has not begun.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The run was removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        asked => asked.map(drop),
    }
}

/// Whether the process of a run is alive: it holds a lock on its directory.
pub(crate) fn is_alive(run_dir: &Path) -> io::Result<bool> {
    match File::open(run_dir) {
        Ok(directory) => lock::try_shared(directory).map(|is_won| !is_won),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layout::create_shard_dir;
    use crate::clock::UnixMicros;

    #[test]
    fn a_request_ends_when_the_node_answers_or_ends_or_is_late() {
        let data = tempfile::tempdir().unwrap();
        let [dead, answers, ends, late] = [1, 2, 3, 4].map(|pid| RunName {
            boot: 1,
            started_at: UnixMicros(pid),
            pid: pid as u32,
        });
        for run in [&dead, &answers, &ends, &late] {
            create_shard_dir(data.path(), run, 0).unwrap();
        }
        let dir = |run: &RunName| layout::run_dir(data.path(), run);
        let lock_of = |run: &RunName| {
            let file = File::open(dir(run)).unwrap();
            assert!(lock::try_exclusive(&file).unwrap());
            file
        };
        let (held, ending, _late) = (lock_of(&answers), lock_of(&ends), lock_of(&late));
        let (asked, asked_too) = (request_path(&dir(&answers)), request_path(&dir(&ends)));
        let node = std::thread::spawn(move || {
            while !asked.exists() || !asked_too.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::fs::remove_file(asked).unwrap();
            drop(ending);
            held
        });
        let report = request(data.path(), Duration::from_millis(500)).unwrap();
        let mut sealed = report.sealed;
        sealed.sort_unstable();
        assert_eq!((sealed, report.late), (vec![answers, ends], vec![late]));
        assert!(!request_path(&dir(&dead)).exists());
        drop(node.join().unwrap());
    }
}
