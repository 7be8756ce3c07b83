//! The lists in `docs/` are those of the code. This generates the lists of settings and metrics:
//!
//! ```text
//! EXO_INGEST_BLESS=1 cargo test --test project doc_references
//! ```
//! Pages about refusals are written by hand; these tests find what is missing there.

use crate::EXO_INGEST;
use exo_ingest::auth::TokenError;
use exo_ingest::proto::close::Closing;
use exo_ingest::proto::handshake::Refusal;
use exo_ingest::session::ingest::Ending;
use std::path::{Path, PathBuf};
use std::process::Command;

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(page(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

/// The list between the marks of a page must be what `exo-ingest config ARG` prints.
fn check_list(file: &str, name: &str, arg: &str) {
    let mut command = Command::new(EXO_INGEST);
    let output = command.args(["config", arg]).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.lines().count() > 20, "{printed}");

    let text = read(file);
    let begin = format!("<!-- begin {name}: exo-ingest config {arg} -->\n");
    let end = format!("<!-- end {name} -->\n");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{file} has no {begin}"));
    let (written, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no {end}"));
    if std::env::var_os("EXO_INGEST_BLESS").is_some() {
        std::fs::write(page(file), format!("{before}{begin}{printed}{end}{after}")).unwrap();
        return;
    }
    let changed = printed.lines().find(|line| !written.lines().any(|other| other == *line));
    assert!(
        written == printed,
        "docs/{file} is not what `exo-ingest config {arg}` prints (first: {changed:?}): run \
         EXO_INGEST_BLESS=1 cargo test --test project doc_references"
    );
}

#[test]
fn every_setting_is_as_the_code_has_it() {
    check_list("configuration.md", "settings", "--reference");
}

#[test]
fn every_metric_is_as_the_code_has_it() {
    check_list("metrics.md", "metrics", "--reference=metrics");
}

/// The sentence in the message of a failed test.
fn missing(file: &str, what: &str) -> String {
    format!("docs/{file} lacks {what}")
}

#[test]
fn every_close_is_in_the_protocol_and_in_troubleshooting() {
    let (protocol, help) = (read("protocol.md"), read("troubleshooting.md"));
    for closing in Closing::ALL {
        let (code, reason) = (closing.code(), closing.reason());
        let cell = if reason.is_empty() { " ".to_owned() } else { format!(" `{reason}` ") };
        let row = format!("| {code} |{cell}|");
        assert!(
            protocol.lines().any(|line| line.starts_with(&row)),
            "{}",
            missing("protocol.md", &row)
        );
        // A call that went well needs no help.
        if closing == Closing::Normal {
            continue;
        }
        let heading = if reason.is_empty() {
            format!("### {code}")
        } else {
            format!("### {code} `{reason}`")
        };
        assert!(
            help.lines().any(|line| line == heading),
            "{}",
            missing("troubleshooting.md", &heading)
        );
        let metric = format!("exo_ingest_closes_total{{reason=\"{}\"}}", closing.label());
        assert!(help.contains(&metric), "{}", missing("troubleshooting.md", &metric));
    }
}

/// Whether a new connection can succeed is a column of the protocol page.
#[test]
fn the_protocol_says_which_closes_can_be_tried_again() {
    let protocol = read("protocol.md");
    for closing in Closing::ALL.into_iter().filter(|closing| *closing != Closing::Normal) {
        let reason = closing.reason();
        let start = if reason.is_empty() {
            format!("| {} | |", closing.code())
        } else {
            format!("| {} | `{reason}` |", closing.code())
        };
        let row =
            protocol.lines().find(|line| line.starts_with(&start)).expect("another test says so");
        let end = if closing.is_retryable() { "| yes |" } else { "| no |" };
        assert!(row.ends_with(end), "{row} has to end in {end}");
    }
}

#[test]
fn every_refusal_is_in_the_protocol_and_in_troubleshooting() {
    let (protocol, help) = (read("protocol.md"), read("troubleshooting.md"));
    for refusal in Refusal::ALL {
        let row = format!("| {} |", refusal.status());
        assert!(protocol.contains(&row), "{}", missing("protocol.md", &row));
        let status = refusal.status().to_string();
        let is_heading = |line: &str| line.starts_with("### ") && line.contains(&status);
        assert!(help.lines().any(is_heading), "{}", missing("troubleshooting.md", &status));
    }
    let labels = ["bad_request", "bad_upgrade", "head_too_large", "not_found", "quota", "draining"];
    for label in labels {
        assert!(help.contains(label), "{}", missing("troubleshooting.md", label));
    }
}

#[test]
fn every_reason_for_a_refused_token_is_in_troubleshooting() {
    let help = read("troubleshooting.md");
    for reason in TokenError::ALL {
        let label = format!("`{}`", reason.label());
        assert!(help.contains(&label), "{}", missing("troubleshooting.md", &label));
    }
}

#[test]
fn every_ending_is_in_the_journal_format_with_its_number() {
    let format = read("journal-format.md");
    for ending in Ending::ALL {
        let row = format!("| {} | `{}` |", ending.number(), ending.label());
        assert!(format.contains(&row), "{}", missing("journal-format.md", &row));
    }
}
