//! `/metrics` and `/debug/latency.*`: well formed, right, and without the id of a call.

use crate::EXO_INGEST;
use exo_ingest_harness::{Admin, Exposition, NodeProcess, Peer, TENANT, eventually, mint, wire};

const FRAME_COUNT: usize = 25;

const FRAME_SIZE: usize = 9_600;

/// A text that is nowhere else.
const INTERACTION: &str = "the-id-of-a-call";

/// Plays a call of [`FRAME_COUNT`] frames to its end; returns its token.
fn play(node: &NodeProcess) -> String {
    let token = mint(TENANT, INTERACTION);
    let mut peer = Peer::connect(node.address());
    peer.upgrade(&token);
    peer.start(TENANT, INTERACTION);
    peer.send_frames(FRAME_COUNT, FRAME_SIZE);
    peer.expect_acks(10, 20);
    peer.send(&wire::text(r#"{"event":"stop"}"#));
    peer.receive();
    peer.expect_close(1000, "");
    token
}

/// A scrape after the call has ended and its shard has counted everything. Counters are there at
/// once. Shards hand over histograms by mail.
fn scrape_after(admin: &Admin) -> Exposition {
    let mut last = Exposition::default();
    eventually("the connections are gone and everything measured has come", || {
        last = admin.metrics();
        let measured = ["setup", "frame_durable", "ack"]
            .map(|name| last.value(&format!("exo_ingest_{name}_seconds_count")));
        let is_measured =
            measured[0] >= 1.0 && measured[1] >= FRAME_COUNT as f64 && measured[2] >= 2.0;
        // The store reports once a second.
        let is_reported = last.value("exo_ingest_journal_segments_stored") >= 1.0;
        is_measured && is_reported && last.value(r#"exo_ingest_connections_open{shard="0"}"#) == 0.0
    });
    last
}

#[test]
fn counters_are_those_of_a_known_call_and_only_grow() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin();
    let before = admin.metrics();
    assert_eq!(before.value(r#"exo_ingest_frames_total{shard="0"}"#), 0.0);
    play(&node);
    let mut refused = Peer::connect(node.address());
    refused.send(wire::upgrade_request("no.good.token").as_bytes());
    assert_eq!(refused.response().status, 401);
    drop(refused);

    let after = scrape_after(&admin);
    for (series, value) in [
        (r#"exo_ingest_frames_total{shard="0"}"#, FRAME_COUNT),
        (r#"exo_ingest_audio_bytes_total{shard="0"}"#, FRAME_COUNT * FRAME_SIZE),
        (r#"exo_ingest_acks_total{shard="0"}"#, 2),
        (r#"exo_ingest_upgrades_total{shard="0"}"#, 1),
        (r#"exo_ingest_calls_started_total{shard="0"}"#, 1),
        (r#"exo_ingest_calls_ended_total{shard="0"}"#, 1),
        (r#"exo_ingest_requests_refused_total{shard="0"}"#, 1),
        (r#"exo_ingest_refusals_total{reason="token_invalid"}"#, 1),
        ("exo_ingest_token_failures_total", 1),
        (r#"exo_ingest_tenant_calls_total{tenant="acme"}"#, 1),
        (r#"exo_ingest_tenant_calls_live{tenant="acme"}"#, 0),
        (r#"exo_ingest_tenant_frames_total{tenant="acme"}"#, FRAME_COUNT),
        (r#"exo_ingest_tenant_audio_bytes_total{tenant="acme"}"#, FRAME_COUNT * FRAME_SIZE),
        ("exo_ingest_endings_total", 1),
        ("exo_ingest_setup_seconds_count", 1),
        ("exo_ingest_frame_ring_seconds_count", FRAME_COUNT),
        ("exo_ingest_frame_durable_seconds_count", FRAME_COUNT),
        ("exo_ingest_frame_received_seconds_count", 0),
        ("exo_ingest_ack_seconds_count", 2),
        ("exo_ingest_calls_live", 0),
        ("exo_ingest_ready", 1),
        (r#"exo_ingest_node_info{ack="durable"}"#, 1),
    ] {
        let found = if series.contains('{') || after.samples.contains_key(series) {
            after.value(series)
        } else {
            after.sum(series)
        };
        assert_eq!(found, value as f64, "{series}");
    }
    assert!(after.value("exo_ingest_frame_durable_seconds_sum") > 0.0);
    let durable = admin.get("/debug/latency.hgrm?tag=frame.durable");
    assert!(durable.contains(&format!("Total count    = {FRAME_COUNT:>12}]")), "{durable}");
    assert!(
        after.value("process_open_fds") > 3.0 && after.value("process_resident_memory_bytes") > 1e6
    );
    assert!(after.value("process_cpu_seconds_total") > 0.0);
    assert_host_is_told(&after);
    for (series, value) in &before.samples {
        let family = series.split('{').next().unwrap();
        if family.ends_with("_total") || family.ends_with("_count") || family.ends_with("_bucket") {
            assert!(after.value(series) >= *value, "{series} went down");
        }
    }
    assert!(node.terminate().success());
}

/// Memory by owner, the disk, and the journal on it.
#[track_caller]
fn assert_host_is_told(metrics: &Exposition) {
    let memory =
        |owner: &str| metrics.value(&format!("exo_ingest_memory_bytes{{owner=\"{owner}\"}}"));
    assert_eq!(memory("frame_rings"), f64::from(16 << 20));
    for owner in ["io_buffers", "connections", "segment_list", "program", "other"] {
        assert!(memory(owner) > 0.0, "{owner}");
    }
    assert_eq!(memory("spill_buffers"), 0.0, "the port is plain");
    let resident = metrics.value("process_resident_memory_bytes");
    assert_eq!(metrics.sum("exo_ingest_memory_bytes"), resident, "all of it has an owner");
    let value = |name: &str| metrics.value(&format!("exo_ingest_{name}"));
    assert!(value("disk_free_bytes") <= value("disk_size_bytes"));
    assert!(value("disk_reserve_bytes") > 0.0);
    assert!(value("journal_segments_stored") >= 1.0 && value("journal_stored_bytes") > 0.0);
    assert!(value(r#"reload_success_timestamp_seconds{what="keys"}"#) > 1.7e9);
    assert_eq!(value("log_lines_dropped_total"), 0.0);
}

#[test]
fn nothing_names_a_call_or_holds_a_token() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin();
    let token = play(&node);
    scrape_after(&admin);
    for target in ["/ready", "/metrics", "/debug/latency.hlog", "/debug/latency.hgrm"] {
        let body = admin.get(target);
        assert!(!body.contains(INTERACTION), "{target}: {body}");
        for part in token.split('.') {
            assert!(!body.contains(part), "{target}: {body}");
        }
    }
}

#[test]
fn a_tenant_by_any_name_leaves_the_text_well_formed() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let tenant = "a\\\"b\\\\c{d=e},\u{e9} # EOF";
    let mut peer = Peer::connect(node.address());
    let raw = "a\"b\\c{d=e},\u{e9} # EOF";
    peer.upgrade(&mint(raw, "call"));
    let metrics = node.admin().metrics();
    assert_eq!(metrics.value(&format!("exo_ingest_tenant_calls_live{{tenant=\"{tenant}\"}}")), 1.0);
}

#[test]
fn latencies_come_as_a_log_and_as_distributions() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin();
    let log = admin.request("GET", "/debug/latency.hlog");
    assert_eq!((log.status, log.field("content-type")), (200, Some("text/plain; charset=utf-8")));
    let tags: Vec<&str> =
        log.body.lines().filter_map(|line| line.strip_prefix("Tag=")?.split(',').next()).collect();
    assert!(tags.contains(&"ack") && tags.contains(&"journal.sync"), "{tags:?}");
    let all = admin.get("/debug/latency.hgrm");
    let sections: Vec<&str> = all
        .lines()
        .filter_map(|line| line.strip_prefix("#[Tag     = ")?.strip_suffix(']'))
        .collect();
    assert_eq!(sections, tags);
    for tag in tags {
        let one = admin.get(&format!("/debug/latency.hgrm?tag={tag}"));
        assert!(
            one.starts_with(&format!("#[Tag     = {tag}]\n")) && one.matches("#[Tag ").count() == 1,
            "{one}"
        );
    }
    let unknown = admin.request("GET", "/debug/latency.hgrm?tag=nonsense");
    assert!(unknown.status == 404 && unknown.body.contains("journal.sync"), "{}", unknown.body);
}
