//! What to answer to a request head: routes, refusals in their order, the WebSocket upgrade (RFC 6455 §4.2).
//!
//! It decides on everything but the token's signature and the tenant's quota, which the caller knows about. Subprotocols and
//! extensions, permessage-deflate among them, are declined by not being mentioned in the 101.

#![forbid(unsafe_code)]

use super::http::{Head, Single};
use std::io::Write;

/// Path of the ingest route.
pub const INGEST_PATH: &str = "/v1/ingest";

/// Path of the liveness check.
pub const HEALTH_PATH: &str = "/health";

/// Bytes of buffer that suffice for every [`Answer`].
pub const ANSWER_SIZE_MAX: usize = 512;

/// What 429 and 503 ask for, seconds: enough for calls to end elsewhere, short enough for a caller to notice little.
const RETRY_AFTER_SECS: u32 = 5;

/// Liveness, exactly as the quick reference has it.
const HEALTH_BODY: &str = r#"{"status":"ok","service":"ingest"}"#;

/// The value of `Sec-WebSocket-Accept`: base64 of a SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptKey([u8; 28]);

impl AcceptKey {
    /// Of a `Sec-WebSocket-Key` (RFC 6455 §4.2.2); `None` if that is not the base64 of 16 bytes. Bits that base64 leaves
    /// over are not looked at (RFC 4648 §3.5 lets us): there are clients that draw 22 characters instead of 16 bytes.
    fn derive(key: &[u8]) -> Option<Self> {
        let digits = key.strip_suffix(b"==")?;
        if digits.len() != 22 || !digits.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/') {
            return None;
        }
        tungstenite::handshake::derive_accept_key(key).as_bytes().try_into().ok().map(AcceptKey)
    }

    /// As it stands in the 101.
    pub fn as_bytes(&self) -> &[u8; 28] {
        &self.0
    }
}

/// Every way to refuse a request. The order of the protocol page's checks is the order of declaration where both could
/// apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// 400: malformed request.
    BadRequest,
    /// 431: head over its size or number of fields.
    HeadTooLarge,
    /// 404
    NotFound,
    /// 405 with `Allow: GET, HEAD`.
    MethodNotAllowed,
    /// 403: plaintext ingest on a TLS port.
    PlaintextForbidden,
    /// 503 with `Retry-After`: draining.
    Draining,
    /// 503 with `Retry-After`: at capacity.
    Capacity,
    /// 403: origin not allowed.
    OriginForbidden,
    /// 426 with `Upgrade` and `Sec-WebSocket-Version`.
    UpgradeRequired,
    /// 400: an upgrade request, but malformed.
    BadUpgrade,
    /// 401 without `error`: no token given.
    TokenMissing,
    /// 401 with `error="invalid_token"`.
    TokenInvalid,
    /// 429 with `Retry-After`: the tenant's quota.
    Quota,
    /// 408: head not complete in time.
    HeadTimeout,
}

const _: () = assert!(Refusal::HeadTimeout as usize + 1 == Refusal::COUNT);

/// What goes out for a [`Refusal`].
struct Wording {
    status: u16,
    reason: &'static str,
    /// Label in metrics.
    label: &'static str,
    /// `error` of the body. Where two refusals must look alike to the peer, they share it.
    error: &'static str,
    /// `message` of the body: what to do. Holds nothing that JSON would escape.
    message: &'static str,
    /// Header lines of this refusal alone.
    fields: &'static str,
}

impl Refusal {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// All of them, in order of declaration.
    pub const ALL: [Refusal; Refusal::COUNT] = [
        Refusal::BadRequest,
        Refusal::HeadTooLarge,
        Refusal::NotFound,
        Refusal::MethodNotAllowed,
        Refusal::PlaintextForbidden,
        Refusal::Draining,
        Refusal::Capacity,
        Refusal::OriginForbidden,
        Refusal::UpgradeRequired,
        Refusal::BadUpgrade,
        Refusal::TokenMissing,
        Refusal::TokenInvalid,
        Refusal::Quota,
        Refusal::HeadTimeout,
    ];

