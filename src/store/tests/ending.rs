//! How a sealed segment's file ends, and which part of it is given back to the filesystem.

use super::*;
use std::os::unix::fs::MetadataExt;

const LARGE: u64 = 4 << 20;

fn retire(fixture: &Fixture, id: u64, size: u64) -> (u64, Vec<u8>) {
    fixture.ask(SegmentRequest::Retire {
        id,
        size,
        is_fenced: false,
        headers: RecordHeaders::default(),
    });
    let file = File::open(fixture.path(id)).unwrap();
    assert!(lock::shared_within(&file, Duration::from_secs(5)).unwrap());
    (file.metadata().unwrap().ino(), std::fs::read(fixture.path(id)).unwrap())
}

fn fill(fixture: &Fixture, id: u64) {
    File::options()
        .write(true)
        .open(fixture.path(id))
        .unwrap()
        .write_all_at(&[0xAB; LARGE as usize], 0)
        .unwrap();
}

#[test]
fn a_small_unused_rest_stays_as_zeros_and_a_large_one_is_given_back() {
    let little = LARGE / 32;
    for (unused, kept) in
        [(0, 0), (4096, 4096), (little, little), (little + 4096, 0), (LARGE - 8192, 0)]
    {
        let mut fixture = Fixture::start(|config| {
            (config.segment_size, config.retain_bytes) = (LARGE, Some(3 * LARGE));
        });
        let mut inodes = Vec::new();
        for id in 1..=3 {
            assert_eq!(fixture.segment().id, id);
            fill(&fixture, id);
            if id < 3 {
                inodes.push(retire(&fixture, id, LARGE).0);
            }
        }
        // The fourth segment reuses an earlier file, which is full of other bytes. That is the
        // first one's, unless the indexer is reading it just now.
        assert_eq!(fixture.segment().id, 4);
        assert_eq!(std::fs::read(fixture.path(4)).unwrap().len() as u64, LARGE);
        let end = LARGE - unused;
        File::options()
            .write(true)
            .open(fixture.path(4))
            .unwrap()
            .write_all_at(&vec![0xCD; end as usize], 0)
            .unwrap();
        let (recycled, bytes) = retire(&fixture, 4, end);
        assert!(inodes.contains(&recycled), "a new file would prove nothing");
        assert_eq!(bytes.len() as u64, end + kept, "{unused} bytes unused");
        assert!(bytes[..end as usize].iter().all(|byte| *byte == 0xCD));
        assert!(bytes[end as usize..].iter().all(|byte| *byte == 0), "no old byte shows");
        fixture.end();
    }
}

#[test]
fn an_index_overwrites_that_of_the_segment_whose_file_is_reused() {
    // Room for three segments and their indexes.
    let mut fixture =
        Fixture::start(|config| config.retain_bytes = Some(3 * SEGMENT_SIZE + SEGMENT_SIZE / 2));
    for id in 1..=3 {
        fixture.segment();
        fixture.begin(id);
        if id < 3 {
            retire(&fixture, id, SEGMENT_SIZE);
        }
        std::fs::write(layout::index_path(&fixture.shard_dir, id), "of another").unwrap();
    }
    let unfinished = |id| layout::unfinished_index_path(&fixture.shard_dir, id);
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let index_path = |id| layout::index_path(&fixture.shard_dir, id);
    let sealed = [1, 2].map(|id| (id, inode(&fixture.path(id)), inode(&index_path(id))));
    fixture.segment();
    // The first one's file, unless the indexer is reading it just now.
    let reused = inode(&fixture.path(4));
    let (id, _, index) = sealed.into_iter().find(|(_, segment, _)| *segment == reused).unwrap();
    assert!(!index_path(id).exists(), "no reader takes it for the index of the new segment");
    assert_eq!(inode(&unfinished(4)), index);
    // Never used, like its segment: both are removed.
    assert!(fixture.path(4).exists());
    let (segment, index) = (fixture.path(4), unfinished(4));
    fixture.end();
    assert!(!segment.exists() && !index.exists());
}
