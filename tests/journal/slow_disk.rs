//! A disk that takes no writes for some seconds. Acks wait, memory is bounded, TCP pushes back, and
//! nothing is lost. The disk is a frozen filesystem, as during a snapshot.
//!
//! Needs root.

use crate::EXO_INGEST;
use exo_ingest_harness::{
    LoopDisk, NodeProcess, Player, assert_sound, audit, eventually, timed_test,
};
use std::time::{Duration, Instant};

const DISK_SIZE: u64 = 1 << 30;

/// Bytes of a connection that may be under way outside the ring: both socket buffers at their
/// largest (`tcp_wmem`, `tcp_rmem`).
const SOCKET_SIZE_MAX: u64 = (4 << 20) + (6 << 20);

/// The frame ring of [`NodeProcess`].
const RING_SIZE: u64 = 16 << 20;

const CALL_COUNT: u64 = 4;

fn players(node: &NodeProcess, name: &str, pause: Duration) -> Vec<Player> {
    let start = |call| node.play(&format!("{name}-{call}"), call, pause);
    (0..CALL_COUNT).map(start).collect()
}

fn sent_bytes(calls: &[Player]) -> u64 {
    calls.iter().map(Player::sent_bytes).sum()
}

#[test]
fn acks_wait_tcp_pushes_back_and_everything_is_kept_after_a_stall_of_five_seconds() {
    let _turn = timed_test();
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let data_dir = disk.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=4KiB"]);
    let calls = players(&node, "slow", Duration::from_micros(500));
    eventually("calls are acked", || calls.iter().all(|call| call.acked() >= 50));
    let size_before = node.resident_size();

    let frozen = disk.freeze();
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let (acked, sent_early) =
        (calls.iter().map(Player::acked).collect::<Vec<_>>(), sent_bytes(&calls));
    std::thread::sleep(
        Duration::from_secs(5).saturating_sub(start.elapsed() + Duration::from_millis(1)),
    );
    assert!(
        calls.iter().map(Player::acked).eq(acked.iter().copied()),
        "an ack came from a disk that takes nothing"
    );
    assert!(!calls.iter().any(Player::is_over), "{:#?}", node.log());
    let (sent, size) = (sent_bytes(&calls), node.resident_size());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sent_bytes(&calls), sent, "TCP does not push back");
    let under_way = sent - sent_early;
    assert!(
        under_way <= RING_SIZE + CALL_COUNT * SOCKET_SIZE_MAX,
        "{under_way} bytes taken while nothing was written"
    );
    // The ring's pages come into use as it fills. Nothing else grows.
    assert!(
        size <= size_before + RING_SIZE + (4 << 20),
        "{size_before} bytes in memory became {size}"
    );
    drop(frozen);

    eventually("acks go on", || {
        calls.iter().zip(&acked).all(|(call, acked)| call.acked() > acked + 100)
    });
    let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(
        ended.iter().all(|call| (call.close, call.stopped) == (Some(1000), Some(call.sent))),
        "{ended:#?}"
    );
    assert!(node.terminate().success());
    assert_sound(&data_dir);
    let audit = audit(&data_dir, &ended);
    println!(
        "5 s stall: {under_way} bytes taken meanwhile, \
         {size_before} → {size} bytes of memory, {audit:?}"
    );
}

#[test]
fn a_disk_that_stalls_for_too_long_ends_calls_with_1013_and_takes_new_ones_later() {
    let _turn = timed_test();
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let data_dir = disk.path().join("data");
    let args = ["--set", "journal.reserve=4KiB", "--set", "journal.stall_timeout=2s"];
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &args);
    let calls = players(&node, "stalled", Duration::from_millis(2));
    eventually("calls are acked", || calls.iter().all(|call| call.acked() >= 50));
    let frozen = disk.freeze();
    let start = Instant::now();
    eventually("calls are ended", || calls.iter().all(Player::is_over));
    let ended_after = start.elapsed();
    node.await_upgrade_status(503);
    drop(frozen);
    assert!(ended_after >= Duration::from_millis(1500), "ended after {ended_after:?}");
    let mut ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(ended.iter().all(|call| call.close == Some(1013)), "{ended:#?}");
    node.await_upgrade_status(101);
    let calls = players(&node, "later", Duration::from_millis(2));
    eventually("calls are acked again", || calls.iter().all(|call| call.acked() >= 50));
    ended.extend(calls.into_iter().map(Player::finish));
    assert!(node.terminate().success());
    assert_sound(&data_dir);
    println!("stalled disk: calls ended after {ended_after:.1?}, {:?}", audit(&data_dir, &ended));
}
