//! New connections: accepted as far as there are places, their request heads judged within a
//! budget, answered or upgraded.
#![forbid(unsafe_code)]

use super::Shard;
use super::accepts::Accepts;
use super::connections::{Connection, ConnectionId, Connections, Open, Reply, Stage};
use super::deferred::Deferred;
use super::drain::Drain;
use super::ends::Ends;
use super::places::Places;
use super::rates::AddressRates;
use super::refusals::log_request;
use super::standing::Standing;
use crate::address::PeerAddress;
use crate::clock::{Moment, Now};
use crate::constants::HANDSHAKE_TIME_MAX;
use crate::io::{Completion, Io, Socket};
use crate::limits::Limits;
use crate::proto::frame::Decoder;
use crate::proto::handshake::{Answer, HEALTH_PATH, Refusal, Situation};
use crate::proto::http::{HeadBuffer, Single};
use crate::proto::trace::Trace;
use crate::session::{Admission as Verdict, Disconnect, Service, Session, Suspect};
use crate::tls::Handshake;
use crate::tls::alert::Alert;
use crate::transport::Transport;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::time::Duration;

/// How long accepting pauses when it fails for a reason of the host, as when descriptors or memory
/// are short. Trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a peer of a TLS port gets once the port has closed.
const CLOSED_ALERT: [u8; 7] = Alert::InternalError.plain_record();

