//! What goes out, and how a connection ends.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId, Receive, Reply, Sending, Stage};
use super::mailbox::Message;
use crate::ack::Promise;
use crate::clock::{Moment, Now};
use crate::io::{Io, OpKind};
use crate::proto::handshake::{ANSWER_SIZE_MAX, Answer, Refusal, write_switching_protocols};
use crate::session::{Action, Disconnect, Notice, Output, Service, Session, Summary};
use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use std::time::Duration;

/// How long a peer has, after our FIN, to send its own before the socket is closed on it. Closing at once would reset the
/// connection if bytes were still coming, and a reset overtakes what we said last.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// A session is asked for output only where at least this much fits: the least it is promised.
const OUTPUT_ROOM_MIN: usize = 256;

impl<I: Io, S: Service> Shard<I, S> {
    /// Does what follows from whatever has just happened to a connection. Called after every event; cheap when nothing does.
    pub(super) fn settle(&mut self, now: Now, id: ConnectionId) {
        self.drain_session(now, id);
        self.transmit(now, id);
        self.settle_the_rest(now, id);
    }

    /// What follows once there is nothing to be transmitted, or it is under way.
    fn settle_the_rest(&mut self, now: Now, id: ConnectionId) {
        self.end_if_finished(now, id);
        let Some(connection) = self.connections.get(id) else { return };
        if connection.receive == Receive::Idle && connection.wants_bytes() {
            connection.receive = Receive::Armed;
            self.io.receive(connection.socket, id.user_data(OpKind::Receive));
            self.counters.receives_armed.add(1);
        }
        let deadline = match &connection.stage {
            // Given up already: what is under way on it ends by itself, and a deadline that has passed would fire for ever.
            _ if connection.broken => None,
            // The time in which we do not read is added to the deadline when we do again.
            Stage::Head(_) if connection.paused_since.is_some() => None,
            Stage::Head(_) | Stage::Done => connection.deadline,
            Stage::Waiting(_) => None,
            Stage::Open(open) => earliest(earliest(open.session.poll_timeout(), connection.drain_at), connection.deadline),
        };
        self.timers.set_at_most(id.index, deadline);
    }

    fn drain_session(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Stage::Open(open) = &mut connection.stage else { return };
        if let Some(seq) = open.session.poll_promise() {
            let promise = Promise { position: self.ring.head(), handle: id, seq, since: now.moment };
            // A batch may have sealed itself in this turn: who asked about it is not to wait for the next one.
            self.promises.begin_group(self.ring.sealed());
            if let Some(journal) = &mut self.journal {
                journal.handle_promise(promise.position);
            }
            // Full of promises to calls that came and went while the disk stood still: this one cannot be kept.
            if self.promises.push(promise, &mut connection.ticket).is_err() {
                self.with_session(id, |session, context| session.handle_notice(now, Notice::Storage, context));
            }
        }
        while let Some(connection) = self.connections.get(id)
            && let Stage::Open(open) = &mut connection.stage
            && let Some(action) = open.session.poll_action()
        {
            let shard_count = self.shards.len();
            match action {
                Action::Claim { call, epoch } => {
                    self.post(call.home_shard(shard_count), Message::Claim { call, epoch, owner: self.owner(id) });
                }
                Action::Release { call, epoch } => self.post(call.home_shard(shard_count), Message::Release { call, epoch }),
            }
        }
    }

    /// Starts a send if none is under way and there is something to send; behind those that wait for a slot already.
    fn transmit(&mut self, now: Now, id: ConnectionId) {
        if self.unsent.is_empty() {
            return self.transmit_next(now, id);
        }
        let Some(connection) = self.connections.get(id) else { return };
        if connection.sending == Sending::Idle && !connection.broken && !connection.unsent {
            connection.unsent = true;
            self.unsent.push_back(id);
        }
    }

