//! `exo-ingest calls list`.

#![forbid(unsafe_code)]

use super::view::{CallView, EpochView, table};
use super::{DataDir, Failure, print, print_json, remark};
use clap::Args;
use serde::Serialize;

/// List the calls in the journal
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// Only this tenant's
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls list --data-dir /var/lib/exo-ingest --tenant acme

A call has an epoch for each connection that played it. ENDED is `live` while it goes on, `cut` where the node ended \
first, else the reason.";

#[derive(Serialize)]
struct Document {
    calls: Vec<CallView>,
    /// Epochs of which no record is left that says whose they are.
    epochs_nameless: usize,
}

/// Prints a row for each epoch of each call.
pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let (_, catalog) = args.data_dir.catalog()?;
    let is_wanted = |tenant: &str| args.tenant.as_deref().is_none_or(|wanted| wanted == tenant);
    let calls = catalog.calls.iter().filter(|call| is_wanted(&call.identity.tenant)).map(CallView::new).collect();
    let document = Document { calls, epochs_nameless: catalog.nameless.len() };
    if args.json {
        return print_json(&document);
    }
    if document.epochs_nameless > 0 {
        let count = document.epochs_nameless;
        remark(&format!("{count} epochs are not shown: the records that say whose they are have expired or are damaged"));
    }
    let head = ["CALL", "EPOCH", "STARTED", "RATE", "FRAMES", "SECONDS", "ENDED"].map(str::to_owned).to_vec();
    let rows = document.calls.iter().flat_map(|call| call.epochs.iter().map(|epoch| row(&call.call, epoch)));
    print(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

fn row(call: &str, epoch: &EpochView) -> Vec<String> {
    let mut ended = epoch.ended.clone();
    let missing: u64 = epoch.gaps.iter().map(|gap| (gap.last - gap.first).saturating_add(1)).sum();
    for (count, what) in [(missing, "missing"), (epoch.frames_erased, "deleted")] {
        if count > 0 {
            ended += &format!(", {count} frames {what}");
        }
    }
    vec![
        call.to_owned(),
        epoch.epoch.to_string(),
        epoch.started_at.clone(),
        epoch.sample_rate.to_string(),
        epoch.frames.to_string(),
        format!("{:.1}", epoch.seconds),
        ended,
    ]
}
