//! A disk that fills up. No ack is false, calls are told, new calls are refused. When there is room
//! again, the node goes on by itself.
//!
//! Needs root.

use crate::EXO_INGEST;
use exo_ingest_harness::{
    LoopDisk, NodeProcess, Player, assert_sound, audit, eventually, fill, heavy_test,
};
use std::process::Command;
use std::time::Duration;

const DISK_SIZE: u64 = 96 << 20;

fn players(node: &NodeProcess, name: &str, seed: u64, pause: Duration) -> Vec<Player> {
    let start = |call| node.play(&format!("{name}-{call}"), seed + call, pause);
    (0..4).map(start).collect()
}

#[test]
fn a_full_disk_ends_calls_with_1013_refuses_new_ones_and_goes_on_with_room() {
    let _turn = heavy_test();
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let (data_dir, filler) = (disk.path().join("data"), disk.path().join("filler"));
    fill(&filler, 48 << 20);
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=4KiB"]);
    let mut played = Vec::new();
    for round in 0..2 {
        let calls = players(&node, &format!("full-{round}"), 10 * round, Duration::ZERO);
        eventually("every call is ended", || calls.iter().all(Player::is_over));
        let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
        assert!(ended.iter().all(|call| call.close == Some(1013)), "{ended:#?} {:#?}", node.log());
        node.await_upgrade_status(503);
        // While the node is out of room, all acked audio can be read.
        let full = audit(&data_dir, &ended);
        assert!(full.acked > 0, "{full:?}");
        played.extend(ended);
        match round {
            // Room for some more segments, then the disk is full again.
            0 => fill_less(&filler),
            _ => std::fs::remove_file(&filler).expect("it is ours"),
        }
        // ext4 gives blocks of a removed file to others once its own journal has them.
        let synced = Command::new("sync").arg("-f").arg(disk.path()).status();
        assert!(synced.expect("coreutils").success());
        node.await_upgrade_status(101);
        println!("full disk, round {round}: {full:?}");
    }
    let calls = players(&node, "later", 100, Duration::from_millis(2));
    eventually("calls are acked again", || calls.iter().all(|call| call.acked() >= 50));
    let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(
        ended.iter().all(|call| (call.close, call.stopped) == (Some(1000), Some(call.sent))),
        "{ended:#?} {:#?}",
        node.log()
    );
    played.extend(ended);
    assert!(node.terminate().success());
    assert_sound(&data_dir);
    println!("after all: {:?}", audit(&data_dir, &played));
}

fn fill_less(filler: &std::path::Path) {
    let file = std::fs::File::options().write(true).open(filler).expect("it is there");
    file.set_len(28 << 20).expect("it gets smaller");
}

#[test]
fn below_the_reserve_new_calls_are_refused_and_those_under_way_go_on() {
    let Some(disk) = LoopDisk::make(DISK_SIZE, "loop") else { return };
    let (data_dir, filler) = (disk.path().join("data"), disk.path().join("filler"));
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=40MiB"]);
    let calls = players(&node, "early", 0, Duration::from_millis(20));
    fill(&filler, 40 << 20);
    node.await_upgrade_status(503);
    let acked: Vec<u64> = calls.iter().map(Player::acked).collect();
    eventually("they are acked as before", || {
        calls.iter().zip(&acked).all(|(call, acked)| call.acked() > acked + 10)
    });
    assert_eq!(node.upgrade_status(), 503);
    std::fs::remove_file(&filler).expect("it is ours");
    node.await_upgrade_status(101);
    let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(
        ended.iter().all(|call| (call.close, call.stopped) == (Some(1000), Some(call.sent))),
        "{ended:#?}"
    );
    assert!(node.terminate().success());
    assert_sound(&data_dir);
    println!("below the reserve: {:?}", audit(&data_dir, &ended));
}
