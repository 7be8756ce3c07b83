use super::*;

/// Result of pushing `input` at once, and how many of its bytes were taken.
fn push(input: &[u8]) -> (usize, HeadProgress) {
    HeadBuffer::default().push(input)
}

fn refused(refusal: Refusal) -> HeadProgress {
    HeadProgress::Refused(refusal)
}

/// Method and path of a whole head, or the refusal.
fn parse(input: &[u8]) -> Result<(String, String), Refusal> {
    let mut buffer = HeadBuffer::default();
    match buffer.push(input).1 {
        HeadProgress::Refused(refusal) => Err(refusal),
        HeadProgress::Incomplete => panic!("incomplete: {}", input.escape_ascii()),
        HeadProgress::Complete => buffer.head().map(|head| (head.method.into(), head.path.into())),
    }
}

fn parse_target(method: &str, target: &str) -> Result<String, Refusal> {
    parse(format!("{method} {target} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes())
        .map(|(_, path)| path)
}

#[test]
fn a_head_ends_at_its_empty_line() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let pipelined = [&head[..], b"\x82\x80GET"].concat();
    let mut buffer = HeadBuffer::default();
    assert_eq!(buffer.push(&pipelined), (head.len(), HeadProgress::Complete));
    assert_eq!(buffer.push(b"more"), (0, HeadProgress::Complete));
    assert_eq!(buffer.head().unwrap().path, "/");
}

#[test]
fn a_head_is_refused_at_its_first_wrong_byte() {
    let bad = refused(Refusal::BadRequest);
    for (input, taken) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], 1), // TLS
        (b"\x80abc", 1),
        (b"\0", 1),
        (b" GET / HTTP/1.1\r\n", 1),
        (b"\n", 1),
        (b"GET / HTTP/1.1\nHost: a\n\n", 15),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 16),
        (b"GET / HTTP/1.1\r\r\n", 16),
        (b"GET /\0 HTTP/1.1\r\n", 6),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 26),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 29),
        (b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", 26),
        (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", 24),
        (b"GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", 24),
        (b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n", 10),
    ] {
        let (got_taken, progress) = push(input);
        assert_eq!((got_taken, &progress), (taken, &bad), "{}", input.escape_ascii());
        let mut buffer = HeadBuffer::default();
        assert_eq!(
            buffer.push(&input[..taken - 1]).1,
            HeadProgress::Incomplete,
            "{}",
            input.escape_ascii()
        );
        assert_eq!(
            buffer.push(&input[taken - 1..]),
            (1, HeadProgress::Refused(Refusal::BadRequest))
        );
        assert_eq!(buffer.head().unwrap_err(), Refusal::BadRequest);
    }
}

#[test]
fn request_lines_are_strict() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /",
        "GET",
        "GET\t/\tHTTP/1.1",
        "GE(T / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET \"/\" HTTP/1.1",
    ] {
        let head = format!("{line}\r\nHost: node\r\n\r\n");
        assert_eq!(push(head.as_bytes()), (line.len() + 2, refused(Refusal::BadRequest)), "{line}");
    }
}

#[test]
fn targets_name_a_path() {
    assert_eq!(parse_target("GET", "/v1/ingest?token=a?b/c").unwrap(), "/v1/ingest");
    assert_eq!(parse_target("GET", "/%761/ingest").unwrap(), "/%761/ingest", "not decoded");
    assert_eq!(parse_target("GET", "//v1/ingest").unwrap(), "//v1/ingest", "not normalised");
    assert_eq!(parse_target("GET", "http://node:8443/v1/ingest?a").unwrap(), "/v1/ingest");
    assert_eq!(parse_target("GET", "HTTPS://[::1]:8443/health").unwrap(), "/health");
    assert_eq!(parse_target("GET", "http://node?health").unwrap(), "/");
    assert_eq!(parse_target("OPTIONS", "*").unwrap(), "*");
    assert_eq!(parse_target("CONNECT", "node:443").unwrap(), "node:443");
    for (method, target) in [
        ("GET", "*"),
        ("GET", "node:443"),
        ("GET", "health"),
        ("GET", "ftp://node/health"),
        ("GET", "http:///health"),
        ("GET", "http://user@node/health"),
        ("CONNECT", "/v1/ingest"),
        ("CONNECT", "http://node/"),
    ] {
        assert_eq!(parse_target(method, target), Err(Refusal::BadRequest), "{method} {target}");
    }
}

