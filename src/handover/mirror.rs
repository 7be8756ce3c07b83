//! An archive as a journal: a directory of files without audio, made from the indexes of slices.
//!
//! ```text
//! a slice of the archive ──► a segment of the mirror: its header, room for its batches (a hole in
//!                            the file), and the slice's index beside it
//! a hole in the archive  ──► a number that no segment has
//! ```
//! So everything that reads a journal reads an archive: listings, exports, reports of what is
//! missing. The audio of a call is fetched when it is asked for ([`Mirror::fetch`]), and given up
//! after that ([`Mirror::forget`]). The directory is temporary. It takes about a hundredth of the
//! archive, and memory does not grow with it.

#![forbid(unsafe_code)]

use super::coverage::{Coverage, Hole, HoleReason};
use super::index_cache::IndexCache;
use super::sink::{Change, Listed, ObjectSink, SinkError};
use super::slice::{NodeName, ObjectKind, ObjectName, SliceError, SliceIndex};
use crate::archive::index::{IndexFile, SegmentIndex};
use crate::archive::layout::{RunName, create_shard_dir, index_path, segment_path};
use crate::archive::lock;
use crate::archive::marks::Marks;
use crate::archive::reader::{CallEpoch, Journal, JournalError};
use crate::constants::BLOCK_SIZE;
use crate::format::{Lsn, SegmentHeader, SegmentUuid, segment};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Indexes that are fetched at a time.
const FETCHES: usize = 16;

/// A file of the mirror could not be written or read, or the store failed.
#[derive(Debug)]
pub enum MirrorError {
    /// The store.
    Sink(SinkError),
    /// The mirror's directory.
    Files(io::Error),
    /// Reading the mirror.
    Journal(JournalError),
}

