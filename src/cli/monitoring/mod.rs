#![forbid(unsafe_code)]
//! `exo-ingest grafana` and `exo-ingest alerts`: a dashboard and alerting rules for the metrics of
//! this version. Both are made from tables, and a test compares their names with the metrics that a
//! node exposes.

mod alerts;
mod dashboard;
mod panels;
mod rules;
#[cfg(test)]
mod tests;
mod thresholds;

use super::{Failure, print};
use clap::Args;
use exo_output::{Output, PUBLIC};
use std::io::Write;
use std::path::{Path, PathBuf};
use thresholds::Thresholds;

/// Print a Grafana dashboard as JSON
#[derive(Debug, Args)]
#[command(after_help = GRAFANA_EXAMPLE)]
pub(super) struct GrafanaArgs {
    /// Title of the dashboard
    #[arg(long, value_name = "TEXT", default_value = "exo-ingest")]
    title: String,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Print alerting rules for Prometheus as YAML
#[derive(Debug, Args)]
#[command(after_help = ALERTS_EXAMPLE)]
pub(super) struct AlertsArgs {
    #[command(flatten)]
    thresholds: Thresholds,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const GRAFANA_EXAMPLE: &str = "\
Example:
  exo-ingest grafana -o exo-ingest.json

In Grafana: Dashboards, New, Import, and choose the file. The dashboard asks for a Prometheus data \
source, and shows all nodes or some of them. A later import replaces it.";

const ALERTS_EXAMPLE: &str = "\
Examples:
  exo-ingest alerts -o /etc/prometheus/exo-ingest.rules.yml
  exo-ingest alerts --ack-p99 50ms --disk-free 15% --job ingest | promtool check rules /dev/stdin

Name the file under `rule_files` in prometheus.yml. Each alert has a section in \
docs/troubleshooting.md. With --runbook the link in the alert leads there.";

/// Prints the dashboard.
pub(super) fn grafana(args: &GrafanaArgs) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&dashboard::json(&args.title));
    let text = text.map_err(|error| Failure::Run(format!("cannot make the dashboard: {error}")))?;
    write(args.output.as_deref(), &(text + "\n"))
}

/// Prints the rules.
pub(super) fn alerts(args: &AlertsArgs) -> Result<(), Failure> {
    write(args.output.as_deref(), &rules::yaml(&args.thresholds))
}

fn write(path: Option<&Path>, text: &str) -> Result<(), Failure> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else { return print(text) };
    let written = Output::create(path, PUBLIC).and_then(|output| {
        output.file().write_all(text.as_bytes())?;
        output.finish()
    });
    written.map_err(|error| {
        Failure::Run(format!(
            "cannot write {} ({error}): choose another file with -o",
            path.display()
        ))
    })
}
