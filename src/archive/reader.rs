//! Reads a data directory: its calls, their audio frame by frame, and records as they are written.
//!
//! ```text
//! Journal::open ──► catalog() ──► Call ─► CallEpoch ──► frames() ──► next_frame() … audio in order
//!     │                 └ an index for each segment, made if it is missing
//!     ├───────────► follow(shard, lsn) ──► poll(), poll() …                 records as written
//!     └───────────► batches(lsn) ──► advance(), advance() …                 whole batches
//! ```
//! It works offline and beside live nodes. Locks tell sealed segments from those being written, and
//! keep retention away from segments being read. A [`Journal`] is the directory at the time of
//! opening. Segments removed since then are skipped.

#![forbid(unsafe_code)]

use super::index::{IndexBuilder, SegmentIndex};
use super::layout::{BOOT_FILE, RunName, run_dir, runs, segment_path, segments, shard_dir, shards};
use super::marks::{FoundMarks, Marks};
use super::scan::{Advance, Damage, Found, Place, ScanOptions, SegmentScan, Unread};
use super::source::{FirstBlock, Holder, SegmentFile, is_of_medium};
use crate::format::{FormatError, Lsn, SegmentHeader, SegmentUuid};
use headers::Headers;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

mod batches;
mod calls;
mod catalog;
mod epoch_tail;
mod find;
mod follow;
mod frames;
mod gathered;
mod headers;
mod live;
mod placed;
#[cfg(test)]
mod tests;

pub use batches::{Batch, Batches, MissingSegments, Step};
pub(in crate::archive) use calls::CallGatherer;
pub use calls::{Calls, Listed, Listing};
pub use catalog::{Call, CallEpoch, Catalog, EpochState, Gap, GapReason, Part, Parts};
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
    unlisted: Vec<JournalError>,
}

/// How many segments before and after one are looked at for what they say about it. Nearly always
/// the next one says everything. Others matter only where headers are bad, or where a failing disk
/// made the writer give up several segments in a row.
const NEIGHBOURS_MAX: usize = 64;

/// One shard of one run. Only the ids of its segments are in memory; headers are read on demand.
#[derive(Debug)]
pub struct ShardJournal {
    run: RunName,
    shard: u16,
    dir: PathBuf,
    ids: Vec<u64>,
    headers: Headers,
    marks: OnceLock<FoundMarks>,
    /// Whether its segments are of the first format, once that was asked.
    is_first_format: OnceLock<bool>,
}

