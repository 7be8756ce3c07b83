//! A node: its listeners and shards, started together and drained together.
#![forbid(unsafe_code)]

use crate::auth::Verifier;
use crate::constants::SHED_CONNECTIONS_MAX;
use crate::control::keeper::{JournalConfig, Keeper, KeeperError, Run};
use crate::frame_ring::FrameRing;
use crate::io::affinity::{allowed_cpus, pin_to};
use crate::io::memory::Region;
use crate::io::probe::{Features, KernelFeatures, Lack, probe, raise_open_files};
use crate::io::socket::listen_on;
use crate::io::uring::{Uring, UringConfig};
use crate::latency::LatencyCollector;
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::proto::mask::Kernel;
use crate::session::Service;
use crate::session::ingest::{IngestSettings, IngestShared};
use crate::session::service::IngestService;
use crate::shard::mailbox::{Mailbox, MailboxSender, Message, mailbox};
use crate::shard::{Shard, ShardConfig, ShardJournalConfig};
use crate::tenants::Tenants;
use rustix::fd::OwnedFd;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Descriptors a node needs beside its connections: rings, listeners, eventfds, standard streams, key files; and the connections
/// of its admin listener, 32 of them.
const OPEN_FILES_RESERVE: u64 = 64 + 32;

/// Requests of shards that may wait for the keeper; a shard that finds no room asks again at its next turn.
const REQUESTS_MAX: usize = 1024;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it listens; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// One entry per shard: the CPU it is pinned to, or none.
    pub shards: Vec<Option<usize>>,
    /// What it holds itself and its peers to.
    pub limits: Limits,
    /// What it asks of calls.
    pub ingest: IngestSettings,
    /// Where and how it keeps what it takes; `None` keeps it in memory only.
    pub journal: Option<JournalConfig>,
    /// Which kernel features it may use.
    pub kernel_features: KernelFeatures,
    /// Runs with a frame ring that is not registered where memory cannot be locked.
    pub allow_unregistered: bool,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The host lacks something.
    Lack(Lack),
    /// The journal cannot be kept where it is to be.
    Journal(KeeperError),
    /// The address cannot be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's word.
        error: std::io::Error,
    },
    /// A shard's CPU is not there, or not ours.
    Cpu {
        /// The CPU.
        cpu: usize,
        /// What we may use.
        allowed: Vec<usize>,
    },
    /// A thread or a descriptor could not be had.
    Host {
        /// During what.
        step: &'static str,
        /// The kernel's word.
        error: std::io::Error,
    },
}

impl From<Lack> for StartError {
    fn from(lack: Lack) -> Self {
        StartError::Lack(lack)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Lack(lack) => lack.fmt(f),
            StartError::Journal(error) => error.fmt(f),
            StartError::Listen { address, error } => match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    write!(f, "{address} is in use by another program: stop it, or choose another address with --listen")
                }
                std::io::ErrorKind::PermissionDenied => write!(
                    f,
                    "not allowed to listen on {address}: choose a port above 1023 with --listen, or grant CAP_NET_BIND_SERVICE"
                ),
                std::io::ErrorKind::AddrNotAvailable => {
                    write!(f, "{address} is no address of this host: choose one that is with --listen")
                }
                _ => write!(f, "cannot listen on {address}: {error}"),
            },
            StartError::Cpu { cpu, allowed } => {
                write!(f, "CPU {cpu} cannot be used by this process: choose with --cpus among {allowed:?}")
            }
            StartError::Host { step, error } => write!(f, "{step} failed: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a node ended other than by draining.
#[derive(Debug)]
pub enum NodeError {
    /// A shard's ring became unusable.
    Shard {
        /// The shard.
        index: usize,
        /// The kernel's word.
        error: std::io::Error,
    },
    /// A shard broke one of its invariants.
    Panicked {
        /// The shard.
        index: usize,
    },
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeError::Shard { index, error } => write!(f, "shard {index} failed: {error}"),
            NodeError::Panicked { index } => write!(f, "shard {index} broke an invariant; its message stands above"),
        }
    }
}

impl std::error::Error for NodeError {}

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
    /// Outlives the shards, whose files it holds.
    keeper: Option<Keeper>,
    notes: Vec<String>,
}

/// What a node's threads count, and anyone may read.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// By shard.
    pub counters: Vec<Arc<Counters>>,
    /// By shard, by cause; empty for another service.
    pub ingest: Vec<Arc<IngestShared>>,
    /// Who has how many calls; none for another service.
    pub tenants: Option<Arc<Tenants>>,
}

