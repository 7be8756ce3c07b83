//! `exo-ingest calls list`.

#![forbid(unsafe_code)]

use super::view::{CallView, EpochView, table};
use super::{DataDir, Failure, print, print_json, remark};
use crate::archive::recovery::counted;
use clap::Args;
use serde::Serialize;

/// List the calls in the journal
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// Only calls of this tenant
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls list --data-dir /var/lib/exo-ingest --tenant acme

A call has one epoch for each connection that sent its audio. ENDED is `live` while the epoch \
goes on, `cut` if the node stopped first, and otherwise the reason.";

#[derive(Serialize)]
struct Document {
    calls: Vec<CallView>,
    /// Epochs without a record that names their call.
    epochs_nameless: usize,
}

/// Prints one row for each epoch of each call.
pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let (_, catalog) = args.data_dir.catalog()?;
    let is_wanted = |tenant: &str| args.tenant.as_deref().is_none_or(|wanted| wanted == tenant);
    let calls = catalog
        .calls
        .iter()
        .filter(|call| is_wanted(&call.identity.tenant))
        .map(CallView::new)
        .collect();
    let document = Document { calls, epochs_nameless: catalog.nameless.len() };
    if args.json {
        return print_json(&document);
    }
    if document.epochs_nameless > 0 {
        let epochs = counted(document.epochs_nameless as u64, "epoch");
        remark(&format!(
            "not shown: {epochs}, because the records that name their calls have expired or are \
             damaged"
        ));
    }
    let head = ["CALL", "EPOCH", "STARTED", "RATE", "FRAMES", "SECONDS", "ENDED"]
        .map(str::to_owned)
        .to_vec();
    let rows = document
        .calls
        .iter()
        .flat_map(|call| call.epochs.iter().map(|epoch| row(&call.call, epoch)));
    print(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

fn row(call: &str, epoch: &EpochView) -> Vec<String> {
    let mut ended = epoch.ended.clone();
    let missing: u64 = epoch.gaps.iter().map(|gap| (gap.last - gap.first).saturating_add(1)).sum();
    for (count, what) in [(missing, "missing"), (epoch.frames_erased, "deleted")] {
        if count > 0 {
            ended += &format!(", {} {what}", counted(count, "frame"));
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
