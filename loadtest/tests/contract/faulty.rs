//! A small node on threads and tungstenite's server role, right or wrong in one chosen way, and a
//! way to run `exo-load` against it.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

/// What the node does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Each ack's number is one too high.
    AckOffByOne,
    /// The second ack is left out.
    AckMissing,
    /// Every ack comes twice.
    AckTwice,
    /// The acks from the third on are left out.
    AckLastMissing,
    /// Two acks become one: 10 and 20 come as 20.
    AckMerged,
    /// The second ack comes half a second late.
    AckLate,
    /// Each ack comes 300 ms late: nothing is wrong, and all is slower.
    AckSlow,
    /// No ack at all.
    AckNone,
    /// `started` names another call.
    StartedForeign,
    /// `started` carries one more member.
    StartedMore,
    /// `started` never comes.
    StartedNever,
    /// The upgrade is refused with this status.
    Refuse(u16),
    /// The first upgrades are refused with 503, this many, then all is well.
    RefuseFirst(u64),
    /// After so many upgrades the next ones are refused, this many, then all is well.
    RefuseLater {
        /// With this status.
        status: u16,
        /// Upgrades that are well.
        after: u64,
        /// Upgrades that are refused.
        count: u64,
    },
    /// More calls than this at a time are refused with 503. Places become free all at once, when
    /// none is taken: on a busy machine the first calls of a run may end before the last one opens.
    Full(u64),
    /// 101 with a wrong accept key.
    AcceptWrong,
    /// A Close with this code after frame 15.
    CloseEarly(u16),
    /// The connection ends without a Close after frame 15.
    DropEarly,
    /// The first connection ends without a Close after frame 15; later ones are well.
    DropFirst,
    /// The second connection ends without a Close once it has said nothing for a second; the others
    /// are well.
    DropIdle,
    /// `stopped` counts one frame too many.
    StoppedFrames,
    /// `stopped` counts two bytes too few.
    StoppedBytes,
    /// The end is a Close without `stopped`.
    StoppedNever,
    /// `stop` is not answered at all.
    StopIgnored,
    /// The last Close has code 1011.
    CloseWrong,
    /// An unexpected message after frame 5.
    Chatter,
    /// A binary message after frame 5.
    ChatterBinary,
    /// A masked frame after frame 5: RFC 6455 forbids it to servers.
    Masked,
    /// A ping after frame 5, and an ack only after its pong: nothing wrong with it.
    Ping,
}

/// Audio payloads with the call's `interaction_id`.
type Heard = Mutex<Vec<(String, Vec<u8>)>>;

/// When each call hung up, by `stop` or by Close.
type HungUp = Mutex<Vec<(String, Instant)>>;

/// The node.
pub struct Node {
    pub url: String,
    /// Audio payloads of all connections, in the order in which each connection sent them.
    pub heard: Arc<Heard>,
    /// In the order in which it came.
    pub hung_up: Arc<HungUp>,
    upgrades: Arc<AtomicU64>,
    resets: Arc<AtomicU64>,
}

impl Node {
    /// Starts a node on a port of its own. Its threads end with the test.
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("ws://{}/v1/ingest", listener.local_addr().expect("an address"));
        let node = Self {
            url,
            heard: Arc::default(),
            hung_up: Arc::default(),
            upgrades: Arc::default(),
            resets: Arc::default(),
        };
        let (heard, hung_up) = (node.heard.clone(), node.hung_up.clone());
        let (upgrades, resets) = (node.upgrades.clone(), node.resets.clone());
        thread::spawn(move || {
            let places = Places::new(match fault {
                Fault::Full(count) => count,
                _ => u64::MAX,
            });
            for stream in listener.incoming() {
                let (stream, upgrades, places) =
                    (stream.expect("accept"), upgrades.clone(), places.clone());
                let (heard, hung_up, resets) = (heard.clone(), hung_up.clone(), resets.clone());
                // Whatever ends a connection is the generator's to report.
                thread::spawn(move || {
                    serve(stream, fault, &places, &upgrades, &resets, &heard, &hung_up)
                });
            }
        });
        node
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let address = self.url.strip_prefix("ws://").and_then(|rest| rest.split('/').next());
        address.and_then(|address| address.parse().ok()).expect("an address")
    }

    /// Upgrades that were asked for so far.
    pub fn upgrades(&self) -> u64 {
        self.upgrades.load(Ordering::SeqCst)
    }

    /// Connections that ended with a RST so far.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::SeqCst)
    }

    /// Waits until so many frames have come, of all calls together.
    pub fn wait_for_frames(&self, count: usize) {
        let begin = Instant::now();
        while self.heard.lock().expect("lock").len() < count {
            assert!(begin.elapsed() < Duration::from_secs(60), "no {count} frames come");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The places of a node for calls.
#[derive(Clone)]
struct Places {
    state: Arc<Mutex<PlacesState>>,
    count: u64,
}

#[derive(Default)]
struct PlacesState {
    /// Places given since all were free.
    given: u64,
    /// Calls that are up.
    taken: u64,
}

impl Places {
    fn new(count: u64) -> Self {
        Self { state: Arc::default(), count }
    }

    /// A place, unless all have been given.
    fn take(&self) -> Option<Place> {
        let mut state = self.state.lock().expect("lock");
        if state.given == self.count {
            return None;
        }
        state.given += 1;
        state.taken += 1;
        Some(Place(self.clone()))
    }
}

/// A call's place. It becomes free when this is dropped.
struct Place(Places);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().expect("lock");
        state.taken -= 1;
        if state.taken == 0 {
            state.given = 0;
        }
    }
}

