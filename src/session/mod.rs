//! The application of an upgraded connection, without IO: the methods of a [`Session`], and of the
//! [`Service`] that makes sessions.
//!
//! Call contract: one `handle_*` takes something in. Then the shard drains
//! [`Session::poll_action`], [`Session::poll_promise`], [`Session::poll_transmit`] and
//! [`Session::poll_timeout`], before the next `handle_*`. A session writes audio into the shard's
//! frame ring (which is memory, not IO). It never blocks, sleeps or reads a clock.
//!
//! There are two services: the ingest service of the node, and the echo service of
//! `examples/echo.rs`, which public WebSocket conformance suites test.

#![forbid(unsafe_code)]

use crate::ack_level::AckLevel;
use crate::address::PeerAddress;
use crate::auth::{ClientName, Verifier};
use crate::call::{CallIdentity, CallKey, Epoch, EpochSource, Seq};
use crate::clock::{Moment, Now};
use crate::journal::frame_ring::{FrameRing, RingPosition};
use crate::metrics::Counters;
use crate::proto::handshake::{AcceptKey, Answer, Refusal, Situation};
use crate::proto::http::Head;
use crate::proto::{Control, DataPiece, Violation};
use std::sync::Arc;
use std::time::Duration;

pub mod ingest;
pub mod service;

/// What the shard lends a session for one method call.
pub struct Context<'a> {
    /// Where audio goes. The shard has made sure that what it hands in fits.
    pub ring: &'a mut FrameRing,
    /// The shard's epochs.
    pub epochs: &'a mut EpochSource,
    /// The shard's counters.
    pub counters: &'a Counters,
    /// The other end of the connection: the socket's, or what the PROXY header says.
    pub peer: Option<PeerAddress>,
}

/// Messages of the node to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A later connection has taken the call over.
    Superseded,
    /// The node is draining, and now closes this call.
    Draining,
    /// The journal cannot accept more.
    Storage,
    /// The message engine has acknowledged nothing of this call for too long, or can never have
    /// all of it.
    Engine,
}

/// How a connection ended without a Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The peer sent FIN.
    Finished,
    /// The connection was reset, or failed in another way.
    Reset,
}

/// What a session asks for beyond its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A valid `start`: the node must know that this connection has the call now.
    Claim {
        /// The call.
        call: CallKey,
        /// The epoch of this connection.
        epoch: Epoch,
        /// What its ACKs promise.
        level: AckLevel,
    },
    /// The call has ended here: the node may forget the claim.
    Release {
        /// The call.
        call: CallKey,
        /// The epoch of this connection.
        epoch: Epoch,
    },
}

/// What happened to the bytes that a session gave the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The socket took none or not all of them: the peer does not read.
    Blocked,
    /// The socket took more of what was blocked.
    Progressed,
    /// The socket took all.
    Drained,
}

/// The end of a call on its connection, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary<'a> {
    /// The call.
    pub identity: &'a CallIdentity,
    /// The epoch of the connection.
    pub epoch: Epoch,
    /// Complete frames.
    pub frames: u64,
    /// Bytes of whole samples in them.
    pub bytes: u64,
    /// Time from `started` to the end of the call.
    pub lasted: Duration,
    /// The last acked frame; 0 if there was none.
    pub acked: Seq,
    /// The last frame known to be durable; `None` without a journal.
    pub durable: Option<Seq>,
    /// The level at which the promise of the last one holds that was promised.
    pub level: AckLevel,
    /// Acks that went out at a lower level than that of the call.
    pub degraded_acks: u32,
    /// How the call ended: the label that end records and listings use.
    pub ending: &'static str,
    /// Code of our Close, or of the peer's Close that it answers.
    pub close: Option<u16>,
    /// Why we closed, if we decided to and the end was not normal.
    pub reason: Option<&'static str>,
}

/// A live call at one moment, for those that watch the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallStatus<'a> {
    /// The call.
    pub identity: &'a CallIdentity,
    /// The epoch of the connection.
    pub epoch: Epoch,
    /// Time since `started`.
    pub lasted: Duration,
    /// Length of the audio in the complete frames.
    pub audio: Duration,
    /// Complete frames.
    pub frames: u64,
    /// The last acked frame; 0 if there was none.
    pub acked: Seq,
    /// Since when nothing has come. It does not grow while we do not read.
    pub silent: Duration,
}

/// A connection that was refused after the upgrade and before its call began, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The call that its token names.
    pub identity: &'a CallIdentity,
    /// Code of our Close.
    pub code: u16,
    /// Why.
    pub reason: &'static str,
}

/// What a refused request says of itself, for the log. None of it is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspect {
    /// What is wrong with its token.
    pub reason: Option<&'static str>,
    /// The key that the token names.
    pub kid: Option<String>,
    /// The tenant that the token names.
    pub tenant: Option<String>,
}

/// One upgraded connection.
pub trait Session {
    /// Payload bytes of a data message. The session unmasks them once, into their final place.
    /// Returns whether they complete a frame in the frame ring.
    fn handle_data(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>) -> bool;

    /// A control frame.
    fn handle_control(&mut self, now: Now, control: Control<'_>, context: &mut Context<'_>);

