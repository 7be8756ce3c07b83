//! Call tables: which of 256 consecutive segments of a shard may hold a call.
//!
//! The table of segments 1 to 256 is the file `0000000000000001.calls` in the shard's directory,
//! that of 257 to 512 is `0000000000000101.calls`, and so on. Each is made once its segments have
//! their indexes. It is merged from them, so making it takes little memory. It is never the only
//! truth: without it the indexes are searched, and a damaged one is made again. It names segments
//! that retention has removed since.
//!
//! ```text
//! ┌────────────┬────────────────────────────────────────┐
//! │ header     │ blocks of rows, sorted by call, epoch  │
//! │ 4,096      │ (see index/table.rs)                   │
//! └────────────┴────────────────────────────────────────┘
//! header                                     row, 24 bytes
//!  0  [u8;8] magic    "XJNCALLS"              0 u64 call          number in records
//!  8  u16 version     1                       8 u64 epoch.micros
//! 10  u16 shard                              16 u32 epoch.boot
//! 12  u32 zero                               20 u16 epoch.shard
//! 16  u64 run                                22 u8  first         segment that holds the epoch,
//! 24  u64 first_id    of the segments        23 u8  last          counted from first_id
//! 32  [u8;32] covered one bit a segment, the lowest of the first byte is the first one
//! 64  u64 row_count
//! 72  fences          of the table
//! 4092 u32 crc        over the bytes before
//! ```
//! The checksums of the blocks start from that of bytes 0 to 64.

#![forbid(unsafe_code)]

use super::index::IndexFile;
use super::index::table::{Block, CRC_AT, FENCES_SIZE, Fences, Table, TableWriter, block_count};
use super::layout::segment_path;
use crate::call::Epoch;
use crate::constants::BLOCK_SIZE;
use crate::format::FormatError;
use rustix::fs::OFlags;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Segments of one table.
pub const GROUP_SIZE: u64 = 256;

/// Ending of a call table's name.
pub const CALLS_EXTENSION: &str = "calls";

/// Most segments of a group that may have no index when its table is made. A damaged segment has
/// none. Each costs a lookup of its own.
const UNCOVERED_MAX: u64 = 16;

const MAGIC: [u8; 8] = *b"XJNCALLS";
const VERSION: u16 = 1;
const ROW_SIZE: usize = 24;
const COVERED_AT: usize = 32;
const ROW_COUNT_AT: usize = 64;
const FENCES_AT: usize = 72;

const _: () = assert!(FENCES_AT + FENCES_SIZE <= CRC_AT);
const _: () = assert!(GROUP_SIZE == 8 * (ROW_COUNT_AT - COVERED_AT) as u64);

/// The group that a segment belongs to. Groups count from 0, segments from 1.
pub const fn group_of(id: u64) -> u64 {
    id.saturating_sub(1) / GROUP_SIZE
}

/// The ids of the segments of a group.
pub fn ids_of(group: u64) -> RangeInclusive<u64> {
    let first = group.saturating_mul(GROUP_SIZE).saturating_add(1);
    first..=first.saturating_add(GROUP_SIZE - 1)
}

/// The table of a group.
pub fn path(shard_dir: &Path, group: u64) -> PathBuf {
    shard_dir.join(format!("{:016x}.{CALLS_EXTENSION}", ids_of(group).start()))
}

/// The group in the name of a call table. `None` for other files.
pub fn group_of_name(name: &str) -> Option<u64> {
    let id = super::layout::parse_id(name, CALLS_EXTENSION)?;
    (*ids_of(group_of(id)).start() == id).then(|| group_of(id))
}

/// A call table in its file.
#[derive(Debug)]
pub(crate) struct CallTable {
    file: File,
    run: u64,
    shard: u16,
    first_id: u64,
    covered: [u8; 32],
    table: Table<ROW_SIZE>,
}

impl CallTable {
    /// Reads the header of the table of a group. `None` if there is no good one.
    pub(crate) fn open(shard_dir: &Path, group: u64) -> Option<CallTable> {
        let file = File::open(path(shard_dir, group)).ok()?;
        let mut block: Box<Block> = Box::new([0; BLOCK_SIZE]);
        file.read_exact_at(&mut block[..], 0).ok()?;
        let table = CallTable::decode(file, &block)?;
        (table.first_id == *ids_of(group).start()).then_some(table)
    }

