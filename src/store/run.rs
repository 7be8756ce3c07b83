#![forbid(unsafe_code)]
//! One process on a data directory: its directories, its number, and its clock.

use super::disk::Disk;
use super::filesystem::require_durability;
use super::{JournalConfig, StoreError, tidy};
use crate::archive::boot::{self, Boot};
use crate::archive::layout::{self, RunName, sync_dir};
use crate::archive::marks::Marks;
use crate::archive::{lock as file_lock, seal};
use crate::clock::{JournalClock, UnixMicros};
use crate::io::clocks::uptime;
use crate::journal::writer::{Backlog, WriterSettings};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A data directory in which a run has begun. If it is dropped and holds no segment, its directory
/// is removed: a failed start leaves nothing.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) config: JournalConfig,
    pub(super) name: RunName,
    pub(super) boot: Boot,
    pub(super) clock: JournalClock,
    pub(super) dir: PathBuf,
    pub(super) shard_dirs: Vec<PathBuf>,
    pub(super) disk: Disk,
    /// The run's directory. Its lock says that the process is alive.
    _lock: File,
}

impl Run {
    /// Begins a run: makes the directories, counts the boot, tests how the disk can be written.
    pub(crate) fn begin(config: JournalConfig, shard_count: usize) -> Result<Run, StoreError> {
        let failed = |step| {
            let path = config.data_dir.clone();
            move |error| StoreError { path, step, error }
        };
        layout::create_data_dir(&config.data_dir).map_err(failed("making the data directory"))?;
        let doubts = require_durability(&config.data_dir, config.level);
        if let Some(doubts) = doubts.map_err(failed("promising durable ACKs in"))? {
            tracing::warn!("{} is {doubts}", config.data_dir.display());
        }
        let disk =
            Disk::probe(&config.data_dir).map_err(failed("writing to the data directory"))?;
        let boot = boot::current(&config.data_dir).map_err(failed("counting boots in"))?;
        let clock = boot.clock();
        let (name, lock) = begin_run(&config.data_dir, boot.number, &clock, shard_count)
            .map_err(failed("making a run's directories in"))?;
        let dir = layout::run_dir(&config.data_dir, &name);
        let shard_dirs =
            (0..shard_count as u16).map(|shard| layout::shard_dir(&dir, shard)).collect();
        Ok(Run { config, name, boot, clock, dir, shard_dirs, disk, _lock: lock })
    }

    /// The number of the machine's boot, the first part of epochs.
    pub(crate) fn boot(&self) -> u32 {
        self.name.boot
    }

    /// Its name.
    pub(crate) fn name(&self) -> RunName {
        self.name
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
            clock: self.clock.clone(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // If this fails, the next start does it.
        let _ = tidy::remove_if_empty(&self.config.data_dir, &self.name);
    }
}

/// Makes the directories of a new run, with their marks. Readers see them all at once.
fn begin_run(
    data_dir: &Path,
    boot: u32,
    clock: &JournalClock,
    shard_count: usize,
) -> io::Result<(RunName, File)> {
    let runs = layout::runs(data_dir)?;
    for run in runs.iter().filter(|run| run.boot == boot) {
        if seal::is_alive(&layout::run_dir(data_dir, run)).unwrap_or(false) {
            tracing::warn!(
                pid = run.pid,
                "another node serves on {}: both keep their own audio there, and each removes old \
                 audio by its own limits. This is meant for the moment of an upgrade only",
                data_dir.display()
            );
        }
    }
    let newest = runs.iter().map(|run| run.started_at.0).max().unwrap_or(0);
    let started_at = UnixMicros(clock.at(uptime()).0.max(newest.saturating_add(1)));
    let name = RunName { boot, started_at, pid: std::process::id() };
    let starting = layout::starting_dir(data_dir, &name);
    layout::create_dir(&starting)?;
    let made = fill_run(&starting, shard_count).and_then(|lock| {
        std::fs::rename(&starting, layout::run_dir(data_dir, &name))?;
        Ok(lock)
    });
    match made {
        Ok(lock) => {
            sync_dir(data_dir)?;
            Ok((name, lock))
        }
        Err(error) => {
            // If this fails, the next start does it.
            let _ = std::fs::remove_dir_all(&starting);
            Err(error)
        }
    }
}

/// Locks a new run's directory, and makes those of its shards.
fn fill_run(run_dir: &Path, shard_count: usize) -> io::Result<File> {
    let directory = File::open(run_dir)?;
    if !file_lock::try_exclusive(&directory)? {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has locked it"));
    }
    for shard in 0..shard_count as u16 {
        let shard_dir = layout::shard_dir(run_dir, shard);
        layout::create_dir(&shard_dir)?;
        Marks::new(shard_count as u16).store(&shard_dir)?;
    }
    sync_dir(run_dir)?;
    Ok(directory)
}
