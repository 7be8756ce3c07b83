//! A shard: one thread, one ring, its slice of the connections. The only place where IO meets protocol.
//!
//! [`Shard::turn`] is the loop's body, in numbered phases. Within a turn everything that has come in is handled first, then what
//! follows from it is queued, and all of it goes to the kernel in the one `submit` with which the next turn begins.
//!
//! | file | what happens there |
//! | --- | --- |
//! | `receive` | received bytes → head, frames → session; deferral while the frame ring is full |
//! | `admission` | accepts; request heads judged, a budget of them a turn; 101 and refusals |
//! | `transmit` | session → send slots → socket; blocked output; the end of a connection |
//! | `journal` | sealed batches → disk; what happens when it takes no more |
//! | `drain` | closing all calls evenly over a window |
//! | `claims`, `mailbox` | who has a call, across shards |
//! | `connections`, `timers` | the tables |
//! | `stopwatch` | how long things take |
#![forbid(unsafe_code)]

use crate::ack::{AckLevel, Promise, PromiseQueue, promise_count_max};
use crate::call::EpochSource;
use crate::clock::{Moment, Now};
use crate::constants::{NOTES_SHARE, room_needed};
use crate::frame_ring::FrameRing;
use crate::io::{Completion, Io, OpKind, Received, UserData, Wait};
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::proto::frame::FrameLimits;
use crate::proto::handshake::ANSWER_SIZE_MAX;
use crate::session::{Context, Notice, Service, Session};
use claims::Claims;
use connections::{ConnectionId, Connections, Stage};
use journal::ShardJournal;
pub use journal::ShardJournalConfig;
use mailbox::{Mailbox, MailboxSender, Message, Owner};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use stopwatch::{Mark, Stopwatch};
use timers::TimerWheel;

mod admission;
pub mod claims;
pub mod connections;
mod drain;
mod journal;
pub mod mailbox;
mod receive;
mod stopwatch;
pub mod timers;
mod transmit;

#[cfg(test)]
mod tests;

/// Completions that end the bounded wait early: half of what a turn reaps, so that a burst does not fill a whole turn.
const WANT_SHARE: usize = 2;

/// How long timers wait for completions that have come in and are not handled yet. In an overload that lasts they fire all the
/// same.
const BACKLOG_TIME_MAX: Duration = Duration::from_secs(1);

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
    /// Where it goes from there; `None` keeps it in memory only, until it is promised.
    pub journal: Option<ShardJournalConfig>,
    /// What it holds itself and peers to.
    pub limits: Limits,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its mailbox.
    pub mailbox: Mailbox,
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

/// Whether connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// They are.
    Armed,
    /// Not before this moment: the host was out of descriptors or memory.
    Paused(Moment),
    /// The accept is being cancelled.
    Stopping,
    /// No more, ever.
    Stopped,
}

/// What a connection has to wait with until the frame ring has room, in the order in which it came.
enum Deferred {
    /// Received bytes, still in their receive buffer: so the kernel runs out of buffers, and TCP pushes back. And when they were
    /// reaped.
    Bytes(ConnectionId, Received, Mark),
    /// The connection's early bytes.
    Early(ConnectionId),
    /// The end of the connection's bytes.
    End(ConnectionId, crate::session::Disconnect),
}

