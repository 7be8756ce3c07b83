//! `exo-ingest archive export`.

#![forbid(unsafe_code)]

use super::{ArchiveFlags, Failure, source};
use crate::archive::reader::CallEpoch;
use crate::cli::calls::export::{ExportArgs, export_calls};
use crate::cli::calls::recording::Recording;
use clap::Args;

/// Write the audio of a call to a WAV file, or of many calls to files in a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ArchiveExportArgs {
    #[command(flatten)]
    what: ExportArgs,
    #[command(flatten)]
    archive: ArchiveFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest archive export acme/call-1 -o call.wav --from s3://recordings/exo
  exo-ingest archive export --tenant acme --since 2026-11-30 -o recordings/ --from file:///archive

Writes the same files as `exo-ingest calls export` on the journal. Of each slice that holds audio \
of a call it fetches the index and that audio. Audio of a hole in the archive is missing, and the \
exit code is 3.";

/// Writes the files.
pub(super) fn export(args: &ArchiveExportArgs) -> Result<(), Failure> {
    let mirror = args.archive.mirror()?;
    let journal = mirror.journal()?;
    let mut fetched: Vec<CallEpoch> = Vec::new();
    let mut prepare = |recordings: &[Recording]| {
        for call_epoch in fetched.drain(..) {
            mirror.forget(&journal, &call_epoch)?;
        }
        for (_, call_epoch) in recordings.iter().flat_map(|recording| &recording.epochs) {
            mirror.fetch(&journal, call_epoch)?;
            fetched.push(call_epoch.clone());
        }
        Ok(())
    };
    export_calls(&args.what, || source(&mirror), &mut prepare)
}
