//! `/ready`: yes while the node takes calls, and otherwise no with the reasons.

use crate::EXO_INGEST;
use exo_ingest_harness::{LoopDisk, NodeProcess, Peer, TENANT, eventually};
use std::time::Duration;

const DISK_SIZE: u64 = 1 << 30;

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
        let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &["--ack", level]);
        let response = node.admin().request("GET", "/ready");
        assert_eq!(
            (response.status, response.field("content-type")),
            (200, Some("application/json"))
        );
        let expected =
            format!(r#"{{"status":"ready","ack":"{level}","calls":0,"calls_max":16000}}"#);
        assert_eq!(response.body.trim_end(), expected);
        let head = node.admin().request("HEAD", "/ready");
        assert_eq!(
            (head.status, head.field("content-length")),
            (200, response.field("content-length"))
        );
    }
}

#[test]
fn a_draining_node_is_not_ready_and_says_so_until_its_end() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &["--drain", "1h"]);
    // The drain spreads their ends over the hour, so some calls are left.
    let _calls =
        ["call-1", "call-2", "call-3"].map(|interaction| node.call_as(TENANT, interaction));
    await_reasons(&node, &[]);
    node.start_drain();
    await_reasons(&node, &["draining"]);
    let response = node.admin().request("GET", "/ready");
    assert!(
        response.body.starts_with(r#"{"status":"not ready","ack":"durable","#),
        "{}",
        response.body
    );
    assert_eq!(node.admin().request("HEAD", "/ready").status, 503);
    let metrics = node.admin().metrics();
    assert_eq!(metrics.value("exo_ingest_ready"), 0.0);
    assert_eq!(metrics.value(r#"exo_ingest_not_ready{reason="draining"}"#), 1.0);
}

#[test]
fn a_node_with_all_the_calls_it_may_have_is_not_ready_until_one_ends() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &["--max-calls", "1"]);
    await_reasons(&node, &[]);
    let peer = node.call_as(TENANT, "call-1");
    await_reasons(&node, &["at_capacity"]);
    drop(peer);
    await_reasons(&node, &[]);
}

#[test]
fn a_node_without_room_for_new_calls_is_not_ready() {
    let data_dir = tempfile::tempdir().unwrap();
    let node =
        NodeProcess::start(EXO_INGEST, data_dir.path(), &["--set", "journal.reserve=1000000GiB"]);
    await_reasons(&node, &["journal_unavailable"]);
}

/// A frozen filesystem, as during a snapshot, is a disk that takes no writes. Needs root.
#[test]
fn a_node_whose_disk_stalls_answers_that_it_is_not_ready_and_is_again_when_the_disk_goes_on() {
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let data_dir = disk.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=4KiB"]);
    let admin = node.admin();
    // So slow that the ring does not fill before the checks.
    let player = node.play("stalled", 1, Duration::from_millis(10));
    eventually("the call is acked", || player.acked() >= 50);
    await_reasons(&node, &[]);

    let frozen = disk.freeze();
    await_reasons(&node, &["journal_stalled"]);
    // The metric says for how long, and the listener answers everything else.
    assert!(admin.metrics().value(r#"exo_ingest_journal_stalled_seconds{shard="0"}"#) > 2.0);
    assert!(admin.get("/debug/latency.hgrm").contains("journal.sync"));
    drop(frozen);
    await_reasons(&node, &[]);
    let played = player.finish();
    assert_eq!(played.close, Some(1000), "{played:?}");
    assert!(node.terminate().success());
}

/// Needs root.
#[test]
fn a_node_whose_ring_fills_sends_new_calls_elsewhere_until_the_disk_has_caught_up() {
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let data_dir = disk.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=4KiB"]);
    let player = node.play("filling", 1, Duration::from_millis(1));
    eventually("the call is acked", || player.acked() >= 50);
    await_reasons(&node, &[]);

    let frozen = disk.freeze();
    node.await_upgrade_status(503);
    assert!(node.admin().ready().1.contains(&"ring_nearly_full".to_owned()));
    assert_eq!(node.admin().metrics().value(r#"exo_ingest_ring_refuses_calls{shard="0"}"#), 1.0);
    let mut peer = Peer::connect(node.address());
    peer.send(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
    assert_eq!(peer.try_response(true).expect("an answer").status, 200);
    assert!(!player.is_over());
    drop(frozen);

    await_reasons(&node, &[]);
    node.await_upgrade_status(101);
    let played = player.finish();
    assert_eq!(played.close, Some(1000), "{played:?}");
    assert!(node.terminate().success());
}
