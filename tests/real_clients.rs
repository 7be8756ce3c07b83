//! Clients that others wrote, against the node as a process: tungstenite here, Node's `ws` and Python's `websockets` as the
//! programs below `tests/clients`, which `tests/clients/install.sh` makes ready. Each plays the quick reference and knows no
//! more than that, and what its library makes of refusals; each on both kernel paths.

#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

const BINARY: &str = env!("CARGO_BIN_EXE_exo-ingest");

/// Longest wait for anything in these tests. Nothing takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const TENANT: &str = "dev";

/// tungstenite's call; the others' have their own.
const INTERACTION: &str = "tungstenite";

/// 200 ms of PCM16 at 24 kHz.
const FRAME: [u8; 9_600] = [0x5a; 9_600];

const MESSAGE_SIZE_MAX: usize = 256 * 1024;

/// Lines that each client's program prints when all is well.
const CHECK_COUNT: usize = 10;

/// Both settings of `--kernel-features`.
const KERNEL_PATHS: [&str; 2] = ["newest", "6.1"];

/// A directory with keys.
struct Keys(tempfile::TempDir);

impl Keys {
    fn make() -> Keys {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(BINARY).arg("keygen").arg("--out").arg(directory.path()).env_clear().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Keys(directory)
    }

    fn token(&self, interaction: &str) -> String {
        let mut command = Command::new(BINARY);
        command.env_clear().args(["token", "mint", "--tenant", TENANT, "--interaction", interaction, "--key"]);
        let output = command.arg(self.0.path().join("private.pem")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// A node that serves, killed when the test is over.
struct Node {
    child: Child,
    address: String,
}

impl Node {
    fn start(keys: &Keys, kernel_features: &str) -> Node {
        let mut command = Command::new(BINARY);
        command.env_clear().args([
            "serve",
            "--no-journal",
            "--allow-unregistered",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
        ]);
        command.args(["--shards", "1", "--set", "limits.ring_size=16MiB", "--kernel-features", kernel_features]);
        command.args(["--set", "log_level=error", "--jwt-key"]).arg(keys.0.path().join("public.pem"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut node = Node { child, address: String::new() };
        node.address = line.trim_end().strip_prefix("listening on ").expect("it did not start").to_owned();
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

/// Runs `program` with a client's script against a node on each kernel path, if what it needs has been installed.
fn play(name: &str, program: &Path, script: &str, installed: &Path) {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !clients.join(installed).exists() {
        let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
        let words = format!("{name} is not installed: run tests/clients/install.sh");
        assert!(!is_set("CI", "true") && !is_set("EXO_INGEST_REQUIRE_CLIENTS", "1"), "{words}");
        return println!("skipped: {words}");
    }
    let keys = Keys::make();
    for kernel_features in KERNEL_PATHS {
        let node = Node::start(&keys, kernel_features);
        let mut command = Command::new(program);
        command.arg(clients.join(script)).args([&node.url(), TENANT, name]).env("JWT_TOKEN", keys.token(name));
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
        let all_passed = output.status.success() && passed == CHECK_COUNT;
        assert!(all_passed, "{name}, kernel features {kernel_features}:\n{said}{errors}");
        println!("{name}, kernel features {kernel_features}:\n{said}");
    }
}

#[test]
fn node_ws() {
    play("node-ws", Path::new("node"), "node/client.mjs", Path::new("node/node_modules/.installed.json"));
}

#[test]
fn python_websockets() {
    // Cargo's directory for tests lies in the target directory; so does the environment.
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients").join("python");
    let program = environment.join("bin/python");
    play("python-websockets", &program, "python/client.py", &environment.join("installed.txt"));
}

fn start_event() -> Value {
    json!({
        "event": "start", "interaction_id": INTERACTION, "tenant_id": TENANT, "sample_rate": 24_000, "encoding": "pcm16"
    })
}

/// tungstenite's end of a connection.
struct Call(WebSocket<TcpStream>);

impl Call {
    /// The client's handshake with whatever bearer token there is; otherwise the HTTP answer.
    fn connect(node: &Node, token: Option<&str>) -> Result<Call, Box<tungstenite::http::Response<Option<Vec<u8>>>>> {
        let mut request = node.url().into_client_request().unwrap();
        if let Some(token) = token {
            request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
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
            self.send(Message::Frame(Frame::message(fragment.to_vec(), opcode, index + 1 == count)));
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

    /// A Close, and then the end of the connection as RFC 6455 wants it.
    fn expect_close(&mut self, code: u16, reason: &str) {
        match self.0.read().unwrap() {
            Message::Close(Some(close)) => assert_eq!((u16::from(close.code), close.reason.as_str()), (code, reason)),
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
        let counts = format!(r#""seq":{seq},"bytes":{bytes},"duration_ms":{duration_ms},"durable_seq":null"#);
        self.expect_text(&format!(r#"{{"event":"stopped","interaction_id":"{}",{counts}}}"#, INTERACTION));
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
            assert_eq!(answer.headers()["WWW-Authenticate"], format!("Bearer realm=\"ingest\"{error}"));
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
            // Frames that came in one read with the one too many are kept, but no promise was made for them yet.
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
