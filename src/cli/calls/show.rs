//! `exo-ingest calls show`.

#![forbid(unsafe_code)]

use super::name::CallName;
use super::view::{CallView, EpochView};
use super::{DataDir, Failure, find, print, print_json};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

/// Show everything the journal knows of one call
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ShowArgs {
    #[command(flatten)]
    name: CallName,
    #[command(flatten)]
    data_dir: DataDir,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls show acme/call-1 --data-dir /var/lib/exo-ingest";

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    call: CallView,
    /// The files that its records are in.
    files: Vec<PathBuf>,
}

/// Prints one call.
pub(super) fn show(args: &ShowArgs) -> Result<(), Failure> {
    let (journal, catalog) = args.data_dir.catalog()?;
    let call = find(&catalog, &args.name)?;
    let mut files = BTreeSet::new();
    for turn in &call.turns {
        let shard = journal.shards().get(turn.shard);
        files.extend(turn.parts.iter().filter_map(|part| shard.map(|shard| shard.path(part.segment))));
    }
    let document = Document { call: CallView::new(call), files: files.into_iter().collect() };
    if args.json { print_json(&document) } else { print(&text(&document)) }
}

fn text(document: &Document) -> String {
    let call = &document.call;
    let mut text = format!("call         {}\ntenant       {}\ninteraction  {}\n", call.call, call.tenant, call.interaction);
    for epoch in &call.epochs {
        let EpochView { started_at, sample_rate, frames, bytes, seconds, ended, .. } = epoch;
        let _ = writeln!(text, "\nepoch {}", epoch.epoch);
        let _ = writeln!(text, "  started  {started_at}\n  ended    {ended}\n  rate     {sample_rate} Hz");
        let _ = writeln!(text, "  audio    {frames} frames, {bytes} bytes, {seconds:.3} s");
        if epoch.frames_erased > 0 {
            let _ = writeln!(text, "  deleted  {} frames", epoch.frames_erased);
        }
        if epoch.frames_cut > 0 {
            let _ = writeln!(text, "  cut      {} frames that never completed", epoch.frames_cut);
        }
        for gap in &epoch.gaps {
            let reason = format!("{:?}", gap.reason).to_lowercase();
            let _ = writeln!(text, "  missing  frames {} to {}: {reason}", gap.first, gap.last);
        }
    }
    text.push_str("\nfiles\n");
    for file in &document.files {
        let _ = writeln!(text, "  {}", file.display());
    }
    text
}
