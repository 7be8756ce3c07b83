//! Sends the slices of a data directory to a store, many at a time.
//!
//! ```text
//! this thread                                    sender thread
//!   cursor, or listing ──► ShardSlices ──slices──► up to `jobs` puts at a time
//!   cursor moves  ◄────────acknowledgements───────┘
//! ```
//! The memory is bounded by the bytes in flight. A shard's cursor moves only past objects that the
//! store has acknowledged, with everything before them.

#![forbid(unsafe_code)]

use super::cursor::{Cursor, ShardName};
use super::erasures::{self, Erasures};
use super::shard_slices::{Made, ShardSlices};
use super::sink::{ObjectSink, SinkError, Stored};
use super::slice::{NodeName, ObjectKind, ObjectName, TAIL_SIZE};
use crate::archive::reader::{Journal, JournalError, ShardJournal};
use crate::format::Lsn;
use bytes::Bytes;
use held::Held;
use sender::{Acknowledged, Sender};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) mod held;
pub(super) mod sender;

/// Most bytes of slices that are read and not acknowledged.
const IN_FLIGHT_SIZE_MAX: usize = 288 * 1024 * 1024;

/// Objects between two writes of the cursor.
const CURSOR_INTERVAL: u64 = 16;

/// What to send, and how.
#[derive(Debug)]
pub struct Shipment<'a> {
    /// The journal.
    pub journal: &'a Journal,
    /// The node's name in the archive.
    pub node: NodeName,
    /// Where the cursor is kept.
    pub cursor_path: PathBuf,
    /// Puts at a time.
    pub jobs: usize,
    /// Send nothing: only say what would be sent.
    pub is_dry: bool,
    /// Becomes true when the work should end early.
    pub stop: &'a AtomicBool,
}

/// Why sending ended early.
#[derive(Debug)]
pub enum ShipError {
    /// The journal.
    Journal(JournalError),
    /// The store.
    Sink(SinkError),
    /// The thread that sends could not be started, or ended.
    Thread(io::Error),
}

impl fmt::Display for ShipError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShipError::Journal(error) => error.fmt(formatter),
            ShipError::Sink(error) => error.fmt(formatter),
            ShipError::Thread(error) => write!(formatter, "the thread that sends: {error}"),
        }
    }
}

impl std::error::Error for ShipError {}

impl From<JournalError> for ShipError {
    fn from(error: JournalError) -> ShipError {
        ShipError::Journal(error)
    }
}

impl From<SinkError> for ShipError {
    fn from(error: SinkError) -> ShipError {
        ShipError::Sink(error)
    }
}

/// What was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShipReport {
    /// Slices that the store has now.
    pub slices: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Slices that the store had before.
    pub slices_before: u64,
    /// Shards whose node still writes: the rest of their journals comes later.
    pub shards_live: u64,
    /// Damage in the journal: sent as it is.
    pub damages: Vec<String>,
    /// Ranges that the journal has lost.
    pub lost: Vec<String>,
    /// Ranges that retention removed before they were sent.
    pub expired: Vec<String>,
    /// The cursor could not be written: why.
    pub cursor_error: Option<String>,
    /// Calls that were deleted from the journal, and erased in the archive now.
    pub calls_erased: u64,
    /// Such calls that the archive has not erased yet.
    pub erasures_waiting: u64,
    /// Why calls could not be erased.
    pub erasure_failures: Vec<String>,
    /// A signal ended the work early.
    pub is_interrupted: bool,
}

/// What a caller is told of each object.
pub type OnObject<'a> = &'a mut dyn FnMut(&ObjectName, u64, Option<Stored>);

