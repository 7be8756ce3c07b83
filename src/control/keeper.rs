#![forbid(unsafe_code)]
//! The keeper of a node's segments: one thread that makes their files ahead of need, seals what shards have finished, deletes
//! or recycles what is not to be kept any longer, and watches how much room there is. It never writes audio.
//!
//! ```text
//! shard ──Prepare──► keeper: make room, create and lock or recycle, allocate, name, sync ──mail: Segment──► shard writes
//! shard ──Retire───► keeper: cut to its end, store its index, close (which unlocks)
//! ```
//! The keeper holds the open files, shards only their numbers: so it outlives the shards ([`Keeper::join`]).

use crate::ack::AckLevel;
use crate::clock::UnixMicros;
use crate::constants::{MANIFEST_SHARE, MANIFEST_SIZE_MAX};
use crate::frame_ring::Manifest;
use crate::io::FileHandle;
use crate::journal::boot;
use crate::journal::format::SegmentUuid;
use crate::journal::index::IndexBuilder;
use crate::journal::layout::{self, RunName};
use crate::journal::writer::{PreparedSegment, SegmentRequest, WriterSettings};
use crate::shard::mailbox::{MailboxSender, Message};
use disk::{Disk, free_bytes};
use fenced::Fenced;
use indexer::{Indexer, Sealed};
use rand_core::{OsRng, RngCore};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod disk;
mod fenced;
mod indexer;
mod recycle;
pub mod retention;
#[cfg(test)]
mod tests;

/// How often the room on the disk is looked at, and a segment tried again that there was no room for.
const TICK: Duration = Duration::from_secs(1);

/// How often retention looks for what is to go.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

/// How a node keeps its journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalConfig {
    /// `data_dir`: made where it is missing, 0700.
    pub data_dir: PathBuf,
    /// `ack`.
    pub level: AckLevel,
    /// `journal.segment_size`, bytes: whole blocks.
    pub segment_size: u64,
    /// `journal.sync_interval`.
    pub sync_interval: Duration,
    /// `journal.stall_timeout`.
    pub stall_timeout: Duration,
    /// `journal.retain_bytes`: bytes on disk of all segments and indexes, those in use included; `None` keeps everything. Room
    /// is made before a segment is, so it is exceeded only by what cannot be taken: segments that are read just then, a shard's
    /// two in use where the limit is smaller than those, and indexes stored since the last segment was made.
    pub retain_bytes: Option<u64>,
    /// `journal.retain_age`; `None` keeps everything. Looked after every five seconds. With it no file is recycled: what it
    /// held would stay behind the new segment's end for a while.
    pub retain_age: Option<Duration>,
    /// `journal.reserve`, bytes: 0 for none; `None`: 5 % of the filesystem, at least 1 GiB.
    pub reserve: Option<u64>,
    /// `journal.prefill`: writes zeros over a segment before it is used.
    pub prefill: bool,
}

impl JournalConfig {
    /// The defaults, in `data_dir`.
    pub fn new(data_dir: PathBuf) -> Self {
        JournalConfig {
            data_dir,
            level: AckLevel::Durable,
            segment_size: 128 << 20,
            sync_interval: Duration::from_millis(20),
            stall_timeout: Duration::from_secs(60),
            retain_bytes: None,
            retain_age: None,
            reserve: None,
            prefill: false,
        }
    }
}

/// Why a journal cannot be kept in a directory.
#[derive(Debug)]
pub struct KeeperError {
    path: PathBuf,
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for KeeperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeeperError { path, step, error } = self;
        write!(f, "{step} {} failed ({error}): ", path.display())?;
        f.write_str(match error.kind() {
            io::ErrorKind::PermissionDenied => "let this user write there, or choose another directory with --data-dir",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ROOM_ADVICE,
            io::ErrorKind::ReadOnlyFilesystem => "mount it for writing, or choose another directory with --data-dir",
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "choose a directory with --data-dir",
            _ => "choose a directory on a local disk with --data-dir",
        })
    }
}

/// What to do when a disk is full.
const ROOM_ADVICE: &str = "make room, or set --retain-bytes, to less than there is room for";

/// Why a segment cannot be made, for the log: shards are told the same whatever it is, and calls end with 1013.
fn trouble(data_dir: &Path, error: &io::Error) -> String {
    let data_dir = data_dir.display();
    if disk::is_full(error) {
        return format!("no room for a segment in {data_dir} ({error}): {ROOM_ADVICE}");
    }
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "let this user write there",
        io::ErrorKind::ReadOnlyFilesystem => "the disk may have failed: the kernel's log says more",
        io::ErrorKind::FileTooLarge => "set a smaller journal.segment_size",
        _ => "the kernel's log may say more",
    };
    format!("a segment cannot be made in {data_dir}, and not for lack of room ({error}): {remedy}")
}