    /// Its place in [`Refusal::ALL`]: for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The status code.
    pub fn status(self) -> u16 {
        self.wording().status
    }

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        self.wording().label
    }

    fn wording(self) -> Wording {
        const BAD_REQUEST: &str = "Bad Request";
        const UNAUTHORIZED: &str = "Unauthorized";
        let word = |status, reason, label, error, message| Wording { status, reason, label, error, message, fields: "" };
        match self {
            Refusal::BadRequest => {
                let message = "the request is not well-formed HTTP/1.1, or carries a body";
                word(400, BAD_REQUEST, "bad_request", "bad_request", message)
            }
            Refusal::HeadTooLarge => {
                let message = "send at most 8 KiB and 64 fields";
                word(431, "Request Header Fields Too Large", "head_too_large", "head_too_large", message)
            }
            Refusal::NotFound => {
                word(404, "Not Found", "not_found", "not_found", "the routes here are /v1/ingest and /health")
            }
            Refusal::MethodNotAllowed => Wording {
                fields: "Allow: GET, HEAD\r\n",
                ..word(405, "Method Not Allowed", "method_not_allowed", "method_not_allowed", "use GET")
            },
            Refusal::PlaintextForbidden => {
                word(403, "Forbidden", "plaintext_forbidden", "tls_required", "connect with wss://")
            }
            Refusal::Draining => {
                let message = "the node is going away: connect again, to another one";
                word(503, "Service Unavailable", "draining", "draining", message)
            }
            Refusal::Capacity => {
                let message = "the node is full: try again later or elsewhere";
                word(503, "Service Unavailable", "capacity", "capacity", message)
            }
            Refusal::OriginForbidden => {
                word(403, "Forbidden", "origin_forbidden", "origin_forbidden", "this origin is not allowed here")
            }
            Refusal::UpgradeRequired => Wording {
                fields: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                ..word(
                    426,
                    "Upgrade Required",
                    "upgrade_required",
                    "upgrade_required",
                    "connect with a WebSocket client, version 13",
                )
            },
            Refusal::BadUpgrade => {
                let message = "the WebSocket upgrade is malformed: see RFC 6455, section 4.2.1";
                word(400, BAD_REQUEST, "bad_upgrade", "bad_upgrade", message)
            }
            // One body for both: why a token failed is not the peer's to know.
            Refusal::TokenMissing => Wording {
                fields: "WWW-Authenticate: Bearer realm=\"ingest\"\r\n",
                ..word(401, UNAUTHORIZED, "token_missing", "unauthorized", "send a valid token: Authorization: Bearer JWT")
            },
            Refusal::TokenInvalid => Wording {
                fields: "WWW-Authenticate: Bearer realm=\"ingest\", error=\"invalid_token\"\r\n",
                ..word(401, UNAUTHORIZED, "token_invalid", "unauthorized", "send a valid token: Authorization: Bearer JWT")
            },
            Refusal::Quota => {
                let message = "this tenant has all the calls it may have: try again later";
                word(429, "Too Many Requests", "quota", "quota", message)
            }
            Refusal::HeadTimeout => {
                word(408, "Request Timeout", "head_timeout", "head_timeout", "send the whole request at once")
            }
        }
    }
}

/// A final answer, after which the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 to `GET /health`.
    Health,
    /// 200 to `HEAD /health`: the same head, no body.
    HealthHead,
    /// A refusal.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The request was HEAD: no body goes out.
        head_only: bool,
    },
}

impl Answer {
    /// A refusal; `head_only` where the request was HEAD.
    pub const fn refused(refusal: Refusal, head_only: bool) -> Answer {
        Answer::Refused { refusal, head_only }
    }

    /// The status code.
    pub fn status(self) -> u16 {
        match self {
            Answer::Health | Answer::HealthHead => 200,
            Answer::Refused { refusal, .. } => refusal.status(),
        }
    }

    /// Writes the whole answer into `out` and returns its length. `out` has at least [`ANSWER_SIZE_MAX`] bytes.
    pub fn write(self, out: &mut [u8]) -> usize {
        let mut writer = Writer::new(out);
        let Answer::Refused { refusal, head_only } = self else {
            writer.put(format_args!("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
            writer.put_body(HEALTH_BODY.len(), self == Answer::HealthHead, format_args!("{HEALTH_BODY}"));
            return writer.written;
        };
        let Wording { status, reason, error, message, fields, .. } = refusal.wording();
        writer.put(format_args!("HTTP/1.1 {status} {reason}\r\n"));
        if matches!(status, 429 | 503) {
            writer.put(format_args!("Retry-After: {RETRY_AFTER_SECS}\r\n"));
        }
        // RFC 9110 §7.8: whoever sends Upgrade names it in Connection too.
        let connection = if status == 426 { "upgrade, close" } else { "close" };
        writer.put(format_args!("{fields}Connection: {connection}\r\n"));
        let body_size = r#"{"error":"","message":""}"#.len() + error.len() + message.len();
        writer.put_body(body_size, head_only, format_args!(r#"{{"error":"{error}","message":"{message}"}}"#));
        writer.written
    }
}

/// Formats into a slice that is known to be long enough.
struct Writer<'a> {
    free: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    fn new(free: &'a mut [u8]) -> Self {
        Writer { free, written: 0 }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        let before = self.free.len();
        // Nothing a peer sent is written here, and a test writes every answer there is.
        self.free.write_fmt(text).expect("the caller's buffer holds ANSWER_SIZE_MAX bytes");
        self.written += before - self.free.len();
    }

    fn put_body(&mut self, size: usize, head_only: bool, body: std::fmt::Arguments<'_>) {
        self.put(format_args!("Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"));
        if !head_only {
            self.put(body);
        }
    }
}

/// What the node is like at the moment of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// The request came in the clear although the port speaks TLS, and that is not allowed for ingest.
    pub plaintext_forbidden: bool,
    /// No new calls: the node is draining.
    pub draining: bool,
    /// No new calls: the node is at capacity.
    pub at_capacity: bool,
}

/// What a request head comes to, before its token is looked at.
#[derive(Debug)]
pub enum Judgement<'a> {
    /// Answer and close.
    Answer(Answer),
    /// A sound upgrade request with a bearer token that has yet to be verified (401), then the quota (429).
    Upgrade {
        /// The token as sent.
        token: &'a str,
        /// For the 101.
        accept: AcceptKey,
    },
}

/// Judges a request for the ingest routes. `allowed_origins`: `None` ignores `Origin`; otherwise a request that names one,
/// and only such a request, must name one of these.
pub fn judge<'a>(head: &Head<'a>, situation: Situation, allowed_origins: Option<&[String]>) -> Judgement<'a> {
    let head_only = head.method == "HEAD";
    let method_known = head_only || head.method == "GET";
    if head.path == HEALTH_PATH && method_known {
        return Judgement::Answer(if head_only { Answer::HealthHead } else { Answer::Health });
    }
    match judge_ingest(head, situation, allowed_origins) {
        Ok((token, accept)) => Judgement::Upgrade { token, accept },
        Err(refusal) => Judgement::Answer(Answer::refused(refusal, head_only)),
    }
}

