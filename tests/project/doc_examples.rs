//! What the documents tell a reader to run works: the client in the README and the programs in
//! `examples/`, against a node as a process. The clients of Python and Node.js need
//! `tests/clients/install.sh`.

use crate::EXO_INGEST;
use exo_ingest_harness::{
    NodeProcess, TENANT, assert_sound, audit, build_example, eventually, mint,
};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Frames that each client sends: five seconds.
const FRAME_COUNT: u64 = 25;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Cargo's directory for tests is in the target directory.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it has a parent")
}

/// A node with a journal in a temporary directory.
struct Site {
    data_dir: tempfile::TempDir,
    node: NodeProcess,
}

impl Site {
    fn start() -> Site {
        let data_dir = tempfile::tempdir().unwrap();
        let args = ["--set", "journal.reserve=off"];
        let node = NodeProcess::start_without_admin(EXO_INGEST, data_dir.path(), &args);
        Site { data_dir, node }
    }

    /// The arguments of every client.
    fn arguments(&self, interaction: &str) -> [String; 3] {
        [format!("ws://{}/v1/ingest", self.node.address()), TENANT.into(), interaction.into()]
    }

    /// Runs a client, which must succeed, and returns its output.
    fn run(&self, command: &mut Command, interaction: &str) -> String {
        let output = command.env("JWT_TOKEN", mint(TENANT, interaction)).output().unwrap();
        succeeded(command, output)
    }

    /// Ends the node, and checks that the journal has all frames and the end of a call.
    fn expect_recorded(self, interaction: &str) {
        let status = self.node.terminate();
        assert!(status.success(), "{status}");
        let listed = calls("list", self.data_dir.path());
        let start = format!("{TENANT}/{interaction} ");
        let row = listed
            .lines()
            .find(|line| line.starts_with(&start))
            .unwrap_or_else(|| panic!("{listed}"));
        let frames = FRAME_COUNT.to_string();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert!(words.contains(&frames.as_str()) && words.contains(&"stopped"), "{listed}");
    }
}

fn succeeded(command: &Command, output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Runs `exo-ingest calls` on a data directory.
fn calls(what: &str, data_dir: &Path) -> String {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["calls", what, "--data-dir"]).arg(data_dir);
    let output = command.output().unwrap();
    succeeded(&command, output)
}

/// A Python with `websockets`, if it is installed.
fn python() -> Option<PathBuf> {
    let environment = target().join("clients/python");
    installed(&environment.join("installed.txt")).then(|| environment.join("bin/python"))
}

/// Whether `tests/clients/install.sh` has made this file. In CI it must exist.
fn installed(mark: &Path) -> bool {
    if mark.exists() {
        return true;
    }
    let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
    let words = "the clients are not installed: run tests/clients/install.sh";
    assert!(!is_set("CI", "true") && !is_set("EXO_INGEST_REQUIRE_CLIENTS", "1"), "{words}");
    println!("skipped: {words}");
    false
}

/// The first code block of a language in a document.
fn code_block(document: &str, language: &str) -> String {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let (_, rest) =
        text.split_once(&format!("```{language}\n")).expect("the document has such a block");
    rest.split_once("```").expect("it ends").0.to_owned()
}

