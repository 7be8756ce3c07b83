//! A node as a process of its own, on the binary that a test was built with.

use crate::{Admin, Keys, PATIENCE, Peer, eventually};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a process that is killed may take to be gone: one that waits for a dead disk cannot be.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A serving process. Killed when it goes out of scope.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// It watches its key file.
    _key: tempfile::NamedTempFile,
}

impl NodeProcess {
    /// `BINARY serve` with one shard and a small ring on this data directory, and whatever `args` say beside; returns once
    /// it serves.
    pub fn start(binary: &str, data_dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::start_with(binary, data_dir, "127.0.0.1:0", args)
    }

    /// The same without an admin listener.
    pub fn start_without_admin(binary: &str, data_dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::start_with(binary, data_dir, "off", args)
    }

    fn start_with(binary: &str, data_dir: &Path, admin: &str, args: &[&str]) -> NodeProcess {
        let key = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(key.path(), Keys::First.public_pem()).expect("a temporary file");
        let mut command = Command::new(binary);
        command.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--admin", admin, "--shards", "1"]);
        command.arg("--allow-unregistered");
        command.args(["--set", "limits.ring_size=16MiB", "--max-ahead", "off"]);
        if !args.iter().any(|arg| arg.starts_with("journal.segment_size=")) {
            command.args(["--set", "journal.segment_size=4MiB"]);
        }
        command.arg("--jwt-key").arg(key.path()).arg("--data-dir").arg(data_dir).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().expect("it is piped"), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        });
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line);
        let address = line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not serve: {read:?} {line:?} {:#?}", log.lock());
        };
        NodeProcess { child, address, log, _key: key }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its admin listener, on the port that its log names.
    #[track_caller]
    pub fn admin(&self) -> Admin {
        let mut found = None;
        eventually("the admin address is logged", || {
            let log = self.log();
            let address = log.iter().find_map(|line| line.split_once(" admin=")?.1.split(' ').next()?.parse().ok());
            found = address.map(Admin::at);
            found.is_some()
        });
        found.expect("it was found")
    }

    /// SIGTERM.
    pub fn start_drain(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("nobody panics with it").clone()
    }

    /// The status that an upgrade with a good token gets now.
    pub fn upgrade_status(&self) -> u16 {
        let mut peer = Peer::connect(self.address);
        peer.send(crate::wire::upgrade_request(&crate::mint(crate::TENANT, "visitor")).as_bytes());
        peer.try_response(false).expect("a response").status
    }

    /// Waits until an upgrade gets this status.
    #[track_caller]
    pub fn await_upgrade_status(&self, status: u16) {
        eventually(&format!("upgrades get {status}"), || self.upgrade_status() == status);
    }

    /// Memory it has in use, bytes.
    pub fn resident_size(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a field of every process");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub fn terminate(mut self) -> ExitStatus {
        self.start_drain();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let start = Instant::now();
        let _ = self.child.kill();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < KILL_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
