//! The shard's side of its journal: performs what the writer plans, passes its requests on, and tells calls when the disk takes
//! no more.
#![forbid(unsafe_code)]

use super::{Accepting, Shard};
use crate::ack::AckLevel;
use crate::clock::{Moment, Now};
use crate::constants::ends_size;
use crate::frame_ring::RingPosition;
use crate::io::{Io, OpKind, UserData};
use crate::journal::writer::{Operation, PreparedSegment, SegmentRequest, Writer, WriterSettings};
use crate::session::{Notice, Service};
use std::sync::mpsc::{SyncSender, TrySendError};

/// How a shard journals.
#[derive(Clone, Debug)]
pub struct ShardJournalConfig {
    /// For its writer.
    pub settings: WriterSettings,
    /// To whoever prepares segments: the shard's number, and what it wants. Answered by mail.
    pub requests: SyncSender<(usize, SegmentRequest)>,
}

/// The journal of a shard.
pub(super) struct ShardJournal {
    writer: Writer,
    level: AckLevel,
    requests: SyncSender<(usize, SegmentRequest)>,
    /// Calls have been told that the journal takes no more.
    is_in_trouble: bool,
    /// The disk has less free than new calls may use.
    is_below_reserve: bool,
    /// A draining shard with no connections left gives a disk in trouble so long.
    given_up_at: Option<Moment>,
}

impl ShardJournal {
    pub(super) fn new(config: ShardJournalConfig, ring_size: usize, now: Moment) -> Self {
        ShardJournal {
            level: config.settings.level,
            writer: Writer::new(config.settings, ring_size, now),
            requests: config.requests,
            is_in_trouble: false,
            is_below_reserve: false,
            given_up_at: None,
        }
    }

    /// When the journal is to be driven, if nothing happens before.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        [self.writer.poll_timeout(), self.given_up_at.filter(|_| self.is_in_trouble)].into_iter().flatten().min()
    }

    /// Whether new calls are to go elsewhere.
    pub(super) fn refuses_calls(&self) -> bool {
        self.is_in_trouble || self.is_below_reserve
    }

    pub(super) fn handle_promise(&mut self, position: RingPosition) {
        self.writer.handle_promise(position);
    }

    pub(super) fn handle_segment(&mut self, segment: PreparedSegment) {
        self.writer.handle_segment(segment);
    }

    pub(super) fn handle_no_room(&mut self) {
        self.writer.handle_no_room();
    }

    pub(super) fn handle_reserve(&mut self, is_low: bool) {
        self.is_below_reserve = is_low;
    }

    /// Passes on what the writer wants, as far as there is room for it; the rest waits for another turn.
    fn pass_requests(&mut self, shard: usize) -> bool {
        while let Some(request) = self.writer.poll_request() {
            match self.requests.try_send((shard, request)) {
                // Nobody prepares segments any more: the node is ending.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full((_, request))) => {
                    self.writer.put_back(request);
                    return false;
                }
            }
        }
        true
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Seals, writes and syncs what is due. Without a journal what is sealed is done with.
    pub(super) fn drive_journal(&mut self, now: Now) -> std::io::Result<()> {
        let is_over = self.has_drained();
        let Some(journal) = &mut self.journal else {
            self.ring.release_sealed();
            return Ok(());
        };
        if is_over {
            journal.writer.finish();
            journal.given_up_at.get_or_insert(now.moment + self.limits.close_timeout);
        }
        self.ring.set_reserve(ends_size(self.connections.count()));
        journal.writer.handle_turn(now, &mut self.ring);
        while let Some(operation) = journal.writer.poll_operation(now, &mut self.ring, self.io.scratch()) {
            let (write, sync) = (UserData::lone(OpKind::Write), UserData::lone(OpKind::Sync));
            self.stopwatch.operation_queued(if let Operation::Sync { .. } = operation {
                OpKind::Sync
            } else {
                OpKind::Write
            });
            match operation {
                Operation::Write { file, start, size, offset } => self.io.write(file, start, size, offset, write),
                Operation::WriteScratch { file, start, size, offset } => {
                    self.io.write_scratch(file, start, size, offset, write);
                }
                Operation::Sync { file } => self.io.sync(file, sync),
            }
        }
        let all_passed = journal.pass_requests(self.index);
        self.journal_is_finished = is_over && all_passed && journal.writer.is_finished(&self.ring);
        self.has_requests = !all_passed;
        let was_in_trouble = journal.is_in_trouble;
        journal.is_in_trouble = journal.writer.is_in_trouble(now.moment);
        if journal.is_in_trouble && journal.given_up_at.is_some_and(|at| at <= now.moment) {
            let lost = self.ring.head().0 - self.ring.durable().0;
            return Err(std::io::Error::other(format!(
                "the disk took no more: {lost} bytes of its journal were not written"
            )));
        }
        if journal.is_in_trouble && !was_in_trouble {
            let ids: Vec<_> = self.connections.ids().collect();
            ids.into_iter().for_each(|id| self.notify(now, id, Notice::Storage));
        }
        Ok(())
    }

    /// Everything before it is promised, on the node's level.
    pub(super) fn watermark(&self) -> RingPosition {
        match self.journal.as_ref().map(|journal| journal.level) {
            None | Some(AckLevel::Received) => self.ring.head(),
            Some(AckLevel::Written) => self.ring.written(),
            Some(AckLevel::Durable) => self.ring.durable(),
        }
    }

    pub(super) fn handle_file_operation(&mut self, now: Now, kind: OpKind, result: Result<u32, rustix::io::Errno>) {
        let Some(journal) = &mut self.journal else {
            debug_assert!(false, "no file operation is queued without a journal");
            return;
        };
        self.stopwatch.operation_done(kind, now.moment, result.is_ok());
        match kind {
            OpKind::Sync => journal.writer.handle_synced(now, result, &mut self.ring),
            _ => journal.writer.handle_written(now, result, &mut self.ring),
        }
    }

    /// Whether nothing more can come into the ring.
    pub(super) fn has_drained(&self) -> bool {
        self.draining && self.accepting == Accepting::Stopped && self.connections.count() == 0
    }

    pub(super) fn publish_journal_counters(&self, now: Now) {
        let Some(journal) = &self.journal else { return };
        let tally = journal.writer.tally();
        self.counters.journal_bytes.set(tally.bytes);
        self.counters.journal_writes.set(tally.writes);
        self.counters.journal_syncs.set(tally.syncs);
        self.counters.journal_segments.set(tally.segments);
        self.counters.journal_fences.set(tally.fences);
        self.counters.journal_undurable_bytes.set(self.ring.head().0 - self.ring.durable().0);
        self.counters.journal_stalled_ms.set(journal.writer.stalled_for(now.moment).as_millis() as u64);
        self.counters.journal_refuses_calls.set(u64::from(journal.refuses_calls()));
    }
}
