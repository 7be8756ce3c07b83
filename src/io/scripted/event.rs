//! Something that happens in a scripted world.

use crate::io::{FileHandle, Socket};
use rustix::io::Errno;
use std::rc::Rc;

/// An event of a file or a peer.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file was created: it is allocated and its name is durable.
    Created {
        /// Its handle.
        file: FileHandle,
        /// Bytes allocated.
        size: usize,
    },
    /// A write was submitted.
    Writing {
        /// Number of the operation; counts writes and syncs from 1.
        operation: u64,
        /// The file.
        file: FileHandle,
        /// Offset, bytes.
        offset: usize,
        /// The bytes.
        bytes: Rc<[u8]>,
    },
    /// A sync was submitted.
    Syncing {
        /// Number of the operation; counts writes and syncs from 1.
        operation: u64,
        /// The file.
        file: FileHandle,
    },
    /// A write or sync completed.
    Done {
        /// Number of the operation.
        operation: u64,
        /// Bytes written (0 for a sync), or the error.
        result: Result<u32, Errno>,
    },
    /// Bytes were sent to a peer.
    Told {
        /// Its socket.
        socket: Socket,
        /// The bytes.
        bytes: Vec<u8>,
    },
}
