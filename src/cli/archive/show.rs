//! `exo-ingest archive show`.

#![forbid(unsafe_code)]

use super::{ArchiveFlags, Failure, source};
use crate::cli::calls::show::{ShowChoice, show_call};
use clap::Args;
use std::path::PathBuf;

/// Show everything that an archive knows about one call
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ArchiveShowArgs {
    #[command(flatten)]
    choice: ShowChoice,
    #[command(flatten)]
    archive: ArchiveFlags,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest archive show acme/call-1 --from s3://recordings/exo

Prints what `exo-ingest calls show` does, with the names of the slices that hold the call.";

/// Prints one call.
pub(super) fn show(args: &ArchiveShowArgs) -> Result<(), Failure> {
    let mirror = args.archive.mirror()?;
    let mut named = |path: PathBuf| match mirror.object_of(&path) {
        Some(name) => name.to_string().into(),
        None => path,
    };
    show_call(&args.choice, || source(&mirror), &mut named)
}
