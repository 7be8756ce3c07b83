use super::*;
use crate::archive::image::{self, Image};
use crate::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use proptest::prelude::*;

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
        scan.records().for_each(|found| builder.add(&found));
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
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(SegmentIndex::decode(&damaged).is_err(), "bit {bit} of byte {at}");
        }
        assert!(SegmentIndex::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(SegmentIndex::decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
}

/// Whatever byte is wrong: a lookup gives what is right, or says that the index is damaged.
#[test]
fn a_lookup_in_a_damaged_index_gives_nothing_wrong() {
    let (image, one, _) = sample();
    let dir = tempfile::tempdir().unwrap();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    let (bytes, call) = (index.encode(), index.epochs[0].call);
    let look_up = || {
        let mut file = IndexFile::open(dir.path(), 1, index.uuid)?;
        let found = file.find(call).ok()?;
        let [(call_epoch, Some(at))] = &found[..] else { panic!("{found:?}") };
        let places = file.places(at).ok()?;
        Some(EpochIndex { places: Some(places), ..call_epoch.clone() })
    };
    let mut damaged_count = 0;
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(index_path(dir.path(), 1), &damaged).unwrap();
        match look_up() {
            Some(found) => assert_eq!(found, index.epochs[0], "byte {at}"),
            None => damaged_count += 1,
        }
        let listed = IndexFile::open(dir.path(), 1, index.uuid).map(IndexFile::into_epochs);
        if let Some(Ok(listed)) = listed {
            assert_eq!(listed.epochs.len(), 2);
            assert_eq!((listed.epochs[0].epoch, listed.epochs[0].bytes), (one, 640), "byte {at}");
        }
    }
    assert!(damaged_count > 2 * 4096 && damaged_count < bytes.len(), "{damaged_count}");
}

#[test]
fn a_lookup_reads_a_few_kilobytes_of_a_large_index() {
    let (image, ..) = sample();
    let mut index = index_of(&image.segments()[0].bytes, &image, 1);
    let call_epoch = index.epochs[0].clone();
    index.epochs = (0..8_000u64)
        .map(|number| {
            let mut places = RecordPlaces::default();
            for at in 0..100 {
                let offset = (at * 8_000 + number) * 9_664;
                assert!(places.add(places::RecordPlace { offset, size: 9_664 }));
            }
            let call = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            EpochIndex { call, places: Some(places), ..call_epoch.clone() }
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    index.store(dir.path()).unwrap();
    let size = std::fs::metadata(index_path(dir.path(), 1)).unwrap().len();
    assert!(size > 3_000_000, "{size}");
    for wanted in index.epochs.iter().step_by(777) {
        let mut file = IndexFile::open(dir.path(), 1, index.uuid).unwrap();
        let found = file.find(wanted.call).unwrap();
        let places = file.places(&found[0].1.unwrap()).unwrap();
        assert_eq!(EpochIndex { places: Some(places), ..found[0].0.clone() }, *wanted);
        assert!(file.bytes_read() < 16 * 1024, "{} of {size} bytes", file.bytes_read());
    }
    let mut file = IndexFile::open(dir.path(), 1, index.uuid).unwrap();
    assert_eq!(file.find(77).unwrap(), []);
    let listed = file.into_epochs().unwrap();
    assert!(
        listed
            .epochs
            .iter()
            .zip(&index.epochs)
            .all(|(listed, stored)| { *listed == EpochIndex { places: None, ..stored.clone() } })
    );
    assert_eq!(SegmentIndex::load(dir.path(), 1, index.uuid), Some(index));
}

/// An index that the first version of this program wrote.
const VERSION_1: &[u8] = include_bytes!("version_1.index");

#[test]
fn an_index_of_version_1_is_read_and_has_no_places() {
    let (image, one, _) = sample();
    let mut expected = index_of(&image.segments()[0].bytes, &image, 1);
    expected.epochs.iter_mut().for_each(|call_epoch| call_epoch.places = None);
    expected.ended_at = UnixMicros(0);
    assert_eq!(SegmentIndex::decode(VERSION_1), Ok(expected.clone()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(index_path(dir.path(), 1), VERSION_1).unwrap();
    let mut file = IndexFile::open(dir.path(), 1, expected.uuid).unwrap();
    let found = file.find(expected.epochs[0].call).unwrap();
    assert_eq!((found[0].0.epoch, found[0].1), (one, None));
    assert_eq!(file.into_epochs(), Ok(expected));
    for at in 0..VERSION_1.len() {
        let mut damaged = VERSION_1.to_vec();
        damaged[at] ^= 0x40;
        assert!(SegmentIndex::decode(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn when_a_segment_ended_follows_from_its_batches() {
    let mut image = Image::new(image::run(1), 3, 64 * 1024).unwrap();
    let call = image.start("acme", "one", 8_000);
    image.frame(call, &[1; 321]);
    image.seal();
    let header = image.segments()[0].bytes[..BLOCK_SIZE].first_chunk().unwrap();
    let created_at = crate::format::SegmentHeader::decode(header).unwrap().created_at;
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    assert_eq!(index.ended_at, created_at, "one batch");
    image.pass(5_000_000);
    image.frame(call, &[1; 321]);
    image.seal();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    assert_eq!(index.ended_at.0, created_at.0 + 5_000_000);
    // A clock that was set forward by a day.
    image.pass(86_400_000_000);
    image.frame(call, &[1; 321]);
    image.seal();
    let index = index_of(&image.segments()[0].bytes, &image, 1);
    assert_eq!(index.ended_at.0, created_at.0 + 3_600_000_000);
}

proptest! {
    #[test]
    fn arbitrary_bytes_with_right_checksums_never_panic(
        changes in prop::collection::vec((0usize..4092, any::<u8>()), 0..4),
        entry_changes in prop::collection::vec((0usize..400, any::<u8>()), 0..4),
        cut in 0usize..9_000,
    ) {
        let (image, ..) = sample();
        let index = index_of(&image.segments()[0].bytes, &image, 1);
        let mut bytes = index.encode();
        for (at, value) in changes {
            bytes[at] = value;
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..BLOCK_SIZE].copy_from_slice(&crc.to_le_bytes());
        // Any change of the first entry, with its checksum put right.
        let (entries_at, mut row) = (2 * BLOCK_SIZE, [0; ROW_SIZE]);
        for at in 0..2 {
            row.copy_from_slice(&bytes[BLOCK_SIZE + at * ROW_SIZE..][..ROW_SIZE]);
            if place_of(&row).0 == 0 {
                break;
            }
        }
        let size = place_of(&row).1 as usize;
        let entry = &mut bytes[entries_at..entries_at + size];
        for (at, value) in entry_changes {
            let at = at % (size - CRC_SIZE);
            entry[at] = value;
        }
        let crc = crc32c::crc32c_append(seed(index.uuid), &entry[..size - CRC_SIZE]);
        entry[size - CRC_SIZE..].copy_from_slice(&crc.to_le_bytes());
        bytes.truncate(cut.max(BLOCK_SIZE));
        if let Ok(read) = SegmentIndex::decode(&bytes) {
            prop_assert!(read.epochs.len() <= 2);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(index_path(dir.path(), 1), &bytes).unwrap();
        if let Some(mut file) = IndexFile::open_any(dir.path(), 1) {
            for (_, places) in file.find(index.epochs[0].call).unwrap_or_default() {
                let _ = places.map(|at| file.places(&at));
            }
            let _ = file.into_epochs();
        }
    }
}
