//! The session of a call: start, audio, acks, stop, and every timer and refusal after the upgrade.
//! `phase` draws its phases.
//!
//! A call ends once, when the session leaves the phase Live. Its end record directly follows its
//! last frame. So the promise of that frame covers the end record, and the node may forget the
//! claim. After that the session at most sends something to the peer.
//!
//! The record of a frame of odd length holds every byte that came, and readers drop the last one.
//! The numbers here (`bytes`, `duration_ms`) count whole samples.

#![forbid(unsafe_code)]

mod closing;
mod durability;
mod ending;
mod input;
mod output;
mod phase;
mod progress;
mod settings;
mod timers;

pub use ending::Ending;
pub use settings::{ClaimMatch, IngestCounters, IngestSettings, IngestShared};

use self::durability::Durability;
use self::output::Outbox;
use self::phase::Phase;
use self::progress::CallProgress;
use self::timers::{Armed, Budget, Due, Timers};
use super::{Action, CallStatus, Context, Disconnect, Notice, Output, Refused, Session, Summary};
use crate::ack_level::AckLevel;
use crate::auth::{AllowedTenants, Claims};
use crate::call::{CallIdentity, CallKey, Epoch, Seq};
use crate::clock::{Moment, Now};
use crate::journal::frame_ring::RingPosition;
use crate::proto::close::Closing;
use crate::proto::text::TextBuffer;
use crate::proto::{Control, DataPiece, MessageKind, Violation};
use crate::tenants::CallPermit;
use std::sync::Arc;
use std::time::Duration;

/// One upgraded connection of the ingest service.
///
/// `acked ≤ ack_owed ≤ promised ≤ asked ≤ seq`: the outbox has the first two, the progress the
/// last.
#[derive(Debug)]
pub struct IngestSession {
    /// Valid only if `is_started`, like `epoch`.
    call: CallKey,
    epoch: Epoch,
    shared: Arc<IngestShared>,
    /// Returned when the session finishes; the socket may take longer.
    permit: Option<CallPermit>,
    /// From the token's claims; after `start`, from `start`.
    identity: CallIdentity,
    allowed_tenants: AllowedTenants,
    token_issued_at: u64,
    token_expires_at: u64,
    /// Only while a text arrives in pieces.
    text: Option<Box<TextBuffer>>,
    outbox: Outbox,
    timers: Timers,
    budget: Budget,
    progress: CallProgress,
    durability: Durability,
    /// The last frame whose promise was asked for.
    asked: u64,
    /// The last frame whose promise holds.
    promised: u64,
    /// Acks that were owed at a lower level than `call_level`.
    degraded_acks: u32,
    /// What acks promise: valid only if `is_started`.
    call_level: AckLevel,
    /// The level at which the promise of frame `promised` holds.
    level: AckLevel,
    /// Code of the peer's Close, after it came.
    peer_close: Option<Option<u16>>,
    /// Our own decision to close, once made.
    closing: Option<Closing>,
    /// How the call ended, once it has.
    ended: Option<Ending>,
    phase: Phase,
    /// A valid `start` has come.
    is_started: bool,
    /// The peer has ended its side of the connection; it can still read.
    is_half_closed: bool,
    claim_owed: bool,
    release_owed: bool,
}

impl IngestSession {
    /// A session for a connection whose token has `claims`, and whose tenant has room for a call.
    pub fn new(now: Now, claims: Claims, permit: CallPermit, shared: Arc<IngestShared>) -> Self {
        let settings = &shared.settings;
        let expires_in = settings.close_on_expiry.then(|| {
            let expires_at =
                Duration::from_secs(claims.expires_at).saturating_add(settings.expiry_leeway);
            expires_at.saturating_sub(Duration::from_micros(now.unix.0))
        });
        IngestSession {
            call: CallKey(0),
            epoch: Epoch::default(),
            permit: Some(permit),
            identity: claims.identity,
            allowed_tenants: claims.allowed_tenants,
            token_issued_at: claims.issued_at,
            token_expires_at: claims.expires_at,
            text: None,
            outbox: Outbox::default(),
            timers: Timers::new(now.moment, expires_in, &settings.limits),
            budget: Budget::default(),
            progress: CallProgress::new(now.moment, 0, Duration::ZERO),
            durability: Durability::default(),
            asked: 0,
            promised: 0,
            degraded_acks: 0,
            call_level: AckLevel::Received,
            level: AckLevel::Received,
            peer_close: None,
            closing: None,
            ended: None,
            phase: Phase::Waiting,
            is_started: false,
            is_half_closed: false,
            claim_owed: false,
            release_owed: false,
            shared,
        }
    }

    /// Updates the tenant's counters.
    fn report(&mut self) {
        let (frames, bytes) = self.progress.take_report();
        if let Some(permit) = &self.permit {
            permit.add(frames, bytes);
        }
    }

