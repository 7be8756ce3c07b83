use super::*;
use crate::archive::image::{self, Image};
use crate::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;

fn index_of(bytes: &[u8], image: &Image, id: u64) -> SegmentIndex {
    let place = Place {
        run: *image.run(),
        shard: image.shard(),
        id,
        after: None,
        end: None,
        is_fresh: false,
    };
    let mut scan = SegmentScan::open(bytes, place, ScanOptions::default()).unwrap().unwrap();
    let mut builder = IndexBuilder::default();
    while scan.advance().unwrap() == Advance::Batch {
        scan.records().for_each(|found| builder.add(&found.header, found.payload));
    }
    builder.finish(image.run().number(), image.shard(), id, &scan)
}

/// Two calls over two segments. Frame 3 of the first call lies in both.
fn sample() -> (Image, Epoch, Epoch) {
    let mut image = Image::new(image::run(1), 3, 64 * 1024).unwrap();
    let (one, two) = (image.start("acme", "one", 8_000), image.start("acme", "a/b", 24_000));
    for _ in 0..2 {
        image.pass(200_000);
        image.frame(one, &[1; 321]);
        image.chunks(two, &[&[2; 100], &[2; 60]], true);
    }
    image.chunks(one, &[&[1; 100]], false);
    image.end(two, 1);
    image.seal();
    image.roll();
    (image, one, two)
}

#[test]
fn a_segment_is_summed_up() {
    let (image, one, two) = sample();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    assert_eq!((index.batches, index.records, index.damage_count, index.torn_at), (1, 10, 0, None));
    assert_eq!((index.epochs.len(), index.end), (2, image.segments()[0].end_of_batches() as u64));
    let call_epoch = &index.epochs[0];
    assert_eq!(
        (call_epoch.epoch, call_epoch.frames.count(), call_epoch.bytes, call_epoch.open_seq),
        (one, 2, 640, 3)
    );
    assert_eq!(
        (call_epoch.first_seq, call_epoch.broken, call_epoch.doubles, call_epoch.erased),
        (1, 0, 0, 0)
    );
    assert_eq!(call_epoch.last_received_at.0 - call_epoch.first_received_at.0, 400_000 + 1);
    assert_eq!(call_epoch.end, None);
    let call_epoch = &index.epochs[1];
    assert_eq!(
        (call_epoch.epoch, call_epoch.frames.count(), call_epoch.bytes, call_epoch.open_seq),
        (two, 2, 320, 0)
    );
    let facts = call_epoch.facts.as_ref().unwrap();
    assert_eq!((&*facts.identity.interaction, facts.sample_rate), ("a/b", 24_000));
    assert_eq!(call_epoch.end.map(|end| (end.frames, end.bytes, end.ending)), Some((2, 320, 1)));
}

#[test]
fn an_index_keeps_the_peer_of_a_call() {
    let (image, ..) = sample();
    let mut index = index_of(&image.segments()[0].bytes, &image, 1);
    let facts = index.epochs[1].facts.as_mut().unwrap();
    assert_eq!(facts.peer, None);
    facts.peer = PeerAddress::parse(b"[2001:db8::1]:4000");
    assert_eq!(SegmentIndex::decode(&index.encode()), Ok(index));
}

#[test]
fn an_index_is_read_from_its_file_only_for_its_segment() {
    let (image, ..) = sample();
    let dir = tempfile::tempdir().unwrap();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    index.store(dir.path()).unwrap();
    assert_eq!(SegmentIndex::load(dir.path(), 1, index.uuid), Some(index.clone()));
    assert_eq!(
        SegmentIndex::load(dir.path(), 1, SegmentUuid([1; 16])),
        None,
        "the file was recycled since"
    );
    std::fs::copy(index_path(dir.path(), 1), index_path(dir.path(), 2)).unwrap();
    assert_eq!(SegmentIndex::load(dir.path(), 2, index.uuid), None);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no other file is left");
    assert!(index.store(&dir.path().join("nowhere")).is_err());
}

#[test]
fn an_index_keeps_the_blocks_of_the_one_it_overwrites_unless_it_is_much_smaller() {
    let (image, ..) = sample();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    let size = index.encode().len();
    for (held, expected) in [
        (0, size),
        (3, size),
        (size, size),
        (size + 1, size + 1),
        (2 * size - 4, 2 * size - 4),
        (3 * size, size),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = unfinished_index_path(dir.path(), 1);
        std::fs::write(&unfinished, vec![0xEE; held]).unwrap();
        let inode = std::fs::metadata(&unfinished).unwrap().ino();
        index.store(dir.path()).unwrap();
        let metadata = std::fs::metadata(index_path(dir.path(), 1)).unwrap();
        assert_eq!((metadata.len(), metadata.ino()), (expected as u64, inode), "over {held} bytes");
        assert_eq!(
            SegmentIndex::load(dir.path(), 1, index.uuid),
            Some(index.clone()),
            "over {held} bytes"
        );
    }
    // Bytes after the last epoch are zeros, even if the checksum is right.
    let mut bytes = index.encode_over(size as u64 + 100);
    let at = bytes.len() - 50;
    bytes[at] = 1;
    bytes.truncate(bytes.len() - CRC_SIZE);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    assert_eq!(SegmentIndex::decode(&bytes), Err(FormatError::Padding));
}

#[test]
fn a_link_where_it_is_written_is_not_followed() {
    let (image, ..) = sample();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    std::os::unix::fs::symlink(&elsewhere, unfinished_index_path(dir.path(), 1)).unwrap();
    assert!(index.store(dir.path()).is_err());
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
    index.store(dir.path()).unwrap();
    assert_eq!(SegmentIndex::load(dir.path(), 1, index.uuid), Some(index));
}

#[test]
fn damage_to_an_index_is_noticed() {
    let (image, ..) = sample();
    let bytes = index_of(&image.segments()[0].bytes, &image, 1).encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let expected = if at < 8 { FormatError::Magic } else { FormatError::HeaderCrc };
        assert_eq!(SegmentIndex::decode(&damaged), Err(expected), "byte {at}");
        assert!(SegmentIndex::decode(&bytes[..at]).is_err());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_with_a_right_checksum_never_panic(
        changes in prop::collection::vec((8usize..600, any::<u8>()), 1..6), cut in 12usize..800,
    ) {
        let (image, ..) = sample();
        let mut bytes = index_of(&image.segments()[0].bytes, &image, 1).encode();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut.min(bytes.len() - 4));
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        if let Ok(index) = SegmentIndex::decode(&bytes) {
            prop_assert!(index.epochs.len() <= 2);
        }
    }
}
