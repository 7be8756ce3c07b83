//! `capacity`: the most calls that a node carries, and no answer where there is none.

use std::process::Command;

use exo_ingest_harness::{TENANT, mint};
use serde_json::Value;

use crate::faulty::{Fault, Node, TOKEN};
use crate::schema::check_capacity;

/// Exit code and answer. The generator is as busy as it likes. On a busy machine a call may come up
/// 0.9 s late: it still sends the ten frames after which an ACK is due. A run without that proves
/// nothing, and is played twice.
fn answer(url: &str, token: &str, flags: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_exo-load"))
        .args(["capacity", "--url", url, "--duration", "1s", "--ramp", "0s", "--frame-ms", "10"])
        .args(["--cpu-max", "100000", "--calls-min", "4", "--json"])
        .args(if flags.contains(&"--hold") { &[][..] } else { &["--hold", "1s"] })
        .args(flags)
        .env("JWT_TOKEN", token)
        .output()
        .expect("exo-load starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let json: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    check_capacity(&json);
    (output.status.code(), json)
}

/// The same for a node that is one search.
fn capacity(node: &Node, flags: &[&str]) -> (Option<i32>, Value) {
    let (code, json) = answer(&node.url, TOKEN, flags);
    assert_eq!(json["searches"].as_array().unwrap().len(), 1, "{json:#}");
    (code, json["searches"][0].clone())
}

fn steps(json: &Value) -> Vec<u64> {
    json["steps"].as_array().unwrap().iter().map(|step| step["calls"].as_u64().unwrap()).collect()
}

/// The bracket of a goal.
fn bracket<'a>(json: &'a Value, goal: &str) -> [&'a Value; 2] {
    let goals = json["goals"].as_array().unwrap();
    let found = goals.iter().find(|it| it["goal"] == goal).unwrap_or_else(|| panic!("{json:#}"));
    [&found["passed"], &found["failed"]]
}

/// An objective that each run meets, however busy the machine is. Not of the ACK latency: ACKs that
/// come after the end of the audio are not in it, and then nothing was measured.
const WIDE: [&str; 4] = ["--sendlag-max", "1h", "--slo", "setup.max<1h"];

#[test]
fn a_node_that_is_full_at_eleven() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let node = Node::start(Fault::Full(11));
    let (code, json) = capacity(&node, &[&WIDE[..], &["--calls", "64", "--out", out]].concat());
    assert_eq!(
        (code, &json["conclusion"], &json["calls"], &json["is_confirmed"]),
        (Some(0), &"found".into(), &11.into(), &true.into()),
        "{json:#}"
    );
    // The node's own limit is no hiccup: it is not played twice. The edge that passes is.
    assert_eq!(steps(&json), [4, 8, 16, 12, 10, 11, 11, 11, 11]);
    for goal in ["no loss", "loss <= 0.5 %", "setup.max<1h"] {
        assert_eq!(bracket(&json, goal), [&Value::from(11), &Value::from(12)], "{json:#}");
    }
    assert_eq!(json["bound_by"]["kind"], "node_limit", "{json:#}");
    let summary = json["summary"].as_str().unwrap();
    assert!(
        summary.starts_with("capacity: 11 calls under every goal, confirmed")
            && summary.contains("--max-calls"),
        "{summary}"
    );
    assert!(directory.path().join("11-1/result.json").exists());
    for (name, part) in [
        ("capacity.json", "\"setting\""),
        ("capacity.schema.json", "exo-load capacity"),
        ("capacity.md", "| 11 | hold |"),
        ("capacity.html", "How it was measured"),
    ] {
        let text = std::fs::read_to_string(directory.path().join(name)).expect(name);
        assert!(text.contains(part), "'{part}' is not in {name}: {text}");
    }
    // A second search may write to the same place.
    let again = [&WIDE[..], &["--calls", "4", "--out", out]].concat();
    assert_eq!(capacity(&node, &again).0, Some(0));
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
    assert_eq!(json["bound_by"]["kind"], "calls_max");
}

#[test]
fn without_an_objective_the_two_losses_are_the_goals() {
    let flags = ["--sendlag-max", "1h", "--calls", "4", "--repeats", "1", "--hold", "0s"];
    let (code, json) = capacity(&Node::start(Fault::None), &flags);
    assert_eq!((code, json["goals"].as_array().unwrap().len()), (Some(0), 2), "{json:#}");
    assert_eq!((steps(&json), &json["is_confirmed"]), (vec![4], &false.into()), "{json:#}");
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
    assert_eq!((&json["steps"][0]["ack_p50_ns"], steps(&json)), (&Value::Null, vec![4]));
}

