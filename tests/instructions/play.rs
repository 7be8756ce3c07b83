//! Plays calls through a shard, so that `check.py` can count the instructions of a frame: from the
//! bytes of a receive to the bytes of the ACK. Network, disk and clock are the scripted ones.
//!
//! The same arguments always give the same count, and the unmasking kernel is the same on each
//! x86-64 CPU. It takes two thirds of the count for a frame of 9,600 bytes. So `check.py` counts
//! small frames too: they show the cost of a frame without its bytes.
//!
//! ```text
//! exo-ingest-instructions (received|durable) FRAME_SIZE
//! ```
//! Prints how many frames it played within `counted_turn`.

#![forbid(unsafe_code)]

use exo_ingest::ack_level::AckLevel;
use exo_ingest::auth::{Grant, KeySet, Signer, TokenPolicy, Verifier};
use exo_ingest::call::CallIdentity;
use exo_ingest::clock::JournalClock;
use exo_ingest::constants::ACK_INTERVAL_FRAMES;
use exo_ingest::format::SegmentUuid;
use exo_ingest::io::Socket;
use exo_ingest::io::memory::Region;
use exo_ingest::io::scripted::{SCRIPT_START_UNIX, Scripted, World};
use exo_ingest::journal::frame_ring::{FrameRing, RecordHeaders};
use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::journal::writer::{Backlog, PreparedSegment, SegmentRequest, WriterSettings};
use exo_ingest::limits::Limits;
use exo_ingest::metrics::Counters;
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::mask::Kernel;
use exo_ingest::session::ingest::IngestSettings;
use exo_ingest::session::service::IngestService;
use exo_ingest::shard::mailbox::{MailboxSender, Message, mailbox};
use exo_ingest::shard::{Shard, ShardConfig, ShardJournalConfig, Turn};
use exo_ingest::tenants::Tenants;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const CALLS: usize = 32;

/// Frames of each call before the count begins: by then each pool and table has been used.
const WARM_UP_FRAMES: usize = 20;
const COUNTED_FRAMES: usize = 50;

/// Every call sends one frame, then the shard makes this number of turns. It needs them all: it
/// reads and writes frames, syncs the write, acks after the sync, and sends the ACKs.
const TURNS_PER_FRAME: usize = 4;

/// Longer than the interval between two syncs, so that each round has a sync.
const ROUND_TIME: Duration = Duration::from_millis(40);
const SYNC_INTERVAL: Duration = Duration::from_millis(20);

const RING_SIZE: usize = 16 << 20;

/// More than all frames of a run take, so that the run stays in one segment.
const SEGMENT_SIZE: usize = 64 << 20;

/// Each x86-64 CPU has this kernel, and valgrind knows it.
const KERNEL: &str = "sse4.2";

const PRIVATE_KEY: &[u8] = include_bytes!("../keys/first-private.pem");
const TENANT: &str = "tenant";
const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

