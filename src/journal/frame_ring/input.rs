//! What a session appends to the ring, apart from the bytes of audio.

#![forbid(unsafe_code)]

use crate::address::PeerAddress;
use crate::call::{CallIdentity, CallKey, Epoch, Seq};
use crate::clock::UnixMicros;

/// The piece of a frame that is appended.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// The call's record number ([`CallKey::record_number`]).
    pub call: u64,
    /// The epoch.
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

/// The contents of a call record.
#[derive(Clone, Debug)]
pub struct CallStart<'a> {
    /// The call.
    pub call: CallKey,
    /// Its ids.
    pub identity: &'a CallIdentity,
    /// The epoch.
    pub epoch: Epoch,
    /// Sample rate, Hz.
    pub sample_rate: u32,
    /// When `start` arrived.
    pub started_at: UnixMicros,
    /// The token's `iat`, seconds since 1970; 0 if there was no token.
    pub token_issued_at: u64,
    /// The token's `exp`, seconds since 1970; 0 if there was no token.
    pub token_expires_at: u64,
    /// Where the call came from; `None` if that is not known.
    pub peer: Option<PeerAddress>,
}

/// The contents of an end record.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd {
    /// The call's record number.
    pub call: u64,
    /// The epoch.
    pub epoch: Epoch,
    /// Complete frames.
    pub(crate) frames: u64,
    /// Bytes of whole samples in them.
    pub(crate) bytes: u64,
    /// Why it ended: the session's ending as a number.
    pub(crate) ending: u16,
    /// When it ended.
    pub(crate) ended_at: UnixMicros,
}
