//! A node that the search starts and ends, as `--node COMMAND` says.
//!
//! The command is run by `sh -c "exec COMMAND"`, so that the process is the node itself, in a
//! process group of its own. `{cores}`, `{port}`, `{admin_port}` and `{dir}` in it are replaced.
//! Once it serves, it prints `listening on ADDRESS`, as `exo-ingest serve` does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A node that does not serve by then never does. Laying out a large journal takes some seconds.
const START_WAIT: Duration = Duration::from_secs(120);

/// A node drains for 30 s by default.
const END_WAIT: Duration = Duration::from_secs(45);

/// So much of the node's last words is shown.
const LAST_WORDS: usize = 2_000;

/// A node. Its process ends with it.
pub struct StartedNode {
    child: Child,
    /// Where it listens: `127.0.0.1:8443`.
    pub address: String,
    /// Its admin address, if the command has `{admin_port}`.
    pub admin: Option<String>,
    /// Holds `{dir}`, and removes it.
    _dir: TemporaryDirectory,
}

impl StartedNode {
    /// Starts the command and waits until it serves. `{dir}` is a new directory in `parent`.
    pub fn start(command: &str, cores: Option<u64>, parent: &Path) -> Result<Self, String> {
        let dir = TemporaryDirectory::new(parent)?;
        let [port, admin_port] = [free_port()?, free_port()?];
        let filled = filled(command, cores, port, admin_port, &dir.0)?;
        let log = dir.0.with_extension("log");
        let stderr = File::create(&log)
            .map_err(|error| format!("--node: cannot write {}: {error}", log.display()))?;
        let child = Command::new("sh")
            .args(["-c", &format!("exec {filled}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("--node: cannot start a shell: {error}"))?;
        let admin = command.contains("{admin_port}").then(|| format!("127.0.0.1:{admin_port}"));
        let mut node = Self { child, address: String::new(), admin, _dir: dir };
        node.address = node.await_address().ok_or_else(|| {
            let words = std::fs::read_to_string(&log).unwrap_or_default();
            let last: String = words
                .char_indices()
                .filter(|(at, _)| at + LAST_WORDS >= words.len())
                .map(|(_, letter)| letter)
                .collect();
            format!(
                "--node: it did not print 'listening on ADDRESS'; the command was: {filled}\n{}",
                last.trim_end()
            )
        })?;
        Ok(node)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address of its first line; none if it ends or is silent.
    fn await_address(&mut self) -> Option<String> {
        let stdout = self.child.stdout.take()?;
        let (found, address) = channel();
        // It reads on, so that a node that prints more is not stopped by a full pipe.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            while matches!(lines.read_line(&mut line), Ok(1..)) {
                if let Some(address) = line.trim().strip_prefix("listening on ") {
                    // The search may have given up on it.
                    let _ = found.send(address.to_owned());
                    break;
                }
                line.clear();
            }
            drop(found);
            let _ = lines.read_to_end(&mut Vec::new());
        });
        address.recv_timeout(START_WAIT).ok()
    }

    fn signal(&self, signal: Signal) {
        // It may have ended already.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for StartedNode {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + END_WAIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Puts the values into the command. Each value is a number or a path of our own, quoted.
fn filled(
    command: &str,
    cores: Option<u64>,
    port: u16,
    admin_port: u16,
    dir: &Path,
) -> Result<String, String> {
    if command.contains("{cores}") && cores.is_none() {
        return Err("--node: {cores} takes --sweep cores=1,2,… or --sweep cores=1".to_owned());
    }
    if cores.is_some() && !command.contains("{cores}") {
        return Err("--sweep: the command of --node needs {cores}, such as --shards {cores}".into());
    }
    let dir = dir.to_str().filter(|dir| !dir.contains('\'')).ok_or("--node-dir: an odd name")?;
    Ok(command
        .replace("{cores}", &cores.unwrap_or(0).to_string())
        .replace("{port}", &port.to_string())
        .replace("{admin_port}", &admin_port.to_string())
        .replace("{dir}", &format!("'{dir}'")))
}

/// A port that is free now.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0");
    let port = listener.and_then(|listener| Ok(listener.local_addr()?.port()));
    port.map_err(|error| format!("--node: no free port: {error}"))
}

/// A directory that this process has made, and removes with all that is in it.
struct TemporaryDirectory(std::path::PathBuf);

impl TemporaryDirectory {
    fn new(parent: &Path) -> Result<Self, String> {
        let failed = |error| format!("--node-dir: cannot write to {}: {error}", parent.display());
        std::fs::create_dir_all(parent).map_err(failed)?;
        let parent = parent.canonicalize().map_err(failed)?;
        let name = format!("exo-load-node-{:016x}", fastrand::u64(..));
        let path = parent.join(name);
        std::fs::create_dir(&path).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // What cannot be removed stays, and its name says whose it is.
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("log"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_into_the_command() {
        let fill = |command, cores| filled(command, cores, 1_234, 9_464, Path::new("/d"));
        assert_eq!(
            fill("node --shards {cores} --listen :{port} --admin :{admin_port} -d {dir}", Some(2)),
            Ok("node --shards 2 --listen :1234 --admin :9464 -d '/d'".to_owned())
        );
        assert!(fill("node {cores}", None).unwrap_err().contains("--sweep cores="));
        assert!(fill("node", Some(2)).unwrap_err().contains("needs {cores}"));
    }

    #[test]
    fn a_node_is_started_and_ended() {
        let parent = tempfile::tempdir().unwrap();
        let command = "sh -c 'echo listening on 127.0.0.1:{port}; touch \"$0\"/x; sleep 60' {dir}";
        let node = StartedNode::start(command, None, parent.path()).unwrap();
        assert!(node.address.starts_with("127.0.0.1:") && node.admin.is_none());
        let pid = Pid::from_raw(node.pid().cast_signed()).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok());
        drop(node);
        assert!(rustix::process::test_kill_process(pid).is_err(), "it has ended");
        assert_eq!(parent.path().read_dir().unwrap().count(), 0, "nothing stays");
    }

    #[test]
    fn a_node_that_does_not_serve_is_reported_with_its_last_words() {
        let parent = tempfile::tempdir().unwrap();
        let start = |command| StartedNode::start(command, None, parent.path()).err().unwrap();
        let error = start("sh -c 'echo no key >&2; exit 2'");
        assert!(error.contains("no key") && error.contains("listening on"), "{error}");
        assert!(start("/no/such/node --port {port}").contains("/no/such/node --port"));
    }
}
