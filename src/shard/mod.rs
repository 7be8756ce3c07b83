//! A shard: one thread, one ring, and its share of the connections. It is the only place where IO
//! meets protocol.
//!
//! [`Shard::turn`] is the body of the loop, in numbered phases. A turn first handles everything
//! that has come in, then queues what follows from it. All of that goes to the kernel in the one
//! `submit` with which the next turn begins.
//!
//! A shard is made of parts that own their state. A part takes something in by its `handle_*` verbs
//! and gives something out by its `poll_*` verbs.
//!
//! | file | part |
//! | --- | --- |
//! | `connections` | the table of connections |
//! | `reading`, `standing`, `ends`, `timing` | parts of a connection's state |
//! | `timers` | one deadline for each connection |
//! | `read_queue` | connections that wait to be read, and how many a turn reads |
//! | `deferred` | bytes that wait until the frame ring has room |
//! | `send_queue` | connections that wait for a send slot |
//! | `admission` | accepts, places, request heads that wait to be judged |
//! | `accepts`, `places`, `rates` | its parts: accepts; which connections give way; addresses |
//! | `tls` | handshakes, a budget of them a turn; received records |
//! | `journal` | sealed batches → disk; what happens when the disk takes no more |
//! | `pressure` | a part of it: new calls are refused before the frame ring is full |
//! | `replication` | promises that wait for the message engine |
//! | `mail`, `mailbox`, `ownership` | messages between shards; which connection has a call |
//! | `drain` | all calls are closed evenly over a window |
//! | `refusals` | what an operator sees of a refusal |
//! | `standstill` | the pace of turns; deadlines after the process stood still |
//! | `latency_recorder` | how long things take |
//! | `watching` | the live calls that wait the longest, on request |
//!
//! `receive` with `feed` and `transmit` are the ways in and out: received bytes → head, frames →
//! session → send slots → socket.
#![forbid(unsafe_code)]

use crate::ack::{Promise, PromiseQueue, promise_count_max, promise_count_usual};
use crate::ack_level::AckLevel;
use crate::call::EpochSource;
use crate::clock::Now;
use crate::constants::PENDING_HEADERS_SHARE;
use crate::io::{Completion, Io, OpKind, UserData, Wait};
use crate::journal::frame_ring::FrameRing;
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::proto::frame::FrameLimits;
use crate::proto::handshake::ANSWER_SIZE_MAX;
use crate::session::{Context, Notice, Service, Session};
use crate::tls::ServerConfig;
use crate::tls::records::OVERHEAD_SIZE_MAX;
use admission::Admission;
use connections::{Connection, ConnectionId, Connections, Stage};
use deferred::DeferredQueue;
use drain::Drain;
use journal::ShardJournal;
pub use journal::ShardJournalConfig;
use latency_recorder::LatencyRecorder;
use mail::Mail;
use mailbox::{Mailbox, MailboxSender, Message};
use read_queue::ReadQueue;
use refusals::RefusalLog;
use replication::Replication;
pub use replication::{OnTimeout, ReplicationSettings};
use send_queue::SendQueue;
use standstill::TurnClock;
use std::sync::Arc;
use timers::TimerWheel;
use tls::ShardTls;

mod accepts;
mod admission;
pub mod connections;
mod deferred;
mod drain;
mod ends;
mod feed;
mod journal;
mod latency_recorder;
mod mail;
pub mod mailbox;
pub(crate) mod ownership;
mod places;
mod pressure;
mod rates;
mod read_queue;
pub(crate) mod reading;
mod receive;
mod refusals;
mod replication;
mod send_queue;
mod standing;
mod standstill;
pub mod timers;
mod timing;
mod tls;
mod transmit;
mod watching;

#[cfg(test)]
mod tests;

/// The share of what a turn reaps that ends the bounded wait early: half, so that a burst does not
/// fill a whole turn.
const WANT_SHARE: usize = 2;

/// What a shard is made of.
pub struct ShardConfig<S> {
    /// Its number.
    pub index: usize,
    /// The number of the machine's boot, as epochs carry it.
    pub boot: u32,
    /// Decides on requests.
    pub service: S,
    /// Where audio goes.
    pub ring: FrameRing,
    /// Where audio goes from there. `None` keeps it in memory only, until it is promised.
    pub journal: Option<ShardJournalConfig>,
    /// The limits of the shard and its peers.
    pub limits: Limits,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its mailbox.
    pub mailbox: Mailbox,
    /// For TLS handshakes, [completed](crate::tls::complete). With `None` the port speaks plain
    /// HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The mailboxes of all shards, this one included, by number.
    pub shards: Vec<MailboxSender>,
}

