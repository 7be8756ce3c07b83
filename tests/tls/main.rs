//! Calls over TLS.

#![forbid(unsafe_code)]

mod calls;
mod dev;
mod half_open;
mod handshakes;
mod node;
mod openssl;
mod probes;
mod scripts;
mod small_segments;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
