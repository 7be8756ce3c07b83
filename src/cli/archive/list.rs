//! `exo-ingest archive list`.

#![forbid(unsafe_code)]

use super::{ArchiveFlags, Failure, source};
use crate::cli::calls::list::{ListChoice, list_calls};
use clap::Args;

/// List the calls in an archive
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    choice: ListChoice,
    #[command(flatten)]
    archive: ArchiveFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest archive list --from s3://recordings/exo --tenant acme --since 2h
  exo-ingest archive list --from file:///archive --node edge-7 --json

The table is that of `exo-ingest calls list`. A call is `live` as long as its node may send more of \
it. A call that several nodes took is one call with an epoch for each connection. Reads the index \
of every slice, and no audio.";

/// Prints one row for each epoch of each call.
pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let mirror = args.archive.mirror()?;
    list_calls(&args.choice, &source(&mirror)?)
}
