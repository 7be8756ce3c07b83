//! Received bytes: to the head buffer, or through the decoder to the session; or put off until the frame ring has room.
#![forbid(unsafe_code)]

use super::connections::{Connection, ConnectionId, EARLY_SIZE_MAX, Open, Receive, Stage};
use super::stopwatch::{Mark, Stopwatch};
use super::{Deferred, Shard};
use crate::clock::Now;
use crate::constants::{RECEIVE_BUFFER_SIZE, SHED_CONNECTIONS_MAX};
use crate::io::{Completion, Io, OpKind, Received};
use crate::limits::Limits;
use crate::proto::frame::{FrameLimits, WsEvent};
use crate::proto::handshake::{Answer, Refusal};
use crate::proto::http::HeadProgress;
use crate::session::{Context, Disconnect, Service, Session};
use rustix::io::Errno;

/// Bytes we read and drop from a connection that has ended, before it is cut. A peer that had megabytes under way when it was
/// refused still gets to read why; one that goes on sending does not keep us reading.
const DISCARDED_SIZE_MAX: u32 = 1024 * 1024;

impl<I: Io, S: Service> Shard<I, S> {
    pub(super) fn handle_receive(&mut self, now: Now, id: ConnectionId, completion: Completion) {
        let Some(connection) = self.connections.get(id) else {
            debug_assert!(false, "a slot is not freed while a receive is armed");
            completion.received.into_iter().for_each(|received| self.io.recycle(received));
            return;
        };
        if !completion.more {
            connection.receive = Receive::Idle;
        }
        match (completion.result, completion.received) {
            (Ok(_), Some(received)) => {
                self.counters.receives.add(1);
                self.handle_received(now, id, received);
            }
            (Ok(_), None) => self.handle_end(now, id, Disconnect::Finished),
            (Err(Errno::CANCELED), _) => {}
            (Err(Errno::NOBUFS), _) => {
                connection.starved = true;
                self.starved.push(id);
                self.counters.receive_buffers_exhausted.add(1);
            }
            (Err(_), _) => self.handle_end(now, id, Disconnect::Reset),
        }
        self.settle(now, id);
    }

    fn handle_received(&mut self, now: Now, id: ConnectionId, received: Received) {
        let must_wait = !self.deferred.is_empty() || !self.has_room(received.size());
        let Some(connection) = self.connections.get(id) else { return };
        if must_wait && matches!(connection.stage, Stage::Open(_)) {
            connection.deferred += 1;
            self.deferred.push_back(Deferred::Bytes(id, received, Mark::of(now.moment)));
            self.counters.receives_deferred.add(1);
            self.pause(now, id);
            return;
        }
        self.feed_received(now, id, received, Mark::of(now.moment));
    }

    /// Stops reading a connection until the frame ring has room: TCP pushes back.
    pub(super) fn pause(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.paused_since.is_some() {
            return;
        }
        connection.paused_since = Some(now.moment);
        self.forget_paused_gone();
        self.paused.push(id);
        self.cancel_receive(id);
        self.with_session(id, |session, _| session.handle_reading(now, false));
    }

    /// Where there is no place for another one, leaves out the paused connections that have gone: while the ring stays full, others
    /// come in their place. At least half of the places are free then.
    fn forget_paused_gone(&mut self) {
        let Shard { paused, connections, limits, .. } = self;
        if paused.len() == paused_max(limits) {
            paused.retain(|id| connections.get(*id).is_some_and(|connection| connection.paused_since.is_some()));
        }
    }