#[test]
fn the_client_in_the_readme_plays_a_call() {
    let Some(python) = python() else { return };
    let code = code_block("README.md", "python");
    assert!(code.lines().count() <= 22, "it is to be short:\n{code}");
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("client.py");
    std::fs::write(&script, code).unwrap();
    let site = Site::start();
    let [url, tenant, interaction] = site.arguments("readme");
    let mut command = Command::new(python);
    command.arg(script).args([url, mint(&tenant, &interaction), tenant, interaction]);
    let said = site.run(&mut command, "readme");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(
        lines[..3],
        [
            r#"{"event":"started","interaction_id":"readme"}"#,
            r#"{"event":"ack","seq":10}"#,
            r#"{"event":"ack","seq":20}"#
        ]
    );
    assert!(
        lines[3].starts_with(r#"{"event":"stopped","interaction_id":"readme","seq":25,"#),
        "{said}"
    );
    site.expect_recorded("readme");
}

#[test]
fn the_python_client_plays_a_tone() {
    let Some(python) = python() else { return };
    let site = Site::start();
    let mut command = Command::new(python);
    command.arg(root().join("examples/client.py")).args(site.arguments("python"));
    let said = site.run(&mut command, "python");
    assert_eq!(said.trim(), "stopped: 25 frames, 5000 ms");
    site.expect_recorded("python");
}

/// A WAV file that is played comes out of the journal byte for byte.
#[test]
fn the_python_client_plays_a_file() {
    let Some(python) = python() else { return };
    let site = Site::start();
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["in.wav", "out.wav"].map(|name| directory.path().join(name));
    // Without a file the example sends a tone. Its export is the file to send.
    let mut tone = Command::new(&python);
    tone.arg(root().join("examples/client.py")).args(site.arguments("tone"));
    site.run(&mut tone, "tone");
    export(&site, "tone", &first);
    let mut file = Command::new(&python);
    file.arg(root().join("examples/client.py")).args(site.arguments("file")).arg(&first);
    site.run(&mut file, "file");
    export(&site, "file", &second);
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
}

fn export(site: &Site, interaction: &str, file: &Path) {
    let mut command = Command::new(EXO_INGEST);
    command
        .env_clear()
        .args(["calls", "export", &format!("{TENANT}/{interaction}"), "-o"])
        .arg(file);
    command.arg("--data-dir").arg(site.data_dir.path());
    let output = command.output().unwrap();
    succeeded(&command, output);
}

/// It connects again after the connection was cut, and no frame is lost.
#[test]
fn the_python_client_connects_again() {
    let Some(python) = python() else { return };
    let site = Site::start();
    let relay = Relay::start(site.node.address());
    let mut command = Command::new(python);
    command.arg(root().join("examples/client.py"));
    command.args([format!("ws://{}/v1/ingest", relay.address), TENANT.into(), "again".into()]);
    let said = site.run(&mut command, "again");
    assert!(said.starts_with("stopped: "), "{said}");
    assert!(relay.connections() > 1, "the connection was not cut");
    let status = site.node.terminate();
    assert!(status.success(), "{status}");
    let shown = calls("list", site.data_dir.path());
    let frames: u64 =
        shown.lines().filter(|line| line.starts_with("acme/again ")).map(frames_of).sum();
    assert!(frames >= FRAME_COUNT, "{shown}");
}

/// The frames in a row of `calls list`: its columns are call, epoch, start, end, rate, seconds,
/// frames …
fn frames_of(row: &str) -> u64 {
    row.split_whitespace()
        .nth(6)
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("{row}"))
}

#[test]
fn a_client_with_a_bad_token_says_so() {
    let Some(python) = python() else { return };
    let site = Site::start();
    let mut command = Command::new(python);
    command.arg(root().join("examples/client.py")).args(site.arguments("python"));
    let output = command.env("JWT_TOKEN", "no.token.this").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused: 401"), "{output:?}");
}

#[test]
fn the_node_client_plays_a_tone() {
    let modules = root().join("tests/clients/node/node_modules");
    if !installed(&modules.join(".installed.json")) {
        return;
    }
    // Node.js searches packages beside the script.
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("client.mjs");
    std::fs::copy(root().join("examples/client.mjs"), &script).unwrap();
    std::os::unix::fs::symlink(modules, directory.path().join("node_modules")).unwrap();
    let site = Site::start();
    let mut command = Command::new("node");
    command.arg(script).args(site.arguments("node"));
    let said = site.run(&mut command, "node");
    assert!(said.ends_with("stopped: 25 frames, 5000 ms\n"), "{said}");
    site.expect_recorded("node");
}

