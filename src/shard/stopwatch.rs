//! How long a shard's things take: what of it is remembered between a beginning and an end, and when it is recorded.
//!
//! ```text
//!   submit returns                                                    submit
//!   ──┬──── reap ────┬── judge ── resume ──┬── journal ── acknowledge ──┬──
//!     now            frames arrived        the same, if there were more  acks go out, operations begin
//!     └──────────────────────────────── turn ──────────────────────────┘
//! ```
//! Clocks are read for a turn, for a request that is judged and for a call that starts, never for a frame: the frames of a turn
//! are recorded together. What is kept here is bounded and never allocates; where a bound is met the newest of it is taken
//! together, and counts from the earlier beginning.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId};
use crate::ack::AckLevel;
use crate::clock::Moment;
use crate::frame_ring::RingPosition;
use crate::io::{Io, OpKind};
use crate::latency::{Latencies, Latency, LatencyRequest};
use crate::session::Service;
use std::collections::VecDeque;
use std::num::NonZero;

/// Turns whose frames may wait for their promise, each for itself. At the loop's pace of 2,000 turns a second these are half a
/// second, twenty-five times the distance of syncs.
const ARRIVALS_MAX: usize = 1024;

/// Groups of one turn: turns in which the frames and acks of this one began.
const GROUPS_MAX: usize = 1024;

/// A moment of the last 71 minutes in half the space: microseconds, modulo 2^32. For what takes seconds, in a table in which
/// bytes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u32);

impl Mark {
    /// The mark of a moment.
    pub const fn of(moment: Moment) -> Self {
        Mark(moment.as_micros() as u32)
    }

    /// The last moment up to `now` that has this mark.
    const fn before(self, now: Moment) -> Moment {
        let elapsed = (now.as_micros() as u32).wrapping_sub(self.0);
        Moment::from_nanos(now.as_nanos().saturating_sub(elapsed as u64 * 1_000))
    }
}

/// A number of acks. Zero is not zero in memory: that tells the variants of [`Timing`] apart, which saves four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckCount(NonZero<u16>);

impl AckCount {
    const ZERO: AckCount = AckCount(NonZero::<u16>::MIN);

    const fn get(self) -> u64 {
        self.0.get() as u64 - 1
    }

    /// Stops at 65,534: who lets more of them wait does not read them.
    fn plus(self, count: u64) -> Self {
        AckCount(self.0.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)))
    }
}

/// What a connection remembers for the stopwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Until `started`.
    Setup {
        /// When it was accepted.
        accepted: Mark,
        /// When the phase it is in began.
        phase: Mark,
    },
    /// From then on: acks on their way, each from the turn that completed the frame of the first.
    Call {
        /// Of those that have not been given to a send yet.
        owed_since: Mark,
        /// Their number.
        owed: AckCount,
        /// Of those in the send under way.
        sending_since: Mark,
        /// Their number.
        sending: AckCount,
    },
}

impl Timing {
    /// Of a connection that is accepted now.
    pub const fn accepted(now: Moment) -> Self {
        Timing::Setup { accepted: Mark::of(now), phase: Mark::of(now) }
    }

    /// The promise of `count` more acks holds, of which the first was due in a turn at `since`.
    pub(super) fn owe(&mut self, since: Moment, count: u64) {
        if let Timing::Call { owed_since, owed, .. } = self {
            if *owed == AckCount::ZERO {
                *owed_since = Mark::of(since);
            }
            *owed = owed.plus(count);
        }
    }
}

/// So many things that began together.
#[derive(Clone, Copy, Debug)]
struct Group {
    since: Mark,
    count: u64,
}

/// Things of one turn by their beginning.
#[derive(Debug)]
struct Groups(Vec<Group>);

impl Groups {
    fn new() -> Self {
        Groups(Vec::with_capacity(GROUPS_MAX))
    }

    /// Those of one beginning mostly come behind each other. Where there are too many, the last is joined.
    fn add(&mut self, since: Mark, count: u64) {
        let is_full = self.0.len() == GROUPS_MAX;
        match self.0.last_mut() {
            Some(last) if last.since == since => last.count += count,
            Some(last) if is_full => last.count += count,
            _ => self.0.push(Group { since, count }),
        }
    }

    /// Records and forgets all; returns how many there were.
    fn record(&mut self, until: Moment, latency: &mut Latency) -> u64 {
        let mut count = 0;
        for group in self.0.drain(..) {
            latency.record_n(group.since.before(until), until, group.count);
            count += group.count;
        }
        count
    }
}

/// Frames of one turn that wait for their promise.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    /// Of the frame ring, behind the last of them.
    end: RingPosition,
    at: Moment,
    frames: u64,
}

/// A file operation; there is one write and one sync under way at a time.
#[derive(Clone, Copy, Debug, Default)]
enum FileOperation {
    #[default]
    None,
    Queued,
    Submitted(Moment),
}

