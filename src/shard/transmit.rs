//! What goes out, and how a connection ends.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{Connection, ConnectionId, Reply, Sending, Stage};
use super::ends::Ends;
use super::reading::Reading;
use super::refusals::{log_end, log_session, log_start};
use super::standing::Standing;
use super::tls::{TlsEnd, count_failure};
use crate::ack::Promise;
use crate::ack_level::AckLevel;
use crate::call::Seq;
use crate::clock::{Moment, Now};
use crate::io::{Io, OpKind};
use crate::metrics::Counters;
use crate::proto::handshake::{ANSWER_SIZE_MAX, Answer, Refusal, write_switching_protocols};
use crate::proto::proxy::Fault;
use crate::session::{Action, Disconnect, Notice, Output, Service, Session};
use crate::tls::TlsFailure;
use crate::tls::records::{OVERHEAD_SIZE_MAX, PAYLOAD_SIZE_MAX};
use crate::transport::Transport;
use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use std::time::Duration;

/// How long the socket stays open after our FIN, for the peer's FIN. Closing at once would reset
/// the connection if bytes were still coming, and a reset overtakes our last bytes.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// A session is asked for output only where at least this much fits, as [`Session::poll_transmit`]
/// promises.
const OUTPUT_ROOM_MIN: usize = 256;

impl<I: Io, S: Service> Shard<I, S> {
    /// Does what follows from an event of a connection. Called after every event, and cheap if
    /// nothing follows.
    pub(super) fn settle(&mut self, now: Now, id: ConnectionId) {
        self.drain_session(now, id);
        self.transmit(now, id);
        self.settle_the_rest(now, id);
    }

    /// What follows once there is nothing to be transmitted, or it is under way.
    fn settle_the_rest(&mut self, now: Now, id: ConnectionId) {
        if self.connections.get(id).is_some_and(|connection| !connection.is_steady()) {
            self.end_if_finished(now, id);
            self.admission.handle_change(now.moment, id, &mut self.connections);
        }
        let Some(connection) = self.connections.get(id) else { return };
        if connection.reading == Reading::Idle && connection.takes_bytes() {
            connection.reading = Reading::Armed;
            self.io.receive(connection.socket, id.user_data(OpKind::Receive));
            self.counters.receives_armed.add(1);
        }
        let deadline = match &connection.stage {
            // It is given up already. What is under way on it ends by itself, and a deadline that
            // has passed would fire for ever.
            _ if connection.ends == Ends::Broken => None,
            // The time in which we do not read is added to the deadline when we read again.
            Stage::Head(_)
                if connection.reading.paused_since().is_some()
                    || connection.transport.is_queued() =>
            {
                None
            }
            Stage::Head(_) | Stage::Done => connection.deadline,
            Stage::Waiting(_) => None,
            Stage::Open(open) => earliest(
                earliest(open.session.poll_timeout(), connection.drain_at),
                connection.deadline,
            ),
        };
        self.timers.set_at_most(id.index, deadline);
    }

    /// Takes a session's questions and actions, and does what they ask for.
    fn drain_session(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Stage::Open(open) = &mut connection.stage else { return };
        let mut action = open.session.poll_action();
        if let Some(seq) = open.session.poll_promise() {
            self.queue_promise(now, id, seq);
        }
        while let Some(next) = action {
            self.perform(id, next);
            action = self.with_session(id, |session, _| session.poll_action()).flatten();
        }
    }

    /// Remembers that a session asks for the promise of its frames up to `seq`.
    fn queue_promise(&mut self, now: Now, id: ConnectionId, seq: Seq) {
        let Some(connection) = self.connections.get(id) else { return };
        let promise = Promise { position: self.ring.head(), handle: id, seq, since: now.moment };
        // A batch may have sealed itself in this turn. A question about it must not wait for the
        // next one.
        self.promises.begin_group(self.ring.sealed());
        if let Some(journal) = &mut self.journal {
            journal.handle_promise(promise.position);
        }
        // The queue may be full of promises to calls that came and went while the disk stood still.
        // Then this one cannot be kept.
        if self.promises.push(promise, &mut connection.ticket).is_err() {
            self.with_session(id, |session, context| {
                session.handle_notice(now, Notice::Storage, context)
            });
        }
    }

