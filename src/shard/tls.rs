//! TLS connections of a shard: handshakes within a budget, received records, and the end of TLS.
//! `transmit` seals the records that are sent.
//!
//! ```text
//!   Undecided ─0x16─► Handshake ──queued, stepped after the live calls──► Records
//!        └─else─► Plain   └─ failed, or not in time: its flight, then FIN     └─ alert, then FIN
//! ```
//! While a handshake waits for its turn, no timer of the peer runs.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId, Early, Stage};
use super::ends::Ends;
use super::feed::{Fed, Feeder};
use super::timing::Micros32;
use crate::clock::{Moment, Now};
use crate::io::Io;
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::session::{Context, Disconnect, Service, Session};
use crate::tls::client_auth::client_name;
use crate::tls::handshake::FIRST_BYTE;
use crate::tls::{
    Handshake, Handshaken, Opened, Place, Progress, ServerConfig, SpillPool, TlsFailure,
};
use crate::transport::Transport;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Most time that handshakes take of a turn, the last of them aside: as long as a turn may gather
/// completions. A signature with RSA-2048 takes a millisecond, one with P-256 a thirtieth of that.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_millis(2);

/// What a shard has for TLS.
#[derive(Debug)]
pub(super) struct ShardTls {
    /// For handshakes that begin from now on.
    config: Arc<ServerConfig>,
    spills: SpillPool,
    /// Handshakes that have something to do, and since when each of them has.
    waiting: VecDeque<(ConnectionId, Moment)>,
}

/// How a TLS connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum TlsEnd {
    /// The peer said so: `close_notify`.
    Closed,
    Failed(TlsFailure),
}

impl ShardTls {
    pub(super) fn new(config: Arc<ServerConfig>, limits: &Limits) -> Self {
        let spills = SpillPool::new(limits.spill_buffers);
        ShardTls { config, spills, waiting: VecDeque::with_capacity(limits.connections_max) }
    }

    /// New connections shake hands with `config` from now on. A port that was started plain stays
    /// so.
    pub(crate) fn handle_config(&mut self, config: Arc<ServerConfig>) {
        self.config = config;
    }

    /// Whether handshakes wait for their turn.
    pub(crate) fn has_handshakes(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives back the buffer of a record that has not come whole.
    pub(crate) fn free_spill<S>(&mut self, connection: &mut Connection<S>) {
        if let Transport::Records(records) = &mut connection.transport {
            records.give_up(&mut self.spills);
        }
    }

    pub(super) fn publish(&self, counters: &Counters) {
        counters.tls_handshakes_waiting.set(self.waiting.len() as u64);
        counters.tls_spills.set(self.spills.taken());
        counters.tls_spill_buffers_used.set(self.spills.used() as u64);
    }

    /// Memory of the spill buffers that were ever used, bytes.
    pub(super) fn memory_size(&self) -> usize {
        self.spills.memory_size()
    }

    /// Whether it holds nothing of any connection.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.spills.used() == 0 && self.waiting.is_empty()
    }

    /// Takes received bytes of a connection that is not known to be plain.
    pub(crate) fn feed<S: Session>(
        &mut self,
        connection: &mut Connection<S>,
        id: ConnectionId,
        bytes: &mut [u8],
        feeder: &mut Feeder<'_>,
    ) -> (Fed, Option<TlsEnd>) {
        if matches!(connection.transport, Transport::Undecided) {
            connection.transport = match bytes.first() {
                Some(&FIRST_BYTE) => Transport::Handshake(Box::default()),
                _ => Transport::Plain,
            };
        }
        match &mut connection.transport {
            Transport::Handshake(handshake) if matches!(connection.stage, Stage::Head(_)) => {
                handshake.push(bytes);
                self.queue(id, handshake, feeder.now.moment);
                (Fed::Nothing, None)
            }
            Transport::Records(_) if takes_payload(&connection.stage) => {
                self.open(connection, bytes, feeder)
            }
            // Bytes that are dropped need not be opened.
            Transport::Handshake(_) | Transport::Records(_) => {
                connection.discarded = connection.discarded.saturating_add(bytes.len() as u32);
                (Fed::Nothing, None)
            }
            Transport::Plain | Transport::Undecided => (feeder.feed(connection, bytes), None),
        }
    }

    /// Queues a handshake that has something to do. One that has begun goes first: its work is
    /// small, and frees memory.
    fn queue(&mut self, id: ConnectionId, handshake: &mut Handshake, now: Moment) {
        if handshake.is_queued || !handshake.has_work() {
            return;
        }
        handshake.is_queued = true;
        match handshake.has_begun() {
            true => self.waiting.push_front((id, now)),
            false => self.waiting.push_back((id, now)),
        }
    }

