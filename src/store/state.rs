#![forbid(unsafe_code)]
//! What the store's threads share, and what other threads may see of them.

use super::removal::Spare;
use crate::journal::frame_ring::RecordHeaders;
use crate::journal::settings::JournalSettings;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a new segment waits for the removal of old ones. Shards have the next segment at hand
/// meanwhile.
const ROOM_WAIT: Duration = Duration::from_millis(250);

/// Pause between two looks at the room.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// Files that are named; more are only counted.
const NAMED_MAX: usize = 3;

/// State of the store.
#[derive(Debug, Default)]
pub(super) struct StoreState {
    /// Bytes on disk of the journal, as far as they are known.
    pub(super) bytes: AtomicU64,
    /// `retain_bytes`; `u64::MAX` for none.
    pub(super) limit: AtomicU64,
    /// The keeper can still remove something.
    pub(super) can_remove: AtomicBool,
    /// New settings that the keeper has not taken over yet.
    pub(super) changed: Mutex<Option<JournalSettings>>,
    /// The file for the next segment.
    pub(super) spare: Mutex<Option<Spare>>,
    /// Record headers of finished segments, to be used again.
    pub(super) spare_headers: Mutex<Vec<RecordHeaders>>,
    /// What others may see.
    pub(super) view: Arc<StoreView>,
}

/// What other threads may see of the store.
#[derive(Debug, Default)]
pub struct StoreView {
    segments_removed: AtomicU64,
    held: Mutex<Vec<PathBuf>>,
}

impl StoreView {
    /// Segments that retention removed since the start.
    pub fn segments_removed(&self) -> u64 {
        self.segments_removed.load(Ordering::Relaxed)
    }

    /// Number of segments that retention should remove and cannot.
    pub fn segments_held(&self) -> u64 {
        lock(&self.held).len() as u64
    }

    /// A sentence about the segments that retention cannot remove, if there are any.
    pub fn held_notice(&self) -> Option<String> {
        let held = lock(&self.held);
        let names: Vec<_> =
            held.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
        let more = if held.len() > NAMED_MAX { ", …" } else { "" };
        (!held.is_empty()).then(|| {
            format!(
                "retention cannot remove {} of the journal's files, and passes them over: {}{more}",
                held.len(),
                names.join(", ")
            )
        })
    }

    pub(super) fn count_removed(&self) {
        self.segments_removed.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a file that cannot be removed. Returns whether it is new.
    pub(super) fn add_held(&self, path: &Path) -> bool {
        let mut held = lock(&self.held);
        let is_new = !held.iter().any(|known| known == path);
        if is_new {
            held.push(path.to_owned());
        }
        is_new
    }

    /// A file is gone after all.
    pub(super) fn remove_held(&self, path: &Path) {
        lock(&self.held).retain(|known| known != path);
    }
}

impl StoreState {
    /// Waits a little while the keeper makes room for `size` more bytes.
    pub(super) fn wait_for_room(&self, size: u64) {
        let start = Instant::now();
        while self.is_over(size) && self.can_remove() && start.elapsed() < ROOM_WAIT {
            std::thread::sleep(ROOM_PAUSE);
        }
    }

    /// Whether `size` more bytes would exceed the limit.
    pub(super) fn is_over(&self, size: u64) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes.saturating_add(size) > self.limit.load(Ordering::Relaxed)
    }

    /// Whether the keeper can still remove something.
    pub(super) fn can_remove(&self) -> bool {
        self.can_remove.load(Ordering::Relaxed)
    }
}

/// A panic while it was held leaves whole values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
