//! Whole batches of a shard in the order of writing, for programs that copy a journal elsewhere.
//!
//! ```text
//! advance() ──► Segment ──► Batch, Batch, Batch … ──► SegmentEnd ──► Segment ──► …
//!                  │            │                          │
//!              segment()     batch(), records()         damages()
//!                            durable_lsn()
//! ```
//! The reader borrows bytes from its read buffer and copies no record. It reads 4 MiB at a time
//! around the page cache. It checks every checksum on the way.
//!
//! A segment is always given from its start, because its first batch repeats the records of the
//! calls that go on. A caller with a cursor passes over the batches that it has.
//!
//! Damage does not end the reading. Bytes without a sound batch header are given as they are, as a
//! [`Batch`] with `is_sound` unset, and [`Batches::damages`] names them.
//!
//! # What is durable
//! A batch is *durable* if it ends at or before [`Batches::durable_lsn`]. In a segment that is
//! being written, later batches say which bytes a completed sync covers. A segment that is not
//! being written has no later syncs: what is there counts as durable.
//!
//! # Example
//! ```no_run
//! use exo_ingest::archive::reader::{Journal, Step};
//! use exo_ingest::format::Lsn;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let journal = Journal::open("/var/lib/exo-ingest".as_ref())?;
//! for shard in journal.shards() {
//!     let mut batches = shard.batches(Lsn(0));
//!     let mut size = 0;
//!     loop {
//!         match batches.advance()? {
//!             Step::Batch => size += batches.batch().map_or(0, |batch| batch.bytes.len()),
//!             Step::Segment | Step::SegmentEnd | Step::Missing(_) => {}
//!             // `Pending`: a node is writing here. A follower sleeps and asks again.
//!             Step::Pending | Step::End => break,
//!         }
//!     }
//!     println!("{} shard {}: {size} bytes in batches", shard.run(), shard.shard());
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

use super::{Absence, GapReason, JournalError, Segment, ShardJournal, at};
use crate::archive::layout::RunName;
use crate::archive::scan::{
    Advance, Corruption, Damage, Found, Piece, ScanOptions, SegmentScan, Unread,
};
use crate::archive::source::{FirstBlock, Holder, SegmentFile, first_block};
use crate::clock::UnixMicros;
use crate::format::{Lsn, SegmentHeader, SegmentUuid, segment};
use std::path::PathBuf;

#[cfg(test)]
mod tests;

/// The result of [`Batches::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A segment begins: [`Batches::segment`].
    Segment,
    /// A batch, or bytes that should have been one: [`Batches::batch`].
    Batch,
    /// The segment has no more batches, and none will come.
    SegmentEnd,
    /// Segments are not there.
    Missing(MissingSegments),
    /// Nothing more yet; ask again later.
    Pending,
    /// Nothing more, and no process writes here.
    End,
}

/// Consecutive segments that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSegments {
    /// The number of the first one.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// Why.
    pub reason: GapReason,
}

/// Bytes of a segment: a batch, or what is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Its position in the shard's journal.
    pub lsn: Lsn,
    /// Its bytes, verbatim. Blocks that the disk cannot read hold other bytes.
    pub bytes: &'a [u8],
    /// When it was closed to new records; `None` if its header is not sound.
    pub sealed_at: Option<UnixMicros>,
    /// Whether all of it is sound. If not, [`Batches::records`] has the records that are.
    pub is_sound: bool,
    /// Where it starts in the segment's file, bytes.
    pub offset: u64,
}

impl Batch<'_> {
    /// Position of the byte after it.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + self.bytes.len() as u64)
    }
}

/// Gives the batches of a shard: see the module's documentation.
#[derive(Debug)]
pub struct Batches {
    run: RunName,
    shard: u16,
    dir: PathBuf,
    from: Lsn,
    /// The number of the last segment that is done; 0 for none.
    done_id: u64,
    current: Option<Current>,
    /// Bytes up to here were durable, as the caller knows from elsewhere.
    durable: Option<Lsn>,
    damages: Vec<(PathBuf, Damage)>,
}

/// The segment that is being read.
#[derive(Debug)]
struct Current {
    scan: Box<SegmentScan<SegmentFile>>,
    header: SegmentHeader,
    /// Where the next segment says that it ended.
    end: Option<Lsn>,
    is_live: bool,
    /// The last step was a batch.
    has_batch: bool,
    is_begun: bool,
    /// The last step was its end.
    is_done: bool,
}

impl ShardJournal {
    /// The batches of this shard, from the segment on that holds `from`.
    pub fn batches(&self, from: Lsn) -> Batches {
        Batches {
            run: *self.run(),
            shard: self.shard(),
            dir: self.dir().to_owned(),
            from,
            done_id: 0,
            current: None,
            durable: None,
            damages: Vec::new(),
        }
    }
}

