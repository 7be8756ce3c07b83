//! Many shards and few descriptors. Idle sockets get their share and no more, and every segment of
//! the journal gets its descriptor.

use crate::EXO_INGEST;
use exo_ingest_harness::{Keys, Message, Peer, TENANT, eventually, mint, wire};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SHARDS: usize = 8;
/// 160 of them are not for sockets: see `src/node.rs`. So each shard may have 55 sockets.
const OPEN_FILES: usize = 600;
const CALLS: usize = 8;
/// Each shard may have up to all of the calls, and a segment is full after 4 MiB.
const FRAME_SIZE: usize = 64 * 1024;
const FRAMES: usize = 100;

struct Node(Child, SocketAddr);

impl Node {
    fn start(directory: &Path) -> Node {
        let key = directory.join("public.pem");
        std::fs::write(&key, Keys::First.public_pem()).expect("a file");
        let mut command = Command::new("prlimit");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg(format!("--nofile={OPEN_FILES}:{OPEN_FILES}")).arg(EXO_INGEST);
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--allow-unregistered",
        ]);
        command.args([
            "--shards",
            &SHARDS.to_string(),
            "--max-calls",
            "40",
            "--max-ahead",
            "off",
            "--drain-grace",
            "0s",
        ]);
        command.args(["--set", "limits.ring_size=16MiB", "--set", "journal.segment_size=4MiB"]);
        command.args(["--set", "journal.reserve=0", "--set", "timeouts.head=60s"]);
        command.arg("--jwt-key").arg(&key).arg("--data-dir").arg(directory.join("data"));
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("prlimit");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address =
            line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        Node(child, address.expect("it serves"))
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("it runs").count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn idle_sockets_on_many_shards_take_no_descriptor_from_a_segment() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Node::start(directory.path());
    let idle: Vec<_> =
        (0..OPEN_FILES).map(|_| TcpStream::connect(node.1).expect("it listens")).collect();
    let sockets = SHARDS * 55;
    eventually("idle sockets take their share", || node.open_files() > sockets / 2);
    let play = |number: usize| {
        let interaction = format!("call-{number}");
        let mut call = Peer::connect(node.1);
        call.upgrade(&mint(TENANT, &interaction));
        call.start(TENANT, &interaction);
        for round in 1..=FRAMES / 10 {
            call.send_frames(10, FRAME_SIZE);
            call.expect_ack(10 * round as u64);
        }
        call.send(&wire::text(r#"{"event":"stop"}"#));
        assert!(matches!(call.receive(), Message::Text(text) if text.contains("stopped")));
        call.expect_close(1000, "");
    };
    std::thread::scope(|scope| {
        for number in 0..CALLS {
            let play = &play;
            scope.spawn(move || play(number));
        }
        for _ in 0..50 {
            let open = node.open_files();
            assert!(open <= OPEN_FILES - SHARDS, "{open} descriptors are open, of {OPEN_FILES}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    drop(idle);
}
