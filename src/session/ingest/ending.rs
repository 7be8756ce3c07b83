//! How a call ended on a connection, as stored in end records.

#![forbid(unsafe_code)]

use crate::proto::close::Closing;

/// Declares each ending once: `Name = number "label", Closings`. A live call that we close with one
/// of these closings ends so.
macro_rules! endings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $number:literal $label:literal $(, $($closing:ident)|+)?;
    )+) => {
        /// Why a connection brings no more audio of a call. The numbers are part of the journal's
        /// format: they never get a new meaning, and 0 is not one of them. If a call has no end
        /// record, the node itself ended first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Ending {
            $( $(#[doc = $doc])+ $name = $number, )+
        }

        impl Ending {
            /// All variants, in the order of [`Ending::index`].
            pub const ALL: [Ending; Ending::COUNT] = [$( Ending::$name, )+];

            /// Number of variants.
            pub(crate) const COUNT: usize = [$( $label, )+].len();

            /// Label of counters and listings.
            pub const fn label(self) -> &'static str {
                match self { $( Ending::$name => $label, )+ }
            }

            /// The ending of a live call that we close with `closing`.
            pub const fn of_closing(closing: Closing) -> Ending {
                match closing { $($( $(Closing::$closing)|+ => Ending::$name, )?)+ }
            }
        }
    };
}

endings! {
    /// The peer sent `stop`.
    Stopped = 1 "stopped", Normal;
    /// The peer sent a Close without `stop`.
    PeerClosed = 2 "peer_closed";
    /// The peer ended its side of the connection without a Close.
    Finished = 3 "finished";
    /// The connection was reset, or failed in another way.
    Reset = 4 "reset";
    /// A later connection took the call over.
    Superseded = 5 "superseded", Superseded;
    /// The node drained.
    Drained = 6 "drained", Draining;
    /// The journal could not accept more.
    Storage = 7 "storage", Storage;
    /// Nothing came for too long.
    IdleTimeout = 8 "idle_timeout", IdleTimeout;
    /// The peer did not read.
    AckStalled = 9 "ack_stalled", AckStalled;
    /// Audio ran too far ahead of real time.
    TooFast = 10 "too_fast", TooFast;
    /// The peer sent an event or a frame that the session does not allow.
    Refused = 11 "refused",
        InvalidStart | StartRequired | AlreadyStarted | OddLength | ClaimMismatch | StartTimeout;
    /// The peer violated RFC 6455, or a limit on messages.
    Violation = 12 "violation", Protocol | NotUtf8 | TooBig | Flood;
    /// The token expired.
    TokenExpired = 13 "token_expired", TokenExpired;
    /// The message engine did not acknowledge the call's audio.
    Engine = 14 "engine", Engine;
}

impl Ending {
    /// Number in end records.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// From the number in an end record; `None` if a later version wrote it.
    pub fn from_number(number: u16) -> Option<Ending> {
        Ending::ALL.into_iter().find(|ending| ending.number() == number)
    }

    /// Index in arrays of [`Ending::COUNT`] elements.
    pub const fn index(self) -> usize {
        self as usize - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal may be older than the program that reads it, so this list may only grow.
    #[test]
    fn numbers_never_change() {
        let numbers = Ending::ALL.map(|ending| (ending.number(), ending.label()));
        let expected = [
            (1, "stopped"),
            (2, "peer_closed"),
            (3, "finished"),
            (4, "reset"),
            (5, "superseded"),
            (6, "drained"),
            (7, "storage"),
            (8, "idle_timeout"),
            (9, "ack_stalled"),
            (10, "too_fast"),
            (11, "refused"),
            (12, "violation"),
            (13, "token_expired"),
            (14, "engine"),
        ];
        assert_eq!(numbers, expected);
        for (index, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending.index(), index);
            assert_eq!(Ending::from_number(ending.number()), Some(ending));
        }
        assert_eq!((Ending::from_number(0), Ending::from_number(15)), (None, None));
    }
}
