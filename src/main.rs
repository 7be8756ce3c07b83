#![forbid(unsafe_code)]
//! The `exo-ingest` binary.

/// Connections come and go on every shard; the arenas of glibc would keep their memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    exo_ingest::cli::run()
}
