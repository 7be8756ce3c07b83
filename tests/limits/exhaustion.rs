//! More connections than a node has room for. Each one gets an answer or is closed, the node does
//! not spin, live calls are served, and there is room again as soon as some leave.

use crate::EXO_INGEST;
use exo_ingest::constants::visitors_max;
use exo_ingest_harness::{
    Keys, Peer, SetOnDrop, TENANT, TestNode, eventually, heavy_test, mint, on_both_kernels,
    timed_test, wire,
};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Liveness, as a probe asks for it: with a second of patience.
fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut answer = [0; 15];
        socket.read_exact(&mut answer)?;
        Ok(answer == *b"HTTP/1.1 200 OK")
    };
    ask().unwrap_or(false)
}

/// Idle sockets take no place from a call: the oldest idle socket is closed first.
#[test]
fn more_idle_connections_than_places() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.connections_max = 20;
            setup.limits.head_timeout = Duration::from_secs(60);
        });
        let mut call = node.call_as(TENANT, "live");
        let mut idle: Vec<_> = (0..300).map(|_| node.connect()).collect();
        assert!(is_healthy(node.address()));
        let turns = node.count(|counters| &counters.turns);
        std::thread::sleep(Duration::from_millis(200));
        let turns = node.count(|counters| &counters.turns) - turns;
        assert!(turns < 200, "{turns} turns in a fifth of a second");
        let open = node.count(|counters| &counters.connections_open);
        assert!(open <= 20 + visitors_max(20) as u64, "{open} are open");
        assert!(node.count(|counters| &counters.connections_shed) > 250);
        assert_eq!(idle[0].response().status, 408);
        idle[0].expect_end();
        // Calls come in among them, and live calls go on.
        let calls: Vec<_> =
            (0..19).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        call.send_frames(10, 960);
        call.expect_ack(10);
        let mut late = node.connect();
        late.send(wire::upgrade_request(&mint(TENANT, "late")).as_bytes());
        assert_eq!(late.response().status, 503);
        drop((calls, idle));
        eventually("they are gone", || node.count(|counters| &counters.connections_open) <= 2);
        node.call_as(TENANT, "next");
    });
}

/// Real clients send their whole request, whatever the answer. So the node must not reset a
/// connection right after its answer. Many clients ask at once, beside sockets that never read or
/// end.
#[test]
fn clients_that_find_no_place_read_why() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.connections_max = 1);
        let mut call = node.call_as(TENANT, "live");
        let request = wire::upgrade_request(&mint(TENANT, "shed"));
        let ask = |is_in_pieces: bool| {
            let mut peer = node.connect();
            let pieces =
                if is_in_pieces { [&request[..100], &request[100..]] } else { [&request[..], ""] };
            for piece in pieces {
                peer.send(piece.as_bytes());
            }
            let response = peer.response();
            assert_eq!((response.status, response.field("Retry-After").is_some()), (503, true));
            peer.expect_end();
        };
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let ask = &ask;
                scope.spawn(move || (0..40).for_each(|_| ask(thread % 2 == 0)));
            }
        });
        // Silent sockets hold a bounded number of places.
        let silent: Vec<_> = (0..300).map(|_| node.connect()).collect();
        ask(false);
        let open = node.count(|counters| &counters.connections_open);
        assert!(open <= 1 + visitors_max(1) as u64, "{open} are open");
        drop(silent);
        call.send_frames(10, 960);
        call.expect_ack(10);
    });
}

/// A node full of calls, and ten times as many slow sockets as it has places, some of them again
/// and again. A liveness probe gets its answer within a second, and no call misses an ACK.
#[test]
fn a_liveness_probe_is_answered_among_slow_sockets() {
    let _turn = heavy_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.connections_max = 64;
            setup.limits.head_timeout = Duration::from_secs(30);
        });
        let mut calls: Vec<_> =
            (0..64).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = SetOnDrop(&stop);
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut slow = VecDeque::new();
                    while !stop.load(Ordering::Acquire) {
                        if slow.len() == 160 {
                            slow.pop_front();
                        }
                        let Ok(mut socket) = TcpStream::connect(node.address()) else { continue };
                        let _ = socket.write_all(b"G");
                        slow.push_back(socket);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
            eventually("the node sheds connections", || {
                node.count(|counters| &counters.connections_shed) > 200
            });
            let answered = (0..50).filter(|_| is_healthy(node.address())).count();
            calls.iter_mut().for_each(|call| call.send_frames(10, 960));
            calls.iter_mut().for_each(|call| call.expect_ack(10));
            assert_eq!(answered, 50);
        });
    });
}

