//! Buffers for records that arrive in pieces.
//!
//! A record that is whole in a receive buffer is opened there. For a cut record, the first part is
//! copied into a spill buffer, the rest is added, and the record is opened there. The buffers are a
//! bounded pool of the shard. If the pool is empty, that connection fails, and no other.
#![forbid(unsafe_code)]

use crate::constants::{SPILL_SHARE_OF_HEADS, SPILL_SIZE};

/// A buffer of the pool. Return it with [`SpillPool::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Spill(u32);

/// The spill buffers of a shard.
#[derive(Debug)]
pub struct SpillPool {
    /// Reserved at once; pages are touched only when they are used.
    memory: Vec<u8>,
    /// Free buffers. The last one released is used first, because it is still in the cache.
    free: Vec<u32>,
    /// Buffers from this index on were never used.
    untouched: u32,
    count: u32,
    taken: u64,
}

impl SpillPool {
    /// A pool of `count` buffers.
    pub fn new(count: usize) -> Self {
        SpillPool {
            memory: vec![0; count * SPILL_SIZE],
            free: Vec::with_capacity(count),
            untouched: 0,
            count: count as u32,
            taken: 0,
        }
    }

    /// Returns a free buffer. Connections without a call may only have a share of them. So a peer
    /// that connects without a token takes none from live calls.
    pub(crate) fn acquire(&mut self, is_call: bool) -> Option<Spill> {
        if !is_call && self.used() >= self.count as usize / SPILL_SHARE_OF_HEADS {
            return None;
        }
        let index = self.free.pop().or_else(|| {
            let index = self.untouched;
            (index < self.count).then(|| self.untouched += 1)?;
            Some(index)
        })?;
        self.taken += 1;
        Some(Spill(index))
    }

    /// Returns a buffer to the pool.
    pub fn release(&mut self, Spill(index): Spill) {
        self.free.push(index);
    }

    /// The memory of a buffer.
    pub fn bytes(&mut self, spill: &Spill) -> &mut [u8] {
        let start = spill.0 as usize * SPILL_SIZE;
        &mut self.memory[start..start + SPILL_SIZE]
    }

    /// Buffers in use.
    pub fn used(&self) -> usize {
        self.untouched as usize - self.free.len()
    }

    /// Memory of the buffers that were ever used, bytes. The others have no pages.
    pub(crate) fn memory_size(&self) -> usize {
        self.untouched as usize * SPILL_SIZE
    }

    /// How often a buffer was taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_buffer_given_back_is_the_next_one_taken() {
        let mut pool = SpillPool::new(3);
        let [first, second] = [(); 2].map(|()| pool.acquire(true).unwrap());
        pool.bytes(&first)[0] = 1;
        pool.bytes(&second)[0] = 2;
        pool.release(first);
        let third = pool.acquire(true).unwrap();
        assert_eq!((pool.bytes(&third)[0], pool.used()), (1, 2));
        let fourth = pool.acquire(true).unwrap();
        assert!(pool.acquire(true).is_none());
        [second, third, fourth].into_iter().for_each(|spill| pool.release(spill));
        assert_eq!((pool.used(), pool.taken()), (0, 4));
    }

    #[test]
    fn heads_leave_buffers_to_calls() {
        let mut pool = SpillPool::new(2 * SPILL_SHARE_OF_HEADS);
        let taken: Vec<_> = std::iter::from_fn(|| pool.acquire(false)).collect();
        assert_eq!(taken.len(), 2);
        let calls: Vec<_> = std::iter::from_fn(|| pool.acquire(true)).collect();
        assert_eq!(calls.len(), 2 * SPILL_SHARE_OF_HEADS - 2);
    }
}
