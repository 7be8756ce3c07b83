//! Recovery beside a node's own run, and beside retention.

use super::*;
use crate::archive::image::{self, Image};
use crate::archive::index::SegmentIndex;
use crate::archive::layout::{index_path, segment_path};
use crate::constants::BLOCK_SIZE;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const SEGMENT_SIZE: usize = 64 * 1024;

/// A run with two segments, a frame in each.
fn store(data_dir: &Path, pid: u32) -> PathBuf {
    let mut image = Image::new(image::run(pid), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", &format!("call-{pid}"), 8_000);
    image.frame(epoch, &[1; 1_000]);
    image.seal();
    image.roll();
    image.frame(epoch, &[2; 1_000]);
    image.end(epoch, 1);
    image.seal();
    image.store(data_dir).unwrap()
}

#[test]
fn a_run_that_is_left_alone_is_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    for pid in 1..=3 {
        store(dir.path(), pid);
    }
    let others = recover_all_but(Some(image::run(2)), dir.path(), &mut || {}).unwrap();
    assert_eq!(
        (others.runs, others.segments, others.calls, others.frames),
        (2, 4, 2, 4),
        "{others}"
    );
    let all = recover(dir.path(), &mut || {}).unwrap();
    assert_eq!((all.runs, all.segments, all.segments_read), (3, 6, 2), "{all}");
}

#[test]
fn a_segment_cannot_be_removed_between_reading_it_and_storing_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let shard_dir = store(dir.path(), 1);
    let journal = Journal::open(dir.path()).unwrap();
    let shard = &journal.shards()[0];
    let retention = File::open(segment_path(&shard_dir, 1)).unwrap();
    let summary = shard.summarize(0).unwrap().unwrap();
    assert!(!lock::try_exclusive(&retention).unwrap(), "locked between reading and storing");
    assert!(shard.keep(&summary));
    drop(summary);
    assert!(lock::try_exclusive(&retention).unwrap());

    // Retention came first. There is nothing to read, or the bytes read may now belong to another
    // segment.
    let second = File::open(segment_path(&shard_dir, 2)).unwrap();
    assert!(lock::try_exclusive(&second).unwrap());
    let summary = shard.summarize(1).unwrap().unwrap();
    assert!(summary.is_live && !shard.keep(&summary));
    std::fs::remove_file(segment_path(&shard_dir, 2)).unwrap();
    assert!(matches!(shard.summarize(1).unwrap(), Err(None)));
    assert!(!index_path(&shard_dir, 2).exists());
}

/// A run with one segment of five batches, a frame in each. Two were durable when power failed.
/// Nothing of the third reached the disk.
fn store_reordered(data_dir: &Path) -> (PathBuf, Image) {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for frame in 0..5 {
        image.hold_syncs(frame >= 2);
        image.frame(epoch, &[frame; 1_000]);
        image.seal();
    }
    let shard_dir = image.store(data_dir).unwrap();
    blank(&shard_dir, image.segments()[0].batches[2].clone());
    (shard_dir, image)
}

fn blank(shard_dir: &Path, hole: std::ops::Range<usize>) {
    let file = File::options().write(true).open(segment_path(shard_dir, 1)).unwrap();
    file.write_all_at(&vec![0; hole.len()], hole.start as u64).unwrap();
}

#[test]
fn bytes_that_were_not_durable_are_counted_and_are_neither_damage_nor_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (shard_dir, image) = store_reordered(dir.path());
    let lost = image.segments()[0].batches[2].len() as u64;
    let counts = |report: &RecoveryReport| {
        (report.bytes_unsynced, report.frames, report.frames_torn, report.is_sound())
    };
    // Read first, then from its index, then read again.
    for round in 0..2 {
        let report = recover(dir.path(), &mut || {}).unwrap();
        assert_eq!(
            (counts(&report), report.segments_read),
            ((lost, 4, 1, true), 1 - round),
            "{report}"
        );
        let text = format!("{lost} bytes of batches lost before a sync");
        assert!(report.to_string().contains(&text) && report.torn_tails.is_empty(), "{report}");
    }
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(counts(&verify(&journal, &mut || {}).unwrap()), (lost, 4, 1, true));
    let catalog = journal.catalog(&mut || {}).unwrap();
    assert_eq!(catalog.calls[0].epochs[0].gaps.len(), 1, "the missing audio is reported");
    // Lost durable data beside it is damage.
    blank(&shard_dir, image.segments()[0].batches[1].clone());
    let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
    assert_eq!(
        (report.damages.len(), report.bytes_unsynced, report.is_sound()),
        (1, lost, false),
        "{report}"
    );
}

#[test]
fn the_index_of_a_segment_that_was_ended_tells_that_its_last_batch_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    image.hold_syncs(true);
    for frame in 0..3 {
        image.frame(epoch, &[frame; 1_000]);
        image.seal();
    }
    let shard_dir = image.store(dir.path()).unwrap();
    let whole = recover(dir.path(), &mut || {}).unwrap();
    assert!(whole.is_sound() && whole.frames == 3, "{whole}");
    let (segment, damages) = (&image.segments()[0], |dir: &Path| {
        verify(&Journal::open(dir).unwrap(), &mut || {})
            .unwrap()
            .damages
            .into_iter()
            .map(|damage| damage.offset)
            .collect::<Vec<_>>()
    });
    let mut index = Journal::open(dir.path()).unwrap().shards()[0].stored_index(0).unwrap();
    assert_eq!(
        (index.durable_end, index.end),
        (BLOCK_SIZE as u64, segment.end_of_batches() as u64)
    );
    for hit in [1, 2] {
        std::fs::write(segment_path(&shard_dir, 1), &segment.bytes).unwrap();
        blank(&shard_dir, segment.batches[hit].clone());
        index.durable_end = BLOCK_SIZE as u64;
        index.store(&shard_dir).unwrap();
        assert_eq!(damages(dir.path()), [0; 0], "a crash may have caused it");
        index.durable_end = index.end;
        index.store(&shard_dir).unwrap();
        assert_eq!(
            damages(dir.path()),
            [segment.batches[hit].start as u64],
            "its writer knew that it was durable"
        );
    }
    assert_eq!(SegmentIndex::decode(&index.encode()), Ok(index));
}

#[test]
fn a_count_of_one_is_singular() {
    let mut report = RecoveryReport {
        segments: 1,
        runs: 1,
        indexes_written: 1,
        batches: 1,
        ..RecoveryReport::default()
    };
    (report.calls, report.frames, report.frames_cut, report.damages_known) = (1, 1, 1, 1);
    let text = report.to_string();
    for part in [
        "1 segment of 1 run (",
        "1 index written",
        "1 batch, 0 records",
        "1 call, ",
        "1 frame, ",
        "1 frame never completed",
        "1 place found by",
    ] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    report.batches = 2;
    report.indexes_written = 0;
    let text = report.to_string();
    assert!(text.contains("2 batches") && text.contains("0 indexes"), "{text}");
}
