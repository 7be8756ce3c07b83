//! Every refusal of a request before its token is checked, with its status.
//!
//! `cargo test --test protocol head_refusals -- --nocapture` prints the table.

use exo_ingest::proto::handshake::{ANSWER_SIZE_MAX, Answer, Judgement, Situation, judge};
use exo_ingest::proto::http::{HeadBuffer, HeadProgress};

const UPGRADE: &str = "Host: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The status of the answer; `101` means that the token would be verified next. `None`: the head is
/// not complete.
fn status(request: &[u8], situation: Situation, origins: Option<&[String]>) -> Option<u16> {
    let mut buffer = HeadBuffer::default();
    let (taken, progress) = buffer.push(request);
    let answer = match progress {
        HeadProgress::Incomplete => return None,
        HeadProgress::Refused(refusal) => Answer::refused(refusal, false),
        HeadProgress::Complete => match buffer.head() {
            Err(refusal) => Answer::refused(refusal, false),
            Ok(head) => match judge(&head, situation, origins) {
                Judgement::Upgrade { .. } => return Some(101),
                Judgement::Answer(answer) => answer,
            },
        },
    };
    assert_eq!(buffer.push(&request[taken..]).0, 0, "nothing is read after a head");
    let mut out = [0; ANSWER_SIZE_MAX];
    let size = answer.write(&mut out);
    let line = std::str::from_utf8(&out[..size])
        .expect("an answer is ASCII")
        .lines()
        .next()
        .expect("a status line");
    assert_eq!(line.split(' ').nth(1), Some(&*answer.status().to_string()));
    Some(answer.status())
}

/// Prints and checks a table of whole requests.
fn check(rows: &[(&str, u16, String)]) {
    println!("{:52} status", "request");
    for (name, expected, request) in rows {
        // Latin-1, so that a row can hold any byte.
        let bytes: Vec<u8> =
            request.chars().map(|char| u8::try_from(char).expect("one byte a character")).collect();
        let status = status(&bytes, Situation::default(), None);
        println!("{name:52} {}", status.map_or("-".into(), |status| status.to_string()));
        assert_eq!(status, Some(*expected), "{name}");
    }
}

/// A health check with a Host and these `fields`.
fn health(fields: &str) -> String {
    format!("GET /health HTTP/1.1\r\nHost: node\r\n{fields}\r\n")
}

fn lines(line: &str, fields: &str) -> String {
    format!("{line}\r\n{fields}\r\n")
}

#[test]
fn routes_and_methods() {
    check(&[
        ("GET /health", 200, health("")),
        ("GET /health with a query", 200, lines("GET /health?deep HTTP/1.1", "Host: a\r\n")),
        ("Host empty, as monitors send it", 200, lines("GET /health HTTP/1.1", "Host:\r\n")),
        ("Host of white space", 200, lines("HEAD /health HTTP/1.1", "Host: \t\r\n")),
        ("HEAD /health", 200, lines("HEAD /health HTTP/1.1", "Host: a\r\n")),
        ("GET /health in HTTP/1.0 without Host", 200, lines("GET /health HTTP/1.0", "")),
        (
            "GET http://node:8443/health",
            200,
            lines("GET http://node:8443/health HTTP/1.1", "Host: node:8443\r\n"),
        ),
        ("POST /health", 405, lines("POST /health HTTP/1.1", "Host: a\r\nContent-Length: 0\r\n")),
        (
            "get /health (methods are case-sensitive)",
            405,
            lines("get /health HTTP/1.1", "Host: a\r\n"),
        ),
        ("POST /v1/ingest", 405, lines("POST /v1/ingest HTTP/1.1", "Host: a\r\n")),
        ("OPTIONS /v1/ingest", 405, lines("OPTIONS /v1/ingest HTTP/1.1", "Host: a\r\n")),
        ("GET /", 404, lines("GET / HTTP/1.1", "Host: a\r\n")),
        (
            "GET /metrics (on the private listener only)",
            404,
            lines("GET /metrics HTTP/1.1", "Host: a\r\n"),
        ),
        ("GET /v1/ingest/", 404, lines("GET /v1/ingest/ HTTP/1.1", UPGRADE)),
        ("GET /v1/%69ngest (not decoded)", 404, lines("GET /v1/%69ngest HTTP/1.1", UPGRADE)),
        (
            "GET /x/../v1/ingest (not normalised)",
            404,
            lines("GET /x/../v1/ingest HTTP/1.1", UPGRADE),
        ),
        ("OPTIONS *", 404, lines("OPTIONS * HTTP/1.1", "Host: a\r\n")),
        ("CONNECT node:443", 404, lines("CONNECT node:443 HTTP/1.1", "Host: node:443\r\n")),
    ]);
}

