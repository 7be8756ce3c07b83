//! The connections of a shard: a table of slots, and what is known of each connection.
//!
//! ```text
//!   Head ──head complete──► Waiting ──token good, 101──► Open ──session finished──► Done ──both sides ended──► slot free
//!    │  bad head, 408          │ refusal                                              ▲
//!    └─────────────────────────┴──────────────── HTTP answer ─────────────────────────┘
//! ```
//! A slot is freed only when nothing is under way on its socket any more: no completion can meet a stranger in it.
#![forbid(unsafe_code)]

use super::stopwatch::{Mark, Timing};
use crate::ack::PromiseTicket;
use crate::clock::Moment;
use crate::constants::SHED_CONNECTIONS_MAX;
use crate::io::user_data::GENERATION_COUNT;
use crate::io::{OpKind, SendSlot, Socket, UserData};
use crate::proto::frame::Decoder;
use crate::proto::handshake::{AcceptKey, Answer};
use crate::proto::http::HeadBuffer;
use crate::transport::Transport;
use bytes::BytesMut;
use std::net::SocketAddr;

/// A slot and its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The slot.
    pub index: u32,
    /// Counts the slot's tenants.
    pub generation: u32,
}

impl ConnectionId {
    /// For an operation of this connection.
    pub const fn user_data(self, kind: OpKind) -> UserData {
        UserData::new(kind, self.index, self.generation)
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Stage<S> {
    /// The request head is coming in.
    Head(HeadBuffer),
    /// The head is complete and waits for its turn to be judged.
    Waiting(HeadBuffer),
    /// Upgraded.
    Open(Open<S>),
    /// Nothing is taken in any more; what is still to be sent goes out, then the connection ends.
    Done,
}

/// The WebSocket side of an upgraded connection.
#[derive(Debug)]
pub struct Open<S> {
    /// The peer's frames.
    pub decoder: Decoder,
    /// What they mean.
    pub session: S,
    /// The peer broke the protocol: nothing more is decoded.
    pub deaf: bool,
}

/// Whether a receive is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// It is not.
    Idle,
    /// It is.
    Armed,
    /// It is being cancelled.
    Cancelling,
}

/// What is being sent. One send at a time: the order of bytes is the order of sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Sending {
    /// Nothing.
    Idle,
    /// This many bytes of a pooled slot, which completes at once.
    Slot(SendSlot, usize),
    /// What the socket had no room for; completes when it has.
    Rest,
}

/// An HTTP answer that has yet to go out, before anything of the session.
#[derive(Debug)]
pub enum Reply {
    /// 101.
    Switching(AcceptKey),
    /// Any other; the connection ends behind it.
    Final(Answer),
}

/// One connection.
#[derive(Debug)]
pub struct Connection<S> {
    /// Its socket.
    pub socket: Socket,
    /// The other end.
    pub peer: SocketAddr,
    /// What wraps its bytes.
    pub transport: Transport,
    /// How far it has come.
    pub stage: Stage<S>,
    /// Whether a receive is armed.
    pub receive: Receive,
    /// What is being sent.
    pub sending: Sending,
    /// What is to be sent first.
    pub reply: Option<Reply>,
    /// Bytes that came behind the request head before it was judged.
    pub early: BytesMut,
    /// End of the head, or of the wait for the peer to read our last bytes and send its FIN.
    pub deadline: Option<Moment>,
    /// When this call's turn to be drained comes.
    pub drain_at: Option<Moment>,
    /// Its last question to the promise queue.
    pub ticket: PromiseTicket,
    /// Entries of the shard's deferred queue that are its.
    pub deferred: u32,
    /// Shutdowns and cancels under way.
    pub pending_operations: u8,
    /// Bytes that came when nothing was taken in any more.
    pub discarded: u32,
    /// Since when we do not read because the frame ring is full.
    pub paused_since: Option<Moment>,
    /// The receive ended for want of buffers; armed again at the end of the turn.
    pub starved: bool,
    /// It waits for a free send slot.
    pub unsent: bool,
    /// The peer's FIN has come.
    pub fin_received: bool,
    /// Our FIN has gone out.
    pub shut_down: bool,
    /// The connection is of no more use: reset, failed, or given up by us.
    pub broken: bool,
    /// When the message under way began to come in.
    pub message_since: Mark,
    /// When else began what is measured.
    pub timing: Timing,
    /// There was no place for it: it is told so, and gone.
    pub is_shed: bool,
}

impl<S> Connection<S> {
    /// One that is accepted now, and whose head has to be complete at `deadline`.
    pub fn new(socket: Socket, peer: SocketAddr, now: Moment, deadline: Moment) -> Self {
        Connection {
            socket,
            peer,
            transport: Transport::Plain,
            stage: Stage::Head(HeadBuffer::default()),
            receive: Receive::Idle,
            sending: Sending::Idle,
            reply: None,
            early: BytesMut::new(),
            deadline: Some(deadline),
            drain_at: None,
            ticket: PromiseTicket::default(),
            deferred: 0,
            pending_operations: 0,
            discarded: 0,
            paused_since: None,
            starved: false,
            unsent: false,
            fin_received: false,
            shut_down: false,
            broken: false,
            message_since: Mark::default(),
            timing: Timing::accepted(now),
            is_shed: false,
        }
    }

    /// Whether everything that was to be sent has gone out.
    pub fn is_flushed(&self) -> bool {
        self.sending == Sending::Idle && self.reply.is_none()
    }

