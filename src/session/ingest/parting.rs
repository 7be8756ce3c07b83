//! How a session parts from its peer: in peace, after `stop` or the peer's Close; or by a refusal. Either way what is due by
//! count is acked first, as far as its promise holds in time.

#![forbid(unsafe_code)]

use super::output::{parting_frames, refusal_frames};
use super::phase::Phase;
use super::{Context, Ending, IngestSession};
use crate::clock::Now;
use crate::frame_ring::{CallEnd, RingPosition};
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
            Phase::Stopping | Phase::Leaving | Phase::Refusing | Phase::Closing | Phase::Finished => {}
        }
    }

    /// The last frame that is to be acked, or, after `stop`, promised.
    pub(super) fn seq_due(&self) -> u64 {
        match self.phase {
            Phase::Live | Phase::Leaving | Phase::Refusing => self.tally.seq_to_ack(),
            Phase::Stopping => self.tally.seq(),
            Phase::Waiting | Phase::Closing | Phase::Finished => 0,
        }
    }

    /// Parts from the peer if everything it is to be told first can be told. `durable` is the ring's cursor.
    pub(super) fn settle(&mut self, now: Now, durable: RingPosition) {
        if self.promised < self.seq_due() {
            return;
        }
        match self.phase {
            Phase::Stopping => self.part(now, true, durable),
            Phase::Leaving => self.part(now, false, durable),
            Phase::Refusing => self.let_farewell_go(now),
            Phase::Waiting | Phase::Live | Phase::Closing | Phase::Finished => {}
        }
    }

    /// Parts from the peer in peace: `stopped`, if that is to be said, and a Close; to the peer's Close, with its own code.
    pub(super) fn part(&mut self, now: Now, say_stopped: bool, durable: RingPosition) {
        let stopped = Stopped {
            interaction_id: &self.identity.interaction,
            seq: self.tally.seq(),
            bytes: self.tally.bytes(),
            duration_ms: self.tally.duration_ms(),
            durable_seq: self.durable_seq(durable),
        };
        let code = self.peer_close.unwrap_or(Some(Closing::Normal.code()));
        let farewell = parting_frames(say_stopped.then_some(&stopped), code);
        if self.peer_close.is_none() {
            self.shared.counters.closes[Closing::Normal.index()].add(1);
            self.closing = Some(Closing::Normal);
        }
        self.close(now, farewell);
    }

    /// Ends the connection on our own account, and the call if it is live. `message` overrides the usual one.
    ///
    /// Frames that were complete before are still acked: the farewell waits for their promise, `limits.close_timeout` at most.
    pub(super) fn refuse(&mut self, now: Now, closing: Closing, message: Option<&str>, context: &mut Context<'_>) {
        if self.phase == Phase::Live {
            self.end(now, Ending::of_closing(closing), context);
        }
        self.shared.counters.closes[closing.index()].add(1);
        context.counters.sessions_refused.add(u64::from(closing != Closing::Draining));
        context.counters.calls_superseded.add(u64::from(closing == Closing::Superseded));
        self.closing = Some(closing);
        let farewell = refusal_frames(closing, message);
        if awaits_acks(closing) && self.promised < self.tally.seq_to_ack() {
            self.phase = Phase::Refusing;
            self.text = None;
            self.outbox.hold_farewell(farewell);
            self.timers.close(now.moment, self.shared.limits());
        } else {
            self.close(now, farewell);
        }
    }

    /// The farewell that was held back goes out: the acks before it are owed, or have had their time.
    pub(super) fn let_farewell_go(&mut self, now: Now) {
        self.phase = Phase::Closing;
        self.outbox.let_farewell_go();
        self.timers.close(now.moment, self.shared.limits());
    }

    fn close(&mut self, now: Now, farewell: Vec<u8>) {
        self.phase = Phase::Closing;
        self.text = None;
        self.outbox.owe_farewell(farewell);
        self.timers.close(now.moment, self.shared.limits());
    }

    /// The call ends here. The caller leaves Live, so this happens once.
    pub(super) fn end(&mut self, now: Now, ending: Ending, context: &mut Context<'_>) {
        debug_assert_eq!(self.phase, Phase::Live);
        self.durability.note_last(self.tally.seq(), context.ring);
        let appended = context.ring.append_end(&CallEnd {
            call: self.call.record_number(),
            epoch: self.epoch,
            frames: self.tally.seq(),
            bytes: self.tally.bytes(),
            ending: ending.number(),
            ended_at: now.unix,
        });
        if appended.is_err() {
            self.shared.counters.ends_unrecorded.add(1);
        }
        self.report();
        self.ended = Some(ending);
        self.tally.end(now.moment);
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

    /// The last frame known to be durable; none without a journal. `durable` is the ring's cursor.
    pub(super) fn durable_seq(&self, durable: RingPosition) -> Option<u64> {
        self.shared.settings.has_journal.then(|| self.durability.seq(durable))
    }
}

/// Whether our Close waits for the acks due: not for a peer that does not read them, nor for a journal that cannot bring them
/// about.
const fn awaits_acks(closing: Closing) -> bool {
    !matches!(closing, Closing::AckStalled | Closing::Storage)
}
