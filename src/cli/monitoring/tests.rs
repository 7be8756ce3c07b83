//! The tables against the metrics of a node, and against each other.

#![forbid(unsafe_code)]

use super::alerts::ALERTS;
use super::panels::{Drawing, ROWS};
use super::thresholds::tests::parse;
use super::{dashboard, rules};
use crate::control::admin;
use std::collections::BTreeSet;

/// Metrics that Prometheus itself makes for each target.
const OF_PROMETHEUS: [&str; 2] = ["up", "scrape_duration_seconds"];

/// The names of metrics in an expression.
fn metrics(expr: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expr.split(|c: char| !is_part(c)).filter(|word| {
        word.starts_with("exo_ingest_")
            || word.starts_with("process_")
            || OF_PROMETHEUS.contains(word)
    });
    words.map(str::to_owned).collect()
}

/// Fails if an expression names a metric that no node exposes.
fn check(place: &str, expr: &str, known: &BTreeSet<String>) {
    let named = metrics(expr);
    assert!(!named.is_empty(), "{place} names no metric: {expr}");
    for name in named {
        let is_known = known.contains(&name) || OF_PROMETHEUS.contains(&name.as_str());
        assert!(is_known, "{place}: no node exposes {name}");
    }
    let opens = expr.matches(['(', '{', '[']).count();
    assert_eq!(opens, expr.matches([')', '}', ']']).count(), "{place}: {expr}");
}

#[test]
fn every_query_names_metrics_that_nodes_expose() {
    let known = admin::sample_names();
    for row in &ROWS {
        for panel in row.panels {
            for query in panel.queries {
                check(panel.title, query.expr, &known);
                assert!(query.expr.contains("{$node}"), "{}: {}", panel.title, query.expr);
            }
        }
    }
    for alert in ALERTS {
        check(alert.name, alert.expr, &known);
    }
}

#[test]
fn panels_have_titles_helps_and_a_place_of_their_own() {
    let dashboard = dashboard::json("title");
    let mut places = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    assert_eq!(panels.len(), ROWS.len() + ROWS.iter().map(|row| row.panels.len()).sum::<usize>());
    for panel in panels {
        let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(number("x") + number("w") <= 24, "{panel}");
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(places.insert((x, y)), "two panels share a place: {panel}");
            }
        }
    }
    for panel in ROWS.iter().flat_map(|row| row.panels) {
        assert!(panel.help.ends_with('.') && panel.queries.len() <= 26, "{}", panel.title);
        assert!(panel.queries.iter().all(|query| !query.legend.is_empty()));
    }
    let is_map = |panel: &&super::panels::Panel| panel.drawing == Drawing::HeatMap;
    assert_eq!(ROWS.iter().flat_map(|row| row.panels).filter(is_map).count(), 1);
    let text = dashboard.to_string();
    assert!(!text.contains("$node") && !text.contains("[$rate]"), "all names are filled in");
}

#[test]
fn alerts_are_named_once_and_filled_in() {
    let mut names = BTreeSet::new();
    for alert in ALERTS {
        assert!(alert.name.starts_with("ExoIngest") && names.insert(alert.name), "{}", alert.name);
        assert!(!alert.summary.ends_with('.') && alert.description.ends_with('.'));
    }
    let text = rules::yaml(&parse(&[]).unwrap());
    let left = text
        .split('$')
        .skip(1)
        .find(|rest| !rest.starts_with("labels.") && !rest.starts_with("value "));
    assert_eq!(left, None, "a name that no flag fills in");
    assert_eq!(text.matches("- alert: ").count(), ALERTS.len());
}
