//! The connections of a shard: a table of slots, and what is known of each connection.
//!
//! ```text
//!   Head ──head complete──► Waiting ──token good, 101──► Open ──session finished──► Done
//!    │  bad head, 408          │ refusal                                             ▲  │
//!    └─────────────────────────┴──────────────── HTTP answer ────────────────────────┘  │
//!                                                        slot free ◄──both sides ended──┘
//! ```
//! A slot is freed only when nothing is under way on its socket any more. So no completion can meet
//! the next connection of its slot.
#![forbid(unsafe_code)]

use super::ends::Ends;
use super::reading::{Lane, Reading};
use super::standing::Standing;
use super::timing::{Micros32, Timing};
use crate::ack::PromiseTicket;
use crate::address::PeerAddress;
use crate::clock::Moment;
use crate::constants::visitors_max;
use crate::io::user_data::GENERATION_COUNT;
use crate::io::{OpKind, SendSlot, Socket, UserData};
use crate::proto::frame::Decoder;
use crate::proto::handshake::{AcceptKey, Answer};
use crate::proto::http::HeadBuffer;
use crate::proto::trace::Trace;
use crate::transport::Transport;
use bytes::BytesMut;

/// A slot, and which of its connections is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The slot.
    pub(crate) index: u32,
    /// Counts the connections that have had the slot.
    pub(crate) generation: u32,
}

impl ConnectionId {
    /// For an operation of this connection.
    pub(crate) const fn user_data(self, kind: OpKind) -> UserData {
        UserData::new(kind, self.index, self.generation)
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub(crate) enum Stage<S> {
    /// The request head is coming in.
    Head(HeadBuffer),
    /// The head is complete and waits for its turn to be judged.
    Waiting(HeadBuffer),
    /// Upgraded.
    Open(Open<S>),
    /// Nothing more is taken in. What is still to be sent goes out, then the connection ends.
    Done,
}

/// The WebSocket side of an upgraded connection.
#[derive(Debug)]
pub(crate) struct Open<S> {
    /// The peer's frames.
    pub(crate) decoder: Decoder,
    /// What they mean.
    pub(crate) session: S,
    /// The peer broke the protocol: nothing more is decoded.
    pub(crate) deaf: bool,
}

/// What is being sent: one send at a time, so the order of sends is the order of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    /// Nothing.
    Idle,
    /// Nothing; the connection waits for a free slot.
    Queued,
    /// This many bytes of a pooled slot, which completes at once.
    Slot(SendSlot, usize),
    /// What the socket had no room for; completes when it has.
    Rest,
}

/// An HTTP answer that has yet to go out. It goes before all bytes of the session.
#[derive(Debug)]
pub(crate) enum Reply {
    /// 101.
    Switching(AcceptKey),
    /// Any other. The connection ends after it.
    Final(Answer),
}

/// Where a connection comes from, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The other end: the socket's, or what the PROXY header says.
    pub(crate) peer: PeerAddress,
    /// `traceparent` of the upgrade request. Boxed: few calls have one.
    pub(crate) trace: Option<Box<Trace>>,
}

/// Bytes that wait for a while at the start of a connection. They have memory only while there are
/// some.
#[derive(Debug, Default)]
pub(crate) struct Early(Option<Box<BytesMut>>);

