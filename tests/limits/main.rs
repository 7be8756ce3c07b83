//! Overload: a node that has too little of something bounds the damage, and the others are served.

#![forbid(unsafe_code)]

mod backlog;
mod backpressure;
mod descriptor_shares;
mod descriptors;
mod exhaustion;
mod floods;
mod never_reads_its_acks;
mod process_limits;
mod stalled_peer;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