fn serve(
    mut stream: TcpStream,
    fault: Fault,
    places: &Places,
    upgrades: &AtomicU64,
    resets: &AtomicU64,
    heard: &Heard,
    hung_up: &HungUp,
) -> Option<()> {
    if stream.peek(&mut [0]).ok()? == 0 {
        return None; // the generator's knock
    }
    let nth = upgrades.fetch_add(1, Ordering::SeqCst);
    let place = places.take();
    let refusal = match fault {
        Fault::Full(_) if place.is_none() => Some(503),
        Fault::Refuse(status) => Some(status),
        Fault::RefuseFirst(count) if nth < count => Some(503),
        Fault::RefuseLater { status, after, count } if (after..after + count).contains(&nth) => {
            Some(status)
        }
        _ => None,
    };
    if fault == Fault::AcceptWrong {
        let head = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Accept: AAAA\r\n\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        thread::sleep(Duration::from_millis(200));
        return None;
    }
    #[allow(clippy::result_large_err, reason = "tungstenite's callback type")]
    let answer = |request: &Request, response: Response| {
        let bearer = request
            .headers()
            .get("Authorization")
            .is_some_and(|value| value.as_bytes().starts_with(b"Bearer e"));
        let status = refusal.or((!bearer).then_some(401));
        match status {
            None => Ok(response),
            Some(status) => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = status.try_into().expect("a status");
                Err(refusal)
            }
        }
    };
    let socket = tungstenite::accept_hdr(stream, answer).ok()?;
    if fault == Fault::DropIdle && nth == 1 {
        socket.get_ref().set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    }
    Session {
        socket,
        fault,
        nth,
        place,
        heard,
        hung_up,
        resets,
        frames: 0,
        bytes: 0,
        interaction: String::new(),
    }
    .run()
}

struct Session<'a> {
    socket: WebSocket<TcpStream>,
    fault: Fault,
    nth: u64,
    /// Given up before the last Close, so that a generator which has read it finds the place free.
    place: Option<Place>,
    heard: &'a Heard,
    hung_up: &'a HungUp,
    resets: &'a AtomicU64,
    frames: u64,
    bytes: u64,
    interaction: String,
}

