//! Reads the audio of one epoch from a segment on, as it is written. Of each segment only the
//! epoch's records are read: at the places that the live index says while the segment is being
//! written, and at those of its index once it is sealed.
//!
//! ```text
//!   sealed, with an index      │ sealed              │ being written         │ prepared
//!   ───────────────────────────┼─────────────────────┼───────────────────────┼──────────
//!   done                       │ its places after    │ at: everything before │
//!                              │ `at`, then the next │ was given             │
//! ```
//! A segment with no index is for another reader, which reads all of it: [`Step::Unindexed`].

#![forbid(unsafe_code)]

use super::placed::{Chunk, Placed};
use super::{JournalError, ShardJournal, at};
use crate::archive::index::places::RecordPlaces;
use crate::archive::index::{EpochIndex, IndexFile, PlacesAt};
use crate::archive::layout::{RunName, segment_path, segments};
use crate::archive::seal;
use crate::archive::source::{FirstBlock, Holder, SegmentFile, Source, first_block};
use crate::call::Epoch;
use crate::constants::BLOCK_SIZE;
use crate::format::{BatchHeader, FormatError, Lsn, SegmentHeader};
use crate::io::memory::Region;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the live index may say nothing new before the reader looks whether the shard writes
/// without it.
const QUIET_MAX: Duration = Duration::from_secs(3);

/// The result of [`EpochTail::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be chunks; poll again at once.
    Chunks,
    /// Nothing new; poll again later.
    Pending,
    /// The segment has no index, so all of it must be read.
    Unindexed,
    /// The epoch has ended.
    Over,
    /// No process writes here any more.
    End,
}

/// Where a reader of an epoch is.
#[derive(Debug)]
pub(super) struct EpochTail {
    run: RunName,
    shard: u16,
    dir: PathBuf,
    ours: (u64, Epoch),
    /// The first segment to read, and the one that is read.
    first_id: u64,
    id: u64,
    /// Everything before this offset in it was given.
    at: u64,
    /// The last places in the live index that were given.
    known: Option<PlacesAt>,
    segment: Option<(SegmentFile, SegmentHeader)>,
    /// Records that are being read, and what follows them.
    placed: Option<(Placed, Next)>,
    /// The header of the segment whose records are being read.
    reading: Option<SegmentHeader>,
    /// Skips what is there at the first look.
    skips: bool,
    quiet_since: Option<Instant>,
    bytes_read: u64,
}

/// What follows when some records of a segment are read.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// More of the segment.
    Stay,
    /// The next segment.
    Move,
    /// Nothing: the epoch has ended.
    Over,
}

impl EpochTail {
    /// From the segment at this position on. `skips`: only what comes from now on.
    pub(super) fn new(
        shard: &ShardJournal,
        position: usize,
        ours: (u64, Epoch),
        skips: bool,
    ) -> Option<EpochTail> {
        let id = shard.id(position)?;
        Some(EpochTail {
            run: *shard.run(),
            shard: shard.shard(),
            dir: shard.dir().to_owned(),
            ours,
            first_id: id,
            id,
            at: BLOCK_SIZE as u64,
            known: None,
            segment: None,
            placed: None,
            reading: None,
            skips,
            quiet_since: None,
            bytes_read: 0,
        })
    }

    /// The segment that is read.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether nothing was given yet, and what is there is to be skipped.
    pub(super) fn skips(&self) -> bool {
        self.skips
    }

    /// Bytes read from segments and indexes.
    pub(super) fn bytes_read(&self) -> u64 {
        let placed = self.placed.as_ref().map_or(0, |(placed, _)| placed.bytes_read());
        self.bytes_read + placed
    }

    /// The position in the shard's journal up to which everything was given. Valid after
    /// [`Step::Unindexed`].
    pub(super) fn lsn(&self) -> Lsn {
        let start = self.segment.as_ref().map_or(Lsn(0), |(_, header)| header.start);
        Lsn(start.0.saturating_add(self.at))
    }

    /// Its directory, run and shard.
    pub(super) fn shard(&self) -> (RunName, u16, PathBuf) {
        (self.run, self.shard, self.dir.clone())
    }

    /// Whether the segment is being written.
    pub(super) fn is_live(&self) -> bool {
        self.segment.as_ref().is_some_and(|(file, _)| file.holder() == Holder::Writer)
    }

