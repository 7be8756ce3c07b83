//! Hosts that lack something. Before it serves, the node says what is missing and what to do. Or it
//! runs without it and says so.
//!
//! These tests set limits of the processes that they start. Where they may not, they print why and
//! skip the part that needs it.

use crate::EXO_INGEST;
use exo_ingest_harness::{Keys, PATIENCE, TENANT, is_installed, mint, wire};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// A directory with a key file that other users may use too.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("ours");
        std::fs::write(directory.path().join("public.pem"), Keys::First.public_pem())
            .expect("a file");
        Place { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `exo-ingest serve`, started by other programs that set its limits.
    fn serve(&self, before: &[&str], args: &[&str]) -> Command {
        let key = self.path().join("public.pem");
        let mut words: Vec<&str> = before.to_vec();
        words.extend([
            EXO_INGEST,
            "serve",
            "--no-journal",
            "--set",
            "limits.ring_size=16MiB",
            "--jwt-key",
        ]);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(key)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(args);
        command.current_dir(self.path());
        command
    }
}

/// Runs a node that must refuse to start; returns its error.
#[track_caller]
fn refusal(case: &str, command: &mut Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(case);
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
    assert!(
        !output.status.success() && output.stdout.is_empty(),
        "{case}: {} {errors}",
        output.status
    );
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

/// A node that must run, stopped at the end of the test.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    #[track_caller]
    fn start(command: &mut Command) -> Running {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command");
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

/// A command that runs a program as a user without privileges, with this many bytes of lockable
/// memory. `None` if this test may not do so; the reason is printed. Each time it is another user,
/// because the kernel counts the locked memory of all processes of a user together.
fn unprivileged(lockable: usize) -> Option<Vec<String>> {
    static NEXT: AtomicU32 = AtomicU32::new(61_000);
    let user = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut words = vec![
        "prlimit".to_owned(),
        format!("--memlock={lockable}:{lockable}"),
        "setpriv".to_owned(),
    ];
    words.extend([
        format!("--reuid={user}"),
        format!("--regid={user}"),
        "--clear-groups".to_owned(),
    ]);
    words.extend(["--bounding-set=-all".to_owned(), "--inh-caps=-all".to_owned()]);
    match Command::new(&words[0]).args(&words[1..]).args([EXO_INGEST, "--version"]).output() {
        Ok(output) if output.status.success() => Some(words),
        Ok(output) => {
            println!(
                "left out, this test may not become another user: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            None
        }
        Err(error) => {
            println!("left out, there is no prlimit: {error}");
            None
        }
    }
}

/// 64 KiB: the limit for users on some hosts.
const LOCKABLE: usize = 65_536;

/// [`Place::serve`] as an [`unprivileged`] user.
fn serve_unprivileged(place: &Place, args: &[&str]) -> Option<Command> {
    let words = unprivileged(LOCKABLE)?;
    Some(place.serve(&words.iter().map(String::as_str).collect::<Vec<_>>(), args))
}

#[test]
fn too_little_lockable_memory() {
    let place = Place::new();
    let Some(mut command) = serve_unprivileged(&place, &["--shards", "1"]) else { return };
    let line = refusal("64 KiB of lockable memory", &mut command);
    assert_names(
        &line,
        &["ulimit -l", "--allow-unregistered", "64 KiB", "LimitMEMLOCK", "frame ring"],
    );
    // Some of several shards may get their memory. The node must still not start.
    let Some(mut command) = serve_unprivileged(&place, &["--shards", "4"]) else { return };
    let line = refusal("64 KiB of lockable memory, 4 shards", &mut command);
    assert_names(&line, &["ulimit -l", "64 KiB", "LimitMEMLOCK"]);
    let Some(mut command) = serve_unprivileged(&place, &["--allow-unregistered", "--shards", "1"])
    else {
        return;
    };
    let node = Running::start(&mut command);
    node.answers(&wire::upgrade_request(&mint(TENANT, "call")), "101");
    let log = node.stop();
    assert!(log.contains("not registered") && log.contains("ulimit -l"), "{log}");
}

#[test]
fn dev_runs_without_privileges() {
    let Some(words) = unprivileged(LOCKABLE) else { return };
    let place = Place::new();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([EXO_INGEST, "dev", "--listen", "127.0.0.1:0", "--admin", "off"])
        .current_dir(place.path());
    let node = Running::start(&mut command);
    node.answers("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    let log = node.stop();
    assert!(log.contains("not registered"), "{log}");
}

/// Without a configured size the ring is as large as the memory that may be locked.
#[test]
fn a_ring_that_fits_the_lockable_memory() {
    let Some(words) = unprivileged(8 << 20) else { return };
    let place = Place::new();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([EXO_INGEST, "serve", "--shards", "1", "--data-dir", "data"])
        .current_dir(place.path());
    command.args([
        "--jwt-key",
        "public.pem",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
        "--set",
        "journal.reserve=off",
    ]);
    // The smallest ring for the default number of connections is larger.
    command.args(["--set", "limits.connections_max=200"]);
    let node = Running::start(&mut command);
    node.answers(&wire::upgrade_request(&mint(TENANT, "call")), "101");
    let log = node.stop();
    assert_names(
        &log,
        &[
            "WARN",
            "limits.ring_size",
            "computed",
            "200 calls, not 2.0 s",
            "RLIMIT_MEMLOCK",
            "LimitMEMLOCK=",
        ],
    );
    assert_names(&log, &["frame ring", "a shard: bridges a disk stall of"]);
    assert!(!log.contains("not registered"), "{log}");
}

#[test]
fn too_few_open_files() {
    if !is_installed("prlimit") {
        return;
    }
    let place = Place::new();
    let before = ["prlimit", "--nofile=250:250"];
    let line = refusal(
        "250 open files",
        &mut place.serve(&before, &["--allow-unregistered", "--max-calls", "1000"]),
    );
    assert_names(&line, &["250", "--max-calls", "ulimit -Hn", "LimitNOFILE"]);
    let args = ["--allow-unregistered", "--max-calls", "50", "--shards", "1"];
    let node = Running::start(&mut place.serve(&before, &args));
    node.answers("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    node.stop();
}

#[test]
fn too_little_memory() {
    if !is_installed("prlimit") {
        return;
    }
    let place = Place::new();
    let args = ["--allow-unregistered", "--shards", "1", "--set", "limits.connections_max=100"];
    let mut command = place.serve(&["prlimit", "--as=1500000000"], &args);
    command.env("EXO_INGEST_LIMITS_RING_SIZE", "1GiB");
    let words: Vec<String> =
        command.get_args().map(|word| word.to_string_lossy().replace("=16MiB", "=1GiB")).collect();
    let mut command = Command::new("prlimit");
    command.args(words).current_dir(place.path());
    let line = refusal("1 GiB of ring in 1.4 GiB of address space", &mut command);
    assert_names(&line, &["limits.ring_size", "memory"]);
}

/// Sets a seccomp filter as containers do: `io_uring_setup` (425 on all platforms) fails with this
/// errno.
pub(crate) const WITHOUT_IO_URING: &str = r"
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
filter = Filter(4, ctypes.addressof(buffer))
set_up = libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter), 0, 0)
sys.exit(77) if set_up else os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn io_uring_forbidden_by_a_container() {
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    let tried = Command::new("python3")
        .args(["-c", WITHOUT_IO_URING, EPERM, EXO_INGEST, "--version"])
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        println!("left out, there is no python3 that may set a seccomp filter");
        return;
    }
    let place = Place::new();
    for errno in [EPERM, ENOSYS] {
        let before = ["python3", "-c", WITHOUT_IO_URING, errno];
        let line = refusal(
            "seccomp without io_uring",
            &mut place.serve(&before, &["--allow-unregistered"]),
        );
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
        let mut command = Command::new(EXO_INGEST);
        command.args([
            "serve",
            "--no-journal",
            "--allow-unregistered",
            "--set",
            "limits.ring_size=16MiB",
            "--jwt-key",
        ]);
        command.arg(key).args(["--admin", "off"]).args(args);
        command
    };
    let line = refusal("a port in use", &mut serve(&["--listen", &taken]));
    assert_names(&line, &[&taken, "in use", "--listen"]);
    let line = refusal("an address of another host", &mut serve(&["--listen", "192.0.2.1:8443"]));
    assert_names(&line, &["192.0.2.1:8443", "not an address of this host"]);
    let line = refusal(
        "a CPU that is not there",
        &mut serve(&["--listen", "127.0.0.1:0", "--cpus", "1023"]),
    );
    assert_names(&line, &["1023", "cpus"]);
}
