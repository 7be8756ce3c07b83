//! `exo-load`: plays telephony calls at an ingest node in real time.
fn main() {}