    fn invariants(&self) {
        let (acked, ack_owed) = self.outbox.acks();
        debug_assert!(
            [acked, ack_owed, self.promised, self.asked, self.progress.seq()].is_sorted(),
            "{self:?}"
        );
    }

    fn armed(&self) -> Armed {
        self.phase.armed(self.peer_close.is_some(), self.is_half_closed)
    }

    /// Whether input from the peer still matters: not after its Close, nor after we decided to
    /// close.
    fn listens(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Live | Phase::Stopping)
            && self.peer_close.is_none()
    }
}

impl Session for IngestSession {
    #[inline]
    fn handle_data(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>) -> bool {
        self.timers.receive(now.moment);
        if !self.listens() {
            self.pass_over(piece, context);
            return false;
        }
        match (piece.kind, self.phase) {
            (MessageKind::Binary, Phase::Live) => return self.take_audio(now, piece, context),
            (MessageKind::Binary, Phase::Waiting) => self.refuse_binary(now, piece, context),
            (MessageKind::Binary, _) => self.pass_over(piece, context),
            (MessageKind::Text, _) => self.take_text(now, piece, context),
        }
        false
    }

    fn handle_control(&mut self, now: Now, control: Control<'_>, context: &mut Context<'_>) {
        self.timers.receive(now.moment);
        context.counters.controls_received.add(1);
        if !self.listens() {
            return;
        }
        match control {
            Control::Close { code, .. } => self.take_close(now, code, context),
            _ if !self.affords_control(now) => {
                self.refuse(now, Violation::Flood.into(), None, context);
            }
            Control::Ping(payload) => self.outbox.owe_pong(payload),
            Control::Pong(_) => {}
        }
    }

    fn handle_violation(&mut self, now: Now, violation: Violation, context: &mut Context<'_>) {
        if self.listens() {
            self.refuse(now, violation.into(), None, context);
        }
    }

    fn handle_notice(&mut self, now: Now, notice: Notice, context: &mut Context<'_>) {
        match (notice, self.phase) {
            (_, Phase::Closing | Phase::Finished) => {}
            // The peer is leaving, or we are, and the acks that it would wait for will not come.
            (Notice::Storage | Notice::Engine, Phase::Leaving) => {
                self.part(now, false, context.ring.durable())
            }
            (Notice::Storage | Notice::Engine, Phase::Refusing) => self.release_close_frames(now),
            (Notice::Storage, _) => self.refuse(now, Closing::Storage, None, context),
            (Notice::Engine, _) => self.refuse(now, Closing::Engine, None, context),
            // Another connection cannot take over a call that has ended here, and this one is
            // closing already.
            (
                Notice::Superseded | Notice::Draining,
                Phase::Stopping | Phase::Leaving | Phase::Refusing,
            ) => {}
            (Notice::Superseded, Phase::Waiting) => {}
            (Notice::Superseded, Phase::Live) => {
                self.refuse(now, Closing::Superseded, None, context)
            }
            (Notice::Draining, Phase::Waiting | Phase::Live) => {
                self.refuse(now, Closing::Draining, None, context)
            }
        }
    }

    fn handle_promise(
        &mut self,
        now: Now,
        seq: Seq,
        level: AckLevel,
        context: &mut Context<'_>,
    ) -> u64 {
        debug_assert!(seq.0 <= self.asked, "a promise of frame {} answers no question", seq.0);
        // The last bytes may be half sent: nothing can go before them any more.
        if matches!(self.phase, Phase::Closing | Phase::Finished) {
            return 0;
        }
        if seq.0 >= self.promised {
            (self.promised, self.level) = (seq.0, level);
        }
        let acks = self.outbox.owe_acks(self.promised);
        context.counters.acks.add(acks);
        if self.call_level == AckLevel::Replicated && level != AckLevel::Replicated {
            context.counters.acks_degraded.add(acks);
            let degraded = u32::try_from(acks).unwrap_or(u32::MAX);
            self.degraded_acks = self.degraded_acks.saturating_add(degraded);
        }
        self.invariants();
        self.settle(now, context.ring.durable());
        acks
    }

    fn handle_reading(&mut self, now: Now, reading: bool) {
        if reading {
            self.timers.resume(now.moment, self.armed(), self.shared.limits());
        } else {
            self.timers.pause(now.moment);
        }
    }

    fn is_deaf(&self) -> bool {
        match self.phase {
            Phase::Refusing => true,
            // Finished too: a flood may go on until the Close has left our socket.
            Phase::Closing | Phase::Finished => {
                self.closing.is_some_and(|closing| closing != Closing::Normal)
            }
            Phase::Waiting | Phase::Live | Phase::Stopping | Phase::Leaving => false,
        }
    }

    fn handle_standstill(&mut self, now: Now, gap: Duration) {
        self.timers.stand_still(now.moment, gap);
        self.budget.stand_still(gap);
    }

