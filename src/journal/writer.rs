//! The journal's writer of one shard. It decides which bytes go where, when a sync is due, and what
//! to do when the disk fails. It performs no IO, reads no clock, and has no thread: the shard polls
//! it.
//!
//! ```text
//!  FrameRing ─sealed─► waiting ──write──► written ──sync──► durable ──► room in the ring,
//!                         ▲                  │                         promises kept
//!                         └── fence ◄── a write or sync failed: everything not durable
//!                                       is written again, to another segment
//! ```
//! Call contract: call [`Writer::handle_turn`] once a turn, then [`Writer::poll_operation`] until
//! it gives nothing. Perform each operation as it is, and answer it by [`Writer::handle_written`]
//! or [`Writer::handle_synced`], in any order.
//!
//! In calm one write is under way at a time, which costs least. A disk with a backlog can do more.
//! So in a backlog one write is allowed for each [`Backlog::write_size_max`] of waiting bytes, up
//! to [`Backlog::write_count_max`]. Writes complete in any order. A batch counts as written once
//! everything before it in the segment is written too. A crash may leave holes, but no batch after
//! a hole says that the hole was durable (see [`crate::format`]).
//!
//! One sync is under way at a time, and writes continue meanwhile. A sync covers everything that
//! was written when the sync was given out.
//!
//! The last batch of a segment is durable before the header of the next segment is written. So the
//! end that a header states for the segment before is final. Space in the ring is released only
//! once it is durable. Until then a batch can be written again anywhere, with a new header.

#![forbid(unsafe_code)]

use crate::ack_level::AckLevel;
use crate::clock::{JournalClock, Moment, Now};
use crate::constants::{BATCH_SIZE_QUEUED, BLOCK_SIZE};
use crate::format::{Lsn, SegmentUuid};
use crate::io::{FileHandle, FileWrite, WriteSource};
use crate::journal::frame_ring::{FrameRing, RingPosition, SealedBatch};
use crate::journal::settings::JournalSettings;
use pace::{Pace, Progress};
use rustix::io::Errno;
use segment::{OpenSegment, Stage};
use std::collections::VecDeque;
use std::time::Duration;
use writes::{Source, Writes, Writing};

mod opening;
pub(crate) mod pace;
mod segment;
#[cfg(test)]
mod tests;
mod writes;

pub use pace::Backlog;
pub use segment::{PreparedSegment, SegmentRequest};
pub use writes::{WRITE_SLOTS, WRITES_MAX, WriteSlot};

/// Pause after the second failure in a row, before the next segment is begun. It doubles with each
/// further failure, at most [`FENCE_PAUSE_DOUBLINGS`] times.
const FENCE_PAUSE: Duration = Duration::from_secs(1);
const FENCE_PAUSE_DOUBLINGS: u32 = 6;

/// What a writer needs at its start.
#[derive(Clone, Debug)]
pub struct WriterSettings {
    /// What an ACK promises.
    pub level: AckLevel,
    /// The journal's settings.
    pub journal: JournalSettings,
    /// How much the disk gets at once.
    pub backlog: Backlog,
    /// The shard's number in segment headers.
    pub shard: u16,
    /// The run's number in segment headers.
    pub run: u64,
    /// For the time in segment headers.
    pub clock: JournalClock,
}

/// The next operation of the shard, which it answers once it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Write: from the frame ring, or from the scratch memory that [`Writer::poll_operation`] was
    /// lent.
    Write {
        /// Goes into the answer.
        slot: WriteSlot,
        /// The write.
        write: FileWrite,
    },
    /// Sync the file.
    Sync {
        /// The file.
        file: FileHandle,
    },
}

/// Counts of a writer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriterStats {
    /// Bytes written, with headers, pads and repeated writes.
    pub(crate) bytes: u64,
    /// Writes completed.
    pub(crate) writes: u64,
    /// Syncs that succeeded.
    pub(crate) syncs: u64,
    /// Segments begun.
    pub(crate) segments: u64,
    /// Segments abandoned after a failed write or sync.
    pub(crate) fences: u64,
    /// Position up to which everything is durable; 0 if nothing is.
    pub(crate) durable_lsn: Lsn,
}

/// The sync under way: how many batches it covers, and up to which byte of the segment.
#[derive(Clone, Copy, Debug)]
struct Syncing {
    batch_count: usize,
    end: u64,
}

