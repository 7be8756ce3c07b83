//! The public Autobahn test suite against the `echo` example: the node's reactor and codec, on both
//! kernel paths, with the client's bytes as they come and cut into pieces, in the clear and over
//! TLS. `tests/conformance/install.sh` installs the suite.
//!
//! ```text
//! tests/conformance/install.sh && cargo test --release --test protocol conformance -- --nocapture
//! ```
//! prints how each group of cases came out. No case may fail, nor be passed less strictly than RFC
//! 6455 has it.
//!
//! Over TLS the suite's own OpenSSL shakes hands, or rustls where the bytes are cut. These runs
//! leave out the refused extension (groups 12 and 13) and most of the large messages (group 9).
//! `EXO_INGEST_CONFORMANCE=all` runs every case there too.

use exo_ingest_harness::build_example;
use exo_ingest_harness::certificates::Authority;
use exo_ingest_harness::tls::Client;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Cases of the whole suite.
const CASE_COUNT: usize = 517;

/// Cases of permessage-deflate (groups 12 and 13), which the server declines.
const DEFLATE_CASE_COUNT: usize = 216;

/// Cases with very large messages, or thousands of them (group 9): too many bytes to cut.
const LARGE_CASE_COUNT: usize = 54;

/// Groups of the other cases.
const SMALL_CASES: [&str; 8] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];

/// What is played over TLS of group 9: messages of 256 KiB, in one frame and in fragments, text and
/// binary; a thousand messages of none and of 16 bytes.
const LARGE_CASES_OVER_TLS: [&str; 6] = ["9.1.2", "9.2.2", "9.3.5", "9.4.5", "9.7.1", "9.8.1"];

/// Cargo's directory for tests lies in the target directory.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it has a parent")
}

/// The echo example as a process, killed at the end of the test.
struct Echo {
    child: Child,
    address: String,
    /// Clients that trust it, where it speaks TLS.
    tls: Option<Arc<ClientConfig>>,
}

impl Echo {
    fn start(older_kernel: bool, speaks_tls: bool) -> Echo {
        let mut command = Command::new(build_example(target(), "echo"));
        command.args(["--listen", "127.0.0.1:0"]).args(older_kernel.then_some("--older-kernel"));
        let directory = tempfile::tempdir().unwrap();
        let tls = speaks_tls.then(|| {
            let ca = Authority::new("servers");
            let [certificate, key] = ca.issue(&["localhost"]).write(directory.path(), "echo");
            command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
            trusting(&ca)
        });
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut echo = Echo { child, address: String::new(), tls };
        echo.address =
            line.trim_end().strip_prefix("listening on ").expect("it did not start").to_owned();
        echo
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}", self.address)
    }
}

/// A client that trusts a CA.
fn trusting(ca: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the server, for one thread of two.
struct Outbound {
    socket: TcpStream,
    /// What wraps its bytes; `None`: nothing.
    tls: Option<Arc<Mutex<ClientConnection>>>,
}

impl Outbound {
    fn connect(server: &str, config: Option<&Arc<ClientConfig>>) -> Outbound {
        let mut socket = TcpStream::connect(server).expect("the server is there");
        socket.set_nodelay(true).unwrap();
        let tls = config.map(|config| {
            let mut client = Client::new(config);
            client.shake_hands(&mut socket).expect("a handshake");
            Arc::new(Mutex::new(client.into_connection()))
        });
        Outbound { socket, tls }
    }

    fn another(&self) -> Outbound {
        Outbound { socket: self.socket.try_clone().unwrap(), tls: self.tls.clone() }
    }

    /// Sends a piece; over TLS as a record of its own, which is cut in two.
    fn send(&mut self, piece: &[u8], pause: Duration) -> Result<()> {
        let Some(tls) = &self.tls else {
            return self.socket.write_all(piece);
        };
        let sealed = {
            let mut tls = tls.lock().expect("nothing panics with it");
            tls.writer().write_all(piece)?;
            let mut sealed = Vec::new();
            tls.write_tls(&mut sealed)?;
            sealed
        };
        let (first, second) = sealed.split_at(sealed.len() / 2);
        self.socket.write_all(first)?;
        std::thread::sleep(pause);
        self.socket.write_all(second)
    }

    /// Some of what the server has sent; nothing at its end.
    fn receive(&mut self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let size = self.socket.read(&mut buffer)?;
            let Some(tls) = &self.tls else {
                buffer.truncate(size);
                return Ok(buffer);
            };
            let mut tls = tls.lock().expect("nothing panics with it");
            let mut bytes = &buffer[..size];
            let mut plain = Vec::new();
            while !bytes.is_empty() {
                tls.read_tls(&mut bytes)?;
                tls.process_new_packets().map_err(std::io::Error::other)?;
                // As far as it goes: more may come, and that it does not is no error here.
                let _ = tls.reader().read_to_end(&mut plain);
            }
            if size == 0 || !plain.is_empty() {
                return Ok(plain);
            }
        }
    }
}

