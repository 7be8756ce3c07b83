//! A call as shown in tables and as JSON.

#![forbid(unsafe_code)]

use super::name::display;
use super::recording::{ended_at, sample_rate, started_at};
use super::time::Zone;
use crate::archive::reader::{Call, CallEpoch, EpochState, GapReason};
use crate::call::CallIdentity;
use crate::clock::UnixMicros;
use crate::session::ingest::Ending;
use serde::{Deserialize, Serialize};

/// How an epoch ended if its node ended first.
pub(super) const CUT: &str = "cut";

/// A call.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::cli) struct CallView {
    /// The name that commands accept.
    pub(crate) call: String,
    pub(crate) tenant: String,
    pub(crate) interaction: String,
    pub(crate) epochs: Vec<EpochView>,
}

/// One epoch of the call.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::cli) struct EpochView {
    /// Number, from 1.
    pub(crate) epoch: usize,
    /// In RFC 3339.
    pub(crate) started_at: String,
    /// In RFC 3339; null while it is live.
    pub(crate) ended_at: Option<String>,
    pub(crate) sample_rate: u32,
    pub(crate) frames: u64,
    /// Bytes of whole samples.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// IP address and port of the caller; null if it is not known.
    pub(crate) peer: Option<String>,
    /// `live`, `cut` if the node ended first, or the reason of the end.
    pub(crate) ended: String,
    pub(crate) frames_missing: u64,
    pub(crate) frames_cut: u64,
    pub(crate) frames_erased: u64,
    pub(crate) gaps: Vec<GapView>,
    /// For sorting.
    #[serde(skip)]
    pub(crate) start: UnixMicros,
    #[serde(skip)]
    pub(crate) end: Option<UnixMicros>,
}

/// Missing frames.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::cli) struct GapView {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) reason: GapReason,
}

impl CallView {
    /// A whole call.
    pub(super) fn new(call: &Call, zone: Zone) -> CallView {
        let epochs = call.epochs.iter().enumerate();
        CallView::of_epochs(&call.identity, epochs.map(|(place, epoch)| (place + 1, epoch)), zone)
    }

    /// With its seconds worked out again: as text they may have lost a digit.
    pub(super) fn with_seconds(mut self) -> CallView {
        for epoch in &mut self.epochs {
            epoch.seconds = seconds(epoch.bytes, epoch.sample_rate);
        }
        self
    }

    /// Some epochs of a call, with their numbers.
    pub(in crate::cli) fn of_epochs<'a>(
        identity: &CallIdentity,
        epochs: impl Iterator<Item = (usize, &'a CallEpoch)>,
        zone: Zone,
    ) -> CallView {
        let epochs = epochs.map(|(epoch, call_epoch)| EpochView::new(epoch, call_epoch, zone));
        CallView {
            call: display(identity),
            tenant: identity.tenant.to_string(),
            interaction: identity.interaction.to_string(),
            epochs: epochs.collect(),
        }
    }
}

impl EpochView {
    fn new(epoch: usize, call_epoch: &CallEpoch, zone: Zone) -> EpochView {
        let gap = |gap: &crate::archive::reader::Gap| GapView {
            first: gap.range.first,
            last: gap.range.last,
            reason: gap.reason,
        };
        let gaps: Vec<GapView> = call_epoch.gaps.iter().map(gap).collect();
        let sample_rate = sample_rate(call_epoch);
        let (start, end) = (started_at(call_epoch), ended_at(call_epoch));
        let peer = call_epoch.facts.as_ref().and_then(|facts| facts.peer);
        EpochView {
            epoch,
            started_at: zone.show(start),
            ended_at: end.map(|end| zone.show(end)),
            sample_rate,
            frames: call_epoch.frames.count(),
            bytes: call_epoch.bytes,
            seconds: seconds(call_epoch.bytes, sample_rate),
            peer: peer.map(|peer| peer.to_string()),
            ended: ended(&call_epoch.state),
            frames_missing: gaps
                .iter()
                .map(|gap| (gap.last - gap.first).saturating_add(1))
                .fold(0, u64::saturating_add),
            frames_cut: call_epoch.cut,
            frames_erased: call_epoch.erased,
            gaps,
            start,
            end,
        }
    }
}

/// Duration of `bytes` bytes of audio.
pub(in crate::cli) fn seconds(bytes: u64, sample_rate: u32) -> f64 {
    if sample_rate == 0 { 0.0 } else { bytes as f64 / f64::from(2 * sample_rate) }
}

/// How an epoch ended.
pub(super) fn ended(state: &EpochState) -> String {
    match state {
        EpochState::Live => "live".into(),
        EpochState::Cut => CUT.into(),
        EpochState::Ended(end) => match Ending::from_number(end.ending) {
            Some(ending) => ending.label().into(),
            None => format!("ending {}", end.ending),
        },
    }
}