    /// Whether the node keeps a live index of the segment.
    pub(super) fn has_live_index(&self) -> bool {
        let header = self.segment.as_ref().map(|(_, header)| header);
        header.is_some_and(|header| IndexFile::open_live(&self.dir, self.id, header.uuid).is_some())
    }

    /// Continues with this segment.
    pub(super) fn move_to(&mut self, id: u64) {
        (self.id, self.at, self.known, self.segment) = (id, BLOCK_SIZE as u64, None, None);
        self.quiet_since = None;
    }

    /// Another reader has given everything of the segment before this position.
    pub(super) fn move_along(&mut self, to: Lsn) {
        let start = self.segment.as_ref().map_or(Lsn(0), |(_, header)| header.start);
        self.at = self.at.max(to.0.saturating_sub(start.0));
        self.quiet_since = None;
    }

    /// Adds the epoch's next chunks, if there are some.
    pub(super) fn poll(&mut self, chunks: &mut VecDeque<Chunk>) -> Result<Step, JournalError> {
        if let Some((placed, next)) = &mut self.placed {
            let error_path = segment_path(&self.dir, self.id);
            if placed.read(self.ours, chunks).map_err(at(&error_path))? {
                return Ok(Step::Chunks);
            }
            let next = *next;
            self.end_reading();
            match next {
                Next::Stay => {}
                Next::Move => self.move_to(self.id + 1),
                Next::Over => return Ok(Step::Over),
            }
            return Ok(Step::Chunks);
        }
        if self.segment.is_none()
            && let Some(step) = self.open()?
        {
            return Ok(step);
        }
        let path = segment_path(&self.dir, self.id);
        let Some((file, _)) = &mut self.segment else { return Ok(Step::Pending) };
        match file.refresh().map_err(at(&path))? {
            Holder::Writer => self.look_at_live(),
            // What held it may have been retention.
            Holder::Readers if file.is_gone().map_err(at(&path))? => {
                self.segment = None;
                Ok(Step::Chunks)
            }
            Holder::Readers => self.look_at_sealed(),
        }
    }

