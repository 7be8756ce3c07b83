//! The log of refusals: one line each, with the peer and the claimed tenant, at a bounded rate, and
//! never with a token.

use crate::EXO_INGEST;
use exo_ingest::auth::Grant;
use exo_ingest::call::CallIdentity;
use exo_ingest_harness::wire;
use exo_ingest_harness::{Keys, Message, NodeProcess, Peer, TENANT, eventually, mint};
use serde_json::Value;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn start(args: &[&str]) -> (tempfile::TempDir, NodeProcess) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(EXO_INGEST, dir.path(), &[&["--log", "json"], args].concat());
    (dir, node)
}

/// Waits for this number of lines with this message, and returns them.
fn lines(node: &NodeProcess, message: &str, count: usize) -> Vec<Value> {
    let found = || {
        let parse = |line: &String| serde_json::from_str::<Value>(line).ok();
        node.log()
            .iter()
            .filter_map(parse)
            .filter(|line| line["message"] == message)
            .collect::<Vec<_>>()
    };
    eventually(message, || found().len() >= count);
    found()
}

/// The status of a request, and the address that it came from.
fn ask(node: &NodeProcess, request: &str) -> (u16, String) {
    let mut peer = Peer::connect(node.address());
    let address = peer.socket().local_addr().expect("it is connected").to_string();
    peer.send(request.as_bytes());
    (peer.try_response(false).expect("an answer").status, address)
}

#[test]
fn a_refusal_before_the_upgrade_makes_a_line_with_peer_and_claimed_tenant() {
    let (_dir, node) = start(&[]);
    let good = mint(TENANT, "call");
    let identity = CallIdentity { tenant: "a tenant".into(), interaction: "call".into() };
    let grant = Grant {
        identity: &identity,
        issued_at: 1_000_000,
        expires_at: 2_000_000,
        kid: Some("key \u{2028}7"),
    };
    let expired = Keys::First.signer().mint(&grant).expect("a token");
    let traced = wire::upgrade_request(&expired).replacen(
        "\r\n",
        &format!("\r\ntraceparent: {TRACEPARENT}\r\n"),
        1,
    );
    let asked = [
        (ask(&node, &traced), 401, "token_invalid", Some("expired")),
        (ask(&node, &wire::upgrade_request(&good[..good.len() - 20])), 401, "token_invalid", None),
        (ask(&node, "GET /elsewhere HTTP/1.1\r\nHost: node\r\n\r\n"), 404, "not_found", None),
        (ask(&node, "nonsense\r\n\r\n"), 400, "bad_request", None),
    ];
    let lines = lines(&node, "request refused", asked.len());
    for (line, ((status, peer), expected, reason, token)) in lines.iter().zip(&asked) {
        assert_eq!(status, expected, "{line}");
        assert_eq!(
            (line["status"].as_u64(), line["reason"].as_str()),
            (Some(u64::from(*expected)), Some(*reason))
        );
        assert_eq!(
            (line["peer"].as_str(), line["suppressed"].as_u64()),
            (Some(peer.as_str()), Some(0)),
            "{line}"
        );
        assert!(token.is_none() || line["token"].as_str() == *token, "{line}");
    }
    let said = |name: &str| lines[0][name].as_str();
    assert_eq!((said("kid"), said("claimed_tenant")), (Some("key \u{2028}7"), Some("a tenant")));
    assert_eq!(said("traceparent"), Some(TRACEPARENT));
    assert_eq!(
        lines[1]["claimed_tenant"].as_str(),
        Some(TENANT),
        "signed or not, it is what was claimed"
    );
    let log = node.log().join("\n");
    assert!(!log.contains('\u{2028}'), "a line stays one line");
    for part in good.split('.').chain(expired.split('.')) {
        assert!(!log.contains(&part[..part.len().min(20)]), "a part of a token is in the log");
    }
    assert!(node.terminate().success());
}

