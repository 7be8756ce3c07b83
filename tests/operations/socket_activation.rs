//! A listening socket from systemd (`LISTEN_FDS`) replaces `--listen`. All shards serve its
//! connections. Anything else that is passed is refused.

use crate::EXO_INGEST;
use exo_ingest_harness::{INTERACTION, Keys, NodeProcess, Peer, TENANT, mint, wire};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// What systemd does: it sets descriptor 3, and variables with the id of the process itself. A
/// shell can do that without unsafe code.
const PASS: &str = "LISTEN_PID=$$ LISTEN_FDS=${COUNT:-1} exec \"$@\" 3<&0 </dev/null";

struct Serving {
    child: Child,
    /// The node watches its key file.
    _key: tempfile::NamedTempFile,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `serve` with a passed descriptor and with `args`.
fn serve(passed: impl Into<OwnedFd>, variables: &[(&str, &str)], args: &[&str]) -> Serving {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), Keys::First.public_pem()).unwrap();
    let mut command = Command::new("/bin/sh");
    command.env_clear().envs(variables.iter().copied()).args([
        "-c",
        PASS,
        "sh",
        EXO_INGEST,
        "serve",
        "--no-journal",
    ]);
    command.args(["--allow-unregistered", "--admin", "off", "--set", "limits.ring_size=16MiB"]);
    command
        .args(["--max-calls", "100", "--set", "limits.connections_max=256", "--jwt-key"])
        .arg(key.path())
        .args(args);
    let child =
        command.stdin(passed.into()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    Serving { child, _key: key }
}

impl Serving {
    /// The address in the line that it prints when it serves.
    fn address(&mut self) -> SocketAddr {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("{line:?}: {}", self.errors()))
    }

    /// Standard error up to its end.
    fn errors(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Exit code and standard error of a node that does not serve.
    fn refusal(mut self) -> (Option<i32>, String) {
        let errors = self.errors();
        (self.child.wait().unwrap().code(), errors)
    }
}

fn upgrade_status(address: SocketAddr) -> u16 {
    let mut peer = Peer::connect(address);
    peer.send(wire::upgrade_request(&mint(TENANT, INTERACTION)).as_bytes());
    peer.response().status
}

#[test]
fn a_passed_socket_is_served_by_every_number_of_shards_and_listen_is_not() {
    for shards in ["1", "3"] {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        // A client connects before the node runs, and waits in the socket's queue.
        let early = TcpStream::connect(address).unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = other.local_addr().unwrap().to_string();
        let mut node =
            serve(passed.try_clone().unwrap(), &[], &["--shards", shards, "--listen", &listen]);
        assert_eq!(node.address(), address);
        for _ in 0..30 {
            assert_eq!(upgrade_status(address), 101);
        }
        let mut early = Peer::on(early);
        early.send(wire::upgrade_request(&mint(TENANT, INTERACTION)).as_bytes());
        assert_eq!(early.response().status, 101);
        // The socket belongs to the passing process. It outlives the node, and new connections wait
        // in it for the next node.
        let pid = rustix::process::Pid::from_child(&node.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(node.child.wait().unwrap().code(), Some(0));
        let waiting = TcpStream::connect(address).unwrap();
        let mut next = serve(passed, &[], &["--shards", shards]);
        assert_eq!(next.address(), address);
        let mut waiting = Peer::on(waiting);
        waiting.send(wire::upgrade_request(&mint(TENANT, INTERACTION)).as_bytes());
        assert_eq!(waiting.response().status, 101);
    }
}

#[test]
fn what_cannot_be_listened_on_is_refused_with_the_remedy() {
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = tempfile::tempfile().unwrap();
    for passed in [OwnedFd::from(datagram), OwnedFd::from(file)] {
        let (code, errors) = serve(passed, &[], &["--shards", "1"]).refusal();
        assert!(code == Some(2) && errors.contains("ListenStream="), "{code:?}: {errors}");
    }
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, errors) =
        serve(passed.try_clone().unwrap(), &[("COUNT", "2")], &["--shards", "1"]).refusal();
    assert!(code == Some(2) && errors.contains("2 sockets were passed"), "{code:?}: {errors}");
    let (code, errors) = serve(passed, &[], &["--shards", "1", "--ready-fd", "3"]).refusal();
    assert!(code == Some(2) && errors.contains("--ready-fd 3"), "{code:?}: {errors}");
}

#[test]
fn variables_for_another_process_are_ignored() {
    let directory = tempfile::tempdir().unwrap();
    // Variables for the process that started these tests: all of its children inherit them.
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().env("LISTEN_PID", "1").env("LISTEN_FDS", "1").args([
        "serve",
        "--check",
        "--no-journal",
    ]);
    let output =
        command.args(["--jwt-key"]).arg(directory.path().join("none.pem")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("none.pem"), "{said}");
    // A node without them listens on `--listen`.
    let node = NodeProcess::start_without_admin(
        EXO_INGEST,
        &directory.path().join("data"),
        &["--set", "journal.reserve=0"],
    );
    assert_eq!(node.upgrade_status(), 101);
    assert!(node.terminate().success());
}
