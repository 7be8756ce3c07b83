//! Sends audio without pause: some connections, each with frames as fast as TCP takes them, for a
//! fixed time. Then it waits for the ACKs that are due, and says in JSON what was sent and
//! acknowledged.
//!
//! The frames are masked before the start and many go out with one write, so that this program is
//! cheaper than any server. Waiting is epoll's: a socket that is full costs nothing.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::exit;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use exo_ingest_peers::ACK_EVERY;
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

/// Frames that are made in advance, and so the most of one write.
const FRAMES_MADE: usize = 16;

/// How often the number of acknowledged frames is noted.
const NOTE_EVERY: Duration = Duration::from_millis(100);

/// ACKs may be outstanding for this long after the last frame.
const ACK_WAIT: Duration = Duration::from_secs(60);

/// A masked Close 1000; with a mask of zeros, as any other is as good.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];

fn main() {
    if let Err(error) = run() {
        eprintln!("flood: {error}");
        exit(1);
    }
}

fn run() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let mut flags = Flags::parse(std::env::args().skip(1).collect());
    let address = flags.take("--connect", "127.0.0.1:8443");
    let token = flags.take("--token", "none");
    let connections: usize = flags.number("--connections", "256");
    let seconds: u64 = flags.number("--seconds", "10");
    let frame_size: usize = flags.number("--frame-size", "9600");
    flags.end();
    let frames = Frames::make(frame_size);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut peers = Vec::new();
    for number in 0..connections {
        peers.push(Peer::open(&address, &token, number)?);
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(
            &epoll,
            &peers[number].stream,
            epoll::EventData::new_u64(number as u64),
            events,
        )?;
    }
    let begin = Instant::now();
    println!("flooding");
    let end = begin + Duration::from_secs(seconds);
    let mut timeline = vec![note(&peers)];
    let mut next_note = begin + NOTE_EVERY;
    let mut events = Vec::with_capacity(connections);
    loop {
        let now = Instant::now();
        if now >= next_note {
            timeline.push(note(&peers));
            next_note += NOTE_EVERY;
        }
        let is_done = |peer: &Peer| peer.is_at_rest(&frames) && peer.acks_due() == peer.acks;
        if now >= end && (peers.iter().all(is_done) || now >= end + ACK_WAIT) {
            break;
        }
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        for event in events.drain(..) {
            let (number, flags) = (event.data.u64() as usize, event.flags);
            let peer = &mut peers[number];
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP) {
                peer.read_acks()?;
            }
            if flags.contains(epoll::EventFlags::OUT) {
                peer.write(&frames, now < end)?;
                if now >= end && peer.is_at_rest(&frames) {
                    // A socket with room would wake us without pause.
                    let data = epoll::EventData::new_u64(number as u64);
                    epoll::modify(&epoll, &peer.stream, data, epoll::EventFlags::IN)?;
                }
            }
        }
    }
    let sent: u64 = peers.iter().map(|peer| peer.sent).sum();
    let due: u64 = peers.iter().map(Peer::acks_due).sum();
    let acks: u64 = peers.iter().map(|peer| peer.acks).sum();
    for peer in &mut peers {
        peer.stream.set_nonblocking(false)?;
        peer.stream.write_all(&CLOSE)?;
    }
    let result = json!({
        "connections": connections, "frame_size": frame_size, "seconds": seconds,
        "frames": sent, "acks": acks, "acks_missing": due - acks, "timeline": timeline,
    });
    println!("{result}");
    Ok(())
}

/// The time (Unix, seconds) and the frames acknowledged until then.
fn note(peers: &[Peer]) -> (f64, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64(), peers.iter().map(|peer| peer.acks * ACK_EVERY).sum())
}

/// Masked frames, one after another.
struct Frames {
    bytes: Vec<u8>,
    /// Bytes of a frame with its header.
    size: usize,
}

impl Frames {
    fn make(frame_size: usize) -> Frames {
        let mut bytes = Vec::new();
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..FRAMES_MADE {
            bytes.extend(header(0x82, frame_size));
            // The mask and the payload: any bytes are masked audio.
            for _ in 0..4 + frame_size {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bytes.push(random as u8);
            }
        }
        let size = bytes.len() / FRAMES_MADE;
        Frames { bytes, size }
    }
}

