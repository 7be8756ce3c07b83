//! A slice: a stretch of a shard's journal as one object of a store, with an index of its own.
//!
//! ```text
//! ┌────────────┬─────────────────────────────┬──────────────────────┬──────────────┬──────┐
//! │ header     │ batches, as in the journal  │ index of the slice   │ header again │ tail │
//! │ 4,096      │ n × 4,096                   │                      │ 512          │ 64   │
//! └────────────┴─────────────────────────────┴──────────────────────┴──────────────┴──────┘
//! header, 512 bytes, then zeros up to 4,096
//!   0  [u8;8] magic      "XJNSLICE"             72  u64 segment_start   lsn of the segment's header
//!   8  u16 version       1                      80  u64 segment_id
//!  10  u16 shard                                88  u64 created_at      of the segment, journal time
//!  12  u32 run.boot                             96  u64 first           lsn of the first byte of the
//!  16  u64 run.started_at                                               batches
//!  24  u32 run.pid                             104  u64 end             lsn of the byte after them
//!  28  u32 flags        bit 0 LAST: the        112  u64 durable_end     lsn: what was durable of them
//!                       segment ends here      120  u16 segment_version
//!  32  [u8;16] uuid     of the segment         122  u16 node_size
//!  48  [u8;16] predecessor                     124  node                UTF-8, then zeros
//!  64  u64 predecessor_end                     508  u32 crc             over bytes 0..508
//! tail, 64 bytes
//!   0  [u8;8] magic      "XSLICEND"             24  u32 crc             over all bytes before the tail
//!   8  u64 object_size   with the tail          28  zeros
//!  16  u64 index_size                           60  u32 tail_crc        over bytes 0..60
//! ```
//! Numbers are little-endian, checksums are CRC-32C. `uuid`, `predecessor`, `predecessor_end`,
//! `segment_start`, `segment_id`, `created_at` are those of the header of the
//! [segment](crate::format). The bytes from 4,096 on are the segment's from lsn `first` to lsn
//! `end`, damage included: a reader of segments reads them, and finds the same damage.
//!
//! The index is that of a [segment](crate::archive::index), as if the slice were one that starts
//! at lsn `first` − 4,096. It has the facts of every call with a record in the slice, even if the
//! call's own record is in an earlier one. So a lookup takes two range reads: the end of the
//! object, then the places of the call's records.

#![forbid(unsafe_code)]

use crate::archive::index::{IndexBuilder, SegmentIndex};
use crate::archive::layout::RunName;
use crate::archive::scan::{Advance, Damage, Place, ScanOptions, SegmentScan};
use crate::archive::source::Source;
use crate::constants::BLOCK_SIZE;
use crate::format::{FormatError, Lsn, RecordHeader, RecordKind, SegmentHeader};
use std::collections::HashMap;
use std::fmt;
use std::io;

mod header;
mod name;
#[cfg(test)]
pub(super) mod tests;

pub use header::SliceHeader;
pub use name::{NodeName, ObjectKind, ObjectName};

/// Bytes of the header's copy after the index.
pub const HEADER_SIZE: usize = 512;

/// Bytes at the end of an object.
pub const TAIL_SIZE: usize = 64;

/// First bytes of a tail.
const TAIL_MAGIC: [u8; 8] = *b"XSLICEND";

const TAIL_CRC_AT: usize = TAIL_SIZE - 4;

/// A slice, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// What it is part of.
    pub header: SliceHeader,
    /// The whole object.
    pub bytes: Vec<u8>,
    /// Damaged places in it.
    pub damage_count: u32,
}

impl Slice {
    /// The name of its object.
    pub fn name(&self) -> ObjectName {
        self.header.name()
    }

    /// The last bytes of the object. They tell it from any other object.
    pub fn tail(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - TAIL_SIZE..]
    }
}

/// Why bytes are no sound slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceError {
    /// The tail: the object is no slice, or was cut.
    Tail(FormatError),
    /// The header, or its copy.
    Header(FormatError),
    /// The index.
    Index(FormatError),
    /// The checksum over the whole object is wrong.
    Checksum,
    /// The object has another size than its tail says.
    Size(u64),
    /// The index does not say what the batches hold.
    Mismatch,
}

impl fmt::Display for SliceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SliceError::Tail(fault) => write!(formatter, "the end of the object: {fault}"),
            SliceError::Header(fault) => write!(formatter, "its header: {fault}"),
            SliceError::Index(fault) => write!(formatter, "its index: {fault}"),
            SliceError::Checksum => formatter.write_str("the checksum of the object is wrong"),
            SliceError::Size(size) => write!(formatter, "the object should have {size} bytes"),
            SliceError::Mismatch => {
                formatter.write_str("its index does not fit the records in its batches")
            }
        }
    }
}

impl std::error::Error for SliceError {}

/// The end of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceTail {
    /// Bytes of the whole object.
    pub object_size: u64,
    /// Bytes of the index.
    pub index_size: u64,
    /// Over all bytes before the tail.
    pub crc: u32,
}

