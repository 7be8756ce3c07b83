//! The admin listener as an HTTP server: its answers to bad requests. No client can block the
//! others.

use crate::EXO_INGEST;
use exo_ingest_harness::{Admin, Keys, NodeProcess, Peer, TENANT, eventually};
use std::net::TcpListener;
use std::process::Command;

/// More connections than the listener keeps.
const IDLE_COUNT: usize = 200;

/// The connections that it keeps, and some descriptors for other work.
const OPEN_FILES_MORE: usize = 32 + 8;

fn start() -> (tempfile::TempDir, NodeProcess, Admin) {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(EXO_INGEST, data_dir.path(), &[]);
    let admin = node.admin();
    (data_dir, node, admin)
}

fn open_files(node: &NodeProcess) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count()
}

/// The node takes calls, whatever happens on the admin listener.
fn assert_takes_calls(node: &NodeProcess) {
    let mut peer = node.call_as(TENANT, "call-1");
    peer.send_frames(10, 320);
    peer.expect_ack(10);
}

#[test]
fn every_route_has_its_type_and_head_has_no_body() {
    let (_data_dir, _node, admin) = start();
    for (target, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/ready", "application/json"),
        ("/status.json", "application/json"),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("/debug/latency.hlog", "text/plain; charset=utf-8"),
        ("/debug/latency.hgrm", "text/plain; charset=utf-8"),
    ] {
        let mut peer = admin.connect();
        // On one connection: if HEAD had a body, the next answer would start with it.
        for method in ["HEAD", "GET", "HEAD", "GET"] {
            peer.send(format!("{method} {target} HTTP/1.1\r\nHost: admin\r\n\r\n").as_bytes());
            let response = peer.try_response(method == "GET").unwrap();
            assert_eq!(
                (response.status, response.field("content-type")),
                (200, Some(content_type)),
                "{method} {target}"
            );
            assert_eq!(response.field("cache-control"), Some("no-store"));
            let size: usize = response.field("content-length").unwrap().parse().unwrap();
            assert!(
                size > 0 && (method == "HEAD" || size == response.body.len()),
                "{method} {target}"
            );
        }
    }
}

#[test]
fn bad_requests_get_their_status() {
    let (_data_dir, node, admin) = start();
    for target in
        ["/index.html", "/ready/", "/Ready", "/v1/ingest", "/health", "/debug", "/metrics%00"]
    {
        let response = admin.request("GET", target);
        assert_eq!(response.status, 404, "{target}");
        assert!(
            response.body.contains("/ready") && response.body.contains("/metrics"),
            "{}",
            response.body
        );
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let response = admin.request(method, "/metrics");
        assert_eq!(
            (response.status, response.field("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
    for request in [
        "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\
         0\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
        "nonsense\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
    ] {
        let mut peer = admin.connect();
        peer.send(request.as_bytes());
        assert_eq!(peer.response().status, 400, "{request}");
        peer.expect_end();
    }
    let mut peer = admin.connect();
    // The listener may refuse it and reset the connection before all of it is sent.
    let _ = peer.try_send(
        format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes(),
    );
    drop(peer);
    assert_takes_calls(&node);
}

#[test]
fn idle_connections_neither_block_a_scrape_nor_leak() {
    let (_data_dir, node, admin) = start();
    admin.get("/metrics");
    let before = open_files(&node);
    let silent: Vec<Peer> = (0..IDLE_COUNT).map(|_| admin.connect()).collect();
    admin.get("/metrics");
    let mut kept: Vec<Peer> = (0..IDLE_COUNT).map(|_| admin.connect()).collect();
    for peer in &mut kept {
        // Some are closed by now: each new connection closes the one that was idle longest.
        let _ = peer.try_send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HT");
    }
    for _ in 0..IDLE_COUNT {
        admin.get("/ready");
    }
    eventually("connections are bounded", || open_files(&node) <= before + OPEN_FILES_MORE);
    drop((silent, kept));
    eventually("none is left", || open_files(&node) <= before + 1);
    admin.metrics();
    assert_takes_calls(&node);
}

#[test]
fn a_client_that_does_not_read_is_bounded_and_delays_no_other() {
    let (_data_dir, node, admin) = start();
    let size_before = node.resident_size();
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000);
    let deaf: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = Peer::connect_with_receive_buffer(admin.address(), 1);
            peer.socket().set_nonblocking(true).unwrap();
            // As much as both socket buffers hold.
            let _ = peer.try_send(&request);
            peer
        })
        .collect();
    for _ in 0..20 {
        admin.metrics();
        assert_takes_calls(&node);
    }
    let grown = node.resident_size().saturating_sub(size_before);
    // With the call's own share: the ring's pages come into use as it fills.
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(deaf);
}

#[test]
fn a_client_that_sends_no_request_is_closed() {
    let (_data_dir, _node, admin) = start();
    let mut silent = admin.connect();
    let mut half = admin.connect();
    half.send(b"GET /ready HTTP/1.1\r\nHost:");
    silent.expect_end_unasked();
    half.expect_end_unasked();
}

#[test]
fn an_admin_address_in_use_is_1_and_says_which_flag_to_change() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), Keys::First.public_pem()).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args([
        "serve",
        "--no-journal",
        "--allow-unregistered",
        "--shards",
        "1",
        "--listen",
        "127.0.0.1:0",
    ]);
    let output = command.args(["--admin", &taken, "--jwt-key"]).arg(key.path()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(output.stdout.is_empty());
    let line = errors.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(line.contains(&taken) && line.contains("in use") && line.contains("--admin"), "{line}");
}

#[test]
fn it_can_be_switched_off() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start_without_admin(EXO_INGEST, data_dir.path(), &[]);
    eventually("it says so", || node.log().iter().any(|line| line.contains("admin=off")));
    assert_takes_calls(&node);
    assert!(node.terminate().success());
}
