#![forbid(unsafe_code)]
//! Retention removes the oldest sealed segments, by bytes and by age. It locks each segment before
//! it removes it, so it never takes one that is being written or read. A file that cannot be
//! removed is passed over, counted, and named.
//!
//! By bytes it works in advance: after a segment is made it makes room for the next one. So a
//! journal exceeds its limit only by segments in use.

use super::disk::free_bytes;
use super::inventory::{Candidate, Inventory, remove_call_table};
use super::removal::{self, Begun, Removal};
use super::run::Run;
use super::state::StoreState;
use crate::archive::boot::Boot;
use crate::archive::layout::segment_path;
use crate::clock::UnixMicros;
use crate::journal::settings::JournalSettings;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most bytes on disk, with room for the next segment.
    pub(super) bytes: Option<u64>,
    /// Oldest end of a segment.
    pub(super) age: Option<Duration>,
    /// Size of the next segment.
    pub(super) segment_size: u64,
    /// A file of this size is wanted for the next segment, bytes.
    pub(super) wanted: Option<u64>,
}

impl Limits {
    /// Whether there is a limit.
    pub(super) fn exist(&self) -> bool {
        self.bytes.is_some() || self.age.is_some()
    }

    /// Whether so many bytes leave no room for the next segment.
    fn is_over(&self, bytes: u64) -> bool {
        self.bytes.is_some_and(|limit| bytes.saturating_add(self.segment_size) > limit)
    }
}

/// Begins the next removal that is due. `None` if there is none. `looks_at_age` is for the few
/// moments when ages are compared.
pub(super) fn next_removal(
    inventory: &mut Inventory,
    limits: Limits,
    state: &StoreState,
    (boot, now, looks_at_age): (&Boot, UnixMicros, bool),
) -> Option<Removal> {
    loop {
        let is_over = limits.is_over(state.bytes.load(Ordering::Relaxed));
        let candidate = match (is_over && inventory.is_complete(), limits.age) {
            (true, _) => {
                let oldest = inventory.oldest();
                state.can_remove.store(oldest.is_some(), Ordering::Relaxed);
                oldest
            }
            (false, Some(age)) if looks_at_age => {
                inventory.oldest_over(|at| boot.age(at, now) > age)
            }
            _ => return None,
        };
        if let Some(removal) = begin(inventory, candidate?, state, limits.wanted) {
            return Some(removal);
        }
    }
}

/// Begins a removal. `None` if the segment cannot be removed: then another one may be.
pub(super) fn begin(
    inventory: &mut Inventory,
    candidate: Candidate,
    state: &StoreState,
    wanted: Option<u64>,
) -> Option<Removal> {
    let Candidate { name, dir, bytes, .. } = candidate;
    let path = segment_path(&dir, name.id);
    match removal::begin(&dir, name.id, bytes, wanted) {
        Ok(Begun::Removing(removal)) => {
            inventory.remove(name);
            state.view.count_removed();
            state.view.remove_held(&path);
            if let Err(error) = remove_call_table(&dir, name.id) {
                tracing::warn!("cannot remove a table of calls in {}: {error}", dir.display());
            }
            return Some(removal);
        }
        Ok(Begun::Gone) => {
            state.view.remove_held(&path);
            let bytes = inventory.remove(name);
            state.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(Begun::Locked) => inventory.skip(name),
        Ok(Begun::Held(error)) | Err(error) => {
            inventory.skip(name);
            if state.view.add_held(&path) {
                tracing::warn!(
                    "retention cannot remove {} ({error}): it is passed over, and the next ones go",
                    path.display()
                );
            }
        }
    }
    None
}

/// Warns of limits that cannot work. `held` bytes are on the disk.
pub(super) fn warn_of_limits(run: &Run, settings: &JournalSettings, held: u64, is_complete: bool) {
    let Some(bytes) = settings.retain_bytes else { return };
    let data_dir = &run.config.data_dir;
    // One segment being written, one prepared, and one to be removed.
    let least = 3 * settings.segment_size * run.shard_dirs.len() as u64;
    if bytes < least {
        tracing::warn!(
            bytes,
            "--retain-bytes is too small: calls are deleted as soon as their segment is full, and \
             segments in use take up more. Set at least {least}, or a smaller journal.segment_size"
        );
    }
    let Ok(room) = free_bytes(data_dir) else { return };
    let most =
        (held + room.free).saturating_sub(settings.reserve.unwrap_or(room.default_reserve()));
    if bytes > most && is_complete {
        tracing::warn!(
            bytes,
            "--retain-bytes is more than the disk can hold: the disk fills up before anything is \
             deleted. Set less than {most}"
        );
    }
}
