#![forbid(unsafe_code)]
//! Makes the index of a sealed segment if its writer could not note everything in it. It has its
//! own thread, because reading a segment takes as long as writing a few batches. So neither shards
//! nor the next segment wait for it. Another thread recovers the journal of earlier runs.
//!
//! The disk belongs to the shards: both threads rest far longer than they read. The newest segments
//! go first, because they stay the longest. (Rejected: reading every segment back. It doubled the
//! work of the disk, and on a slow disk ACKs waited for seconds. With rests between, a node with
//! thousands of calls left most of its segments without an index.)
//!
//! Nothing depends on these threads: the next reader makes a missing index.

use crate::archive::call_table;
use crate::archive::layout::RunName;
use crate::archive::reader::{JournalError, ShardJournal};
use crate::archive::recovery::recover_all_but;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many times as long as it has read the indexer rests.
const INDEXER_REST: u32 = 15;

/// The same for recovery, which should report sooner what a killed node left.
const RECOVERY_REST: u32 = 3;

/// The nice value with the least share of a CPU.
const LOWEST_PRIORITY: i32 = 19;

/// Most segments that may wait for an index. Of more, the oldest get none: retention removes them
/// soon.
const BACKLOG_MAX: usize = 4096;

/// How long an ending node continues with waiting segments, without a rest. The next start does the
/// others.
const FINISH_TIME_MAX: Duration = Duration::from_secs(2);

/// A sealed segment.
pub(super) struct Sealed {
    pub(super) run: RunName,
    pub(super) shard: u16,
    pub(super) directory: PathBuf,
    pub(super) id: u64,
    /// Where its last batch ends, bytes, as its writer says; `None` if its writer did not say.
    pub(super) size: Option<u64>,
}

/// What the indexer does.
enum Job {
    /// Read a segment and store its index.
    Segment(Sealed),
    /// Make the call table of a group of segments, and that of the group before, in case an index
    /// was late then. The shard's directory, and the group.
    Table(PathBuf, u64),
}

/// The indexer's thread, and the channel to it.
#[derive(Debug)]
pub(super) struct Indexer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Indexer {
    pub(super) fn start() -> io::Result<Indexer> {
        let (sender, receiver) = channel();
        let thread =
            std::thread::Builder::new().name("indexer".into()).spawn(move || work(&receiver))?;
        Ok(Indexer { jobs: Some(sender), thread: Some(thread) })
    }

    /// Queues a segment for an index. Its file is closed, so it has no lock.
    pub(super) fn index(&self, sealed: Sealed) {
        self.send(Job::Segment(sealed));
    }

    /// Queues a segment's call table, if the segment is the last of a group.
    pub(super) fn make_table(&self, shard_dir: &Path, id: u64) {
        let group = call_table::group_of(id);
        if id == *call_table::ids_of(group).end() {
            self.send(Job::Table(shard_dir.to_owned(), group));
        }
    }

    fn send(&self, job: Job) {
        if let Some(sender) = &self.jobs {
            // If the thread has ended there is no index, and the next reader makes one.
            let _ = sender.send(job);
        }
    }
}

impl Drop for Indexer {
    /// Waits until all sealed segments have their index, for at most [`FINISH_TIME_MAX`] and one
    /// segment.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts recovery of earlier runs on its own thread, for the run `own`. No other thread waits for
/// it, not even a drain. The next start does what it leaves undone.
pub(super) fn start_recovery(data_dir: PathBuf, own: RunName) -> io::Result<()> {
    let recover = move || look_after(&data_dir, own);
    std::thread::Builder::new().name("recovery".into()).spawn(recover).map(|_| ())
}

/// Gives way to every other thread of the machine: the checksums of a segment take tens of
/// milliseconds of CPU at a stretch.
fn give_way() {
    // On Linux this changes only the calling thread, and needs no privilege. If it fails, the
    // thread gives way less.
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
        // What earlier scans have found was logged then.
        Ok(report)
            if report.segments_read == 0 && report.damages.is_empty() && report.lost.is_empty() => {
        }
        Ok(report) if report.is_sound() => {
            tracing::info!("journal of earlier runs: {}", one_line(&report.to_string()))
        }
        Ok(report) => tracing::warn!(
            "journal of earlier runs: {}; `exo-ingest calls verify` says where",
            one_line(&report.to_string())
        ),
        Err(error) => tracing::warn!("cannot check the journal of earlier runs: {error}"),
    }
}

fn work(jobs: &Receiver<Job>) {
    give_way();
    let mut backlog = VecDeque::new();
    let mut rest = Duration::ZERO;
    // Until the node ends.
    while wait(jobs, &mut backlog, rest) {
        let begin = Instant::now();
        if let Some(job) = backlog.pop_back() {
            perform(job);
        }
        rest = begin.elapsed() * INDEXER_REST;
    }
    let end = Instant::now() + FINISH_TIME_MAX;
    while let Some(job) = backlog.pop_back().filter(|_| Instant::now() < end) {
        perform(job);
    }
}

