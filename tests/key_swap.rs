//! New keys under load: all at once, on all shards, and live calls do not notice.
#![forbid(unsafe_code)]

use exo_ingest::auth::TokenPolicy;
use exo_ingest_harness::{INTERACTION, Keys, TENANT, TestNode, eventually, on_both_kernels, wire};

/// The status that an upgrade with a token of `keys` gets.
fn status(node: &TestNode, keys: Keys, interaction: &str) -> u16 {
    let mut peer = node.connect();
    peer.send(wire::upgrade_request(&keys.mint(TENANT, interaction)).as_bytes());
    peer.response().status
}

#[test]
fn the_old_key_is_dead_and_the_new_one_good_while_calls_go_on() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.shards = 4);
        let mut calls: Vec<_> = (0..8).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        assert_eq!(status(&node, Keys::Second, INTERACTION), 401);
        let mut seq = 0;
        for (new, old) in [(Keys::Second, Keys::First), (Keys::First, Keys::Second), (Keys::Second, Keys::First)] {
            let mail = node.count(|counters| &counters.mailbox_messages);
            node.node().set_keys(new.verifier(TokenPolicy::default()));
            eventually("all shards have them", || node.count(|counters| &counters.mailbox_messages) >= mail + 4);
            // Connections spread over the shards: each of them has to know.
            for _ in 0..16 {
                assert_eq!(status(&node, old, "other"), 401);
                assert_eq!(status(&node, new, "other"), 101);
            }
            for call in &mut calls {
                call.send_frames(10, 960);
                call.expect_ack(seq + 10);
            }
            seq += 10;
        }
        assert_eq!(node.count(|counters| &counters.sessions_refused), 0);
    });
}

/// While tokens of both pairs come in and the sets change, each answer is 101 or 401, and the pair that stays is never refused.
#[test]
fn no_good_token_is_refused_during_a_swap() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.shards = 2);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                for number in 0..150 {
                    assert_eq!(status(&node, Keys::First, &number.to_string()), 101);
                }
            });
            while !client.is_finished() {
                node.node().set_keys(Keys::First.verifier(TokenPolicy::default()));
                std::thread::yield_now();
            }
        });
    });
}
