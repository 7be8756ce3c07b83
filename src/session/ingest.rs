//! The session of a call: start, audio, acks, stop, every timer and refusal after the upgrade. Its phases are drawn in
//! `phase`.
//!
//! A call ends once, whatever comes first: on leaving Live. Its end record then stands right behind its last frame, so that
//! the promise of that frame covers it, and the node may forget the claim. What is left, at most, is to tell the peer.
//!
//! What is kept of a frame of odd length: its record holds every byte that came, and readers drop the last one; the numbers
//! here (`bytes`, `duration_ms`) count whole samples.

#![forbid(unsafe_code)]

mod durability;
mod ending;
mod output;
mod parting;
mod phase;
mod settings;
mod tally;
mod timers;

pub use ending::Ending;
pub use settings::{ClaimMatch, IngestCounters, IngestSettings, IngestShared};

use self::durability::Durability;
use self::output::Outbox;
use self::phase::Phase;
use self::tally::Tally;
use self::timers::{Armed, ControlBudget, Due, Timers};
use super::{Action, Context, Disconnect, Notice, Output, Session, Summary};
use crate::auth::Claims;
use crate::call::{CallIdentity, CallKey, Epoch, Seq};
use crate::clock::{Moment, Now};
use crate::frame_ring::{CallStart, Chunk, RingPosition};
use crate::proto::close::Closing;
use crate::proto::event::{self, PeerEvent, Start};
use crate::proto::text::TextBuffer;
use crate::proto::{Control, DataPiece, MessageKind, Violation};
use crate::tenants::CallPermit;
use std::sync::Arc;
use std::time::Duration;

/// One upgraded connection of the ingest service.
///
/// `acked ≤ ack_owed ≤ promised ≤ asked ≤ seq`: the first two in the outbox, the last in the tally.
#[derive(Debug)]
pub struct IngestSession {
    /// These two mean something once `is_started`.
    call: CallKey,
    epoch: Epoch,
    shared: Arc<IngestShared>,
    /// Given back when the session finishes: the socket may take longer.
    permit: Option<CallPermit>,
    /// The token's claims; from `start` on, what that said.
    identity: CallIdentity,
    token_issued_at: u64,
    token_expires_at: u64,
    /// Only while a text is under way in pieces.
    text: Option<Box<TextBuffer>>,
    outbox: Outbox,
    timers: Timers,
    control_budget: ControlBudget,
    tally: Tally,
    durability: Durability,
    /// The last frame whose promise was asked for.
    asked: u64,
    /// The last frame whose promise holds.
    promised: u64,
    /// The peer's Close, with its code.
    peer_close: Option<Option<u16>>,
    /// Our Close on our own account, once it is decided.
    closing: Option<Closing>,
    /// How the call ended, once it has.
    ended: Option<Ending>,
    phase: Phase,
    /// A valid `start` has come.
    is_started: bool,
    /// The peer has ended its side; it can still read.
    is_half_closed: bool,
    claim_owed: bool,
    release_owed: bool,
}

