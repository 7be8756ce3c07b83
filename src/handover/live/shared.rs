//! What the thread that feeds a message engine and its tasks share: the settings, the cursor, and
//! how far each shard is.

#![forbid(unsafe_code)]

use super::chunker::AudioOf;
use super::engine::{EngineConfig, StreamPlan};
use crate::archive::layout::RunName;
use crate::archive::pins::Pins;
use crate::archive::reader::{Journal, JournalError, ShardJournal};
use crate::call::ReplicatedFrames;
use crate::constants::BLOCK_SIZE;
use crate::format::Lsn;
use crate::handover::cursor::{Cursor, ShardName};
use crate::handover::lag::{LagMeter, first_lacking};
use crate::handover::sink_view::SinkView;
use crate::handover::slice::NodeName;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What the thread may know of the node's shards and tell them. No shard waits for it.
pub(crate) trait NodeShards: Debug + Send + Sync {
    /// Position up to which the journal of a shard is durable; `None` if this node does not write
    /// it.
    fn durable_lsn(&self, run: &RunName, shard: u16) -> Option<Lsn>;

    /// Tells a shard which frames the engine has. If it cannot take them now, they come back.
    fn report_replicated(
        &self,
        shard: u16,
        frames: Vec<ReplicatedFrames>,
    ) -> Result<(), Vec<ReplicatedFrames>>;
}

/// What to hand over, and where to.
#[derive(Clone, Debug)]
pub(crate) struct LiveConfig {
    /// The node's data directory.
    pub(crate) data_dir: PathBuf,
    /// The node's name in messages.
    pub(crate) node: NodeName,
    /// The engine.
    pub(crate) engine: EngineConfig,
    /// How to make missing streams; `None`: they must be there.
    pub(crate) plan: Option<StreamPlan>,
    /// Monitoring ports of its servers.
    pub(crate) monitors: Vec<String>,
    /// Calls whose audio is handed over.
    pub(crate) audio_of: AudioOf,
    /// Runs that are not handed over.
    pub(crate) earlier: HashSet<RunName>,
    /// Tell the shards what the engine has.
    pub(crate) reports: bool,
    /// What retention must leave; `None`: retention does not wait for this sink.
    pub(crate) pins: Option<Arc<Pins>>,
    /// CPUs that the thread may use; empty: any.
    pub(crate) cpus: Vec<usize>,
}

/// What the tasks of the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: LiveConfig,
    pub(super) shards: Arc<dyn NodeShards>,
    pub(super) view: Arc<SinkView>,
    stop: Arc<AtomicBool>,
    pub(super) cursor: RefCell<Cursor>,
    cursor_path: PathBuf,
    is_unsaved: Cell<bool>,
    pub(super) saved_at: Cell<Instant>,
    progress: RefCell<BTreeMap<ShardName, Progress>>,
    meter: RefCell<LagMeter>,
}

/// How far a shard is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Everything before this position was handed over, but for frames that wait for the rest of
    /// their chunk.
    handed: u64,
    /// The end of the journal of an earlier run, about.
    end: u64,
    /// Messages that the engine has not acknowledged, and their bytes.
    waiting: (usize, usize),
}

impl Shared {
    /// With the cursor of an earlier start, if there is one.
    pub(super) fn new(
        config: LiveConfig,
        shards: Arc<dyn NodeShards>,
        view: Arc<SinkView>,
        stop: Arc<AtomicBool>,
    ) -> Shared {
        let url = &config.engine.url;
        let cursor_path = Cursor::path(&config.data_dir, url);
        // Without a cursor everything is sent again, and readers drop the copies.
        let loaded = Cursor::load(&cursor_path, url, &config.node).unwrap_or_default();
        let cursor = loaded.unwrap_or_else(|| Cursor::new(url, config.node.clone()));
        Shared {
            cursor: RefCell::new(cursor),
            config,
            shards,
            view,
            stop,
            cursor_path,
            is_unsaved: Cell::new(false),
            saved_at: Cell::new(Instant::now()),
            progress: RefCell::default(),
            meter: RefCell::default(),
        }
    }

    /// Whether the node's shards have ended.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether this node writes the shard.
    pub(super) fn is_own(&self, (run, shard): &ShardName) -> bool {
        self.shards.durable_lsn(run, *shard).is_some()
    }

    /// Whether the shard is from before the first start with this engine, and is not handed over.
    pub(super) fn is_earlier(&self, (run, _): &ShardName) -> bool {
        self.config.earlier.contains(run)
    }

    /// The engine has everything of the shard before `position`. What was handed over may be more:
    /// frames wait for the rest of their chunk.
    pub(super) fn note(&self, name: ShardName, position: Lsn, handed: Lsn) {
        let mut cursor = self.cursor.borrow_mut();
        if cursor.position(&name).is_none_or(|before| before < position) {
            cursor.advance(name, position);
            self.is_unsaved.set(true);
        }
        self.progress.borrow_mut().entry(name).or_default().handed = handed.0;
    }

