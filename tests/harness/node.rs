//! A node in this process, on a port of its own.

use crate::{Keys, PATIENCE, Peer, eventually};
use exo_ingest::auth::TokenPolicy;
use exo_ingest::control::keeper::JournalConfig;
use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::limits::Limits;
use exo_ingest::metrics::{Counter, Counters};
use exo_ingest::node::{Node, NodeConfig, NodeError};
use exo_ingest::session::ingest::{IngestCounters, IngestSettings};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

/// What a test may change of a node before it starts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Limits and timers; production's, but for what memory and descriptors a test machine has.
    pub limits: Limits,
    /// Number of shards, none of them pinned.
    pub shards: usize,
    /// What the node asks of calls. Its limits are those above.
    pub ingest: IngestSettings,
    /// What it demands of tokens.
    pub policy: TokenPolicy,
    /// How it keeps what it takes; in memory only, usually.
    pub journal: Option<JournalConfig>,
}

impl Setup {
    fn new() -> Self {
        let limits = Limits {
            ring_size: 8 * 1024 * 1024,
            calls_max: 400,
            connections_max: 512,
            send_slot_count: 256,
            ..Limits::production()
        };
        let ingest = IngestSettings::new(limits.clone());
        Setup { ingest, limits, shards: 1, policy: TokenPolicy::default(), journal: None }
    }
}

/// A node in this process. When it goes out of scope it is drained, and all of its shards have to have ended well.
#[derive(Debug)]
pub struct TestNode {
    node: Option<Node>,
    address: SocketAddr,
}

impl TestNode {
    /// Starts a node with what `change` makes of the usual setup.
    pub fn start(kernel_features: KernelFeatures, change: impl FnOnce(&mut Setup)) -> TestNode {
        let mut setup = Setup::new();
        change(&mut setup);
        let config = NodeConfig {
            journal: setup.journal,
            listen: "127.0.0.1:0".parse().expect("an address"),
            shards: vec![None; setup.shards],
            ingest: IngestSettings { limits: setup.limits.clone(), ..setup.ingest },
            limits: setup.limits,
            kernel_features,
            allow_unregistered: true,
        };
        let node = Node::start(config, Keys::First.verifier(setup.policy)).unwrap_or_else(|error| panic!("{error}"));
        TestNode { address: node.address(), node: Some(node) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node itself.
    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("a node is taken out only at its end")
    }

    /// A counter, summed up over the shards.
    pub fn count(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        self.node().counters().iter().map(|counters| counter(counters).read()).sum()
    }

    /// A counter of the ingest service, summed up over the shards.
    pub fn count_ingest(&self, counter: impl Fn(&IngestCounters) -> &Counter) -> u64 {
        self.node().ingest().iter().map(|shared| counter(&shared.counters).read()).sum()
    }

    /// Waits until a counter has come to `wanted`, and checks that it is not beyond it.
    #[track_caller]
    pub fn await_count(&self, wanted: u64, counter: impl Fn(&Counters) -> &Counter + Copy) {
        eventually("a counter comes to its value", || self.count(counter) >= wanted);
        assert_eq!(self.count(counter), wanted);
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn await_no_connections(&self) {
        eventually("all connections are gone", || self.count(|counters| &counters.connections_open) == 0);
    }

    /// A TCP connection to it.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// An upgraded connection with a token for the usual call.
    pub fn upgrade(&self) -> Peer {
        self.upgrade_as(crate::TENANT, crate::INTERACTION)
    }

    /// An upgraded connection with a token for a call.
    pub fn upgrade_as(&self, tenant: &str, interaction: &str) -> Peer {
        let mut peer = self.connect();
        peer.upgrade(&crate::mint(tenant, interaction));
        peer
    }

    /// A started call.
    pub fn call(&self) -> Peer {
        self.call_as(crate::TENANT, crate::INTERACTION)
    }

    /// A started call with ids of its own.
    pub fn call_as(&self, tenant: &str, interaction: &str) -> Peer {
        let mut peer = self.upgrade_as(tenant, interaction);
        peer.start(tenant, interaction);
        peer
    }

    /// Drains it, unless that has begun, and waits for its end.
    pub fn finish(mut self, window: Duration) -> Result<(), NodeError> {
        self.node().drain(window);
        self.wait().expect("it was not waited for before")
    }

    fn wait(&mut self) -> Option<Result<(), NodeError>> {
        let node = self.node.take()?;
        let (sender, outcome) = channel();
        std::thread::spawn(move || sender.send(node.wait()));
        Some(outcome.recv_timeout(PATIENCE).expect("a drained node ends"))
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let Some(node) = &self.node else { return };
        node.drain(Duration::ZERO);
        // A test that has failed already is to say why, and not to abort here.
        if !std::thread::panicking()
            && let Some(outcome) = self.wait()
        {
            outcome.unwrap_or_else(|error| panic!("the node did not end well: {error}"));
        }
    }
}
