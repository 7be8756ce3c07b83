//! HTTP/1.1 request heads: collected within bounds, parsed strictly.
//!
//! SKELETON: signatures fixed, bodies to be written.

use super::handshake::Refusal;
use bytes::BytesMut;

/// Collects a request head as it comes in, however it is cut.
#[derive(Debug, Default)]
pub struct HeadBuffer {
    bytes: BytesMut,
}

/// What a piece of input did to a head.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadProgress {
    /// All of the input was taken; the head is not complete.
    Incomplete,
    /// The head is complete: parse it with [`HeadBuffer::head`].
    Complete,
    /// It cannot become an acceptable head: answer with this and close. Found as early as the bytes allow.
    Refused(Refusal),
}

impl HeadBuffer {
    /// Takes bytes up to the end of the head; returns how many. What stands behind them belongs to the next protocol.
    pub fn push(&mut self, _input: &[u8]) -> (usize, HeadProgress) {
        let _ = &self.bytes;
        todo!()
    }

    /// The complete head, parsed: an error is the answer to give (400 or 431).
    pub fn head(&self) -> Result<Head<'_>, Refusal> {
        todo!()
    }
}

/// A syntactically valid request head without a body.
#[derive(Debug)]
pub struct Head<'a> {
    /// As sent; methods are case-sensitive.
    pub method: &'a str,
    /// Path without the query.
    pub path: &'a str,
    _private: (),
}
