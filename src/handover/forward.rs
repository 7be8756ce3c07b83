//! Sends a node's journal to an archive while the node serves.
//!
//! ```text
//! data directory ──► ShardSlices of each shard ──► Sender ──► the archive
//!      ▲                                              │
//!      └── retention may remove ◄── Pins, Cursor ◄────┘ acknowledgements
//! ```
//! A thread beside the node does this. It shares no memory with the shards: it reads their files.
//! It sends runs that ended earlier, too. If the store fails, the thread starts again from its
//! cursor. It never gives up and drops nothing.

#![forbid(unsafe_code)]

use super::cursor::{Cursor, ShardName};
use super::erasures::{self, Erasures, Waiting};
use super::lag::{Files, LagMeter, OwnShards, first_lacking};
use super::shard_slices::{Made, ShardSlices};
use super::ship::ShipError;
use super::ship::held::Held;
use super::ship::sender::{Acknowledged, ErasureAnswer, Sender};
use super::sink::{ObjectSink, SinkError, SinkOptions, Stored};
use super::sink_view::SinkView;
use super::slice::{NodeName, ObjectKind, ObjectName, TAIL_SIZE};
use crate::archive::pins::Pins;
use crate::archive::reader::{Journal, ShardJournal};
use crate::format::Lsn;
use bytes::Bytes;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most bytes of slices that are read and not acknowledged.
const IN_FLIGHT_SIZE_MAX: usize = 288 << 20;

/// Pause when there is nothing to do.
const IDLE_PAUSE: Duration = Duration::from_millis(200);

/// How often to look for new runs and shards.
const LIST_INTERVAL: Duration = Duration::from_secs(2);

/// How often to look at the files of another process that writes.
const FILES_INTERVAL: Duration = Duration::from_secs(30);

/// How often the cursor is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often to look for calls that were deleted.
const ERASURE_INTERVAL: Duration = Duration::from_millis(250);

/// How long to wait after something could not be erased.
const ERASURE_PAUSE: Duration = Duration::from_secs(60);

/// First and longest pause after a failure.
const FAILURE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How long a request is made again before the thread starts again from its cursor.
const GIVE_UP: Duration = Duration::from_secs(30);

/// How long a check makes a request again.
const PROBE_GIVE_UP: Duration = Duration::from_secs(3);

/// How long a node that ends waits for the rest to be sent. The next start sends what is left.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// What to send, and where to.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// Its name in metrics and messages: `archive` or `archive2`.
    pub kind: &'static str,
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// The node's name in the archive.
    pub node: NodeName,
    /// URL and options of the store.
    pub url: String,
    /// Options of the store.
    pub options: Vec<(String, String)>,
    /// Puts at a time.
    pub jobs: usize,
    /// What retention must leave; `None`: retention does not wait for this sink.
    pub pins: Option<Arc<Pins>>,
    /// CPUs that the threads may use; empty: any.
    pub cpus: Vec<usize>,
    /// The shards of the node, to measure the lag.
    pub own: Option<OwnShards>,
}

/// The threads that send. They end with [`Forwarder::end`].
#[derive(Debug)]
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    view: Arc<SinkView>,
}

impl Forwarder {
    /// Starts to send. The error is a URL or an option that is wrong.
    pub fn start(config: ForwardConfig) -> Result<Forwarder, ShipError> {
        let view = Arc::new(SinkView::new(config.kind, &config.url));
        config.pins.iter().for_each(|pins| view.set_pins(Arc::clone(pins)));
        // A store that cannot be used now may come back, and the journal waits for it.
        if let Err(error @ SinkError::Usage(_)) = config.open(&view, GIVE_UP) {
            return Err(error.into());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, seen) = (Arc::clone(&stop), Arc::clone(&view));
        let thread = std::thread::Builder::new()
            .name(format!("to-{}", config.kind))
            .spawn(move || {
                keep_to(&config.cpus);
                work(&config, &seen, &of_thread);
            })
            .map_err(ShipError::Thread)?;
        Ok(Forwarder { stop, thread, view })
    }

