//! A real Prometheus scrapes a real node under load each second. Every query of the dashboard
//! returns data, and alerts fire for real causes and resolve.

use crate::prometheus::{INSTANCE, Prometheus};
use crate::{EXO_INGEST, has_prometheus, run};
use exo_ingest_harness::certificates::Authority;
use exo_ingest_harness::{
    Keys, NodeProcess, PATIENCE, Peer, TENANT, eventually, mint, timed_test, wire,
};
use serde_json::Value;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

/// A query of the dashboard.
#[derive(Debug)]
struct Query {
    expr: String,
    /// The panel says that it is empty unless something holds.
    is_conditional: bool,
}

/// All queries, with values for the variables.
fn queries() -> Vec<Query> {
    let text = run(Command::new(EXO_INGEST).env_clear().arg("grafana"));
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("a list") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let (expr, id) = (target["expr"].as_str(), target["refId"].as_str());
            let mut expr = expr.expect("a query").to_owned();
            for (name, value) in
                [("$job", "exo-ingest"), ("$instance", ".+"), ("$__rate_interval", "5s")]
            {
                expr = expr.replace(name, value);
            }
            assert!(!expr.contains('$'), "{expr}");
            let words = format!("Query {} is empty unless ", id.expect("a letter"));
            let description = panel["description"].as_str().expect("a text");
            queries.push(Query { expr, is_conditional: description.contains(&words) });
        }
    }
    queries
}

/// Waits until all `wanted` queries return data at once. `stir` keeps things going meanwhile.
#[track_caller]
fn await_data(
    prometheus: &Prometheus,
    queries: &[Query],
    wanted: impl Fn(&Query) -> bool,
    mut stir: impl FnMut(),
) {
    let start = Instant::now();
    loop {
        stir();
        std::thread::sleep(Duration::from_millis(200));
        let is_empty =
            |query: &&Query| prometheus.query(&query.expr).iter().all(|value| value.is_nan());
        let left: Vec<_> = queries.iter().filter(|query| wanted(query)).filter(is_empty).collect();
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "these return nothing: {left:#?}");
    }
}

/// A node with a certificate that also takes plain calls, and with limits on its journal.
fn start_node(directory: &std::path::Path) -> NodeProcess {
    let issued = Authority::new("dashboards").issue(&["localhost"]);
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert, issued.chain_pem).expect("a file");
    std::fs::write(&key, issued.key_pem).expect("a file");
    // An archive that fails: the journal grows and waits for it.
    let archive = directory.join("archive");
    std::fs::create_dir_all(&archive).expect("a directory");
    // A second node of this test may find it already.
    if !archive.join("v1").exists() {
        std::fs::write(archive.join("v1"), "no directory").expect("a file");
    }
    let url = format!("file://{}", archive.display());
    let args = [
        "--archive",
        &url,
        "--set",
        "journal.segment_size=4MiB",
        "--tls-cert",
        cert.to_str().expect("a path"),
        "--tls-key",
        key.to_str().expect("a path"),
        "--set",
        "tls.allow_plain=true",
        "--set",
        "journal.reserve=0",
        "--retain-bytes",
        "64MiB",
        "--retain-age",
        "1h",
        "--drain-grace",
        "8s",
        "--drain",
        "1s",
    ];
    NodeProcess::start(EXO_INGEST, &directory.join("data"), &args)
}

/// One of each thing that goes wrong, and a short call.
fn trouble(node: &NodeProcess, round: u64) {
    let mut refused = Peer::connect(node.address());
    refused.send(wire::upgrade_request("no.good.token").as_bytes());
    assert_eq!(refused.response().status, 401);
    // Audio before `start`.
    let mut closed = node.upgrade_as(TENANT, "closed");
    closed.send_frames(1, 320);
    closed.receive();
    // A handshake that is none.
    let socket = Peer::connect(node.address());
    let _ = (&mut socket.socket()).write_all(&[0x16, 3, 1, 0, 5, 0, 0, 0, 0, 0]);
    drop(socket);
    drop(node.call_as(TENANT, &format!("short-{round}")));
}

