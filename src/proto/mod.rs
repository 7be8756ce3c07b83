//! The protocols on the wire, as parsers and writers over byte slices: HTTP/1.1 heads, RFC 6455
//! frames, our events.
//!
//! Nothing here does IO, reads a clock, or knows a session. Peer bytes become typed values, or an
//! error with a close code or a status. They never cause a panic.

pub mod close;
pub(crate) mod event;
pub mod frame;
pub mod handshake;
pub mod http;
pub mod mask;
pub(crate) mod proxy;
pub(crate) mod refusal;
pub mod text;
pub(crate) mod trace;
pub(crate) mod utf8;

/// Largest piece of peer text that an error message repeats, bytes.
pub(crate) const ECHOED_TEXT_MAX: usize = 64;

/// XOR key of a masked WebSocket frame, aligned to the next payload byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskKey(pub [u8; 4]);

impl MaskKey {
    /// The key for the payload `offset` bytes later.
    #[inline]
    pub(crate) fn advanced(self, offset: usize) -> Self {
        let mut key = self.0;
        key.rotate_left(offset % 4);
        MaskKey(key)
    }

    /// Unmasks (or masks) `bytes` in place; the key must be aligned to the first byte. For small
    /// payloads only: [`mask`] unmasks audio in the same pass that copies it.
    #[inline]
    pub fn apply(self, bytes: &mut [u8]) {
        let [a, b, c, d] = self.0;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= key;
        }
    }
}

/// What a data message carries (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
}

/// Payload bytes of one data message that arrived in one read. They are still masked.
///
/// A message has one or more pieces. `first` opens it and `last` completes it, however the peer
/// fragments it. An empty message is one empty piece with both set.
#[derive(Debug)]
pub struct DataPiece<'a> {
    /// Text or binary; the same for all pieces of a message.
    pub kind: MessageKind,
    /// This piece opens the message.
    pub first: bool,
    /// This piece completes the message.
    pub last: bool,
    /// Payload bytes of this message before this piece.
    pub offset: usize,
    /// Fragments (WebSocket frames) of this message so far, including that of this piece.
    pub(crate) fragments: u32,
    /// The bytes, masked.
    pub payload: &'a mut [u8],
    /// The key, aligned to `payload[0]`.
    pub key: MaskKey,
}

/// A complete control frame, unmasked and checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// The answer must carry the same bytes.
    Ping(&'a [u8]),
    /// An answer to a ping, or unsolicited.
    Pong(&'a [u8]),
    /// The peer's Close: its code, if it gave one, and its reason.
    Close {
        /// Checked against RFC 6455 §7.4.
        code: Option<u16>,
        /// Valid UTF-8.
        reason: &'a str,
    },
}

/// How a peer violated RFC 6455 or a limit on messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// 1002: unmasked frame, RSV bit, bad opcode, bad control frame, bad close code, continuation
    /// out of place.
    Protocol(&'static str),
    /// 1007: text or close reason that is not UTF-8.
    NotUtf8,
    /// 1009: message, text or number of fragments over its limit.
    TooBig(&'static str),
    /// 1008: too many control frames or texts.
    Flood,
}

impl Violation {
    /// The close code of RFC 6455 §7.4.1.
    pub const fn close_code(self) -> u16 {
        match self {
            Violation::Protocol(_) => 1002,
            Violation::NotUtf8 => 1007,
            Violation::TooBig(_) => 1009,
            Violation::Flood => 1008,
        }
    }
}