    fn handle_output(&mut self, now: Now, output: Output) {
        match output {
            Output::Blocked => self.timers.block(now.moment, self.shared.limits()),
            Output::Progressed => self.timers.progress(now.moment),
            Output::Drained => self.timers.drain(),
        }
    }

    fn handle_timeout(&mut self, now: Now, context: &mut Context<'_>) {
        while let Some(due) = self.timers.take_due(now.moment, self.armed(), self.shared.limits()) {
            match due {
                Due::Close if self.phase == Phase::Closing => self.finish(),
                Due::Close if self.phase == Phase::Refusing => self.release_close_frames(now),
                Due::Close => self.part(now, false, context.ring.durable()),
                Due::Expiry => self.refuse(now, Closing::TokenExpired, None, context),
                Due::Stalled => self.refuse(now, Closing::AckStalled, None, context),
                Due::Start => self.refuse(now, Closing::StartTimeout, None, context),
                Due::Idle => self.refuse(now, Closing::IdleTimeout, None, context),
                Due::Ping => {
                    self.outbox.owe_ping();
                    self.timers.ping(now.moment);
                    context.counters.pings_sent.add(1);
                }
            }
        }
    }

    fn handle_disconnect(&mut self, now: Now, disconnect: Disconnect, context: &mut Context<'_>) {
        let ending = match disconnect {
            Disconnect::Finished => Ending::Finished,
            Disconnect::Reset => Ending::Reset,
        };
        match self.phase {
            // After its last message a peer may end its side and wait for ours.
            Phase::Stopping | Phase::Leaving | Phase::Refusing | Phase::Closing
                if disconnect == Disconnect::Finished =>
            {
                self.is_half_closed = true;
            }
            Phase::Live => {
                self.end(now, ending, context);
                self.finish();
            }
            Phase::Waiting
            | Phase::Stopping
            | Phase::Leaving
            | Phase::Refusing
            | Phase::Closing => self.finish(),
            Phase::Finished => {}
        }
    }

    #[inline]
    fn poll_transmit(&mut self, _now: Now, out: &mut [u8]) -> usize {
        let (size, is_last) = self.outbox.transmit(&self.identity.interaction, out);
        if is_last {
            self.finish();
        }
        size
    }

    #[inline]
    fn has_output(&self) -> bool {
        self.outbox.has_output()
    }

    #[inline]
    fn poll_timeout(&self) -> Option<Moment> {
        if self.phase == Phase::Finished { None } else { self.timers.wake_at() }
    }

    #[inline]
    fn poll_promise(&mut self) -> Option<Seq> {
        let due = self.seq_due();
        (due > self.asked).then(|| {
            self.asked = due;
            Seq(due)
        })
    }

    #[inline]
    fn poll_action(&mut self) -> Option<Action> {
        let (call, epoch, level) = (self.call, self.epoch, self.call_level);
        if std::mem::take(&mut self.claim_owed) {
            Some(Action::Claim { call, epoch, level })
        } else if std::mem::take(&mut self.release_owed) {
            Some(Action::Release { call, epoch })
        } else {
            None
        }
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    fn is_live(&self) -> bool {
        self.is_started && self.phase != Phase::Finished
    }

    fn identity(&self) -> Option<&CallIdentity> {
        self.is_started.then_some(&self.identity)
    }

    fn status(&self, now: Now) -> Option<CallStatus<'_>> {
        (self.phase == Phase::Live).then(|| CallStatus {
            identity: &self.identity,
            epoch: self.epoch,
            lasted: self.progress.lasts(now.moment),
            audio: Duration::from_millis(self.progress.duration_ms()),
            frames: self.progress.seq(),
            acked: Seq(self.outbox.acks().0),
            silent: self.timers.silent(now.moment),
        })
    }

    fn refused(&self) -> Option<Refused<'_>> {
        let is_refusal =
            |closing: &Closing| !matches!(closing, Closing::Normal | Closing::Draining);
        let closing = self.closing.filter(is_refusal).filter(|_| !self.is_started)?;
        Some(Refused { identity: &self.identity, code: closing.code(), reason: closing.label() })
    }

    fn summary(&self, durable: RingPosition) -> Option<Summary<'_>> {
        let ending = self.ended?;
        let (acked, _) = self.outbox.acks();
        Some(Summary {
            identity: &self.identity,
            epoch: self.epoch,
            frames: self.progress.seq(),
            bytes: self.progress.bytes(),
            lasted: self.progress.lasted(),
            acked: Seq(acked),
            durable: self.durable_seq(durable).map(Seq),
            level: self.level,
            degraded_acks: self.degraded_acks,
            ending: ending.label(),
            close: self.closing.map_or(self.peer_close.flatten(), |closing| Some(closing.code())),
            reason: self.closing.filter(|closing| *closing != Closing::Normal).map(Closing::label),
        })
    }
}

#[cfg(test)]
mod tests;
