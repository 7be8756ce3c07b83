//! A cursor that gives the records of a shard as they are written. The caller polls it.
//!
//! The records are written, not necessarily durable. The cursor never waits: the caller decides
//! how often to poll.
//!
//! A follower of one epoch reads only its records ([`epoch_tail`](super::epoch_tail)). The cursor
//! on all records serves it where there is no index.

#![forbid(unsafe_code)]

use super::epoch_tail::{EpochTail, Step};
use super::frames::{Assembly, Chunks, Frame};
use super::{CallEpoch, Journal, JournalError, OwnedRecord, Segment, ShardJournal, at};
use crate::archive::layout::RunName;
use crate::archive::scan::{Advance, ScanOptions, SegmentScan};
use crate::archive::source::{Holder, SegmentFile};
use crate::call::Epoch;
use crate::format::{Lsn, RecordKind};
use std::collections::VecDeque;
use std::path::PathBuf;

/// The result of [`Follow::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// There were records; poll again at once.
    Records,
    /// Nothing new; poll again later.
    Pending,
    /// Nothing new, and no process writes here any more.
    End,
}

/// The audio of one epoch as it is written.
#[derive(Debug)]
pub struct EpochFollow {
    /// The shard when following began, and the epoch's chunks in all of its segments but the last.
    sealed: Option<(ShardJournal, Chunks)>,
    /// The segments from the last one on.
    tail: EpochTail,
    /// Reads all of a segment without an index.
    whole: Option<Whole>,
    call: u64,
    epoch: Epoch,
    assembly: Assembly,
    /// Bytes read of what is done.
    bytes_read: u64,
    has_ended: bool,
}

/// A cursor on a segment without an index.
#[derive(Debug)]
struct Whole {
    follow: Follow,
    /// The last segment that has a record of the epoch.
    last_id: u64,
    /// The node keeps no live index, so the next segments are read in the same way.
    is_for_good: bool,
    /// Skips what is there at the first look.
    skips: bool,
}

impl Journal {
    /// Follows an epoch of this journal, from its first frame on. Only the epoch's records are
    /// read, at the places that indexes say. The node adds to the index of the segment that it
    /// writes about twice a second. If it does not, as an older version, all records of the shard
    /// are read.
    pub fn follow_epoch(&self, call_epoch: &CallEpoch) -> Option<EpochFollow> {
        let shard = self.shards().get(call_epoch.shard)?;
        let mut chunks = Chunks::new(call_epoch);
        let mut follow = self.follow_from(call_epoch, call_epoch.parts.last()?.segment, false)?;
        chunks.pop_last();
        let listed = ShardJournal::open(*shard.run(), shard.shard(), shard.dir().to_owned());
        // The positions are those of this journal: a listing of now may have fewer segments.
        let is_same = |listed: &ShardJournal| listed.ids().first() == shard.ids().first();
        match listed.ok().filter(is_same) {
            Some(listed) => follow.sealed = Some((listed, chunks)),
            // Retention has removed some meanwhile. What is left is read segment by segment.
            None => {
                let first = call_epoch.parts.first().map_or(0, |part| part.segment);
                follow = self.follow_from(call_epoch, first, false)?;
            }
        }
        Some(follow)
    }

    /// As [`Journal::follow_epoch`], from now on.
    pub fn follow_epoch_now(&self, call_epoch: &CallEpoch) -> Option<EpochFollow> {
        self.follow_from(call_epoch, call_epoch.parts.last()?.segment, true)
    }

    fn follow_from(
        &self,
        call_epoch: &CallEpoch,
        position: usize,
        skips: bool,
    ) -> Option<EpochFollow> {
        let shard = self.shards().get(call_epoch.shard)?;
        let (call, epoch) = (call_epoch.call, call_epoch.epoch);
        Some(EpochFollow {
            sealed: None,
            tail: EpochTail::new(shard, position, (call, epoch), skips)?,
            whole: None,
            call,
            epoch,
            assembly: Assembly::default(),
            bytes_read: 0,
            has_ended: false,
        })
    }
}

