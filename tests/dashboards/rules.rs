//! The commands `grafana` and `alerts`: what they print, and what they write.

use crate::{EXO_INGEST, has_prometheus, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(args);
    command
}

/// The names of all alerts.
pub(crate) fn names(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn promtool_has_nothing_to_say_of_the_rules() {
    if !has_prometheus() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("exo-ingest.rules.yml");
    let path = file.to_str().expect("a path");
    for args in [
        &["alerts", "-o", path][..],
        &["alerts", "-o", path, "--job", "it's \u{e9}", "--ack-p99", "1m30s", "--runbook", "a'b"],
        &["alerts", "-o", path, "--for", "1s", "--window", "10s", "--disk-free", "0.07"],
    ] {
        assert_eq!(run(&mut program(args)), "");
        let said = run(Command::new("promtool").args(["check", "rules", path]));
        let text = std::fs::read_to_string(&file).expect("the rules");
        assert!(said.contains(&format!("SUCCESS: {} rules found", names(&text).len())), "{said}");
    }
}

#[test]
fn both_commands_write_the_same_to_a_file_as_to_standard_output() {
    let directory = tempfile::tempdir().expect("a directory");
    for command in ["grafana", "alerts"] {
        let file = directory.path().join(command);
        let printed = run(&mut program(&[command]));
        assert_eq!(run(program(&[command, "-o"]).arg(&file)), "");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), printed);
        assert_eq!(run(&mut program(&[command, "-o", "-"])), printed);
        let failed = program(&[command, "-o", "/nonexistent/file"]).output().expect("a program");
        let said = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: cannot write /nonexistent/file"), "{said}");
    }
}

#[test]
fn a_threshold_that_makes_no_rule_is_a_usage_error() {
    for args in [["--disk-free", "110%"], ["--ack-p99", "soon"], ["--job", "a\"b"]] {
        let failed = program(&["alerts"]).args(args).output().expect("a program");
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(failed.status.code() == Some(2) && said.contains(args[0]), "{said}");
    }
}

#[test]
fn the_dashboard_names_its_data_source_and_its_nodes_by_variables() {
    let text = run(&mut program(&["grafana", "--title", "Line 1"]));
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(dashboard["title"], "Line 1");
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let names: Vec<_> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    for panel in dashboard["panels"].as_array().expect("a list") {
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
}

/// The link in an alert leads there.
#[test]
fn each_alert_has_a_section_in_troubleshooting() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let rules = run(&mut program(&["alerts"]));
    let names = names(&rules);
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        assert!(page.contains(&format!("\n### {name}\n")), "no section about {name}");
        let link = format!("runbook_url: 'docs/troubleshooting.md#{}'", name.to_lowercase());
        assert!(rules.contains(&link), "{link}");
    }
    for heading in page.lines().filter_map(|line| line.strip_prefix("### ExoIngest")) {
        let name = format!("ExoIngest{heading}");
        assert!(names.contains(&name.as_str()), "there is no alert {name}");
    }
}
