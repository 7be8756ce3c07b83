//! How connections are read: by an armed receive, or from a queue. A turn reads no more of the
//! queue than buffers are free.
//!
//! ```text
//!   armed ──no buffer, more than its share, or ring full──► queued ──read──► more in the socket?
//!     ▲                                                        ▲                  │ yes    │ no
//!     │                                                        └──────────────────┘        │
//!     └────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Rejected: to arm all queued connections at once. A few dozen took all buffers, and thousands of
//! receives ended without one. Their completions filled the turns, so few buffers came back. That
//! state lasted for ever, at twice the CPU per frame.
//!
//! A read never waits: it completes within the submit that starts it. It takes a buffer of its own
//! group, so an armed receive cannot take it first, and the order of the queue holds. While a
//! connection is queued, the node does not read it, so no timer of the peer runs.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId, Connections, Stage};
use super::reading::{Lane, Reading};
use super::receive::Intake;
use crate::clock::{Moment, Now};
use crate::constants::{
    READ_BUFFERS_KEPT, RECEIVE_BUFFER_SIZE, RECORD_EXPANSION_MAX, SHED_CONNECTIONS_MAX,
    TURN_SIZE_MAX, room_needed,
};
use crate::io::{Completion, Io, OpKind};
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::session::{Disconnect, Service, Session};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::time::Duration;

/// The queued connections, the longest wait first.
#[derive(Debug)]
pub(super) struct ReadQueue {
    /// Each with the moment since when it waits. Some entries are outdated: their connections have
    /// left the lane, or are gone.
    calls: VecDeque<(ConnectionId, Moment)>,
    others: VecDeque<(ConnectionId, Moment)>,
    /// Most entries of a lane.
    size_max: usize,
    /// This turn has started reads. They complete within the next submit.
    has_started: bool,
    /// The longest that a connection has waited for its read.
    waited_max: Duration,
    /// The connection whose armed receive was the last in this turn to bring bytes, and how many
    /// bytes in a row.
    run: Option<(ConnectionId, usize)>,
}

impl ReadQueue {
    pub(super) fn new(limits: &Limits) -> Self {
        // Twice as many as there can be connections: see `add`.
        let size_max = 2 * (limits.connections_max + SHED_CONNECTIONS_MAX);
        ReadQueue {
            calls: VecDeque::with_capacity(size_max),
            others: VecDeque::with_capacity(size_max),
            size_max,
            has_started: false,
            waited_max: Duration::ZERO,
            run: None,
        }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.run = None;
    }

    /// An armed receive has brought bytes. Returns whether the connection has had its share of this
    /// turn: the kernel receives all it can from one socket before it looks at the next.
    pub(super) fn handle_receive(&mut self, id: ConnectionId, size: usize) -> bool {
        let before = self.run.filter(|(last, _)| *last == id).map_or(0, |(_, before)| before);
        self.run = Some((id, before + size));
        before + size > TURN_SIZE_MAX
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<(ConnectionId, Moment)> {
        match lane {
            Lane::Calls => &mut self.calls,
            Lane::Others => &mut self.others,
        }
    }

    /// Adds a connection at the end of the lane that it belongs to now. It is not read since
    /// `since`, and `is_busy` while an operation from before is under way. Where there is no place,
    /// entries that no longer count are left out: then at least half of the places are free.
    fn add<S>(
        &mut self,
        now: Moment,
        id: ConnectionId,
        (since, is_busy): (Moment, bool),
        connections: &mut Connections<S>,
    ) {
        let Some(connection) = connections.get(id) else { return };
        let lane = connection.lane();
        connection.reading = Reading::Queued { lane, since, is_busy };
        let size_max = self.size_max;
        let entries = self.lane(lane);
        if entries.len() == size_max {
            let mut counts =
                |id| connections.get(id).is_some_and(|it| it.reading.lane() == Some(lane));
            entries.retain(|(id, _)| counts(*id));
        }
        entries.push_back((id, now));
    }

    /// Number of entries, outdated ones included.
    pub(super) fn len(&self) -> usize {
        self.calls.len() + self.others.len()
    }

    /// Most connections that fit without allocating.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.calls.capacity() + self.others.capacity()
    }

    /// A read is started of a connection that has waited since then.
    fn handle_started(&mut self, now: Moment, since: Moment) {
        self.has_started = true;
        self.waited_max = self.waited_max.max(now.since(since));
    }

    /// How long the first entry has waited.
    fn longest_wait(&self, now: Moment) -> Duration {
        let front = |lane: &VecDeque<(ConnectionId, Moment)>| {
            lane.front().map(|(_, since)| now.since(*since))
        };
        front(&self.calls).max(front(&self.others)).unwrap_or_default()
    }

    pub(super) fn publish(&self, now: Moment, counters: &Counters) {
        counters.reads_waiting.set(self.len() as u64);
        counters.reads_longest_wait_ms.set(self.longest_wait(now).as_millis() as u64);
        counters.reads_waited_max_ms.set(self.waited_max.as_millis() as u64);
    }
}

