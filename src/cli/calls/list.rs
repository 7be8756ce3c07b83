//! `exo-ingest calls list`.

#![forbid(unsafe_code)]

use super::filter::Filter;
use super::output::{Halt, JsonList, Lines, halted};
use super::recording::Recording;
use super::sort::Order;
use super::source::Source;
use super::table::Table;
use super::time::Zone;
use super::view::{CallView, EpochView};
use super::{DataDir, Failure, remark};
use crate::archive::recovery::counted;
use clap::Args;
use serde::Serialize;

/// List the calls in the journal
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    choice: ListChoice,
    #[command(flatten)]
    pub(super) data_dir: DataDir,
}

/// Which calls to list, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListChoice {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    order: Order,
    #[command(flatten)]
    zone: Zone,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print each call as JSON on a line of its own
    #[arg(long, conflicts_with = "json")]
    json_lines: bool,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest calls list --data-dir /var/lib/exo-ingest --tenant acme --since 2h
  exo-ingest calls list --config exo.toml --sort start --reverse --limit 20
  exo-ingest calls list --config exo.toml --ended cut --since 2026-11-30 --until 2026-12-01

A call has one epoch for each connection that sent its audio. ENDED is `live` while the epoch \
goes on, `cut` if the node stopped first, and otherwise the reason. GAPS counts missing frames. \
PEER is the address that the call came from. Times are UTC, or with --local \
in this machine's zone.

Epochs that follow each other within 10 minutes are one recording. Filters choose whole \
recordings: --since and --until look at the start of its first epoch, --ended at its last one.";

#[derive(Serialize)]
struct Rest {
    /// Epochs without a record that names their call.
    epochs_nameless: u64,
}

/// Prints one row for each epoch of each call.
pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    args.choice.filter.check()?;
    list_calls(&args.choice, &args.data_dir.source()?)
}

/// Prints the calls of a journal.
pub(in crate::cli) fn list_calls(args: &ListChoice, source: &Source) -> Result<(), Failure> {
    args.filter.check()?;
    args.zone.check()?;
    halted(write(args, source))?;
    let nameless = source.epochs_nameless();
    if nameless > 0 && !args.json {
        remark(&format!(
            "not shown: {}, because the records that name their calls have expired or are damaged",
            counted(nameless, "epoch")
        ));
    }
    Ok(())
}

fn write(args: &ListChoice, source: &Source) -> Result<(), Halt> {
    let views = source.calls()?.filter_map(|call| match call {
        Ok(call) => chosen(&args.filter.recordings(call), args.zone).map(Ok),
        Err(error) => Some(Err(error.into())),
    });
    let views = args.order.apply(views)?;
    let mut lines = Lines::new();
    if args.json {
        let mut list = JsonList::begin(&mut lines, "calls")?;
        for view in views {
            list.item(&view?)?;
        }
        return list.end(&Rest { epochs_nameless: source.epochs_nameless() });
    }
    if args.json_lines {
        for view in views {
            let text = serde_json::to_string(&view?)
                .map_err(|error| Failure::Run(format!("cannot print this as JSON: {error}")))?;
            lines.write(&(text + "\n"))?;
        }
        return lines.flush();
    }
    let headings =
        ["CALL", "EPOCH", "START", "END", "RATE", "SECONDS", "FRAMES", "GAPS", "PEER", "ENDED"];
    let mut table = Table::new(&mut lines, &headings);
    for view in views {
        let view = view?;
        for epoch in &view.epochs {
            table.row(row(&view.call, epoch))?;
        }
    }
    table.end()
}

/// The call with the epochs of the chosen recordings.
fn chosen(recordings: &[Recording], zone: Zone) -> Option<CallView> {
    let identity = &recordings.first()?.identity;
    let epochs = recordings.iter().flat_map(|recording| &recording.epochs);
    Some(CallView::of_epochs(identity, epochs.map(|(number, epoch)| (*number, epoch)), zone))
}

/// Shown where nothing is known, or not yet.
const NONE: &str = "-";

fn row(call: &str, epoch: &EpochView) -> Vec<String> {
    let mut ended = epoch.ended.clone();
    if epoch.frames_erased > 0 {
        ended += &format!(", {} deleted", counted(epoch.frames_erased, "frame"));
    }
    vec![
        call.to_owned(),
        epoch.epoch.to_string(),
        epoch.started_at.clone(),
        epoch.ended_at.clone().unwrap_or_else(|| NONE.into()),
        epoch.sample_rate.to_string(),
        format!("{:.1}", epoch.seconds),
        epoch.frames.to_string(),
        epoch.frames_missing.to_string(),
        epoch.peer.clone().unwrap_or_else(|| NONE.into()),
        ended,
    ]
}