impl EpochFollow {
    /// Passes the frames completed since the last poll to `take`. [`Polled::End`] means that the
    /// epoch or its node has ended.
    pub fn poll(&mut self, mut take: impl FnMut(Frame<'_>)) -> Result<Polled, JournalError> {
        if self.has_ended {
            return Ok(Polled::End);
        }
        if let Some((shard, chunks)) = &mut self.sealed {
            if let Some(chunk) = chunks.next(shard)? {
                if self.assembly.add(&chunk.header, &chunk.payload) {
                    take(self.assembly.frame());
                }
                return Ok(Polled::Records);
            }
            self.bytes_read += chunks.bytes_read();
            self.sealed = None;
        }
        if self.whole.is_some() {
            return self.poll_whole(take);
        }
        let mut chunks = VecDeque::new();
        let skips = self.tail.skips();
        let step = self.tail.poll(&mut chunks)?;
        for chunk in chunks {
            if self.assembly.add(&chunk.header, &chunk.payload) {
                take(self.assembly.frame());
            }
        }
        Ok(match step {
            Step::Chunks => Polled::Records,
            Step::Pending => Polled::Pending,
            Step::End => Polled::End,
            Step::Over => {
                self.has_ended = true;
                Polled::End
            }
            Step::Unindexed => {
                let is_for_good = self.tail.is_live() && !self.tail.has_live_index();
                let (follow, last_id) = (Follow::after(&self.tail), self.tail.id());
                self.whole = Some(Whole { follow, last_id, is_for_good, skips });
                Polled::Records
            }
        })
    }

    /// Bytes read from segments and indexes.
    pub fn bytes_read(&self) -> u64 {
        let sealed = self.sealed.as_ref().map_or(0, |(_, chunks)| chunks.bytes_read());
        let whole = self.whole.as_ref().map_or(0, |whole| whole.follow.bytes_read());
        self.bytes_read + sealed + whole + self.tail.bytes_read()
    }

    /// As [`EpochFollow::poll`], in a segment without an index.
    fn poll_whole(&mut self, mut take: impl FnMut(Frame<'_>)) -> Result<Polled, JournalError> {
        let EpochFollow { whole, call, epoch, assembly, has_ended, .. } = self;
        let Some(Whole { follow, last_id, is_for_good, skips }) = whole else {
            return Ok(Polled::Pending);
        };
        let mut is_there = false;
        let polled = follow.poll(|record| {
            let header = &record.header;
            if (header.call, header.epoch) != (*call, *epoch) {
                return;
            }
            is_there = true;
            match header.kind {
                RecordKind::Audio => {
                    let is_complete = assembly.add(header, &record.payload);
                    if is_complete && !*skips {
                        take(assembly.frame());
                    }
                }
                RecordKind::End => *has_ended = true,
                _ => {}
            }
        })?;
        *skips &= polled != Polled::Pending;
        if is_there {
            *last_id = follow.segment_id().unwrap_or(*last_id);
        }
        // Each segment repeats the records of the calls that go on. A whole segment without the
        // epoch means that it ended without a record that says so.
        if follow.done_id > *last_id {
            *has_ended = true;
        }
        if *is_for_good {
            return Ok(polled);
        }
        let is_done = follow.done_id >= self.tail.id();
        if is_done {
            self.tail.move_to(follow.done_id + 1);
        } else if polled == Polled::Pending && self.tail.has_live_index() {
            // The live index was late.
            self.tail.move_along(follow.lsn());
        } else {
            return Ok(polled);
        }
        self.bytes_read += follow.bytes_read();
        self.whole = None;
        Ok(polled)
    }
}

/// A cursor on the records of a shard.
#[derive(Debug)]
pub struct Follow {
    run: RunName,
    shard: u16,
    dir: PathBuf,
    lsn: Lsn,
    /// The segment it reads, and that segment's number.
    current: Option<(u64, Box<SegmentScan<SegmentFile>>)>,
    /// The number of the last segment that is done; 0 for none.
    done_id: u64,
    /// Bytes read from segments that are done.
    bytes_read: u64,
}

impl Follow {
    pub(super) fn new(run: RunName, shard: u16, dir: PathBuf, lsn: Lsn) -> Follow {
        Follow { run, shard, dir, lsn, current: None, done_id: 0, bytes_read: 0 }
    }

    /// From where another reader is.
    fn after(tail: &EpochTail) -> Follow {
        let (run, shard, dir) = tail.shard();
        let follow = Follow::new(run, shard, dir, tail.lsn());
        Follow { done_id: tail.id().saturating_sub(1), ..follow }
    }

    /// Bytes read from segments.
    fn bytes_read(&self) -> u64 {
        self.bytes_read + self.current.as_ref().map_or(0, |(_, scan)| scan.bytes_read())
    }

    /// Position after the last record it gave, where another cursor can continue. Each batch is
    /// given whole.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The segment that it reads.
    fn segment_id(&self) -> Option<u64> {
        self.current.as_ref().map(|(id, _)| *id)
    }

    /// Passes the records of the next batch at or after its position to `take`.
    pub fn poll(&mut self, mut take: impl FnMut(OwnedRecord)) -> Result<Polled, JournalError> {
        loop {
            let Some((id, scan)) = &mut self.current else {
                match self.open_next()? {
                    Polled::Records => continue,
                    other => return Ok(other),
                }
            };
            let error_path = super::segment_path(&self.dir, *id);
            match scan.advance().map_err(at(&error_path))? {
                Advance::Batch => {
                    let from = self.lsn;
                    scan.records()
                        .filter(|found| found.lsn >= from)
                        .for_each(|found| take(found.into()));
                    self.lsn = from.max(scan.lsn());
                    return Ok(Polled::Records);
                }
                Advance::End => {
                    self.done_id = *id;
                    self.bytes_read += scan.bytes_read();
                    self.current = None;
                }
                Advance::Pending => {
                    let id = *id;
                    let shard = ShardJournal::open(self.run, self.shard, self.dir.clone())?;
                    let Some((_, scan)) = &mut self.current else { continue };
                    let (end, is_followed) = match shard.position(id) {
                        Some(position) => {
                            (shard.place(position)?.end, shard.has_successor(position)?)
                        }
                        None => (None, true),
                    };
                    let holder = scan.source_mut().refresh().map_err(at(&error_path))?;
                    if !is_followed && holder == Holder::Writer {
                        return Ok(Polled::Pending);
                    }
                    // The segment is finished. Incomplete batches stay incomplete, and the sound
                    // ones after them count.
                    scan.set_sealed(end);
                }
            }
        }
    }

    /// Opens the first segment after those that are done.
    fn open_next(&mut self) -> Result<Polled, JournalError> {
        let shard = ShardJournal::open(self.run, self.shard, self.dir.clone())?;
        for position in 0..shard.segment_count() {
            let Some(id) = shard.id(position).filter(|id| *id > self.done_id) else { continue };
            // It ends before the cursor's position: no need to open it.
            if shard.place(position)?.end.is_some_and(|end| end <= self.lsn) {
                self.done_id = id;
                continue;
            }
            match shard
                .segment(position, ScanOptions { follows: true, ..ScanOptions::default() })?
            {
                Segment::Scan(mut scan) => {
                    scan.skip_to(self.lsn);
                    self.current = Some((id, scan));
                    return Ok(Polled::Records);
                }
                Segment::Unread(_) | Segment::Gone if shard.has_successor(position)? => {
                    self.done_id = id
                }
                // Allocated in advance and not begun.
                Segment::Unread(_) => return Ok(self.idle(&shard)),
                Segment::Gone => {}
            }
        }
        Ok(self.idle(&shard))
    }

    /// Whether a process may still write here: one has locked a segment that is not begun yet.
    fn idle(&self, shard: &ShardJournal) -> Polled {
        let last = shard.segment_count().checked_sub(1);
        let holder = last
            .and_then(|last| SegmentFile::open(&shard.path(last)).ok())
            .map(|file| file.holder());
        if holder == Some(Holder::Writer) { Polled::Pending } else { Polled::End }
    }
}
