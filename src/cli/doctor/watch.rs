//! `--watch`: looks again and again, and prints what changes.

use super::report::word;
use super::{Examination, Failure, print};
use crate::control::expiry::date;
use crate::doctor::check::{Check, Outcome};
use crate::doctor::counters::{Counters, Sample};
use crate::doctor::{self, Facts, Look, Summary};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest time until a signal is noticed.
const NAP: Duration = Duration::from_millis(50);

/// A line.
#[derive(Serialize)]
struct Change<'a> {
    /// RFC 3339, in UTC.
    time: String,
    id: &'a str,
    result: &'a str,
    /// What the host has now; for a counter, how much it grew.
    current: &'a str,
    /// The result of the last look; null for a counter, and in the first lines.
    previous: Option<&'a str>,
}

/// Looks every `interval`, until SIGINT or SIGTERM. `facts` are those of the first look.
pub(super) fn watch(
    examination: &Examination,
    facts: Facts,
    interval: Duration,
    is_json: bool,
) -> Result<(), Failure> {
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&is_over))
            .map_err(|error| Failure::Run(format!("cannot handle signals: {error}")))?;
    }
    let mut last = doctor::checks(&facts, &examination.plan);
    let (mut counters, mut looked_at) = (read_counters(examination, &facts), Instant::now());
    if !is_json {
        let summary = Summary::of(&last);
        let failed = summary.fatal + summary.warnings + summary.infos;
        print(&format!(
            "watching every {} s until Ctrl-C: {} passed, {failed} failed\n",
            interval.as_secs(),
            summary.passed
        ))?;
    }
    for check in last.iter().filter(|check| check.result == Outcome::Fail) {
        line(check.id(), word(check), check.current.as_deref().unwrap_or(""), None, is_json)?;
    }
    while rest(interval, &is_over) {
        // What takes a closer look is not repeated: it would disturb a node.
        let mut now = examination.look(Look::LIGHT);
        now.keep_answers_of(&facts);
        let (before, after) = (counters, read_counters(examination, &now));
        let sample = Sample { before, after: after.clone(), time: looked_at.elapsed() };
        (counters, looked_at) = (after, Instant::now());
        for (id, name, grown) in sample.grown() {
            line(id, "count", &format!("{name} +{grown}"), None, is_json)?;
        }
        now.set_counters(sample);
        let checks = doctor::checks(&now, &examination.plan);
        for (before, check) in last.iter().zip(&checks).filter(|(a, b)| has_changed(a, b)) {
            let current = check.current.as_deref().or(check.reason.as_deref()).unwrap_or("");
            line(check.id(), word(check), current, Some(word(before)), is_json)?;
        }
        last = checks;
    }
    Ok(())
}

fn read_counters(examination: &Examination, facts: &Facts) -> Counters {
    Counters::read(&examination.root, facts.nic_name())
}

/// Whether a check is worth a line. What moves all the time is not, unless the result changes.
fn has_changed(before: &Check, now: &Check) -> bool {
    let is_other = (before.result, before.severity) != (now.result, now.severity);
    is_other || (!now.is_restless && before.current != now.current)
}

/// Sleeps; `false` after a signal.
fn rest(interval: Duration, is_over: &AtomicBool) -> bool {
    let start = Instant::now();
    while start.elapsed() < interval {
        if is_over.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(NAP.min(interval.saturating_sub(start.elapsed())));
    }
    !is_over.load(Ordering::Relaxed)
}

fn line(
    id: &str,
    result: &str,
    current: &str,
    previous: Option<&str>,
    is_json: bool,
) -> Result<(), Failure> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = date(seconds);
    if is_json {
        let change = Change { time, id, result, current, previous };
        let text = serde_json::to_string(&change)
            .map_err(|error| Failure::Run(format!("cannot write JSON: {error}")))?;
        return print(&(text + "\n"));
    }
    let was = previous.filter(|previous| *previous != result);
    let was = was.map(|previous| format!(" (was {previous})")).unwrap_or_default();
    print(&format!("{time} {result:5} {id:26} {current}{was}\n"))
}