impl<S> Connection<S> {
    /// Cancels the receive, if one is armed.
    pub(super) fn cancel_receive<I: Io>(&mut self, id: ConnectionId, io: &mut I) {
        if self.reading == Reading::Armed {
            self.reading = Reading::Cancelling;
            self.pending_operations += 1;
            io.cancel(id.user_data(OpKind::Receive), id.user_data(OpKind::Cancel));
        }
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Queues a connection to be read, and cancels its receive if one is armed. TCP pushes back
    /// until it is read.
    pub(super) fn queue_read(&mut self, now: Now, id: ConnectionId) {
        let Shard { io, connections, reads, .. } = self;
        let Some(connection) = connections.get(id) else { return };
        connection.cancel_receive(id, io);
        let paused_since = connection.reading.paused_since();
        let is_busy = match connection.reading {
            Reading::Queued { .. } => return,
            Reading::Idle => false,
            Reading::Armed | Reading::Cancelling | Reading::Once { .. } => true,
        };
        let since = paused_since.unwrap_or(now.moment);
        reads.add(now.moment, id, (since, is_busy), connections);
        if paused_since.is_none() {
            self.with_session(id, |session, _| session.handle_reading(now, false));
        }
    }

    /// A call has ended while it was queued. What still comes is dropped, so it need not wait for
    /// room.
    pub(super) fn leave_calls_lane(&mut self, now: Now, id: ConnectionId) {
        if let Some(connection) = self.connections.get(id)
            && let Reading::Queued { lane: Lane::Calls, since, is_busy } = connection.reading
        {
            self.reads.add(now.moment, id, (since, is_busy), &mut self.connections);
        }
    }

    /// Starts reads of queued connections in order, as many as there are free buffers. For calls
    /// the frame ring has to have room too.
    pub(super) fn serve_reads(&mut self, now: Now) {
        self.reads.has_started = false;
        if self.reads.len() == 0 {
            return;
        }
        let left = self.serve_lane(now, Lane::Others, self.io.read_buffers_free());
        let allowed = left.saturating_sub(READ_BUFFERS_KEPT).min(self.reads_with_room());
        self.serve_lane(now, Lane::Calls, allowed);
    }

    /// Whether the next submit must not wait: reads were started since the last one, or
    /// [`Shard::serve_reads`] would start one, so it brings bytes at once. (A wait for more
    /// completions halved the rate of a backlog: the reads of a turn are fewer than the completions
    /// it would wait for.)
    pub(super) fn can_read(&mut self) -> bool {
        if self.reads.has_started {
            return true;
        }
        let free = self.io.read_buffers_free();
        let others = !self.reads.others.is_empty() && free > 0;
        others
            || (!self.reads.calls.is_empty()
                && free > READ_BUFFERS_KEPT
                && self.reads_with_room() > 0)
    }

    /// Number of whole receive buffers that the frame ring surely takes, whatever frames they make.
    /// None while older bytes wait for room.
    fn reads_with_room(&self) -> usize {
        if !self.deferred.is_empty() {
            return 0;
        }
        let room = self.ring.free_size().saturating_sub(room_needed(0, self.connections.count()));
        room / (RECEIVE_BUFFER_SIZE * RECORD_EXPANSION_MAX)
    }

    /// Starts at most `allowed` reads of a lane; returns how many of them are left.
    fn serve_lane(&mut self, now: Now, lane: Lane, mut allowed: usize) -> usize {
        for _ in 0..self.reads.lane(lane).len() {
            if allowed == 0 {
                break;
            }
            let Some((id, since)) = self.reads.lane(lane).pop_front() else { break };
            let Some(connection) = self.connections.get(id) else { continue };
            let paused_since = match connection.reading {
                // Its receive is being cancelled, which takes until the next turn. It keeps its
                // place.
                Reading::Queued { lane: its, is_busy: true, .. } if its == lane => {
                    self.reads.lane(lane).push_front((id, since));
                    break;
                }
                Reading::Queued { lane: its, since, .. } if its == lane => since,
                // It has left the lane.
                _ => continue,
            };
            if lane == Lane::Others && matches!(connection.stage, Stage::Open(_)) {
                self.reads.add(now.moment, id, (paused_since, false), &mut self.connections);
            } else if connection.takes_bytes() {
                connection.reading = Reading::Once { since: paused_since };
                self.io.read(connection.socket, id.user_data(OpKind::Read));
                self.reads.handle_started(now.moment, since);
                self.counters.reads.add(1);
                allowed -= 1;
            } else {
                self.resume(now, id);
            }
        }
        allowed
    }

    pub(super) fn handle_read(&mut self, now: Now, id: ConnectionId, completion: Completion) {
        let Some(connection) = self.connections.get(id) else {
            debug_assert!(false, "a slot is not freed while a read is under way");
            completion.received.into_iter().for_each(|received| self.io.recycle(received));
            return;
        };
        // A connection that is read once stays so until what the read brought is handled.
        if let Reading::Queued { is_busy, .. } = &mut connection.reading {
            *is_busy = false;
        }
        let mut has_more = completion.socket_has_more;
        match (completion.result, completion.received) {
            (Ok(_), Some(received)) => {
                self.counters.receives.add(1);
                has_more |= self.handle_received(now, id, received) == Intake::Deferred;
            }
            (Ok(_), None) => self.handle_end(now, id, Disconnect::Finished),
            (Err(Errno::AGAIN), _) => has_more = false,
            (Err(Errno::NOBUFS | Errno::INTR), _) => has_more = true,
            (Err(_), _) => self.handle_end(now, id, Disconnect::Reset),
        }
        if let Some(connection) = self.connections.get(id)
            && let Reading::Once { since } = connection.reading
        {
            match has_more {
                true => self.reads.add(now.moment, id, (since, false), &mut self.connections),
                false => self.resume(now, id),
            }
        }
        self.settle(now, id);
    }

    /// All bytes of the connection are read: its receive is armed again, and its peer's timers run.
    fn resume(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(since) = connection.reading.paused_since() else { return };
        connection.reading = Reading::Idle;
        if let (Stage::Head(_), Some(deadline)) = (&connection.stage, &mut connection.deadline) {
            *deadline = *deadline + now.moment.since(since);
        }
        self.with_session(id, |session, _| session.handle_reading(now, true));
        self.settle(now, id);
    }
}
