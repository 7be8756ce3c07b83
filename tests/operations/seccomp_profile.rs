//! The seccomp profile for containers, `tuning/seccomp.json`: it is well-formed, and a node takes
//! and records calls under it. There is no container here: `tuning/try-seccomp.py` makes the
//! filter.

use crate::EXO_INGEST;
use exo_ingest_harness::{NodeProcess, Player, TENANT, assert_sound, audit, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The calls of io_uring, which the default profiles of container runtimes forbid.
const IO_URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

/// Calls that no container of a node needs.
const FORBIDDEN: [&str; 9] = [
    "bpf",
    "keyctl",
    "kexec_load",
    "mount",
    "perf_event_open",
    "process_vm_readv",
    "ptrace",
    "setns",
    "unshare",
];

fn tuning(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

fn profile() -> Value {
    let text = fs::read_to_string(tuning("seccomp.json")).unwrap();
    serde_json::from_str(&text).expect("it is JSON")
}

fn rules(profile: &Value) -> &[Value] {
    profile["syscalls"].as_array().expect("a list of rules")
}

#[test]
fn the_profile_forbids_by_default_and_allows_io_uring() {
    let profile = profile();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    // EPERM, which the node explains. EACCES or a signal would tell the operator less.
    assert_eq!(profile["defaultErrnoRet"], 1);
    let mut allowed = BTreeSet::new();
    for rule in rules(&profile) {
        let keys: BTreeSet<&str> = rule.as_object().unwrap().keys().map(String::as_str).collect();
        let known = BTreeSet::from(["action", "args", "comment", "errnoRet", "names"]);
        assert!(keys.is_subset(&known), "a container runtime would not know all of {keys:?}");
        for name in rule["names"].as_array().expect("names").iter().map(|it| it.as_str().unwrap()) {
            if rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none() {
                assert!(allowed.insert(name.to_owned()), "{name} is there twice");
            }
        }
    }
    for name in IO_URING {
        assert!(allowed.contains(name), "{name} is not allowed");
    }
    for name in FORBIDDEN {
        assert!(!allowed.contains(name), "{name} is allowed");
    }
}

/// `try-seccomp.py` with these flags, or none where there is no Python.
fn under_filter(flags: &[&str]) -> Option<Command> {
    let mut command = Command::new("python3");
    command.arg(tuning("try-seccomp.py")).args(flags);
    let output = Command::new("python3").arg("--version").output();
    if !output.is_ok_and(|output| output.status.success()) {
        println!("left out: there is no python3");
        return None;
    }
    Some(command)
}

fn run(mut command: Command) -> Output {
    command.output().expect("python3 starts")
}

#[test]
fn a_node_records_calls_under_the_profile() {
    if under_filter(&[]).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    // The harness starts a program by its path, without an environment.
    let wrapped = scratch.path().join("exo-ingest");
    let (path, script) = (std::env::var("PATH").unwrap_or_default(), tuning("try-seccomp.py"));
    let text = format!(
        "#!/bin/sh\nPATH='{path}' exec python3 '{}' '{EXO_INGEST}' \"$@\"\n",
        script.display()
    );
    // A process of its own writes the script. If this one did, a child that another test starts at
    // the same time could still have it open, and the kernel would not run it.
    let source = scratch.path().join("script");
    fs::write(&source, text).unwrap();
    let mut install = Command::new("install");
    let output = install.args(["-m", "755"]).args([&source, &wrapped]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let data_dir = scratch.path().join("data");
    let args = ["--set", "journal.reserve=off", "--retain-bytes", "64MiB"];
    let node = NodeProcess::start(wrapped.to_str().unwrap(), &data_dir, &args);
    let is_filtered = |status: &str| status.lines().any(|line| line == "Seccomp:\t2");
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    assert!(is_filtered(&status), "{status}");
    let players: Vec<Player> = (0..4)
        .map(|number| {
            let interaction = format!("call-{number}");
            let address = (node.address(), node.pid());
            Player::start(address, &interaction, number, Duration::from_millis(5))
        })
        .collect();
    eventually("acks came", || players.iter().all(|player| player.acked() >= 20));
    assert!(node.admin().get("/metrics").contains("exo_ingest_frames_total"));
    let played: Vec<_> = players.into_iter().map(Player::finish).collect();
    let log = node.log();
    assert!(node.terminate().success(), "{log:#?}");
    audit(&data_dir, &played);
    assert_sound(&data_dir);
    // Reading a journal needs no more.
    let mut list = under_filter(&[]).expect("python3 is there");
    list.arg(EXO_INGEST).args(["calls", "list", "--data-dir"]).arg(&data_dir);
    let output = run(list);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(TENANT), "{output:?}");
}

#[test]
fn without_io_uring_a_node_names_the_profile() {
    let Some(mut command) = under_filter(&["--forbid", "io_uring_setup"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    command.args([EXO_INGEST, "dev", "--listen", "127.0.0.1:0", "--admin", "off"]);
    command.current_dir(scratch.path());
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("seccomp"), "{errors}");
}
