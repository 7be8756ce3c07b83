//! The same call on a second connection. The newest connection gets the call, the older one is
//! told, and claims are released. On one shard, and on four, where the kernel spreads connections.

use exo_ingest::session::ingest::Ending;
use exo_ingest_harness::wire;
use exo_ingest_harness::{INTERACTION, Message, TENANT, TestNode, eventually, on_both_kernels};

fn on_one_shard_and_four(test: impl Fn(TestNode)) {
    on_both_kernels(|features| {
        for shards in [1, 4] {
            test(TestNode::start(features, |setup| {
                setup.shards = shards;
                setup.limits.ring_size = 4 << 20;
            }));
        }
    });
}

#[test]
fn the_old_connection_is_told_and_the_new_one_goes_on() {
    on_one_shard_and_four(|node| {
        // Sixteen times: on four shards most pairs of connections are on different ones.
        for number in 0..16 {
            let interaction = format!("call-{number}");
            let mut old = node.call_as(TENANT, &interaction);
            old.send_frames(15, 320);
            old.expect_ack(10);
            let mut new = node.call_as(TENANT, &interaction);
            old.expect_refusal(4409, "superseded", false);
            // Numbers start at 1 for each connection of the call.
            new.send_frames(20, 320);
            new.expect_acks(10, 20);
            new.send(&wire::text(r#"{"event":"stop"}"#));
            let Message::Text(stopped) = new.receive() else { panic!("not a text") };
            assert!(stopped.contains(r#""seq":20,"#), "{stopped}");
            new.expect_close(1000, "");
        }
        node.await_count(16, |counters| &counters.calls_superseded);
        node.await_count(32, |counters| &counters.calls_ended);
        assert_eq!(node.count_ingest(|counters| &counters.endings[Ending::Stopped.index()]), 16);
        node.await_no_connections();
    });
}

#[test]
fn it_is_start_that_takes_a_call_over_and_not_the_upgrade() {
    on_one_shard_and_four(|node| {
        let mut old = node.call();
        let mut upgraded = node.upgrade();
        let mut invalid = node.upgrade();
        invalid.send(&wire::text(r#"{"event":"start"}"#));
        invalid.expect_refusal(4400, "invalid_start", false);
        old.expect_silence();
        old.send_frames(10, 320);
        old.expect_ack(10);
        upgraded.start(TENANT, INTERACTION);
        old.expect_refusal(4409, "superseded", false);
    });
}

#[test]
fn other_calls_are_not_touched() {
    on_one_shard_and_four(|node| {
        // Only tenant and interaction together name a call.
        let mut others = [("acme", "a"), ("zeta", "a"), ("acme", "b"), ("acm", "ea")]
            .map(|(tenant, interaction)| node.call_as(tenant, interaction));
        for peer in &mut others {
            peer.expect_silence();
            peer.send_frames(10, 320);
            peer.expect_ack(10);
        }
        assert_eq!(node.count(|counters| &counters.calls_superseded), 0);
    });
}

#[test]
fn a_call_that_has_ended_cannot_be_taken_over() {
    on_one_shard_and_four(|node| {
        for number in 0..20 {
            let mut peer = node.call();
            match number % 3 {
                0 => peer.send(&wire::text(r#"{"event":"stop"}"#)),
                1 => peer.send(&wire::close(1000)),
                _ => peer.end(),
            }
            if number % 3 == 0 {
                assert!(matches!(peer.receive(), Message::Text(_)));
            }
            if number % 3 < 2 {
                peer.expect_close(1000, "");
            } else {
                peer.expect_end();
            }
        }
        node.await_count(20, |counters| &counters.calls_ended);
        assert_eq!(node.count(|counters| &counters.calls_superseded), 0);
    });
}

/// A client that reconnects in a loop. In whatever order the claims reach the call's home shard,
/// one connection is left.
#[test]
fn of_many_rapid_takeovers_exactly_one_is_left() {
    on_one_shard_and_four(|node| {
        let start = wire::text(&wire::start_text(TENANT, INTERACTION));
        for _ in 0..3 {
            let superseded = node.count(|counters| &counters.calls_superseded);
            let mut peers: Vec<_> = (0..40).map(|_| node.upgrade()).collect();
            peers.iter_mut().for_each(|peer| peer.send(&start));
            peers.iter_mut().for_each(|peer| peer.expect_started(INTERACTION));
            eventually("all but one are superseded", || {
                node.count(|counters| &counters.calls_superseded) - superseded == 39
            });
            let mut left = Vec::new();
            for mut peer in peers {
                // The connection that is left gets an ack. The others are closed.
                let _ = peer.try_send(&wire::binary(&[0; 320]).repeat(10));
                match peer.receive() {
                    Message::Text(text) if text.contains("superseded") => {
                        peer.expect_close(4409, "superseded")
                    }
                    // The node had closed the connection before the audio came.
                    Message::Reset => {}
                    message => {
                        assert_eq!(message, Message::Text(r#"{"event":"ack","seq":10}"#.into()));
                        left.push(peer);
                    }
                }
            }
            assert_eq!(left.len(), 1);
            drop(left);
            node.await_no_connections();
            assert_eq!(node.node().calls_live(), 0);
        }
        // All claims are released: the next connection takes the call over from none.
        let superseded = node.count(|counters| &counters.calls_superseded);
        let mut peer = node.call();
        peer.send_frames(10, 320);
        peer.expect_ack(10);
        peer.expect_silence();
        assert_eq!(node.count(|counters| &counters.calls_superseded), superseded);
    });
}