impl Shipment<'_> {
    /// Sends everything that is durable and not in the archive yet.
    pub fn send(&self, sink: ObjectSink, told: OnObject<'_>) -> Result<ShipReport, ShipError> {
        let sender = Sender::start(Arc::new(sink), self.jobs).map_err(ShipError::Thread)?;
        let url = sender.sink().url().to_owned();
        let loaded = Cursor::load(&self.cursor_path, &url, &self.node);
        let (cursor, cursor_error) = match loaded {
            Ok(cursor) => (cursor, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let has_cursor = cursor.is_some();
        let cursor = cursor.unwrap_or_else(|| Cursor::new(&url, self.node.clone()));
        let report = ShipReport { cursor_error, ..ShipReport::default() };
        let (pending, ended) = (BTreeMap::new(), HashSet::new());
        let mut run =
            Run { shipment: self, sender, cursor, report, pending, ended, unsaved: 0, told };
        let names: Vec<ShardName> =
            self.journal.shards().iter().map(|shard| (*shard.run(), shard.shard())).collect();
        run.cursor.keep(|shard| names.contains(shard));
        for shard in self.journal.shards() {
            let known = run.cursor.position(&(*shard.run(), shard.shard()));
            let held = match known.filter(|_| has_cursor) {
                Some(_) => Held::default(),
                None => run.held(shard)?,
            };
            run.shard(shard, known, &held)?;
            if self.stop.load(Ordering::Relaxed) {
                run.report.is_interrupted = true;
                break;
            }
        }
        while run.is_waiting() {
            run.acknowledge()?;
        }
        run.save();
        if !self.is_dry {
            run.erase(&Erasures::new(self.journal.data_dir(), &url))?;
        }
        Ok(run.report)
    }
}

/// Sending under way.
struct Run<'a> {
    shipment: &'a Shipment<'a>,
    sender: Sender,
    cursor: Cursor,
    report: ShipReport,
    /// Objects of each shard in order, and which of them are acknowledged.
    pending: BTreeMap<ShardName, VecDeque<(ObjectName, bool)>>,
    /// Shards that are complete in the archive.
    ended: HashSet<ShardName>,
    /// Acknowledgements since the cursor was written.
    unsaved: u64,
    told: OnObject<'a>,
}

