//! The receive buffers of a shard. The kernel takes one of them when bytes arrive.
//!
//! ```text
//!            entry ring (shared with the kernel)              buffer memory
//!          +------+------+------+------+-----+          +------------------------+
//!  head →  | id 3 | id 0 | id 2 |  …   |     |  ← tail  | buffer 0 | buffer 1 | …|
//!          +------+------+------+------+-----+          +------------------------+
//!     the kernel takes at head; we add at tail           64 × 64 KiB: stays in the cache
//! ```
//! *Incremental* (6.12): the kernel fills a buffer with one receive after another, of any socket.
//! With each it says whether more will follow in the buffer (`F_BUF_MORE`). A buffer returns to the
//! ring when the kernel has finished it *and* every slice of it was recycled. *Whole* (6.1): each
//! receive takes a whole buffer, so the buffers are smaller and there are more.
//!
//! There are two such rings: see [`BufferGroup`]. Reads always take whole buffers, so that their
//! number can be counted.

use super::memory::Region;
use super::{BufferGroup, Received};
use crate::constants::{
    READ_BUFFER_COUNT, RECEIVE_BUFFER_COUNT, RECEIVE_BUFFER_COUNT_WHOLE, RECEIVE_BUFFER_SIZE,
    RECEIVE_BUFFER_SIZE_WHOLE,
};
use io_uring::types::{BufRingEntry, IOU_PBUF_RING_INC};
use std::sync::atomic::{AtomicU16, Ordering};

impl BufferGroup {
    /// Number of the group in the kernel.
    pub(crate) const fn number(self) -> u16 {
        match self {
            BufferGroup::Receive => 0,
            BufferGroup::Read => 1,
        }
    }
}

/// State of one buffer, for the kernel and for us.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Bytes that the kernel has filled since it got the buffer.
    filled: u32,
    /// Slices that are in use.
    outstanding: u32,
    /// The kernel has finished the buffer.
    done: bool,
}

impl Progress {
    fn is_untouched(&self) -> bool {
        self.filled == 0 && self.outstanding == 0
    }
}

/// Receive buffers, and the entry ring that offers them to the kernel.
#[derive(Debug)]
pub(crate) struct BufferRing {
    /// Shared with the kernel.
    entries: Region,
    memory: Region,
    group: BufferGroup,
    buffer_size: usize,
    buffer_count: u16,
    incremental: bool,
    /// Buffers that the kernel has, or gets with the next [`BufferRing::publish`].
    free_count: u16,
    /// Entries so far, modulo 2^16; [`BufferRing::publish`] shows it to the kernel.
    tail: u16,
    progress: Vec<Progress>,
}

impl BufferRing {
    /// Allocates the buffers of `group` and registers them with `ring`. Those of armed receives are
    /// filled incrementally, if the kernel supports it. The buffers must outlive the ring (see
    /// [`super::uring::Uring`]).
    pub(crate) fn register(
        ring: &io_uring::IoUring,
        group: BufferGroup,
        incremental: bool,
    ) -> std::io::Result<BufferRing> {
        let (buffer_size, buffer_count, incremental) = match (group, incremental) {
            (BufferGroup::Read, _) => (RECEIVE_BUFFER_SIZE, READ_BUFFER_COUNT, false),
            (BufferGroup::Receive, true) => (RECEIVE_BUFFER_SIZE, RECEIVE_BUFFER_COUNT, true),
            (BufferGroup::Receive, false) => {
                (RECEIVE_BUFFER_SIZE_WHOLE, RECEIVE_BUFFER_COUNT_WHOLE, false)
            }
        };
        let entries = Region::allocate(usize::from(buffer_count) * size_of::<BufRingEntry>())?;
        let memory = Region::allocate(buffer_size * usize::from(buffer_count))?;
        let flags = if incremental { IOU_PBUF_RING_INC as u16 } else { 0 };
        // SAFETY: `entries` is page-aligned and holds `buffer_count` entries; the caller keeps this
        // value longer than the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                buffer_count,
                group.number(),
                flags,
            )?;
        }
        let progress = vec![Progress::default(); usize::from(buffer_count)];
        let (tail, free_count) = (0, 0);
        let mut buffers = BufferRing {
            entries,
            memory,
            group,
            buffer_size,
            buffer_count,
            incremental,
            free_count,
            tail,
            progress,
        };
        for id in 0..buffer_count {
            buffers.put(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Notes a receive of `size` bytes into buffer `id`. Without `more`, the kernel has finished
    /// the buffer.
    pub(crate) fn take(&mut self, id: u16, size: u32, more: bool) -> Received {
        let progress = &mut self.progress[usize::from(id)];
        self.free_count -= u16::from(progress.is_untouched());
        let offset = progress.filled;
        progress.filled += size;
        progress.outstanding += 1;
        progress.done = !(self.incremental && more);
        assert!(
            progress.filled as usize <= self.buffer_size,
            "the kernel filled a receive buffer beyond its end"
        );
        Received { group: self.group, buffer: id, offset, size }
    }

    /// The bytes of a receive.
    pub(crate) fn bytes(&mut self, received: &Received) -> &mut [u8] {
        let start = usize::from(received.buffer) * self.buffer_size + received.offset as usize;
        &mut self.memory[start..start + received.size as usize]
    }

    /// Returns a slice. If it was the last one, returns its buffer to the ring.
    pub(crate) fn recycle(&mut self, received: Received) {
        let progress = &mut self.progress[usize::from(received.buffer)];
        progress.outstanding -= 1;
        if progress.done && progress.outstanding == 0 {
            self.put(received.buffer);
        } else if progress.is_untouched() {
            self.free_count += 1;
        }
    }

    /// Its memory, bytes.
    pub(crate) fn memory_size(&self) -> usize {
        self.entries.len() + self.memory.len()
    }

    /// Buffers that are not in use.
    pub(crate) fn free_count(&self) -> usize {
        usize::from(self.free_count)
    }

    /// Shows the returned buffers to the kernel. Once per batch is enough.
    pub(crate) fn publish(&mut self) {
        // SAFETY: `entries` starts with an initialised entry ring (zero pages are valid entries).
        // The kernel's tail is in its first entry, and it is only accessed atomically, by us here
        // and by the kernel.
        let tail =
            unsafe { &*BufRingEntry::tail(self.entries.as_ptr().cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn put(&mut self, id: u16) {
        self.progress[usize::from(id)] = Progress::default();
        let address = self.memory.as_ptr() as u64 + u64::from(id) * self.buffer_size as u64;
        let index = usize::from(self.tail & (self.buffer_count - 1));
        // SAFETY: index < buffer_count, so the entry is within `entries`. Entries between the
        // kernel's head and the published tail belong to the kernel. This one is beyond them,
        // because only `buffer_count` buffers exist in all.
        let entry = unsafe { &mut *self.entries.as_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(address);
        entry.set_len(self.buffer_size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.free_count += 1;
    }
}

const _: () = assert!(RECEIVE_BUFFER_SIZE <= u32::MAX as usize);
const _: () = assert!(RECEIVE_BUFFER_SIZE_WHOLE <= RECEIVE_BUFFER_SIZE);
