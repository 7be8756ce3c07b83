//! The index of a segment: a file beside it that lists its calls and says where their audio is. So
//! neither a listing nor an export has to read all audio.
//!
//! The index is never the only truth. It is made from the segment. It is made again if it is
//! missing or damaged, or belongs to another use of the segment's file. Version 1 is still read
//! (`index/version_1.rs`): it has no places, so the segment is read for them.
//!
//! It is searched and not loaded: to find a call takes its header, a block of its table, and the
//! call's entry. Each part has its own checksum. Numbers are little-endian.
//!
//! ```text
//! ┌────────────┬──────────────────────────┬──────────────────────────┬─────────────────────────┐
//! │ header     │ table: blocks of rows,   │ entries, in the order of │ places of audio records,│
//! │ 4,096      │ sorted by call and epoch │ their first records      │ epoch by epoch          │
//! └────────────┴──────────────────────────┴──────────────────────────┴─────────────────────────┘
//! header                                      entry of an epoch         number in records
//!  0  [u8;8] magic      "XJNINDEX"             0 u64 call
//!  8  u16 version       2                      8 u64 epoch.micros
//! 10  u16 shard                               16 u32 epoch.boot
//! 12  u32 epoch_count                         20 u16 epoch.shard
//! 16  u64 run                                 22 u16 flags        bit 0: facts, bit 1: end,
//! 24  u64 id                                                      bit 2: places
//! 32  [u8;16] uuid      the segment's         24 u64 first_seq    first one with a chunk; 0: none
//! 48  u64 start         its first lsn         32 u64 open_seq     last incomplete one; 0: none
//! 56  u64 end           of its batches,       40 u64 bytes        whole samples in full frames
//!                       in the file           48 u64 erased       full frames that are erased
//! 64  u64 batches                             56 u64 broken       frames that miss a chunk
//! 72  u64 records                             64 u64 doubles      chunks that came twice
//! 80  u64 torn_at       0: nowhere            72 u64 first_received_at, last_received_at
//! 88  u64 durable_end   as far as known       88 u32 range_count, then each u64 first, u64 last
//! 96  u64 bytes_unsynced                         facts: u128 key, u64 started_at, iat, exp,
//! 104 u32 damage_count                                  u32 sample_rate, u16 size and tenant,
//! 108 u32 flags         bit 0: lossy                    u16 size and interaction,
//! 112 u64 ended_at      0: unknown                      u8 1, [u8;16] peer's address as IPv6,
//! 120 u64 entries_size  bytes                           u16 port; or u8 0
//! 128 u64 places_size   bytes                    end: 32 bytes as in its record
//!                                                places: u64 offset in the places, u32 size,
//! 136 fences            of the table                     u32 crc: see index/places.rs
//! 4092 u32 crc                                   u32 crc over the entry
//!
//! row of the table, 32 bytes: u64 call, u64 epoch.micros, u32 epoch.boot, u16 epoch.shard, zero,
//!                             u32 offset in the entries, u32 size with the checksum
//! ```
//! Fences and blocks are those of `index/table.rs`. All checksums but that of the header start from
//! the checksum of the uuid, so no bytes of another index pass for this one's.

#![forbid(unsafe_code)]

use super::layout::{index_path, live_index_path, unfinished_index_path};
use super::ranges::{SeqRange, SeqRanges};
use crate::address::PeerAddress;
use crate::call::{CallIdentity, CallKey, Epoch};
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;
use crate::format::payload::END_SIZE;
use crate::format::{EndRecord, FormatError, Lsn, SegmentUuid};
use header::Header;
use places::RecordPlaces;
use rustix::fs::OFlags;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use table::{Block, CRC_AT, FENCES_SIZE, Fences, TableWriter};

mod builder;
mod file;
mod header;
mod live;
mod noted;
pub(crate) mod places;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod version_1;

pub use builder::IndexBuilder;
pub(crate) use file::{IndexFile, PlacesAt};
pub(crate) use live::LiveIndexWriter;
pub(crate) use noted::NotedIndex;

/// First bytes of every index.
pub(crate) const MAGIC: [u8; 8] = *b"XJNINDEX";

/// First bytes of every live index: see [`live`].
const LIVE_MAGIC: [u8; 8] = *b"XJNLIVE\0";

/// Version of the file.
pub(crate) const VERSION: u16 = 2;

/// A larger file is not an index: all calls that fit into a segment of 256 MiB need far less.
const FILE_SIZE_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of a row in the table.
const ROW_SIZE: usize = 32;

/// Offset of the fences in the header.
const FENCES_AT: usize = 136;

