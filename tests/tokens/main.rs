//! Which tokens and keys the node accepts.

#![forbid(unsafe_code)]

mod key_files;
mod key_swap;
mod refusals;
mod vectors;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
