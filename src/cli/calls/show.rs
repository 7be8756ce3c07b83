//! `exo-ingest calls show`.

#![forbid(unsafe_code)]

use super::name::CallName;
use super::time::Zone;
use super::view::{CallView, EpochView};
use super::{DataDir, Failure, print, print_json};
use crate::archive::recovery::counted;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

/// Show everything that the journal knows about one call
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ShowArgs {
    #[command(flatten)]
    name: CallName,
    #[command(flatten)]
    zone: Zone,
    #[command(flatten)]
    pub(super) data_dir: DataDir,
    /// Print JSON
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
    /// The files that contain its records.
    files: Vec<PathBuf>,
}

/// Prints one call.
pub(super) fn show(args: &ShowArgs) -> Result<(), Failure> {
    let identity = args.name.identity()?;
    args.zone.check()?;
    let source = args.data_dir.source()?;
    let call = source.expect(&identity)?;
    let mut files = BTreeSet::new();
    for call_epoch in &call.epochs {
        let shard = source.journal().shards().get(call_epoch.shard);
        files.extend(
            call_epoch.parts.iter().filter_map(|part| shard.map(|shard| shard.path(part.segment))),
        );
    }
    let call = CallView::new(&call, args.zone);
    let document = Document { call, files: files.into_iter().collect() };
    if args.json { print_json(&document) } else { print(&text(&document)) }
}

fn text(document: &Document) -> String {
    let call = &document.call;
    let mut text = format!(
        "call         {}\ntenant       {}\ninteraction  {}\n",
        call.call, call.tenant, call.interaction
    );
    for epoch in &call.epochs {
        let EpochView { started_at, sample_rate, frames, bytes, seconds, .. } = epoch;
        let ended = match &epoch.ended_at {
            Some(at) => format!("{at}, {}", epoch.ended),
            None => epoch.ended.clone(),
        };
        let _ = writeln!(text, "\nepoch {}", epoch.epoch);
        let _ = writeln!(
            text,
            "  started  {started_at}\n  ended    {ended}\n  rate     {sample_rate} Hz"
        );
        let _ = writeln!(text, "  peer     {}", epoch.peer.as_deref().unwrap_or("not known"));
        let (frames, bytes) = (counted(*frames, "frame"), counted(*bytes, "byte"));
        let _ = writeln!(text, "  audio    {frames}, {bytes}, {seconds:.3} s");
        if epoch.frames_erased > 0 {
            let _ = writeln!(text, "  deleted  {}", counted(epoch.frames_erased, "frame"));
        }
        if epoch.frames_cut > 0 {
            let _ = writeln!(
                text,
                "  cut      {} that never completed",
                counted(epoch.frames_cut, "frame")
            );
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
