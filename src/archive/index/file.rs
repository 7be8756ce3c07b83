//! An index that is searched in its file. A lookup reads a few kilobytes, and checks what it reads.

#![forbid(unsafe_code)]

use super::places::RecordPlaces;
use super::table::Block;
use super::{
    EpochIndex, FILE_SIZE_MAX, Header, MAGIC, ROW_SIZE, SegmentIndex, index_path, live_index_path,
    place_of, version_1,
};
use crate::constants::BLOCK_SIZE;
use crate::format::{FormatError, SegmentUuid};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// How often a reader looks at the header of a live index until it is whole, and the pause between.
const LOOKS_MAX: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Where the places of an epoch are in the file, and their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacesAt {
    /// Offset in the places of the file, bytes.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) size: u32,
    pub(super) crc: u32,
}

/// Bytes of an encoded [`PlacesAt`].
pub(super) const PLACES_AT_SIZE: usize = 16;

impl PlacesAt {
    /// Where `bytes` are that start at `offset`.
    pub(super) fn new(offset: usize, bytes: &[u8], seed: u32) -> PlacesAt {
        let crc = crc32c::crc32c_append(seed, bytes);
        PlacesAt { offset: offset as u64, size: bytes.len() as u32, crc }
    }

    pub(super) fn encode(&self) -> [u8; PLACES_AT_SIZE] {
        let mut out = [0; PLACES_AT_SIZE];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.size.to_le_bytes());
        out[12..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: [u8; PLACES_AT_SIZE]) -> PlacesAt {
        let number = u128::from_le_bytes(bytes);
        let (offset, size, crc) = (number as u64, (number >> 64) as u32, (number >> 96) as u32);
        PlacesAt { offset, size, crc }
    }

    /// The places in `bytes`, if their checksum is right.
    pub(super) fn check(&self, seed: u32, bytes: &[u8]) -> Result<RecordPlaces, FormatError> {
        match crc32c::crc32c_append(seed, bytes) == self.crc {
            true => RecordPlaces::decode(bytes),
            false => Err(FormatError::PayloadCrc),
        }
    }
}

/// An index in its file. An error of any lookup means that the index is not good: it must be made
/// again.
#[derive(Debug)]
pub(crate) struct IndexFile {
    file: File,
    bytes_read: u64,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// It is read as a whole.
    Version1(SegmentIndex),
    Version2(Box<Header>),
}

impl IndexFile {
    /// Reads the header of the index beside a segment. `None` if there is no good one of this use
    /// of the segment's file.
    pub(crate) fn open(shard_dir: &Path, id: u64, uuid: SegmentUuid) -> Option<IndexFile> {
        let index = IndexFile::open_any(shard_dir, id)?;
        (index.head().uuid == uuid).then_some(index)
    }

    /// What the node has written so far of the index of a segment that it is writing: see
    /// [`live`](super::live). `None` if there is no good one of this use of the segment's file.
    pub(crate) fn open_live(shard_dir: &Path, id: u64, uuid: SegmentUuid) -> Option<IndexFile> {
        let file = File::open(live_index_path(shard_dir, id)).ok()?;
        let mut block: Box<Block> = Box::new([0; BLOCK_SIZE]);
        for _ in 0..LOOKS_MAX {
            file.read_exact_at(&mut block[..], 0).ok()?;
            if let Ok(header) = Header::decode(&block, super::LIVE_MAGIC) {
                let is_ours = (header.index.id, header.index.uuid) == (id, uuid);
                let (contents, bytes_read) =
                    (Contents::Version2(Box::new(header)), BLOCK_SIZE as u64);
                return is_ours.then_some(IndexFile { file, bytes_read, contents });
            }
            // The node may be writing it.
            std::thread::sleep(LOOK_PAUSE);
        }
        None
    }

    /// As [`IndexFile::open`], of any use of the segment's file.
    pub(crate) fn open_any(shard_dir: &Path, id: u64) -> Option<IndexFile> {
        let file = File::open(index_path(shard_dir, id)).ok()?;
        let mut block: Box<Block> = Box::new([0; BLOCK_SIZE]);
        // An index of version 1 may be shorter.
        let held = file.read_at(&mut block[..], 0).ok()?;
        let (bytes_read, contents) = match super::version(&block[..held]).ok()? {
            super::VERSION => {
                let header = Header::decode(&block, MAGIC).ok()?;
                (BLOCK_SIZE as u64, Contents::Version2(Box::new(header)))
            }
            version_1::VERSION => {
                let size = file.metadata().ok()?.len();
                let size = usize::try_from(size).ok().filter(|_| size <= FILE_SIZE_MAX)?;
                let mut bytes = vec![0; size];
                file.read_exact_at(&mut bytes, 0).ok()?;
                (size as u64, Contents::Version1(version_1::decode(&bytes).ok()?))
            }
            _ => return None,
        };
        let index = IndexFile { file, bytes_read, contents };
        (index.head().id == id).then_some(index)
    }

    /// What the header says. Has no epochs, unless the index has version 1.
    pub(crate) fn head(&self) -> &SegmentIndex {
        match &self.contents {
            Contents::Version1(index) => index,
            Contents::Version2(header) => &header.index,
        }
    }

