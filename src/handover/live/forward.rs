//! Hands calls over to the message engine while the node serves.
//!
//! ```text
//! data directory ──► a pipeline for each shard ──► the engine
//!      ▲   what is durable: the node's memory          │
//!      └── cursor, pins ◄── acknowledgements ◄─────────┘
//! ```
//! A thread beside the shards does this, with a task for each shard that it reads. It reads the
//! shards' files, and asks the node's memory how far they are durable. So the end of a lone call is
//! handed over at once. It hands over the runs that ended earlier, too. A run of another process is
//! left to that process until it has ended.
//!
//! It never gives up, and drops nothing. If the engine is away, the journal waits.

#![forbid(unsafe_code)]

use super::chunker::AudioOf;
use super::engine::{Engine, EngineConfig, EngineError, StreamPlan};
use super::pipeline::{Ended, Pipeline};
use super::safety::Safety;
use crate::archive::layout::RunName;
use crate::archive::pins::Pins;
use crate::archive::reader::{Journal, JournalError, ShardJournal};
use crate::call::ReplicatedFrames;
use crate::format::Lsn;
use crate::handover::cursor::{Cursor, ShardName};
use crate::handover::forward::keep_to;
use crate::handover::sink_view::SinkView;
use crate::handover::slice::NodeName;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// How often the thread looks at its tasks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often to look for new runs and shards.
const LIST_INTERVAL: Duration = Duration::from_secs(2);

/// How often the cursor is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long an attempt to connect may take.
const CONNECT_WAIT: Duration = Duration::from_secs(15);

/// First and longest pause after a failed attempt.
const CONNECT_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long a node that ends waits for the rest. The next start sends what is left.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Shards of earlier runs that are read at a time, so that the node's own calls come first.
const EARLIER_MAX: usize = 2;

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
    /// Tell the shards what the engine has.
    pub(crate) reports: bool,
    /// What retention must leave; `None`: retention does not wait for this sink.
    pub(crate) pins: Option<Arc<Pins>>,
    /// CPUs that the thread may use; empty: any.
    pub(crate) cpus: Vec<usize>,
}

/// The thread that hands over. It ends with [`LiveForwarder::end`].
#[derive(Debug)]
pub(crate) struct LiveForwarder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    view: Arc<SinkView>,
}

impl LiveForwarder {
    /// Starts to hand over.
    pub(crate) fn start(
        config: LiveConfig,
        shards: Arc<dyn NodeShards>,
    ) -> io::Result<LiveForwarder> {
        let view = Arc::new(SinkView::new("engine", &config.engine.url));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (of_thread, seen) = (Arc::clone(&stop), Arc::clone(&view));
        let thread = std::thread::Builder::new().name("live".into()).spawn(move || {
            keep_to(&config.cpus);
            let shared = Rc::new(Shared::new(config, shards, seen, of_thread));
            LocalSet::new().block_on(&runtime, work(shared));
        })?;
        Ok(LiveForwarder { stop, thread, view })
    }

    /// What others may see of it.
    pub(crate) fn view(&self) -> Arc<SinkView> {
        Arc::clone(&self.view)
    }

    /// From now on it sends only the rest. The node's shards have ended.
    pub(crate) fn begin_end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sends the rest, for some seconds at most, and ends. The node's shards have ended.
    pub(crate) fn end(self) {
        self.begin_end();
        // In a release build a panic would have ended the node. Elsewhere it left its message.
        let _ = self.thread.join();
    }
}

impl LiveConfig {
    /// Connects, finds the streams, and publishes a message to each.
    async fn connect(&self) -> Result<(Engine, Safety), EngineError> {
        let connecting = async {
            let mut engine = Engine::connect(&self.engine).await?;
            let risks = engine.find_streams(self.plan.as_ref()).await?;
            engine.probe(self.node.as_str()).await?;
            Ok((engine, risks))
        };
        let (engine, risks) = timeout(CONNECT_WAIT, connecting).await.unwrap_or_else(|_| {
            Err(EngineError(format!(
                "the message engine at {} has not answered for {} s",
                self.engine.url,
                CONNECT_WAIT.as_secs()
            )))
        })?;
        Ok((engine, Safety::new(risks, &self.monitors)))
    }