/// What a shard has for new connections: their accepts, their places, and their request heads until
/// those are judged.
#[derive(Debug)]
pub(super) struct Admission {
    accepts: Accepts,
    places: Places,
    /// How often each address connects; `None` where that is not limited.
    rates: Option<AddressRates>,
    /// Health checks that wait for their answer.
    probes: VecDeque<ConnectionId>,
    /// Other request heads that wait to be judged.
    heads: VecDeque<ConnectionId>,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Admission {
            accepts: Accepts::new(),
            places: Places::new(limits),
            rates: AddressRates::of(limits),
            probes: VecDeque::new(),
            heads: VecDeque::new(),
        }
    }

    /// Puts a complete request head where it waits for its turn. Health checks cost nothing, and do
    /// not wait for tokens.
    pub(super) fn handle_head(&mut self, id: ConnectionId, head: &HeadBuffer) {
        match head.asks_for(HEALTH_PATH) {
            true => self.probes.push_back(id),
            false => self.heads.push_back(id),
        }
    }

    /// Number of request heads that wait.
    pub(super) fn waiting_count(&self) -> usize {
        self.probes.len() + self.heads.len()
    }

    /// Connections whose request is not complete.
    pub(super) fn incomplete_count(&self) -> usize {
        self.places.incomplete_count()
    }

    /// Number of accepts that are armed.
    #[cfg(test)]
    pub(super) fn armed_count(&self) -> usize {
        self.accepts.armed_count()
    }

    /// Whether connections are accepted, as far as there are places.
    #[cfg(test)]
    pub(super) fn is_accepting(&self) -> bool {
        self.accepts.is_accepting()
    }

    /// When there is something to do, whatever else happens.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        [self.accepts.poll_timeout(), self.places.poll_timeout()].into_iter().flatten().min()
    }

    /// Notes what has become of a connection. Nearly always nothing has changed.
    pub(super) fn handle_change<S>(
        &mut self,
        now: Moment,
        id: ConnectionId,
        connections: &mut Connections<S>,
    ) {
        self.places.handle_change(now, id, connections);
    }

    /// A connection of this standing frees its place.
    pub(super) fn handle_end(&mut self, standing: Standing) {
        self.places.handle_end(standing);
    }

    /// The port closes; returns whether that is news.
    pub(super) fn stop<I: Io>(&mut self, io: &mut I) -> bool {
        self.accepts.stop(io)
    }

    /// Whether the port is closed.
    pub(super) fn has_stopped(&self) -> bool {
        self.accepts.has_stopped()
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Holds addresses to another rate from now on. What each of them has used is forgotten: an
    /// allowance that is spent at a slow pace would last too long at a fast one.
    pub(super) fn set_address_rate(&mut self, rate: Option<usize>, burst: u32) {
        if (self.limits.address_rate, self.limits.address_burst) != (rate, burst) {
            (self.limits.address_rate, self.limits.address_burst) = (rate, burst);
            self.admission.rates = AddressRates::of(&self.limits);
        }
    }

    pub(super) fn handle_accept(&mut self, now: Now, completion: Completion) {
        self.admission.accepts.handle_end(completion.user_data.index);
        match completion.result {
            Ok(descriptor) => self.welcome(now, Socket(descriptor as i32)),
            Err(Errno::CANCELED) => {}
            Err(error) => {
                self.counters.accept_failures.add(1);
                if !is_of_one_peer(error) {
                    self.admission.accepts.pause(&mut self.io, now.moment + ACCEPT_PAUSE);
                }
            }
        }
        self.admission.accepts.close_when_idle(&mut self.io);
    }

    /// Once a turn: lets the oldest connections give way as far as places run short, then arms
    /// accepts for the free places.
    pub(super) fn make_room(&mut self, now: Now) {
        self.admission.accepts.handle_turn(now.moment);
        loop {
            let Admission { accepts, places, .. } = &mut self.admission;
            let is_accepting = accepts.is_accepting();
            let Some(id) = places.poll(now.moment, is_accepting, &mut self.connections) else {
                break;
            };
            self.displace(now, id);
        }
        self.admission.accepts.arm(&mut self.io, self.connections.free_count());
    }

    fn displace(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if self.admission.places.handle_leaving(connection) {
            connection.ends = Ends::Broken;
        } else {
            connection.answer(Answer::refused(Refusal::HeadTimeout, false));
            self.counters.connections_shed.add(1);
            self.note_refusal(now, id, Refusal::HeadTimeout);
        }
        self.settle(now, id);
    }

    fn welcome(&mut self, now: Now, socket: Socket) {
        self.counters.connections_accepted.add(1);
        let Some(address) = self.io.peer_address(socket) else {
            // It is gone already.
            return self.io.turn_away(socket, &[]);
        };
        let deadline = now.moment + self.limits.head_timeout;
        let mut connection =
            Connection::new(socket, PeerAddress::from(address), now.moment, deadline);
        if self.tls.is_some() {
            connection.transport = Transport::Undecided;
        }
        connection.awaits_proxy =
            self.limits.proxy_from.iter().any(|network| network.contains(address.ip()));
        let has_address = !connection.awaits_proxy;
        match self.connections.insert(connection) {
            Ok(id) => {
                if has_address {
                    self.meter_address(now, id);
                }
                if self.drain == Drain::PortClosed {
                    self.turn_back(now, id);
                }
                self.settle(now, id);
            }
            Err(connection) => {
                debug_assert!(false, "no more accepts are armed than there are places");
                self.io.turn_away(connection.socket, &[]);
            }
        }
    }

    /// The address of a connection is known now: checks whether that address connects too often.
    pub(super) fn meter_address(&mut self, now: Now, id: ConnectionId) {
        let Shard { connections, admission, counters, .. } = self;
        let (Some(rates), Some(connection)) = (&mut admission.rates, connections.get(id)) else {
            return;
        };
        if !rates.allow(connection.origin.peer.group(), now.moment) {
            connection.is_over_rate = true;
            counters.connections_over_rate.add(1);
        }
    }

    /// Answers 503 before the request has come, because the port closes.
    pub(super) fn turn_back(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if matches!(connection.transport, Transport::Undecided) {
            // A TLS client cannot read an answer in the clear, and a handshake costs too much here.
            connection.transport =
                Transport::Handshake(Box::new(Handshake::refused(&CLOSED_ALERT)));
        }
        connection.answer(Answer::refused(Refusal::Draining, false));
        self.note_refusal(now, id, Refusal::Draining);
    }

    /// Judges complete request heads, as many as one turn may, in number and time: live calls come
    /// first.
    pub(super) fn judge_waiting(&mut self, now: Now) {
        for _ in 0..self.limits.handshakes_per_turn {
            let Some(id) = self.admission.probes.pop_front() else { break };
            self.judge(now, id);
            self.settle(now, id);
        }
        if self.admission.heads.is_empty() {
            return;
        }
        let end = self.io.now().moment + HANDSHAKE_TIME_MAX;
        for _ in 0..self.limits.handshakes_per_turn {
            let Some(id) = self.admission.heads.pop_front() else { return };
            self.judge(now, id);
            self.settle(now, id);
            if !self.admission.heads.is_empty() && self.io.now().moment >= end {
                return;
            }
        }
    }

    fn judge(&mut self, now: Now, id: ConnectionId) {
        let disk_is_late =
            self.journal.as_ref().is_some_and(|journal| journal.refuses_calls(now.moment));
        let is_over_budget = self.journal.as_ref().is_some_and(|journal| journal.is_over_budget());
        let at_capacity =
            disk_is_late || self.connections.upgraded_count() >= self.limits.connections_max;
        let is_plain_refused = self.tls.is_some() && !self.limits.allow_plain;
        let Shard { connections, service, counters, refusal_log, .. } = self;
        let Some(connection) = connections.get(id) else { return };
        let is_over_rate = connection.is_over_rate;
        let plaintext_forbidden =
            is_plain_refused && matches!(connection.transport, Transport::Plain);
        let draining = self.drain.has_begun();
        let situation = Situation { plaintext_forbidden, draining, at_capacity, is_over_rate };
        let Stage::Waiting(buffer) = &connection.stage else { return };
        let verdict = match buffer.head() {
            Ok(head) => {
                if let Single::Once(value) = head.traceparent {
                    connection.origin.trace = Trace::parse(value).map(Box::new);
                }
                let client = connection.transport.client();
                let verdict = service.admit(now, &head, situation, client, counters);
                if let Verdict::Answer(Answer::Refused { refusal: Refusal::Capacity, .. }) = verdict
                    && is_over_budget
                {
                    counters.requests_over_budget.add(1);
                }
                if let Verdict::Answer(Answer::Refused { refusal, .. }) = verdict
                    && let Some(suppressed) = refusal_log.admit(now.moment)
                {
                    let suspect = service.describe(&head);
                    log_request(self.index, refusal, &connection.origin, &suspect, suppressed);
                }
                verdict
            }
            Err(refusal) => {
                service.handle_refusal(refusal, counters);
                if let Some(suppressed) = refusal_log.admit(now.moment) {
                    log_request(
                        self.index,
                        refusal,
                        &connection.origin,
                        &Suspect::default(),
                        suppressed,
                    );
                }
                Verdict::Answer(Answer::refused(refusal, false))
            }
        };
        match verdict {
            Verdict::Answer(answer) => connection.answer(answer),
            Verdict::Upgrade { accept, session } => {
                connection.reply = Some(Box::new(Reply::Switching(accept)));
                connection.stage =
                    Stage::Open(Open { decoder: Decoder::default(), session, deaf: false });
                connection.deadline = None;
                self.open(now, id);
            }
        }
    }

    /// A connection has its session, which now gets what came before.
    fn open(&mut self, now: Now, id: ConnectionId) {
        self.connections.upgrade(id);
        let Some(connection) = self.connections.get(id) else { return };
        let written_at = self.io.now().moment;
        self.latency.handle_upgrade(&mut connection.timing, written_at);
        let is_paused = connection.reading.paused_since().is_some();
        if !connection.early.is_empty() {
            self.deferred.add(connection, Deferred::Early(id));
        }
        if is_paused {
            self.with_session(id, |session, _| session.handle_reading(now, false));
        }
        self.tell_end(now, id);
    }

    /// If the peer ended before its session was made, the session hears of it after the early
    /// bytes.
    fn tell_end(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let disconnect = match connection.ends {
            Ends::Broken => Disconnect::Reset,
            Ends::PeerFinished | Ends::Finished => Disconnect::Finished,
            Ends::Open | Ends::ShutDown => return,
        };
        connection.ends = Ends::Open;
        self.handle_end(now, id, disconnect);
    }
}

/// Whether accepting failed for one peer alone: it has gone, or its network is in trouble
/// (accept(2) passes those errors on). The next accept may succeed.
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
    /// Answers a request for good: nothing more is taken in, and the connection ends after the
    /// answer. Before a TLS handshake is complete, no answer can be sent.
    pub(super) fn answer(&mut self, answer: Answer) {
        self.give_up();
        if self.transport.takes_payload() {
            self.reply = Some(Box::new(Reply::Final(answer)));
        }
    }
}
