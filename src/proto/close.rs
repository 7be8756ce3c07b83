//! Every way in which we close an upgraded connection: the code, the reason, and what the peer is
//! told first.

#![forbid(unsafe_code)]

use super::Violation;

/// Declares each closing once: `Name = code "label" retry: "message of the error event"`. `retry`
/// says that a new connection can succeed, and `final` that it cannot. A closing without an event
/// has no message: its code, one of RFC 6455, says everything.
macro_rules! closings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $code:literal $label:literal $retry:ident $(: $message:literal)?,
    )+) => {
        /// Why we send a Close: one variant for each row of the table in `docs/protocol.md`, and
        /// the normal end of a call.
        ///
        /// A Close of the peer is answered with the peer's code and has no variant here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Closing {
            $(
                $(#[doc = $doc])+
                #[doc = concat!(" Code ", $code, ".")]
                $name,
            )+
        }

        impl Closing {
            /// All variants, in the order of [`Closing::index`].
            pub const ALL: [Closing; Closing::COUNT] = [$( Closing::$name, )+];

            /// Number of variants.
            pub(crate) const COUNT: usize = [$( $label, )+].len();

            /// Code of the Close.
            pub const fn code(self) -> u16 {
                match self { $( Closing::$name => $code, )+ }
            }

            /// Label of counters.
            pub const fn label(self) -> &'static str {
                match self { $( Closing::$name => $label, )+ }
            }

            /// Whether the peer can succeed if it connects again with the same token and the same
            /// `start`.
            pub const fn is_retryable(self) -> bool {
                match self { $( Closing::$name => closings!(@ $retry), )+ }
            }

            /// `message` of the error event: what is wrong and what to do about it. Empty if no
            /// event is sent.
            pub(crate) const fn message(self) -> &'static str {
                match self { $( Closing::$name => concat!($( $message )?), )+ }
            }
        }
    };
    (@ retry) => { true };
    (@ final) => { false };
}

closings! {
    /// After `stopped`.
    Normal = 1000 "normal" final,
    /// Invalid JSON, a missing or mistyped member, or a bad rate, encoding or id.
    InvalidStart = 4400 "invalid_start" final:
        "the event is not valid: correct it and connect again",
    /// Audio or `stop` before `start`.
    StartRequired = 4400 "start_required" final:
        "the call has not started: send a start event first",
    /// A second `start` that differs from the first.
    AlreadyStarted = 4400 "already_started" final:
        "the call has started with other values: open a connection for each call",
    /// A frame of odd length where `strict_pcm` is set.
    OddLength = 4400 "odd_length" final:
        "a frame of odd length is not pcm16: send whole 16-bit samples",
    /// The token expired during the call, and the node is set to close such calls.
    TokenExpired = 4401 "token_expired" final:
        "the token has expired: connect again with a new one",
    /// The token's claims and `start` differ.
    ClaimMismatch = 4403 "claim_mismatch" final:
        "start and token name different calls: send the ids that the token was issued for",
    /// The same call connected again.
    Superseded = 4409 "superseded" final:
        "a later connection has taken this call over: send on that one",
    /// No `start` in time.
    StartTimeout = 4408 "start_timeout" retry:
        "no start event came in time: send it right after connecting",
    /// Nothing came for too long.
    IdleTimeout = 4408 "idle_timeout" retry:
        "nothing came for too long: connect again, send audio or answer pings",
    /// The peer does not read.
    AckStalled = 4408 "ack_stalled" retry:
        "our messages are not being read: connect again and read them as they come",
    /// Audio runs further ahead of real time than allowed.
    TooFast = 4429 "too_fast" final:
        "audio runs too far ahead of real time: send it at the pace of the call",
    /// The journal cannot take more.
    Storage = 1013 "storage" retry:
        "the node cannot store audio now: connect again, with a growing delay",
    /// The message engine does not acknowledge audio.
    Engine = 1013 "engine" retry:
        "the message engine does not answer or cannot have all audio of this call, so the node \
         cannot acknowledge it: connect again, with a growing delay",
    /// The node is draining.
    Draining = 1001 "draining" retry:
        "the node is shutting down: connect again",
    /// RFC 6455 was broken.
    Protocol = 1002 "protocol" final,
    /// Text or a close reason that is not UTF-8.
    NotUtf8 = 1007 "not_utf8" final,
    /// A message, text or number of fragments over its limit.
    TooBig = 1009 "too_big" final,
    /// Too many control frames or texts.
    Flood = 1008 "flood" final,
}

impl Closing {
    /// Index in arrays of [`Closing::COUNT`] elements.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Text of the Close, and `reason` of the error event. Empty if the code of RFC 6455 says
    /// everything.
    pub const fn reason(self) -> &'static str {
        if self.has_event() { self.label() } else { "" }
    }

    /// Whether an error event is sent before the Close: for our own codes, and for 1013 and 1001.
    pub const fn has_event(self) -> bool {
        matches!(self.code(), 1001 | 1013 | 4000..)
    }

    /// `code` of the error event: the HTTP status that our code is based on; codes of RFC 6455 stay
    /// as they are.
    pub(crate) const fn event_code(self) -> u16 {
        match self.code() {
            code @ 4000.. => code - 4000,
            code => code,
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
