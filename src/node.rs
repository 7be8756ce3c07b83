//! A node: its listeners and shards, started together and drained together.
#![forbid(unsafe_code)]

use crate::archive::layout::RunName;
use crate::auth::Verifier;
use crate::handover::sink_view::SinkView;
use crate::io::affinity::{allowed_cpus, pin_to};
use crate::io::memory::Region;
use crate::io::probe::{Features, HostError, KernelFeatures, probe, require_file_size};
use crate::io::socket::{listen_on, share_listener};
use crate::io::uring::{Uring, UringConfig};
use crate::journal::frame_ring::FrameRing;
use crate::latency::LatencyCollector;
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::proto::mask::Kernel;
use crate::session::Service;
use crate::session::ingest::{IngestSettings, IngestShared};
use crate::session::service::IngestService;
use crate::shard::mailbox::{Mailbox, MailboxSender, Message, mailbox};
use crate::shard::{ReplicationSettings, Shard, ShardConfig, ShardJournalConfig};
use crate::store::{JournalConfig, Run, StoreEvent, StoreThread, StoreView};
use crate::tenants::Tenants;
use crate::tls::ServerConfig;
use crate::worst_calls::CallsCollector;
use rustix::fd::OwnedFd;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

mod error;
mod links;
pub(crate) mod open_files;
pub mod reloadable;

pub use error::{NodeError, StartError};
pub use links::ShardLinks;

/// Requests of shards that may wait for the store. If there is no room, a shard asks again in its
/// next turn.
const REQUESTS_MAX: usize = 1024;

/// Configuration of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Address to listen on; with port 0 the kernel chooses.
    pub listen: SocketAddr,
    /// A listening socket that another process has passed; it replaces `listen`.
    pub passed: Option<Arc<OwnedFd>>,
    /// For TLS handshakes, [completed](crate::tls::complete); `None`: the port speaks plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// One entry per shard: the CPU it is pinned to, or none.
    pub shards: Vec<Option<usize>>,
    /// Limits of the node and its peers.
    pub limits: Limits,
    /// Settings for calls.
    pub ingest: IngestSettings,
    /// Where and how to store audio; `None` keeps it in memory only.
    pub journal: Option<JournalConfig>,
    /// How long ACKs at the level `replicated` wait for a message engine; `None`: no call has that
    /// level.
    pub replication: Option<ReplicationSettings>,
    /// The kernel features that it may use.
    pub kernel_features: KernelFeatures,
    /// Runs with an unregistered frame ring if memory cannot be locked.
    pub allow_unregistered: bool,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    shards: Vec<JoinHandle<std::io::Result<()>>>,
    mailboxes: Vec<MailboxSender>,
    counters: Vec<Arc<Counters>>,
    /// By shard; empty for another service.
    ingest: Vec<Arc<IngestShared>>,
    tenants: Option<Arc<Tenants>>,
    /// Outlives the shards, because it owns their files.
    store: Option<StoreThread>,
    sinks: Vec<Arc<SinkView>>,
    /// The run that its shards write, with a journal.
    run: Option<RunName>,
    notes: Vec<String>,
}

/// Counters of a node's threads, which every thread may read.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// By shard.
    pub counters: Vec<Arc<Counters>>,
    /// By shard, by cause; empty for another service.
    pub ingest: Vec<Arc<IngestShared>>,
    /// The number of calls per tenant; `None` for another service.
    pub tenants: Option<Arc<Tenants>>,
    /// The store of its journal; `None` without a journal.
    pub store: Option<Arc<StoreView>>,
    /// Where its journal is sent to.
    pub sinks: Vec<Arc<SinkView>>,
}

impl Node {
    /// Starts an ingest node: first checks all requirements on the host, then binds, then starts
    /// the shards. When this returns, the node accepts connections.
    pub fn start(config: NodeConfig, verifier: Arc<Verifier>) -> Result<Node, StartError> {
        let tenants = Tenants::new(config.limits.calls_max, config.limits.calls_per_tenant_max);
        let settings = Arc::new(config.ingest.clone());
        let mut ingest = Vec::with_capacity(config.shards.len());
        let mut node = Node::start_with(&config, |_| {
            let service = IngestService::new(
                Arc::clone(&settings),
                Arc::clone(&verifier),
                Arc::clone(&tenants),
            );
            ingest.push(service.shared());
            service
        })?;
        node.ingest = ingest;
        node.tenants = Some(tenants);
        Ok(node)
    }

