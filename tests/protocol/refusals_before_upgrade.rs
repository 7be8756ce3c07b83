//! Every answer to a request that does not become a call, seen from the socket.
//!
//! `cargo test --test protocol refusals_before_upgrade -- --nocapture` prints the tables.
//!
//! 403 for plaintext on a TLS port is not here: see `tests/protocol/head_refusals.rs`.

use exo_ingest::proto::handshake::Refusal;
use exo_ingest_harness::wire::{self, UPGRADE_FIELDS};
use exo_ingest_harness::{
    INTERACTION, Peer, Response, Setup, TENANT, TestNode, mint, now_secs, on_both_kernels, sign,
};
use std::time::Duration;

/// Sent after every request, in the same segment. It must never get an answer.
const SECOND_REQUEST: &str = "GET /health HTTP/1.1\r\nHost: node\r\n\r\n";

const HEALTH_BODY: &str = r#"{"status":"ok","service":"ingest"}"#;

/// A case, the request, and the status, body's `error` and field of the answer.
struct Row {
    case: &'static str,
    request: String,
    status: u16,
    error: &'static str,
    field: Option<(&'static str, &'static str)>,
}

fn row(case: &'static str, request: impl Into<String>, status: u16, error: &'static str) -> Row {
    Row { case, request: request.into(), status, error, field: None }
}

impl Row {
    fn with(self, name: &'static str, value: &'static str) -> Row {
        Row { field: Some((name, value)), ..self }
    }
}

fn request(line: &str, fields: &str) -> String {
    format!("{line}\r\n{fields}\r\n")
}

/// An upgrade request with a good token, in which `from` is replaced.
fn upgrade(from: &str, to: &str) -> String {
    let request = wire::upgrade_request(&mint(TENANT, INTERACTION));
    assert!(request.contains(from), "{from}");
    request.replacen(from, to, 1)
}

fn upgrade_with(token: &str) -> String {
    wire::upgrade_request(token)
}

/// Sends every request to the node, each on its own connection, and prints and checks the one
/// answer it gets.
fn check(node: &TestNode, rows: &[Row]) {
    for Row { case, request, status, error, field } in rows {
        let mut peer = node.connect();
        peer.send(format!("{request}{SECOND_REQUEST}").as_bytes());
        let has_body = !request.starts_with("HEAD ");
        let response = peer.try_response(has_body).unwrap_or_else(|| panic!("{case}: no answer"));
        println!("  {case:58} {} {error}", response.status);
        assert_eq!(response.status, *status, "{case}: {}{}", response.head, response.body);
        check_form(case, &response, has_body.then_some(*error));
        if let Some((name, value)) = field {
            assert_eq!(response.field(name), Some(*value), "{case}");
        }
        peer.expect_end();
    }
}

