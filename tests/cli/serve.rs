//! `exo-ingest serve` and `dev` as processes: the line on standard output, signals, reload, errors.

use crate::EXO_INGEST;
use exo_ingest_harness::{PATIENCE, eventually};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Arguments of every node here: free ports, one shard, little memory, no wait for a balancer.
const SMALL: [&str; 10] = [
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--shards",
    "1",
    "--set",
    "limits.ring_size=16MiB",
    "--drain-grace",
    "0s",
];

/// A running node, killed at the end of the test.
struct Running {
    child: Child,
    address: String,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Lines of standard error that were read so far.
    seen: Vec<String>,
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Running {
    /// Starts `command` and waits for its line.
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) =
            (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        let Ok(line) = stdout.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("no line came: {}", stderr.iter().collect::<Vec<_>>().join("\n"));
        };
        let address = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("not the line: {line}"))
            .to_owned();
        Running { child, address, stdout, stderr, seen: Vec::new() }
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end. Returns its status and the rest of its standard output.
    fn wait(&mut self) -> (ExitStatus, Vec<String>) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.stderr.iter());
                return (status, self.stdout.iter().collect());
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads standard error up to a line with `words`.
    fn wait_for_log(&mut self, words: &str) -> String {
        let start = Instant::now();
        while let Some(left) = PATIENCE.checked_sub(start.elapsed()) {
            let Ok(line) = self.stderr.recv_timeout(left) else { break };
            self.seen.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
        panic!("no line with {words:?}: {:#?}", self.seen);
    }

    /// The status line that an upgrade with `token` gets, and its connection.
    fn upgrade(&self, token: &str) -> (String, TcpStream) {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /v1/ingest HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {token}\r\n\r\n",
            self.address
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            assert_eq!(
                socket.read(&mut byte).unwrap(),
                1,
                "closed after {:?}",
                String::from_utf8_lossy(&line)
            );
            line.push(byte[0]);
        }
        (String::from_utf8(line).unwrap().trim_end().to_owned(), socket)
    }

    fn assert_status(&self, token: &str, status: u16) -> TcpStream {
        let (line, socket) = self.upgrade(token);
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{line}, not {status}");
        socket
    }

    /// Opens a call of tenant `dev` with `token`.
    fn call(&self, token: &str, interaction: &str) -> TcpStream {
        let mut socket = self.assert_status(token, 101);
        let fields = r#""tenant_id":"dev","sample_rate":24000,"encoding":"pcm16""#;
        let start = format!(r#"{{"event":"start","interaction_id":"{interaction}",{fields}}}"#);
        // One masked text frame (RFC 6455 §5.2); a mask of zeros leaves the bytes as they are.
        let mut frame = vec![0x81, 0x80 | start.len() as u8, 0, 0, 0, 0];
        assert!(start.len() < 126);
        frame.extend_from_slice(start.as_bytes());
        socket.write_all(&frame).unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("\"started\"") {
            let mut buffer = [0; 1024];
            let size = socket.read(&mut buffer).unwrap();
            assert!(size > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..size]);
        }
        socket
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keygen(directory: &Path) {
    let output = Command::new(EXO_INGEST)
        .arg("keygen")
        .arg("--out")
        .arg(directory)
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn token(directory: &Path) -> String {
    let key = directory.join("private.pem");
    let args = ["--tenant", "dev", "--interaction", "call-1"];
    let output = Command::new(EXO_INGEST)
        .args(["token", "mint", "--key"])
        .arg(key)
        .args(args)
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn serve(keys: &Path) -> Command {
    let mut command = Command::new(EXO_INGEST);
    command
        .env_clear()
        .args(["serve", "--no-journal", "--allow-unregistered", "--jwt-key"])
        .arg(keys)
        .args(SMALL);
    command
}

/// A directory with keys, and a node that serves with them.
fn serving(args: &[&str]) -> (tempfile::TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    keygen(directory.path());
    let running = Running::start(serve(&directory.path().join("public.pem")).args(args));
    (directory, running)
}

#[test]
fn one_line_names_the_real_port_and_sigterm_ends_it_with_0() {
    for signal in ["TERM", "INT"] {
        let (directory, mut node) = serving(&[]);
        assert!(!node.address.ends_with(":0"), "{}", node.address);
        drop(node.assert_status(&token(directory.path()), 101));
        node.signal(signal);
        let (status, rest) = node.wait();
        assert_eq!((status.code(), rest), (Some(0), Vec::new()), "{:#?}", node.seen);
        let summary = node.seen.iter().find(|line| line.contains("stopped"));
        assert!(summary.is_some_and(|line| line.contains("frames=0")), "{:#?}", node.seen);
    }
}

#[test]
fn log_lines_are_json_where_that_is_asked_for() {
    let (_directory, mut node) = serving(&["--log", "json"]);
    node.signal("TERM");
    node.wait();
    assert!(!node.seen.is_empty());
    for line in &node.seen {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once_with_1() {
    let (directory, mut node) = serving(&["--drain", "1h", "--claim-match", "tenant"]);
    let token = token(directory.path());
    // The drain spreads their ends over the hour, so some calls are left.
    let _calls = ["call-1", "call-2", "call-3"].map(|interaction| node.call(&token, interaction));
    node.signal("TERM");
    node.wait_for_log("draining");
    std::thread::sleep(Duration::from_millis(300));
    assert!(node.child.try_wait().unwrap().is_none(), "it did not wait for its calls");
    let asked = Instant::now();
    node.signal("TERM");
    let (status, _) = node.wait();
    assert_eq!(status.code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[test]
fn sighup_swaps_the_whole_set_and_a_bad_file_changes_nothing() {
    let (directory, mut node) = serving(&[]);
    let keys = directory.path().join("public.pem");
    let old = token(directory.path());
    let next = tempfile::tempdir().unwrap();
    keygen(next.path());
    let new = token(next.path());
    node.assert_status(&old, 101);
    node.assert_status(&new, 401);

    std::fs::write(&keys, "no keys at all").unwrap();
    node.signal("HUP");
    let line = node.wait_for_log("keys not reloaded");
    assert!(line.contains("WARN") && line.contains("public.pem"), "{line}");
    node.assert_status(&old, 101);

    std::fs::copy(next.path().join("public.pem"), &keys).unwrap();
    node.signal("HUP");
    node.wait_for_log("keys reloaded");
    eventually("the shards have the new keys", || node.upgrade(&new).0.starts_with("HTTP/1.1 101"));
    node.assert_status(&old, 401);
}

#[test]
fn a_key_file_that_changes_is_read_without_a_signal() {
    let (directory, mut node) = serving(&[]);
    let next = tempfile::tempdir_in(directory.path()).unwrap();
    keygen(next.path());
    let new = token(next.path());
    std::fs::rename(next.path().join("public.pem"), directory.path().join("public.pem")).unwrap();
    node.wait_for_log("keys reloaded");
    eventually("the shards have the new keys", || node.upgrade(&new).0.starts_with("HTTP/1.1 101"));
}

#[test]
fn a_closed_standard_output_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    keygen(directory.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = serve(&directory.path().join("public.pem"))
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .map(KillOnDrop)
        .unwrap();
    let log = lines(child.0.stderr.take().unwrap());
    let line =
        log.iter().find(|line| line.contains("cannot write to standard output")).expect("it ended");
    assert!(line.contains("WARN"), "{line}");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.0.try_wait().unwrap().is_none(), "it ended");
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_supervisor_is_told_through_a_descriptor_and_through_systemds_socket() {
    let directory = tempfile::tempdir().unwrap();
    keygen(directory.path());
    let socket_path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&socket_path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let ready_path = directory.path().join("ready");
    // The shell opens the descriptor: the standard library cannot pass one.
    let mut command = Command::new("sh");
    command
        .env_clear()
        .env("NOTIFY_SOCKET", &socket_path)
        .args(["-c", "exec \"$@\" 7>\"$0\""])
        .arg(&ready_path);
    command.args([
        EXO_INGEST,
        "serve",
        "--no-journal",
        "--allow-unregistered",
        "--ready-fd",
        "7",
        "--jwt-key",
    ]);
    let mut node = Running::start(command.arg(directory.path().join("public.pem")).args(SMALL));
    let received = || {
        loop {
            let mut buffer = [0; 1024];
            let size = socket.recv(&mut buffer).unwrap();
            let message = String::from_utf8_lossy(&buffer[..size]).into_owned();
            // The node also reports a key file that it read without a signal.
            if !message.starts_with("STATUS=") {
                return message;
            }
        }
    };
    assert!(received().starts_with("READY=1\n"));
    assert_eq!(
        std::fs::read_to_string(&ready_path).unwrap(),
        format!("listening on {}\n", node.address)
    );
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap();
    let open: Vec<_> =
        open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(!open.contains(&ready_path), "it keeps the descriptor open");
    for (keys, outcome) in
        [(None, "keys reloaded"), (Some("no keys at all"), "keys not reloaded, the old ones stay")]
    {
        if let Some(keys) = keys {
            // Written to another file and renamed. The node also reads the file without a signal,
            // and must not find half of it.
            std::fs::write(directory.path().join("next"), keys).unwrap();
            std::fs::rename(directory.path().join("next"), directory.path().join("public.pem"))
                .unwrap();
        }
        node.signal("HUP");
        let reloading = received();
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        let reloaded = received();
        assert!(
            reloaded.starts_with("READY=1\nSTATUS=listening on 127.0.0.1:")
                && reloaded.contains(outcome),
            "{reloaded}"
        );
    }
    node.signal("TERM");
    assert!(received().starts_with("STOPPING=1\n"));
    assert_eq!(node.wait().0.code(), Some(0));
}

#[test]
fn an_address_in_use_is_1_and_named() {
    let directory = tempfile::tempdir().unwrap();
    keygen(directory.path());
    // The node shares its port among shards; a plain listener does not share.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args([
        "serve",
        "--no-journal",
        "--allow-unregistered",
        "--shards",
        "1",
        "--listen",
        &taken,
    ]);
    command.args(["--admin", "off"]);
    let output =
        command.arg("--jwt-key").arg(directory.path().join("public.pem")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.lines().any(|line| line.starts_with("error: ") && line.contains(&taken)),
        "{errors}"
    );
    assert!(output.stdout.is_empty());
}

fn dev(directory: &Path) -> Running {
    let mut command = Command::new(EXO_INGEST);
    Running::start(
        command
            .env_clear()
            .args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"])
            .arg(directory),
    )
}

#[test]
fn dev_prints_a_token_that_its_own_node_takes_and_keeps_its_keys() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("exo-dev");
    let mut node = dev(&directory);
    let greeting = |node: &mut Running| {
        let url = node.wait_for_log("/v1/ingest");
        assert!(url.contains(&format!("ws://{}/v1/ingest", node.address)), "{url}");
        node.wait_for_log("  token  ").trim().trim_start_matches("token").trim().to_owned()
    };
    let token = greeting(&mut node);
    node.wait_for_log("any interaction");
    node.wait_for_log("curl http://");
    node.wait_for_log("exo-load run");
    drop(node.call(&token, "any-call"));
    node.signal("INT");
    let (status, rest) = node.wait();
    assert_eq!((status.code(), rest), (Some(0), Vec::new()), "{:#?}", node.seen);

    // A second start: the old token is still good.
    let mut node = dev(&directory);
    greeting(&mut node);
    node.assert_status(&token, 101);
}

#[test]
fn dev_makes_do_with_few_open_files_where_serve_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("exo-dev");
    let limited = |command: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().args(["-c", &format!("ulimit -n 1000; exec {EXO_INGEST} {command}")]);
        shell
    };
    let mut node = Running::start(&mut limited(&format!(
        "dev --listen 127.0.0.1:0 --admin off --dir {}",
        directory.display()
    )));
    let token = node.wait_for_log("  token  ").trim().trim_start_matches("token").trim().to_owned();
    node.assert_status(&token, 101);
    let key = directory.join("public.pem");
    let serve =
        format!("serve --no-journal --listen 127.0.0.1:0 --admin off --jwt-key {}", key.display());
    let output = limited(&serve).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && error.contains("open files")
            && error.contains("--max-calls"),
        "{error}"
    );
}
