//! The index of a segment: a file beside it that lists its calls, so that a listing need not read
//! all audio.
//!
//! The index is never the only truth. It is made from the segment. It is made again if it is
//! missing or damaged, has another version, or belongs to another use of the segment's file.
//! Numbers are little-endian.
//!
//! ```text
//!  0  [u8;8] magic      "XJNINDEX"      epoch: 0 u64 call         number in records
//!  8  u16 version       1                     8  u64 epoch.micros
//! 10  u16 shard                              16  u32 epoch.boot
//! 12  u32 turn_count                         20  u16 epoch.shard
//! 16  u64 run                                22  u16 flags        bit 0: facts, bit 1: end,
//!                                                                 bit 2: peer
//! 24  u64 id                                 24  u64 first_seq    first one with a chunk; 0: none
//! 32  [u8;16] uuid      the segment's        32  u64 open_seq     last incomplete one; 0: none
//! 48  u64 start         its first lsn        40  u64 bytes        whole samples in full frames
//! 56  u64 end           of its batches,      48  u64 erased       full frames that are erased
//!                       in the file          56  u64 broken       frames that miss a chunk
//! 64  u64 batches                            64  u64 doubles      chunks that came twice
//! 72  u64 records                            72  u64 first_received_at, last_received_at
//! 80  u64 torn_at       0: nowhere           88  u32 range_count, then each u64 first, u64 last
//! 88  u64 durable_end   as far as known          facts: u128 key, u64 started_at, iat, exp,
//! 96  u64 bytes_unsynced                           u32 sample_rate, u16 size and tenant,
//! 104 u32 damage_count                             u16 size and interaction
//! 108 u32 flags         bit 0: lossy              peer: [u8;16] address as IPv6, u16 port
//! 112 epochs …                                   end: 32 bytes as in its record
//!  …  zeros             up to the size of a larger index that was in the file before
//!  …  u32 crc           over everything before
//! ```

#![forbid(unsafe_code)]

use super::layout::{index_path, unfinished_index_path};
use super::ranges::{SeqRange, SeqRanges};
use crate::address::PeerAddress;
use crate::call::{CallIdentity, CallKey, Epoch};
use crate::clock::UnixMicros;
use crate::format::payload::END_SIZE;
use crate::format::{EndRecord, FormatError, Lsn, SegmentUuid};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

mod builder;
#[cfg(test)]
mod tests;

pub use builder::IndexBuilder;

/// First bytes of every index.
pub(crate) const MAGIC: [u8; 8] = *b"XJNINDEX";

/// Version of the file.
pub(crate) const VERSION: u16 = 1;

/// A larger file is not an index: all calls that fit into a segment of 256 MiB need far less.
const FILE_SIZE_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of the checksum at the end.
const CRC_SIZE: usize = 4;

const IS_LOSSY: u32 = 1;

const HAS_FACTS: u16 = 1;
const HAS_END: u16 = 2;
const HAS_PEER: u16 = 4;

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
    /// The epochs, in order of their first record.
    pub(crate) epochs: Vec<EpochIndex>,
}

impl SegmentIndex {
    /// Encodes the index as the file holds it.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_over(0)
    }

    /// Encodes the index for a file that already holds `size` bytes. The result has that size,
    /// unless the index is larger than that, or less than half of it.
    fn encode_over(&self, size: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.epochs.len() * 256);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(self.shard.to_le_bytes());
        out.extend((self.epochs.len() as u32).to_le_bytes());
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
        for call_epoch in &self.epochs {
            call_epoch.encode(&mut out);
        }
        let padded = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(CRC_SIZE);
        if (out.len()..=2 * out.len()).contains(&padded) {
            out.resize(padded, 0);
        }
        let crc = crc32c::crc32c(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    /// Decodes a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<SegmentIndex, FormatError> {
        let (body, crc) = bytes.split_last_chunk().ok_or(FormatError::Truncated)?;
        let mut rest = Bytes(body);
        if rest.take()? != MAGIC {
            return Err(FormatError::Magic);
        }
        if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return Err(FormatError::HeaderCrc);
        }
        let version = rest.u16()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let (shard, epoch_count) = (rest.u16()?, rest.u32()?);
        let mut index = SegmentIndex {
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
            epochs: Vec::new(),
        };
        for _ in 0..epoch_count {
            index.epochs.push(EpochIndex::decode(&mut rest)?);
        }
        let is_over = rest.0.iter().all(|byte| *byte == 0);
        if is_over { Ok(index) } else { Err(FormatError::Padding) }
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
    /// finds it cut off makes it again.
    ///
    /// It overwrites the file at [`unfinished_index_path`], if there is one, and keeps that file's
    /// blocks where it can. On a filesystem mounted with `discard` each file that is removed or cut
    /// delays the disk's writes.
    pub(crate) fn store(&self, shard_dir: &Path) -> io::Result<()> {
        let (path, next) =
            (index_path(shard_dir, self.id), unfinished_index_path(shard_dir, self.id));
        let write = |mut file: File| {
            let held = file.metadata()?.len();
            let bytes = self.encode_over(held);
            file.write_all(&bytes)?;
            if held > bytes.len() as u64 { file.set_len(bytes.len() as u64) } else { Ok(()) }
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let opened = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&next);
        let stored = opened.and_then(write).and_then(|()| std::fs::rename(&next, &path));
        if stored.is_err() {
            let _ = std::fs::remove_file(&next);
        }
        stored
    }
}

impl EpochIndex {
    fn encode(&self, out: &mut Vec<u8>) {
        let peer = self.facts.as_ref().and_then(|facts| facts.peer);
        let flags = u16::from(self.facts.is_some()) * HAS_FACTS
            + u16::from(self.end.is_some()) * HAS_END
            + u16::from(peer.is_some()) * HAS_PEER;
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
            out.extend(facts.key.0.to_le_bytes());
            for number in [facts.started_at.0, facts.token_issued_at, facts.token_expires_at] {
                out.extend(number.to_le_bytes());
            }
            out.extend(facts.sample_rate.to_le_bytes());
            for id in [&facts.identity.tenant, &facts.identity.interaction] {
                out.extend((id.len() as u16).to_le_bytes());
                out.extend(id.as_bytes());
            }
            if let Some(peer) = peer {
                out.extend(peer.to_bytes());
            }
        }
        if let Some(end) = &self.end {
            out.extend(end.encode());
        }
    }

    fn decode(rest: &mut Bytes<'_>) -> Result<EpochIndex, FormatError> {
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
        if flags & HAS_FACTS != 0 {
            call_epoch.facts = Some(CallFacts {
                key: CallKey(u128::from_le_bytes(rest.take()?)),
                started_at: UnixMicros(rest.u64()?),
                token_issued_at: rest.u64()?,
                token_expires_at: rest.u64()?,
                sample_rate: rest.u32()?,
                identity: CallIdentity { tenant: rest.id()?, interaction: rest.id()? },
                peer: match flags & HAS_PEER {
                    0 => None,
                    _ => Some(PeerAddress::from_bytes(rest.take()?)),
                },
            });
        }
        if flags & HAS_END != 0 {
            call_epoch.end = Some(EndRecord::decode(&rest.take::<END_SIZE>()?)?);
        }
        Ok(call_epoch)
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
}
