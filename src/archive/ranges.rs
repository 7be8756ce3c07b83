//! Ranges of sequence numbers: which frames exist.

#![forbid(unsafe_code)]

use serde::Serialize;

/// A range of frames, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SeqRange {
    /// The first frame.
    pub(crate) first: u64,
    /// The last frame; not before the first.
    pub(crate) last: u64,
}

impl SeqRange {
    /// Number of frames.
    pub(crate) const fn count(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// Ranges in order; no two of them touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeqRanges(Vec<SeqRange>);

impl SeqRanges {
    /// Adds a range. Frames that are there already count once. A range that ends before its start
    /// is ignored.
    pub(crate) fn add(&mut self, range: SeqRange) {
        if range.first > range.last {
            return;
        }
        if let Some(newest) = self.0.last_mut()
            && newest.first <= range.first
            && range.first <= newest.last.saturating_add(1)
        {
            newest.last = newest.last.max(range.last);
            return;
        }
        let from = self.0.partition_point(|known| known.last.saturating_add(1) < range.first);
        let to = self.0.partition_point(|known| known.first <= range.last.saturating_add(1));
        let touched = self.0.get(from..to).unwrap_or_default();
        let first = touched.first().map_or(range.first, |known| known.first.min(range.first));
        let last = touched.last().map_or(range.last, |known| known.last.max(range.last));
        self.0.splice(from..to, [SeqRange { first, last }]);
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SeqRange> {
        self.0.iter().copied()
    }

    /// Number of ranges.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no frames.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of frames.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().fold(0, |count, range| count.saturating_add(range.count()))
    }

    /// The last frame; 0 if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.0.last().map_or(0, |range| range.last)
    }

    /// The frames that are missing from 1 up to `end`, or up to the last frame if that is greater.
    pub(crate) fn gaps(&self, end: u64) -> Vec<SeqRange> {
        let mut gaps = Vec::new();
        let mut next = 1u64;
        for range in &self.0 {
            if range.first > next {
                gaps.push(SeqRange { first: next, last: range.first - 1 });
            }
            next = range.last.saturating_add(1);
        }
        if self.last() < end {
            gaps.push(SeqRange { first: next, last: end });
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_equal_a_set(
            added in prop::collection::vec((1u64..60, 0u64..8), 0..30),
            end in 0u64..80,
        ) {
            let (mut ranges, mut set) = (SeqRanges::default(), BTreeSet::new());
            for (first, more) in added {
                ranges.add(SeqRange { first, last: first + more });
                set.extend(first..=first + more);
            }
            let all: Vec<u64> = ranges.iter().flat_map(|range| range.first..=range.last).collect();
            prop_assert_eq!(&all, &set.iter().copied().collect::<Vec<_>>());
            prop_assert!(
                ranges
                    .iter()
                    .zip(ranges.iter().skip(1))
                    .all(|(one, next)| one.last + 1 < next.first)
            );
            prop_assert_eq!(ranges.count(), set.len() as u64);
            let last = ranges.last().max(end);
            let missing: Vec<u64> =
                ranges.gaps(end).into_iter().flat_map(|gap| gap.first..=gap.last).collect();
            prop_assert_eq!(
                missing,
                (1..=last).filter(|seq| !set.contains(seq)).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn the_ends_of_the_number_range_do_not_overflow() {
        let mut ranges = SeqRanges::default();
        for (first, last) in [(u64::MAX, u64::MAX), (0, 5), (u64::MAX - 3, u64::MAX), (9, 8)] {
            ranges.add(SeqRange { first, last });
        }
        assert_eq!(
            ranges.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>(),
            [(0, 5), (u64::MAX - 3, u64::MAX)]
        );
        assert_eq!(ranges.gaps(u64::MAX), [SeqRange { first: 6, last: u64::MAX - 4 }]);
    }
}
