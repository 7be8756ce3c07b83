//! Received bytes: they are fed to the connection, or deferred until the frame ring has room. Then
//! what follows from them is done.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId, Early, Stage};
use super::deferred::Deferred;
use super::ends::Ends;
use super::feed::{Fed, Feeder};
use super::timing::Micros32;
use super::tls::{TlsEnd, count_failure};
use crate::clock::Now;
use crate::constants::{RECEIVE_BUFFER_SIZE, room_needed};
use crate::io::{Completion, Io, Received};
use crate::session::{Context, Disconnect, Service, Session};
use crate::tls::TlsFailure;
use crate::transport::Transport;
use rustix::io::Errno;

impl<I: Io, S: Service> Shard<I, S> {
    pub(super) fn handle_receive(&mut self, now: Now, id: ConnectionId, completion: Completion) {
        let Some(connection) = self.connections.get(id) else {
            debug_assert!(false, "a slot is not freed while a receive is armed");
            completion.received.into_iter().for_each(|received| self.io.recycle(received));
            return;
        };
        if !completion.more {
            connection.reading.handle_receive_end();
        }
        match (completion.result, completion.received) {
            (Ok(_), Some(received)) => {
                self.counters.receives.add(1);
                let is_over_share = self.reads.handle_receive(id, received.size());
                let intake = self.handle_received(now, id, received);
                if intake == Intake::Deferred || is_over_share {
                    self.queue_read(now, id);
                }
            }
            (Ok(_), None) => self.handle_end(now, id, Disconnect::Finished),
            (Err(Errno::CANCELED), _) => {}
            (Err(Errno::NOBUFS), _) => {
                self.counters.receive_buffers_exhausted.add(1);
                self.queue_read(now, id);
            }
            (Err(_), _) => self.handle_end(now, id, Disconnect::Reset),
        }
        self.settle(now, id);
    }

    /// Feeds received bytes, or defers them. The caller queues a connection whose bytes are
    /// deferred, because what follows has to wait too.
    pub(super) fn handle_received(
        &mut self,
        now: Now,
        id: ConnectionId,
        received: Received,
    ) -> Intake {
        let Shard { connections, ring, deferred, counters, .. } = self;
        let count = connections.count();
        if let Some(connection) = connections.get(id)
            && matches!(connection.stage, Stage::Open(_))
        {
            let size = received.size() + connection.transport.waiting_size();
            if !deferred.is_empty() || ring.free_size() < room_needed(size, count) {
                let reaped = Micros32::of(now.moment);
                deferred.add(connection, Deferred::Bytes(id, received, reaped));
                counters.receives_deferred.add(1);
                return Intake::Deferred;
            }
        }
        self.feed_received(now, id, received, Micros32::of(now.moment));
        Intake::Taken
    }

    /// `reaped` is when the bytes came.
    fn feed_received(&mut self, now: Now, id: ConnectionId, received: Received, reaped: Micros32) {
        let Shard { io, connections, ring, epochs, counters, frame_limits, latency, .. } = self;
        let (mut fed, mut end, mut has_address) = (Fed::Nothing, None, false);
        let mut takes_bytes = true;
        if let Some(connection) = connections.get(id) {
            let mut bytes = io.received(&received);
            if connection.awaits_proxy {
                fed = connection.take_proxy_header(bytes);
                has_address = !connection.awaits_proxy;
                bytes = match fed {
                    Fed::ProxyHeader { taken } => &mut bytes[taken..],
                    _ => &mut [],
                };
            }
            if !bytes.is_empty() {
                let peer = Some(connection.origin.peer);
                let context = Context { ring, epochs, counters, peer };
                let mut feeder = Feeder { now, frame_limits, latency, reaped, context };
                (fed, end) = match (&connection.transport, &mut self.tls) {
                    (Transport::Plain, _) | (_, None) => (feeder.feed(connection, bytes), None),
                    (_, Some(tls)) => tls.feed(connection, id, bytes, &mut feeder),
                };
            }
            takes_bytes = connection.takes_bytes();
        }
        self.io.recycle(received);
        if has_address {
            self.meter_address(now, id);
        }
        if takes_bytes && matches!((fed, end), (Fed::Nothing, None)) {
            return;
        }
        self.follow(now, id, fed, end);
        if let Some(connection) = self.connections.get(id)
            && !connection.takes_bytes()
        {
            connection.cancel_receive(id, &mut self.io);
        }
    }