    fn decode(file: File, block: &Block) -> Option<CallTable> {
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        let version = u16::from_le_bytes(field(block, 8));
        if field(block, 0) != MAGIC || field(block, CRC_AT) != crc.to_le_bytes() {
            return None;
        }
        let row_count = u64::from_le_bytes(field(block, ROW_COUNT_AT));
        let fences = &block[FENCES_AT..CRC_AT];
        let fences = Fences::decode(fences, block_count::<ROW_SIZE>(row_count)).ok()?;
        let seed = crc32c::crc32c(&block[..ROW_COUNT_AT]);
        (version == VERSION).then(|| CallTable {
            file,
            shard: u16::from_le_bytes(field(block, 10)),
            run: u64::from_le_bytes(field(block, 16)),
            first_id: u64::from_le_bytes(field(block, 24)),
            covered: field(block, COVERED_AT),
            table: Table { row_count, seed, fences },
        })
    }

    /// Whether it is one of this shard of this run.
    pub(crate) fn is_of(&self, run: u64, shard: u16) -> bool {
        (self.run, self.shard) == (run, shard)
    }

    /// Whether it says something about a segment.
    pub(crate) fn covers(&self, id: u64) -> bool {
        let place = id.checked_sub(self.first_id).and_then(|place| usize::try_from(place).ok());
        let byte = place.and_then(|place| Some((self.covered.get(place / 8)?, place % 8)));
        byte.is_some_and(|(byte, bit)| byte & (1 << bit) != 0)
    }

    /// From which to which segment the call occurs, if it does. An error means that the table is
    /// damaged.
    pub(crate) fn find(&self, call: u64) -> Result<Option<RangeInclusive<u64>>, FormatError> {
        let rows = self.table.find(call, |number| self.block(number))?;
        let first = rows.iter().map(|row| self.first_id + u64::from(row[22])).min();
        let last = rows.iter().map(|row| self.first_id + u64::from(row[23])).max();
        Ok(first.zip(last).map(|(first, last)| first..=last))
    }

    fn block(&self, number: u64) -> Result<Box<Block>, FormatError> {
        let mut block: Box<Block> = Box::new([0; BLOCK_SIZE]);
        let at = (1 + number) * BLOCK_SIZE as u64;
        self.file.read_exact_at(&mut block[..], at).map_err(|_| FormatError::Truncated)?;
        Ok(block)
    }

    fn is_sound(&self) -> bool {
        (0..self.table.block_count()).all(|number| {
            self.block(number).is_ok_and(|block| self.table.rows(&block, number).is_ok())
        })
    }
}

/// Makes the table of a group, unless there is a good one already. Returns whether there is one
/// now. There is none while segments of the group are still to be written or indexed. An error is
/// one of writing.
pub fn make(shard_dir: &Path, group: u64) -> io::Result<bool> {
    let mut sources = Vec::new();
    let (mut uncovered, mut place) = (0, None);
    for id in ids_of(group) {
        let index = IndexFile::open_any(shard_dir, id).filter(|index| {
            let head = (index.head().run, index.head().shard);
            *place.get_or_insert(head) == head
        });
        match index {
            Some(index) => sources.push(index),
            None => uncovered += u64::from(segment_path(shard_dir, id).exists()),
        }
    }
    let Some((run, shard)) = place.filter(|_| uncovered <= UNCOVERED_MAX) else {
        return Ok(false);
    };
    let last = *ids_of(group).end();
    let is_over = sources.last().is_some_and(|index| index.head().id == last)
        || segment_path(shard_dir, last.saturating_add(1)).exists();
    if !is_over {
        return Ok(false);
    }
    let is_good = |table: &CallTable| {
        table.is_of(run, shard)
            && sources.iter().all(|index| table.covers(index.head().id))
            && table.is_sound()
    };
    if CallTable::open(shard_dir, group).is_some_and(|table| is_good(&table)) {
        return Ok(true);
    }
    let path = path(shard_dir, group);
    let next = path.with_extension(format!("{CALLS_EXTENSION}-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let opened = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&next);
    let made =
        opened
            .and_then(|file| write(file, (run, shard, *ids_of(group).start()), sources))
            .and_then(|is_made| {
                if is_made { std::fs::rename(&next, &path).map(|()| true) } else { Ok(false) }
            });
    if !matches!(made, Ok(true)) {
        let _ = std::fs::remove_file(&next);
    }
    made
}

/// Makes the missing tables of a shard whose segments have these ids, in order. A table that cannot
/// be written is missing, and costs the readers time.
pub(crate) fn make_missing(shard_dir: &Path, ids: &[u64]) {
    for group in ids.chunk_by(|one, next| group_of(*one) == group_of(*next)) {
        let Some(first) = group.first() else { continue };
        let covers = |table: &CallTable| group.iter().all(|id| table.covers(*id));
        // A short group is not over, or a lookup in each of its indexes is soon done.
        let is_worth_it = group.len() as u64 > UNCOVERED_MAX;
        let has_table =
            CallTable::open(shard_dir, group_of(*first)).is_some_and(|one| covers(&one));
        if is_worth_it && !has_table {
            let _ = make(shard_dir, group_of(*first));
        }
    }
}

/// Writes a table. `false`: one of the indexes is damaged.
fn write(
    file: File,
    (run, shard, first_id): (u64, u16, u64),
    sources: Vec<IndexFile>,
) -> io::Result<bool> {
    let mut header = [0; BLOCK_SIZE];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&shard.to_le_bytes());
    header[16..24].copy_from_slice(&run.to_le_bytes());
    header[24..32].copy_from_slice(&first_id.to_le_bytes());
    for index in &sources {
        let place = (index.head().id - first_id) as usize;
        header[COVERED_AT + place / 8] |= 1 << (place % 8);
    }
    let seed = crc32c::crc32c(&header[..ROW_COUNT_AT]);
    let mut out = BufWriter::with_capacity(64 * 1024, file);
    out.write_all(&header)?;
    let mut table = TableWriter::<ROW_SIZE>::new(seed);
    let mut rows = Merge::new(&sources, first_id);
    let mut row = None;
    loop {
        let Ok(next) = rows.next() else { return Ok(false) };
        match (&mut row, next) {
            // Segments come in order, for each epoch.
            (Some(Row { name, last, .. }), Some((next, place))) if *name == next => *last = place,
            (done, next) => {
                if let Some(done) = done {
                    table.add(&done.encode(), |block| out.write_all(block))?;
                }
                let Some((name, place)) = next else { break };
                row = Some(Row { name, first: place, last: place });
            }
        }
    }
    let (fences, row_count) = table.finish(|block| out.write_all(block))?;
    header[ROW_COUNT_AT..FENCES_AT].copy_from_slice(&row_count.to_le_bytes());
    fences.encode(&mut header[FENCES_AT..CRC_AT]);
    let crc = crc32c::crc32c(&header[..CRC_AT]);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header)?;
    out.flush()?;
    Ok(true)
}

