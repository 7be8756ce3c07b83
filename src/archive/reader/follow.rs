//! A cursor that gives the records of a shard as they are written. The caller polls it.
//!
//! The records are written, not necessarily durable. The cursor never waits: the caller decides how
//! often to poll.

#![forbid(unsafe_code)]

use super::frames::{Assembly, Chunks, Frame};
use super::{CallEpoch, Journal, JournalError, OwnedRecord, Segment, ShardJournal, at};
use crate::archive::layout::RunName;
use crate::archive::scan::{Advance, ScanOptions, SegmentScan};
use crate::archive::source::{Holder, SegmentFile};
use crate::call::Epoch;
use crate::format::{Lsn, RecordKind};
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
    follow: Follow,
    call: u64,
    epoch: Epoch,
    assembly: Assembly,
    /// The last segment that has a record of the epoch.
    last_id: u64,
    has_ended: bool,
}

impl Journal {
    /// Follows an epoch of this journal, from its first frame on. In sealed segments only the
    /// epoch's records are read. In the segment that is being written all records are: it has no
    /// index yet, and the calls of its shard lie in it frame by frame. So a follower reads as fast
    /// as the shard writes.
    pub fn follow_epoch(&self, call_epoch: &CallEpoch) -> Option<EpochFollow> {
        let shard = self.shards().get(call_epoch.shard)?;
        let mut chunks = Chunks::new(call_epoch);
        let mut follow = self.follow_epoch_now(call_epoch)?;
        chunks.pop_last();
        let listed = ShardJournal::open(*shard.run(), shard.shard(), shard.dir().to_owned());
        // The positions are those of this journal: a listing of now may have fewer segments.
        let is_same = |listed: &ShardJournal| listed.ids().first() == shard.ids().first();
        match listed.ok().filter(is_same) {
            Some(listed) => follow.sealed = Some((listed, chunks)),
            // Retention has removed some meanwhile. What is left is read from end to end.
            None => {
                let first = call_epoch.parts.first().map_or(0, |part| part.segment);
                follow.follow = shard.follow_segment(first);
            }
        }
        Some(follow)
    }

    /// As [`Journal::follow_epoch`], from the start of the last segment that holds the epoch: some
    /// seconds of a live call.
    pub fn follow_epoch_now(&self, call_epoch: &CallEpoch) -> Option<EpochFollow> {
        let shard = self.shards().get(call_epoch.shard)?;
        let last = call_epoch.parts.last()?.segment;
        Some(EpochFollow {
            sealed: None,
            follow: shard.follow_segment(last),
            call: call_epoch.call,
            epoch: call_epoch.epoch,
            assembly: Assembly::default(),
            last_id: shard.id(last)?,
            has_ended: false,
        })
    }
}

impl ShardJournal {
    /// Reads the records from the segment at this position on.
    fn follow_segment(&self, position: usize) -> Follow {
        // An error of the header shows again when the segment is read.
        let start = self.start(position).ok().flatten().unwrap_or_default();
        let mut follow = self.follow(start);
        follow.done_id = self.id(position).unwrap_or(0).saturating_sub(1);
        follow
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
            self.sealed = None;
        }
        let EpochFollow { follow, call, epoch, assembly, has_ended, .. } = self;
        let mut is_there = false;
        let polled = follow.poll(|record| {
            let header = &record.header;
            if (header.call, header.epoch) != (*call, *epoch) {
                return;
            }
            is_there = true;
            match header.kind {
                RecordKind::Audio if assembly.add(header, &record.payload) => {
                    take(assembly.frame())
                }
                RecordKind::End => *has_ended = true,
                _ => {}
            }
        })?;
        if is_there {
            self.last_id = self.follow.segment_id().unwrap_or(self.last_id);
        }
        // Each segment repeats the records of the calls that go on. A whole segment without the
        // epoch means that it ended without a record that says so.
        if self.follow.done_id > self.last_id {
            self.has_ended = true;
        }
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
}

impl Follow {
    pub(super) fn new(run: RunName, shard: u16, dir: PathBuf, lsn: Lsn) -> Follow {
        Follow { run, shard, dir, lsn, current: None, done_id: 0 }
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