impl Run<'_> {
    /// What the archive has of a shard.
    fn held(&self, shard: &ShardJournal) -> Result<Held, ShipError> {
        let prefix = ObjectName::shard_prefix(&self.shipment.node, shard.run(), shard.shard());
        let listed = self.sender.list(prefix).map_err(ShipError::Thread)??;
        Ok(Held::new(listed))
    }

    fn shard(
        &mut self,
        shard: &ShardJournal,
        known: Option<Lsn>,
        held: &Held,
    ) -> Result<(), ShipError> {
        let from = match known {
            Some(position) => position,
            None => held.position(shard)?,
        };
        self.cursor.advance((*shard.run(), shard.shard()), from);
        let mut slices = ShardSlices::new(self.shipment.node.clone(), shard, from);
        loop {
            if self.shipment.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match slices.advance()? {
                Made::Slice(slice) => {
                    let (name, size) = (slice.name(), slice.bytes.len() as u64);
                    if held.has(&name, size) {
                        self.has_before(&name, size);
                    } else {
                        self.put(name, Bytes::from(slice.bytes))?;
                    }
                }
                Made::Note(name) => self.note(name, held)?,
                Made::Pending => {
                    self.report.shards_live += 1;
                    break;
                }
                Made::End => {
                    self.ended.insert((*shard.run(), shard.shard()));
                    break;
                }
            }
        }
        let damages = slices.take_damages().into_iter();
        let sentences = damages.map(|(path, damage)| format!("{}: {damage}", path.display()));
        self.report.damages.extend(sentences);
        Ok(())
    }

    fn note(&mut self, name: ObjectName, held: &Held) -> Result<(), ShipError> {
        let range =
            format!("{} shard {}: lsn {} to {}", name.run, name.shard, name.first.0, name.end.0);
        match name.kind {
            ObjectKind::Lost => self.report.lost.push(range),
            ObjectKind::Expired => self.report.expired.push(range),
            ObjectKind::Slice | ObjectKind::Ended => {}
        }
        if held.has_any(&name) {
            return Ok(());
        }
        let text = format!("{name}\n");
        self.put(name, Bytes::from(text))
    }

    /// Sends an object, once there is room.
    fn put(&mut self, name: ObjectName, bytes: Bytes) -> Result<(), ShipError> {
        if self.shipment.is_dry {
            self.count(&name, bytes.len() as u64, None);
            return Ok(());
        }
        let size = bytes.len();
        while self.sender.count() >= 2 * self.shipment.jobs
            || (self.sender.count() > 0 && self.sender.size() + size > IN_FLIGHT_SIZE_MAX)
        {
            self.acknowledge()?;
        }
        let shard = (name.run, name.shard);
        self.pending.entry(shard).or_default().push_back((name.clone(), false));
        let tail = if name.kind == ObjectKind::Slice { TAIL_SIZE } else { size };
        self.sender.put(name, bytes, tail);
        Ok(())
    }

    /// Erases calls that were deleted from the journal, as far as everything of them is sent.
    fn erase(&mut self, erasures: &Erasures) -> Result<(), ShipError> {
        let mut waiting = erasures.look()?;
        self.report.erasures_waiting = waiting.count();
        loop {
            let sent = waiting.take_sent(|shard| match self.ended.contains(shard) {
                true => None,
                false => self.cursor.position(shard),
            });
            if sent.is_empty() {
                return Ok(());
            }
            let answer = self.sender.erase(sent).recv();
            let answer = answer.map_err(|_| io::Error::other("it ended by itself"));
            let outcome = answer.map_err(ShipError::Thread)??;
            outcome.done.iter().try_for_each(|path| erasures::done(path))?;
            self.report.calls_erased += outcome.done.len() as u64;
            self.report.erasure_failures.extend(outcome.failures);
            waiting = erasures.look()?;
            self.report.erasures_waiting = waiting.count();
            if !self.report.erasure_failures.is_empty() {
                return Ok(());
            }
        }
    }

    fn has_before(&mut self, name: &ObjectName, size: u64) {
        self.count(name, size, Some(Stored::Before));
        let shard = (name.run, name.shard);
        self.pending.entry(shard).or_default().push_back((name.clone(), true));
        self.settle(shard);
    }

    fn is_waiting(&self) -> bool {
        self.sender.count() > 0
    }

    /// Waits for the next acknowledgement.
    fn acknowledge(&mut self) -> Result<(), ShipError> {
        let acknowledged = self.sender.acknowledged().map_err(ShipError::Thread)?;
        let Acknowledged { name, size, stored } = acknowledged;
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                // What is acknowledged so far need not be sent again.
                self.save();
                return Err(error.into());
            }
        };
        self.count(&name, size, Some(stored));
        let shard = (name.run, name.shard);
        let pending = self.pending.entry(shard).or_default();
        if let Some(sent) = pending.iter_mut().find(|(sent, _)| *sent == name) {
            sent.1 = true;
        }
        self.settle(shard);
        self.unsaved += 1;
        if self.unsaved >= CURSOR_INTERVAL {
            self.save();
        }
        Ok(())
    }

    /// Moves the cursor past everything that is acknowledged without a hole before it.
    fn settle(&mut self, shard: ShardName) {
        let Some(pending) = self.pending.get_mut(&shard) else { return };
        while let Some((name, _)) = pending.pop_front_if(|(_, is_acknowledged)| *is_acknowledged) {
            self.cursor.advance(shard, name.end);
        }
    }

    fn count(&mut self, name: &ObjectName, size: u64, stored: Option<Stored>) {
        if name.kind == ObjectKind::Slice {
            match stored {
                Some(Stored::Before) => self.report.slices_before += 1,
                Some(Stored::New) | None => {
                    self.report.slices += 1;
                    self.report.bytes += size;
                }
            }
        }
        (self.told)(name, size, stored);
    }

    fn save(&mut self) {
        self.unsaved = 0;
        if self.shipment.is_dry {
            return;
        }
        if let Err(error) = self.cursor.store(&self.shipment.cursor_path) {
            self.report.cursor_error = Some(error.to_string());
        }
    }
}
