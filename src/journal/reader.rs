//! Reads a data directory: which calls are in it, their audio frame by frame, and what is being written right now.
//!
//! ```text
//! Journal::open ──► catalog() ──► Call ──► Turn ──► frames() ──► next_frame() …     audio in order of epoch and frame
//!     │                 └ an index for each segment, made where it is missing
//!     └───────────► follow(shard, lsn) ──► poll(), poll() …                         records as they are written
//! ```
//! It works offline and beside live nodes: locks tell sealed segments from those being written, and keep retention away from
//! what is being read. What it opened is the directory as it was then; a segment that has gone since is passed over.

#![forbid(unsafe_code)]

use super::format::{Lsn, SegmentHeader, SegmentUuid};
use super::index::{IndexBuilder, SegmentIndex};
use super::layout::{RunName, run_dir, runs, segment_path, segments, shard_dir, shards};
use super::scan::{Advance, Damage, Found, Place, ScanOptions, SegmentScan, Unread};
use super::source::{Holder, SegmentFile};
use crate::constants::BLOCK_SIZE;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

mod catalog;
mod follow;
mod frames;
#[cfg(test)]
mod tests;

pub(in crate::journal) use catalog::CatalogBuilder;
pub use catalog::{Call, Catalog, Gap, GapReason, Part, Turn, TurnState};
pub use follow::{Follow, Polled, TurnFollow};
pub use frames::{Frame, Frames, FramesTally};

/// A data directory could not be read: which file, and why.
#[derive(Debug)]
pub struct JournalError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for JournalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot read {}: {}", self.path.display(), self.error)
    }
}

impl std::error::Error for JournalError {}

/// Names the file in an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    move |error| JournalError { path: path.to_owned(), error }
}

/// A data directory as it was when it was opened.
#[derive(Debug)]
pub struct Journal {
    data_dir: PathBuf,
    shards: Vec<ShardJournal>,
}

/// One shard of one run.
#[derive(Debug)]
pub struct ShardJournal {
    run: RunName,
    shard: u16,
    dir: PathBuf,
    segments: Vec<SegmentName>,
}

/// A segment, as far as its name and header tell.
#[derive(Debug)]
struct SegmentName {
    id: u64,
    /// `None` where it is bad, or of another use of the file.
    header: Option<SegmentHeader>,
}

/// A segment that was opened.
#[derive(Debug)]
pub enum Segment {
    /// It can be read.
    Scan(Box<SegmentScan<SegmentFile>>),
    /// There is nothing in it.
    Unread(Unread),
    /// Retention was faster.
    Gone,
}

/// What a segment came to when it was read from end to end.
#[derive(Debug)]
pub struct Survey {
    /// What is in it.
    pub index: SegmentIndex,
    /// What is wrong in it.
    pub damages: Vec<Damage>,
    /// Records that were found although their batch was bad.
    pub salvaged: u64,
    /// Whether it is being written: the next look may find more.
    pub is_live: bool,
    /// The file, with the lock it was read under: as long as it is held, nobody erases, recycles or removes the segment.
    file: SegmentFile,
}

impl Journal {
    /// Looks what is there. Empty is fine; a directory that is no journal's at all is too, and holds no runs.
    pub fn open(data_dir: &Path) -> Result<Journal, JournalError> {
        let mut found = Vec::new();
        for run in runs(data_dir).map_err(at(data_dir))? {
            let run_dir = run_dir(data_dir, &run);
            for shard in present(shards(&run_dir)).map_err(at(&run_dir))? {
                found.push(ShardJournal::open(run, shard, shard_dir(&run_dir, shard))?);
            }
        }
        Ok(Journal { data_dir: data_dir.to_owned(), shards: found })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its shards, oldest run first.
    pub fn shards(&self) -> &[ShardJournal] {
        &self.shards
    }

    /// How many segments there are: what a progress bar counts up to.
    pub fn segment_count(&self) -> usize {
        self.shards.iter().map(ShardJournal::segment_count).sum()
    }
}

impl ShardJournal {
    /// One segment of a shard alone, without a look at the others. The error is that of opening it.
    pub fn of_segment(run: RunName, shard: u16, dir: PathBuf, id: u64) -> Result<ShardJournal, JournalError> {
        let path = segment_path(&dir, id);
        let header = read_header(&path).map_err(at(&path))?;
        Ok(ShardJournal { run, shard, dir, segments: vec![SegmentName { id, header }] })
    }

