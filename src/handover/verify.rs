//! Checks every byte of an archive.

#![forbid(unsafe_code)]

use super::coverage::HoleReason;
use super::mirror::{ArchiveShard, Mirror, MirrorError};
use super::slice;
use crate::archive::reader::{CallEpoch, GapReason, Listed};
use serde::Serialize;

/// An object that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadObject {
    /// Its name.
    pub object: String,
    /// What is wrong.
    pub what: String,
}

/// A range of a shard's journal that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedHole {
    /// The name that an object with exactly this range has.
    pub object: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why.
    pub reason: HoleReason,
}

/// A call that misses frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncompleteCall {
    /// The customer.
    pub tenant: String,
    /// The call.
    pub interaction: String,
    /// How many.
    pub frames_missing: u64,
}

/// The state of an archive.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// Slices.
    pub slices: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Calls.
    pub calls: u64,
    /// Objects that are damaged in the archive.
    pub bad_objects: Vec<BadObject>,
    /// Damage that the journal had before it was sent.
    pub damaged_before: Vec<BadObject>,
    /// Ranges that are not there.
    pub holes: Vec<NamedHole>,
    /// Calls that miss frames for one of these reasons, but for ranges that retention removed.
    pub calls_incomplete: Vec<IncompleteCall>,
    /// Shards that may go on.
    pub shards_open: u64,
}

impl VerifyReport {
    /// Whether nothing is missing or damaged.
    pub fn is_sound(&self) -> bool {
        self.is_sound_but_for_expired() && self.holes.is_empty()
    }

    /// Whether nothing is missing or damaged but for what retention removed before it was sent.
    pub fn is_sound_but_for_expired(&self) -> bool {
        self.bad_objects.is_empty()
            && self.damaged_before.is_empty()
            && self.calls_incomplete.is_empty()
            && self.holes.iter().all(|hole| hole.reason == HoleReason::Expired)
    }
}

/// Reads every slice of an archive and checks it. Calls `progress` after each of them.
pub fn verify(mirror: &Mirror, progress: &mut dyn FnMut()) -> Result<VerifyReport, MirrorError> {
    let state = mirror.state();
    let mut report = VerifyReport {
        slices: state.slices,
        bytes: state.bytes,
        shards_open: state.shards_open,
        ..VerifyReport::default()
    };
    for (name, error) in &state.unreadable {
        report.bad_objects.push(bad(name, error));
    }
    for (shard, hole) in &state.holes {
        report.holes.push(NamedHole {
            object: range_name(shard, hole.first.0, hole.end.0),
            bytes: hole.end.0.saturating_sub(hole.first.0),
            reason: hole.reason,
        });
    }
    for name in mirror.slices() {
        match mirror.get(name)? {
            Some(bytes) => match slice::verify(&bytes) {
                Ok(verified) if verified.index.header.name() == *name => {
                    let damages = verified.damages.iter();
                    report.damaged_before.extend(damages.map(|damage| bad(name, damage)));
                }
                Ok(verified) => {
                    let belongs = verified.index.header.name();
                    report.bad_objects.push(bad(name, &format!("it is {belongs}")));
                }
                Err(error) => report.bad_objects.push(bad(name, &error)),
            },
            None => report.bad_objects.push(bad(name, &"it is gone since it was listed")),
        }
        progress();
    }
    count_calls(mirror, &mut report)?;
    Ok(report)
}

/// Names the calls that miss frames.
fn count_calls(mirror: &Mirror, report: &mut VerifyReport) -> Result<(), MirrorError> {
    let journal = mirror.journal()?;
    for listed in journal.list(&mut || {})? {
        let Listed::Call(call) = listed? else { continue };
        report.calls += 1;
        let frames_missing = call.epochs.iter().map(frames_missing).sum();
        if frames_missing > 0 {
            report.calls_incomplete.push(IncompleteCall {
                tenant: call.identity.tenant.into(),
                interaction: call.identity.interaction.into(),
                frames_missing,
            });
        }
    }
    Ok(())
}

fn frames_missing(call_epoch: &CallEpoch) -> u64 {
    let lost = call_epoch.gaps.iter().filter(|gap| gap.reason == GapReason::Lost);
    lost.map(|gap| gap.range.count()).sum()
}

fn bad(object: &impl ToString, what: &impl ToString) -> BadObject {
    BadObject { object: object.to_string(), what: what.to_string() }
}

/// The name that a slice with this range has.
fn range_name((node, run, shard): &ArchiveShard, first: u64, end: u64) -> String {
    let prefix = slice::ObjectName::shard_prefix(node, run, *shard);
    format!("{prefix}/{first:016x}-{end:016x}.exo")
}
