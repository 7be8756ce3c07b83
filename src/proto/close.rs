//! Every way in which we close an upgraded connection: the code, the reason, and what the peer is
//! told first.

#![forbid(unsafe_code)]

use super::Violation;

/// Why we send a Close: one variant for each row of the table in `docs/protocol.md`, and the normal
/// end of a call.
///
/// A Close of the peer is answered with the peer's code and has no variant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Closing {
    /// 1000: after `stopped`.
    Normal,
    /// 4400: invalid JSON, a missing or mistyped member, or a bad rate, encoding or id.
    InvalidStart,
    /// 4400: audio or `stop` before `start`.
    StartRequired,
    /// 4400: a second `start` that differs from the first.
    AlreadyStarted,
    /// 4400: a frame of odd length where `strict_pcm` is set.
    OddLength,
    /// 4401: the token expired during the call, and the node is set to close such calls.
    TokenExpired,
    /// 4403: the token's claims and `start` differ.
    ClaimMismatch,
    /// 4409: the same call connected again.
    Superseded,
    /// 4408: no `start` in time.
    StartTimeout,
    /// 4408: nothing came for too long.
    IdleTimeout,
    /// 4408: the peer does not read.
    AckStalled,
    /// 4429: audio runs further ahead of real time than allowed.
    TooFast,
    /// 1013: the journal cannot take more.
    Storage,
    /// 1001: the node is draining.
    Draining,
    /// 1002: RFC 6455 was broken.
    Protocol,
    /// 1007: text or a close reason that is not UTF-8.
    NotUtf8,
    /// 1009: a message, text or number of fragments over its limit.
    TooBig,
    /// 1008: too many control frames or texts.
    Flood,
}

impl Closing {
    /// Number of variants.
    pub const COUNT: usize = 18;

    /// All variants, in the order of [`Closing::index`].
    pub const ALL: [Closing; Closing::COUNT] = [
        Closing::Normal,
        Closing::InvalidStart,
        Closing::StartRequired,
        Closing::AlreadyStarted,
        Closing::OddLength,
        Closing::TokenExpired,
        Closing::ClaimMismatch,
        Closing::Superseded,
        Closing::StartTimeout,
        Closing::IdleTimeout,
        Closing::AckStalled,
        Closing::TooFast,
        Closing::Storage,
        Closing::Draining,
        Closing::Protocol,
        Closing::NotUtf8,
        Closing::TooBig,
        Closing::Flood,
    ];

    /// Index in arrays of [`Closing::COUNT`] elements.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Code of the Close.
    pub const fn code(self) -> u16 {
        match self {
            Closing::Normal => 1000,
            Closing::InvalidStart
            | Closing::StartRequired
            | Closing::AlreadyStarted
            | Closing::OddLength => 4400,
            Closing::TokenExpired => 4401,
            Closing::ClaimMismatch => 4403,
            Closing::StartTimeout | Closing::IdleTimeout | Closing::AckStalled => 4408,
            Closing::Superseded => 4409,
            Closing::TooFast => 4429,
            Closing::Storage => 1013,
            Closing::Draining => 1001,
            Closing::Protocol => Violation::Protocol("").close_code(),
            Closing::NotUtf8 => Violation::NotUtf8.close_code(),
            Closing::TooBig => Violation::TooBig("").close_code(),
            Closing::Flood => Violation::Flood.close_code(),
        }
    }

