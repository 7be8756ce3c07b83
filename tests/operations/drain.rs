//! A drain. The node stops accepting, and closes its calls one after another over the window, with
//! all acks that are due. It ends when no call is left.

use crate::EXO_INGEST;
use exo_ingest::proto::close::Closing;
use exo_ingest_harness::{
    INTERACTION, Message, NodeProcess, Peer, TENANT, TestNode, eventually, on_both_kernels,
    timed_test, wire,
};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn calls_are_closed_one_after_another_with_all_acks_due() {
    const CALLS: usize = 12;
    let window = Duration::from_millis(1200);
    on_both_kernels(|features| {
        for shards in [1, 3] {
            let node = TestNode::start(features, |setup| setup.shards = shards);
            let mut peers: Vec<_> =
                (0..CALLS).map(|number| node.call_as(TENANT, &number.to_string())).collect();
            peers.iter_mut().for_each(|peer| peer.send_frames(25, 960));
            node.await_count(CALLS as u64 * 25, |counters| &counters.frames);
            node.node().drain(window);
            let start = Instant::now();
            let closed_after = |mut peer: Peer| {
                peer.expect_acks(10, 20);
                peer.expect_refusal(1001, "draining", true);
                start.elapsed()
            };
            let threads: Vec<_> =
                peers.into_iter().map(|peer| move || closed_after(peer)).collect();
            let mut times: Vec<Duration> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    threads.into_iter().map(|thread| scope.spawn(thread)).collect();
                threads.into_iter().map(|thread| thread.join().expect("a clean end")).collect()
            });
            times.sort_unstable();
            // Each shard spreads the ends of its calls evenly; the last one is a step before the
            // window's end.
            let last = times[CALLS - 1];
            assert!(last >= window / 2, "the last call was closed after {last:?}");
            if shards == 1 {
                let half = times[CALLS / 2];
                assert!(half >= window / 3, "half of the calls were closed after {half:?}");
            }
            node.finish(window).expect("a clean end");
        }
    });
}

#[test]
fn accepting_stops_while_calls_go_on() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peers: Vec<_> =
            (0..4).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        let mut not_started = node.upgrade();
        node.node().drain(HOUR);
        eventually("connections are refused", || TcpStream::connect(node.address()).is_err());
        // No call has started there, so the node does not wait for it.
        not_started.expect_refusal(1001, "draining", true);
        // The first call ends at once, the others later.
        let draining = Closing::Draining.index();
        eventually("the first call goes", || {
            node.count_ingest(|counters| &counters.closes[draining]) == 2
        });
        let mut left = Vec::new();
        for (number, mut peer) in peers.drain(..).enumerate() {
            let _ = peer.try_send(&wire::binary(&[0; 320]).repeat(20));
            match peer.receive() {
                Message::Text(text) if text.contains("draining") => {
                    peer.expect_close(1001, "draining")
                }
                message => {
                    assert_eq!(
                        message,
                        Message::Text(r#"{"event":"ack","seq":10}"#.into()),
                        "call {number}"
                    );
                    peer.expect_ack(20);
                    left.push(peer);
                }
            }
        }
        assert_eq!(left.len(), 3);
        assert!(!node.node().is_stopped());
        // With the last call the node ends too, long before the end of the window.
        for mut peer in left {
            peer.send(&wire::text(r#"{"event":"stop"}"#));
            assert!(
                matches!(peer.receive(), Message::Text(stopped) if stopped.contains(r#""seq":20,"#))
            );
            peer.expect_close(1000, "");
        }
        node.finish(HOUR).expect("a clean end");
    });
}

#[test]
fn a_node_without_calls_ends_at_once() {
    on_both_kernels(|features| {
        TestNode::start(features, |setup| setup.shards = 3).finish(HOUR).expect("a clean end");
        // Connections without a call do not keep the node either.
        let node = TestNode::start(features, |_| {});
        let _open = [node.connect(), node.upgrade()];
        node.await_count(2, |counters| &counters.connections_accepted);
        node.finish(HOUR).expect("a clean end");
    });
}

/// `finish` waits for half a minute. Neither of these peers may hold the node for longer.
#[test]
fn peers_that_do_not_answer_are_not_waited_for() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.close_timeout = Duration::from_millis(300)
        });
        let _mute = node.call();
        let mut half = node.call_as(TENANT, "half a frame");
        half.send(&wire::announce(0x82, 1000));
        node.finish(Duration::ZERO).expect("a clean end");
    });
}

