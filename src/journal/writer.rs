//! The journal's writer of one shard: which bytes go where, when a sync is due, and what to do when the disk fails. A pull
//! machine: it performs no IO, reads no clock, and has no thread.
//!
//! ```text
//!  FrameRing ──sealed──► waiting ──write──► written ──sync──► durable ──► room in the ring, promises kept
//!                           ▲                  │
//!                           └── fence ◄── a write or sync failed: everything not durable again, into another segment
//! ```
//! Call contract: [`Writer::handle_turn`] once a turn, then [`Writer::poll_operation`] until it gives nothing; each operation
//! is performed as it is and answered by [`Writer::handle_written`] or [`Writer::handle_synced`]. There is one write and one
//! sync under way at a time; both may be. A sync covers what had been written when it was given out.
//!
//! A segment is finished, its last batch durable, before the header of the next is written: so a header's word on where the
//! segment before ended is final. Space in the ring is released only once it is durable; until then a batch can be written
//! again anywhere, with a new header.

#![forbid(unsafe_code)]

use crate::ack::AckLevel;
use crate::clock::{Moment, Now};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::frame_ring::{FrameRing, RingPosition, SealedBatch};
use crate::io::FileHandle;
use crate::journal::format::{Lsn, SegmentUuid};
use pace::{Pace, Progress};
use rustix::io::Errno;
use segment::{OpenSegment, Stage};
use std::collections::VecDeque;
use std::time::Duration;

mod opening;
pub mod pace;
mod segment;
#[cfg(test)]
mod tests;

pub use segment::{PreparedSegment, SegmentRequest};

/// Largest write, bytes: several batches that lie behind each other in ring and file go out as one.
pub const WRITE_SIZE_MAX: usize = 4 * BATCH_SIZE_MAX;

/// How long no segment is begun after the second failure in a row; it doubles with each, so many times.
const FENCE_PAUSE: Duration = Duration::from_secs(1);
const FENCE_PAUSE_DOUBLINGS: u32 = 6;

/// What a writer is made with.
#[derive(Clone, Debug)]
pub struct WriterSettings {
    /// What an ACK promises.
    pub level: AckLevel,
    /// `journal.sync_interval`: least time between two syncs.
    pub sync_interval: Duration,
    /// `journal.stall_timeout`: how long the disk may make no progress before calls are closed.
    pub stall_timeout: Duration,
    /// The shard, as segment headers carry it.
    pub shard: u16,
    /// The run, likewise.
    pub run: u64,
}

/// What the shard is to do next, and answer once it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write from the frame ring's memory.
    Write {
        /// To this file.
        file: FileHandle,
        /// Offset in the ring's memory, bytes.
        start: usize,
        /// Bytes.
        size: usize,
        /// Offset in the file, bytes.
        offset: u64,
    },
    /// Write from the scratch memory that [`Writer::poll_operation`] was lent.
    WriteScratch {
        /// To this file.
        file: FileHandle,
        /// Offset in the scratch memory, bytes.
        start: usize,
        /// Bytes.
        size: usize,
        /// Offset in the file, bytes.
        offset: u64,
    },
    /// Sync the file.
    Sync {
        /// This one.
        file: FileHandle,
    },
}

/// What a writer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterTally {
    /// Bytes written, headers, pads and everything written again included.
    pub bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments given up after a failed write or sync.
    pub fences: u64,
}

/// A write under way, or to be continued.
#[derive(Clone, Copy, Debug)]
struct Writing {
    /// What it writes.
    what: Written,
    /// Offset in its memory, bytes.
    start: usize,
    /// Bytes to go.
    size: usize,
    /// Offset in the file, bytes.
    offset: u64,
    /// Given out and not answered.
    is_under_way: bool,
}

#[derive(Clone, Copy, Debug)]
enum Written {
    /// What a segment starts with; the stage it is in afterwards.
    Opening(Stage),
    /// So many batches.
    Batches(usize),
}

/// A sync under way: how many batches it covers, and up to which byte of the segment.
#[derive(Clone, Copy, Debug)]
struct Syncing {
    batch_count: usize,
    end: u64,
}

