#![forbid(unsafe_code)]
//! What the keeper reports of the journal once a second: see [`StoreView`].

use super::forecast::Forecast;
use super::inventory::{Inventory, SegmentSizes};
use super::state::StoreState;
use super::view::{JournalSize, StoreView};
use crate::archive::boot::Boot;
use crate::clock::UnixMicros;
use crate::journal::settings::JournalSettings;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often to look for the oldest segment. In between it only gets older.
const OLDEST_INTERVAL: Duration = Duration::from_secs(5);

/// The oldest segment that was found last.
#[derive(Debug, Default)]
pub(super) struct Report {
    looked_at: Option<Instant>,
    begun: Option<UnixMicros>,
    forecast: Forecast,
}

impl Report {
    /// Shows the journal's sizes to other threads. Reads the header of a segment only if another
    /// one has become the oldest.
    pub(super) fn publish(
        &mut self,
        (inventory, sizes): (&mut Inventory, SegmentSizes),
        state: &StoreState,
        settings: &JournalSettings,
        (boot, now): (&Boot, UnixMicros),
    ) {
        let is_due = self.looked_at.is_none_or(|at| at.elapsed() >= OLDEST_INTERVAL);
        if is_due && inventory.is_complete() {
            self.looked_at = Some(Instant::now());
            self.begun = inventory.oldest_begun();
        }
        let view: &StoreView = &state.view;
        if inventory.is_complete() {
            self.forecast.note(Instant::now(), sizes.finished);
        }
        // Retention makes room again, unless a sink lacks what is there.
        let room = view.disk().filter(|_| sizes.pinned > 0);
        let room = room.map(|disk| disk.free.saturating_sub(disk.reserve));
        view.set_journal(JournalSize {
            bytes: state.bytes.load(Ordering::Relaxed),
            segments: inventory.segment_count(),
            oldest_age: self.begun.map(|at| boot.age(at, now)),
            retain_bytes: settings.retain_bytes,
            retain_age: settings.retain_age,
            list_bytes: inventory.memory_size(),
            pinned_bytes: sizes.pinned,
            full_in: room.and_then(|room| self.forecast.time_until(room)),
        });
    }
}
