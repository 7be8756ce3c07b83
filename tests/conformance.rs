//! The public Autobahn test suite against the `echo` example: the node's reactor and codec, on both kernel paths, with the
//! client's bytes as they come and cut into pieces. `tests/conformance/install.sh` installs the suite.
//!
//! ```text
//! tests/conformance/install.sh && cargo test --release --test conformance -- --nocapture
//! ```
//! prints how each group of cases came out. No case may fail, nor be passed less strictly than RFC 6455 has it.

#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Cases of the whole suite.
const CASE_COUNT: usize = 517;

/// Of these, cases of permessage-deflate (groups 12 and 13), which is declined.
const DEFLATE_CASE_COUNT: usize = 216;

/// Of these, cases with messages of megabytes, and by the thousand (group 9): too many bytes to be worth cutting.
const LARGE_CASE_COUNT: usize = 54;

/// Cargo's directory for tests lies in the target directory.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it has a parent")
}

/// The echo example as a process, ended when the test is over.
struct Echo {
    child: Child,
    address: String,
}

impl Echo {
    fn start(older_kernel: bool) -> Echo {
        let mut command = Command::new(Echo::build());
        command.args(["--listen", "127.0.0.1:0"]).args(older_kernel.then_some("--older-kernel"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut echo = Echo { child, address: String::new() };
        echo.address = line.trim_end().strip_prefix("listening on ").expect("it did not start").to_owned();
        echo
    }

    /// Builds the example as this test was built, and returns its path: Cargo builds examples for `cargo test`, but not for
    /// `cargo test --test conformance`, and names their paths to nobody.
    fn build() -> PathBuf {
        let own = std::env::current_exe().unwrap();
        let directory = own.ancestors().nth(2).expect("target/PROFILE/deps/conformance-…");
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--example", "echo", "--profile", profile, "--target-dir"]).arg(target());
        // What `cargo test` says of this package would look like a change to build scripts that ask for it (ring's), and
        // everything would be built again, twice each time.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(status.success(), "the example does not build");
        directory.join("examples/echo")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cuts what a client sends behind its request head before it reaches the server.
struct Relay {
    address: String,
}

impl Relay {
    /// More than a shard's bounded wait: bytes so far apart are read apart.
    const PAUSE: Duration = Duration::from_micros(700);

    /// Bytes of a connection that are sent one at a time: most cases have no more, and the others take little longer.
    const SINGLE_COUNT: usize = 160;

    /// What the others are cut to: odd, so that the cuts wander over masks and characters.
    const PIECE_SIZE: usize = 997;

    fn start(server: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { address: listener.local_addr().unwrap().to_string() };
        let server = server.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&server).expect("the server is there");
                server.set_nodelay(true).unwrap();
                let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || Relay::pass_whole(from_server, to_client));
                std::thread::spawn(move || Relay::pass_cut(client, server));
            }
        });
        relay
    }

    fn pass_whole(mut from: TcpStream, mut to: TcpStream) {
        // Either end may be gone: that is part of many cases.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    }

    fn pass_cut(mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        // The request head: cut elsewhere (tests/head_split_points.rs).
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match from.read(&mut buffer[..1]) {
                Ok(1) => head.push(buffer[0]),
                _ => return,
            }
        }
        let mut passed = to.write_all(&head);
        let mut singles_left = Relay::SINGLE_COUNT;
        while passed.is_ok()
            && let Ok(size @ 1..) = from.read(&mut buffer)
        {
            let (singles, rest) = buffer[..size].split_at(singles_left.min(size));
            singles_left -= singles.len();
            for piece in singles.chunks(1) {
                passed = passed.and_then(|()| to.write_all(piece));
                std::thread::sleep(Relay::PAUSE);
            }
            for piece in rest.chunks(Relay::PIECE_SIZE) {
                passed = passed.and_then(|()| to.write_all(piece));
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// How one case came out, in the suite's words.
#[derive(Debug)]
struct Outcome {
    behavior: String,
    /// How the connection ended.
    close: String,
    /// The server's close code, if there was a Close.
    code: Option<u64>,
    ms: u64,
}

/// Outcomes by the numbers of their cases.
type Outcomes = BTreeMap<Vec<u32>, Outcome>;

/// Runs the suite against a server; `None` where it is not installed.
fn run_suite(address: &str, excluded: &[&str]) -> Option<Outcomes> {
    let wstest = target().join("conformance/python/bin/wstest");
    if !wstest.with_file_name("../../installed.txt").exists() {
        let is_required = std::env::var_os("EXO_INGEST_REQUIRE_CONFORMANCE").is_some_and(|set| set == "1");
        let words = "the Autobahn test suite is not installed: run tests/conformance/install.sh";
        assert!(!is_required, "{words}");
        println!("skipped: {words}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let specification = json!({
        "outdir": directory.path().join("reports"),
        "servers": [{ "agent": "echo", "url": format!("ws://{address}") }],
        "cases": ["*"],
        "exclude-cases": excluded,
        "exclude-agent-cases": {},
    });
    let path = directory.path().join("specification.json");
    std::fs::write(&path, specification.to_string()).unwrap();
    let mut command = Command::new(wstest);
    command.args(["--mode", "fuzzingclient", "--spec"]).arg(path).current_dir(&directory);
    let output = command.output().unwrap();
    assert!(output.status.success(), "the suite failed: {}", String::from_utf8_lossy(&output.stderr));
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

/// The outcomes as a table, a line for each group of cases.
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

/// Whether a case came out as it is to. Where the suite is content with the end of the connection, we want the code as well.
fn is_good(case: &[u32], outcome: &Outcome) -> bool {
    let code_wanted = match case {
        // Reserved bits, reserved opcodes, control frames in fragments, continuations of nothing.
        [3 | 4, ..] | [5, 1 | 2 | 9..=18] => Some(1002),
        // Texts that are not UTF-8, in one piece, in fragments, and told at the first bad byte.
        [6, 3 | 4 | 14, _] => Some(1007),
        _ => None,
    };
    let has_code = code_wanted.is_none_or(|code| outcome.code == Some(code));
    let behavior = match outcome.behavior.as_str() {
        "OK" => true,
        // Cases for which the RFC leaves the choice.
        "INFORMATIONAL" => case[0] == 7,
        "UNIMPLEMENTED" => matches!(case[0], 12 | 13),
        _ => false,
    };
    behavior && has_code && matches!(outcome.close.as_str(), "OK" | "INFORMATIONAL")
}

/// Runs the suite's `count` cases that are not excluded, and holds each to its outcome.
fn conform(name: &str, address: &str, excluded: &[&str], count: usize) {
    let Some(outcomes) = run_suite(address, excluded) else { return };
    println!("{name}\n{}", table(&outcomes));
    assert_eq!(outcomes.len(), count, "{name}");
    let bad = outcomes.iter().filter(|(case, outcome)| !is_good(case, outcome));
    let bad: Vec<_> = bad.map(|(case, outcome)| format!("{}: {outcome:?}", dotted(case))).collect();
    assert!(bad.is_empty(), "{name}: {bad:#?}");
}

fn conform_whole(name: &str, older_kernel: bool) {
    let echo = Echo::start(older_kernel);
    conform(name, &echo.address, &[], CASE_COUNT);
}

fn conform_cut(name: &str, older_kernel: bool) {
    let echo = Echo::start(older_kernel);
    let relay = Relay::start(&echo.address);
    let count = CASE_COUNT - DEFLATE_CASE_COUNT - LARGE_CASE_COUNT;
    conform(name, &relay.address, &["9.*", "12.*", "13.*"], count);
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
    conform_cut("newest kernel features, bytes cut", false);
}

#[test]
fn cut_on_the_older_kernel_features() {
    conform_cut("older kernel features, bytes cut", true);
}
