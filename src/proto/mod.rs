//! The protocols on the wire, as parsers and writers over byte slices: HTTP/1.1 head, RFC 6455 frames, our events.
//!
//! Nothing here does IO, reads a clock, or knows a session. Peer bytes come out as typed values or as an error with a close
//! code or a status; never as a panic.

pub mod close;
pub mod event;
pub mod frame;
pub mod handshake;
pub mod http;
pub mod mask;
pub mod text;
pub mod utf8;

/// Largest piece of peer text that an error message repeats, bytes.
pub const ECHOED_TEXT_MAX: usize = 64;

/// XOR key of a masked WebSocket frame, aligned to the next payload byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskKey(pub [u8; 4]);

impl MaskKey {
    /// The key as it applies `offset` bytes further on.
    #[inline]
    pub fn advanced(self, offset: usize) -> Self {
        let mut key = self.0;
        key.rotate_left(offset % 4);
        MaskKey(key)
    }

    /// Unmasks (or masks) `bytes` where they are; the key is aligned to the first of them. For small payloads: audio is
    /// unmasked by [`mask`] in the pass that copies it.
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

/// A run of payload bytes of one data message, as far as they came in one read. Still masked.
///
/// A message is one or more pieces; `first` opens and `last` completes it, whatever fragments the peer cut it into. An empty
/// message is one empty piece with both set.
#[derive(Debug)]
pub struct DataPiece<'a> {
    /// Text or binary; the same for all pieces of a message.
    pub kind: MessageKind,
    /// Whether this piece opens the message.
    pub first: bool,
    /// Whether this piece completes the message.
    pub last: bool,
    /// Payload bytes of this message that came before this piece.
    pub offset: usize,
    /// The bytes, masked.
    pub payload: &'a mut [u8],
    /// The key, aligned to `payload[0]`.
    pub key: MaskKey,
}

/// A complete control frame, unmasked and checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// To be answered with the same bytes.
    Ping(&'a [u8]),
    /// An answer, or unsolicited.
    Pong(&'a [u8]),
    /// The peer's Close: its code, if it gave one, and its reason.
    Close {
        /// Checked against RFC 6455 §7.4.
        code: Option<u16>,
        /// Valid UTF-8.
        reason: &'a str,
    },
}

/// How a peer broke RFC 6455 or a limit on messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// 1002: unmasked frame, RSV bit, bad opcode, bad control frame, bad close code, continuation out of place.
    Protocol(&'static str),
    /// 1007: text or close reason that is not UTF-8.
    NotUtf8,
    /// 1009: message, text or number of fragments over its limit.
    TooBig(&'static str),
    /// 1008: too many control frames.
    Flood,
}

impl Violation {
    /// The close code RFC 6455 §7.4.1 gives it.
    pub const fn close_code(self) -> u16 {
        match self {
            Violation::Protocol(_) => 1002,
            Violation::NotUtf8 => 1007,
            Violation::TooBig(_) => 1009,
            Violation::Flood => 1008,
        }
    }
}