/// The writer of one shard's journal.
#[derive(Debug)]
pub(crate) struct Writer {
    settings: WriterSettings,
    /// How long a segment takes audio. `None`: until it is full.
    segment_age_max: Option<Duration>,
    pace: Pace,
    /// Sealed batches that are not durable, in order: first those written to the segment, then
    /// those being written, then the rest.
    batches: VecDeque<SealedBatch>,
    /// The number of written batches at the front, without a hole.
    written_count: usize,
    writes: Writes,
    syncing: Option<Syncing>,
    segment: Option<OpenSegment>,
    next: Option<PreparedSegment>,
    /// A segment has been requested and has not arrived.
    is_asking: bool,
    /// The last answer was that there is no room for a segment.
    has_no_room: bool,
    /// The segment before this one, and its end.
    predecessor: (SegmentUuid, Lsn),
    /// Start of the next segment.
    end: Lsn,
    /// Segments abandoned since the last successful sync.
    fences_in_row: u32,
    /// The earliest moment to begin a segment.
    open_after: Moment,
    requests: VecDeque<SegmentRequest>,
    /// When the disk last made progress or had nothing to do.
    progressed_at: Moment,
    /// Everything before this is to be in sealed segments.
    seal_to: Option<RingPosition>,
    is_finishing: bool,
    wake_at: Option<Moment>,
    stats: WriterStats,
}

impl Writer {
    /// A writer that has written nothing, for a ring of `ring_size` bytes.
    pub(crate) fn new(settings: WriterSettings, ring_size: usize, now: Moment) -> Self {
        Writer {
            pace: Pace::new(settings.backlog, ring_size),
            segment_age_max: settings.journal.segment_age_max(),
            settings,
            batches: VecDeque::with_capacity(ring_size / BATCH_SIZE_QUEUED),
            written_count: 0,
            writes: Writes::new(),
            syncing: None,
            segment: None,
            next: None,
            is_asking: false,
            has_no_room: false,
            predecessor: (SegmentUuid::default(), Lsn(0)),
            end: Lsn(0),
            fences_in_row: 0,
            open_after: now,
            requests: VecDeque::new(),
            progressed_at: now,
            seal_to: None,
            is_finishing: false,
            wake_at: None,
            stats: WriterStats::default(),
        }
    }

    /// Tells the writer about a promise. It waits until everything before `position` is written, or
    /// durable, according to the ACK level.
    pub(crate) fn handle_promise(&mut self, position: RingPosition) {
        self.pace.asked = self.pace.asked.max(position);
    }

    /// Takes a segment that was requested.
    pub(crate) fn handle_segment(&mut self, segment: PreparedSegment) {
        debug_assert!(self.next.is_none(), "one segment is asked for at a time");
        self.is_asking = false;
        self.has_no_room = false;
        self.next = Some(segment);
    }

    /// Tells the writer that the disk has no room for the requested segment. The segment arrives
    /// once there is room.
    pub(crate) fn handle_no_room(&mut self) {
        self.has_no_room = true;
    }

    /// Closes segments at this age from now on, the open one included.
    pub(crate) fn handle_segment_age(&mut self, age_max: Option<Duration>) {
        self.segment_age_max = age_max;
    }

    /// Asks for everything before `position` to be in retired segments. The answer is
    /// [`SegmentRequest::Sealed`].
    pub(crate) fn handle_seal(&mut self, position: RingPosition) {
        self.handle_promise(position);
        self.seal_to = self.seal_to.max(Some(position));
    }

    /// From now on everything is written and synced at once, because nothing more comes.
    pub(crate) fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Whether everything that the ring ever took is durable, and no operation is under way.
    pub(crate) fn is_finished(&self, ring: &FrameRing) -> bool {
        self.batches.is_empty() && self.is_quiet() && ring.durable() == ring.head()
    }

    /// The shard stood still for `gap`. That time does not count as time without progress.
    pub(crate) fn handle_standstill(&mut self, now: Moment, gap: Duration) {
        self.progressed_at = (self.progressed_at + gap).min(now);
    }