impl SliceTail {
    fn encode(&self) -> [u8; TAIL_SIZE] {
        let mut bytes = [0; TAIL_SIZE];
        bytes[..8].copy_from_slice(&TAIL_MAGIC);
        bytes[8..16].copy_from_slice(&self.object_size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.index_size.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..TAIL_CRC_AT]);
        bytes[TAIL_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The tail at the end of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<SliceTail, SliceError> {
        let tail =
            bytes.last_chunk::<TAIL_SIZE>().ok_or(SliceError::Tail(FormatError::Truncated))?;
        if tail[..8] != TAIL_MAGIC {
            return Err(SliceError::Tail(FormatError::Magic));
        }
        if tail[TAIL_CRC_AT..] != crc32c::crc32c(&tail[..TAIL_CRC_AT]).to_le_bytes() {
            return Err(SliceError::Tail(FormatError::HeaderCrc));
        }
        let number = |at: usize| tail[at..].first_chunk().map_or(0, |it| u64::from_le_bytes(*it));
        let tail =
            SliceTail { object_size: number(8), index_size: number(16), crc: number(24) as u32 };
        let least = (BLOCK_SIZE + HEADER_SIZE + TAIL_SIZE) as u64;
        let is_possible =
            tail.index_size.checked_add(least).is_some_and(|it| it <= tail.object_size);
        if is_possible { Ok(tail) } else { Err(SliceError::Size(least)) }
    }

    /// Bytes of the index, the header's copy and the tail: what a lookup reads from the end.
    pub fn lookup_size(&self) -> u64 {
        self.index_size + (HEADER_SIZE + TAIL_SIZE) as u64
    }
}

/// What the end of a slice says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceIndex {
    /// What it is part of.
    pub header: SliceHeader,
    /// The calls in it. Offsets count from the start of the object.
    pub index: SegmentIndex,
}

impl SliceIndex {
    /// Reads the last [`SliceTail::lookup_size`] bytes of an object, which has `object_size`.
    pub fn decode(bytes: &[u8], object_size: u64) -> Result<SliceIndex, SliceError> {
        let tail = SliceTail::decode(bytes)?;
        if tail.object_size != object_size {
            return Err(SliceError::Size(tail.object_size));
        }
        let size = usize::try_from(tail.lookup_size()).unwrap_or(usize::MAX);
        let start = bytes.len().checked_sub(size);
        let bytes = &bytes[start.ok_or(SliceError::Tail(FormatError::Truncated))?..];
        let (index, rest) = bytes.split_at(tail.index_size as usize);
        let header = SliceHeader::decode(rest).map_err(SliceError::Header)?;
        let index = SegmentIndex::decode(index).map_err(SliceError::Index)?;
        let batches_end = object_size - tail.lookup_size();
        let fits = (index.run, index.shard, index.id)
            == (header.run.number(), header.segment.shard, header.segment.id)
            && index.uuid == header.segment.uuid
            && index.start == header.start()
            && index.end == batches_end
            && header.end.0 - header.start().0 == batches_end;
        if fits { Ok(SliceIndex { header, index }) } else { Err(SliceError::Mismatch) }
    }
}

/// A slice that was read from end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSlice {
    /// What its end says about it.
    pub index: SliceIndex,
    /// The damage in its batches: it was in the journal already. Offsets in the object.
    pub damages: Vec<Damage>,
}

/// Checks every byte of an object: checksums, index, and each record.
pub fn verify(bytes: &[u8]) -> Result<VerifiedSlice, SliceError> {
    let tail = SliceTail::decode(bytes)?;
    let sliced = SliceIndex::decode(bytes, bytes.len() as u64)?;
    if crc32c::crc32c(&bytes[..bytes.len() - TAIL_SIZE]) != tail.crc {
        return Err(SliceError::Checksum);
    }
    if SliceHeader::decode(bytes).as_ref() != Ok(&sliced.header) {
        return Err(SliceError::Header(FormatError::HeaderCrc));
    }
    let batches = &bytes[BLOCK_SIZE..sliced.index.end as usize];
    let (found, damages) =
        scan(&sliced.header, batches).map_err(|_| SliceError::Header(FormatError::Truncated))?;
    // The records around damage may be judged by batches of other slices.
    if sliced.index.damage_count == 0 && damages.is_empty() && !is_index_of(&sliced.index, found) {
        return Err(SliceError::Mismatch);
    }
    Ok(VerifiedSlice { index: sliced, damages })
}

/// Whether an index says what was found. It may know more: facts of calls whose records are in
/// earlier slices.
fn is_index_of(index: &SegmentIndex, mut found: SegmentIndex) -> bool {
    for (stated, found) in index.epochs.iter().zip(&mut found.epochs) {
        if found.facts.is_none() {
            found.facts.clone_from(&stated.facts);
        }
    }
    (index.records, index.batches, &index.epochs) == (found.records, found.batches, &found.epochs)
}

