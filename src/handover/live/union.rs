//! The consumer's rule: a call is the union of its epochs, by frame number.
//!
//! - The engine may hold a frame more than once. The first copy counts.
//! - A hole is reported, and filled if its frames come later.
//! - Of an epoch that was erased nothing is kept, and nothing is missing.
//! - No epoch replaces another. After a reconnect, two nodes may feed one call for a while.
//!
//! A forwarder that starts again sends what was not acknowledged. So the same frame can be in two
//! messages with different ids and different first frames.

#![forbid(unsafe_code)]

use super::message::EpochName;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A call as it was received so far. `F` is what the reader keeps of a frame: its bytes, or where
/// it has put them.
#[derive(Clone, Debug)]
pub struct CallUnion<F> {
    epochs: BTreeMap<EpochName, EpochUnion<F>>,
    doubles: u64,
}

/// An epoch of a call as it was received so far.
#[derive(Clone, Debug)]
pub struct EpochUnion<F> {
    /// Samples a second; `None` until a message of audio says so.
    pub sample_rate: Option<u32>,
    /// The last frame that the epoch had, if its end was received.
    pub ended_at_seq: Option<u64>,
    is_erased: bool,
    frames: BTreeMap<u64, F>,
}

impl<F> Default for CallUnion<F> {
    fn default() -> CallUnion<F> {
        CallUnion { epochs: BTreeMap::new(), doubles: 0 }
    }
}

impl<F> Default for EpochUnion<F> {
    fn default() -> EpochUnion<F> {
        EpochUnion {
            sample_rate: None,
            ended_at_seq: None,
            is_erased: false,
            frames: BTreeMap::new(),
        }
    }
}

impl<F> CallUnion<F> {
    /// The epoch of this name. It is there from now on, even without a frame.
    pub fn epoch(&mut self, name: &EpochName) -> &mut EpochUnion<F> {
        if !self.epochs.contains_key(name) {
            self.epochs.insert(name.clone(), EpochUnion::default());
        }
        self.epochs.get_mut(name).unwrap_or_else(|| unreachable!("it was just put there"))
    }

    /// The audio of an epoch was deleted on demand: drops its frames, and takes no more.
    pub fn erase(&mut self, name: &EpochName) {
        let epoch = self.epoch(name);
        epoch.is_erased = true;
        epoch.frames.clear();
    }

    /// Adds a frame, unless it is there. `keep` is called only for a frame that is new.
    pub fn add<E>(
        &mut self,
        name: &EpochName,
        seq: u64,
        keep: impl FnOnce() -> Result<F, E>,
    ) -> Result<(), E> {
        let epoch = self.epoch(name);
        if epoch.is_erased {
            return Ok(());
        }
        if epoch.frames.contains_key(&seq) {
            self.doubles += 1;
            return Ok(());
        }
        let frame = keep()?;
        epoch.frames.insert(seq, frame);
        Ok(())
    }

    /// The epochs, in order of their starts.
    pub fn epochs(&self) -> impl Iterator<Item = (&EpochName, &EpochUnion<F>)> {
        self.epochs.iter()
    }

    /// Copies of frames that were dropped.
    pub fn doubles(&self) -> u64 {
        self.doubles
    }
}

