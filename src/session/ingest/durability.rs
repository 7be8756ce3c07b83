//! The frame up to which a call is known to be durable, whatever its acks promise. `stopped` and
//! the log report it.
//!
//! One mark is enough. It is set at every tenth frame and at the end of the call. It moves on while
//! its batch is open, because a batch becomes durable as a whole, and again when it is durable.
//! Between syncs the answer lags the true value, and it is never ahead. A call at the pace of
//! speech reaches a tenth frame every two seconds, and data is synced 0.2 s after it was written.
//! So its answer lags by ten frames.

#![forbid(unsafe_code)]

use crate::journal::frame_ring::{FrameRing, RingPosition};

/// What is known of a call's way to the disk: `known ≤ marked`.
#[derive(Debug, Default)]
pub(super) struct Durability {
    known: u64,
    marked: u64,
    /// Ring position at which frame `marked` ends.
    end: RingPosition,
}

impl Durability {
    /// Frame `seq` is complete, and the ring's head is right after it.
    pub(super) fn note(&mut self, seq: u64, ring: &FrameRing) {
        // A mark on its way to the disk stays. Otherwise a call that is faster than the disk would
        // never have a durable mark.
        if self.end <= ring.durable() || self.end > ring.sealed() {
            self.note_last(seq, ring);
        }
    }

    /// Like [`Durability::note`], for the last frame of all: no later frame could be a mark.
    pub(super) fn note_last(&mut self, seq: u64, ring: &FrameRing) {
        self.known = self.seq(ring.durable());
        if seq > self.marked {
            (self.marked, self.end) = (seq, ring.head());
        }
    }

    /// The last frame known to be durable, or 0. `durable` is the current cursor of the ring.
    pub(super) fn seq(&self, durable: RingPosition) -> u64 {
        if self.end <= durable { self.marked } else { self.known }
    }
}