    /// Whether nothing is under way on the socket.
    pub fn is_quiet(&self) -> bool {
        self.receive == Receive::Idle && self.sending == Sending::Idle && self.pending_operations == 0 && self.deferred == 0
    }

    /// Whether the peer's bytes are wanted.
    pub fn wants_bytes(&self) -> bool {
        !self.fin_received
            && !self.broken
            && self.paused_since.is_none()
            && !self.starved
            && self.early.len() < EARLY_SIZE_MAX
    }
}

/// Most bytes behind a request head that wait with it, before we stop reading. A `start` and a second of audio fit.
pub const EARLY_SIZE_MAX: usize = 64 * 1024;

/// Generation 0 belongs to operations that have no slot ([`UserData::lone`]).
const FIRST_GENERATION: u32 = 1;

/// The table of slots.
#[derive(Debug)]
pub struct Connections<S> {
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    connections_max: usize,
    /// Of those in use, the ones that are shed.
    shed_count: usize,
}

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    connection: Option<Connection<S>>,
}

impl<S> Connections<S> {
    /// Bytes of the table that a connection takes up.
    pub const SLOT_SIZE: usize = size_of::<Slot<S>>();

    /// A table of at most `connections_max`, and beside them [`SHED_CONNECTIONS_MAX`] that are shed. Address space is reserved now, memory is touched as connections come.
    pub fn new(connections_max: usize) -> Self {
        Connections {
            slots: Vec::with_capacity(connections_max + SHED_CONNECTIONS_MAX),
            free: Vec::with_capacity(connections_max + SHED_CONNECTIONS_MAX),
            connections_max,
            shed_count: 0,
        }
    }

    /// Takes a slot; hands the connection back where there is none.
    #[allow(clippy::result_large_err, reason = "handed back to be turned away; the success path moves it anyway")]
    pub fn insert(&mut self, connection: Connection<S>) -> Result<ConnectionId, Connection<S>> {
        let has_room = match connection.is_shed {
            true => self.shed_count < SHED_CONNECTIONS_MAX,
            false => self.count() - self.shed_count < self.connections_max,
        };
        if !has_room {
            return Err(connection);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: FIRST_GENERATION, connection: None });
            self.slots.len() as u32 - 1
        });
        self.shed_count += usize::from(connection.is_shed);
        let slot = &mut self.slots[index as usize];
        slot.connection = Some(connection);
        Ok(ConnectionId { index, generation: slot.generation })
    }

    /// Frees a slot.
    pub fn remove(&mut self, id: ConnectionId) {
        if let Some(connection) = self.get(id) {
            self.shed_count -= usize::from(connection.is_shed);
            let slot = &mut self.slots[id.index as usize];
            slot.connection = None;
            slot.generation = match (slot.generation + 1) % GENERATION_COUNT {
                0 => FIRST_GENERATION,
                generation => generation,
            };
            self.free.push(id.index);
        }
    }

    /// The connection, unless its slot has been freed since.
    #[inline]
    pub fn get(&mut self, id: ConnectionId) -> Option<&mut Connection<S>> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.connection.as_mut()
    }

    /// The tenant of a slot now.
    pub fn id_at(&self, index: u32) -> Option<ConnectionId> {
        let slot = self.slots.get(index as usize)?;
        slot.connection.as_ref()?;
        Some(ConnectionId { index, generation: slot.generation })
    }

    /// Every slot in use.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        (0..self.slots.len() as u32).filter_map(|index| self.id_at(index))
    }

    /// Number of slots in use.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection<()> {
        Connection::new(Socket(3), "127.0.0.1:1".parse().unwrap(), Moment::ZERO, Moment::ZERO)
    }

    #[test]
    fn a_freed_slot_does_not_answer_to_its_old_name() {
        let mut connections = Connections::new(2);
        let first = connections.insert(connection()).unwrap();
        let second = connections.insert(connection()).unwrap();
        assert!(connections.insert(connection()).is_err());
        connections.remove(first);
        connections.remove(first);
        let third = connections.insert(connection()).unwrap();
        assert_eq!(third.index, first.index);
        assert!(connections.get(first).is_none() && connections.get(third).is_some());
        assert_eq!(connections.ids().collect::<Vec<_>>(), [third, second]);
        assert_eq!(connections.count(), 2);
    }

    #[test]
    fn those_who_are_shed_take_no_place_from_others_nor_others_from_them() {
        let shed = || Connection { is_shed: true, ..connection() };
        let mut connections = Connections::new(2);
        let shed_ids: Vec<_> = (0..SHED_CONNECTIONS_MAX).map(|_| connections.insert(shed()).unwrap()).collect();
        assert!(connections.insert(shed()).is_err());
        let served = [(); 2].map(|()| connections.insert(connection()).unwrap());
        assert!(connections.insert(connection()).is_err());
        connections.remove(served[0]);
        assert!(connections.insert(shed()).is_err());
        connections.remove(shed_ids[0]);
        connections.remove(shed_ids[0]);
        connections.insert(connection()).unwrap();
        assert!(connections.insert(connection()).is_err());
        connections.insert(shed()).unwrap();
        assert_eq!(connections.count(), 2 + SHED_CONNECTIONS_MAX);
    }

    #[test]
    fn a_connection_without_its_session_is_small() {
        // Of the kilobyte a connected call may cost, this leaves more than half to the session and the ids.
        assert!(size_of::<Connection<()>>() <= 512, "{}", size_of::<Connection<()>>());
    }
}
