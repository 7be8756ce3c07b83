//! Shards, turned step by step on a scripted world: what a peer does becomes completions at the
//! next turn, time passes when the test says so, and at the end nothing may be left over.

#![forbid(unsafe_code)]

mod accepting;
mod backlog;
mod backpressure;
mod closing;
mod damaged;
mod disk;
mod draining;
mod handshakes;
mod journal;
mod latencies;
mod output;
mod pieces;
mod places;
mod pressure;
mod proxy;
mod random;
mod replicated;
mod superseding;
mod timing;
mod tls;
mod watching;

use super::*;
use crate::auth::{Grant, KeySet, Signer, TokenPolicy, Verifier};
use crate::call::{CallIdentity, Epoch as CallEpoch, Seq};
use crate::cli::keygen::{KeyBits, generate_into};
use crate::clock::UnixMicros;
use crate::constants::ends_size;
use crate::io::Socket;
use crate::io::memory::Region;
use crate::io::scripted::{SCRIPT_START_UNIX, Scripted, World};
use crate::journal::frame_ring::Chunk;
use crate::proto::mask::Kernel;
use crate::session::ingest::{IngestSettings, IngestShared};
use crate::session::service::IngestService;
use crate::tenants::Tenants;
use disk::{Disk, DiskSettings};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

const TENANT: &str = "tenant-abc";
const ADDRESS: &str = "198.51.100.7:4000";
const STOP: &str = r#"{"event":"stop"}"#;
const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// Turns after which a shard that still has something to do spins.
const TURNS_MAX: u64 = 20_000;

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// One shard on its world.
struct Rig {
    world: World,
    shard: Shard<Scripted, IngestService>,
    counters: Arc<Counters>,
    ingest: Arc<IngestShared>,
    tenants: Arc<Tenants>,
    sockets: RefCell<Vec<Socket>>,
    disk: Option<Disk>,
    /// Its disk has sent it something since its last turn.
    has_mail: bool,
    finished: bool,
}

/// Two private keys, made once: a key in a repository alarms people.
fn signing_keys() -> &'static [Vec<u8>; 2] {
    static KEYS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    KEYS.get_or_init(|| {
        [(); 2].map(|()| {
            let dir = tempfile::tempdir().expect("a test gets a directory");
            let files = generate_into(dir.path(), KeyBits::Bits2048).expect("a key");
            std::fs::read(files.private).expect("its file")
        })
    })
}

fn signing_key() -> &'static [u8] {
    &signing_keys()[0]
}

fn other_signing_key() -> &'static [u8] {
    &signing_keys()[1]
}

fn settings(limits: Limits) -> IngestSettings {
    IngestSettings::new(limits)
}

fn verifier(signing_key: &'static [u8]) -> Arc<Verifier> {
    thread_local! {
        static VERIFIERS: RefCell<HashMap<usize, Arc<Verifier>>> = RefCell::default();
    }
    let name = signing_key.as_ptr().addr();
    VERIFIERS.with_borrow_mut(|made| {
        Arc::clone(made.entry(name).or_insert_with(|| make_verifier(signing_key)))
    })
}

fn make_verifier(signing_key: &[u8]) -> Arc<Verifier> {
    let jwk =
        Signer::from_pem(signing_key).expect("a test's key").public_jwk().expect("its public part");
    let keys = KeySet::parse(serde_json::to_string(&jwk).expect("a JWK is JSON").as_bytes())
        .expect("the key is good");
    Arc::new(Verifier::new(keys, TokenPolicy::default()))
}

/// A token for an hour from the start of the script; each is signed once per test thread.
fn token_signed(signing_key: &'static [u8], interaction: &str) -> String {
    thread_local! {
        static TOKENS: RefCell<HashMap<(usize, String), String>> = RefCell::default();
    }
    let mint = || {
        let identity = CallIdentity { tenant: TENANT.into(), interaction: interaction.into() };
        let issued_at = SCRIPT_START_UNIX;
        let grant =
            Grant { identity: &identity, issued_at, expires_at: issued_at + 3600, kid: None };
        Signer::from_pem(signing_key).expect("a test's key").mint(&grant).expect("a token")
    };
    let name = (signing_key.as_ptr().addr(), interaction.to_owned());
    TOKENS.with_borrow_mut(|tokens| tokens.entry(name).or_insert_with(mint).clone())
}

