#![forbid(unsafe_code)]

use super::*;
use crate::auth::{ClientTenant, KeySet, TokenError, TokenPolicy};
use crate::clock::{Moment, UnixMicros};
use crate::limits::Limits;
use crate::proto::http::{HeadBuffer, HeadProgress};
use crate::session::Session;
use std::time::Duration;

/// The private key was deleted after it signed the tokens below.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAweGdXZsGGfhCIQUe5FLT\n\
    FV3dl+PffBhwIaWwUqHklCJBMgGmYz6JZFiyv3w4nrRAYlNSjxtUsKG+BmhLA4I8\n\
    DubKu7DMzdrtuPInsPw+cYvtyem09IzOGyuFHlxFa2B9kP4JGfsU0JQKFKoAoavr\n\
    KZo23IqZ9tZ554W6/PWBtuVSOZfws+dSB9TwpfKH5sPu4i/EsrWESJOksJllDwjY\n\
    +EO0/NsqOV8o7RTRXwbvm8VA0pkacLRFdulf8P2aLA9dFobfxPXu93wKa7KwiQoJ\n\
    YQ6Tp6PF7uLd/X2zX0Cp5K56aedZjMjrOAC4gwj20mpPdbZHIZldS1Z/4aBHASb0\n\
    SwIDAQAB\n\
    -----END PUBLIC KEY-----\n";

/// A different key.
const OTHER_PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1qpHAVAtl8dQJoFS23II\n\
    FD+spXXroEXcZe/FI/O4Fb9KIQFT0F0rRoY1wa0uMSU9UEz2EI9K8t+YYBv51SOH\n\
    Ss0d3RSZfLSYO/KUZL1Xdy1rwX0is6dm+Yyw2ryUBqpT925f+2fFJWZylQkUCchE\n\
    2FwDJe8CyqB8RhdA5+zCPj4KGR6R5Zp/KQ9JUaJCzWdcOAsGSRbk42rWC2Yumnuj\n\
    /2QHFc9t5cAo/PcC37d5fRQcC/uVUzfEL4hFt/XMvAflmYbm55ALN/hsDAp/dkX9\n\
    X4udGaGWXK4Wwt06UjN+WOwBzVPboWYBfD+IF9xJf9/5U/OpTQawcdi2xHY+QGoA\n\
    7QIDAQAB\n\
    -----END PUBLIC KEY-----\n";

/// `tenant-abc`, `call-123`, valid for an hour from [`ISSUED_AT`].
const TOKEN_ABC: &str = "eyJhbGciOiJSUzI1NiJ9.eyJ0ZW5hbnRfaWQiOiJ0ZW5hbnQtYWJjIiwiaW50ZXJhY3Rpb25fa\
    WQiOiJjYWxsLTEyMyIsImlhdCI6MTgwMDAwMDAwMCwiZXhwIjoxODAwMDAzNjAwfQ.Q_QfO6MLcn-eZ8Eq_PcLm16V7MdOA\
    SiOE8ucEGN3r9y-p1_JJ3xBtsQcZDp4Ay_CtWdnj2R_KL3zfpYqCkZ0IStr8fAd_oN16eXkKTjW84nLdMLWQm4Dbylwk4hU\
    ntvI6Tu5pqzyf6Esv87hB40QSUCMkhRdjjgMCz4fq2_VaXFU_x09lkwYc8XyutNSOD9Q9oONpyJYfQGjpy0lRf1gOXL_Gpe\
    F4BkpTkqUpWv5LudS4MBAl9pEMrS1MRUeekPJ_MNKQzE6lKfbwazIf7vbeEPWJZ9T0RY83qRqEspWXju3Xiijtqx8iJputA\
    QcCXFaM_YPRWs2dBGgfquXu7cqSg";

/// `tenant-xyz`, `call-9`, for the same hour.
const TOKEN_XYZ: &str = "eyJhbGciOiJSUzI1NiJ9.eyJ0ZW5hbnRfaWQiOiJ0ZW5hbnQteHl6IiwiaW50ZXJhY3Rpb25fa\
    WQiOiJjYWxsLTkiLCJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MTgwMDAwMzYwMH0.ANSXqDJOQ_nEiIUFVX0dfkAqLDblup1L\
    ffEqoJjmkfPCeAdrsFmx3eMPV2eAxvtUtYzp6VHYFEOL1pyrNKZVabZvaJMAC7ZOP3XUVETbF3xO0Iq3BhR6m7JdKLUJ3ID\
    xjZqV3fBhJwUTvJ2c2WC5vGgFi4muqfkz7k5i3GoQGtChb206tuO4ACiZFKx-hVju6rHOdCGabfrKdQGQQj2aVfgS09qkAg\
    mgRNXHp2c5Pzk5Li5xMNTOv7Qr1IxGafV7xNvGBswbE8xxF80Ygh7nzUDwYDDU5xcG-bZrbsiWqEn3Dqx6jKgRV02NcL1Vt\
    mvIMUWqPwtPJswV5ilxkRXfEA";