#[test]
fn a_flood_of_bad_tokens_makes_a_few_lines_and_the_rest_is_counted() {
    let (_dir, node) = start(&[]);
    let long = format!("{}.e30.x", "A".repeat(3000));
    for _ in 0..100 {
        assert_eq!(ask(&node, &wire::upgrade_request(&long)).0, 401);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(ask(&node, &wire::upgrade_request(&long)).0, 401);
    let mut found = Vec::new();
    eventually("the last refusal is logged", || {
        found = lines(&node, "request refused", 20);
        let counted = found
            .iter()
            .map(|line| 1 + line["suppressed"].as_u64().expect("a number"))
            .sum::<u64>();
        counted == 101
    });
    assert!(found.iter().any(|line| line["suppressed"].as_u64() > Some(0)), "{found:#?}");
    assert!(found.iter().all(|line| line.to_string().len() < 400), "{found:#?}");
    assert!(node.terminate().success());
}

#[test]
fn after_the_upgrade_a_session_or_its_call_has_a_line_with_the_peer_and_the_trace() {
    let (_dir, node) = start(&["--set", "log_level=debug"]);
    let upgrade = |interaction: &str| {
        let mut peer = Peer::connect(node.address());
        let request = wire::upgrade_request(&mint(TENANT, interaction));
        peer.send(
            request.replacen("\r\n", &format!("\r\ntraceparent: {TRACEPARENT}\r\n"), 1).as_bytes(),
        );
        peer.expect_switching();
        let address = peer.socket().local_addr().expect("it is connected").to_string();
        (peer, address)
    };
    let (mut refused, address) = upgrade("refused");
    refused.send(&wire::text(&wire::start_text(TENANT, "other")));
    refused.expect_refusal(4403, "claim_mismatch", false);
    let line = &lines(&node, "session refused", 1)[0];
    assert_eq!(
        (line["close"].as_u64(), line["reason"].as_str()),
        (Some(4403), Some("claim_mismatch")),
        "{line}"
    );
    assert_eq!(
        (line["peer"].as_str(), line["tenant"].as_str()),
        (Some(address.as_str()), Some(TENANT)),
        "{line}"
    );
    assert_eq!(
        (line["traceparent"].as_str(), line["interaction"].as_str()),
        (Some(TRACEPARENT), Some("refused"))
    );

    let (mut call, address) = upgrade("call");
    call.start(TENANT, "call");
    call.send(&wire::text(r#"{"event":"stop"}"#));
    assert!(matches!(call.receive(), Message::Text(_)));
    call.expect_close(1000, "");
    for message in ["call started", "call ended"] {
        let line = &lines(&node, message, 1)[0];
        assert_eq!(line["level"], if message == "call started" { "DEBUG" } else { "INFO" });
        assert_eq!(
            (line["peer"].as_str(), line["interaction"].as_str()),
            (Some(address.as_str()), Some("call")),
            "{line}"
        );
        assert_eq!(line["traceparent"].as_str(), Some(TRACEPARENT), "{line}");
    }
    assert!(node.terminate().success());
}

#[test]
fn behind_a_balancer_the_peer_is_that_of_the_proxy_header() {
    let (_dir, node) = start(&["--set", "proxy_protocol.from=127.0.0.0/8"]);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 9, 127, 0, 0, 1, 0x9c, 0x40, 0x20, 0xfb]);
    let mut peer = Peer::connect(node.address());
    peer.send(&header);
    peer.send(wire::upgrade_request(&mint(TENANT, "call")).as_bytes());
    peer.expect_switching();
    peer.start(TENANT, "call");
    peer.send(&wire::text(r#"{"event":"stop"}"#));
    assert!(matches!(peer.receive(), Message::Text(_)));
    peer.expect_close(1000, "");
    assert_eq!(lines(&node, "call ended", 1)[0]["peer"], "203.0.113.9:40000");
    let mut without = Peer::connect(node.address());
    without.send(wire::upgrade_request("a.b.c").as_bytes());
    without.expect_end_unasked();
    assert_eq!(lines(&node, "connection refused", 1)[0]["reason"], "proxy_header_missing");
    assert!(node.terminate().success());
}