    /// Looks what is in a shard's directory.
    pub fn open(run: RunName, shard: u16, dir: PathBuf) -> Result<ShardJournal, JournalError> {
        let mut found = Vec::new();
        for id in present(segments(&dir)).map_err(at(&dir))? {
            let path = segment_path(&dir, id);
            let header = match read_header(&path) {
                Ok(header) => header.filter(|header| (header.run, header.shard, header.id) == (run.number(), shard, id)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&path)(error)),
            };
            found.push(SegmentName { id, header });
        }
        Ok(ShardJournal { run, shard, dir, segments: found })
    }

    /// The run.
    pub fn run(&self) -> &RunName {
        &self.run
    }

    /// The shard.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many segments it has.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// A segment's number in its name; `position` counts from 0, oldest first.
    pub fn id(&self, position: usize) -> Option<u64> {
        self.segments.get(position).map(|segment| segment.id)
    }

    /// A segment's file.
    pub fn path(&self, position: usize) -> PathBuf {
        segment_path(&self.dir, self.id(position).unwrap_or(0))
    }

    /// Position of a segment's first byte in this shard's journal; `None` where its header is bad.
    pub fn start(&self, position: usize) -> Option<Lsn> {
        self.segments.get(position)?.header.map(|header| header.start)
    }

    /// Bytes of a segment's file as it was allocated; `None` where its header is bad, or not there yet.
    pub fn allocated(&self, position: usize) -> Option<u64> {
        self.segments.get(position)?.header.map(|header| header.size)
    }

    /// Whether a segment behind this one was begun: then this one was written up to where that one says.
    pub fn has_successor(&self, position: usize) -> bool {
        self.segments.iter().skip(position + 1).any(|segment| segment.header.is_some())
    }

    /// What the names and headers beside a segment say about it.
    pub fn place(&self, position: usize) -> Place {
        let (before, rest) = self.segments.split_at(position.min(self.segments.len()));
        let (id, header) = rest.first().map_or((0, None), |segment| (segment.id, segment.header));
        let behind = rest.get(1..).unwrap_or_default();
        let names_this = |next: &SegmentHeader| header.is_some_and(|header| header.uuid == next.predecessor);
        // Whoever names one in front of this one says that nothing of this one was durable.
        let passes_over = |next: &SegmentHeader| {
            next.predecessor == SegmentUuid::default() || headers(before).any(|before| before.uuid == next.predecessor)
        };
        let is_next = |next: &SegmentHeader| header.is_none() && next.id == id + 1;
        let next = headers(behind).find(names_this);
        let next = next.or_else(|| headers(behind).next().filter(|next| passes_over(next) || is_next(next)));
        Place {
            run: self.run,
            shard: self.shard,
            id,
            after: headers(before).map(|header| header.start).max(),
            end: next.map(|next| next.predecessor_end),
        }
    }

