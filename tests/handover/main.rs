//! A journal in an archive: `exo-ingest ship` and `exo-ingest archive`, as processes.

#![forbid(unsafe_code)]

mod archive;
mod compact;
mod delete;
mod directory;
mod journal;
mod object_store;
mod seaweed;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