#[test]
fn smuggling_and_malformed_heads() {
    let field = |name: &str| format!("{}: {}\r\n", name, "a".repeat(8200));
    check(&[
        ("CL and TE", 400, health("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n")),
        ("CL 0 and TE", 400, health("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n")),
        ("TE chunked", 400, health("Transfer-Encoding: chunked\r\n")),
        ("TE identity", 400, health("Transfer-Encoding: identity\r\n")),
        ("TE, misspelt value", 400, health("Transfer-Encoding: xchunked\r\n")),
        ("TE with a tab", 400, health("Transfer-Encoding:\tchunked\r\n")),
        ("TE with a space before the colon", 400, health("Transfer-Encoding : chunked\r\n")),
        ("TE after a fold", 400, health("X: a\r\n Transfer-Encoding: chunked\r\n")),
        ("TE after a bare CR", 400, health("X: a\rTransfer-Encoding: chunked\r\n")),
        ("TE after a vertical tab", 400, health("Transfer-Encoding:\x0bchunked\r\n")),
        ("TE in HTTP/1.0", 400, lines("GET /health HTTP/1.0", "Transfer-Encoding: chunked\r\n")),
        ("CL 5 with a body", 400, health("Content-Length: 5\r\n") + "hello"),
        ("CL 5 with a pipelined request", 400, health("Content-Length: 5\r\n") + &health("")),
        ("CL twice, the same", 400, health("Content-Length: 0\r\nContent-Length: 0\r\n")),
        ("CL twice, different", 400, health("Content-Length: 0\r\nContent-Length: 5\r\n")),
        ("CL list", 400, health("Content-Length: 0, 0\r\n")),
        ("CL +0", 400, health("Content-Length: +0\r\n")),
        ("CL -1", 400, health("Content-Length: -1\r\n")),
        ("CL 0x0", 400, health("Content-Length: 0x0\r\n")),
        ("CL empty", 400, health("Content-Length:\r\n")),
        ("no Host", 400, lines("GET /health HTTP/1.1", "")),
        ("Host twice", 400, health("Host: other\r\n")),
        ("Host twice in HTTP/1.0", 400, lines("GET /health HTTP/1.0", "Host: a\r\nHost: b\r\n")),
        ("Host with a port alone", 400, lines("GET /health HTTP/1.1", "Host: :8443\r\n")),
        ("Host with a path", 400, lines("GET /health HTTP/1.1", "Host: a/b\r\n")),
        ("Host with a user", 400, lines("GET /health HTTP/1.1", "Host: a@b\r\n")),
        ("Host with a space before the colon", 400, lines("GET /health HTTP/1.1", "Host : a\r\n")),
        ("bare LF for all", 400, "GET /health HTTP/1.1\nHost: a\n\n".into()),
        ("bare LF after a field", 400, health("X: a\n")),
        ("bare LF for the empty line", 400, "GET /health HTTP/1.1\r\nHost: a\r\n\n".into()),
        ("bare CR", 400, health("X: a\rb\r\n")),
        ("CR CR LF", 400, health("X: a\r\r\n")),
        ("NUL in a value", 400, health("X: a\0b\r\n")),
        ("NUL in a name", 400, health("X\0: a\r\n")),
        ("NUL in the target", 400, lines("GET /health\0 HTTP/1.1", "Host: a\r\n")),
        ("DEL in a value", 400, health("X: a\x7f\r\n")),
        ("obs-fold with a space", 400, health("X: a\r\n b\r\n")),
        ("obs-fold with a tab", 400, health("X: a\r\n\tb\r\n")),
        (
            "white space before the first field",
            400,
            lines("GET /health HTTP/1.1", " X: a\r\nHost: a\r\n"),
        ),
        ("field without a colon", 400, health("X\r\n")),
        ("field without a name", 400, health(": a\r\n")),
        ("field name in Latin-1", 400, health("X\u{e9}: a\r\n")),
        ("white space before the method", 400, lines(" GET /health HTTP/1.1", "Host: a\r\n")),
        ("two spaces in the request line", 400, lines("GET  /health HTTP/1.1", "Host: a\r\n")),
        ("tab in the request line", 400, lines("GET\t/health HTTP/1.1", "Host: a\r\n")),
        (
            "space at the end of the request line",
            400,
            lines("GET /health HTTP/1.1 ", "Host: a\r\n"),
        ),
        ("method that is no token", 400, lines("G{T /health HTTP/1.1", "Host: a\r\n")),
        ("target with a space", 400, lines("GET /health /x HTTP/1.1", "Host: a\r\n")),
        ("target with a fragment", 400, lines("GET /health#a HTTP/1.1", "Host: a\r\n")),
        ("target in Latin-1", 400, lines("GET /health\u{e9} HTTP/1.1", "Host: a\r\n")),
        ("target without a slash", 400, lines("GET health HTTP/1.1", "Host: a\r\n")),
        ("target with a user", 400, lines("GET http://a@b/health HTTP/1.1", "Host: b\r\n")),
        ("target of another scheme", 400, lines("GET file:///health HTTP/1.1", "Host: b\r\n")),
        ("GET *", 400, lines("GET * HTTP/1.1", "Host: a\r\n")),
        ("HTTP/0.9", 400, "GET /health\r\n".into()),
        ("HTTP/1.2", 400, lines("GET /health HTTP/1.2", "Host: a\r\n")),
        ("http/1.1", 400, lines("GET /health http/1.1", "Host: a\r\n")),
        ("HTTP/2 preface", 400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("TLS hello to a plain port", 400, "\x16\x03\x01\x02\x00\x01".into()),
        ("SSH banner", 400, "SSH-2.0-OpenSSH_9.6\r\n".into()),
        ("five empty lines first", 400, "\r\n".repeat(5) + &health("")),
        (
            "two Authorization fields",
            400,
            health("Authorization: Bearer a\r\nAuthorization: Bearer a\r\n"),
        ),
        ("head over 8 KiB", 431, health(&field("X"))),
        (
            "target over 8 KiB",
            431,
            lines(&format!("GET /{} HTTP/1.1", "a".repeat(8200)), "Host: a\r\n"),
        ),
        ("8 KiB without a line", 431, "a".repeat(8200)),
        ("65 fields", 431, health(&"X: a\r\n".repeat(64))),
        ("64 fields", 200, health(&"X: a\r\n".repeat(63))),
        ("CL 0", 200, health("Content-Length: 0\r\n")),
        ("Expect: 100-continue", 200, health("Expect: 100-continue\r\n")),
        ("a value in Latin-1", 200, health("X: \u{e9}\r\n")),
        ("a second request after it (never read)", 200, health("") + &lines("BAD", "")),
    ]);
}

#[test]
fn upgrades() {
    let upgrade = |from: &str, to: &str| {
        assert!(UPGRADE.contains(from));
        lines(
            "GET /v1/ingest HTTP/1.1",
            &(UPGRADE.replace(from, to) + "Authorization: Bearer a.b.c\r\n"),
        )
    };
    let authorization =
        |field: &str| lines("GET /v1/ingest HTTP/1.1", &format!("{UPGRADE}{field}"));
    check(&[
        ("sound, token to be verified", 101, upgrade("", "")),
        (
            "deflate and a subprotocol offered",
            101,
            upgrade("Host", "Sec-WebSocket-Extensions: permessage-deflate\r\nHost"),
        ),
        ("GET /v1/ingest without an upgrade", 426, lines("GET /v1/ingest HTTP/1.1", "Host: a\r\n")),
        ("HEAD /v1/ingest", 426, lines("HEAD /v1/ingest HTTP/1.1", UPGRADE)),
        ("HTTP/1.0", 426, lines("GET /v1/ingest HTTP/1.0", UPGRADE)),
        ("Upgrade: h2c", 426, upgrade("Upgrade: websocket", "Upgrade: h2c")),
        ("version 8", 426, upgrade("Version: 13", "Version: 8")),
        ("no version", 400, upgrade("Sec-WebSocket-Version: 13\r\n", "")),
        ("version twice", 400, upgrade("Host", "Sec-WebSocket-Version: 13\r\nHost")),
        ("no key", 400, upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "")),
        ("key twice", 400, upgrade("Host", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost")),
        ("key of 15 bytes", 400, upgrade("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j")),
        ("key that is no base64", 400, upgrade("dGhl", "d%hl")),
        ("Connection: close", 400, upgrade("Connection: Upgrade", "Connection: close")),
        ("no token", 401, authorization("")),
        ("another scheme", 401, authorization("Authorization: Basic YTpi\r\n")),
        ("Bearer without a token", 401, authorization("Authorization: Bearer \r\n")),
        ("Bearer with two tokens", 401, authorization("Authorization: Bearer a b\r\n")),
        (
            "two Authorization fields",
            400,
            authorization("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
        ),
    ]);
}

#[test]
fn situations() {
    let none = Situation::default();
    let plaintext = Situation { plaintext_forbidden: true, ..none };
    let draining = Situation { draining: true, ..none };
    let full = Situation { at_capacity: true, ..none };
    let upgrade = lines(
        "GET /v1/ingest HTTP/1.1",
        &format!("{UPGRADE}Origin: https://a\r\nAuthorization: Bearer a\r\n"),
    );
    let health = health("Origin: https://a\r\n");
    println!("{:52} upgrade, health", "situation");
    for (name, situation, origins, expected) in [
        ("any", none, None, 101),
        ("plaintext to a TLS port", plaintext, None, 403),
        ("draining", draining, None, 503),
        ("at capacity", full, None, 503),
        ("another origin", none, Some(&["https://b".to_string()][..]), 403),
        ("an allowed origin", none, Some(&["https://a".to_string()]), 101),
    ] {
        let statuses =
            [&upgrade, &health].map(|request| status(request.as_bytes(), situation, origins));
        println!("{name:52} {statuses:?}");
        assert_eq!(statuses, [Some(expected), Some(200)], "{name}");
    }
}
