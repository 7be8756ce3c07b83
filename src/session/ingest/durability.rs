//! Up to which frame a call is known to be durable, whatever its acks promise: what `stopped` and the log say.
//!
//! A mark does, set at a tenth frame and at the call's end. It moves on as long as its batch is open, which becomes durable as a
//! whole, and again once it is durable. Between syncs the answer lags behind the truth, and it never runs ahead of it. A call at
//! the pace of speech comes to a tenth frame every two seconds, and what is written is synced within a tenth of one: there it
//! lags by ten frames.

#![forbid(unsafe_code)]

use crate::frame_ring::{FrameRing, RingPosition};

/// What is known of a call's way to the disk: `known ≤ marked`.
#[derive(Debug, Default)]
pub(super) struct Durability {
    known: u64,
    marked: u64,
    /// Where in the ring frame `marked` ends.
    end: RingPosition,
}

impl Durability {
    /// Frame `seq` is complete, and the ring's head stands behind it.
    pub(super) fn note(&mut self, seq: u64, ring: &FrameRing) {
        // A mark on its way to the disk stays: a call that is faster than the disk would never come to one else.
        if self.end <= ring.durable() || self.end > ring.sealed() {
            self.note_last(seq, ring);
        }
    }

    /// As [`Durability::note`], for the last frame of all: nothing will follow that could be a mark instead.
    pub(super) fn note_last(&mut self, seq: u64, ring: &FrameRing) {
        self.known = self.seq(ring.durable());
        if seq > self.marked {
            (self.marked, self.end) = (seq, ring.head());
        }
    }

    /// The last frame known to be durable, 0 where none is. `durable` is the ring's cursor now.
    pub(super) fn seq(&self, durable: RingPosition) -> u64 {
        if self.end <= durable { self.marked } else { self.known }
    }
}
