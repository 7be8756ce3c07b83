//! Connections that end without a Close, at every place where one can end. Each is closed and its
//! ending counted. A frame that was incomplete is never counted.

use exo_ingest::session::ingest::Ending;
use exo_ingest_harness::wire::{self, BINARY, FIN, TEXT};
use exo_ingest_harness::{TENANT, TestNode, eventually, mint, on_both_kernels};

/// The bytes that a call has sent when it ends, and the number of complete frames in them.
fn places() -> Vec<(&'static str, Vec<u8>, u64)> {
    let frame = wire::binary(&[7; 9600]);
    let fragment = wire::frame(BINARY, &[7; 9600]);
    vec![
        ("after start", Vec::new(), 0),
        ("between frames", frame.clone(), 1),
        ("a byte into a header", [&frame[..], &[FIN | BINARY]].concat(), 1),
        ("within a mask", [&frame[..], &wire::announce(FIN | BINARY, 9600)[..6]].concat(), 1),
        ("before a payload", [&frame[..], &wire::announce(FIN | BINARY, 9600)].concat(), 1),
        ("within a payload", [&frame[..], &frame[..5000]].concat(), 1),
        ("before the last byte", [&frame[..], &frame[..frame.len() - 1]].concat(), 1),
        ("within a sample", [&frame[..], &frame[..4801]].concat(), 1),
        ("between fragments", [&frame[..], &fragment].concat(), 1),
        ("within a ping", [&frame[..], &wire::frame(0x89, &[1; 20])[..9]].concat(), 1),
        ("within a text", [&frame[..], &wire::announce(FIN | TEXT, 100), b"{"].concat(), 1),
    ]
}

fn check(reset: bool, ending: Ending) {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut frames = 0;
        let mut other = node.call_as(TENANT, "other");
        for (number, (place, sent, whole)) in places().into_iter().enumerate() {
            println!("  {place}");
            let mut peer = node.call_as(TENANT, &number.to_string());
            peer.send(&sent);
            frames += whole;
            // A reset discards bytes that are not read yet. So wait until all complete frames are
            // counted.
            node.await_count(frames, |counters| &counters.frames);
            if reset {
                peer.reset()
            } else {
                drop(peer)
            }
            eventually("the connection is closed", || {
                node.count(|counters| &counters.connections_open) == 1
            });
        }
        assert_eq!(node.count(|counters| &counters.frames), frames, "a part of a frame is none");
        let count = places().len() as u64;
        assert_eq!(node.count(|counters| &counters.calls_ended), count);
        assert_eq!(node.count_ingest(|counters| &counters.endings[ending.index()]), count);
        assert_eq!(node.node().calls_live(), 1);
        other.send_frames(10, 320);
        other.expect_ack(10);
    });
}

#[test]
fn a_fin_anywhere_in_a_call() {
    check(false, Ending::Finished);
}

#[test]
fn a_reset_anywhere_in_a_call() {
    check(true, Ending::Reset);
}

#[test]
fn an_end_before_there_is_a_call() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let request = wire::upgrade_request(&mint(TENANT, "call"));
        for reset in [false, true] {
            for size in [0, 1, 30, request.len() - 1, request.len()] {
                let mut peer = node.connect();
                peer.send(&request.as_bytes()[..size]);
                if reset { peer.reset() } else { drop(peer) }
            }
            let peer = node.upgrade();
            if reset { peer.reset() } else { drop(peer) }
        }
        node.await_count(12, |counters| &counters.connections_accepted);
        node.await_no_connections();
        assert_eq!(
            (node.node().calls_live(), node.count(|counters| &counters.calls_started)),
            (0, 0)
        );
        node.call();
    });
}

/// The last frames and the FIN of a peer come at once. No frame is lost.
#[test]
fn frames_before_a_fin_count() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        peer.send_frames(57, 9600);
        peer.end();
        node.await_count(57, |counters| &counters.frames);
        // After a FIN without a Close the peer reads no acks; the connection ends.
        node.await_no_connections();
    });
}