    /// The shards in the data directory. Forgets the others.
    pub(super) fn list(&self) -> Result<Journal, JournalError> {
        let journal = Journal::open(&self.config.data_dir)?;
        let shards = journal.shards();
        let names: HashSet<ShardName> = shards.iter().map(name_of).collect();
        let mut cursor = self.cursor.borrow_mut();
        cursor.keep(|shard| names.contains(shard));
        if let Some(pins) = &self.config.pins {
            let dirs: HashSet<_> = shards.iter().map(ShardJournal::dir).collect();
            pins.keep(|dir| dirs.contains(dir));
        }
        let mut progress = self.progress.borrow_mut();
        for shard in shards {
            let name = name_of(shard);
            if progress.contains_key(&name) {
                continue;
            }
            if self.is_earlier(&name) {
                progress.insert(name, Progress::default());
                self.config.pins.iter().for_each(|pins| pins.release(shard.dir()));
                continue;
            }
            let handed = cursor.position(&name).unwrap_or_default().0;
            let end = if self.is_own(&name) { 0 } else { end_of(shard).max(handed) };
            progress.insert(name, Progress { handed, end, waiting: (0, 0) });
            let first = first_lacking(shard, Lsn(handed))?;
            if let (Some(pins), Some(first)) = (&self.config.pins, first) {
                pins.raise(shard.dir(), first);
            }
        }
        self.config.pins.iter().for_each(|pins| pins.settle());
        Ok(journal)
    }

    /// Writes the cursor though nothing has changed: from now on `calls delete` knows this engine.
    pub(super) fn save_first(&self) {
        self.is_unsaved.set(true);
        self.save();
    }

    /// Writes the cursor, if it has moved.
    pub(super) fn save(&self) {
        self.saved_at.set(Instant::now());
        let mut cursor = self.cursor.borrow_mut();
        // Another process may have served from this directory until now, or have sent earlier runs.
        // Of its own shards this node knows best: `ship` beside it may have left audio out.
        let (path, config) = (&self.cursor_path, &self.config);
        if let Ok(Some(other)) = Cursor::load(path, &config.engine.url, &config.node) {
            cursor.merge(&other, |shard| !self.is_own(shard));
        }
        if self.is_unsaved.replace(false)
            && let Err(error) = cursor.store(path)
        {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
    }

    /// Publishes how much of the journal the engine lacks.
    pub(super) fn measure(&self) {
        let progress = self.progress.borrow();
        let ends = progress.iter().map(|(name, progress)| {
            let own = self.shards.durable_lsn(&name.0, name.1);
            (*name, Lsn(progress.handed), own.unwrap_or(Lsn(progress.end)))
        });
        let (bytes, age) = self.meter.borrow_mut().measure_ends(Instant::now(), ends);
        self.view.set_lag(bytes, age);
        let waiting = progress.values().map(|progress| progress.waiting);
        let (messages, size) = waiting.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        self.view.set_in_flight(messages, size);
    }

    /// So many messages of a shard, with so many bytes, wait for the engine.
    pub(super) fn set_waiting(&self, name: ShardName, waiting: (usize, usize)) {
        if let Some(progress) = self.progress.borrow_mut().get_mut(&name) {
            progress.waiting = waiting;
        }
    }

    /// The engine has the shard to its end.
    pub(super) fn finish(&self, name: ShardName, dir: &Path) {
        if let Some(progress) = self.progress.borrow_mut().get_mut(&name) {
            progress.handed = progress.end.max(progress.handed);
        }
        if let Some(pins) = &self.config.pins {
            pins.release(dir);
        }
    }
}

/// Whether the engine has been told the end of a shard whose run is over: then the position is the
/// byte after the end. Ends are those of blocks. Such a shard need not be read again at each start,
/// and a directory may have hundreds of them.
pub(super) fn is_told(position: Lsn) -> bool {
    position.0 % BLOCK_SIZE as u64 == 1
}

/// The name of a shard.
pub(super) fn name_of(shard: &ShardJournal) -> ShardName {
    (*shard.run(), shard.shard())
}

/// Where the last segment of a shard ends, at most.
fn end_of(shard: &ShardJournal) -> u64 {
    let Some(last) = shard.segment_count().checked_sub(1) else { return 0 };
    let start = shard.start(last).ok().flatten().unwrap_or_default();
    start.0 + std::fs::metadata(shard.path(last)).map_or(0, |found| found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_beyond_the_end_says_that_the_end_was_told() {
        let block = BLOCK_SIZE as u64;
        assert!(!is_told(Lsn(0)) && !is_told(Lsn(7 * block)) && is_told(Lsn(7 * block + 1)));
    }
}