/// Bytes of a checksum after an entry.
const CRC_SIZE: usize = 4;

const IS_LOSSY: u32 = 1;

const HAS_FACTS: u16 = 1;
const HAS_END: u16 = 2;
const HAS_PLACES: u16 = 4;

const _: () = assert!(FENCES_AT + FENCES_SIZE <= CRC_AT);

/// The contents of a call record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFacts {
    /// Identity of the call.
    pub(crate) identity: CallIdentity,
    /// Its whole key.
    pub(crate) key: CallKey,
    /// Sample rate, Hz.
    pub sample_rate: u32,
    /// When `start` arrived.
    pub(crate) started_at: UnixMicros,
    /// The token's `iat`, seconds since 1970; 0 if there was no token.
    pub(crate) token_issued_at: u64,
    /// The token's `exp`, seconds since 1970; 0 if there was no token.
    pub(crate) token_expires_at: u64,
    /// Where the call came from; `None` if that is not known.
    pub(crate) peer: Option<PeerAddress>,
}

/// The part of an epoch of a call that is in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochIndex {
    /// The call's record number.
    pub(crate) call: u64,
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// Facts about the call; `None` if the segment has no call record of it.
    pub(crate) facts: Option<CallFacts>,
    /// How the epoch ended, if it ended here.
    pub(crate) end: Option<EndRecord>,
    /// The first frame with a chunk here; 0 if there is none.
    pub(crate) first_seq: u64,
    /// The last frame that was begun but not completed here; 0 if there is none.
    pub(crate) open_seq: u64,
    /// Frames that were completed here.
    pub(crate) frames: SeqRanges,
    /// Bytes of whole samples in them.
    pub(crate) bytes: u64,
    /// How many of them are erased.
    pub(crate) erased: u64,
    /// Frames that miss a chunk.
    pub(crate) broken: u64,
    /// Chunks that came twice.
    pub(crate) doubles: u64,
    /// When its first record arrived.
    pub(crate) first_received_at: UnixMicros,
    /// When its last record arrived.
    pub(crate) last_received_at: UnixMicros,
    /// Where its audio is; `None` if that was not read or is not known.
    pub(crate) places: Option<RecordPlaces>,
}

/// The calls in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The run's number.
    pub(crate) run: u64,
    /// The shard.
    pub(crate) shard: u16,
    /// The segment's number.
    pub(crate) id: u64,
    /// Names this use of its file.
    pub(crate) uuid: SegmentUuid,
    /// Position of its first byte in the shard's journal.
    pub(crate) start: Lsn,
    /// Where its batches end, bytes in the file.
    pub(crate) end: u64,
    /// Sound batches.
    pub(crate) batches: u64,
    /// Sound records.
    pub(crate) records: u64,
    /// Where it was torn, bytes in the file.
    pub(crate) torn_at: Option<u64>,
    /// Bytes at the start of the segment that were durable, as far as was known when the index was
    /// made. The writer knows: a segment that it ended is whole up to here.
    pub(crate) durable_end: u64,
    /// Bytes of bad batches that were not durable.
    pub(crate) bytes_unsynced: u64,
    /// Some bad bytes in it were not durable, so missing frames may never have been promised.
    pub(crate) is_lossy: bool,
    /// Number of damaged places.
    pub(crate) damage_count: u32,
    /// When its writer ended it, in journal time; 0 if that is not known.
    pub(crate) ended_at: UnixMicros,
    /// The epochs, in order of their first record.
    pub(crate) epochs: Vec<EpochIndex>,
}

impl SegmentIndex {
    /// Encodes the index as the file holds it.
    pub fn encode(&self) -> Vec<u8> {
        let mut entries = Vec::with_capacity(self.epochs.len() * 192);
        let mut places: Vec<u8> = Vec::new();
        let (mut rows, seed) = (Vec::with_capacity(self.epochs.len()), seed(self.uuid));
        for call_epoch in &self.epochs {
            let at = entries.len();
            let held = call_epoch.places.as_ref().map(|held| {
                places.extend(held.as_bytes());
                PlacesAt::new(places.len() - held.as_bytes().len(), held.as_bytes(), seed)
            });
            call_epoch.encode(seed, held, &mut entries);
            rows.push((call_epoch.call, call_epoch.epoch, at as u32, (entries.len() - at) as u32));
        }
        rows.sort_unstable();
        let mut table = TableWriter::<ROW_SIZE>::new(seed);
        let mut out = vec![0; BLOCK_SIZE];
        let mut add = |block: &Block| -> Result<(), std::convert::Infallible> {
            out.extend(block);
            Ok(())
        };
        for (call, epoch, at, size) in rows {
            let Ok(()) = table.add(&row(call, epoch, at, size), &mut add);
        }
        let Ok((fences, _)) = table.finish(&mut add);
        let sizes = (entries.len() as u64, places.len() as u64);
        let header = self.encode_header(MAGIC, self.epochs.len(), &fences, sizes);
        out[..BLOCK_SIZE].copy_from_slice(&header);
        out.extend(entries);
        out.extend(places);
        out
    }

