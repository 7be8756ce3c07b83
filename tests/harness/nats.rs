//! A real NATS server with JetStream, alone or three as a cluster, on ports of their own.

use crate::eventually;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One server of a [`NatsCluster`].
#[derive(Debug)]
struct Server {
    port: u16,
    configuration: PathBuf,
    /// The configuration without what a test adds.
    basic: String,
    process: Option<Child>,
}

/// Servers that share their streams. They are killed when this is dropped.
#[derive(Debug)]
pub struct NatsCluster {
    program: PathBuf,
    servers: Vec<Server>,
    dir: tempfile::TempDir,
}

impl NatsCluster {
    /// Starts this many servers, 1 or 3. The program is in this directory of programs. `None` if it
    /// is not installed: the test is left out, or fails in CI.
    pub fn start(programs: &Path, count: usize) -> Option<NatsCluster> {
        NatsCluster::start_with(programs, count, "")
    }

    /// The same with more lines of configuration.
    pub fn start_with(programs: &Path, count: usize, more: &str) -> Option<NatsCluster> {
        let program = installed(programs)?;
        let dir = tempfile::tempdir().expect("a directory");
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> =
            ports.iter().map(|(_, route)| format!("nats-route://127.0.0.1:{route}")).collect();
        let servers = ports.iter().enumerate().map(|(number, (port, route))| {
            let configuration = dir.path().join(format!("{number}.conf"));
            let cluster = match count {
                1 => String::new(),
                _ => format!(
                    "cluster {{ name: exo, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                    routes.join(", ")
                ),
            };
            let text = format!(
                "listen: \"127.0.0.1:{port}\"\nserver_name: n{number}\n{cluster}\
                 jetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
                dir.path().join(format!("{number}")).display()
            );
            std::fs::write(&configuration, text.clone() + more).expect("a configuration");
            Server { port: *port, configuration, basic: text, process: None }
        });
        let servers = servers.collect();
        let mut cluster = NatsCluster { program, servers, dir };
        (0..count).for_each(|number| cluster.restart(number));
        Some(cluster)
    }

    /// The addresses of all servers, as commands take them.
    pub fn url(&self) -> String {
        self.url_with("nats://")
    }

    /// The same with another beginning, such as `tls://` or `nats://USER:PASSWORD@`.
    pub fn url_with(&self, start: &str) -> String {
        let urls = self.servers.iter().map(|server| format!("{start}127.0.0.1:{}", server.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// All servers take other lines of configuration, without a restart (SIGHUP).
    pub fn reload_with(&self, more: &str) {
        for (number, server) in self.servers.iter().enumerate() {
            let text = server.basic.clone() + more;
            std::fs::write(&server.configuration, text).expect("a configuration");
            let pid = Pid::from_raw(self.pid(number) as i32).expect("a process");
            kill_process(pid, Signal::HUP).expect("a server that runs");
        }
    }

    /// Where the servers keep their streams.
    pub fn data(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{number}"))
    }

    /// Process of a server that runs.
    pub fn pid(&self, number: usize) -> u32 {
        self.servers[number].process.as_ref().expect("a server that runs").id()
    }

    /// Kills a server with SIGKILL.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.servers[number].process.take() {
            process.kill().expect("a process to kill");
            process.wait().expect("a process that ended");
        }
    }

    /// Starts a server that was killed, and waits until it listens.
    pub fn restart(&mut self, number: usize) {
        let server = &mut self.servers[number];
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&server.configuration).stdout(Stdio::null());
        let mut process =
            command.stderr(Stdio::piped()).process_group(0).spawn().expect("a server");
        let log = process.stderr.take().expect("its log");
        let path = server.configuration.with_extension("log");
        std::thread::spawn(move || {
            let lines = BufReader::new(log).lines().map_while(Result::ok);
            let text: Vec<String> = lines.collect();
            let _ = std::fs::write(path, text.join("\n"));
        });
        server.process = Some(process);
        let port = server.port;
        eventually("the engine listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}

impl Drop for NatsCluster {
    fn drop(&mut self) {
        (0..self.servers.len()).for_each(|number| self.kill(number));
    }
}

/// The server that `tests/handover/install.sh` has installed.
fn installed(programs: &Path) -> Option<PathBuf> {
    let program = programs.join("nats-server");
    if program.exists() {
        return Some(program);
    }
    let words = "nats-server is not installed: run tests/handover/install.sh";
    assert!(std::env::var_os("CI").is_none(), "{words}");
    println!("{words}; this test is left out");
    None
}

/// A port that is free now. Another process may take it before the server does: then the server
/// does not start, and the test fails.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
