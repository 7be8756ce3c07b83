#![forbid(unsafe_code)]
//! `exo-ingest calls`: reads the journal, offline or while a node runs.

pub(super) mod chosen;
pub(super) mod data_dir;
mod delete;
pub(super) mod export;
pub(super) mod filter;
mod follow;
pub(super) mod list;
pub(super) mod name;
mod output;
pub(super) mod recording;
mod seal;
pub(in crate::cli) mod show;
mod sort;
pub(super) mod source;
mod table;
pub(super) mod time;
mod verify;
pub(super) mod view;
pub(super) mod wav;

use super::{Failure, print};
use data_dir::DataDir;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Read the journal: list, export, verify or follow calls, or delete their audio
#[derive(Debug, clap::Subcommand)]
pub(super) enum CallsCommand {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Export(export::ExportCommand),
    Verify(verify::VerifyArgs),
    Follow(follow::FollowArgs),
    Delete(delete::DeleteArgs),
    Seal(seal::SealArgs),
}

/// Runs a `calls` command.
pub(super) fn run(command: &CallsCommand) -> Result<(), Failure> {
    match command {
        CallsCommand::List(args) => args.data_dir.complete(list::list(args)),
        CallsCommand::Show(args) => args.data_dir.complete(show::show(args)),
        CallsCommand::Export(args) => args.data_dir.complete(export::export(args)),
        CallsCommand::Verify(args) => args.data_dir.complete(verify::verify(args)),
        CallsCommand::Follow(args) => args.data_dir.complete(follow::follow(args)),
        CallsCommand::Delete(args) => args.data_dir.complete(delete::delete(args)),
        CallsCommand::Seal(args) => seal::seal(args),
    }
}

/// A progress bar on standard error, if that is a terminal.
pub(super) fn progress(count: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_message(what);
    match ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A line of progress on standard error for work whose end is not known, if that is a terminal.
pub(super) fn progress_line() -> ProgressBar {
    let bar = ProgressBar::no_length();
    match ProgressStyle::with_template("{msg}  {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Becomes true at the first signal that asks this process to end, so that half a recording is not
/// left. The second signal ends the process at once.
pub(super) fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_default(signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Prints a document as JSON.
pub(super) fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    print(&(json_text(document)? + "\n"))
}

/// A document as JSON.
pub(super) fn json_text(document: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(document)
        .map_err(|error| Failure::Run(format!("cannot print this as JSON: {error}")))
}

/// Prints a remark about the output on standard error. If that is closed, there is no reader.
pub(super) fn remark(sentence: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{sentence}\n"));
}