/// Why segments are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::archive) enum Absence {
    /// They are all there.
    None,
    /// Retention removed some; none was lost.
    Expired,
    /// Some were removed neither by retention nor by anything else of a node.
    Lost,
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
    /// Lists the directory. One that was begun and holds no run yet is fine. One with neither boot
    /// counter nor run is no journal: that is an error. If the disk cannot list the directory of a
    /// run or a shard, that is damage: [`Journal::unlisted`].
    pub fn open(data_dir: &Path) -> Result<Journal, JournalError> {
        let runs = runs(data_dir).map_err(at(data_dir))?;
        if runs.is_empty() && !data_dir.join(BOOT_FILE).exists() {
            return Err(at(data_dir)(io::Error::other("it holds no journal")));
        }
        let (mut found, mut unlisted) = (Vec::new(), Vec::new());
        let mut step_over = |error: JournalError| match is_of_medium(&error.error) {
            true => {
                unlisted.push(error);
                Ok(())
            }
            false => Err(error),
        };
        for run in runs {
            let run_dir = run_dir(data_dir, &run);
            let shards = match present(shards(&run_dir)).map_err(at(&run_dir)) {
                Ok(shards) => shards,
                Err(error) => {
                    step_over(error)?;
                    continue;
                }
            };
            for shard in shards {
                match ShardJournal::open(run, shard, shard_dir(&run_dir, shard)) {
                    Ok(shard) => found.push(shard),
                    Err(error) => step_over(error)?,
                }
            }
        }
        Ok(Journal { data_dir: data_dir.to_owned(), shards: found, unlisted })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Directories of runs and shards that the disk cannot list. What is in them is left out.
    pub fn unlisted(&self) -> &[JournalError] {
        &self.unlisted
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
        std::fs::metadata(&path).map_err(at(&path))?;
        Ok(ShardJournal { ids: vec![id], ..ShardJournal::empty(run, shard, dir) })
    }

    /// Lists a shard's directory. Reads none of its files.
    pub fn open(run: RunName, shard: u16, dir: PathBuf) -> Result<ShardJournal, JournalError> {
        let ids = present(segments(&dir)).map_err(at(&dir))?;
        Ok(ShardJournal { ids, ..ShardJournal::empty(run, shard, dir) })
    }

    fn empty(run: RunName, shard: u16, dir: PathBuf) -> ShardJournal {
        let (headers, marks, is_first_format) =
            (Headers::default(), OnceLock::new(), OnceLock::new());
        ShardJournal { run, shard, dir, ids: Vec::new(), headers, marks, is_first_format }
    }

    /// What the shard's marks say about missing segments, read once. Read them after the directory
    /// was listed: retention raises a mark before it removes a segment.
    pub fn marks(&self) -> Result<FoundMarks, JournalError> {
        if let Some(marks) = self.marks.get() {
            return Ok(*marks);
        }
        let marks = Marks::find(&self.dir).map_err(at(&self.dir))?;
        Ok(*self.marks.get_or_init(|| marks))
    }

    fn sound_marks(&self) -> Option<Marks> {
        match self.marks() {
            Ok(FoundMarks::Sound(marks)) => Some(marks),
            Ok(FoundMarks::Missing | FoundMarks::Damaged) | Err(_) => None,
        }
    }

    /// Whether the first good headers of the shard are of version 1. Its run then never had marks.
    /// Without a good header that is not known, and this is `true`.
    pub(in crate::archive) fn is_first_format(&self) -> bool {
        *self.is_first_format.get_or_init(|| {
            let positions = 0..self.ids.len().min(NEIGHBOURS_MAX);
            // An error of a header shows again when the segment is read.
            let mut headers = positions.filter_map(|position| self.header(position).ok().flatten());
            headers.next().is_none_or(|header| header.may_be_recycled())
        })
    }

    /// Whether the marks are lost, so that nothing tells an expired segment from a lost one.
    fn has_lost_marks(&self) -> bool {
        match self.marks() {
            Ok(FoundMarks::Sound(_)) => false,
            Ok(FoundMarks::Missing) => !self.is_first_format(),
            Ok(FoundMarks::Damaged) | Err(_) => true,
        }
    }

    /// The id of the last segment that was there, as far as is known; 0 for none.
    pub(in crate::archive) fn last_id(&self) -> u64 {
        let ended = self.sound_marks().and_then(|marks| marks.ended);
        ended.unwrap_or(0).max(self.ids.last().copied().unwrap_or(0))
    }

    /// Number of segments that are there, of those with ids from `first` to `last`.
    fn count_of(&self, first: u64, last: u64) -> u64 {
        let to = self.ids.partition_point(|id| *id <= last);
        to.saturating_sub(self.ids.partition_point(|id| *id < first)) as u64
    }

    /// Why some of the segments with ids from `first` to `last` are not there. In a run of the
    /// first format, which has no marks, they are expired. If the marks are lost, nothing proves
    /// that, so the segments count as lost too.
    pub(in crate::archive) fn absence(&self, first: u64, last: u64) -> Absence {
        let misses = |first: u64, last: u64| {
            first <= last && self.count_of(first, last) < (last - first).saturating_add(1)
        };
        let first = first.max(1);
        match self.sound_marks() {
            Some(marks) if misses(first.max(marks.removed_to.saturating_add(1)), last) => {
                Absence::Lost
            }
            _ if misses(first, last) && self.has_lost_marks() => Absence::Lost,
            _ if misses(first, last) => Absence::Expired,
            _ => Absence::None,
        }
    }

    /// The segments that must be there and are not, as ranges of ids. Empty without marks.
    pub(in crate::archive) fn lost(&self) -> Vec<(u64, u64)> {
        let Some(marks) = self.sound_marks() else { return Vec::new() };
        let kept = marks.kept_ids(self.ids.last().copied().unwrap_or(0));
        let (mut next, mut lost) = (*kept.start(), Vec::new());
        let there = &self.ids[self.ids.partition_point(|id| *id < next)..];
        for id in there.iter().copied().chain([kept.end().saturating_add(1)]) {
            if id > next {
                lost.push((next, id - 1));
            }
            next = id.saturating_add(1).max(next);
        }
        // A segment that was begun after the directory was listed is not lost.
        lost.retain(|(first, _)| !segment_path(&self.dir, *first).exists());
        lost
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
        self.ids.len()
    }

    /// The numbers in the segments' names, in order.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The number in a segment's name. `position` counts from 0, oldest first.
    pub fn id(&self, position: usize) -> Option<u64> {
        self.ids.get(position).copied()
    }

    /// The position of the segment with this number, if it is there.
    pub fn position(&self, id: u64) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// A segment's file.
    pub fn path(&self, position: usize) -> PathBuf {
        segment_path(&self.dir, self.id(position).unwrap_or(0))
    }

    /// Headers that were read from files so far.
    #[cfg(test)]
    fn headers_read(&self) -> usize {
        self.headers.read_count()
    }

    fn first_block(&self, position: usize) -> Result<FirstBlock, JournalError> {
        let Some(id) = self.id(position) else { return Ok(FirstBlock::Blank) };
        let path = segment_path(&self.dir, id);
        self.headers.read((&self.run, self.shard, id), &path).map_err(at(&path))
    }

    /// A segment's header; `None` if it is bad, or not written yet.
    pub fn header(&self, position: usize) -> Result<Option<SegmentHeader>, JournalError> {
        Ok(match self.first_block(position)? {
            FirstBlock::Header(header) => Some(header),
            FirstBlock::Blank | FirstBlock::Bad => None,
        })
    }

    /// Position of a segment's first byte in this shard's journal; `None` if its header is bad.
    pub fn start(&self, position: usize) -> Result<Option<Lsn>, JournalError> {
        Ok(self.header(position)?.map(|header| header.start))
    }

    /// Whether a later segment was begun. Then this one was written up to the end that the later
    /// one states.
    pub fn has_successor(&self, position: usize) -> Result<bool, JournalError> {
        for later in self.later(position) {
            if self.header(later)?.is_some() {
                return Ok(true);
            }
        }
        // A writer prepares a few segments at most.
        Ok(self.ids.len().saturating_sub(position) > NEIGHBOURS_MAX)
    }

    /// The positions after this one that are looked at, nearest first.
    fn later(&self, position: usize) -> std::ops::Range<usize> {
        let from = position.saturating_add(1).min(self.ids.len());
        from..from.saturating_add(NEIGHBOURS_MAX).min(self.ids.len())
    }

    /// The positions before this one that are looked at, nearest first.
    fn earlier(&self, position: usize) -> std::iter::Rev<std::ops::Range<usize>> {
        let to = position.min(self.ids.len());
        (to.saturating_sub(NEIGHBOURS_MAX)..to).rev()
    }

    /// What the names and headers of the segments around this one say about it.
    pub fn place(&self, position: usize) -> Result<Place, JournalError> {
        let (id, header) = (self.id(position).unwrap_or(0), self.header(position)?);
        let (mut before, mut next) = (None, None);
        for earlier in self.earlier(position) {
            before = self.header(earlier)?;
            if before.is_some() {
                break;
            }
        }
        let after = before.map(|header| header.start);
        let is_named_by =
            |next: &SegmentHeader| header.is_some_and(|header| header.uuid == next.predecessor);
        let mut end = None;
        for later in self.later(position) {
            let Some(later) = self.header(later)? else { continue };
            if is_named_by(&later) {
                end = Some(later.predecessor_end);
                break;
            }
            let first = *next.get_or_insert(later);
            // Nothing names a bad header. If the next segment had durable data itself, no later one
            // names this one.
            if header.is_none() || later.predecessor == first.uuid {
                break;
            }
        }
        if let (None, Some(next)) = (end, next) {
            let is_next = header.is_none() && next.id == id + 1;
            if is_next || self.passes_over(position, &next)? {
                end = Some(next.predecessor_end);
            }
        }
        // Only runs of the second format have marks.
        let mut near = [header, before, next].into_iter().flatten();
        let is_fresh = near.any(|near| !near.may_be_recycled()) || self.sound_marks().is_some();
        Ok(Place { run: self.run, shard: self.shard, id, after, end, is_fresh })
    }

    /// Whether a later segment names an earlier predecessor. Then nothing in this one was durable.
    fn passes_over(&self, position: usize, next: &SegmentHeader) -> Result<bool, JournalError> {
        if next.predecessor == SegmentUuid::default() {
            return Ok(true);
        }
        for earlier in self.earlier(position) {
            if self.header(earlier)?.is_some_and(|header| header.uuid == next.predecessor) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a process writes here: it holds the last segment.
    pub(crate) fn is_being_written(&self) -> bool {
        let last = self.segment_count().checked_sub(1);
        let file = last.and_then(|last| SegmentFile::open(&self.path(last)).ok());
        file.is_some_and(|file| file.holder() == Holder::Writer)
    }

    /// Opens a segment. Callers need not set `options.is_live`: this finds it out.
    pub fn segment(&self, position: usize, options: ScanOptions) -> Result<Segment, JournalError> {
        let path = self.path(position);
        match SegmentFile::open(&path) {
            Ok(file) => self.scan(position, file, options),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Segment::Gone),
            Err(error) if is_of_medium(&error) => {
                Ok(Segment::Unread(Unread::Lost(FormatError::Unreadable)))
            }
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// As [`ShardJournal::segment`], for a file that is already open.
    pub(super) fn scan(
        &self,
        position: usize,
        file: SegmentFile,
        options: ScanOptions,
    ) -> Result<Segment, JournalError> {
        let place = self.place(position)?;
        let is_live = file.holder() == Holder::Writer && place.end.is_none();
        let options = ScanOptions { is_live, ..options };
        let opened = SegmentScan::open(file, place, options);
        Ok(match opened.map_err(at(&self.path(position)))? {
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
        // An error of the header shows again when the segment is read.
        let header = self.header(position).ok()??;
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
            scan.records().for_each(|found| builder.add(&found));
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
        let header = self.position(summary.index.id).map(|position| self.header(position));
        let has_header = matches!(header, Some(Ok(Some(_))));
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
