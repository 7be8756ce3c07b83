//! What happens to segments on which a write or sync failed.

use super::*;

fn size(fixture: &Fixture, id: u64) -> Option<u64> {
    std::fs::metadata(fixture.path(id)).ok().map(|metadata| metadata.len())
}

#[test]
fn a_fenced_segment_is_cut_to_its_durable_end_once_its_lost_part_is_durable_elsewhere() {
    let mut fixture = Fixture::start(|_| ());
    for id in 1..=5 {
        assert_eq!(fixture.segment().id, id);
        fixture.begin(id);
    }
    let retire = |id, size, is_fenced| {
        fixture.ask(SegmentRequest::Retire {
            id,
            size,
            is_fenced,
            headers: RecordHeaders::default(),
        })
    };
    retire(1, 8192, true);
    // No byte of this one was ever durable, not even its header.
    retire(2, 0, true);
    std::fs::write(layout::index_path(&fixture.shard_dir, 1), "of all of it").unwrap();
    retire(3, 12288, false);
    fixture.segment();
    assert_eq!(
        (size(&fixture, 1), size(&fixture, 2)),
        (Some(SEGMENT_SIZE), Some(SEGMENT_SIZE)),
        "one later segment is not enough"
    );
    // It is being read, so it is cut after the next one.
    let reader = File::open(fixture.path(1)).unwrap();
    assert!(lock::try_shared(&reader).unwrap());
    retire(4, 12288, false);
    fixture.segment();
    assert_eq!((size(&fixture, 1), size(&fixture, 2)), (Some(SEGMENT_SIZE), None));
    drop(reader);
    retire(5, 12288, false);
    fixture.segment();
    assert_eq!(size(&fixture, 1), Some(8192));
    assert!(!layout::index_path(&fixture.shard_dir, 1).exists());
    assert_eq!(layout::segments(&fixture.shard_dir).unwrap(), [1, 3, 4, 5, 6, 7, 8]);
    fixture.end();
}

#[test]
fn a_fenced_segment_is_removed_by_retention_and_not_recycled() {
    let mut fixture = Fixture::start(|config| config.retain_bytes = Some(4 * SEGMENT_SIZE));
    for id in 1..=4 {
        fixture.segment();
        fixture.begin(id);
    }
    fixture.ask(SegmentRequest::Retire {
        id: 1,
        size: SEGMENT_SIZE,
        is_fenced: true,
        headers: RecordHeaders::default(),
    });
    fixture.segment();
    assert_eq!(layout::segments(&fixture.shard_dir).unwrap(), [2, 3, 4, 5]);
    assert!(std::fs::read(fixture.path(5)).unwrap().iter().all(|byte| *byte == 0), "a new file");
    fixture.end();
}
