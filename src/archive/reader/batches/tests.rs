use super::*;
use crate::archive::image::{self, Image};
use crate::archive::layout::segment_path;
use crate::archive::lock;
use crate::archive::marks::Marks;
use crate::archive::reader::Journal;
use crate::constants::BLOCK_SIZE;
use std::fs::File;
use std::path::Path;

const SEGMENT_SIZE: usize = 128 * 1024;

/// One call of 60 frames in several segments.
fn image() -> Image {
    let mut image = Image::new(image::run(1), 3, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for number in 0..60u8 {
        image.pass(20_000);
        image.frame(epoch, &vec![number; 6_000]);
        if number % 3 == 2 {
            image.seal();
        }
    }
    image.end(epoch, 1);
    image.seal();
    assert!(image.segments().len() > 3);
    image
}

/// The bytes of all batches of an image, segment by segment.
fn written(image: &Image) -> Vec<Vec<u8>> {
    let of_segment = |segment: &image::Segment| {
        let batches = segment.batches.iter().map(|batch| &segment.bytes[batch.clone()]);
        batches.flatten().copied().collect()
    };
    image.segments().iter().map(of_segment).collect()
}

/// What a reader gives until it has nothing more.
#[derive(Debug, Default)]
struct Read {
    segments: Vec<Vec<u8>>,
    ids: Vec<u64>,
    unsound: usize,
    records: usize,
    missing: Vec<MissingSegments>,
    damages: Vec<String>,
    not_durable: usize,
    last: Option<Step>,
}

fn read(batches: &mut Batches) -> Read {
    let (mut read, mut next) = (Read::default(), Lsn(0));
    loop {
        let step = batches.advance().unwrap();
        match step {
            Step::Segment => {
                let segment = batches.segment().unwrap();
                read.ids.push(segment.id);
                read.segments.push(Vec::new());
                next = Lsn(segment.start.0 + BLOCK_SIZE as u64);
            }
            Step::Batch => {
                let batch = batches.batch().unwrap();
                assert_eq!(batch.lsn, next, "batches follow each other without a hole");
                next = batch.end();
                read.segments.last_mut().unwrap().extend_from_slice(batch.bytes);
                read.unsound += usize::from(!batch.is_sound);
                read.records += batches.records().count();
                read.not_durable += usize::from(batch.end() > batches.durable_lsn());
            }
            Step::SegmentEnd => assert!(batches.batch().is_none()),
            Step::Missing(missing) => read.missing.push(missing),
            Step::Pending | Step::End => {
                read.last = Some(step);
                let damages = batches.take_damages();
                read.damages = damages.iter().map(|(_, damage)| damage.to_string()).collect();
                return read;
            }
        }
    }
}

fn batches(dir: &Path, from: Lsn) -> Batches {
    Journal::open(dir).unwrap().shards()[0].batches(from)
}

#[test]
fn all_batches_come_verbatim_and_in_order() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image());
    image.store(dir.path()).unwrap();
    let read = read(&mut batches(dir.path(), Lsn(0)));
    assert!(read.segments == written(&image));
    assert_eq!((read.unsound, read.missing.len(), read.damages.len()), (0, 0, 0));
    // 60 frames, the call, its end, and the call's record again in each later segment.
    assert_eq!(read.records, 61 + image.segments().len());
    assert_eq!((read.last, read.not_durable), (Some(Step::End), 0));
}

#[test]
fn a_reader_with_a_cursor_passes_over_whole_segments() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image());
    image.store(dir.path()).unwrap();
    let third = 2 * SEGMENT_SIZE as u64;
    for (from, first) in [(0, 1), (third - 1, 2), (third, 3), (third + 9_000, 3)] {
        let read = read(&mut batches(dir.path(), Lsn(from)));
        assert_eq!(read.ids[0], first, "from {from}");
        assert!(read.segments == written(&image)[first as usize - 1..]);
    }
}

#[test]
fn damage_is_stepped_over_and_named() {
    let mut image = image();
    let batches_of = image.segments()[1].batches.clone();
    // A payload, and a batch header.
    let (payload, header) = (batches_of[1].start + 300, batches_of[3].start + 5);
    let segment = &mut image.segments_mut()[1];
    segment.bytes[payload] ^= 1;
    segment.bytes[header] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    image.store(dir.path()).unwrap();
    let read = read(&mut batches(dir.path(), Lsn(0)));
    assert!(read.segments == written(&image), "damaged bytes come as they are");
    assert_eq!((read.unsound, read.damages.len()), (2, 2), "{:?}", read.damages);
    // Records around the damage count: only one is lost, and it is the one that was hit.
    assert_eq!(read.records, 61 + image.segments().len() - 1);
}

