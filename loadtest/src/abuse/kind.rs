//! The kinds of hostile peers: the defaults of each, and how a node should end it.

#![forbid(unsafe_code)]

use std::time::Duration;

use clap::ValueEnum;

use super::ending::Ending;

/// A kind of hostile peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Sockets that send one byte of a request head a second
    Slowloris,
    /// Sockets that send half a ClientHello and then nothing. For a plain port that is junk
    HalfTls,
    /// Valid calls that send one message as 1,000,000 fragments of 0 or 1 byte
    Fragments,
    /// Valid calls that send empty audio frames without pause
    EmptyFrames,
    /// Valid calls that send pings without pause
    Pings,
    /// Valid calls that make the node answer, and never read
    ZeroWindow,
    /// Upgrades with tokens that must not be accepted
    BadTokens,
    /// Connections that end by RST: in the head, after the upgrade, and amid a frame
    Resets,
    /// TLS connections that ask for new keys without pause (KeyUpdate). Needs a wss:// URL
    Renegotiate,
}

/// The defaults of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Peers at once.
    pub peers: u64,
    /// Connections a second, all peers together.
    pub rate: f64,
    /// How long peers connect.
    pub duration: Duration,
    /// The node must end a peer within this time.
    pub limit: Duration,
}

impl Kind {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slowloris => "slowloris",
            Self::HalfTls => "half-tls",
            Self::Fragments => "fragments",
            Self::EmptyFrames => "empty-frames",
            Self::Pings => "pings",
            Self::ZeroWindow => "zero-window",
            Self::BadTokens => "bad-tokens",
            Self::Resets => "resets",
            Self::Renegotiate => "renegotiate",
        }
    }

    /// The defaults.
    pub fn profile(self) -> Profile {
        let profile = |peers, rate, seconds, limit| Profile {
            peers,
            rate,
            duration: Duration::from_secs(seconds),
            limit: Duration::from_secs(limit),
        };
        match self {
            // The limit is the node's time for a request head, `timeouts.head`.
            Self::Slowloris => profile(10_000, 2_000.0, 20, 5),
            Self::HalfTls => profile(5_000, 1_000.0, 20, 5),
            Self::Fragments => profile(50, 50.0, 20, 5),
            Self::EmptyFrames => profile(50, 50.0, 20, 10),
            Self::Pings => profile(50, 50.0, 20, 5),
            // The node ends the call after 15 s without progress (`timeouts.ack_stalled`). The
            // socket may take 5 s more for a Close that is not read (`timeouts.close`), and 2 s
            // after that. The peer checks twice a second.
            Self::ZeroWindow => profile(200, 200.0, 20, 23),
            Self::BadTokens => profile(500, 5_000.0, 20, 5),
            Self::Resets => profile(200, 500.0, 20, 5),
            Self::Renegotiate => profile(50, 50.0, 20, 5),
        }
    }

    /// Whether its peers are calls until they turn hostile: they need valid tokens.
    pub fn is_call(self) -> bool {
        !matches!(self, Self::Slowloris | Self::HalfTls)
    }

    /// Whether its peers take their whole time. Then the attack lasts until the last one is ended.
    pub fn is_patient(self) -> bool {
        matches!(self, Self::Slowloris | Self::HalfTls | Self::ZeroWindow)
    }

    /// Whether a node may end a peer of this kind like this.
    pub fn expects(self, ending: &Ending) -> bool {
        use Ending::{Alert, Close, Fin, OwnReset, Reset, Status};
        // A node at its limit refuses every connection, before it reads a head.
        if *ending == Status(503) {
            return matches!(self, Self::Slowloris | Self::HalfTls | Self::BadTokens);
        }
        match self {
            Self::Slowloris => matches!(ending, Status(408)),
            Self::HalfTls => matches!(ending, Status(400 | 408) | Alert(_) | Fin | Reset),
            Self::Fragments => matches!(ending, Close(1009)),
            Self::EmptyFrames => matches!(ending, Close(4429)),
            Self::Pings => matches!(ending, Close(1008)),
            // The Close comes after bytes for which there is no room, so it cannot be read.
            Self::ZeroWindow => matches!(ending, Close(4408) | Fin | Reset),
            Self::BadTokens => matches!(ending, Status(401)),
            Self::Resets => matches!(ending, OwnReset),
            Self::Renegotiate => matches!(ending, Close(1008) | Alert(_) | Fin | Reset),
        }
    }

    /// How a node should end it, in words.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Slowloris => "408",
            Self::HalfTls => "400, 408, an alert, or the connection's end",
            Self::Fragments => "Close 1009",
            Self::EmptyFrames => "Close 4429",
            Self::Pings => "Close 1008",
            Self::ZeroWindow => "Close 4408 or a reset",
            Self::BadTokens => "401",
            Self::Resets => "nothing: the peer ends it",
            Self::Renegotiate => "Close 1008, an alert, or the connection's end",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
        }
    }

    #[test]
    fn no_kind_may_be_left_alone() {
        for kind in Kind::value_variants() {
            for ending in [Ending::NotClosed, Ending::Close(1000), Ending::Odd("x".to_owned())] {
                assert!(!kind.expects(&ending), "{kind:?} {ending}");
            }
        }
    }

    #[test]
    fn a_valid_call_is_no_matter_of_capacity() {
        assert!(Kind::Slowloris.expects(&Ending::Status(503)));
        assert!(!Kind::Fragments.expects(&Ending::Status(503)), "its attack was never played");
    }
}
