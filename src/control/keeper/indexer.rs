#![forbid(unsafe_code)]
//! Gives sealed segments their indexes, on a thread of its own: reading a segment takes as long as writing a few batches, and
//! neither shards nor the making of the next segment wait for that. First of all it looks after what earlier runs left behind.
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
}

/// The indexer's thread, and the way to it.
#[derive(Debug)]
pub(super) struct Indexer {
    sealed: Option<Sender<Sealed>>,
    thread: Option<JoinHandle<()>>,
}

impl Indexer {
    /// Starts it on a data directory, for the run `own`.
    pub(super) fn start(data_dir: PathBuf, own: RunName) -> io::Result<Indexer> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("indexer".into()).spawn(move || work(&data_dir, own, &receiver))?;
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

fn work(data_dir: &Path, own: RunName, sealed: &Receiver<Sealed>) {
    match recover_all_but(Some(own), data_dir, &mut || ()) {
        Ok(report) if report.segments_read == 0 => {}
        Ok(report) if report.is_sound() => tracing::info!("journal of earlier runs: {}", one_line(&report.to_string())),
        Ok(report) => tracing::warn!(
            "journal of earlier runs: {}; `exo-ingest calls verify` says where",
            one_line(&report.to_string())
        ),
        Err(error) => tracing::warn!("cannot look after the journal of earlier runs: {error}"),
    }
    for segment in sealed {
        let (shard, id) = (segment.shard, segment.id);
        if let Err(error) = index(segment) {
            tracing::warn!(shard, segment = id, "no index is written: {error}");
        }
    }
}

fn index(sealed: Sealed) -> Result<(), JournalError> {
    let journal = ShardJournal::of_segment(sealed.run, sealed.shard, sealed.directory, sealed.id)?;
    if let Ok(survey) = journal.survey(0)? {
        journal.keep(&survey);
    }
    Ok(())
}

fn one_line(report: &str) -> String {
    report.lines().collect::<Vec<_>>().join("; ")
}
