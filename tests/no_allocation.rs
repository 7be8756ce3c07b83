//! The data path allocates nothing for a frame, a batch or a segment, and a call takes less than a
//! kilobyte. The global allocator counts on the threads of a real node's shards: with and without a
//! journal on a real disk, and with and without TLS.
//!
//! The allocator counts for the whole process, so this is a program of its own.
//!
//! `cargo test --test no_allocation -- --nocapture` prints the numbers.

use exo_ingest::auth::{ClientName, Grant, KeySet, Signer, TokenPolicy, Verifier};
use exo_ingest::call::CallIdentity;
use exo_ingest::cli::keygen::{KeyBits, generate_into};
use exo_ingest::clock::Now;
use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::limits::Limits;
use exo_ingest::metrics::Counters;
use exo_ingest::node::{Node, NodeConfig};
use exo_ingest::proto::handshake::{Refusal, Situation};
use exo_ingest::proto::http::Head;
use exo_ingest::session::ingest::{IngestSession, IngestSettings};
use exo_ingest::session::service::IngestService;
use exo_ingest::session::{Admission, Service};
use exo_ingest::shard::connections::Connections;
use exo_ingest::shard::timers::TimerWheel;
use exo_ingest::store::JournalConfig;
use exo_ingest::tenants::Tenants;
use exo_ingest_harness::tls::Certificate;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The recommended frame: 200 ms at 24 kHz.
const FRAME_SIZE: usize = 9_600;
const CALLS: usize = 100;
/// Frames of each call before the count starts: by then every pool and table has been used.
const WARM_UP_FRAMES: usize = 20;
const FRAMES: usize = 50;

/// Limit for a connected call: bytes on the heap, and its slots in the shard's tables.
const CALL_SIZE_MAX: usize = 1024;

/// The limit for what TLS adds.
const TLS_SIZE_MAX: usize = 1024;

/// Of the journal, if there is one.
const SEGMENT_SIZE: u64 = 8 << 20;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);
/// Bytes that shards have allocated and not freed.
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Whether this thread is a shard's. It has no destructor and no lazy setup, because the
    /// allocator may read it at any time.
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(counter: &AtomicU64, bytes: i64) {
    if IS_SHARD.try_with(Cell::get).unwrap_or(false) {
        counter.fetch_add(1, Ordering::Relaxed);
        LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it is; counting touches atomics and a plain
// thread local alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(&ALLOCATIONS, layout.size() as i64);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(&FREES, -(layout.size() as i64));
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from the system's
        // allocator, as all do.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(&ALLOCATIONS, new_size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps `realloc`'s contract, and `pointer` came from the system's
        // allocator, as all do.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// The node's own service. Only shards call it, so a thread that calls it is a shard's.
struct Marking(IngestService);

impl Service for Marking {
    type Session = IngestSession;

    fn admit(
        &mut self,
        now: Now,
        head: &Head<'_>,
        situation: Situation,
        client: Option<&ClientName>,
        counters: &Counters,
    ) -> Admission<IngestSession> {
        IS_SHARD.set(true);
        self.0.admit(now, head, situation, client, counters)
    }

    fn handle_refusal(&mut self, refusal: Refusal, counters: &Counters) {
        self.0.handle_refusal(refusal, counters);
    }

    fn handle_keys(&mut self, verifier: Arc<Verifier>) {
        self.0.handle_keys(verifier);
    }
}

/// A client's side of a connection.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).unwrap(),
            Stream::Tls(stream) => stream.write_all(bytes).unwrap(),
        }
    }

    fn receive(&mut self, bytes: &mut [u8]) {
        match self {
            Stream::Plain(stream) => stream.read_exact(bytes).unwrap(),
            Stream::Tls(stream) => stream.read_exact(bytes).unwrap(),
        }
    }

    /// The bytes in these parts. Over TLS their record is cut.
    fn parts(&mut self, bytes: &[u8], parts: [usize; 2]) -> [Vec<u8>; 3] {
        let sealed = match self {
            Stream::Plain(_) => bytes.to_vec(),
            Stream::Tls(stream) => {
                let mut sealed = Vec::new();
                stream.conn.writer().write_all(bytes).unwrap();
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut sealed).unwrap();
                }
                sealed
            }
        };
        let (first, rest) = sealed.split_at(parts[0]);
        let (second, third) = rest.split_at(parts[1]);
        [first, second, third].map(<[u8]>::to_vec)
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).unwrap(),
            Stream::Tls(stream) => stream.sock.write_all(bytes).unwrap(),
        }
    }
}