impl Batches {
    /// Moves on. What the accessors show belongs to the last step.
    pub fn advance(&mut self) -> Result<Step, JournalError> {
        loop {
            if self.current.take_if(|current| current.is_done).is_some() {
                continue;
            }
            let Some(current) = &mut self.current else {
                match self.open_next()? {
                    Some(step) => return Ok(step),
                    None => continue,
                }
            };
            if !std::mem::replace(&mut current.is_begun, true) {
                return Ok(Step::Segment);
            }
            current.has_batch = false;
            let id = current.header.id;
            let path = super::segment_path(&self.dir, id);
            // The next segment fences this one: batches after its end were written again.
            let is_past_end = current.end.is_some_and(|end| current.scan.lsn() >= end);
            match current.scan.advance().map_err(at(&path))? {
                Advance::Batch if !is_past_end => {
                    if current.scan.piece().bytes.is_empty() {
                        continue;
                    }
                    current.has_batch = true;
                    return Ok(Step::Batch);
                }
                Advance::Batch => {}
                Advance::End => {
                    let damages = current.scan.damages().iter();
                    self.damages.extend(damages.map(|damage| (path.clone(), *damage)));
                    self.done_id = id;
                    current.is_done = true;
                    return Ok(Step::SegmentEnd);
                }
                Advance::Pending if self.is_waiting(id)? => return Ok(Step::Pending),
                Advance::Pending => {}
            }
        }
    }

    /// The segment that is being read: its header. If that is damaged, only the number, the uuid
    /// and the start are set.
    pub fn segment(&self) -> Option<&SegmentHeader> {
        self.current.as_ref().map(|current| &current.header)
    }