/// Cuts what a client sends after its request head before it reaches the server.
struct Relay {
    address: String,
}

impl Relay {
    /// Longer than a shard's bounded wait, so that the shard reads each byte by itself.
    const PAUSE: Duration = Duration::from_micros(700);

    /// Bytes of a connection that are sent one at a time. Most cases have no more.
    const SINGLE_COUNT: usize = 160;

    /// Size of later pieces: odd, so that the cuts fall at all places of masks and characters.
    const PIECE_SIZE: usize = 997;

    fn start(server: &Echo) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { address: listener.local_addr().unwrap().to_string() };
        let (address, tls) = (server.address.clone(), server.tls.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = Outbound::connect(&address, tls.as_ref());
                let (from_server, to_client) = (server.another(), client.try_clone().unwrap());
                std::thread::spawn(move || Relay::pass_whole(from_server, to_client));
                std::thread::spawn(move || Relay::pass_cut(client, server));
            }
        });
        relay
    }

    fn pass_whole(mut from: Outbound, mut to: TcpStream) {
        // Either end may be gone: that is part of many cases.
        while let Ok(bytes) = from.receive()
            && !bytes.is_empty()
            && to.write_all(&bytes).is_ok()
        {}
        let _ = to.shutdown(Shutdown::Write);
    }

    fn pass_cut(mut from: TcpStream, mut to: Outbound) {
        let mut buffer = vec![0; 64 * 1024];
        // The request head is cut in `tests/protocol/head_split_points.rs`.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match from.read(&mut buffer[..1]) {
                Ok(1) => head.push(buffer[0]),
                _ => return,
            }
        }
        let mut passed = to.send(&head, Duration::ZERO);
        let mut singles_left = Relay::SINGLE_COUNT;
        while passed.is_ok()
            && let Ok(size @ 1..) = from.read(&mut buffer)
        {
            let (singles, rest) = buffer[..size].split_at(singles_left.min(size));
            singles_left -= singles.len();
            for piece in singles.chunks(1) {
                passed = passed.and_then(|()| to.send(piece, Relay::PAUSE));
                std::thread::sleep(Relay::PAUSE);
            }
            for piece in rest.chunks(Relay::PIECE_SIZE) {
                passed = passed.and_then(|()| to.send(piece, Duration::ZERO));
            }
        }
        let _ = to.socket.shutdown(Shutdown::Write);
    }
}

/// The result of one case, in the suite's words.
#[derive(Debug)]
struct Outcome {
    behavior: String,
    /// How the connection ended.
    close: String,
    /// The server's close code, if there was a Close.
    code: Option<u64>,
    ms: u64,
}

/// Results by the numbers of the cases.
type Outcomes = BTreeMap<Vec<u32>, Outcome>;

