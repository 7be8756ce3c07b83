//! `exo-ingest archive delete`: erases a call's audio from an archive.

#![forbid(unsafe_code)]

use super::files::{ENDINGS, object_name};
use super::{ArchiveFlags, Failure, source};
use crate::archive::recovery::counted;
use crate::cli::calls::name::{CallName, display};
use crate::cli::calls::print_json;
use crate::cli::calls::recording::{Recording, recordings};
use crate::cli::print;
use crate::handover::erase::{ArchiveEraseError, ArchiveErased, erase_call};
use clap::Args;
use serde::Serialize;
use std::collections::HashSet;

/// Erase the audio of a call from an archive for good
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ArchiveDeleteArgs {
    #[command(flatten)]
    call: CallName,
    #[command(flatten)]
    archive: ArchiveFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest archive delete acme/call-1 --from s3://recordings/exo

Replaces each slice that holds the call by one without its audio, and removes the call's WAV files \
and receipts. Ids, times and sizes stay, as in the journal. It refuses a call that may go on. \
Delete the call from the node's journal first (`exo-ingest calls delete`): else the audio is still \
there. If it was interrupted, run it again.

A bucket that keeps versions keeps the old ones: let a rule of the store remove them.";

#[derive(Serialize)]
struct Document<'a> {
    call: &'a str,
    #[serde(flatten)]
    erased: ArchiveErased,
    /// WAV files and receipts that were removed.
    files: u64,
}

/// Erases the call, and prints how much.
pub(super) fn delete(args: &ArchiveDeleteArgs) -> Result<(), Failure> {
    let identity = args.call.identity()?;
    let mirror = args.archive.mirror()?;
    let call = source(&mirror)?.expect(&identity)?;
    let name = display(&identity);
    let recordings = recordings(call.clone());
    if recordings.iter().any(Recording::is_live) {
        return Err(Failure::Run(format!("{name} may go on: delete it once it has ended")));
    }
    let (mut files, mut days) = (0, HashSet::new());
    for recording in recordings.into_iter().flat_map(Recording::by_rate) {
        let object = object_name(&recording, &mut days);
        for ending in ENDINGS {
            let object = format!("{object}.{ending}");
            if mirror.has(&object)? {
                mirror.remove(&object)?;
                files += 1;
            }
        }
    }
    let erased = erase_call(&mirror, &mirror.journal()?, &call)?;
    if args.json {
        return print_json(&Document { call: &name, erased, files });
    }
    print(&format!(
        "{name}: {} erased in {}, {} removed\n",
        counted(erased.bytes, "byte"),
        counted(erased.slices, "slice"),
        counted(files, "file")
    ))
}

impl From<ArchiveEraseError> for Failure {
    fn from(error: ArchiveEraseError) -> Failure {
        match error {
            ArchiveEraseError::Mirror(error) => error.into(),
            ArchiveEraseError::Slice(..) => Failure::Damaged(error.to_string()),
        }
    }
}
