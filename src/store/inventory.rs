#![forbid(unsafe_code)]
//! The segments of a data directory in memory, 16 bytes each, in the order of their ages.
//!
//! The directory is listed once, in small slices, oldest run first. After that the store's own
//! changes are applied as they happen. Another process that serves on the directory is listed again
//! now and then, until it ends.
//!
//! Within a shard segments are ordered by their ids. Across shards and runs the lists are merged by
//! the journal time in the headers of their first segments. So the order is that of writing,
//! whatever the wall clock and the files' own times say. Only the headers that are needed are read.

use super::tidy::{self, RunState};
use super::{gone, missing_is_fine};
use crate::archive::first_block::{self, Start};
use crate::archive::layout::{self, RunName, index_path, segment_path};
use crate::archive::pins::Pins;
use crate::clock::UnixMicros;
use crate::constants::{BLOCK_SIZE, SEGMENT_AGE_MAX};
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that one slice of the listing asks for.
const SLICE: usize = 256;

/// Segments after a first one with a bad header that are asked for a time.
const NEIGHBOURS: usize = 8;

/// Size of a unit in [`Item::blocks`], bytes.
const UNIT: u64 = 4096;

/// A segment.
#[derive(Clone, Copy, Debug)]
struct Item {
    id: u64,
    /// On disk, with its index, in units.
    blocks: u32,
    /// The node itself has it open.
    is_open: bool,
}

const _: () = assert!(size_of::<Item>() <= 24);

impl Item {
    fn bytes(self) -> u64 {
        u64::from(self.blocks) * UNIT
    }
}

/// The segments of one shard of one run.
#[derive(Debug)]
struct ShardList {
    run: RunName,
    dir: PathBuf,
    /// In order of their ids.
    items: VecDeque<Item>,
    /// The journal times of some segments' beginnings that were read.
    begun: Option<(u64, UnixMicros)>,
    ended: Option<(u64, UnixMicros)>,
    /// The last one that the node itself has finished, and the journal time of that.
    retired: Option<(u64, UnixMicros)>,
}

/// Names a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    list: usize,
    pub(super) id: u64,
}

/// A segment that could be removed.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) name: Name,
    pub(super) dir: PathBuf,
    /// On disk, with its index.
    pub(super) bytes: u64,
    /// Journal time when it began.
    begun: UnixMicros,
}

/// Sizes of finished segments, bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentSizes {
    /// All of them.
    pub(super) finished: u64,
    /// Those that a required sink has not taken.
    pub(super) pinned: u64,
}

/// What is still to be listed.
#[derive(Debug, Default)]
struct Listing {
    runs: VecDeque<RunName>,
    shards: VecDeque<(RunName, PathBuf)>,
    /// A list, and the position of its next segment to be measured.
    measuring: Option<(usize, usize)>,
}

/// The segments of a data directory.
#[derive(Debug)]
pub(super) struct Inventory {
    data_dir: PathBuf,
    own: RunName,
    lists: Vec<ShardList>,
    listing: Option<Listing>,
    /// Runs of other processes that are alive.
    others: Vec<RunName>,
    /// Passed over: they are locked, or cannot be removed.
    skipped: HashSet<Name>,
    /// Bytes that were found since the last call of `take_found_bytes`.
    found_bytes: u64,
    /// Segments that must stay, for each required sink.
    pins: Vec<Arc<Pins>>,
}

impl Inventory {
    /// The inventory of a node whose own shards have these directories. The rest is listed by
    /// [`Inventory::list_some`].
    pub(super) fn new(data_dir: &Path, own: RunName, shard_dirs: &[PathBuf]) -> Inventory {
        let list = |dir: &PathBuf| ShardList::new(own, dir.clone());
        Inventory {
            data_dir: data_dir.to_owned(),
            own,
            lists: shard_dirs.iter().map(list).collect(),
            listing: None,
            others: Vec::new(),
            skipped: HashSet::new(),
            found_bytes: 0,
            pins: Vec::new(),
        }
    }

    /// From now on, segments that not all of these pins free are no candidates.
    pub(super) fn set_pins(&mut self, pins: Vec<Arc<Pins>>) {
        self.pins = pins;
    }

    /// Begins to list the runs of other processes, ended or alive.
    pub(super) fn start_listing(&mut self) -> io::Result<()> {
        let runs = layout::runs(&self.data_dir)?.into_iter().filter(|run| *run != self.own);
        self.listing = Some(Listing { runs: runs.collect(), ..Listing::default() });
        Ok(())
    }

    /// Begins to list the other live processes' runs again, if there are any.
    pub(super) fn list_others_again(&mut self) {
        let runs: VecDeque<_> = std::mem::take(&mut self.others).into();
        if !runs.is_empty() && self.is_complete() {
            self.listing = Some(Listing { runs, ..Listing::default() });
        }
    }