/// One shard.
pub struct Shard<I: Io, S: Service> {
    index: usize,
    io: I,
    service: S,
    ring: FrameRing,
    journal: Option<ShardJournal>,
    /// A drained shard's journal is durable to its end.
    journal_is_finished: bool,
    /// The journal wants something that could not be passed on.
    has_requests: bool,
    connections: Connections<S::Session>,
    timers: TimerWheel,
    promises: PromiseQueue<ConnectionId>,
    epochs: EpochSource,
    claims: Claims,
    mailbox: Mailbox,
    shards: Vec<MailboxSender>,
    /// By shard: messages that its mailbox was too full for, in order. A release must not overtake its claim.
    outboxes: Vec<VecDeque<Message>>,
    accepting: Accepting,
    /// Request heads to be judged.
    waiting: VecDeque<ConnectionId>,
    deferred: VecDeque<Deferred>,
    /// Connections we do not read because of `deferred`; some may have gone.
    paused: Vec<ConnectionId>,
    /// Connections whose receive ended for want of buffers.
    starved: Vec<ConnectionId>,
    /// Connections that had something to send when no slot was free.
    unsent: VecDeque<ConnectionId>,
    draining: bool,
    /// Since when turns reap all they may, and leave more behind.
    behind_since: Option<Moment>,
    limits: Limits,
    frame_limits: FrameLimits,
    counters: Arc<Counters>,
    stopwatch: Stopwatch,
}

impl<I: Io, S: Service> Shard<I, S> {
    /// A shard that accepts from its first turn on.
    pub fn new(mut io: I, config: ShardConfig<S>) -> Self {
        let ShardConfig { index, boot, service, mut ring, journal, limits, counters, mailbox, shards } = config;
        // Else the first peer that is answered would end the node.
        let room = limits.output_size_max.min(limits.send_slot_size);
        assert!(room >= ANSWER_SIZE_MAX, "an HTTP answer of {ANSWER_SIZE_MAX} bytes fits a send slot");
        let now = io.now().moment;
        let level = journal.as_ref().map_or(AckLevel::Received, |config| config.settings.level);
        io.accept(UserData::lone(OpKind::Accept));
        io.await_wake(UserData::lone(OpKind::Wake));
        counters.ring_size_bytes.set(ring.memory().len() as u64);
        if journal.is_some() {
            ring.keep_notes(ring.memory().len() / NOTES_SHARE);
        }
        let frame_limits = FrameLimits {
            message_size_max: limits.message_size_max,
            text_size_max: limits.text_size_max,
            fragments_max: limits.fragments_max,
        };
        Shard {
            index,
            io,
            service,
            connections: Connections::new(limits.connections_max),
            timers: TimerWheel::new(limits.connections_max, now),
            promises: PromiseQueue::new(promise_count_max(limits.ring_size, limits.connections_max)),
            journal_is_finished: journal.is_none(),
            journal: journal.map(|config| ShardJournal::new(config, limits.ring_size, now)),
            has_requests: false,
            ring,
            epochs: EpochSource::new(boot, index as u16),
            claims: Claims::default(),
            mailbox,
            outboxes: shards.iter().map(|_| VecDeque::new()).collect(),
            shards,
            accepting: Accepting::Armed,
            waiting: VecDeque::new(),
            deferred: VecDeque::with_capacity(limits.connections_max),
            paused: Vec::with_capacity(receive::paused_max(&limits)),
            starved: Vec::with_capacity(limits.connections_max),
            unsent: VecDeque::with_capacity(limits.connections_max),
            draining: false,
            behind_since: None,
            limits,
            frame_limits,
            counters,
            stopwatch: Stopwatch::new(level),
        }
    }