    /// Starts a node with another service: `service(index)` makes the one for each shard.
    pub fn start_with<S>(
        config: &NodeConfig,
        mut service: impl FnMut(usize) -> S,
    ) -> Result<Node, StartError>
    where
        S: Service + Send + 'static,
    {
        assert!(!config.shards.is_empty(), "a node has at least one shard");
        let (features, limits) = require_host(config)?;
        let count = config.shards.len();
        let run = config
            .journal
            .clone()
            .map(|journal| Run::begin(journal, count))
            .transpose()
            .map_err(StartError::Journal)?;
        let mut mailboxes = Vec::with_capacity(count);
        let mut receivers = Vec::with_capacity(count);
        for _ in 0..count {
            let (sender, receiver) = mailbox()
                .map_err(|error| StartError::System { step: "opening an eventfd", error })?;
            mailboxes.push(sender);
            receivers.push(receiver);
        }
        let (address, listeners) = listeners(config)?;
        let mut node = Node {
            address,
            shards: Vec::with_capacity(count),
            mailboxes,
            counters: Vec::with_capacity(count),
            ingest: Vec::new(),
            tenants: None,
            store: None,
            sinks: Vec::new(),
            run: None,
            notes: vec![features.describe()],
        };
        if config.passed.is_some() && count > 1 {
            node.notes.push(format!(
                "all {count} shards accept from the one socket that was passed: the kernel \
                 spreads connections less evenly than with one socket for each shard"
            ));
        }
        let mut journals = vec![None; count];
        let boot = run.as_ref().map_or(0, Run::boot);
        node.run = run.as_ref().map(Run::name);
        if let Some(run) = run {
            let (requests, receiver) = sync_channel(REQUESTS_MAX);
            for (index, journal) in journals.iter_mut().enumerate() {
                *journal = Some(ShardJournalConfig {
                    settings: run.writer_settings(index),
                    requests: requests.clone(),
                    first: None,
                    replication: config.replication,
                });
            }
            node.notes.push(run.note());
            let store = run.start(receiver, tell_shards(node.mailboxes.clone()));
            let (store, first) = store.map_err(|error| StartError::System {
                step: "starting the store's threads",
                error,
            })?;
            node.store = Some(store);
            for (journal, first) in journals.iter_mut().flatten().zip(first) {
                journal.first = first;
            }
        }
        let (report, reports) = channel();
        for (index, (listener, mailbox)) in listeners.into_iter().zip(receivers).enumerate() {
            let counters = Arc::new(Counters::default());
            let start = ShardStart {
                index,
                cpu: config.shards[index],
                features,
                allow_unregistered: config.allow_unregistered,
                listener,
                mailbox,
                tls: config.tls.clone(),
                shards: node.mailboxes.clone(),
                limits: limits.clone(),
                counters: Arc::clone(&counters),
                boot,
                journal: journals[index].take(),
                service: service(index),
            };
            let report = report.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || start.run(report));
            node.shards.push(thread.map_err(|error| StartError::System {
                step: "starting a shard's thread",
                error,
            })?);
            node.counters.push(counters);
        }
        drop(report);
        let mut unregistered = false;
        for _ in 0..count {
            // A shard that panics before it reports drops its sender: that is the same kind of
            // error.
            let ready = reports.recv().unwrap_or(Err(HostError::Other {
                step: "starting a shard",
                error: std::io::Error::other("it ended before it was ready"),
            }));
            match ready {
                Ok(registered) => unregistered |= !registered,
                Err(error) => {
                    node.drain(Duration::ZERO);
                    // Until the store has removed what it had prepared.
                    drop(journals);
                    let _ = node.wait();
                    return Err(error.into());
                }
            }
        }
        if unregistered {
            node.notes.push(
                "frame ring memory is not registered: too little lockable memory (see `ulimit -l`)"
                    .to_owned(),
            );
        }
        Ok(node)
    }

    /// The address of the node, with the port that the kernel chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Notes for the log at the start: which kernel paths run, and what the node runs without.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// From now on, checks tokens with `verifier`: all shards from their next turn.
    pub fn set_keys(&self, verifier: Arc<Verifier>) {
        self.tell_all(|| Message::Keys(Arc::clone(&verifier)));
    }

    /// From now on, handshakes use `config`: on all shards from their next turn. Existing
    /// connections do not change.
    pub fn set_tls(&self, config: Arc<ServerConfig>) {
        self.tell_all(|| Message::Tls(Arc::clone(&config)));
    }

    /// Accepts no more connections, closes all calls evenly over `window`, then ends. Returns at
    /// once.
    pub fn drain(&self, window: Duration) {
        self.drain_after(Duration::ZERO, window);
    }

    /// Accepts no new calls. Calls go on for `grace` and are then closed evenly over `window`. The
    /// port answers health checks until they are gone. Without a grace, it accepts no more
    /// connections.
    pub fn drain_after(&self, grace: Duration, window: Duration) {
        self.tell_all(|| Message::Drain { grace, window });
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        self.mailboxes.iter().for_each(|mailbox| deliver(mailbox, message()));
    }

    /// Whether a shard has ended. After a drain all of them end; otherwise a shard has failed, and
    /// so has the node.
    pub fn is_stopped(&self) -> bool {
        self.shards.iter().any(JoinHandle::is_finished)
    }

    /// Number of live calls on all shards.
    pub fn calls_live(&self) -> usize {
        self.tenants.as_ref().map_or(0, |tenants| tenants.calls_live())
    }

    /// The counters of each shard.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Counters of each shard's calls, by cause.
    pub fn ingest(&self) -> &[Arc<IngestShared>] {
        &self.ingest
    }

    /// Counters that every thread may read, and that outlive the node.
    pub fn view(&self) -> NodeView {
        NodeView {
            counters: self.counters.clone(),
            ingest: self.ingest.clone(),
            tenants: self.tenants.clone(),
            store: self.store.as_ref().map(StoreThread::view),
            sinks: self.sinks.clone(),
        }
    }

    /// The ends of its shards for threads that hand the journal over; `None` without a journal.
    pub fn links(&self) -> Option<ShardLinks> {
        Some(ShardLinks::new(self.run?, self.counters.clone(), self.mailboxes.clone()))
    }

    /// Shows a sink of its journal to whoever looks at the node.
    pub fn add_sink(&mut self, sink: Arc<SinkView>) {
        self.sinks.push(sink);
    }

    /// Collects the measurements of the shards. One per node: two collectors would each see only a
    /// part.
    pub fn latency_collector(&self) -> LatencyCollector {
        let mailboxes = self.mailboxes.clone();
        LatencyCollector::new(mailboxes.len(), move |shard, request| {
            mailboxes[shard].try_send(Message::Latencies(request)).map_err(
                |message| match message {
                    Message::Latencies(request) => request,
                    _ => unreachable!("a mailbox hands back what it was given"),
                },
            )
        })
    }

    /// Collects the calls that wait the longest. More than one does no harm.
    pub fn calls_collector(&self) -> CallsCollector {
        let mailboxes = self.mailboxes.clone();
        CallsCollector::new(mailboxes.len(), move |shard, request| {
            mailboxes[shard].try_send(Message::Calls(request)).map_err(|message| match message {
                Message::Calls(request) => request,
                _ => unreachable!("a mailbox hands back what it was given"),
            })
        })
    }

    /// Waits until all shards have ended. The first failure is the node's.
    pub fn wait(self) -> Result<(), NodeError> {
        if self.is_stopped() {
            // If one has failed, the others must end too; a second drain has no effect.
            self.drain(Duration::ZERO);
        }
        let mut outcome = Ok(());
        for (index, shard) in self.shards.into_iter().enumerate() {
            let ended = match shard.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(NodeError::Shard { index, error }),
                Err(_) => Err(NodeError::Panicked { index }),
            };
            outcome = outcome.and(ended);
        }
        if let Some(store) = self.store {
            store.join();
        }
        outcome
    }
}

