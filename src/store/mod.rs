#![forbid(unsafe_code)]
//! The store of a node's segments: makes their files, seals them, and removes old ones. It never
//! writes audio.
//!
//! ```text
//! shard ──Prepare──► store: create, lock, allocate, name, sync ──told: Segment──► shard writes
//! shard ──Retire───► store ──► keeper: cut to its end, store its index, close (which unlocks),
//!                                      later remove
//! ```
//! Each thread has its own work, so that a slow one delays no other:
//! - `store` makes segments, and nothing else. Shards wait for it.
//! - `keeper` seals, removes, and watches the room. It works in small steps.
//! - `indexer` and `recovery` read segments, and rest far longer than they read.
//!
//! The store holds the open files, and shards only their numbers. So the store outlives the
//! shards ([`StoreThread::join`]).

use crate::journal::writer::PreparedSegment;
#[cfg(test)]
pub(crate) use attempt::Doubt;
pub(crate) use attempt::{Examined, examine, live_node, try_directory, try_disk};
pub use config::{Budget, JournalConfig, OverBudget};
pub(crate) use error::StoreError;
pub(crate) use run::Run;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub(crate) use thread::StoreThread;
pub use view::{DiskSize, JournalSize, StoreView};

mod attempt;
mod budget;
mod config;
mod disk;
mod error;
mod fenced;
mod filesystem;
mod forecast;
mod indexer;
mod inventory;
mod keeper;
mod live;
mod maker;
mod outbox;
mod removal;
mod report;
mod retention;
mod run;
mod sealing;
mod state;
#[cfg(test)]
mod tests;
mod thread;
mod tidy;
mod view;

/// What the store tells a shard.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// The segment that it asked for.
    Segment(PreparedSegment),
    /// The disk has no room for the segment that it asked for. The segment follows once there is.
    NoRoom,
    /// Whether the disk has less free than new calls may use.
    Reserve {
        /// It has.
        is_low: bool,
    },
    /// Whether more waits for required sinks than may.
    Budget {
        /// It does: new calls are to be refused.
        is_over: bool,
    },
    /// Seal what the shard has received so far.
    Seal,
}

/// Tells the shard of this number. It does not wait: an event that the shard has no room for comes
/// back.
type Tell = Arc<dyn Fn(usize, StoreEvent) -> Result<(), StoreEvent> + Send + Sync>;

fn remove_if_there(path: &Path) -> io::Result<()> {
    missing_is_fine(std::fs::remove_file(path))
}

/// Ignores that a file does not exist.
fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A panic while it was held leaves whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory that another process has removed meanwhile is empty.
fn gone<T: Default>(error: io::Error) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(T::default()) } else { Err(error) }
}