    fn encode_header(
        &self,
        magic: [u8; 8],
        epoch_count: usize,
        fences: &Fences,
        (entries_size, places_size): (u64, u64),
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_SIZE);
        out.extend(magic);
        out.extend(VERSION.to_le_bytes());
        out.extend(self.shard.to_le_bytes());
        out.extend((epoch_count as u32).to_le_bytes());
        out.extend(self.run.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.extend(self.uuid.0);
        for number in
            [self.start.0, self.end, self.batches, self.records, self.torn_at.unwrap_or(0)]
        {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.durable_end.to_le_bytes());
        out.extend(self.bytes_unsynced.to_le_bytes());
        out.extend(self.damage_count.to_le_bytes());
        out.extend((u32::from(self.is_lossy) * IS_LOSSY).to_le_bytes());
        for number in [self.ended_at.0, entries_size, places_size] {
            out.extend(number.to_le_bytes());
        }
        out.resize(CRC_AT, 0);
        fences.encode(&mut out[FENCES_AT..]);
        let crc = crc32c::crc32c(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    /// Decodes a file's bytes, and checks all of them.
    pub fn decode(bytes: &[u8]) -> Result<SegmentIndex, FormatError> {
        if version(bytes)? == version_1::VERSION {
            return version_1::decode(bytes);
        }
        let header = Header::decode(bytes.first_chunk().ok_or(FormatError::Truncated)?, MAGIC)?;
        let (entries_at, places_at) =
            (header.entries().start as usize, header.places().start as usize);
        if bytes.len() as u64 != header.places().end {
            return Err(FormatError::Size(bytes.len() as u64));
        }
        let Header { mut index, table, .. } = header;
        let (entries, places) = (&bytes[entries_at..places_at], &bytes[places_at..]);
        let mut rows = Vec::new();
        for (number, block) in
            bytes[BLOCK_SIZE..entries_at].as_chunks::<BLOCK_SIZE>().0.iter().enumerate()
        {
            rows.extend_from_slice(table.rows(block, number as u64)?);
        }
        // All bytes of the entries are those of an entry, and all places belong to one.
        rows.sort_unstable_by_key(place_of);
        let (mut at, mut places_at) = (0, 0);
        for row in rows {
            let (offset, size) = place_of(&row);
            if offset != at {
                return Err(FormatError::Size(u64::from(offset)));
            }
            at = offset.checked_add(size).ok_or(FormatError::Size(u64::from(size)))?;
            let entry = entries.get(offset as usize..at as usize).ok_or(FormatError::Truncated)?;
            let (mut call_epoch, held) = EpochIndex::decode(table.seed, entry, &row)?;
            if let Some(held) = held {
                if held.offset != places_at {
                    return Err(FormatError::Size(held.offset));
                }
                places_at += u64::from(held.size);
                let from = places.get(held.offset as usize..).ok_or(FormatError::Truncated)?;
                let held_bytes = from.get(..held.size as usize).ok_or(FormatError::Truncated)?;
                call_epoch.places = Some(held.check(table.seed, held_bytes)?);
            }
            index.epochs.push(call_epoch);
        }
        if at as usize != entries.len() || places_at != places.len() as u64 {
            return Err(FormatError::Size(u64::from(at)));
        }
        Ok(index)
    }

    /// The index beside a segment, if it exists, is good, and belongs to this use of the file.
    pub fn load(shard_dir: &Path, id: u64, uuid: SegmentUuid) -> Option<SegmentIndex> {
        let path = index_path(shard_dir, id);
        if std::fs::metadata(&path).ok()?.len() > FILE_SIZE_MAX {
            return None;
        }
        let index = SegmentIndex::decode(&std::fs::read(&path).ok()?).ok()?;
        (index.id == id && index.uuid == uuid).then_some(index)
    }

    /// Writes it beside its segment, whole or not at all. It is not made durable: a reader that
    /// finds it cut off makes it again. It takes the place of a live index.
    pub(crate) fn store(&self, shard_dir: &Path) -> io::Result<()> {
        let (path, next) =
            (index_path(shard_dir, self.id), unfinished_index_path(shard_dir, self.id));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let opened = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&next);
        let stored = opened
            .and_then(|mut file| file.write_all(&self.encode()))
            .and_then(|()| std::fs::rename(&next, &path));
        // A live index that stays does no harm: no reader looks at it any more.
        let left = if stored.is_ok() { live_index_path(shard_dir, self.id) } else { next };
        let _ = std::fs::remove_file(left);
        stored
    }
}

/// The version of an index, if its bytes are one.
fn version(bytes: &[u8]) -> Result<u16, FormatError> {
    let mut rest = Bytes(bytes);
    if rest.take()? != MAGIC { Err(FormatError::Magic) } else { rest.u16() }
}

/// What the checksums of an index start from.
fn seed(uuid: SegmentUuid) -> u32 {
    crc32c::crc32c(&uuid.0)
}

fn row(call: u64, epoch: Epoch, at: u32, size: u32) -> [u8; ROW_SIZE] {
    let mut row = [0; ROW_SIZE];
    row[..8].copy_from_slice(&call.to_le_bytes());
    row[8..16].copy_from_slice(&epoch.micros.to_le_bytes());
    row[16..20].copy_from_slice(&epoch.boot.to_le_bytes());
    row[20..22].copy_from_slice(&epoch.shard.to_le_bytes());
    row[24..28].copy_from_slice(&at.to_le_bytes());
    row[28..].copy_from_slice(&size.to_le_bytes());
    row
}

/// The call and epoch of a row.
fn name_of(row: &[u8; ROW_SIZE]) -> Result<(u64, Epoch), FormatError> {
    let mut rest = Bytes(row);
    let (call, micros, boot, shard) = (rest.u64()?, rest.u64()?, rest.u32()?, rest.u16()?);
    Ok((call, Epoch { boot, micros, shard }))
}

/// The offset and size of a row's entry, bytes.
fn place_of(row: &[u8; ROW_SIZE]) -> (u32, u32) {
    let number = |at: usize| row[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    (number(24), number(28))
}

impl SegmentIndex {
    /// The fields of a header that both versions have, from the run on.
    fn read_header(shard: u16, rest: &mut Bytes<'_>) -> Result<SegmentIndex, FormatError> {
        Ok(SegmentIndex {
            run: rest.u64()?,
            shard,
            id: rest.u64()?,
            uuid: SegmentUuid(rest.take()?),
            start: Lsn(rest.u64()?),
            end: rest.u64()?,
            batches: rest.u64()?,
            records: rest.u64()?,
            torn_at: Some(rest.u64()?).filter(|at| *at > 0),
            durable_end: rest.u64()?,
            bytes_unsynced: rest.u64()?,
            damage_count: rest.u32()?,
            is_lossy: match rest.u32()? {
                0 => false,
                IS_LOSSY => true,
                _ => return Err(FormatError::Reserved),
            },
            ended_at: UnixMicros(0),
            epochs: Vec::new(),
        })
    }
}

impl EpochIndex {
    /// Appends the entry with its checksum to `out`. Its places are elsewhere.
    fn encode(&self, seed: u32, places: Option<PlacesAt>, out: &mut Vec<u8>) {
        let start = out.len();
        let flags = u16::from(self.facts.is_some()) * HAS_FACTS
            + u16::from(self.end.is_some()) * HAS_END
            + u16::from(places.is_some()) * HAS_PLACES;
        out.extend(self.call.to_le_bytes());
        out.extend(self.epoch.micros.to_le_bytes());
        out.extend(self.epoch.boot.to_le_bytes());
        out.extend(self.epoch.shard.to_le_bytes());
        out.extend(flags.to_le_bytes());
        let numbers =
            [self.first_seq, self.open_seq, self.bytes, self.erased, self.broken, self.doubles];
        for number in numbers.into_iter().chain([self.first_received_at.0, self.last_received_at.0])
        {
            out.extend(number.to_le_bytes());
        }
        out.extend((self.frames.len() as u32).to_le_bytes());
        for range in self.frames.iter() {
            out.extend(range.first.to_le_bytes());
            out.extend(range.last.to_le_bytes());
        }
        if let Some(facts) = &self.facts {
            facts.encode(out);
        }
        if let Some(end) = &self.end {
            out.extend(end.encode());
        }
        if let Some(places) = places {
            out.extend(places.encode());
        }
        let crc = crc32c::crc32c_append(seed, &out[start..]);
        out.extend(crc.to_le_bytes());
    }

    /// Decodes an entry with its checksum, and checks that it is the one of its row. The places
    /// must be read from where the second value says.
    fn decode(
        seed: u32,
        entry: &[u8],
        row: &[u8; ROW_SIZE],
    ) -> Result<(EpochIndex, Option<PlacesAt>), FormatError> {
        let (body, crc) = entry.split_last_chunk::<CRC_SIZE>().ok_or(FormatError::Truncated)?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c_append(seed, body) {
            return Err(FormatError::HeaderCrc);
        }
        let mut rest = Bytes(body);
        let (mut call_epoch, flags) = EpochIndex::read(&mut rest)?;
        if name_of(row)? != (call_epoch.call, call_epoch.epoch) {
            return Err(FormatError::Magic);
        }
        if flags & HAS_FACTS != 0 {
            let facts = CallFacts::read(&mut rest)?;
            call_epoch.facts = Some(CallFacts { peer: rest.peer()?, ..facts });
        }
        if flags & HAS_END != 0 {
            call_epoch.end = Some(EndRecord::decode(&rest.take::<END_SIZE>()?)?);
        }
        let places = match flags & HAS_PLACES {
            0 => None,
            _ => Some(PlacesAt::decode(rest.take()?)),
        };
        if rest.0.is_empty() { Ok((call_epoch, places)) } else { Err(FormatError::Padding) }
    }

    /// The part of an entry that is the same in both versions, and its flags.
    fn read(rest: &mut Bytes<'_>) -> Result<(EpochIndex, u16), FormatError> {
        let (call, micros, boot, shard) = (rest.u64()?, rest.u64()?, rest.u32()?, rest.u16()?);
        let flags = rest.u16()?;
        let mut call_epoch = EpochIndex {
            call,
            epoch: Epoch { boot, micros, shard },
            first_seq: rest.u64()?,
            open_seq: rest.u64()?,
            bytes: rest.u64()?,
            erased: rest.u64()?,
            broken: rest.u64()?,
            doubles: rest.u64()?,
            first_received_at: UnixMicros(rest.u64()?),
            last_received_at: UnixMicros(rest.u64()?),
            ..EpochIndex::default()
        };
        for _ in 0..rest.u32()? {
            call_epoch.frames.add(SeqRange { first: rest.u64()?, last: rest.u64()? });
        }
        Ok((call_epoch, flags))
    }
}

impl CallFacts {
    /// Appends them as an entry of version 2 holds them.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.key.0.to_le_bytes());
        for number in [self.started_at.0, self.token_issued_at, self.token_expires_at] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.sample_rate.to_le_bytes());
        for id in [&self.identity.tenant, &self.identity.interaction] {
            out.extend((id.len() as u16).to_le_bytes());
            out.extend(id.as_bytes());
        }
        out.push(u8::from(self.peer.is_some()));
        out.extend(self.peer.into_iter().flat_map(PeerAddress::to_bytes));
    }

