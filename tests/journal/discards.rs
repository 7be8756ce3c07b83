//! A journal of a steady size on a mount with `discard`: each freed block becomes a command to the
//! disk. So a segment's file becomes the next segment, and few blocks are freed.
//!
//! Needs root.

use crate::EXO_INGEST;
use exo_ingest_harness::{LoopDisk, NodeProcess, Player, assert_sound, eventually, heavy_test};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// So large that a batch is a small part of it.
const SEGMENT_SIZE: u64 = 32 << 20;

/// Five segments, and their indexes: one more than are kept, for the next one.
const LIMIT: u64 = 5 * SEGMENT_SIZE + (2 << 20);

/// Bytes that the device of a directory was told to discard: `/sys/block/…/stat`,
/// Documentation/block/stat.rst.
fn discards(mounted: &Path) -> u64 {
    let device = std::fs::metadata(mounted).expect("it is mounted").dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))
        .expect("a block device");
    stat.split_whitespace()
        .nth(13)
        .and_then(|sectors| sectors.parse::<u64>().ok())
        .expect("Linux counts discards since 4.18")
        * 512
}

/// Makes the filesystem send the discards that are due.
fn commit_discards(mounted: &Path) {
    std::fs::File::open(mounted)
        .and_then(|directory| directory.sync_all())
        .expect("a directory can be synced");
}

/// Whether the filesystem discards a removed file, after a while.
fn discards_removed_files(mounted: &Path) -> bool {
    let (path, before) = (mounted.join("removed"), discards(mounted));
    std::fs::write(&path, vec![0xAB; 1 << 20]).expect("there is room");
    std::fs::File::open(&path).and_then(|file| file.sync_all()).expect("a file can be synced");
    std::fs::remove_file(&path).expect("it is there");
    (0..200).any(|_| {
        commit_discards(mounted);
        std::thread::sleep(Duration::from_millis(10));
        discards(mounted) > before
    })
}

#[test]
fn a_journal_at_its_limit_frees_few_blocks() {
    let _turn = heavy_test();
    let Some(disk) = LoopDisk::make(LIMIT + 2 * SEGMENT_SIZE, "loop,discard") else { return };
    assert!(discards_removed_files(&disk.path()), "no discard: this shows nothing");
    let data_dir = disk.path().join("data");
    let (limit, segment_size) = (LIMIT.to_string(), format!("journal.segment_size={SEGMENT_SIZE}"));
    let args = ["--retain-bytes", &limit, "--set", &segment_size, "--set", "journal.reserve=off"];
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &args);
    let start = |call| node.play(&format!("call-{call}"), call, Duration::from_millis(1));
    let players: Vec<Player> = (0..2).map(start).collect();
    let sent = || players.iter().map(Player::sent_bytes).sum::<u64>();
    let play_until = |bytes: u64| {
        eventually("so much is played", || {
            assert!(!players.iter().any(Player::is_over), "a call was ended: {:#?}", node.log());
            sent() >= bytes
        });
    };
    // From now on each new segment takes the place of an old one.
    play_until(LIMIT + LIMIT / 4);
    commit_discards(&disk.path());
    let before = discards(&disk.path());
    let start = sent();
    play_until(start + 4 * SEGMENT_SIZE);
    commit_discards(&disk.path());
    std::thread::sleep(Duration::from_millis(50));
    let after = discards(&disk.path());
    let (written, discarded) = (sent() - start, after - before);
    println!("{written} bytes written over, {discarded} discarded");
    // Indexes are removed, and ext4 frees blocks of its own. No segment's file is freed.
    assert!(discarded < SEGMENT_SIZE / 4, "{discarded} of {written} bytes discarded");
    let played: Vec<_> = players.into_iter().map(Player::finish).collect();
    assert!(played.iter().all(|call| call.close == Some(1000)), "{played:#?}");
    assert!(node.terminate().success());
    assert_sound(&data_dir);
}