/// Sockets that send their request byte by byte keep their slots until the head's timeout, not
/// longer.
#[test]
fn slow_heads_do_not_keep_their_slots() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.connections_max = 50;
            setup.limits.head_timeout = Duration::from_millis(500);
        });
        let mut slow: Vec<_> = (0..50).map(|_| node.connect()).collect();
        node.await_count(50, |counters| &counters.connections_open);
        let request = wire::upgrade_request(&mint(TENANT, "slow"));
        for byte in request.as_bytes().iter().take(10) {
            slow.iter_mut().for_each(|peer| drop(peer.try_send(std::slice::from_ref(byte))));
        }
        for peer in &mut slow {
            assert_eq!(peer.response().status, 408);
            peer.expect_end();
        }
        node.await_no_connections();
        node.call();
    });
}

/// Many upgrades at once: the node accepts a few in each turn, and all of them in the end.
#[test]
fn a_herd_gets_in() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.handshakes_per_turn = 2);
        let token = mint(TENANT, "herd");
        let mut peers: Vec<_> = (0..300).map(|_| node.connect()).collect();
        peers.iter_mut().for_each(|peer| peer.send(wire::upgrade_request(&token).as_bytes()));
        peers.iter_mut().for_each(Peer::expect_switching);
    });
}

/// A node in a process of its own, whose limits can be changed from outside.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start() -> Process {
        let directory = tempfile::tempdir().expect("a directory");
        let key = directory.path().join("public.pem");
        std::fs::write(&key, Keys::First.public_pem()).expect("a file");
        let mut child = Command::new(EXO_INGEST)
            .env_clear()
            .args([
                "serve",
                "--no-journal",
                "--allow-unregistered",
                "--listen",
                "127.0.0.1:0",
                "--shards",
                "1",
                "--admin",
                "off",
            ])
            .args([
                "--max-calls",
                "500",
                "--set",
                "limits.ring_size=16MiB",
                "--set",
                "timeouts.head=60s",
                "--jwt-key",
            ])
            .arg(&key)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        Process { child, address }
    }

    fn connect(&self) -> Peer {
        Peer::connect(self.address.parse().expect("an address"))
    }

    /// Sets the soft limit on open files of the running process.
    fn limit_open_files(&self, soft: usize) {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.child.id().to_string(), &format!("--nofile={soft}:")]);
        assert!(command.status().expect("prlimit").success());
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process").count()
    }

    /// Clock ticks (10 ms) of CPU it has used.
    fn ticks(&self) -> u64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        let fields: Vec<_> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        [11, 12].iter().map(|index| fields[*index].parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The node reaches the host's limit while it runs. Connections wait in the backlog, and no shard
/// spins.
#[test]
fn descriptors_run_out() {
    let node = Process::start();
    let mut call = node.connect();
    call.upgrade(&mint(TENANT, "live"));
    call.start(TENANT, "live");
    let limit = node.open_files() + 10;
    node.limit_open_files(limit);
    let waiting: Vec<_> = (0..50).map(|_| node.connect()).collect();
    eventually("descriptors run out", || node.open_files() >= limit - 1);
    let ticks = node.ticks();
    std::thread::sleep(Duration::from_secs(2));
    let ticks = node.ticks() - ticks;
    assert!(ticks < 100, "{} ms of CPU in two seconds of waiting", ticks * 10);
    call.send_frames(10, 960);
    call.expect_ack(10);
    node.limit_open_files(1000);
    for (number, mut peer) in waiting.into_iter().enumerate() {
        let interaction = number.to_string();
        peer.upgrade(&mint(TENANT, &interaction));
        peer.start(TENANT, &interaction);
    }
}