struct Clients {
    address: SocketAddr,
    signer: Signer,
    /// The client's configuration, for TLS.
    tls: Option<Arc<ClientConfig>>,
    calls: Vec<Stream>,
    /// Frames each call has sent.
    frames: usize,
}

impl Clients {
    fn mint(&self, interaction: &str) -> String {
        let identity = CallIdentity { tenant: "tenant".into(), interaction: interaction.into() };
        let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let grant =
            Grant { identity: &identity, issued_at, expires_at: issued_at + 600, kid: None };
        self.signer.mint(&grant).unwrap()
    }

    /// Starts one more call.
    fn connect(&mut self) {
        let interaction = format!("call-{:04}", self.calls.len());
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut stream = match &self.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from("localhost").unwrap();
                let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
                Stream::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
        };
        let head = format!(
            "GET /v1/ingest HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n\r\n",
            self.mint(&interaction)
        );
        stream.send(head.as_bytes());
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.receive(&mut byte);
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        let ids = format!(r#""interaction_id":"{interaction}","tenant_id":"tenant""#);
        let start = format!(r#"{{"event":"start",{ids},"sample_rate":24000,"encoding":"pcm16"}}"#);
        stream.send(&masked(0x1, start.as_bytes()));
        expect(&mut stream, &format!(r#"{{"event":"started","interaction_id":"{interaction}"}}"#));
        self.calls.push(stream);
    }

    /// All calls send `count` frames each and read their acks. Each frame goes in three parts, with
    /// those of all other calls between them.
    fn play(&mut self, count: usize) {
        let frame = masked(0x2, &[7; FRAME_SIZE]);
        for _ in 0..count {
            let parts: Vec<_> =
                self.calls.iter_mut().map(|stream| stream.parts(&frame, [5, 4000])).collect();
            for part in 0..3 {
                for (stream, parts) in self.calls.iter_mut().zip(&parts) {
                    stream.send_raw(&parts[part]);
                }
            }
            self.frames += 1;
            if self.frames.is_multiple_of(10) {
                let ack = format!(r#"{{"event":"ack","seq":{}}}"#, self.frames);
                self.calls.iter_mut().for_each(|stream| expect(stream, &ack));
            }
        }
    }
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        size @ 0..=125 => frame.push(0x80 | size as u8),
        size => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(size as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Reads one short text frame.
fn expect(stream: &mut Stream, text: &str) {
    let mut frame = vec![0; 2 + text.len()];
    stream.receive(&mut frame);
    assert_eq!((frame[0], String::from_utf8_lossy(&frame[2..])), (0x81, text.into()));
}

fn start_node(
    signer: &Signer,
    kernel_features: KernelFeatures,
    journal: Option<JournalConfig>,
    certificate: Option<&Certificate>,
) -> Node {
    let jwk = serde_json::to_string(&signer.public_jwk().unwrap()).unwrap();
    let verifier =
        Arc::new(Verifier::new(KeySet::parse(jwk.as_bytes()).unwrap(), TokenPolicy::default()));
    let limits = Limits {
        ring_size: 16 * 1024 * 1024,
        connections_max: 1000,
        max_ahead: None,
        ..Limits::production()
    };
    let config = NodeConfig {
        passed: None,
        journal: journal.clone(),
        replication: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: certificate.map(Certificate::server),
        shards: vec![None],
        limits: limits.clone(),
        ingest: IngestSettings {
            has_journal: journal.is_some(),
            ..IngestSettings::new(limits.clone())
        },
        kernel_features,
        allow_unregistered: true,
    };
    let tenants = Tenants::new(limits.calls_max, None);
    let settings = Arc::new(config.ingest.clone());
    let service = |_| {
        Marking(IngestService::new(
            Arc::clone(&settings),
            Arc::clone(&verifier),
            Arc::clone(&tenants),
        ))
    };
    Node::start_with(&config, service).unwrap()
}

/// One test with one node after another: the counts are those of the process.
#[test]
fn frames_allocate_nothing_and_a_call_costs_less_than_a_kilobyte() {
    for kernel_features in [KernelFeatures::Newest, KernelFeatures::V6_1] {
        for has_journal in [false, true] {
            for speaks_tls in [false, true] {
                count(kernel_features, has_journal, speaks_tls);
            }
        }
    }
}

fn count(kernel_features: KernelFeatures, has_journal: bool, speaks_tls: bool) {
    let dir = tempfile::tempdir().unwrap();
    // Small segments, so that several are started during the count.
    let journal = JournalConfig::new(
        dir.path().join("data"),
        JournalSettings {
            segment_size: SEGMENT_SIZE,
            reserve: Some(1),
            ..JournalSettings::default()
        },
    );
    let key = generate_into(dir.path(), KeyBits::Bits2048).unwrap();
    let signer = Signer::from_pem(&std::fs::read(key.private).unwrap()).unwrap();
    let certificate = speaks_tls.then(Certificate::make);
    let node =
        start_node(&signer, kernel_features, has_journal.then_some(journal), certificate.as_ref());
    println!("{}, TLS: {speaks_tls}", node.notes().join("; "));
    // Without resumption each handshake is a full one.
    let tls = certificate
        .map(|certificate| certificate.client(|config| config.resumption = Resumption::disabled()));
    let mut clients =
        Clients { address: node.address(), signer, tls, calls: Vec::new(), frames: 0 };

    // The first calls cause the allocations that happen only once.
    for _ in 0..5 {
        clients.connect();
    }
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "shards are not counted");
    let live_before = LIVE_BYTES.load(Ordering::Relaxed);
    for _ in 0..CALLS {
        clients.connect();
    }
    clients.play(WARM_UP_FRAMES);
    let heap = (LIVE_BYTES.load(Ordering::Relaxed) - live_before).max(0) as usize / CALLS;
    let slot = Connections::<IngestSession>::SLOT_SIZE + TimerWheel::ENTRY_SIZE;

    let counters = Arc::clone(&node.counters()[0]);
    let read = || {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { frames, audio_records, acks, journal_syncs, journal_segments, .. } =
            &*counters;
        let counted = [frames, audio_records, acks, journal_syncs, journal_segments]
            .map(|counter| counter.read());
        [
            count(&ALLOCATIONS),
            count(&FREES),
            counted[0],
            counted[1],
            counted[2],
            counted[3],
            counted[4],
        ]
    };
    let before = read();
    clients.play(FRAMES);
    let after = read();
    let [allocations, frees, frames, records, acks, syncs, segments] =
        std::array::from_fn(|index| after[index] - before[index]);

    println!(
        "{CALLS} calls: {frames} frames in {records} records, {acks} acks, {syncs} syncs, \
         {segments} segments: {allocations} allocations, {frees} frees"
    );
    println!("a call: {heap} bytes on the heap, {slot} bytes in the shard's tables");
    let sent = (clients.calls.len() * FRAMES) as u64;
    assert_eq!((frames, acks), (sent, sent / 10));
    // Over TLS the records come in pieces, but the frames in them are whole.
    let spills = counters.tls_spills.read();
    assert_eq!((records > frames, spills > 0), (!speaks_tls, speaks_tls));
    assert_eq!((syncs > 0, segments > 2), (has_journal, has_journal));
    assert_eq!((allocations, frees), (0, 0));
    let size_max = CALL_SIZE_MAX + if speaks_tls { TLS_SIZE_MAX } else { 0 };
    assert!(heap > 0 && heap + slot <= size_max, "{heap} + {slot} bytes a call");

    drop(clients);
    node.drain(Duration::ZERO);
    node.wait().unwrap();
}