impl IngestSession {
    /// The session of a connection whose token said `claims` and whose tenant has room for it.
    pub fn new(now: Now, claims: Claims, permit: CallPermit, shared: Arc<IngestShared>) -> Self {
        let settings = &shared.settings;
        let expires_in = settings.close_on_expiry.then(|| {
            let expires_at = Duration::from_secs(claims.expires_at).saturating_add(settings.expiry_leeway);
            expires_at.saturating_sub(Duration::from_micros(now.unix.0))
        });
        IngestSession {
            call: CallKey(0),
            epoch: Epoch::default(),
            permit: Some(permit),
            identity: claims.identity,
            token_issued_at: claims.issued_at,
            token_expires_at: claims.expires_at,
            text: None,
            outbox: Outbox::default(),
            timers: Timers::new(now.moment, expires_in, &settings.limits),
            control_budget: ControlBudget::default(),
            tally: Tally::new(now.moment, 0),
            durability: Durability::default(),
            asked: 0,
            promised: 0,
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

    fn take_text(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>) {
        // A text in one piece, which is nearly every one, needs no memory of ours.
        let mut kept = if piece.first { None } else { self.text.take() };
        let mut fresh = TextBuffer::default();
        match kept.as_deref_mut().unwrap_or(&mut fresh).push(piece) {
            Ok(None) => self.text = Some(kept.unwrap_or_else(|| Box::new(fresh))),
            Ok(Some(_)) if self.phase == Phase::Stopping => self.shared.counters.texts_after_stop.add(1),
            Ok(Some(text)) => self.take_event(now, &text, context),
            Err(violation) => self.refuse(now, violation.into(), None, context),
        }
    }

    fn take_event(&mut self, now: Now, text: &str, context: &mut Context<'_>) {
        match event::parse(text, &self.shared.limits().sample_rates) {
            Ok(PeerEvent::Start(start)) => self.take_start(now, &start, context),
            Ok(PeerEvent::Stop) => self.take_stop(now, context),
            Ok(PeerEvent::Unknown) => context.counters.events_unknown.add(1),
            Err(error) => self.refuse(now, Closing::InvalidStart, Some(&error.to_string()), context),
        }
    }

    fn take_start(&mut self, now: Now, start: &Start<'_>, context: &mut Context<'_>) {
        let same_tenant = *self.identity.tenant == *start.tenant_id;
        let same_interaction = *self.identity.interaction == *start.interaction_id;
        if self.phase == Phase::Live {
            if same_tenant && same_interaction && self.tally.sample_rate() == start.sample_rate {
                return self.outbox.owe_started();
            }
            return self.refuse(now, Closing::AlreadyStarted, None, context);
        }
        let matches = match self.shared.settings.claim_match {
            ClaimMatch::Strict => same_tenant && same_interaction,
            ClaimMatch::Tenant => same_tenant,
            ClaimMatch::Off => true,
        };
        if !matches {
            return self.refuse(now, Closing::ClaimMismatch, None, context);
        }
        if !same_tenant {
            self.identity.tenant = (*start.tenant_id).into();
        }
        if !same_interaction {
            self.identity.interaction = (*start.interaction_id).into();
        }
        self.begin(now, start.sample_rate, context);
    }

    fn begin(&mut self, now: Now, sample_rate: u32, context: &mut Context<'_>) {
        self.call = self.identity.key();
        self.epoch = context.epochs.next(now.moment);
        self.tally = Tally::new(now.moment, sample_rate);
        let appended = context.ring.append_call(&CallStart {
            call: self.call,
            identity: &self.identity,
            epoch: self.epoch,
            sample_rate,
            started_at: now.unix,
            token_issued_at: self.token_issued_at,
            token_expires_at: self.token_expires_at,
        });
        if appended.is_err() {
            return self.refuse(now, Closing::Storage, None, context);
        }
        self.phase = Phase::Live;
        self.is_started = true;
        self.claim_owed = true;
        self.outbox.owe_started();
        context.counters.calls_started.add(1);
    }

    fn take_audio(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>) {
        let limits = self.shared.limits();
        let size = piece.payload.len();
        let frame_size = (piece.offset + size) as u64;
        if limits.max_ahead.is_some_and(|max_ahead| self.tally.is_ahead(now.moment, frame_size, max_ahead)) {
            return self.refuse(now, Closing::TooFast, None, context);
        }
        let is_odd = piece.last && Tally::is_odd(frame_size);
        if is_odd && limits.strict_pcm {
            return self.refuse(now, Closing::OddLength, None, context);
        }
        // An empty piece says something only when it completes its frame.
        if size > 0 || piece.last {
            let chunk = Chunk {
                call: self.call.record_number(),
                epoch: self.epoch,
                seq: Seq(self.tally.seq() + 1),
                offset: piece.offset as u32, // below `limits.message_size_max`, which fits many times over
                last: piece.last,
                received_at: now.unix,
            };
            if context.ring.append_audio(chunk, piece.payload, piece.key).is_err() {
                return self.refuse(now, Closing::Storage, None, context);
            }
            context.counters.audio_records.add(1);
            context.counters.audio_bytes.add(size as u64);
        }
        if piece.last {
            context.counters.frames.add(1);
            context.counters.frames_odd.add(u64::from(is_odd));
            if self.tally.add_frame(frame_size) {
                self.durability.note(self.tally.seq(), context.ring);
                self.report();
            }
        }
    }

    /// Data that nothing is done with: counted where it comes after `stop`, as long as anything is decoded at all.
    fn pass_over(&self, piece: DataPiece<'_>, context: &mut Context<'_>) {
        let is_after_stop = self.ended == Some(Ending::Stopped) && self.peer_close.is_none();
        if is_after_stop && piece.last {
            match piece.kind {
                MessageKind::Binary => context.counters.frames_after_stop.add(1),
                MessageKind::Text => self.shared.counters.texts_after_stop.add(1),
            }
        }
    }

    /// Brings the tenant's counters up to date.
    fn report(&mut self) {
        let (frames, bytes) = self.tally.take_report();
        if let Some(permit) = &self.permit {
            permit.add(frames, bytes);
        }
    }

    fn invariants(&self) {
        let (acked, ack_owed) = self.outbox.acks();
        debug_assert!([acked, ack_owed, self.promised, self.asked, self.tally.seq()].is_sorted(), "{self:?}");
    }

    fn armed(&self) -> Armed {
        self.phase.armed(self.peer_close.is_some(), self.is_half_closed)
    }

    /// Whether what the peer sends still matters: not once it has sent its Close, or we have decided on ours.
    fn listens(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Live | Phase::Stopping) && self.peer_close.is_none()
    }
}

impl Session for IngestSession {
    #[inline]
    fn handle_data(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>) {
        self.timers.receive(now.moment);
        if !self.listens() {
            return self.pass_over(piece, context);
        }
        match (piece.kind, self.phase) {
            (MessageKind::Binary, Phase::Live) => self.take_audio(now, piece, context),
            (MessageKind::Binary, Phase::Waiting) => self.refuse(now, Closing::StartRequired, None, context),
            (MessageKind::Binary, _) => self.pass_over(piece, context),
            (MessageKind::Text, _) => self.take_text(now, piece, context),
        }
    }

