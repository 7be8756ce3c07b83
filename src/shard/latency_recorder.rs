//! How long a shard's things take. The shard says when something begins and ends, and this part
//! records the time between.
//!
//! ```text
//!   submit returns                                                    submit
//!   ──┬──── reap ────┬── judge ── resume ──┬── journal ── acknowledge ──┬──
//!     begin_turn     handle_arrivals       handle_arrivals              end_turn
//! ```
//! It hears of a frame at three points:
//! - when it is complete, by [`LatencyRecorder::handle_frame`], and once for all frames since then,
//!   by [`LatencyRecorder::handle_arrivals`];
//! - when it may be acked, by [`LatencyRecorder::handle_watermark`];
//! - when its ack goes out and has gone, by [`LatencyRecorder::handle_acks_queued`] and
//!   [`LatencyRecorder::handle_send_end`].
//!
//! The shard reads the clock for a turn, for a request that is judged and for a call that starts,
//! never for a frame. What is kept here is bounded and never allocates. At a bound the newest
//! entries are taken together, and count from the earlier beginning.
#![forbid(unsafe_code)]

use super::timing::{AckCount, Micros32, Timing};
use crate::ack_level::AckLevel;
use crate::clock::Moment;
use crate::io::{OpKind, UserData};
use crate::journal::frame_ring::RingPosition;
use crate::journal::writer::WRITE_SLOTS;
use crate::latency::{Latencies, Latency, LatencyRequest};
use std::collections::VecDeque;

/// Turns whose frames may wait for their promise one by one. At the loop's pace of 2,000 turns a
/// second these are half a second, 25 times the distance of syncs.
const ARRIVALS_MAX: usize = 1024;

/// Groups of one turn: earlier turns in which its frames and acks began.
const GROUPS_MAX: usize = 1024;

/// A number of things that began together.
#[derive(Clone, Copy, Debug)]
struct Group {
    since: Micros32,
    count: u64,
}

/// Things of one turn, by their beginning.
#[derive(Debug)]
struct Groups(Vec<Group>);

impl Groups {
    fn new() -> Self {
        Groups(Vec::with_capacity(GROUPS_MAX))
    }

