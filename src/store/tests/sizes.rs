//! What other threads may see: sizes, ages, limits, and what was removed.

use super::removing::{HOUR, ended_run};
use super::*;
use crate::archive::boot;
use std::os::unix::fs::MetadataExt;

/// Bytes on disk of the files of a directory.
fn on_disk(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|file| file.blocks() * 512).sum()
}

#[test]
fn sizes_count_all_runs_and_ages_are_those_of_the_oldest_segment() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    layout::create_data_dir(&data_dir).unwrap();
    let clock = boot::current(&data_dir).unwrap().clock();
    let now = clock.at(crate::io::clocks::uptime()).0;
    let run = |number| RunName { boot: 1, started_at: UnixMicros(number), pid: number as u32 };
    let ago = |hours| now - hours * HOUR;
    let first = ended_run(&data_dir, run(1), &[ago(6), ago(4)]);
    let second = ended_run(&data_dir, run(2), &[ago(5), ago(3)]);
    let mut fixture = Fixture::start_in(data, |_| ());
    let store = fixture.store.as_ref().unwrap();
    let view = store.view();
    // The four, and the one that the node has prepared.
    eventually("all are counted", || view.journal().segments == 5);
    let hours = || view.journal().oldest_age.map(|age| age.as_secs() / 3_600);
    eventually("the oldest is found", || hours().is_some());
    let journal = view.journal();
    assert_eq!(hours(), Some(6));
    let old = on_disk(&first) + on_disk(&second);
    assert!(
        (old..=old + 2 * SEGMENT_SIZE).contains(&journal.bytes) && journal.bytes > 4 * SEGMENT_SIZE,
        "{journal:?}, {old} on disk"
    );
    assert_eq!((journal.retain_bytes, journal.retain_age), (None, None));
    assert!(journal.list_bytes >= 5 * 16);
    let disk = view.disk().unwrap();
    assert!(disk.free <= disk.size && disk.size > 0 && disk.reserve == 1, "{disk:?}");
    assert_eq!((view.segments_removed(), view.bytes_removed()), (0, 0));

    let changed = JournalSettings {
        segment_size: SEGMENT_SIZE,
        reserve: Some(2),
        retain_bytes: Some(9 * SEGMENT_SIZE / 2),
        retain_age: Some(Duration::from_secs(24 * 3_600)),
        ..JournalSettings::default()
    };
    store.set_settings(changed);
    eventually("some are removed", || view.segments_removed() >= 2);
    eventually("the next one is the oldest", || hours().is_some_and(|hours| hours < 5));
    let journal = view.journal();
    assert_eq!(journal.retain_bytes, changed.retain_bytes);
    assert_eq!(journal.retain_age, changed.retain_age);
    assert_eq!(view.disk().unwrap().reserve, 2);
    eventually("their bytes are counted", || {
        view.bytes_removed() >= view.segments_removed() * SEGMENT_SIZE
    });
    fixture.end();
}

#[test]
fn a_segment_has_an_age_once_it_has_begun() {
    let mut fixture = Fixture::start(|_| ());
    let view = fixture.store.as_ref().unwrap().view();
    eventually("it is counted", || view.journal().segments == 1);
    assert_eq!(view.journal().oldest_age, None, "a file of zeros has no age");
    write_header(&fixture.shard_dir, fixture.run(), 1, 1_000_000);
    eventually("it has an age", || view.journal().oldest_age.is_some());
    fixture.end();
}
