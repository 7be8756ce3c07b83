//! What a shard needs of the world: sockets, clock, memory; the kernel's ring and a scripted stand-in behind one trait.
pub mod memory;
