#![forbid(unsafe_code)]
//! One process on a data directory: its directories, its number, and the thread that keeps its
//! segments.

use super::disk::Disk;
use super::fenced::Fenced;
use super::indexer::Indexer;
use super::{JournalConfig, SegmentStore, StoreError, StoreEvent, now, retention};
use crate::archive::boot;
use crate::archive::layout::{self, RunName};
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{Backlog, SegmentRequest, WriterSettings};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A data directory in which a run has begun.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) config: JournalConfig,
    pub(super) name: RunName,
    pub(super) shard_dirs: Vec<PathBuf>,
    pub(super) disk: Disk,
}

impl Run {
    /// Begins a run: makes the directories, counts the boot, tests how the disk can be written.
    pub(crate) fn begin(config: JournalConfig, shard_count: usize) -> Result<Run, StoreError> {
        let failed = |step| {
            let path = config.data_dir.clone();
            move |error| StoreError { path, step, error }
        };
        layout::create_data_dir(&config.data_dir).map_err(failed("making the data directory"))?;
        let disk =
            Disk::probe(&config.data_dir).map_err(failed("writing to the data directory"))?;
        let boot = boot::current(&config.data_dir).map_err(failed("counting boots in"))?;
        let name = RunName { boot, started_at: now(), pid: std::process::id() };
        let shard_dirs = (0..shard_count as u16)
            .map(|shard| layout::create_shard_dir(&config.data_dir, &name, shard))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("making a run's directories in"))?;
        Ok(Run { config, name, shard_dirs, disk })
    }

    /// The number of the machine's boot, the first part of epochs.
    pub(crate) fn boot(&self) -> u32 {
        self.name.boot
    }

    /// A line for the log.
    pub(crate) fn note(&self) -> String {
        let (directory, level) = (self.config.data_dir.display(), self.config.level.name());
        format!("journal in {directory}, {}; an ACK means {level}", self.disk.describe())
    }

    /// Settings for the writer of one of the run's shards.
    pub(crate) fn writer_settings(&self, shard: usize) -> WriterSettings {
        WriterSettings {
            level: self.config.level,
            journal: self.config.settings,
            backlog: Backlog::production(),
            shard: shard as u16,
            run: self.name.number(),
        }
    }

    /// Starts the store. It serves `requests` until all of their senders are gone, and sends its
    /// tells shards by `tell`.
    pub(crate) fn start(
        self,
        requests: Receiver<(usize, SegmentRequest)>,
        tell: impl Fn(usize, StoreEvent) + Send + 'static,
    ) -> io::Result<StoreThread> {
        let shard_count = self.shard_dirs.len();
        let changed = Arc::new(Mutex::new(None));
        let worker = SegmentStore {
            changed: Arc::clone(&changed),
            indexer: Indexer::start()?,
            run: self,
            tell: Box::new(tell),
            next_ids: vec![1; shard_count],
            open: HashMap::new(),
            fenced: Fenced::default(),
            inventory: retention::Inventory::default(),
            unserved: Vec::new(),
            spare_headers: Vec::new(),
            is_low: false,
            trouble: None,
            retained_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || worker.work(&requests))?;
        Ok(StoreThread { thread, changed })
    }
}

/// The store's thread.
#[derive(Debug)]
pub(crate) struct StoreThread {
    thread: JoinHandle<()>,
    /// New settings that it has not taken over yet.
    changed: Arc<Mutex<Option<JournalSettings>>>,
}

impl StoreThread {
    /// Keeps the journal by these settings from its next tick on. Only those that may be reloaded
    /// differ from the settings at the start.
    pub(crate) fn set_settings(&self, settings: JournalSettings) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
    }

    /// Waits for its end, which comes after that of all shards.
    pub(crate) fn join(self) {
        // It reports in the log, and has no result.
        let _ = self.thread.join();
    }
}
