//! A request head gives the same result wherever its input is cut. It says the same as to httparse
//! and to tungstenite's server.

use exo_ingest::constants::{HEAD_FIELDS_MAX, HEAD_SIZE_MAX};
use exo_ingest::proto::handshake::{Judgement, Refusal, Situation, judge, judge_upgrade};
use exo_ingest::proto::http::{HeadBuffer, HeadProgress, Single};
use proptest::prelude::*;
use proptest::sample::Index;
use tungstenite::client::IntoClientRequest;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server;

/// Bytes after a head: the first frame of a client that does not wait.
const BEHIND: &[u8] = b"\x81\x85\x01\x02\x03\x04frame";

/// Heads as real clients and balancers send them, written by hand, with invented tokens.
const GOOD: [(&str, &str); 9] = [
    (
        "Node.js ws",
        "GET /v1/ingest HTTP/1.1\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: sHcVvhVYR+VrEgSb/cNv0w==\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJ4IjoxfQ.c2ln\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         Host: localhost:8443\r\n\r\n",
    ),
    (
        "Python websockets",
        "GET /v1/ingest HTTP/1.1\r\nHost: localhost:8443\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Key: 1XyFbnGLx3lVKaVQcZUzpw==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJ4IjoxfQ.c2ln\r\n\
         User-Agent: Python/3.12 websockets/13.1\r\n\r\n",
    ),
    (
        "Firefox",
        "GET /v1/ingest HTTP/1.1\r\nHost: node.example:8443\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0)\r\n\
         Accept: */*\r\nAccept-Language: de,en-US;q=0.7,en;q=0.3\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Sec-WebSocket-Version: 13\r\nOrigin: https://node.example\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\
         Sec-WebSocket-Key: KEQjTDrlZ4b8WnTbzoWYlQ==\r\nDNT: 1\r\n\
         Connection: keep-alive, Upgrade\r\n\
         Cookie: a=b; c=\"d\"\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\n\
         Sec-Fetch-Site: same-origin\r\nPragma: no-cache\r\n\
         Cache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n",
    ),
    (
        "curl upgrade",
        "GET /v1/ingest?trace=1 HTTP/1.1\r\nHost: localhost:8443\r\nUser-Agent: curl/8.9.1\r\n\
         Accept: */*\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Connection: Upgrade\r\nAuthorization: Bearer a.b.c\r\n\r\n",
    ),
    (
        "Go behind a proxy",
        "GET /v1/ingest HTTP/1.1\r\nhost: node\r\nuser-agent: Go-http-client/1.1\r\n\
         connection: upgrade\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\
         upgrade: WebSocket\r\n\
         x-forwarded-for: 10.0.0.1, 10.0.0.2\r\nx-forwarded-proto: https\r\nx-name: Zo\u{eb}\r\n\
         content-length: 0\r\n\
         authorization: bearer a.b.c\r\n\r\n",
    ),
    (
        "curl health",
        "GET /health HTTP/1.1\r\nHost: localhost:8443\r\nUser-Agent: curl/8.9.1\r\n\
         Accept: */*\r\n\r\n",
    ),
    ("HAProxy health", "HEAD /health HTTP/1.0\r\n\r\n"),
    ("empty lines first", "\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "to a proxy",
        "GET http://node:8443/health HTTP/1.1\r\nHost: node:8443\r\nProxy-Connection: close\r\n\
         \r\n",
    ),
];

/// Bad heads; `head_refusals` says why.
const BAD: [&str; 12] = [
    "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /health HTTP/1.1\nHost: a\n\n",
    "GET /health HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: a\0\r\n\r\n",
    "POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
    "POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /health HTTP/1.1\r\n\r\n",
    "\r\n\r\n\r\n\r\n\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// The result of a head.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Incomplete,
    /// Refused at this byte as it came in; or complete, and then refused by the parser.
    Refused(usize, Refusal),
    /// Complete at this byte, with the decision as text.
    Judged(usize, String),
}

