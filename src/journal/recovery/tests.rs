//! Recovery beside a node's own run, and beside those who take segments away.

use super::*;
use crate::constants::BLOCK_SIZE;
use crate::journal::image::{self, Image};
use crate::journal::index::SegmentIndex;
use crate::journal::layout::{index_path, segment_path};
use std::os::unix::fs::FileExt;

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
    assert_eq!((others.runs, others.segments, others.calls, others.frames), (2, 4, 2, 4), "{others}");
    let all = recover(dir.path(), &mut || {}).unwrap();
    assert_eq!((all.runs, all.segments, all.segments_read), (3, 6, 2), "{all}");
}

#[test]
fn from_being_read_until_its_index_is_stored_a_segment_cannot_be_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let shard_dir = store(dir.path(), 1);
    let journal = Journal::open(dir.path()).unwrap();
    let shard = &journal.shards()[0];
    let retention = File::open(segment_path(&shard_dir, 1)).unwrap();
    let survey = shard.survey(0).unwrap().unwrap();
    assert!(!lock::try_exclusive(&retention).unwrap(), "between reading and storing");
    assert!(shard.keep(&survey));
    drop(survey);
    assert!(lock::try_exclusive(&retention).unwrap());

    // Retention came first: there is nothing to read, or what was read may be another segment's by now.
    let second = File::open(segment_path(&shard_dir, 2)).unwrap();
    assert!(lock::try_exclusive(&second).unwrap());
    let survey = shard.survey(1).unwrap().unwrap();
    assert!(survey.is_live && !shard.keep(&survey));
    std::fs::remove_file(segment_path(&shard_dir, 2)).unwrap();
    assert!(matches!(shard.survey(1).unwrap(), Err(None)));
    assert!(!index_path(&shard_dir, 2).exists());
}

/// A run whose only segment has five batches with a frame in each, of which two were durable when the power went, and what
/// of the third came to the disk is nothing.
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
fn what_was_not_durable_is_counted_and_is_neither_damage_nor_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (shard_dir, image) = store_reordered(dir.path());
    let lost = image.segments()[0].batches[2].len() as u64;
    let counts = |report: &RecoveryReport| (report.bytes_unsynced, report.frames, report.frames_torn, report.is_sound());
    // As it is read first, as its index says, and as it is read again.
    for round in 0..2 {
        let report = recover(dir.path(), &mut || {}).unwrap();
        assert_eq!((counts(&report), report.segments_read), ((lost, 4, 1, true), 1 - round), "{report}");
        let text = format!("{lost} bytes of batches were lost before a sync");
        assert!(report.to_string().contains(&text) && report.torn_tails.is_empty(), "{report}");
    }
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(counts(&verify(&journal, &mut || {}).unwrap()), (lost, 4, 1, true));
    let catalog = journal.catalog(&mut || {}).unwrap();
    assert_eq!(catalog.calls[0].turns[0].gaps.len(), 1, "that audio is missing is said");
    // What was durable is damage, beside it.
    blank(&shard_dir, image.segments()[0].batches[1].clone());
    let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
    assert_eq!((report.damages.len(), report.bytes_unsynced, report.is_sound()), (1, lost, false), "{report}");
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
    assert_eq!((index.durable_end, index.end), (BLOCK_SIZE as u64, segment.end_of_batches() as u64));
    for hit in [1, 2] {
        std::fs::write(segment_path(&shard_dir, 1), &segment.bytes).unwrap();
        blank(&shard_dir, segment.batches[hit].clone());
        index.durable_end = BLOCK_SIZE as u64;
        index.store(&shard_dir).unwrap();
        assert_eq!(damages(dir.path()), [0; 0], "a crash may have left it so");
        index.durable_end = index.end;
        index.store(&shard_dir).unwrap();
        assert_eq!(damages(dir.path()), [segment.batches[hit].start as u64], "its writer knew better");
    }
    assert_eq!(SegmentIndex::decode(&index.encode()), Ok(index));
}
