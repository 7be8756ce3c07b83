//! A call that threads of its own play, and the check of its audio: every acked frame must be in
//! the journal, byte for byte.

use crate::wire::{self, BINARY, FIN};
use crate::{Message, Peer};
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::verify;
use exo_ingest::call::CallIdentity;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The audio of a frame. It differs for each call and frame. Most frames have the recommended size;
/// some are empty, odd or large.
pub fn audio(seed: u64, seq: u64) -> Vec<u8> {
    let mut state = (seed << 32 | seq).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let size = match seq % 16 {
        3 => 0,
        7 => 61 + seq as usize % 512,
        11 => 60_000,
        _ => 9_600,
    };
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    acked: AtomicU64,
    is_over: AtomicBool,
}

/// A call that is being played.
#[derive(Debug)]
pub struct Player {
    interaction: String,
    pid: u32,
    seed: u64,
    progress: Arc<Progress>,
    writer: JoinHandle<()>,
    reader: JoinHandle<(Option<u64>, Option<u16>)>,
}

/// The result of a call, as its peer saw it.
#[derive(Clone, Debug)]
pub struct Played {
    /// Its interaction.
    pub interaction: String,
    /// The process id of its node.
    pub pid: u32,
    /// The seed of its audio.
    pub seed: u64,
    /// Frames given to TCP, perhaps only a part of the last one.
    pub sent: u64,
    /// The last frame that an ack or `stopped` promised.
    pub acked: u64,
    /// `durable_seq` of `stopped`.
    pub stopped: Option<u64>,
    /// The code of the node's Close.
    pub close: Option<u16>,
}

impl Player {
    /// Starts a call at a node and plays its frames with a pause after each. `seed` makes its
    /// audio.
    pub fn start(node: (SocketAddr, u32), interaction: &str, seed: u64, pause: Duration) -> Player {
        let (address, pid) = node;
        let mut peer = Peer::connect(address);
        peer.upgrade(&crate::mint(crate::TENANT, interaction));
        peer.start(crate::TENANT, interaction);
        let socket = peer.socket().try_clone().expect("a descriptor");
        // In some tests the node stops reading.
        socket.set_write_timeout(None).expect("a timeout");
        let progress = Arc::new(Progress::default());
        let (for_writer, for_reader) = (Arc::clone(&progress), Arc::clone(&progress));
        Player {
            interaction: interaction.to_owned(),
            pid,
            seed,
            progress,
            writer: std::thread::spawn(move || write(socket, seed, pause, &for_writer)),
            reader: std::thread::spawn(move || read(peer, &for_reader)),
        }
    }

    /// Frames given to TCP so far.
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Acquire)
    }

    /// Bytes of audio in them.
    pub fn sent_bytes(&self) -> u64 {
        self.progress.sent_bytes.load(Ordering::Acquire)
    }

    /// The last frame acked so far.
    pub fn acked(&self) -> u64 {
        self.progress.acked.load(Ordering::Acquire)
    }

    /// Whether the node has ended it.
    pub fn is_over(&self) -> bool {
        self.reader.is_finished()
    }

    /// Ends the call with `stop`, unless the connection has ended. Returns its result.
    pub fn finish(self) -> Played {
        self.progress.is_over.store(true, Ordering::Release);
        self.writer.join().expect("the writer does not panic");
        let (stopped, close) =
            self.reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (sent, acked) = (
            self.progress.sent.load(Ordering::Acquire),
            self.progress.acked.load(Ordering::Acquire),
        );
        let acked = acked.max(stopped.unwrap_or(0));
        Played {
            interaction: self.interaction,
            pid: self.pid,
            seed: self.seed,
            sent,
            acked,
            stopped,
            close,
        }
    }
}

