//! `exo-ingest archive`: reads an archive that `exo-ingest ship` or a node has filled.

#![forbid(unsafe_code)]

mod announce;
mod compact;
mod delete;
mod export;
pub(in crate::cli) mod files;
mod list;
mod show;
mod verify;

use super::Failure;
use super::calls::progress;
use super::calls::source::Source;
use super::store::StoreFlags;
use crate::handover::index_cache::IndexCache;
use crate::handover::mirror::{Mirror, MirrorError};
use crate::handover::slice::NodeName;
use clap::Args;
use indicatif::ProgressBar;
use std::path::PathBuf;

/// Read an archive: list, show, export, verify, compact or delete its calls
#[derive(Debug, clap::Subcommand)]
pub(super) enum ArchiveCommand {
    List(list::ListArgs),
    Show(show::ArchiveShowArgs),
    Export(export::ArchiveExportArgs),
    Verify(verify::VerifyArgs),
    Compact(compact::CompactArgs),
    Delete(delete::ArchiveDeleteArgs),
}

/// Runs an `archive` command.
pub(super) fn run(command: &ArchiveCommand) -> Result<(), Failure> {
    match command {
        ArchiveCommand::List(args) => list::list(args),
        ArchiveCommand::Show(args) => show::show(args),
        ArchiveCommand::Export(args) => export::export(args),
        ArchiveCommand::Verify(args) => verify::verify(args),
        ArchiveCommand::Compact(args) => compact::compact(args),
        ArchiveCommand::Delete(args) => delete::delete(args),
    }
}

/// Which archive.
#[derive(Debug, Args)]
struct ArchiveFlags {
    /// The archive: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR
    #[arg(long, value_name = "URL", env = "EXO_INGEST_ARCHIVE")]
    from: String,
    /// Only what this node sent
    #[arg(long, value_name = "NAME", value_parser = NodeName::parse)]
    node: Option<NodeName>,
    /// Keep indexes of slices in this directory: the next command fetches only new ones
    #[arg(long, value_name = "DIR", env = "EXO_INGEST_INDEX_CACHE")]
    index_cache: Option<PathBuf>,
    #[command(flatten)]
    store: StoreFlags,
}

impl ArchiveFlags {
    /// Reads the indexes of the archive.
    fn mirror(&self) -> Result<Mirror, Failure> {
        let sink = self.store.open(&self.from, false)?;
        let mut bar = ProgressBar::hidden();
        let mut told = |count: Option<u64>| match count {
            Some(count) => {
                bar = progress(usize::try_from(count).unwrap_or(usize::MAX), "reading indexes");
            }
            None => bar.inc(1),
        };
        let cache = self.index_cache.as_ref().map(|dir| IndexCache::new(dir, &self.from));
        let mirror = Mirror::open(sink, self.node.as_ref(), cache, &mut told)?;
        bar.finish_and_clear();
        if mirror.state().slices == 0 {
            return Err(Failure::Run(format!(
                "there is no archive at {}: `exo-ingest ship` fills one",
                self.from
            )));
        }
        Ok(mirror)
    }
}

/// The calls of a mirrored archive.
fn source(mirror: &Mirror) -> Result<Source, Failure> {
    Ok(Source::new(mirror.journal()?))
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Failure {
        match error {
            MirrorError::Sink(error) => error.into(),
            MirrorError::Journal(error) => error.into(),
            MirrorError::Files(_) => Failure::Run(error.to_string()),
        }
    }
}
