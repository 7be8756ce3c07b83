//! Recovery beside a node's own run, and beside those who take segments away.

use super::*;
use crate::journal::image::{self, Image};
use crate::journal::layout::{index_path, segment_path};

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
