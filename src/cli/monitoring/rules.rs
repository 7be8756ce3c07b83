#![forbid(unsafe_code)]
//! The table of alerts as a rule file for Prometheus.

use super::alerts::{ALERTS, Alert};
use super::thresholds::Thresholds;

const HEAD: &str = "\
# Alerting rules for exo-ingest. `exo-ingest alerts` made this file: change its flags, not the file.
groups:
  - name: exo-ingest
    rules:
";

/// The whole file.
pub(super) fn yaml(thresholds: &Thresholds) -> String {
    ALERTS.iter().fold(HEAD.to_owned(), |text, alert| text + &rule(alert, thresholds))
}

fn rule(alert: &Alert, thresholds: &Thresholds) -> String {
    let expr = thresholds.fill(alert.expr);
    let expr = expr.lines().fold(String::new(), |text, line| text + "\n          " + line.trim());
    format!(
        "      - alert: {name}
        expr: |-{expr}
        for: {hold}
        labels:
          severity: {severity}
        annotations:
          summary: {summary}
          description: {description}
          runbook_url: {runbook}
",
        name = alert.name,
        hold = thresholds.hold(alert.hold),
        severity = alert.severity.name(),
        summary = quoted(&thresholds.fill(alert.summary)),
        description = quoted(&thresholds.fill(alert.description)),
        runbook = quoted(&thresholds.runbook(alert.name)),
    )
}

/// A single-quoted scalar: only the quote itself is special in it.
fn quoted(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    format!("'{}'", words.join(" ").replace('\'', "''"))
}