impl fmt::Display for MirrorError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorError::Sink(error) => error.fmt(formatter),
            MirrorError::Files(error) => write!(
                formatter,
                "cannot keep the archive's indexes in {}: {error}; TMPDIR chooses another place",
                std::env::temp_dir().display()
            ),
            MirrorError::Journal(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for MirrorError {}

impl From<SinkError> for MirrorError {
    fn from(error: SinkError) -> MirrorError {
        MirrorError::Sink(error)
    }
}

impl From<io::Error> for MirrorError {
    fn from(error: io::Error) -> MirrorError {
        MirrorError::Files(error)
    }
}

impl From<JournalError> for MirrorError {
    fn from(error: JournalError) -> MirrorError {
        MirrorError::Journal(error)
    }
}

/// A shard of a node's run.
pub type ArchiveShard = (NodeName, RunName, u16);

/// What is wrong with an archive, as far as its names and indexes say.
#[derive(Debug, Default)]
pub struct ArchiveState {
    /// Slices.
    pub slices: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Ranges that are not there.
    pub holes: Vec<(ArchiveShard, Hole)>,
    /// Slices whose index cannot be read, and why.
    pub unreadable: Vec<(ObjectName, SliceError)>,
    /// Shards that may go on.
    pub shards_open: u64,
}

/// A mirrored archive.
#[derive(Debug)]
pub struct Mirror {
    dir: TempDir,
    sink: ObjectSink,
    runtime: Runtime,
    /// The object of each segment, by its file.
    objects: BTreeMap<PathBuf, ObjectName>,
    state: ArchiveState,
    /// Locks that say which shards may go on.
    _open: Vec<File>,
}

impl Mirror {
    /// Mirrors an archive, or the part of one node. Indexes that are in the cache are not fetched.
    /// Calls `progress` with the number of slices, and then after each of them.
    pub fn open(
        sink: ObjectSink,
        node: Option<&NodeName>,
        cache: Option<IndexCache>,
        progress: &mut dyn FnMut(Option<u64>),
    ) -> Result<Mirror, MirrorError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut builder = Builder {
            dir: tempfile::Builder::new().prefix("exo-ingest-archive-").tempdir()?,
            runs: BTreeMap::new(),
            objects: BTreeMap::new(),
            state: ArchiveState::default(),
            open: Vec::new(),
        };
        runtime.block_on(builder.mirror(&sink, node, cache, progress))?;
        let Builder { dir, objects, state, open, .. } = builder;
        Ok(Mirror { dir, sink, runtime, objects, state, _open: open })
    }

    /// The archive as a journal.
    pub fn journal(&self) -> Result<Journal, MirrorError> {
        Ok(Journal::open(self.dir.path())?)
    }

    /// What is wrong with the archive.
    pub fn state(&self) -> &ArchiveState {
        &self.state
    }

    /// The archive's objects that are slices, in order.
    pub fn slices(&self) -> impl Iterator<Item = &ObjectName> {
        self.objects.values()
    }

    /// The object that a file of the mirror stands for.
    pub fn object_of(&self, path: &Path) -> Option<&ObjectName> {
        self.objects.get(path)
    }

    /// A whole object. `None`: it is not there.
    pub fn get(&self, name: &ObjectName) -> Result<Option<Bytes>, MirrorError> {
        Ok(self.runtime.block_on(self.sink.get(&name.to_string()))?)
    }

    /// A file beside the slices. `None`: it is not there.
    pub fn get_file(&self, name: &str) -> Result<Option<Bytes>, MirrorError> {
        Ok(self.runtime.block_on(self.sink.get(name))?)
    }

    /// The archive's URL.
    pub fn url(&self) -> &str {
        self.sink.url()
    }

    /// Whether the store has an object.
    pub fn has(&self, name: &str) -> Result<bool, MirrorError> {
        Ok(self.runtime.block_on(self.sink.has(name))?)
    }

    /// Stores a file beside the slices.
    pub fn put_file(&self, name: &str, file: &File) -> Result<(), MirrorError> {
        let size = file.metadata()?.len();
        Ok(self.runtime.block_on(self.sink.put_file(name, file, size))?)
    }

    /// Fetches the audio of an epoch, so that the journal's reader finds it.
    pub fn fetch(&self, journal: &Journal, call_epoch: &CallEpoch) -> Result<(), MirrorError> {
        for (path, dir, id) in parts(journal, call_epoch) {
            let Some(name) = self.objects.get(&path) else { continue };
            let ranges = match IndexFile::open_any(&dir, id) {
                Some(index) => ranges(index, call_epoch),
                None => continue,
            };
            if ranges.is_empty() {
                continue;
            }
            let name = name.to_string();
            let got = self.runtime.block_on(self.sink.get_ranges(&name, &ranges))?;
            // A slice that went since then: its frames are missing, and the reader says so.
            let Some(got) = got else { continue };
            let file = File::options().write(true).open(&path)?;
            for (range, bytes) in ranges.iter().zip(got) {
                file.write_all_at(&bytes, range.start)?;
            }
        }
        Ok(())
    }

    /// The objects that hold an epoch.
    pub fn objects_of(&self, journal: &Journal, call_epoch: &CallEpoch) -> Vec<ObjectName> {
        let parts = parts(journal, call_epoch);
        parts.filter_map(|(path, ..)| self.objects.get(&path).cloned()).collect()
    }

    /// Replaces an object by what `make` makes of it: see [`ObjectSink::change`].
    pub(super) fn change<T, E>(
        &self,
        name: &ObjectName,
        make: impl Fn(&[u8]) -> Result<Option<(Bytes, T)>, E>,
    ) -> Result<Result<Change<T>, E>, MirrorError> {
        Ok(self.runtime.block_on(self.sink.change(&name.to_string(), make))?)
    }

    /// Removes an object. Returns whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool, MirrorError> {
        Ok(self.runtime.block_on(self.sink.remove(name))?)
    }

    /// Gives up the audio of an epoch.
    pub fn forget(&self, journal: &Journal, call_epoch: &CallEpoch) -> Result<(), MirrorError> {
        for (path, ..) in parts(journal, call_epoch) {
            let file = File::options().write(true).open(&path)?;
            let size = file.metadata()?.len();
            file.set_len(BLOCK_SIZE as u64)?;
            file.set_len(size)?;
        }
        Ok(())
    }
}

