//! The end of a node: accepting stops, calls are closed one after another over the window with everything acked that is due,
//! and with none left it is over.
#![forbid(unsafe_code)]

use exo_ingest::proto::close::Closing;
use exo_ingest_harness::{INTERACTION, Message, Peer, TENANT, TestNode, eventually, on_both_kernels, wire};
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
            let mut peers: Vec<_> = (0..CALLS).map(|number| node.call_as(TENANT, &number.to_string())).collect();
            peers.iter_mut().for_each(|peer| peer.send_frames(25, 960));
            node.await_count(CALLS as u64 * 25, |counters| &counters.frames);
            node.node().drain(window);
            let start = Instant::now();
            let closed_after = |mut peer: Peer| {
                peer.expect_acks(10, 20);
                peer.expect_refusal(1001, "draining", true);
                start.elapsed()
            };
            let threads: Vec<_> = peers.into_iter().map(|peer| move || closed_after(peer)).collect();
            let mut times: Vec<Duration> = std::thread::scope(|scope| {
                let threads: Vec<_> = threads.into_iter().map(|thread| scope.spawn(thread)).collect();
                threads.into_iter().map(|thread| thread.join().expect("a clean end")).collect()
            });
            times.sort_unstable();
            // Spread: each shard closes its own calls evenly, the last of them a step before the window's end.
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
        let mut peers: Vec<_> = (0..4).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        let mut not_started = node.upgrade();
        node.node().drain(HOUR);
        eventually("connections are refused", || TcpStream::connect(node.address()).is_err());
        // No call has begun there: there is nothing to wait for.
        not_started.expect_refusal(1001, "draining", true);
        // The first of the calls goes at once, the others have time.
        let draining = Closing::Draining.index();
        eventually("the first call goes", || node.count_ingest(|counters| &counters.closes[draining]) == 2);
        let mut left = Vec::new();
        for (number, mut peer) in peers.drain(..).enumerate() {
            let _ = peer.try_send(&wire::binary(&[0; 320]).repeat(20));
            match peer.receive() {
                Message::Text(text) if text.contains("draining") => peer.expect_close(1001, "draining"),
                message => {
                    assert_eq!(message, Message::Text(r#"{"event":"ack","seq":10}"#.into()), "call {number}");
                    peer.expect_ack(20);
                    left.push(peer);
                }
            }
        }
        assert_eq!(left.len(), 3);
        assert!(!node.node().is_stopped());
        // With the last of them the node goes too, long before the window is over.
        for mut peer in left {
            peer.send(&wire::text(r#"{"event":"stop"}"#));
            assert!(matches!(peer.receive(), Message::Text(stopped) if stopped.contains(r#""seq":20,"#)));
            peer.expect_close(1000, "");
        }
        node.finish(HOUR).expect("a clean end");
    });
}

#[test]
fn a_node_without_calls_ends_at_once() {
    on_both_kernels(|features| {
        TestNode::start(features, |setup| setup.shards = 3).finish(HOUR).expect("a clean end");
        // Nor do connections that are no calls keep it.
        let node = TestNode::start(features, |_| {});
        let _open = [node.connect(), node.upgrade()];
        node.await_count(2, |counters| &counters.connections_accepted);
        node.finish(HOUR).expect("a clean end");
    });
}

/// `finish` waits for half a minute at most: neither of these may hold a node for the whole window.
#[test]
fn peers_that_do_not_answer_are_not_waited_for() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.close_timeout = Duration::from_millis(300));
        let _mute = node.call();
        let mut half = node.call_as(TENANT, "half a frame");
        half.send(&wire::announce(0x82, 1000));
        node.finish(Duration::ZERO).expect("a clean end");
    });
}

/// Whoever connects during a drain is refused by the kernel, reset, or told 503: never left hanging, never upgraded.
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