/// An epoch, and the segments that hold it.
#[derive(Clone, Copy, Debug)]
struct Row {
    name: (u64, Epoch),
    first: u8,
    last: u8,
}

impl Row {
    fn encode(&self) -> [u8; ROW_SIZE] {
        let (call, epoch) = self.name;
        let mut row = [0; ROW_SIZE];
        row[..8].copy_from_slice(&call.to_le_bytes());
        row[8..16].copy_from_slice(&epoch.micros.to_le_bytes());
        row[16..20].copy_from_slice(&epoch.boot.to_le_bytes());
        row[20..22].copy_from_slice(&epoch.shard.to_le_bytes());
        (row[22], row[23]) = (self.first, self.last);
        row
    }
}

/// An epoch of a call, as tables are sorted by it.
type EpochName = (u64, Epoch);

/// Merges the tables of indexes, a block of each at a time.
struct Merge<'a> {
    sources: Vec<RowsOfIndex<'a>>,
    /// The next epoch of each index, and the segment's place in the group.
    heads: BinaryHeap<Reverse<(EpochName, u8, usize)>>,
    is_begun: bool,
}

struct RowsOfIndex<'a> {
    index: &'a IndexFile,
    place: u8,
    next_block: u64,
    rows: std::vec::IntoIter<EpochName>,
}

impl<'a> Merge<'a> {
    fn new(sources: &'a [IndexFile], first_id: u64) -> Self {
        let rows = sources.iter().map(|index| RowsOfIndex {
            index,
            place: (index.head().id - first_id) as u8,
            next_block: 0,
            rows: Vec::new().into_iter(),
        });
        Merge { sources: rows.collect(), heads: BinaryHeap::new(), is_begun: false }
    }

    /// The next epoch, once for each segment that holds it.
    fn next(&mut self) -> Result<Option<(EpochName, u8)>, FormatError> {
        if !std::mem::replace(&mut self.is_begun, true) {
            for source in 0..self.sources.len() {
                self.advance(source)?;
            }
        }
        let Some(Reverse((name, place, source))) = self.heads.pop() else { return Ok(None) };
        self.advance(source)?;
        Ok(Some((name, place)))
    }

    fn advance(&mut self, source: usize) -> Result<(), FormatError> {
        let Some(rows) = self.sources.get_mut(source) else { return Ok(()) };
        let mut next = rows.rows.next();
        if next.is_none() {
            rows.rows = rows.index.rows(rows.next_block)?.into_iter();
            rows.next_block += 1;
            next = rows.rows.next();
        }
        self.heads.extend(next.map(|name| Reverse((name, rows.place, source))));
        Ok(())
    }
}