    /// Decodes what [`CallFacts::encode`] has made, from the start of `bytes`, and moves on.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Result<CallFacts, FormatError> {
        let mut rest = Bytes(bytes);
        let facts = CallFacts::read(&mut rest)?;
        let facts = CallFacts { peer: rest.peer()?, ..facts };
        *bytes = rest.0;
        Ok(facts)
    }

    /// The facts without the peer, as both versions hold them.
    fn read(rest: &mut Bytes<'_>) -> Result<CallFacts, FormatError> {
        Ok(CallFacts {
            key: CallKey(u128::from_le_bytes(rest.take()?)),
            started_at: UnixMicros(rest.u64()?),
            token_issued_at: rest.u64()?,
            token_expires_at: rest.u64()?,
            sample_rate: rest.u32()?,
            identity: CallIdentity { tenant: rest.id()?, interaction: rest.id()? },
            peer: None,
        })
    }
}

/// The rest of a file's bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.take().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Result<Box<str>, FormatError> {
        let size = usize::from(self.u16()?);
        let (id, rest) = self.0.split_at_checked(size).ok_or(FormatError::Truncated)?;
        self.0 = rest;
        let id = std::str::from_utf8(id).map_err(|_| FormatError::Id)?;
        if crate::call::valid_id(id) { Ok(id.into()) } else { Err(FormatError::Id) }
    }

    fn peer(&mut self) -> Result<Option<PeerAddress>, FormatError> {
        match self.take()? {
            [0] => Ok(None),
            [1] => self.take().map(|bytes| Some(PeerAddress::from_bytes(bytes))),
            _ => Err(FormatError::Reserved),
        }
    }
}
