//! A peer that never reads its acks. What waits for it stays small, it is cut after a while, and
//! other calls go on.
//!
//! The test measures the memory of its process, so it runs in a process of its own.

use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::session::ingest::Ending;
use exo_ingest_harness::{
    Peer, TENANT, TestNode, eventually, heavy_test, in_own_process, mint, on_both_kernels, wire,
};
use std::time::Duration;

/// Anonymous memory of this process, bytes.
fn resident_size() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn call_with_small_window(node: &TestNode, interaction: &str) -> Peer {
    let mut peer = Peer::connect_with_receive_buffer(node.address(), 1024);
    peer.upgrade(&mint(TENANT, interaction));
    peer.start(TENANT, interaction);
    peer
}

/// Sends empty frames until acks find no room in the socket any more. Returns how many.
fn shut_window(node: &TestNode, peer: &mut Peer) -> u64 {
    let blocked = node.count(|counters| &counters.sends_blocked);
    let frames = wire::binary(b"").repeat(10_000);
    let mut sent = 0;
    while node.count(|counters| &counters.sends_blocked) == blocked {
        peer.send(&frames);
        sent += 10_000;
        eventually("the frames are in", || node.count(|counters| &counters.frames) >= sent);
        assert!(sent < 10_000_000, "the socket takes acks without end");
    }
    sent
}

#[test]
fn it_is_cut_and_nothing_grows() {
    let _turn = heavy_test();
    let path = concat!(module_path!(), "::it_is_cut_and_nothing_grows");
    in_own_process(path, || on_both_kernels(check));
}

fn check(features: KernelFeatures) {
    let node = TestNode::start(features, |setup| {
        setup.limits.ack_stalled_timeout = Duration::from_millis(1500);
        // A socket takes megabytes before it is full. Larger sends fill it sooner.
        setup.limits.send_slot_size = 32 * 1024;
        setup.limits.send_slot_count = 16;
        setup.limits.close_timeout = Duration::from_millis(500);
        // The other call is silent while a slow machine fills the socket.
        setup.limits.idle_timeout = Duration::from_secs(600);
        setup.limits.ping_after = Duration::from_secs(300);
        // Otherwise the node would refuse such fast frames as a flood.
        setup.limits.max_ahead = None;
        setup.limits.text_burst = 1_000_000;
    });
    let mut other = node.call_as(TENANT, "other");
    let mut peer = call_with_small_window(&node, "shut");
    shut_window(&node, &mut peer);
    // Ten thousand more acks become due. For the node they are two numbers, not a queue.
    let before = resident_size();
    let frames = wire::binary(b"").repeat(100_000);
    peer.send(&frames);
    let pings = wire::frame(0x89, &[0; 125]).repeat(40);
    peer.send(&pings);
    peer.send(&wire::text(&wire::start_text(TENANT, "shut")).repeat(1000));
    other.send_frames(10, 9600);
    other.expect_ack(10);
    let grown = resident_size().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
    eventually("it is cut", || node.count(|counters| &counters.calls_ended) == 1);
    assert_eq!(node.count_ingest(|counters| &counters.endings[Ending::AckStalled.index()]), 1);
    eventually("it is gone", || node.count(|counters| &counters.connections_open) == 1);
    other.send_frames(10, 9600);
    other.expect_ack(20);
    // When the peer reads at last, it finds acks in order, up to the last one that was sent.
    let expected = (1..=100_000u64).flat_map(|tens| {
        wire::unmasked(0x81, format!(r#"{{"event":"ack","seq":{tens}0}}"#).as_bytes())
    });
    let found = peer.rest();
    assert!(
        found.len() > 100_000
            && found.iter().copied().zip(expected).all(|(found, expected)| found == expected)
    );
    reads_late(&node);
}

/// A peer that reads late gets every answer. `started` is the largest answer, so it fills a socket
/// soonest.
fn reads_late(node: &TestNode) {
    const STARTS: usize = 20_000;
    let interaction = "x".repeat(256);
    // Its buffer has the usual size: with a small one, reading takes minutes.
    let mut peer = node.call_as(TENANT, &interaction);
    let blocked = node.count(|counters| &counters.sends_blocked);
    let mut writer = Peer::on(peer.socket().try_clone().expect("a descriptor"));
    let start = wire::text(&wire::start_text(TENANT, &interaction));
    std::thread::scope(|scope| {
        scope.spawn(move || writer.send(&start.repeat(STARTS)));
        eventually("its socket is full", || {
            node.count(|counters| &counters.sends_blocked) > blocked
        });
        (0..STARTS).for_each(|_| peer.expect_started(&interaction));
    });
    peer.send_frames(10, 0);
    peer.expect_ack(10);
}