/// The segments of an epoch: file, directory, number.
fn parts<'a>(
    journal: &'a Journal,
    call_epoch: &'a CallEpoch,
) -> impl Iterator<Item = (PathBuf, PathBuf, u64)> + 'a {
    let shard = journal.shards().get(call_epoch.shard);
    shard.into_iter().flat_map(move |shard| {
        call_epoch.parts.iter().filter_map(move |part| {
            let id = shard.id(part.segment)?;
            Some((shard.path(part.segment), shard.dir().to_owned(), id))
        })
    })
}

/// What to fetch of a slice for an epoch.
fn ranges(mut index: IndexFile, call_epoch: &CallEpoch) -> Vec<Range<u64>> {
    let whole = BLOCK_SIZE as u64..index.head().end;
    // Around damage the reader looks at everything.
    if index.head().damage_count > 0 {
        return vec![whole];
    }
    let found = index.find(call_epoch.call).unwrap_or_default();
    let ours = found.iter().find(|(found, _)| found.epoch == call_epoch.epoch);
    let Some((_, at)) = ours else { return Vec::new() };
    match at.as_ref().and_then(|at| index.places(at).ok()) {
        Some(places) => places.iter().map(|it| it.offset..it.offset + it.size).collect(),
        None => vec![whole],
    }
}

/// A mirror that is being made.
struct Builder {
    dir: TempDir,
    /// The name in the mirror of each run of each node.
    runs: BTreeMap<(NodeName, RunName), RunName>,
    objects: BTreeMap<PathBuf, ObjectName>,
    state: ArchiveState,
    open: Vec<File>,
}

/// A shard of a mirror that is being made.
struct MirrorShard {
    dir: PathBuf,
    run: RunName,
    next_id: u64,
    removed_to: u64,
    before: (SegmentUuid, Lsn),
}

impl Builder {
    async fn mirror(
        &mut self,
        sink: &ObjectSink,
        node: Option<&NodeName>,
        mut cache: Option<IndexCache>,
        progress: &mut dyn FnMut(Option<u64>),
    ) -> Result<(), MirrorError> {
        let prefix = node.map_or("v1".to_owned(), |node| format!("v1/{node}"));
        let listed = sink.list(&prefix).await?;
        let is_slice = |name: &ObjectName| name.kind == ObjectKind::Slice;
        let slices = listed.iter().filter(|listed| is_slice(&listed.name));
        (self.state.slices, self.state.bytes) =
            slices.fold((0, 0), |(count, bytes), listed| (count + 1, bytes + listed.size));
        progress(Some(self.state.slices));
        if let Some(cache) = &mut cache {
            listed.iter().for_each(|listed| cache.keep(listed));
            cache.tidy(node.map(NodeName::as_str));
        }
        let cache = cache.as_ref();
        let of_shard = |one: &Listed, other: &Listed| {
            let (one, other) = (&one.name, &other.name);
            (&one.node, one.run, one.shard) == (&other.node, other.run, other.shard)
        };
        for listed in listed.chunk_by(of_shard) {
            let names = listed.iter().map(|listed| &listed.name);
            let notes: Vec<ObjectName> = names.filter(|name| !is_slice(name)).cloned().collect();
            let slices = listed.iter().filter(|listed| is_slice(&listed.name));
            let fetched = futures_util::stream::iter(slices)
                .map(async |listed| {
                    (&listed.name, IndexCache::slice_index(cache, sink, listed).await)
                })
                .buffered(FETCHES);
            let mut fetched = std::pin::pin!(fetched);
            let mut shard: Option<MirrorShard> = None;
            let mut coverage = Coverage::new(&notes);
            while let Some((name, index)) = fetched.next().await {
                let shard = match &mut shard {
                    Some(shard) => shard,
                    None => shard.insert(self.begin(name)?),
                };
                match index? {
                    Some(Ok(index)) => {
                        let holes = coverage.slice(&index.header);
                        self.skip(shard, name, holes);
                        self.add(shard, name, index)?;
                    }
                    Some(Err(error)) => {
                        coverage.unreadable(name);
                        shard.next_id += 1;
                        self.state.unreadable.push((name.clone(), error));
                    }
                    // It went since it was listed. The next slice says so.
                    None => {}
                }
                progress(None);
            }
            let Some(first) = listed.first() else { continue };
            let holes = coverage.finish();
            match shard {
                Some(mut shard) => {
                    self.skip(&mut shard, &first.name, holes);
                    self.end(shard, coverage.has_ended())?;
                }
                // There are only notes.
                None => holes.into_iter().for_each(|hole| self.note_hole(&first.name, hole)),
            }
        }
        Ok(())
    }