    /// What others may see of it.
    pub fn view(&self) -> Arc<SinkView> {
        Arc::clone(&self.view)
    }

    /// Tells it to send the rest, for some seconds at most, and to end. The node's shards have
    /// ended.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until it has ended.
    pub fn end(self) {
        self.stop();
        // In a release build a panic would have ended the node. Elsewhere it left its message.
        let _ = self.thread.join();
    }
}

impl ForwardConfig {
    /// Puts a small object, reads it, and deletes it.
    pub fn probe(&self) -> Result<(), ShipError> {
        let sink = self.open(&Arc::new(SinkView::new(self.kind, &self.url)), PROBE_GIVE_UP)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(runtime.map_err(ShipError::Thread)?.block_on(sink.probe(&self.node))?)
    }

    fn open(&self, view: &Arc<SinkView>, give_up: Duration) -> Result<ObjectSink, SinkError> {
        let options = SinkOptions {
            url: self.url.clone(),
            options: self.options.clone(),
            give_up,
            // A disk that is not mounted must not become a directory on another one.
            creates_directory: false,
        };
        let view = Arc::clone(view);
        options.open(Box::new(move |told| view.fail(told)))
    }
}

/// Keeps this thread, and threads that it starts, on these CPUs; none named: on any.
pub(super) fn keep_to(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    // If it fails, the kernel finds a place.
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!("cannot keep the forwarder off the shards' CPUs: {error}");
    }
}

/// The body of the thread: begins again after each failure.
fn work(config: &ForwardConfig, view: &Arc<SinkView>, stop: &AtomicBool) {
    let (pause_min, pause_max) = FAILURE_PAUSES;
    let mut pause = pause_min;
    let mut meter = LagMeter::new(config.own.clone());
    loop {
        let began = Instant::now();
        let forwarding = Forwarding::begin(config, view, &mut meter);
        match forwarding.and_then(|forwarding| forwarding.run(stop)) {
            Ok(()) => return,
            Err(error) => view.fail(&error.to_string()),
        }
        view.set_in_flight(0, 0);
        // A store that fails from the start does not tell what it has. What is pinned stays so.
        config.pins.iter().for_each(|pins| pins.settle());
        if began.elapsed() > 2 * pause_max {
            pause = pause_min;
        }
        let waiting = Instant::now();
        while waiting.elapsed() < pause {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            measure(&mut meter, view);
            std::thread::sleep(IDLE_PAUSE.min(pause));
        }
        pause = (2 * pause).min(pause_max);
    }
}

/// Publishes how much of the journal the sink lacks.
fn measure(meter: &mut LagMeter, view: &SinkView) {
    let (bytes, age) = meter.measure(Instant::now());
    view.set_lag(bytes, age);
}

/// From a cursor to the next failure.
struct Forwarding<'a> {
    config: &'a ForwardConfig,
    view: &'a SinkView,
    meter: &'a mut LagMeter,
    sender: Sender,
    cursor: Cursor,
    cursor_path: PathBuf,
    saved_at: Instant,
    is_unsaved: bool,
    listed_at: Option<Instant>,
    shards: BTreeMap<ShardName, ShardWork>,
    /// Shards that are complete in the archive.
    done: HashSet<ShardName>,
    erasures: Erasures,
    /// Shards were given up for a command that deletes calls. They are read again once nothing of
    /// them is on its way.
    has_given_up: bool,
    /// Calls to erase, at the last look.
    waiting: Waiting,
    looked_at: Option<Instant>,
    /// The answer to come about calls that are being erased.
    erasing: Option<Receiver<ErasureAnswer>>,
    /// Not before: something could not be erased.
    erases_from: Option<Instant>,
}

/// A shard that is being sent.
struct ShardWork {
    dir: PathBuf,
    slices: ShardSlices,
    /// Objects in order.
    pending: VecDeque<Pending>,
    /// Nothing more will come.
    is_over: bool,
}

