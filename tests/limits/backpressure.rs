//! A frame ring that is too small for the load. The node stops reading and TCP pushes back. Nothing
//! is lost, and nothing waits for ever.

use exo_ingest::io::probe::KernelFeatures;
use exo_ingest_harness::wire::{self, BINARY, CONTINUATION, FIN};
use exo_ingest_harness::{Peer, TestNode, heavy_test, on_both_kernels};
use std::time::Duration;

/// The smallest ring that is allowed, and turns that take all bytes that came within `wait`.
fn cramped(features: KernelFeatures, wait: Duration) -> TestNode {
    TestNode::start(features, |setup| {
        setup.limits.ring_size = 4 << 20;
        setup.limits.completions_per_turn = 2048;
        setup.limits.max_ahead = None;
        setup.limits.wait = wait;
        // No ping wakes a shard that sleeps although it has work.
        setup.limits.ping_after = Duration::from_secs(300);
        setup.limits.idle_timeout = Duration::from_secs(600);
        setup.limits.start_timeout = Duration::from_secs(600);
    })
}

/// The default.
const SHORT: Duration = Duration::from_micros(500);

/// Writes `bytes` to all peers at once, each from a thread of its own, while the acks up to `last`
/// are read.
fn flood(peers: &mut [Peer], bytes: &[u8], last: u64) {
    std::thread::scope(|scope| {
        for peer in peers {
            let mut writer = Peer::on(peer.socket().try_clone().expect("a descriptor"));
            scope.spawn(move || writer.send(bytes));
            scope.spawn(move || peer.expect_acks(10, last));
        }
    });
}

#[test]
fn floods_of_the_smallest_frames_are_all_acked_in_order() {
    let _turn = heavy_test();
    // A byte becomes 128 bytes of ring: what fits into the receive buffers does not fit into the
    // ring.
    let bytes = wire::binary(b"a").repeat(20_000);
    on_both_kernels(|features| {
        let node = cramped(features, SHORT);
        let mut peers = node.calls_at_once(8);
        flood(&mut peers, &bytes, 20_000);
        assert!(
            node.count(|counters| &counters.receives_deferred) > 0,
            "the ring was never full: this shows nothing"
        );
        assert_eq!(node.count(|counters| &counters.frames), 160_000);
        assert_eq!(node.count(|counters| &counters.audio_bytes), 160_000);
        for peer in &mut peers {
            peer.expect_silence();
        }
    });
}

#[test]
fn floods_of_the_largest_frames_are_all_acked_in_order() {
    let _turn = heavy_test();
    let frame = wire::binary(&vec![0x5a; 256 * 1024]);
    let bytes = frame.repeat(20);
    on_both_kernels(|features| {
        let node = cramped(features, SHORT);
        let mut peers = node.calls_at_once(6);
        flood(&mut peers, &bytes, 20);
        assert_eq!(node.count(|counters| &counters.audio_bytes), 6 * 20 * 256 * 1024);
    });
}

/// No peer sends more and no ack is due, so no completion wakes the shard. Free room in the ring
/// must be enough.
#[test]
fn bytes_that_wait_for_room_are_read_without_a_new_event() {
    let _turn = heavy_test();
    let mut message = wire::frame(BINARY, b"a");
    message.extend(wire::frame(CONTINUATION, b"b").repeat(62));
    message.extend(wire::frame(FIN | CONTINUATION, b"c"));
    let bytes = message.repeat(9);
    on_both_kernels(|features| {
        let node = cramped(features, Duration::from_millis(50));
        let mut peers = node.calls_at_once(200);
        peers.iter_mut().for_each(|peer| peer.send(&bytes));
        // 15 MiB of ring.
        node.await_count(200 * 9, |counters| &counters.frames);
        assert!(
            node.count(|counters| &counters.receives_deferred) > 0,
            "the ring was never full: this shows nothing"
        );
        peers.iter_mut().for_each(|peer| peer.send_frames(1, 2));
        peers.iter_mut().for_each(|peer| peer.expect_ack(10));
    });
}

/// The node reads the bytes that wait before it handles the end of the connection.
#[test]
fn the_end_of_a_connection_waits_for_its_bytes() {
    let _turn = heavy_test();
    let frames = wire::binary(b"ab").repeat(5_000);
    on_both_kernels(|features| {
        let node = cramped(features, SHORT);
        let mut peers = node.calls_at_once(40);
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(&frames);
            match number % 2 {
                0 => peer.send(&wire::text(r#"{"event":"stop"}"#)),
                _ => peer.send(&wire::close(1000)),
            }
            peer.end();
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.expect_acks(10, 5_000);
            if number % 2 == 0 {
                let numbers = r#""seq":5000,"bytes":10000,"duration_ms":208,"durable_seq":null"#;
                let level = r#""level":"received""#;
                peer.expect_text(&format!(
                    r#"{{"event":"stopped","interaction_id":"{number}",{numbers},{level}}}"#
                ));
            }
            peer.expect_close(1000, "");
        }
        assert_eq!(node.count(|counters| &counters.frames), 40 * 5_000);
        node.await_no_connections();
    });
}
