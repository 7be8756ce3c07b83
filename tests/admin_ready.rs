//! `/ready`: yes while the node takes calls, and no with its reasons while it does not.
#![forbid(unsafe_code)]

use exo_ingest_harness::{LoopDisk, NodeProcess, Peer, Player, TENANT, eventually, mint};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_exo-ingest");

const DISK_SIZE: u64 = 1 << 30;

fn call(node: &NodeProcess, interaction: &str) -> Peer {
    let mut peer = Peer::connect(node.address());
    peer.upgrade(&mint(TENANT, interaction));
    peer.start(TENANT, interaction);
    peer
}

#[track_caller]
fn await_reasons(node: &NodeProcess, reasons: &[&str]) {
    let admin = node.admin();
    let wanted = if reasons.is_empty() { 200 } else { 503 };
    eventually(&format!("the reasons are {reasons:?}"), || {
        let (status, names) = admin.ready();
        status == wanted && names == reasons
    });
}

#[test]
fn a_node_is_ready_and_says_what_an_ack_promises() {
    let data_dir = tempfile::tempdir().unwrap();
    for level in ["durable", "written", "received"] {
        let node = NodeProcess::start(BINARY, data_dir.path(), &["--ack", level]);
        let response = node.admin().request("GET", "/ready");
        assert_eq!((response.status, response.field("content-type")), (200, Some("application/json")));
        let expected = format!(r#"{{"status":"ready","ack":"{level}","calls":0,"calls_max":16000}}"#);
        assert_eq!(response.body.trim_end(), expected);
        let head = node.admin().request("HEAD", "/ready");
        assert_eq!((head.status, head.field("content-length")), (200, response.field("content-length")));
    }
}

#[test]
fn a_draining_node_is_not_ready_and_says_so_until_its_end() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(BINARY, data_dir.path(), &["--drain", "1h"]);
    // Their ends are spread over the hour: some are left, whichever goes first.
    let _calls = ["call-1", "call-2", "call-3"].map(|interaction| call(&node, interaction));
    await_reasons(&node, &[]);
    node.start_drain();
    await_reasons(&node, &["draining"]);
    let response = node.admin().request("GET", "/ready");
    assert!(response.body.starts_with(r#"{"status":"not ready","ack":"durable","#), "{}", response.body);
    assert_eq!(node.admin().request("HEAD", "/ready").status, 503);
    let metrics = node.admin().metrics();
    assert_eq!(metrics.value("exo_ingest_ready"), 0.0);
    assert_eq!(metrics.value(r#"exo_ingest_not_ready{reason="draining"}"#), 1.0);
}

#[test]
fn a_node_with_all_the_calls_it_may_have_is_not_ready_until_one_ends() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(BINARY, data_dir.path(), &["--max-calls", "1"]);
    await_reasons(&node, &[]);
    let peer = call(&node, "call-1");
    await_reasons(&node, &["at_capacity"]);
    drop(peer);
    await_reasons(&node, &[]);
}

#[test]
fn a_node_without_room_for_new_calls_is_not_ready() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(BINARY, data_dir.path(), &["--set", "journal.reserve=1000000GiB"]);
    await_reasons(&node, &["journal_unavailable"]);
}

/// A filesystem that is frozen (as for a snapshot) is a disk that takes nothing. Only root can run it.
#[test]
fn a_node_whose_disk_stalls_answers_that_it_is_not_ready_and_is_again_when_the_disk_goes_on() {
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let data_dir = disk.path().join("data");
    let node = NodeProcess::start(BINARY, &data_dir, &["--set", "journal.reserve=4KiB"]);
    let admin = node.admin();
    let player = Player::start((node.address(), node.pid()), "stalled", 1, Duration::from_millis(2));
    eventually("the call is acked", || player.acked() >= 50);
    await_reasons(&node, &[]);

    let frozen = disk.freeze();
    await_reasons(&node, &["journal_stalled"]);
    // The counter says since when, and the rest of the listener works on.
    assert!(admin.metrics().value(r#"exo_ingest_journal_stalled_seconds{shard="0"}"#) > 2.0);
    assert!(admin.get("/debug/latency.hgrm").contains("journal.sync"));
    drop(frozen);
    await_reasons(&node, &[]);
    let played = player.finish();
    assert_eq!(played.close, Some(1000), "{played:?}");
    assert!(node.terminate().success());
}