impl Session<'_> {
    fn run(mut self) -> Option<()> {
        loop {
            let read = self.socket.read();
            let is_reset = |error: &tungstenite::Error| {
                matches!(error, tungstenite::Error::Io(error)
                    if error.kind() == ErrorKind::ConnectionReset)
            };
            if read.as_ref().is_err_and(is_reset) {
                self.resets.fetch_add(1, Ordering::SeqCst);
            }
            match read.ok()? {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text).ok()?;
                    match event["event"].as_str()? {
                        "start" => self.start(&event)?,
                        _ => {
                            self.note_hang_up();
                            self.stop()?;
                        }
                    }
                }
                Message::Binary(audio) => {
                    self.frames += 1;
                    self.bytes += audio.len() as u64;
                    self.heard
                        .lock()
                        .expect("lock")
                        .push((self.interaction.clone(), audio.to_vec()));
                    self.after_frame()?;
                }
                Message::Close(_) => self.note_hang_up(),
                _ => {}
            }
        }
    }

    fn note_hang_up(&self) {
        self.hung_up.lock().expect("lock").push((self.interaction.clone(), Instant::now()));
    }

    fn say(&mut self, text: String) -> Option<()> {
        self.socket.send(Message::text(text)).ok()
    }

    fn ack(&mut self, seq: u64) -> Option<()> {
        self.say(format!(r#"{{"event":"ack","seq":{seq}}}"#))
    }

    fn start(&mut self, start: &Value) -> Option<()> {
        self.interaction = start["interaction_id"].as_str()?.to_owned();
        let name = &self.interaction;
        match self.fault {
            Fault::StartedForeign => {
                self.say(format!(r#"{{"event":"started","interaction_id":"{name}x"}}"#))
            }
            Fault::StartedMore => {
                self.say(format!(r#"{{"event":"started","interaction_id":"{name}","v":1}}"#))
            }
            Fault::StartedNever => Some(()),
            _ => self.say(format!(r#"{{"event":"started","interaction_id":"{name}"}}"#)),
        }
    }

    fn after_frame(&mut self) -> Option<()> {
        let frames = self.frames;
        match self.fault {
            Fault::Chatter if frames == 5 => self.say(r#"{"event":"hello"}"#.to_owned())?,
            Fault::ChatterBinary if frames == 5 => {
                self.socket.send(Message::binary("hello")).ok()?
            }
            Fault::Masked if frames == 5 => {
                self.socket.get_mut().write_all(b"\x81\x82\0\0\0\0hi").ok()?
            }
            Fault::Ping if frames == 5 => {
                const ASKED: &str = "are you there";
                self.socket.send(Message::Ping(ASKED.into())).ok()?;
                while !matches!(self.socket.read().ok()?, Message::Pong(pong) if pong == ASKED) {
                    self.frames += 1;
                    self.bytes += 2 * 480;
                }
                for due in (10..=self.frames).step_by(10) {
                    self.ack(due)?;
                }
                return Some(());
            }
            Fault::CloseEarly(code) if frames == 15 => {
                let event = concat!(
                    r#"{"event":"error","code":429,"reason":"too_fast","#,
                    r#""message":"slow down","retryable":true}"#
                );
                self.say(event.to_owned())?;
                return self.close(code);
            }
            Fault::DropEarly if frames == 15 => return None,
            Fault::DropFirst if frames == 15 && self.nth == 0 => return None,
            _ => {}
        }
        if frames.is_multiple_of(10) { self.ack_wrongly(frames) } else { Some(()) }
    }

    fn ack_wrongly(&mut self, seq: u64) -> Option<()> {
        match self.fault {
            Fault::AckOffByOne => self.ack(seq + 1),
            Fault::AckMissing if seq == 20 => Some(()),
            Fault::AckTwice => self.ack(seq).and_then(|()| self.ack(seq)),
            Fault::AckLastMissing if seq >= 30 => Some(()),
            Fault::AckMerged if seq == 10 => Some(()),
            Fault::AckLate if seq == 20 => {
                thread::sleep(Duration::from_millis(500));
                self.ack(seq)
            }
            Fault::AckSlow => {
                thread::sleep(Duration::from_millis(300));
                self.ack(seq)
            }
            Fault::AckNone => Some(()),
            _ => self.ack(seq),
        }
    }

    fn stop(&mut self) -> Option<()> {
        let (frames, bytes) = match self.fault {
            Fault::StoppedFrames => (self.frames + 1, self.bytes),
            Fault::StoppedBytes => (self.frames, self.bytes - 2),
            _ => (self.frames, self.bytes),
        };
        match self.fault {
            Fault::StopIgnored => return Some(()),
            Fault::StoppedNever => {}
            _ => {
                let name = &self.interaction;
                let duration_ms = bytes / 2 * 1_000 / 24_000;
                let head = format!(r#"{{"event":"stopped","interaction_id":"{name}""#);
                let counts = format!(r#""seq":{frames},"bytes":{bytes}"#);
                let rest = format!(r#""duration_ms":{duration_ms},"durable_seq":null}}"#);
                self.say(format!("{head},{counts},{rest}"))?;
            }
        }
        self.close(if self.fault == Fault::CloseWrong { 1011 } else { 1000 })
    }

    fn close(&mut self, code: u16) -> Option<()> {
        self.place = None;
        let close =
            tungstenite::protocol::CloseFrame { code: CloseCode::from(code), reason: "".into() };
        self.socket.close(Some(close)).ok()?;
        while self.socket.read().is_ok() {}
        None
    }
}

/// A token that looks like one; the node here does not verify it.
pub const TOKEN: &str =
    "eyJhbGciOiJSUzI1NiJ9.eyJ0ZW5hbnRfaWQiOiJ0IiwiaW50ZXJhY3Rpb25faWQiOiJpIn0.AAAA";

/// Flags of a short run: three calls, 20 ms frames of 960 bytes, a second. The test machine may be
/// busy, so that only what the node does can fail a run. No ramp: a main thread that wakes up late
/// would find the steady part over.
pub const SHORT: [&str; 14] = [
    "--calls",
    "3",
    "--duration",
    "990ms",
    "--ramp",
    "0s",
    "--frame-ms",
    "20",
    "--sendlag-max",
    "1h",
    "--cpu-max",
    "100000",
    "--stop-timeout",
    "1s",
];

/// `exo-load run` with `SHORT` and `more`.
pub fn command(url: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exo-load"));
    command.args(flags(url, more)).env("JWT_TOKEN", TOKEN);
    command
}

/// Its arguments.
pub fn flags<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let with_short = SHORT.chunks(2).filter(|pair| !more.contains(&pair[0]));
    ["run", "--url", url]
        .into_iter()
        .chain(with_short.flatten().copied())
        .chain(more.iter().copied())
        .collect()
}

/// Runs it.
pub fn exo_load(url: &str, more: &[&str]) -> Output {
    command(url, more).output().expect("exo-load starts")
}

/// Exit code and result of a run.
pub fn result(node: &Node, more: &[&str]) -> (i32, Value) {
    result_at(&node.url, more)
}

/// The same at any URL.
pub fn result_at(url: &str, more: &[&str]) -> (i32, Value) {
    let more: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
    let output = exo_load(url, &more);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let json =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    crate::schema::check(&json);
    (output.status.code().expect("an exit code"), json)
}
