#![forbid(unsafe_code)]
//! What the store's threads share.

use super::removal::Spare;
use super::view::StoreView;
use crate::journal::frame_ring::RecordHeaders;
use crate::journal::settings::JournalSettings;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a new segment waits for the removal of old ones. Shards have the next segment at hand
/// meanwhile.
const ROOM_WAIT: Duration = Duration::from_millis(250);

/// Pause between two looks at the room.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

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
