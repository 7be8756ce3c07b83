//! `exo-ingest calls delete`.

#![forbid(unsafe_code)]

use super::name::{CallName, display};
use super::{DataDir, Failure, find, print, print_json, progress};
use crate::archive::erase::{EraseError, Erased, erase};
use crate::archive::reader::EpochState;
use crate::archive::recovery::counted;
use clap::Args;
use serde::Serialize;

/// Erase a call's audio for good: overwrites it in place
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct DeleteArgs {
    #[command(flatten)]
    name: CallName,
    #[command(flatten)]
    data_dir: DataDir,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls delete acme/call-1 --data-dir /var/lib/exo-ingest

The call's ids, times and sizes stay, so `list` shows the call and that its audio was deleted. \
The command refuses a live call, and a call in a segment that is still being written. It cannot \
erase backups, nor overwritten blocks that a disk or a copy-on-write filesystem keeps.";

#[derive(Serialize)]
struct Document {
    call: String,
    #[serde(flatten)]
    erased: Erased,
}

/// Erases the audio, and prints how much.
pub(super) fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let (journal, catalog) = args.data_dir.catalog()?;
    let call = find(&catalog, &args.name)?;
    let name = display(&call.identity);
    if call.epochs.iter().any(|call_epoch| call_epoch.state == EpochState::Live) {
        return Err(Failure::Run(format!("{name} is live: delete it once it has ended")));
    }
    let segments = call.epochs.iter().map(|call_epoch| call_epoch.parts.len()).sum();
    let bar = progress(segments, "erasing in segments");
    let erased = erase(&journal, call, &mut || bar.inc(1)).map_err(|error| match error {
        EraseError::Held(_) | EraseError::Journal(_) => Failure::Run(error.to_string()),
    })?;
    bar.finish_and_clear();
    if args.json {
        return print_json(&Document { call: name, erased });
    }
    let (bytes, segments) = (counted(erased.bytes, "byte"), counted(erased.segments, "segment"));
    print(&format!("{name}: {bytes} of audio erased in {segments}\n"))
}
