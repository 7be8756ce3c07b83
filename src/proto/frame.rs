//! RFC 6455 frames: receive path (decoder) and the headers of what we send.
//!
//! SKELETON: signatures fixed, bodies to be written.

use super::{Control, DataPiece, Violation};

/// What messages are held to.
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

/// Decodes the frames of one client, however they are cut. Does not unmask data payload: whoever copies it does.
#[derive(Debug, Default)]
pub struct Decoder {
    _private: (),
}

impl Decoder {
    /// Takes bytes from the front of `input`; returns how many, and what they completed. `None` means all of the input was
    /// taken and more is needed. A frame too large is refused at its header.
    pub fn decode<'a>(
        &'a mut self,
        _input: &'a mut [u8],
        _limits: &FrameLimits,
    ) -> Result<(usize, Option<WsEvent<'a>>), Violation> {
        todo!()
    }

    /// Whether the input so far ends inside a message or a frame.
    pub fn is_mid_message(&self) -> bool {
        todo!()
    }
}

/// Opcode of a frame we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// 0x1
    Text,
    /// 0x2
    Binary,
    /// 0x8
    Close,
    /// 0x9
    Ping,
    /// 0xA
    Pong,
}

/// Writes an unmasked final frame into `out`; returns its length, or `None` where it does not fit.
pub fn write_frame(_opcode: Opcode, _payload: &[u8], _out: &mut [u8]) -> Option<usize> {
    todo!()
}

/// Writes only the header of an unmasked final frame with `payload_size` bytes; 10 bytes of `out` always suffice.
pub fn write_header(_opcode: Opcode, _payload_size: usize, _out: &mut [u8]) -> usize {
    todo!()
}
