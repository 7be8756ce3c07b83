#![forbid(unsafe_code)]
//! Gives those sealed segments an index whose writer could not note all that is in them, on a thread of its own: reading one takes
//! as long as writing a few batches, and neither shards nor the making of the next segment wait for that. Another thread looks
//! after what earlier runs left behind.
//!
//! The disk is the shards': both threads rest far longer than they read. The newest go first, as they stay for longest.
//! (Rejected: reading every segment back. It doubled what the disk had to do, and where that was slow ACKs waited for seconds; at
//! rest in between, a node with thousands of calls left most of its segments without an index.)
//!
//! Nothing depends on it: an index that is missing is made by whoever reads next.

use crate::journal::layout::RunName;
use crate::journal::reader::{JournalError, ShardJournal};
use crate::journal::recovery::recover_all_but;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many times as long as it has read the indexer rests.
const INDEXER_REST: u32 = 15;

/// The same for recovery: what a killed node left behind is known sooner.
const RECOVERY_REST: u32 = 3;

/// The nice value that takes least of a CPU.
const LOWEST_PRIORITY: i32 = 19;

/// Segments that may wait for an index; of more, the oldest do without: retention is near them.
const BACKLOG_MAX: usize = 4096;

/// How long a node that ends goes on with what waits, without a rest. What is left then the next start does.
const FINISH_TIME_MAX: Duration = Duration::from_secs(2);

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
    /// Waits until what was sealed has its index, [`FINISH_TIME_MAX`] and a segment at most.
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

/// Gives way to every other thread of the machine: the checksums of a segment are tens of milliseconds of CPU at a stretch.
fn give_way() {
    // Of the calling thread alone, on Linux. Nobody needs a right for it; without, the thread is only less polite.
    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
}

fn look_after(data_dir: &Path, own: RunName) {
    give_way();
    let mut since = Instant::now();
    let mut rest = || {
        std::thread::sleep(since.elapsed() * RECOVERY_REST);
        since = Instant::now();
    };
    match recover_all_but(Some(own), data_dir, &mut rest) {
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
    give_way();
    let mut backlog = VecDeque::new();
    let mut rest = Duration::ZERO;
    // Until the node ends.
    while wait(sealed, &mut backlog, rest) {
        let begin = Instant::now();
        if let Some(segment) = backlog.pop_back() {
            store(segment);
        }
        rest = begin.elapsed() * INDEXER_REST;
    }
    let end = Instant::now() + FINISH_TIME_MAX;
    while let Some(segment) = backlog.pop_back().filter(|_| Instant::now() < end) {
        store(segment);
    }
}

/// Rests, and takes in what is sealed meanwhile; if nothing waits, until something does. Whether more can come.
fn wait(sealed: &Receiver<Sealed>, backlog: &mut VecDeque<Sealed>, rest: Duration) -> bool {
    let end = Instant::now() + rest;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let next = match backlog.is_empty() {
            true => sealed.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => sealed.recv_timeout(left),
        };
        match next {
            Ok(segment) => {
                if backlog.len() == BACKLOG_MAX {
                    backlog.pop_front();
                }
                backlog.push_back(segment);
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Gives one segment its index.
fn store(segment: Sealed) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(id: u64) -> Sealed {
        let run = RunName { boot: 1, started_at: crate::clock::UnixMicros(1), pid: 1 };
        Sealed { run, shard: 0, directory: PathBuf::new(), id, size: None }
    }

    #[test]
    fn giving_way_is_for_the_thread_that_does() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let there = std::thread::spawn(move || {
            give_way();
            priority()
        });
        assert_eq!((there.join().unwrap(), priority()), (LOWEST_PRIORITY, before));
    }

    #[test]
    fn of_more_segments_than_may_wait_the_newest_are_kept() {
        let (sender, receiver) = channel();
        let mut backlog = VecDeque::new();
        let count = BACKLOG_MAX as u64 + 10;
        (1..=count).for_each(|id| sender.send(sealed(id)).unwrap());
        assert!(wait(&receiver, &mut backlog, Duration::ZERO));
        assert_eq!((backlog.len(), backlog.back().unwrap().id), (BACKLOG_MAX, count));
        assert_eq!(backlog.front().unwrap().id, 11);
    }

    #[test]
    fn the_end_of_the_node_ends_a_rest_and_loses_nothing_that_waits() {
        let (sender, receiver) = channel();
        let mut backlog = VecDeque::new();
        let ending = std::thread::spawn(move || {
            (1..=3).for_each(|id| sender.send(sealed(id)).unwrap());
        });
        // A test that hung for an hour would say enough.
        assert!(!wait(&receiver, &mut backlog, Duration::from_secs(3600)));
        ending.join().unwrap();
        assert!(backlog.iter().map(|segment| segment.id).eq(1..=3));
    }
}