impl std::error::Error for KeeperError {}

/// A data directory in which a run has begun.
#[derive(Debug)]
pub struct Run {
    config: JournalConfig,
    name: RunName,
    shard_dirs: Vec<PathBuf>,
    disk: Disk,
}

impl Run {
    /// Begins a run: makes the directories, counts the boot, tries how the disk can be written.
    pub fn begin(config: JournalConfig, shard_count: usize) -> Result<Run, KeeperError> {
        let failed = |step| {
            let path = config.data_dir.clone();
            move |error| KeeperError { path, step, error }
        };
        layout::create_data_dir(&config.data_dir).map_err(failed("making the data directory"))?;
        let disk = Disk::probe(&config.data_dir).map_err(failed("writing to the data directory"))?;
        let boot = boot::current(&config.data_dir).map_err(failed("counting boots in"))?;
        let name = RunName { boot, started_at: now(), pid: std::process::id() };
        let shard_dirs = (0..shard_count as u16)
            .map(|shard| layout::create_shard_dir(&config.data_dir, &name, shard))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("making a run's directories in"))?;
        Ok(Run { config, name, shard_dirs, disk })
    }

    /// The number of the machine's boot, as epochs carry it.
    pub fn boot(&self) -> u32 {
        self.name.boot
    }

    /// What is worth a line in the log.
    pub fn note(&self) -> String {
        let (directory, level) = (self.config.data_dir.display(), self.config.level.name());
        format!("journal in {directory}, {}; an ACK means {level}", self.disk.describe())
    }

    /// For the writer of one of the run's shards.
    pub fn writer_settings(&self, shard: usize) -> WriterSettings {
        WriterSettings {
            level: self.config.level,
            sync_interval: self.config.sync_interval,
            stall_timeout: self.config.stall_timeout,
            shard: shard as u16,
            run: self.name.number(),
        }
    }

    /// Starts the keeper: it serves `requests` until all of their senders are gone, and answers to `shards`.
    pub fn keep(self, requests: Receiver<(usize, SegmentRequest)>, shards: Vec<MailboxSender>) -> io::Result<Keeper> {
        let shard_count = shards.len();
        let worker = Worker {
            indexer: Indexer::start()?,
            run: self,
            shards,
            next_ids: vec![1; shard_count],
            open: HashMap::new(),
            fenced: Fenced::default(),
            inventory: retention::Inventory::default(),
            unserved: Vec::new(),
            manifests: Vec::new(),
            is_low: false,
            trouble: None,
            retained_at: None,
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || worker.work(&requests))?;
        Ok(Keeper { thread })
    }
}

/// The keeper's thread.
#[derive(Debug)]
pub struct Keeper {
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Waits for its end, which comes once all shards are gone.
    pub fn join(self) {
        // It reports in the log, and there is nothing to hand back.
        let _ = self.thread.join();
    }
}

/// What the thread works with.
struct Worker {
    run: Run,
    indexer: Indexer,
    shards: Vec<MailboxSender>,
    next_ids: Vec<u64>,
    /// Files that shards write or have at hand, by shard and id.
    open: HashMap<(usize, u64), File>,
    fenced: Fenced,
    inventory: retention::Inventory,
    /// Shards that wait for a segment that could not be made.
    unserved: Vec<usize>,
    /// What segments were noted in that are done with.
    manifests: Vec<Manifest>,
    is_low: bool,
    /// Why segments cannot be made, as it was logged.
    trouble: Option<String>,
    retained_at: Option<Instant>,
}

