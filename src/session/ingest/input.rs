//! What a peer sends before and during a call: texts with events, audio, and what is ignored.

#![forbid(unsafe_code)]

use super::phase::Phase;
use super::progress::CallProgress;
use super::timers::Allowance;
use super::{ClaimMatch, Context, DataPiece, Ending, IngestSession};
use crate::call::Seq;
use crate::clock::Now;
use crate::journal::frame_ring::{CallStart, Chunk};
use crate::proto::close::Closing;
use crate::proto::event::{self, PeerEvent, Start};
use crate::proto::text::TextBuffer;
use crate::proto::{MessageKind, Violation};

/// Error message for a `start` that is sent as a binary message.
const START_AS_BINARY: &str =
    "the call has not started: the start event came as a binary message, send it as a text message";

/// A text counts once more against `limits.text_rate` for each so many bytes: the time to parse it
/// grows with its size.
const TEXT_SHARE_SIZE: usize = 4 * 1024;

impl IngestSession {
    pub(super) fn take_text(&mut self, now: Now, piece: DataPiece<'_>, context: &mut Context<'_>) {
        if piece.last
            && self.phase == Phase::Live
            && !self.affords_text(now, piece.offset + piece.payload.len())
        {
            return self.refuse(now, Violation::Flood.into(), None, context);
        }
        // Nearly every text comes in one piece and needs no memory of ours.
        let mut kept = if piece.first { None } else { self.text.take() };
        let mut fresh = TextBuffer::default();
        match kept.as_deref_mut().unwrap_or(&mut fresh).push(piece) {
            Ok(None) => self.text = Some(kept.unwrap_or_else(|| Box::new(fresh))),
            Ok(Some(_)) if self.phase == Phase::Stopping => {
                self.shared.counters.texts_after_stop.add(1)
            }
            Ok(Some(text)) => self.take_event(now, &text, context),
            Err(violation) => self.refuse(now, violation.into(), None, context),
        }
    }

    /// Whether the peer may send another text, of `size` bytes. The limit on fragments bounds their
    /// number.
    fn affords_text(&mut self, now: Now, size: usize) -> bool {
        let limits = self.shared.limits();
        let allowance = Allowance { rate: limits.text_rate, burst: limits.text_burst };
        let since = self.timers.unread_since(now.moment);
        self.budget.take(since, now.moment, 1 + (size / TEXT_SHARE_SIZE) as u32, allowance)
    }

    pub(super) fn affords_control(&mut self, now: Now) -> bool {
        let limits = self.shared.limits();
        let allowance = Allowance { rate: limits.control_rate, burst: limits.control_burst };
        self.budget.take(self.timers.unread_since(now.moment), now.moment, 1, allowance)
    }

    fn take_event(&mut self, now: Now, text: &str, context: &mut Context<'_>) {
        match event::parse(text, &self.shared.limits().sample_rates) {
            Ok(PeerEvent::Start(start)) => self.take_start(now, &start, context),
            Ok(PeerEvent::Stop) => self.take_stop(now, context),
            // Before the call is live only these are charged: its `start` is free.
            Ok(PeerEvent::Unknown)
                if self.phase == Phase::Waiting && !self.affords_text(now, text.len()) =>
            {
                self.refuse(now, Violation::Flood.into(), None, context);
            }
            Ok(PeerEvent::Unknown) => context.counters.events_unknown.add(1),
            Err(error) => {
                self.refuse(now, Closing::InvalidStart, Some(&error.to_string()), context)
            }
        }
    }

    fn take_start(&mut self, now: Now, start: &Start<'_>, context: &mut Context<'_>) {
        let same_tenant = *self.identity.tenant == *start.tenant_id;
        let same_interaction = *self.identity.interaction == *start.interaction_id;
        if self.phase == Phase::Live {
            if same_tenant && same_interaction && self.progress.sample_rate() == start.sample_rate {
                return self.outbox.owe_started();
            }
            return self.refuse(now, Closing::AlreadyStarted, None, context);
        }
        let matches = match self.shared.settings.claim_match {
            ClaimMatch::Strict => same_tenant && same_interaction,
            ClaimMatch::Tenant => same_tenant,
            ClaimMatch::Off => true,
        };
        // The token's own tenant was checked with the token.
        let is_allowed = same_tenant || self.allowed_tenants.allow(&start.tenant_id);
        if !matches || !is_allowed {
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
        self.call_level = self.shared.settings.levels.of(&self.identity.tenant);
        self.level = self.call_level;
        self.progress =
            CallProgress::new(now.moment, sample_rate, self.shared.limits().frame_time_min);
        let appended = context.ring.append_call(&CallStart {
            call: self.call,
            identity: &self.identity,
            epoch: self.epoch,
            sample_rate,
            started_at: now.unix,
            token_issued_at: self.token_issued_at,
            token_expires_at: self.token_expires_at,
            peer: context.peer,
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

    /// Returns whether the piece completes a frame.
    pub(super) fn take_audio(
        &mut self,
        now: Now,
        piece: DataPiece<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let limits = self.shared.limits();
        let size = piece.payload.len();
        let (frame_size, fragments) = ((piece.offset + size) as u64, piece.fragments);
        let is_ahead =
            |max_ahead| self.progress.is_ahead(now.moment, (frame_size, fragments), max_ahead);
        if limits.max_ahead.is_some_and(is_ahead) {
            self.refuse(now, Closing::TooFast, None, context);
            return false;
        }
        let is_odd = piece.last && CallProgress::is_odd(frame_size);
        if is_odd && limits.strict_pcm {
            self.refuse(now, Closing::OddLength, None, context);
            return false;
        }
        // An empty piece matters only if it completes its frame.
        if size > 0 || piece.last {
            let chunk = Chunk {
                call: self.call.record_number(),
                epoch: self.epoch,
                seq: Seq(self.progress.seq() + 1),
                offset: piece.offset as u32, // below `limits.message_size_max`, which fits
                last: piece.last,
                received_at: now.unix,
            };
            if context.ring.append_audio(chunk, piece.payload, piece.key).is_err() {
                self.refuse(now, Closing::Storage, None, context);
                return false;
            }
            context.counters.audio_records.add(1);
            context.counters.audio_bytes.add(size as u64);
        }
        if piece.last {
            context.counters.frames.add(1);
            context.counters.frames_odd.add(u64::from(is_odd));
            if self.progress.add_frame(frame_size, fragments) {
                self.durability.note(self.progress.seq(), context.ring);
                self.report();
            }
        }
        piece.last
    }

    /// A binary message before `start`. It may be the start itself, sent with the wrong function of
    /// a library.
    pub(super) fn refuse_binary(
        &mut self,
        now: Now,
        piece: DataPiece<'_>,
        context: &mut Context<'_>,
    ) {
        let size = piece.payload.len().min(event::EVENT_OPENING_SIZE);
        let opening = &mut piece.payload[..size];
        piece.key.apply(opening);
        let message = event::looks_like_event(opening).then_some(START_AS_BINARY);
        self.refuse(now, Closing::StartRequired, message, context);
    }

    /// Data that is ignored. It is counted after `stop`, as long as we decode.
    pub(super) fn pass_over(&self, piece: DataPiece<'_>, context: &mut Context<'_>) {
        let is_after_stop = self.ended == Some(Ending::Stopped) && self.peer_close.is_none();
        if is_after_stop && piece.last {
            match piece.kind {
                MessageKind::Binary => context.counters.frames_after_stop.add(1),
                MessageKind::Text => self.shared.counters.texts_after_stop.add(1),
            }
        }
    }
}
