//! When the open batch is sealed and a sync is due.
//!
//! A *cycle* is a seal, the writes up to it, and a sync; its price does not depend on how much is in it. So cycles keep a
//! distance (`journal.sync_interval`), and there are no more than somebody waits for: a promise, room in the ring, age.

#![forbid(unsafe_code)]

use super::WriterSettings;
use crate::ack::AckLevel;
use crate::clock::Moment;
use crate::frame_ring::{FrameRing, RingPosition};
use std::time::Duration;

/// How long a record waits for its batch to be sealed when no promise asks for it: what a call that ends without a last ACK
/// loses at most to a failure.
pub const AGE_MAX: Duration = Duration::from_secs(1);

/// How old what is sealed may get before it is synced when no promise asks for that. With a second, 1,000 calls at the
/// `written` level saw ACKs wait for up to a second. The likely cause, not proven: writes queue behind a flush, which takes
/// longer the more there is to flush.
pub const UNSYNCED_AGE_MAX: Duration = Duration::from_millis(100);

/// Share of the ring that may wait for a sync nobody has asked for, before one is made for the room.
const PRESSURE_SHARE: usize = 4;

/// When the last cycle began, and the one under way.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The last position a promise was asked for.
    pub(super) asked: RingPosition,
    /// What the cycle under way is to make durable.
    pub(super) cycle: Option<RingPosition>,
    sealed_at: Option<Moment>,
    cycled_at: Option<Moment>,
}

/// What [`Pace::judge`] needs to know of the writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// When the oldest record that is sealed and not durable was appended.
    pub(super) oldest: Option<Moment>,
    /// A sync is under way.
    pub(super) is_syncing: bool,
    /// Everything is to be written and synced now.
    pub(super) is_finishing: bool,
}

impl Pace {
    /// Seals the open batch and begins a cycle, each if it is due. Returns when to look again, if nothing happens before: a
    /// moment after `now`.
    pub(super) fn judge(
        &mut self,
        now: Moment,
        settings: &WriterSettings,
        progress: Progress,
        ring: &mut FrameRing,
    ) -> Option<Moment> {
        let Progress { oldest, is_syncing, is_finishing } = progress;
        let is_durable = settings.level == AckLevel::Durable;
        let open_aged_at = ring.open_since().map(|since| since + AGE_MAX);
        let oldest_aged_at = oldest.map(|since| since + UNSYNCED_AGE_MAX);
        let is_past = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        let next = |last: Option<Moment>| last.map_or(now, |last| last + settings.sync_interval);
        let may_cycle = self.cycle.is_none() && !is_syncing;
        let cycle_at = if is_finishing { now } else { next(self.cycled_at) };
        // Where durability is promised the two go together, so that what comes in during a sync goes into the next as a whole.
        let seal_at = if is_durable || is_finishing { cycle_at } else { next(self.sealed_at) };
        let may_seal = may_cycle || !is_durable;

        let is_asked = settings.level != AckLevel::Received && self.asked > ring.sealed();
        let wants_seal = is_finishing || is_asked || is_past(open_aged_at);
        if wants_seal && may_seal && seal_at <= now {
            ring.seal();
            self.sealed_at = Some(now);
        }
        let unsynced = (ring.sealed().0 - ring.durable().0) as usize;
        let is_pressed = unsynced >= ring.memory().len() / PRESSURE_SHARE;
        let is_awaited = is_durable && self.asked > ring.durable();
        let wants_cycle = is_finishing || is_awaited || is_pressed || is_past(oldest_aged_at);
        if wants_cycle && may_cycle && cycle_at <= now && unsynced > 0 {
            self.cycle = Some(ring.sealed());
            self.cycled_at = Some(now);
        }
        let wakes = [
            (wants_seal && ring.open_since().is_some()).then_some(seal_at),
            (wants_cycle && self.cycle.is_none()).then_some(cycle_at),
            ring.open_since().map(|since| since + AGE_MAX),
            oldest_aged_at,
        ];
        // What is due already and was not done waits for a completion, which wakes the shard by itself.
        wakes.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Nothing is known any more of what the cycle under way has written.
    pub(super) fn abandon(&mut self) {
        self.cycle = None;
    }
}
