//! Calls that were deleted from a journal and that a sink must erase, too: files beside its cursor.
//!
//! ```text
//! DATA_DIR/sinks/<name of the cursor>                         how far the sink has come
//! DATA_DIR/sinks/<name of the cursor>.erase/<time>-<pid>-<n>  a call to erase, as JSON
//! ```
//! `calls delete` makes the file durable and holds its lock before it erases the first byte. It
//! gives the lock back when the call is gone from the journal. A forwarder removes the file when
//! the sink has erased the call. It begins once the sink has everything of the call: nothing that
//! was read before the deletion can reach the sink after that.
//!
//! While a command holds the lock, a forwarder closes the segments of the call that it reads: a
//! segment that is being read cannot be changed.

#![forbid(unsafe_code)]

use super::cursor::{self, Cursor, ShardName};
use super::slice::NodeName;
use crate::archive::layout::{RunName, sync_dir};
use crate::archive::lock;
use crate::archive::reader::{Call, CallEpoch, Journal, JournalError, ShardJournal};
use crate::call::{CallIdentity, Epoch};
use crate::clock::UnixMicros;
use crate::format::Lsn;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the files.
const VERSION: u32 = 1;

/// Ending of a file that is not complete.
const UNFINISHED: &str = "new";

/// Requests that are read at a time, of the oldest and of the newest: a sink may be away for long.
const READ_MAX: usize = 500;

/// Tells the requests of a process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A call that a sink must erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// The call.
    pub identity: CallIdentity,
    /// When it was deleted from the journal.
    pub asked_at: UnixMicros,
    /// The node's name in the sink.
    pub node: NodeName,
    /// What was deleted of it.
    pub epochs: Vec<ErasedEpoch>,
    /// Names of its WAV files and receipts in an archive, up to where they may differ.
    pub files: Vec<String>,
}

/// An epoch that a sink must erase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedEpoch {
    /// The call's record number.
    pub call: u64,
    /// The epoch.
    pub epoch: Epoch,
    /// When it started; 0 if that is not known.
    pub started_at: UnixMicros,
    /// The shard of the journal that holds it.
    pub shard: ShardName,
    /// Position after the last segment that holds it.
    pub end: Lsn,
}

impl Erasure {
    /// Whether a sink with these positions has everything of the call. `None`: nothing more comes
    /// of the shard.
    pub fn is_sent(&self, position: impl Fn(&ShardName) -> Option<Lsn>) -> bool {
        let is_past = |epoch: &ErasedEpoch| position(&epoch.shard).is_none_or(|at| at >= epoch.end);
        self.epochs.iter().all(is_past)
    }

    /// Up to where a shard's journal holds the call; `None` if it does not.
    pub fn end_in(&self, shard: &ShardName) -> Option<Lsn> {
        let ours = self.epochs.iter().filter(|epoch| epoch.shard == *shard);
        ours.map(|epoch| epoch.end).max()
    }
}

/// A sink that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AskedSink {
    /// Its URL; the name of its cursor if that is damaged.
    pub sink: String,
}

/// Requests of one deletion. Dropped, they stay.
#[derive(Debug)]
pub struct Asked {
    sinks: Vec<AskedSink>,
    /// Files with their locks.
    files: Vec<(PathBuf, File)>,
}

