//! The live index of a segment that a shard writes.

use super::*;
use crate::archive::index::IndexFile;

#[test]
fn a_live_index_comes_while_the_segment_is_open_and_goes_once_it_has_its_index() {
    for is_fenced in [false, true] {
        let mut fixture = Fixture::start(|_| ());
        let PreparedSegment { id, uuid, mut headers, .. } = fixture.segment();
        let open = || IndexFile::open_live(&fixture.shard_dir, id, uuid);
        let epoch = note_call(&mut headers, uuid);
        eventually("what was noted is in the live index", || open().is_some());
        let mut live = open().unwrap();
        assert_eq!((live.head().end, live.head().records), (8192, 6));
        let found = live.find(42).unwrap().remove(0);
        assert_eq!((found.0.epoch, found.0.frames.count()), (epoch, 5));
        assert_eq!(live.places(&found.1.unwrap()).unwrap().iter().count(), 5);

        fixture.begin(id);
        fixture.ask(SegmentRequest::Retire { id, size: 8192, is_fenced, headers });
        let path = layout::live_index_path(&fixture.shard_dir, id);
        eventually("it is gone", || !path.exists());
        let index = SegmentIndex::load(&fixture.shard_dir, id, uuid);
        assert_eq!(index.map(|index| index.records), (!is_fenced).then_some(6));
        fixture.end();
    }
}

#[test]
fn a_live_index_that_cannot_be_written_costs_no_index() {
    let mut fixture = Fixture::start(|_| ());
    let PreparedSegment { id, uuid, mut headers, .. } = fixture.segment();
    let obstacle = layout::live_index_path(&fixture.shard_dir, id);
    std::fs::create_dir(&obstacle).unwrap();
    note_call(&mut headers, uuid);
    // Longer than the interval: it is tried, and given up.
    std::thread::sleep(super::super::live::INTERVAL * 2);
    fixture.begin(id);
    fixture.ask(SegmentRequest::Retire { id, size: 8192, is_fenced: false, headers });
    let file = File::open(fixture.path(id)).unwrap();
    assert!(lock::shared_within(&file, Duration::from_secs(60)).unwrap());
    let index = SegmentIndex::load(&fixture.shard_dir, id, uuid).unwrap();
    assert_eq!((index.end, index.records), (8192, 6));
    std::fs::remove_dir(obstacle).unwrap();
    fixture.end();
}
