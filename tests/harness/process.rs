//! A node as a process, with the program that was built for the test.

use crate::{Admin, Keys, PATIENCE, Peer, Player, TENANT, eventually, mint};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for the end of a killed process. A process that waits for a dead disk does not end.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A serving process. It is killed when this is dropped.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// The node watches this file.
    key: tempfile::NamedTempFile,
}

impl NodeProcess {
    /// Starts `BINARY serve` with one shard and a small ring on this data directory, and with
    /// `args`. Returns when it serves.
    pub fn start(binary: &str, data_dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::start_with(binary, data_dir, "127.0.0.1:0", args)
    }

    /// The same without an admin listener.
    pub fn start_without_admin(binary: &str, data_dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::start_with(binary, data_dir, "off", args)
    }

    /// The same with this admin address.
    pub fn start_with(binary: &str, data_dir: &Path, admin: &str, args: &[&str]) -> NodeProcess {
        let key = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(key.path(), Keys::First.public_pem()).expect("a temporary file");
        let mut command = Command::new(binary);
        // Tests measure its memory. With huge pages it would grow in steps of two megabytes.
        command.env_clear().env("MIMALLOC_ALLOW_THP", "0");
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", admin, "--shards", "1"]);
        command.arg("--allow-unregistered");
        command.args(["--set", "limits.ring_size=16MiB"]);
        if !args.contains(&"--max-ahead") {
            command.args(["--max-ahead", "off"]);
        }
        // A test has no balancer to wait for.
        if !args.contains(&"--drain-grace") {
            command.args(["--drain-grace", "0s"]);
        }
        if !args.iter().any(|arg| arg.starts_with("journal.segment_size=")) {
            command.args(["--set", "journal.segment_size=4MiB"]);
        }
        command.arg("--jwt-key").arg(key.path()).arg("--data-dir").arg(data_dir).args(args);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().expect("it is piped"), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("no thread panics with it").push(line);
            }
        });
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line);
        let address =
            line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not serve: {read:?} {line:?} {:#?}", log.lock());
        };
        NodeProcess { child, address, log, key }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A call of [`TENANT`] that has started.
    #[track_caller]
    pub fn call(&self, interaction: &str) -> Peer {
        let mut peer = Peer::connect(self.address);
        peer.upgrade(&mint(TENANT, interaction));
        peer.start(TENANT, interaction);
        peer
    }

    /// Its admin listener, on the port that its log names.
    #[track_caller]
    pub fn admin(&self) -> Admin {
        let mut found = None;
        eventually("the admin address is logged", || {
            let log = self.log();
            let address = log
                .iter()
                .find_map(|line| line.split_once(" admin=")?.1.split(' ').next()?.parse().ok());
            found = address.map(Admin::at);
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Replaces its key file, and makes the node read it.
    pub fn reload_keys(&self, text: &str) {
        let next = self.key.path().with_extension("next");
        std::fs::write(&next, text)
            .and_then(|()| std::fs::rename(&next, self.key.path()))
            .expect("ours");
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it is ours");
    }

    /// SIGTERM.
    pub fn start_drain(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    }

    /// Stops the process (SIGSTOP), calls `f` when none of its threads runs, and continues the
    /// process.
    #[track_caller]
    pub fn while_stopped(&self, f: impl FnOnce()) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it is ours");
        eventually("all threads are stopped", || {
            let threads =
                std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it is there");
            threads.flatten().all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(')').is_some_and(|(_, fields)| fields.starts_with(" T"))
            })
        });
        f();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("it is ours");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines that it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no thread panics with it").clone()
    }

    /// An upgraded connection with a token for a call.
    pub fn upgrade_as(&self, tenant: &str, interaction: &str) -> Peer {
        let mut peer = Peer::connect(self.address);
        peer.upgrade(&crate::mint(tenant, interaction));
        peer
    }

    /// A started call.
    pub fn call_as(&self, tenant: &str, interaction: &str) -> Peer {
        let mut peer = self.upgrade_as(tenant, interaction);
        peer.start(tenant, interaction);
        peer
    }

    /// A call that threads of its own play. `seed` makes its audio; a pause follows each frame.
    pub fn play(&self, interaction: &str, seed: u64, pause: Duration) -> Player {
        Player::start((self.address, self.pid()), interaction, seed, pause)
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
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a field of every process");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub fn terminate(self) -> ExitStatus {
        self.start_drain();
        self.wait()
    }

    /// Waits for its end, after `start_drain` or without it.
    #[track_caller]
    pub fn wait(mut self) -> ExitStatus {
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