    /// Whether everything has been listed.
    pub(super) fn is_complete(&self) -> bool {
        self.listing.is_none()
    }

    /// Bytes found since the last call.
    pub(super) fn take_found_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.found_bytes)
    }

    /// Lists a small part of what is left: a few milliseconds, but for the names in one directory.
    pub(super) fn list_some(&mut self) -> io::Result<()> {
        let Some(listing) = &mut self.listing else { return Ok(()) };
        if let Some((list, from)) = listing.measuring {
            let items = &mut self.lists[list];
            let to = (from + SLICE).min(items.items.len());
            listing.measuring = (to < items.items.len()).then_some((list, to));
            for position in from..to {
                let bytes = measure(&items.dir, items.items[position].id);
                self.found_bytes += items.set_bytes(position, bytes);
            }
        } else if let Some((run, dir)) = listing.shards.pop_front() {
            let list = self.list_of(run, dir);
            let ids = layout::segments(&self.lists[list].dir);
            let from = self.lists[list].add_new(ids)?;
            if let Some(listing) = &mut self.listing {
                listing.measuring = from.map(|from| (list, from));
            }
        } else if let Some(run) = listing.runs.pop_front() {
            self.list_run(run)?;
        } else {
            self.listing = None;
        }
        Ok(())
    }

    fn list_run(&mut self, run: RunName) -> io::Result<()> {
        match tidy::tidy_run(&self.data_dir, &run)? {
            RunState::Removed => return Ok(()),
            RunState::Ended => {}
            RunState::Alive => self.others.push(run),
        }
        let run_dir = layout::run_dir(&self.data_dir, &run);
        let shards = layout::shards(&run_dir).or_else(gone)?;
        if let Some(listing) = &mut self.listing {
            listing.shards =
                shards.into_iter().map(|shard| (run, layout::shard_dir(&run_dir, shard))).collect();
        }
        Ok(())
    }

    fn list_of(&mut self, run: RunName, dir: PathBuf) -> usize {
        if let Some(list) = self.lists.iter().position(|list| list.dir == dir) {
            return list;
        }
        self.lists.push(ShardList::new(run, dir));
        self.lists.len() - 1
    }

    /// Adds a segment that a shard of the node gets.
    pub(super) fn add_own(&mut self, shard: usize, id: u64, bytes: u64) {
        let item = Item { id, blocks: units(bytes), is_open: true };
        self.lists[shard].items.push_back(item);
    }

    /// A shard of the node has finished a segment at this journal time. Returns the change of its
    /// bytes on disk.
    pub(super) fn handle_retired(&mut self, shard: usize, id: u64, now: UnixMicros) -> i64 {
        let list = &mut self.lists[shard];
        let Some(position) = list.position(id) else { return 0 };
        let before = list.items[position].bytes();
        list.retired = Some((id, now));
        let bytes = measure(&list.dir, id);
        list.items[position] = Item { id, blocks: units(bytes), is_open: false };
        list.items[position].bytes().cast_signed() - before.cast_signed()
    }

    /// Forgets a segment. Returns the bytes that it was counted with.
    pub(super) fn remove(&mut self, name: Name) -> u64 {
        let list = &mut self.lists[name.list];
        self.skipped.remove(&name);
        let Some(position) = list.position(name.id) else { return 0 };
        list.items.remove(position).map_or(0, Item::bytes)
    }

    /// Forgets a segment of the node that was never used.
    pub(super) fn remove_own(&mut self, shard: usize, id: u64) -> u64 {
        self.remove(Name { list: shard, id })
    }

    /// Passes over a segment until [`Inventory::retry_skipped`].
    pub(super) fn skip(&mut self, name: Name) {
        self.skipped.insert(name);
    }

    pub(super) fn retry_skipped(&mut self) {
        self.skipped.clear();
    }

    /// Number of segments of all runs.
    pub(super) fn segment_count(&self) -> u64 {
        self.lists.iter().map(|list| list.items.len() as u64).sum()
    }

    /// Memory of the lists, bytes.
    pub(super) fn memory_size(&self) -> u64 {
        let items = self.lists.iter().map(|list| list.items.capacity() * size_of::<Item>());
        items.sum::<usize>() as u64
    }

    /// Journal time when the oldest segment began. `None`: none has begun. A run that started later
    /// than the oldest segment so far holds none that is older, so few headers are read.
    pub(super) fn oldest_begun(&mut self) -> Option<UnixMicros> {
        let mut lists: Vec<_> =
            self.lists.iter_mut().filter(|list| !list.items.is_empty()).collect();
        lists.sort_unstable_by_key(|list| list.run.started_at);
        let mut oldest: Option<UnixMicros> = None;
        for list in lists {
            if oldest.is_some_and(|at| at <= list.run.started_at) {
                break;
            }
            // The first segment of the node's own shard may have no header yet.
            let begun = match list.items[0].is_open {
                true => list.time_from(0),
                false => Some(list.begin_of(0)),
            };
            oldest = oldest.into_iter().chain(begun).min();
        }
        oldest
    }

    /// Id of the last segment of a shard of the node.
    pub(super) fn last_own(&self, shard: usize) -> Option<u64> {
        self.lists[shard].items.back().map(|item| item.id)
    }

    /// The segment that was begun first, of those that could be removed.
    pub(super) fn oldest(&mut self) -> Option<Candidate> {
        let candidates = (0..self.lists.len()).filter_map(|list| self.first_of(list));
        candidates.collect::<Vec<_>>().into_iter().min_by_key(|candidate| candidate.begun)
    }

    /// A segment whose age is over the limit. `is_over` judges the journal time of its end.
    pub(super) fn oldest_over(
        &mut self,
        is_over: impl Fn(UnixMicros) -> bool,
    ) -> Option<Candidate> {
        for list in 0..self.lists.len() {
            // A younger beginning has no older end: most lists are done with here.
            let Some(first) = self.first_of(list).filter(|first| is_over(first.begun)) else {
                continue;
            };
            let latest = self.latest_end(self.lists[list].run);
            let end = self.lists[list].end_of(first.name.id, latest);
            if end.is_some_and(&is_over) {
                return Some(first);
            }
        }
        None
    }

    /// When a run has ended at the latest: when the next one began. `None`: it is alive.
    fn latest_end(&self, run: RunName) -> Option<UnixMicros> {
        if run == self.own || self.others.contains(&run) || !self.is_complete() {
            return None;
        }
        let runs = self.lists.iter().map(|list| list.run).chain([self.own]);
        runs.filter(|other| *other > run).min().map(|next| next.started_at)
    }

    /// Whether each required sink has looked at its cursor.
    pub(super) fn has_settled_pins(&self) -> bool {
        self.pins.iter().all(|pins| pins.is_settled())
    }

    /// The first segment of a shard that a required sink has not taken. `None`: there is no such
    /// sink.
    fn first_pinned(&self, list: usize) -> Option<u64> {
        self.pins.iter().map(|pins| pins.first(&self.lists[list].dir)).min()
    }

    /// Sizes of the segments that are not in use.
    pub(super) fn sizes(&self) -> SegmentSizes {
        let mut sizes = SegmentSizes::default();
        for (list, shard) in self.lists.iter().enumerate() {
            let pinned = self.first_pinned(list).unwrap_or(u64::MAX);
            for item in shard.items.iter().filter(|item| !item.is_open) {
                sizes.finished += item.bytes();
                sizes.pinned += if item.id < pinned { 0 } else { item.bytes() };
            }
        }
        sizes
    }

    /// The oldest segment of those that could be removed if no sink lacked them.
    pub(super) fn oldest_pinned(&mut self) -> Option<Candidate> {
        let candidates = (0..self.lists.len()).filter_map(|list| {
            let from = self.first_pinned(list)?;
            self.first_from(list, from)
        });
        candidates.collect::<Vec<_>>().into_iter().min_by_key(|candidate| candidate.begun)
    }

    /// The pins of the sinks that have not taken a segment.
    pub(super) fn pins_of(&self, candidate: &Candidate) -> Vec<Arc<Pins>> {
        let lack = |pins: &&Arc<Pins>| !pins.is_taken(&candidate.dir, candidate.name.id);
        self.pins.iter().filter(lack).cloned().collect()
    }

    /// The first segment of a list that could be removed.
    fn first_of(&mut self, list: usize) -> Option<Candidate> {
        let pinned = self.first_pinned(list).unwrap_or(u64::MAX);
        // If it is pinned, all later ones of the shard are pinned, too.
        self.first_from(list, 0).filter(|first| first.name.id < pinned)
    }

    /// The first segment of a list from a number on that is not in use, and is not passed over.
    fn first_from(&mut self, list: usize, from: u64) -> Option<Candidate> {
        let (shard, skipped) = (&mut self.lists[list], &self.skipped);
        let is_free = |item: &Item| {
            item.id >= from && !item.is_open && !skipped.contains(&Name { list, id: item.id })
        };
        let position = shard.items.iter().position(is_free)?;
        let item = shard.items[position];
        let begun = shard.begin_of(position);
        let name = Name { list, id: item.id };
        Some(Candidate { name, dir: shard.dir.clone(), bytes: item.bytes(), begun })
    }
}