/// The writer of one shard's journal.
#[derive(Debug)]
pub struct Writer {
    settings: WriterSettings,
    pace: Pace,
    /// Sealed and not durable, in order: first those written to the segment, then those being written, then the rest.
    batches: VecDeque<SealedBatch>,
    written_count: usize,
    writing: Option<Writing>,
    syncing: Option<Syncing>,
    segment: Option<OpenSegment>,
    next: Option<PreparedSegment>,
    /// A segment has been asked for and has not come.
    is_asking: bool,
    /// The last answer was that there is no room for one.
    has_no_room: bool,
    /// The segment before, and where it ended.
    predecessor: (SegmentUuid, Lsn),
    /// Where the next segment starts.
    end: Lsn,
    /// Segments given up since the last sync that succeeded.
    fences_in_row: u32,
    /// No segment is begun before.
    open_after: Moment,
    requests: VecDeque<SegmentRequest>,
    /// When there last was progress, or nothing to be done.
    progressed_at: Moment,
    is_finishing: bool,
    wake_at: Option<Moment>,
    tally: WriterTally,
}

impl Writer {
    /// A writer that has written nothing, for a ring of `ring_size` bytes.
    pub fn new(settings: WriterSettings, ring_size: usize, now: Moment) -> Self {
        Writer {
            settings,
            pace: Pace::default(),
            batches: VecDeque::with_capacity(ring_size / BLOCK_SIZE),
            written_count: 0,
            writing: None,
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
            is_finishing: false,
            wake_at: None,
            tally: WriterTally::default(),
        }
    }

    /// Someone wants to know once everything before `position` is written, or durable, as the level has it.
    pub fn handle_promise(&mut self, position: RingPosition) {
        self.pace.asked = self.pace.asked.max(position);
    }

    /// A segment that was asked for.
    pub fn handle_segment(&mut self, segment: PreparedSegment) {
        debug_assert!(self.next.is_none(), "one segment is asked for at a time");
        self.is_asking = false;
        self.has_no_room = false;
        self.next = Some(segment);
    }

    /// There is no room for the segment that was asked for. It will come once there is.
    pub fn handle_no_room(&mut self) {
        self.has_no_room = true;
    }

    /// From now on everything is written and synced at once: nothing more comes.
    pub fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Whether everything the ring ever took is durable, and nothing is under way.
    pub fn is_finished(&self, ring: &FrameRing) -> bool {
        self.batches.is_empty() && self.is_quiet() && ring.durable() == ring.head()
    }

    /// Once a turn, before [`Writer::poll_operation`]: seals the open batch if that is due.
    pub fn handle_turn(&mut self, now: Now, ring: &mut FrameRing) {
        self.take_sealed(ring);
        let progress = Progress {
            oldest: self.batches.front().map(|batch| batch.opened_at),
            is_syncing: self.syncing.is_some(),
            is_finishing: self.is_finishing,
        };
        let wake_at = self.pace.judge(now.moment, &self.settings, progress, ring);
        self.take_sealed(ring);
        if self.next.is_none() && !self.is_asking && !(self.is_finishing && self.batches.is_empty()) {
            self.is_asking = true;
            self.requests.push_back(SegmentRequest::Prepare);
        }
        if self.is_idle() {
            self.progressed_at = now.moment;
        }
        let stalled_at = self.progressed_at + self.settings.stall_timeout;
        let stall = (!self.is_idle() && stalled_at > now.moment).then_some(stalled_at);
        let open = (self.segment.is_none() && self.open_after > now.moment).then_some(self.open_after);
        self.wake_at = [wake_at, stall, open].into_iter().flatten().min();
    }