const ISSUED_AT: u64 = 1_800_000_000;

fn verifier(public_key: &str) -> Arc<Verifier> {
    let keys = KeySet::parse(public_key.as_bytes()).expect("the key is valid");
    Arc::new(Verifier::new(
        keys,
        TokenPolicy { issuer: None, audience: None, leeway: Duration::from_secs(5) },
    ))
}

struct Node {
    service: IngestService,
    tenants: Arc<Tenants>,
    counters: Counters,
    now: Now,
    client: Option<ClientName>,
}

impl Node {
    fn with(change: impl FnOnce(&mut IngestSettings)) -> Self {
        let mut settings = IngestSettings::new(Limits::tiny());
        change(&mut settings);
        let tenants = Tenants::new(settings.limits.calls_max, settings.limits.calls_per_tenant_max);
        let service =
            IngestService::new(Arc::new(settings), verifier(PUBLIC_KEY), Arc::clone(&tenants));
        let now = Now {
            moment: Moment::from_nanos(9_000_000_000),
            unix: UnixMicros((ISSUED_AT + 60) * 1_000_000),
        };
        Node { service, tenants, counters: Counters::default(), now, client: None }
    }

    fn ask(&mut self, request: &str, situation: Situation) -> Result<IngestSession, Answer> {
        let mut buffer = HeadBuffer::default();
        assert_eq!(buffer.push(request.as_bytes()), (request.len(), HeadProgress::Complete));
        let head = buffer.head().expect("the request is well-formed");
        match self.service.admit(self.now, &head, situation, self.client.as_ref(), &self.counters) {
            Admission::Upgrade { accept, session } => {
                // RFC 6455 §1.3 has this pair of key and answer.
                assert_eq!(accept.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                Ok(session)
            }
            Admission::Answer(answer) => Err(answer),
        }
    }

    fn upgrade(&mut self, token: &str) -> Result<IngestSession, Answer> {
        self.ask(&upgrade_with(&format!("Authorization: Bearer {token}\r\n")), Situation::default())
    }
}

fn upgrade_with(fields: &str) -> String {
    format!(
        "GET /v1/ingest HTTP/1.1\r\nHost: localhost:8443\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

const fn refused(refusal: Refusal) -> Answer {
    Answer::Refused { refusal, head_only: false }
}

#[test]
fn a_valid_token_gets_a_session_with_its_claims() {
    let mut node = Node::with(|_| {});
    let session = node.upgrade(TOKEN_ABC).expect("an upgrade");
    assert!(!session.is_live() && !session.is_finished());
    assert_eq!(session.poll_timeout(), Some(node.now.moment + Limits::tiny().start_timeout));
    assert_eq!((node.counters.upgrades.read(), node.counters.requests_refused.read()), (1, 0));
    assert_eq!(node.tenants.calls_live(), 1);
    drop(session);
    assert_eq!(node.tenants.calls_live(), 0);
}

#[test]
fn bad_tokens_are_counted_by_reason_and_look_alike() {
    let mut node = Node::with(|_| {});
    let mut bad: Vec<(String, TokenError)> = vec![
        ("x".into(), TokenError::Parts),
        (TOKEN_ABC.replace(".eyJ0", ".eyJ1"), TokenError::Signature),
        (
            TOKEN_ABC.replacen("eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJub25lIn0", 1),
            TokenError::Algorithm,
        ),
    ];
    for (token, _) in &bad {
        assert_eq!(node.upgrade(token).err(), Some(refused(Refusal::TokenInvalid)), "{token}");
    }
    node.now.unix = UnixMicros((ISSUED_AT + 3600 + 6) * 1_000_000);
    assert_eq!(node.upgrade(TOKEN_ABC).err(), Some(refused(Refusal::TokenInvalid)));
    bad.push((String::new(), TokenError::Expired));
    let shared = node.service.shared();
    for (_, reason) in &bad {
        assert_eq!(shared.counters.token_failures[reason.index()].read(), 1, "{reason:?}");
    }
    assert_eq!(shared.counters.refusals[Refusal::TokenInvalid.index()].read(), 4);
    assert_eq!((node.counters.requests_refused.read(), node.tenants.calls_live()), (4, 0));

    let mut told = Vec::new();
    shared.counters.for_each(|family, label, value| {
        if value > 0 {
            told.push((family, label, value));
        }
    });
    assert!(told.contains(&("refusals", Refusal::TokenInvalid.label(), 4)), "{told:?}");
    assert!(told.contains(&("token_failures", TokenError::Expired.label(), 1)), "{told:?}");
}

#[test]
fn a_tenants_quota_is_checked_after_its_token() {
    let mut node = Node::with(|settings| settings.limits.calls_per_tenant_max = Some(1));
    let first = node.upgrade(TOKEN_ABC).expect("the first call");
    assert_eq!(node.upgrade(TOKEN_ABC).err(), Some(refused(Refusal::Quota)));
    assert_eq!(node.upgrade("x.y.z").err(), Some(refused(Refusal::TokenInvalid)));
    let other = node.upgrade(TOKEN_XYZ).expect("another tenant's call");
    drop((first, other));
    assert!(node.upgrade(TOKEN_ABC).is_ok(), "there is room again");
}

#[test]
fn a_full_or_draining_node_reads_no_token() {
    let mut node = Node::with(|settings| settings.limits.calls_max = 1);
    let first = node.upgrade(TOKEN_ABC).expect("the only call");
    assert_eq!(node.upgrade("x").err(), Some(refused(Refusal::Capacity)));
    let draining = Situation { draining: true, ..Situation::default() };
    assert_eq!(node.ask(&upgrade_with(""), draining).err(), Some(refused(Refusal::Draining)));
    drop(first);
    assert_eq!(node.upgrade("x").err(), Some(refused(Refusal::TokenInvalid)));
    let full = Situation { at_capacity: true, ..Situation::default() };
    assert_eq!(
        node.ask(&upgrade_with(""), full).err(),
        Some(refused(Refusal::Capacity)),
        "the shard and the table of tenants give the same answer"
    );
}

#[test]
fn everything_before_the_token_is_judged_first() {
    let mut node =
        Node::with(|settings| settings.allowed_origins = Some(vec!["https://good.example".into()]));
    let health = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(node.ask(health, Situation::default()).err(), Some(Answer::Health));
    assert_eq!(node.counters.requests_refused.read(), 0, "an answer is not a refusal");
    let cases = [
        (upgrade_with(""), Refusal::TokenMissing),
        (upgrade_with("Origin: https://evil.example\r\n"), Refusal::OriginForbidden),
        ("GET /v1/ingest HTTP/1.1\r\nHost: x\r\n\r\n".into(), Refusal::UpgradeRequired),
        ("GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n".into(), Refusal::NotFound),
    ];
    for (request, refusal) in cases {
        assert_eq!(
            node.ask(&request, Situation::default()).err(),
            Some(refused(refusal)),
            "{request}"
        );
        assert_eq!(node.service.shared().counters.refusals[refusal.index()].read(), 1);
    }
    node.service.handle_refusal(Refusal::HeadTimeout, &node.counters);
    assert_eq!(node.service.shared().counters.refusals[Refusal::HeadTimeout.index()].read(), 1);
    assert_eq!(node.counters.requests_refused.read(), 5);
    let origin = format!("Origin: https://good.example\r\nAuthorization: Bearer {TOKEN_ABC}\r\n");
    assert!(node.ask(&upgrade_with(&origin), Situation::default()).is_ok());
}

#[test]
fn new_keys_are_used_at_once() {
    let mut node = Node::with(|_| {});
    node.service.handle_keys(verifier(OTHER_PUBLIC_KEY));
    assert_eq!(node.upgrade(TOKEN_ABC).err(), Some(refused(Refusal::TokenInvalid)));
    node.service.handle_keys(verifier(PUBLIC_KEY));
    assert!(node.upgrade(TOKEN_ABC).is_ok());
}

#[test]
fn a_client_records_for_the_tenants_of_its_certificate_only() {
    let acme = ClientName {
        common_names: vec!["tenant-abc".into(), "tenant-two".into()],
        ..ClientName::default()
    };
    for (by, is_bound) in
        [(ClientTenant::Off, false), (ClientTenant::CommonName, true), (ClientTenant::Uri, true)]
    {
        let mut node = Node::with(|settings| settings.client_tenant = by);
        // Without a certificate the token alone counts.
        assert!(node.upgrade(TOKEN_XYZ).is_ok());
        node.client = Some(acme.clone());
        let names_it = by != ClientTenant::Uri;
        assert_eq!(node.upgrade(TOKEN_ABC).is_ok(), names_it, "{by:?}");
        let other = node.upgrade(TOKEN_XYZ).err();
        assert_eq!(other, is_bound.then(|| refused(Refusal::ClientForbidden)), "{by:?}");
    }
}
