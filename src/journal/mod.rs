//! The journal of one shard on its way from memory to the disk: the frame ring, in which records
//! are laid out, and the writer, which says what goes where. It plans, and performs no IO.

#![forbid(unsafe_code)]

pub mod frame_ring;
pub mod settings;
pub mod writer;
