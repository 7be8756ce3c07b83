//! `/status.json`: the numbers of known calls, and what it shows of them.

use crate::EXO_INGEST;
use exo_ingest_harness::{Admin, NodeProcess, Peer, TENANT, eventually, mint, wire};
use serde_json::Value;

const FRAME_SIZE: usize = 9_600;

fn status(admin: &Admin) -> Value {
    let response = admin.request("GET", "/status.json");
    assert_eq!((response.status, response.field("content-type")), (200, Some("application/json")));
    serde_json::from_str(&response.body).unwrap_or_else(|e| panic!("{e}: {}", response.body))
}

#[test]
fn it_shows_the_numbers_of_known_calls() {
    let data_dir = tempfile::tempdir().unwrap();
    let options = ["--set", "limits.calls_per_tenant_max=2"];
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &options);
    let admin = node.admin();
    let mut speaks = node.call("call-speaks");
    let _silent = node.call("call-silent");
    speaks.send_frames(25, FRAME_SIZE);
    speaks.expect_acks(10, 20);
    let mut refused = Peer::connect(node.address());
    refused.send(wire::upgrade_request(&mint(TENANT, "call-too-many")).as_bytes());
    assert_eq!(refused.response().status, 429);

    let mut last = Value::Null;
    eventually("everything has been measured", || {
        last = status(&admin);
        last["shards"][0]["ack"]["count"] == 2 && last["calls"][0]["silent_ms"].is_u64()
    });
    assert_eq!(last["format"], 1);
    let node_part = &last["node"];
    assert_eq!((&node_part["calls"], &node_part["ack"]), (&2.into(), &"durable".into()));
    assert_eq!((&node_part["is_ready"], &node_part["is_draining"]), (&true.into(), &false.into()));
    assert!(node_part["uptime_seconds"].as_f64() > Some(0.0), "{node_part}");
    let shard = &last["shards"][0];
    for (name, value) in
        [("frames", 25), ("calls", 2), ("audio_bytes", 25 * FRAME_SIZE), ("acks", 2)]
    {
        assert_eq!(shard[name], value, "{name}");
    }
    let counts: u64 =
        shard["ack_counts"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    assert_eq!(counts, 2);
    let bounds = last["ack_bounds_us"].as_array().unwrap().len();
    assert_eq!(shard["ack_counts"].as_array().unwrap().len(), bounds + 1);
    assert!(
        shard["ack"]["p50_us"].as_u64() > Some(0) && shard["sync"]["max_us"].as_u64() > Some(0)
    );
    assert!(shard["cpu_us"].as_u64() > Some(0), "{shard}");
    assert!(shard["ring"]["size_bytes"].as_u64() > shard["ring"]["used_bytes"].as_u64());
    let refusals = [serde_json::json!({"family": "refusals", "reason": "quota", "count": 1})];
    assert_eq!(shard["refused"], Value::from(refusals.to_vec()));
    let tenant = serde_json::json!({"tenant": TENANT, "calls": 2, "calls_total": 2, "refused": 1,
        "frames": 20, "audio_bytes": 20 * FRAME_SIZE});
    assert_eq!(last["tenants"], Value::from(vec![tenant]), "counted when an ACK is due");
    assert_eq!(last["sinks"], Value::from(Vec::<Value>::new()));
    assert!(last["store"]["free_bytes"].as_u64() > Some(0), "{}", last["store"]);
    // The silent call waits for longer, so it is first.
    let names: Vec<_> =
        last["calls"].as_array().unwrap().iter().map(|c| &c["interaction"]).collect();
    assert_eq!(names, ["call-silent", "call-speaks"]);
    let speaking = &last["calls"][1];
    assert_eq!((&speaking["frames"], &speaking["unacked"]), (&25.into(), &5.into()));
    assert!(speaking["late_ms"].as_i64() < Some(0), "five seconds came at once: {speaking}");
    assert!(node.terminate().success());
}

#[test]
fn it_names_live_calls_alone_and_holds_no_token() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin();
    let token = mint(TENANT, "call-1");
    let mut peer = Peer::connect(node.address());
    peer.upgrade(&token);
    peer.start(TENANT, "call-1");
    eventually("the call is shown", || admin.get("/status.json").contains("call-1"));
    peer.send(&wire::text(r#"{"event":"stop"}"#));
    peer.receive();
    eventually("a call that has ended is not shown", || {
        let body = admin.get("/status.json");
        token.split('.').for_each(|part| assert!(!body.contains(part), "{body}"));
        !body.contains("call-1")
    });
}

#[test]
fn many_calls_are_bounded_and_the_worst_are_named() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin();
    let mut peers: Vec<_> = (0..60).map(|number| node.call(&format!("call-{number}"))).collect();
    let mut last = Value::Null;
    eventually("all calls have started", || {
        peers[59].send_frames(1, FRAME_SIZE);
        last = status(&admin);
        last["node"]["calls"] == 60
    });
    let found = last["calls"].as_array().unwrap();
    assert_eq!(found.len(), 20, "so many of each shard");
    let waits: Vec<_> = found.iter().map(|call| call["silent_ms"].as_u64().unwrap()).collect();
    assert!(waits.is_sorted_by(|a, b| a >= b), "{waits:?}");
}
