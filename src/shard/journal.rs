//! The driver of a shard's journal: performs what the writer plans, passes its requests on, and
//! notices when the disk takes no more.
#![forbid(unsafe_code)]

use super::Shard;
use super::latency_recorder::LatencyRecorder;
use super::pressure::Pressure;
use super::replication::ReplicationSettings;
use crate::ack_level::AckLevel;
use crate::clock::{Moment, Now};
use crate::constants::{RECEIVE_BUFFER_SIZE, REGISTERED_WRITE_SIZE_MAX, ends_size, room_needed};
use crate::io::{Io, OpKind, UserData};
use crate::journal::frame_ring::{FrameRing, RingPosition};
use crate::journal::writer::{
    Backlog, Operation, PreparedSegment, SegmentRequest, WriteSlot, Writer, WriterSettings,
};
use crate::metrics::Counters;
use crate::session::{Notice, Service};
use rustix::io::Errno;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

// Each write lies within one piece of the registered memory, so none has to go without it.
const _: () = assert!(Backlog::production().write_size_max <= REGISTERED_WRITE_SIZE_MAX);

/// How a shard journals.
#[derive(Clone, Debug)]
pub struct ShardJournalConfig {
    /// For its writer.
    pub settings: WriterSettings,
    /// To the thread that prepares segments: the shard's number, and its request. The answer comes
    /// by mail.
    pub requests: SyncSender<(usize, SegmentRequest)>,
    /// The first segment, so that the first call does not wait for it.
    pub first: Option<PreparedSegment>,
    /// How long ACKs wait for a message engine; `None`: they do not.
    pub replication: Option<ReplicationSettings>,
}

/// The journal of a shard.
pub(super) struct ShardJournal {
    /// The number of the shard.
    shard: usize,
    writer: Writer,
    level: AckLevel,
    requests: SyncSender<(usize, SegmentRequest)>,
    /// A request of the writer waits: the thread that prepares segments had no room for it.
    has_requests: bool,
    /// Calls have been told that the journal takes no more.
    is_in_trouble: bool,
    /// The disk has less free than new calls may use.
    is_below_reserve: bool,
    /// More waits for required sinks than may.
    is_over_budget: bool,
    /// The disk is late, and the ring nearly full.
    pressure: Pressure,
    /// Nothing more comes into the ring. A disk in trouble is given up at this moment.
    given_up_at: Option<Moment>,
    /// Nothing more comes, and all of it is durable.
    is_finished: bool,
}

/// Whether calls have to hear of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// Nothing new.
    AsBefore,
    /// It takes no more, since now.
    InTrouble,
}

impl ShardJournal {
    pub(super) fn new(
        shard: usize,
        config: ShardJournalConfig,
        ring_size: usize,
        now: Moment,
    ) -> Self {
        let level = config.settings.level;
        let mut writer = Writer::new(config.settings, ring_size, now);
        if let Some(first) = config.first {
            writer.handle_segment(first);
        }
        ShardJournal {
            shard,
            level,
            writer,
            requests: config.requests,
            has_requests: false,
            is_in_trouble: false,
            is_below_reserve: false,
            is_over_budget: false,
            pressure: Pressure::default(),
            given_up_at: None,
            is_finished: false,
        }
    }

    /// Whether it has something to do that waits for no completion.
    pub(super) fn has_requests(&self) -> bool {
        self.has_requests
    }

    /// Whether it is durable to its end, and has passed on all requests.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Everything in the ring before this is promised, on the node's level.
    pub(super) fn watermark(&self, ring: &FrameRing) -> RingPosition {
        match self.level {
            AckLevel::Received => ring.head(),
            AckLevel::Written => ring.written(),
            AckLevel::Durable | AckLevel::Replicated => ring.durable(),
        }
    }

    /// When the journal is to be driven, if nothing happens before.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        [self.writer.poll_timeout(), self.given_up_at.filter(|_| self.is_in_trouble)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether new calls are to go elsewhere.
    pub(super) fn refuses_calls(&self, now: Moment) -> bool {
        self.lacks_disk() || self.is_over_budget || self.pressure.refuses_calls(now)
    }

    /// Whether the disk takes no more, or has less free than it should.
    fn lacks_disk(&self) -> bool {
        self.is_in_trouble || self.is_below_reserve
    }

    pub(super) fn handle_promise(&mut self, position: RingPosition) {
        self.writer.handle_promise(position);
    }

    pub(super) fn handle_segment(&mut self, segment: PreparedSegment) {
        self.writer.handle_segment(segment);
    }

    pub(super) fn handle_segment_age(&mut self, age_max: Option<Duration>) {
        self.writer.handle_segment_age(age_max);
    }

    pub(super) fn handle_no_room(&mut self) {
        self.writer.handle_no_room();
    }

    pub(super) fn handle_reserve(&mut self, is_low: bool) {
        self.is_below_reserve = is_low;
    }

    pub(super) fn handle_budget(&mut self, is_over: bool) {
        self.is_over_budget = is_over;
    }

    /// Whether new calls are to go elsewhere because required sinks lag behind.
    pub(super) fn is_over_budget(&self) -> bool {
        self.is_over_budget
    }

    /// Everything in the ring so far is to be in sealed segments.
    pub(super) fn handle_seal(&mut self, ring: &FrameRing) {
        self.writer.handle_seal(ring.head());
    }

    /// The shard stood still for `gap`, so it could not see the disk's progress.
    pub(super) fn handle_standstill(&mut self, now: Now, gap: Duration) {
        self.writer.handle_standstill(now.moment, gap);
        self.given_up_at = self.given_up_at.map(|at| at + gap);
    }

