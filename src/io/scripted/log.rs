//! What happened in a scripted world, in order: so that a test can cut it anywhere and ask what is left.

use super::World;
use super::state::State;
use crate::io::{FileHandle, Socket};
use rustix::io::Errno;
use std::rc::Rc;

/// Something that happened to a file, or to a peer.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file was made: allocated, its name durable.
    Created {
        /// Its handle.
        file: FileHandle,
        /// Bytes allocated.
        size: usize,
    },
    /// A write was submitted.
    Writing {
        /// Counts writes and syncs from 1.
        operation: u64,
        /// To this file.
        file: FileHandle,
        /// Where to, bytes.
        offset: usize,
        /// What.
        bytes: Rc<[u8]>,
    },
    /// A sync was submitted.
    Syncing {
        /// Counts writes and syncs from 1.
        operation: u64,
        /// Of this file.
        file: FileHandle,
    },
    /// A write or sync was completed: with so many bytes (0 for a sync), or an error.
    Done {
        /// Which one.
        operation: u64,
        /// How.
        result: Result<u32, Errno>,
    },
    /// A peer was sent bytes.
    Told {
        /// Its socket.
        socket: Socket,
        /// What.
        bytes: Vec<u8>,
    },
}

impl World {
    /// Keeps a log from now on.
    pub fn keep_log(&self) {
        self.state().log.get_or_insert_default();
    }

    /// How many events have happened since the log is kept.
    pub fn log_size(&self) -> usize {
        self.state().log.as_ref().map_or(0, Vec::len)
    }

    /// Takes all that happened since the log is kept, and keeps none any more.
    pub fn take_log(&self) -> Vec<Event> {
        self.state().log.take().unwrap_or_default()
    }
}

impl State {
    /// Something happened.
    pub(super) fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(log) = &mut self.log {
            log.push(event());
        }
    }
}