impl Asked {
    /// Asks each sink of the journal to erase the epochs of a call. The requests are durable then,
    /// and locked until this is dropped.
    pub fn write(journal: &Journal, call: &Call, files: &[String]) -> Result<Asked, JournalError> {
        let mut asked = Asked { sinks: Vec::new(), files: Vec::new() };
        let cursors = cursor::list(journal.data_dir())?;
        if cursors.is_empty() {
            return Ok(asked);
        }
        let epochs = call.epochs.iter().filter_map(|it| erased_epoch(journal, it).transpose());
        let epochs = epochs.collect::<Result<Vec<_>, JournalError>>()?;
        for (path, cursor) in cursors {
            let Some(cursor) = cursor else {
                // The forwarder asks the sink what it has, and writes a new one.
                let error = io::Error::other("it is damaged: remove it, and try again");
                return Err(JournalError { path, error });
            };
            let erasure = Erasure {
                identity: call.identity.clone(),
                asked_at: now(),
                node: cursor.node().clone(),
                epochs: epochs.clone(),
                files: files.to_vec(),
            };
            let dir = directory(&path);
            let stored = erasure.store(&dir);
            asked.files.push(stored.map_err(|error| JournalError { path: dir, error })?);
            asked.sinks.push(AskedSink { sink: cursor.url().to_owned() });
        }
        Ok(asked)
    }

    /// The sinks.
    pub fn sinks(&self) -> &[AskedSink] {
        &self.sinks
    }

    /// Takes the requests back: nothing was deleted.
    pub fn withdraw(self) -> io::Result<()> {
        self.files.iter().try_for_each(|(path, _)| std::fs::remove_file(path))
    }
}

/// Where an epoch is; `None` if the journal does not know its shard.
fn erased_epoch(
    journal: &Journal,
    call_epoch: &CallEpoch,
) -> Result<Option<ErasedEpoch>, JournalError> {
    let Some(shard) = journal.shards().get(call_epoch.shard) else { return Ok(None) };
    let mut end = Lsn(0);
    for part in call_epoch.parts.iter() {
        end = end.max(end_of(shard, part.segment)?);
    }
    Ok(Some(ErasedEpoch {
        call: call_epoch.call,
        epoch: call_epoch.epoch,
        started_at: call_epoch.facts.as_ref().map_or(UnixMicros(0), |facts| facts.started_at),
        shard: (*shard.run(), shard.shard()),
        end,
    }))
}

/// Position after the last batch of a segment.
fn end_of(shard: &ShardJournal, position: usize) -> Result<Lsn, JournalError> {
    if let Some(end) = shard.place(position)?.end {
        return Ok(end);
    }
    // Nothing follows it yet.
    let index = shard.index(position)?;
    Ok(index.map_or(Lsn(u64::MAX), |(index, _)| Lsn(index.start.0 + index.end)))
}

fn now() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The requests for the sink of a cursor.
fn directory(cursor: &Path) -> PathBuf {
    let mut name = cursor.as_os_str().to_owned();
    name.push(".erase");
    name.into()
}

/// What a sink is asked to erase.
#[derive(Clone, Debug)]
pub struct Erasures {
    dir: PathBuf,
}

/// Requests that are there now.
#[derive(Debug, Default)]
pub struct Waiting {
    /// A command deletes these from the journal now.
    pub held: Vec<Erasure>,
    /// These are deleted from the journal. Oldest first, with their files.
    pub ready: Vec<(PathBuf, Erasure)>,
    /// More are there that were not read yet.
    unread: u64,
}

impl Waiting {
    /// How many there are.
    pub fn count(&self) -> u64 {
        (self.held.len() + self.ready.len()) as u64 + self.unread
    }

    /// Up to where a command deletes calls from a shard; `None` if none does.
    pub fn held_to(&self, shard: &ShardName) -> Option<Lsn> {
        self.held.iter().filter_map(|erasure| erasure.end_in(shard)).max()
    }

    /// The requests that the sink can work on, because it has everything of their calls.
    pub fn take_sent(
        &mut self,
        position: impl Fn(&ShardName) -> Option<Lsn>,
    ) -> Vec<(PathBuf, Erasure)> {
        self.ready.extract_if(.., |(_, erasure)| erasure.is_sent(&position)).collect()
    }
}

impl Erasures {
    /// Of the sink with this URL.
    pub fn new(data_dir: &Path, url: &str) -> Erasures {
        Erasures { dir: directory(&Cursor::path(data_dir, url)) }
    }