/// A frame's header without its mask, as short as it can be (RFC 6455 §5.2).
fn header(opcode: u8, size: usize) -> Vec<u8> {
    let (short, long) = match size {
        0..126 => (size as u8, Vec::new()),
        126..65_536 => (126, (size as u16).to_be_bytes().to_vec()),
        _ => (127, (size as u64).to_be_bytes().to_vec()),
    };
    [vec![opcode, 0x80 | short], long].concat()
}

struct Peer {
    stream: TcpStream,
    /// Where in the frames the next write begins.
    offset: usize,
    sent: u64,
    acks: u64,
    /// Received bytes that are no whole frame yet.
    input: Vec<u8>,
}

impl Peer {
    /// Connects, upgrades, starts a call of its own.
    fn open(address: &str, token: &str, number: usize) -> io::Result<Peer> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let head = format!(
            "GET /v1/ingest HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        if !answer.starts_with(b"HTTP/1.1 101 ") {
            let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or("").to_owned();
            return Err(io::Error::other(format!("the upgrade was refused: {line}")));
        }
        let start = json!({
            "event": "start", "interaction_id": format!("flood-{number}"), "tenant_id": "load",
            "sample_rate": 24_000, "encoding": "pcm16",
        });
        let start = start.to_string();
        // Masked with zeros, which changes nothing.
        let mut frame = header(0x81, start.len());
        frame.extend([0; 4]);
        frame.extend(start.as_bytes());
        stream.write_all(&frame)?;
        let mut header = [0; 2];
        stream.read_exact(&mut header)?;
        let mut started = vec![0; usize::from(header[1])];
        stream.read_exact(&mut started)?;
        if !started.windows(9).any(|window| window == b"\"started\"") {
            let text = String::from_utf8_lossy(&started).into_owned();
            return Err(io::Error::other(format!("no 'started': {text}")));
        }
        stream.set_nonblocking(true)?;
        Ok(Peer { stream, offset: 0, sent: 0, acks: 0, input: Vec::new() })
    }

    fn acks_due(&self) -> u64 {
        self.sent / ACK_EVERY
    }

    /// No frame is half sent.
    fn is_at_rest(&self, frames: &Frames) -> bool {
        self.offset.is_multiple_of(frames.size)
    }

    /// Writes once: frames, or what is left of one.
    fn write(&mut self, frames: &Frames, on_and_on: bool) -> io::Result<()> {
        let frame_end = self.offset.next_multiple_of(frames.size);
        let end = if on_and_on { frames.bytes.len() } else { frame_end };
        if self.offset == end {
            return Ok(());
        }
        match self.stream.write(&frames.bytes[self.offset..end]) {
            Ok(size) => {
                let before = self.offset / frames.size;
                self.offset += size;
                self.sent += (self.offset / frames.size - before) as u64;
                if self.offset == frames.bytes.len() {
                    self.offset = 0;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes what has come; anything but the next ACK is an error, and so is the end.
    fn read_acks(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(size) => self.input.extend(&bytes[..size]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut taken = 0;
        while let [opcode, size, rest @ ..] = &self.input[taken..]
            && let Some(payload) = rest.get(..usize::from(*size))
        {
            // A ping needs no answer in the short time of a flood.
            if *opcode != 0x89 {
                let expected =
                    format!(r#"{{"event":"ack","seq":{}}}"#, (self.acks + 1) * ACK_EVERY);
                if payload != expected.as_bytes() {
                    let text = String::from_utf8_lossy(payload).into_owned();
                    return Err(io::Error::other(format!("expected {expected}, got {text}")));
                }
                self.acks += 1;
            }
            taken += 2 + payload.len();
        }
        self.input.drain(..taken);
        Ok(())
    }
}

/// The command line: names with values.
struct Flags(HashMap<String, String>);

impl Flags {
    fn parse(arguments: Vec<String>) -> Flags {
        let pairs = arguments.chunks(2).map(|pair| match pair {
            [name, value] => (name.clone(), value.clone()),
            _ => fail("every flag takes a value"),
        });
        Flags(pairs.collect())
    }

    fn take(&mut self, name: &str, default: &str) -> String {
        self.0.remove(name).unwrap_or_else(|| default.to_owned())
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str, default: &str) -> T {
        let text = self.take(name, default);
        text.parse().unwrap_or_else(|_| fail(&format!("{name} {text}: give a number")))
    }

    fn end(self) {
        if let Some(name) = self.0.keys().next() {
            fail(&format!("there is no {name}"));
        }
    }
}

fn fail(what: &str) -> ! {
    eprintln!("flood: {what}");
    exit(2);
}
