//! What ended processes leave, and what the next start makes of it.

use super::*;
use crate::archive::reader::Journal;
use crate::archive::recovery::verify;
use std::os::unix::fs::MetadataExt;

/// Another run on the same directory, which is listed and tidied up.
fn next(data: tempfile::TempDir) -> Fixture {
    Fixture::start_in(data, |_| ())
}

#[test]
fn a_run_that_stored_nothing_leaves_no_directory() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    // It did not even start.
    drop(begin(&data_dir, JournalSettings::default(), 3));
    assert_eq!(layout::runs(&data_dir).unwrap(), []);
    let fixture = next(data);
    assert_eq!(layout::runs(&data_dir).unwrap().len(), 1);
    let _data = fixture.end_for_next();
    assert_eq!(layout::runs(&data_dir).unwrap(), []);
    assert!(layout::unfinished_runs(&data_dir).unwrap().is_empty());
}

#[test]
fn what_a_killed_process_prepared_goes_and_what_it_wrote_stays() {
    let data = tempfile::tempdir().unwrap();
    let run = RunName { boot: 1, started_at: UnixMicros(7), pid: 1 };
    let data_dir = data.path().join("data");
    let shard_dir = layout::create_shard_dir(&data_dir, &run, 0).unwrap();
    Marks::new(1).store(&shard_dir).unwrap();
    write_header(&shard_dir, run, 1, 10);
    // It failed before its header was written, and the next one began.
    let empty = |id| {
        File::create(layout::segment_path(&shard_dir, id)).unwrap().set_len(SEGMENT_SIZE).unwrap();
    };
    empty(2);
    write_header(&shard_dir, run, 3, 30);
    (4..=5).for_each(empty);
    let left = layout::preparing_path(&shard_dir, 6);
    let index = |id| layout::index_path(&shard_dir, id);
    let foreign = shard_dir.join("notes.index");
    for path in [&left, &index(1), &index(4), &foreign] {
        std::fs::write(path, "x").unwrap();
    }
    // And of runs that did not begin, or whose removal was interrupted.
    let starting = layout::starting_dir(&data_dir, &run);
    std::fs::create_dir_all(layout::shard_dir(&starting, 0)).unwrap();
    let removed = layout::removed_dir(&data_dir, &run);
    std::fs::create_dir_all(layout::shard_dir(&removed, 0)).unwrap();
    Marks::new(1).store(&layout::shard_dir(&removed, 0)).unwrap();
    let mut fixture = next(data);
    eventually("it is tidied up", || !left.exists() && !index(4).exists());
    assert_eq!(layout::segments(&shard_dir).unwrap(), [1, 2, 3]);
    assert!(index(1).exists() && foreign.exists() && !starting.exists() && !removed.exists());
    // From now on a lost segment is noticed.
    assert_eq!(Marks::load(&shard_dir).unwrap().unwrap().ended, Some(3));
    fixture.end();
}

#[test]
fn allocated_space_after_the_last_batch_of_a_killed_process_is_given_back() {
    const LARGE: u64 = 16 << 20;
    let data = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start_in(data, |config| config.segment_size = LARGE);
    fixture.segment();
    let mut image = Image::new(fixture.run(), 0, LARGE as usize).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    // Silence: the last blocks of the last batch are zeros.
    for _ in 0..3 {
        image.frame(epoch, &[0; 60_000]);
        image.seal();
    }
    let segment = image.segments()[0].clone();
    let run = fixture.run();
    fixture.end();
    // As a kill leaves it.
    let data = std::mem::replace(&mut fixture.data, tempfile::tempdir().unwrap());
    let data_dir = data.path().join("data");
    let shard_dir = layout::create_shard_dir(&data_dir, &run, 0).unwrap();
    Marks::new(1).store(&shard_dir).unwrap();
    let path = layout::segment_path(&shard_dir, 1);
    let file =
        disk::Disk::probe(&data_dir).and_then(|disk| disk.create(&path, LARGE, false)).unwrap();
    drop(file);
    let written = &segment.bytes[..segment.end_of_batches()];
    File::options().write(true).open(&path).unwrap().write_all_at(written, 0).unwrap();
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= LARGE);
    let mut fixture = next(data);
    eventually("its end is marked", || {
        Marks::load(&shard_dir).unwrap().is_some_and(|marks| marks.ended == Some(1))
    });
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 2 << 20, "{size} bytes are left");
    assert!(std::fs::read(&path).unwrap().starts_with(written));
    let journal = Journal::open(&fixture.data_dir()).unwrap();
    let report = verify(&journal, &mut || {}).unwrap();
    assert!(report.is_sound() && report.frames == 3, "{report}");
    fixture.end();
}

#[test]
fn a_run_with_lost_segments_is_not_removed_as_empty() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    let run = |pid| RunName { boot: 1, started_at: UnixMicros(7), pid };
    let [lost, expired] = [1, 2].map(|pid| {
        let shard_dir = layout::create_shard_dir(&data_dir, &run(pid), 0).unwrap();
        let removed_to = if pid == 1 { 2 } else { 3 };
        Marks { shard_count: 1, removed_to, ended: Some(3) }.store(&shard_dir).unwrap();
        layout::run_dir(&data_dir, &run(pid))
    });
    let mut fixture = next(data);
    eventually("the expired one is removed", || !expired.exists());
    assert!(lost.exists());
    fixture.end();
}