/// Measures a shard.
#[derive(Debug)]
pub(super) struct Stopwatch {
    latencies: Box<Latencies>,
    level: AckLevel,
    turn_began: Option<Moment>,
    /// Frames complete in the frame ring so far.
    frames: u64,
    /// Frames completed since, of which the first byte came in an earlier turn.
    late: Groups,
    /// In order of position.
    arrivals: VecDeque<Arrival>,
    /// Acks that go out with the next submit.
    acks: Groups,
    write: FileOperation,
    sync: FileOperation,
}

impl Stopwatch {
    /// For a shard that promises `level`.
    pub(super) fn new(level: AckLevel) -> Self {
        Stopwatch {
            latencies: Box::default(),
            level,
            turn_began: None,
            frames: 0,
            late: Groups::new(),
            arrivals: VecDeque::with_capacity(ARRIVALS_MAX),
            acks: Groups::new(),
            write: FileOperation::None,
            sync: FileOperation::None,
        }
    }

    /// Gives out what has been recorded so far.
    pub(super) fn answer(&mut self, request: LatencyRequest) {
        request.answer(&mut self.latencies);
    }

    /// A submit has returned.
    pub(super) fn begin_turn(&mut self, now: Moment) {
        self.turn_began = Some(now);
    }

    /// The turn's work is done: a submit is next.
    pub(super) fn end_turn(&mut self, now: Moment) {
        let Some(began) = self.turn_began.take() else { return };
        self.latencies.turn.record(began, now);
        self.acks.record(now, &mut self.latencies.ack);
        for operation in [&mut self.write, &mut self.sync] {
            if let FileOperation::Queued = operation {
                *operation = FileOperation::Submitted(now);
            }
        }
    }

    /// A frame whose first byte was reaped in an earlier turn is complete.
    #[inline]
    pub(super) fn frame_late(&mut self, since: Mark) {
        self.late.add(since, 1);
    }

    /// By now there have been `frames` in all, and the ring reaches to `end`.
    fn frames_arrived(&mut self, frames: u64, at: Moment, end: RingPosition) {
        let count = frames - self.frames;
        self.frames = frames;
        let late = self.late.record(at, &mut self.latencies.frame_ring);
        let in_time = count.saturating_sub(late);
        if let Some(began) = self.turn_began
            && in_time > 0
        {
            self.latencies.frame_ring.record_n(began, at, in_time);
        }
        if self.arrivals.len() < ARRIVALS_MAX {
            self.arrivals.push_back(Arrival { end, at, frames: count });
        } else if let Some(newest) = self.arrivals.back_mut() {
            newest.end = end;
            newest.frames += count;
        }
    }

    /// Everything before `watermark` is promised.
    pub(super) fn promised(&mut self, watermark: RingPosition, now: Moment) {
        let latencies = &mut *self.latencies;
        let latency = match self.level {
            AckLevel::Received => &mut latencies.frame_received,
            AckLevel::Written => &mut latencies.frame_written,
            AckLevel::Durable => &mut latencies.frame_durable,
        };
        while let Some(arrival) = self.arrivals.pop_front_if(|arrival| arrival.end <= watermark) {
            latency.record_n(arrival.at, now, arrival.frames);
        }
    }

    /// The request head of a connection is complete.
    pub(super) fn head_complete(&mut self, timing: &mut Timing, now: Moment) {
        if let Timing::Setup { accepted, phase } = timing {
            self.latencies.setup_head.record(accepted.before(now), now);
            *phase = Mark::of(now);
        }
    }

    /// The 101 of a connection is written.
    pub(super) fn upgraded(&mut self, timing: &mut Timing, now: Moment) {
        if let Timing::Setup { phase, .. } = timing {
            self.latencies.setup_upgrade.record(phase.before(now), now);
            *phase = Mark::of(now);
        }
    }

    /// The `start` of a connection is valid.
    pub(super) fn started(&mut self, timing: &mut Timing, now: Moment) {
        if let Timing::Setup { accepted, phase } = *timing {
            self.latencies.setup_start.record(phase.before(now), now);
            self.latencies.setup.record(accepted.before(now), now);
            let (none, never) = (AckCount::ZERO, Mark::default());
            *timing = Timing::Call { owed_since: never, owed: none, sending_since: never, sending: none };
        }
    }

    /// A send that carries all acks a connection was owed is queued.
    pub(super) fn acks_queued(&mut self, timing: &mut Timing) {
        if let Timing::Call { owed_since, owed, sending_since, sending } = timing
            && *owed != AckCount::ZERO
        {
            self.acks.add(*owed_since, owed.get());
            (*sending_since, *sending) = (*owed_since, *owed);
            *owed = AckCount::ZERO;
        }
    }

