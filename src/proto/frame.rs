//! RFC 6455 frames: the decoder for what we receive, and the headers of what we send.
//!
//! The decoder returns payload in place and still masked: the code that copies the payload unmasks
//! it in the same pass. The decoder keeps only a header or control frame that arrived in part. It
//! does not know texts (see [`super::text`]) nor the meaning of a message.
//!
//! ```text
//!  0        1        2                 4 or 10      +4
//!  FRRROOOO MLLLLLLL [16 or 64 bits of length] [mask] payload
//!  │└┬┘└─┬┘ │└──┬──┘
//!  │ │   │  │   └ length, or 126: 16 bits follow, or 127: 64 bits follow
//!  │ │   │  └ mask: always set by a client
//!  │ │   └ opcode
//!  │ └ RSV1 to RSV3: none, as no extension is agreed on
//!  └ FIN
//! ```

#![forbid(unsafe_code)]

use super::{Control, DataPiece, MaskKey, MessageKind, Violation};
use crate::constants::CONTROL_PAYLOAD_SIZE_MAX;

/// Largest header of a client's frame, bytes.
const HEADER_SIZE_MAX: usize = 14;

/// Largest control frame of a client. Its length fits the second byte.
const CONTROL_SIZE_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_SIZE_MAX;

/// Limits on messages.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Largest binary message, bytes.
    pub message_size_max: usize,
    /// Largest text message, bytes.
    pub text_size_max: usize,
    /// Most fragments of a message.
    pub fragments_max: u32,
}

/// What the decoder found at the start of its input.
#[derive(Debug)]
pub enum WsEvent<'a> {
    /// A run of payload bytes.
    Data(DataPiece<'a>),
    /// A complete control frame.
    Control(Control<'a>),
}

/// Decodes the frames of one client, however they are cut. It does not unmask data payload; the
/// code that copies the payload does.
///
/// Events and violations depend on the bytes alone; cuts only decide how many pieces a message has.
/// After a violation the decoder takes no more input and repeats the violation.
///
/// ```
/// use exo_ingest::proto::frame::{Decoder, FrameLimits, WsEvent};
///
/// let limits = FrameLimits { message_size_max: 1024, text_size_max: 1024, fragments_max: 4 };
/// let mut decoder = Decoder::default();
/// // A ping without payload, then a binary message of three bytes, masked with 1 2 3 4. Its last
/// // byte has not arrived yet.
/// let received = &mut [0x89, 0x80, 0, 0, 0, 0, 0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2];
/// let (mut pings, mut audio) = (0, Vec::new());
///
/// let mut at = 0;
/// while at < received.len() {
///     let (taken, event) = decoder.decode(&mut received[at..], &limits).expect("no violation");
///     at += taken;
///     match event {
///         Some(WsEvent::Data(piece)) => {
///             assert!(piece.first && !piece.last && piece.offset == 0);
///             piece.key.apply(piece.payload);
///             audio.extend_from_slice(piece.payload);
///         }
///         Some(WsEvent::Control(_)) => pings += 1,
///         None => {} // All input was taken.
///     }
/// }
/// assert_eq!((pings, &audio[..], decoder.is_mid_message()), (1, &b"ab"[..], true));
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Payload bytes of the current data frame that have not arrived yet; 0 between frames.
    remaining: usize,
    /// Payload bytes of the current message returned so far.
    offset: usize,
    /// Frames of the current message so far.
    fragments: u32,
    /// Mask key of the current data frame, aligned to its next byte.
    key: MaskKey,
    /// A message is in progress: from its first header to the last byte of its final frame.
    in_message: bool,
    /// Kind of the current message.
    kind: MessageKind,
    /// A piece of the current message was already returned.
    opened: bool,
    /// The current data frame is the last one of its message.
    is_final: bool,
    /// The violation that ended decoding.
    violation: Option<Violation>,
    /// Size of a header or control frame that arrived in part, in `partial`.
    partial_size: u8,
    partial: [u8; CONTROL_SIZE_MAX],
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            remaining: 0,
            offset: 0,
            fragments: 0,
            key: MaskKey::default(),
            in_message: false,
            kind: MessageKind::Binary,
            opened: false,
            is_final: false,
            violation: None,
            partial_size: 0,
            partial: [0; CONTROL_SIZE_MAX],
        }
    }
}