    /// Begins a shard. Two nodes may have runs of one name: then the second one gets another.
    fn begin(&mut self, name: &ObjectName) -> Result<MirrorShard, MirrorError> {
        let taken: BTreeSet<RunName> = self.runs.values().copied().collect();
        let key = (name.node.clone(), name.run);
        let run = *self.runs.entry(key).or_insert_with(|| {
            let mut run = name.run;
            while taken.contains(&run) {
                run.pid = run.pid.wrapping_add(1);
            }
            run
        });
        let dir = create_shard_dir(self.dir.path(), &run, name.shard)?;
        // Frames that came before the first slice have expired: number 1 stands for them.
        let before = (SegmentUuid::default(), Lsn(0));
        Ok(MirrorShard { dir, run, next_id: 2, removed_to: 1, before })
    }

    /// Leaves a number out for each hole.
    fn skip(&mut self, shard: &mut MirrorShard, name: &ObjectName, holes: Vec<Hole>) {
        for hole in holes {
            if hole.reason == HoleReason::Expired {
                shard.removed_to = shard.next_id;
            }
            shard.next_id += 1;
            self.note_hole(name, hole);
        }
    }

    fn note_hole(&mut self, name: &ObjectName, hole: Hole) {
        let of_shard = (name.node.clone(), name.run, name.shard);
        self.state.holes.push((of_shard, hole));
    }

    /// Adds a slice as a segment.
    fn add(
        &mut self,
        shard: &mut MirrorShard,
        name: &ObjectName,
        slice: SliceIndex,
    ) -> Result<(), MirrorError> {
        let SliceIndex { header, index } = slice;
        // Nothing came before the first slice of a run.
        let begins_at = Lsn(header.segment.start.0 + BLOCK_SIZE as u64);
        if header.segment.id == 1 && header.first == begins_at && shard.before.1 == Lsn(0) {
            (shard.next_id, shard.removed_to) = (1, 0);
        }
        let (id, path) = (shard.next_id, segment_path(&shard.dir, shard.next_id));
        let (predecessor, predecessor_end) = shard.before;
        let as_segment = SegmentHeader {
            version: segment::VERSION,
            run: shard.run.number(),
            id,
            predecessor,
            predecessor_end,
            ..header.as_segment()
        };
        let mut block = Box::new([0; BLOCK_SIZE]);
        as_segment.encode(&mut block);
        let file = File::create_new(&path)?;
        file.write_all_at(&block[..], 0)?;
        file.set_len(index.end)?;
        let index = SegmentIndex { id, run: shard.run.number(), ..index };
        std::fs::write(index_path(&shard.dir, id), index.encode())?;
        self.objects.insert(path, name.clone());
        shard.next_id += 1;
        shard.before = (header.segment.uuid, header.end);
        Ok(())
    }

    /// Ends a shard. One that may go on has a segment that is locked, like that of a live node.
    fn end(&mut self, shard: MirrorShard, has_ended: bool) -> Result<(), MirrorError> {
        let MirrorShard { dir, next_id, removed_to, .. } = shard;
        let marks = Marks { shard_count: 1, removed_to, ended: has_ended.then_some(next_id - 1) };
        marks.store(&dir)?;
        if !has_ended {
            self.state.shards_open += 1;
            let file = File::create_new(segment_path(&dir, next_id))?;
            lock::try_exclusive(&file)?;
            self.open.push(file);
        }
        Ok(())
    }
}