/// Pushes `bytes` in reads that end at `cuts` (ascending).
fn read(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Outcome {
    let mut buffer = HeadBuffer::default();
    let mut start = 0;
    for end in cuts.into_iter().chain([bytes.len()]) {
        let (taken, progress) = buffer.push(&bytes[start..end]);
        match progress {
            HeadProgress::Incomplete => {
                assert_eq!(taken, end - start, "an incomplete head takes all")
            }
            HeadProgress::Refused(refusal) => return Outcome::Refused(start + taken, refusal),
            HeadProgress::Complete => {
                return match buffer.head() {
                    Err(refusal) => Outcome::Refused(start + taken, refusal),
                    Ok(head) => {
                        let judgement = match judge(&head, Situation::default(), None) {
                            Judgement::Answer(answer) => format!("{answer:?}"),
                            Judgement::Upgrade { token, accept } => format!("{token} {accept:?}"),
                        };
                        Outcome::Judged(start + taken, format!("{head:?} {judgement}"))
                    }
                };
            }
        }
        start = end;
    }
    Outcome::Incomplete
}

/// Reads with one cut at each place, and byte by byte; returns the result, which must be the same.
fn read_every_way(bytes: &[u8]) -> Outcome {
    let whole = read(bytes, []);
    for cut in 0..=bytes.len() {
        assert_eq!(read(bytes, [cut]), whole, "cut at {cut}: {}", bytes.escape_ascii());
    }
    assert_eq!(read(bytes, 1..bytes.len()), whole, "byte by byte: {}", bytes.escape_ascii());
    whole
}

/// The accept key of our answer, if the upgrade is good.
fn our_accept(bytes: &[u8]) -> Option<(usize, String)> {
    let mut buffer = HeadBuffer::default();
    let (taken, HeadProgress::Complete) = buffer.push(bytes) else { return None };
    let accept = judge_upgrade(&buffer.head().ok()?).ok()?;
    Some((taken, String::from_utf8_lossy(accept.as_bytes()).into_owned()))
}

/// The accept key of tungstenite's answer, or its error.
fn their_accept(bytes: &[u8]) -> Result<Option<(usize, String)>, Error> {
    let Some((taken, request)) = server::Request::try_parse(bytes)? else { return Ok(None) };
    let response = server::create_response(&request)?;
    let accept = response.headers()["Sec-WebSocket-Accept"].to_str().expect("base64");
    Ok(Some((taken, accept.to_string())))
}

/// Reads a head that our parser accepts with httparse too, and compares. Returns whether it is one.
fn is_read_as_by_httparse(bytes: &[u8]) -> bool {
    let mut buffer = HeadBuffer::default();
    let (taken, HeadProgress::Complete) = buffer.push(bytes) else { return false };
    let Ok(head) = buffer.head() else { return false };
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    let mut theirs = httparse::Request::new(&mut fields);
    assert_eq!(theirs.parse(bytes), Ok(httparse::Status::Complete(taken)));
    let values = |name: &str| {
        let named = theirs.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect::<Vec<_>>()
    };
    let single = |name| match values(name)[..] {
        [] => Single::Absent,
        [value] => Single::Once(value),
        _ => Single::Repeated,
    };
    assert_eq!(
        (Some(head.method), Some(u8::from(!head.is_http_1_0))),
        (theirs.method, theirs.version)
    );
    let target = theirs.path.expect("a target");
    assert!(target.contains(head.path) || head.path == "/", "{target}");
    for (ours, name) in [
        (head.websocket_version, "sec-websocket-version"),
        (head.websocket_key, "sec-websocket-key"),
        (head.origin, "origin"),
        (head.traceparent, "traceparent"),
        (head.authorization.map_or(Single::Absent, Single::Once), "authorization"),
    ] {
        assert_eq!(ours, single(name), "{name}");
    }
    let names = |name, token: &str| {
        let lists = values(name).into_iter().map(String::from_utf8_lossy);
        lists
            .flat_map(|list| list.split(',').map(|it| it.trim().to_lowercase()).collect::<Vec<_>>())
            .any(|it| it == token)
    };
    assert_eq!(head.upgrade_websocket, names("upgrade", "websocket"));
    assert_eq!(head.connection_upgrade, names("connection", "upgrade"));
    true
}

/// An upgrade request as tungstenite's client writes it.
fn tungstenite_request() -> Vec<u8> {
    let mut request = "ws://localhost:8443/v1/ingest".into_client_request().expect("a good URL");
    request.headers_mut().insert("Authorization", "Bearer a.b.c".parse().expect("a good value"));
    tungstenite::handshake::client::generate_request(request).expect("a whole request").0
}

#[test]
fn good_heads_at_every_split_point() {
    let ours = ("tungstenite", tungstenite_request());
    for (name, head) in
        GOOD.iter().map(|(name, head)| (*name, head.as_bytes().to_vec())).chain([ours])
    {
        let outcome = read_every_way(&[&head, BEHIND].concat());
        assert!(
            matches!(&outcome, Outcome::Judged(taken, _) if *taken == head.len()),
            "{name}: {outcome:?}"
        );
        for size in 0..head.len() {
            assert_eq!(read(&head[..size], []), Outcome::Incomplete, "{name} up to {size}");
        }
    }
}

#[test]
fn good_upgrades_are_accepted_as_tungstenite_accepts_them() {
    let upgrades =
        GOOD[..5].iter().map(|(_, head)| head.as_bytes().to_vec()).chain([tungstenite_request()]);
    for head in upgrades {
        let ours = our_accept(&[&head, BEHIND].concat());
        assert!(ours.is_some(), "{}", head.escape_ascii());
        assert_eq!(ours, their_accept(&[&head, BEHIND].concat()).unwrap());
    }
}

#[test]
fn good_heads_are_read_as_by_httparse() {
    for (name, head) in GOOD {
        assert!(is_read_as_by_httparse(&[head.as_bytes(), BEHIND].concat()), "{name}");
    }
}

#[test]
fn bad_heads_at_every_split_point() {
    for head in BAD {
        let head: Vec<u8> = head.chars().map(|char| char as u8).collect();
        let outcome = read_every_way(&head);
        assert!(
            matches!(outcome, Outcome::Refused(_, Refusal::BadRequest)),
            "{}: {outcome:?}",
            head.escape_ascii()
        );
    }
}

#[test]
fn a_head_at_its_limits_at_split_points_around_them() {
    let endless = vec![b'a'; HEAD_SIZE_MAX + 10];
    let many = [b"GET / HTTP/1.0\r\n", &b"A: b\r\n".repeat(70)[..]].concat();
    for (bytes, taken) in [(endless, HEAD_SIZE_MAX), (many, 16 + 65 * 6)] {
        let expected = Outcome::Refused(taken, Refusal::HeadTooLarge);
        for cut in [1, taken - 2, taken - 1, taken, taken + 1] {
            assert_eq!(read(&bytes, [cut]), expected);
        }
        assert_eq!(read(&bytes, 1..bytes.len()), expected);
    }
}

/// Bytes with a meaning in a head.
fn spoiler() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n ".to_vec()),
        Just(b"\0".to_vec()),
        Just(b":".to_vec()),
        Just(b" ".to_vec()),
        Just(b"\t".to_vec()),
        Just(b",".to_vec()),
        Just(b"\r\nHost: b".to_vec()),
        Just(b"\r\nContent-Length: 1".to_vec()),
        Just(b"\r\nConnection: close".to_vec()),
        proptest::collection::vec(any::<u8>(), 1..3),
    ]
}

