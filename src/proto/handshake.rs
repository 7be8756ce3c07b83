//! What to answer to a request head: routes, refusals in their order, the WebSocket upgrade (RFC 6455 §4.2).
//!
//! SKELETON: signatures fixed, bodies to be written.

use super::http::Head;

/// The value of `Sec-WebSocket-Accept`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptKey(pub String);

/// Every way to refuse a request. The order of the protocol page's checks is the order of declaration where both could apply.
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
    /// The status code.
    pub fn status(self) -> u16 {
        todo!()
    }

    /// Writes the whole answer into `out` (512 bytes always suffice) and returns its length.
    pub fn write(self, _out: &mut [u8]) -> usize {
        todo!()
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

/// Judges a request for the ingest routes. `allowed_origins`: `None` ignores `Origin`.
pub fn judge<'a>(_head: &Head<'a>, _situation: Situation, _allowed_origins: Option<&[String]>) -> Judgement<'a> {
    todo!()
}

/// Judges only the upgrade itself (426/400), on any path and without a token: for services that need neither.
pub fn judge_upgrade(_head: &Head<'_>) -> Result<AcceptKey, Refusal> {
    todo!()
}

/// Writes the 101 answer into `out` (256 bytes always suffice) and returns its length.
pub fn write_switching_protocols(_accept: &AcceptKey, _out: &mut [u8]) -> usize {
    todo!()
}
