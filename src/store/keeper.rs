#![forbid(unsafe_code)]
//! The thread `keeper`: seals the segments that shards have finished, removes old ones, watches the
//! free space, and answers requests to seal. It works in small steps, and takes new events between
//! them.

use super::budget::BudgetWatch;
use super::disk::{self, free_bytes};
use super::fenced::Fenced;
use super::indexer::{Indexer, Sealed};
use super::inventory::Inventory;
use super::live::LiveIndexes;
use super::outbox::Outbox;
use super::removal::Removal;
use super::report::Report;
use super::retention::{self, Limits};
use super::run::Run;
use super::sealing::Sealing;
use super::state::StoreState;
use super::view::DiskSize;
use super::{StoreEvent, indexer, lock, sealing, tidy};
use crate::archive::boot::{self, Boot};
use crate::archive::index::NotedIndex;
use crate::archive::layout;
use crate::archive::marks::{FoundMarks, Marks};
use crate::clock::UnixMicros;
use crate::io::clocks::uptime;
use crate::journal::frame_ring::{HeadersView, RecordHeaders};
use crate::journal::settings::JournalSettings;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often to check the free space, new settings, and requests to seal.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// How often ages are compared, and locked segments are tried again.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

/// How often other live processes' runs are listed, and the kernel is asked for its clock.
const SLOW_INTERVAL: Duration = Duration::from_secs(60);

/// Pause between two steps of a removal, unless the journal is over its limit.
const REMOVAL_PAUSE: Duration = Duration::from_millis(5);

/// How long a start may take to make room for the first segments.
const FIRST_ROOM_TIME: Duration = Duration::from_millis(200);

/// How many times as long as it has listed the keeper rests.
const LISTING_REST: u32 = 3;

/// What the keeper hears.
#[derive(Debug)]
pub(super) enum KeeperEvent {
    /// A shard gets a new segment.
    Made { shard: usize, id: u64, size: u64, view: HeadersView },
    /// A shard has finished a segment.
    Retired {
        shard: usize,
        id: u64,
        file: File,
        size: u64,
        is_fenced: bool,
        headers: RecordHeaders,
    },
    /// A shard has sealed what it was asked to.
    Sealed { shard: usize },
    /// All shards have ended. These files were not retired.
    Ended { open: HashMap<(usize, u64), File> },
}

/// State of the thread.
pub(super) struct Keeper {
    run: Arc<Run>,
    state: Arc<StoreState>,
    settings: JournalSettings,
    boot: Boot,
    outbox: Outbox,
    indexer: Indexer,
    live: LiveIndexes,
    inventory: Inventory,
    fenced: Fenced,
    removing: Option<Removal>,
    /// The filesystem can turn a file into zeros without freeing it.
    reuses_files: bool,
    sealing: Option<Sealing>,
    /// Recovery of earlier runs has been started.
    is_recovering: bool,
    is_low: bool,
    budget: BudgetWatch,
    /// When ages were compared last.
    retained_at: Option<Instant>,
    looked_at: Instant,
    listed_at: Instant,
    /// Segments removed since the last line in the log.
    removed: (u64, u64),
    report: Report,
}

