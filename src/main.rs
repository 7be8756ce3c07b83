//! The `exo-ingest` binary.
fn main() {}
