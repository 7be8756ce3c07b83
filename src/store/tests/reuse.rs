//! At its limit a node uses the files of removed segments again.

use super::removing::ended_run;
use super::*;
use rustix::fs::{FallocateFlags, fallocate};
use std::os::unix::fs::MetadataExt;

/// Whether the filesystem can turn a file into zeros. If not, this prints that nothing was tested.
fn can_blank(directory: &Path) -> bool {
    let probe = tempfile::tempfile_in(directory).unwrap();
    let is_able = fallocate(&probe, FallocateFlags::ZERO_RANGE, 0, SEGMENT_SIZE).is_ok();
    if !is_able {
        eprintln!("skipped: this filesystem cannot turn a file into zeros");
    }
    is_able
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// The files in a shard's directory that wait to become a segment.
fn spares(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "preparing")).collect()
}

#[test]
fn a_node_at_its_limit_uses_its_oldest_file_again_and_that_reads_as_zeros() {
    let data = tempfile::tempdir().unwrap();
    if !can_blank(data.path()) {
        return;
    }
    let data_dir = data.path().join("data");
    let run = RunName { boot: 1, started_at: UnixMicros(1), pid: 1 };
    let dir = ended_run(&data_dir, run, &[100, 200, 300, 400, 500]);
    let old: Vec<u64> = (1..=5).map(|id| inode(&layout::segment_path(&dir, id))).collect();
    let mut fixture =
        Fixture::start_in(data, |config| config.retain_bytes = Some(9 * SEGMENT_SIZE / 2));
    let segment = fixture.segment();
    let path = fixture.path(segment.id);
    assert!(old.contains(&inode(&path)), "room for the first segment is made before it is");
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() as u64 == SEGMENT_SIZE && bytes.iter().all(|byte| *byte == 0));
    fixture.begin(segment.id);
    eventually("the others are removed", || layout::segments(&dir).unwrap().len() <= 3);
    fixture.end();
    for dir in [&dir, &fixture.shard_dir] {
        assert!(spares(dir).is_empty(), "{:?}", spares(dir));
    }
}

#[test]
fn after_a_failed_write_or_sync_no_file_is_used_again() {
    let data = tempfile::tempdir().unwrap();
    if !can_blank(data.path()) {
        return;
    }
    let run = RunName { boot: 1, started_at: UnixMicros(1), pid: 1 };
    let dir = ended_run(&data.path().join("data"), run, &[100, 200, 300, 400, 500]);
    // Open, so that no new file gets the number of one that is gone.
    let mut files: Vec<File> =
        (1..=5).map(|id| File::open(layout::segment_path(&dir, id)).unwrap()).collect();
    let mut fixture =
        Fixture::start_in(data, |config| config.retain_bytes = Some(9 * SEGMENT_SIZE / 2));
    let is_known = |files: &[File], path: &Path| {
        files.iter().any(|file| file.metadata().unwrap().ino() == inode(path))
    };
    for id in 1..=2 {
        assert_eq!(fixture.segment().id, id);
        fixture.begin(id);
        files.push(File::open(fixture.path(id)).unwrap());
    }
    eventually("there is a file for the next one", || {
        spares(&dir).len() + spares(&fixture.shard_dir).len() == 1
    });
    fixture.retire(1, SEGMENT_SIZE, true);
    eventually("it is freed", || spares(&dir).is_empty() && spares(&fixture.shard_dir).is_empty());
    for id in 3..=6 {
        assert_eq!(fixture.segment().id, id);
        fixture.begin(id);
        assert!(!is_known(&files, &fixture.path(id)), "segment {id} is a new file");
        files.push(File::open(fixture.path(id)).unwrap());
        fixture.retire_and_wait(id - 1, SEGMENT_SIZE);
    }
    assert!(fixture.ids().first() > Some(&1), "retention goes on: {:?}", fixture.ids());
    fixture.end();
}

#[test]
fn shards_that_finish_their_segments_at_the_same_time_need_no_new_file() {
    const ROUNDS: u64 = 12;
    let data = tempfile::tempdir().unwrap();
    if !can_blank(data.path()) {
        return;
    }
    // Each shard has two, and there is one for the next.
    let settings = JournalSettings {
        segment_size: SEGMENT_SIZE,
        retain_bytes: Some(11 * SEGMENT_SIZE / 2),
        reserve: Some(0),
        ..JournalSettings::default()
    };
    let run = begin(data.path(), settings, 2);
    let dirs = run.shard_dirs.clone();
    let (tell, told) = channel();
    let (requests, receiver) = sync_channel(8);
    let tell = move |shard, event| {
        let _ = tell.send((shard, event));
        Ok(())
    };
    let (store, _first) = run.start(receiver, tell).unwrap();
    let mut files: HashMap<u64, File> = HashMap::new();
    for id in 2..2 + ROUNDS {
        for shard in 0..2 {
            requests.send((shard, SegmentRequest::Prepare)).unwrap();
        }
        // The segment before the one that is written now.
        for shard in (0..2).filter(|_| id > 2) {
            let (size, headers) = (SEGMENT_SIZE, RecordHeaders::default());
            let retire = SegmentRequest::Retire { id: id - 2, size, is_fenced: false, headers };
            requests.send((shard, retire)).unwrap();
        }
        for _ in 0..2 {
            let (shard, event) = told.recv_timeout(Duration::from_secs(60)).unwrap();
            let StoreEvent::Segment(segment) = event else { panic!("{event:?}") };
            assert_eq!(segment.id, id);
            let path = layout::segment_path(&dirs[shard], id);
            // Open, so that no new file gets the number of one that is gone.
            files.entry(inode(&path)).or_insert_with(|| File::open(&path).unwrap());
        }
    }
    // Five, and some if a thread gets no CPU for a while. It was one in each round: the request for
    // a segment held up what would have made room for it.
    assert!(files.len() as u64 <= 5 + ROUNDS / 3, "{} files were made", files.len());
    drop(requests);
    store.join();
}
