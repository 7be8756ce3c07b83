//! `exo-ingest calls verify`.

#![forbid(unsafe_code)]

use super::{DataDir, Failure, print, print_json, progress};
use crate::archive::recovery::{self, counted};
use clap::Args;
use serde::Serialize;

/// Check every checksum and sequence in the journal; exits 3 if it is damaged
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct VerifyArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls verify --data-dir /var/lib/exo-ingest

Reads the whole journal. A crash leaves a torn tail, and may lose bytes that were not synced. \
Neither is damage: they hold nothing that was acked as durable. In the last segment of a node that \
crashed, damage to the data of its last syncs looks the same as these two.";

#[derive(Serialize)]
struct Document<'a> {
    is_sound: bool,
    #[serde(flatten)]
    report: &'a recovery::RecoveryReport,
}

/// Prints the result.
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
    let missing: u64 =
        report.missing.iter().map(|missing| (missing.last - missing.first).saturating_add(1)).sum();
    let (places, missing) =
        (counted(report.damages.len() as u64, "place"), counted(missing, "frame"));
    Err(Failure::Damaged(format!(
        "the journal is damaged in {places}, with {missing} missing: intact audio can still be \
         exported"
    )))
}
