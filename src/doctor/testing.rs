//! What the unit tests of all groups use.

use super::check::{Check, Outcome};

/// The check with this id.
#[track_caller]
pub(super) fn find(checks: Vec<Check>, id: &str) -> Check {
    checks.into_iter().find(|check| check.id() == id).unwrap_or_else(|| panic!("no check {id}"))
}

#[track_caller]
pub(super) fn assert_passes(checks: Vec<Check>, id: &str) {
    let check = find(checks, id);
    assert_eq!(check.result, Outcome::Pass, "{check:?}");
}

/// A failure says what was found, and what to do.
#[track_caller]
pub(super) fn assert_fails(checks: Vec<Check>, id: &str) {
    let check = find(checks, id);
    assert_eq!(check.result, Outcome::Fail, "{check:?}");
    assert!(check.current.is_some() && !check.fix.is_empty(), "{check:?}");
}

/// A skipped check says why.
#[track_caller]
pub(super) fn assert_skips(checks: Vec<Check>, id: &str) {
    let check = find(checks, id);
    assert_eq!(check.result, Outcome::Skipped, "{check:?}");
    assert!(check.reason.is_some_and(|reason| !reason.is_empty()), "{id}");
}