impl ShardList {
    fn new(run: RunName, dir: PathBuf) -> ShardList {
        ShardList { run, dir, items: VecDeque::new(), begun: None, ended: None, retired: None }
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.items.binary_search_by_key(&id, |item| item.id).ok()
    }

    /// Adds the segments of a directory that are not known. Returns the position of the first.
    fn add_new(&mut self, ids: io::Result<Vec<u64>>) -> io::Result<Option<usize>> {
        let (from, known) = (self.items.len(), self.items.back().map_or(0, |item| item.id));
        let ids = ids.or_else(gone)?;
        let new = ids.into_iter().filter(|id| *id > known);
        self.items.extend(new.map(|id| Item { id, blocks: 0, is_open: false }));
        Ok((from < self.items.len()).then_some(from))
    }

    /// Sets the bytes of a segment. Returns by how many they are more.
    fn set_bytes(&mut self, position: usize, bytes: u64) -> u64 {
        let item = &mut self.items[position];
        let before = item.bytes();
        item.blocks = units(bytes);
        item.bytes().saturating_sub(before)
    }

    /// Journal time when a segment began. If its header is bad, that of a segment close after it.
    fn begin_of(&mut self, position: usize) -> UnixMicros {
        let id = self.items[position].id;
        if let Some((_, at)) = self.begun.filter(|(known, _)| *known == id) {
            return at;
        }
        let at = self.time_from(position).unwrap_or(self.run.started_at);
        self.begun = Some((id, at));
        at
    }

