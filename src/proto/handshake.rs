//! Decides the answer to a request head: routes, refusals in their order, the WebSocket upgrade
//! (RFC 6455 §4.2).
//!
//! This module decides everything except the token's signature and the tenant's quota; the caller
//! checks those two. Subprotocols and extensions such as permessage-deflate are declined: the 101
//! does not mention them.

#![forbid(unsafe_code)]

use super::http::{Head, Single};
pub use super::refusal::Refusal;
use super::refusal::Wording;
use std::io::Write;

/// Path of the ingest route.
pub const INGEST_PATH: &str = "/v1/ingest";

/// Path of the liveness check.
pub(crate) const HEALTH_PATH: &str = "/health";

/// Buffer size, bytes, that is enough for every [`Answer`].
pub const ANSWER_SIZE_MAX: usize = 480;

/// `Retry-After` of 429 and 503, seconds. Long enough for calls on other nodes to end, short enough
/// that a caller hardly notices.
const RETRY_AFTER_SECS: u32 = 5;

/// The liveness answer, exactly as in the quick reference.
const HEALTH_BODY: &str = r#"{"status":"ok","service":"ingest"}"#;

/// The value of `Sec-WebSocket-Accept`: base64 of a SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptKey([u8; 28]);

impl AcceptKey {
    /// Derives it from a `Sec-WebSocket-Key` (RFC 6455 §4.2.2); `None` if that is not the base64 of
    /// 16 bytes. Unused bits of the last base64 digit are ignored (RFC 4648 §3.5 allows it): some
    /// clients draw 22 random characters instead of 16 random bytes.
    fn derive(key: &[u8]) -> Option<Self> {
        let digits = key.strip_suffix(b"==")?;
        if digits.len() != 22
            || !digits
                .iter()
                .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
        {
            return None;
        }
        tungstenite::handshake::derive_accept_key(key).as_bytes().try_into().ok().map(AcceptKey)
    }

    /// The text for the 101.
    pub fn as_bytes(&self) -> &[u8; 28] {
        &self.0
    }
}

/// A final answer; the connection closes after it.
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
        /// The request was HEAD, so the answer has no body.
        head_only: bool,
    },
}

impl Answer {
    /// Makes a refusal; `head_only` if the request was HEAD.
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

    /// Writes the whole answer into `out` and returns its length. `out` must have at least
    /// [`ANSWER_SIZE_MAX`] bytes.
    pub fn write(self, out: &mut [u8]) -> usize {
        let mut writer = Writer::new(out);
        let Answer::Refused { refusal, head_only } = self else {
            writer.put(format_args!("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
            writer.put_body(
                HEALTH_BODY.len(),
                self == Answer::HealthHead,
                format_args!("{HEALTH_BODY}"),
            );
            return writer.written;
        };
        let Wording { status, reason, error, message, fields, .. } = refusal.wording();
        writer.put(format_args!("HTTP/1.1 {status} {reason}\r\n"));
        if matches!(status, 429 | 503) {
            writer.put(format_args!("Retry-After: {RETRY_AFTER_SECS}\r\n"));
        }
        // RFC 9110 §7.8: a message with Upgrade must name it in Connection too.
        let connection = if status == 426 { "upgrade, close" } else { "close" };
        writer.put(format_args!("{fields}Connection: {connection}\r\n"));
        let body_size = r#"{"error":"","message":""}"#.len() + error.len() + message.len();
        writer.put_body(
            body_size,
            head_only,
            format_args!(r#"{{"error":"{error}","message":"{message}"}}"#),
        );
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
        // Nothing from the peer is written here, and a test writes every answer there is.
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

/// State of the node at the moment of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// The request is plaintext on a TLS port, and ingest must not be.
    pub plaintext_forbidden: bool,
    /// The node is draining and takes no new calls.
    pub draining: bool,
    /// The node is at capacity and takes no new calls.
    pub at_capacity: bool,
    /// The peer's address makes more connections than it may.
    pub is_over_rate: bool,
}

/// The verdict on a request head, before its token is checked.
#[derive(Debug)]
pub enum Judgement<'a> {
    /// Answer and close.
    Answer(Answer),
    /// A valid upgrade request with a bearer token. The token must still be verified (401), then
    /// the quota (429).
    Upgrade {
        /// The token as sent.
        token: &'a str,
        /// For the 101.
        accept: AcceptKey,
    },
}

/// Judges a request for the ingest routes. If `allowed_origins` is `None`, `Origin` is ignored.
/// Otherwise an `Origin` must be one of these; a request without one is allowed.
pub fn judge<'a>(
    head: &Head<'a>,
    situation: Situation,
    allowed_origins: Option<&[String]>,
) -> Judgement<'a> {
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

/// Everything except a valid health check. The checks run in the order of `docs/protocol.md`.
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
    if situation.is_over_rate {
        return Err(Refusal::AddressRate);
    }
    if allowed_origins.is_some_and(|allowed| !is_origin_allowed(head.origin, allowed)) {
        return Err(Refusal::OriginForbidden);
    }
    let accept = judge_upgrade(head)?;
    Ok((bearer_token(head.authorization)?, accept))
}

/// An origin is a scheme and a host, both case-insensitive, and nothing else (RFC 6454 §7).
fn is_origin_allowed(origin: Single<'_>, allowed: &[String]) -> bool {
    match origin {
        Single::Absent => true,
        Single::Once(value) => {
            allowed.iter().any(|allowed| value.eq_ignore_ascii_case(allowed.as_bytes()))
        }
        Single::Repeated => false,
    }
}

/// Judges only the upgrade (426 or 400), on any path and without a token: for services that need
/// neither.
///
/// 426 if the request does not ask for WebSocket version 13; 400 if it does, but is malformed. HEAD
/// and HTTP/1.0 requests cannot ask for an upgrade.
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
        Single::Once(key) if head.connection_upgrade => {
            AcceptKey::derive(key).ok_or(Refusal::BadUpgrade)
        }
        _ => Err(Refusal::BadUpgrade),
    }
}

/// Returns the token of `Authorization: Bearer <token68>` (RFC 6750 §2.1). If there is no token, or
/// another scheme, the error is [`Refusal::TokenMissing`].
pub(crate) fn bearer_token(authorization: Option<&[u8]>) -> Result<&str, Refusal> {
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
    let is_token68_byte = |byte: u8| {
        matches!(
            byte,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'+' | b'/'
        )
    };
    // No branch per byte, because this runs over whole tokens.
    if body.is_empty() || !body.iter().fold(true, |valid, &byte| valid & is_token68_byte(byte)) {
        return Err(Refusal::TokenInvalid);
    }
    std::str::from_utf8(token).map_err(|_| Refusal::TokenInvalid)
}

/// Writes the 101 answer into `out` and returns its length; 256 bytes are always enough.
pub(crate) fn write_switching_protocols(accept: &AcceptKey, out: &mut [u8]) -> usize {
    const BEFORE: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ";
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
