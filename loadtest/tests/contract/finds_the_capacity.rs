//! `capacity`: the most calls that a node carries, and no answer where there is none.

use std::process::Command;

use serde_json::Value;

use crate::faulty::{Fault, Node, TOKEN};

/// Exit code and what was found. The generator is as busy as it likes. On a busy machine a call may
/// come up 0.9 s late: it still sends the ten frames after which an ack is due. A run without that
/// proves nothing, and is played twice.
fn capacity(node: &Node, flags: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_exo-load"))
        .args([
            "capacity",
            "--url",
            &node.url,
            "--duration",
            "1s",
            "--ramp",
            "0s",
            "--frame-ms",
            "10",
        ])
        .args(["--cpu-max", "100000", "--calls-min", "4", "--json"])
        .args(flags)
        .env("JWT_TOKEN", TOKEN)
        .output()
        .expect("exo-load starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    (
        output.status.code(),
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}")),
    )
}

/// Objectives that each run meets, however busy the machine is. Not of the ack latency: acks that
/// come after the end of the audio are not in it, and then nothing was measured.
const WIDE: [&str; 4] = ["--sendlag-max", "1h", "--slo", "setup.p50<1h"];

#[test]
fn a_node_that_is_full_at_eleven() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let node = Node::start(Fault::Full(11));
    let (code, json) = capacity(&node, &[&WIDE[..], &["--calls", "64", "--out", out]].concat());
    assert_eq!(
        (code, &json["conclusion"], &json["calls"]),
        (Some(0), &"found".into(), &11.into()),
        "{json:#}"
    );
    let steps: Vec<u64> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["calls"].as_u64().unwrap())
        .collect();
    // The node's own limit is no stumble: it is not played twice.
    assert_eq!(steps, [4, 8, 16, 12, 10, 11]);
    assert!(json["steps"][2]["reason"].as_str().unwrap().starts_with("refused_503, "), "{json:#}");
    let summary = json["summary"].as_str().unwrap();
    assert!(
        summary.starts_with("capacity: 11 calls, by the node's own limit")
            && summary.contains("--max-calls"),
        "{summary}"
    );
    assert_eq!(json["is_node_limit"], true);
    assert!(
        directory.path().join("11-1/result.json").exists()
            && directory.path().join("capacity.json").exists()
    );
}

#[test]
fn a_node_that_carries_all_that_is_tried() {
    let (code, json) =
        capacity(&Node::start(Fault::None), &[&WIDE[..], &["--calls", "9"]].concat());
    assert_eq!(
        (code, &json["conclusion"], &json["calls"]),
        (Some(0), &"at_least".into(), &9.into()),
        "{json:#}"
    );
}

#[test]
fn a_node_that_carries_none() {
    let (code, json) =
        capacity(&Node::start(Fault::Refuse(503)), &[&WIDE[..], &["--calls", "9"]].concat());
    assert_eq!(
        (code, &json["conclusion"], &json["calls"]),
        (Some(2), &"none".into(), &0.into()),
        "{json:#}"
    );
    assert!(json["summary"].as_str().unwrap().contains("the node's own limit"), "{json:#}");
    // No call came up, so nothing was measured.
    assert_eq!(
        (&json["steps"][0]["ack_p50_ns"], json["steps"].as_array().unwrap().len()),
        (&Value::Null, 1),
        "{json:#}"
    );
}

#[test]
fn the_fewest_calls_that_miss_the_objective_are_named_with_what_they_missed() {
    let flags = ["--calls", "9", "--sendlag-max", "1h", "--slo", "ack.p50<1ns"];
    let (code, json) = capacity(&Node::start(Fault::None), &flags);
    assert_eq!((code, &json["conclusion"]), (Some(2), &"none".into()), "{json:#}");
    let summary = json["summary"].as_str().unwrap();
    assert!(
        summary.contains("not even 4 calls hold ack.p50<1ns: ") && !summary.contains("generator"),
        "{summary}"
    );
    let steps: Vec<u64> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["calls"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [4, 4], "none below --calls-min");
}

#[test]
fn an_interrupted_search_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(Fault::None);
    let child = Command::new(env!("CARGO_BIN_EXE_exo-load"))
        .args([
            "capacity",
            "--url",
            &node.url,
            "--token",
            TOKEN,
            "--duration",
            "60s",
            "--calls",
            "9",
        ])
        .args(["--slo", "ack.p50<1h", "--out", directory.path().to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("exo-load starts");
    node.wait_for_frames(1);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{table}");
    assert!(table.contains("interrupted; 0 calls passed until then"), "{table}");
    assert!(directory.path().join("capacity.json").exists());
}

#[test]
fn a_sick_generator_concludes_nothing() {
    let flags = ["--calls", "9", "--sendlag-max", "1ns", "--slo", "ack.p50<1h"];
    let (code, json) = capacity(&Node::start(Fault::None), &flags);
    assert_eq!((code, &json["conclusion"]), (Some(3), &"unknown".into()), "{json:#}");
    assert!(json["steps"][0]["reason"].as_str().unwrap().contains("send lag"), "{json:#}");
}

#[test]
fn a_search_wants_an_objective_and_an_end() {
    let node = Node::start(Fault::None);
    for (flags, part) in [
        (&["--calls", "9"][..], "give an objective"),
        (&["--slo", "ack.p50<1h"], "--calls"),
        (&["--slo", "ack.p50<1h", "--calls", "9", "--start-at", "9999999999"], "--start-at"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_exo-load"))
            .args(["capacity", "--url", &node.url, "--token", TOKEN])
            .args(flags)
            .output()
            .expect("exo-load starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(part), "'{part}' is not in: {errors}");
    }
}