    /// Opens a segment. `options.is_live` is found out here, and need not be set.
    pub fn segment(&self, position: usize, options: ScanOptions) -> Result<Segment, JournalError> {
        let path = self.path(position);
        match SegmentFile::open(&path) {
            Ok(file) => self.scan(position, file, options).map_err(at(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Segment::Gone),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// As [`ShardJournal::segment`], of a file that is open.
    pub(super) fn scan(&self, position: usize, file: SegmentFile, options: ScanOptions) -> io::Result<Segment> {
        let place = self.place(position);
        let is_live = file.holder() == Holder::Writer && place.end.is_none();
        Ok(match SegmentScan::open(file, place, ScanOptions { is_live, ..options })? {
            Ok(scan) => Segment::Scan(Box::new(scan)),
            Err(unread) => Segment::Unread(unread),
        })
    }

    /// The index of a segment: its file's, or one made from the segment and left beside it for the next reader. `None` if
    /// there is nothing to read.
    pub fn index(&self, position: usize) -> Result<Option<(SegmentIndex, bool)>, JournalError> {
        if let Some(index) = self.stored_index(position) {
            return Ok(Some((index, false)));
        }
        let Ok(survey) = self.survey(position)? else { return Ok(None) };
        self.keep(&survey);
        Ok(Some((survey.index, survey.is_live)))
    }

    /// The index beside a segment, if it is there and good.
    pub fn stored_index(&self, position: usize) -> Option<SegmentIndex> {
        let header = self.segments.get(position)?.header?;
        SegmentIndex::load(&self.dir, header.id, header.uuid)
    }

    /// Reads all of a segment and checks everything in it. `Err` if there is nothing to read; `Unread` is `None` where
    /// retention was faster.
    pub fn survey(&self, position: usize) -> Result<Result<Survey, Option<Unread>>, JournalError> {
        // A segment that was ended is known to be whole up to its end, with none behind it to say so.
        self.survey_of(position, self.stored_index(position).map_or(0, |index| index.durable_end))
    }

    /// [`ShardJournal::survey`] of a segment of which so many bytes are known to have been durable, from elsewhere than the
    /// segments.
    pub fn survey_of(&self, position: usize, durable_end: u64) -> Result<Result<Survey, Option<Unread>>, JournalError> {
        let path = self.path(position);
        let mut scan = match self.segment(position, ScanOptions::default())? {
            Segment::Scan(scan) => scan,
            Segment::Unread(unread) => return Ok(Err(Some(unread))),
            Segment::Gone => return Ok(Err(None)),
        };
        scan.set_durable_end(durable_end);
        let mut builder = IndexBuilder::default();
        while scan.advance().map_err(at(&path))? == Advance::Batch {
            scan.records().for_each(|found| builder.add(&found.header, found.payload));
        }
        let index = builder.finish(self.run.number(), self.shard, self.id(position).unwrap_or(0), &scan);
        let (damages, salvaged) = (scan.damages().to_vec(), scan.tally().salvaged);
        let file = scan.into_source();
        let is_live = file.holder() == Holder::Writer;
        // Retention may have won it before we asked, and recycled it while we read.
        if is_live && file.is_gone().map_err(at(&path))? {
            return Ok(Err(None));
        }
        Ok(Ok(Survey { index, damages, salvaged, is_live, file }))
    }

    /// Leaves an index beside its segment, unless that is live; returns whether it did. A directory that may only be read
    /// keeps its segments without one.
    ///
    /// The survey's lock is held until the index has its name: so none is left behind by a segment that was removed
    /// meanwhile, and none tells of audio that was erased meanwhile.
    pub fn keep(&self, survey: &Survey) -> bool {
        // Without a good header nobody could tell later whose index it is.
        let has_header = self.segments.iter().any(|segment| segment.id == survey.index.id && segment.header.is_some());
        let is_held = survey.file.holder() == Holder::Readers;
        has_header && is_held && survey.index.store(&self.dir).is_ok()
    }

    /// Reads the records of this shard from `lsn` on, as they are written.
    pub fn follow(&self, lsn: Lsn) -> Follow {
        Follow::new(self.run, self.shard, self.dir.clone(), lsn)
    }
}

/// A directory that has gone since it was listed has nothing in it.
fn present<T>(listed: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

/// The header of a segment's file; `None` if it is bad.
fn read_header(path: &Path) -> io::Result<Option<SegmentHeader>> {
    let mut block = [0; BLOCK_SIZE];
    match File::open(path)?.read_exact(&mut block) {
        Ok(()) => Ok(SegmentHeader::decode(&block).ok()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// A record for those who keep it longer than the scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its header.
    pub header: super::format::RecordHeader,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Where it is in the shard's journal.
    pub lsn: Lsn,
}

impl From<Found<'_>> for OwnedRecord {
    fn from(found: Found<'_>) -> OwnedRecord {
        OwnedRecord { header: found.header, payload: found.payload.to_vec(), lsn: found.lsn }
    }
}

/// The good headers among segments.
fn headers(segments: &[SegmentName]) -> impl Iterator<Item = SegmentHeader> {
    segments.iter().filter_map(|segment| segment.header)
}