fn damaged_head() -> impl Strategy<Value = Vec<u8>> {
    let damage = proptest::collection::vec((any::<Index>(), spoiler(), any::<bool>()), 1..3);
    (0..GOOD.len(), damage).prop_map(|(which, damages)| {
        let mut bytes = GOOD[which].1.as_bytes().to_vec();
        for (at, spoiler, replace) in damages {
            let at = at.index(bytes.len());
            let end = if replace { (at + spoiler.len()).min(bytes.len()) } else { at };
            bytes.splice(at..end, spoiler);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_heads_at_every_split_point(bytes in damaged_head()) {
        read_every_way(&bytes);
    }

    #[test]
    fn garbage_at_every_split_point(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        read_every_way(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn damaged_heads_are_read_as_by_httparse(bytes in damaged_head()) {
        is_read_as_by_httparse(&bytes);
    }

    /// Our parser may be stricter than tungstenite. Where tungstenite is stricter, the reason is
    /// listed.
    #[test]
    fn damaged_upgrades_that_we_accept_tungstenite_accepts(bytes in damaged_head()) {
        if let Some(ours) = our_accept(&bytes) {
            match their_accept(&bytes) {
                Ok(theirs) => prop_assert_eq!(theirs, Some(ours)),
                Err(Error::Protocol(
                    // tungstenite requires zeros in the key's spare bits, one value in Upgrade, and
                    // Upgrade in the first Connection.
                    ProtocolError::InvalidSecWebSocketKey
                    | ProtocolError::MissingUpgradeWebSocketHeader
                    | ProtocolError::MissingConnectionUpgradeHeader,
                )) => {}
                // And a URI with fewer characters allowed.
                Err(Error::HttpFormat(_)) => {}
                Err(error) => prop_assert!(false, "{}: {}", error, bytes.escape_ascii()),
            }
        }
    }
}