impl Node {
    /// Starts an ingest node: asks the host for everything first, then binds, then starts the shards. Once this returns, the
    /// node accepts.
    pub fn start(config: NodeConfig, verifier: Arc<Verifier>) -> Result<Node, StartError> {
        let tenants = Tenants::new(config.limits.calls_max, config.limits.calls_per_tenant_max);
        let settings = Arc::new(config.ingest.clone());
        let mut ingest = Vec::with_capacity(config.shards.len());
        let mut node = Node::start_with(&config, |_| {
            let service = IngestService::new(Arc::clone(&settings), Arc::clone(&verifier), Arc::clone(&tenants));
            ingest.push(service.shared());
            service
        })?;
        node.ingest = ingest;
        node.tenants = Some(tenants);
        Ok(node)
    }

    /// Starts a node of another service: `service(index)` makes the one of each shard.
    pub fn start_with<S>(config: &NodeConfig, mut service: impl FnMut(usize) -> S) -> Result<Node, StartError>
    where
        S: Service + Send + 'static,
    {
        assert!(!config.shards.is_empty(), "a node has at least one shard");
        let features = probe(config.kernel_features)?;
        let limits = fit_to_open_files(config)?;
        let allowed = allowed_cpus().map_err(|error| StartError::Host { step: "asking for the allowed CPUs", error })?;
        if let Some(cpu) = config.shards.iter().flatten().find(|cpu| !allowed.contains(cpu)) {
            return Err(StartError::Cpu { cpu: *cpu, allowed });
        }
        let count = config.shards.len();
        let run =
            config.journal.clone().map(|journal| Run::begin(journal, count)).transpose().map_err(StartError::Journal)?;
        let mut mailboxes = Vec::with_capacity(count);
        let mut receivers = Vec::with_capacity(count);
        for _ in 0..count {
            let (sender, receiver) = mailbox().map_err(|error| StartError::Host { step: "opening an eventfd", error })?;
            mailboxes.push(sender);
            receivers.push(receiver);
        }
        let (address, listeners) =
            listen_on(config.listen, count).map_err(|error| StartError::Listen { address: config.listen, error })?;
        let mut node = Node {
            address,
            shards: Vec::with_capacity(count),
            mailboxes,
            counters: Vec::with_capacity(count),
            ingest: Vec::new(),
            tenants: None,
            keeper: None,
            notes: vec![features.describe()],
        };
        let mut journals = vec![None; count];
        let boot = run.as_ref().map_or(0, Run::boot);
        if let Some(run) = run {
            let (requests, receiver) = sync_channel(REQUESTS_MAX);
            for (index, journal) in journals.iter_mut().enumerate() {
                *journal = Some(ShardJournalConfig { settings: run.writer_settings(index), requests: requests.clone() });
            }
            node.notes.push(run.note());
            let keeper = run.keep(receiver, node.mailboxes.clone());
            node.keeper = Some(keeper.map_err(|error| StartError::Host { step: "starting the keeper's thread", error })?);
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
                shards: node.mailboxes.clone(),
                limits: limits.clone(),
                counters: Arc::clone(&counters),
                boot,
                journal: journals[index].take(),
                service: service(index),
            };
            let report = report.clone();
            let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || start.run(report));
            node.shards.push(thread.map_err(|error| StartError::Host { step: "starting a shard's thread", error })?);
            node.counters.push(counters);
        }
        drop(report);
        let mut unregistered = false;
        for _ in 0..count {
            // A shard that panics before it reports drops its sender: that is an error of the same kind.
            let ready = reports.recv().unwrap_or(Err(Lack::Other {
                step: "starting a shard",
                error: std::io::Error::other("it ended before it was ready"),
            }));
            match ready {
                Ok(registered) => unregistered |= !registered,
                Err(lack) => {
                    node.drain(Duration::ZERO);
                    return Err(lack.into());
                }
            }
        }
        if unregistered {
            node.notes.push("frame ring memory is not registered: too little lockable memory (see `ulimit -l`)".to_owned());
        }
        Ok(node)
    }

    /// Where it listens, with the port the kernel chose if it was left to it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is worth a line in the log at the start: which kernel paths run, and what the node has to do without.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Checks tokens with `verifier` from now on: all shards at their next turn.
    pub fn set_keys(&self, verifier: Arc<Verifier>) {
        self.tell_all(|| Message::Keys(Arc::clone(&verifier)));
    }

    /// Accepts no more, closes all calls evenly over `window`, then ends. Returns at once.
    pub fn drain(&self, window: Duration) {
        self.tell_all(|| Message::Drain { window });
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        for mailbox in &self.mailboxes {
            // Mail waits at most a turn; the control plane is the one sender that may wait for a full mailbox.
            while mailbox.try_send(message()).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whether a shard has ended. After a drain all of them do; otherwise one has failed, and the node with it.
    pub fn is_stopped(&self) -> bool {
        self.shards.iter().any(JoinHandle::is_finished)
    }

    /// Calls that are live now, on all shards.
    pub fn calls_live(&self) -> usize {
        self.tenants.as_ref().map_or(0, |tenants| tenants.calls_live())
    }

    /// The counters of each shard.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What the calls of each shard have counted by cause.
    pub fn ingest(&self) -> &[Arc<IngestShared>] {
        &self.ingest
    }

    /// What may be looked at from anywhere, and outlives the node.
    pub fn view(&self) -> NodeView {
        NodeView { counters: self.counters.clone(), ingest: self.ingest.clone(), tenants: self.tenants.clone() }
    }

    /// Collects what shards measure. One per node: what one collector has taken another does not see.
    pub fn latency_collector(&self) -> LatencyCollector {
        let mailboxes = self.mailboxes.clone();
        LatencyCollector::new(mailboxes.len(), move |shard, request| {
            mailboxes[shard].try_send(Message::Latencies(request)).map_err(|message| match message {
                Message::Latencies(request) => request,
                _ => unreachable!("a mailbox hands back what it was given"),
            })
        })
    }

    /// Waits until all shards have ended. The first failure is the node's.
    pub fn wait(self) -> Result<(), NodeError> {
        if self.is_stopped() {
            // Where one has failed the others are to end too; those that drain already do not mind.
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
        if let Some(keeper) = self.keeper {
            keeper.join();
        }
        outcome
    }
}

/// Raises the limit on open files, and cuts the connections of a shard to its share of it.
fn fit_to_open_files(config: &NodeConfig) -> Result<Limits, Lack> {
    let mut limits = config.limits.clone();
    let shard_count = config.shards.len();
    let shed = SHED_CONNECTIONS_MAX as u64;
    let wanted = limits.calls_max as u64 + OPEN_FILES_RESERVE * (1 + shard_count as u64 / 16) + shed * shard_count as u64;
    let open_files = raise_open_files(wanted)?;
    let share = (open_files - OPEN_FILES_RESERVE) / shard_count as u64 - shed;
    limits.connections_max = limits.connections_max.min(usize::try_from(share).unwrap_or(usize::MAX));
    Ok(limits)
}

/// Everything a shard's thread starts with.
struct ShardStart<S> {
    index: usize,
    cpu: Option<usize>,
    features: Features,
    allow_unregistered: bool,
    listener: OwnedFd,
    mailbox: Mailbox,
    shards: Vec<MailboxSender>,
    limits: Limits,
    counters: Arc<Counters>,
    boot: u32,
    journal: Option<ShardJournalConfig>,
    service: S,
}

impl<S: Service> ShardStart<S> {
    /// The body of the shard's thread: memory is touched and the ring made here, on the CPU they will be used from.
    fn run(self, report: Sender<Result<bool, Lack>>) -> std::io::Result<()> {
        let made = self.make();
        let (mut shard, ready) = match made {
            Ok((shard, registered)) => (Some(shard), Ok(registered)),
            Err(lack) => (None, Err(lack)),
        };
        // Nobody listens if another shard has failed to start: the drain that follows is in the mailbox.
        let _ = report.send(ready);
        drop(report);
        match &mut shard {
            Some(shard) => shard.run(),
            None => Ok(()),
        }
    }

    fn make(self) -> Result<(Shard<Uring, S>, bool), Lack> {
        if let Some(cpu) = self.cpu {
            pin_to(cpu).map_err(|error| Lack::Other { step: "pinning a shard to its CPU", error })?;
        }
        let ring_size = self.limits.ring_size;
        let memory = Region::allocate(ring_size);
        let memory = memory.map_err(|_| Lack::Memory { purpose: "the frame ring", wanted: ring_size })?;
        let mut io = Uring::new(UringConfig {
            features: self.features,
            listener: self.listener,
            wake: self.mailbox.wake(),
            connections_max: self.limits.connections_max,
            slot_size: self.limits.send_slot_size,
            slot_count: self.limits.send_slot_count,
        })?;
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
            shards: self.shards,
        };
        Ok((Shard::new(io, config), registered))
    }
}
