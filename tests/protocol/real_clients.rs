//! Clients by other authors against the node as a process. tungstenite runs here. Node's `ws` and
//! `undici`, and Python's `websockets` and `aiohttp`, are the programs in `tests/clients`;
//! `tests/clients/install.sh` installs them.
//!
//! Each client knows the quick reference and nothing else. Each test also shows what its library
//! makes of refusals. Each runs on both kernel paths.

use crate::EXO_INGEST;
use exo_ingest_harness::{KERNEL_PATHS, PATIENCE, timed_test};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

const TENANT: &str = "dev";

/// tungstenite's call. The other clients have their own.
const INTERACTION: &str = "tungstenite";

/// 200 ms of PCM16 at 24 kHz.
const FRAME: [u8; 9_600] = [0x5a; 9_600];

const MESSAGE_SIZE_MAX: usize = 256 * 1024;

/// Lines that a program prints when all is well, by its name without its extension.
const CHECK_COUNTS: [(&str, usize); 2] = [("client", 10), ("fast", 5)];

/// A directory with keys.
struct Keys(tempfile::TempDir);

impl Keys {
    fn make() -> Keys {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(EXO_INGEST)
            .arg("keygen")
            .arg("--out")
            .arg(directory.path())
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Keys(directory)
    }

    fn token(&self, interaction: &str) -> String {
        let mut command = Command::new(EXO_INGEST);
        command.env_clear().args([
            "token",
            "mint",
            "--tenant",
            TENANT,
            "--interaction",
            interaction,
            "--key",
        ]);
        let output = command.arg(self.0.path().join("private.pem")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// A node that serves, killed at the end of the test.
struct Node {
    child: Child,
    address: String,
}

impl Node {
    fn start(keys: &Keys, kernel_features: &str) -> Node {
        let mut command = Command::new(EXO_INGEST);
        command.env_clear().args([
            "serve",
            "--no-journal",
            "--allow-unregistered",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
        ]);
        command.args([
            "--shards",
            "1",
            "--set",
            "limits.ring_size=16MiB",
            "--kernel-features",
            kernel_features,
        ]);
        command
            .args(["--set", "log_level=error", "--jwt-key"])
            .arg(keys.0.path().join("public.pem"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut node = Node { child, address: String::new() };
        node.address =
            line.trim_end().strip_prefix("listening on ").expect("it did not start").to_owned();
        node
    }

    fn url(&self) -> String {
        format!("ws://{}/v1/ingest", self.address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `program` with a client's script against a node on each kernel path, if its packages are
/// installed. `library` selects one of several that the script can use.
fn play(name: &str, program: &Path, (script, library): (&str, Option<&str>), installed: &Path) {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !clients.join(installed).exists() {
        let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
        let words = format!("{name} is not installed: run tests/clients/install.sh");
        assert!(!is_set("CI", "true") && !is_set("EXO_INGEST_REQUIRE_CLIENTS", "1"), "{words}");
        return println!("skipped: {words}");
    }
    let _turn = timed_test();
    let keys = Keys::make();
    let stem = Path::new(script).file_stem().expect("a file");
    let check_count =
        CHECK_COUNTS.into_iter().find_map(|(name, count)| (stem == name).then_some(count));
    for kernel_features in KERNEL_PATHS {
        let node = Node::start(&keys, kernel_features);
        let mut command = Command::new(program);
        command.arg(clients.join(script)).args(library);
        command.args([&node.url(), TENANT, name]).env("JWT_TOKEN", keys.token(name));
        let output =
            command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
        let all_passed = output.status.success() && Some(passed) == check_count;
        assert!(all_passed, "{name}, kernel features {kernel_features}:\n{said}{errors}");
        println!("{name}, kernel features {kernel_features}:\n{said}");
    }
}

fn play_node(name: &str, script: &str, library: Option<&str>) {
    play(
        name,
        Path::new("node"),
        (script, library),
        Path::new("node/node_modules/.installed.json"),
    );
}

fn play_python(name: &str, script: &str, library: Option<&str>) {
    // Cargo's directory for tests is in the target directory, beside the environment.
    let environment =
        Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients").join("python");
    play(
        name,
        &environment.join("bin/python"),
        (script, library),
        &environment.join("installed.txt"),
    );
}

#[test]
fn node_ws() {
    play_node("node-ws", "node/client.mjs", None);
}

#[test]
fn python_websockets() {
    play_python("python-websockets", "python/client.py", None);
}

/// A client that sends without pause reads why it is refused, with each library.
#[test]
fn refusals_reach_node_ws_that_sends_without_pause() {
    play_node("fast-ws", "node/fast.mjs", Some("ws"));
}

#[test]
fn refusals_reach_undici_that_sends_without_pause() {
    play_node("fast-undici", "node/fast.mjs", Some("undici"));
}

#[test]
fn refusals_reach_python_websockets_that_sends_without_pause() {
    play_python("fast-websockets", "python/fast.py", Some("websockets"));
}

#[test]
fn refusals_reach_aiohttp_that_sends_without_pause() {
    play_python("fast-aiohttp", "python/fast.py", Some("aiohttp"));
}

fn start_event() -> Value {
    json!({
        "event": "start", "interaction_id": INTERACTION, "tenant_id": TENANT,
        "sample_rate": 24_000, "encoding": "pcm16"
    })
}

/// tungstenite's end of a connection.
struct Call(WebSocket<TcpStream>);

impl Call {
    /// The client's handshake with this bearer token; the HTTP answer if it is refused.
    fn connect(
        node: &Node,
        token: Option<&str>,
    ) -> Result<Call, Box<tungstenite::http::Response<Option<Vec<u8>>>>> {
        let mut request = node.url().into_client_request().unwrap();
        if let Some(token) = token {
            request
                .headers_mut()
                .insert("Authorization", format!("Bearer {token}").parse().unwrap());
        }
        let stream = TcpStream::connect(&node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Call(socket)),
            Err(HandshakeError::Failure(Error::Http(response))) => Err(response),
            Err(error) => panic!("{error}"),
        }
    }

    fn open(node: &Node, token: &str) -> Call {
        Call::connect(node, Some(token)).expect("it is upgraded")
    }

    fn start(node: &Node, token: &str) -> Call {
        let mut call = Call::open(node, token);
        call.send(Message::text(start_event().to_string()));
        call.expect_started();
        call
    }

    fn send(&mut self, message: Message) {
        self.0.send(message).unwrap();
    }

    fn send_frames(&mut self, count: usize) {
        for _ in 0..count {
            self.send(Message::binary(FRAME.to_vec()));
        }
    }

    /// Sends a message in fragments of `size` bytes.
    fn send_cut(&mut self, kind: Data, payload: &[u8], size: usize) {
        let count = payload.len().div_ceil(size);
        for (index, fragment) in payload.chunks(size).enumerate() {
            let opcode = OpCode::Data(if index == 0 { kind } else { Data::Continue });
            self.send(Message::Frame(Frame::message(
                fragment.to_vec(),
                opcode,
                index + 1 == count,
            )));
        }
    }

    fn text(&mut self) -> String {
        match self.0.read().unwrap() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("{other:?}, not a text"),
        }
    }

    fn expect_text(&mut self, expected: &str) {
        assert_eq!(self.text(), expected);
    }

    fn expect_started(&mut self) {
        self.expect_text(&format!(r#"{{"event":"started","interaction_id":"{}"}}"#, INTERACTION));
    }

    fn expect_ack(&mut self, seq: u64) {
        self.expect_text(&format!(r#"{{"event":"ack","seq":{seq}}}"#));
    }

    fn expect_pong(&mut self, payload: &str) {
        assert_eq!(self.0.read().unwrap(), Message::Pong(payload.to_owned().into()));
    }

    /// A Close, and then the end of the connection as in RFC 6455.
    fn expect_close(&mut self, code: u16, reason: &str) {
        match self.0.read().unwrap() {
            Message::Close(Some(close)) => {
                assert_eq!((u16::from(close.code), close.reason.as_str()), (code, reason))
            }
            other => panic!("{other:?}, not Close {code}"),
        }
        assert!(matches!(self.0.read(), Err(Error::ConnectionClosed)));
    }

    fn expect_error_event(&mut self, code: u16, reason: &str) {
        let text = self.text();
        let event: Value = serde_json::from_str(&text).unwrap();
        let message = event["message"].as_str().filter(|message| !message.is_empty());
        let message = message.unwrap_or_else(|| panic!("no message in {text}"));
        let expected = format!(
            r#"{{"event":"error","code":{},"reason":"{reason}","message":{},"retryable":false}}"#,
            code - 4000,
            json!(message)
        );
        assert_eq!(text, expected);
    }

    fn expect_refusal(&mut self, code: u16, reason: &str) {
        self.expect_error_event(code, reason);
        self.expect_close(code, reason);
    }

    fn stop(mut self, seq: u64) {
        self.send(Message::text(r#"{"event":"stop"}"#));
        let (bytes, duration_ms) = (seq * FRAME.len() as u64, seq * 200);
        let counts = format!(
            r#""seq":{seq},"bytes":{bytes},"duration_ms":{duration_ms},"durable_seq":null,"level":"received""#
        );
        self.expect_text(&format!(
            r#"{{"event":"stopped","interaction_id":"{}",{counts}}}"#,
            INTERACTION
        ));
        self.expect_close(1000, "");
    }
}

/// Runs a check with tungstenite against a node on each kernel path.
fn with_tungstenite(check: impl Fn(&Node, &str)) {
    let keys = Keys::make();
    let token = keys.token(INTERACTION);
    for kernel_features in KERNEL_PATHS {
        println!("kernel features {kernel_features}");
        check(&Node::start(&keys, kernel_features), &token);
    }
}

#[test]
fn tungstenite_plays_the_quick_reference() {
    with_tungstenite(|node, token| {
        let mut call = Call::start(node, token);
        call.send_frames(25);
        call.expect_ack(10);
        call.expect_ack(20);
        call.send(Message::Ping("are you there?".into()));
        call.expect_pong("are you there?");
        call.stop(25);
    });
}

#[test]
fn tungstenite_sees_refusals() {
    with_tungstenite(|node, token| {
        for bad in [Some(format!("{token}x")), Some("no-token".to_owned()), None] {
            let answer = Call::connect(node, bad.as_deref()).err().expect("it is refused");
            let error = if bad.is_some() { r#", error="invalid_token""# } else { "" };
            assert_eq!(answer.status(), 401);
            assert_eq!(
                answer.headers()["WWW-Authenticate"],
                format!("Bearer realm=\"ingest\"{error}")
            );
        }
        let mut call = Call::open(node, token);
        let mut start = start_event();
        start["sample_rate"] = json!(11_025);
        call.send(Message::text(start.to_string()));
        call.expect_refusal(4400, "invalid_start");

        let mut call = Call::open(node, token);
        call.send_frames(1);
        call.expect_refusal(4400, "start_required");

        let mut call = Call::start(node, token);
        call.send_frames(151);
        let mut seq = 0;
        loop {
            // Frames in the same read as the refused one are kept, but may not be acked yet.
            match call.text() {
                text if text.contains("too_fast") => break,
                text => assert_eq!(text, format!(r#"{{"event":"ack","seq":{}}}"#, seq + 10)),
            }
            seq += 10;
        }
        call.expect_close(4429, "too_fast");
    });
}

#[test]
fn tungstenite_cuts_messages_and_sends_large_ones() {
    with_tungstenite(|node, token| {
        let mut call = Call::open(node, token);
        call.send_cut(Data::Text, start_event().to_string().as_bytes(), 7);
        call.expect_started();
        for _ in 0..9 {
            call.send_cut(Data::Binary, &FRAME, 1_201);
        }
        call.send(Message::binary(vec![0; MESSAGE_SIZE_MAX]));
        call.expect_ack(10);
        call.send(Message::binary(vec![0; MESSAGE_SIZE_MAX + 1]));
        call.expect_close(1009, "");
    });
}

#[test]
fn tungstenite_closes_without_stop() {
    with_tungstenite(|node, token| {
        let mut call = Call::start(node, token);
        call.send_frames(12);
        call.0.close(Some(CloseFrame { code: CloseCode::Normal, reason: "bye".into() })).unwrap();
        call.expect_ack(10);
        call.expect_close(1000, "");
    });
}

#[test]
fn tungstenite_calls_again() {
    with_tungstenite(|node, token| {
        let mut old = Call::start(node, token);
        old.send_frames(10);
        old.expect_ack(10);
        let mut call = Call::start(node, token);
        old.expect_refusal(4409, "superseded");
        call.send_frames(10);
        call.expect_ack(10);
        call.stop(10);
    });
}
