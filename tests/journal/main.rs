//! Audio on disk: what survives crashes, damage and full disks. Many of these tests need root.

#![forbid(unsafe_code)]

mod damage;
mod discards;
mod disk_full;
mod expiry;
mod first_format;
mod flips;
mod given_back;
mod indexes;
mod interrupted;
mod kill_rounds;
mod live_reads;
mod lost_files;
mod power_loss;
mod read_errors;
mod retention;
mod silent_calls;
mod slow_disk;
mod survives_kill;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");
