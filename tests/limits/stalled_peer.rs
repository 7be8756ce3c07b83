//! A peer that stops in the middle of a message: the acks of all other peers go on.

use exo_ingest_harness::wire::{self, BINARY, FIN, TEXT};
use exo_ingest_harness::{Peer, TENANT, TestNode, mint, on_both_kernels};

/// Connections that stop at every place where one can.
fn stall(node: &TestNode) -> Vec<Peer> {
    let mut peers = Vec::new();
    let mut head = node.connect();
    head.send(&wire::upgrade_request(&mint(TENANT, "head")).as_bytes()[..100]);
    peers.push(head);
    peers.push(node.connect());
    peers.push(node.upgrade_as(TENANT, "no start"));
    for (number, bytes) in [
        vec![FIN | BINARY],
        wire::announce(FIN | BINARY, 300)[..3].to_vec(),
        wire::announce(FIN | BINARY, 9600),
        wire::binary(&[1; 9600])[..5000].to_vec(),
        wire::frame(BINARY, &[1; 100]),
        wire::announce(FIN | TEXT, 1000),
        wire::text(r#"{"event":"x"}"#)[..10].to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut peer = node.call_as(TENANT, &format!("stalled {number}"));
        peer.send(&bytes);
        peers.push(peer);
    }
    peers
}

#[test]
fn a_hundred_others_are_acked_while_some_stand_still() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut calls: Vec<_> =
            (0..100).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        let mut mid_frame = node.call_as(TENANT, "mid-frame");
        mid_frame.send_frames(9, 9600);
        let frame = wire::binary(&[7; 9600]);
        let (sent, rest) = frame.split_at(4800);
        mid_frame.send(sent);
        let stalled = stall(&node);
        for round in 1..=5 {
            calls.iter_mut().for_each(|peer| peer.send_frames(10, 9600));
            calls.iter_mut().for_each(|peer| peer.expect_ack(round * 10));
        }
        assert_eq!(node.count(|counters| &counters.frames), 100 * 50 + 9, "half a frame is none");
        // When the peer continues its frame, the frame counts.
        mid_frame.expect_silence();
        mid_frame.send(rest);
        mid_frame.expect_ack(10);
        drop(stalled);
        calls.iter_mut().for_each(|peer| peer.send_frames(10, 9600));
        calls.iter_mut().for_each(|peer| peer.expect_ack(60));
    });
}