/// Runs cases of the suite against a server; `None` where it is not installed.
fn run_suite(url: &str, cases: &[&str]) -> Option<Outcomes> {
    let wstest = target().join("conformance/python/bin/wstest");
    if !wstest.with_file_name("../../installed.txt").exists() {
        let is_required =
            std::env::var_os("EXO_INGEST_REQUIRE_CONFORMANCE").is_some_and(|set| set == "1");
        let words = "the Autobahn test suite is not installed: run tests/conformance/install.sh";
        assert!(!is_required, "{words}");
        println!("skipped: {words}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let specification = json!({
        "outdir": directory.path().join("reports"),
        "servers": [{ "agent": "echo", "url": url }],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let path = directory.path().join("specification.json");
    std::fs::write(&path, specification.to_string()).unwrap();
    let mut command = Command::new(wstest);
    command.args(["--mode", "fuzzingclient", "--spec"]).arg(path).current_dir(&directory);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "the suite failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let index = std::fs::read_to_string(directory.path().join("reports/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let cases = index["echo"].as_object().expect("outcomes of the one server");
    Some(cases.iter().map(|(case, outcome)| (numbers(case), read_outcome(outcome))).collect())
}

fn numbers(case: &str) -> Vec<u32> {
    case.split('.').map(|number| number.parse().expect("a case's number")).collect()
}

fn dotted(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

fn read_outcome(outcome: &Value) -> Outcome {
    let text = |key: &str| outcome[key].as_str().expect("the suite's index has it").to_owned();
    Outcome {
        behavior: text("behavior"),
        close: text("behaviorClose"),
        code: outcome["remoteCloseCode"].as_u64(),
        ms: outcome["duration"].as_u64().expect("the suite's index has it"),
    }
}

/// The results as a table with a line for each group of cases.
fn table(outcomes: &Outcomes) -> String {
    let mut groups: BTreeMap<&[u32], BTreeMap<&str, (usize, u64)>> = BTreeMap::new();
    for (case, outcome) in outcomes {
        let group = groups.entry(&case[..case.len() - 1]).or_default();
        let (count, slowest) = group.entry(&outcome.behavior).or_default();
        (*count, *slowest) = (*count + 1, outcome.ms.max(*slowest));
    }
    let mut table = String::from("group   outcome        cases  slowest, ms\n");
    for (group, outcomes) in groups {
        let group = dotted(group);
        for (outcome, (count, slowest)) in outcomes {
            table += &format!("{group:<7} {outcome:<14} {count:>5}  {slowest:>11}\n");
        }
    }
    table
}

/// Whether a case has the right result. Where the suite asks only for the end of the connection,
/// this asks for the code as well.
fn is_good(case: &[u32], outcome: &Outcome) -> bool {
    let code_wanted = match case {
        // Reserved bits, reserved opcodes, control frames in fragments, continuations without a
        // start.
        [3 | 4, ..] | [5, 1 | 2 | 9..=18] => Some(1002),
        // Texts that are not UTF-8: in one piece, in fragments, with an answer at the first bad
        // byte.
        [6, 3 | 4 | 14, _] => Some(1007),
        _ => None,
    };
    let has_code = code_wanted.is_none_or(|code| outcome.code == Some(code));
    let behavior = match outcome.behavior.as_str() {
        "OK" => true,
        // Cases in which the RFC leaves the choice.
        "INFORMATIONAL" => case[0] == 7,
        "UNIMPLEMENTED" => matches!(case[0], 12 | 13),
        _ => false,
    };
    behavior && has_code && matches!(outcome.close.as_str(), "OK" | "INFORMATIONAL")
}

/// Runs `count` cases of the suite, and holds each to its outcome.
fn conform(name: &str, url: &str, cases: &[&str], count: usize) {
    let Some(outcomes) = run_suite(url, cases) else { return };
    println!("{name}\n{}", table(&outcomes));
    assert_eq!(outcomes.len(), count, "{name}");
    let bad = outcomes.iter().filter(|(case, outcome)| !is_good(case, outcome));
    let bad: Vec<_> = bad.map(|(case, outcome)| format!("{}: {outcome:?}", dotted(case))).collect();
    assert!(bad.is_empty(), "{name}: {bad:#?}");
}

fn conform_whole(name: &str, older_kernel: bool) {
    let echo = Echo::start(older_kernel, false);
    conform(name, &echo.url(), &["*"], CASE_COUNT);
}

fn conform_whole_over_tls(name: &str, older_kernel: bool) {
    let echo = Echo::start(older_kernel, true);
    if std::env::var_os("EXO_INGEST_CONFORMANCE").is_some_and(|set| set == "all") {
        return conform(name, &echo.url(), &["*"], CASE_COUNT);
    }
    let cases = [&SMALL_CASES[..], &LARGE_CASES_OVER_TLS].concat();
    let count = CASE_COUNT - DEFLATE_CASE_COUNT - LARGE_CASE_COUNT + LARGE_CASES_OVER_TLS.len();
    conform(name, &echo.url(), &cases, count);
}

fn conform_cut(name: &str, older_kernel: bool, speaks_tls: bool) {
    let echo = Echo::start(older_kernel, speaks_tls);
    let relay = Relay::start(&echo);
    let count = CASE_COUNT - DEFLATE_CASE_COUNT - LARGE_CASE_COUNT;
    conform(name, &format!("ws://{}", relay.address), &SMALL_CASES, count);
}

#[test]
fn on_the_newest_kernel_features() {
    conform_whole("newest kernel features", false);
}

#[test]
fn on_the_older_kernel_features() {
    conform_whole("older kernel features", true);
}

#[test]
fn cut_on_the_newest_kernel_features() {
    conform_cut("newest kernel features, bytes cut", false, false);
}

#[test]
fn cut_on_the_older_kernel_features() {
    conform_cut("older kernel features, bytes cut", true, false);
}

#[test]
fn over_tls_on_the_newest_kernel_features() {
    conform_whole_over_tls("newest kernel features, TLS", false);
}

#[test]
fn over_tls_on_the_older_kernel_features() {
    conform_whole_over_tls("older kernel features, TLS", true);
}

#[test]
fn cut_over_tls_on_the_newest_kernel_features() {
    conform_cut("newest kernel features, TLS, records cut", false, true);
}

#[test]
fn cut_over_tls_on_the_older_kernel_features() {
    conform_cut("older kernel features, TLS, records cut", true, true);
}