#[test]
fn the_rust_client_plays_a_tone_and_the_journal_reader_hears_it() {
    let site = Site::start();
    let mut command = Command::new(build_example(target(), "client"));
    command.args(site.arguments("rust"));
    let said = site.run(&mut command, "rust");
    assert!(said.ends_with("stopped: 25 frames, 5000 ms\n"), "{said}");
    let mut command = Command::new(build_example(target(), "read_journal"));
    let output = command.arg(site.data_dir.path()).output().unwrap();
    let said = succeeded(&command, output);
    let expected = format!("{TENANT}/rust epoch 1: 25 frames, 5.0 s at 24000 Hz, peak ");
    assert!(said.starts_with(&expected) && said.trim_end().ends_with(", ended"), "{said}");
    let peak: u16 = said[expected.len()..].split(',').next().unwrap().parse().unwrap();
    assert!((7_990..=8_000).contains(&peak), "{said}");
    site.expect_recorded("rust");
}

/// A backup while the node runs: sealed segments are copied, the others are left for later.
#[test]
fn a_live_directory_can_be_backed_up() {
    let Site { data_dir, node } = Site::start();
    let backup = tempfile::tempdir().unwrap();
    let call = node.play("copied", 7, Duration::from_millis(1));
    // A segment has 4 MiB.
    eventually("some segments are full", || call.sent_bytes() > 20 << 20);
    let (copied, left) = back_up(data_dir.path(), backup.path());
    assert!(copied >= 2 && left >= 1, "copied {copied}, left {left}");
    assert_sound(backup.path());
    assert!(calls("list", backup.path()).contains("acme/copied "));

    // After the node has ended, the rest is copied, and nothing is copied twice.
    let played = call.finish();
    assert!(node.terminate().success());
    let (copied_then, _) = back_up(data_dir.path(), backup.path());
    assert!(copied_then >= 1);
    assert_eq!(back_up(data_dir.path(), backup.path()).0, 0);
    assert_eq!(played.stopped, Some(played.sent));
    let found = audit(backup.path(), &[played]);
    println!("{copied} segments copied beside the call, {copied_then} afterwards: {found:?}");
}

/// Runs the example: how many segments it copied, and how many it left for later.
fn back_up(data_dir: &Path, backup: &Path) -> (u64, u64) {
    let mut command = Command::new("sh");
    command.arg(root().join("examples/backup.sh")).args([data_dir, backup]);
    let output = command.output().unwrap();
    let said = succeeded(&command, output);
    let number = |name| {
        let rest = said.split_once(&format!("{name}: ")).unwrap_or_else(|| panic!("{said}")).1;
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (number("copied"), number("left for later"))
}

/// Relays connections to a node, and cuts the first one after two seconds of audio.
struct Relay {
    address: String,
    count: Arc<AtomicUsize>,
}

impl Relay {
    /// Bytes of a client: about two seconds of audio at 24 kHz.
    const CUT_AT: usize = 100_000;

    fn start(node: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay {
            address: listener.local_addr().unwrap().to_string(),
            count: Default::default(),
        };
        let count = Arc::clone(&relay.count);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let limit = if count.fetch_add(1, Ordering::Relaxed) == 0 {
                    Relay::CUT_AT
                } else {
                    usize::MAX
                };
                let node = TcpStream::connect(node).expect("the node serves");
                let (answers, to_client) = (node.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || pass(answers, to_client, usize::MAX));
                std::thread::spawn(move || {
                    let (end, node_end) = (client.try_clone().unwrap(), node.try_clone().unwrap());
                    pass(client, node, limit);
                    let _ = (end.shutdown(Shutdown::Both), node_end.shutdown(Shutdown::Both));
                });
            }
        });
        relay
    }

    fn connections(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Copies bytes until one side ends, or `limit` bytes are copied.
fn pass(mut from: TcpStream, mut to: TcpStream, limit: usize) {
    let (mut buffer, mut passed) = ([0; 4096], 0);
    while passed < limit {
        let Ok(size) = from.read(&mut buffer) else { return };
        if size == 0 || to.write_all(&buffer[..size]).is_err() {
            return;
        }
        passed += size;
    }
}
