//! New connections: accepted, their request heads judged within a budget, answered or upgraded.
#![forbid(unsafe_code)]

use super::connections::{Connection, ConnectionId, Open, Reply, Stage};
use super::journal::ShardJournal;
use super::{Accepting, Deferred, Shard};
use crate::clock::Now;
use crate::io::{Completion, Io, OpKind, Socket, UserData};
use crate::proto::frame::Decoder;
use crate::proto::handshake::{ANSWER_SIZE_MAX, Answer, Refusal, Situation};
use crate::session::{Admission, Disconnect, Service, Session};
use rustix::io::Errno;
use std::time::Duration;

/// How long accepting pauses when it fails for a reason of ours, as when descriptors or memory are short: trying again at once
/// would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<I: Io, S: Service> Shard<I, S> {
    pub(super) fn handle_accept(&mut self, now: Now, completion: Completion) {
        match completion.result {
            Ok(descriptor) => self.welcome(now, Socket(descriptor as i32)),
            Err(Errno::CANCELED) => {}
            Err(_) => self.counters.accept_failures.add(1),
        }
        if completion.more {
            return;
        }
        if self.draining || self.accepting == Accepting::Stopping {
            self.accepting = Accepting::Stopped;
            self.io.close_listener();
            return;
        }
        match completion.result {
            Err(error) if !is_of_one_peer(error) => self.accepting = Accepting::Paused(now.moment + ACCEPT_PAUSE),
            _ => self.io.accept(UserData::lone(OpKind::Accept)),
        }
    }

    fn welcome(&mut self, now: Now, socket: Socket) {
        self.counters.connections_accepted.add(1);
        let Some(peer) = self.io.peer_address(socket) else {
            // Gone before it was looked at.
            return self.io.turn_away(socket, &[]);
        };
        let deadline = now.moment + self.limits.head_timeout;
        let connection = Connection::new(socket, peer, now.moment, deadline);
        if self.draining {
            return self.shed(now, connection, Refusal::Draining);
        }
        match self.connections.insert(connection) {
            Ok(id) => self.settle(now, id),
            Err(connection) => {
                self.counters.connections_shed.add(1);
                self.shed(now, connection, Refusal::Capacity);
            }
        }
    }

    /// Tells a connection that there is no place for it. Its request is on its way: a socket that was closed before that has come
    /// would be reset by it, and a reset overtakes the answer. So some may stay until they have read it, as after any answer; a
    /// flood finds their places taken, and what comes then is told and closed at once.
    fn shed(&mut self, now: Now, mut connection: Connection<S::Session>, refusal: Refusal) {
        let answer = Answer::refused(refusal, false);
        self.service.handle_refusal(refusal, &self.counters);
        connection.is_shed = true;
        connection.answer(answer);
        match self.connections.insert(connection) {
            Ok(id) => self.settle(now, id),
            Err(connection) => {
                let mut bytes = [0; ANSWER_SIZE_MAX];
                let size = answer.write(&mut bytes);
                self.io.turn_away(connection.socket, &bytes[..size]);
            }
        }
    }

    /// Judges the request heads that are complete, as many as one turn may: live calls come first.
    pub(super) fn judge_waiting(&mut self, now: Now) {
        for _ in 0..self.limits.handshakes_per_turn {
            let Some(id) = self.waiting.pop_front() else { return };
            self.judge(now, id);
            self.settle(now, id);
        }
    }

    fn judge(&mut self, now: Now, id: ConnectionId) {
        let at_capacity = self.journal.as_ref().is_some_and(ShardJournal::refuses_calls);
        let situation = Situation { draining: self.draining, at_capacity, ..Situation::default() };
        let Shard { connections, service, counters, .. } = self;
        let Some(connection) = connections.get(id) else { return };
        let Stage::Waiting(buffer) = &connection.stage else { return };
        let admission = match buffer.head() {
            Ok(head) => service.admit(now, &head, situation, counters),
            Err(refusal) => {
                service.handle_refusal(refusal, counters);
                Admission::Answer(Answer::refused(refusal, false))
            }
        };
        match admission {
            Admission::Answer(answer) => connection.answer(answer),
            Admission::Upgrade { accept, session } => {
                connection.reply = Some(Reply::Switching(accept));
                connection.stage = Stage::Open(Open { decoder: Decoder::default(), session, deaf: false });
                connection.deadline = None;
                let written_at = self.io.now().moment;
                self.stopwatch.upgraded(&mut connection.timing, written_at);
                let is_paused = connection.paused_since.is_some();
                if !connection.early.is_empty() {
                    connection.deferred += 1;
                    self.deferred.push_back(Deferred::Early(id));
                }
                if is_paused {
                    self.with_session(id, |session, _| session.handle_reading(now, false));
                }
                self.tell_end(now, id);
            }
        }
    }

    /// The peer had ended before its session was made: the session hears of it behind the early bytes.
    fn tell_end(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let disconnect = match (connection.broken, connection.fin_received) {
            (true, _) => Disconnect::Reset,
            (false, true) => Disconnect::Finished,
            (false, false) => return,
        };
        connection.fin_received = false;
        connection.broken = false;
        self.handle_end(now, id, disconnect);
    }
}

/// Whether accepting failed for one peer alone, so that the next one may do better: it has gone, or its network is in trouble
/// (accept(2) passes those errors on).
fn is_of_one_peer(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::AGAIN
            | Errno::PROTO
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
    )
}

impl<S: Session> Connection<S> {
    /// Answers a request for good: nothing more is taken in, and the connection ends behind the answer.
    pub(super) fn answer(&mut self, answer: Answer) {
        self.reply = Some(Reply::Final(answer));
        self.stage = Stage::Done;
        self.deadline = None;
        self.early = bytes::BytesMut::new();
    }
}