/// Whether there will be another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There will.
    More,
    /// The shard has drained.
    Finished,
}

/// One shard.
pub struct Shard<I: Io, S: Service> {
    index: usize,
    io: I,
    service: S,
    ring: FrameRing,
    journal: Option<ShardJournal>,
    connections: Connections<S::Session>,
    timers: TimerWheel,
    promises: PromiseQueue<ConnectionId>,
    /// What its journal promises.
    level: AckLevel,
    /// With the level `replicated`.
    replication: Option<Replication>,
    epochs: EpochSource,
    mail: Mail,
    tls: Option<ShardTls>,
    admission: Admission,
    drain: Drain,
    refusal_log: RefusalLog,
    deferred: DeferredQueue,
    reads: ReadQueue,
    sends: SendQueue,
    clock: TurnClock,
    limits: Limits,
    frame_limits: FrameLimits,
    counters: Arc<Counters>,
    latency: LatencyRecorder,
}

impl<I: Io, S: Service> Shard<I, S> {
    /// A shard that accepts from its first turn on.
    pub fn new(mut io: I, config: ShardConfig<S>) -> Self {
        let ShardConfig {
            index,
            boot,
            service,
            mut ring,
            journal,
            limits,
            counters,
            mailbox,
            tls,
            shards,
        } = config;
        // Otherwise the first answer to a peer would end the node.
        let room = limits.output_size_max.min(limits.send_slot_size);
        assert!(
            room >= ANSWER_SIZE_MAX + OVERHEAD_SIZE_MAX,
            "an HTTP answer of {ANSWER_SIZE_MAX} bytes fits a send slot, as a TLS record"
        );
        let now = io.now().moment;
        let level = journal.as_ref().map_or(AckLevel::Received, |config| config.settings.level);
        io.await_wake(UserData::lone(OpKind::Wake));
        counters.ring_size_bytes.set(ring.memory().len() as u64);
        if journal.is_some() {
            ring.keep_headers(ring.memory().len() / PENDING_HEADERS_SHARE);
        }
        let frame_limits = FrameLimits {
            message_size_max: limits.message_size_max,
            text_size_max: limits.text_size_max,
            fragments_max: limits.fragments_max,
        };
        let mut shard = Shard {
            index,
            io,
            service,
            connections: Connections::new(limits.connections_max),
            timers: TimerWheel::new(limits.connections_max, now),
            promises: PromiseQueue::new(
                promise_count_usual(limits.ring_size, limits.connections_max),
                promise_count_max(limits.ring_size, limits.connections_max),
            ),
            level,
            replication: journal
                .as_ref()
                .and_then(|config| config.replication)
                .map(Replication::new),
            journal: journal.map(|config| ShardJournal::new(index, config, limits.ring_size, now)),
            ring,
            epochs: EpochSource::new(boot, index as u16),
            mail: Mail::new(index, mailbox, shards),
            tls: tls.map(|config| ShardTls::new(config, &limits)),
            admission: Admission::new(&limits),
            drain: Drain::NotBegun,
            refusal_log: RefusalLog::default(),
            deferred: DeferredQueue::new(&limits),
            reads: ReadQueue::new(&limits),
            sends: SendQueue::new(&limits),
            clock: TurnClock::new(now),
            limits,
            frame_limits,
            counters,
            latency: LatencyRecorder::new(level),
        };
        shard.make_room(Now { moment: now, ..Now::default() });
        shard
    }