    /// Call it once a turn, before [`Writer::poll_operation`]. Seals the open batch if that is due.
    pub(crate) fn handle_turn(&mut self, now: Now, ring: &mut FrameRing) {
        self.take_sealed(ring);
        let progress = Progress {
            oldest: self.batches.front().map(|batch| batch.opened_at),
            written: self.written_end(ring),
            is_syncing: self.syncing.is_some(),
            is_finishing: self.is_finishing,
        };
        let wake_at = self.pace.judge(now.moment, &self.settings, progress, ring);
        self.take_sealed(ring);
        if self.next.is_none() && !self.is_asking && !(self.is_finishing && self.batches.is_empty())
        {
            self.is_asking = true;
            self.requests.push_back(SegmentRequest::Prepare);
        }
        if self.is_idle() {
            self.progressed_at = now.moment;
        }
        let ages_at = self.close_segment(now.moment, ring);
        let stalled_at = self.progressed_at + self.settings.journal.stall_timeout;
        let stall = (!self.is_idle() && stalled_at > now.moment).then_some(stalled_at);
        let open =
            (self.segment.is_none() && self.open_after > now.moment).then_some(self.open_after);
        self.wake_at = [wake_at, stall, open, ages_at].into_iter().flatten().min();
    }

    /// Closes the segment if it is old enough or must be sealed. Returns when it will be.
    fn close_segment(&mut self, now: Moment, ring: &FrameRing) -> Option<Moment> {
        let is_sealing = self.seal_to.is_some_and(|position| ring.durable() >= position);
        let ages_at = self.segment.as_mut().and_then(|segment| {
            let ages_at = self.segment_age_max.map(|age_max| segment.opened_at + age_max);
            if is_sealing || ages_at.is_some_and(|at| at <= now) {
                segment.close();
            }
            ages_at.filter(|at| *at > now && segment.has_batch)
        });
        let is_open = self.segment.as_ref().is_some_and(|segment| segment.has_batch);
        if is_sealing && !is_open {
            self.seal_to = None;
            self.requests.push_back(SegmentRequest::Sealed);
        }
        ages_at
    }

