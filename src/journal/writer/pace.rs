//! Decides when the open batch is sealed and when a sync is due.
//!
//! A *cycle* is a seal, the writes up to it, and a sync. Its cost does not depend on the amount of
//! data. So cycles keep a distance in time (`journal.sync_interval`), and each needs a reason: a
//! promise, room in the ring, or age.
//!
//! In a backlog the distance is one of bytes. A cycle then makes durable what was written before it
//! began, and [`Backlog::cycle_size_max`] more. The next cycle begins when its sync has ended.
//! (Rejected: a cycle of everything that waits. It releases nothing until its end. A full ring of
//! 768 MiB would take seconds to release its first byte.)

#![forbid(unsafe_code)]

use super::WriterSettings;
use crate::ack_level::AckLevel;
use crate::clock::Moment;
use crate::constants::BATCH_SIZE_MAX;
use crate::journal::frame_ring::{FrameRing, RingPosition};
use std::time::Duration;

/// How long a record waits for its batch to be sealed if no promise needs it. This is the most that
/// a call without a last ACK loses to a failure.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(1);

/// How old sealed records may get before a sync if no promise needs one. With one second, 1,000
/// calls at the `written` level waited up to a second for ACKs. A likely cause, not proven:
/// writes wait for a flush, and a flush takes longer the more there is to flush.
pub(crate) const UNSYNCED_AGE_MAX: Duration = Duration::from_millis(100);

/// Share of the ring that may wait for a sync without a promise. At this share a sync makes room.
const PRESSURE_SHARE: usize = 4;

/// How much a writer gives to the disk at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Largest write, bytes. Batches that follow each other in ring and file go out as one write.
    /// One write may be under way for each such amount of waiting bytes.
    pub(crate) write_size_max: usize,
    /// Most writes under way, at most [`WRITES_MAX`].
    pub(crate) write_count_max: usize,
    /// Most writes under way during a sync. A disk takes new writes before the flush that waits.
    pub(crate) write_count_syncing_max: usize,
    /// Most bytes that a cycle waits for, beyond what was written when it began. At most a quarter
    /// of the ring, so that room is released in pieces.
    pub(crate) cycle_size_max: usize,
}

impl Backlog {
    /// For a disk. We measured a virtual disk. On a good day it took 1.2 to 1.4 times as much with
    /// four writes of 4 MiB under way as with one, and eight gave no more. On a slow day two were
    /// best, and eight cost a third. Writes during a sync delay it: with eight under way syncs took
    /// 0.5 to 2.5 s instead of 0.1, and every ACK waited for that.
    pub const fn production() -> Backlog {
        Backlog {
            write_size_max: 4 * BATCH_SIZE_MAX,
            write_count_max: 4,
            write_count_syncing_max: 1,
            cycle_size_max: 32 * BATCH_SIZE_MAX,
        }
    }

    /// For a simulated disk: every batch of a backlog is a separate write, and cycles are short.
    #[cfg(test)]
    pub(crate) const fn tiny() -> Backlog {
        use crate::constants::BLOCK_SIZE;
        use crate::journal::writer::WRITES_MAX;

        Backlog {
            write_size_max: BLOCK_SIZE,
            write_count_max: WRITES_MAX,
            write_count_syncing_max: WRITES_MAX,
            cycle_size_max: 4 * BLOCK_SIZE,
        }
    }
}

/// Largest share of the ring that a cycle waits for.
const CYCLE_SHARE: usize = 4;

/// When the last cycle began, and the cycle under way.
#[derive(Debug)]
pub(super) struct Pace {
    /// The last position that a promise waits for.
    pub(super) asked: RingPosition,
    /// What the cycle under way will make durable.
    pub(super) cycle: Option<RingPosition>,
    sealed_at: Option<Moment>,
    cycled_at: Option<Moment>,
    cycle_size_max: usize,
}

/// What [`Pace::judge`] needs to know of the writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// When the oldest sealed record that is not durable was appended.
    pub(super) oldest: Option<Moment>,
    /// Everything sealed before this position is written.
    pub(super) written: RingPosition,
    /// A sync is under way.
    pub(super) is_syncing: bool,
    /// Everything must be written and synced now.
    pub(super) is_finishing: bool,
}

impl Pace {
    pub(super) fn new(backlog: Backlog, ring_size: usize) -> Pace {
        let cycle_size_max = backlog.cycle_size_max.min(ring_size / CYCLE_SHARE);
        Pace {
            asked: RingPosition(0),
            cycle: None,
            sealed_at: None,
            cycled_at: None,
            cycle_size_max,
        }
    }

    /// Seals the open batch and begins a cycle, each if it is due. Returns when to look again if
    /// nothing else happens, a moment after `now`.
    pub(super) fn judge(
        &mut self,
        now: Moment,
        settings: &WriterSettings,
        progress: Progress,
        ring: &mut FrameRing,
    ) -> Option<Moment> {
        let Progress { oldest, written, is_syncing, is_finishing } = progress;
        let is_durable = settings.level == AckLevel::Durable;
        let open_aged_at = ring.open_since().map(|since| since + AGE_MAX);
        let oldest_aged_at = oldest.map(|since| since + UNSYNCED_AGE_MAX);
        let is_past = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        let next =
            |last: Option<Moment>| last.map_or(now, |last| last + settings.journal.sync_interval);
        let may_cycle = self.cycle.is_none() && !is_syncing;
        let farthest = RingPosition(written.0 + self.cycle_size_max as u64);
        let is_behind = ring.sealed() >= farthest;
        let cycle_at = if is_finishing || is_behind { now } else { next(self.cycled_at) };
        // At the durable level seal and cycle go together. So data that arrives during a sync goes
        // into the next one as a whole.
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
            self.cycle = Some(ring.sealed().min(farthest));
            self.cycled_at = Some(now);
        }
        let wakes = [
            (wants_seal && ring.open_since().is_some()).then_some(seal_at),
            (wants_cycle && self.cycle.is_none()).then_some(cycle_at),
            ring.open_since().map(|since| since + AGE_MAX),
            oldest_aged_at,
        ];
        // Something that is due but not done waits for a completion, which wakes the shard.
        wakes.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The writes of the cycle under way no longer count.
    pub(super) fn abandon(&mut self) {
        self.cycle = None;
    }
}
