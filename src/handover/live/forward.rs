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

use super::engine::{Engine, EngineError};
use super::erase::Erasing;
use super::pipeline::{Ended, Pipeline};
use super::safety::Safety;
use super::shared::{LiveConfig, NodeShards, Shared, is_told, name_of};
use crate::archive::reader::JournalError;
use crate::handover::cursor::ShardName;
use crate::handover::erasures::Erasures;
use crate::handover::forward::keep_to;
use crate::handover::sink_view::SinkView;
use std::collections::{HashMap, HashSet};
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
        config.pins.iter().for_each(|pins| view.set_pins(Arc::clone(pins)));
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

/// The work of the thread.
async fn work(shared: Rc<Shared>) {
    let Some(engine) = connect(&shared).await else { return };
    shared.save_first();
    let erasing = Erasing::new(Erasures::new(&shared.config.data_dir, &shared.config.engine.url));
    let (running, done) = (HashMap::new(), HashSet::new());
    let mut tasks = Tasks { shared, engine, running, done, erasing };
    let (mut listed_at, mut stopped_at) = (None::<Instant>, None::<Instant>);
    loop {
        // Read before the listing: then that sees everything.
        let is_stopping = tasks.shared.is_stopping();
        if is_stopping && stopped_at.is_none() {
            (stopped_at, listed_at) = (Some(Instant::now()), None);
        }
        if tasks.settle().await {
            // The next shard of an earlier run need not wait.
            listed_at = None;
        }
        tasks.erase().await;
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
    erasing: Erasing,
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
            let is_held = self.erasing.held_to(&name).is_some();
            if is_held || self.done.contains(&name) || self.running.contains_key(&name) {
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
            if !is_own && (is_told(from) || self.shared.is_earlier(&name)) {
                self.shared.finish(name, &dir);
                self.done.insert(name);
                continue;
            }
            let (shared, engine) = (Rc::clone(&self.shared), self.engine.clone());
            let task = spawn_local(Pipeline::new(shared, engine, shard, from).run());
            self.running.insert(name, Running { dir, task });
        }
    }

    /// Takes the results of tasks that have ended. Returns whether one has reached the end of its
    /// shard.
    async fn settle(&mut self) -> bool {
        let ended: Vec<ShardName> = self
            .running
            .iter()
            .filter(|(_, running)| running.task.is_finished())
            .map(|(name, _)| *name)
            .collect();
        let mut has_completed = false;
        for name in ended {
            let Some(running) = self.running.remove(&name) else { continue };
            self.shared.set_waiting(name, (0, 0));
            match running.task.await {
                Ok(Ok(Ended::Complete)) => {
                    self.shared.finish(name, &running.dir);
                    self.done.insert(name);
                    has_completed = true;
                }
                Ok(Ok(Ended::Unsure)) => {}
                Ok(Err(error)) => self.shared.view.fail(&error.to_string()),
                // A panic: it left its message.
                Err(error) => self.shared.view.fail(&error.to_string()),
            }
        }
        has_completed
    }

    /// Works on calls that were deleted from the journal. A segment that is being read cannot be
    /// changed: a shard that a command deletes from is read again later, from the cursor on.
    async fn erase(&mut self) {
        if self.erasing.is_due() {
            let (cursor, done) = (self.shared.cursor.borrow().clone(), self.done.clone());
            let position = move |shard: &ShardName| match done.contains(shard) {
                true => None,
                false => cursor.position(shard),
            };
            self.erasing.work(&self.engine, &self.shared.view, position).await;
        }
        let (cursor, erasing) = (self.shared.cursor.borrow(), &self.erasing);
        self.running.retain(|name, running| {
            let position = cursor.position(name).unwrap_or_default();
            let is_free = erasing.held_to(name).is_none_or(|end| position >= end);
            if !is_free {
                running.task.abort();
                self.shared.set_waiting(*name, (0, 0));
            }
            is_free
        });
    }

    fn has_own(&self) -> bool {
        self.running.keys().any(|name| self.shared.is_own(name))
    }
}