    /// When to call [`Writer::handle_turn`] next if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.wake_at
    }

    /// The next request to the part that prepares segments.
    pub(crate) fn poll_request(&mut self) -> Option<SegmentRequest> {
        self.requests.pop_front()
    }

    /// Takes back a request that could not be passed on. It is given out again.
    pub(crate) fn put_back(&mut self, request: SegmentRequest) {
        self.requests.push_front(request);
    }

    /// How long the disk has made no progress although it has work to do.
    pub(crate) fn stalled_for(&self, now: Moment) -> Duration {
        now.since(self.progressed_at)
    }

    /// Whether the journal can take no more: no room for a segment, or no progress for too long.
    pub(crate) fn is_in_trouble(&self, now: Moment) -> bool {
        let needs_segment =
            self.segment.as_ref().is_none_or(|segment| segment.is_fenced || self.is_full(segment));
        let lacks_segment = self.has_no_room && self.next.is_none() && needs_segment;
        lacks_segment || self.stalled_for(now) >= self.settings.journal.stall_timeout
    }

    /// Counts so far.
    pub(crate) fn stats(&self) -> WriterStats {
        self.stats
    }

    /// The next operation, if there is one. Does not touch `scratch` while a write from it is under
    /// way.
    pub(crate) fn poll_operation(
        &mut self,
        now: Now,
        ring: &mut FrameRing,
        scratch: &mut [u8],
    ) -> Option<Operation> {
        self.take_sealed(ring);
        self.leave_segment();
        self.next_write(now, ring, scratch).or_else(|| self.next_sync())
    }

    fn take_sealed(&mut self, ring: &mut FrameRing) {
        while let Some(batch) = ring.poll_sealed() {
            self.batches.push_back(batch);
        }
    }

    fn is_quiet(&self) -> bool {
        self.writes.is_empty() && self.syncing.is_none()
    }

    /// Everything sealed before this position is in the segment. After a fence
    /// [`FrameRing::written`] is further on.
    fn written_end(&self, ring: &FrameRing) -> RingPosition {
        self.batches.get(self.written_count).map_or(ring.sealed(), |batch| batch.start)
    }

    /// Whether nothing waits for the disk. Written batches whose sync is not due yet do not count.
    fn is_idle(&self) -> bool {
        self.is_quiet() && self.written_count == self.batches.len() && self.pace.cycle.is_none()
    }

    /// The first batch without a write.
    fn first_waiting(&self) -> Option<&SealedBatch> {
        self.batches.get(self.written_count + self.writes.batch_count())
    }

    /// Whether the segment has no room for the next batch.
    fn is_full(&self, segment: &OpenSegment) -> bool {
        self.first_waiting().is_some_and(|batch| !segment.takes(batch.size))
    }

    /// Ends the segment if it has failed, or is full and durable, once no operation on it is under
    /// way.
    fn leave_segment(&mut self) {
        let Some(segment) = &self.segment else { return };
        let is_over = segment.is_fenced
            || (self.written_count == 0 && (self.is_full(segment) || segment.is_closing))
            || self.is_over(segment);
        if !is_over || !self.is_quiet() {
            return;
        }
        // The batches of a fenced segment all wait again: they are still in the ring.
        self.written_count = 0;
        // Skip a segment with no durable data: after a crash its start cannot be known.
        if segment.durable > 0 {
            self.predecessor = (segment.prepared.uuid, segment.durable_end());
        }
        self.end = segment.lsn();
        let Some(OpenSegment { prepared, durable: size, is_fenced, .. }) = self.segment.take()
        else {
            return;
        };
        let PreparedSegment { id, headers, .. } = prepared;
        self.requests.push_back(SegmentRequest::Retire { id, size, is_fenced, headers });
        if self.seal_to.is_some() {
            // The next turn answers.
            self.wake_at = Some(Moment::ZERO);
        }
    }

    /// Whether the segment will take nothing more.
    fn is_over(&self, segment: &OpenSegment) -> bool {
        self.is_finishing && self.batches.is_empty() && segment.durable == segment.offset
    }

    fn next_write(
        &mut self,
        now: Now,
        ring: &mut FrameRing,
        scratch: &mut [u8],
    ) -> Option<Operation> {
        if self.segment.as_ref().is_some_and(|segment| segment.is_fenced) {
            return None;
        }
        if !self.writes.has_next()
            && self.may_go_deeper(ring)
            && let Some(writing) = self.plan_write(now, ring, scratch)
        {
            self.writes.push(writing);
        }
        let file = self.segment.as_ref()?.prepared.file;
        let (slot, Writing { source, start, size, offset, .. }) = self.writes.give_next()?;
        let source = match source {
            Source::Opening => WriteSource::Scratch,
            Source::Batches(_) => WriteSource::FrameRing,
        };
        Some(Operation::Write { slot, write: FileWrite { file, source, start, size, offset } })
    }

    /// Whether one more write may be under way. The first always may, the others if enough bytes
    /// wait.
    fn may_go_deeper(&self, ring: &FrameRing) -> bool {
        let Backlog { write_size_max, write_count_max, write_count_syncing_max, .. } =
            self.settings.backlog;
        let write_count_max =
            if self.syncing.is_some() { write_count_syncing_max } else { write_count_max };
        let unwritten = (ring.sealed().0 - self.written_end(ring).0) as usize;
        let depth = unwritten.div_ceil(write_size_max).clamp(1, write_count_max);
        self.writes.under_way_count() < depth && self.writes.has_slot()
    }

    fn plan_write(
        &mut self,
        now: Now,
        ring: &mut FrameRing,
        scratch: &mut [u8],
    ) -> Option<Writing> {
        let first = *self.first_waiting()?;
        if self.segment.is_none() {
            if now.moment < self.open_after {
                return None;
            }
            let at = (now.moment, self.settings.clock.at(now.moment));
            self.segment = Some(OpenSegment::new(self.next.take()?, self.end, at));
            self.stats.segments += 1;
        }
        let waiting = self.written_count + self.writes.batch_count();
        let segment = self.segment.as_mut()?;
        if !segment.takes(first.size) {
            return None;
        }
        let (source, start, size) = match segment.stage {
            Stage::Batches => {
                let size_max = self.settings.backlog.write_size_max;
                let (count, size) =
                    segment.stamp_run(self.batches.range(waiting..), size_max, ring);
                segment.has_batch = true;
                (Source::Batches(count), ring.batch_offset(&first), size)
            }
            // The next call records need the scratch memory, which is still being written.
            Stage::Calls(_) if self.writes.has_opening() => return None,
            Stage::Header | Stage::Calls(_) => {
                let place = (self.settings.shard, self.settings.run);
                let (stage, size) = opening::open(
                    segment,
                    place,
                    self.predecessor,
                    (ring, first.start),
                    scratch,
                    now,
                );
                segment.stage = stage;
                if size == 0 {
                    return self.plan_write(now, ring, scratch);
                }
                (Source::Opening, 0, size)
            }
        };
        let offset = segment.offset;
        segment.offset += size as u64;
        Some(Writing { source, start, size, offset, is_under_way: false })
    }

    fn next_sync(&mut self) -> Option<Operation> {
        let segment = self.segment.as_ref()?;
        if self.syncing.is_some() || segment.is_fenced || self.written_count == 0 {
            return None;
        }
        // The last batch of the cycle has been written, or cannot be written before this segment
        // ends.
        let reached =
            |target| self.batches.get(self.written_count).is_none_or(|batch| batch.start >= target);
        let is_due = self.pace.cycle.is_some_and(reached)
            || (self.writes.is_empty() && (self.is_full(segment) || segment.is_closing));
        if !is_due {
            return None;
        }
        self.pace.cycle = self.pace.cycle.filter(|target| !reached(*target));
        self.syncing = Some(Syncing { batch_count: self.written_count, end: segment.written });
        Some(Operation::Sync { file: segment.prepared.file })
    }

    /// A write has ended. `result` is the number of bytes or an error.
    pub(crate) fn handle_written(
        &mut self,
        now: Now,
        slot: WriteSlot,
        result: Result<u32, Errno>,
        ring: &mut FrameRing,
    ) {
        let Some(segment) = self.segment.as_mut() else { return };
        let Some(writing) = self.writes.take_back(slot) else { return };
        if segment.is_fenced {
            return self.writes.abandon();
        }
        let size = match result {
            Ok(size) => size as usize,
            // The write is given out again as it is.
            Err(Errno::INTR | Errno::AGAIN) => return,
            Err(_) => return self.fence(now.moment),
        };
        if size < writing.size {
            // O_DIRECT can continue only at a block. The part of the last block is written again.
            let taken = size / BLOCK_SIZE * BLOCK_SIZE;
            if taken == 0 {
                return self.fence(now.moment);
            }
            writing.take(taken);
            self.stats.bytes += taken as u64;
            return;
        }
        self.stats.bytes += writing.size as u64;
        self.stats.writes += 1;
        writing.take(writing.size);
        if self.fences_in_row == 0 {
            self.progressed_at = now.moment;
        }
        while let Some(done) = self.writes.pop_done() {
            segment.written = done.offset;
            if let Source::Batches(count) = done.source {
                self.written_count += count;
            }
        }
        // Batches written again after a fence had been written before.
        if let Some(last) =
            self.written_count.checked_sub(1).and_then(|last| self.batches.get(last))
            && last.end() > ring.written()
        {
            ring.set_written(last.end());
        }
    }

    /// The sync under way has ended.
    pub(crate) fn handle_synced(
        &mut self,
        now: Now,
        result: Result<u32, Errno>,
        ring: &mut FrameRing,
    ) {
        let (Some(syncing), Some(segment)) = (self.syncing.take(), self.segment.as_mut()) else {
            return;
        };
        if result.is_err() {
            // Fence after any error: the kernel may have dropped data that it could not write, and
            // does not report that twice.
            return self.fence(now.moment);
        }
        self.fences_in_row = 0;
        segment.durable = syncing.end;
        self.stats.durable_lsn = segment.durable_end();
        self.written_count -= syncing.batch_count;
        let headers = &mut segment.prepared.headers;
        let durable = self
            .batches
            .drain(..syncing.batch_count)
            .inspect(|batch| ring.hand_over_headers(batch, headers))
            .last();
        headers.publish();
        if let Some(batch) = durable {
            ring.set_durable(batch.end());
        }
        self.stats.syncs += 1;
        self.progressed_at = now.moment;
    }

    /// Abandons the segment. Everything in it that is not durable will be written to another one.
    /// The file is never synced again.
    fn fence(&mut self, now: Moment) {
        let Some(segment) = self.segment.as_mut().filter(|segment| !segment.is_fenced) else {
            return;
        };
        segment.is_fenced = true;
        self.writes.abandon();
        self.pace.abandon();
        self.stats.fences += 1;
        // The first failure may be the fault of that file. After that, do not fill a failing disk
        // with segments.
        let pause = match self.fences_in_row {
            0 => Duration::ZERO,
            row => FENCE_PAUSE * (1 << (row - 1).min(FENCE_PAUSE_DOUBLINGS)),
        };
        self.fences_in_row += 1;
        self.open_after = now + pause;
    }
}
