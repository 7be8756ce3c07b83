//! Names of the objects beside the slices: a WAV file and a receipt for each recording.

#![forbid(unsafe_code)]

use crate::archive::reader::Call;
use crate::call::CallIdentity;
use crate::cli::calls::export::paths::part;
use crate::cli::calls::recording::{Recording, started_at};
use crate::cli::calls::time::rfc3339;
use crate::clock::UnixMicros;
use std::collections::{BTreeSet, HashSet};

/// Microseconds of a day.
const DAY: u64 = 24 * 60 * 60 * 1_000_000;

/// Endings of a recording's objects. The mark says that the event `recording_ready` went out. The
/// receipt comes last: without it nothing finds the rest.
pub(super) const ENDINGS: [&str; 3] = ["wav", "ready", "json"];

/// The name of a recording's objects, without an ending. `days` has the days of the recordings of
/// its call so far.
pub(super) fn object_name(recording: &Recording, days: &mut HashSet<String>) -> String {
    let started_at = recording.started_at();
    let day = day(started_at);
    let mut name = name_on(&recording.identity, &day);
    if !days.insert(day) {
        name += &format!("-{}", started_at.0);
    }
    name
}

/// How the names of a call's objects begin. A recording has its name from the day when its first
/// epoch began: the journal may not know that epoch any more.
pub(in crate::cli) fn compacted_names(call: &Call) -> Vec<String> {
    let starts = call.epochs.iter().map(started_at);
    let days = starts.flat_map(|at| [UnixMicros(at.0.saturating_sub(DAY)), at]).map(day);
    let days: BTreeSet<String> = days.collect();
    days.iter().map(|day| name_on(&call.identity, day)).collect()
}

fn day(at: UnixMicros) -> String {
    rfc3339(at).chars().take_while(|letter| *letter != 'T').collect()
}

fn name_on(identity: &CallIdentity, day: &str) -> String {
    let tenant = CallIdentity { tenant: identity.tenant.clone(), interaction: "".into() };
    let interaction = part(&identity.interaction, identity);
    format!("calls/{}/{day}/{interaction}", part(&identity.tenant, &tenant))
}