const _: () = assert!(HEADER_SIZE_MAX <= CONTROL_SIZE_MAX && CONTROL_SIZE_MAX <= u8::MAX as usize);

/// Fields of a checked header.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Size of the header itself, bytes.
    size: usize,
    payload_size: usize,
    key: MaskKey,
    is_final: bool,
    opcode: FrameOpcode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameOpcode {
    Continuation,
    Data(MessageKind),
    Close,
    Ping,
    Pong,
}

/// Result of [`Decoder::advance`], as positions: it cannot return the bytes while it may still
/// change them.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// All input was taken.
    Starved,
    /// Payload of a data frame in the input: this many bytes, after the bytes already taken.
    Payload(usize),
    /// A whole control frame at the end of the bytes taken from the input.
    ControlInInput(Header),
    /// A whole control frame in `partial`.
    ControlInPartial(Header),
}

impl Decoder {
    /// Takes bytes from the start of `input`. Returns how many (at least one, if there is one), and
    /// what they completed. `None` means that all input was taken and more is needed. A frame that
    /// is too large is refused at its header.
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &FrameLimits,
    ) -> Result<(usize, Option<WsEvent<'a>>), Violation> {
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        let (taken, step) = self
            .advance(input, limits)
            .inspect_err(|&violation| self.violation = Some(violation))?;
        let (header, frame) = match step {
            Step::Starved => return Ok((taken, None)),
            Step::Payload(size) => {
                let piece = self.take_payload(&mut input[taken..taken + size]);
                return Ok((taken + size, Some(WsEvent::Data(piece))));
            }
            Step::ControlInInput(header) => {
                (header, &mut input[taken - header.size - header.payload_size..taken])
            }
            Step::ControlInPartial(header) => {
                (header, &mut self.partial[..header.size + header.payload_size])
            }
        };
        let payload = &mut frame[header.size..];
        header.key.apply(payload);
        match read_control(header.opcode, payload) {
            Ok(control) => Ok((taken, Some(WsEvent::Control(control)))),
            Err(violation) => {
                self.violation = Some(violation);
                Err(violation)
            }
        }
    }

    /// Whether the input so far ends inside a message or a frame.
    pub fn is_mid_message(&self) -> bool {
        self.in_message || self.partial_size > 0
    }

    /// Reads headers until there is something to return, or no more input.
    fn advance(&mut self, input: &[u8], limits: &FrameLimits) -> Result<(usize, Step), Violation> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            if self.remaining > 0 {
                let size = self.remaining.min(rest.len());
                return Ok((taken, if size == 0 { Step::Starved } else { Step::Payload(size) }));
            }
            let was_cut = self.partial_size > 0;
            let (size, header) =
                if was_cut { self.complete(rest, limits)? } else { self.read_frame(rest, limits)? };
            taken += size;
            match header {
                None => return Ok((taken, Step::Starved)),
                Some(header) if header.opcode.is_control() && was_cut => {
                    return Ok((taken, Step::ControlInPartial(header)));
                }
                Some(header) if header.opcode.is_control() => {
                    return Ok((taken, Step::ControlInInput(header)));
                }
                Some(header) => {
                    self.open_frame(&header);
                    // An empty frame gets a piece only if it ends its message.
                    if header.payload_size == 0 && header.is_final {
                        return Ok((taken, Step::Payload(0)));
                    }
                }
            }
        }
    }

    /// Takes a data frame's header or a whole control frame from the start of `input`, when nothing
    /// is kept from before. If only a part is there, keeps it.
    fn read_frame(
        &mut self,
        input: &[u8],
        limits: &FrameLimits,
    ) -> Result<(usize, Option<Header>), Violation> {
        if let Some(header) = self.read_header(input, limits)?
            && header.collected_size() <= input.len()
        {
            return Ok((header.collected_size(), Some(header)));
        }
        // The input is shorter than a header, or than a control frame, so it fits.
        self.partial[..input.len()].copy_from_slice(input);
        self.partial_size = input.len() as u8;
        Ok((input.len(), None))
    }

    /// Completes what was kept with bytes from the start of `input`. The header grows byte by byte,
    /// so it is refused at the same byte however it was cut. That takes at most 13 rounds.
    fn complete(
        &mut self,
        input: &[u8],
        limits: &FrameLimits,
    ) -> Result<(usize, Option<Header>), Violation> {
        let mut taken = 0;
        loop {
            let size = usize::from(self.partial_size);
            let header = self.read_header(&self.partial[..size], limits)?;
            let wanted = header.map_or(size + 1, |header| header.collected_size());
            if wanted == size {
                self.partial_size = 0;
                return Ok((taken, header));
            }
            let added = (wanted - size).min(input.len() - taken);
            if added == 0 {
                return Ok((taken, None));
            }
            self.partial[size..size + added].copy_from_slice(&input[taken..taken + added]);
            self.partial_size += added as u8;
            taken += added;
        }
    }

    /// Parses and checks the header at the start of `bytes`. Each check runs as soon as its bytes
    /// are there. `None` if the header is not complete.
    fn read_header(&self, bytes: &[u8], limits: &FrameLimits) -> Result<Option<Header>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let is_final = first & 0x80 != 0;
        let opcode = self.read_opcode(first, is_final)?;

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Protocol("unmasked frame"));
        }
        let length = usize::from(second & 0x7f);
        if opcode.is_control() && length > CONTROL_PAYLOAD_SIZE_MAX {
            return Err(Violation::Protocol("control frame over 125 bytes"));
        }

        let extended = &bytes[2..];
        let (payload_size, mask) = match length {
            126 => match extended.split_first_chunk::<2>() {
                Some((length, mask)) => (u64::from(u16::from_be_bytes(*length)), mask),
                None => return Ok(None),
            },
            127 => match extended.split_first_chunk::<8>() {
                Some((length, mask)) => (u64::from_be_bytes(*length), mask),
                None => return Ok(None),
            },
            _ => (length as u64, extended),
        };
        // RFC 6455 §5.2: the minimal number of bytes, and the most significant bit is 0.
        if (length == 126 && payload_size < 126)
            || (length == 127 && payload_size <= u64::from(u16::MAX))
        {
            return Err(Violation::Protocol("length not in its shortest form"));
        }
        if payload_size >> 63 != 0 {
            return Err(Violation::Protocol("length over 63 bits"));
        }
        let payload_size = self.check_limits(opcode, payload_size, limits)?;

        let Some(key) = mask.first_chunk::<4>() else { return Ok(None) };
        let size = bytes.len() - mask.len() + key.len();
        Ok(Some(Header { size, payload_size, key: MaskKey(*key), is_final, opcode }))
    }

    /// Checks a frame's first byte (RFC 6455 §5.2, §5.4, §5.5).
    fn read_opcode(&self, first: u8, is_final: bool) -> Result<FrameOpcode, Violation> {
        if first & 0x70 != 0 {
            return Err(Violation::Protocol("reserved bit set"));
        }
        let opcode = match first & 0x0f {
            0x0 => FrameOpcode::Continuation,
            0x1 => FrameOpcode::Data(MessageKind::Text),
            0x2 => FrameOpcode::Data(MessageKind::Binary),
            0x8 => FrameOpcode::Close,
            0x9 => FrameOpcode::Ping,
            0xa => FrameOpcode::Pong,
            _ => return Err(Violation::Protocol("unknown opcode")),
        };
        match opcode {
            FrameOpcode::Continuation if !self.in_message => {
                Err(Violation::Protocol("continuation without a message"))
            }
            FrameOpcode::Data(_) if self.in_message => {
                Err(Violation::Protocol("message within a message"))
            }
            _ if opcode.is_control() && !is_final => {
                Err(Violation::Protocol("fragmented control frame"))
            }
            _ => Ok(opcode),
        }
    }

    /// Checks a message against its limits, with the `payload_size` bytes that a frame adds to it;
    /// returns that size as a `usize`.
    fn check_limits(
        &self,
        opcode: FrameOpcode,
        payload_size: u64,
        limits: &FrameLimits,
    ) -> Result<usize, Violation> {
        let kind = match opcode {
            FrameOpcode::Continuation => self.kind,
            FrameOpcode::Data(kind) => kind,
            _ => return Ok(payload_size as usize), // At most 125.
        };
        let (size_max, too_big) = match kind {
            MessageKind::Text => (limits.text_size_max, "text over its size limit"),
            MessageKind::Binary => (limits.message_size_max, "message over its size limit"),
        };
        // Between frames, the bytes returned so far are all bytes of the earlier fragments.
        let room = size_max.saturating_sub(self.offset);
        let payload_size = usize::try_from(payload_size).ok().filter(|&size| size <= room);
        let payload_size = payload_size.ok_or(Violation::TooBig(too_big))?;
        if self.fragments >= limits.fragments_max {
            return Err(Violation::TooBig("too many fragments"));
        }
        Ok(payload_size)
    }

    fn open_frame(&mut self, header: &Header) {
        if let FrameOpcode::Data(kind) = header.opcode {
            self.kind = kind;
            self.in_message = true;
        }
        self.fragments += 1;
        self.remaining = header.payload_size;
        self.is_final = header.is_final;
        self.key = header.key;
    }

    /// Describes `payload`, the next bytes of the current frame, and moves on past them.
    fn take_payload<'a>(&mut self, payload: &'a mut [u8]) -> DataPiece<'a> {
        let size = payload.len();
        let (first, last) = (!self.opened, self.is_final && size == self.remaining);
        let (kind, offset, fragments, key) = (self.kind, self.offset, self.fragments, self.key);
        let piece = DataPiece { kind, first, last, offset, fragments, payload, key };
        self.remaining -= size;
        self.key = self.key.advanced(size);
        (self.in_message, self.opened) = (!last, !last);
        (self.offset, self.fragments) =
            if last { (0, 0) } else { (self.offset + size, self.fragments) };
        piece
    }
}

