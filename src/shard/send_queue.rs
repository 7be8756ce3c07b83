//! Connections that have something to send and wait for a free send slot, in the order in which
//! they came.
#![forbid(unsafe_code)]

use super::connections::{Connection, ConnectionId, Connections, Sending};
use crate::limits::Limits;
use std::collections::VecDeque;

/// The queue. The entries of connections that are gone stay until their turn comes.
#[derive(Debug)]
pub(super) struct SendQueue(VecDeque<ConnectionId>);

impl SendQueue {
    pub(super) fn new(limits: &Limits) -> Self {
        SendQueue(VecDeque::with_capacity(limits.connections_max))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a connection at the end.
    pub(super) fn add<S>(&mut self, id: ConnectionId, connection: &mut Connection<S>) {
        connection.sending = Sending::Queued;
        self.0.push_back(id);
    }

    /// Adds a connection that comes before all others.
    pub(super) fn add_first<S>(&mut self, id: ConnectionId, connection: &mut Connection<S>) {
        connection.sending = Sending::Queued;
        self.0.push_front(id);
    }

    /// Takes the first entry out, and returns its connection unless that is gone.
    pub(super) fn poll<S>(&mut self, connections: &mut Connections<S>) -> Option<ConnectionId> {
        let id = self.0.pop_front()?;
        let connection = connections.get(id)?;
        debug_assert_eq!(connection.sending, Sending::Queued);
        connection.sending = Sending::Idle;
        Some(id)
    }
}