    /// Turns until the shard has drained. An error means that its ring is unusable.
    pub fn run(&mut self) -> std::io::Result<()> {
        while self.turn()? == Turn::More {}
        // The closes of the last connections are queued. Without this their sockets would outlive
        // the shard.
        self.io.submit(Wait::No)
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> std::io::Result<Turn> {
        // 1. Wait: what the last turn queued goes to the kernel, and completions gather for a
        //    bounded time.
        let wait = self.next_wait();
        self.io.submit(wait)?;
        let now = self.io.now();
        self.reads.begin_turn();
        self.notice_standstill(now, wait);
        self.latency.begin_turn(now.moment);
        self.ring.set_now(now);
        // 2. Reap and handle, a bounded number, so that receive buffers are recycled while they are
        //    in the cache and no socket starves the others. Audio goes into the frame ring here.
        self.reap(now);
        self.time_arrivals();
        // 3. Mail and time.
        self.read_mail(now);
        self.fire_timers(now);
        // 4. New calls, after the live ones and within their budgets; then what had to wait for
        //    room.
        self.judge_waiting(now);
        self.shake_hands(now);
        self.resume_deferred(now);
        self.time_arrivals();
        // 5. Seal and write.
        self.drive_journal(now)?;
        // 6. Acknowledge what the promise holds for.
        self.acknowledge(now);
        // 7. Read what waits, as far as there are buffers; send what had no slot.
        self.retry(now);
        self.publish_counters(now);
        self.latency.end_turn(self.io.now().moment);
        if !self.is_finished() {
            return Ok(Turn::More);
        }
        // This turn has queued the closes of the last sockets.
        self.io.submit(Wait::No)?;
        Ok(Turn::Finished)
    }

    /// How long the next submit may wait.
    fn next_wait(&mut self) -> Wait {
        if self.clock.has_backlog()
            || self.admission.waiting_count() > 0
            || self.tls.as_ref().is_some_and(ShardTls::has_handshakes)
            || !self.sends.is_empty()
            || self.journal.as_ref().is_some_and(ShardJournal::has_requests)
            || self.mail.waiting_count() > 0
            || self.can_resume()
            || self.can_read()
        {
            return Wait::No;
        }
        let next = [
            self.timers.next_moment(),
            self.drain.poll_timeout(),
            self.admission.poll_timeout(),
            self.journal.as_ref().and_then(ShardJournal::poll_timeout),
            self.replication.as_ref().and_then(Replication::poll_timeout),
        ];
        let next = next.into_iter().flatten().min();
        let now = self.io.now().moment;
        Wait::Gather {
            want: (self.limits.completions_per_turn / WANT_SHARE) as u32,
            gather: self.limits.wait,
            limit: next.map(|next| next.since(now)),
        }
    }

    fn reap(&mut self, now: Now) {
        for _ in 0..self.limits.completions_per_turn {
            match self.io.completion() {
                Some(completion) => self.handle(now, completion),
                None => return self.clock.handle_reaped(now.moment, true),
            }
        }
        self.clock.handle_reaped(now.moment, false);
    }

    fn handle(&mut self, now: Now, completion: Completion) {
        let UserData { kind, index, generation } = completion.user_data;
        let id = ConnectionId { index, generation };
        match kind {
            OpKind::Receive => self.handle_receive(now, id, completion),
            OpKind::Read => self.handle_read(now, id, completion),
            OpKind::Send => self.handle_sent(now, id, completion.result),
            OpKind::SendRest => self.handle_rest_sent(now, id, completion.result),
            OpKind::Accept => self.handle_accept(now, completion),
            OpKind::ShutDown | OpKind::Cancel => self.handle_operation_done(now, id),
            OpKind::Wake => self.io.await_wake(UserData::lone(OpKind::Wake)),
            OpKind::Write | OpKind::Sync => {
                self.handle_file_operation(now, completion.user_data, completion.result);
            }
            // A close that fails (EIO of a dying driver) has still closed.
            OpKind::Close => {}
        }
    }

    fn read_mail(&mut self, now: Now) {
        self.mail.flush();
        let mut count = 0;
        while let Some(message) = self.mail.poll() {
            count += 1;
            match message {
                Message::Claim { call, epoch, owner } => self.mail.handle_claim(call, epoch, owner),
                Message::Release { call, epoch } => self.mail.handle_release(call, epoch),
                Message::Superseded { connection } => {
                    self.notify(now, connection, Notice::Superseded)
                }
                Message::Keys(verifier) => self.service.handle_keys(verifier),
                Message::Tls(config) => {
                    if let Some(tls) = &mut self.tls {
                        tls.handle_config(config);
                    }
                }
                Message::AddressRate { rate, burst } => self.set_address_rate(rate, burst),
                Message::Drain { grace, window } => self.start_drain(now, grace, window),
                Message::Segment(segment) => {
                    self.with_journal(|journal| journal.handle_segment(segment))
                }
                Message::SegmentAge(age_max) => {
                    self.with_journal(|journal| journal.handle_segment_age(age_max))
                }
                Message::NoRoom => self.with_journal(ShardJournal::handle_no_room),
                Message::Reserve { is_low } => {
                    self.with_journal(|journal| journal.handle_reserve(is_low))
                }
                Message::Budget { is_over } => {
                    self.with_journal(|journal| journal.handle_budget(is_over))
                }
                Message::Seal => {
                    if let Some(journal) = &mut self.journal {
                        journal.handle_seal(&self.ring);
                    }
                }
                Message::Replicated(reports) => self.handle_replicated(now, reports),
                Message::Replication(settings) => {
                    if let Some(replication) = &mut self.replication {
                        replication.handle_settings(now.moment, settings);
                    }
                }
                Message::Latencies(request) => {
                    self.latency.handle_request(request);
                    // Once a second is enough, and costs a frame nothing.
                    self.publish_memory();
                }
                Message::Calls(request) => self.answer_calls(now, request),
            }
        }
        self.counters.mailbox_messages.add(count);
        self.counters.mailbox_found.set(count);
    }

    fn with_journal(&mut self, f: impl FnOnce(&mut ShardJournal)) {
        if let Some(journal) = &mut self.journal {
            f(journal);
        }
    }

    fn fire_timers(&mut self, now: Now) {
        if self.clock.holds_timers(now.moment) {
            return;
        }
        while let Some(index) = self.timers.poll(now.moment) {
            if let Some(id) = self.connections.id_at(index) {
                self.handle_timer(now, id);
            }
        }
    }

    /// Tells sessions that the promise of their frames holds, and sends what follows from it.
    fn acknowledge(&mut self, now: Now) {
        self.promises.begin_group(self.ring.sealed());
        let Shard { journal, ring, .. } = &*self;
        let watermark = journal.as_ref().map_or(ring.head(), |journal| journal.watermark(ring));
        self.latency.handle_watermark(watermark, now.moment);
        while let Some(Promise { handle: id, seq, since, .. }) = self.promises.pop_ready(watermark)
        {
            self.keep_durable(now, id, (seq, since));
        }
        self.drive_replication(now);
    }

    /// Reads the clock if frames have come into the frame ring.
    fn time_arrivals(&mut self) {
        if self.latency.has_frames() {
            let at = self.io.now().moment;
            self.latency.handle_arrivals(at, self.ring.head());
        }
    }

    fn retry(&mut self, now: Now) {
        self.serve_reads(now);
        self.transmit_queued(now);
        self.drive_drain(now);
        self.make_room(now);
    }

    /// Calls `f` with the session of a connection, if it has one.
    fn with_session<R>(
        &mut self,
        id: ConnectionId,
        f: impl FnOnce(&mut S::Session, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let Shard { connections, ring, epochs, counters, .. } = self;
        let Connection { stage: Stage::Open(open), origin, .. } = connections.get(id)? else {
            return None;
        };
        let peer = Some(origin.peer);
        Some(f(&mut open.session, &mut Context { ring, epochs, counters, peer }))
    }

    fn notify(&mut self, now: Now, id: ConnectionId, notice: Notice) {
        self.with_session(id, |session, context| session.handle_notice(now, notice, context));
        self.settle(now, id);
    }

    fn publish_memory(&self) {
        let memory = &self.counters.memory;
        memory.connections.set(self.connections.memory_size() as u64);
        memory.spill_buffers.set(self.tls.as_ref().map_or(0, ShardTls::memory_size) as u64);
    }

    fn publish_counters(&mut self, now: Now) {
        self.counters.turns.add(1);
        self.counters.system_calls.set(self.io.system_calls());
        self.counters.connections_open.set(self.connections.count() as u64);
        self.counters.ring_used_bytes.set(self.ring.used_size() as u64);
        self.counters.heads_waiting.set(self.admission.waiting_count() as u64);
        self.counters.heads_incomplete.set(self.admission.incomplete_count() as u64);
        self.counters.refusals_unlogged.set(self.refusal_log.suppressed_count());
        self.counters.deferred_waiting.set(self.deferred.len() as u64);
        self.reads.publish(now.moment, &self.counters);
        self.counters.unsent_waiting.set(self.sends.len() as u64);
        self.counters.promises_waiting.set(self.promises.len() as u64);
        if let Some(replication) = &self.replication {
            replication.publish(&self.counters);
        }
        self.counters.outbox_waiting.set(self.mail.waiting_count() as u64);
        self.counters.batches_sealed.set(self.ring.sealed_count());
        if let Some(tls) = &self.tls {
            tls.publish(&self.counters);
        }
        if let Some(journal) = &self.journal {
            journal.publish(now, &self.ring, &self.counters);
        }
    }
}
