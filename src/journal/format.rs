//! The journal's format, byte by byte. All numbers are little-endian; all checksums are CRC-32C.
//!
//! A shard's journal is a row of *segment* files. A segment is one block of header and then *batches*, each a whole number
//! of blocks (4,096 bytes) that starts on a block; a batch is a header and then *records*, each a whole number of lines (64
//! bytes) that starts on a line. The frame ring holds batches in exactly this form; the disk takes them from there.
//!
//! ```text
//! segment   ┌────────────┬───────────────────┬─────────┬──────────────┬──────────────────────────────┐
//!           │ header     │ batch             │ batch   │ batch        │ what was here before         │
//!           │ 4,096      │ n × 4,096         │ 4,096   │ m × 4,096    │ (zeros, or a recycled file's)│
//!           └────────────┴───────────────────┴─────────┴──────────────┴──────────────────────────────┘
//! batch     ┌────────┬────────┬─────────────────┬────────┬──────────┬────────┬───────┐
//!           │ batch  │ record │ payload         │ record │ payload  │ record │ zeros │  to the end of a block
//!           │ header │ header │ + zeros to 64   │ header │ + zeros  │ (pad)  │       │
//!           └────────┴────────┴─────────────────┴────────┴──────────┴────────┴───────┘
//!             64       64       n × 64            64       m × 64     64       k × 64
//! ```
//!
//! # Record header, 64 bytes
//! ```text
//!  0  u32 header_crc    over bytes 4..64           32  u32 epoch.boot   ┐
//!  4  u32 payload_crc   over the payload,          36  u16 epoch.shard  │ with 24: the connection's turn
//!                       its padding excluded       38  u16 zero         ┘
//!  8  u32 length        of the payload, bytes      40  u64 seq          frame number; 0 where it is no audio
//! 12  u8  kind          1 call 2 audio 3 end 4 pad 48  u32 offset       of this chunk in its frame, bytes
//! 13  u8  flags         bit 0 LAST: completes the  52  u32 batch        low half of the batch's number
//!                       frame; bit 1 ERASED
//! 14  u8  version       1                          56  u64 received_at  Unix time, microseconds
//! 15  u8  zero
//! 16  u64 call          low half of the call key
//! 24  u64 epoch.micros
//! ```
//! The payload follows, then zeros up to the next line: bytes that another call left there never show. Nothing in a record
//! depends on where it lies, so a batch can be written again elsewhere. `batch` tells a record from an older one at the same
//! place of a recycled segment.
//!
//! An audio record holds a *chunk* of a frame. A frame counts once its LAST chunk is in; a frame's chunks without a LAST one
//! are dropped by readers. Where audio was *erased* on demand, the payload is zeros, ERASED is set, and `payload_crc` is the
//! `header_crc` from before, which `records_crc` below goes on to count: so no other byte of the batch changes. Payloads of
//! [`call` and `end` records](payload) are described there. A pad fills a batch up to its block's end: at most 4,032 zeros;
//! of its header, call, epoch, seq, offset and received_at are zero too.
//!
//! # Batch header, 64 bytes
//! ```text
//!  0  u32 magic         "XBAT"                     32  u64 number       counts a shard's batches of a run, from 1
//!  4  u8  version       1                          40  u64 lsn          of this header  ┐ these, and the crc with
//!  5  u8  zero                                         (14, 16: see left)               ┘ them, change when it is
//!  6  u16 header_size   64                                                                written again elsewhere
//!  8  u32 size          of the batch, bytes        48  u64 sealed_at    Unix time, microseconds
//! 12  u16 record_count  pads not counted           56  u32 records_crc  over the header_crc of every record in order,
//! 14  u16 unsynced      blocks, see below                               pads included
//! 16  [u8;16] segment   the segment's uuid         60  u32 header_crc   over bytes 0..60
//! ```
//! Batches numbered 0 stand at the start of a segment and hold call records only: of each call whose frames may follow in the
//! segment and whose own record lies before it. So a segment can be read by itself. The lsn counts on over all that was
//! ever written to a segment, fenced parts included: no position has two meanings.
//!
//! `records_crc` notices a batch of which only a part reached the disk over an older batch, even where every record is
//! whole. Behind a damaged record header it checks a guess about where the records go on.
//!
//! # What was durable, and what a power loss may have taken
//! A disk may take writes in any order until a sync completes. So a batch behind a bad one does not tell by itself that the
//! bad one was ever whole. `unsynced` does: it is how many blocks of the segment, directly in front of the batch, no
//! completed sync covered when its header was made; 65,535 means that many or more, and says nothing. What lies before
//! them was durable: bytes 0 to `offset − unsynced · 4,096` of the file, `offset` being the batch's. The greatest such end
//! that a sound batch header of the segment states holds for all of it, and where the next segment's header states an
//! end, that is the *durable end*: final, and nothing behind it counts.
//! - What is bad in front of the durable end was whole once: it is *damage*. A bad stretch that straddles the durable end is
//!   damage up to there.
//! - What is bad behind it, with a sound batch still further on, need not have been whole ever: it was *not durable when
//!   power went*. Nothing that was promised as durable is in it. It is counted, and not called damage; batches further on
//!   are read.
//! - What is bad and has nothing sound behind it is a *torn tail*.
//!
//! The end of a segment is stated by the header of the next one or, where its writer ended it and there is no next one, by
//! the index beside it. Without either, as after a crash, nothing is known of what the last syncs covered: no batch came
//! behind them to say so. Damage there, to batches that were durable and acked, cannot be told from a torn tail, or from
//! what was not durable; that it is not there is said all the same.
//!
//! # Segment header
//! See [`segment`]: one block.
//!
//! # What a recycled segment holds
//! A segment may be made of the file of an older one of the same run, of any of its shards. Before it gets its name, its first
//! two blocks, header and place of the first batch, are zeros on disk: so it reads as not begun. Behind them is what the older
//! one held, whole batches and all, until that is written over; sealing cuts the rest off. None of it reads as new:
//! - A batch counts if its `segment` is the uuid in the segment header. Where that header is lost, the first batch's is
//!   believed; a later one's only where its shard and lsn say that it is not from the former use.
//! - A batch that was written in part has a `records_crc` that does not fit, and records of the former use carry another
//!   batch number or shard. It is a torn tail like any other.
//! - What is not of this uuid is the end of the segment, and neither damage nor audio.