impl Early {
    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.as_deref().map_or(0, BytesMut::len)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |bytes| bytes)
    }

    /// Adds bytes at the end.
    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().extend_from_slice(bytes);
        }
    }

    /// Takes bytes from the front, all of them at most.
    pub(crate) fn split_to(&mut self, size: usize) -> BytesMut {
        match &mut self.0 {
            Some(bytes) => bytes.split_to(size.min(bytes.len())),
            None => BytesMut::new(),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection<S> {
    /// Its socket.
    pub(crate) socket: Socket,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// What wraps its bytes.
    pub(crate) transport: Transport,
    /// How far it has come.
    pub(crate) stage: Stage<S>,
    /// How its bytes are read.
    pub(crate) reading: Reading,
    /// What is being sent.
    pub(crate) sending: Sending,
    /// What is to be sent first. Boxed: an answer is there for a moment, its place in the table for
    /// ever.
    pub(crate) reply: Option<Box<Reply>>,
    /// A PROXY header while it comes in. Later, bytes that came after the request head and before
    /// that was judged.
    pub(crate) early: Early,
    /// End of the head, or of the wait for the peer to read our last bytes and send its FIN.
    pub(crate) deadline: Option<Moment>,
    /// When this call is to be closed in a drain.
    pub(crate) drain_at: Option<Moment>,
    /// Its last question to the promise queue.
    pub(crate) ticket: PromiseTicket,
    /// Number of its entries in the shard's deferred queue.
    pub(crate) deferred: u32,
    /// Shutdowns and cancels under way.
    pub(crate) pending_operations: u8,
    /// Bytes that came when nothing was taken in any more.
    pub(crate) discarded: u32,
    /// Which side has ended it.
    pub(crate) ends: Ends,
    /// When the message under way began to come in.
    pub(crate) message_since: Micros32,
    /// When the other things began that are measured.
    pub(crate) timing: Timing,
    /// Whether it may have to give way, and in which order.
    pub(crate) standing: Standing,
    /// It begins with a PROXY header, which is not complete.
    pub(crate) awaits_proxy: bool,
    /// Its address makes more connections than it may.
    pub(crate) is_over_rate: bool,
    /// It was answered 101.
    pub(crate) is_upgraded: bool,
}

impl<S> Connection<S> {
    /// One that is accepted now from `peer`, and whose head has to be complete at `deadline`.
    pub(crate) fn new(socket: Socket, peer: PeerAddress, now: Moment, deadline: Moment) -> Self {
        Connection {
            socket,
            origin: Origin { peer, trace: None },
            transport: Transport::Plain,
            stage: Stage::Head(HeadBuffer::default()),
            reading: Reading::Idle,
            sending: Sending::Idle,
            reply: None,
            early: Early::default(),
            deadline: Some(deadline),
            drain_at: None,
            ticket: PromiseTicket::default(),
            deferred: 0,
            pending_operations: 0,
            discarded: 0,
            ends: Ends::Open,
            message_since: Micros32::default(),
            timing: Timing::accepted(now),
            standing: Standing::Settled,
            awaits_proxy: false,
            is_over_rate: false,
            is_upgraded: false,
        }
    }

    /// Whether a send is under way.
    pub(crate) fn is_sending(&self) -> bool {
        matches!(self.sending, Sending::Slot(..) | Sending::Rest)
    }

    /// Whether everything that was to be sent has gone out.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.is_sending() && self.reply.is_none() && !self.transport.has_output()
    }

    /// Whether nothing is under way on the socket.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.reading.is_under_way()
            && !self.is_sending()
            && self.pending_operations == 0
            && self.deferred == 0
    }

    /// What its bytes need now.
    pub(crate) fn lane(&self) -> Lane {
        match self.stage {
            Stage::Open(_) => Lane::Calls,
            Stage::Head(_) | Stage::Waiting(_) | Stage::Done => Lane::Others,
        }
    }

    /// Whether bytes of the peer still have a use.
    pub(crate) fn takes_bytes(&self) -> bool {
        self.ends.is_readable()
            && self.early.len() < EARLY_SIZE_MAX
            && self.discarded <= DISCARDED_SIZE_MAX
            && self.transport.takes_bytes()
    }
}

/// Most bytes after a request head that wait with it, before we stop reading. A `start` and a
/// second of audio fit.
pub(crate) const EARLY_SIZE_MAX: usize = 64 * 1024;

/// Bytes we read and drop from a connection that has ended, before we stop reading. So a peer that
/// had megabytes under way when it was refused can read the reason, and a peer that goes on sending
/// does not keep us reading. Its connection is not cut then, because a reset would overtake the
/// reason. The wait for its FIN ends the connection.
pub(crate) const DISCARDED_SIZE_MAX: u32 = 1024 * 1024;

/// Generation 0 belongs to operations that have no slot ([`UserData::lone`]).
const FIRST_GENERATION: u32 = 1;

/// The table of slots.
#[derive(Debug)]
pub struct Connections<S> {
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    places: usize,
    /// Connections that were answered 101.
    upgraded_count: usize,
}

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    connection: Option<Connection<S>>,
}

impl<S> Connections<S> {
    /// Bytes of the table that a connection takes up.
    pub const SLOT_SIZE: usize = size_of::<Slot<S>>();

    /// A table with places for `connections_max` upgraded connections and the requests beside them.
    /// Address space is reserved now, memory is touched as connections come.
    pub fn new(connections_max: usize) -> Self {
        let places = connections_max + visitors_max(connections_max);
        let (slots, free) = (Vec::with_capacity(places), Vec::with_capacity(places));
        Connections { slots, free, places, upgraded_count: 0 }
    }

