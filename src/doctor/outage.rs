//! How long the disk holds what required sinks do not take.

#![forbid(unsafe_code)]

use super::demand::Demand;
use super::plan::Plan;
use super::show;
use crate::config::settings::Settings;
use crate::io::affinity::allowed_cpus;
use crate::store::{self, Examined};
use std::path::{Path, PathBuf};

/// A sentence, and whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) sentence: String,
    pub(crate) is_well: bool,
}

/// For a disk with so many bytes free without the reserve. `None`: no sink is required.
pub(super) fn judge(plan: &Plan, demand: &Demand, room: u64) -> Option<Outage> {
    if !plan.has_required_sink {
        return None;
    }
    let (rate, calls) = (demand.disk_rate.max(1), demand.calls);
    let time = |bytes: u64| format!("{} of {calls} calls", show::span(bytes / rate));
    let free = show::bytes(room);
    let (is_well, sentence) = match plan.budget {
        None => (
            true,
            format!(
                "required sinks may be away for {}: then the disk is full ({free} without the \
                 reserve), and forward.budget is not set",
                time(room)
            ),
        ),
        Some(budget) if budget <= room => (
            true,
            format!(
                "required sinks may be away for {}: then forward.budget ({}) is used up; {free} \
                 are free without the reserve",
                time(budget),
                show::bytes(budget)
            ),
        ),
        Some(budget) => (
            false,
            format!(
                "required sinks may be away for {}: then the disk is full, since only {free} are \
                 free without the reserve, less than forward.budget ({})",
                time(room),
                show::bytes(budget)
            ),
        ),
    };
    Some(Outage { sentence, is_well })
}

/// For the data directory of these settings, and all calls that they allow. `None`: no sink is
/// required, or the disk cannot be read.
pub(crate) fn look(settings: &Settings) -> Option<Outage> {
    let allowed = allowed_cpus().unwrap_or_default();
    let plan = Plan::new(settings, settings.limits.calls_max, &allowed).ok()?;
    let directory = nearest(plan.data_dir.as_deref()?);
    let examined = store::examine(&directory).ok()?;
    let room = examined.free.saturating_sub(reserve(&examined, &plan));
    judge(&plan, &Demand::of(&plan), room)
}

/// The directory itself, or the nearest one above it that exists.
pub(super) fn nearest(directory: &Path) -> PathBuf {
    let found = directory.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    // The last parent of a relative path is empty: it is the current directory.
    if found.as_os_str().is_empty() { ".".into() } else { found.to_owned() }
}

/// Free bytes that new calls may not use.
pub(super) fn reserve(examined: &Examined, plan: &Plan) -> u64 {
    plan.journal.reserve.unwrap_or(examined.default_reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_budget_or_of_the_disk() {
        let plan = Plan::of_calls(8_000);
        let demand = Demand::of(&plan);
        assert_eq!(judge(&plan, &demand, 1 << 40), None);
        let said = |budget: Option<u64>, room: u64| {
            let plan = Plan { has_required_sink: true, budget, ..plan.clone() };
            judge(&plan, &demand, room).unwrap()
        };
        let rate = demand.disk_rate;
        let free = said(None, rate * 600);
        assert!(free.is_well && free.sentence.contains("away for 10m of 8000 calls"), "{free:?}");
        let set = said(Some(rate * 600), rate * 6_000);
        assert!(set.is_well && set.sentence.contains("away for 10m of 8000"), "{set:?}");
        let small = said(Some(rate * 6_000), rate * 600);
        assert!(!small.is_well && small.sentence.contains("away for 10m"), "{small:?}");
    }
}
