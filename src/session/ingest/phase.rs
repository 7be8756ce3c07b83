//! How far a session has come, and which of its deadlines count then.
//!
//! ```text
//!          start                stop                 promise holds
//! Waiting ───────► Live ───────────────► Stopping ──────────────────┐
//!    │              │ peer's Close       due acks went, or 5 s over ▼
//!    │              └───────────────► Leaving ──────────────────► Closing ── last byte out ──► Finished
//!    │   due acks went, or 5 s over                                 ▲ ▲
//!    │                   ┌── Refusing ──────────────────────────────┘ │
//!    └── a refusal, a timer, a notice: from anywhere ────────────────┘
//! ```

#![forbid(unsafe_code)]

use super::timers::Armed;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No valid `start` yet.
    Waiting,
    /// Audio is taken.
    Live,
    /// `stop` came: waits for the promise of the last frame, to say `stopped`.
    Stopping,
    /// The peer's Close came: waits for the acks due by count.
    Leaving,
    /// We refuse what came: our last words are decided, and wait for the acks due by count.
    Refusing,
    /// Our last words are decided; what is owed goes out, then they.
    Closing,
    /// They are out, or there is nobody to hear them.
    Finished,
}

impl Phase {
    /// `is_closed`: the peer has sent its Close. `is_half_closed`: it has ended its side of the connection.
    pub(super) fn armed(self, is_closed: bool, is_half_closed: bool) -> Armed {
        match self {
            Phase::Waiting => Armed { start: true, silence: true, stalled: true, expiry: true, close: false },
            Phase::Live => Armed { silence: true, stalled: true, expiry: true, ..Armed::default() },
            // Whoever cannot send any more is not held to silence: what it waits for is ours to bring about.
            Phase::Stopping if !is_closed => Armed { silence: !is_half_closed, stalled: true, ..Armed::default() },
            Phase::Stopping | Phase::Leaving | Phase::Refusing | Phase::Closing => Armed { close: true, ..Armed::default() },
            Phase::Finished => Armed::default(),
        }
    }
}
