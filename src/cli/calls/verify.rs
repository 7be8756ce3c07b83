//! `exo-ingest calls verify`.

#![forbid(unsafe_code)]

use super::{DataDir, Failure, print, print_json, progress};
use crate::journal::recovery;
use clap::Args;
use serde::Serialize;

/// Check every checksum and sequence in the journal; exit 3 if it is damaged
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct VerifyArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls verify --data-dir /var/lib/exo-ingest

Reads all of it. A torn tail is what a crash leaves, and so are bytes that were lost before a sync: no damage, nothing
that was acked as durable is in them. Of the last segment of a node that crashed, damage to what its last syncs made
durable cannot be told from either.";

#[derive(Serialize)]
struct Document<'a> {
    is_sound: bool,
    #[serde(flatten)]
    report: &'a recovery::RecoveryReport,
}

/// Prints what was found.
pub(super) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let journal = args.data_dir.open()?;
    let bar = progress(journal.segment_count(), "reading segments");
    let report = recovery::verify(&journal, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    if args.json {
        print_json(&Document { is_sound: report.is_sound(), report: &report })?;
    } else {
        print(&format!("{report}\n"))?;
    }
    if report.is_sound() {
        return Ok(());
    }
    let missing: u64 = report.missing.iter().map(|missing| (missing.last - missing.first).saturating_add(1)).sum();
    Err(Failure::Damaged(format!(
        "the journal is damaged in {} places, {missing} frames are missing: what is whole can still be exported",
        report.damages.len()
    )))
}
