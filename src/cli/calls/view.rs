//! A call as it is shown, in tables and as JSON alike.

#![forbid(unsafe_code)]

use super::name::display;
use crate::clock::UnixMicros;
use crate::journal::reader::{Call, GapReason, Turn, TurnState};
use crate::session::ingest::Ending;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// A call.
#[derive(Debug, Serialize)]
pub(super) struct CallView {
    /// As commands take it.
    pub call: String,
    pub tenant: String,
    pub interaction: String,
    pub epochs: Vec<EpochView>,
}

/// A connection's turn at it.
#[derive(Debug, Serialize)]
pub(super) struct EpochView {
    /// From 1.
    pub epoch: usize,
    /// RFC 3339.
    pub started_at: String,
    pub sample_rate: u32,
    pub frames: u64,
    /// Of whole samples.
    pub bytes: u64,
    pub seconds: f64,
    /// `live`, `cut` where the node ended first, or why it ended.
    pub ended: String,
    pub frames_cut: u64,
    pub frames_erased: u64,
    pub gaps: Vec<GapView>,
}

/// Frames that are missing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct GapView {
    pub first: u64,
    pub last: u64,
    pub reason: GapReason,
}

impl CallView {
    pub(super) fn new(call: &Call) -> CallView {
        let epochs = call.turns.iter().enumerate().map(|(place, turn)| EpochView::new(place + 1, turn)).collect();
        CallView {
            call: display(&call.identity),
            tenant: call.identity.tenant.to_string(),
            interaction: call.identity.interaction.to_string(),
            epochs,
        }
    }
}

impl EpochView {
    fn new(epoch: usize, turn: &Turn) -> EpochView {
        let gap =
            |gap: &crate::journal::reader::Gap| GapView { first: gap.range.first, last: gap.range.last, reason: gap.reason };
        let sample_rate = turn.facts.as_ref().map_or(0, |facts| facts.sample_rate);
        EpochView {
            epoch,
            started_at: rfc3339(turn.facts.as_ref().map_or(turn.first_received_at, |facts| facts.started_at)),
            sample_rate,
            frames: turn.frames.count(),
            bytes: turn.bytes,
            seconds: seconds(turn.bytes, sample_rate),
            ended: ended(&turn.state),
            frames_cut: turn.cut,
            frames_erased: turn.erased,
            gaps: turn.gaps.iter().map(gap).collect(),
        }
    }
}

/// Length of so many bytes of audio.
pub(super) fn seconds(bytes: u64, sample_rate: u32) -> f64 {
    if sample_rate == 0 { 0.0 } else { bytes as f64 / f64::from(2 * sample_rate) }
}

fn ended(state: &TurnState) -> String {
    match state {
        TurnState::Live => "live".into(),
        TurnState::Cut => "cut".into(),
        TurnState::Ended(end) => match Ending::from_number(end.ending) {
            Some(ending) => ending.label().into(),
            None => format!("ending {}", end.ending),
        },
    }
}

/// A point in time, in UTC to the second; an impossible one as it is.
fn rfc3339(at: UnixMicros) -> String {
    // The last year with four digits is as far as the format goes.
    match UNIX_EPOCH.checked_add(Duration::from_micros(at.0)).filter(|_| at.0 < 253_402_300_800_000_000) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => format!("{} us", at.0),
    }
}

/// Rows in columns: the first row names them.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> =
        (0..columns).map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let line = row.iter().zip(&widths).fold(String::new(), |line, (cell, width)| line + &format!("{cell:width$}  "));
        text.push_str(line.trim_end());
        text.push('\n');
        text
    })
}