/// The bytes at a fixed offset of the header.
fn field<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};
    use crate::archive::layout::index_path;
    use crate::archive::reader::Journal;
    use crate::call::CallIdentity;

    fn identity(number: u64) -> CallIdentity {
        CallIdentity { tenant: "acme".into(), interaction: format!("call-{number}").into() }
    }

    /// 600 segments with 50 calls that come and go, and their indexes.
    fn sample(data_dir: &Path) -> PathBuf {
        let mut image = Image::new(image::run(1), 0, 16 * 1024).unwrap();
        let mut live = Vec::new();
        for segment in 0..600u64 {
            if segment.is_multiple_of(12) {
                live.push(image.start("acme", &format!("call-{}", segment / 12), 8_000));
            }
            if live.len() > 3 {
                image.end(live.remove(0), 1);
            }
            live.iter().for_each(|call| image.frame(*call, &[7; 100]));
            image.seal();
            image.roll();
        }
        let shard_dir = image.store(data_dir).unwrap();
        std::fs::write(data_dir.join("boot"), "1\na\n").unwrap();
        let journal = Journal::open(data_dir).unwrap();
        for position in 0..journal.shards()[0].segment_count() {
            journal.shards()[0].index(position).unwrap();
        }
        shard_dir
    }

    fn found(data_dir: &Path) -> String {
        let journal = Journal::open(data_dir).unwrap();
        let find = |number| format!("{:?}", journal.find(&identity(number)).unwrap());
        (0..51).map(find).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_call_is_found_as_in_the_listing_with_tables_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let shard_dir = sample(dir.path());
        let journal = Journal::open(dir.path()).unwrap();
        let mut listed: Vec<String> = journal
            .calls(&mut || {})
            .unwrap()
            .map(|call| format!("{:?}", Some(call.unwrap())))
            .collect();
        assert_eq!(listed.len(), 50);
        listed.push("None".into());
        let listed = listed.join("\n");
        assert!(found(dir.path()) == listed);
        assert!(make(&shard_dir, 0).unwrap());
        assert!(make(&shard_dir, 1).unwrap());
        assert!(!make(&shard_dir, 2).unwrap(), "the group goes on");
        assert!(found(dir.path()) == listed);
        // Only the segments of the call are looked at, and those after the last table.
        let ids_512: Vec<u64> = (1..=512).collect();
        let table = CallTable::open(&shard_dir, 0).unwrap();
        let range = table.find(identity(3).key().record_number()).unwrap().unwrap();
        assert_eq!((*range.start(), range.count() < 60), (37, true));
        assert!(ids_512[..256].iter().all(|id| table.covers(*id)) && !table.covers(257));
        assert_eq!(table.find(identity(50).key().record_number()), Ok(None));

        // A segment without an index is searched by itself.
        std::fs::remove_file(index_path(&shard_dir, 40)).unwrap();
        std::fs::remove_file(path(&shard_dir, 0)).unwrap();
        assert!(make(&shard_dir, 0).unwrap());
        let table = CallTable::open(&shard_dir, 0).unwrap();
        assert!(!table.covers(40) && table.covers(41));
        assert!(found(dir.path()) == listed);
    }

    #[test]
    fn a_damaged_table_is_ignored_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let shard_dir = sample(dir.path());
        assert!(make(&shard_dir, 0).unwrap());
        let (expected, good) = (found(dir.path()), std::fs::read(path(&shard_dir, 0)).unwrap());
        for at in (0..good.len()).step_by(41) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x20;
            std::fs::write(path(&shard_dir, 0), &bytes).unwrap();
            let table = CallTable::open(&shard_dir, 0);
            assert!(!table.is_some_and(|table| table.is_sound()), "byte {at}");
        }
        assert!(found(dir.path()) == expected);
        std::fs::write(path(&shard_dir, 0), &good[..good.len() - 1]).unwrap();
        assert!(make(&shard_dir, 0).unwrap());
        assert!(std::fs::read(path(&shard_dir, 0)).unwrap() == good);
        // That of another group.
        std::fs::copy(path(&shard_dir, 0), path(&shard_dir, 1)).unwrap();
        assert!(CallTable::open(&shard_dir, 1).is_none());
        assert_eq!(group_of_name("0000000000000101.calls"), Some(1));
        assert_eq!(group_of_name("0000000000000102.calls"), None);
        assert_eq!(group_of_name("0000000000000101.index"), None);
    }
}