    /// Things with the same beginning mostly come one after the other. Where there are too many
    /// groups, the last one is joined.
    fn add(&mut self, since: Micros32, count: u64) {
        let is_full = self.0.len() == GROUPS_MAX;
        match self.0.last_mut() {
            Some(last) if last.since == since || is_full => last.count += count,
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
    /// Where the last of them ends in the frame ring.
    end: RingPosition,
    at: Moment,
    frames: u64,
}

/// A file operation. One write of a slot and one sync is under way at a time.
#[derive(Clone, Copy, Debug, Default)]
enum FileOperation {
    #[default]
    None,
    Queued,
    Submitted(Moment),
}

/// Records how long things take.
#[derive(Debug)]
pub(super) struct LatencyRecorder {
    latencies: Box<Latencies>,
    level: AckLevel,
    turn_began: Moment,
    /// The same, as connections remember it.
    turn_mark: Micros32,
    /// Frames that have become complete since [`LatencyRecorder::handle_arrivals`].
    frames: u64,
    /// Those of them whose first byte came in an earlier turn.
    late: Groups,
    /// In order of position.
    arrivals: VecDeque<Arrival>,
    /// Acks that go out with the next submit.
    acks: Groups,
    /// By slot.
    writes: [FileOperation; WRITE_SLOTS],
    sync: FileOperation,
}

impl LatencyRecorder {
    /// For a shard that promises `level`.
    pub(super) fn new(level: AckLevel) -> Self {
        LatencyRecorder {
            latencies: Box::default(),
            level,
            turn_began: Moment::ZERO,
            turn_mark: Micros32::default(),
            frames: 0,
            late: Groups::new(),
            arrivals: VecDeque::with_capacity(ARRIVALS_MAX),
            acks: Groups::new(),
            writes: [FileOperation::None; WRITE_SLOTS],
            sync: FileOperation::None,
        }
    }

    /// Gives out what has been recorded so far.
    pub(super) fn handle_request(&mut self, request: LatencyRequest) {
        request.answer(&mut self.latencies);
    }

    /// A submit has returned.
    pub(super) fn begin_turn(&mut self, now: Moment) {
        (self.turn_began, self.turn_mark) = (now, Micros32::of(now));
    }

    /// The turn's work is done: a submit is next.
    pub(super) fn end_turn(&mut self, now: Moment) {
        self.latencies.turn.record(self.turn_began, now);
        self.acks.record(now, &mut self.latencies.ack);
        for operation in self.writes.iter_mut().chain([&mut self.sync]) {
            if let FileOperation::Queued = operation {
                *operation = FileOperation::Submitted(now);
            }
        }
    }

    /// A frame is complete in the frame ring. Its first byte was reaped at `since`, in this turn or
    /// an earlier one.
    #[inline]
    pub(super) fn handle_frame(&mut self, since: Micros32) {
        self.frames += 1;
        if since != self.turn_mark {
            self.late.add(since, 1);
        }
    }

    /// Whether frames have become complete since [`LatencyRecorder::handle_arrivals`].
    pub(super) fn has_frames(&self) -> bool {
        self.frames > 0
    }

    /// The ring reaches to `end` now, with all complete frames.
    pub(super) fn handle_arrivals(&mut self, at: Moment, end: RingPosition) {
        let count = std::mem::take(&mut self.frames);
        let late = self.late.record(at, &mut self.latencies.frame_ring);
        if count > late {
            self.latencies.frame_ring.record_n(self.turn_began, at, count - late);
        }
        if self.arrivals.len() < ARRIVALS_MAX {
            self.arrivals.push_back(Arrival { end, at, frames: count });
        } else if let Some(newest) = self.arrivals.back_mut() {
            newest.end = end;
            newest.frames += count;
        }
    }

    /// The promise holds for everything before `watermark`.
    pub(super) fn handle_watermark(&mut self, watermark: RingPosition, now: Moment) {
        let latencies = &mut *self.latencies;
        let latency = match self.level {
            AckLevel::Received => &mut latencies.frame_received,
            AckLevel::Written => &mut latencies.frame_written,
            AckLevel::Durable | AckLevel::Replicated => &mut latencies.frame_durable,
        };
        while let Some(arrival) = self.arrivals.pop_front_if(|arrival| arrival.end <= watermark) {
            latency.record_n(arrival.at, now, arrival.frames);
        }
    }

    /// The request head of a connection is complete.
    pub(super) fn handle_head(&mut self, timing: &mut Timing, now: Moment) {
        if let Timing::Setup { accepted, phase } = timing {
            self.latencies.setup_head.record(accepted.before(now), now);
            *phase = Micros32::of(now);
        }
    }

    /// The 101 of a connection is written.
    pub(super) fn handle_upgrade(&mut self, timing: &mut Timing, now: Moment) {
        if let Timing::Setup { phase, .. } = timing {
            self.latencies.setup_upgrade.record(phase.before(now), now);
            *phase = Micros32::of(now);
        }
    }

    /// The `start` of a connection is valid.
    pub(super) fn handle_start(&mut self, timing: &mut Timing, now: Moment) {
        if let Timing::Setup { accepted, phase } = *timing {
            self.latencies.setup_start.record(phase.before(now), now);
            self.latencies.setup.record(accepted.before(now), now);
            let (none, never) = (AckCount::ZERO, Micros32::default());
            *timing =
                Timing::Call { owed_since: never, owed: none, sending_since: never, sending: none };
        }
    }

    /// A send is queued that carries all acks the connection was owed.
    pub(super) fn handle_acks_queued(&mut self, timing: &mut Timing) {
        if let Timing::Call { owed_since, owed, sending_since, sending } = timing
            && *owed != AckCount::ZERO
        {
            self.acks.add(*owed_since, owed.get());
            (*sending_since, *sending) = (*owed_since, *owed);
            *owed = AckCount::ZERO;
        }
    }

    /// The connection has nothing to send. If it was owed acks, the previous send carried the last
    /// of them, and had no room left to find that out.
    #[inline]
    pub(super) fn handle_no_output(&mut self, timing: &mut Timing, now: Moment) {
        if matches!(timing, Timing::Call { owed, .. } if *owed != AckCount::ZERO) {
            self.handle_acks_queued(timing);
            self.handle_send_end(timing, now, true);
        }
    }

    /// A send has ended: the socket has taken all of it (`is_sent`), or never will.
    pub(super) fn handle_send_end(&mut self, timing: &mut Timing, now: Moment, is_sent: bool) {
        if let Timing::Call { sending_since, sending, .. } = timing {
            if is_sent && *sending != AckCount::ZERO {
                let since = sending_since.before(now);
                self.latencies.ack_sent.record_n(since, now, sending.get());
            }
            *sending = AckCount::ZERO;
        }
    }

    /// A write or sync is queued.
    pub(super) fn handle_operation_queued(&mut self, user_data: UserData) {
        *self.operation(user_data).0 = FileOperation::Queued;
    }

    /// A write or sync has completed. The time of one that failed means nothing.
    pub(super) fn handle_operation_end(&mut self, user_data: UserData, now: Moment, is_good: bool) {
        let (operation, latency) = self.operation(user_data);
        if let FileOperation::Submitted(at) = std::mem::take(operation)
            && is_good
        {
            latency.record(at, now);
        }
    }

    fn operation(
        &mut self,
        UserData { kind, index, .. }: UserData,
    ) -> (&mut FileOperation, &mut Latency) {
        match kind {
            OpKind::Sync => (&mut self.sync, &mut self.latencies.journal_sync),
            _ => (&mut self.writes[index as usize], &mut self.latencies.journal_write),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Moment = Moment::from_nanos(10_000_000_123_456_789);

    #[test]
    fn groups_are_bounded_and_lose_nothing() {
        let mut recorder = LatencyRecorder::new(AckLevel::Durable);
        let capacity = recorder.late.0.capacity();
        for count in 0..3 * GROUPS_MAX as u64 {
            recorder.late.add(Micros32::of(NOW + Duration::from_micros(count)), 2);
        }
        assert_eq!(recorder.late.0.capacity(), capacity);
        let until = NOW + Duration::from_millis(10);
        let recorded = recorder.late.record(until, &mut recorder.latencies.ack);
        assert_eq!(recorded, 6 * GROUPS_MAX as u64);
        assert_eq!(recorder.latencies.ack.histogram().len(), 6 * GROUPS_MAX as u64);
        assert!(recorder.late.0.is_empty());
    }

    #[test]
    fn arrivals_are_bounded_and_lose_nothing() {
        let mut recorder = LatencyRecorder::new(AckLevel::Written);
        let capacity = recorder.arrivals.capacity();
        let count = 3 * ARRIVALS_MAX as u64;
        for frame in 1..=count {
            let at = NOW + Duration::from_micros(frame);
            recorder.begin_turn(at);
            recorder.handle_frame(Micros32::of(at));
            assert!(recorder.has_frames());
            recorder.handle_arrivals(at, RingPosition(frame));
            assert!(!recorder.has_frames());
        }
        assert_eq!(
            (recorder.arrivals.len(), recorder.arrivals.capacity()),
            (ARRIVALS_MAX, capacity)
        );
        let now = NOW + Duration::from_micros(count);
        recorder.handle_watermark(RingPosition(count - 1), now);
        let recorded =
            |recorder: &LatencyRecorder| recorder.latencies.frame_written.histogram().len();
        assert_eq!(
            recorded(&recorder),
            ARRIVALS_MAX as u64 - 1,
            "those taken together wait for the last"
        );
        recorder.handle_watermark(RingPosition(count), now);
        assert_eq!(recorded(&recorder), count);
        // The joined ones count from the first of them, and share their bucket with fifteen others.
        let first = ARRIVALS_MAX as u64;
        let found = recorder.latencies.frame_written.histogram().count_at(count - first);
        assert_eq!(found, count - first + 1 + 15);
    }

    #[test]
    fn a_frame_that_began_in_an_earlier_turn_counts_from_there() {
        let mut recorder = LatencyRecorder::new(AckLevel::Received);
        let (earlier, at) = (NOW + Duration::from_millis(1), NOW + Duration::from_millis(5));
        recorder.begin_turn(at);
        recorder.handle_frame(Micros32::of(earlier));
        recorder.handle_frame(Micros32::of(at));
        recorder.handle_arrivals(at, RingPosition(2));
        let histogram = recorder.latencies.frame_ring.histogram();
        assert_eq!((histogram.len(), histogram.count_at(0), histogram.count_at(4_000)), (2, 1, 1));
    }
}
