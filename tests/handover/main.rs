//! A journal in an archive: `exo-ingest ship` and `exo-ingest archive`, as processes.

#![forbid(unsafe_code)]

mod archive;
mod archive_faults;
mod budget;
mod compact;
mod delete;
mod directory;
mod engine_faults;
mod engine_node_faults;
mod erase;
mod erase_at_once;
mod erase_s3;
mod forward;
mod journal;
mod live;
mod live_node;
mod object_store;
mod proxy;
mod replicated;
mod rotation;
mod seaweed;
mod tls;

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");

/// Where `tests/handover/install.sh` has put the servers.
fn programs() -> std::path::PathBuf {
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    target.with_file_name("handover").join("python/bin")
}