    /// Does what a session asks for beyond its own connection.
    fn perform(&mut self, id: ConnectionId, action: Action) {
        match action {
            Action::Claim { call, epoch, level } => {
                let started_at = self.io.now().moment;
                if let Some(Connection { stage: Stage::Open(open), timing, origin, .. }) =
                    self.connections.get(id)
                {
                    self.latency.handle_start(timing, started_at);
                    if let Some(identity) = open.session.identity() {
                        log_start(self.index, identity, epoch, origin);
                    }
                }
                if level == AckLevel::Replicated
                    && let Some(replication) = &mut self.replication
                {
                    replication.handle_start(id, call, epoch);
                }
                self.mail.send_claim(call, epoch, id);
            }
            Action::Release { call, epoch } => self.mail.send_release(call, epoch),
        }
    }

    /// Starts a send if none is under way and there is something to send. Connections that wait for
    /// a slot already come first.
    fn transmit(&mut self, now: Now, id: ConnectionId) {
        if self.sends.is_empty() {
            self.transmit_next(now, id);
        } else if let Some(connection) = self.connections.get(id)
            && connection.sending == Sending::Idle
            && connection.ends != Ends::Broken
        {
            self.sends.add(id, connection);
        }
    }

    /// As [`Shard::transmit`], for the connection that comes next. Returns false if no slot is
    /// free.
    fn transmit_next(&mut self, now: Now, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(id) else { return true };
        if connection.sending != Sending::Idle || connection.ends == Ends::Broken {
            return true;
        }
        if let Some(flight) = connection.transport.take_flight() {
            // A few KB, once in a connection. Cut into slots it would take a turn for each.
            connection.sending = Sending::Rest;
            self.counters.sends.add(1);
            let flight = BytesMut::from(&flight[..]);
            self.io.send_rest(connection.socket, flight, id.user_data(OpKind::SendRest));
            return true;
        }
        if !connection.has_output() {
            self.latency.handle_no_output(&mut connection.timing, now.moment);
            return true;
        }
        let Some(slot) = self.io.acquire_slot() else {
            self.sends.add_first(id, connection);
            return false;
        };
        let out = self.io.slot(&slot);
        let room = out.len().min(self.limits.output_size_max);
        let (size, is_all) = connection.fill(now, &mut out[..room], &self.counters);
        if size == 0 {
            if matches!(&connection.stage, Stage::Open(open) if !open.session.is_finished()) {
                self.latency.handle_no_output(&mut connection.timing, now.moment);
            }
            self.io.release_slot(slot);
            return true;
        }
        self.io.send(connection.socket, &slot, size, id.user_data(OpKind::Send));
        connection.sending = Sending::Slot(slot, size);
        if is_all {
            self.latency.handle_acks_queued(&mut connection.timing);
        }
        self.counters.sends.add(1);
        if !connection.transport.takes_payload() {
            self.notice_exhausted_key(now, id);
        }
        true
    }

    /// A TLS 1.2 connection whose key may seal no more has just sent its last record.
    fn notice_exhausted_key(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if let Stage::Open(open) = &connection.stage
            && !connection.transport.takes_payload()
            && !open.session.is_finished()
        {
            self.end_tls(now, id, TlsEnd::Failed(TlsFailure::KeyExhausted));
        }
    }

    /// Gives free slots to the connections that wait for one, in order.
    pub(super) fn transmit_queued(&mut self, now: Now) {
        for _ in 0..self.sends.len() {
            let Some(id) = self.sends.poll(&mut self.connections) else { continue };
            if !self.transmit_next(now, id) {
                return;
            }
            self.settle_the_rest(now, id);
        }
    }