    /// Text of the Close, and `reason` of the error event. Empty if the code of RFC 6455 says
    /// everything.
    pub const fn reason(self) -> &'static str {
        match self {
            Closing::Normal
            | Closing::Protocol
            | Closing::NotUtf8
            | Closing::TooBig
            | Closing::Flood => "",
            _ => self.label(),
        }
    }

    /// Label of counters.
    pub const fn label(self) -> &'static str {
        match self {
            Closing::Normal => "normal",
            Closing::InvalidStart => "invalid_start",
            Closing::StartRequired => "start_required",
            Closing::AlreadyStarted => "already_started",
            Closing::OddLength => "odd_length",
            Closing::TokenExpired => "token_expired",
            Closing::ClaimMismatch => "claim_mismatch",
            Closing::Superseded => "superseded",
            Closing::StartTimeout => "start_timeout",
            Closing::IdleTimeout => "idle_timeout",
            Closing::AckStalled => "ack_stalled",
            Closing::TooFast => "too_fast",
            Closing::Storage => "storage",
            Closing::Draining => "draining",
            Closing::Protocol => "protocol",
            Closing::NotUtf8 => "not_utf8",
            Closing::TooBig => "too_big",
            Closing::Flood => "flood",
        }
    }

    /// Whether an error event is sent before the Close: for our own codes, and for 1013 and 1001.
    pub const fn has_event(self) -> bool {
        matches!(self.code(), 1001 | 1013 | 4000..)
    }

    /// `code` of the error event: the HTTP status that our code is based on; codes of RFC 6455 stay
    /// as they are.
    pub const fn event_code(self) -> u16 {
        match self.code() {
            code @ 4000.. => code - 4000,
            code => code,
        }
    }

    /// Whether the peer can succeed if it connects again with the same token and the same `start`.
    pub const fn is_retryable(self) -> bool {
        match self {
            Closing::StartTimeout
            | Closing::IdleTimeout
            | Closing::AckStalled
            | Closing::Storage
            | Closing::Draining => true,
            Closing::Normal
            | Closing::InvalidStart
            | Closing::StartRequired
            | Closing::AlreadyStarted
            | Closing::OddLength
            | Closing::TokenExpired
            | Closing::ClaimMismatch
            | Closing::Superseded
            | Closing::TooFast
            | Closing::Protocol
            | Closing::NotUtf8
            | Closing::TooBig
            | Closing::Flood => false,
        }
    }

    /// `message` of the error event: what is wrong and what to do about it. Empty if no event is
    /// sent.
    pub const fn message(self) -> &'static str {
        match self {
            Closing::Normal
            | Closing::Protocol
            | Closing::NotUtf8
            | Closing::TooBig
            | Closing::Flood => "",
            Closing::InvalidStart => "the event is not valid: correct it and connect again",
            Closing::StartRequired => "the call has not started: send a start event first",
            Closing::AlreadyStarted => {
                "the call has started with other values: open a connection for each call"
            }
            Closing::OddLength => "a frame of odd length is not pcm16: send whole 16-bit samples",
            Closing::TokenExpired => "the token has expired: connect again with a new one",
            Closing::ClaimMismatch => {
                "start and token name different calls: send the ids that the token was issued for"
            }
            Closing::Superseded => "a later connection has taken this call over: send on that one",
            Closing::StartTimeout => "no start event came in time: send it right after connecting",
            Closing::IdleTimeout => {
                "nothing came for too long: connect again, send audio or answer pings"
            }
            Closing::AckStalled => {
                "our messages are not being read: connect again and read them as they come"
            }
            Closing::TooFast => {
                "audio runs too far ahead of real time: send it at the pace of the call"
            }
            Closing::Storage => {
                "the node cannot store audio now: connect again, with a growing delay"
            }
            Closing::Draining => "the node is shutting down: connect again",
        }
    }
}

impl From<Violation> for Closing {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Protocol(_) => Closing::Protocol,
            Violation::NotUtf8 => Closing::NotUtf8,
            Violation::TooBig(_) => Closing::TooBig,
            Violation::Flood => Closing::Flood,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::CONTROL_PAYLOAD_SIZE_MAX;

    #[test]
    fn the_list_is_complete_and_in_order() {
        for (index, closing) in Closing::ALL.into_iter().enumerate() {
            assert_eq!(closing.index(), index);
        }
        let mut labels = Closing::ALL.map(Closing::label);
        labels.sort_unstable();
        assert!(labels.windows(2).all(|pair| pair[0] < pair[1]), "two closings share a label");
    }

    #[test]
    fn events_go_before_our_own_codes_and_two_of_the_rfcs() {
        for closing in Closing::ALL {
            let expected =
                closing.code() >= 4000 || closing.code() == 1013 || closing.code() == 1001;
            assert_eq!(closing.has_event(), expected, "{closing:?}");
            assert_eq!(closing.message().is_empty(), !expected, "{closing:?}");
            assert_eq!(closing.reason().is_empty(), !expected, "{closing:?}");
            assert!(2 + closing.reason().len() <= CONTROL_PAYLOAD_SIZE_MAX);
        }
        assert_eq!(Closing::InvalidStart.event_code(), 400);
        assert_eq!(Closing::TooFast.event_code(), 429);
        assert_eq!((Closing::Storage.event_code(), Closing::Draining.event_code()), (1013, 1001));
    }

    #[test]
    fn violations_keep_their_codes() {
        let violations = [
            Violation::Protocol("x"),
            Violation::NotUtf8,
            Violation::TooBig("x"),
            Violation::Flood,
        ];
        for violation in violations {
            assert_eq!(Closing::from(violation).code(), violation.close_code());
        }
    }
}