    /// A send is over; the socket has taken it as a whole, or never will.
    pub(super) fn send_done(&mut self, timing: &mut Timing, now: Moment, is_sent: bool) {
        if let Timing::Call { sending_since, sending, .. } = timing {
            if is_sent && *sending != AckCount::ZERO {
                self.latencies.ack_sent.record_n(sending_since.before(now), now, sending.get());
            }
            *sending = AckCount::ZERO;
        }
    }

    /// A write or sync is queued.
    pub(super) fn operation_queued(&mut self, kind: OpKind) {
        *self.operation(kind).0 = FileOperation::Queued;
    }

    /// A write or sync has completed. One that failed took no time that means anything.
    pub(super) fn operation_done(&mut self, kind: OpKind, now: Moment, is_good: bool) {
        let (operation, latency) = self.operation(kind);
        if let FileOperation::Submitted(at) = std::mem::take(operation)
            && is_good
        {
            latency.record(at, now);
        }
    }

    fn operation(&mut self, kind: OpKind) -> (&mut FileOperation, &mut Latency) {
        match kind {
            OpKind::Sync => (&mut self.sync, &mut self.latencies.journal_sync),
            _ => (&mut self.write, &mut self.latencies.journal_write),
        }
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Frames may have come into the frame ring: if so, it is time to look at the clock.
    pub(super) fn time_arrivals(&mut self) {
        let frames = self.counters.frames.read();
        if frames > self.stopwatch.frames {
            let at = self.io.now().moment;
            self.stopwatch.frames_arrived(frames, at, self.ring.head());
        }
    }

    /// Acks of a connection are promised that were asked for in a turn at `since`.
    pub(super) fn time_acks(&mut self, id: ConnectionId, since: Moment, count: u64) {
        if let Some(connection) = self.connections.get(id) {
            connection.timing.owe(since, count);
        }
    }

    /// A call has started if there were fewer before.
    pub(super) fn time_start(&mut self, id: ConnectionId, started_before: u64) {
        if self.counters.calls_started.read() > started_before
            && let Some(Connection { timing, .. }) = self.connections.get(id)
        {
            let now = self.io.now().moment;
            self.stopwatch.started(timing, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Moment = Moment::from_nanos(10_000_000_123_456_789);

    #[test]
    fn a_mark_is_the_moment_it_was_made_of_to_the_microsecond() {
        for elapsed in [0, 1, 999, 60_000_000, 4_000_000_000] {
            let now = NOW + Duration::from_micros(elapsed);
            assert_eq!(now.since(Mark::of(NOW).before(now)), Duration::from_micros(elapsed));
        }
        // Shortly after boot there may be no such moment.
        assert_eq!(Mark::of(NOW).before(Moment::from_nanos(5)), Moment::ZERO);
        assert_eq!(size_of::<Timing>() + size_of::<Mark>(), 16, "a connection has no room for more");
    }

    #[test]
    fn groups_are_bounded_and_lose_nothing() {
        let mut stopwatch = Stopwatch::new(AckLevel::Durable);
        let capacity = stopwatch.late.0.capacity();
        for count in 0..3 * GROUPS_MAX as u64 {
            stopwatch.late.add(Mark::of(NOW + Duration::from_micros(count)), 2);
        }
        assert_eq!(stopwatch.late.0.capacity(), capacity);
        let until = NOW + Duration::from_millis(10);
        assert_eq!(stopwatch.late.record(until, &mut stopwatch.latencies.ack), 6 * GROUPS_MAX as u64);
        assert_eq!(stopwatch.latencies.ack.histogram().len(), 6 * GROUPS_MAX as u64);
        assert!(stopwatch.late.0.is_empty());
    }

    #[test]
    fn arrivals_are_bounded_and_lose_nothing() {
        let mut stopwatch = Stopwatch::new(AckLevel::Written);
        let capacity = stopwatch.arrivals.capacity();
        let count = 3 * ARRIVALS_MAX as u64;
        for frame in 1..=count {
            stopwatch.frames_arrived(frame, NOW + Duration::from_micros(frame), RingPosition(frame));
        }
        assert_eq!((stopwatch.arrivals.len(), stopwatch.arrivals.capacity()), (ARRIVALS_MAX, capacity));
        let now = NOW + Duration::from_micros(count);
        stopwatch.promised(RingPosition(count - 1), now);
        let histogram = |stopwatch: &Stopwatch| stopwatch.latencies.frame_written.histogram().len();
        assert_eq!(histogram(&stopwatch), ARRIVALS_MAX as u64 - 1, "those taken together wait for the last");
        stopwatch.promised(RingPosition(count), now);
        assert_eq!(histogram(&stopwatch), count);
        // The joined ones count from the first of them, and share their bucket with fifteen others.
        let first = ARRIVALS_MAX as u64;
        let found = stopwatch.latencies.frame_written.histogram().count_at(count - first);
        assert_eq!(found, count - first + 1 + 15);
    }
}
