//! The receive buffers of a shard, out of which the kernel picks when bytes arrive.
//!
//! ```text
//!            entry ring (shared with the kernel)              buffer memory
//!          +------+------+------+------+-----+          +------------------------+
//!  head →  | id 3 | id 0 | id 2 |  …   |     |  ← tail  | buffer 0 | buffer 1 | …|
//!          +------+------+------+------+-----+          +------------------------+
//!     the kernel takes at head; we put back at tail      64 × 64 KiB: stays in the cache
//! ```
//! *Incremental* (6.12): the kernel fills a buffer with one receive after another, whatever their sockets, and says with each
//! whether more will follow in it (`F_BUF_MORE`). A buffer is put back once it is done with *and* every slice of it has been
//! recycled. *Whole* (6.1): each receive takes a whole buffer; so they are smaller and more.

use super::Received;
use super::memory::Region;
use crate::constants::{RECEIVE_BUFFER_COUNT, RECEIVE_BUFFER_COUNT_WHOLE, RECEIVE_BUFFER_SIZE, RECEIVE_BUFFER_SIZE_WHOLE};
use io_uring::types::{BufRingEntry, IOU_PBUF_RING_INC};
use std::sync::atomic::{AtomicU16, Ordering};

/// The one buffer group of a shard's ring.
pub const BUFFER_GROUP: u16 = 0;

/// How far the kernel and we have got with one buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Bytes the kernel has filled since it got the buffer.
    filled: u32,
    /// Slices given out and not recycled.
    outstanding: u32,
    /// The kernel is done with it.
    done: bool,
}

/// Receive buffers and the entry ring that offers them to the kernel.
#[derive(Debug)]
pub struct BufferRing {
    /// Shared with the kernel.
    entries: Region,
    memory: Region,
    buffer_size: usize,
    buffer_count: u16,
    incremental: bool,
    /// Entries put so far, modulo 2^16; published to the kernel by [`BufferRing::publish`].
    tail: u16,
    progress: Vec<Progress>,
}

impl BufferRing {
    /// Allocates the buffers and registers them with `ring`. The buffers must outlive the ring (see [`super::uring::Uring`]).
    pub fn register(ring: &io_uring::IoUring, incremental: bool) -> std::io::Result<BufferRing> {
        let (buffer_size, buffer_count) = match incremental {
            true => (RECEIVE_BUFFER_SIZE, RECEIVE_BUFFER_COUNT),
            false => (RECEIVE_BUFFER_SIZE_WHOLE, RECEIVE_BUFFER_COUNT_WHOLE),
        };
        let entries = Region::allocate(usize::from(buffer_count) * size_of::<BufRingEntry>())?;
        let memory = Region::allocate(buffer_size * usize::from(buffer_count))?;
        let flags = if incremental { IOU_PBUF_RING_INC as u16 } else { 0 };
        // SAFETY: `entries` is page-aligned and holds `buffer_count` entries; the caller keeps this value longer than the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, buffer_count, BUFFER_GROUP, flags)?;
        }
        let progress = vec![Progress::default(); usize::from(buffer_count)];
        let mut buffers = BufferRing { entries, memory, buffer_size, buffer_count, incremental, tail: 0, progress };
        for id in 0..buffer_count {
            buffers.put(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Notes a receive of `size` bytes into buffer `id`, after which the kernel is done with the buffer unless `more` is set.
    pub fn take(&mut self, id: u16, size: u32, more: bool) -> Received {
        let progress = &mut self.progress[usize::from(id)];
        let offset = progress.filled;
        progress.filled += size;
        progress.outstanding += 1;
        progress.done = !(self.incremental && more);
        assert!(progress.filled as usize <= self.buffer_size, "the kernel filled a receive buffer beyond its end");
        Received { buffer: id, offset, size }
    }

    /// The bytes of a receive.
    pub fn bytes(&mut self, received: &Received) -> &mut [u8] {
        let start = usize::from(received.buffer) * self.buffer_size + received.offset as usize;
        &mut self.memory[start..start + received.size as usize]
    }

    /// Takes a slice back; puts its buffer back if it was the last.
    pub fn recycle(&mut self, received: Received) {
        let progress = &mut self.progress[usize::from(received.buffer)];
        progress.outstanding -= 1;
        if progress.done && progress.outstanding == 0 {
            self.put(received.buffer);
        }
    }

    /// Lets the kernel see what was put back. Once per batch is enough.
    pub fn publish(&mut self) {
        // SAFETY: `entries` starts with an initialised entry ring (zero pages are valid entries), in whose first entry the
        // kernel's tail is kept; it is only ever accessed atomically, by us here and by the kernel.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr().cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn put(&mut self, id: u16) {
        self.progress[usize::from(id)] = Progress::default();
        let address = self.memory.as_ptr() as u64 + u64::from(id) * self.buffer_size as u64;
        let index = usize::from(self.tail & (self.buffer_count - 1));
        // SAFETY: index < buffer_count, so the entry lies within `entries`; entries between the kernel's head and the
        // published tail are the kernel's, and this one is beyond it: at most `buffer_count` buffers exist in all.
        let entry = unsafe { &mut *self.entries.as_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(address);
        entry.set_len(self.buffer_size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }
}

const _: () = assert!(RECEIVE_BUFFER_SIZE <= u32::MAX as usize);
const _: () = assert!(RECEIVE_BUFFER_SIZE_WHOLE <= RECEIVE_BUFFER_SIZE);
