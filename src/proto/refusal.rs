//! Every way to refuse a request before its upgrade, and what the answer then says.

#![forbid(unsafe_code)]

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

/// Declares each refusal once: `Name = status "reason", label: message`. `error` of the body is the
/// label, unless `as` names another one. `with` gives header lines of its own.
macro_rules! refusals {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $status:literal $reason:literal, $label:literal $(as $error:literal)?:
            $message:literal $(with $fields:literal)?,
    )+) => {
        /// Every way to refuse a request. If two could apply, the node checks the one declared
        /// first, in the order of `docs/protocol.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Refusal {
            $(
                $(#[doc = $doc])+
                #[doc = concat!(" Status ", $status, ".")]
                $name,
            )+
        }

        impl Refusal {
            /// All refusals, in the order of declaration.
            pub const ALL: [Refusal; Refusal::COUNT] = [$( Refusal::$name, )+];

            /// Number of refusals.
            pub(crate) const COUNT: usize = [$( $label, )+].len();

            pub(super) const fn wording(self) -> Wording {
                match self {
                    $(
                        Refusal::$name => Wording {
                            status: $status,
                            reason: $reason,
                            label: $label,
                            error: refusals!(@ $label $( $error )?),
                            message: $message,
                            fields: concat!($( $fields )?),
                        },
                    )+
                }
            }
        }
    };
    (@ $label:literal) => { $label };
    (@ $label:literal $error:literal) => { $error };
}

refusals! {
    /// Malformed request.
    BadRequest = 400 "Bad Request", "bad_request":
        "the request is not well-formed HTTP/1.1, or carries a body",
    /// The head is over its size or its number of fields.
    HeadTooLarge = 431 "Request Header Fields Too Large", "head_too_large":
        "send at most 8 KiB and 64 fields",
    /// No such route.
    NotFound = 404 "Not Found", "not_found":
        "the routes here are /v1/ingest and /health",
    /// Neither GET nor HEAD.
    MethodNotAllowed = 405 "Method Not Allowed", "method_not_allowed":
        "use GET"
        with "Allow: GET, HEAD\r\n",
    /// Plaintext ingest on a TLS port.
    PlaintextForbidden = 403 "Forbidden", "plaintext_forbidden" as "tls_required":
        "connect with wss://",
    /// The node is draining; the answer has `Retry-After`.
    Draining = 503 "Service Unavailable", "draining":
        "the node is going away: connect again, to another one",
    /// The node is at capacity; the answer has `Retry-After`.
    Capacity = 503 "Service Unavailable", "capacity":
        "the node is full: try again later or elsewhere",
    /// The origin is not allowed.
    OriginForbidden = 403 "Forbidden", "origin_forbidden":
        "this origin is not allowed here",
    /// Not an upgrade to WebSocket.
    UpgradeRequired = 426 "Upgrade Required", "upgrade_required":
        "connect with a WebSocket client, version 13"
        with "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    /// An upgrade request that is malformed.
    BadUpgrade = 400 "Bad Request", "bad_upgrade":
        "the WebSocket upgrade is malformed: see RFC 6455, section 4.2.1",
    /// No token given. The body is that of an invalid one: the peer is not told why its token
    /// failed.
    TokenMissing = 401 "Unauthorized", "token_missing" as "unauthorized":
        "send a valid token: Authorization: Bearer JWT"
        with "WWW-Authenticate: Bearer realm=\"ingest\"\r\n",
    /// The token is not accepted.
    TokenInvalid = 401 "Unauthorized", "token_invalid" as "unauthorized":
        "send a valid token: Authorization: Bearer JWT"
        with "WWW-Authenticate: Bearer realm=\"ingest\", error=\"invalid_token\"\r\n",
    /// The client's certificate does not name the token's tenant.
    ClientForbidden = 403 "Forbidden", "client_forbidden":
        "the client's certificate does not name the tenant of the token",
    /// The tenant is at its quota; the answer has `Retry-After`.
    Quota = 429 "Too Many Requests", "quota":
        "this tenant has all the calls it may have: try again later",
    /// The address makes too many connections; the answer has `Retry-After`.
    AddressRate = 429 "Too Many Requests", "address_rate":
        "this address connects too often: try again later",
    /// The head did not complete in time.
    HeadTimeout = 408 "Request Timeout", "head_timeout":
        "send the whole request at once",
}

impl Refusal {
    /// Index in [`Refusal::ALL`], for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The status code.
    pub fn status(self) -> u16 {
        self.wording().status
    }

    /// Label in metrics.
    pub(crate) fn label(self) -> &'static str {
        self.wording().label
    }
}
