//! What a connection has to wait with until the frame ring has room. All connections wait in one
//! queue, in the order in which their bytes came.
#![forbid(unsafe_code)]

use super::connections::{Connection, ConnectionId, Connections};
use super::timing::Micros32;
use crate::constants::RECEIVE_BUFFER_SIZE;
use crate::io::Received;
use crate::limits::Limits;
use crate::session::Disconnect;
use std::collections::VecDeque;

/// Something that waits.
#[derive(Debug)]
pub(super) enum Deferred {
    /// Received bytes, and when they were reaped. They stay in their receive buffer, so the kernel
    /// runs out of buffers, and TCP pushes back.
    Bytes(ConnectionId, Received, Micros32),
    /// The connection's early bytes.
    Early(ConnectionId),
    /// The end of the connection's bytes.
    End(ConnectionId, Disconnect),
}

impl Deferred {
    /// Whose it is.
    fn connection(&self) -> ConnectionId {
        match self {
            Deferred::Bytes(id, ..) | Deferred::Early(id) | Deferred::End(id, _) => *id,
        }
    }

    /// For how many received bytes the frame ring has to have room.
    fn size(&self) -> usize {
        match self {
            Deferred::Bytes(_, received, _) => received.size(),
            Deferred::Early(_) => RECEIVE_BUFFER_SIZE,
            Deferred::End(..) => 0,
        }
    }
}

/// The queue. Each connection counts its own entries.
#[derive(Debug)]
pub(super) struct DeferredQueue(VecDeque<Deferred>);

impl DeferredQueue {
    pub(super) fn new(limits: &Limits) -> Self {
        DeferredQueue(VecDeque::with_capacity(limits.connections_max))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds an entry of a connection.
    pub(super) fn add<S>(&mut self, connection: &mut Connection<S>, entry: Deferred) {
        connection.deferred += 1;
        self.0.push_back(entry);
    }

    /// Adds an entry that comes before all others.
    pub(super) fn add_first<S>(&mut self, connection: &mut Connection<S>, entry: Deferred) {
        connection.deferred += 1;
        self.0.push_front(entry);
    }

    /// Whose entry is the first, and for how many received bytes the frame ring has to have room.
    pub(super) fn first(&self) -> Option<(ConnectionId, usize)> {
        self.0.front().map(|entry| (entry.connection(), entry.size()))
    }

    /// Takes the first entry out.
    pub(super) fn poll<S>(&mut self, connections: &mut Connections<S>) -> Option<Deferred> {
        let entry = self.0.pop_front()?;
        if let Some(connection) = connections.get(entry.connection()) {
            connection.deferred -= 1;
        }
        Some(entry)
    }
}
