//! A real node with a journal, and hands that damage what it wrote: byte by byte, checksums made
//! right again where asked for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use exo_ingest_harness::{NodeProcess, TENANT, mint};
use serde_json::Value;

/// The node's binary. A test of the whole workspace has built it already; else it is built now.
pub fn node_binary() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_exo-load")).with_file_name("exo-ingest");
        if !path.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--package", "exo-ingest", "--bin", "exo-ingest"]);
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the node cannot be built");
        }
        path.to_str().expect("a path in UTF-8").to_owned()
    })
}

/// A node on `data_dir` that takes one token for all calls of [`TENANT`].
pub fn node(data_dir: &Path, args: &[&str]) -> NodeProcess {
    let all: Vec<&str> = ["--claim-match", "tenant", "--set", "journal.reserve=1MiB"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    NodeProcess::start(node_binary(), data_dir, &all)
}

/// A node with several shards. Killed when it goes out of scope.
pub struct Sharded {
    child: Child,
    pub address: SocketAddr,
    _keys: tempfile::TempDir,
}

impl Sharded {
    pub fn start(data_dir: &Path, shards: u16) -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let key = keys.path().join("key.pem");
        fs::write(&key, exo_ingest_harness::Keys::First.public_pem()).expect("a key");
        let mut command = Command::new(node_binary());
        command.env_clear().args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--allow-unregistered",
            "--claim-match",
            "tenant",
        ]);
        command.args([
            "--set",
            "limits.ring_size=16MiB",
            "--set",
            "journal.segment_size=4MiB",
            "--set",
            "journal.reserve=1MiB",
        ]);
        command
            .arg("--shards")
            .arg(shards.to_string())
            .arg("--jwt-key")
            .arg(&key)
            .arg("--data-dir")
            .arg(data_dir);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("a line");
        let address =
            line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        Self { child, address: address.expect("it serves"), _keys: keys }
    }
}

impl Drop for Sharded {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `exo-load run` at `address`; exit code and result.
pub fn run(address: SocketAddr, flags: &[&str]) -> (i32, Value) {
    run_at(&format!("ws://{address}/v1/ingest"), flags)
}

/// The same at any URL.
pub fn run_at(url: &str, flags: &[&str]) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exo-load"));
    command.args(["run", "--url", url, "--json"]);
    // The machine may be busy: only what the node does and what is in its journal can fail a run.
    command.args([
        "--sendlag-max",
        "1h",
        "--cpu-max",
        "100000",
        "--ack-timeout",
        "1m",
        "--stop-timeout",
        "1m",
    ]);
    let (code, result) = json(
        command.args(["--setup-timeout", "1m"]).args(flags).env("JWT_TOKEN", mint(TENANT, "x")),
    );
    crate::schema::check(&result);
    (code, result)
}

/// Runs `exo-load verify`; exit code and result.
pub fn verify(out: &Path, data_dir: &Path, flags: &[&str]) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exo-load"));
    json(command.arg("verify").arg(out).arg("--data-dir").arg(data_dir).arg("--json").args(flags))
}

fn json(command: &mut Command) -> (i32, Value) {
    let output = command.output().expect("exo-load starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let json =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    (output.status.code().expect("an exit code"), json)
}

/// The segments of a data directory with one run and one shard, oldest first.
pub fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let is_run = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-"))
    };
    let runs: Vec<PathBuf> = entries(data_dir).into_iter().filter(is_run).collect();
    assert_eq!(runs.len(), 1);
    let files = entries(&runs[0].join("shard-0")).into_iter();
    files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

/// Copies a data directory.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for path in entries(from) {
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}

/// An audio record: where its batch and its header are in the file, its payload's size, and its
/// frame.
#[derive(Debug, Clone, Copy)]
pub struct AudioRecord {
    pub batch: usize,
    pub at: usize,
    pub length: usize,
    pub seq: u64,
    pub call: u64,
}

impl AudioRecord {
    /// Where its payload is.
    pub fn payload(&self) -> std::ops::Range<usize> {
        self.at + 64..self.at + 64 + self.length
    }
}

/// A segment in memory.
pub struct Image {
    path: PathBuf,
    pub bytes: Vec<u8>,
}

impl Image {
    pub fn read(path: &Path) -> Self {
        Self { path: path.to_owned(), bytes: fs::read(path).expect("a segment") }
    }

    pub fn write(&self) {
        fs::write(&self.path, &self.bytes).expect("a segment");
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    /// Where its batches are, and how large.
    pub fn batches(&self) -> Vec<(usize, usize)> {
        let (mut batches, mut at) = (Vec::new(), 4_096);
        while self.bytes.get(at..at + 4) == Some(b"XBAT")
            && self.bytes[at + 16..at + 32] == self.bytes[32..48]
        {
            let size = self.u32(at + 8) as usize;
            batches.push((at, size));
            at += size;
        }
        batches
    }

    fn records(&self, (batch, size): (usize, usize)) -> Vec<usize> {
        let (mut records, mut at) = (Vec::new(), batch + 64);
        while at < batch + size {
            records.push(at);
            at += 64 + (self.u32(at + 8) as usize).next_multiple_of(64);
        }
        records
    }

    /// Its audio.
    pub fn audio(&self) -> Vec<AudioRecord> {
        let batches = self.batches().into_iter();
        let records =
            batches.flat_map(|batch| self.records(batch).into_iter().map(move |at| (batch.0, at)));
        let audio = records.filter(|(_, at)| self.bytes[at + 12] == 2);
        let record = |(batch, at)| AudioRecord {
            batch,
            at,
            length: self.u32(at + 8) as usize,
            seq: self.u64(at + 40),
            call: self.u64(at + 16),
        };
        audio.map(record).collect()
    }

    /// A record that holds a whole frame, after `from`.
    pub fn whole_frame(&self, from: usize, size: usize) -> AudioRecord {
        let audio = self.audio();
        *audio
            .iter()
            .find(|record| record.at > from && record.length == size)
            .expect("a frame in one piece")
    }

    /// Makes all checksums of a record and its batch right.
    pub fn seal(&mut self, record: &AudioRecord) {
        let crc = crc32c::crc32c(&self.bytes[record.payload()]);
        self.bytes[record.at + 4..record.at + 8].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[record.at + 4..record.at + 64]);
        self.bytes[record.at..record.at + 4].copy_from_slice(&crc.to_le_bytes());
        let (batch, size) = (record.batch, self.u32(record.batch + 8) as usize);
        let records = self.records((batch, size));
        let crc = records
            .into_iter()
            .fold(0, |crc, at| crc32c::crc32c_append(crc, &self.bytes[at..at + 4]));
        self.bytes[batch + 56..batch + 60].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[batch..batch + 60]);
        self.bytes[batch + 60..batch + 64].copy_from_slice(&crc.to_le_bytes());
    }
}