/// Sends frame after frame until the call or the connection ends.
fn write(mut socket: TcpStream, seed: u64, pause: Duration, progress: &Progress) {
    for seq in 1.. {
        if progress.is_over.load(Ordering::Acquire) {
            let _ = socket.write_all(&wire::text(r#"{"event":"stop"}"#));
            return;
        }
        let payload = audio(seed, seq);
        let mut bytes = wire::announce(FIN | BINARY, payload.len());
        wire::mask_onto(&payload, &mut bytes);
        // A frame counts as sent before its last byte: the node may have all of it.
        progress.sent.store(seq, Ordering::Release);
        if let Err(error) = socket.write_all(&bytes) {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "it has no timeout");
            return;
        }
        progress.sent_bytes.fetch_add(payload.len() as u64, Ordering::AcqRel);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// Reads acks, each ten more than the one before, until the connection ends.
fn read(mut peer: Peer, progress: &Progress) -> (Option<u64>, Option<u16>) {
    let (mut stopped, mut close) = (None, None);
    loop {
        match peer.receive() {
            Message::Text(text) => {
                if let Some(seq) = number(&text, r#"{"event":"ack","seq":"#) {
                    let before = progress.acked.swap(seq, Ordering::AcqRel);
                    assert_eq!(seq, before + 10, "acks are never skipped, never merged");
                } else if text.starts_with(r#"{"event":"stopped""#) {
                    let place = text.find(r#""durable_seq":"#).expect("every `stopped` says so");
                    stopped = number(&text[place..], r#""durable_seq":"#);
                } else {
                    assert!(text.contains(r#""event":"error""#), "{text}");
                }
            }
            Message::Close(code, _) => close = close.or(code),
            Message::Ping(_) => {}
            Message::End | Message::Reset => break,
            other => panic!("{other:?} from a node"),
        }
        if close.is_some() {
            // The writer may wait for a node that no longer reads.
            progress.is_over.store(true, Ordering::Release);
            let _ = peer.socket().shutdown(Shutdown::Both);
        }
    }
    progress.is_over.store(true, Ordering::Release);
    let _ = peer.socket().shutdown(Shutdown::Both);
    (stopped, close)
}

fn number(text: &str, opening: &str) -> Option<u64> {
    let digits = text.strip_prefix(opening)?;
    digits.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// The counts of an audit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Calls that were searched.
    pub calls: u64,
    /// Frames acked to them, all found.
    pub acked: u64,
    /// Frames found that were not acked, all right too.
    pub beyond: u64,
    /// Bytes of audio compared.
    pub bytes: u64,
}

impl std::ops::AddAssign for Audit {
    fn add_assign(&mut self, other: Audit) {
        self.calls += other.calls;
        self.acked += other.acked;
        self.beyond += other.beyond;
        self.bytes += other.bytes;
    }
}

/// Reads a data directory. Every acked frame must be there, in order, byte for byte, and nothing
/// else than frames that were sent.
#[track_caller]
pub fn audit(data_dir: &Path, played: &[Played]) -> Audit {
    let journal = Journal::open(data_dir).unwrap_or_else(|error| panic!("{error}"));
    let catalog = journal.catalog(&mut || ()).unwrap_or_else(|error| panic!("{error}"));
    let mut audit = Audit::default();
    for call in played {
        audit.calls += 1;
        let identity = CallIdentity {
            tenant: crate::TENANT.into(),
            interaction: call.interaction.as_str().into(),
        };
        let call_epochs = catalog.call(&identity).map_or(&[][..], |call| &call.epochs);
        let of_node = |shard: usize| {
            journal.shards().get(shard).is_some_and(|shard| shard.run().pid == call.pid)
        };
        let call_epochs: Vec<_> =
            call_epochs.iter().filter(|call_epoch| of_node(call_epoch.shard)).collect();
        assert!(call_epochs.len() <= 1, "{call:?} was played once: {call_epochs:#?}");
        let Some(call_epoch) = call_epochs.first() else {
            assert_eq!(call.acked, 0, "LOST: {call:?} is not in the journal at all");
            continue;
        };
        let (mut frames, mut seq) = (journal.frames(call_epoch), 0);
        while let Some(frame) = frames.next_frame().unwrap_or_else(|error| panic!("{error}")) {
            let in_order = frame.seq.0 == seq + 1 || (frame.seq.0 > seq && seq >= call.acked);
            assert!(in_order, "LOST: frame {} after {seq} of {call:?}", frame.seq.0);
            seq = frame.seq.0;
            assert!(seq <= call.sent, "frame {seq} was never sent: {call:?}");
            assert!(frame.audio == audio(call.seed, seq), "CHANGED: frame {seq} of {call:?}");
            audit.bytes += frame.audio.len() as u64;
            audit.beyond += u64::from(seq > call.acked);
        }
        assert!(seq >= call.acked, "LOST: {call:?} ends with frame {seq}: {:?}", frames.damages());
        audit.acked += call.acked;
    }
    audit
}

/// Verifies every checksum in a data directory: nothing may be damaged or missing.
#[track_caller]
pub fn assert_sound(data_dir: &Path) {
    let journal = Journal::open(data_dir).unwrap_or_else(|error| panic!("{error}"));
    let report = verify(&journal, &mut || ()).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.is_sound(), "{report}");
}
