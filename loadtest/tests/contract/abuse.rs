//! `abuse`: each kind of hostile peer is ended as the contract says, and the live calls beside them
//! stay whole. A real node, few peers, short times.

use exo_ingest_harness::{NodeProcess, TENANT, mint};
use serde_json::Value;

use crate::certificates::Authority;
use crate::faulty::{self, Fault};
use crate::journal::node;

/// Live calls.
const CALLS: u64 = 20;

/// A run of a few seconds on a machine that may be busy: no figure decides but that the calls are
/// whole, and how peers were ended.
const SHORT: [&str; 14] = [
    "--calls-live",
    "20",
    "--frame-ms",
    "50",
    "--duration",
    "2s",
    "--calm",
    "2s",
    "--close-within",
    "8s",
    "--sendlag-max",
    "1h",
    "--slo",
    "ack.p99<1h",
];

fn exo_load(url: &str, kind: &str, more: &[&str]) -> std::process::Output {
    let short = SHORT.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_exo-load"));
    command
        .args(["abuse", kind, "--url", url])
        .args(short)
        .args(more)
        .env("JWT_TOKEN", mint(TENANT, "any"));
    command.output().expect("exo-load starts")
}

/// Exit code and `abuse.json` of an attack on a node.
fn attack(node: &NodeProcess, kind: &str, more: &[&str]) -> (i32, Value) {
    let url = format!("ws://{}/v1/ingest", node.address());
    let admin = node.admin().address().to_string();
    let more = [more, &["--json", "--admin", &admin]].concat();
    let output = exo_load(&url, kind, &more);
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let json =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    (output.status.code().expect("an exit code"), json)
}

