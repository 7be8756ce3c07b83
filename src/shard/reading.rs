//! How a connection is read: a part of its state. [`read_queue`](super::read_queue) holds those
//! that wait to be read.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use std::time::Duration;

/// What the bytes of a queued connection need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// An upgraded connection: its bytes need room in the frame ring.
    Calls,
    /// A request, or a connection that ends: its bytes need none.
    Others,
}

/// How a connection is read: by an armed receive, which takes all that comes, or one read at a
/// time.
///
/// ```text
///   Idle ◄────► Armed ──nothing more is taken──► Cancelling ──► Idle
///                 └──not all may be read──► Queued ◄────► Once ──all is read──► Idle
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// No operation is under way. A receive is armed next, unless nothing more is taken.
    Idle,
    /// A receive is armed.
    Armed,
    /// The receive is being cancelled.
    Cancelling,
    /// It waits in a lane of the read queue. What the peer sends stays in the socket.
    Queued {
        /// What its bytes need.
        lane: Lane,
        /// When we stopped reading all that comes.
        since: Moment,
        /// An operation that began before is still under way.
        is_busy: bool,
    },
    /// The socket is being read once.
    Once {
        /// When we stopped reading all that comes.
        since: Moment,
    },
}

impl Reading {
    /// Whether an operation is under way.
    pub(crate) fn is_under_way(self) -> bool {
        match self {
            Reading::Armed | Reading::Cancelling | Reading::Once { .. } => true,
            Reading::Queued { is_busy, .. } => is_busy,
            Reading::Idle => false,
        }
    }

    /// When we stopped reading all that comes, if we have.
    pub(crate) fn paused_since(self) -> Option<Moment> {
        match self {
            Reading::Queued { since, .. } | Reading::Once { since } => Some(since),
            Reading::Idle | Reading::Armed | Reading::Cancelling => None,
        }
    }

    /// The lane in which it waits.
    pub(crate) fn lane(self) -> Option<Lane> {
        match self {
            Reading::Queued { lane, .. } => Some(lane),
            _ => None,
        }
    }

    /// An armed receive has ended. The end of a single read is for the read queue to handle.
    pub(crate) fn handle_receive_end(&mut self) {
        match self {
            Reading::Armed | Reading::Cancelling => *self = Reading::Idle,
            Reading::Queued { is_busy, .. } => *is_busy = false,
            Reading::Idle | Reading::Once { .. } => {}
        }
    }

    /// The shard stood still for `gap` until now. A pause ends later by that gap anyway, so it is
    /// not counted twice.
    pub(crate) fn handle_standstill(&mut self, now: Moment, gap: Duration) {
        if let Reading::Queued { since, .. } | Reading::Once { since } = self {
            *since = (*since + gap).min(now);
        }
    }
}