#[test]
fn a_torn_tail_comes_up_to_its_last_sound_record() {
    let mut image = image();
    let last = image.segments().len() - 1;
    let segment = &mut image.segments_mut()[last];
    let (whole, torn) = (segment.batches[1].clone(), segment.batches[2].clone());
    // The header of a batch and its first record reached the disk, and nothing after them.
    segment.bytes[torn.start + 6_200..].fill(0);
    segment.bytes[torn.start] ^= 0xFF;
    let (dir, expected) = (tempfile::tempdir().unwrap(), &segment.bytes.clone()[BLOCK_SIZE..]);
    image.store(dir.path()).unwrap();
    let read = read(&mut batches(dir.path(), Lsn(0)));
    let tail = &read.segments[last];
    assert_eq!(tail.len(), whole.end + 2 * BLOCK_SIZE - BLOCK_SIZE);
    assert!(tail[..] == expected[..tail.len()]);
    assert_eq!((read.unsound, read.damages.len()), (1, 0), "a torn tail is no damage");
}

#[test]
fn nothing_comes_from_behind_a_fence() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for number in 0..6u8 {
        image.frame(epoch, &[number; 900]);
        image.seal();
    }
    image.fence(2);
    image.frame(epoch, &[9; 900]);
    image.seal();
    let dir = tempfile::tempdir().unwrap();
    image.store(dir.path()).unwrap();
    let read = read(&mut batches(dir.path(), Lsn(0)));
    let fenced: usize = image.segments()[0].batches[4..].iter().map(|batch| batch.len()).sum();
    let written = written(&image);
    assert!(read.segments[0] == written[0][..written[0].len() - fenced]);
    assert!(read.segments[1] == written[1]);
}

#[test]
fn a_live_segment_says_what_is_durable_and_ends_with_its_writer() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for number in 0..4u8 {
        image.frame(epoch, &[number; 900]);
        image.seal();
        image.hold_syncs(number >= 1);
    }
    let dir = tempfile::tempdir().unwrap();
    let shard_dir = image.store(dir.path()).unwrap();
    let path = segment_path(&shard_dir, 1);
    let writer = File::open(&path).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());
    let mut reader = batches(dir.path(), Lsn(0));
    let found = read(&mut reader);
    let ends: Vec<_> = image.segments()[0].batches.iter().map(|batch| batch.end).collect();
    assert_eq!(found.last, Some(Step::Pending));
    assert_eq!(reader.durable_lsn(), Lsn(ends[1] as u64), "the last two batches are not synced");
    assert_eq!(reader.synced_lsn(), reader.durable_lsn());
    reader.set_durable(Lsn(ends[2] as u64)).unwrap();
    assert_eq!(reader.durable_lsn(), Lsn(ends[2] as u64), "the node knows more");
    drop(writer);
    assert_eq!(reader.advance().unwrap(), Step::SegmentEnd);
    assert_eq!(reader.advance().unwrap(), Step::End);
}

#[test]
fn memory_does_not_vouch_for_bytes_behind_a_fence() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for number in 0..6u8 {
        image.frame(epoch, &[number; 900]);
        image.seal();
    }
    let dir = tempfile::tempdir().unwrap();
    let shard_dir = image.store(dir.path()).unwrap();
    let writer = File::open(segment_path(&shard_dir, 1)).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());
    let ends: Vec<_> = image.segments()[0].batches.iter().map(|batch| batch.end).collect();
    let durable = Lsn(ends[3] as u64);
    let mut reader = batches(dir.path(), Lsn(0));
    reader.set_durable(durable).unwrap();
    assert_eq!(reader.advance().unwrap(), Step::Segment);
    for end in &ends[..5] {
        assert_eq!(reader.advance().unwrap(), Step::Batch);
        assert_eq!(reader.batch().map(|batch| batch.end()), Some(Lsn(*end as u64)));
    }
    assert_eq!(reader.durable_lsn(), durable, "the fifth batch is in the file, and not durable");
    // A write fails. The last two batches are written again, to the next segment.
    image.fence(2);
    image.frame(epoch, &[9; 900]);
    image.seal();
    image.store(dir.path()).unwrap();
    reader.set_durable(Lsn(10 * SEGMENT_SIZE as u64)).unwrap();
    assert_eq!(reader.durable_lsn(), durable, "positions of the next segment say nothing here");
    assert_eq!(reader.advance().unwrap(), Step::SegmentEnd, "the sixth batch does not come");
    assert_eq!(reader.advance().unwrap(), Step::Segment);
    assert_eq!(reader.advance().unwrap(), Step::Batch);
    assert!(reader.batch().is_some_and(|batch| batch.end() <= reader.durable_lsn()));
}

#[test]
fn segments_that_are_gone_are_named_with_the_reason() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image());
    let shard_dir = image.store(dir.path()).unwrap();
    for id in [1, 3] {
        std::fs::remove_file(segment_path(&shard_dir, id)).unwrap();
    }
    let found = read(&mut batches(dir.path(), Lsn(0)));
    let missing = |id, reason| MissingSegments { first: id, last: id, reason };
    let (expired, lost) = (GapReason::Expired, GapReason::Lost);
    assert_eq!(found.missing, [missing(1, lost), missing(3, lost)], "nothing was removed");
    let last = image.segments().len() as u64;
    let marks = Marks { shard_count: 1, removed_to: 1, ended: Some(last + 1) };
    marks.store(&shard_dir).unwrap();
    let found = read(&mut batches(dir.path(), Lsn(0)));
    assert_eq!(found.missing, [missing(1, expired), missing(3, lost), missing(last + 1, lost)]);
    assert_eq!(found.last, Some(Step::End));
}
