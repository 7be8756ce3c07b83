//! The planned writes of one segment that are not all done: a bounded queue in the order of the
//! file. Completions come in any order. Each finds its write by a slot.
//!
//! ```text
//!   file ─►   front                                                      back
//!             ├──────────┬──────────┬──────────┬──────────┬──────────────┤
//!             │ under way│ done     │ under way│ done     │ to be given  │ next: push
//!             │ slot 3   │ slot 4   │ slot 5   │ slot 6   │ out, slot 7  │
//!             └──────────┴──────────┴──────────┴──────────┴──────────────┘
//! ```
//! A write leaves the queue only at its front, once it is done. So the writes that have left have
//! no hole between them, and only they count as written.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Slots for writes: the most that are under way ([`WRITES_MAX`]), and as many that are done and
/// wait for an earlier one. So a single slow write does not leave the disk idle.
pub const WRITE_SLOTS: usize = 2 * WRITES_MAX;

/// Most writes under way at once. A virtual disk took 744 to 881 MB/s with four, 611 with one, 806
/// to 910 with eight.
pub const WRITES_MAX: usize = 8;

/// Names a planned write: less than [`WRITE_SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSlot(pub u32);

/// The contents of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The start of a segment, from the scratch memory.
    Opening,
    /// This many batches, from the ring.
    Batches(usize),
}

/// One write, or the rest of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    pub(super) source: Source,
    /// Offset in its memory, bytes.
    pub(super) start: usize,
    /// Bytes left to write; 0 once it is done.
    pub(super) size: usize,
    /// Offset in the file, bytes. Once it is done: its end.
    pub(super) offset: u64,
    /// Given out and not answered.
    pub(super) is_under_way: bool,
}

impl Writing {
    /// Reports that `size` bytes have reached the file.
    pub(super) fn take(&mut self, size: usize) {
        self.start += size;
        self.size -= size;
        self.offset += size as u64;
    }

    fn is_done(&self) -> bool {
        self.size == 0 && !self.is_under_way
    }
}

/// The queue of writes.
#[derive(Debug)]
pub(super) struct Writes {
    queue: VecDeque<Writing>,
    /// The slot of the front. The writes after it have the next slots, modulo [`WRITE_SLOTS`].
    first_slot: usize,
    under_way_count: usize,
    batch_count: usize,
}

impl Writes {
    pub(super) fn new() -> Self {
        let queue = VecDeque::with_capacity(WRITE_SLOTS);
        Writes { queue, first_slot: 0, under_way_count: 0, batch_count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a slot is free.
    pub(super) fn has_slot(&self) -> bool {
        self.queue.len() < WRITE_SLOTS
    }

    /// Writes given out and not answered.
    pub(super) fn under_way_count(&self) -> usize {
        self.under_way_count
    }

    /// Number of batches in all of its writes.
    pub(super) fn batch_count(&self) -> usize {
        self.batch_count
    }

    /// Whether the scratch memory is in use.
    pub(super) fn has_opening(&self) -> bool {
        self.queue.iter().any(|writing| writing.source == Source::Opening && !writing.is_done())
    }

    /// Plans the next write in the file.
    pub(super) fn push(&mut self, writing: Writing) {
        assert!(self.has_slot(), "a write is planned only where there is a slot for it");
        if let Source::Batches(count) = writing.source {
            self.batch_count += count;
        }
        self.queue.push_back(writing);
    }

    /// The first write to give out, new or to be continued. From now on it is under way.
    pub(super) fn give_next(&mut self) -> Option<(WriteSlot, Writing)> {
        let is_next = |writing: &Writing| writing.size > 0 && !writing.is_under_way;
        let place = self.queue.iter().position(is_next)?;
        let writing = &mut self.queue[place];
        writing.is_under_way = true;
        self.under_way_count += 1;
        Some((WriteSlot(((self.first_slot + place) % WRITE_SLOTS) as u32), *writing))
    }

    /// Whether a write must be continued.
    pub(super) fn has_next(&self) -> bool {
        self.queue.iter().any(|writing| writing.size > 0 && !writing.is_under_way)
    }

    /// The write in a slot, which has been answered.
    pub(super) fn take_back(&mut self, slot: WriteSlot) -> Option<&mut Writing> {
        let place = (slot.0 as usize + WRITE_SLOTS - self.first_slot) % WRITE_SLOTS;
        let writing = self.queue.get_mut(place).filter(|writing| writing.is_under_way)?;
        writing.is_under_way = false;
        self.under_way_count -= 1;
        Some(writing)
    }

    /// The front, if it is done.
    pub(super) fn pop_done(&mut self) -> Option<Writing> {
        let writing = self.queue.pop_front_if(|writing| writing.is_done())?;
        self.first_slot = (self.first_slot + 1) % WRITE_SLOTS;
        if let Source::Batches(count) = writing.source {
            self.batch_count -= count;
        }
        Some(writing)
    }

    /// The segment is abandoned: no write is continued, and all are forgotten once none is under
    /// way.
    pub(super) fn abandon(&mut self) {
        if self.under_way_count == 0 {
            self.queue.clear();
            self.batch_count = 0;
        }
    }
}

const _: () = assert!(WRITES_MAX >= 1 && WRITE_SLOTS >= WRITES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(offset: u64) -> Writing {
        let source = Source::Batches(1);
        Writing { source, start: offset as usize, size: 4096, offset, is_under_way: false }
    }

    #[test]
    fn writes_leave_in_order_even_if_they_end_in_another() {
        let mut writes = Writes::new();
        // Slots are used again several times.
        for lap in 0..5 {
            let count = WRITE_SLOTS - lap;
            (0..count).for_each(|number| writes.push(batch(number as u64 * 4096)));
            let given: Vec<_> = std::iter::from_fn(|| writes.give_next()).collect();
            assert_eq!(
                (given.len(), writes.under_way_count(), writes.batch_count()),
                (count, count, count)
            );
            for (slot, writing) in given.iter().skip(1).rev() {
                let back = writes.take_back(*slot).unwrap();
                assert_eq!(back.offset, writing.offset);
                back.take(4096);
                assert!(writes.pop_done().is_none(), "the first is under way");
            }
            assert!(writes.take_back(given[1].0).is_none(), "each returns once");
            writes.take_back(given[0].0).unwrap().take(4096);
            let ends: Vec<u64> =
                std::iter::from_fn(|| writes.pop_done()).map(|done| done.offset).collect();
            assert!(ends.into_iter().eq((1..=count as u64).map(|number| number * 4096)));
            assert!(writes.is_empty() && writes.batch_count() == 0);
        }
    }

    #[test]
    fn a_short_write_is_given_out_again_in_its_slot() {
        let mut writes = Writes::new();
        (0..3).for_each(|number| writes.push(batch(number * 4096)));
        let given: Vec<_> = std::iter::from_fn(|| writes.give_next()).collect();
        writes.take_back(given[1].0).unwrap().take(1024);
        assert!(writes.has_next());
        let (slot, rest) = writes.give_next().unwrap();
        assert_eq!((slot, rest.start, rest.size, rest.offset), (given[1].0, 5120, 3072, 5120));
        assert!(writes.give_next().is_none() && !writes.has_next());
    }
}
