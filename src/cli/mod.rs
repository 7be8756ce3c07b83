//! The commands of `exo-ingest`: arguments in, one sentence or the asked-for output out. The binary only dispatches.

pub mod keygen;
pub mod token;