impl Worker {
    fn work(mut self, requests: &Receiver<(usize, SegmentRequest)>) {
        self.tidy();
        // After tidying up: that passes over what is being read.
        if let Err(error) = indexer::start_recovery(self.run.config.data_dir.clone(), self.run.name) {
            tracing::warn!("nobody looks after the journal of earlier runs: {error}");
        }
        // Once more when what a process killed a moment ago has left is not young any more.
        let mut tidies_at = Some(Instant::now() + 2 * retention::YOUNG);
        self.warn_of_limits();
        self.look_after();
        let mut looked_at = Instant::now();
        loop {
            match requests.recv_timeout(TICK.saturating_sub(looked_at.elapsed())) {
                Ok((shard, SegmentRequest::Prepare)) => self.prepare(shard),
                Ok((shard, SegmentRequest::Retire { id, size, is_fenced, manifest })) => {
                    self.retire((shard, id), size, is_fenced, &manifest);
                    self.manifests.push(manifest);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.remove_unused(),
            }
            if looked_at.elapsed() >= TICK {
                self.look_after();
                looked_at = Instant::now();
                if tidies_at.take_if(|at| *at <= looked_at).is_some() {
                    self.tidy();
                }
            }
        }
    }

    fn tidy(&self) {
        if let Err(error) = retention::tidy(&self.run.config.data_dir, SystemTime::now()) {
            tracing::warn!("cannot tidy up {}: {error}", self.run.config.data_dir.display());
        }
    }

    /// Limits that cannot do what they are for.
    fn warn_of_limits(&self) {
        let config = &self.run.config;
        let Some(bytes) = config.retain_bytes else { return };
        // One that is written, one at hand, and one to be taken.
        let least = 3 * config.segment_size * self.shards.len() as u64;
        if bytes < least {
            tracing::warn!(
                bytes,
                "--retain-bytes is too small: calls are deleted as soon as their segment is full, and segments in use take up \
                 more; set at least {least}, or a smaller journal.segment_size"
            );
        }
        let (Ok(room), Ok(held)) = (free_bytes(&config.data_dir), retention::bytes_held(&config.data_dir)) else { return };
        let most = (held + room.free).saturating_sub(config.reserve.unwrap_or(room.default_reserve()));
        if bytes > most {
            tracing::warn!(
                bytes,
                "--retain-bytes is more than the disk has room for: it fills up before anything is deleted; set less than {most}"
            );
        }
    }

    fn prepare(&mut self, shard: usize) {
        match self.make(shard) {
            Ok(segment) => {
                if self.trouble.take().is_some() {
                    tracing::info!("segments can be made again");
                }
                self.tell(shard, Message::Segment(segment));
            }
            Err(error) => {
                let text = trouble(&self.run.config.data_dir, &error);
                if self.trouble.as_ref() != Some(&text) {
                    tracing::warn!(shard, "{text}");
                    self.trouble = Some(text);
                }
                if !self.unserved.contains(&shard) {
                    self.unserved.push(shard);
                    self.tell(shard, Message::NoRoom);
                }
            }
        }
    }

    /// Makes a segment's file: locked, allocated, and durable by name.
    fn make(&mut self, shard: usize) -> io::Result<PreparedSegment> {
        let (size, prefill) = (self.run.config.segment_size, self.run.config.prefill);
        let recycled = self.make_room();
        let (directory, id) = (&self.run.shard_dirs[shard], self.next_ids[shard]);
        let preparing = layout::preparing_path(directory, id);
        let unfinished = layout::unfinished_index_path(directory, id);
        if !directory.is_dir() {
            // Another process found it empty for long.
            layout::create_shard_dir(&self.run.config.data_dir, &self.run.name, shard as u16)?;
        }
        // Left over from an attempt that failed.
        remove_if_there(&preparing)?;
        let recycled =
            recycled.map(|claimed| recycle::recycle(self.run.disk, claimed, (&preparing, &unfinished), size, prefill));
        let recycled = recycled.and_then(|recycled| {
            let log = |error: &io::Error| {
                tracing::warn!(shard, "a segment cannot be recycled: {error}");
                self.inventory.forget();
            };
            recycled.inspect_err(log).ok()
        });
        let made = match recycled {
            Some(file) => Ok(file),
            None => remove_if_there(&preparing).and_then(|()| self.run.disk.create(&preparing, size, prefill)),
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
        let (handle, manifest) = (FileHandle(file.as_raw_fd()), self.manifest(size));
        let segment = PreparedSegment { id, uuid, file: handle, size, created_at: now(), manifest };
        self.open.insert((shard, id), file);
        self.inventory.add(size);
        self.next_ids[shard] += 1;
        Ok(segment)
    }

    /// Room to note in what is in a segment of so many bytes: what an earlier one was noted in, if it can be had.
    fn manifest(&mut self, segment_size: u64) -> Manifest {
        let size = (segment_size / MANIFEST_SHARE).min(MANIFEST_SIZE_MAX);
        self.manifests.pop().unwrap_or_else(|| Manifest::with_room(size as usize))
    }

    /// Makes room within `retain_bytes` for one more segment, and hands out the file it can be made of.
    fn make_room(&mut self) -> Option<retention::Claimed> {
        let (config, run, fenced) = (&self.run.config, self.run.name, &self.fenced);
        let bytes = config.retain_bytes?;
        let may_recycle = |segment: &retention::Segment| {
            segment.run == run && config.retain_age.is_none() && !fenced.contains(usize::from(segment.shard), segment.id)
        };
        let sizes = (bytes, config.segment_size);
        match self.inventory.make_room(&config.data_dir, sizes, self.run.disk, may_recycle) {
            Ok((removed, recycled)) => {
                log_removed(removed);
                recycled
            }
            Err(error) => {
                tracing::warn!("retention cannot make room in {}: {error}", config.data_dir.display());
                None
            }
        }
    }

    /// The shard has done with a segment.
    fn retire(&mut self, (shard, id): (usize, u64), size: u64, is_fenced: bool, manifest: &Manifest) {
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
        // Should that fail, what readers know as the end stays: zeros, or another use of the file.
        if let Err(error) = disk::end(&file, size) {
            tracing::warn!(shard, segment = id, "cannot cut a segment to its end: {error}");
        }
        let has_index = self.store_index(shard, id, size, manifest);
        // Closed, so that its lock is free for readers.
        drop(file);
        if !has_index {
            self.index(shard, id, Some(size));
        }
        let cut = self.fenced.handle_retired(&self.run.shard_dirs[shard], shard, id);
        cut.into_iter().for_each(|id| self.index(shard, id, None));
    }

    /// Stores the index of a segment that is still locked, so that nobody has read, erased or removed anything of it. False
    /// where its writer could not note everything: then it has to be read.
    fn store_index(&self, shard: usize, id: u64, size: u64, manifest: &Manifest) -> bool {
        let run = self.run.name.number();
        let index = IndexBuilder::of_manifest(manifest, run, shard as u16, id, size).filter(|index| index.batches > 0);
        index.is_some_and(|index| index.store(&self.run.shard_dirs[shard]).is_ok())
    }

    fn index(&self, shard: usize, id: u64, size: Option<u64>) {
        let directory = self.run.shard_dirs[shard].clone();
        self.indexer.index(Sealed { run: self.run.name, shard: shard as u16, directory, id, size });
    }

    /// Once a tick: room, retention, and segments that could not be made.
    fn look_after(&mut self) {
        let config = &self.run.config;
        let (has_limit, interval) = (config.retain_bytes.is_some() || config.retain_age.is_some(), RETENTION_INTERVAL);
        if has_limit && (!self.unserved.is_empty() || self.retained_at.is_none_or(|at| at.elapsed() >= interval)) {
            self.retained_at = Some(Instant::now());
            match retention::enforce(&config.data_dir, config.retain_bytes, config.retain_age, SystemTime::now()) {
                Ok(removed) => log_removed(removed),
                Err(error) => tracing::warn!("retention cannot look through {}: {error}", config.data_dir.display()),
            }
        }
        self.watch_room();
        for shard in std::mem::take(&mut self.unserved) {
            match self.make(shard) {
                Ok(segment) => {
                    self.trouble = None;
                    tracing::info!(shard, "segments can be made again");
                    self.tell(shard, Message::Segment(segment));
                }
                Err(_) => self.unserved.push(shard),
            }
        }
    }

    fn watch_room(&mut self) {
        let Ok(room) = free_bytes(&self.run.config.data_dir) else { return };
        let reserve = self.run.config.reserve.unwrap_or(room.default_reserve());
        let is_low = room.free < reserve;
        if is_low != self.is_low {
            self.is_low = is_low;
            match is_low {
                true => tracing::warn!(free = room.free, reserve, "too little room on the disk: new calls are refused"),
                false => tracing::info!(free = room.free, reserve, "there is room on the disk again"),
            }
            for shard in 0..self.shards.len() {
                self.tell(shard, Message::Reserve { is_low });
            }
        }
    }

    fn tell(&self, shard: usize, message: Message) {
        let mut message = message;
        // A shard takes all its mail each turn; waiting for it holds up nobody who holds it up.
        while let Err(refused) = self.shards[shard].try_send(message) {
            message = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The shards are gone: what they had at hand and did not use is removed.
    fn remove_unused(mut self) {
        let mut unretired = Vec::new();
        for ((shard, id), file) in self.open.drain() {
            let path = layout::segment_path(&self.run.shard_dirs[shard], id);
            let is_unused = disk::is_unused(&path).unwrap_or(false);
            if is_unused {
                let _ = std::fs::remove_file(&path);
                // What its index would have been written over.
                let _ = std::fs::remove_file(layout::unfinished_index_path(&self.run.shard_dirs[shard], id));
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
        tracing::info!(segments = removed.segments, bytes = removed.bytes, "retention removed the oldest");
    }
}

fn now() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    missing_is_fine(std::fs::remove_file(path))
}

/// What was to be done to a file that may not be there.
fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
