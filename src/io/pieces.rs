#![forbid(unsafe_code)]
//! Cuts memory into the pieces that are registered with the kernel, which accepts no piece over 1
//! GiB.
//!
//! ```text
//!   memory   ├───────────────────────────────────────────────────────────────┤
//!   piece 0  ├─────────────────────────┤
//!   piece 1                      ├─────────────────────────┤
//!   piece 2                                          ├───────────────────────┤
//!                                ├─────┤ overlap: the largest write
//! ```
//! A write names one piece and must be completely inside it. So neighbours overlap by the size of
//! the largest write. Rejected: to split a write at the boundary. Then one write has two
//! completions, and each may fail or be short.

use crate::constants::REGISTERED_WRITE_SIZE_MAX;
use std::ops::Range;

/// The kernel does not register a larger buffer (`SZ_1G` in io_uring/rsrc.c).
const PIECE_SIZE_MAX: usize = 1 << 30;

/// The pieces of one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    memory_size: usize,
    piece_size: usize,
}

impl Pieces {
    /// The pieces of a memory of `memory_size` bytes.
    pub(crate) const fn new(memory_size: usize) -> Pieces {
        Pieces::with_piece_size(memory_size, PIECE_SIZE_MAX)
    }

    /// Like [`Pieces::new`], with pieces of `piece_size` bytes, so that tests need no gigabytes of
    /// memory.
    pub(crate) const fn with_piece_size(memory_size: usize, piece_size: usize) -> Pieces {
        assert!(piece_size > REGISTERED_WRITE_SIZE_MAX && piece_size <= PIECE_SIZE_MAX);
        Pieces { memory_size, piece_size }
    }

    /// Number of pieces, at least 1.
    pub(crate) const fn count(&self) -> usize {
        1 + self.memory_size.saturating_sub(self.piece_size).div_ceil(self.stride())
    }

    /// The range of each piece in the memory.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let Pieces { memory_size, piece_size } = *self;
        let starts = (0..self.count()).map(|index| index * self.stride());
        starts.map(move |start| start..memory_size.min(start + piece_size))
    }

    /// The index of a piece that contains all `size` bytes from `start` on. There is one for every
    /// write of up to [`REGISTERED_WRITE_SIZE_MAX`].
    pub(crate) fn holding(&self, start: usize, size: usize) -> Option<usize> {
        let index = (start / self.stride()).min(self.count() - 1);
        let end = self.memory_size.min(index * self.stride() + self.piece_size);
        (start + size <= end).then_some(index)
    }

    /// Bytes of all pieces together. Bytes in two pieces count twice against the limit on locked
    /// memory.
    pub(crate) const fn registered_size(&self) -> usize {
        self.memory_size + (self.count() - 1) * REGISTERED_WRITE_SIZE_MAX
    }

    const fn stride(&self) -> usize {
        self.piece_size - REGISTERED_WRITE_SIZE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::BLOCK_SIZE;

    const OVERLAP: usize = REGISTERED_WRITE_SIZE_MAX;
    const GIB: usize = 1 << 30;

    #[test]
    fn pieces_cover_the_memory_and_overlap_by_the_largest_write() {
        for (memory_size, piece_size) in [
            (BLOCK_SIZE, GIB),
            (GIB, GIB),
            (GIB + BLOCK_SIZE, GIB),
            (4 * GIB, GIB),
            (64 * GIB, GIB),
            (5 * OVERLAP, 2 * OVERLAP),
            (3 * OVERLAP, 2 * OVERLAP),
            (3 * OVERLAP + 1, OVERLAP + BLOCK_SIZE),
        ] {
            let pieces = Pieces::with_piece_size(memory_size, piece_size);
            let ranges: Vec<_> = pieces.ranges().collect();
            assert_eq!(ranges.len(), pieces.count());
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, memory_size));
            assert!(ranges.iter().all(|range| range.len() <= piece_size && !range.is_empty()));
            for neighbours in ranges.windows(2) {
                assert_eq!(
                    neighbours[0].end - neighbours[1].start,
                    OVERLAP,
                    "{memory_size} in {piece_size}"
                );
            }
            assert_eq!(pieces.registered_size(), ranges.iter().map(Range::len).sum::<usize>());
        }
        assert_eq!(Pieces::new(GIB).count(), 1);
        assert_eq!(Pieces::new(GIB + 1).count(), 2);
    }

    #[test]
    fn every_write_fits_one_piece() {
        let pieces = Pieces::with_piece_size(4 * OVERLAP, 2 * OVERLAP);
        let ranges: Vec<_> = pieces.ranges().collect();
        for start in (0..4 * OVERLAP).step_by(BLOCK_SIZE) {
            for size in [1, BLOCK_SIZE, OVERLAP - 1, OVERLAP] {
                let held = pieces.holding(start, size);
                assert_eq!(held.is_some(), start + size <= 4 * OVERLAP, "{start} + {size}");
                let Some(index) = held else { continue };
                assert!(
                    ranges[index].start <= start && start + size <= ranges[index].end,
                    "{start} + {size}: {index}"
                );
            }
        }
        assert_eq!(pieces.holding(0, 2 * OVERLAP), Some(0));
        assert_eq!(
            pieces.holding(OVERLAP / 2, 2 * OVERLAP),
            None,
            "larger than the overlap, and across the boundary"
        );
    }
}
