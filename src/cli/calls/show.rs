//! `exo-ingest calls show`.

#![forbid(unsafe_code)]

use super::name::CallName;
use super::source::Source;
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
    choice: ShowChoice,
    #[command(flatten)]
    pub(super) data_dir: DataDir,
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

/// Which call, and how to print it.
#[derive(Debug, Args)]
pub(in crate::cli) struct ShowChoice {
    #[command(flatten)]
    name: CallName,
    #[command(flatten)]
    zone: Zone,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints one call.
pub(super) fn show(args: &ShowArgs) -> Result<(), Failure> {
    show_call(&args.choice, || args.data_dir.source(), &mut |path| path)
}

/// Prints one call. `named` gives the name of the file that stands for a segment's.
pub(in crate::cli) fn show_call(
    choice: &ShowChoice,
    source: impl FnOnce() -> Result<Source, Failure>,
    named: &mut dyn FnMut(PathBuf) -> PathBuf,
) -> Result<(), Failure> {
    let identity = choice.name.identity()?;
    choice.zone.check()?;
    let source = source()?;
    let call = source.expect(&identity)?;
    let mut files = BTreeSet::new();
    for call_epoch in &call.epochs {
        let Some(shard) = source.journal().shards().get(call_epoch.shard) else { continue };
        files.extend(call_epoch.parts.iter().map(|part| named(shard.path(part.segment))));
    }
    let call = CallView::new(&call, choice.zone);
    let document = Document { call, files: files.into_iter().collect() };
    if choice.json { print_json(&document) } else { print(&text(&document)) }
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
