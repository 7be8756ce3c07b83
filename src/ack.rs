//! Promises asked of a shard, and kept by watermark: "tell this connection once everything up to here is durable".
//!
//! ```text
//!   positions  ──────── group (one batch) ────────┬───────── group ──────────┬── open group ──
//!   entries     A ≤ 120   B ≤ 300   C ≤ 260        │ A ≤ 700   C ≤ 910        │ B ≤ 1300
//!                                                  ▲
//!                                                  watermark: everything to the left is due
//! ```
//! A connection has at most one entry per group: a later question replaces an earlier one in place, because a batch becomes
//! durable as a whole. So the queue is bounded by batches under way times connections in each, not by frames.
//!
//! It knows neither connections nor the ring; the shard asks, moves the watermark and passes answers on.

#![forbid(unsafe_code)]

use crate::call::Seq;
use crate::clock::Moment;
use crate::constants::{ACK_INTERVAL_FRAMES, RECORD_ALIGNMENT};
use crate::frame_ring::RingPosition;
use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// What an acked frame survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckLevel {
    /// Power loss.
    Durable,
    /// A crash of the process.
    Written,
    /// Nothing but the network.
    Received,
}

impl AckLevel {
    /// As it is written in settings.
    pub const fn name(self) -> &'static str {
        match self {
            AckLevel::Durable => "durable",
            AckLevel::Written => "written",
            AckLevel::Received => "received",
        }
    }
}

/// A question: tell `handle` about `seq` once the watermark has come to `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise<T> {
    /// The ring's head when it was asked.
    pub position: RingPosition,
    /// Whom to tell.
    pub handle: T,
    /// The last complete frame before `position`.
    pub seq: Seq,
    /// When it was asked; of questions that replace each other, the first.
    pub since: Moment,
}

/// The queue has no room; the question comes back, to be asked again once some have been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromisesFull<T>(pub Promise<T>);

/// Where a connection's latest entry is. The caller keeps one per connection, starting with the default; a stale one is
/// harmless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromiseTicket {
    /// Number of the entry, from 1; 0 for none.
    entry: u64,
}

/// Promises in order of position. Allocates nothing after it is made.
#[derive(Debug)]
pub struct PromiseQueue<T> {
    entries: VecDeque<Promise<T>>,
    capacity: usize,
    /// Number of the entry at the front; entries are numbered from 1.
    first: u64,
    /// Where the open group starts: entries up to here are those of sealed batches, and stay as they are.
    group_start: RingPosition,
}

/// Entries that a shard can need: each has at least [`ACK_INTERVAL_FRAMES`] records behind it that still are in the ring, of
/// at least a header each, or is a connection's last one.
pub const fn promise_count_max(ring_size: usize, connection_count_max: usize) -> usize {
    ring_size / (ACK_INTERVAL_FRAMES as usize * RECORD_ALIGNMENT) + connection_count_max
}

impl<T: Copy + PartialEq> PromiseQueue<T> {
    /// Room for `capacity` entries: see [`promise_count_max`].
    pub fn new(capacity: usize) -> Self {
        PromiseQueue { entries: VecDeque::with_capacity(capacity), capacity, first: 1, group_start: RingPosition(0) }
    }

    /// Queues a question, or moves the one that the connection has in this group. Positions do not go back from call to
    /// call.
    ///
    /// An entry that moves keeps its place: what stands behind it in its group waits for it, until the group's batch has
    /// arrived as a whole at the latest.
    pub fn push(&mut self, promise: Promise<T>, ticket: &mut PromiseTicket) -> Result<(), PromisesFull<T>> {
        if let Some(index) = ticket.entry.checked_sub(self.first)
            && let Some(entry) = self.entries.get_mut(index as usize)
            && entry.handle == promise.handle
            && entry.position > self.group_start
        {
            *entry = Promise { since: entry.since, ..promise };
            return Ok(());
        }
        if self.entries.len() == self.capacity {
            return Err(PromisesFull(promise));
        }
        *ticket = PromiseTicket { entry: self.first + self.entries.len() as u64 };
        self.entries.push_back(promise);
        Ok(())
    }

    /// Batches have been sealed up to `sealed`: what was asked about them stays apart from what is asked from now on. Called
    /// late, it delays promises of the sealed batch until the next one; it never makes one hold too early.
    pub fn begin_group(&mut self, sealed: RingPosition) {
        self.group_start = sealed;
    }

    /// The next promise that holds now that everything before `watermark` has arrived, if any.
    pub fn pop_ready(&mut self, watermark: RingPosition) -> Option<Promise<T>> {
        let ready = self.entries.pop_front_if(|entry| entry.position <= watermark)?;
        self.first += 1;
        Some(ready)
    }

    /// Promises that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
