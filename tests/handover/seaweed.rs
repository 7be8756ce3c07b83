//! SeaweedFS: an object store with the interface of S3, as a process of the test.

use exo_ingest_harness::PATIENCE;
use exo_ingest_harness::certificates::Issued;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const ACCESS_KEY: &str = "exo";
pub(crate) const SECRET_KEY: &str = "a secret of tests";

/// Held while a server starts.
static STARTS: Mutex<()> = Mutex::new(());

/// A server with an empty bucket `recordings`. It is killed when this is dropped.
pub(crate) struct Seaweed {
    dir: TempDir,
    program: PathBuf,
    ports: Vec<u16>,
    child: Child,
}

impl Seaweed {
    /// Starts one. `None` if it is not installed: then the test is left out.
    pub(crate) fn start() -> Option<Seaweed> {
        Seaweed::start_with(&identities(SECRET_KEY), None, None)
    }

    /// One that keeps its objects in this directory, for example of a small disk.
    pub(crate) fn start_on(files: &Path) -> Option<Seaweed> {
        Seaweed::start_with(&identities(SECRET_KEY), Some(files), None)
    }

    /// One that takes requests without a signature.
    pub(crate) fn start_open() -> Option<Seaweed> {
        let actions = r#"["Admin","Read","Write","List","Tagging"]"#;
        let identity = format!(r#"{{"identities":[{{"name":"anonymous","actions":{actions}}}]}}"#);
        Seaweed::start_with(&identity, None, None)
    }

    /// One that has a port for TLS, too: [`Seaweed::tls_port`].
    pub(crate) fn start_tls(certificate: &Issued) -> Option<Seaweed> {
        Seaweed::start_with(&identities(SECRET_KEY), None, Some(certificate))
    }

    fn start_with(
        identities: &str,
        files: Option<&Path>,
        certificate: Option<&Issued>,
    ) -> Option<Seaweed> {
        let target = Path::new(crate::EXO_INGEST).ancestors().nth(2).expect("target/debug/NAME");
        let mut program = target.join("handover/python/bin/weed");
        if !program.exists() {
            let words = "SeaweedFS is not installed: run tests/handover/install.sh";
            assert!(std::env::var_os("CI").is_none_or(|set| set != "true"), "{words}");
            println!("skipped: {words}");
            return None;
        }
        let mut dir = tempfile::tempdir().unwrap();
        match files {
            Some(files) => std::os::unix::fs::symlink(files, dir.path().join("files")).unwrap(),
            None => std::fs::create_dir(dir.path().join("files")).unwrap(),
        }
        std::fs::write(dir.path().join("s3.json"), identities).unwrap();
        certificate.iter().for_each(|certificate| drop(certificate.write(dir.path(), "s3")));
        // One after the other: a port that was free may be taken by the next server.
        let _turn = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..5 {
            let ports = free_ports();
            let child = spawn(&program, dir.path(), &ports);
            let mut server = Seaweed { dir, program, ports, child };
            if server.answers(2 * PATIENCE) {
                server.shell("s3.bucket.create -name recordings");
                return Some(server);
            }
            server.kill();
            dir = std::mem::replace(&mut server.dir, tempfile::tempdir().unwrap());
            program = std::mem::take(&mut server.program);
        }
        panic!("SeaweedFS does not start: {}", log(dir.path()));
    }

    /// Whether it answers and can store in this time. `false`: it has ended, because a port was
    /// taken, or its master does not become the leader.
    fn answers(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < time {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            // The master must know its volume server before anything can be stored.
            if self.request("GET", 6, "/").starts_with("HTTP/1.1 ")
                && self.request("GET", 0, "/dir/assign").contains("\"fid\"")
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Stops it (SIGSTOP), calls `f`, and continues it.
    pub(crate) fn while_stopped(&self, f: impl FnOnce()) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        f();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    }

    /// Starts it again, on the same ports and files.
    pub(crate) fn restart(&mut self) {
        // The state of its master's leader is not always whole after a kill, and then there is no
        // leader any more. The objects are not in it.
        let state = self.dir.path().join(format!("files/m{}", self.ports[0]));
        for _ in 0..3 {
            let _ = std::fs::remove_dir_all(&state);
            self.child = spawn(&self.program, self.dir.path(), &self.ports);
            if self.answers(PATIENCE) {
                return;
            }
            self.kill();
        }
        panic!("SeaweedFS does not start again: {}", log(self.dir.path()));
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A copy of all that it has stored. It does not run.
    pub(crate) fn copy_files(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&self.dir.path().join("files"), copy.path());
        copy
    }

    /// It has what the copy has, and nothing since. It does not run.
    pub(crate) fn roll_back(&self, copy: &TempDir) {
        let files = self.dir.path().join("files");
        std::fs::remove_dir_all(&files).unwrap();
        std::fs::create_dir(&files).unwrap();
        copy_dir(copy.path(), &files);
    }

    /// From its next start on it takes another secret key.
    pub(crate) fn change_secret(&self, secret: &str) {
        std::fs::write(self.dir.path().join("s3.json"), identities(secret)).unwrap();
    }

    /// The port of its S3 interface.
    pub(crate) fn port(&self) -> u16 {
        self.ports[6]
    }

    /// The port of its S3 interface with TLS.
    pub(crate) fn tls_port(&self) -> u16 {
        self.ports[8]
    }

    /// The options to reach it, with its credentials.
    pub(crate) fn options(&self) -> Vec<String> {
        vec![
            format!("endpoint=http://127.0.0.1:{}", self.port()),
            "allow_http=true".to_owned(),
            "region=us-east-1".to_owned(),
            format!("access_key_id={ACCESS_KEY}"),
            format!("secret_access_key={SECRET_KEY}"),
        ]
    }

    /// Loses an object, as a disk does that is rolled back.
    pub(crate) fn lose(&self, name: &str) {
        let answer = self.request("DELETE", 4, &format!("/buckets/recordings/exo/{name}"));
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }

    /// A file of the store, past its S3 interface, after the head of an answer.
    pub(crate) fn file(&self, path: &str) -> Vec<u8> {
        self.bytes("GET", 4, path)
    }

    fn shell(&self, command: &str) {
        let mut shell = Command::new(&self.program);
        let master = format!("-master=127.0.0.1:{}.{}", self.ports[0], self.ports[1]);
        shell.args(["shell", &master]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = shell.stderr(Stdio::null()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(format!("{command}\n").as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    /// An answer of one of its servers; empty if there is none.
    fn request(&self, method: &str, port: usize, path: &str) -> String {
        String::from_utf8_lossy(&self.bytes(method, port, path)).into_owned()
    }

    fn bytes(&self, method: &str, port: usize, path: &str) -> Vec<u8> {
        let mut answer = Vec::new();
        if let Ok(mut socket) = TcpStream::connect(("127.0.0.1", self.ports[port])) {
            let head =
                format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            let _ = socket.write_all(head.as_bytes());
            let _ = socket.read_to_end(&mut answer);
        }
        answer
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who may use it, in its own words.
fn identities(secret: &str) -> String {
    format!(
        r#"{{"identities":[{{"name":"node","actions":["Admin","Read","Write","List","Tagging"],
        "credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{secret}"}}]}}]}}"#
    )
}

fn copy_dir(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    assert!(copy.arg("-a").arg(from.join(".")).arg(to).status().unwrap().success());
}

/// Ports that differ, because all are taken at once.
fn free_ports() -> Vec<u16> {
    let taken: Vec<_> = (0..9).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    taken.iter().map(|socket| socket.local_addr().unwrap().port()).collect()
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

fn spawn(program: &Path, dir: &Path, ports: &[u16]) -> Child {
    let mut command = Command::new(program);
    command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
    command.args(["-dir=files", "-s3.config=s3.json", "-volume.max=0"]);
    // These have fixed ports otherwise.
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command.args(["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]);
    let flags = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
    ];
    for (flag, port) in flags.iter().zip(ports) {
        command.arg(format!("-{flag}={port}"));
    }
    if dir.join("s3.pem").exists() {
        command.arg(format!("-s3.port.https={}", ports[8]));
        command.args(["-s3.cert.file=s3.pem", "-s3.key.file=s3-key.pem"]);
    }
    let log = std::fs::File::create(dir.join("log")).unwrap();
    command.current_dir(dir).env("TMPDIR", dir).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}
