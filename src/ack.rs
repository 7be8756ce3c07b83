//! A shard's queue of promises: "tell this connection once everything up to here is durable". A
//! watermark says how far the journal has come, and the promises before it are kept.
//!
//! ```text
//!   positions  ──────── group (one batch) ────────┬───────── group ──────────┬── open group ──
//!   entries     A ≤ 120   B ≤ 300   C ≤ 260        │ A ≤ 700   C ≤ 910        │ B ≤ 1300
//!                                                  ▲
//!                                                  watermark: promises to the left are due
//! ```
//! A connection has at most one entry in each group. A later promise replaces an earlier one in
//! place, because a batch becomes durable as a whole. So the queue is bounded by the batches under
//! way times the connections in each, not by frames.
//!
//! The queue knows neither connections nor the ring. The shard adds promises, moves the watermark
//! and passes answers on.

#![forbid(unsafe_code)]

use crate::call::Seq;
use crate::clock::Moment;
use crate::constants::{ACK_INTERVAL_FRAMES, RECORD_ALIGNMENT};
use crate::journal::frame_ring::RingPosition;
use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// A promise: tell `handle` about `seq` once the watermark has reached `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise<T> {
    /// The ring's head when the promise was added.
    pub(crate) position: RingPosition,
    /// The connection to tell.
    pub(crate) handle: T,
    /// The last complete frame before `position`.
    pub(crate) seq: Seq,
    /// When it was added. If promises replaced each other, when the first one was.
    pub(crate) since: Moment,
}

/// The queue has no room. The promise comes back, to be added again once others have been kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PromisesFull<T>(pub Promise<T>);

/// Where a connection's latest entry is. The caller keeps one for each connection, at first the
/// default. A stale one does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PromiseTicket {
    /// Number of the entry, from 1; 0 for none.
    entry: u64,
}

/// Promises in order of position. Its memory grows only if frames are shorter than those of
/// [`promise_count_usual`].
#[derive(Debug)]
pub(crate) struct PromiseQueue<T> {
    entries: VecDeque<Promise<T>>,
    capacity: usize,
    /// Number of the entry at the front. Entries are numbered from 1.
    first: u64,
    /// Where the open group starts. Entries up to here belong to sealed batches and do not change
    /// any more.
    group_start: RingPosition,
}

/// Most entries that a shard can need. Each entry is the last of its connection, or it has at least
/// [`ACK_INTERVAL_FRAMES`] records after it in the ring. Each record has at least a header.
pub(crate) const fn promise_count_max(ring_size: usize, connection_count_max: usize) -> usize {
    ring_size / (ACK_INTERVAL_FRAMES as usize * RECORD_ALIGNMENT) + connection_count_max
}

/// Entries that a shard needs for usual audio: as [`promise_count_max`], but with frames of 20 ms
/// at 8 kHz, the shortest that carriers send.
pub(crate) const fn promise_count_usual(ring_size: usize, connection_count_max: usize) -> usize {
    const RECORD_SIZE: usize = RECORD_ALIGNMENT + 320;
    ring_size / (ACK_INTERVAL_FRAMES as usize * RECORD_SIZE) + connection_count_max
}

impl<T: Copy + PartialEq> PromiseQueue<T> {
    /// A queue with memory for `usual` entries, and room for at most `capacity` entries: see
    /// [`promise_count_usual`] and [`promise_count_max`].
    ///
    /// It does not allocate memory for all of them: the queue moves round in its memory and so
    /// touches all of it. For a ring of 4 GiB this would be 205 MiB, which only a flood of empty
    /// frames needs.
    pub(crate) fn new(usual: usize, capacity: usize) -> Self {
        PromiseQueue {
            entries: VecDeque::with_capacity(usual.min(capacity)),
            capacity,
            first: 1,
            group_start: RingPosition(0),
        }
    }

    /// Adds a promise, or moves the connection's entry in this group. Positions never decrease from
    /// call to call.
    ///
    /// An entry that moves keeps its place in the queue. Later entries of its group wait for it, at
    /// most until the group's batch has arrived as a whole.
    pub(crate) fn push(
        &mut self,
        promise: Promise<T>,
        ticket: &mut PromiseTicket,
    ) -> Result<(), PromisesFull<T>> {
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

    /// Batches were sealed up to `sealed`, so later promises form a new group. A late call delays
    /// promises of the sealed batch until the next batch, but never keeps one too early.
    pub(crate) fn begin_group(&mut self, sealed: RingPosition) {
        self.group_start = sealed;
    }

    /// The next promise to keep, now that everything before `watermark` has arrived.
    pub(crate) fn pop_ready(&mut self, watermark: RingPosition) -> Option<Promise<T>> {
        let ready = self.entries.pop_front_if(|entry| entry.position <= watermark)?;
        self.first += 1;
        Some(ready)
    }

    /// The waiting promises, in the order in which they were added.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Promise<T>> {
        self.entries.iter()
    }

    /// Number of waiting promises.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no promise waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
