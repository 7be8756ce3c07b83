//! Much audio of many calls at once: after a flood, and after a disk that stood still. The node
//! reads all calls in turn and acks all frames. Few receives find no buffer, and no call is closed.
//! While the frame ring is full, the node still answers requests.

use exo_ingest::io::probe::KernelFeatures;
use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::store::JournalConfig;
use exo_ingest_harness::{
    LoopDisk, Peer, TENANT, TestNode, eventually, heavy_test, mint, on_both_kernels, wire,
};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::thread::{scope, sleep};
use std::time::Duration;

/// 200 ms at 24 kHz.
const FRAME_SIZE: usize = 9_600;

const DISK_SIZE: u64 = 1 << 30;

fn start(
    features: KernelFeatures,
    calls: usize,
    ring_size: usize,
    data_dir: Option<PathBuf>,
) -> TestNode {
    TestNode::start(features, |setup| {
        setup.limits.ring_size = ring_size;
        setup.limits.calls_max = calls + 8;
        setup.limits.connections_max = calls + 64;
        setup.journal = data_dir.map(|dir| {
            JournalConfig::new(
                dir,
                JournalSettings {
                    segment_size: 64 << 20,
                    reserve: Some(4096),
                    ..JournalSettings::default()
                },
            )
        });
    })
}

/// Few receives found no buffer: less than one for each four frames. No session was refused, no
/// call ended.
///
/// On a quiet machine it is less than one for each ten. A node that gets no CPU for a while finds
/// more readable sockets than buffers each time it runs, and each of them fails once. In the
/// collapse that this test keeps out, 13 failed for each frame.
#[track_caller]
fn assert_calm(node: &TestNode, frames: usize) {
    assert_eq!(node.count(|counters| &counters.frames), frames as u64);
    let in_vain = node.count(|counters| &counters.receive_buffers_exhausted);
    let reads = node.count(|counters| &counters.reads);
    let waited = node.count(|counters| &counters.reads_waited_max_ms);
    println!(
        "  {frames} frames: {in_vain} receives without a buffer, {reads} reads, \
         the longest wait {waited} ms"
    );
    assert!(in_vain * 4 < frames as u64, "{in_vain} receives without a buffer, {frames} frames");
    assert_eq!(node.count(|counters| &counters.sessions_refused), 0);
    assert_eq!(node.count(|counters| &counters.calls_ended), 0);
}

#[test]
fn five_seconds_of_audio_at_once_from_a_crowd_are_all_acked() {
    let _turn = heavy_test();
    const CALLS: usize = 400;
    const FRAMES: usize = 25;
    let audio = wire::binary(&[0x5a; FRAME_SIZE]).repeat(FRAMES);
    on_both_kernels(|features| {
        let node = start(features, CALLS, 64 << 20, None);
        let mut peers = node.calls_at_once(CALLS);
        scope(|scope| {
            for share in peers.chunks_mut(CALLS / 8) {
                scope.spawn(|| share.iter_mut().for_each(|peer| peer.send(&audio)));
            }
        });
        peers.iter_mut().for_each(|peer| peer.expect_acks(10, 20));
        node.await_count((CALLS * FRAMES) as u64, |counters| &counters.frames);
        assert_calm(&node, CALLS * FRAMES);
        peers.iter_mut().for_each(|peer| peer.send_frames(5, 320));
        peers.iter_mut().for_each(|peer| peer.expect_ack(30));
    });
}