#[test]
fn queries_return_data_and_alerts_fire_for_real_causes() {
    if !has_prometheus() {
        return;
    }
    let _guard = timed_test();
    let directory = tempfile::tempdir().expect("a directory");
    let node = start_node(directory.path());
    let args = ["--for", "1s", "--window", "5s", "--bad-tokens", "0.01"];
    let prometheus = Prometheus::start(&args);
    prometheus.scrape(node.admin().address());
    let players: Vec<_> = (0..4)
        .map(|seed| node.play(&format!("load-{seed}"), seed, Duration::from_millis(20)))
        .collect();

    let queries = queries();
    await_data(&prometheus, &queries, |query| !query.is_conditional, || ());
    assert!(prometheus.query("sum(exo_ingest_frames_total)").iter().all(|sum| *sum > 100.0));
    for alert in ["ExoIngestDown", "ExoIngestNotReady", "ExoIngestReloadRefused"] {
        assert_eq!(prometheus.firing(alert), [Value::Null; 0], "{alert} on a good node");
    }

    node.reload_keys("no keys");
    let mut round = 0;
    await_data(
        &prometheus,
        &queries,
        |_| true,
        || {
            trouble(&node, round);
            round += 1;
        },
    );
    let mut bad_tokens = Vec::new();
    eventually("bad tokens raise an alert", || {
        trouble(&node, round);
        round += 1;
        std::thread::sleep(Duration::from_millis(200));
        bad_tokens = prometheus.firing("ExoIngestBadTokens");
        !bad_tokens.is_empty()
    });
    assert_eq!(bad_tokens[0]["labels"]["severity"], "warning");
    let summary = bad_tokens[0]["annotations"]["summary"].as_str().expect("a text");
    assert!(summary.starts_with(&format!("{INSTANCE} refuses tokens: ")), "{summary}");
    let refused = prometheus.await_alert("ExoIngestReloadRefused");
    assert_eq!(refused["annotations"]["summary"], format!("{INSTANCE} refused new keys"));
    let fails = prometheus.await_alert("ExoIngestSinkFails");
    let summary = format!("archive does not take the journal of {INSTANCE}");
    assert_eq!(fails["annotations"]["summary"], summary);
    std::fs::remove_file(directory.path().join("archive/v1")).expect("it is there");
    prometheus.await_end_of_alert("ExoIngestSinkFails");
    let good = std::str::from_utf8(Keys::First.public_pem()).expect("PEM");
    node.reload_keys(good);
    prometheus.await_end_of_alert("ExoIngestReloadRefused");
    prometheus.await_end_of_alert("ExoIngestBadTokens");

    players.into_iter().for_each(|player| drop(player.finish()));
    drain_and_restart(&prometheus, node, directory.path());
}

/// A drain, the end of the node, and its next start.
fn drain_and_restart(prometheus: &Prometheus, node: NodeProcess, directory: &std::path::Path) {
    let mut call = Peer::connect(node.address());
    call.upgrade(&mint(TENANT, "last"));
    call.start(TENANT, "last");
    node.start_drain();
    let drains = prometheus.await_alert("ExoIngestDrainsLong");
    assert_eq!(drains["annotations"]["runbook_url"], "docs/troubleshooting.md#exoingestdrainslong");
    assert_eq!(prometheus.firing("ExoIngestDown"), [Value::Null; 0], "it still answers");
    drop(call);
    assert!(node.wait().success());
    prometheus.await_alert("ExoIngestDown");
    prometheus.await_end_of_alert("ExoIngestDrainsLong");
    let node = start_node(directory);
    prometheus.scrape(node.admin().address());
    prometheus.await_end_of_alert("ExoIngestDown");
    assert!(node.terminate().success());
}
