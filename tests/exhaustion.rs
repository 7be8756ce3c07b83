//! More connections than a node has room for: each is told so or closed, nobody spins, those who are in are served, and
//! there is room again as soon as some leave.
#![forbid(unsafe_code)]

use exo_ingest::constants::SHED_CONNECTIONS_MAX;
use exo_ingest_harness::{Keys, Peer, TENANT, TestNode, eventually, mint, on_both_kernels, wire};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn more_connections_than_slots() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.connections_max = 20);
        let mut call = node.call_as(TENANT, "live");
        let mut idle: Vec<_> = (0..19).map(|_| node.connect()).collect();
        node.await_count(20, |counters| &counters.connections_open);
        let turns = node.count(|counters| &counters.turns);
        let mut told = 0;
        for _ in 0..200 {
            // They send nothing, so that no reset overtakes the answer.
            let mut peer = node.connect();
            if let Some(response) = peer.try_response(true) {
                assert_eq!((response.status, response.field("Retry-After").is_some()), (503, true));
                assert!(response.body.contains(r#""error":"capacity""#), "{}", response.body);
                told += 1;
            }
            peer.expect_end();
        }
        assert_eq!(told, 200);
        assert_eq!(node.count(|counters| &counters.connections_shed), 200);
        let turns = node.count(|counters| &counters.turns) - turns;
        assert!(turns < 200 * 10, "{turns} turns for 200 connections");
        // Those who are in notice nothing.
        call.send_frames(10, 960);
        call.expect_ack(10);
        idle[0].upgrade(&mint(TENANT, "late"));
        idle[0].start(TENANT, "late");
        // And there is room again.
        drop(idle);
        eventually("they are gone", || node.count(|counters| &counters.connections_open) == 1);
        let calls: Vec<_> = (0..19).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        drop(calls);
    });
}

/// Real clients send their request, whatever the node has to say: it must not reset what it has just answered. Many at once, a
/// flood that never reads or ends beside them.
#[test]
fn those_who_find_no_place_read_why() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.connections_max = 2);
        let (_idle, mut call) = (node.connect(), node.call_as(TENANT, "live"));
        node.await_count(2, |counters| &counters.connections_open);
        let request = wire::upgrade_request(&mint(TENANT, "shed"));
        let ask = |pause: Duration| {
            let mut peer = node.connect();
            // Before the answer has come, or when it has: in two pieces, so that some of it is always late.
            for piece in [&request[..100], &request[100..]] {
                std::thread::sleep(pause);
                peer.send(piece.as_bytes());
            }
            let response = peer.response();
            assert_eq!((response.status, response.field("Retry-After").is_some()), (503, true));
            peer.expect_end();
        };
        std::thread::scope(|scope| {
            for thread in 0..24 {
                let ask = &ask;
                scope.spawn(move || (0..20).for_each(|round| ask(Duration::from_micros(thread % 4 * round * 100))));
            }
        });
        assert_eq!(node.count(|counters| &counters.connections_shed), 24 * 20);
        // Those who stay hold a bounded number of sockets, and not for long.
        let silent: Vec<_> = (0..300).map(|_| node.connect()).collect();
        node.await_count(24 * 20 + 300, |counters| &counters.connections_shed);
        let open = node.count(|counters| &counters.connections_open);
        assert!(open <= 2 + SHED_CONNECTIONS_MAX as u64, "{open} are open");
        eventually("they are gone", || node.count(|counters| &counters.connections_open) == 2);
        ask(Duration::from_millis(5));
        drop(silent);
        call.send_frames(10, 960);
        call.expect_ack(10);
    });
}

/// Sockets that send their request one byte at a time take their slots for as long as a head may take, and not longer.
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

/// A herd of upgrades: a few a turn, and all of them in the end.
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
        let mut child = Command::new(env!("CARGO_BIN_EXE_exo-ingest"))
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
            .args(["--max-calls", "500", "--set", "limits.ring_size=16MiB", "--set", "timeouts.head=60s", "--jwt-key"])
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
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
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

/// The host's own limit, met while the node runs: connections wait in the backlog, and nobody spins.
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
