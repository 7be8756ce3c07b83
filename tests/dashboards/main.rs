//! The dashboard and the alerts of the program, on Debian's Prometheus.

#![forbid(unsafe_code)]

mod alerts;
mod live;
mod prometheus;
mod rules;

use std::process::{Command, Output};

/// The program under test.
const EXO_INGEST: &str = env!("CARGO_BIN_EXE_exo-ingest");

/// Whether Prometheus and its tool are installed. CI installs them, so there they must be.
fn has_prometheus() -> bool {
    let is_there = ["prometheus", "promtool"].map(exo_ingest_harness::is_installed);
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(is_there == [true; 2] || !is_ci, "CI=true, and Prometheus is not installed");
    is_there == [true; 2]
}

/// Standard output of a command that succeeds.
#[track_caller]
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("a program");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {stdout}{stderr}");
    stdout.into_owned()
}
