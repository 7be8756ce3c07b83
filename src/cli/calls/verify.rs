//! `exo-ingest calls verify`.

#![forbid(unsafe_code)]

use super::name::encoded;
use super::{DataDir, Failure, print, print_json, progress};
use crate::archive::recovery::{self, MissingFrames, counted};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Check every checksum and sequence in the journal; exits 3 if it is damaged
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct VerifyArgs {
    #[command(flatten)]
    pub(super) data_dir: DataDir,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls verify --data-dir /var/lib/exo-ingest

Reads the whole journal, and names the calls that miss frames. A crash leaves a torn tail, and may lose bytes that were not synced. \
Neither is damage: they hold nothing that was acked as durable. In the last segment of a node that \
crashed, damage to the data of its last syncs looks the same as these two.";

#[derive(Serialize)]
struct Document<'a> {
    is_sound: bool,
    #[serde(flatten)]
    report: &'a recovery::RecoveryReport,
    /// The calls with missing frames.
    calls_incomplete: &'a [Incomplete],
}

/// A call with missing frames.
#[derive(Debug, PartialEq, Serialize)]
struct Incomplete {
    /// The name that commands accept.
    call: String,
    /// Numbers of the epochs that they are missing in.
    epochs: Vec<usize>,
    frames_missing: u64,
}

/// The missing frames, summed up by call.
fn by_call(missing: &[MissingFrames]) -> Vec<Incomplete> {
    let mut calls: BTreeMap<(&str, &str), Incomplete> = BTreeMap::new();
    for missing in missing {
        let ids = (&*missing.tenant, &*missing.interaction);
        let call = calls.entry(ids).or_insert_with(|| Incomplete {
            call: format!("{}/{}", encoded(ids.0), encoded(ids.1)),
            epochs: Vec::new(),
            frames_missing: 0,
        });
        if call.epochs.last() != Some(&missing.epoch) {
            call.epochs.push(missing.epoch);
        }
        let count = (missing.last - missing.first).saturating_add(1);
        call.frames_missing = call.frames_missing.saturating_add(count);
    }
    calls.into_values().collect()
}

/// Prints the result.
pub(super) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let journal = args.data_dir.open()?;
    let bar = progress(journal.segment_count(), "reading segments");
    let report = recovery::verify(&journal, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    let incomplete = by_call(&report.missing);
    if args.json {
        let is_sound = report.is_sound();
        print_json(&Document { is_sound, report: &report, calls_incomplete: &incomplete })?;
    } else {
        print(&text(&report, &incomplete))?;
    }
    if report.is_sound() {
        return Ok(());
    }
    let missing = incomplete.iter().map(|call| call.frames_missing).fold(0, u64::saturating_add);
    let (places, missing) =
        (counted(report.damages.len() as u64, "place"), counted(missing, "frame"));
    let lost = match report.segments_lost() {
        0 => String::new(),
        lost => format!(" and {} lost", counted(lost, "segment")),
    };
    Err(Failure::Damaged(format!(
        "the journal is damaged in {places}, with {missing} missing{lost}: intact audio can still \
         be exported"
    )))
}

/// The report, and what it means for the calls.
fn text(report: &recovery::RecoveryReport, incomplete: &[Incomplete]) -> String {
    let mut text = String::new();
    for call in incomplete {
        let epochs: Vec<String> = call.epochs.iter().map(usize::to_string).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {} missing in epoch {}",
            call.call,
            counted(call.frames_missing, "frame"),
            epochs.join(", ")
        );
    }
    // Its last line is the verdict.
    let _ = writeln!(text, "{report}");
    text
}
