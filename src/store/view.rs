#![forbid(unsafe_code)]
//! What other threads may see of the store. Reading it touches no file: the keeper stores the
//! numbers once a second.

use super::disk::Room;
use super::lock;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Files that are named; more are only counted.
const NAMED_MAX: usize = 3;

/// A disk that is full later than this needs no attention yet.
const FULL_TIME_MAX: Duration = Duration::from_secs(4 * 60 * 60);

/// Sizes and ages of the journal at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalSize {
    /// Bytes on disk of the segments and indexes of all runs. Less while they are being listed.
    pub bytes: u64,
    /// Segments of all runs.
    pub segments: u64,
    /// Time since the oldest segment began. `None` without audio, and before all are listed.
    pub oldest_age: Option<Duration>,
    /// `retain_bytes`.
    pub retain_bytes: Option<u64>,
    /// `retain_age`.
    pub retain_age: Option<Duration>,
    /// Memory of the list of segments, bytes.
    pub list_bytes: u64,
    /// Bytes of finished segments that a required sink has not taken.
    pub pinned_bytes: u64,
    /// Time until only the reserve is free, at the growth of the last minutes. `None`: the journal
    /// does not grow, or nothing waits for a sink.
    pub full_in: Option<Duration>,
}

/// The filesystem of the data directory at one moment.
#[derive(Clone, Copy, Debug)]
pub struct DiskSize {
    /// Bytes free to the node.
    pub free: u64,
    /// Its size, bytes.
    pub size: u64,
    /// Free bytes that new calls may not use.
    pub reserve: u64,
}

impl DiskSize {
    pub(super) fn new(room: Room, reserve: u64) -> DiskSize {
        DiskSize { free: room.free, size: room.size, reserve }
    }
}

/// What other threads may see of the store.
#[derive(Debug, Default)]
pub struct StoreView {
    segments_removed: AtomicU64,
    bytes_removed: AtomicU64,
    held: Mutex<Vec<PathBuf>>,
    journal: Mutex<JournalSize>,
    disk: Mutex<Option<DiskSize>>,
}

impl StoreView {
    /// Segments that retention removed since the start.
    pub fn segments_removed(&self) -> u64 {
        self.segments_removed.load(Ordering::Relaxed)
    }

    /// Bytes on disk that retention took from removed segments. They were freed, or became a new
    /// segment.
    pub fn bytes_removed(&self) -> u64 {
        self.bytes_removed.load(Ordering::Relaxed)
    }

    /// The journal's sizes and ages, at most a second or two ago.
    pub fn journal(&self) -> JournalSize {
        *lock(&self.journal)
    }

    /// The disk, at most a second or two ago. `None` before the first look.
    pub fn disk(&self) -> Option<DiskSize> {
        *lock(&self.disk)
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

    /// A sentence about the time until the disk is full, if sinks hold the journal and it is short.
    pub fn full_notice(&self) -> Option<String> {
        let JournalSize { pinned_bytes, full_in, .. } = self.journal();
        let seconds = full_in.filter(|time| *time < FULL_TIME_MAX)?.as_secs();
        Some(format!(
            "{pinned_bytes} bytes of the journal wait for required sinks, and at the growth of \
             the last minutes the disk is full in {seconds} s: then new calls get 503"
        ))
    }

    pub(super) fn count_removed(&self) {
        self.segments_removed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_removed_bytes(&self, bytes: u64) {
        self.bytes_removed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_journal(&self, journal: JournalSize) {
        *lock(&self.journal) = journal;
    }

    pub(super) fn set_disk(&self, disk: DiskSize) {
        *lock(&self.disk) = Some(disk);
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
