//! Which side has ended a connection.
//!
//! ```text
//!   Open ──our FIN──► ShutDown ──the peer's FIN──► Finished
//!     └──the peer's FIN──► PeerFinished: closed once our last bytes are out, without a FIN
//!   any of them ──reset, failed, given up──► Broken
//! ```
#![forbid(unsafe_code)]

use crate::session::Disconnect;

/// Which side has ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Neither.
    Open,
    /// The peer's FIN has come. It may still read.
    PeerFinished,
    /// Our FIN has gone out. The peer may still send.
    ShutDown,
    /// Both FINs.
    Finished,
    /// The connection is of no more use.
    Broken,
}

impl Ends {
    /// Whether the peer may still send.
    pub(crate) fn is_readable(self) -> bool {
        matches!(self, Ends::Open | Ends::ShutDown)
    }

    /// Whether the peer has ended its side of a connection that is not broken.
    pub(crate) fn is_finished_by_peer(self) -> bool {
        matches!(self, Ends::PeerFinished | Ends::Finished)
    }

    /// Whether we have ended our side of a connection that is not broken.
    pub(crate) fn is_shut_down(self) -> bool {
        matches!(self, Ends::ShutDown | Ends::Finished)
    }

    /// The peer's direction has ended; returns whether that is news.
    pub(crate) fn handle_disconnect(&mut self, disconnect: Disconnect) -> bool {
        let next = match (*self, disconnect) {
            (Ends::Broken, _) | (_, Disconnect::Reset) => Ends::Broken,
            (Ends::Open | Ends::PeerFinished, Disconnect::Finished) => Ends::PeerFinished,
            (Ends::ShutDown | Ends::Finished, Disconnect::Finished) => Ends::Finished,
        };
        std::mem::replace(self, next) != next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_news_once_and_a_reset_is_the_last() {
        for (before, after) in [(Ends::Open, Ends::PeerFinished), (Ends::ShutDown, Ends::Finished)]
        {
            let mut ends = before;
            assert!(ends.is_readable());
            assert!(ends.handle_disconnect(Disconnect::Finished));
            assert_eq!(ends, after);
            assert!(ends.is_finished_by_peer() && !ends.is_readable());
            assert_eq!(ends.is_shut_down(), before.is_shut_down());
            assert!(!ends.handle_disconnect(Disconnect::Finished));
            assert!(ends.handle_disconnect(Disconnect::Reset));
            for disconnect in [Disconnect::Reset, Disconnect::Finished] {
                assert!(!ends.handle_disconnect(disconnect));
                assert_eq!(ends, Ends::Broken);
            }
            assert!(!ends.is_readable() && !ends.is_finished_by_peer() && !ends.is_shut_down());
        }
    }
}
