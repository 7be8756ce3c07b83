use super::*;
use crate::proto::http::{HeadBuffer, HeadProgress};

const UPGRADE: &str = "Host: node\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ANY: Situation = Situation {
    plaintext_forbidden: false,
    draining: false,
    at_capacity: false,
    is_over_rate: false,
};
const WORST: Situation =
    Situation { plaintext_forbidden: true, draining: true, at_capacity: true, is_over_rate: true };

fn with_head<T>(line: &str, fields: &str, then: impl FnOnce(&Head<'_>) -> T) -> T {
    let mut buffer = HeadBuffer::default();
    assert_eq!(
        buffer.push(format!("{line} HTTP/1.1\r\n{fields}\r\n").as_bytes()).1,
        HeadProgress::Complete
    );
    then(&buffer.head().expect("a valid head"))
}

/// The answer to a request; `None` if its token has to be verified.
fn answer(
    line: &str,
    fields: &str,
    situation: Situation,
    origins: Option<&[String]>,
) -> Option<Answer> {
    with_head(line, fields, |head| match judge(head, situation, origins) {
        Judgement::Answer(answer) => Some(answer),
        Judgement::Upgrade { .. } => None,
    })
}

fn written(answer: Answer) -> String {
    let mut out = [0; ANSWER_SIZE_MAX];
    let size = answer.write(&mut out);
    String::from_utf8(out[..size].to_vec()).unwrap()
}

#[test]
fn health_is_answered_whatever_the_situation() {
    for situation in [ANY, WORST] {
        assert_eq!(
            answer("GET /health", "Host: a\r\n", situation, Some(&[])),
            Some(Answer::Health)
        );
        assert_eq!(
            answer("GET /health?x", "Host: a\r\nOrigin: b\r\n", situation, Some(&[])),
            Some(Answer::Health)
        );
        assert_eq!(
            answer("HEAD /health", "Host: a\r\n", situation, None),
            Some(Answer::HealthHead)
        );
        let refused = Answer::refused(Refusal::MethodNotAllowed, false);
        assert_eq!(answer("POST /health", "Host: a\r\n", situation, None), Some(refused));
    }
}

#[test]
fn checks_run_in_the_documented_order() {
    // Each row has every fault of the rows below it, so only the order decides.
    let origins = ["https://good.example".to_string()];
    let mut situation = WORST;
    let mut fields = String::from("Host: node\r\nOrigin: https://evil.example\r\n");
    let check = |line: &str, fields: &str, situation: Situation, refusal: Refusal| {
        let expected = Answer::refused(refusal, false);
        assert_eq!(answer(line, fields, situation, Some(&origins)), Some(expected));
    };
    check("POST /elsewhere", &fields, situation, Refusal::NotFound);
    check("POST /v1/ingest", &fields, situation, Refusal::MethodNotAllowed);
    check("GET /v1/ingest", &fields, situation, Refusal::PlaintextForbidden);
    situation.plaintext_forbidden = false;
    check("GET /v1/ingest", &fields, situation, Refusal::Draining);
    situation.draining = false;
    check("GET /v1/ingest", &fields, situation, Refusal::Capacity);
    situation.at_capacity = false;
    check("GET /v1/ingest", &fields, situation, Refusal::AddressRate);
    situation.is_over_rate = false;
    check("GET /v1/ingest", &fields, situation, Refusal::OriginForbidden);
    fields = fields.replace("evil", "good");
    check("GET /v1/ingest", &fields, situation, Refusal::UpgradeRequired);
    fields.push_str("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    check("GET /v1/ingest", &fields, situation, Refusal::BadUpgrade);
    fields.push_str("Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    check("GET /v1/ingest", &fields, situation, Refusal::TokenMissing);
    fields.push_str("Authorization: Bearer a.b.c\r\n");
    assert_eq!(answer("GET /v1/ingest", &fields, situation, Some(&origins)), None);
}

#[test]
fn an_upgrade_yields_its_token_and_accept_key() {
    let fields = format!("{UPGRADE}Authorization: bEARER   eyJ.e-_.~+/A==\r\n");
    with_head("GET /v1/ingest", &fields, |head| match judge(head, ANY, None) {
        Judgement::Upgrade { token, accept } => {
            assert_eq!(token, "eyJ.e-_.~+/A==");
            // The example of RFC 6455 §1.3.
            assert_eq!(accept.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            let mut out = [0; 256];
            let size = write_switching_protocols(&accept, &mut out);
            let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\n\
                            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            assert_eq!(&out[..size], expected.as_bytes());
        }
        Judgement::Answer(answer) => panic!("{answer:?}"),
    });
}

#[test]
fn authorization_is_one_bearer_token() {
    for (authorization, refusal) in [
        ("", Refusal::TokenMissing),
        ("Authorization:\r\n", Refusal::TokenMissing),
        ("Authorization: Basic YTpi\r\n", Refusal::TokenMissing),
        ("Authorization: Bearer\r\n", Refusal::TokenMissing),
        ("Authorization: Bearer  \r\n", Refusal::TokenMissing),
        ("Authorization: Bearera.b.c\r\n", Refusal::TokenMissing),
        ("Authorization: Bearer a.b.c d\r\n", Refusal::TokenInvalid),
        ("Authorization: Bearer a.b.c, Bearer d\r\n", Refusal::TokenInvalid),
        ("Authorization: Bearer \"a.b.c\"\r\n", Refusal::TokenInvalid),
        ("Authorization: Bearer ==\r\n", Refusal::TokenInvalid),
        ("Authorization: Bearer a=b\r\n", Refusal::TokenInvalid),
        ("Authorization: Bearer \u{e9}\r\n", Refusal::TokenInvalid),
    ] {
        let expected = Answer::refused(refusal, false);
        assert_eq!(
            answer("GET /v1/ingest", &format!("{UPGRADE}{authorization}"), ANY, None),
            Some(expected),
            "{authorization}"
        );
    }
}

#[test]
fn no_upgrade_gets_426_and_a_malformed_one_gets_400() {
    for (from, to, refusal) in [
        ("Upgrade: websocket\r\n", "", Refusal::UpgradeRequired),
        ("Upgrade: websocket", "Upgrade: h2c", Refusal::UpgradeRequired),
        ("Version: 13", "Version: 8", Refusal::UpgradeRequired),
        ("Version: 13", "Version: 13, 8", Refusal::UpgradeRequired),
        ("Sec-WebSocket-Version: 13\r\n", "", Refusal::BadUpgrade),
        (
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
            Refusal::BadUpgrade,
        ),
        ("keep-alive, Upgrade", "keep-alive", Refusal::BadUpgrade),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: dGhlIHNhbXBsZSBub25jZQ", Refusal::BadUpgrade),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: dGhlIHNhbXBsZSBub25j", Refusal::BadUpgrade),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: dGhlIHNhbXBsZSBub25-ZQ==", Refusal::BadUpgrade),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key:", Refusal::BadUpgrade),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", Refusal::BadUpgrade),
        (
            "Host: node",
            "Host: node\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            Refusal::BadUpgrade,
        ),
    ] {
        assert!(UPGRADE.contains(from));
        let judged = with_head("GET /any", &UPGRADE.replace(from, to), judge_upgrade);
        assert_eq!(judged, Err(refusal), "{to}");
    }
    assert!(with_head("GET /any", UPGRADE, judge_upgrade).is_ok());
    assert_eq!(with_head("HEAD /any", UPGRADE, judge_upgrade), Err(Refusal::UpgradeRequired));
    assert_eq!(
        answer("HEAD /v1/ingest", UPGRADE, ANY, None),
        Some(Answer::refused(Refusal::UpgradeRequired, true))
    );
}

#[test]
fn an_upgrade_in_http_1_0_is_ignored() {
    let mut buffer = HeadBuffer::default();
    buffer.push(format!("GET /v1/ingest HTTP/1.0\r\n{UPGRADE}\r\n").as_bytes());
    assert_eq!(judge_upgrade(&buffer.head().unwrap()), Err(Refusal::UpgradeRequired));
}

#[test]
fn origins_are_checked_only_if_a_list_is_set() {
    let fields = |origin: &str| format!("{UPGRADE}{origin}Authorization: Bearer a\r\n");
    let list = ["https://good.example".to_string()];
    for (origin, origins, allowed) in [
        ("Origin: https://evil.example\r\n", None, true),
        ("", Some(&list[..]), true),
        ("Origin: https://GOOD.example\r\n", Some(&list), true),
        ("Origin: https://good.example:444\r\n", Some(&list), false),
        ("Origin: null\r\n", Some(&list), false),
        ("Origin: https://good.example\r\nOrigin: https://good.example\r\n", Some(&list), false),
    ] {
        let expected = (!allowed).then_some(Answer::refused(Refusal::OriginForbidden, false));
        assert_eq!(answer("GET /v1/ingest", &fields(origin), ANY, origins), expected, "{origin}");
    }
}

#[test]
fn every_answer_fits_and_is_valid_http_and_json() {
    for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal.index(), index);
        let whole = written(Answer::refused(refusal, false));
        let head_only = written(Answer::refused(refusal, true));
        let (head, body) = whole.split_at(whole.find("\r\n\r\n").unwrap() + 4);
        assert_eq!(head, head_only, "HEAD gets the same head");

        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut fields);
        assert!(response.parse(head.as_bytes()).unwrap().is_complete());
        assert_eq!(response.code, Some(refusal.status()));
        let field = |name: &str| {
            let field = response.headers.iter().find(|field| field.name == name)?;
            Some(std::str::from_utf8(field.value).unwrap())
        };
        assert_eq!(field("Content-Length"), Some(&*body.len().to_string()));
        assert_eq!(field("Content-Type"), Some("application/json"));
        assert!(field("Connection").unwrap().ends_with("close"));
        assert_eq!(field("Allow"), (refusal.status() == 405).then_some("GET, HEAD"));
        assert_eq!(field("Sec-WebSocket-Version"), (refusal.status() == 426).then_some("13"));
        assert_eq!(field("Upgrade"), (refusal.status() == 426).then_some("websocket"));
        assert_eq!(field("Retry-After").is_some(), matches!(refusal.status(), 429 | 503));
        assert_eq!(field("WWW-Authenticate").is_some(), refusal.status() == 401);

        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["error"].is_string() && body["message"].is_string());
        assert!(refusal.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    }
    let labels: std::collections::BTreeSet<_> =
        Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
    assert_eq!(labels.len(), Refusal::COUNT);
}

#[test]
fn answers_go_out_byte_for_byte() {
    let health = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\
                  Content-Length: 34\r\n\r\n";
    assert_eq!(written(Answer::HealthHead), health);
    assert_eq!(
        written(Answer::Health),
        format!("{health}{{\"status\":\"ok\",\"service\":\"ingest\"}}")
    );
    assert_eq!((Answer::Health.status(), Answer::HealthHead.status()), (200, 200));

    let missing = written(Answer::refused(Refusal::TokenMissing, false));
    let invalid = written(Answer::refused(Refusal::TokenInvalid, false));
    assert!(missing.starts_with(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"ingest\"\r\n\
                 Connection: close\r\n"
    ));
    assert_eq!(invalid.replace(", error=\"invalid_token\"", ""), missing);
}
