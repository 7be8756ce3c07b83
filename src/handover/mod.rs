//! From the journal to stores that outlive this machine: see `docs/handover.md`.
//!
//! ```text
//! archive::reader::Batches ──► Slicer ──► Slice ──► ObjectSink ──► an object store
//!   whole batches                cuts       bytes      puts, in flight        │
//!                                                                             ▼
//!   commands of `exo-ingest archive` ◄── Mirror: a journal made of slices ◄── slices
//! ```
//! The journal is the buffer: there is no second queue. A slice that is
//! made again has the same bytes, as long as no audio in it was erased. So sending it again does no
//! harm.

#![forbid(unsafe_code)]

mod ca;
pub mod coverage;
pub mod cursor;
pub mod erase;
pub mod erasures;
pub mod forward;
pub mod index_cache;
pub mod lag;
pub mod live;
pub mod mirror;
pub mod secrets;
pub mod shard_slices;
pub mod ship;
pub mod sink;
pub mod sink_view;
pub mod slice;
pub mod slicer;
pub mod verify;
