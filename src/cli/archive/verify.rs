//! `exo-ingest archive verify`.

#![forbid(unsafe_code)]

use super::{ArchiveFlags, Failure, progress};
use crate::archive::recovery::counted;
use crate::cli::calls::{print_json, remark};
use crate::cli::print;
use crate::handover::coverage::HoleReason;
use crate::handover::verify::{self, VerifyReport};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;

/// Check every byte in an archive, and that nothing is missing; exits 3 if something is
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct VerifyArgs {
    #[command(flatten)]
    archive: ArchiveFlags,
    /// Name what retention removed before it was sent, and do not exit with 3 for it
    #[arg(long)]
    allow_expired: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest archive verify --from s3://recordings/exo

Reads the whole archive. It names objects that are damaged, ranges of a journal that are not there, \
and the calls that miss frames. If a range is gone and the node's journal still has it, run \
`exo-ingest ship` there with a new --cursor FILE: it asks what is here, and sends the rest. What \
retention removed before it was sent (archive.required=false, forward.over_budget=drop-oldest) is \
lost, too: with --allow-expired it is named, and the exit code does not say so. What came before \
the first slice of a shard counts as removed by the store's lifecycle rules.";

#[derive(Serialize)]
struct Document<'a> {
    is_sound: bool,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

/// Prints the result.
pub(super) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let mirror = args.archive.mirror()?;
    let count = usize::try_from(mirror.state().slices).unwrap_or(usize::MAX);
    let bar = progress(count, "reading slices");
    let report = verify::verify(&mirror, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    let is_sound = report.is_sound();
    if args.json {
        print_json(&Document { is_sound, report: &report })?;
    } else {
        print(&text(&report))?;
    }
    if is_sound || (args.allow_expired && report.is_sound_but_for_expired()) {
        return Ok(());
    }
    let holes = report.holes.len();
    let bad = report.bad_objects.len() + report.damaged_before.len();
    Err(Failure::Damaged(format!(
        "the archive has {} and {}: everything else can be exported",
        counted(bad as u64, "damaged place"),
        counted(holes as u64, "hole")
    )))
}

/// The report, with one line for each fault.
fn text(report: &VerifyReport) -> String {
    for bad in &report.bad_objects {
        remark(&format!("damaged: {}: {}", bad.object, bad.what));
    }
    for bad in &report.damaged_before {
        remark(&format!("damaged before it was sent: {}: {}", bad.object, bad.what));
    }
    for hole in &report.holes {
        let why = match hole.reason {
            HoleReason::Missing => "missing",
            HoleReason::LostBefore => "lost before it was sent",
            HoleReason::Expired => "removed by retention before it was sent",
        };
        remark(&format!("{why}: {}", hole.object));
    }
    let mut text = String::new();
    for call in &report.calls_incomplete {
        let name = format!("{}/{}", call.tenant, call.interaction);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {} missing", counted(call.frames_missing, "frame"));
    }
    let (slices, bytes) = (counted(report.slices, "slice"), counted(report.bytes, "byte"));
    let _ = writeln!(text, "{slices}, {bytes}, {}", counted(report.calls, "call"));
    if report.shards_open > 0 {
        let open = counted(report.shards_open, "shard");
        let _ = writeln!(text, "{open} may go on: what is not sent yet is not checked");
    }
    text
}