#![forbid(unsafe_code)]

use crate::constants::RECORD_ALIGNMENT;

pub mod batch_header;
pub mod payload;
pub mod record;
pub mod segment;

pub use batch_header::{BatchHeader, Unsynced};
pub use payload::{CallRecord, EndRecord};
pub use record::{RecordHeader, RecordKind};
pub use segment::SegmentHeader;

/// Size of record and batch headers, bytes: one line, so that what follows is aligned like it.
pub const HEADER_SIZE: usize = 64;

/// A header as it is in ring and file.
pub type HeaderBytes = [u8; HEADER_SIZE];

const _: () = assert!(HEADER_SIZE == RECORD_ALIGNMENT);

/// Log sequence number: a byte position in a shard's journal. Segment after segment, each with its header, counts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Names one use of a segment file: a recycled file gets a new one, so that what it held before is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SegmentUuid(pub [u8; 16]);

/// What is wrong with bytes that were to be a part of a journal. All of it is the medium's or a foreign file's doing, none
/// of it the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The bytes end before the thing does.
    Truncated,
    /// It does not begin with the magic number: nothing of this kind was ever here.
    Magic,
    /// The header's checksum is wrong.
    HeaderCrc,
    /// The payload's checksum is wrong.
    PayloadCrc,
    /// The checksum over all record headers of the batch is wrong: a part of an older batch shows through.
    RecordsCrc,
    /// Written by a later version, this one.
    Version(u16),
    /// A header size, batch size or payload length that cannot be, this one.
    Size(u64),
    /// A record kind that does not exist.
    Kind(u8),
    /// Flags or reserved bytes that are not zero.
    Reserved,
    /// Audio marked as erased whose bytes are still there, in part: erasing it was interrupted.
    Erasure,
    /// Bytes behind a payload, up to the next line, that are not zero.
    Padding,
    /// A record of another batch.
    Batch,
    /// The batch does not hold as many records as its header says.
    RecordCount,
    /// An encoding that does not exist.
    Encoding(u8),
    /// An id that is empty, too long, or not UTF-8 without control characters.
    Id,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FormatError::Truncated => formatter.write_str("ends too early"),
            FormatError::Magic => formatter.write_str("magic number missing"),
            FormatError::HeaderCrc => formatter.write_str("header checksum wrong"),
            FormatError::PayloadCrc => formatter.write_str("payload checksum wrong"),
            FormatError::RecordsCrc => formatter.write_str("checksum over the record headers wrong"),
            FormatError::Version(version) => write!(formatter, "version {version} is not known here"),
            FormatError::Size(size) => write!(formatter, "impossible size {size}"),
            FormatError::Kind(kind) => write!(formatter, "record kind {kind} does not exist"),
            FormatError::Reserved => formatter.write_str("reserved bytes are not zero"),
            FormatError::Erasure => formatter.write_str("marked as erased, but not all of it is: delete the call again"),
            FormatError::Padding => formatter.write_str("padding is not zero"),
            FormatError::Batch => formatter.write_str("record belongs to another batch"),
            FormatError::RecordCount => formatter.write_str("number of records wrong"),
            FormatError::Encoding(encoding) => write!(formatter, "encoding {encoding} does not exist"),
            FormatError::Id => formatter.write_str("id malformed"),
        }
    }
}

impl std::error::Error for FormatError {}

/// The `N` bytes at a fixed offset of a header. Offsets are constants within the header's size: this does not fail on
/// whatever bytes a file holds.
fn field<const N: usize>(header: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[offset..offset + N]);
    bytes
}

/// Sets the bytes at a fixed offset of a header.
fn set<const N: usize>(header: &mut [u8], offset: usize, bytes: [u8; N]) {
    header[offset..offset + N].copy_from_slice(&bytes);
}

/// `size` rounded up to whole lines: what a payload takes up in ring and file.
pub const fn padded_size(size: usize) -> usize {
    size.next_multiple_of(RECORD_ALIGNMENT)
}

/// What a record with `payload_size` bytes takes up in ring and file.
pub const fn record_size(payload_size: usize) -> usize {
    HEADER_SIZE + padded_size(payload_size)
}