impl<F> EpochUnion<F> {
    /// The frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = (u64, &F)> {
        self.frames.iter().map(|(seq, frame)| (*seq, frame))
    }

    /// Whether its audio was deleted on demand.
    pub fn is_erased(&self) -> bool {
        self.is_erased
    }

    /// Number of frames.
    pub fn count(&self) -> u64 {
        self.frames.len() as u64
    }

    /// The frames that are missing: before the last one, and up to the epoch's end if that is
    /// known.
    pub fn holes(&self) -> Vec<RangeInclusive<u64>> {
        let mut holes = Vec::new();
        if self.is_erased {
            return holes;
        }
        let mut next = 1;
        for seq in self.frames.keys() {
            if *seq > next {
                holes.push(next..=seq - 1);
            }
            next = seq + 1;
        }
        if let Some(last) = self.ended_at_seq
            && last >= next
        {
            holes.push(next..=last);
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Epoch;
    use crate::clock::UnixMicros;
    use proptest::prelude::*;

    fn name(started_at: u64, node: &str) -> EpochName {
        let epoch = Epoch { boot: 1, micros: started_at, shard: 0 };
        EpochName { started_at: UnixMicros(started_at), node: node.into(), epoch }
    }

    fn add(union: &mut CallUnion<u8>, name: &EpochName, seq: u64, frame: u8) {
        union.add(name, seq, || Ok::<u8, ()>(frame)).expect("nothing fails");
    }

    #[test]
    fn the_first_copy_counts() {
        let mut union = CallUnion::default();
        let epoch = name(1, "a");
        add(&mut union, &epoch, 1, 10);
        add(&mut union, &epoch, 1, 20);
        assert_eq!(union.doubles(), 1);
        assert_eq!(union.epoch(&epoch).frames().collect::<Vec<_>>(), [(1, &10)]);
    }

    #[test]
    fn holes_are_reported_and_filled() {
        let mut union = CallUnion::default();
        let epoch = name(1, "a");
        [2, 5].into_iter().for_each(|seq| add(&mut union, &epoch, seq, 0));
        assert_eq!(union.epoch(&epoch).holes(), [1..=1, 3..=4]);
        union.epoch(&epoch).ended_at_seq = Some(7);
        assert_eq!(union.epoch(&epoch).holes(), [1..=1, 3..=4, 6..=7]);
        [6, 7, 3, 4, 1].into_iter().for_each(|seq| add(&mut union, &epoch, seq, 0));
        assert_eq!(union.epoch(&epoch).holes(), []);
        assert_eq!(union.epoch(&epoch).count(), 7);
    }

    #[test]
    fn no_epoch_replaces_another() {
        let mut union = CallUnion::default();
        let (first, second) = (name(1, "b"), name(2, "a"));
        add(&mut union, &second, 1, 3);
        add(&mut union, &first, 1, 1);
        add(&mut union, &first, 2, 2);
        let frames = union.epochs().flat_map(|(_, epoch)| epoch.frames().map(|(_, frame)| *frame));
        assert_eq!(frames.collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn an_erased_epoch_keeps_nothing_and_misses_nothing() {
        let mut union = CallUnion::default();
        let (first, second) = (name(1, "a"), name(2, "a"));
        [&first, &second].into_iter().for_each(|epoch| add(&mut union, epoch, 1, 1));
        union.epoch(&first).ended_at_seq = Some(7);
        union.erase(&first);
        add(&mut union, &first, 2, 2);
        assert_eq!((union.epoch(&first).count(), union.epoch(&first).holes()), (0, vec![]));
        assert_eq!((union.epoch(&second).count(), union.doubles()), (1, 0));
    }

    proptest! {
        /// Whatever is sent again, and in whatever order: each frame is there once.
        #[test]
        fn every_frame_is_there_once(sent in proptest::collection::vec((1u64..40, 1u64..12), 0..60)) {
            let mut union = CallUnion::default();
            let epoch = name(1, "a");
            let mut expected = std::collections::BTreeSet::new();
            for (first, count) in sent {
                for seq in first..first + count {
                    add(&mut union, &epoch, seq, seq as u8);
                    expected.insert(seq);
                }
            }
            let frames: Vec<_> = union.epoch(&epoch).frames().map(|(seq, _)| seq).collect();
            prop_assert_eq!(&frames, &expected.iter().copied().collect::<Vec<_>>());
            let holes: u64 = union.epoch(&epoch).holes().iter().map(|hole| hole.end() + 1 - hole.start()).sum();
            prop_assert_eq!(holes + frames.len() as u64, expected.last().copied().unwrap_or(0));
        }
    }
}
