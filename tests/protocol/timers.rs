//! Every timer of the wire contract, with short times: what starts it, what puts it off, and what
//! is left when it fires.

use exo_ingest_harness::wire::{self, FIN, PONG};
use exo_ingest_harness::{
    INTERACTION, Message, SILENCE, TENANT, TestNode, mint, on_both_kernels, timed_test,
};
use std::time::{Duration, Instant};

const MOMENT: Duration = Duration::from_millis(300);

/// Long enough never to fire in a test.
const NEVER: Duration = Duration::from_secs(600);

#[test]
fn a_head_byte_by_byte_is_cut_all_the_same() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.head_timeout = MOMENT);
        let request = wire::upgrade_request(&mint(TENANT, INTERACTION));
        let mut peers: Vec<_> = (0..50).map(|_| node.connect()).collect();
        let start = Instant::now();
        let mut bytes = request.as_bytes().iter();
        // The last bytes of a request of this length never come in time.
        while start.elapsed() < MOMENT * 2 {
            let byte = bytes.next().expect("a request is longer");
            for peer in &mut peers {
                // The node may have closed it.
                let _ = peer.try_send(std::slice::from_ref(byte));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for peer in &mut peers {
            // Bytes sent after the answer may reset the connection, so that the answer is lost.
            if let Some(response) = peer.try_response(true) {
                assert_eq!(response.status, 408);
            }
        }
        assert_eq!(node.count(|counters| &counters.requests_refused), 50);
        drop(peers);
        node.await_no_connections();
        // A quick client gets in.
        node.call();
    });
}

#[test]
fn the_head_timer_ends_with_the_head() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.head_timeout = MOMENT);
        let mut peer = node.upgrade();
        std::thread::sleep(MOMENT * 2);
        peer.start(TENANT, INTERACTION);
    });
}

#[test]
fn no_start_in_time_is_refused_whatever_else_comes() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.start_timeout = MOMENT);
        let mut silent = node.upgrade();
        let mut busy = node.upgrade_as(TENANT, "busy");
        let start = Instant::now();
        while start.elapsed() < MOMENT * 2 {
            // Neither pongs nor unknown events are a start.
            let _ = busy.try_send(
                &[wire::text(r#"{"event":"later"}"#), wire::frame(FIN | PONG, b"")].concat(),
            );
            std::thread::sleep(MOMENT / 3);
        }
        silent.expect_refusal(4408, "start_timeout", true);
        let message = busy.receive();
        let Message::Text(text) = message else { panic!("{message:?}") };
        assert!(text.contains("start_timeout"), "{text}");
        // A call that has started has no such timer.
        let node =
            TestNode::start(features, |setup| setup.limits.start_timeout = Duration::from_secs(1));
        let mut peer = node.call();
        std::thread::sleep(Duration::from_millis(1200));
        peer.send_frames(10, 320);
        peer.expect_ack(10);
    });
}

#[test]
fn silence_is_pinged_and_an_answer_keeps_the_call() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.ping_after = MOMENT;
            setup.limits.idle_timeout = Duration::from_secs(10);
        });
        let mut peer = node.call();
        let mut waiting = node.upgrade_as(TENANT, "not started");
        let start = Instant::now();
        for _ in 0..4 {
            assert_eq!(peer.receive(), Message::Ping(Vec::new()));
            peer.send(&wire::frame(FIN | PONG, b""));
        }
        assert!(start.elapsed() >= MOMENT * 3, "{:?}", start.elapsed());
        assert_eq!(waiting.receive(), Message::Ping(Vec::new()));
        peer.send_frames(10, 320);
        // Further pings may come first.
        while peer.receive() == Message::Ping(Vec::new()) {}
        assert_eq!(node.count(|counters| &counters.acks), 1);
    });
}

#[test]
fn silence_is_the_end_in_spite_of_pings() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.ping_after = MOMENT;
            setup.limits.idle_timeout = MOMENT * 4;
        });
        let mut peer = node.call();
        let start = Instant::now();
        let mut pings = 0;
        let text = loop {
            match peer.receive() {
                Message::Ping(_) => pings += 1,
                Message::Text(text) => break text,
                other => panic!("{other:?}"),
            }
        };
        assert!(text.contains("idle_timeout") && pings >= 1, "{pings} pings, {text}");
        assert!(start.elapsed() >= MOMENT * 3, "{:?}", start.elapsed());
        peer.expect_close(4408, "idle_timeout");
        node.await_no_connections();
    });
}

/// Any byte is activity, also within a frame.
#[test]
fn a_trickle_is_no_silence() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.ping_after = NEVER / 2;
            setup.limits.idle_timeout = Duration::from_secs(1);
        });
        let mut peer = node.call();
        let frame = wire::binary(&[0; 20]);
        let start = Instant::now();
        for byte in &frame {
            peer.send(std::slice::from_ref(byte));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(start.elapsed() > Duration::from_secs(1));
        peer.send_frames(9, 20);
        peer.expect_ack(10);
    });
}

/// After its Close the node does not wait for ever for a peer that neither reads nor ends its side.
#[test]
fn a_refused_peer_that_stays_is_closed() {
    let _turn = timed_test();
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| {
            setup.limits.close_timeout = MOMENT;
            setup.limits.head_timeout = MOMENT;
        });
        let mut peer = node.upgrade();
        peer.send(&wire::text("not JSON"));
        let _refused = node.connect();
        node.await_no_connections();
        peer.expect_refusal(4400, "invalid_start", false);
    });
}

/// While nothing happens the shard's loop sleeps.
#[test]
fn an_idle_node_sleeps() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let _calls: Vec<_> =
            (0..20).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        std::thread::sleep(SILENCE);
        let before = node.count(|counters| &counters.turns);
        std::thread::sleep(Duration::from_secs(1));
        let turns = node.count(|counters| &counters.turns) - before;
        assert!(turns < 50, "{turns} turns in a second without any work");
    });
}