    /// Journal time when a segment ended: when the next one of its shard began. For the last one
    /// its index says it. Without that it is an upper bound, so that the last segment of a run goes
    /// in its time, too. `latest` is when the run has ended at the latest. `None`: it is not known
    /// yet.
    fn end_of(&mut self, id: u64, latest: Option<UnixMicros>) -> Option<UnixMicros> {
        if let Some((_, at)) = self.ended.filter(|(known, _)| *known == id) {
            return Some(at);
        }
        let position = self.position(id)?;
        let retired = self.retired.filter(|(retired, _)| id <= *retired);
        let at = self
            .time_from(position + 1)
            .or_else(|| index_ended_at(&self.dir, id))
            .or(retired.map(|(_, at)| at))
            .or_else(|| {
                let latest = latest?;
                let begun = self.time_from(position);
                let age_max = SEGMENT_AGE_MAX.as_micros() as u64;
                Some(begun.map_or(latest, |at| UnixMicros(at.0.saturating_add(age_max))))
            })?;
        self.ended = Some((id, at));
        Some(at)
    }

    /// The time in the first good header from a position on.
    fn time_from(&self, position: usize) -> Option<UnixMicros> {
        self.items.iter().skip(position).take(NEIGHBOURS).find_map(|item| match first_block::start(
            &segment_path(&self.dir, item.id),
        ) {
            Ok(Start::Header(header)) => Some(header.created_at),
            _ => None,
        })
    }
}

/// Journal time when a segment ended, as the header of its index says. `None` in an index of the
/// first format, or where it is unknown.
fn index_ended_at(dir: &Path, id: u64) -> Option<UnixMicros> {
    let mut block = [0; BLOCK_SIZE];
    File::open(index_path(dir, id)).and_then(|mut file| file.read_exact(&mut block)).ok()?;
    let (head, crc) = block.split_last_chunk::<4>()?;
    let is_sound = head.starts_with(b"XJNINDEX")
        && u16::from_le_bytes(*head[8..].first_chunk()?) == 2
        && u64::from_le_bytes(*head[24..].first_chunk()?) == id
        && u32::from_le_bytes(*crc) == crc32c::crc32c(head);
    let ended_at = u64::from_le_bytes(*head[112..].first_chunk()?);
    (is_sound && ended_at > 0).then_some(UnixMicros(ended_at))
}

/// Bytes on disk of a segment and its index. 0 if they are gone.
fn measure(dir: &Path, id: u64) -> u64 {
    let blocks = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.blocks());
    (blocks(&segment_path(dir, id)) + blocks(&index_path(dir, id))) * 512
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Removes the table of calls that ends with this segment, if there is one.
pub(super) fn remove_call_table(dir: &Path, id: u64) -> io::Result<()> {
    match id.checked_sub(CALL_TABLE_SEGMENTS).filter(|_| id.is_multiple_of(CALL_TABLE_SEGMENTS)) {
        Some(before) => {
            let path = dir.join(format!("{:016x}.calls", before + 1));
            missing_is_fine(std::fs::remove_file(path))
        }
        None => Ok(()),
    }
}

/// Segments that one table of calls covers.
const CALL_TABLE_SEGMENTS: u64 = 256;