    /// The batch of the last step.
    pub fn batch(&self) -> Option<Batch<'_>> {
        let current = self.current.as_ref().filter(|current| current.has_batch)?;
        let Piece { offset, bytes, sealed_at, is_sound } = current.scan.piece();
        let lsn = Lsn(current.header.start.0 + offset);
        Some(Batch { lsn, bytes, sealed_at, is_sound, offset })
    }

    /// The sound records of the batch.
    pub fn records(&self) -> impl Iterator<Item = Found<'_>> {
        let current = self.current.as_ref().filter(|current| current.has_batch);
        current.into_iter().flat_map(|current| current.scan.records())
    }

    /// Position up to which it has read.
    pub fn lsn(&self) -> Lsn {
        self.current.as_ref().map_or(self.from, |current| current.scan.lsn().max(self.from))
    }

    /// Position up to which the bytes of the current segment are known to be durable.
    pub fn durable_lsn(&self) -> Lsn {
        let told = self.durable.unwrap_or_default();
        let Some(current) = &self.current else { return told };
        match (current.end, current.is_live) {
            (Some(end), _) => end,
            (None, false) => self.durable.unwrap_or(Lsn(u64::MAX)),
            (None, true) => told.max(Lsn(current.header.start.0 + current.scan.durable_end())),
        }
    }

    /// Position up to which a crash cannot have taken anything from the current segment. It is less
    /// than [`Batches::durable_lsn`] in the last segment of a node that crashed.
    pub fn synced_lsn(&self) -> Lsn {
        let Some(current) = &self.current else { return self.durable.unwrap_or_default() };
        Lsn(current.header.start.0.saturating_add(current.scan.durable_end()))
    }

    /// Tells the reader that everything up to `lsn` is durable, and nothing after it yet. A node
    /// knows that of its own journal before later batches say it.
    ///
    /// The position may be in a later segment. If the writer left the current one after a failed
    /// write or sync, the bytes at its end are not durable, though their positions are lower: they
    /// were written again. So this looks for a later segment, which states where the current one
    /// ended. The header of a segment is written before anything in it is durable.
    pub fn set_durable(&mut self, lsn: Lsn) -> Result<(), JournalError> {
        let known = self.durable_lsn();
        self.durable = self.durable.max(Some(lsn));
        let Some(current) = self.current.as_ref().filter(|current| current.end.is_none()) else {
            return Ok(());
        };
        let id = current.header.id;
        if lsn <= known || !self.may_have_successor(id)? {
            return Ok(());
        }
        let shard = self.listed()?;
        let Some(position) = shard.position(id) else { return Ok(()) };
        let end = shard.place(position)?.end;
        if let Some(current) = &mut self.current {
            current.end = end;
        }
        Ok(())
    }

    /// Whether a segment after this one may have been begun, without listing the directory.
    fn may_have_successor(&self, id: u64) -> Result<bool, JournalError> {
        for next in (1..=super::NEIGHBOURS_MAX as u64).map(|ahead| id + ahead) {
            let path = super::segment_path(&self.dir, next);
            match first_block(&path) {
                Ok(FirstBlock::Blank) => {}
                Ok(FirstBlock::Header(_) | FirstBlock::Bad) => return Ok(true),
                // A writer prepares segments in order.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(at(&path)(error)),
            }
        }
        Ok(true)
    }

    /// The damage in the current segment that is certain so far, by its offset in the file.
    pub fn segment_damages(&self) -> &[Damage] {
        self.current.as_ref().map_or(&[], |current| current.scan.damages())
    }

    /// The damage in segments that are done, and their files. A second call gives only what is new.
    pub fn take_damages(&mut self) -> Vec<(PathBuf, Damage)> {
        std::mem::take(&mut self.damages)
    }

    /// The current segment has no more sound batches. Returns whether more may follow. If not, the
    /// scan is told so.
    fn is_waiting(&mut self, id: u64) -> Result<bool, JournalError> {
        let path = super::segment_path(&self.dir, id);
        let shard = self.listed()?;
        let Some(current) = &mut self.current else { return Ok(false) };
        let (end, is_followed) = match shard.position(id) {
            Some(position) => (shard.place(position)?.end, shard.has_successor(position)?),
            None => (None, true),
        };
        let holder = current.scan.source_mut().refresh().map_err(at(&path))?;
        if !is_followed && holder == Holder::Writer {
            return Ok(true);
        }
        current.scan.set_sealed(end);
        (current.end, current.is_live) = (end, false);
        Ok(false)
    }

    fn listed(&self) -> Result<ShardJournal, JournalError> {
        ShardJournal::open(self.run, self.shard, self.dir.clone())
    }

    /// Opens the segment after those that are done. `None`: there is one, or the search must go on.
    fn open_next(&mut self) -> Result<Option<Step>, JournalError> {
        let shard = self.listed()?;
        let next = shard.ids().partition_point(|id| *id <= self.done_id);
        let last = shard.last_id();
        let Some(id) = shard.id(next) else {
            // Marks may name segments that must be there.
            let missing = self.missing(&shard, self.done_id + 1, last);
            return Ok(Some(missing.unwrap_or_else(|| idle(&shard))));
        };
        if let Some(missing) = self.missing(&shard, self.done_id + 1, id - 1) {
            return Ok(Some(missing));
        }
        let place = shard.place(next)?;
        // It ended before the caller's position, or before any of it was durable.
        if place.end.is_some_and(|end| end <= self.from) {
            self.done_id = id;
            return Ok(None);
        }
        let options = ScanOptions { follows: true, ..ScanOptions::default() };
        match shard.segment(next, options)? {
            Segment::Scan(scan) => {
                let is_live = scan.is_live();
                let header = scan.header().copied();
                let header = header.unwrap_or_else(|| self.guessed(id, scan.uuid(), scan.start()));
                // A segment that was given up before any of it was durable ended before it began.
                if place.end.is_some_and(|end| end <= header.start) {
                    self.done_id = id;
                    return Ok(None);
                }
                self.current = Some(Current {
                    scan,
                    header,
                    end: place.end,
                    is_live,
                    has_batch: false,
                    is_begun: false,
                    is_done: false,
                });
                Ok(None)
            }
            Segment::Unread(Unread::Lost(fault)) => {
                self.done_id = id;
                let what = Corruption::SegmentHeader(fault);
                self.damages.push((shard.path(next), Damage { offset: 0, what }));
                let reason = GapReason::Damaged;
                Ok(Some(Step::Missing(MissingSegments { first: id, last: id, reason })))
            }
            Segment::Unread(Unread::Unbegun) if !shard.has_successor(next)? => {
                Ok(Some(idle(&shard)))
            }
            Segment::Unread(Unread::Unbegun) => {
                self.done_id = id;
                Ok(None)
            }
            // Retention was faster: the next listing says so.
            Segment::Gone => Ok(None),
        }
    }

    /// Passes over segments that are not there.
    fn missing(&mut self, shard: &ShardJournal, first: u64, last: u64) -> Option<Step> {
        let reason = match shard.absence(first, last) {
            Absence::None => return None,
            Absence::Expired => GapReason::Expired,
            Absence::Lost => GapReason::Lost,
        };
        self.done_id = last;
        Some(Step::Missing(MissingSegments { first, last, reason }))
    }

    /// What is known of a segment whose header is damaged.
    fn guessed(&self, id: u64, uuid: SegmentUuid, start: Lsn) -> SegmentHeader {
        SegmentHeader {
            version: segment::VERSION,
            shard: self.shard,
            run: self.run.number(),
            id,
            uuid,
            predecessor: SegmentUuid::default(),
            predecessor_end: Lsn(0),
            start,
            size: 0,
            created_at: UnixMicros(0),
        }
    }
}

/// Whether a process may still write here: one has locked a segment that is not begun yet.
fn idle(shard: &ShardJournal) -> Step {
    if shard.is_being_written() { Step::Pending } else { Step::End }
}
