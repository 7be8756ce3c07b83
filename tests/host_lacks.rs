//! Hosts that lack something: the node says what, and what to do about it, before it serves; or runs without and says so.
//!
//! The limits of these tests are those of the processes they start. Where this test may not set them, it prints why and
//! leaves out what needs them.
#![forbid(unsafe_code)]

use exo_ingest_harness::{Keys, PATIENCE, TENANT, mint, wire};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_exo-ingest");

/// A directory that other users may use as well, with a key file.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("ours");
        std::fs::write(directory.path().join("public.pem"), Keys::First.public_pem()).expect("a file");
        Place { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `exo-ingest serve` behind other programs that set its limits.
    fn serve(&self, before: &[&str], args: &[&str]) -> Command {
        let key = self.path().join("public.pem");
        let mut words: Vec<&str> = before.to_vec();
        words.extend([BINARY, "serve", "--no-journal", "--set", "limits.ring_size=16MiB", "--jwt-key"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(key).args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(args);
        command.current_dir(self.path());
        command
    }
}

/// Runs a node that is to refuse to start; returns what it says.
#[track_caller]
fn refusal(case: &str, command: &mut Command) -> String {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect(case);
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("{case}: it neither serves nor ends");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("an end");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success() && output.stdout.is_empty(), "{case}: {} {errors}", output.status);
    let line = errors.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let line = line.unwrap_or_else(|| panic!("{case}: no error: {errors}")).to_owned();
    println!("{case}\n  {line}");
    line
}

#[track_caller]
fn assert_names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "it does not name {word}: {line}");
    }
}

