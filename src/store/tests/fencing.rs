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
    let retire = |id, size, is_fenced| fixture.retire(id, size, is_fenced);
    retire(1, 8192, true);
    // No byte of this one was ever durable, not even its header.
    retire(2, 0, true);
    std::fs::write(layout::index_path(&fixture.shard_dir, 1), "of all of it").unwrap();
    fixture.retire_and_wait(3, 12288);
    assert_eq!(
        (size(&fixture, 1), size(&fixture, 2)),
        (Some(SEGMENT_SIZE), Some(SEGMENT_SIZE)),
        "one later segment is not enough"
    );
    // It is being read, so it is cut after the next one.
    let reader = File::open(fixture.path(1)).unwrap();
    assert!(lock::try_shared(&reader).unwrap());
    retire(4, 12288, false);
    eventually("the second is empty, and keeps its name", || size(&fixture, 2) == Some(0));
    assert_eq!(size(&fixture, 1), Some(SEGMENT_SIZE));
    drop(reader);
    retire(5, 12288, false);
    eventually("the first is cut", || size(&fixture, 1) == Some(8192));
    assert!(!layout::index_path(&fixture.shard_dir, 1).exists());
    assert_eq!(fixture.ids(), [1, 2, 3, 4, 5]);
    fixture.end();
}

#[test]
fn a_fenced_segment_is_removed_by_retention_in_its_turn() {
    let mut fixture = Fixture::start(|config| config.retain_bytes = Some(4 * SEGMENT_SIZE));
    for id in 1..=4 {
        fixture.segment();
        fixture.begin(id);
    }
    fixture.retire(1, SEGMENT_SIZE, true);
    eventually("it is removed", || fixture.ids() == [2, 3, 4]);
    fixture.end();
}
