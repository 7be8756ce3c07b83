//! A node in this process, on a port of its own.

use crate::{Keys, PATIENCE, Peer, eventually, wire};
use exo_ingest::ack_level::{AckLevel, CallLevels};
use exo_ingest::auth::TokenPolicy;
use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::limits::Limits;
use exo_ingest::metrics::{Counter, Counters, TlsFailure};
use exo_ingest::node::{Node, NodeConfig, NodeError};
use exo_ingest::session::ingest::{IngestCounters, IngestSettings};
use exo_ingest::store::JournalConfig;
use rustls::{ClientConfig, ServerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// What a test may change before the node starts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Limits and timers: those of production, with less memory and fewer descriptors.
    pub limits: Limits,
    /// Number of shards. None is pinned.
    pub shards: usize,
    /// What the node requires of calls. Its limits are those above.
    pub ingest: IngestSettings,
    /// What it requires of tokens.
    pub policy: TokenPolicy,
    /// Its journal; usually none.
    pub journal: Option<JournalConfig>,
    /// Its TLS configuration; usually its port is plain.
    pub tls: Option<Arc<ServerConfig>>,
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
        Setup {
            ingest,
            limits,
            shards: 1,
            policy: TokenPolicy::default(),
            journal: None,
            tls: None,
        }
    }
}

/// A node in this process. When it is dropped, it drains, and all of its shards must end without an
/// error.
#[derive(Debug)]
pub struct TestNode {
    node: Option<Node>,
    address: SocketAddr,
}

impl TestNode {
    /// Starts a node with the usual setup after `change`.
    pub fn start(kernel_features: KernelFeatures, change: impl FnOnce(&mut Setup)) -> TestNode {
        let mut setup = Setup::new();
        change(&mut setup);
        let level = setup.journal.as_ref().map_or(AckLevel::Received, |journal| journal.level);
        let config = NodeConfig {
            passed: None,
            journal: setup.journal,
            replication: None,
            tls: setup.tls,
            listen: "127.0.0.1:0".parse().expect("an address"),
            shards: vec![None; setup.shards],
            ingest: IngestSettings {
                limits: setup.limits.clone(),
                levels: CallLevels::all(level),
                ..setup.ingest
            },
            limits: setup.limits,
            kernel_features,
            allow_unregistered: true,
        };
        let node = Node::start(config, Keys::First.verifier(setup.policy))
            .unwrap_or_else(|error| panic!("{error}"));
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

    /// A counter, summed over the shards.
    pub fn count(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        self.node().counters().iter().map(|counters| counter(counters).read()).sum()
    }

    /// TLS connections that failed for this reason, summed over the shards.
    pub fn tls_failures(&self, failure: TlsFailure) -> u64 {
        self.count(|counters| &counters.tls_failures[failure.index()])
    }

    /// A counter of the ingest service, summed over the shards.
    pub fn count_ingest(&self, counter: impl Fn(&IngestCounters) -> &Counter) -> u64 {
        self.node().ingest().iter().map(|shared| counter(&shared.counters).read()).sum()
    }

    /// Waits until a counter is at least `wanted`, and checks that it is not more.
    #[track_caller]
    pub fn await_count(&self, wanted: u64, counter: impl Fn(&Counters) -> &Counter + Copy) {
        eventually("a counter comes to its value", || self.count(counter) >= wanted);
        assert_eq!(self.count(counter), wanted);
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn await_no_connections(&self) {
        eventually("all connections are gone", || {
            self.count(|counters| &counters.connections_open) == 0
        });
    }

    /// A TCP connection to it.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// A TLS connection to it.
    #[track_caller]
    pub fn connect_tls(&self, config: &Arc<ClientConfig>) -> Peer {
        Peer::connect_tls(self.address, config)
    }

    /// A started call over TLS.
    #[track_caller]
    pub fn call_tls(&self, config: &Arc<ClientConfig>) -> Peer {
        let mut peer = self.connect_tls(config);
        peer.upgrade(&crate::mint(crate::TENANT, crate::INTERACTION));
        peer.start(crate::TENANT, crate::INTERACTION);
        peer
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

    /// Started calls, each with its number as its id. They start at the same time: one by one, each
    /// would wait for the shard several times.
    pub fn calls_at_once(&self, count: usize) -> Vec<Peer> {
        let open = |number: usize| {
            let interaction = number.to_string();
            let mut peer = self.connect();
            peer.send(wire::upgrade_request(&crate::mint(crate::TENANT, &interaction)).as_bytes());
            peer.send(&wire::text(&wire::start_text(crate::TENANT, &interaction)));
            peer
        };
        let mut peers: Vec<_> = (0..count).map(open).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.expect_switching();
            peer.expect_started(&number.to_string());
        }
        peers
    }

    /// Drains it, unless it already drains, and waits for its end.
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
        // A test that failed already must report its own failure, and not abort here.
        if !std::thread::panicking()
            && let Some(outcome) = self.wait()
        {
            outcome.unwrap_or_else(|error| panic!("the node did not end well: {error}"));
        }
    }
}