/// Checks what all answers have in common. `error` is that of the body, if there is one.
fn check_form(case: &str, response: &Response, error: Option<&str>) {
    let connection = response.field("Connection").unwrap_or_default().to_owned();
    let expected = if response.status == 426 { "upgrade, close" } else { "close" };
    assert_eq!(connection, expected, "{case}");
    assert_eq!(response.field("Content-Type"), Some("application/json"), "{case}");
    let retry_after =
        response.field("Retry-After").map(|seconds| seconds.parse::<u32>().expect("seconds"));
    assert_eq!(
        retry_after.is_some_and(|seconds| seconds > 0),
        matches!(response.status, 429 | 503),
        "{case}"
    );
    match error {
        Some("") => assert_eq!(response.body, HEALTH_BODY, "{case}"),
        Some(error) => {
            let opening = format!(r#"{{"error":"{error}","message":""#);
            assert!(
                response.body.starts_with(&opening) && response.body.ends_with("\"}"),
                "{case}: {}",
                response.body
            );
        }
        None => assert_eq!(response.body, "", "{case}"),
    }
}

#[test]
fn routes_and_heads() {
    let large = format!("X: {}\r\n", "a".repeat(8200));
    let many = "X: a\r\n".repeat(64);
    let ingest = "GET /v1/ingest HTTP/1.1";
    let health = "GET /health HTTP/1.1";
    let rows = [
        row("GET /health", request(health, "Host: node\r\n"), 200, ""),
        row("HEAD /health", request("HEAD /health HTTP/1.1", "Host: node\r\n"), 200, "")
            .with("Content-Length", "34"),
        row("GET /health, HTTP/1.0 without Host", request("GET /health HTTP/1.0", ""), 200, ""),
        row("HEAD /health, HTTP/1.0 without Host", request("HEAD /health HTTP/1.0", ""), 200, ""),
        row("another path", request("GET /elsewhere HTTP/1.1", UPGRADE_FIELDS), 404, "not_found"),
        row(
            "the private listener's path",
            request("GET /metrics HTTP/1.1", "Host: node\r\n"),
            404,
            "not_found",
        ),
        row(
            "another path, no token, another method",
            request("POST /x HTTP/1.1", "Host: node\r\n"),
            404,
            "not_found",
        ),
        row(
            "another method",
            request("POST /v1/ingest HTTP/1.1", UPGRADE_FIELDS),
            405,
            "method_not_allowed",
        )
        .with("Allow", "GET, HEAD"),
        row(
            "another method for /health",
            request("DELETE /health HTTP/1.1", "Host: node\r\n"),
            405,
            "method_not_allowed",
        )
        .with("Allow", "GET, HEAD"),
        row("no Host", request(health, ""), 400, "bad_request"),
        row("two Hosts", request(health, "Host: a\r\nHost: b\r\n"), 400, "bad_request"),
        row("bare LF", "GET /health HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        row("obs-fold", request(health, "Host: a\r\nX: a\r\n b\r\n"), 400, "bad_request"),
        row("NUL", request(health, "Host: a\r\nX: \0\r\n"), 400, "bad_request"),
        row("space before the colon", request(health, "Host : a\r\n"), 400, "bad_request"),
        row("TLS hello", "\x16\x03\x01\x02\x00\x01", 400, "bad_request"),
        row("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        row("malformed, another path", "GET /x HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        row(
            "head over 8 KiB",
            request(health, &format!("Host: a\r\n{large}")),
            431,
            "head_too_large",
        ),
        row(
            "head over 8 KiB, another path",
            request("GET /x HTTP/1.1", &large),
            431,
            "head_too_large",
        ),
        row("8 KiB without a line end", "a".repeat(8200), 431, "head_too_large"),
        row("65 fields", request(ingest, &format!("Host: a\r\n{many}")), 431, "head_too_large"),
    ];
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        check(&node, &rows);
        node.await_count(rows.iter().filter(|row| row.status != 200).count() as u64, |counters| {
            &counters.requests_refused
        });
        node.await_no_connections();
    });
}

/// RFC 9112 §11.2: a second request can be smuggled in a body, or where two rules disagree on its
/// end. The node reads none of these any further.
#[test]
fn bodies_and_smuggling() {
    let body = |fields: &str| request("GET /health HTTP/1.1", &format!("Host: node\r\n{fields}"));
    let mut rows = vec![
        row("Content-Length: 4", body("Content-Length: 4\r\n") + "abcd", 400, "bad_request"),
        row(
            "Content-Length with the second request in it",
            body("Content-Length: 38\r\n"),
            400,
            "bad_request",
        ),
        row(
            "Transfer-Encoding: chunked",
            body("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            400,
            "bad_request",
        ),
        row(
            "CL and TE",
            body("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            400,
            "bad_request",
        ),
        row(
            "TE and CL",
            body("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n",
            400,
            "bad_request",
        ),
        row("TE obscured", body("Transfer-Encoding: xchunked\r\n"), 400, "bad_request"),
        row(
            "TE twice",
            body("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
            400,
            "bad_request",
        ),
        row("two lengths", body("Content-Length: 0\r\nContent-Length: 4\r\n"), 400, "bad_request"),
        row("a list of lengths", body("Content-Length: 0, 4\r\n"), 400, "bad_request"),
        row("a signed length", body("Content-Length: +4\r\n"), 400, "bad_request"),
        row(
            "POST with a body, another path",
            request("POST /x HTTP/1.1", "Host: a\r\nContent-Length: 1\r\n") + "a",
            400,
            "bad_request",
        ),
    ];
    for (case, field) in [
        ("upgrade with a length", "Content-Length: 9\r\n"),
        ("upgrade with TE", "Transfer-Encoding: chunked\r\n"),
    ] {
        rows.push(row(
            case,
            upgrade("Host: node\r\n", &format!("Host: node\r\n{field}")),
            400,
            "bad_request",
        ));
    }
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        check(&node, &rows);
        assert_eq!(node.count(|counters| &counters.upgrades), 0);
    });
}

#[test]
fn upgrades_and_tokens() {
    const CHALLENGE: &str = r#"Bearer realm="ingest""#;
    const CHALLENGE_INVALID: &str = r#"Bearer realm="ingest", error="invalid_token""#;
    let now = now_secs();
    let header = r#"{"alg":"RS256","typ":"JWT"}"#;
    let claims = |iat: u64, exp: u64, more: &str| {
        format!(r#"{{"tenant_id":"acme","interaction_id":"call-1","iat":{iat},"exp":{exp}{more}}}"#)
    };
    let good = claims(now, now + 60, "");
    let authorization = format!("Authorization: Bearer {}\r\n", mint(TENANT, INTERACTION));
    let mut rows = vec![
        row(
            "no upgrade",
            request("GET /v1/ingest HTTP/1.1", "Host: node\r\n"),
            426,
            "upgrade_required",
        )
        .with("Upgrade", "websocket"),
        row(
            "HEAD /v1/ingest",
            request("HEAD /v1/ingest HTTP/1.1", UPGRADE_FIELDS),
            426,
            "upgrade_required",
        ),
        row("HTTP/1.0", upgrade("HTTP/1.1", "HTTP/1.0"), 426, "upgrade_required"),
        row("Upgrade: h2c", upgrade("websocket", "h2c"), 426, "upgrade_required"),
        row("version 8", upgrade("Version: 13", "Version: 8"), 426, "upgrade_required")
            .with("Sec-WebSocket-Version", "13"),
        row("no version", upgrade("Sec-WebSocket-Version: 13\r\n", ""), 400, "bad_upgrade"),
        row(
            "no key",
            upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            400,
            "bad_upgrade",
        ),
        row(
            "key of 15 bytes",
            upgrade("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"),
            400,
            "bad_upgrade",
        ),
        row(
            "Connection: close",
            upgrade("Connection: Upgrade", "Connection: close"),
            400,
            "bad_upgrade",
        ),
        row(
            "two Authorization fields",
            upgrade("Host", &format!("{authorization}Host")),
            400,
            "bad_request",
        ),
        row(
            "malformed upgrade without a token",
            request("GET /v1/ingest HTTP/1.1", "Host: a\r\nUpgrade: websocket\r\n"),
            400,
            "bad_upgrade",
        ),
        row("no token", request("GET /v1/ingest HTTP/1.1", UPGRADE_FIELDS), 401, "unauthorized")
            .with("WWW-Authenticate", CHALLENGE),
        row(
            "Basic",
            request(
                "GET /v1/ingest HTTP/1.1",
                &format!("{UPGRADE_FIELDS}Authorization: Basic YTpi\r\n"),
            ),
            401,
            "unauthorized",
        )
        .with("WWW-Authenticate", CHALLENGE),
        row(
            "token in the query string",
            upgrade("/v1/ingest", "/v1/ingest?token=x").replace(&authorization, ""),
            401,
            "unauthorized",
        )
        .with("WWW-Authenticate", CHALLENGE),
    ];
    let forged = mint(TENANT, INTERACTION);
    let forged = forged[..forged.len() - 8].to_owned() + "AAAAAAAA";
    for (case, token) in [
        ("not a token", "a.b.c".to_owned()),
        ("forged signature", forged),
        ("another node's keys", exo_ingest_harness::Keys::Second.mint(TENANT, INTERACTION)),
        ("alg none", sign(r#"{"alg":"none"}"#, &good)),
        ("alg HS256", sign(r#"{"alg":"HS256"}"#, &good)),
        ("alg PS256", sign(r#"{"alg":"PS256"}"#, &good)),
        ("alg RS384", sign(r#"{"alg":"RS384"}"#, &good)),
        ("unknown crit", sign(r#"{"alg":"RS256","crit":["x"],"x":1}"#, &good)),
        ("expired", sign(header, &claims(now - 60, now - 10, ""))),
        ("issued in the future", sign(header, &claims(now + 600, now + 900, ""))),
        (
            "not yet valid",
            sign(header, &claims(now, now + 900, &format!(r#","nbf":{}"#, now + 600))),
        ),
        (
            "no tenant_id",
            sign(
                header,
                &format!(r#"{{"interaction_id":"call-1","iat":{now},"exp":{}}}"#, now + 60),
            ),
        ),
        (
            "no interaction_id",
            sign(header, &format!(r#"{{"tenant_id":"acme","iat":{now},"exp":{}}}"#, now + 60)),
        ),
        (
            "no exp",
            sign(
                header,
                &format!(r#"{{"tenant_id":"acme","interaction_id":"call-1","iat":{now}}}"#),
            ),
        ),
        (
            "no iat",
            sign(
                header,
                &format!(r#"{{"tenant_id":"acme","interaction_id":"call-1","exp":{}}}"#, now + 60),
            ),
        ),
        (
            "over 4 KiB",
            sign(header, &claims(now, now + 60, &format!(r#","x":"{}""#, "a".repeat(4096)))),
        ),
    ] {
        rows.push(
            row(case, upgrade_with(&token), 401, "unauthorized")
                .with("WWW-Authenticate", CHALLENGE_INVALID),
        );
    }
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        check(&node, &rows);
        node.connect().upgrade(&sign(header, &good));
        // Made now: the rows before may take longer than the leeway.
        let now = now_secs();
        node.connect().upgrade(&sign(header, &claims(now - 60, now - 1, "")));
        assert_eq!(
            node.count(|counters| &counters.upgrades),
            2,
            "within the leeway of 5 s a token is still good"
        );
        let failures =
            node.count_ingest(|counters| &counters.refusals[Refusal::TokenInvalid.index()]);
        assert_eq!(failures, 16, "each is counted by its cause");
    });
}

#[test]
fn issuer_and_audience_where_they_are_demanded() {
    let now = now_secs();
    let token = |more: &str| {
        let claims = format!(
            r#"{{"tenant_id":"acme","interaction_id":"call-1","iat":{now},"exp":{}{more}}}"#,
            now + 60
        );
        upgrade_with(&sign(r#"{"alg":"RS256"}"#, &claims))
    };
    let rows = [
        row("no issuer", token(r#","aud":"ingest""#), 401, "unauthorized"),
        row("another issuer", token(r#","iss":"b","aud":"ingest""#), 401, "unauthorized"),
        row("another audience", token(r#","iss":"a","aud":["x"]"#), 401, "unauthorized"),
    ];
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.policy.issuer = Some("a".into());
            setup.policy.audience = Some("ingest".into());
        });
        check(&node, &rows);
        let mut peer = node.connect();
        peer.send(token(r#","iss":"a","aud":["x","ingest"]"#).as_bytes());
        peer.expect_switching();
    });
}

/// Each request fails the check that answers it, and all later ones. The order is that of the
/// protocol page.
#[test]
fn the_order_of_checks_at_capacity() {
    let origin = "Host: node\r\nOrigin: https://evil.example\r\n";
    let bare = |line: &str| request(line, origin);
    let rows = [
        row("malformed, …", "GET /x HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        row("another path, …", bare("POST /x HTTP/1.1"), 404, "not_found"),
        row("another method, …", bare("POST /v1/ingest HTTP/1.1"), 405, "method_not_allowed"),
        row("capacity, …", bare("GET /v1/ingest HTTP/1.1"), 503, "capacity"),
        row("capacity, good token", upgrade("", ""), 503, "capacity"),
        row("capacity, bad token", upgrade_with("a.b.c"), 503, "capacity"),
        row("health", request("GET /health HTTP/1.1", "Host: node\r\n"), 200, ""),
    ];
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.calls_max = 1;
            setup.limits.calls_per_tenant_max = Some(1);
            setup.ingest.allowed_origins = Some(vec!["https://good.example".into()]);
        });
        let call = node.call();
        check(&node, &rows);
        drop(call);
        node.await_no_connections();
        drop(node.call());
    });
}

#[test]
fn the_order_of_checks_below_capacity() {
    let evil = "Origin: https://evil.example\r\n";
    let with_origin =
        |origin: &str| upgrade("Host: node\r\n", &format!("Host: node\r\nOrigin: {origin}\r\n"));
    let rows = [
        row(
            "origin, …",
            request("GET /v1/ingest HTTP/1.1", &format!("Host: node\r\n{evil}")),
            403,
            "origin_forbidden",
        ),
        row("origin, good token", with_origin("https://evil.example"), 403, "origin_forbidden"),
        row("origin null", with_origin("null"), 403, "origin_forbidden"),
        row(
            "no upgrade, …",
            request("GET /v1/ingest HTTP/1.1", "Host: node\r\n"),
            426,
            "upgrade_required",
        ),
        row(
            "malformed upgrade, …",
            request("GET /v1/ingest HTTP/1.1", "Host: a\r\nUpgrade: websocket\r\n"),
            400,
            "bad_upgrade",
        ),
        row(
            "no token, quota",
            request("GET /v1/ingest HTTP/1.1", UPGRADE_FIELDS),
            401,
            "unauthorized",
        ),
        row("bad token, quota", upgrade_with("a.b.c"), 401, "unauthorized"),
        row("quota", upgrade("", ""), 429, "quota"),
        row("quota, allowed origin", with_origin("https://good.example"), 429, "quota"),
    ];
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.calls_per_tenant_max = Some(1);
            setup.ingest.allowed_origins = Some(vec!["https://good.example".into()]);
        });
        let call = node.call();
        check(&node, &rows);
        drop(node.call_as("another", INTERACTION));
        drop(call);
        node.await_no_connections();
        drop(node.call());
    });
}

#[test]
fn origin_is_ignored_unless_origins_are_set() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.connect();
        peer.send(
            upgrade("Host: node\r\n", "Host: node\r\nOrigin: https://evil.example\r\n").as_bytes(),
        );
        peer.expect_switching();
    });
}

#[test]
fn heads_that_do_not_come_in_time() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup: &mut Setup| {
            setup.limits.head_timeout = Duration::from_millis(300)
        });
        for (case, bytes) in [
            ("nothing at all", String::new()),
            ("half a request line", "GET /he".into()),
            ("no empty line", "GET /health HTTP/1.1\r\nHost: node\r\n".into()),
            ("an upgrade without its last byte", upgrade("\r\n\r\n", "\r\n\r")),
        ] {
            let mut peer = node.connect();
            peer.send(bytes.as_bytes());
            let response = peer.response();
            println!("  {case:58} {}", response.status);
            assert_eq!(response.status, 408, "{case}");
            check_form(case, &response, Some("head_timeout"));
            peer.expect_end();
        }
        node.await_no_connections();
    });
}

#[test]
fn heads_that_a_drain_meets() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        // A live call keeps the node from ending before the others have read their answer.
        let mut call = node.call();
        let no_token = request("GET /v1/ingest HTTP/1.1", UPGRADE_FIELDS);
        let mut peers: Vec<(&str, Peer)> = [
            ("draining, half an upgrade with a good token", upgrade("\r\n\r\n", "\r\n\r")),
            (
                "draining, half an upgrade without a token",
                no_token[..no_token.len() - 1].to_owned(),
            ),
            ("draining, nothing sent", String::new()),
        ]
        .into_iter()
        .map(|(case, bytes)| {
            let mut peer = node.connect();
            peer.send(bytes.as_bytes());
            (case, peer)
        })
        .collect();
        node.await_count(4, |counters| &counters.connections_accepted);
        node.node().drain(Duration::ZERO);
        for (case, peer) in &mut peers {
            let response = peer.response();
            println!("  {case:58} {}", response.status);
            assert_eq!(response.status, 503, "{case}");
            check_form(case, &response, Some("draining"));
            peer.expect_end();
        }
        call.expect_refusal(1001, "draining", true);
        node.finish(Duration::ZERO).expect("a clean end");
    });
}

/// A frame may follow the request in the same segment. It counts if the token is good; otherwise it
/// is dropped with the connection.
#[test]
fn what_follows_an_upgrade_in_the_same_segment() {
    let start = wire::text(&wire::start_text(TENANT, INTERACTION));
    let audio = wire::binary(&[0; 320]).repeat(10);
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.connect();
        peer.send(&[upgrade("", "").as_bytes(), &start, &audio].concat());
        peer.expect_switching();
        peer.expect_started(INTERACTION);
        peer.expect_ack(10);
        let mut peer = node.connect();
        peer.send(&[upgrade_with("a.b.c").as_bytes(), &start, &audio].concat());
        let response = peer.response();
        println!("  {:58} {}", "start and audio after a bad token", response.status);
        assert_eq!(response.status, 401);
        peer.expect_end();
        assert_eq!(node.count(|counters| &counters.frames), 10);
        assert_eq!(node.count(|counters| &counters.calls_started), 1);
    });
}
