#![forbid(unsafe_code)]
//! `exo-ingest calls`: reads the journal, offline or while a node runs.

mod delete;
mod export;
mod follow;
mod list;
mod name;
mod show;
mod verify;
mod view;
mod wav;

use super::{Failure, print};
use crate::archive::reader::{Call, Catalog, Journal};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use name::CallName;
use serde::Serialize;
use std::path::PathBuf;

/// Read the journal: list, export, verify or follow calls, or delete their audio
#[derive(Debug, clap::Subcommand)]
pub(super) enum CallsCommand {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Export(export::ExportArgs),
    Verify(verify::VerifyArgs),
    Follow(follow::FollowArgs),
    Delete(delete::DeleteArgs),
}

/// Directory of the journal.
#[derive(Debug, Args)]
struct DataDir {
    /// The node's data directory
    #[arg(long, value_name = "DIR", env = "EXO_INGEST_DATA_DIR")]
    data_dir: PathBuf,
}

/// Runs a `calls` command.
pub(super) fn run(command: &CallsCommand) -> Result<(), Failure> {
    match command {
        CallsCommand::List(args) => list::list(args),
        CallsCommand::Show(args) => show::show(args),
        CallsCommand::Export(args) => export::export(args),
        CallsCommand::Verify(args) => verify::verify(args),
        CallsCommand::Follow(args) => follow::follow(args),
        CallsCommand::Delete(args) => delete::delete(args),
    }
}

impl DataDir {
    /// The current journal, and its calls.
    fn catalog(&self) -> Result<(Journal, Catalog), Failure> {
        let journal = self.open()?;
        let bar = progress(journal.segment_count(), "looking through segments");
        let catalog = journal.catalog(&mut || bar.inc(1))?;
        bar.finish_and_clear();
        Ok((journal, catalog))
    }

    fn open(&self) -> Result<Journal, Failure> {
        Journal::open(&self.data_dir).map_err(|error| {
            Failure::Run(format!("{error}; give the same --data-dir as to the node"))
        })
    }
}

/// The call with this name, or an error that says what to do.
fn find<'a>(catalog: &'a Catalog, name: &CallName) -> Result<&'a Call, Failure> {
    let identity = name.identity()?;
    catalog.call(&identity).ok_or_else(|| {
        let known: Vec<String> =
            catalog.calls.iter().map(|call| name::display(&call.identity)).collect();
        let wanted = name::display(&identity);
        let near = known.iter().map(|known| (strsim::jaro_winkler(known, &wanted), known));
        let near =
            near.filter(|(near, _)| *near > 0.8).max_by(|one, other| one.0.total_cmp(&other.0));
        let hint = match near {
            Some((_, known)) => format!("did you mean {known}?"),
            None => "`exo-ingest calls list` shows all calls".to_owned(),
        };
        Failure::Run(format!("there is no call {wanted} in the journal: {hint}"))
    })
}

/// A progress bar on standard error, if that is a terminal.
fn progress(count: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_message(what);
    match ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Prints a document as JSON.
fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::Run(format!("cannot print this as JSON: {error}")))?;
    print(&(text + "\n"))
}

/// Prints a remark about the output on standard error. If that is closed, there is no reader.
fn remark(sentence: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{sentence}\n"));
}