/// Everything but a good health check: the checks in the order that the protocol page gives them.
fn judge_ingest<'a>(
    head: &Head<'a>,
    situation: Situation,
    allowed_origins: Option<&[String]>,
) -> Result<(&'a str, AcceptKey), Refusal> {
    if head.path != INGEST_PATH && head.path != HEALTH_PATH {
        return Err(Refusal::NotFound);
    }
    if head.path == HEALTH_PATH || !matches!(head.method, "GET" | "HEAD") {
        return Err(Refusal::MethodNotAllowed);
    }
    if situation.plaintext_forbidden {
        return Err(Refusal::PlaintextForbidden);
    }
    if situation.draining {
        return Err(Refusal::Draining);
    }
    if situation.at_capacity {
        return Err(Refusal::Capacity);
    }
    if allowed_origins.is_some_and(|allowed| !is_origin_allowed(head.origin, allowed)) {
        return Err(Refusal::OriginForbidden);
    }
    let accept = judge_upgrade(head)?;
    Ok((bearer_token(head.authorization)?, accept))
}

/// Scheme and host of an origin are case-insensitive, and it holds nothing else (RFC 6454 §7).
fn is_origin_allowed(origin: Single<'_>, allowed: &[String]) -> bool {
    match origin {
        Single::Absent => true,
        Single::Once(value) => allowed.iter().any(|allowed| value.eq_ignore_ascii_case(allowed.as_bytes())),
        Single::Repeated => false,
    }
}

/// Judges only the upgrade itself (426/400), on any path and without a token: for services that need neither.
///
/// 426 where something else than version 13 of WebSocket was asked for, 400 where that was, but wrongly. HEAD and HTTP/1.0
/// can ask for no upgrade at all.
pub fn judge_upgrade(head: &Head<'_>) -> Result<AcceptKey, Refusal> {
    if head.method != "GET" || head.is_http_1_0 || !head.upgrade_websocket {
        return Err(Refusal::UpgradeRequired);
    }
    match head.websocket_version {
        Single::Once(b"13") => {}
        Single::Once(_) => return Err(Refusal::UpgradeRequired),
        Single::Absent | Single::Repeated => return Err(Refusal::BadUpgrade),
    }
    match head.websocket_key {
        Single::Once(key) if head.connection_upgrade => AcceptKey::derive(key).ok_or(Refusal::BadUpgrade),
        _ => Err(Refusal::BadUpgrade),
    }
}

/// The token of `Authorization: Bearer <token68>` (RFC 6750 §2.1). No token, or another scheme, is
/// [`Refusal::TokenMissing`].
fn bearer_token(authorization: Option<&[u8]>) -> Result<&str, Refusal> {
    let value = authorization.ok_or(Refusal::TokenMissing)?;
    let (scheme, token) = match value.iter().position(|&byte| byte == b' ') {
        Some(end) => (&value[..end], value[end..].trim_ascii_start()),
        None => (value, &[][..]),
    };
    if !scheme.eq_ignore_ascii_case(b"Bearer") || token.is_empty() {
        return Err(Refusal::TokenMissing);
    }
    let padding_size = token.iter().rev().take_while(|&&byte| byte == b'=').count();
    let body = &token[..token.len() - padding_size];
    let is_token68_byte =
        |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    // Without a branch per byte: this runs over whole tokens.
    if body.is_empty() || !body.iter().fold(true, |valid, &byte| valid & is_token68_byte(byte)) {
        return Err(Refusal::TokenInvalid);
    }
    std::str::from_utf8(token).map_err(|_| Refusal::TokenInvalid)
}

/// Writes the 101 answer into `out` (256 bytes always suffice) and returns its length.
pub fn write_switching_protocols(accept: &AcceptKey, out: &mut [u8]) -> usize {
    const BEFORE: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    const AFTER: &[u8] = b"\r\n\r\n";
    let mut written = 0;
    for part in [BEFORE, accept.as_bytes(), AFTER] {
        out[written..written + part.len()].copy_from_slice(part);
        written += part.len();
    }
    written
}

#[cfg(test)]
mod tests;
