//! The phase of a session, and which deadlines count in it.
//!
//! ```text
//!          start               stop                promise holds
//! Waiting ──────► Live ──────────────► Stopping ────────────────┐
//!    │             │ peer's Close       acks sent, or after 5 s ▼
//!    │             └──────────────► Leaving ────────────────► Closing ─ last byte sent ─► Finished
//!    │  acks sent, or after 5 s                                 ▲ ▲
//!    │                   ┌── Refusing ──────────────────────────┘ │
//!    └── a refusal, a timer, a notice: from any phase ────────────┘
//! ```

#![forbid(unsafe_code)]

use super::timers::Armed;

/// The phase of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No valid `start` yet.
    Waiting,
    /// Audio is accepted.
    Live,
    /// `stop` came: waits for the promise of the last frame before it says `stopped`.
    Stopping,
    /// The peer's Close came: waits for the acks that are due by count.
    Leaving,
    /// We refuse what came. The last bytes are decided, and wait for the acks that are due by
    /// count.
    Refusing,
    /// The last bytes are decided; what is owed is sent first, then they are.
    Closing,
    /// The last bytes are sent, or the connection is gone.
    Finished,
}

impl Phase {
    /// `is_closed`: the peer has sent its Close. `is_half_closed`: the peer has ended its side of
    /// the connection.
    pub(super) fn armed(self, is_closed: bool, is_half_closed: bool) -> Armed {
        match self {
            Phase::Waiting => {
                Armed { start: true, silence: true, stalled: true, expiry: true, close: false }
            }
            Phase::Live => Armed { silence: true, stalled: true, expiry: true, ..Armed::default() },
            // A peer that cannot send any more has no silence timeout: only we can end its wait.
            Phase::Stopping if !is_closed => {
                Armed { silence: !is_half_closed, stalled: true, ..Armed::default() }
            }
            Phase::Stopping | Phase::Leaving | Phase::Refusing | Phase::Closing => {
                Armed { close: true, ..Armed::default() }
            }
            Phase::Finished => Armed::default(),
        }
    }
}
