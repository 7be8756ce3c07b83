//! The journal's format, byte by byte. All numbers are little-endian; all checksums are CRC-32C.
//!
//! The journal of a shard is a sequence of *segment* files. A segment is one block of header, then
//! *batches*. A block is 4,096 bytes. Each batch starts on a block and is a whole number of blocks:
//! a header, then *records*. A line is 64 bytes. Each record starts on a line and is a whole number
//! of lines. The frame ring holds batches in exactly this form, and the disk takes them from there.
//!
//! ```text
//! segment   ┌────────────┬───────────────────┬─────────┬──────────────┬─────────────────────┐
//!           │ header     │ batch             │ batch   │ batch        │ zeros (in version 1 │
//!           │ 4,096      │ n × 4,096         │ 4,096   │ m × 4,096    │ maybe old audio)    │
//!           └────────────┴───────────────────┴─────────┴──────────────┴─────────────────────┘
//! batch     ┌────────┬────────┬─────────────────┬────────┬──────────┬────────┬───────┐
//!           │ batch  │ record │ payload         │ record │ payload  │ record │ zeros │ to block's
//!           │ header │ header │ + zeros to 64   │ header │ + zeros  │ (pad)  │       │ end
//!           └────────┴────────┴─────────────────┴────────┴──────────┴────────┴───────┘
//!             64       64       n × 64            64       m × 64     64       k × 64
//! ```
//!
//! # Record header, 64 bytes
//! ```text
//!  0  u32 header_crc    over bytes 4..64           32  u32 epoch.boot   ┐ with 24: connection
//!  4  u32 payload_crc   over the payload,          36  u16 epoch.shard  │ of the call
//!                       its padding excluded       38  u16 zero         ┘
//!  8  u32 length        of the payload, bytes      40  u64 seq          of the frame; else 0
//! 12  u8  kind          1 call 2 audio 3 end 4 pad 48  u32 offset       of the chunk in its frame
//! 13  u8  flags         bit 0 LAST: completes the  52  u32 batch        batch number, low half
//!                       frame; bit 1 ERASED
//! 14  u8  version       1                          56  u64 received_at  Unix time, microseconds
//! 15  u8  zero
//! 16  u64 call          low half of the call key
//! 24  u64 epoch.micros
//! ```
//! Zeros follow the payload up to the next line, so that bytes of another call never show there.
//! Nothing in a record depends on its position, so a batch can be written again elsewhere. `batch`
//! tells a record from an older one at the same place of a recycled segment.
//!
//! An audio record holds a *chunk* of a frame. A frame counts once its LAST chunk is in the
//! journal; readers drop chunks without a LAST one. Audio can be *erased* on demand. Then the
//! payload is zeros, ERASED is set, and `payload_crc` holds the `header_crc` from before.
//! `records_crc` below still counts that old value, so no other byte of the batch changes.
//! [Payloads of call and end records](payload) are described in their module. A pad fills a batch
//! up to the end of its block with at most 4,032 zeros. In a pad's header call, epoch, seq, offset
//! and received_at are zero too.
//!
//! # What a record costs, and why frames do not share one
//! In real time each receive brings one frame of a call, and the frame becomes one record. A frame
//! that the network cuts in two becomes two. The table shows bytes of journal for each byte of
//! audio, and records for each second of a call:
//! ```text
//! frame      8 kHz              24 kHz             records a second
//!  20 ms     384/320   1.200    1024/960   1.067   50
//!  60 ms    1024/960   1.067    2944/2880  1.022   16.7
//! 100 ms    1664/1600  1.040    4864/4800  1.013   10
//! 200 ms    3264/3200  1.020    9664/9600  1.007    5
//! ```
//! Frames of a call that arrive in one receive could share a header. We rejected that:
//! - It saves nothing in real time. Frames of 20 ms come 20 ms apart, and the shard reads several
//!   times in between.
//! - It saves little when the CPU is too slow. We measured a sender that was 29 ms late at the
//!   median. Its 64,550 frames of 20 ms at 8 kHz came in 32,491 receives, and made 64,864 records.
//!   The journal took 1.239 bytes for a byte of audio, the ends of batches included. With two
//!   frames in a record it would have taken 1.14.
//! - It saves something while a peer catches up after a stall. For frames of 20 ms at 8 kHz, two in
//!   a record take 1.100 bytes for a byte of audio, and five take 1.040. The ring is full in those
//!   seconds, but the header is at most a sixth of it.
//! - Every reader would have to split records. Erasing, exporting and repairing work on records.
//!
//! # Batch header, 64 bytes
//! ```text
//!  0  u32 magic         "XBAT"                     32  u64 number       of a shard's run, from 1
//!  4  u8  version       1                          40  u64 lsn *        of this header
//!  5  u8  zero                                     48  u64 sealed_at    Unix time, microseconds
//!  6  u16 header_size   64                         56  u32 records_crc  over the header_crc of
//!  8  u32 size          of the batch, bytes                             all records in order,
//! 12  u16 record_count  pads not counted                                pads included
//! 14  u16 unsynced *    blocks, see below          60  u32 header_crc * over bytes 0..60
//! 16  [u8;16] segment * the segment's uuid
//! ```
//! The fields with a star change when the batch is written again elsewhere.
//!
//! Batches with number 0 stand at the start of a segment and hold only call records. They repeat
//! the record of each call that may have frames in the segment and started before it. So a segment
//! can be read by itself. The lsn counts every byte that was ever written to a segment, fenced
//! parts included: no position has two meanings.
//!
//! `records_crc` finds a batch that reached the disk only in part, over an older batch, even where
//! every record is whole. After a damaged record header it checks a guess about where the records
//! continue.
//!
//! # What was durable, and what a power loss may have taken
//! A disk may take writes in any order until a sync completes. So a sound batch after a bad one
//! does not prove that the bad one was ever whole. `unsynced` can prove it. It counts the blocks
//! directly before the batch, in its segment, that no completed sync covered when the header was
//! made. A value of 65,535 means that many or more, and proves nothing. Everything before those
//! blocks was durable: bytes 0 to `offset − unsynced · 4,096` of the file, where `offset` is that
//! of the batch.
//!
//! The *durable end* of a segment is the greatest such end in any of its sound batch headers. If
//! the header of the next segment states an end, that is the durable end: it is final, and bytes
//! after it do not count.
//! - Bad bytes before the durable end were whole once: they are *damage*. A bad stretch that
//!   crosses the durable end is damage up to there.
//! - Bad bytes after the durable end, with a sound batch still further on, may never have been
//!   whole: they were *not durable when power failed*. They hold nothing that was promised as
//!   durable. They are counted, but not called damage, and batches further on are read.
//! - Bad bytes with no sound batch after them are a *torn tail*.
//!
//! Bytes that the disk cannot read at all (a read fails with EIO or the like) are damage wherever a
//! batch may be: no power failure explains them. They are stepped over block by block.
//!
//! The end of a segment is stated by the header of the next one. If its writer ended it and there
//! is no next one, the index beside it states the end. After a crash there may be neither. Then the
//! last syncs are unknown, because no later batch recorded them. Damage there to durable and acked
//! batches looks like a torn tail, or like batches that were not durable. It is still reported as
//! missing.
//!
//! # Segment header
//! See [`segment`]: one block.
//!
//! # What a recycled segment holds
//! The file of a segment of version 2 is new: only zeros follow its last batch. A segment of
//! version 1 may reuse the file of an older one of the same run, from any of its shards. Its first
//! two blocks, for header and first batch, are zeros on disk before it gets its name. So it reads
//! as not begun. After them the file still holds the older segment's bytes, whole batches included,
//! until new ones replace them. Sealing cuts the rest off. None of it reads as new:
//! - A batch counts if its `segment` is the uuid in the segment header. If that header is lost, the
//!   uuid of the first batch is used. A later batch's uuid is used only if its shard and lsn show
//!   that it is not from the earlier use.
//! - A batch that was written in part has a wrong `records_crc`. Records of the earlier use carry
//!   another batch number or shard. So it is a torn tail like any other.
//! - Bytes with another uuid are the end of the segment, and neither damage nor audio.