#[test]
fn the_fewest_calls_that_miss_the_objective_are_named_with_what_they_missed() {
    // The goal without an objective has its bracket all the same.
    let flags = ["--calls", "9", "--sendlag-max", "1h", "--slo", "ack.p50<1ns"];
    let (code, json) = capacity(&Node::start(Fault::None), &flags);
    assert_eq!((code, &json["conclusion"]), (Some(2), &"none".into()), "{json:#}");
    assert_eq!(json["bound_by"]["kind"], "slo", "{json:#}");
    let summary = json["summary"].as_str().unwrap();
    assert!(
        summary.contains("not even 4 calls meet 'ack.p50<1ns'")
            && summary.contains("asked for 1 ns")
            && !summary.contains("exo-load"),
        "{summary}"
    );
    assert_eq!(bracket(&json, "ack.p50<1ns"), [&Value::Null, &Value::from(4)], "{json:#}");
    assert_eq!(bracket(&json, "no loss"), [&Value::from(9), &Value::Null], "{json:#}");
    assert!(steps(&json).iter().all(|calls| *calls >= 4), "none below --calls-min");
}

#[test]
fn a_percentile_without_enough_samples_is_no_number() {
    let flags = ["--calls", "4", "--sendlag-max", "1h", "--slo", "ack.p99.9<1h"];
    let (code, json) = capacity(&Node::start(Fault::None), &flags);
    assert_eq!((code, &json["conclusion"]), (Some(3), &"insufficient_samples".into()), "{json:#}");
    assert_eq!(bracket(&json, "ack.p99.9<1h"), [&Value::Null, &Value::Null], "{json:#}");
    let summary = json["summary"].as_str().unwrap();
    assert!(
        summary.contains("insufficient samples") && summary.contains(" of 10,000"),
        "{summary}"
    );
}

/// A real node with its own limit, started for each step of a sweep.
#[test]
fn a_sweep_starts_a_node_for_each_number_of_shards() {
    let directory = tempfile::tempdir().unwrap();
    let (key, out) = (directory.path().join("key.pem"), directory.path().join("out"));
    std::fs::write(&key, exo_ingest_harness::Keys::First.public_pem()).unwrap();
    let command = format!(
        "{} serve --shards {{cores}} --listen 127.0.0.1:{{port}} \
         --admin 127.0.0.1:{{admin_port}} --jwt-key {} --claim-match tenant --max-calls 5 \
         --data-dir {{dir}}/journal --allow-unregistered --drain-grace 0s \
         --set limits.ring_size=16MiB --set journal.segment_size=4MiB \
         --set journal.reserve=1MiB --max-ahead off",
        crate::journal::node_binary(),
        key.display(),
    );
    let parent = directory.path().join("nodes");
    let flags = [
        &WIDE[..],
        &["--calls", "64", "--sweep", "cores=1,2", "--repeats", "1", "--hold", "0s"],
        &["--tenant", TENANT, "--node", &command, "--node-dir", parent.to_str().unwrap()],
        &["--out", out.to_str().unwrap()],
    ]
    .concat();
    let (code, json) = answer("ws://127.0.0.1:1/v1/ingest", &mint(TENANT, "x"), &flags);
    assert_eq!(code, Some(0), "{json:#}");
    let searches = json["searches"].as_array().unwrap();
    for (search, cores) in searches.iter().zip([1, 2]) {
        assert_eq!((&search["cores"], &search["calls"]), (&cores.into(), &5.into()), "{json:#}");
        // The node's metrics say which limit it was.
        let bound = search["bound_by"]["text"].as_str().unwrap();
        assert!(bound.contains("503 (its --max-calls)"), "{bound}");
        let node = &search["steps"][0]["node"];
        assert_eq!(node["shards"], cores, "{json:#}");
        assert!(out.join(format!("cores-{cores}/5-1/report.html")).exists());
    }
    assert_eq!(searches.len(), 2);
    // The report can be published: it names no place of this machine.
    let node = crate::journal::node_binary();
    let built = std::path::Path::new(&node).parent().unwrap().to_str().unwrap();
    let here = directory.path().to_str().unwrap();
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for name in ["capacity.json", "capacity.md", "capacity.html"] {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(text.contains("--node-dir DIR") || text.contains("\"DIR\""), "{name}: {text}");
        assert!(text.contains("--jwt-key key.pem"), "{name}: {text}");
        for part in [built, here, &format!("\"{hostname}\"")] {
            assert!(!text.contains(part), "'{part}' is in {name}: {text}");
        }
    }
    assert_eq!(parent.read_dir().unwrap().count(), 0, "the nodes' directories are gone");
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
    assert!(json["steps"][0]["ill"].as_str().unwrap().contains("send lag"), "{json:#}");
    assert_eq!((&json["bound_by"]["kind"], steps(&json)), (&"generator".into(), vec![4, 4]));
}

#[test]
fn a_search_without_an_end_is_refused() {
    let node = Node::start(Fault::None);
    for (flags, part) in [
        (&["--slo", "ack.p50<1h"][..], "--calls"),
        (&["--calls", "9", "--sweep", "cores=1"], "--node"),
        (&["--calls", "9", "--node", "x", "--admin", "127.0.0.1:1"], "{admin_port}"),
        (&["--calls", "9", "--node", "/no/such/node"], "did not print 'listening on"),
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
