#![forbid(unsafe_code)]
//! The store of a node's segments. This thread makes segment files in advance, seals the ones that
//! shards have finished, deletes or recycles old ones, and watches the free space. It never writes
//! audio.
//!
//! ```text
//! shard ──Prepare──► store: make room, create and lock or recycle,
//!                            allocate, name, sync ──told: Segment──► shard writes
//! shard ──Retire───► store: cut to its end, store its index, close (which unlocks)
//! ```
//! The store holds the open files, and shards only their numbers. So the store outlives the
//! shards ([`StoreThread::join`]).

use crate::archive::index::IndexBuilder;
use crate::archive::layout;
use crate::clock::UnixMicros;
use crate::constants::RECORD_HEADERS_SHARE;
use crate::format::SegmentUuid;
use crate::io::FileHandle;
use crate::journal::frame_ring::RecordHeaders;
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{PreparedSegment, SegmentRequest};
pub(crate) use attempt::try_directory;
pub use config::JournalConfig;
use disk::free_bytes;
pub(crate) use error::StoreError;
use error::trouble;
use fenced::Fenced;
use indexer::{Indexer, Sealed};
use rand_core::{OsRng, RngCore};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
pub(crate) use thread::{Run, StoreThread};

mod attempt;
mod config;
mod disk;
mod error;
mod fenced;
mod indexer;
mod recycle;
pub(crate) mod retention;
#[cfg(test)]
mod tests;
mod thread;

/// How often to check the free space, and to try again to make a segment that had no room.
const TICK: Duration = Duration::from_secs(1);

/// How often retention looks for segments to remove.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

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
}

/// Tells the shard of this number. It may wait until the shard has room for what it is told.
type Tell = Box<dyn Fn(usize, StoreEvent) + Send>;

/// State of the store's thread.
struct SegmentStore {
    run: Run,
    /// New limits, which hold from the next tick on.
    changed: Arc<Mutex<Option<JournalSettings>>>,
    indexer: Indexer,
    tell: Tell,
    next_ids: Vec<u64>,
    /// Files that shards write or have prepared, by shard and id.
    open: HashMap<(usize, u64), File>,
    fenced: Fenced,
    inventory: retention::Inventory,
    /// Shards that wait for a segment that could not be made.
    unserved: Vec<usize>,
    /// Record headers of finished segments, to be used again.
    spare_headers: Vec<RecordHeaders>,
    is_low: bool,
    /// The logged reason why segments cannot be made.
    trouble: Option<String>,
    retained_at: Option<Instant>,
}