#![forbid(unsafe_code)]

use crate::constants::RECORD_ALIGNMENT;

pub mod batch;
pub(crate) mod batch_header;
pub(crate) mod payload;
pub(crate) mod record;
pub(crate) mod segment;

pub(crate) use batch_header::{BatchHeader, Unsynced};
pub use payload::{CallRecord, EndRecord};
pub use record::{RecordHeader, RecordKind};
pub use segment::SegmentHeader;

/// Size of record and batch headers, bytes: one line, so that the bytes after them are aligned too.
pub const HEADER_SIZE: usize = 64;

/// The bytes of a header, in the ring and in a file.
pub(crate) type HeaderBytes = [u8; HEADER_SIZE];

const _: () = assert!(HEADER_SIZE == RECORD_ALIGNMENT);

/// Log sequence number: a byte position in a shard's journal. It counts the bytes of all segments,
/// headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Names one use of a segment file. A recycled file gets a new one, which tells new bytes from old
/// ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SegmentUuid(pub [u8; 16]);

/// A fault in bytes that should be a part of a journal. The medium or a foreign file causes it,
/// never the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The bytes end too early.
    Truncated,
    /// The magic number is missing: nothing of this kind was ever here.
    Magic,
    /// The header's checksum is wrong.
    HeaderCrc,
    /// The payload's checksum is wrong.
    PayloadCrc,
    /// The checksum over all record headers of the batch is wrong: part of an older batch is there.
    RecordsCrc,
    /// A later version wrote it: this one.
    Version(u16),
    /// This header size, batch size or payload length is impossible.
    Size(u64),
    /// A record kind that does not exist.
    Kind(u8),
    /// Flags or reserved bytes that are not zero.
    Reserved,
    /// Audio is marked as erased, but some of its bytes are still there: erasing was interrupted.
    Erasure,
    /// Bytes after a payload, up to the next line, are not zero.
    Padding,
    /// A record of another batch.
    Batch,
    /// The batch does not hold as many records as its header says.
    RecordCount,
    /// An encoding that does not exist.
    Encoding(u8),
    /// An id that is empty, too long, or not UTF-8 without control characters.
    Id,
    /// A peer's address that is not an IP address and a port.
    Peer,
    /// The disk cannot read the bytes.
    Unreadable,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FormatError::Truncated => formatter.write_str("ends too early"),
            FormatError::Magic => formatter.write_str("magic number missing"),
            FormatError::HeaderCrc => formatter.write_str("header checksum wrong"),
            FormatError::PayloadCrc => formatter.write_str("payload checksum wrong"),
            FormatError::RecordsCrc => formatter.write_str("checksum of the record headers wrong"),
            FormatError::Version(version) => {
                write!(formatter, "version {version} is not supported")
            }
            FormatError::Size(size) => write!(formatter, "impossible size {size}"),
            FormatError::Kind(kind) => write!(formatter, "record kind {kind} does not exist"),
            FormatError::Reserved => formatter.write_str("reserved bytes are not zero"),
            FormatError::Erasure => formatter
                .write_str("marked as erased, but some bytes are not: delete the call again"),
            FormatError::Padding => formatter.write_str("padding is not zero"),
            FormatError::Batch => formatter.write_str("record belongs to another batch"),
            FormatError::RecordCount => formatter.write_str("number of records wrong"),
            FormatError::Encoding(encoding) => {
                write!(formatter, "encoding {encoding} does not exist")
            }
            FormatError::Id => formatter.write_str("id malformed"),
            FormatError::Peer => formatter.write_str("peer's address malformed"),
            FormatError::Unreadable => formatter.write_str("the disk cannot read it"),
        }
    }
}

impl std::error::Error for FormatError {}

/// The `N` bytes at a fixed offset of a header. Offsets are constants within the header's size, so
/// no file contents can make this fail.
fn field<const N: usize>(header: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[offset..offset + N]);
    bytes
}

/// Sets the bytes at a fixed offset of a header.
fn set<const N: usize>(header: &mut [u8], offset: usize, bytes: [u8; N]) {
    header[offset..offset + N].copy_from_slice(&bytes);
}

/// `size` rounded up to whole lines: the bytes that a payload takes up in ring and file.
pub const fn padded_size(size: usize) -> usize {
    size.next_multiple_of(RECORD_ALIGNMENT)
}

/// The bytes that a record with `payload_size` bytes takes up in ring and file.
pub const fn record_size(payload_size: usize) -> usize {
    HEADER_SIZE + padded_size(payload_size)
}