    /// Turns until the shard has drained. An error means that its ring is unusable.
    pub fn run(&mut self) -> std::io::Result<()> {
        while self.turn()? == Turn::More {}
        // The last connections' closes are queued: without this their sockets would outlive the shard.
        self.io.submit(Wait::No)
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> std::io::Result<Turn> {
        // 1. Wait: what the last turn queued goes to the kernel, and completions gather for a bounded time.
        let wait = self.next_wait();
        self.io.submit(wait)?;
        let now = self.io.now();
        self.stopwatch.begin_turn(now.moment);
        self.ring.set_now(now);
        // 2. Reap and handle, a bounded number, so that receive buffers are recycled while they are in the cache and no socket
        //    starves the others. Audio goes into the frame ring here.
        self.reap(now);
        self.time_arrivals();
        // 3. Mail and time.
        self.read_mailbox(now);
        self.fire_timers(now);
        // 4. New calls, behind the live ones and within their budget; then what had to wait for room.
        self.judge_waiting(now);
        self.resume_deferred(now);
        self.time_arrivals();
        // 5. Seal and write.
        self.drive_journal(now)?;
        // 6. Acknowledge what the promise holds for.
        self.acknowledge(now);
        // 7. Arm again what ended, send what had no slot.
        self.retry(now);
        self.publish_counters(now);
        self.stopwatch.end_turn(self.io.now().moment);
        if !self.is_finished() {
            return Ok(Turn::More);
        }
        // The last sockets are closed by what this turn has queued.
        self.io.submit(Wait::No)?;
        Ok(Turn::Finished)
    }

    /// How long the next submit may wait.
    fn next_wait(&mut self) -> Wait {
        let has_mail = self.has_requests || self.outboxes.iter().any(|outbox| !outbox.is_empty());
        if self.behind_since.is_some()
            || !self.waiting.is_empty()
            || !self.unsent.is_empty()
            || has_mail
            || self.can_resume()
        {
            return Wait::No;
        }
        let mut next = self.timers.next_moment();
        if let Accepting::Paused(until) = self.accepting {
            next = Some(next.map_or(until, |next| next.min(until)));
        }
        if let Some(at) = self.journal.as_ref().and_then(ShardJournal::poll_timeout) {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
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
                None => {
                    self.behind_since = None;
                    return;
                }
            }
        }
        self.behind_since.get_or_insert(now.moment);
    }

    fn handle(&mut self, now: Now, completion: Completion) {
        let UserData { kind, index, generation } = completion.user_data;
        let id = ConnectionId { index, generation };
        match kind {
            OpKind::Receive => self.handle_receive(now, id, completion),
            OpKind::Send => self.handle_sent(now, id, completion.result),
            OpKind::SendRest => self.handle_rest_sent(now, id, completion.result),
            OpKind::Accept => self.handle_accept(now, completion),
            OpKind::ShutDown | OpKind::Cancel => self.handle_operation_done(now, id),
            OpKind::Wake => self.io.await_wake(UserData::lone(OpKind::Wake)),
            OpKind::Write | OpKind::Sync => self.handle_file_operation(now, kind, completion.result),
            // A close that fails (EIO of a dying driver) has still closed.
            OpKind::Close => {}
        }
    }

    fn read_mailbox(&mut self, now: Now) {
        for (shard, outbox) in self.shards.iter().zip(&mut self.outboxes) {
            while let Some(message) = outbox.pop_front() {
                if let Err(message) = shard.try_send(message) {
                    outbox.push_front(message);
                    break;
                }
            }
        }
        let mut found = 0;
        while let Some(message) = self.mailbox.try_receive() {
            found += 1;
            match message {
                Message::Claim { call, epoch, owner } => {
                    if let Some(loser) = self.claims.claim(call, epoch, owner) {
                        self.post(loser.shard, Message::Superseded { connection: loser.connection });
                    }
                }
                Message::Release { call, epoch } => self.claims.release(call, epoch),
                Message::Superseded { connection } => self.notify(now, connection, Notice::Superseded),
                Message::Keys(verifier) => self.service.handle_keys(verifier),
                Message::Drain { window } => self.start_drain(now, window),
                Message::Segment(segment) => self.with_journal(|journal| journal.handle_segment(segment)),
                Message::NoRoom => self.with_journal(ShardJournal::handle_no_room),
                Message::Reserve { is_low } => self.with_journal(|journal| journal.handle_reserve(is_low)),
                Message::Latencies(request) => self.stopwatch.answer(request),
            }
        }
        self.counters.mailbox_messages.add(found);
        self.counters.mailbox_found.set(found);
    }

    fn with_journal(&mut self, f: impl FnOnce(&mut ShardJournal)) {
        if let Some(journal) = &mut self.journal {
            f(journal);
        }
    }