    pub(super) fn cancel_receive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.receive == Receive::Armed {
            connection.receive = Receive::Cancelling;
            connection.pending_operations += 1;
            self.io.cancel(id.user_data(OpKind::Receive), id.user_data(OpKind::Cancel));
        }
    }

    /// `reaped` is when the bytes came.
    fn feed_received(&mut self, now: Now, id: ConnectionId, received: Received, reaped: Mark) {
        let started = self.counters.calls_started.read();
        let Shard { io, connections, ring, epochs, limits, counters, frame_limits, stopwatch, .. } = self;
        if let Some(connection) = connections.get(id) {
            let bytes = connection.transport.open(io.received(&received));
            let mut context = Context { ring, epochs, limits, counters };
            match feed(connection, now, bytes, frame_limits, stopwatch, reaped, &mut context) {
                Fed::Nothing => {}
                Fed::HeadComplete => {
                    stopwatch.head_complete(&mut connection.timing, now.moment);
                    self.waiting.push_back(id);
                }
                Fed::HeadRefused(refusal) => self.service.handle_refusal(refusal, &self.counters),
            }
        }
        self.io.recycle(received);
        self.time_start(id, started);
        if self.connections.get(id).is_some_and(|connection| connection.early.len() >= EARLY_SIZE_MAX) {
            self.cancel_receive(id);
        }
    }

    /// The peer's direction has ended, or the connection is gone: noted behind the bytes that came before and still wait.
    pub(super) fn handle_end(&mut self, now: Now, id: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.deferred == 0 || connection.broken {
            return self.end(now, id, disconnect);
        }
        connection.deferred += 1;
        self.deferred.push_back(Deferred::End(id, disconnect));
    }

    /// Everything that came before has been handled.
    fn end(&mut self, now: Now, id: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.broken || (connection.fin_received && disconnect == Disconnect::Finished) {
            return;
        }
        match disconnect {
            Disconnect::Finished => connection.fin_received = true,
            Disconnect::Reset => connection.broken = true,
        }
        match &connection.stage {
            // Half a request: there is nothing to answer.
            Stage::Head(_) => connection.stage = Stage::Done,
            // Its session, should it get one, hears of it then.
            Stage::Waiting(_) => {}
            Stage::Open(_) => self.with_session(id, |session, context| session.handle_disconnect(now, disconnect, context)),
            Stage::Done => {}
        }
    }

    /// Handles what was put off, in order, as far as the frame ring has room; once nothing is left, reads all sockets again.
    pub(super) fn resume_deferred(&mut self, now: Now) {
        while let Some(next) = self.deferred.pop_front() {
            let (id, size) = next.demand();
            if self.needs_room(id) && !self.has_room(size) {
                self.deferred.push_front(next);
                self.pause(now, id);
                return;
            }
            if let Some(connection) = self.connections.get(id) {
                connection.deferred -= 1;
            }
            match next {
                Deferred::Bytes(_, received, reaped) => self.feed_received(now, id, received, reaped),
                Deferred::Early(_) => self.feed_early(now, id),
                Deferred::End(_, disconnect) => self.end(now, id, disconnect),
            }
            self.settle(now, id);
        }
        for index in 0..self.paused.len() {
            self.resume(now, self.paused[index]);
        }
        self.paused.clear();
    }

    /// Whether what was put off first can be handled now. Room that comes with the end of a turn has to be noticed: there may be
    /// nothing else to wake up for.
    pub(super) fn can_resume(&mut self) -> bool {
        let Some(next) = self.deferred.front() else { return false };
        let (id, size) = next.demand();
        !self.needs_room(id) || self.has_room(size)
    }

    fn needs_room(&mut self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|connection| matches!(connection.stage, Stage::Open(_)))
    }

    /// Reads a connection again that was paused.
    fn resume(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(since) = connection.paused_since.take() else { return };
        if let (Stage::Head(_), Some(deadline)) = (&connection.stage, &mut connection.deadline) {
            *deadline = *deadline + now.moment.since(since);
        }
        self.with_session(id, |session, _| session.handle_reading(now, true));
        self.settle(now, id);
    }

    /// Hands one buffer's worth of early bytes to the session that has been made meanwhile.
    fn feed_early(&mut self, now: Now, id: ConnectionId) {
        let started = self.counters.calls_started.read();
        let Shard { connections, ring, epochs, limits, counters, frame_limits, deferred, stopwatch, .. } = self;
        let Some(connection) = connections.get(id) else { return };
        let size = connection.early.len().min(RECEIVE_BUFFER_SIZE);
        let mut bytes = connection.early.split_to(size);
        let mut context = Context { ring, epochs, limits, counters };
        feed(connection, now, &mut bytes, frame_limits, stopwatch, Mark::of(now.moment), &mut context);
        if connection.early.is_empty() {
            // Gives the memory back: most connections never have early bytes.
            connection.early = bytes::BytesMut::new();
        } else {
            connection.deferred += 1;
            deferred.push_front(Deferred::Early(id));
        }
        self.time_start(id, started);
    }
}

