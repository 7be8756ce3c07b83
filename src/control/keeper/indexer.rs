#![forbid(unsafe_code)]
//! Gives sealed segments their indexes, on a thread of its own: reading a segment takes as long as writing a few batches, and
//! neither shards nor the making of the next segment wait for that. Another thread looks after what earlier runs left behind.
//!
//! Nothing depends on it: an index that is missing is made by whoever reads next.

use crate::journal::layout::RunName;
use crate::journal::reader::{JournalError, ShardJournal};
use crate::journal::recovery::recover_all_but;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// A segment that is sealed.
pub(super) struct Sealed {
    pub(super) run: RunName,
    pub(super) shard: u16,
    pub(super) directory: PathBuf,
    pub(super) id: u64,
    /// Where its last batch ends, bytes, as its writer says; `None` if nobody does.
    pub(super) size: Option<u64>,
}

/// The indexer's thread, and the way to it.
#[derive(Debug)]
pub(super) struct Indexer {
    sealed: Option<Sender<Sealed>>,
    thread: Option<JoinHandle<()>>,
}

impl Indexer {
    /// Starts it.
    pub(super) fn start() -> io::Result<Indexer> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("indexer".into()).spawn(move || work(&receiver))?;
        Ok(Indexer { sealed: Some(sender), thread: Some(thread) })
    }

    /// Has a segment indexed. Its file is closed: nobody holds it any more.
    pub(super) fn index(&self, sealed: Sealed) {
        if let Some(sender) = &self.sealed {
            // Without a thread there is no index, and the next reader makes one.
            let _ = sender.send(sealed);
        }
    }
}

impl Drop for Indexer {
    /// Waits until what was sealed has its index.
    fn drop(&mut self) {
        self.sealed = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Has what earlier runs left behind looked after, on a thread of its own, for the run `own`. Nobody waits for it: a drain must
/// not, and what it leaves undone the next start does.
pub(super) fn start_recovery(data_dir: PathBuf, own: RunName) -> io::Result<()> {
    let recover = move || look_after(&data_dir, own);
    std::thread::Builder::new().name("recovery".into()).spawn(recover).map(|_| ())
}

fn look_after(data_dir: &Path, own: RunName) {
    match recover_all_but(Some(own), data_dir, &mut || ()) {
        Ok(report) if report.segments_read == 0 => {}
        Ok(report) if report.is_sound() => tracing::info!("journal of earlier runs: {}", one_line(&report.to_string())),
        Ok(report) => tracing::warn!(
            "journal of earlier runs: {}; `exo-ingest calls verify` says where",
            one_line(&report.to_string())
        ),
        Err(error) => tracing::warn!("cannot look after the journal of earlier runs: {error}"),
    }
}

fn work(sealed: &Receiver<Sealed>) {
    for segment in sealed {
        let (shard, id) = (segment.shard, segment.id);
        match index(segment) {
            Ok(Outcome::Stored | Outcome::Gone) => {}
            Ok(Outcome::Short) => tracing::warn!(
                shard,
                segment = id,
                "a sealed segment does not read back to its end: `exo-ingest calls verify` says more"
            ),
            Ok(Outcome::Refused) => {
                tracing::warn!(shard, segment = id, "no index can be written; the next reader tries again");
            }
            Err(error) => tracing::warn!(shard, segment = id, "no index is written: {error}"),
        }
    }
}

/// What became of a segment's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is beside its segment.
    Stored,
    /// There is nothing to index: retention was faster.
    Gone,
    /// The segment ends before its writer's last batch, so it gets none.
    Short,
    /// It could not be written.
    Refused,
}

pub(super) fn index(sealed: Sealed) -> Result<Outcome, JournalError> {
    let journal = match ShardJournal::of_segment(sealed.run, sealed.shard, sealed.directory, sealed.id) {
        Err(JournalError { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Gone),
        opened => opened?,
    };
    // Each batch tells what was durable before it, and none tells that it is itself. Its writer knows.
    let survey = match journal.survey_of(0, sealed.size.unwrap_or(0))? {
        Ok(survey) => survey,
        Err(None) => return Ok(Outcome::Gone),
        Err(Some(_)) => return Ok(if sealed.size.is_some() { Outcome::Short } else { Outcome::Gone }),
    };
    // Read alone, a batch that is gone from the end of a segment looks like one that was never written. The writer knows better:
    // an index that says so would hide the damage from later starts.
    let is_short = sealed.size.is_some_and(|size| size != survey.index.end);
    if is_short || survey.index.torn_at.is_some() {
        return Ok(Outcome::Short);
    }
    Ok(if journal.keep(&survey) { Outcome::Stored } else { Outcome::Refused })
}

fn one_line(report: &str) -> String {
    report.lines().collect::<Vec<_>>().join("; ")
}