    /// Sends a message to a shard (perhaps this one); keeps it for the next turn where its mailbox is full.
    fn post(&mut self, shard: usize, message: Message) {
        let outbox = &mut self.outboxes[shard];
        if !outbox.is_empty() {
            outbox.push_back(message);
        } else if let Err(message) = self.shards[shard].try_send(message) {
            outbox.push_back(message);
        }
    }

    fn owner(&self, connection: ConnectionId) -> Owner {
        Owner { shard: self.index, connection }
    }

    fn fire_timers(&mut self, now: Now) {
        // What a peer sent in time may still wait to be reaped: after the machine has stood still, everybody's has.
        if self.behind_since.is_some_and(|since| now.moment.since(since) < BACKLOG_TIME_MAX) {
            return;
        }
        while let Some(index) = self.timers.poll(now.moment) {
            if let Some(id) = self.connections.id_at(index) {
                self.handle_timer(now, id);
            }
        }
    }

    /// Tells the sessions whose frames are now promised, and sends what they make of it.
    fn acknowledge(&mut self, now: Now) {
        self.promises.begin_group(self.ring.sealed());
        let watermark = self.watermark();
        self.stopwatch.promised(watermark, now.moment);
        while let Some(Promise { handle: id, seq, since, .. }) = self.promises.pop_ready(watermark) {
            let acks = self.counters.acks.read();
            self.with_session(id, |session, context| session.handle_promise(now, seq, context));
            self.time_acks(id, since, self.counters.acks.read() - acks);
            self.settle(now, id);
        }
    }

    fn retry(&mut self, now: Now) {
        // Indexed, not taken: the lists keep their memory.
        for index in 0..self.starved.len() {
            let id = self.starved[index];
            let Some(connection) = self.connections.get(id) else { continue };
            connection.starved = false;
            if !self.deferred.is_empty() {
                // What waits for room holds receive buffers: a receive would only run out of them again. So it is we who do not
                // read this connection either.
                self.pause(now, id);
            }
            self.settle(now, id);
        }
        self.starved.clear();
        self.transmit_unsent(now);
        if let Accepting::Paused(until) = self.accepting
            && until <= now.moment
        {
            self.accepting = Accepting::Armed;
            self.io.accept(UserData::lone(OpKind::Accept));
        }
    }

    /// Calls `f` with the session of a connection, if it has one.
    fn with_session(&mut self, id: ConnectionId, f: impl FnOnce(&mut S::Session, &mut Context<'_>)) {
        let Shard { connections, ring, epochs, limits, counters, .. } = self;
        if let Some(connection) = connections.get(id)
            && let Stage::Open(open) = &mut connection.stage
        {
            f(&mut open.session, &mut Context { ring, epochs, limits, counters });
        }
    }

    fn notify(&mut self, now: Now, id: ConnectionId, notice: Notice) {
        self.with_session(id, |session, context| session.handle_notice(now, notice, context));
        self.settle(now, id);
    }

    /// Whether the frame ring surely takes `size` received bytes, whatever frames they make, and every call's end record.
    fn has_room(&self, size: usize) -> bool {
        self.ring.free_size() >= room_needed(size, self.connections.count())
    }

    fn publish_counters(&mut self, now: Now) {
        self.counters.turns.add(1);
        self.counters.system_calls.set(self.io.system_calls());
        self.counters.connections_open.set(self.connections.count() as u64);
        self.counters.ring_used_bytes.set(self.ring.used_size() as u64);
        self.counters.heads_waiting.set(self.waiting.len() as u64);
        self.counters.deferred_waiting.set(self.deferred.len() as u64);
        self.counters.unsent_waiting.set(self.unsent.len() as u64);
        self.counters.promises_waiting.set(self.promises.len() as u64);
        self.counters.outbox_waiting.set(self.outboxes.iter().map(VecDeque::len).sum::<usize>() as u64);
        self.counters.batches_sealed.set(self.ring.sealed_count());
        self.publish_journal_counters(now);
    }
}