    /// Nothing more comes into the ring. If the disk is in trouble at `give_up_at`, what it has not
    /// taken is lost.
    fn finish(&mut self, give_up_at: Moment) {
        self.writer.finish();
        self.given_up_at.get_or_insert(give_up_at);
    }

    /// Queues the writes and syncs that are due.
    fn queue_operations<I: Io>(
        &mut self,
        now: Now,
        io: &mut I,
        ring: &mut FrameRing,
        latency: &mut LatencyRecorder,
    ) {
        self.writer.handle_turn(now, ring);
        while let Some(operation) = self.writer.poll_operation(now, ring, io.scratch()) {
            match operation {
                Operation::Write { slot, write } => {
                    let user_data = UserData::of_slot(OpKind::Write, slot.0);
                    latency.handle_operation_queued(user_data);
                    io.write(write, user_data);
                }
                Operation::Sync { file } => {
                    let user_data = UserData::lone(OpKind::Sync);
                    latency.handle_operation_queued(user_data);
                    io.sync(file, user_data);
                }
            }
        }
    }

    /// Passes on what the writer requests, as far as there is room for it; the rest waits for
    /// another turn.
    fn pass_requests(&mut self) {
        self.has_requests = false;
        while let Some(request) = self.writer.poll_request() {
            match self.requests.try_send((self.shard, request)) {
                // No thread prepares segments any more: the node is ending.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full((_, request))) => {
                    self.writer.put_back(request);
                    self.has_requests = true;
                    return;
                }
            }
        }
    }

    /// Looks at the disk after the turn's operations are queued. `connection_count` connections may
    /// need room in the ring. An error means that the disk was given up.
    fn judge_disk(
        &mut self,
        now: Moment,
        ring: &FrameRing,
        connection_count: usize,
    ) -> std::io::Result<Disk> {
        let was_in_trouble = self.is_in_trouble;
        self.is_in_trouble = self.writer.is_in_trouble(now);
        let size = ring.memory().len();
        let has_room = ring.free_size() >= room_needed(RECEIVE_BUFFER_SIZE, connection_count);
        let undurable = ring.head().0 - ring.durable().0;
        let free = if has_room { size - undurable as usize } else { 0 };
        self.pressure.handle_turn(now, free, size);
        if self.is_in_trouble && self.given_up_at.is_some_and(|at| at <= now) {
            return Err(std::io::Error::other(format!(
                "the disk took no more: {undurable} bytes of its journal were not written"
            )));
        }
        match self.is_in_trouble && !was_in_trouble {
            true => Ok(Disk::InTrouble),
            false => Ok(Disk::AsBefore),
        }
    }

    /// A write or sync has completed.
    pub(super) fn handle_operation_end(
        &mut self,
        now: Now,
        user_data: UserData,
        result: Result<u32, Errno>,
        ring: &mut FrameRing,
    ) {
        match user_data.kind {
            OpKind::Sync => self.writer.handle_synced(now, result, ring),
            _ => self.writer.handle_written(now, WriteSlot(user_data.index), result, ring),
        }
    }

    pub(super) fn publish(&self, now: Now, ring: &FrameRing, counters: &Counters) {
        let stats = self.writer.stats();
        counters.journal_bytes.set(stats.bytes);
        counters.journal_writes.set(stats.writes);
        counters.journal_syncs.set(stats.syncs);
        counters.journal_segments.set(stats.segments);
        counters.journal_fences.set(stats.fences);
        counters.journal_position_bytes.set(stats.durable_lsn.0);
        counters.journal_undurable_bytes.set(ring.head().0 - ring.durable().0);
        counters.journal_stalled_ms.set(self.writer.stalled_for(now.moment).as_millis() as u64);
        counters.journal_refuses_calls.set(u64::from(self.lacks_disk()));
        counters.budget_refuses_calls.set(u64::from(self.is_over_budget));
        counters.ring_refuses_calls.set(u64::from(self.pressure.refuses_calls(now.moment)));
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Seals, writes and syncs what is due. Without a journal what is sealed is done with.
    pub(super) fn drive_journal(&mut self, now: Now) -> std::io::Result<()> {
        let (has_drained, count) = (self.has_drained(), self.connections.count());
        let Shard { journal, io, ring, latency, .. } = self;
        let Some(journal) = journal else {
            ring.release_sealed();
            return Ok(());
        };
        if has_drained {
            journal.finish(now.moment + self.limits.close_timeout);
        }
        ring.set_reserve(ends_size(count));
        journal.queue_operations(now, io, ring, latency);
        journal.pass_requests();
        journal.is_finished =
            has_drained && !journal.has_requests && journal.writer.is_finished(ring);
        if journal.judge_disk(now.moment, ring, count)? == Disk::InTrouble {
            let ids: Vec<_> = self.connections.ids().collect();
            ids.into_iter().for_each(|id| self.notify(now, id, Notice::Storage));
        }
        Ok(())
    }

    pub(super) fn handle_file_operation(
        &mut self,
        now: Now,
        user_data: UserData,
        result: Result<u32, Errno>,
    ) {
        let Some(journal) = &mut self.journal else {
            debug_assert!(false, "no file operation is queued without a journal");
            return;
        };
        self.latency.handle_operation_end(user_data, now.moment, result.is_ok());
        journal.handle_operation_end(now, user_data, result, &mut self.ring);
    }
}
