#![forbid(unsafe_code)]
//! The configuration file of a running node: read on SIGHUP, and when it changes. It is taken whole
//! or not at all. What its settings mean is not known here: a function of the caller's reads them.

use super::watched::{self, WatchedFiles};
use crate::node::reloadable::ReloadableSettings;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Largest configuration file, bytes: with every setting and its comment it has some KiB.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// Reads the settings in the text of the file, and names in the log what has changed. An error is a
/// sentence; then nothing has changed.
pub(crate) type ReadSettings = Box<dyn FnMut(&str) -> Result<ReadOutcome, String>>;

/// What a good file comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReadOutcome {
    /// What the node goes on with.
    pub(crate) settings: ReloadableSettings,
    /// The time over which a draining node closes its calls.
    pub(crate) drain: Duration,
    /// The time before that in which it still answers.
    pub(crate) drain_grace: Duration,
    /// Settings that have another value from now on.
    pub(crate) applied: usize,
    /// Settings that have another value in the file, which takes a restart.
    pub(crate) pending: usize,
}

/// The file, and what it looked like when it was last read or refused.
pub(crate) struct SettingsFile {
    path: PathBuf,
    watched: WatchedFiles,
    read: ReadSettings,
    /// It has been read since the node started.
    is_known: bool,
}

impl fmt::Debug for SettingsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SettingsFile {
    /// A file whose settings hold already. The first poll reads it all the same: it may have
    /// changed since.
    pub(crate) fn new(path: PathBuf, read: ReadSettings) -> SettingsFile {
        let watched = WatchedFiles::new(vec![path.clone()]);
        SettingsFile { path, watched, read, is_known: false }
    }

    /// Reads the file now.
    pub(super) async fn reload(&mut self) -> Result<ReadOutcome, String> {
        self.is_known = true;
        self.watched.settle().await;
        let unreadable = |reason: &str| {
            format!("cannot read the configuration file {} ({reason})", self.path.display())
        };
        let file = watched::read(&self.path, FILE_SIZE_MAX).await;
        let file = file.map_err(|error| unreadable(&error.reason))?;
        let text = String::from_utf8(file.text).map_err(|_| unreadable("it is not UTF-8"))?;
        (self.read)(&text)
    }

    /// To be called about once a second: reads the file if it has changed since the last attempt
    /// and looked the same in two polls.
    pub(super) async fn poll(&mut self) -> Option<Result<ReadOutcome, String>> {
        if !self.watched.have_changed().await {
            return None;
        }
        let is_first = !self.is_known;
        let outcome = self.reload().await;
        let is_unchanged = matches!(&outcome, Ok(read) if read.applied + read.pending == 0);
        (!is_first || !is_unchanged).then_some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio_uring::start;

    /// What a file with a number in it comes to.
    fn read(text: &str) -> Result<ReadOutcome, String> {
        let applied = text.trim().parse().map_err(|_| "no number".to_owned())?;
        let settings = ReloadableSettings::default();
        let drain = Duration::ZERO;
        Ok(ReadOutcome { settings, drain, drain_grace: drain, applied, pending: 0 })
    }

    #[test]
    fn what_has_not_changed_since_the_start_is_not_worth_a_word() {
        start(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("exo.toml");
            std::fs::write(&path, "0").unwrap();
            let texts = Rc::new(RefCell::new(Vec::new()));
            let seen = Rc::clone(&texts);
            let keep = move |text: &str| {
                seen.borrow_mut().push(text.to_owned());
                read(text)
            };
            let mut file = SettingsFile::new(path.clone(), Box::new(keep));
            for _ in 0..3 {
                assert_eq!(file.poll().await, None);
            }
            assert_eq!(*texts.borrow(), ["0"], "but it was read, and once");

            // Later it is, even where it says the same.
            for (text, applied) in [("3", Ok(3)), ("00", Ok(0)), ("bad", Err(())), ("0", Ok(0))] {
                std::fs::write(&path, text).unwrap();
                assert_eq!(file.poll().await, None, "a change seen once may still be going on");
                let outcome = file.poll().await.expect("it was read");
                assert_eq!(outcome.map(|read| read.applied).map_err(drop), applied, "{text}");
                assert_eq!(file.poll().await, None);
            }
            assert_eq!(file.reload().await.map(|read| read.applied), Ok(0));
        });
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        start(async {
            let directory = tempfile::tempdir().unwrap();
            let latin = directory.path().join("latin.toml");
            std::fs::write(&latin, b"# Z\xfcrich\n").unwrap();
            for path in [latin, directory.path().to_owned(), directory.path().join("none")] {
                let mut file = SettingsFile::new(path.clone(), Box::new(read));
                let error = file.reload().await.unwrap_err();
                assert!(error.contains(&path.display().to_string()), "{error}");
            }
            // Changed before the node has looked at it for the first time.
            let path = directory.path().join("exo.toml");
            std::fs::write(&path, "1").unwrap();
            let mut file = SettingsFile::new(path, Box::new(read));
            assert_eq!(file.poll().await, None);
            assert!(matches!(file.poll().await, Some(Ok(read)) if read.applied == 1));
        });
    }
}