    /// As [`Shard::transmit`], for a connection whose turn it is.
    fn transmit_next(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.sending != Sending::Idle || connection.broken {
            return;
        }
        let Some(slot) = self.io.acquire_slot() else {
            connection.unsent = true;
            return self.unsent.push_front(id);
        };
        let out = self.io.slot(&slot);
        let room = out.len().min(self.limits.output_size_max) - connection.transport.overhead();
        let (size, is_all) = connection.fill(now, &mut out[..room]);
        if size == 0 {
            if let Stage::Open(open) = &connection.stage
                && !open.session.is_finished()
            {
                // The send before this took the last of them, and had not the room left to find out.
                self.stopwatch.acks_queued(&mut connection.timing);
                self.stopwatch.send_done(&mut connection.timing, now.moment, true);
            }
            self.io.release_slot(slot);
            return;
        }
        let size = connection.transport.seal(out, size);
        self.io.send(connection.socket, &slot, size, id.user_data(OpKind::Send));
        connection.sending = Sending::Slot(slot, size);
        if is_all {
            self.stopwatch.acks_queued(&mut connection.timing);
        }
        self.counters.sends.add(1);
    }

    /// Gives free slots to those that wait for one, in the order in which they came.
    pub(super) fn transmit_unsent(&mut self, now: Now) {
        for _ in 0..self.unsent.len() {
            let Some(id) = self.unsent.pop_front() else { return };
            let Some(connection) = self.connections.get(id) else { continue };
            connection.unsent = false;
            self.transmit_next(now, id);
            if self.unsent.front() == Some(&id) {
                // It is back where it was: no slot is left.
                return;
            }
            self.settle_the_rest(now, id);
        }
    }

    pub(super) fn handle_sent(&mut self, now: Now, id: ConnectionId, result: Result<u32, Errno>) {
        let Some(connection) = self.connections.get(id) else { return };
        let Sending::Slot(slot, size) = std::mem::replace(&mut connection.sending, Sending::Idle) else { return };
        let sent = match result {
            Ok(sent) => sent as usize,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.stopwatch.send_done(&mut connection.timing, now.moment, false);
                self.io.release_slot(slot);
                self.handle_end(now, id, Disconnect::Reset);
                return self.settle(now, id);
            }
        };
        if sent < size && !connection.broken {
            // The socket is full: what it did not take moves out of the pool, so that a peer that does not read holds no slot.
            let rest = BytesMut::from(&self.io.slot(&slot)[sent..size]);
            connection.sending = Sending::Rest;
            self.io.send_rest(connection.socket, rest, id.user_data(OpKind::SendRest));
            self.counters.sends_blocked.add(1);
            self.with_session(id, |session, _| session.handle_output(now, Output::Blocked));
        } else {
            self.stopwatch.send_done(&mut connection.timing, now.moment, sent == size);
        }
        self.io.release_slot(slot);
        self.settle(now, id);
    }

    pub(super) fn handle_rest_sent(&mut self, now: Now, id: ConnectionId, result: Result<u32, Errno>) {
        let user_data = id.user_data(OpKind::SendRest);
        let mut rest = self.io.take_rest(user_data);
        let Some(connection) = self.connections.get(id) else { return };
        connection.sending = Sending::Idle;
        match result {
            Ok(sent) => {
                rest.advance((sent as usize).min(rest.len()));
                let output = if rest.is_empty() { Output::Drained } else { Output::Progressed };
                if output == Output::Progressed && !connection.broken {
                    connection.sending = Sending::Rest;
                    self.io.send_rest(connection.socket, rest, user_data);
                } else {
                    self.stopwatch.send_done(&mut connection.timing, now.moment, output == Output::Drained);
                }
                self.with_session(id, |session, _| session.handle_output(now, output));
            }
            Err(Errno::AGAIN | Errno::INTR) if !connection.broken => {
                connection.sending = Sending::Rest;
                self.io.send_rest(connection.socket, rest, user_data);
            }
            Err(_) => {
                self.stopwatch.send_done(&mut connection.timing, now.moment, false);
                self.handle_end(now, id, Disconnect::Reset);
            }
        }
        self.settle(now, id);
    }

    /// A shutdown or a cancel has completed.
    pub(super) fn handle_operation_done(&mut self, now: Now, id: ConnectionId) {
        if let Some(connection) = self.connections.get(id) {
            connection.pending_operations -= 1;
            self.settle(now, id);
        }
    }

    /// A connection's deadline has passed, or one it had before.
    pub(super) fn handle_timer(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let has_passed = |moment: Option<Moment>| moment.is_some_and(|moment| moment <= now.moment);
        let own_deadline_passed = has_passed(connection.deadline);
        let drain_passed = has_passed(connection.drain_at);
        match &connection.stage {
            Stage::Head(_) if own_deadline_passed && connection.paused_since.is_none() => {
                connection.answer(Answer::refused(Refusal::HeadTimeout, false));
                self.service.handle_refusal(Refusal::HeadTimeout, &self.counters);
            }
            // Open: the session has finished, but the peer does not read its last bytes. Nothing that may still wait to be
            // handled matters to a session that has.
            Stage::Done | Stage::Open(_) if own_deadline_passed => connection.broken = true,
            Stage::Open(open) => {
                let session_passed = has_passed(open.session.poll_timeout());
                if drain_passed {
                    connection.drain_at = None;
                }
                self.with_session(id, |session, context| {
                    if session_passed {
                        session.handle_timeout(now, context);
                    }
                    if drain_passed {
                        session.handle_notice(now, Notice::Draining, context);
                    }
                });
            }
            Stage::Head(_) | Stage::Waiting(_) | Stage::Done => {}
        }
        self.settle(now, id);
    }

    /// Takes a connection that has nothing more to say through its end: FIN, the peer's FIN or a while, close.
    fn end_if_finished(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let linger = now.moment + self.limits.close_timeout.min(LINGER_MAX);
        if let Stage::Open(open) = &connection.stage {
            let is_finished = open.session.is_finished();
            if connection.broken || (is_finished && connection.is_flushed()) {
                if let Some(summary) = open.session.summary(self.ring.durable()) {
                    log_end(self.index, &summary);
                }
                connection.stage = Stage::Done;
                connection.deadline = None;
            } else if is_finished {
                connection.deadline.get_or_insert(linger);
            }
        }
        if !matches!(connection.stage, Stage::Done) {
            return;
        }
        if connection.broken {
            connection.reply = None;
        }
        connection.deadline.get_or_insert(linger);
        if connection.is_flushed() && !connection.shut_down && !connection.fin_received && !connection.broken {
            connection.shut_down = true;
            connection.pending_operations += 1;
            self.io.shut_down(connection.socket, id.user_data(OpKind::ShutDown));
        }
        if connection.broken || (connection.fin_received && connection.is_flushed()) {
            self.close(id);
        }
    }

    /// Closes the socket and frees the slot as soon as nothing is under way on it.
    fn close(&mut self, id: ConnectionId) {
        self.cancel_receive(id);
        let Some(connection) = self.connections.get(id) else { return };
        connection.fin_received = true;
        if connection.sending == Sending::Rest && connection.pending_operations == 0 {
            connection.pending_operations += 1;
            self.io.cancel(id.user_data(OpKind::SendRest), id.user_data(OpKind::Cancel));
        }
        if connection.is_quiet() {
            self.io.close(connection.socket);
            self.timers.clear(id.index);
            self.connections.remove(id);
        }
    }
}

