//! Records of a shard as they are written: a cursor that is asked again and again.
//!
//! What it gives is written, not necessarily durable. It waits for nothing itself; how often to ask is the caller's choice.

#![forbid(unsafe_code)]

use super::frames::{Assembly, Frame};
use super::{Journal, JournalError, OwnedRecord, Segment, ShardJournal, Turn, at};
use crate::call::Epoch;
use crate::journal::format::{Lsn, RecordKind};
use crate::journal::layout::RunName;
use crate::journal::scan::{Advance, ScanOptions, SegmentScan};
use crate::journal::source::{Holder, SegmentFile};
use std::path::PathBuf;

/// What [`Follow::poll`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// It gave records; ask again at once.
    Records,
    /// Nothing new; ask again later.
    Pending,
    /// Nothing new, and nobody writes here any more.
    End,
}

/// The audio of one turn as it is written.
#[derive(Debug)]
pub struct TurnFollow {
    follow: Follow,
    call: u64,
    epoch: Epoch,
    assembly: Assembly,
    has_ended: bool,
}

impl Journal {
    /// Follows a turn out of this journal's catalog, from its first frame on.
    pub fn follow_turn(&self, turn: &Turn) -> Option<TurnFollow> {
        let shard = self.shards().get(turn.shard)?;
        let start = turn.parts.first().and_then(|part| shard.start(part.segment)).unwrap_or_default();
        let assembly = Assembly::default();
        Some(TurnFollow { follow: shard.follow(start), call: turn.call, epoch: turn.epoch, assembly, has_ended: false })
    }
}

impl TurnFollow {
    /// Gives the frames that were completed since to `take`. [`Polled::End`]: the turn has ended, or its node has.
    pub fn poll(&mut self, mut take: impl FnMut(Frame<'_>)) -> Result<Polled, JournalError> {
        if self.has_ended {
            return Ok(Polled::End);
        }
        let TurnFollow { follow, call, epoch, assembly, has_ended } = self;
        let polled = follow.poll(|record| {
            let header = &record.header;
            if (header.call, header.epoch) != (*call, *epoch) {
                return;
            }
            match header.kind {
                RecordKind::Audio if assembly.add(header, &record.payload) => take(assembly.frame()),
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
    /// The segment it is in, and its number.
    current: Option<(u64, Box<SegmentScan<SegmentFile>>)>,
    /// The number of the last segment it has done with; 0 for none.
    done_id: u64,
}

impl Follow {
    pub(super) fn new(run: RunName, shard: u16, dir: PathBuf, lsn: Lsn) -> Follow {
        Follow { run, shard, dir, lsn, current: None, done_id: 0 }
    }

    /// Position behind the last record it gave: where another one can go on. A batch is given whole.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Gives the records of the next batch that starts at its position or behind it to `take`.
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
                    scan.records().filter(|found| found.lsn >= from).for_each(|found| take(found.into()));
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
                    let position = (0..shard.segment_count()).find(|position| shard.id(*position) == Some(id));
                    let end = position.and_then(|position| shard.place(position).end);
                    let is_followed = position.is_none_or(|position| shard.has_successor(position));
                    let holder = scan.source_mut().refresh().map_err(at(&error_path))?;
                    if !is_followed && holder == Holder::Writer {
                        return Ok(Polled::Pending);
                    }
                    // It is finished: what is not whole now never will be, and what is behind it counts.
                    scan.set_sealed(end);
                }
            }
        }
    }

    /// Opens the first segment behind those it has done with.
    fn open_next(&mut self) -> Result<Polled, JournalError> {
        let shard = ShardJournal::open(self.run, self.shard, self.dir.clone())?;
        for position in 0..shard.segment_count() {
            let Some(id) = shard.id(position).filter(|id| *id > self.done_id) else { continue };
            // Wholly in front of its position: not even opened.
            if shard.place(position).end.is_some_and(|end| end <= self.lsn) {
                self.done_id = id;
                continue;
            }
            match shard.segment(position, ScanOptions { follows: true, ..ScanOptions::default() })? {
                Segment::Scan(mut scan) => {
                    scan.skip_to(self.lsn);
                    self.current = Some((id, scan));
                    return Ok(Polled::Records);
                }
                Segment::Unread(_) | Segment::Gone if shard.has_successor(position) => self.done_id = id,
                // Allocated ahead of need.
                Segment::Unread(_) => return Ok(self.idle(&shard)),
                Segment::Gone => {}
            }
        }
        Ok(self.idle(&shard))
    }

    /// Whether anyone may still write here: someone holds a segment that has not been begun.
    fn idle(&self, shard: &ShardJournal) -> Polled {
        let last = shard.segment_count().checked_sub(1);
        let holder = last.and_then(|last| SegmentFile::open(&shard.path(last)).ok()).map(|file| file.holder());
        if holder == Some(Holder::Writer) { Polled::Pending } else { Polled::End }
    }
}