/// A node that is to run, stopped with the test.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    #[track_caller]
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let output = child.wait_with_output().expect("an end");
            panic!("it does not run: {}", String::from_utf8_lossy(&output.stderr));
        };
        Running { address: address.to_owned(), child }
    }

    fn answers(&self, request: &str, status: &str) {
        let mut socket = TcpStream::connect(&self.address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.write_all(request.as_bytes()).expect("it reads");
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).expect("a line");
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{line}");
    }

    /// Ends it; returns its log.
    fn stop(mut self) -> String {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(status.success());
        let mut log = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut log).expect("UTF-8");
        assert!(self.child.wait().expect("an end").success(), "{log}");
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Words that run a program as a user without privileges and with 64 KiB of lockable memory; `None`, with the reason printed,
/// where this test cannot. Each time it is another user: the kernel adds up what all processes of one have locked.
fn unprivileged() -> Option<Vec<String>> {
    static NEXT: AtomicU32 = AtomicU32::new(61_000);
    let user = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut words = vec!["prlimit".to_owned(), "--memlock=65536:65536".to_owned(), "setpriv".to_owned()];
    words.extend([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    words.extend(["--bounding-set=-all".to_owned(), "--inh-caps=-all".to_owned()]);
    match Command::new(&words[0]).args(&words[1..]).args([BINARY, "--version"]).output() {
        Ok(output) if output.status.success() => Some(words),
        Ok(output) => {
            println!("left out, this test may not become another user: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            println!("left out, there is no prlimit: {error}");
            None
        }
    }
}

/// [`Place::serve`] by [`unprivileged`].
fn serve_unprivileged(place: &Place, args: &[&str]) -> Option<Command> {
    let words = unprivileged()?;
    Some(place.serve(&words.iter().map(String::as_str).collect::<Vec<_>>(), args))
}

#[test]
fn too_little_lockable_memory() {
    let place = Place::new();
    let Some(mut command) = serve_unprivileged(&place, &["--shards", "1"]) else { return };
    let line = refusal("64 KiB of lockable memory", &mut command);
    assert_names(&line, &["ulimit -l", "--allow-unregistered", "64 KiB", "LimitMEMLOCK", "frame ring"]);
    // Among several shards some may get what they need: the node does not start all the same.
    let Some(mut command) = serve_unprivileged(&place, &["--shards", "4"]) else { return };
    let line = refusal("64 KiB of lockable memory, 4 shards", &mut command);
    assert_names(&line, &["ulimit -l", "64 KiB", "LimitMEMLOCK"]);
    let Some(mut command) = serve_unprivileged(&place, &["--allow-unregistered", "--shards", "1"]) else { return };
    let node = Running::start(&mut command);
    node.answers(&wire::upgrade_request(&mint(TENANT, "call")), "101");
    let log = node.stop();
    assert!(log.contains("not registered") && log.contains("ulimit -l"), "{log}");
}

#[test]
fn dev_runs_without_privileges() {
    let Some(words) = unprivileged() else { return };
    let place = Place::new();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args([BINARY, "dev", "--listen", "127.0.0.1:0", "--admin", "off"]).current_dir(place.path());
    let node = Running::start(&mut command);
    node.answers("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    let log = node.stop();
    assert!(log.contains("not registered"), "{log}");
}

#[test]
fn too_few_open_files() {
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("left out, there is no prlimit");
        return;
    }
    let place = Place::new();
    let before = ["prlimit", "--nofile=250:250"];
    let line = refusal("250 open files", &mut place.serve(&before, &["--allow-unregistered", "--max-calls", "1000"]));
    assert_names(&line, &["250", "--max-calls", "ulimit -Hn", "LimitNOFILE"]);
    let args = ["--allow-unregistered", "--max-calls", "50", "--shards", "1"];
    let node = Running::start(&mut place.serve(&before, &args));
    node.answers("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    node.stop();
}

#[test]
fn too_little_memory() {
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("left out, there is no prlimit");
        return;
    }
    let place = Place::new();
    let args = ["--allow-unregistered", "--shards", "1", "--set", "limits.connections_max=100"];
    let mut command = place.serve(&["prlimit", "--as=1500000000"], &args);
    command.env("EXO_INGEST_LIMITS_RING_SIZE", "1GiB");
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().replace("=16MiB", "=1GiB")).collect();
    let mut command = Command::new("prlimit");
    command.args(words).current_dir(place.path());
    let line = refusal("1 GiB of ring in 1.4 GiB of address space", &mut command);
    assert_names(&line, &["limits.ring_size", "memory"]);
}

/// Sets a seccomp filter under which `io_uring_setup` (425 everywhere) fails with a given errno, as containers do.
const WITHOUT_IO_URING: &str = r"
import ctypes, os, struct, sys
def instruction(code, jt, jf, k): return struct.pack('HBBI', code, jt, jf, k)
program = b''.join([
    instruction(0x20, 0, 0, 0),                                  # A = number of the system call
    instruction(0x15, 0, 1, 425),                                # io_uring_setup?
    instruction(0x06, 0, 0, 0x00050000 | int(sys.argv[1])),      # fail
    instruction(0x06, 0, 0, 0x7fff0000),                         # else allow
])
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [('size', ctypes.c_ushort), ('program', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
set_up = libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(buffer))), 0, 0)
sys.exit(77) if set_up else os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn io_uring_forbidden_by_a_container() {
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    let tried = Command::new("python3").args(["-c", WITHOUT_IO_URING, EPERM, BINARY, "--version"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        println!("left out, there is no python3 that may set a seccomp filter");
        return;
    }
    let place = Place::new();
    for errno in [EPERM, ENOSYS] {
        let before = ["python3", "-c", WITHOUT_IO_URING, errno];
        let line = refusal("seccomp without io_uring", &mut place.serve(&before, &["--allow-unregistered"]));
        assert_names(&line, &["seccomp", "io_uring_setup"]);
    }
}

#[test]
fn a_port_in_use_a_foreign_address_and_a_cpu_that_is_not_there() {
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("bound").to_string();
    let serve = |args: &[&str]| {
        let key: PathBuf = place.path().join("public.pem");
        let mut command = Command::new(BINARY);
        command.args(["serve", "--no-journal", "--allow-unregistered", "--set", "limits.ring_size=16MiB", "--jwt-key"]);
        command.arg(key).args(["--admin", "off"]).args(args);
        command
    };
    let line = refusal("a port in use", &mut serve(&["--listen", &taken]));
    assert_names(&line, &[&taken, "in use", "--listen"]);
    let line = refusal("an address of another host", &mut serve(&["--listen", "192.0.2.1:8443"]));
    assert_names(&line, &["192.0.2.1:8443", "no address of this host"]);
    let line = refusal("a CPU that is not there", &mut serve(&["--listen", "127.0.0.1:0", "--cpus", "1023"]));
    assert_names(&line, &["1023", "cpus"]);
}