    /// Opens records, and feeds their payload in order.
    fn open<S: Session>(
        &mut self,
        connection: &mut Connection<S>,
        bytes: &mut [u8],
        feeder: &mut Feeder<'_>,
    ) -> (Fed, Option<TlsEnd>) {
        let mut at = 0;
        let mut all = Fed::Nothing;
        loop {
            let is_call = matches!(connection.stage, Stage::Open(_));
            let Transport::Records(records) = &mut connection.transport else { return (all, None) };
            let opened = records.open(bytes, &mut at, &mut self.spills, is_call);
            let fed = match opened {
                Ok(Some(Opened::Data(Place::Chunk(range)))) => {
                    feeder.feed(connection, &mut bytes[range])
                }
                Ok(Some(Opened::Data(Place::Spill(spill, range)))) => {
                    let fed = feeder.feed(connection, &mut self.spills.bytes(&spill)[range]);
                    self.spills.release(spill);
                    fed
                }
                other => {
                    feeder.context.counters.tls_key_updates.add(records.take_updates());
                    let end = match other {
                        Ok(Some(_)) => Some(TlsEnd::Closed),
                        Ok(None) => None,
                        Err(failure) => Some(TlsEnd::Failed(failure)),
                    };
                    return (all, end);
                }
            };
            if !matches!(fed, Fed::Nothing) {
                all = fed;
            }
        }
    }
}

/// Whether payload has a use.
fn takes_payload<S: Session>(stage: &Stage<S>) -> bool {
    match stage {
        Stage::Head(_) | Stage::Waiting(_) => true,
        Stage::Open(open) => !open.session.is_deaf(),
        Stage::Done => false,
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Steps handshakes, as many as one turn may, in number and in time: live calls come first.
    pub(super) fn shake_hands(&mut self, now: Now) {
        if !self.tls.as_ref().is_some_and(ShardTls::has_handshakes) {
            return;
        }
        let end = self.io.now().moment + HANDSHAKE_TIME_MAX;
        for _ in 0..self.limits.handshakes_per_turn {
            let Some((id, since)) = self.tls.as_mut().and_then(|tls| tls.waiting.pop_front())
            else {
                return;
            };
            self.step_handshake(now, id, since);
            self.settle(now, id);
            if self.io.now().moment >= end {
                return;
            }
        }
    }

    fn step_handshake(&mut self, now: Now, id: ConnectionId, since: Moment) {
        let Shard { connections, tls: Some(tls), .. } = self else { return };
        let Some(connection) = connections.get(id) else { return };
        let Transport::Handshake(handshake) = &mut connection.transport else { return };
        handshake.is_queued = false;
        if !matches!(connection.stage, Stage::Head(_)) {
            return;
        }
        if connection.ends == Ends::Broken {
            connection.give_up();
            return count_failure(&self.counters, TlsFailure::HungUp);
        }
        if let Some(deadline) = &mut connection.deadline {
            *deadline = *deadline + now.moment.since(since);
        }
        match handshake.step(&tls.config) {
            Progress::Incomplete => {}
            Progress::Complete(handshaken) => {
                let Handshaken { mut records, rest, is_resumed, client } = *handshaken;
                records.client = client.and_then(|der| client_name(&der)).map(Box::new);
                connection.transport = Transport::Records(records);
                match is_resumed {
                    true => self.counters.tls_handshakes_resumed.add(1),
                    false => self.counters.tls_handshakes_full.add(1),
                }
                self.feed_rest(now, id, rest);
            }
            Progress::Failed(failure) => {
                connection.give_up();
                count_failure(&self.counters, failure);
            }
        }
        // The peer has ended its side while its last records waited.
        if let Some(connection) = self.connections.get(id)
            && matches!(connection.stage, Stage::Head(_))
            && connection.ends.is_finished_by_peer()
        {
            connection.give_up();
            count_failure(&self.counters, TlsFailure::HungUp);
        }
    }

    /// Feeds what came after the end of a handshake, before that end was handled.
    fn feed_rest(&mut self, now: Now, id: ConnectionId, mut rest: Vec<u8>) {
        let Shard { connections, ring, epochs, counters, frame_limits, latency, .. } = self;
        let (Some(connection), Some(tls)) = (connections.get(id), &mut self.tls) else { return };
        let peer = Some(connection.origin.peer);
        let context = Context { ring, epochs, counters, peer };
        let reaped = Micros32::of(now.moment);
        let mut feeder = Feeder { now, frame_limits, latency, reaped, context };
        let (fed, end) = tls.open(connection, &mut rest, &mut feeder);
        self.follow(now, id, fed, end);
    }

    /// The TLS connection has ended, but the socket has not.
    pub(super) fn end_tls(&mut self, now: Now, id: ConnectionId, end: TlsEnd) {
        let failure = match end {
            // It means the end of the peer's bytes. What still comes is dropped.
            TlsEnd::Closed => return self.handle_end(now, id, Disconnect::Finished),
            TlsEnd::Failed(failure) => failure,
        };
        count_failure(&self.counters, failure);
        let Some(connection) = self.connections.get(id) else { return };
        match connection.stage {
            // No answer can reach the peer.
            Stage::Head(_) | Stage::Waiting(_) => connection.give_up(),
            Stage::Open(_) => {
                connection.reply = None;
                self.with_session(id, |session, context| {
                    session.handle_disconnect(now, Disconnect::Reset, context);
                });
            }
            Stage::Done => {}
        }
    }
}

pub(super) fn count_failure(counters: &Counters, failure: TlsFailure) {
    counters.tls_failures[failure.index()].add(1);
}

impl<S> Connection<S> {
    /// Takes nothing more in and answers nothing. What the transport has to send goes out, then the
    /// connection ends.
    pub(super) fn give_up(&mut self) {
        self.reply = None;
        self.stage = Stage::Done;
        self.deadline = None;
        self.early = Early::default();
        if let Transport::Handshake(handshake) = &mut self.transport {
            handshake.abandon();
        }
    }
}
