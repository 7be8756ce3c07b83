//! Reads a data directory: its calls, their audio frame by frame, and records as they are written.
//!
//! ```text
//! Journal::open ──► catalog() ──► Call ─► CallEpoch ──► frames() ──► next_frame() … audio in order
//!     │                 └ an index for each segment, made if it is missing
//!     └───────────► follow(shard, lsn) ──► poll(), poll() …                 records as written
//! ```
//! It works offline and beside live nodes. Locks tell sealed segments from those being written, and
//! keep retention away from segments being read. A [`Journal`] is the directory at the time of
//! opening. Segments removed since then are skipped.

#![forbid(unsafe_code)]

use super::index::{IndexBuilder, SegmentIndex};
use super::layout::{RunName, run_dir, runs, segment_path, segments, shard_dir, shards};
use super::scan::{Advance, Damage, Found, Place, ScanOptions, SegmentScan, Unread};
use super::source::{Holder, SegmentFile};
use crate::constants::BLOCK_SIZE;
use crate::format::{Lsn, SegmentHeader, SegmentUuid};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

mod catalog;
mod follow;
mod frames;
#[cfg(test)]
mod tests;

pub(in crate::archive) use catalog::CatalogBuilder;
pub use catalog::{Call, CallEpoch, Catalog, EpochState, Gap, GapReason, Part};
pub use follow::{EpochFollow, Follow, Polled};
pub use frames::{Frame, Frames, FramesStats};

/// A data directory could not be read. Names the file and the reason.
#[derive(Debug)]
pub struct JournalError {
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the system.
    pub error: io::Error,
}

impl fmt::Display for JournalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot read {}: {}", self.path.display(), self.error)
    }
}

impl std::error::Error for JournalError {}

/// Adds the file's path to an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    move |error| JournalError { path: path.to_owned(), error }
}

/// A data directory at the time when it was opened.
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

/// A segment, as its name and header describe it.
#[derive(Debug)]
struct SegmentName {
    id: u64,
    /// `None` if the header is bad, or of another use of the file.
    header: Option<SegmentHeader>,
}

/// A segment that was opened.
#[derive(Debug)]
pub enum Segment {
    /// The segment, ready to be read.
    Scan(Box<SegmentScan<SegmentFile>>),
    /// The segment has nothing to read.
    Unread(Unread),
    /// Retention removed it first.
    Gone,
}

/// The result of reading a segment from end to end.
#[derive(Debug)]
pub struct SegmentSummary {
    /// Its calls.
    pub index: SegmentIndex,
    /// The damage in it.
    pub damages: Vec<Damage>,
    /// Records that were found in bad batches.
    pub salvaged: u64,
    /// Whether it is being written: the next look may find more.
    pub is_live: bool,
    /// The file, with the lock it was read under. While the lock is held, the segment is not
    /// erased, recycled or removed.
    file: SegmentFile,
}

impl Journal {
    /// Lists the directory. An empty one is fine. A directory that is not a journal is fine too,
    /// and holds no runs.
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

    /// Number of segments: the length of a progress bar.
    pub fn segment_count(&self) -> usize {
        self.shards.iter().map(ShardJournal::segment_count).sum()
    }
}

impl ShardJournal {
    /// A single segment of a shard, without a look at the others. The error is that of opening it.
    pub fn of_segment(
        run: RunName,
        shard: u16,
        dir: PathBuf,
        id: u64,
    ) -> Result<ShardJournal, JournalError> {
        let path = segment_path(&dir, id);
        let header = read_header(&path).map_err(at(&path))?;
        Ok(ShardJournal { run, shard, dir, segments: vec![SegmentName { id, header }] })
    }

