//! The accepts of a shard: armed for as many connections as there are places, paused while the host
//! is short of descriptors or memory, and stopped for good once the port closes.
//!
//! ```text
//!   Armed ◄────► Paused
//!     └─────┬──────┘
//!           ▼
//!        Stopping ──the last armed accept has ended──► Stopped, the port is closed
//! ```
//! No more accepts are armed than there are places, so a flood waits in the kernel's backlog.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use crate::constants::ACCEPTS_MAX;
use crate::io::{Io, OpKind, UserData};

/// Whether connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They are, as far as there are places.
    Armed,
    /// Not before this moment.
    Paused(Moment),
    /// Accepts are being cancelled.
    Stopping,
    /// No more, ever.
    Stopped,
}

/// The accepts of a shard.
#[derive(Debug)]
pub(super) struct Accepts {
    state: State,
    /// A bit for each accept that is armed.
    armed: u32,
}

impl Accepts {
    pub(super) fn new() -> Self {
        Accepts { state: State::Armed, armed: 0 }
    }

    /// Whether connections are accepted, as far as there are places.
    pub(super) fn is_accepting(&self) -> bool {
        self.state == State::Armed
    }

    /// Whether the port is closed.
    pub(super) fn has_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// When a pause ends.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match self.state {
            State::Paused(until) => Some(until),
            State::Armed | State::Stopping | State::Stopped => None,
        }
    }

    /// Once a turn: ends a pause whose time is over.
    pub(super) fn handle_turn(&mut self, now: Moment) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.state = State::Armed;
        }
    }

    pub(super) fn armed_count(&self) -> usize {
        self.armed.count_ones() as usize
    }

    /// Arms accepts until there is one for each of so many places, or the maximum is armed.
    pub(super) fn arm<I: Io>(&mut self, io: &mut I, places: usize) {
        if self.state != State::Armed {
            return;
        }
        while self.armed_count() < places.min(ACCEPTS_MAX) {
            let index = self.armed.trailing_ones();
            self.armed |= 1 << index;
            io.accept(UserData::of_slot(OpKind::Accept, index));
        }
    }

    /// The accept with this index has ended, with a connection or without.
    pub(super) fn handle_end(&mut self, index: u32) {
        self.armed &= !1u32.checked_shl(index).unwrap_or(0);
    }

    /// Accepting failed for a reason of the host: it is not tried again before `until`.
    pub(super) fn pause<I: Io>(&mut self, io: &mut I, until: Moment) {
        if self.state == State::Armed {
            self.state = State::Paused(until);
            self.cancel(io);
        }
    }

    /// The port closes, at once or as soon as the armed accepts have ended. Returns whether that is
    /// news.
    pub(super) fn stop<I: Io>(&mut self, io: &mut I) -> bool {
        if matches!(self.state, State::Stopping | State::Stopped) {
            return false;
        }
        self.state = State::Stopping;
        self.cancel(io);
        self.close_when_idle(io);
        true
    }

    /// Closes the port that is to be closed, once no accept is armed.
    pub(super) fn close_when_idle<I: Io>(&mut self, io: &mut I) {
        if self.state == State::Stopping && self.armed == 0 {
            self.state = State::Stopped;
            io.close_listener();
        }
    }

    /// Cancels the armed accepts. Some may still bring a connection.
    fn cancel<I: Io>(&mut self, io: &mut I) {
        for index in (0..ACCEPTS_MAX as u32).filter(|index| self.armed & 1 << index != 0) {
            io.cancel(UserData::of_slot(OpKind::Accept, index), UserData::lone(OpKind::Cancel));
        }
    }
}

const _: () = assert!(ACCEPTS_MAX <= u32::BITS as usize);