    /// Takes a slot; hands the connection back where there is none.
    #[allow(
        clippy::result_large_err,
        reason = "handed back to be turned away; the success path moves it anyway"
    )]
    pub(crate) fn insert(
        &mut self,
        connection: Connection<S>,
    ) -> Result<ConnectionId, Connection<S>> {
        if self.free_count() == 0 {
            return Err(connection);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: FIRST_GENERATION, connection: None });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.connection = Some(connection);
        Ok(ConnectionId { index, generation: slot.generation })
    }

    /// Frees a slot.
    pub fn remove(&mut self, id: ConnectionId) {
        if let Some(connection) = self.get(id) {
            self.upgraded_count -= usize::from(connection.is_upgraded);
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

    /// The connection that has a slot now.
    pub fn id_at(&self, index: u32) -> Option<ConnectionId> {
        let slot = self.slots.get(index as usize)?;
        slot.connection.as_ref()?;
        Some(ConnectionId { index, generation: slot.generation })
    }

    /// Every slot in use.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        (0..self.slots.len() as u32).filter_map(|index| self.id_at(index))
    }

    /// Memory of the slots that were ever used, bytes. The others have no pages.
    pub(crate) fn memory_size(&self) -> usize {
        self.slots.len() * Self::SLOT_SIZE
    }

    /// Number of slots that are or have been in use.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Number of slots in use.
    pub(crate) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many more connections there is a place for.
    pub(crate) fn free_count(&self) -> usize {
        self.places - self.count()
    }

    /// A connection was answered 101. Until its slot is freed, its session takes a place that
    /// requests cannot have.
    pub fn upgrade(&mut self, id: ConnectionId) {
        if let Some(connection) = self.get(id)
            && !std::mem::replace(&mut connection.is_upgraded, true)
        {
            self.upgraded_count += 1;
        }
    }

    /// Number of connections that were answered 101.
    pub(crate) fn upgraded_count(&self) -> usize {
        self.upgraded_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection<()> {
        let peer = PeerAddress::from(core::net::SocketAddr::from(([198, 51, 100, 7], 4000)));
        Connection::new(Socket(3), peer, Moment::ZERO, Moment::ZERO)
    }

    #[test]
    fn a_freed_slot_does_not_answer_to_its_old_name() {
        let mut connections = Connections::new(2);
        let places = 2 + visitors_max(2);
        let ids: Vec<_> = (0..places).map(|_| connections.insert(connection()).unwrap()).collect();
        assert!(connections.insert(connection()).is_err());
        connections.remove(ids[0]);
        connections.remove(ids[0]);
        let next = connections.insert(connection()).unwrap();
        assert_eq!(next.index, ids[0].index);
        assert!(connections.get(ids[0]).is_none() && connections.get(next).is_some());
        assert_eq!(connections.ids().take(2).collect::<Vec<_>>(), [next, ids[1]]);
        assert_eq!((connections.count(), connections.free_count()), (places, 0));
    }

    #[test]
    fn upgraded_connections_are_counted_once_each() {
        let mut connections = Connections::new(2);
        let [first, second] = [(); 2].map(|()| connections.insert(connection()).unwrap());
        [first, first, second].into_iter().for_each(|id| connections.upgrade(id));
        assert_eq!(connections.upgraded_count(), 2);
        connections.remove(first);
        connections.remove(first);
        connections.upgrade(first);
        assert_eq!(connections.upgraded_count(), 1);
        let next = connections.insert(connection()).unwrap();
        assert_eq!((next.index, connections.upgraded_count()), (first.index, 1));
    }

    #[test]
    fn early_bytes_come_out_as_they_went_in() {
        let mut early = Early::default();
        early.extend_from_slice(b"");
        assert!(early.0.is_none() && early.split_to(7).is_empty());
        early.extend_from_slice(b"abc");
        early.extend_from_slice(b"de");
        assert_eq!(
            (&early.split_to(2)[..], early.bytes(), early.len()),
            (&b"ab"[..], &b"cde"[..], 3)
        );
        assert_eq!((&early.split_to(7)[..], early.is_empty()), (&b"cde"[..], true));
    }

    #[test]
    fn a_connection_without_its_session_is_small() {
        // Of the kilobyte a connected call may cost, this leaves more than half to the session and
        // the ids.
        assert!(size_of::<Connection<()>>() <= 512, "{}", size_of::<Connection<()>>());
    }
}