/// Plays it at a node of its own with these settings; all its peers have to end in `endings`.
/// Returns the counters of the node that went up.
#[track_caller]
fn plays(kind: &str, settings: &[&str], more: &[&str], endings: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let node = node(&data_dir, settings);
    let (code, json) =
        attack(&node, kind, &[more, &["--verify", data_dir.to_str().unwrap()]].concat());
    assert_eq!((code, &json["verdict"]), (0, &"pass".into()), "{json:#}");
    assert_eq!(json["schema"], serde_json::json!({"name": "exo-load/abuse", "version": 1}));
    let found: Vec<&str> =
        json["endings"]["endings"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(
        !found.is_empty() && found.iter().all(|ending| endings.contains(ending)),
        "{found:?}: {json:#}"
    );
    assert_eq!(json["live"]["counts"]["calls_completed"], CALLS, "{json:#}");
    assert_eq!(json["live"]["verify"]["frames_missing"], 0, "{json:#}");
    assert!(json["live"]["verify"]["frames_equal"].as_u64() > Some(0), "{json:#}");
    assert!(json["phases"]["during"]["new_call_setup_ns"]["count"].as_u64() > Some(0), "{json:#}");
    assert!(json["phases"]["during"]["node_rss_bytes"].as_u64() > Some(0), "{json:#}");
    json["counters"].clone()
}

/// The sum of counters whose name and labels hold both words.
fn count(counters: &Value, name: &str, label: &str) -> u64 {
    let counters = counters.as_object().unwrap().iter();
    counters
        .filter(|(key, _)| key.starts_with(name) && key.contains(label))
        .filter_map(|(_, value)| value.as_u64())
        .sum()
}

#[test]
fn slow_heads_get_408() {
    let counters =
        plays("slowloris", &["--set", "timeouts.head=2s"], &["--peers", "200"], &["status_408"]);
    assert!(count(&counters, "refusals_total", "") >= 200, "{counters:#}");
}

#[test]
fn half_a_hello_is_ended() {
    let endings = ["status_400", "status_408", "fin", "reset", "alert_10"];
    plays("half-tls", &["--set", "timeouts.head=2s"], &["--peers", "100"], &endings);
}

#[test]
fn fragments_without_end_get_1009() {
    plays("fragments", &[], &["--peers", "10", "--rate", "20"], &["close_1009"]);
}

#[test]
fn frames_without_audio_get_4429() {
    // Less ahead than the default: a busy machine in a debug build takes seconds for 15,000 frames.
    let settings = ["--max-ahead", "5s"];
    let flags = ["--peers", "10", "--rate", "10", "--close-within", "15s"];
    let counters = plays("empty-frames", &settings, &flags, &["close_4429"]);
    assert!(count(&counters, "closes_total", "too_fast") > 0, "{counters:#}");
}

#[test]
fn floods_of_pings_get_1008() {
    plays("pings", &[], &["--peers", "10", "--rate", "20"], &["close_1008"]);
}

#[test]
fn a_peer_that_never_reads_is_cut() {
    let settings = ["--set", "timeouts.ack_stalled=2s", "--set", "timeouts.close=1s"];
    let counters = plays("zero-window", &settings, &["--peers", "15"], &["reset", "fin"]);
    assert!(count(&counters, "endings_total", "ack_stalled") >= 15, "{counters:#}");
}

#[test]
fn bad_tokens_get_401() {
    let counters = plays("bad-tokens", &[], &["--peers", "50", "--rate", "300"], &["status_401"]);
    let failures = count(&counters, "token_failures_total", "");
    assert!(
        failures > 100 && count(&counters, "token_failures_total", "signature") > failures / 2,
        "{counters:#}"
    );
}

#[test]
fn connections_that_reset_leave_no_trace() {
    let counters = plays("resets", &[], &["--peers", "50", "--rate", "100"], &["own_reset"]);
    assert!(count(&counters, "connections_accepted_total", "") > 100, "{counters:#}");
}

#[test]
fn new_keys_are_a_matter_of_tls() {
    let output = exo_load("ws://127.0.0.1:1/v1/ingest", "renegotiate", &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && errors.contains("wss://"), "{errors}");
}

#[test]
fn floods_of_new_keys_are_ended() {
    // The front is rustls in the server role. It ends a peer that only asks for new keys.
    let (authority, data) = (Authority::new(), tempfile::tempdir().unwrap());
    let node = node(data.path(), &[]);
    let front = crate::secure::before(&authority, node.address());
    let ca = authority.path();
    let output = exo_load(
        &front.url,
        "renegotiate",
        &["--ca", &ca, "--peers", "5", "--rate", "10", "--json"],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    let json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    assert_eq!((output.status.code(), &json["verdict"]), (Some(0), &"pass".into()), "{json:#}");
    let found: Vec<&String> = json["endings"]["endings"].as_object().unwrap().keys().collect();
    let is_ended =
        |ending: &str| ending.starts_with("alert_") || ["fin", "reset"].contains(&ending);
    assert!(!found.is_empty() && found.iter().all(|ending| is_ended(ending)), "{found:?}");
    assert_eq!(json["live"]["counts"]["calls_completed"], CALLS, "{json:#}");
}

#[test]
fn too_many_peers_are_refused_with_what_to_raise() {
    let output = exo_load(
        "ws://127.0.0.1:1/v1/ingest",
        "slowloris",
        &["--peers", "1000000", "--calls-live", "1000"],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    // If a machine allows even these, there is no node at that address.
    let is_told = errors.contains("ulimit -Hn 1001064") && errors.contains("--peers")
        || errors.contains("nothing answers");
    assert!(output.status.code() == Some(1) && is_told, "{errors}");
}

#[test]
fn a_node_that_lets_peers_do_as_they_like_fails() {
    // It answers whatever comes, and ends no flood.
    let node = faulty::Node::start(Fault::None);
    let flags =
        ["--peers", "3", "--duration", "1s", "--calm", "1s", "--close-within", "1s", "--json"];
    let output = exo_load(&node.url, "slowloris", &flags);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &json["verdict"]), (Some(2), &"fail".into()), "{json:#}");
    assert!(json["endings"]["late"].as_u64() > Some(0), "{json:#}");
    assert_eq!(json["live"]["verdict"], "pass", "{json:#}");
}

#[test]
fn the_files_of_an_attack_are_those_of_a_run_and_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, out) = (directory.path().join("data"), directory.path().join("out"));
    let node = node(&data_dir, &[]);
    let flags = ["--peers", "3", "--rate", "5", "--duration", "1s", "--out", out.to_str().unwrap()];
    for _ in 0..2 {
        let (code, json) = attack(&node, "pings", &flags);
        assert_eq!(code, 0, "{json:#}");
        let text = std::fs::read_to_string(out.join("abuse.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json);
        let result = std::fs::read_to_string(out.join("result.json")).unwrap();
        crate::schema::check(&serde_json::from_str(&result).unwrap());
    }
}
