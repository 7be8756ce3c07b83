//! The frame ring: preallocated memory of one shard, in which audio is laid out at once as journal records.
//!
//! SKELETON: signatures fixed, bodies to be written.

use crate::call::{CallIdentity, CallKey, Epoch, Seq};
use crate::clock::{Moment, UnixMicros};
use crate::io::memory::Region;
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;

/// A logical byte position in the frame ring: counts on over all laps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingPosition(pub u64);

/// There is no room: nothing was appended. Wait until more is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFull;

/// Which piece of which frame is appended.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// The call's record number ([`CallKey::record_number`]).
    pub call: u64,
    /// The connection's turn.
    pub epoch: Epoch,
    /// The frame.
    pub seq: Seq,
    /// Byte offset of this chunk in the frame.
    pub offset: u32,
    /// Whether it completes the frame.
    pub last: bool,
    /// When it was received.
    pub received_at: UnixMicros,
}

/// What a call record says.
#[derive(Clone, Debug)]
pub struct CallStart<'a> {
    /// The call.
    pub call: CallKey,
    /// Its ids.
    pub identity: &'a CallIdentity,
    /// The connection's turn.
    pub epoch: Epoch,
    /// Hz.
    pub sample_rate: u32,
    /// When `start` came.
    pub started_at: UnixMicros,
    /// The token's `iat`, seconds since 1970; 0 where there was no token.
    pub token_issued_at: u64,
    /// The token's `exp`, seconds since 1970; 0 where there was no token.
    pub token_expires_at: u64,
}

/// What an end record says.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd {
    /// The call's record number.
    pub call: u64,
    /// The connection's turn.
    pub epoch: Epoch,
    /// Complete frames.
    pub frames: u64,
    /// Bytes of whole samples in them.
    pub bytes: u64,
    /// Why it ended: [`crate::session::ingest::Ending`] as a number.
    pub ending: u16,
    /// When.
    pub ended_at: UnixMicros,
}

/// A batch that takes no more records: what the journal writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    /// Counts the shard's batches from 1.
    pub number: u64,
    /// Where it starts in the ring.
    pub start: RingPosition,
    /// Whole blocks.
    pub size: usize,
    /// Records in it, pads not counted.
    pub record_count: u32,
    /// When its first record was appended.
    pub opened_at: Moment,
}

/// Preallocated ring of batches of records.
///
/// Invariant, asserted once per batch: `released ≤ durable ≤ written ≤ sealed ≤ head`, and `head - released ≤ size`.
pub struct FrameRing {
    _memory: Region,
}

impl FrameRing {
    /// A ring over all of `memory`, whose size is a multiple of the block size and at least four batches.
    pub fn new(_memory: Region, _kernel: Kernel) -> Self {
        todo!()
    }

    /// Room that [`FrameRing::append_audio`] surely finds, record headers included, bytes.
    pub fn free_size(&self) -> usize {
        todo!()
    }

    /// Appends a piece of a frame, unmasking it on the way: the one copy of audio in this node.
    pub fn append_audio(&mut self, _chunk: Chunk, _masked: &[u8], _key: MaskKey) -> Result<(), RingFull> {
        todo!()
    }

    /// Appends a call record.
    pub fn append_call(&mut self, _start: &CallStart<'_>) -> Result<(), RingFull> {
        todo!()
    }

    /// Appends an end record.
    pub fn append_end(&mut self, _end: &CallEnd) -> Result<(), RingFull> {
        todo!()
    }

    /// Where the next record goes: everything before it has been appended.
    pub fn head(&self) -> RingPosition {
        todo!()
    }
}