    /// Does what follows from bytes that were fed.
    pub(super) fn follow(&mut self, now: Now, id: ConnectionId, fed: Fed, end: Option<TlsEnd>) {
        match fed {
            Fed::Nothing | Fed::ProxyHeader { .. } => {}
            Fed::ProxyRefused(fault) => self.refuse_proxy(now, id, fault),
            Fed::HeadComplete => {
                if let Some(connection) = self.connections.get(id)
                    && let Stage::Waiting(head) = &connection.stage
                {
                    self.latency.handle_head(&mut connection.timing, now.moment);
                    self.admission.handle_head(id, head);
                }
            }
            Fed::HeadRefused(refusal) => self.note_refusal(now, id, refusal),
        }
        if let Some(end) = end {
            self.end_tls(now, id, end);
        }
    }

    /// The peer's direction has ended, or the connection is gone. That waits if bytes that came
    /// before still wait.
    pub(super) fn handle_end(&mut self, now: Now, id: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.deferred == 0 || connection.ends == Ends::Broken {
            return self.end(now, id, disconnect);
        }
        self.deferred.add(connection, Deferred::End(id, disconnect));
    }

    /// Everything that came before has been handled.
    fn end(&mut self, now: Now, id: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get(id) else { return };
        if !connection.ends.handle_disconnect(disconnect) {
            return;
        }
        match &connection.stage {
            // The handshake's last records may wait, and a request after them.
            Stage::Head(_) if connection.transport.is_queued() => {}
            // Half a request needs no answer.
            Stage::Head(_) if matches!(connection.transport, Transport::Handshake(_)) => {
                connection.give_up();
                count_failure(&self.counters, TlsFailure::HungUp);
            }
            Stage::Head(_) => connection.stage = Stage::Done,
            // If it gets a session, the session hears of it then.
            Stage::Waiting(_) => {}
            Stage::Open(_) => {
                self.with_session(id, |session, context| {
                    session.handle_disconnect(now, disconnect, context);
                });
            }
            Stage::Done => {}
        }
    }

    /// Handles what was deferred, in order, as far as the frame ring has room.
    pub(super) fn resume_deferred(&mut self, now: Now) {
        while let Some((id, size)) = self.deferred.first() {
            if !self.has_room(id, size) {
                return self.queue_read(now, id);
            }
            match self.deferred.poll(&mut self.connections) {
                Some(Deferred::Bytes(_, received, reaped)) => {
                    self.feed_received(now, id, received, reaped)
                }
                Some(Deferred::Early(_)) => self.feed_early(now, id),
                Some(Deferred::End(_, disconnect)) => self.end(now, id, disconnect),
                None => return,
            }
            self.settle(now, id);
        }
    }

    /// Whether what was deferred first can be handled now. Room that comes with the end of a turn
    /// has to be noticed: there may be nothing else to wake up for.
    pub(super) fn can_resume(&mut self) -> bool {
        self.deferred.first().is_some_and(|(id, size)| self.has_room(id, size))
    }

    /// Whether the frame ring surely takes `size` more bytes of a connection, whatever frames they
    /// make, and every call's end record. Bytes of a connection that is not open need no room.
    fn has_room(&mut self, id: ConnectionId, size: usize) -> bool {
        let count = self.connections.count();
        match self.connections.get(id) {
            Some(Connection { stage: Stage::Open(_), transport, .. }) => {
                self.ring.free_size() >= room_needed(size + transport.waiting_size(), count)
            }
            _ => true,
        }
    }

    /// Feeds early bytes to the session that has been made meanwhile, as many as fill a receive
    /// buffer.
    fn feed_early(&mut self, now: Now, id: ConnectionId) {
        let Shard { connections, ring, epochs, counters, frame_limits, deferred, latency, .. } =
            self;
        let Some(connection) = connections.get(id) else { return };
        let size = connection.early.len().min(RECEIVE_BUFFER_SIZE);
        let mut bytes = connection.early.split_to(size);
        let peer = Some(connection.origin.peer);
        let context = Context { ring, epochs, counters, peer };
        let reaped = Micros32::of(now.moment);
        Feeder { now, frame_limits, latency, reaped, context }.feed(connection, &mut bytes);
        if connection.early.is_empty() {
            // Gives the memory back: most connections never have early bytes.
            connection.early = Early::default();
        } else {
            deferred.add_first(connection, Deferred::Early(id));
        }
    }
}

/// What has become of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// They were fed.
    Taken,
    /// They wait until the frame ring has room.
    Deferred,
}