impl<S: Session> Connection<S> {
    /// Writes what is to be sent next into `out`; returns its size, and whether that is surely all there is.
    fn fill(&mut self, now: Now, out: &mut [u8]) -> (usize, bool) {
        let mut size = match self.reply.take() {
            Some(Reply::Final(answer)) => return (answer.write(out), true),
            Some(Reply::Switching(accept)) => write_switching_protocols(&accept, out),
            None => 0,
        };
        if let Stage::Open(open) = &mut self.stage {
            while out.len() - size >= OUTPUT_ROOM_MIN {
                match open.session.poll_transmit(now, &mut out[size..]) {
                    0 => return (size, true),
                    written => size += written,
                }
            }
        }
        (size, false)
    }
}

/// The one line of a call: formatted here, written by the log's own thread.
fn log_end(shard: usize, summary: &Summary<'_>) {
    tracing::info!(
        tenant = &*summary.identity.tenant,
        interaction = &*summary.identity.interaction,
        boot = summary.epoch.boot,
        epoch = summary.epoch.micros,
        shard,
        frames = summary.frames,
        bytes = summary.bytes,
        seconds = summary.lasted.as_millis() as f64 / 1000.0,
        acked = summary.acked.0,
        durable = summary.durable.map(|seq| seq.0),
        ended = summary.ending,
        close = summary.close,
        reason = summary.reason,
        "call ended"
    );
}

fn earliest<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

const _: () = assert!(ANSWER_SIZE_MAX >= OUTPUT_ROOM_MIN);