    /// The peer violated the protocol; nothing more will be decoded.
    fn handle_violation(&mut self, now: Now, violation: Violation, context: &mut Context<'_>);

    /// A notice from the node.
    fn handle_notice(&mut self, now: Now, notice: Notice, context: &mut Context<'_>);

    /// The promise holds for all frames up to `seq`, at this level. The session has asked for it
    /// or for a later one by [`Session::poll_promise`]. It may come again at a higher level.
    /// Returns how many more acks are due.
    fn handle_promise(
        &mut self,
        now: Now,
        seq: Seq,
        level: AckLevel,
        context: &mut Context<'_>,
    ) -> u64;

    /// We stopped (`false`) or resumed (`true`) reading from this socket, because the frame ring
    /// was full or buffers were short. Silence in between is our doing, not the peer's.
    fn handle_reading(&mut self, now: Now, reading: bool);

    /// Nothing that the peer sends from now on matters, except its end: data is dropped without
    /// decoding.
    fn is_deaf(&self) -> bool;

    /// The shard stood still for `gap` until now: deadlines move by it.
    fn handle_standstill(&mut self, now: Now, gap: Duration);

    /// Progress of bytes that [`Session::poll_transmit`] returned. Called only after a send was
    /// blocked, until it is drained.
    fn handle_output(&mut self, now: Now, output: Output);

    /// The moment of [`Session::poll_timeout`] has come, or has passed: timers fire late, never
    /// early. If the deadline was moved meanwhile, nothing happens, and `poll_timeout` returns a
    /// later moment.
    fn handle_timeout(&mut self, now: Now, context: &mut Context<'_>);

    /// The connection is gone, or its read side has ended, before the session finished. Called at
    /// most once for each: after [`Disconnect::Finished`] the session may still send, and then get
    /// a [`Disconnect::Reset`].
    fn handle_disconnect(&mut self, now: Now, disconnect: Disconnect, context: &mut Context<'_>);

    /// Writes the next bytes for the peer into `out`, as many as there are and fit; returns their
    /// number, 0 if there is nothing to send. `out` has at least 256 bytes.
    fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> usize;

    /// Whether [`Session::poll_transmit`] may have something to send. If not, no call is needed.
    fn has_output(&self) -> bool;

    /// When to call [`Session::handle_timeout`], if at all. It is at most the earliest deadline of
    /// the session, and may be earlier. So the session need not compute its deadlines, nor the
    /// shard move its timer, whenever something arrives. After `handle_timeout` it is later than
    /// the moment that was passed in.
    fn poll_timeout(&self) -> Option<Moment>;

    /// Asks for a [`Session::handle_promise`] call when the promise holds for everything this
    /// session has put into the frame ring so far; `seq` is the last complete frame in it. Each
    /// question is returned once.
    fn poll_promise(&mut self) -> Option<Seq>;

    /// The next action beyond this connection.
    fn poll_action(&mut self) -> Option<Action>;

    /// The session has returned its last byte (its Close) and accepts nothing more. The shard then
    /// ends its side of the connection and discards what still arrives.
    fn is_finished(&self) -> bool;

    /// A call is live here: a valid `start` was seen, and the session has not finished. A drain
    /// counts these, so that the end of a call is still sent to its peer.
    fn is_live(&self) -> bool;

    /// The end of the call, after the session has finished, if it had one. `durable` is the ring's
    /// cursor at that time.
    fn summary(&self, _durable: RingPosition) -> Option<Summary<'_>> {
        None
    }

    /// The call, after a valid `start` was seen.
    fn identity(&self) -> Option<&CallIdentity> {
        None
    }

    /// The call while it is live, as it is now.
    fn status(&self, _now: Now) -> Option<CallStatus<'_>> {
        None
    }

    /// Why the session was refused, after it has finished, if it was refused and had no call.
    fn refused(&self) -> Option<Refused<'_>> {
        None
    }
}

/// Decision of a service about a request.
pub enum Admission<S> {
    /// Send this answer and close.
    Answer(Answer),
    /// Answer 101 and give the connection to the session.
    Upgrade {
        /// For `Sec-WebSocket-Accept`.
        accept: AcceptKey,
        /// The application side of the upgraded connection.
        session: S,
    },
}

/// Makes the sessions of a shard: decides on each request.
pub trait Service {
    /// The sessions that it makes.
    type Session: Session;

    /// Decides on a complete request head. `client` is the sender, if a certificate names it.
    fn admit(
        &mut self,
        now: Now,
        head: &Head<'_>,
        situation: Situation,
        client: Option<&ClientName>,
        counters: &Counters,
    ) -> Admission<Self::Session>;

    /// The shard refused a request by itself, before there was a complete head to admit.
    fn handle_refusal(&mut self, _refusal: Refusal, counters: &Counters) {
        counters.requests_refused.add(1);
    }

    /// What the request that [`Service::admit`] has just refused says of itself. Called only for
    /// the few refusals that are logged.
    fn describe(&self, _head: &Head<'_>) -> Suspect {
        Suspect::default()
    }

    /// From now on, `verifier` checks tokens.
    fn handle_keys(&mut self, verifier: Arc<Verifier>);
}