/// A client that connects during a drain is refused by the kernel, is reset, or gets 503. It never
/// waits without an answer, and is never upgraded.
#[test]
fn no_upgrade_is_lost_between_accept_and_refusal() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.shards = 2);
        let address = node.address();
        let token = exo_ingest_harness::mint(TENANT, INTERACTION);
        let clients = std::thread::spawn(move || {
            let mut refused = 0;
            let mut upgraded = 0;
            while refused == 0 {
                let Ok(socket) = TcpStream::connect(address) else {
                    refused += 1;
                    continue;
                };
                let mut peer = Peer::on(socket);
                if peer.try_send(wire::upgrade_request(&token).as_bytes()).is_err() {
                    continue;
                }
                match peer.try_response(true) {
                    Some(response) if response.status == 101 => upgraded += 1,
                    Some(response) => assert_eq!(response.status, 503, "{}", response.head),
                    None => {}
                }
            }
            upgraded
        });
        eventually("some are upgraded", || node.count(|counters| &counters.upgrades) > 20);
        let outcome = node.finish(Duration::from_millis(100));
        assert!(clients.join().expect("clients") > 0);
        outcome.expect("a clean end");
    });
}

fn health_status(node: &TestNode) -> u16 {
    let mut peer = node.connect();
    peer.send(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
    peer.response().status
}

#[test]
fn during_the_grace_health_is_answered_and_new_calls_go_elsewhere() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.shards = 2);
        let mut call = node.call();
        node.node().drain_after(Duration::from_secs(3), Duration::ZERO);
        eventually("a new call is refused", || {
            let mut late = node.connect();
            late.send(wire::upgrade_request("a.b.c").as_bytes());
            let response = late.response();
            assert!(
                response.status == 401 || response.field("Retry-After").is_some(),
                "{}",
                response.head
            );
            response.status == 503
        });
        assert_eq!(health_status(&node), 200);
        call.send_frames(10, 960);
        call.expect_ack(10);
        call.expect_refusal(1001, "draining", true);
        node.finish(Duration::ZERO).expect("a clean end");
    });
}

#[test]
fn after_the_grace_calls_are_closed_and_health_is_answered_until_the_last_has_gone() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut calls = [node.call_as(TENANT, "a"), node.call_as(TENANT, "b")];
        node.node().drain_after(Duration::from_millis(300), HOUR);
        // After the grace the first call ends at once, the other may last an hour.
        let draining = Closing::Draining.index();
        eventually("the first call goes", || {
            node.count_ingest(|counters| &counters.closes[draining]) == 1
        });
        assert_eq!(health_status(&node), 200);
        for call in &mut calls {
            call.send(&wire::text(r#"{"event":"stop"}"#));
        }
        node.finish(HOUR).expect("a clean end");
    });
}

/// What a balancer and an orchestrator see: until the end of the grace the process is not ready,
/// but alive.
#[test]
fn a_process_that_is_told_to_end_is_alive_and_not_ready() {
    let _turn = timed_test();
    let dir = tempfile::tempdir().expect("a directory");
    let node =
        NodeProcess::start(EXO_INGEST, dir.path(), &["--drain-grace", "3s", "--drain", "0s"]);
    let admin = node.admin();
    node.start_drain();
    node.await_upgrade_status(503);
    assert_eq!(admin.ready(), (503, vec!["draining".to_owned()]));
    let mut probe = Peer::connect(node.address());
    probe.send(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
    assert_eq!(probe.response().status, 200);
    assert!(node.wait().success());
}
