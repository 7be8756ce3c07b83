//! Between socket bytes and protocol bytes: nothing for a plain connection, TLS records for another.
#![forbid(unsafe_code)]

/// How a connection's bytes are wrapped.
#[derive(Debug)]
pub enum Transport {
    /// As they are.
    Plain,
    /// In TLS records.
    Tls(Tls),
}

/// A TLS connection. There is no way to make one in this version: ports are plain.
#[derive(Debug)]
pub enum Tls {}

impl Transport {
    /// Unwraps received bytes in place: what comes back is protocol bytes, in the same memory.
    pub fn open<'a>(&mut self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        match self {
            Transport::Plain => bytes,
            Transport::Tls(tls) => match *tls {},
        }
    }

    /// Wraps the first `size` bytes of `out` in place; returns the size on the wire.
    pub fn seal(&mut self, _out: &mut [u8], size: usize) -> usize {
        match self {
            Transport::Plain => size,
            Transport::Tls(tls) => match *tls {},
        }
    }

    /// Bytes of `out` that [`Transport::seal`] needs beside the payload.
    pub fn overhead(&self) -> usize {
        match self {
            Transport::Plain => 0,
            Transport::Tls(tls) => match *tls {},
        }
    }
}
