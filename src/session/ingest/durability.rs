//! Up to which frame a call is known to be durable, whatever its acks promise: what `stopped` and the log say.
//!
//! Two marks do, taken at every tenth frame and at the call's end: the ring's durable cursor passes them. Between syncs the
//! answer may lag behind the truth, at most by the frames since the older mark; it never runs ahead of it. A call at the pace
//! of speech reaches a mark every two seconds, and what is written is synced within a tenth of one: there it is off by one mark.

#![forbid(unsafe_code)]

use crate::frame_ring::RingPosition;

/// A frame, and where in the ring it ends.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    seq: u64,
    end: RingPosition,
}

/// What is known of a call's way to the disk: `known ≤ older.seq ≤ newer.seq`.
#[derive(Debug, Default)]
pub(super) struct Durability {
    known: u64,
    older: Mark,
    newer: Mark,
}

impl Durability {
    /// Frame `seq` is complete, and the ring's head stands behind it. `durable` is the ring's cursor now.
    pub(super) fn note(&mut self, seq: u64, head: RingPosition, durable: RingPosition) {
        if seq == self.newer.seq {
            return;
        }
        self.known = self.seq(durable);
        // A mark that is not durable yet stays, and the one behind it moves on: else a call that is faster than the disk would
        // never reach one.
        if self.older.end <= durable {
            self.older = self.newer;
        }
        self.newer = Mark { seq, end: head };
    }

    /// The last frame known to be durable, 0 where none is. `durable` is the ring's cursor now.
    pub(super) fn seq(&self, durable: RingPosition) -> u64 {
        let passed = [self.newer, self.older].into_iter().find(|mark| mark.end <= durable);
        passed.map_or(self.known, |mark| mark.seq.max(self.known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is always so many frames late; each frame takes ten bytes.
    fn answers(frames: u64, late: u64) -> Vec<u64> {
        let mut durability = Durability::default();
        let durable_at = |seq: u64| RingPosition(seq.saturating_sub(late) * 10);
        let tens = (1..=frames).filter(|seq| seq % 10 == 0);
        tens.map(|seq| {
            durability.note(seq, RingPosition(seq * 10), durable_at(seq));
            let answer = durability.seq(durable_at(seq));
            assert!(answer * 10 <= durable_at(seq).0, "{answer} is more than is durable");
            answer
        })
        .collect()
    }

    #[test]
    fn it_lags_by_the_marks_and_never_runs_ahead() {
        assert_eq!(answers(40, 0), [10, 20, 30, 40]);
        assert_eq!(answers(40, 10), [0, 10, 20, 30]);
        // A flood: the disk is seven marks late.
        let flood = answers(1000, 70);
        assert!(flood.is_sorted() && flood.last().is_some_and(|last| *last >= 1000 - 70 * 3), "{flood:?}");
        assert_eq!(answers(40, 1000), [0, 0, 0, 0]);
    }

    #[test]
    fn a_frame_noted_again_keeps_its_place() {
        let mut durability = Durability::default();
        durability.note(10, RingPosition(100), RingPosition(0));
        durability.note(10, RingPosition(164), RingPosition(0));
        assert_eq!(durability.seq(RingPosition(100)), 10);
        durability.note(12, RingPosition(200), RingPosition(50));
        assert_eq!([99, 100, 199, 200].map(|at| durability.seq(RingPosition(at))), [0, 10, 10, 12]);
    }
}