    /// The requests that are there. A file that cannot be read is an error: it may ask to erase.
    pub fn look(&self) -> Result<Waiting, JournalError> {
        let at = |error| JournalError { path: self.dir.clone(), error };
        let mut waiting = Waiting::default();
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(waiting);
            }
            entries => entries.map_err(at)?,
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(at)?;
        // A command that ended before its request was complete had deleted nothing.
        paths.retain(|path| path.extension().is_none_or(|ending| ending != UNFINISHED));
        paths.sort();
        // The oldest come first. A command that is at work has the newest.
        if paths.len() > 2 * READ_MAX {
            waiting.unread = paths.drain(READ_MAX..paths.len() - READ_MAX).count() as u64;
        }
        for path in paths {
            let found = load(&path);
            match found.map_err(|error| JournalError { path: path.clone(), error })? {
                Some((erasure, true)) => waiting.held.push(erasure),
                Some((erasure, false)) => waiting.ready.push((path, erasure)),
                None => {}
            }
        }
        Ok(waiting)
    }
}

/// The sink has erased the call.
pub fn done(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(JournalError { path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// A request, and whether a command is at work on it. `None`: it is gone.
fn load(path: &Path) -> io::Result<Option<(Erasure, bool)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // The lock before the text: a command that takes its request back does so under its lock.
    let is_held = !lock::try_shared(&file)?;
    if !lock::is_still(path, &file)? {
        return Ok(None);
    }
    let text = io::read_to_string(&file)?;
    let erasure = Stored::decode(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((erasure, is_held)))
}

impl Erasure {
    /// Writes the request, and keeps its lock.
    fn store(&self, dir: &Path) -> io::Result<(PathBuf, File)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = dir.join(format!("{:016x}-{pid}-{number}", self.asked_at.0));
        let unfinished = path.with_extension(UNFINISHED);
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        lock::try_exclusive(&file)?;
        file.write_all(Stored::encode(self).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        // Its name, and that of the directory.
        sync_dir(dir)?;
        dir.parent().map_or(Ok(()), sync_dir)?;
        Ok((path, file))
    }
}

/// The text of a request.
#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    version: u32,
    tenant: String,
    interaction: String,
    asked_at: u64,
    node: String,
    epochs: Vec<StoredEpoch>,
    files: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct StoredEpoch {
    call: u64,
    boot: u32,
    micros: u64,
    epoch_shard: u16,
    started_at: u64,
    run: String,
    shard: u16,
    end: u64,
}

impl Stored {
    fn encode(erasure: &Erasure) -> String {
        let epochs = erasure.epochs.iter().map(|it| StoredEpoch {
            call: it.call,
            boot: it.epoch.boot,
            micros: it.epoch.micros,
            epoch_shard: it.epoch.shard,
            started_at: it.started_at.0,
            run: it.shard.0.to_string(),
            shard: it.shard.1,
            end: it.end.0,
        });
        let stored = Stored {
            version: VERSION,
            tenant: erasure.identity.tenant.to_string(),
            interaction: erasure.identity.interaction.to_string(),
            asked_at: erasure.asked_at.0,
            node: erasure.node.to_string(),
            epochs: epochs.collect(),
            files: erasure.files.clone(),
        };
        // Strings and numbers under constant names always become JSON.
        serde_json::to_string(&stored).expect("a request is JSON") + "\n"
    }

    fn decode(text: &str) -> Option<Erasure> {
        let stored: Stored = serde_json::from_str(text).ok()?;
        let epochs = stored.epochs.into_iter().map(|it| {
            Some(ErasedEpoch {
                call: it.call,
                epoch: Epoch { boot: it.boot, micros: it.micros, shard: it.epoch_shard },
                started_at: UnixMicros(it.started_at),
                shard: (RunName::parse(&it.run)?, it.shard),
                end: Lsn(it.end),
            })
        });
        let identity = CallIdentity {
            tenant: stored.tenant.as_str().into(),
            interaction: stored.interaction.as_str().into(),
        };
        (stored.version == VERSION).then_some(())?;
        Some(Erasure {
            identity,
            asked_at: UnixMicros(stored.asked_at),
            node: NodeName::parse(&stored.node).ok()?,
            epochs: epochs.collect::<Option<Vec<_>>>()?,
            files: stored.files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};

    /// A journal with a call, and the cursor of a sink.
    fn sample(dir: &Path, url: &str) -> (Journal, Call) {
        let mut image = Image::new(image::run(1), 0, 64 * 1024).unwrap();
        let call = image.start("acme", "a/b", 8_000);
        image.frame(call, &[1; 640]);
        image.end(call, 1);
        image.seal();
        image.store(dir).unwrap();
        let node = NodeName::parse("node-1").unwrap();
        Cursor::new(url, node).store(&Cursor::path(dir, url)).unwrap();
        let journal = Journal::open(dir).unwrap();
        let call = journal.catalog(&mut || {}).unwrap().calls.remove(0);
        (journal, call)
    }

    #[test]
    fn a_request_is_held_until_the_command_is_done_and_stays_until_the_sink_is() {
        let (dir, url) = (tempfile::tempdir().unwrap(), "s3://bucket/a");
        let (journal, call) = sample(dir.path(), url);
        let erasures = Erasures::new(dir.path(), url);
        assert_eq!(erasures.look().unwrap().count(), 0);
        let asked = Asked::write(&journal, &call, &["calls/acme/x".to_owned()]).unwrap();
        assert_eq!(asked.sinks(), [AskedSink { sink: url.to_owned() }]);
        let shard = (image::run(1), 0);
        let waiting = erasures.look().unwrap();
        assert_eq!((waiting.held.len(), waiting.ready.len()), (1, 0));
        let end = waiting.held_to(&shard).unwrap();
        assert!(end > Lsn(0) && end < Lsn(u64::MAX));
        assert_eq!(waiting.held_to(&(image::run(1), 1)), None);
        drop(asked);
        let mut waiting = erasures.look().unwrap();
        assert_eq!((waiting.held.len(), waiting.ready.len()), (0, 1));
        let erasure = &waiting.ready[0].1;
        assert_eq!((&erasure.identity, erasure.node.as_str()), (&call.identity, "node-1"));
        assert_eq!(erasure.files, ["calls/acme/x"]);
        // The sink works on it once it has everything of the call.
        assert!(waiting.take_sent(|_| Some(Lsn(end.0 - 1))).is_empty());
        let sent = waiting.take_sent(|_| Some(end));
        done(&sent[0].0).unwrap();
        done(&sent[0].0).unwrap();
        assert_eq!(erasures.look().unwrap().count(), 0);
    }

    #[test]
    fn a_request_can_be_taken_back_and_one_that_is_not_complete_does_not_count() {
        let (dir, url) = (tempfile::tempdir().unwrap(), "s3://bucket/a");
        let (journal, call) = sample(dir.path(), url);
        let erasures = Erasures::new(dir.path(), url);
        Asked::write(&journal, &call, &[]).unwrap().withdraw().unwrap();
        assert_eq!(erasures.look().unwrap().count(), 0);
        std::fs::write(erasures.dir.join("0-1-0.new"), "{").unwrap();
        assert_eq!(erasures.look().unwrap().count(), 0);
        std::fs::write(erasures.dir.join("0-1-1"), "{").unwrap();
        assert!(erasures.look().is_err(), "it may ask to erase a call");
    }

    #[test]
    fn a_journal_that_no_sink_has_seen_asks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, call) = sample(dir.path(), "s3://bucket/a");
        std::fs::remove_dir_all(dir.path().join("sinks")).unwrap();
        assert_eq!(Asked::write(&journal, &call, &[]).unwrap().sinks(), []);
    }
}