/// Requirements on the host, checked before anything is bound: kernel features, descriptors, file
/// sizes, CPUs. Returns the features and limits for the node.
pub fn require_host(config: &NodeConfig) -> Result<(Features, Limits), StartError> {
    let features = probe(config.kernel_features)?;
    let limits = open_files::fit(config)?;
    config
        .journal
        .as_ref()
        .map_or(Ok(()), |journal| require_file_size(journal.settings.segment_size))?;
    let allowed = allowed_cpus()
        .map_err(|error| StartError::System { step: "asking for the allowed CPUs", error })?;
    match config.shards.iter().flatten().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(StartError::Cpu { cpu: *cpu, allowed }),
        None => Ok((features, limits)),
    }
}

/// Puts a message into a mailbox. Waits while that is full: a shard takes its mail each turn, so
/// this is for the control plane, which may wait.
fn deliver(mailbox: &MailboxSender, mut message: Message) {
    while let Err(refused) = mailbox.try_send(message) {
        message = refused;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How the store reaches the shards: by their mailboxes.
fn tell_shards(
    mailboxes: Vec<MailboxSender>,
) -> impl Fn(usize, StoreEvent) -> Result<(), StoreEvent> + Send + Sync + 'static {
    move |shard, event| {
        let message = match event {
            StoreEvent::Segment(segment) => Message::Segment(segment),
            StoreEvent::NoRoom => Message::NoRoom,
            StoreEvent::Reserve { is_low } => Message::Reserve { is_low },
            StoreEvent::Budget { is_over } => Message::Budget { is_over },
            StoreEvent::Seal => Message::Seal,
        };
        mailboxes[shard].try_send(message).map_err(|message| match message {
            Message::Segment(segment) => StoreEvent::Segment(segment),
            Message::NoRoom => StoreEvent::NoRoom,
            Message::Reserve { is_low } => StoreEvent::Reserve { is_low },
            Message::Budget { is_over } => StoreEvent::Budget { is_over },
            Message::Seal => StoreEvent::Seal,
            _ => unreachable!("a mailbox hands back what it was given"),
        })
    }
}

/// A listener for each shard.
fn listeners(config: &NodeConfig) -> Result<(SocketAddr, Vec<OwnedFd>), StartError> {
    let count = config.shards.len();
    match &config.passed {
        Some(passed) => share_listener(passed, count).map_err(StartError::Passed),
        None => listen_on(config.listen, count)
            .map_err(|error| StartError::Listen { address: config.listen, error }),
    }
}

/// Everything that a shard's thread starts with.
struct ShardStart<S> {
    index: usize,
    cpu: Option<usize>,
    features: Features,
    allow_unregistered: bool,
    listener: OwnedFd,
    mailbox: Mailbox,
    tls: Option<Arc<ServerConfig>>,
    shards: Vec<MailboxSender>,
    limits: Limits,
    counters: Arc<Counters>,
    boot: u32,
    journal: Option<ShardJournalConfig>,
    service: S,
}

impl<S: Service> ShardStart<S> {
    /// The body of a shard's thread. It touches memory and makes the ring here, on the CPU that
    /// will use them.
    fn run(self, report: Sender<Result<bool, HostError>>) -> std::io::Result<()> {
        let made = self.make();
        let (mut shard, ready) = match made {
            Ok((shard, registered)) => (Some(shard), Ok(registered)),
            Err(error) => (None, Err(error)),
        };
        // If another shard has failed to start, the receiver is gone; the drain is then in the
        // mailbox.
        let _ = report.send(ready);
        drop(report);
        match &mut shard {
            Some(shard) => shard.run(),
            None => Ok(()),
        }
    }

    fn make(self) -> Result<(Shard<Uring, S>, bool), HostError> {
        if let Some(cpu) = self.cpu {
            pin_to(cpu)
                .map_err(|error| HostError::Other { step: "pinning a shard to its CPU", error })?;
        }
        let ring_size = self.limits.ring_size;
        let memory = Region::allocate(ring_size);
        let memory = memory
            .map_err(|_| HostError::Memory { purpose: "the frame ring", wanted: ring_size })?;
        let mut io = Uring::new(UringConfig {
            features: self.features,
            listener: self.listener,
            wake: self.mailbox.wake(),
            connections_max: self.limits.connections_max,
            slot_size: self.limits.send_slot_size,
            slot_count: self.limits.send_slot_count,
            completions_per_turn: self.limits.completions_per_turn,
        })?;
        self.counters.memory.io_buffers.set(io.memory_size() as u64);
        let registered = io.use_frame_ring(&memory, self.allow_unregistered)?;
        let config = ShardConfig {
            index: self.index,
            boot: self.boot,
            service: self.service,
            ring: FrameRing::new(memory, Kernel::detect()),
            journal: self.journal,
            limits: self.limits,
            counters: self.counters,
            mailbox: self.mailbox,
            tls: self.tls,
            shards: self.shards,
        };
        Ok((Shard::new(io, config), registered))
    }
}