#[test]
fn hosts_are_checked() {
    for host in [
        "node",
        "node:8443",
        "node:",
        "10.0.0.1:80",
        "[::1]",
        "[::ffff:10.0.0.1]:443",
        "my_node.example",
        "a%20b",
    ] {
        assert!(is_host(host.as_bytes()), "{host}");
    }
    for host in [
        "",
        ":80",
        "a b",
        "a/b",
        "user@node",
        "node:80:90",
        "node:x",
        "node:123456",
        "[",
        "[]",
        "[::1",
        "[::1]x",
        "[v1]",
        "\u{e9}",
    ] {
        assert!(!is_host(host.as_bytes()), "{host}");
    }
}

#[test]
fn a_head_has_a_size_limit() {
    let head = |size: usize| {
        let frame = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(size - frame)).into_bytes()
    };
    assert_eq!(push(&head(HEAD_SIZE_MAX)), (HEAD_SIZE_MAX, HeadProgress::Complete));
    assert_eq!(push(&head(HEAD_SIZE_MAX + 1)), (HEAD_SIZE_MAX, refused(Refusal::HeadTooLarge)));
    assert_eq!(
        push(&vec![b'a'; 2 * HEAD_SIZE_MAX]),
        (HEAD_SIZE_MAX, refused(Refusal::HeadTooLarge))
    );
    // A bad line before the limit is found first.
    let bad_early = [&b"GET / HTTP/1.0\r\n:\r\n"[..], &head(HEAD_SIZE_MAX + 1)].concat();
    assert_eq!(push(&bad_early).1, refused(Refusal::BadRequest));
}

#[test]
fn a_head_has_a_limit_on_fields() {
    let head = |fields: usize| {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(fields - 1)).into_bytes()
    };
    assert!(parse(&head(HEAD_FIELDS_MAX)).is_ok());
    assert_eq!(parse(&head(HEAD_FIELDS_MAX + 1)), Err(Refusal::HeadTooLarge));
    assert_eq!(parse(&head(300)), Err(Refusal::HeadTooLarge), "the count does not wrap");
}

#[test]
fn an_incomplete_head_is_small() {
    let mut buffer = HeadBuffer::default();
    assert_eq!(buffer.bytes.capacity(), 0);
    for size in [1, 600, 1448, 1448, 1448, 1448] {
        buffer.push(&vec![b'a'; size]);
        assert!(
            buffer.bytes.capacity() <= HEAD_SIZE_MAX
                && buffer.bytes.capacity() <= 2 * buffer.bytes.len().max(256)
        );
    }
    assert!(size_of::<HeadBuffer>() <= 64);
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    assert_eq!(
        parse(b"\r\n\r\nGET /health HTTP/1.0\r\n\r\n").unwrap(),
        ("GET".into(), "/health".into())
    );
}

#[test]
fn fields_are_read_in_any_case_and_spread() {
    let mut buffer = HeadBuffer::default();
    let (_, progress) = buffer.push(
        b"GET / HTTP/1.1\r\nhOST: a\r\nUPGRADE: h2c, WebSocket\r\nConnection: keep-alive\r\n\
          connection:,UpGrade\t\r\nSec-WebSocket-Version:13\r\nX-Name: Zo\xeb\r\n\
          Origin: a\r\nOrigin: b\r\nExpect: 100-continue\r\n\
          Content-Length: 0\r\nAuthorization:   Bearer x  \r\n\r\n",
    );
    assert_eq!(progress, HeadProgress::Complete);
    let head = buffer.head().unwrap();
    assert!(head.upgrade_websocket && head.connection_upgrade && !head.is_http_1_0);
    assert_eq!(head.websocket_version, Single::Once(b"13"));
    assert_eq!(head.websocket_key, Single::Absent);
    assert_eq!(head.origin, Single::Repeated);
    assert_eq!(head.authorization, Some(&b"Bearer x"[..]));
}

#[test]
fn an_incomplete_head_is_not_parsed() {
    let mut buffer = HeadBuffer::default();
    assert!(buffer.is_empty());
    buffer.push(b"GET / HTTP/1.0\r\n");
    assert!(!buffer.is_empty());
    assert_eq!(buffer.head().unwrap_err(), Refusal::BadRequest);
}
