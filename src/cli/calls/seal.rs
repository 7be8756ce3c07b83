//! `exo-ingest calls seal`.

#![forbid(unsafe_code)]

use super::{DataDir, Failure, print, print_json};
use crate::archive::recovery::counted;
use crate::archive::seal::request;
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// Close the segments that are open: audio in them can then be deleted, copied or aged out
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct SealArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// How long to wait for the nodes
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = humantime::parse_duration
    )]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls seal --data-dir /var/lib/exo-ingest

A node writes into one open segment for each of its shards. It closes a segment when that is full, \
or after journal.segment_age. This command asks it to close them now, and waits until it has. Live \
calls go on in new segments. Without a node nothing is open, and the command does nothing.";

#[derive(Serialize)]
struct Document {
    nodes: u64,
}

/// Asks the nodes, and waits for them.
pub(super) fn seal(args: &SealArgs) -> Result<(), Failure> {
    // A wrong directory is an error, not one without nodes.
    let journal = args.data_dir.open()?;
    let nodes = ask(journal.data_dir(), args.timeout)?;
    if args.json {
        return print_json(&Document { nodes });
    }
    print(&match nodes {
        0 => "no node writes here: nothing is open\n".to_owned(),
        nodes => format!("{} closed the open segments\n", counted(nodes, "node")),
    })
}

/// Asks the nodes on a directory to close their segments. Returns how many did.
pub(super) fn ask(data_dir: &Path, timeout: Duration) -> Result<u64, Failure> {
    let report = request(data_dir, timeout).map_err(|error| {
        Failure::Run(format!(
            "cannot ask for open segments in {} to be closed: {error}",
            data_dir.display()
        ))
    })?;
    match report.late.first() {
        None => Ok(report.sealed.len() as u64),
        Some(run) => Err(Failure::Run(format!(
            "the node with process id {} has not closed its segments within {timeout:?}: try \
             again later",
            run.pid
        ))),
    }
}