    /// Lists a shard's directory.
    pub fn open(run: RunName, shard: u16, dir: PathBuf) -> Result<ShardJournal, JournalError> {
        let mut found = Vec::new();
        for id in present(segments(&dir)).map_err(at(&dir))? {
            let path = segment_path(&dir, id);
            let header = match read_header(&path) {
                Ok(header) => header.filter(|header| {
                    (header.run, header.shard, header.id) == (run.number(), shard, id)
                }),
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

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The number in a segment's name. `position` counts from 0, oldest first.
    pub fn id(&self, position: usize) -> Option<u64> {
        self.segments.get(position).map(|segment| segment.id)
    }

    /// A segment's file.
    pub fn path(&self, position: usize) -> PathBuf {
        segment_path(&self.dir, self.id(position).unwrap_or(0))
    }

    /// Position of a segment's first byte in this shard's journal; `None` if its header is bad.
    pub fn start(&self, position: usize) -> Option<Lsn> {
        self.segments.get(position)?.header.map(|header| header.start)
    }

    /// Size of a segment's file as it was allocated, bytes. `None` if its header is bad or not yet
    /// written.
    pub fn allocated(&self, position: usize) -> Option<u64> {
        self.segments.get(position)?.header.map(|header| header.size)
    }

    /// Whether a later segment was begun. Then this one was written up to the end that the later
    /// one states.
    pub fn has_successor(&self, position: usize) -> bool {
        self.segments.iter().skip(position + 1).any(|segment| segment.header.is_some())
    }

    /// What the names and headers of the other segments say about this one.
    pub fn place(&self, position: usize) -> Place {
        let (before, rest) = self.segments.split_at(position.min(self.segments.len()));
        let (id, header) = rest.first().map_or((0, None), |segment| (segment.id, segment.header));
        let behind = rest.get(1..).unwrap_or_default();
        let names_this =
            |next: &SegmentHeader| header.is_some_and(|header| header.uuid == next.predecessor);
        // A later segment that names an earlier predecessor says that nothing in this one was
        // durable.
        let passes_over = |next: &SegmentHeader| {
            next.predecessor == SegmentUuid::default()
                || headers(before).any(|before| before.uuid == next.predecessor)
        };
        let is_next = |next: &SegmentHeader| header.is_none() && next.id == id + 1;
        let next = headers(behind).find(names_this);
        let next = next
            .or_else(|| headers(behind).next().filter(|next| passes_over(next) || is_next(next)));
        Place {
            run: self.run,
            shard: self.shard,
            id,
            after: headers(before).map(|header| header.start).max(),
            end: next.map(|next| next.predecessor_end),
        }
    }

    /// Opens a segment. Callers need not set `options.is_live`: this finds it out.
    pub fn segment(&self, position: usize, options: ScanOptions) -> Result<Segment, JournalError> {
        let path = self.path(position);
        match SegmentFile::open(&path) {
            Ok(file) => self.scan(position, file, options).map_err(at(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Segment::Gone),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// As [`ShardJournal::segment`], for a file that is already open.
    pub(super) fn scan(
        &self,
        position: usize,
        file: SegmentFile,
        options: ScanOptions,
    ) -> io::Result<Segment> {
        let place = self.place(position);
        let is_live = file.holder() == Holder::Writer && place.end.is_none();
        Ok(match SegmentScan::open(file, place, ScanOptions { is_live, ..options })? {
            Ok(scan) => Segment::Scan(Box::new(scan)),
            Err(unread) => Segment::Unread(unread),
        })
    }

    /// The index of a segment: from its file, or made from the segment and stored for the next
    /// reader. `None` if there is nothing to read.
    pub fn index(&self, position: usize) -> Result<Option<(SegmentIndex, bool)>, JournalError> {
        if let Some(index) = self.stored_index(position) {
            return Ok(Some((index, false)));
        }
        let Ok(summary) = self.summarize(position)? else { return Ok(None) };
        self.keep(&summary);
        Ok(Some((summary.index, summary.is_live)))
    }

    /// The index beside a segment, if it exists and is good.
    pub fn stored_index(&self, position: usize) -> Option<SegmentIndex> {
        let header = self.segments.get(position)?.header?;
        SegmentIndex::load(&self.dir, header.id, header.uuid)
    }

    /// Reads a whole segment and checks everything in it. `Err` if there is nothing to read, with
    /// `None` if retention removed it first.
    pub fn summarize(
        &self,
        position: usize,
    ) -> Result<Result<SegmentSummary, Option<Unread>>, JournalError> {
        // The index of an ended segment says that it is whole up to its end, even with no segment
        // after it.
        self.summarize_durable(
            position,
            self.stored_index(position).map_or(0, |index| index.durable_end),
        )
    }

    /// As [`ShardJournal::summarize`], for a segment whose first `durable_end` bytes were durable,
    /// as the caller knows from elsewhere.
    pub fn summarize_durable(
        &self,
        position: usize,
        durable_end: u64,
    ) -> Result<Result<SegmentSummary, Option<Unread>>, JournalError> {
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
        let index =
            builder.finish(self.run.number(), self.shard, self.id(position).unwrap_or(0), &scan);
        let (damages, salvaged) = (scan.damages().to_vec(), scan.stats().salvaged);
        let file = scan.into_source();
        let is_live = file.holder() == Holder::Writer;
        // Retention may have locked it before us, and recycled it while we read.
        if is_live && file.is_gone().map_err(at(&path))? {
            return Ok(Err(None));
        }
        Ok(Ok(SegmentSummary { index, damages, salvaged, is_live, file }))
    }

    /// Stores an index beside its segment, unless the segment is live. Returns whether it did. A
    /// read-only directory keeps its segments without indexes.
    ///
    /// The summary's lock is held until the index has its name. So no index remains of a segment
    /// that was removed meanwhile, and no index lists audio that was erased meanwhile.
    pub fn keep(&self, summary: &SegmentSummary) -> bool {
        // Without a good header, a later reader could not tell to which segment the index belongs.
        let has_header = self
            .segments
            .iter()
            .any(|segment| segment.id == summary.index.id && segment.header.is_some());
        let is_held = summary.file.holder() == Holder::Readers;
        has_header && is_held && summary.index.store(&self.dir).is_ok()
    }

    /// Reads the records of this shard from `lsn` on, as they are written.
    pub fn follow(&self, lsn: Lsn) -> Follow {
        Follow::new(self.run, self.shard, self.dir.clone(), lsn)
    }
}

/// A directory that was removed after it was listed counts as empty.
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

/// A record for callers that keep it longer than the scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its header.
    pub header: crate::format::RecordHeader,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its position in the shard's journal.
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