    /// Whether the engine takes messages of this node.
    pub(crate) fn probe(&self) -> Result<Safety, EngineError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| EngineError(format!("no runtime: {error}")))?;
        runtime.block_on(self.connect()).map(|(_, safety)| safety)
    }
}

/// What the tasks of the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: LiveConfig,
    pub(super) shards: Arc<dyn NodeShards>,
    pub(super) view: Arc<SinkView>,
    stop: Arc<AtomicBool>,
    cursor: RefCell<Cursor>,
    cursor_path: PathBuf,
    is_unsaved: Cell<bool>,
    saved_at: Cell<Instant>,
    progress: RefCell<BTreeMap<ShardName, Progress>>,
}

/// How far a shard is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Everything before this position was handed over, but for frames that wait for the rest of
    /// their chunk.
    handed: u64,
    /// The end of the journal of an earlier run, about.
    end: u64,
}

impl Shared {
    fn new(
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
    fn list(&self) -> Result<Journal, JournalError> {
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
            progress.entry(name).or_insert_with(|| {
                let handed = cursor.position(&name).unwrap_or_default().0;
                let end = if self.is_own(&name) { 0 } else { end_of(shard).max(handed) };
                Progress { handed, end }
            });
        }
        Ok(journal)
    }

    fn save(&self) {
        self.saved_at.set(Instant::now());
        let mut cursor = self.cursor.borrow_mut();
        // Another process may have served from this directory until now.
        let (path, config) = (&self.cursor_path, &self.config);
        if let Ok(Some(other)) = Cursor::load(path, &config.engine.url, &config.node) {
            cursor.merge(&other);
        }
        if self.is_unsaved.replace(false)
            && let Err(error) = cursor.store(path)
        {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
    }

    /// Publishes how much of the journal the engine lacks.
    fn measure(&self) {
        let (mut end, mut lag) = (0, 0);
        for ((run, shard), progress) in &*self.progress.borrow() {
            let durable = self.shards.durable_lsn(run, *shard).map_or(progress.end, |lsn| lsn.0);
            end += durable;
            lag += durable.saturating_sub(progress.handed);
        }
        self.view.measure(Instant::now(), end, lag);
    }

    fn finish(&self, name: ShardName, dir: &std::path::Path) {
        if let Some(progress) = self.progress.borrow_mut().get_mut(&name) {
            progress.handed = progress.end.max(progress.handed);
        }
        if let Some(pins) = &self.config.pins {
            pins.release(dir);
        }
    }
}

pub(super) fn name_of(shard: &ShardJournal) -> ShardName {
    (*shard.run(), shard.shard())
}

/// Where the last segment of a shard ends, at most.
fn end_of(shard: &ShardJournal) -> u64 {
    let Some(last) = shard.segment_count().checked_sub(1) else { return 0 };
    let start = shard.start(last).ok().flatten().unwrap_or_default();
    start.0 + std::fs::metadata(shard.path(last)).map_or(0, |found| found.len())
}

/// The work of the thread.
async fn work(shared: Rc<Shared>) {
    let Some(engine) = connect(&shared).await else { return };
    let mut tasks = Tasks { shared, engine, running: HashMap::new(), done: HashSet::new() };
    let (mut listed_at, mut stopped_at) = (None::<Instant>, None::<Instant>);
    loop {
        // Read before the listing: then that sees everything.
        let is_stopping = tasks.shared.is_stopping();
        if is_stopping && stopped_at.is_none() {
            (stopped_at, listed_at) = (Some(Instant::now()), None);
        }
        tasks.settle().await;
        if listed_at.is_none_or(|at| at.elapsed() >= LIST_INTERVAL) {
            listed_at = Some(Instant::now());
            tasks.start();
        }
        let shared = &tasks.shared;
        shared.measure();
        let is_late = stopped_at.is_some_and(|at| at.elapsed() > LAST_WAIT);
        let has_ended = is_late || (is_stopping && !tasks.has_own());
        if has_ended || shared.saved_at.get().elapsed() >= SAVE_INTERVAL {
            shared.save();
        }
        if has_ended {
            return;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Connects, however long that takes. `None`: the node ends.
async fn connect(shared: &Shared) -> Option<Engine> {
    let (mut pause, pause_max) = CONNECT_PAUSES;
    loop {
        if let Err(error) = shared.list() {
            shared.view.fail(&error.to_string());
        }
        let connecting = shared.config.connect();
        tokio::pin!(connecting);
        let connected = loop {
            match timeout(LOOK_INTERVAL, &mut connecting).await {
                Ok(connected) => break connected,
                Err(_) if shared.is_stopping() => return None,
                Err(_) => shared.measure(),
            }
        };
        match connected {
            Ok((engine, safety)) => {
                for told in safety.risks.iter().chain(&safety.unknown) {
                    tracing::warn!("{told}");
                }
                shared.view.set_risks(safety.risks);
                shared.view.recover();
                return Some(engine);
            }
            Err(error) => shared.view.fail(&error.to_string()),
        }
        let waiting = Instant::now();
        while waiting.elapsed() < pause {
            if shared.is_stopping() {
                return None;
            }
            shared.measure();
            sleep(LOOK_INTERVAL).await;
        }
        pause = (2 * pause).min(pause_max);
    }
}

/// The shards that are handed over now.
struct Tasks {
    shared: Rc<Shared>,
    engine: Engine,
    running: HashMap<ShardName, Running>,
    /// Shards that the engine has to their end.
    done: HashSet<ShardName>,
}

struct Running {
    dir: PathBuf,
    task: tokio::task::JoinHandle<Result<Ended, JournalError>>,
}

impl Tasks {
    /// Starts what is not started, and may be.
    fn start(&mut self) {
        let journal = match self.shared.list() {
            Ok(journal) => journal,
            Err(error) => return self.shared.view.fail(&error.to_string()),
        };
        let shards = journal.shards();
        let names: HashSet<ShardName> = shards.iter().map(name_of).collect();
        self.done.retain(|name| names.contains(name));
        for shard in shards {
            let name = name_of(shard);
            let is_own = self.shared.is_own(&name);
            if self.done.contains(&name) || self.running.contains_key(&name) {
                continue;
            }
            let earlier = self.running.keys().filter(|name| !self.shared.is_own(name)).count();
            if !is_own {
                if earlier >= EARLIER_MAX || shard.is_being_written() {
                    continue;
                }
                // The process that wrote it may have sent some of it.
                self.shared.save();
            }
            let from = self.shared.cursor.borrow().position(&name).unwrap_or_default();
            let dir = shard.dir().to_owned();
            let (shared, engine) = (Rc::clone(&self.shared), self.engine.clone());
            let task = spawn_local(Pipeline::new(shared, engine, shard, from).run());
            self.running.insert(name, Running { dir, task });
        }
    }

    /// Takes the results of tasks that have ended.
    async fn settle(&mut self) {
        let ended: Vec<ShardName> = self
            .running
            .iter()
            .filter(|(_, running)| running.task.is_finished())
            .map(|(name, _)| *name)
            .collect();
        for name in ended {
            let Some(running) = self.running.remove(&name) else { continue };
            match running.task.await {
                Ok(Ok(Ended::Complete)) => {
                    self.shared.finish(name, &running.dir);
                    self.done.insert(name);
                }
                Ok(Ok(Ended::Unsure)) => {}
                Ok(Err(error)) => self.shared.view.fail(&error.to_string()),
                // A panic: it left its message.
                Err(error) => self.shared.view.fail(&error.to_string()),
            }
        }
    }

    fn has_own(&self) -> bool {
        self.running.keys().any(|name| self.shared.is_own(name))
    }
}