    /// When [`Writer::handle_turn`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.wake_at
    }

    /// What is to be told to whoever prepares segments.
    pub fn poll_request(&mut self) -> Option<SegmentRequest> {
        self.requests.pop_front()
    }

    /// Takes a request back that could not be passed on; it is given out again.
    pub fn put_back(&mut self, request: SegmentRequest) {
        self.requests.push_front(request);
    }

    /// How long the disk has made no progress although there is something to do.
    pub fn stalled_for(&self, now: Moment) -> Duration {
        now.since(self.progressed_at)
    }

    /// Whether the journal cannot take more: no room for a segment, or no progress for too long.
    pub fn is_in_trouble(&self, now: Moment) -> bool {
        let needs_segment = self.segment.as_ref().is_none_or(|segment| segment.is_fenced || self.is_full(segment));
        let lacks_segment = self.has_no_room && self.next.is_none() && needs_segment;
        lacks_segment || self.stalled_for(now) >= self.settings.stall_timeout
    }

    /// What has been done so far.
    pub fn tally(&self) -> WriterTally {
        self.tally
    }

    /// The next operation to perform, if there is one. `scratch` is not touched while a write from it is under way.
    pub fn poll_operation(&mut self, now: Now, ring: &mut FrameRing, scratch: &mut [u8]) -> Option<Operation> {
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
        self.writing.is_none() && self.syncing.is_none()
    }

    /// Whether nothing waits for the disk. Batches that are written and whose sync is not due yet do not.
    fn is_idle(&self) -> bool {
        self.is_quiet() && self.written_count == self.batches.len() && self.pace.cycle.is_none()
    }

    /// The first batch that has not been given out to be written.
    fn first_waiting(&self) -> Option<&SealedBatch> {
        let writing = match self.writing {
            Some(Writing { what: Written::Batches(count), .. }) => count,
            Some(_) | None => 0,
        };
        self.batches.get(self.written_count + writing)
    }

    /// Whether the next batch does not go into the segment any more.
    fn is_full(&self, segment: &OpenSegment) -> bool {
        self.first_waiting().is_some_and(|batch| !segment.takes(batch.size))
    }

    /// Ends the segment if it has failed, or is full and durable: as soon as nothing is under way on it.
    fn leave_segment(&mut self) {
        let Some(segment) = &self.segment else { return };
        let is_over = segment.is_fenced || (self.written_count == 0 && self.is_full(segment)) || self.is_over(segment);
        if !is_over || !self.is_quiet() {
            return;
        }
        // A fenced one's batches are all waiting again: they are in the ring still.
        self.written_count = 0;
        // One of which nothing is durable is passed over: nobody may ever know where it would have started.
        if segment.durable > 0 {
            self.predecessor = (segment.prepared.uuid, segment.durable_end());
        }
        self.end = segment.lsn();
        let Some(OpenSegment { prepared, durable: size, is_fenced, .. }) = self.segment.take() else { return };
        let PreparedSegment { id, manifest, .. } = prepared;
        self.requests.push_back(SegmentRequest::Retire { id, size, is_fenced, manifest });
    }

    /// Whether nothing will ever come into the segment.
    fn is_over(&self, segment: &OpenSegment) -> bool {
        self.is_finishing && self.batches.is_empty() && segment.durable == segment.offset
    }

    fn next_write(&mut self, now: Now, ring: &mut FrameRing, scratch: &mut [u8]) -> Option<Operation> {
        if self.writing.is_none() {
            self.writing = self.plan_write(now, ring, scratch);
        }
        let (segment, writing) = (self.segment.as_ref()?, self.writing.as_mut()?);
        if writing.is_under_way || segment.is_fenced {
            return None;
        }
        writing.is_under_way = true;
        let (file, start, size, offset) = (segment.prepared.file, writing.start, writing.size, writing.offset);
        Some(match writing.what {
            Written::Opening(_) => Operation::WriteScratch { file, start, size, offset },
            Written::Batches(_) => Operation::Write { file, start, size, offset },
        })
    }

    fn plan_write(&mut self, now: Now, ring: &mut FrameRing, scratch: &mut [u8]) -> Option<Writing> {
        let first = *self.batches.get(self.written_count)?;
        if self.segment.is_none() {
            if now.moment < self.open_after {
                return None;
            }
            self.segment = Some(OpenSegment::new(self.next.take()?, self.end));
            self.tally.segments += 1;
        }
        let segment = self.segment.as_mut()?;
        if segment.is_fenced || !segment.takes(first.size) {
            return None;
        }
        let (what, start, size) = match segment.stage {
            Stage::Batches => {
                let (count, size) = segment.stamp_run(self.batches.range(self.written_count..), ring);
                segment.has_batch = true;
                (Written::Batches(count), ring.batch_offset(&first), size)
            }
            Stage::Header | Stage::Calls(_) => {
                let place = (self.settings.shard, self.settings.run);
                let (stage, size) = opening::open(segment, place, self.predecessor, (ring, first.start), scratch, now);
                if size == 0 {
                    segment.stage = stage;
                    return self.plan_write(now, ring, scratch);
                }
                (Written::Opening(stage), 0, size)
            }
        };
        let offset = segment.offset;
        segment.offset += size as u64;
        Some(Writing { what, start, size, offset, is_under_way: false })
    }

    fn next_sync(&mut self) -> Option<Operation> {
        let segment = self.segment.as_ref()?;
        if self.syncing.is_some() || segment.is_fenced || self.written_count == 0 {
            return None;
        }
        // The batch that the cycle ends with has been written, or can only be once this segment is left.
        let reached = |target| self.batches.get(self.written_count).is_none_or(|batch| batch.start >= target);
        let is_due = self.pace.cycle.is_some_and(reached) || (self.writing.is_none() && self.is_full(segment));
        if !is_due {
            return None;
        }
        self.pace.cycle = self.pace.cycle.filter(|target| !reached(*target));
        self.syncing = Some(Syncing { batch_count: self.written_count, end: segment.written });
        Some(Operation::Sync { file: segment.prepared.file })
    }

    /// The write that was given out has ended, with so many bytes or an error.
    pub fn handle_written(&mut self, now: Now, result: Result<u32, Errno>, ring: &mut FrameRing) {
        let (Some(mut writing), Some(segment)) = (self.writing.take(), self.segment.as_mut()) else { return };
        if segment.is_fenced {
            return;
        }
        let size = match result {
            Ok(size) => size as usize,
            Err(Errno::INTR | Errno::AGAIN) => {
                writing.is_under_way = false;
                self.writing = Some(writing);
                return;
            }
            Err(_) => return self.fence(now.moment),
        };
        if size < writing.size {
            // O_DIRECT goes on only from a block; what was written of the last one is written again.
            let taken = size / BLOCK_SIZE * BLOCK_SIZE;
            if taken == 0 {
                return self.fence(now.moment);
            }
            let (start, offset) = (writing.start + taken, writing.offset + taken as u64);
            self.tally.bytes += taken as u64;
            self.writing = Some(Writing { start, offset, size: writing.size - taken, is_under_way: false, ..writing });
            return;
        }
        segment.written = segment.offset;
        self.tally.bytes += writing.size as u64;
        self.tally.writes += 1;
        if self.fences_in_row == 0 {
            self.progressed_at = now.moment;
        }
        match writing.what {
            Written::Opening(stage) => segment.stage = stage,
            Written::Batches(count) => {
                self.written_count += count;
                let end = self.batches[self.written_count - 1].end();
                // What is written again after a fence had been written before.
                if end > ring.written() {
                    ring.set_written(end);
                }
            }
        }
    }

    /// The sync that was given out has ended.
    pub fn handle_synced(&mut self, now: Now, result: Result<u32, Errno>, ring: &mut FrameRing) {
        let (Some(syncing), Some(segment)) = (self.syncing.take(), self.segment.as_mut()) else { return };
        if result.is_err() {
            // Whatever it was: the kernel may have dropped what it could not write, and would not say so again.
            return self.fence(now.moment);
        }
        self.fences_in_row = 0;
        segment.durable = syncing.end;
        self.written_count -= syncing.batch_count;
        let manifest = &mut segment.prepared.manifest;
        let durable =
            self.batches.drain(..syncing.batch_count).inspect(|batch| ring.hand_over_notes(batch, manifest)).last();
        if let Some(batch) = durable {
            ring.set_durable(batch.end());
        }
        self.tally.syncs += 1;
        self.progressed_at = now.moment;
    }

    /// Gives the segment up: what is not durable will be written to another one. The file is never synced again.
    fn fence(&mut self, now: Moment) {
        let Some(segment) = self.segment.as_mut().filter(|segment| !segment.is_fenced) else { return };
        segment.is_fenced = true;
        self.writing = self.writing.filter(|writing| writing.is_under_way);
        self.pace.abandon();
        self.tally.fences += 1;
        // The first time may be that file's fault; after that a disk that fails is not to be filled with segments.
        let pause = match self.fences_in_row {
            0 => Duration::ZERO,
            row => FENCE_PAUSE * (1 << (row - 1).min(FENCE_PAUSE_DOUBLINGS)),
        };
        self.fences_in_row += 1;
        self.open_after = now + pause;
    }
}