/// A slice whose batches have changed, because audio in them was erased.
pub fn made_again(before: &SliceIndex, batches: &[u8]) -> Result<Slice, SliceError> {
    let SliceIndex { header, index } = before;
    let (found, _) =
        scan(header, batches).map_err(|_| SliceError::Header(FormatError::Truncated))?;
    let names: HashMap<_, _> = index.epochs.iter().map(|it| ((it.call, it.epoch), it)).collect();
    let mut epochs = found.epochs;
    for call_epoch in &mut epochs {
        if call_epoch.facts.is_none() {
            let known = names.get(&(call_epoch.call, call_epoch.epoch));
            call_epoch.facts = known.and_then(|known| known.facts.clone());
        }
    }
    let mut bytes = vec![0; BLOCK_SIZE];
    bytes.extend_from_slice(batches);
    Ok(finish(header.clone(), bytes, &SegmentIndex { epochs, ..index.clone() }))
}

/// The audio records in the batches of a slice, sound or not: headers, payloads, and where the
/// records are in the object.
pub(super) fn for_each_audio(
    header: &SliceHeader,
    batches: &[u8],
    mut take: impl FnMut(&RecordHeader, &[u8], usize),
) -> Result<(), SliceError> {
    let options = ScanOptions { takes_unchecked: true, ..ScanOptions::default() };
    let mut read = || -> io::Result<()> {
        let mut scan = open(header, batches, options)?;
        while scan.advance()? == Advance::Batch {
            let audio = scan.records().filter(|found| found.header.kind == RecordKind::Audio);
            audio.for_each(|found| take(&found.header, found.payload, found.offset as usize));
        }
        Ok(())
    };
    read().map_err(|_| SliceError::Header(FormatError::Truncated))
}

/// Opens the batches of a slice as those of a segment.
fn open<'a>(
    header: &SliceHeader,
    batches: &'a [u8],
    options: ScanOptions,
) -> io::Result<SegmentScan<SliceSource<'a>>> {
    let place = Place {
        run: header.run,
        shard: header.segment.shard,
        id: header.segment.id,
        after: None,
        end: None,
        is_fresh: true,
    };
    let source = SliceSource { header: header.segment_block(), batches };
    let scan = SegmentScan::open(source, place, options)?;
    let mut scan = scan.map_err(|_| io::ErrorKind::InvalidData)?;
    scan.set_durable_end(header.durable_end.0.saturating_sub(header.start().0));
    Ok(scan)
}

/// Reads the batches of a slice as those of a segment.
fn scan(header: &SliceHeader, batches: &[u8]) -> io::Result<(SegmentIndex, Vec<Damage>)> {
    let mut scan = open(header, batches, ScanOptions::default())?;
    let mut builder = IndexBuilder::default();
    while scan.advance()? == Advance::Batch {
        scan.records().for_each(|found| builder.add(&found));
    }
    let damages = scan.damages().to_vec();
    let (run, shard, id) = (header.run.number(), header.segment.shard, header.segment.id);
    Ok((builder.finish(run, shard, id, &scan), damages))
}

/// A slice as a segment: a header block, and the batches.
struct SliceSource<'a> {
    header: Box<[u8; BLOCK_SIZE]>,
    batches: &'a [u8],
}

impl Source for SliceSource<'_> {
    fn size(&self) -> u64 {
        (BLOCK_SIZE + self.batches.len()) as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        match offset.checked_sub(BLOCK_SIZE as u64) {
            Some(offset) => self.batches.read_at(offset, into),
            None => (&self.header[..]).read_at(offset, into),
        }
    }
}

/// The whole object of a slice. `bytes` has room for the header, and then the batches.
pub(super) fn finish(header: SliceHeader, mut bytes: Vec<u8>, index: &SegmentIndex) -> Slice {
    let encoded = header.encode();
    bytes[..HEADER_SIZE].copy_from_slice(&encoded);
    let index_bytes = index.encode();
    bytes.extend_from_slice(&index_bytes);
    bytes.extend_from_slice(&encoded);
    let tail = SliceTail {
        object_size: (bytes.len() + TAIL_SIZE) as u64,
        index_size: index_bytes.len() as u64,
        crc: crc32c::crc32c(&bytes),
    };
    bytes.extend_from_slice(&tail.encode());
    Slice { header, bytes, damage_count: index.damage_count }
}

/// What is known of a run's name by the lsn of a slice.
impl SliceHeader {
    /// Lsn at which a segment would start that has these batches: one block before the first.
    pub fn start(&self) -> Lsn {
        Lsn(self.first.0.saturating_sub(BLOCK_SIZE as u64))
    }

    /// The header of a segment with the batches of this slice and nothing else.
    pub fn as_segment(&self) -> SegmentHeader {
        let size = self.end.0.saturating_sub(self.start().0);
        SegmentHeader { start: self.start(), size, ..self.segment }
    }

    fn segment_block(&self) -> Box<[u8; BLOCK_SIZE]> {
        let mut block = Box::new([0; BLOCK_SIZE]);
        self.as_segment().encode(&mut block);
        block
    }

    /// The name of the slice's object.
    pub fn name(&self) -> ObjectName {
        ObjectName {
            node: self.node.clone(),
            run: self.run,
            shard: self.segment.shard,
            first: self.first,
            end: self.end,
            kind: ObjectKind::Slice,
        }
    }

    /// The run that the slice belongs to.
    pub fn run(&self) -> &RunName {
        &self.run
    }
}