/// Rests, and takes in the segments sealed meanwhile. If none waits, waits for one. Returns whether
/// more can come.
fn wait(jobs: &Receiver<Job>, backlog: &mut VecDeque<Job>, rest: Duration) -> bool {
    let end = Instant::now() + rest;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let next = match backlog.is_empty() {
            true => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => jobs.recv_timeout(left),
        };
        match next {
            Ok(job) => {
                if backlog.len() == BACKLOG_MAX {
                    backlog.pop_front();
                }
                backlog.push_back(job);
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn perform(job: Job) {
    match job {
        Job::Segment(segment) => store(segment),
        Job::Table(shard_dir, group) => {
            for group in [group.checked_sub(1), Some(group)].into_iter().flatten() {
                if let Err(error) = call_table::make(&shard_dir, group) {
                    tracing::warn!(
                        "cannot write a call table in {}: {error}; finding a call takes longer",
                        shard_dir.display()
                    );
                }
            }
        }
    }
}

/// Makes the index of one segment.
fn store(segment: Sealed) {
    let (shard, id) = (segment.shard, segment.id);
    match index(segment) {
        Ok(Outcome::Stored | Outcome::Gone) => {}
        Ok(Outcome::Short) => tracing::warn!(
            shard,
            segment = id,
            "a sealed segment cannot be read to its end: `exo-ingest calls verify` says more"
        ),
        Ok(Outcome::Refused) => {
            tracing::warn!(
                shard,
                segment = id,
                "cannot write an index; the next reader tries again"
            );
        }
        Err(error) => tracing::warn!(shard, segment = id, "no index is written: {error}"),
    }
}

/// The result for a segment's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The index is beside its segment.
    Stored,
    /// There is nothing to index: retention removed the segment first.
    Gone,
    /// The segment ends before its writer's last batch, so it gets no index.
    Short,
    /// The index could not be written.
    Refused,
}

pub(super) fn index(sealed: Sealed) -> Result<Outcome, JournalError> {
    let journal =
        match ShardJournal::of_segment(sealed.run, sealed.shard, sealed.directory, sealed.id) {
            Err(JournalError { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Outcome::Gone);
            }
            opened => opened?,
        };
    // Each batch says what was durable before it, and none says that it is durable itself. The
    // writer knows.
    let summary = match journal.summarize_durable(0, sealed.size.unwrap_or(0))? {
        Ok(summary) => summary,
        Err(None) => return Ok(Outcome::Gone),
        Err(Some(_)) => {
            return Ok(if sealed.size.is_some() { Outcome::Short } else { Outcome::Gone });
        }
    };
    // If the last batch of a segment is lost, reading the segment alone does not show it. The
    // writer knows the real end. An index with the wrong end would hide the damage from later
    // starts.
    let is_short = sealed.size.is_some_and(|size| size != summary.index.end);
    if is_short || summary.index.torn_at.is_some() {
        return Ok(Outcome::Short);
    }
    Ok(if journal.keep(&summary) { Outcome::Stored } else { Outcome::Refused })
}

fn one_line(report: &str) -> String {
    report.lines().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(id: u64) -> Job {
        let run = RunName { boot: 1, started_at: crate::clock::UnixMicros(1), pid: 1 };
        Job::Segment(Sealed { run, shard: 0, directory: PathBuf::new(), id, size: None })
    }

    fn id(job: &Job) -> u64 {
        match job {
            Job::Segment(segment) => segment.id,
            Job::Table(_, group) => *group,
        }
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
    fn if_too_many_segments_wait_the_newest_are_kept() {
        let (sender, receiver) = channel();
        let mut backlog = VecDeque::new();
        let count = BACKLOG_MAX as u64 + 10;
        (1..=count).for_each(|id| sender.send(sealed(id)).unwrap());
        assert!(wait(&receiver, &mut backlog, Duration::ZERO));
        assert_eq!((backlog.len(), id(backlog.back().unwrap())), (BACKLOG_MAX, count));
        assert_eq!(id(backlog.front().unwrap()), 11);
    }

    #[test]
    fn the_end_of_the_node_ends_a_rest_and_loses_no_waiting_segment() {
        let (sender, receiver) = channel();
        let mut backlog = VecDeque::new();
        let ending = std::thread::spawn(move || {
            (1..=3).for_each(|id| sender.send(sealed(id)).unwrap());
        });
        // If the rest did not end, this test would hang for an hour.
        assert!(!wait(&receiver, &mut backlog, Duration::from_secs(3600)));
        ending.join().unwrap();
        assert!(backlog.iter().map(id).eq(1..=3));
    }
}