impl Header {
    /// Bytes that are needed before the frame can be handled: a whole control frame, or the header
    /// of a data frame.
    fn collected_size(&self) -> usize {
        self.size + if self.opcode.is_control() { self.payload_size } else { 0 }
    }
}

impl FrameOpcode {
    fn is_control(self) -> bool {
        matches!(self, FrameOpcode::Close | FrameOpcode::Ping | FrameOpcode::Pong)
    }
}

/// Builds a control frame from its unmasked payload.
fn read_control(opcode: FrameOpcode, payload: &[u8]) -> Result<Control<'_>, Violation> {
    match (opcode, payload) {
        (FrameOpcode::Ping, _) => Ok(Control::Ping(payload)),
        (FrameOpcode::Pong, _) => Ok(Control::Pong(payload)),
        (_, []) => Ok(Control::Close { code: None, reason: "" }),
        (_, [_]) => Err(Violation::Protocol("close code of one byte")),
        (_, [high, low, reason @ ..]) => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_close_code(code) {
                return Err(Violation::Protocol("close code that may not be sent"));
            }
            let reason = std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Control::Close { code: Some(code), reason })
        }
    }
}

/// Codes that a Close may carry: RFC 6455 §7.4, and 1012 to 1014 of IANA's registry.
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Opcode of a frame we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// 0x1
    Text = 0x1,
    /// 0x2
    Binary = 0x2,
    /// 0x8
    Close = 0x8,
    /// 0x9
    Ping = 0x9,
    /// 0xA
    Pong = 0xa,
}

/// Writes an unmasked final frame into `out`; returns its length, or `None` if it does not fit.
pub(crate) fn write_frame(opcode: Opcode, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut header = [0; 10];
    let header_size = write_header(opcode, payload.len(), &mut header);
    let frame = out.get_mut(..header_size + payload.len())?;
    frame[..header_size].copy_from_slice(&header[..header_size]);
    frame[header_size..].copy_from_slice(payload);
    Some(frame.len())
}

/// Writes only the header of an unmasked final frame with `payload_size` bytes; 10 bytes of `out`
/// are always enough. Returns the length of the header: 2, 4 or 10.
pub fn write_header(opcode: Opcode, payload_size: usize, out: &mut [u8]) -> usize {
    out[0] = 0x80 | opcode as u8;
    match payload_size {
        0..=125 => {
            out[1] = payload_size as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_size as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&(payload_size as u64).to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests;
