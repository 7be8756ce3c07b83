//! A call as shown in tables and as JSON.

#![forbid(unsafe_code)]

use super::name::display;
use crate::archive::reader::{Call, CallEpoch, EpochState, GapReason};
use crate::clock::UnixMicros;
use crate::session::ingest::Ending;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// A call.
#[derive(Debug, Serialize)]
pub(super) struct CallView {
    /// The name that commands accept.
    pub(crate) call: String,
    pub(crate) tenant: String,
    pub(crate) interaction: String,
    pub(crate) epochs: Vec<EpochView>,
}

/// One epoch of the call.
#[derive(Debug, Serialize)]
pub(super) struct EpochView {
    /// Number, from 1.
    pub(crate) epoch: usize,
    /// In RFC 3339.
    pub(crate) started_at: String,
    pub(crate) sample_rate: u32,
    pub(crate) frames: u64,
    /// Bytes of whole samples.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// `live`, `cut` if the node ended first, or the reason of the end.
    pub(crate) ended: String,
    pub(crate) frames_cut: u64,
    pub(crate) frames_erased: u64,
    pub(crate) gaps: Vec<GapView>,
}

/// Missing frames.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct GapView {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) reason: GapReason,
}

impl CallView {
    pub(super) fn new(call: &Call) -> CallView {
        let epochs = call
            .epochs
            .iter()
            .enumerate()
            .map(|(place, call_epoch)| EpochView::new(place + 1, call_epoch))
            .collect();
        CallView {
            call: display(&call.identity),
            tenant: call.identity.tenant.to_string(),
            interaction: call.identity.interaction.to_string(),
            epochs,
        }
    }
}

impl EpochView {
    fn new(epoch: usize, call_epoch: &CallEpoch) -> EpochView {
        let gap = |gap: &crate::archive::reader::Gap| GapView {
            first: gap.range.first,
            last: gap.range.last,
            reason: gap.reason,
        };
        let sample_rate = call_epoch.facts.as_ref().map_or(0, |facts| facts.sample_rate);
        EpochView {
            epoch,
            started_at: rfc3339(
                call_epoch
                    .facts
                    .as_ref()
                    .map_or(call_epoch.first_received_at, |facts| facts.started_at),
            ),
            sample_rate,
            frames: call_epoch.frames.count(),
            bytes: call_epoch.bytes,
            seconds: seconds(call_epoch.bytes, sample_rate),
            ended: ended(&call_epoch.state),
            frames_cut: call_epoch.cut,
            frames_erased: call_epoch.erased,
            gaps: call_epoch.gaps.iter().map(gap).collect(),
        }
    }
}

/// Duration of `bytes` bytes of audio.
pub(super) fn seconds(bytes: u64, sample_rate: u32) -> f64 {
    if sample_rate == 0 { 0.0 } else { bytes as f64 / f64::from(2 * sample_rate) }
}

fn ended(state: &EpochState) -> String {
    match state {
        EpochState::Live => "live".into(),
        EpochState::Cut => "cut".into(),
        EpochState::Ended(end) => match Ending::from_number(end.ending) {
            Some(ending) => ending.label().into(),
            None => format!("ending {}", end.ending),
        },
    }
}

/// A time in UTC, to the second; an impossible time as a number.
fn rfc3339(at: UnixMicros) -> String {
    // The format ends with the last year of four digits.
    match UNIX_EPOCH
        .checked_add(Duration::from_micros(at.0))
        .filter(|_| at.0 < 253_402_300_800_000_000)
    {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => format!("{} us", at.0),
    }
}

/// Aligns rows in columns: the first row has the headings.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> = (0..columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let line = row
            .iter()
            .zip(&widths)
            .fold(String::new(), |line, (cell, width)| line + &format!("{cell:width$}  "));
        text.push_str(line.trim_end());
        text.push('\n');
        text
    })
}
