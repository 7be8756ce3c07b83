//! A cursor that gives the records of a shard as they are written. The caller polls it.
//!
//! The records are written, not necessarily durable. The cursor never waits: the caller decides how
//! often to poll.

#![forbid(unsafe_code)]

use super::frames::{Assembly, Frame};
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
    follow: Follow,
    call: u64,
    epoch: Epoch,
    assembly: Assembly,
    has_ended: bool,
}

impl Journal {
    /// Follows an epoch of this journal's catalog, from its first frame on.
    pub fn follow_epoch(&self, call_epoch: &CallEpoch) -> Option<EpochFollow> {
        let shard = self.shards().get(call_epoch.shard)?;
        // An error of the header shows again when the segment is read.
        let first = call_epoch.parts.first();
        let start = first.and_then(|part| shard.start(part.segment).ok()?).unwrap_or_default();
        let assembly = Assembly::default();
        Some(EpochFollow {
            follow: shard.follow(start),
            call: call_epoch.call,
            epoch: call_epoch.epoch,
            assembly,
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
        let EpochFollow { follow, call, epoch, assembly, has_ended } = self;
        let polled = follow.poll(|record| {
            let header = &record.header;
            if (header.call, header.epoch) != (*call, *epoch) {
                return;
            }
            match header.kind {
                RecordKind::Audio if assembly.add(header, &record.payload) => {
                    take(assembly.frame())
                }
                RecordKind::End => *has_ended = true,
                _ => {}
            }
        })?;
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
