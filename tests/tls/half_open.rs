//! Memory of the node for TLS connections that are not complete, and for calls over TLS: resident
//! memory of a node as a process, divided by the connections. None may cost more than its bytes
//! allow.
//!
//! `cargo test --test tls half_open -- --nocapture` prints the figures.

use crate::EXO_INGEST;
use exo_ingest::constants::{TLS_HANDSHAKE_SIZE_MAX, TLS_HANDSHAKE_STEP};
use exo_ingest::tls::records::RECORD_SIZE_MAX;
use exo_ingest_harness::certificates::Authority;
use exo_ingest_harness::tls::Client;
use exo_ingest_harness::{NodeProcess, Peer, TENANT, eventually, mint};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of each kind.
const COUNT: usize = 1000;

/// Descriptors of this process: a socket for each connection, and some for the rest of a test.
const DESCRIPTORS: u64 = COUNT as u64 + 200;

/// What a connection costs beside its bytes: its places in the shard's tables, and what allocators
/// round up to. They take memory in steps of a megabyte or two: two kilobytes for each of these.
const BESIDE: usize = 4 * 1024;

/// State of rustls between a hello and the end of the handshake: transcript, keys, the flight.
const RUSTLS: usize = 12 * 1024;

/// A node, and a client that trusts it.
struct Site {
    node: NodeProcess,
    client: Arc<ClientConfig>,
    _directory: tempfile::TempDir,
}

impl Site {
    fn start() -> Site {
        let limit = getrlimit(Resource::Nofile);
        let current = Some(limit.current.unwrap_or(u64::MAX).max(DESCRIPTORS));
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).expect("descriptors");
        let directory = tempfile::tempdir().unwrap();
        let ca = Authority::new("servers");
        let [certificate, key] = ca.issue(&["localhost"]).write(directory.path(), "node");
        let mut args = vec!["--tls-cert", certificate.to_str().unwrap()];
        args.extend(["--tls-key", key.to_str().unwrap(), "--set", "journal.reserve=0"]);
        // Nothing is closed while it is measured.
        args.extend(["--set", "timeouts.head=10m", "--set", "timeouts.start=10m"]);
        args.extend(["--set", "timeouts.ping=10m", "--set", "timeouts.idle=20m"]);
        let node = NodeProcess::start(EXO_INGEST, &directory.path().join("data"), &args);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Site { node, client: Arc::new(client), _directory: directory }
    }

    /// What [`COUNT`] connections cost, bytes each. `connect` makes one.
    fn cost<T>(&self, mut connect: impl FnMut(SocketAddr) -> T) -> usize {
        let address = self.node.address();
        // What is made once is made.
        let first: Vec<T> = (0..20).map(|_| connect(address)).collect();
        self.settle(first.len());
        let before = self.node.resident_size();
        let all: Vec<T> = (0..COUNT).map(|_| connect(address)).collect();
        self.settle(first.len() + all.len());
        let after = self.node.resident_size();
        drop((first, all));
        after.saturating_sub(before) as usize / COUNT
    }

    /// Waits until the node has read everything from so many connections, and handled it.
    fn settle(&self, count: usize) {
        let port = format!("{:04X}", self.node.address().port());
        eventually("the node has read all", || {
            let table = std::fs::read_to_string("/proc/self/net/tcp").expect("there is one");
            let queues: Vec<&str> = table
                .lines()
                .filter_map(|line| {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    // Local address, state (1 is established), bytes sent : received and not read.
                    let is_nodes = fields[1].ends_with(&port) && fields[3] == "01";
                    is_nodes.then(|| fields[4].split_once(':').expect("two queues").1)
                })
                .collect();
            queues.len() == count && queues.iter().all(|queue| *queue == "00000000")
        });
        let admin = self.node.admin();
        eventually("no handshake waits", || {
            let metrics = admin.metrics();
            metrics.sum("exo_ingest_tls_handshakes_waiting") == 0.0
                && metrics.sum("exo_ingest_connections_open") == count as f64
        });
    }
}

/// A connection that has sent bytes.
fn sent(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(bytes).unwrap();
    socket
}

/// Holds a kind of connections to its bound.
#[track_caller]
fn held<T>(name: &str, bound: usize, mut connect: impl FnMut(&Site, SocketAddr) -> T) {
    // One at a time: so many descriptors, and no more.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start();
    let cost = site.cost(|address| connect(&site, address));
    println!("{name}: {cost} bytes each, of {bound} that are allowed");
    assert!(cost <= bound, "{name}: {cost} bytes each, not {bound}");
    assert!(site.node.terminate().success());
}

/// The start of a handshake message of 60,000 bytes, in the largest records there are.
fn largest_handshake() -> Vec<u8> {
    let record = |payload: &[u8]| {
        let [high, low] = (payload.len() as u16).to_be_bytes();
        [&[22, 3, 1, high, low][..], payload].concat()
    };
    let mut payload = vec![0; 1 << 14];
    payload[..4].copy_from_slice(&[1, 0, 0xea, 0x60]);
    let first = record(&payload);
    let rest = TLS_HANDSHAKE_SIZE_MAX - first.len();
    // One byte less than a whole record waits before rustls, all others wait in it.
    let second = record(&payload[..rest - 5]);
    [&first[..], &second[..second.len() - 1]].concat()
}

#[test]
fn a_connection_that_says_nothing() {
    held("nothing", BESIDE, |_, address| sent(address, &[]));
}

#[test]
fn half_a_hello() {
    held("half a hello", TLS_HANDSHAKE_STEP + BESIDE, |site, address| {
        let hello = Client::new(&site.client).pending();
        sent(address, &hello[..hello.len() / 2])
    });
}

#[test]
fn the_largest_record_but_for_a_byte() {
    let mut record = vec![0; RECORD_SIZE_MAX - 1];
    record[..5].copy_from_slice(&[22, 3, 1, 0x41, 0]);
    let bound = RECORD_SIZE_MAX.next_multiple_of(TLS_HANDSHAKE_STEP) * 5 / 4 + BESIDE;
    held("the largest record", bound, |_, address| sent(address, &record));
}

#[test]
fn a_hello_that_is_answered_and_no_more() {
    held("a whole hello", RUSTLS + BESIDE, |site, address| {
        let mut socket = sent(address, &Client::new(&site.client).pending());
        let mut flight = [0; 5];
        socket.read_exact(&mut flight).expect("a ServerHello");
        assert_eq!(flight[0], 22);
        socket
    });
}

#[test]
fn the_largest_handshake_but_for_a_byte() {
    let bytes = largest_handshake();
    // The buffer of rustls doubles, and what it grew out of is not all used again.
    let bound = 2 * TLS_HANDSHAKE_SIZE_MAX + RUSTLS + BESIDE;
    held("the largest handshake", bound, |_, address| sent(address, &bytes));
}

#[test]
fn a_call() {
    // Its heap and its tables have a kilobyte each (tests/no_allocation.rs); the frame ring is
    // used from its start on, by the records of calls.
    const CALL_RECORD: usize = 512;
    let mut number = 0;
    held("a call", 2 * 1024 + CALL_RECORD + BESIDE, |site, address| {
        number += 1;
        let interaction = format!("call-{number}");
        let mut peer = Peer::connect_tls(address, &site.client);
        peer.upgrade(&mint(TENANT, &interaction));
        peer.start(TENANT, &interaction);
        peer
    });
}
