//! Every way to refuse a request before its upgrade, and what the answer then says.

#![forbid(unsafe_code)]

/// Every way to refuse a request. If two could apply, the node checks the one declared first, in
/// the order of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// 400: malformed request.
    BadRequest,
    /// 431: the head is over its size or its number of fields.
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
    /// 400: an upgrade request that is malformed.
    BadUpgrade,
    /// 401 without `error`: no token given.
    TokenMissing,
    /// 401 with `error="invalid_token"`.
    TokenInvalid,
    /// 403: the client's certificate does not name the token's tenant.
    ClientForbidden,
    /// 429 with `Retry-After`: the tenant is at its quota.
    Quota,
    /// 429 with `Retry-After`: the address makes too many connections.
    AddressRate,
    /// 408: the head did not complete in time.
    HeadTimeout,
}

const _: () = assert!(Refusal::HeadTimeout as usize + 1 == Refusal::COUNT);

/// What is sent for a [`Refusal`].
pub(super) struct Wording {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    /// Label in metrics.
    pub(super) label: &'static str,
    /// `error` in the body. Refusals that must look alike to the peer share one.
    pub(super) error: &'static str,
    /// `message` in the body: what to do. Contains nothing that JSON must escape.
    pub(super) message: &'static str,
    /// Header lines that only this refusal has.
    pub(super) fields: &'static str,
}

impl Refusal {
    /// Number of refusals.
    pub const COUNT: usize = 16;

    /// All refusals, in the order of declaration.
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
        Refusal::ClientForbidden,
        Refusal::Quota,
        Refusal::AddressRate,
        Refusal::HeadTimeout,
    ];

    /// Index in [`Refusal::ALL`], for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The status code.
    pub fn status(self) -> u16 {
        self.wording().status
    }

    /// Label in metrics.
    pub fn label(self) -> &'static str {
        self.wording().label
    }

    pub(super) fn wording(self) -> Wording {
        const BAD_REQUEST: &str = "Bad Request";
        const UNAUTHORIZED: &str = "Unauthorized";
        let word = |status, reason, label, error, message| Wording {
            status,
            reason,
            label,
            error,
            message,
            fields: "",
        };
        match self {
            Refusal::BadRequest => {
                let message = "the request is not well-formed HTTP/1.1, or carries a body";
                word(400, BAD_REQUEST, "bad_request", "bad_request", message)
            }
            Refusal::HeadTooLarge => {
                let message = "send at most 8 KiB and 64 fields";
                word(
                    431,
                    "Request Header Fields Too Large",
                    "head_too_large",
                    "head_too_large",
                    message,
                )
            }
            Refusal::NotFound => word(
                404,
                "Not Found",
                "not_found",
                "not_found",
                "the routes here are /v1/ingest and /health",
            ),
            Refusal::MethodNotAllowed => Wording {
                fields: "Allow: GET, HEAD\r\n",
                ..word(
                    405,
                    "Method Not Allowed",
                    "method_not_allowed",
                    "method_not_allowed",
                    "use GET",
                )
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
            Refusal::OriginForbidden => word(
                403,
                "Forbidden",
                "origin_forbidden",
                "origin_forbidden",
                "this origin is not allowed here",
            ),
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
            // Both have one body: the peer is not told why its token failed.
            Refusal::TokenMissing => Wording {
                fields: "WWW-Authenticate: Bearer realm=\"ingest\"\r\n",
                ..word(
                    401,
                    UNAUTHORIZED,
                    "token_missing",
                    "unauthorized",
                    "send a valid token: Authorization: Bearer JWT",
                )
            },
            Refusal::TokenInvalid => Wording {
                fields: "WWW-Authenticate: Bearer realm=\"ingest\", error=\"invalid_token\"\r\n",
                ..word(
                    401,
                    UNAUTHORIZED,
                    "token_invalid",
                    "unauthorized",
                    "send a valid token: Authorization: Bearer JWT",
                )
            },
            Refusal::ClientForbidden => {
                let message = "the client's certificate does not name the tenant of the token";
                word(403, "Forbidden", "client_forbidden", "client_forbidden", message)
            }
            Refusal::Quota => {
                let message = "this tenant has all the calls it may have: try again later";
                word(429, "Too Many Requests", "quota", "quota", message)
            }
            Refusal::AddressRate => {
                let message = "this address connects too often: try again later";
                word(429, "Too Many Requests", "address_rate", "address_rate", message)
            }
            Refusal::HeadTimeout => word(
                408,
                "Request Timeout",
                "head_timeout",
                "head_timeout",
                "send the whole request at once",
            ),
        }
    }
}