    /// Opens the segment. Returns what to do if it is not there, or not begun.
    fn open(&mut self) -> Result<Option<Step>, JournalError> {
        let path = segment_path(&self.dir, self.id);
        let file = match SegmentFile::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.find_later(Step::Chunks).map(Some);
            }
            opened => opened.map_err(at(&path))?,
        };
        let header = first_block(&path).map_err(at(&path))?;
        let place = (self.run.number(), self.shard, self.id);
        match header {
            FirstBlock::Header(header) if (header.run, header.shard, header.id) == place => {
                self.segment = Some((file, header));
                Ok(None)
            }
            FirstBlock::Bad => Ok(Some(Step::Unindexed)),
            FirstBlock::Header(_) | FirstBlock::Blank => match file.holder() {
                // Prepared, and not begun.
                Holder::Writer => Ok(Some(Step::Pending)),
                Holder::Readers => self.find_later(Step::Chunks).map(Some),
            },
        }
    }

    /// Moves to the next segment that is there.
    fn find_later(&mut self, found: Step) -> Result<Step, JournalError> {
        let ids = match segments(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::End),
            listed => listed.map_err(at(&self.dir))?,
        };
        if let Some(id) = ids.into_iter().find(|id| *id > self.id) {
            self.move_to(id);
            return Ok(found);
        }
        // A node that lives makes another one.
        let is_alive = self.dir.parent().map(seal::is_alive);
        Ok(if matches!(is_alive, Some(Ok(true))) { Step::Pending } else { Step::End })
    }

    /// The segment is sealed: its index has all places.
    fn look_at_sealed(&mut self) -> Result<Step, JournalError> {
        let Some((_, header)) = &self.segment else { return Ok(Step::Pending) };
        let index = IndexFile::open(&self.dir, self.id, header.uuid);
        let Some(mut index) = index.filter(|index| index.head().damage_count == 0) else {
            return Ok(Step::Unindexed);
        };
        let found = self.find(&mut index);
        let places = match &found {
            Ok(Some((_, Some(places)))) => index.places(places),
            Ok(None) => Ok(RecordPlaces::default()),
            // An index of the first version.
            Ok(Some((_, None))) | Err(_) => Err(FormatError::Truncated),
        };
        self.bytes_read += index.bytes_read();
        let (Ok(found), Ok(places)) = (found, places) else { return Ok(Step::Unindexed) };
        let is_over = match &found {
            Some((call_epoch, _)) => call_epoch.end.is_some(),
            None => self.is_left_out(&index),
        };
        let next = if is_over { Next::Over } else { Next::Move };
        match std::mem::take(&mut self.skips) {
            true => self.read(RecordPlaces::default(), next),
            false => self.read(places, next),
        }
    }

    /// The segment is being written: its live index has the places so far.
    fn look_at_live(&mut self) -> Result<Step, JournalError> {
        let Some((_, header)) = &self.segment else { return Ok(Step::Pending) };
        let index = IndexFile::open_live(&self.dir, self.id, header.uuid);
        let Some(mut index) = index.filter(|index| index.head().end > self.at) else {
            return self.wait();
        };
        let Ok(found) = self.find(&mut index) else { return self.wait() };
        let places_at = found.as_ref().and_then(|(_, places)| *places);
        let places = match places_at {
            Some(places_at) if !self.skips => index.places_after(places_at, self.known),
            _ => Ok(RecordPlaces::default()),
        };
        self.bytes_read += index.bytes_read();
        let Ok(places) = places else { return self.wait() };
        let is_over = match &found {
            Some((call_epoch, _)) => call_epoch.end.is_some(),
            None => self.is_left_out(&index),
        };
        (self.known, self.quiet_since) = (places_at, None);
        let step = self.read(places, if is_over { Next::Over } else { Next::Stay })?;
        self.at = index.head().end;
        if std::mem::take(&mut self.skips) && !is_over { Ok(Step::Pending) } else { Ok(step) }
    }

    /// The epoch in an index, and where its places are.
    fn find(
        &self,
        index: &mut IndexFile,
    ) -> Result<Option<(EpochIndex, Option<PlacesAt>)>, FormatError> {
        let found = index.find(self.ours.0)?;
        Ok(found.into_iter().find(|(call_epoch, _)| call_epoch.epoch == self.ours.1))
    }

    /// Whether a segment without the epoch means that it has ended without a record that says so:
    /// each segment repeats the records of the calls that go on.
    fn is_left_out(&self, index: &IndexFile) -> bool {
        self.id > self.first_id && index.head().batches > 0
    }

    /// Begins to read the records at these places that were not given yet.
    fn read(&mut self, places: RecordPlaces, next: Next) -> Result<Step, JournalError> {
        let mut new = RecordPlaces::default();
        // They are in order, so each is accepted.
        places.iter().filter(|place| place.offset >= self.at).for_each(|place| _ = new.add(place));
        let Some((file, header)) = self.segment.take() else { return Ok(Step::Pending) };
        let error_path = segment_path(&self.dir, self.id);
        let placed = Placed::new(file, new).map_err(at(&error_path))?;
        self.placed = Some((placed, next));
        self.reading = Some(header);
        Ok(Step::Chunks)
    }

    /// All records were read.
    fn end_reading(&mut self) {
        let (Some((placed, _)), Some(header)) = (self.placed.take(), self.reading.take()) else {
            return;
        };
        self.bytes_read += placed.bytes_read();
        self.segment = Some((placed.into_file(), header));
    }

    /// The live index says nothing new. If that lasts although the shard writes, the node keeps no
    /// live index: it may be of an older version.
    fn wait(&mut self) -> Result<Step, JournalError> {
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        let is_unindexed = since.elapsed() >= QUIET_MAX && self.is_written()?;
        Ok(if is_unindexed { Step::Unindexed } else { Step::Pending })
    }

    /// Whether there is a batch after what was given.
    fn is_written(&mut self) -> Result<bool, JournalError> {
        let path = segment_path(&self.dir, self.id);
        let Some((file, header)) = &self.segment else { return Ok(false) };
        let mut block = Region::allocate(BLOCK_SIZE).map_err(at(&path))?;
        let read = file.read_at(self.at, &mut block).map_err(at(&path))?;
        self.bytes_read += read as u64;
        let batch = block.first_chunk().map(BatchHeader::decode);
        Ok(matches!(batch, Some(Ok(batch)) if batch.segment == header.uuid))
    }
}
