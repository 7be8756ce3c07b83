//! Recordings: the epochs of a call that belong together.
//!
//! An id may be used again, hours later, for another call of the telephone. So the epochs under
//! one id make one recording only as long as each begins soon after the end of the one before.

#![forbid(unsafe_code)]

use crate::archive::reader::{Call, CallEpoch, EpochState, Gap, GapReason};
use crate::call::CallIdentity;
use crate::clock::UnixMicros;

/// How long after the end of an epoch a client may resume the call. An epoch that begins later is
/// another recording. Clients reconnect within seconds, or within minutes if their network fails.
pub(super) const RESUME_WINDOW: u64 = 10 * 60 * 1_000_000;

/// Epochs that belong together, with their numbers.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Recording {
    pub(crate) identity: CallIdentity,
    /// At least one, in order. The number of an epoch is its place in the call, from 1.
    pub(crate) epochs: Vec<(usize, CallEpoch)>,
}

/// The recordings of a call, in order.
pub(in crate::cli) fn recordings(call: Call) -> Vec<Recording> {
    let Call { identity, epochs } = call;
    let mut found: Vec<Recording> = Vec::new();
    for (place, call_epoch) in epochs.into_iter().enumerate() {
        let last = found.last_mut().filter(|recording| {
            let end = recording.last_activity().0.saturating_add(RESUME_WINDOW);
            started_at(&call_epoch).0 <= end
        });
        match last {
            Some(recording) => recording.epochs.push((place + 1, call_epoch)),
            None => found.push(Recording {
                identity: identity.clone(),
                epochs: vec![(place + 1, call_epoch)],
            }),
        }
    }
    found
}

impl Recording {
    /// Number of its first epoch.
    pub(crate) fn number(&self) -> usize {
        self.epochs.first().map_or(0, |(number, _)| *number)
    }

    /// When its first epoch began.
    pub(crate) fn started_at(&self) -> UnixMicros {
        self.epochs.first().map_or(UnixMicros(0), |(_, call_epoch)| started_at(call_epoch))
    }

    /// When its last record was written.
    fn last_activity(&self) -> UnixMicros {
        let last = |(_, call_epoch): &(usize, CallEpoch)| {
            ended_at(call_epoch).unwrap_or(UnixMicros(0)).max(call_epoch.last_received_at)
        };
        self.epochs.iter().map(last).max().unwrap_or(UnixMicros(0))
    }

    /// Whether a node is writing it.
    pub(crate) fn is_live(&self) -> bool {
        self.epochs.iter().any(|(_, call_epoch)| call_epoch.state == EpochState::Live)
    }

    /// Whether it has frames, and all of them were erased.
    pub(crate) fn is_erased(&self) -> bool {
        let frames = self.frames();
        frames > 0 && frames == self.sum(|call_epoch| call_epoch.erased)
    }

    /// Frames, erased ones included.
    pub(crate) fn frames(&self) -> u64 {
        self.sum(|call_epoch| call_epoch.frames.count())
    }

    /// Bytes of whole samples in them.
    pub(crate) fn bytes(&self) -> u64 {
        self.sum(|call_epoch| call_epoch.bytes)
    }

    /// Frames that are missing because of damage.
    pub(crate) fn frames_damaged(&self) -> u64 {
        self.sum(|call_epoch| {
            let is_missing =
                |gap: &&Gap| matches!(gap.reason, GapReason::Damaged | GapReason::Lost);
            let damaged = call_epoch.gaps.iter().filter(is_missing);
            damaged.map(|gap| (gap.range.last - gap.range.first).saturating_add(1)).sum()
        })
    }

    fn sum(&self, count: impl Fn(&CallEpoch) -> u64) -> u64 {
        self.epochs.iter().map(|(_, call_epoch)| count(call_epoch)).sum()
    }

    /// Parts of one sample rate each: a WAV file has only one. Epochs without audio fit anywhere.
    pub(crate) fn by_rate(self) -> Vec<Recording> {
        let mut parts: Vec<Recording> = Vec::new();
        let mut rate = None;
        for (number, call_epoch) in self.epochs {
            let next = Some(sample_rate(&call_epoch)).filter(|_| call_epoch.bytes > 0);
            let fits = rate.is_none() || next.is_none() || rate == next;
            rate = next.or(rate);
            match parts.last_mut().filter(|_| fits) {
                Some(part) => part.epochs.push((number, call_epoch)),
                None => parts.push(Recording {
                    identity: self.identity.clone(),
                    epochs: vec![(number, call_epoch)],
                }),
            }
        }
        parts
    }
}

/// When an epoch began.
pub(in crate::cli) fn started_at(call_epoch: &CallEpoch) -> UnixMicros {
    call_epoch.facts.as_ref().map_or(call_epoch.first_received_at, |facts| facts.started_at)
}

/// When an epoch ended; `None` while it is live. One that was cut ended with its last record.
pub(in crate::cli) fn ended_at(call_epoch: &CallEpoch) -> Option<UnixMicros> {
    match call_epoch.state {
        EpochState::Live => None,
        EpochState::Ended(end) => Some(end.ended_at),
        EpochState::Cut => Some(call_epoch.last_received_at),
    }
}

/// The sample rate of an epoch, Hz; 0 if it is not known.
pub(in crate::cli) fn sample_rate(call_epoch: &CallEpoch) -> u32 {
    call_epoch.facts.as_ref().map_or(0, |facts| facts.sample_rate)
}