struct Pending {
    name: ObjectName,
    /// The first segment that is not taken whole with it; `None` for a note.
    segment: Option<u64>,
    is_acknowledged: bool,
}

impl<'a> Forwarding<'a> {
    fn begin(
        config: &'a ForwardConfig,
        view: &'a Arc<SinkView>,
        meter: &'a mut LagMeter,
    ) -> Result<Forwarding<'a>, ShipError> {
        let sink = Arc::new(config.open(view, GIVE_UP)?);
        let sender = Sender::start(sink, config.jobs).map_err(ShipError::Thread)?;
        let cursor_path = Cursor::path(&config.data_dir, &config.url);
        // A cursor that cannot be read is as good as none: the archive is asked what it has.
        let loaded = Cursor::load(&cursor_path, &config.url, &config.node).unwrap_or_default();
        let cursor = loaded.unwrap_or_else(|| Cursor::new(&config.url, config.node.clone()));
        let mut forwarding = Forwarding {
            config,
            view,
            meter,
            sender,
            cursor,
            cursor_path,
            saved_at: Instant::now(),
            is_unsaved: false,
            listed_at: None,
            shards: BTreeMap::new(),
            done: HashSet::new(),
            erasures: Erasures::new(&config.data_dir, &config.url),
            has_given_up: false,
            waiting: Waiting::default(),
            looked_at: None,
            erasing: None,
            erases_from: None,
        };
        // From now on `calls delete` knows this archive.
        forwarding.save();
        Ok(forwarding)
    }

    fn run(mut self, stop: &AtomicBool) -> Result<(), ShipError> {
        let mut stopped_at = None;
        loop {
            // Read before the pass: then the pass sees everything that was written before it.
            let is_stopping = stop.load(Ordering::Relaxed);
            let has_worked = match self.pass() {
                Ok(has_worked) => has_worked,
                Err(error) => {
                    // What is acknowledged so far need not be sent again, and what expires after it
                    // gets its note.
                    self.save();
                    return Err(error);
                }
            };
            if is_stopping {
                let stopped_at = *stopped_at.get_or_insert_with(Instant::now);
                let is_idle = !has_worked && self.sender.count() == 0 && self.erasing.is_none();
                if is_idle || stopped_at.elapsed() > LAST_WAIT {
                    self.save();
                    return Ok(());
                }
            }
            if !has_worked {
                std::thread::sleep(IDLE_PAUSE);
            }
        }
    }

    /// Sends a little of each shard. Returns whether there was anything to do.
    fn pass(&mut self) -> Result<bool, ShipError> {
        let has_erased = self.erase()?;
        let is_settling = self.has_given_up && self.waiting.held.is_empty();
        if is_settling && self.sender.count() == 0 {
            (self.has_given_up, self.listed_at) = (false, None);
        }
        if !self.has_given_up && self.listed_at.is_none_or(|at| at.elapsed() >= LIST_INTERVAL) {
            self.list()?;
        }
        let mut has_worked = has_erased;
        let names: Vec<ShardName> = self.shards.keys().copied().collect();
        for name in names {
            if !self.has_room() || (is_settling && self.has_given_up) {
                break;
            }
            has_worked |= self.advance(name)?;
        }
        // Before a failure ends this pass.
        measure(self.meter, self.view);
        self.view.set_in_flight(self.sender.count(), self.sender.size());
        while let Some(acknowledged) = self.sender.poll_acknowledged().map_err(ShipError::Thread)? {
            self.acknowledge(acknowledged)?;
            has_worked = true;
        }
        self.settle_ended();
        if self.is_unsaved && self.saved_at.elapsed() >= SAVE_INTERVAL {
            self.save();
        }
        Ok(has_worked)
    }

    fn has_room(&self) -> bool {
        self.sender.count() < 2 * self.config.jobs && self.sender.size() < IN_FLIGHT_SIZE_MAX
    }

    /// Looks for shards that are not known yet.
    fn list(&mut self) -> Result<(), ShipError> {
        self.listed_at = Some(Instant::now());
        let journal = Journal::open(&self.config.data_dir)?;
        let names: HashSet<ShardName> =
            journal.shards().iter().map(|shard| (*shard.run(), shard.shard())).collect();
        self.cursor.keep(|shard| names.contains(shard));
        self.done.retain(|shard| names.contains(shard));
        self.meter.keep(|shard| names.contains(shard));
        self.look_at_files(&journal)?;
        if let Some(pins) = &self.config.pins {
            let dirs: HashSet<_> = journal.shards().iter().map(ShardJournal::dir).collect();
            pins.keep(|dir| dirs.contains(dir));
        }
        for shard in journal.shards() {
            let name = (*shard.run(), shard.shard());
            if self.shards.contains_key(&name)
                || self.done.contains(&name)
                || self.waiting.held_to(&name).is_some()
            {
                continue;
            }
            // After a crash the archive may have objects that no cursor knows.
            let from = match self.cursor.position(&name).filter(|position| *position > Lsn(0)) {
                Some(position) => position,
                None => {
                    let prefix = ObjectName::shard_prefix(&self.config.node, &name.0, name.1);
                    let (meter, view) = (&mut *self.meter, self.view);
                    let listed =
                        self.sender.list_while(prefix, IDLE_PAUSE, || measure(meter, view));
                    Held::new(listed.map_err(ShipError::Thread)??).position(shard)?
                }
            };
            self.cursor.advance(name, from);
            self.meter.set_position(name, from);
            if let (Some(pins), Some(first)) = (&self.config.pins, first_lacking(shard, from)?) {
                pins.raise(shard.dir(), first);
            }
            let slices = ShardSlices::new(self.config.node.clone(), shard, from);
            let dir = shard.dir().to_owned();
            let work = ShardWork { dir, slices, pending: VecDeque::new(), is_over: false };
            self.shards.insert(name, work);
        }
        self.config.pins.iter().for_each(|pins| pins.settle());
        Ok(())
    }

    /// Looks at the sizes of what other processes have written, or write now. It needs no store.
    fn look_at_files(&mut self, journal: &Journal) -> Result<(), ShipError> {
        for shard in journal.shards() {
            let name = (*shard.run(), shard.shard());
            let is_fresh =
                self.meter.looked_at(&name).is_some_and(|at| at.elapsed() < FILES_INTERVAL);
            if is_fresh || self.meter.is_own(&name) || self.done.contains(&name) {
                continue;
            }
            let from = self.cursor.position(&name).unwrap_or_default();
            self.meter.set_position(name, from);
            self.meter.set_files(name, Files::look(shard, from)?);
        }
        Ok(())
    }

    /// Works on the calls that were deleted from the journal. Returns whether some were erased.
    fn erase(&mut self) -> Result<bool, ShipError> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= ERASURE_INTERVAL) {
            self.look_for_erasures()?;
        }
        let Some(erasing) = &self.erasing else { return Ok(false) };
        let outcome = match erasing.try_recv() {
            Ok(answer) => answer?,
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => {
                return Err(ShipError::Thread(io::Error::other("it ended by itself")));
            }
        };
        (self.erasing, self.looked_at) = (None, None);
        self.view.recover();
        for failure in &outcome.failures {
            tracing::error!("a deleted call is still in the archive: {failure}");
            self.erases_from = Some(Instant::now() + ERASURE_PAUSE);
        }
        outcome.done.iter().try_for_each(|path| erasures::done(path))?;
        let (calls, slices) = (outcome.done.len(), outcome.erased.slices);
        tracing::info!(calls, slices, files = outcome.files, "deleted calls erased in the archive");
        Ok(true)
    }

    fn look_for_erasures(&mut self) -> Result<(), ShipError> {
        self.looked_at = Some(Instant::now());
        self.waiting = self.erasures.look()?;
        self.view.wait_for_erasures(self.waiting.count());
        // A segment that is being read cannot be changed. It is read again after that, from the
        // cursor on.
        let (waiting, count) = (&self.waiting, self.shards.len());
        self.shards.retain(|name, shard| {
            waiting.held_to(name).is_none_or(|end| shard.slices.read_to() >= end)
        });
        self.has_given_up |= self.shards.len() < count;
        if self.erasing.is_some() || self.erases_from.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let (cursor, done) = (&self.cursor, &self.done);
        let sent = self.waiting.take_sent(|shard| match done.contains(shard) {
            true => None,
            false => cursor.position(shard),
        });
        if !sent.is_empty() {
            self.erasing = Some(self.sender.erase(sent));
        }
        Ok(())
    }

    /// Makes the next object of a shard. Returns whether there was one.
    fn advance(&mut self, name: ShardName) -> Result<bool, ShipError> {
        let Some(shard) = self.shards.get_mut(&name).filter(|shard| !shard.is_over) else {
            return Ok(false);
        };
        let (object, segment, bytes, tail_size) = match shard.slices.advance()? {
            Made::Slice(slice) => {
                let segment = slice.header.segment.id + u64::from(slice.header.is_last);
                (slice.name(), Some(segment), Bytes::from(slice.bytes), TAIL_SIZE)
            }
            Made::Note(note) => {
                let text = format!("{note}\n");
                let size = text.len();
                (note, None, Bytes::from(text), size)
            }
            Made::Pending => return Ok(false),
            Made::End => {
                shard.is_over = true;
                return Ok(true);
            }
        };
        for (path, damage) in shard.slices.take_damages() {
            tracing::warn!(
                "the journal is damaged and is sent as it is: {}: {damage}",
                path.display()
            );
        }
        if object.kind == ObjectKind::Expired {
            let kind = self.config.kind;
            tracing::error!("retention was faster than the {kind}: {object} is not in it");
        }
        let is_acknowledged = false;
        shard.pending.push_back(Pending { name: object.clone(), segment, is_acknowledged });
        self.sender.put(object, bytes, tail_size);
        Ok(true)
    }

    /// Moves a shard's cursor past everything that is acknowledged without a hole before it.
    fn acknowledge(&mut self, acknowledged: Acknowledged) -> Result<(), ShipError> {
        let Acknowledged { name: object, size, stored } = acknowledged;
        if stored? == Stored::Before {
            self.view.add_resent(1);
        }
        self.view.acknowledge(size);
        let name = (object.run, object.shard);
        let Some(shard) = self.shards.get_mut(&name) else { return Ok(()) };
        if let Some(pending) = shard.pending.iter_mut().find(|pending| pending.name == object) {
            pending.is_acknowledged = true;
        }
        while let Some(pending) = shard.pending.pop_front_if(|pending| pending.is_acknowledged) {
            self.cursor.advance(name, pending.name.end);
            self.meter.set_position(name, pending.name.end);
            self.is_unsaved = true;
            if let (Some(pins), Some(segment)) = (&self.config.pins, pending.segment) {
                pins.raise(&shard.dir, segment);
            }
        }
        Ok(())
    }

    /// Forgets shards that are complete in the archive, and unpins their segments.
    fn settle_ended(&mut self) {
        let (pins, done, meter) = (&self.config.pins, &mut self.done, &mut *self.meter);
        self.shards.retain(|name, shard| {
            let is_done = shard.is_over && shard.pending.is_empty();
            if is_done {
                done.insert(*name);
                meter.end(name);
                if let Some(pins) = pins {
                    pins.release(&shard.dir);
                }
            }
            !is_done
        });
    }

    fn save(&mut self) {
        self.saved_at = Instant::now();
        self.is_unsaved = false;
        if let Err(error) = self.cursor.store(&self.cursor_path) {
            // Without it the archive is asked at the next start.
            tracing::warn!("cannot write {}: {error}", self.cursor_path.display());
        }
    }
}