    /// Bytes read from the file so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The epochs of a call, by its record number, without their places.
    pub(crate) fn find(
        &mut self,
        call: u64,
    ) -> Result<Vec<(EpochIndex, Option<PlacesAt>)>, FormatError> {
        let IndexFile { file, bytes_read, contents } = self;
        let header = match contents {
            Contents::Version1(index) => {
                let ours = index.epochs.iter().filter(|call_epoch| call_epoch.call == call);
                return Ok(ours.map(|call_epoch| (call_epoch.clone(), None)).collect());
            }
            Contents::Version2(header) => header,
        };
        let rows = header.table.find(call, |number| {
            *bytes_read += BLOCK_SIZE as u64;
            table_block(file, header, number)
        })?;
        let (mut found, entries) = (Vec::with_capacity(rows.len()), header.entries());
        for row in rows {
            let (at, size) = place_of(&row);
            let from = entries.start + u64::from(at);
            let entry = read(file, from, u64::from(size), entries.end)?;
            *bytes_read += u64::from(size);
            found.push(EpochIndex::decode(header.table.seed, &entry, &row)?);
        }
        Ok(found)
    }

    /// The places of an epoch.
    pub(crate) fn places(&mut self, at: &PlacesAt) -> Result<RecordPlaces, FormatError> {
        let Contents::Version2(header) = &self.contents else {
            return Err(FormatError::Version(version_1::VERSION));
        };
        if header.is_live {
            return self.places_after(*at, None);
        }
        let range = header.places();
        let from = range.start.checked_add(at.offset).ok_or(FormatError::Truncated)?;
        let bytes = read(&self.file, from, u64::from(at.size), range.end)?;
        self.bytes_read += u64::from(at.size);
        at.check(header.table.seed, &bytes)
    }

    /// In a live index: the places of an epoch that were added after those at `known`, up to those
    /// at `at`. Each part names the one before.
    pub(crate) fn places_after(
        &mut self,
        at: PlacesAt,
        known: Option<PlacesAt>,
    ) -> Result<RecordPlaces, FormatError> {
        let Contents::Version2(header) = &self.contents else {
            return Err(FormatError::Version(version_1::VERSION));
        };
        let (mut parts, mut next) = (Vec::new(), at);
        loop {
            if Some(next) == known {
                break;
            }
            let bytes = read(&self.file, next.offset, u64::from(next.size), header.places().end)?;
            self.bytes_read += u64::from(next.size);
            if crc32c::crc32c_append(header.table.seed, &bytes) != next.crc {
                return Err(FormatError::PayloadCrc);
            }
            let (before, places) =
                bytes.split_first_chunk::<PLACES_AT_SIZE>().ok_or(FormatError::Truncated)?;
            parts.push(RecordPlaces::decode(places)?);
            let before = PlacesAt::decode(*before);
            if before.size == 0 {
                break;
            }
            // Parts are only appended.
            if before.offset >= next.offset {
                return Err(FormatError::Size(before.offset));
            }
            next = before;
        }
        let mut places = RecordPlaces::default();
        for place in parts.iter().rev().flat_map(RecordPlaces::iter) {
            if !places.add(place) {
                return Err(FormatError::Size(place.offset));
            }
        }
        Ok(places)
    }

    /// All epochs in the order of their first records, without their places.
    pub(crate) fn into_epochs(self) -> Result<SegmentIndex, FormatError> {
        let header = match self.contents {
            Contents::Version1(index) => return Ok(index),
            Contents::Version2(header) => header,
        };
        let mut rows: Vec<[u8; ROW_SIZE]> = Vec::new();
        for number in 0..header.table.block_count() {
            let block = table_block(&self.file, &header, number)?;
            rows.extend_from_slice(header.table.rows(&block, number)?);
        }
        rows.sort_unstable_by_key(place_of);
        let range = header.entries();
        let entries = read(&self.file, range.start, range.end - range.start, range.end)?;
        let (seed, mut index) = (header.table.seed, header.index);
        for row in rows {
            let (at, size) = place_of(&row);
            let entry = entries.get(at as usize..).and_then(|rest| rest.get(..size as usize));
            let entry = entry.ok_or(FormatError::Truncated)?;
            index.epochs.push(EpochIndex::decode(seed, entry, &row)?.0);
        }
        Ok(index)
    }

    /// The rows of the table in order, as calls and epochs: those of the block of this
    /// number. None after the last block.
    pub(crate) fn rows(&self, number: u64) -> Result<Vec<(u64, crate::call::Epoch)>, FormatError> {
        match &self.contents {
            Contents::Version1(_) if number > 0 => Ok(Vec::new()),
            Contents::Version1(index) => {
                let mut rows: Vec<_> =
                    index.epochs.iter().map(|found| (found.call, found.epoch)).collect();
                rows.sort_unstable();
                Ok(rows)
            }
            Contents::Version2(header) if number >= header.table.block_count() => Ok(Vec::new()),
            Contents::Version2(header) => {
                let block = table_block(&self.file, header, number)?;
                header.table.rows(&block, number)?.iter().map(super::name_of).collect()
            }
        }
    }
}

fn table_block(file: &File, header: &Header, number: u64) -> Result<Box<Block>, FormatError> {
    let mut block: Box<Block> = Box::new([0; BLOCK_SIZE]);
    let at = header.table_at() + number * BLOCK_SIZE as u64;
    file.read_exact_at(&mut block[..], at).map_err(|_| FormatError::Truncated)?;
    Ok(block)
}

/// Bytes of the file; the part they belong to ends at `end`.
fn read(file: &File, from: u64, size: u64, end: u64) -> Result<Vec<u8>, FormatError> {
    if from.checked_add(size).is_none_or(|last| last > end) || size > FILE_SIZE_MAX {
        return Err(FormatError::Truncated);
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, from).map_err(|_| FormatError::Truncated)?;
    Ok(bytes)
}