    pub(super) fn handle_sent(&mut self, now: Now, id: ConnectionId, result: Result<u32, Errno>) {
        let Some(connection) = self.connections.get(id) else { return };
        let Sending::Slot(slot, size) = std::mem::replace(&mut connection.sending, Sending::Idle)
        else {
            return;
        };
        let sent = match result {
            Ok(sent) => sent as usize,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.latency.handle_send_end(&mut connection.timing, now.moment, false);
                self.io.release_slot(slot);
                self.handle_end(now, id, Disconnect::Reset);
                return self.settle(now, id);
            }
        };
        if sent < size && connection.ends != Ends::Broken {
            // The socket is full. What it did not take moves out of the pool, so a peer that does
            // not read holds no slot.
            let rest = BytesMut::from(&self.io.slot(&slot)[sent..size]);
            connection.sending = Sending::Rest;
            self.io.send_rest(connection.socket, rest, id.user_data(OpKind::SendRest));
            self.counters.sends_blocked.add(1);
            self.with_session(id, |session, _| session.handle_output(now, Output::Blocked));
        } else {
            self.latency.handle_send_end(&mut connection.timing, now.moment, sent == size);
        }
        self.io.release_slot(slot);
        self.settle(now, id);
    }

    pub(super) fn handle_rest_sent(
        &mut self,
        now: Now,
        id: ConnectionId,
        result: Result<u32, Errno>,
    ) {
        let user_data = id.user_data(OpKind::SendRest);
        let mut rest = self.io.take_rest(user_data);
        let Some(connection) = self.connections.get(id) else { return };
        connection.sending = Sending::Idle;
        match result {
            Ok(sent) => {
                rest.advance((sent as usize).min(rest.len()));
                let output = if rest.is_empty() { Output::Drained } else { Output::Progressed };
                if output == Output::Progressed && connection.ends != Ends::Broken {
                    connection.sending = Sending::Rest;
                    self.io.send_rest(connection.socket, rest, user_data);
                } else {
                    self.latency.handle_send_end(
                        &mut connection.timing,
                        now.moment,
                        output == Output::Drained,
                    );
                }
                self.with_session(id, |session, _| session.handle_output(now, output));
            }
            Err(Errno::AGAIN | Errno::INTR) if connection.ends != Ends::Broken => {
                connection.sending = Sending::Rest;
                self.io.send_rest(connection.socket, rest, user_data);
            }
            Err(_) => {
                self.latency.handle_send_end(&mut connection.timing, now.moment, false);
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

    /// A connection's deadline has passed, or one that it had before.
    pub(super) fn handle_timer(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let has_passed = |moment: Option<Moment>| moment.is_some_and(|moment| moment <= now.moment);
        let own_deadline_passed = has_passed(connection.deadline);
        let drain_passed = has_passed(connection.drain_at);
        match &connection.stage {
            Stage::Head(_)
                if own_deadline_passed
                    && connection.reading.paused_since().is_none()
                    && !connection.transport.is_queued() =>
            {
                let is_told = connection.transport.takes_payload();
                if connection.awaits_proxy {
                    self.refuse_proxy(now, id, Fault::Missing);
                } else {
                    connection.answer(Answer::refused(Refusal::HeadTimeout, false));
                    match is_told {
                        true => self.note_refusal(now, id, Refusal::HeadTimeout),
                        false => count_failure(&self.counters, TlsFailure::HandshakeTimeout),
                    }
                }
            }
            // Open: the session has finished, but the peer does not read its last bytes. What may
            // still wait to be handled does not matter to a finished session.
            Stage::Done | Stage::Open(_) if own_deadline_passed => connection.ends = Ends::Broken,
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

    /// Ends a connection that has nothing more to send: our FIN, the peer's FIN or a timeout,
    /// close.
    fn end_if_finished(&mut self, now: Now, id: ConnectionId) {
        let Shard { connections, refusal_log, replication, .. } = self;
        let Some(connection) = connections.get(id) else { return };
        let linger = now.moment + self.limits.close_timeout.min(LINGER_MAX);
        if let Stage::Open(open) = &connection.stage {
            let is_finished = open.session.is_finished();
            if connection.ends == Ends::Broken || (is_finished && connection.is_flushed()) {
                if let Some(summary) = open.session.summary(self.ring.durable()) {
                    log_end(
                        self.index,
                        &summary,
                        &connection.origin,
                        connection.transport.client(),
                    );
                } else if let Some(refused) = open.session.refused()
                    && let Some(suppressed) = refusal_log.admit(now.moment)
                {
                    log_session(self.index, &refused, &connection.origin, suppressed);
                }
                if let Some(replication) = replication {
                    replication.handle_end(id);
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
        self.leave_calls_lane(now, id);
        let Some(connection) = self.connections.get(id) else { return };
        if let Some(tls) = &mut self.tls {
            tls.free_spill(connection);
        }
        let is_flushed = connection.is_flushed();
        // A connection that gives way is not waited for: its answer has gone out, and its place is
        // needed.
        if connection.standing == Standing::Leaving && is_flushed {
            connection.ends = Ends::Broken;
        }
        connection.deadline.get_or_insert(linger);
        if connection.ends == Ends::Broken {
            connection.reply = None;
            return self.close(id);
        }
        if !is_flushed {
            return;
        }
        if connection.transport.close() {
            // The FIN follows what the transport has to say.
            return self.transmit(now, id);
        }
        match connection.ends {
            Ends::Open => {
                connection.ends = Ends::ShutDown;
                connection.pending_operations += 1;
                self.io.shut_down(connection.socket, id.user_data(OpKind::ShutDown));
            }
            Ends::PeerFinished | Ends::Finished => self.close(id),
            Ends::ShutDown | Ends::Broken => {}
        }
    }

    /// Closes the socket and frees the slot as soon as nothing is under way on it.
    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.cancel_receive(id, &mut self.io);
        if connection.sending == Sending::Rest && connection.pending_operations == 0 {
            connection.pending_operations += 1;
            self.io.cancel(id.user_data(OpKind::SendRest), id.user_data(OpKind::Cancel));
        }
        if connection.is_quiet() {
            self.io.close(connection.socket);
            self.timers.clear(id.index);
            self.admission.handle_end(connection.standing);
            self.connections.remove(id);
        }
    }
}

impl<S: Session> Connection<S> {
    /// Whether it is a call, or about to be one, that neither ends nor has just begun: nearly
    /// always.
    fn is_steady(&self) -> bool {
        match &self.stage {
            Stage::Open(open) => {
                self.standing == Standing::Settled
                    && self.ends != Ends::Broken
                    && !open.session.is_finished()
            }
            Stage::Head(_) | Stage::Waiting(_) | Stage::Done => false,
        }
    }

    /// Whether [`Connection::fill`] may have something to send.
    fn has_output(&self) -> bool {
        match (&self.transport, &self.stage) {
            (Transport::Plain, Stage::Open(open)) => {
                self.reply.is_some() || open.session.is_finished() || open.session.has_output()
            }
            _ => true,
        }
    }

    /// Writes the next bytes to be sent into `out`; returns their number, and whether they are
    /// surely all.
    fn fill(&mut self, now: Now, out: &mut [u8], counters: &Counters) -> (usize, bool) {
        let Connection { transport, reply, stage, .. } = self;
        match transport {
            Transport::Plain => fill(reply, stage, now, out),
            Transport::Undecided | Transport::Handshake(_) => (0, false),
            Transport::Records(records) => {
                let own = records.seal_own(out);
                counters.tls_key_updates.add(records.take_updates());
                if own > 0 || !records.takes_payload() {
                    return (own, false);
                }
                let front = records.front_size();
                let room = (out.len() - OVERHEAD_SIZE_MAX).min(PAYLOAD_SIZE_MAX);
                let (size, is_all) = fill(reply, stage, now, &mut out[front..front + room]);
                (if size == 0 { 0 } else { records.seal(out, size) }, is_all)
            }
        }
    }
}

/// As [`Connection::fill`], before the transport wraps the bytes.
fn fill<S: Session>(
    reply: &mut Option<Box<Reply>>,
    stage: &mut Stage<S>,
    now: Now,
    out: &mut [u8],
) -> (usize, bool) {
    let mut size = match reply.take().as_deref() {
        Some(Reply::Final(answer)) => return (answer.write(out), true),
        Some(Reply::Switching(accept)) => write_switching_protocols(accept, out),
        None => 0,
    };
    if let Stage::Open(open) = stage {
        while out.len() - size >= OUTPUT_ROOM_MIN {
            match open.session.poll_transmit(now, &mut out[size..]) {
                0 => return (size, true),
                written => size += written,
            }
        }
    }
    (size, false)
}

fn earliest<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

const _: () = assert!(ANSWER_SIZE_MAX >= OUTPUT_ROOM_MIN);
