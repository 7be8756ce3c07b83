//! What stands behind a connection once it is upgraded, without IO: the verbs of a [`Session`] and of the [`Service`] that
//! makes them.
//!
//! Call contract: one `handle_*` takes something in; then the shard drains [`Session::poll_action`],
//! [`Session::poll_promise`], [`Session::poll_transmit`] and [`Session::poll_timeout`] before the next `handle_*`. A session
//! writes audio into the shard's frame ring (that is memory, not IO) and never blocks, sleeps or reads a clock.
//!
//! Two services implement it: the ingest service of the node, and the echo service of `tests/echo.rs`, against which public
//! WebSocket conformance suites run.

#![forbid(unsafe_code)]

use crate::auth::Verifier;
use crate::call::{CallIdentity, CallKey, Epoch, EpochSource, Seq};
use crate::clock::{Moment, Now};
use crate::frame_ring::{FrameRing, RingPosition};
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::proto::handshake::{AcceptKey, Answer, Refusal, Situation};
use crate::proto::http::Head;
use crate::proto::{Control, DataPiece, Violation};
use std::sync::Arc;
use std::time::Duration;

pub mod ingest;
pub mod service;

/// What the shard lends a session for the length of one call.
pub struct Context<'a> {
    /// Where audio goes. The shard has made sure that what it hands in fits.
    pub ring: &'a mut FrameRing,
    /// The shard's epochs.
    pub epochs: &'a mut EpochSource,
    /// The node's limits.
    pub limits: &'a Limits,
    /// The shard's counters.
    pub counters: &'a Counters,
}

/// What the node has to tell a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A later connection has taken the call over.
    Superseded,
    /// The node is draining and it is this call's turn to go.
    Draining,
    /// The journal cannot take more.
    Storage,
}

/// How a connection's bytes ended without a Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The peer sent FIN.
    Finished,
    /// The connection was reset, or failed otherwise.
    Reset,
}

/// What a session wants done beyond its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A valid `start`: the node is to know that this connection has the call now.
    Claim {
        /// The call.
        call: CallKey,
        /// This connection's turn at it.
        epoch: Epoch,
    },
    /// The call has ended here: the node may forget the claim.
    Release {
        /// The call.
        call: CallKey,
        /// This connection's turn at it.
        epoch: Epoch,
    },
}

/// How the bytes a session gave the shard are getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The socket took none or not all of them: the peer does not read.
    Blocked,
    /// The socket took some more of what was blocked.
    Progressed,
    /// The socket took all.
    Drained,
}

/// What became of a call on its connection, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary<'a> {
    /// Whose it was.
    pub identity: &'a CallIdentity,
    /// The connection's turn at it.
    pub epoch: Epoch,
    /// Complete frames.
    pub frames: u64,
    /// Bytes of whole samples in them.
    pub bytes: u64,
    /// From `started` to the end of the call.
    pub lasted: Duration,
    /// The last frame acked; 0 where none was.
    pub acked: Seq,
    /// The last frame known to be durable; none without a journal.
    pub durable: Option<Seq>,
    /// How it ended, in the word that end records and listings have for it.
    pub ending: &'static str,
    /// The code of our Close, or of the peer's that it answers.
    pub close: Option<u16>,
    /// Why we closed, where it was on our own account and not in peace.
    pub reason: Option<&'static str>,
}

/// One upgraded connection.
pub trait Session {
    /// Payload bytes of a data message. The session unmasks them, once, to where they belong.
    fn handle_data(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>);

    /// A control frame.
    fn handle_control(&mut self, now: Now, control: Control<'_>, context: &mut Context<'_>);

    /// The peer broke the protocol; nothing more will be decoded.
    fn handle_violation(&mut self, now: Now, violation: Violation, context: &mut Context<'_>);

    /// News from the node.
    fn handle_notice(&mut self, now: Now, notice: Notice, context: &mut Context<'_>);

    /// The promise of the node's ACK level holds for every frame up to `seq`, which this session asked about in
    /// [`Session::poll_promise`].
    fn handle_promise(&mut self, now: Now, seq: Seq, context: &mut Context<'_>);

    /// We stopped (`false`) or resumed (`true`) reading this socket because the frame ring was full: silence meanwhile is
    /// ours, not the peer's.
    fn handle_reading(&mut self, now: Now, reading: bool);

    /// News of bytes that [`Session::poll_transmit`] gave out; called only when a send was blocked, and until it is drained.
    fn handle_output(&mut self, now: Now, output: Output);

    /// The moment of [`Session::poll_timeout`] has come (or passed: timers fire late, never early). What that was about may
    /// have been put off meanwhile: then nothing happens, but `poll_timeout` names a later moment.
    fn handle_timeout(&mut self, now: Now, context: &mut Context<'_>);

    /// The connection is gone, or its read side has ended, without the session having finished. Called once for each: after
    /// [`Disconnect::Finished`] the session may still have something to say, and be told of a [`Disconnect::Reset`].
    fn handle_disconnect(&mut self, now: Now, disconnect: Disconnect, context: &mut Context<'_>);

    /// Writes the next bytes for the peer, as much as there is and fits, into `out`; returns their number, 0 if there is
    /// nothing to send. `out` has at least 256 bytes.
    fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> usize;

    /// When [`Session::handle_timeout`] is to be called, if at all: not later than the session's earliest deadline, but it
    /// may be earlier, so that a session need not work its deadlines out, nor the shard move its timer, whenever something
    /// comes in. After `handle_timeout` it is later than the moment that was given to it.
    fn poll_timeout(&self) -> Option<Moment>;

    /// Asks for [`Session::handle_promise`] once the promise holds for everything this session has put into the frame ring
    /// so far, of which `seq` is the last complete frame. Each question is given out once.
    fn poll_promise(&mut self) -> Option<Seq>;

    /// The next thing to be done beyond this connection.
    fn poll_action(&mut self) -> Option<Action>;

    /// Whether the session has given out its last byte (its Close) and takes nothing more in. The shard then ends its side
    /// of the connection and discards what still comes.
    fn is_finished(&self) -> bool;

    /// Whether a call is live here: a valid `start` was seen, and the session has not finished. Drain counts these, so that
    /// what is owed to a peer at the end of its call still goes out.
    fn is_live(&self) -> bool;

    /// What became of the call, once the session has finished, if it had one. `durable` is the ring's cursor then.
    fn summary(&self, _durable: RingPosition) -> Option<Summary<'_>> {
        None
    }
}

/// What a service decides about a request.
pub enum Admission<S> {
    /// Send this answer and close.
    Answer(Answer),
    /// Answer 101 and let the session have the connection.
    Upgrade {
        /// For `Sec-WebSocket-Accept`.
        accept: AcceptKey,
        /// The other side of the upgraded connection.
        session: S,
    },
}

/// Makes the sessions of a shard: decides on each request.
pub trait Service {
    /// What it makes.
    type Session: Session;

    /// Decides on a complete request head.
    fn admit(&mut self, now: Now, head: &Head<'_>, situation: Situation, counters: &Counters) -> Admission<Self::Session>;

    /// The shard has refused a request on its own, before there was a complete head to admit.
    fn handle_refusal(&mut self, _refusal: Refusal, counters: &Counters) {
        counters.requests_refused.add(1);
    }

    /// From now on tokens are checked with `verifier`.
    fn handle_keys(&mut self, verifier: Arc<Verifier>);
}
