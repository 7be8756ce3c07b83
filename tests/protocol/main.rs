//! The wire contract, on real sockets: what a client may send, what the node answers, and when.

#![forbid(unsafe_code)]

mod acks_before_refusals;
mod conformance;
mod disconnects;
mod frame_split_points;
mod head_refusals;
mod head_split_points;
mod real_clients;
mod refusals_after_upgrade;
mod refusals_before_upgrade;
mod refusals_reach_fast_peers;
mod session_contract;
mod start_forms;
mod superseding;
mod timers;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