impl SegmentStore {
    fn work(mut self, requests: &Receiver<(usize, SegmentRequest)>) {
        self.tidy();
        // After tidying up, which skips files that are being read.
        if let Err(error) = indexer::start_recovery(self.run.config.data_dir.clone(), self.run.name)
        {
            tracing::warn!("cannot index the journal of earlier runs: {error}");
        }
        // Tidy up again once the files of a process that was killed a moment ago are old enough.
        let mut tidies_at = Some(Instant::now() + 2 * retention::YOUNG);
        self.warn_of_limits();
        self.tick();
        let mut looked_at = Instant::now();
        loop {
            match requests.recv_timeout(TICK.saturating_sub(looked_at.elapsed())) {
                Ok((shard, SegmentRequest::Prepare)) => self.prepare(shard),
                Ok((shard, SegmentRequest::Retire { id, size, is_fenced, headers })) => {
                    self.seal_segment((shard, id), size, is_fenced, &headers);
                    self.spare_headers.push(headers);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.remove_unused(),
            }
            if looked_at.elapsed() >= TICK {
                self.tick();
                looked_at = Instant::now();
                if tidies_at.take_if(|at| *at <= looked_at).is_some() {
                    self.tidy();
                }
            }
        }
    }

    fn tidy(&self) {
        if let Err(error) = retention::tidy(&self.run.config.data_dir, SystemTime::now()) {
            tracing::warn!(
                "cannot remove old files in {}: {error}",
                self.run.config.data_dir.display()
            );
        }
    }

    /// Takes over settings that have changed.
    fn take_settings(&mut self) {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let settings = &mut self.run.config.settings;
        if let Some(changed) = changed
            && *settings != changed
        {
            *settings = changed;
            // Segments over the new limits go at once.
            self.retained_at = None;
            self.inventory.forget();
            self.warn_of_limits();
        }
    }

    /// Warns of limits that cannot work.
    fn warn_of_limits(&self) {
        let config = &self.run.config;
        let Some(bytes) = config.settings.retain_bytes else { return };
        // One segment being written, one prepared, and one to be removed.
        let least = 3 * config.settings.segment_size * self.run.shard_dirs.len() as u64;
        if bytes < least {
            tracing::warn!(
                bytes,
                "--retain-bytes is too small: calls are deleted as soon as their segment is full, \
                 and segments in use take up more. Set at least {least}, or a smaller \
                 journal.segment_size"
            );
        }
        let (Ok(room), Ok(held)) =
            (free_bytes(&config.data_dir), retention::bytes_held(&config.data_dir))
        else {
            return;
        };
        let most = (held + room.free)
            .saturating_sub(config.settings.reserve.unwrap_or(room.default_reserve()));
        if bytes > most {
            tracing::warn!(
                bytes,
                "--retain-bytes is more than the disk can hold: the disk fills up before anything \
                 is deleted. Set less than {most}"
            );
        }
    }

    fn prepare(&mut self, shard: usize) {
        match self.create_segment(shard) {
            Ok(segment) => {
                if self.trouble.take().is_some() {
                    tracing::info!("segments can be made again");
                }
                (self.tell)(shard, StoreEvent::Segment(segment));
            }
            Err(error) => {
                let text = trouble(&self.run.config.data_dir, &error);
                if self.trouble.as_ref() != Some(&text) {
                    tracing::warn!(shard, "{text}");
                    self.trouble = Some(text);
                }
                if !self.unserved.contains(&shard) {
                    self.unserved.push(shard);
                    (self.tell)(shard, StoreEvent::NoRoom);
                }
            }
        }
    }

    /// Makes a segment's file: locked, allocated, and with a durable name.
    fn create_segment(&mut self, shard: usize) -> io::Result<PreparedSegment> {
        let JournalSettings { segment_size: size, prefill, .. } = self.run.config.settings;
        let recycled = self.make_room();
        let (directory, id) = (&self.run.shard_dirs[shard], self.next_ids[shard]);
        let preparing = layout::preparing_path(directory, id);
        let unfinished = layout::unfinished_index_path(directory, id);
        if !directory.is_dir() {
            // Another process found the directory empty for long and removed it.
            layout::create_shard_dir(&self.run.config.data_dir, &self.run.name, shard as u16)?;
        }
        // Left by a failed attempt.
        remove_if_there(&preparing)?;
        let recycled = recycled.map(|claimed| {
            recycle::recycle(self.run.disk, claimed, (&preparing, &unfinished), size, prefill)
        });
        let recycled = recycled.and_then(|recycled| {
            let log = |error: &io::Error| {
                tracing::warn!(shard, "a segment cannot be recycled: {error}");
                self.inventory.forget();
            };
            recycled.inspect_err(log).ok()
        });
        let made = match recycled {
            Some(file) => Ok(file),
            None => remove_if_there(&preparing)
                .and_then(|()| self.run.disk.create(&preparing, size, prefill)),
        };
        let named = made.and_then(|file| {
            std::fs::rename(&preparing, layout::segment_path(directory, id))?;
            layout::sync_dir(directory)?;
            Ok(file)
        });
        let file = match named {
            Ok(file) => file,
            Err(error) => {
                let _ = std::fs::remove_file(&preparing);
                return Err(error);
            }
        };
        let mut uuid = SegmentUuid::default();
        OsRng.try_fill_bytes(&mut uuid.0).map_err(io::Error::other)?;
        let (handle, headers) = (FileHandle(file.as_raw_fd()), self.headers(size));
        let segment = PreparedSegment { id, uuid, file: handle, size, created_at: now(), headers };
        self.open.insert((shard, id), file);
        self.inventory.add(size);
        self.next_ids[shard] += 1;
        Ok(segment)
    }

    /// Space for the notes of a segment: that of an earlier segment, if there is one.
    fn headers(&mut self, segment_size: u64) -> RecordHeaders {
        self.spare_headers.pop().unwrap_or_else(|| {
            RecordHeaders::with_room((segment_size / RECORD_HEADERS_SHARE) as usize)
        })
    }

    /// Makes room within `retain_bytes` for one more segment. Returns a file for it to reuse, if
    /// there is one.
    fn make_room(&mut self) -> Option<retention::Claimed> {
        let (config, run, fenced) = (&self.run.config, self.run.name, &self.fenced);
        let bytes = config.settings.retain_bytes?;
        let may_recycle = |segment: &retention::Segment| {
            segment.run == run
                && config.settings.retain_age.is_none()
                && !fenced.contains(usize::from(segment.shard), segment.id)
        };
        let sizes = (bytes, config.settings.segment_size);
        match self.inventory.make_room(&config.data_dir, sizes, self.run.disk, may_recycle) {
            Ok((removed, recycled)) => {
                log_removed(removed);
                recycled
            }
            Err(error) => {
                tracing::warn!(
                    "retention cannot make room in {}: {error}",
                    config.data_dir.display()
                );
                None
            }
        }
    }

    /// Handles a segment that its shard has finished.
    fn seal_segment(
        &mut self,
        (shard, id): (usize, u64),
        size: u64,
        is_fenced: bool,
        headers: &RecordHeaders,
    ) {
        let Some(file) = self.open.remove(&(shard, id)) else { return };
        if is_fenced {
            tracing::error!(
                shard,
                segment = id,
                "a write or sync failed: what was not durable is written to another segment"
            );
            self.fenced.add(shard, id, size);
            return;
        }
        // If this fails, readers still find the end: zeros, or another use of the file.
        if let Err(error) = disk::end(&file, size) {
            tracing::warn!(shard, segment = id, "cannot cut a segment to its end: {error}");
        }
        let has_index = self.store_index(shard, id, size, headers);
        // Closing the file releases its lock for readers.
        drop(file);
        if !has_index {
            self.index(shard, id, Some(size));
        }
        let cut = self.fenced.handle_retired(&self.run.shard_dirs[shard], shard, id);
        cut.into_iter().for_each(|id| self.index(shard, id, None));
    }

    /// Stores the index of a segment that is still locked, so that nothing of it has been read,
    /// erased or removed. Returns false if its writer could not note everything: then the segment
    /// must be read.
    fn store_index(&self, shard: usize, id: u64, size: u64, headers: &RecordHeaders) -> bool {
        let run = self.run.name.number();
        let index = IndexBuilder::of_headers(headers, run, shard as u16, id, size)
            .filter(|index| index.batches > 0);
        index.is_some_and(|index| index.store(&self.run.shard_dirs[shard]).is_ok())
    }

    fn index(&self, shard: usize, id: u64, size: Option<u64>) {
        let directory = self.run.shard_dirs[shard].clone();
        self.indexer.index(Sealed { run: self.run.name, shard: shard as u16, directory, id, size });
    }

    /// Once a tick: checks the free space, retention, and segments that could not be made.
    fn tick(&mut self) {
        self.take_settings();
        let config = &self.run.config;
        let JournalSettings { retain_bytes, retain_age, .. } = config.settings;
        let (has_limit, interval) =
            (retain_bytes.is_some() || retain_age.is_some(), RETENTION_INTERVAL);
        if has_limit
            && (!self.unserved.is_empty()
                || self.retained_at.is_none_or(|at| at.elapsed() >= interval))
        {
            self.retained_at = Some(Instant::now());
            match retention::enforce(&config.data_dir, retain_bytes, retain_age, SystemTime::now())
            {
                Ok(removed) => log_removed(removed),
                Err(error) => {
                    tracing::warn!("retention cannot read {}: {error}", config.data_dir.display())
                }
            }
        }
        self.watch_room();
        for shard in std::mem::take(&mut self.unserved) {
            match self.create_segment(shard) {
                Ok(segment) => {
                    self.trouble = None;
                    tracing::info!(shard, "segments can be made again");
                    (self.tell)(shard, StoreEvent::Segment(segment));
                }
                Err(_) => self.unserved.push(shard),
            }
        }
    }

    fn watch_room(&mut self) {
        let Ok(room) = free_bytes(&self.run.config.data_dir) else { return };
        let reserve = self.run.config.settings.reserve.unwrap_or(room.default_reserve());
        let is_low = room.free < reserve;
        if is_low != self.is_low {
            self.is_low = is_low;
            match is_low {
                true => tracing::warn!(
                    free = room.free,
                    reserve,
                    "too little room on the disk: new calls are refused"
                ),
                false => {
                    tracing::info!(free = room.free, reserve, "there is room on the disk again")
                }
            }
            for shard in 0..self.run.shard_dirs.len() {
                (self.tell)(shard, StoreEvent::Reserve { is_low });
            }
        }
    }

    /// The shards are gone: removes the segments that they had prepared and did not use.
    fn remove_unused(mut self) {
        let mut unretired = Vec::new();
        for ((shard, id), file) in self.open.drain() {
            let path = layout::segment_path(&self.run.shard_dirs[shard], id);
            let is_unused = disk::is_unused(&path).unwrap_or(false);
            if is_unused {
                let _ = std::fs::remove_file(&path);
                // The file that its index would have overwritten.
                let _ = std::fs::remove_file(layout::unfinished_index_path(
                    &self.run.shard_dirs[shard],
                    id,
                ));
            }
            drop(file);
            if !is_unused {
                unretired.push((shard, id));
            }
        }
        unretired.into_iter().for_each(|(shard, id)| self.index(shard, id, None));
    }
}

fn log_removed(removed: retention::Removed) {
    if removed.segments > 0 {
        tracing::info!(
            segments = removed.segments,
            bytes = removed.bytes,
            "retention removed the oldest"
        );
    }
}

fn now() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

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