type ScriptedShard = Shard<Scripted, IngestService>;
type MakeTurn = fn(&mut ScriptedShard) -> std::io::Result<Turn>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [level, frame_size] = &arguments[..] else {
        panic!("usage: (received|durable) FRAME_SIZE")
    };
    let has_journal = match level.as_str() {
        "received" => false,
        "durable" => true,
        other => panic!("{other} is no level that is counted"),
    };
    let mut rig = Rig::new(has_journal);
    let frame = masked_frame(0x2, &vec![0x5A; frame_size.parse().expect("a size in bytes")]);
    let sockets: Vec<Socket> = (0..CALLS).map(|number| rig.call(number)).collect();
    for _ in 0..WARM_UP_FRAMES {
        rig.play(&sockets, &frame, |shard| shard.turn());
    }
    for _ in 0..COUNTED_FRAMES {
        rig.play(&sockets, &frame, counted_turn);
    }
    let frames = WARM_UP_FRAMES + COUNTED_FRAMES;
    for socket in sockets {
        let said = rig.world.peer_reads(socket);
        let said = String::from_utf8_lossy(&said);
        let acks = said.matches(r#"{"event":"ack","#).count();
        assert_eq!(acks, frames / ACK_INTERVAL_FRAMES as usize, "ACKs of a call");
        let last = format!(r#"{{"event":"ack","seq":{frames}}}"#);
        assert!(said.ends_with(&last), "the last frame is acked");
    }
    println!("{}", CALLS * COUNTED_FRAMES);
}

/// The only turns that are counted. Its name is how valgrind finds it.
#[inline(never)]
fn counted_turn(shard: &mut ScriptedShard) -> std::io::Result<Turn> {
    let turn = shard.turn();
    // The call after it keeps this function on the stack until the turn has ended.
    std::hint::black_box(turn)
}

/// A shard and its world.
struct Rig {
    world: World,
    shard: ScriptedShard,
    signer: Signer,
    mail: MailboxSender,
    requests: Receiver<(usize, SegmentRequest)>,
    segments: u64,
}

impl Rig {
    fn new(has_journal: bool) -> Rig {
        let (ring_size, connections_max) = (RING_SIZE, 2 * CALLS);
        let limits = Limits { ring_size, connections_max, max_ahead: None, ..Limits::production() };
        let signer = Signer::from_pem(PRIVATE_KEY).expect("a key of the tests");
        let jwk = serde_json::to_string(&signer.public_jwk().expect("its public part"));
        let keys = KeySet::parse(jwk.expect("a JWK is JSON").as_bytes()).expect("a good key");
        let verifier = Arc::new(Verifier::new(keys, TokenPolicy::default()));
        let settings = IngestSettings { has_journal, ..IngestSettings::new(limits.clone()) };
        let tenants = Tenants::new(limits.calls_max, limits.calls_per_tenant_max);
        let memory = Region::allocate(RING_SIZE).expect("memory for the frame ring");
        let world = World::new();
        let mut io = world.io(limits.send_slot_count, limits.send_slot_size);
        io.use_region(&memory);
        let kernel = Kernel::available().into_iter().find(|kernel| kernel.name() == KERNEL);
        let kernel = kernel.expect("an x86-64 CPU with SSE4.2 and PCLMULQDQ");
        let (mail, mailbox) = mailbox().expect("an eventfd");
        let (sender, requests) = sync_channel(2);
        let settings_of_writer = WriterSettings {
            level: AckLevel::Durable,
            journal: JournalSettings {
                sync_interval: SYNC_INTERVAL,
                stall_timeout: Duration::from_secs(2),
                ..JournalSettings::default()
            },
            backlog: Backlog::production(),
            shard: 0,
            run: 1,
            clock: JournalClock::default(),
        };
        let journal = ShardJournalConfig {
            settings: settings_of_writer,
            requests: sender,
            first: None,
            replication: None,
        };
        let config = ShardConfig {
            index: 0,
            boot: 1,
            service: IngestService::new(Arc::new(settings), verifier, tenants),
            ring: FrameRing::new(memory, kernel),
            journal: has_journal.then_some(journal),
            limits,
            counters: Arc::new(Counters::default()),
            mailbox,
            tls: None,
            shards: vec![mail.clone()],
        };
        let shard = Shard::new(io, config);
        Rig { world, shard, signer, mail, requests, segments: 0 }
    }

    /// A live call.
    fn call(&mut self, number: usize) -> Socket {
        let interaction = format!("call-{number:04}");
        let socket = self.world.connect("198.51.100.7:4000");
        let identity =
            CallIdentity { tenant: TENANT.into(), interaction: interaction.as_str().into() };
        let (issued_at, expires_at) = (SCRIPT_START_UNIX, SCRIPT_START_UNIX + 3600);
        let grant = Grant { identity: &identity, issued_at, expires_at, kid: None };
        let token = self.signer.mint(&grant).expect("a token");
        let head = format!(
            "GET /v1/ingest HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        self.world.peer_sends(socket, head.as_bytes());
        let ids = format!(r#""interaction_id":"{interaction}","tenant_id":"{TENANT}""#);
        let start = format!(r#"{{"event":"start",{ids},"sample_rate":24000,"encoding":"pcm16"}}"#);
        self.world.peer_sends(socket, &masked_frame(0x1, start.as_bytes()));
        for _ in 0..2 * TURNS_PER_FRAME {
            self.shard.turn().expect("a script does not fail");
            self.prepare_segments();
        }
        let said = self.world.peer_reads(socket);
        assert!(String::from_utf8_lossy(&said).contains(r#""event":"started""#), "a live call");
        socket
    }

    /// Plays a frame of each call, and the turns for it.
    fn play(&mut self, sockets: &[Socket], frame: &[u8], turn: MakeTurn) {
        self.world.advance(ROUND_TIME);
        for socket in sockets {
            self.world.peer_sends(*socket, frame);
        }
        for _ in 0..TURNS_PER_FRAME {
            turn(&mut self.shard).expect("a script does not fail");
        }
    }

    /// Gives the shard the segments that it requested.
    fn prepare_segments(&mut self) {
        while let Ok((_, request)) = self.requests.try_recv() {
            assert_eq!(request, SegmentRequest::Prepare, "the segment is large enough");
            self.segments += 1;
            let segment = PreparedSegment {
                id: self.segments,
                uuid: SegmentUuid([self.segments as u8; 16]),
                file: self.world.create_file(SEGMENT_SIZE),
                size: SEGMENT_SIZE as u64,
                headers: RecordHeaders::with_room(SEGMENT_SIZE),
            };
            self.mail.try_send(Message::Segment(segment)).expect("a mailbox has room for it");
        }
    }
}

/// A final frame, as a client sends it.
fn masked_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        size @ 0..=125 => frame.push(0x80 | size as u8),
        size => {
            frame.push(0x80 | 126);
            let size = u16::try_from(size).expect("a frame of 16-bit length");
            frame.extend_from_slice(&size.to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY.0);
    let payload_start = frame.len();
    frame.extend_from_slice(payload);
    KEY.apply(&mut frame[payload_start..]);
    frame
}