impl Keeper {
    pub(super) fn new(run: Arc<Run>, state: Arc<StoreState>, outbox: Outbox) -> io::Result<Keeper> {
        let (settings, boot) = (run.config.settings, run.boot.clone());
        let mut inventory = Inventory::new(&run.config.data_dir, run.name, &run.shard_dirs);
        inventory.set_pins(run.config.pins.clone());
        state.limit.store(settings.retain_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        let budget = BudgetWatch::new(run.config.budget);
        let mut keeper = Keeper {
            indexer: Indexer::start()?,
            live: LiveIndexes::new(),
            inventory,
            run,
            state,
            settings,
            boot,
            outbox,
            fenced: Fenced::default(),
            removing: None,
            reuses_files: true,
            sealing: None,
            is_recovering: false,
            is_low: false,
            budget,
            retained_at: None,
            looked_at: Instant::now(),
            listed_at: Instant::now(),
            removed: (0, 0),
            report: Report::default(),
        };
        keeper.start_listing();
        Ok(keeper)
    }

    /// Makes room within `retain_bytes` for the first segments, before they are made. It takes a
    /// moment at most: with many old segments the room is made later.
    pub(super) fn make_first_room(&mut self) {
        let start = Instant::now();
        if self.settings.retain_bytes.is_none() {
            return;
        }
        while !self.inventory.is_complete() && start.elapsed() < FIRST_ROOM_TIME {
            self.list_some();
        }
        let first = self.run.shard_dirs.len() as u64 + 1;
        let limits = self.limits();
        let limits = Limits { segment_size: limits.segment_size.saturating_mul(first), ..limits };
        while self.inventory.is_complete() && start.elapsed() < FIRST_ROOM_TIME {
            self.removing = self.removing.take().or_else(|| self.next_removal(limits, false));
            if self.removing.is_none() {
                return;
            }
            self.step_removal();
        }
    }

    /// Serves until the shards have ended.
    pub(super) fn work(mut self, events: &Receiver<KeeperEvent>) {
        self.tick();
        let mut pause = Duration::ZERO;
        loop {
            match events.recv_timeout(pause) {
                Ok(KeeperEvent::Ended { open }) => return self.end(open),
                Ok(event) => {
                    self.handle(event);
                    pause = Duration::ZERO;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The thread that makes segments has failed.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.looked_at.elapsed() >= TICK {
                self.tick();
            }
            self.outbox.retry();
            self.live.write_if_due(&self.run);
            pause = self.step().min(self.live.pause());
        }
    }

    fn handle(&mut self, event: KeeperEvent) {
        match event {
            KeeperEvent::Made { shard, id, size, view } => {
                self.inventory.add_own(shard, id, size);
                self.live.add(shard, id, view);
            }
            KeeperEvent::Retired { shard, id, file, size, is_fenced, headers } => {
                self.seal_segment((shard, id), file, size, is_fenced, &headers);
                self.state.retired.fetch_sub(1, Ordering::Relaxed);
                lock(&self.state.spare_headers).push(headers);
            }
            KeeperEvent::Sealed { shard } => {
                if let Some(sealing) = &mut self.sealing {
                    sealing.handle_sealed(shard);
                }
                self.end_sealing();
            }
            KeeperEvent::Ended { .. } => {}
        }
    }

    /// Does a small part of the work that is left. Returns how long to rest.
    fn step(&mut self) -> Duration {
        if self.removing.is_some() {
            self.step_removal();
            return if self.state.is_over(0) { Duration::ZERO } else { REMOVAL_PAUSE };
        }
        if !self.inventory.is_complete() {
            let start = Instant::now();
            self.list_some();
            return start.elapsed() * LISTING_REST;
        }
        self.removing = self.next_drop();
        if self.removing.is_some() {
            return Duration::ZERO;
        }
        let limits = self.limits();
        if limits.exist() {
            let due = self.retained_at.is_none_or(|at| at.elapsed() >= RETENTION_INTERVAL);
            self.removing = self.next_removal(limits, due);
            if self.removing.is_some() {
                return Duration::ZERO;
            }
            if due {
                self.retained_at = Some(Instant::now());
            }
        }
        TICK.saturating_sub(self.looked_at.elapsed()).min(if self.outbox.has_waiting() {
            REMOVAL_PAUSE
        } else {
            TICK
        })
    }

    /// Size of a file that is to become the next segment. One at a time: that is the room that the
    /// limit leaves.
    fn wanted(&self) -> Option<u64> {
        let is_wanted = self.reuses_files && lock(&self.state.spare).is_none();
        is_wanted.then_some(self.settings.segment_size)
    }

    /// Begins to remove what a required sink lacks, if the budget demands it.
    fn next_drop(&mut self) -> Option<Removal> {
        let wanted = self.wanted();
        let removal = self.budget.next_removal(&mut self.inventory, &self.state, wanted);
        self.removed.0 += u64::from(removal.is_some());
        removal
    }

    fn next_removal(&mut self, limits: Limits, looks_at_age: bool) -> Option<Removal> {
        let limits = Limits { wanted: self.wanted(), ..limits };
        let when = (&self.boot, self.run.clock.at(uptime()), looks_at_age);
        let removal = retention::next_removal(&mut self.inventory, limits, &self.state, when);
        self.removed.0 += u64::from(removal.is_some());
        removal
    }

    fn step_removal(&mut self) {
        let Some(mut removal) = self.removing.take() else { return };
        let freed;
        if removal.is_kept() {
            let JournalSettings { segment_size, prefill, .. } = self.settings;
            match removal.reuse(self.run.disk, segment_size, prefill) {
                Ok((spare, bytes)) => {
                    freed = bytes;
                    *lock(&self.state.spare) = Some(spare);
                }
                Err(kept) => {
                    self.reuses_files = false;
                    freed = 0;
                    self.removing = Some(kept);
                }
            }
        } else {
            let is_done;
            (freed, is_done) = removal.step();
            if !is_done {
                self.removing = Some(removal);
            }
        }
        self.state.bytes.fetch_sub(freed, Ordering::Relaxed);
        self.removed.1 += freed;
        self.state.view.count_removed_bytes(freed);
    }

    fn list_some(&mut self) {
        if let Err(error) = self.inventory.list_some() {
            let path = self.run.config.data_dir.display();
            tracing::warn!("cannot list a part of {path}: {error}");
        }
        let found = self.inventory.take_found_bytes();
        self.state.bytes.fetch_add(found, Ordering::Relaxed);
        if self.inventory.is_complete() {
            self.state.can_remove.store(true, Ordering::Relaxed);
            self.warn_of_limits();
            self.start_recovery();
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            bytes: self.settings.retain_bytes,
            age: self.settings.retain_age,
            segment_size: self.settings.segment_size,
            wanted: None,
        }
    }

    /// Journal time.
    fn now(&self) -> UnixMicros {
        self.run.clock.at(uptime())
    }

    fn log_removed(&mut self) {
        let (segments, bytes) = std::mem::take(&mut self.removed);
        if segments > 0 {
            tracing::info!(segments, bytes, "retention removed the oldest");
        }
    }

    fn start_listing(&mut self) {
        let data_dir = &self.run.config.data_dir;
        let started =
            tidy::remove_unfinished_runs(data_dir).and_then(|()| self.inventory.start_listing());
        if let Err(error) = started {
            tracing::warn!("cannot list {}: {error}", data_dir.display());
        }
    }

    /// Once everything was tidied up, which skips files that are being read.
    fn start_recovery(&mut self) {
        let (data_dir, name) = (self.run.config.data_dir.clone(), self.run.name);
        if std::mem::replace(&mut self.is_recovering, true) {
            return;
        }
        if let Err(error) = indexer::start_recovery(data_dir, name) {
            tracing::warn!("cannot index the journal of earlier runs: {error}");
        }
    }

    /// Handles a segment that its shard has finished.
    fn seal_segment(
        &mut self,
        (shard, id): (usize, u64),
        file: File,
        size: u64,
        is_fenced: bool,
        headers: &RecordHeaders,
    ) {
        let noted = self.live.take(shard, id, headers.segment());
        let live_index = layout::live_index_path(&self.run.shard_dirs[shard], id);
        if is_fenced {
            tracing::error!(
                shard,
                segment = id,
                "a write or sync failed: what was not durable is written to another segment"
            );
            self.stop_reuse();
            self.fenced.add(shard, id, size);
            drop(file);
            // If this fails, no reader looks at it: nothing holds the segment any more.
            let _ = std::fs::remove_file(live_index);
            return self.count_retired(shard, id);
        }
        // If this fails, readers still find the end: zeros.
        if let Err(error) = disk::end(&file, size) {
            tracing::warn!(shard, segment = id, "cannot cut a segment to its end: {error}");
        }
        let has_index = self.store_index((shard, id), size, headers, noted);
        // Closing the file releases its lock for readers.
        drop(file);
        if !has_index {
            let _ = std::fs::remove_file(live_index);
            self.index(shard, id, Some(size));
        }
        self.indexer.make_table(&self.run.shard_dirs[shard], id);
        self.count_retired(shard, id);
        let cut = self.fenced.handle_retired(&self.run.shard_dirs[shard], shard, id);
        cut.into_iter().for_each(|id| self.index(shard, id, None));
    }

    /// Files of a disk that failed are not used again.
    fn stop_reuse(&mut self) {
        self.reuses_files = false;
        if let Some(spare) = lock(&self.state.spare).take() {
            // If this fails, the next start removes it.
            let _ = std::fs::remove_file(spare.path);
        }
        if let Some(removal) = &mut self.removing {
            removal.free();
        }
    }

    /// Counts what a finished segment takes on the disk.
    fn count_retired(&mut self, shard: usize, id: u64) {
        let now = self.now();
        let change = self.inventory.handle_retired(shard, id, now);
        let bytes = &self.state.bytes;
        match u64::try_from(change) {
            Ok(more) => bytes.fetch_add(more, Ordering::Relaxed),
            Err(_) => bytes.fetch_sub(change.unsigned_abs(), Ordering::Relaxed),
        };
        if self.inventory.is_complete() {
            self.state.can_remove.store(true, Ordering::Relaxed);
        }
    }

    /// Stores the index of a segment that is still locked, so that nothing of it has been read,
    /// erased or removed. `noted` is what was taken in already. Returns false if its writer could
    /// not note everything: then the segment must be read.
    fn store_index(
        &self,
        (shard, id): (usize, u64),
        size: u64,
        headers: &RecordHeaders,
        noted: Option<NotedIndex>,
    ) -> bool {
        let place = (self.run.name.number(), shard as u16, id);
        let mut noted = noted.unwrap_or_else(NotedIndex::new);
        let rest = headers.notes(noted.note_count());
        let index = rest
            .and_then(|rest| noted.add(&rest))
            .and_then(|()| noted.finish(headers, place, size, self.now()))
            .filter(|index| index.batches > 0);
        index.is_some_and(|index| index.store(&self.run.shard_dirs[shard]).is_ok())
    }

    /// Has a segment read for its index.
    fn index(&mut self, shard: usize, id: u64, size: Option<u64>) {
        let directory = self.run.shard_dirs[shard].clone();
        if let Some(sealing) = &mut self.sealing {
            sealing.await_index(&directory, id);
        }
        self.indexer.index(Sealed { run: self.run.name, shard: shard as u16, directory, id, size });
    }

    /// Once a second.
    fn tick(&mut self) {
        self.looked_at = Instant::now();
        self.log_removed();
        self.take_settings();
        self.watch_room();
        let (when, sizes) = ((&self.boot, self.now()), self.inventory.sizes());
        self.report.publish((&mut self.inventory, sizes), &self.state, &self.settings, when);
        if let Some(is_over) = self.budget.look(&self.inventory, sizes) {
            self.tell_all(|| StoreEvent::Budget { is_over });
        }
        self.watch_requests();
        if self.retained_at.is_none_or(|at| at.elapsed() >= RETENTION_INTERVAL) {
            self.inventory.retry_skipped();
        }
        if self.listed_at.elapsed() >= SLOW_INTERVAL {
            self.listed_at = Instant::now();
            self.inventory.list_others_again();
            self.watch_clock();
        }
    }

    /// Once the wall clock is synchronised, the time that the machine was off before becomes known.
    fn watch_clock(&mut self) {
        if self.boot.waits() {
            match boot::synchronise(&self.run.config.data_dir, &self.run.clock) {
                Ok(boot) => self.boot = boot,
                Err(error) => tracing::warn!("cannot update the journal's clock: {error}"),
            }
        }
    }

    fn watch_requests(&mut self) {
        if self.sealing.is_some() {
            return self.end_sealing();
        }
        match Sealing::begin(&self.run.dir, self.run.shard_dirs.len()) {
            Ok(None) => {}
            Ok(Some(sealing)) => {
                self.sealing = Some(sealing);
                self.tell_all(|| StoreEvent::Seal);
            }
            Err(error) => tracing::warn!("cannot take a request to seal: {error}"),
        }
    }

    fn end_sealing(&mut self) {
        let Some(sealing) = &mut self.sealing else { return };
        match sealing.try_end(&self.run.dir) {
            Ok(false) => {}
            Ok(true) => {
                self.sealing = None;
                tracing::info!("sealed the open segments on demand");
            }
            Err(error) => tracing::warn!("cannot answer a request to seal: {error}"),
        }
    }

    /// Takes over settings that have changed.
    fn take_settings(&mut self) {
        let changed = lock(&self.state.changed).take();
        if let Some(changed) = changed
            && self.settings != changed
        {
            self.settings = changed;
            // Segments over the new limits go at once.
            self.retained_at = None;
            self.state.limit.store(changed.retain_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
            self.state.can_remove.store(self.inventory.is_complete(), Ordering::Relaxed);
            self.warn_of_limits();
        }
    }

    fn warn_of_limits(&self) {
        let held = self.state.bytes.load(Ordering::Relaxed);
        retention::warn_of_limits(&self.run, &self.settings, held, self.inventory.is_complete());
    }

    fn tell_all(&mut self, event: impl Fn() -> StoreEvent) {
        (0..self.run.shard_dirs.len()).for_each(|shard| self.outbox.send(shard, event()));
    }

    fn watch_room(&mut self) {
        let Ok(room) = free_bytes(&self.run.config.data_dir) else { return };
        let reserve = self.settings.reserve.unwrap_or(room.default_reserve());
        self.state.view.set_disk(DiskSize::new(room, reserve));
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
            self.tell_all(|| StoreEvent::Reserve { is_low });
        }
    }

    /// The shards are gone: removes the segments that they had prepared and did not use, and states
    /// where each shard ends. An empty run is removed with the [`Run`] itself.
    fn end(mut self, open: HashMap<(usize, u64), File>) {
        let mut left: Vec<_> = open.into_iter().collect();
        // The last ones first: one that never began stays if a later one did begin.
        left.sort_unstable_by_key(|(name, _)| std::cmp::Reverse(*name));
        let mut unretired = vec![false; self.run.shard_dirs.len()];
        for ((shard, id), file) in left {
            let directory = &self.run.shard_dirs[shard];
            let is_last = self.inventory.last_own(shard) == Some(id);
            if is_last && tidy::remove_unused(directory, id).unwrap_or(false) {
                self.inventory.remove_own(shard, id);
                continue;
            }
            drop(file);
            unretired[shard] = true;
            self.index(shard, id, None);
        }
        for (shard, is_unclean) in unretired.into_iter().enumerate() {
            if let Err(error) = self.mark_end(shard, is_unclean) {
                tracing::warn!(shard, "cannot mark the end of a shard's journal: {error}");
            }
        }
        if let Some(mut removal) = self.removing.take() {
            removal.free();
        }
        if let Some(spare) = lock(&self.state.spare).take() {
            // If this fails, the next start removes it.
            let _ = std::fs::remove_file(spare.path);
        }
        self.live.end(&self.run);
        if let Err(error) = sealing::end_all(&self.run.dir) {
            tracing::warn!("cannot answer a request to seal: {error}");
        }
        self.log_removed();
    }

    fn mark_end(&self, shard: usize, is_unclean: bool) -> io::Result<()> {
        let directory = &self.run.shard_dirs[shard];
        let FoundMarks::Sound(marks) = Marks::find(directory)? else { return Ok(()) };
        if is_unclean {
            // The next start finds its end.
            return Ok(());
        }
        let last = layout::segments(directory)?.last().copied().unwrap_or(0);
        Marks { ended: Some(last.max(marks.removed_to)), ..marks }.store(directory)
    }
}