    fn handle_control(&mut self, now: Now, control: Control<'_>, context: &mut Context<'_>) {
        self.timers.receive(now.moment);
        context.counters.controls_received.add(1);
        if !self.listens() {
            return;
        }
        match control {
            Control::Close { code, .. } => self.take_close(now, code, context),
            _ if !self.control_budget.take(now.moment, self.shared.limits()) => {
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
            // The peer is leaving, or we are, and the acks that this would have waited for will not come.
            (Notice::Storage, Phase::Leaving) => self.part(now, false, context.ring.durable()),
            (Notice::Storage, Phase::Refusing) => self.let_farewell_go(now),
            (Notice::Storage, _) => self.refuse(now, Closing::Storage, None, context),
            // A call that has ended here is nobody's to take over, and on its way out already.
            (Notice::Superseded | Notice::Draining, Phase::Stopping | Phase::Leaving | Phase::Refusing) => {}
            (Notice::Superseded, Phase::Waiting) => {}
            (Notice::Superseded, Phase::Live) => self.refuse(now, Closing::Superseded, None, context),
            (Notice::Draining, Phase::Waiting | Phase::Live) => self.refuse(now, Closing::Draining, None, context),
        }
    }

    fn handle_promise(&mut self, now: Now, seq: Seq, context: &mut Context<'_>) {
        debug_assert!(seq.0 <= self.asked, "a promise of frame {} answers no question", seq.0);
        // The last words may be half out: nothing can go before them any more.
        if matches!(self.phase, Phase::Closing | Phase::Finished) {
            return;
        }
        self.promised = self.promised.max(seq.0);
        context.counters.acks.add(self.outbox.owe_acks(self.promised));
        self.invariants();
        self.settle(now, context.ring.durable());
    }

    fn handle_reading(&mut self, now: Now, reading: bool) {
        if reading {
            self.timers.resume(now.moment, self.armed(), self.shared.limits());
        } else {
            self.timers.pause(now.moment);
        }
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
                Due::Close if self.phase == Phase::Refusing => self.let_farewell_go(now),
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
            // After its last word a peer may end its side and wait for ours.
            Phase::Stopping | Phase::Leaving | Phase::Refusing | Phase::Closing if disconnect == Disconnect::Finished => {
                self.is_half_closed = true;
            }
            Phase::Live => {
                self.end(now, ending, context);
                self.finish();
            }
            Phase::Waiting | Phase::Stopping | Phase::Leaving | Phase::Refusing | Phase::Closing => self.finish(),
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
        let (call, epoch) = (self.call, self.epoch);
        if std::mem::take(&mut self.claim_owed) {
            Some(Action::Claim { call, epoch })
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

    fn summary(&self, durable: RingPosition) -> Option<Summary<'_>> {
        let ending = self.ended?;
        let (acked, _) = self.outbox.acks();
        Some(Summary {
            identity: &self.identity,
            epoch: self.epoch,
            frames: self.tally.seq(),
            bytes: self.tally.bytes(),
            lasted: self.tally.lasted(),
            acked: Seq(acked),
            durable: self.durable_seq(durable).map(Seq),
            ending: ending.label(),
            close: self.closing.map_or(self.peer_close.flatten(), |closing| Some(closing.code())),
            reason: self.closing.filter(|closing| *closing != Closing::Normal).map(Closing::label),
        })
    }
}

#[cfg(test)]
mod tests;
