//! How a session ends its connection: normally, after `stop` or the peer's Close, or with a
//! refusal. In both cases it first acks the frames that are due by count, if their promise holds in
//! time.

#![forbid(unsafe_code)]

use super::output::{closing_frames, refusal_frames};
use super::phase::Phase;
use super::{Context, Ending, IngestSession};
use crate::clock::Now;
use crate::journal::frame_ring::{CallEnd, RingPosition};
use crate::proto::close::Closing;
use crate::proto::event::Stopped;

impl IngestSession {
    pub(super) fn take_stop(&mut self, now: Now, context: &mut Context<'_>) {
        if self.phase == Phase::Waiting {
            return self.refuse(now, Closing::StartRequired, None, context);
        }
        self.end(now, Ending::Stopped, context);
        self.phase = Phase::Stopping;
        self.settle(now, context.ring.durable());
    }

    pub(super) fn take_close(&mut self, now: Now, code: Option<u16>, context: &mut Context<'_>) {
        self.peer_close = Some(code);
        self.timers.close(now.moment, self.shared.limits());
        match self.phase {
            Phase::Waiting => self.part(now, false, context.ring.durable()),
            Phase::Live => {
                self.end(now, Ending::PeerClosed, context);
                self.phase = Phase::Leaving;
                self.settle(now, context.ring.durable());
            }
            Phase::Stopping
            | Phase::Leaving
            | Phase::Refusing
            | Phase::Closing
            | Phase::Finished => {}
        }
    }

    /// The last frame that must be acked or, after `stop`, promised.
    pub(super) fn seq_due(&self) -> u64 {
        match self.phase {
            Phase::Live | Phase::Leaving | Phase::Refusing => self.progress.seq_to_ack(),
            Phase::Stopping => self.progress.seq(),
            Phase::Waiting | Phase::Closing | Phase::Finished => 0,
        }
    }

    /// Ends the connection, if everything that must be said first can be said. `durable` is the
    /// ring's cursor.
    pub(super) fn settle(&mut self, now: Now, durable: RingPosition) {
        if self.promised < self.seq_due() {
            return;
        }
        match self.phase {
            Phase::Stopping => self.part(now, true, durable),
            Phase::Leaving => self.part(now, false, durable),
            Phase::Refusing => self.release_close_frames(now),
            Phase::Waiting | Phase::Live | Phase::Closing | Phase::Finished => {}
        }
    }

    /// Ends the connection normally: `stopped`, if it is asked for, and a Close. A Close of the
    /// peer is answered with its own code.
    pub(super) fn part(&mut self, now: Now, say_stopped: bool, durable: RingPosition) {
        let stopped = Stopped {
            interaction_id: &self.identity.interaction,
            seq: self.progress.seq(),
            bytes: self.progress.bytes(),
            duration_ms: self.progress.duration_ms(),
            durable_seq: self.durable_seq(durable),
            level: self.level.name(),
        };
        let code = self.peer_close.unwrap_or(Some(Closing::Normal.code()));
        let close_frames = closing_frames(say_stopped.then_some(&stopped), code);
        if self.peer_close.is_none() {
            self.shared.counters.closes[Closing::Normal.index()].add(1);
            self.closing = Some(Closing::Normal);
        }
        self.close(now, close_frames);
    }

    /// Ends the connection by our decision, and the call if it is live. `message` overrides the
    /// usual message.
    ///
    /// Frames that were complete before are still acked: the close frames wait for their promise,
    /// for at most `limits.close_timeout`.
    pub(super) fn refuse(
        &mut self,
        now: Now,
        closing: Closing,
        message: Option<&str>,
        context: &mut Context<'_>,
    ) {
        if self.phase == Phase::Live {
            self.end(now, Ending::of_closing(closing), context);
        }
        self.shared.counters.closes[closing.index()].add(1);
        context.counters.sessions_refused.add(u64::from(closing != Closing::Draining));
        context.counters.calls_superseded.add(u64::from(closing == Closing::Superseded));
        self.closing = Some(closing);
        let close_frames = refusal_frames(closing, message);
        if awaits_acks(closing) && self.promised < self.progress.seq_to_ack() {
            self.phase = Phase::Refusing;
            self.text = None;
            self.outbox.hold_close_frames(close_frames);
            self.timers.close(now.moment, self.shared.limits());
        } else {
            self.close(now, close_frames);
        }
    }

    /// Releases the close frames: the acks before it are owed, or their time is over.
    pub(super) fn release_close_frames(&mut self, now: Now) {
        self.phase = Phase::Closing;
        self.outbox.release_close_frames();
        self.timers.close(now.moment, self.shared.limits());
    }

    fn close(&mut self, now: Now, close_frames: Vec<u8>) {
        self.phase = Phase::Closing;
        self.text = None;
        self.outbox.owe_close_frames(close_frames);
        self.timers.close(now.moment, self.shared.limits());
    }

    /// The call ends here. The caller leaves the phase Live, so this happens once.
    pub(super) fn end(&mut self, now: Now, ending: Ending, context: &mut Context<'_>) {
        debug_assert_eq!(self.phase, Phase::Live);
        self.durability.note_last(self.progress.seq(), context.ring);
        let appended = context.ring.append_end(&CallEnd {
            call: self.call.record_number(),
            epoch: self.epoch,
            frames: self.progress.seq(),
            bytes: self.progress.bytes(),
            ending: ending.number(),
            ended_at: now.unix,
        });
        if appended.is_err() {
            self.shared.counters.ends_unrecorded.add(1);
        }
        self.report();
        self.ended = Some(ending);
        self.progress.end(now.moment);
        self.release_owed = true;
        self.shared.counters.endings[ending.index()].add(1);
        context.counters.calls_ended.add(1);
    }

    pub(super) fn finish(&mut self) {
        self.phase = Phase::Finished;
        self.text = None;
        self.outbox.clear();
        self.permit = None;
    }

    /// The last frame known to be durable; `None` without a journal. `durable` is the ring's
    /// cursor.
    pub(super) fn durable_seq(&self, durable: RingPosition) -> Option<u64> {
        self.shared.settings.has_journal.then(|| self.durability.seq(durable))
    }
}

/// Whether our Close waits for the acks that are due. It does not if the peer does not read them,
/// nor if the journal or the message engine cannot make their promise hold.
const fn awaits_acks(closing: Closing) -> bool {
    !matches!(closing, Closing::AckStalled | Closing::Storage | Closing::Engine)
}
