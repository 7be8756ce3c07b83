//! `exo-ingest calls delete`.

#![forbid(unsafe_code)]

use super::name::{CallName, display};
use super::{DataDir, Failure, find, print, print_json, progress};
use crate::journal::erase::{EraseError, Erased, erase};
use crate::journal::reader::TurnState;
use clap::Args;
use serde::Serialize;

/// Erase a call's audio for good: it is overwritten where it lies
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct DeleteArgs {
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
  exo-ingest calls delete acme/call-1 --data-dir /var/lib/exo-ingest

The call's ids, times and sizes stay, so that `list` shows that there was a call and that its audio was deleted. A call \
that goes on, or is in a segment that is still being written, is refused. What a disk or a copy-on-write filesystem \
keeps of overwritten blocks, and backups, are beyond it.";

#[derive(Serialize)]
struct Document {
    call: String,
    #[serde(flatten)]
    erased: Erased,
}

/// Erases, and prints how much.
pub(super) fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let (journal, catalog) = args.data_dir.catalog()?;
    let call = find(&catalog, &args.name)?;
    let name = display(&call.identity);
    if call.turns.iter().any(|turn| turn.state == TurnState::Live) {
        return Err(Failure::Run(format!("{name} is live: delete it once it has ended")));
    }
    let segments = call.turns.iter().map(|turn| turn.parts.len()).sum();
    let bar = progress(segments, "erasing in segments");
    let erased = erase(&journal, call, &mut || bar.inc(1)).map_err(|error| match error {
        EraseError::Held(_) | EraseError::Journal(_) => Failure::Run(error.to_string()),
    })?;
    bar.finish_and_clear();
    if args.json {
        return print_json(&Document { call: name, erased });
    }
    print(&format!("{name}: {} bytes of audio erased in {} segments\n", erased.bytes, erased.segments))
}
