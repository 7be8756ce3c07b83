//! Which segments retention must leave alone, because a required sink has not taken them. Each
//! required sink has its own pins, and a segment goes when all of them have freed it.
//!
//! The forwarder raises a shard's pin as the sink acknowledges. The store asks before it removes a
//! segment. Nothing is kept on disk: after a start everything is pinned until the forwarder has
//! looked at its cursor.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The pins of a sink in a data directory.
#[derive(Debug, Default)]
pub struct Pins {
    /// By the directory of the shard: the first segment that the sink has not taken whole.
    shards: Mutex<HashMap<PathBuf, u64>>,
    /// The sink's cursor was looked at once: what is still pinned is not taken.
    is_settled: AtomicBool,
    /// Bytes of segments that were removed although the sink had not taken them.
    dropped: AtomicU64,
}

impl Pins {
    /// Whether the sink has taken all of this segment.
    pub(crate) fn is_taken(&self, shard_dir: &Path, id: u64) -> bool {
        self.lock().get(shard_dir).is_some_and(|first| id < *first)
    }

    /// The first segment of the shard that the sink has not taken whole.
    pub(crate) fn first(&self, shard_dir: &Path) -> u64 {
        self.lock().get(shard_dir).copied().unwrap_or(0)
    }

    /// The cursor was looked at, or there is none to look at: from now on the pins are what the
    /// sink lacks.
    pub(crate) fn settle(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
    }

    /// Whether the pins are what the sink lacks.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    /// A segment was removed that the sink had not taken.
    pub(crate) fn count_dropped(&self, bytes: u64) {
        self.dropped.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of such segments since the start.
    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The sink has taken all segments of the shard before this one.
    pub(crate) fn raise(&self, shard_dir: &Path, first: u64) {
        let mut shards = self.lock();
        match shards.get_mut(shard_dir) {
            Some(pin) => *pin = first.max(*pin),
            None => drop(shards.insert(shard_dir.to_owned(), first)),
        }
    }

    /// The sink has taken everything of the shard.
    pub(crate) fn release(&self, shard_dir: &Path) {
        self.raise(shard_dir, u64::MAX);
    }

    /// Forgets shards that are not in the data directory any more.
    pub(crate) fn keep(&self, is_there: impl Fn(&Path) -> bool) {
        self.lock().retain(|dir, _| is_there(dir));
    }

    /// A panic while it was held leaves whole values.
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, u64>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_pinned_until_the_sink_has_it() {
        let (pins, dir) = (Pins::default(), Path::new("run/0"));
        assert!(!pins.is_taken(dir, 1), "nothing is known: it is pinned");
        pins.raise(dir, 3);
        pins.raise(dir, 2);
        assert!(pins.is_taken(dir, 2) && !pins.is_taken(dir, 3));
        assert!(!pins.is_taken(Path::new("run/1"), 1));
        pins.release(dir);
        assert!(pins.is_taken(dir, 1_000));
        pins.keep(|known| known != dir);
        assert!(!pins.is_taken(dir, 1));
    }
}
