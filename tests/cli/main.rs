//! The commands of `exo-ingest`, as processes.

#![forbid(unsafe_code)]

mod calls;
mod calls_delete;
mod calls_export;
mod calls_list;
mod check;
mod config;
mod export_targets;
mod help;
mod manual;
mod sample_configuration;
mod serve;
mod top;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