/// A good upgrade request for `interaction`.
fn head(interaction: &str) -> Vec<u8> {
    head_with_token(&token_signed(signing_key(), interaction))
}

fn head_with_token(token: &str) -> Vec<u8> {
    format!(
        "GET /v1/ingest HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
    .into_bytes()
}

/// A frame as a client sends it: final, masked.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        size @ 0..=125 => frame.push(0x80 | size as u8),
        size @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(size as u16).to_be_bytes());
        }
        size => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn text(text: &str) -> Vec<u8> {
    masked(0x1, text.as_bytes())
}

fn audio(size: usize) -> Vec<u8> {
    masked(0x2, &vec![7; size])
}

/// `count` audio frames of `size` bytes.
fn frames(count: usize, size: usize) -> Vec<u8> {
    audio(size).repeat(count)
}

fn close(code: u16) -> Vec<u8> {
    masked(0x8, &code.to_be_bytes())
}

fn start(interaction: &str) -> Vec<u8> {
    let ids = format!(r#""interaction_id":"{interaction}","tenant_id":"{TENANT}""#);
    text(&format!(r#"{{"event":"start",{ids},"sample_rate":24000,"encoding":"pcm16"}}"#))
}

/// What the node said, in words: `101`, `started`, `ack 10`, `error idle_timeout`, `close 4408`; a
/// cut message is `…`.
fn said(bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = bytes;
    if rest.starts_with(b"HTTP/1.1 ") {
        words.push(String::from_utf8_lossy(&rest[9..12]).into_owned());
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        rest = if words[0] == "101" { &rest[end..] } else { &[] };
    }
    while let [first, second, after @ ..] = rest {
        let (size, after) = match (second, after) {
            (126, [high, low, after @ ..]) => {
                (usize::from(u16::from_be_bytes([*high, *low])), after)
            }
            (size, after) => (usize::from(*size), after),
        };
        let Some((payload, after)) = after.split_at_checked(size) else {
            words.push("…".to_owned());
            return words;
        };
        words.push(word(first & 0xf, payload));
        rest = after;
    }
    words
}

fn word(opcode: u8, payload: &[u8]) -> String {
    match (opcode, payload) {
        (0x8, []) => "close".to_owned(),
        (0x8, [high, low, ..]) => format!("close {}", u16::from_be_bytes([*high, *low])),
        (0x9, _) => "ping".to_owned(),
        (0xa, payload) => {
            format!("pong {}", String::from_utf8_lossy(payload)).trim_end().to_owned()
        }
        (0x1, payload) => {
            let event: serde_json::Value =
                serde_json::from_slice(payload).expect("events are JSON");
            let name = event["event"].as_str().expect("events have a name").to_owned();
            match name.as_str() {
                "ack" | "stopped" => format!("{name} {}", event["seq"]),
                "error" => {
                    format!("{name} {}", event["reason"].as_str().expect("errors have a reason"))
                }
                _ => name,
            }
        }
        other => panic!("the node sent {other:?}"),
    }
}

/// Shards that share mailboxes and tenants, each with a world of its own.
fn rigs(count: usize, settings: IngestSettings) -> Vec<Rig> {
    rigs_on(count, settings, None)
}

/// As [`rigs`], each on a disk of its own if there are any.
fn rigs_on(count: usize, settings: IngestSettings, disk: Option<DiskSettings>) -> Vec<Rig> {
    let settings = Arc::new(settings);
    let tenants = Tenants::new(settings.limits.calls_max, settings.limits.calls_per_tenant_max);
    let (senders, mailboxes): (Vec<MailboxSender>, Vec<_>) =
        (0..count).map(|_| mailbox::mailbox().expect("an eventfd")).unzip();
    let make = |(index, mailbox): (usize, mailbox::Mailbox)| {
        let world = World::new();
        let limits = settings.limits.clone();
        let counters = Arc::new(Counters::default());
        let service = IngestService::new(
            Arc::clone(&settings),
            verifier(signing_key()),
            Arc::clone(&tenants),
        );
        let ingest = service.shared();
        let memory = Region::allocate(limits.ring_size).expect("a test gets its memory");
        let mut io = world.io(limits.send_slot_count, limits.send_slot_size);
        io.use_region(&memory);
        let disk = disk.map(|disk| Disk::new(disk, index as u16, senders[index].clone()));
        let (disk, journal) = disk.unzip();
        let config = ShardConfig {
            journal,
            index,
            boot: disk::RUN.boot,
            service,
            ring: FrameRing::new(memory, Kernel::Plain),
            limits,
            counters: Arc::clone(&counters),
            mailbox,
            tls: None,
            shards: senders.clone(),
        };
        let (shard, tenants) = (Shard::new(io, config), Arc::clone(&tenants));
        Rig {
            world,
            shard,
            counters,
            ingest,
            tenants,
            sockets: RefCell::default(),
            disk,
            has_mail: false,
            finished: false,
        }
    };
    mailboxes.into_iter().enumerate().map(make).collect()
}

/// Turns all shards until none has anything to do.
fn quiet_all(rigs: &mut [Rig]) {
    for _ in 0..TURNS_MAX {
        let mut busy = false;
        for rig in &mut *rigs {
            rig.turn();
            busy |= rig.is_busy();
        }
        // What one shard did last may be in the mailbox of another that had its turn before.
        let handled: u64 = rigs.iter().map(|rig| rig.counters.mailbox_messages.read()).sum();
        rigs.iter_mut().for_each(Rig::turn);
        let handled_since: u64 = rigs.iter().map(|rig| rig.counters.mailbox_messages.read()).sum();
        if !busy && handled == handled_since && !rigs.iter_mut().any(Rig::is_busy) {
            return;
        }
    }
    panic!("the shards spin");
}

impl Rig {
    /// On tiny limits.
    fn tiny() -> Rig {
        Rig::with(|_| {})
    }

    /// On tiny limits, with `change` made to them.
    fn with(change: impl FnOnce(&mut Limits)) -> Rig {
        let mut limits = Limits::tiny();
        change(&mut limits);
        rigs(1, settings(limits)).pop().expect("one was asked for")
    }

    fn turn(&mut self) {
        if !self.finished {
            self.finished = self.shard.turn().expect("a script does not fail") == Turn::Finished;
        }
        if let Some(disk) = &mut self.disk {
            self.has_mail = disk.serve(&self.world);
        }
    }

    /// Whether there is something to do that waits for neither a peer nor the clock.
    fn is_busy(&mut self) -> bool {
        !self.finished
            && (self.has_mail || !self.shard.io.is_idle() || self.shard.next_wait() == Wait::No)
    }

    /// Turns until there is nothing to do; at least once. Returns how many turns that took.
    fn quiet(&mut self) -> u64 {
        for turns in 1..TURNS_MAX {
            self.turn();
            if !self.is_busy() {
                return turns;
            }
        }
        panic!("the shard spins");
    }

    /// Lets time pass as the shard would see it: it sleeps as long as it asks for, and no longer.
    /// Returns how often it woke.
    fn pass(&mut self, duration: Duration) -> u64 {
        let end = self.world.now().moment + duration;
        for wakes in 0..TURNS_MAX {
            let left = end.since(self.world.now().moment);
            if left.is_zero() || self.finished {
                return wakes;
            }
            let nap = match self.shard.next_wait() {
                Wait::No => Duration::ZERO,
                Wait::Gather { limit, .. } => limit.unwrap_or(left).min(left),
            };
            self.world.sleep_in_submit(nap);
            self.quiet();
        }
        panic!("the shard wakes again and again");
    }

    fn connect(&self) -> Socket {
        let socket = self.world.connect(ADDRESS);
        self.sockets.borrow_mut().push(socket);
        socket
    }

    fn send(&self, socket: Socket, bytes: &[u8]) {
        self.world.peer_sends(socket, bytes);
    }

    /// What the node has said since it was last asked.
    fn said(&self, socket: Socket) -> Vec<String> {
        said(&self.world.peer_reads(socket))
    }

    /// An upgraded connection.
    fn upgraded(&mut self, interaction: &str) -> Socket {
        let socket = self.connect();
        self.send(socket, &head(interaction));
        self.quiet();
        assert_eq!(self.said(socket), ["101"]);
        socket
    }

    /// A live call.
    fn call(&mut self, interaction: &str) -> Socket {
        let socket = self.upgraded(interaction);
        self.send(socket, &start(interaction));
        self.quiet();
        assert_eq!(self.said(socket), ["started"]);
        socket
    }

    /// Sends, turns, and returns what came back.
    fn ask(&mut self, socket: Socket, bytes: &[u8]) -> Vec<String> {
        self.send(socket, bytes);
        self.quiet();
        self.said(socket)
    }

    fn assert_closed(&self, socket: Socket) {
        assert!(self.world.is_closed(socket), "the socket is still open");
    }

    fn connections(&self) -> usize {
        self.shard.connections.count()
    }

    /// From now on nothing that is sealed is released.
    fn hold_ring(&mut self) {
        self.shard.ring.held = Some(self.shard.ring.sealed());
    }

    /// Fills the frame ring until little more than `leave` bytes are free, beyond what is kept for
    /// calls' ends: as full as peers can make it.
    fn fill_ring(&mut self, leave: usize) {
        let leave = leave + ends_size(self.connections());
        let ring = &mut self.shard.ring;
        for size in [64 * 1024, 0] {
            let record = crate::journal::frame_ring::audio_size(size);
            while ring.free_size() >= leave + record {
                let chunk = Chunk {
                    call: 0,
                    // Of no call that has a record: it does not fit a short note.
                    epoch: CallEpoch { micros: u64::MAX, ..CallEpoch::default() },
                    seq: Seq(1),
                    offset: 0,
                    last: false,
                    received_at: UnixMicros(0),
                };
                ring.append_audio(chunk, &vec![0; size], crate::proto::MaskKey::default())
                    .expect("it has the room");
            }
        }
    }

    /// Everything that is sealed and durable is free again.
    fn let_ring_go(&mut self) {
        self.shard.ring.seal();
        self.shard.ring.held = None;
    }

    /// Ends all connections, and checks that nothing is left of them.
    fn end(mut self) {
        self.abandon();
        self.assert_nothing_left();
    }

    /// All peers that are still there vanish, and the shard gets the time it needs to notice.
    fn abandon(&mut self) {
        let sockets = self.sockets.borrow().clone();
        sockets
            .into_iter()
            .filter(|socket| !self.world.is_closed(*socket))
            .for_each(|socket| self.world.peer_resets(socket));
        self.quiet();
    }

    fn assert_nothing_left(&mut self) {
        let shard = &mut self.shard;
        let left: Vec<_> = shard.connections.ids().collect();
        if let Some(id) = left.first() {
            panic!("{} connections are left: {:#?}", left.len(), shard.connections.get(*id));
        }
        assert_eq!(shard.io.outstanding(), 0, "received bytes were not given back");
        assert_eq!(
            shard.io.slots_free(),
            shard.limits.send_slot_count,
            "send slots were not given back"
        );
        if let Some(tls) = &shard.tls {
            assert!(tls.is_idle(), "something of TLS is left");
        }
        let admission = &shard.admission;
        assert_eq!((admission.waiting_count(), admission.incomplete_count()), (0, 0));
        assert!(shard.deferred.is_empty() && shard.sends.is_empty());
        // A shard that has drained reads no mail: what others told it of their calls' ends goes
        // with it.
        assert!(shard.mail.owned_count() == 0 || self.finished, "claims are left");
        assert!(shard.promises.is_empty(), "promises are left");
        assert_eq!(self.tenants.calls_live(), 0, "permits are left");
        for socket in self.sockets.borrow().iter() {
            assert!(
                self.world.is_closed(*socket),
                "{socket:?} is open in the world and nowhere else"
            );
        }
    }
}
