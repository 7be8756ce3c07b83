#![forbid(unsafe_code)]
//! What the store's threads share.

use super::removal::Spare;
use super::view::StoreView;
use crate::journal::frame_ring::RecordHeaders;
use crate::journal::settings::JournalSettings;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// State of the store.
#[derive(Debug, Default)]
pub(super) struct StoreState {
    /// Bytes on disk of the journal, as far as they are known.
    pub(super) bytes: AtomicU64,
    /// `retain_bytes`; `u64::MAX` for none.
    pub(super) limit: AtomicU64,
    /// The keeper can still remove something.
    pub(super) can_remove: AtomicBool,
    /// Finished segments that the keeper has not taken over yet. Then it may remove them.
    pub(super) retired: AtomicUsize,
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