/// Sends as much of `bytes` as the socket takes now; returns how much that was.
fn send_what_fits(peer: &Peer, bytes: &[u8]) -> usize {
    peer.socket().set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    while sent < bytes.len() {
        match peer.socket().write(&bytes[sent..]) {
            Ok(size) => sent += size,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    peer.socket().set_nonblocking(false).expect("a socket");
    sent
}

/// A frozen filesystem, as during a snapshot, is a disk that takes no writes. Needs root.
#[test]
fn a_disk_stands_still_and_all_complete_frames_are_acked_afterwards() {
    let _turn = heavy_test();
    const CALLS: usize = 120;
    const FRAMES: usize = 60;
    /// Bytes that half of the peers hold back until the disk works again.
    const HELD_BACK: usize = 5_000;
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let audio = wire::binary(&[0x5a; FRAME_SIZE]).repeat(FRAMES);
    on_both_kernels(|features| {
        let data_dir = disk.path().join(format!("{features:?}"));
        let node = start(features, CALLS, 16 << 20, Some(data_dir));
        let mut peers = node.calls_at_once(CALLS);
        let frozen = disk.freeze();
        let mut sent = vec![0; CALLS];
        let whole = |number: usize| audio.len() - number % 2 * HELD_BACK;
        let mut before = (0, 0);
        let mut steady = 0;
        eventually("the frame ring is full and no socket takes more", || {
            for (number, peer) in peers.iter().enumerate() {
                sent[number] += send_what_fits(peer, &audio[sent[number]..whole(number)]);
            }
            sleep(Duration::from_millis(50));
            let now = (sent.iter().sum::<usize>(), node.count(|counters| &counters.frames));
            steady = if now == before { steady + 1 } else { 0 };
            before = now;
            steady > 10 && node.count(|counters| &counters.reads_waiting) > 0
        });
        let used = node.count(|counters| &counters.ring_used_bytes);
        println!(
            "  {} bytes sent, {} frames in the ring, {used} bytes of it used",
            before.0, before.1
        );
        requests_are_answered(&node);
        assert_eq!(node.count(|counters| &counters.acks), 0, "the disk took something");
        drop(frozen);
        scope(|scope| {
            for (number, peer) in peers.iter_mut().enumerate() {
                let rest = &audio[sent[number]..whole(number)];
                scope.spawn(move || {
                    peer.send(rest);
                    let complete = FRAMES - number % 2;
                    peer.expect_acks(10, complete as u64 / 10 * 10);
                });
            }
        });
        let complete = CALLS * FRAMES - CALLS / 2;
        node.await_count(complete as u64, |counters| &counters.frames);
        assert_calm(&node, complete);
        for (number, peer) in peers.iter_mut().enumerate().filter(|(number, _)| number % 2 == 1) {
            peer.send(&audio[whole(number)..]);
            peer.expect_ack(FRAMES as u64);
        }
    });
}

/// Tiny frames take far more of the ring than of a socket. So receives complete that find no room
/// in the ring, and their bytes keep all receive buffers. Requests are read into other buffers.
#[test]
fn requests_are_answered_while_all_receive_buffers_are_in_use() {
    let _turn = heavy_test();
    const CALLS: usize = 120;
    const FRAMES: usize = 10_000;
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let audio = wire::binary(b"ab").repeat(FRAMES);
    on_both_kernels(|features| {
        let data_dir = disk.path().join(format!("{features:?}"));
        let node = start(features, CALLS, 16 << 20, Some(data_dir));
        let mut peers = node.calls_at_once(CALLS);
        let frozen = disk.freeze();
        scope(|scope| {
            for share in peers.chunks_mut(CALLS / 4) {
                scope.spawn(|| share.iter_mut().for_each(|peer| peer.send(&audio)));
            }
        });
        let waiting = || node.count(|counters| &counters.deferred_waiting);
        eventually("bytes wait for room", || waiting() > 0);
        requests_are_answered(&node);
        println!("  {} receives wait for room", waiting());
        assert!(waiting() > 0, "the ring has room again: this shows nothing");
        drop(frozen);
        peers.iter_mut().for_each(|peer| peer.expect_acks(10, FRAMES as u64));
        assert_calm(&node, CALLS * FRAMES);
    });
}

/// While calls wait for room, new connections get answers.
#[track_caller]
fn requests_are_answered(node: &TestNode) {
    for _ in 0..20 {
        let mut monitor = node.connect();
        monitor.send(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
        assert_eq!(monitor.response().status, 200);
        let mut stranger = node.connect();
        stranger.send(wire::upgrade_request("no-token").as_bytes());
        // A node with a nearly full ring does not check the token.
        let status = stranger.response().status;
        assert!(matches!(status, 401 | 503), "{status}");
        let mut lost = node.connect();
        lost.send(b"GET /nowhere HTTP/1.1\r\nHost: node\r\n\r\n");
        assert_eq!(lost.response().status, 404);
    }
    // Accepted or told to try again, but answered.
    let mut caller = node.connect();
    caller.send(wire::upgrade_request(&mint(TENANT, "late")).as_bytes());
    let status = caller.try_response(false).map(|response| response.status);
    println!("  an upgrade while the ring is full: {status:?}");
    assert!(matches!(status, Some(101 | 503)), "{status:?}");
}