/// Most paused connections that are noted, with those that have gone.
pub(super) fn paused_max(limits: &Limits) -> usize {
    2 * (limits.connections_max + SHED_CONNECTIONS_MAX)
}

impl Deferred {
    /// Whose it is, and for how many received bytes the frame ring has to have room.
    fn demand(&self) -> (ConnectionId, usize) {
        match self {
            Deferred::Bytes(id, received, _) => (*id, received.size()),
            Deferred::Early(id) => (*id, RECEIVE_BUFFER_SIZE),
            Deferred::End(id, _) => (*id, 0),
        }
    }
}

/// What came of bytes, beside what the connection knows itself.
enum Fed {
    Nothing,
    /// The request head is complete, and waits to be judged.
    HeadComplete,
    /// The request is answered already.
    HeadRefused(Refusal),
}

/// Hands bytes to whatever the connection is at.
fn feed<S: Session>(
    connection: &mut Connection<S>,
    now: Now,
    bytes: &mut [u8],
    frame_limits: &FrameLimits,
    stopwatch: &mut Stopwatch,
    reaped: Mark,
    context: &mut Context<'_>,
) -> Fed {
    match &mut connection.stage {
        Stage::Head(buffer) => {
            let (taken, progress) = buffer.push(bytes);
            match progress {
                HeadProgress::Incomplete => {}
                HeadProgress::Complete => {
                    connection.early.extend_from_slice(&bytes[taken..]);
                    connection.stage = Stage::Waiting(std::mem::take(buffer));
                    return Fed::HeadComplete;
                }
                HeadProgress::Refused(refusal) => {
                    connection.answer(Answer::refused(refusal, false));
                    return Fed::HeadRefused(refusal);
                }
            }
        }
        Stage::Waiting(_) => connection.early.extend_from_slice(bytes),
        Stage::Open(open) => {
            let mut time = DecodeTime { reaped, message_since: &mut connection.message_since, stopwatch };
            decode(open, now, bytes, frame_limits, &mut time, context);
        }
        Stage::Done => {
            connection.discarded = connection.discarded.saturating_add(bytes.len() as u32);
            connection.broken |= connection.discarded > DISCARDED_SIZE_MAX;
        }
    }
    Fed::Nothing
}

/// When the bytes that are being decoded came.
struct DecodeTime<'a> {
    reaped: Mark,
    message_since: &'a mut Mark,
    stopwatch: &'a mut Stopwatch,
}

impl DecodeTime<'_> {
    /// A piece has come; if it ends a message, since when that one has been coming.
    #[inline]
    fn since(&mut self, first: bool, last: bool) -> Option<Mark> {
        if first {
            *self.message_since = self.reaped;
        }
        last.then_some(*self.message_since)
    }
}

/// The hot loop: frames out of received bytes, into the session.
fn decode<S: Session>(
    open: &mut Open<S>,
    now: Now,
    bytes: &mut [u8],
    limits: &FrameLimits,
    time: &mut DecodeTime<'_>,
    context: &mut Context<'_>,
) {
    let this_turn = Mark::of(now.moment);
    let mut at = 0;
    while at < bytes.len() && !open.deaf {
        match open.decoder.decode(&mut bytes[at..], limits) {
            Ok((taken, event)) => {
                at += taken;
                match event {
                    Some(WsEvent::Data(piece)) => {
                        let since = time.since(piece.first, piece.last);
                        let frames = context.counters.frames.read();
                        open.session.handle_data(now, piece, context);
                        // Most frames come within a turn: they are counted at its end, all at once.
                        if let Some(since) = since
                            && since != this_turn
                            && context.counters.frames.read() > frames
                        {
                            time.stopwatch.frame_late(since);
                        }
                    }
                    Some(WsEvent::Control(control)) => open.session.handle_control(now, control, context),
                    None => {}
                }
            }
            Err(violation) => {
                open.deaf = true;
                open.session.handle_violation(now, violation, context);
            }
        }
    }
}
