use super::*;
use crate::archive::image::{self, Image};
use crate::archive::layout::segment_path;
use crate::archive::lock;
use crate::archive::reader::{Journal, Step};
use crate::format::RecordKind;
use crate::handover::shard_slices::{Made, ShardSlices};
use crate::handover::slice::{SliceIndex, verify};
use proptest::prelude::*;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SEGMENT_SIZE: usize = 256 * 1024;
const SIZE: usize = 48 * 1024;

fn node() -> NodeName {
    NodeName::parse("node-1").unwrap()
}

/// What happens in a journal.
#[derive(Clone, Debug)]
enum Event {
    Start,
    Frame(usize, usize),
    Piece(usize),
    End(usize),
    Seal,
    Fence(usize),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => Just(Event::Start),
        20 => (0usize..4, 1usize..9_000).prop_map(|(call, size)| Event::Frame(call, size)),
        2 => (0usize..4).prop_map(Event::Piece),
        1 => (0usize..4).prop_map(Event::End),
        6 => Just(Event::Seal),
        1 => (1usize..3).prop_map(Event::Fence),
        1 => (1u64..40).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 30..160)
}

fn image_of(events: &[Event]) -> Image {
    let mut image = Image::new(image::run(1), 2, SEGMENT_SIZE).unwrap();
    let mut calls = vec![image.start("acme", "call-0", 8_000)];
    for (at, event) in events.iter().enumerate() {
        image.pass(20_000);
        match event {
            Event::Start => calls.push(image.start("acme", &format!("call-{at}"), 24_000)),
            Event::Frame(call, size) => {
                image.frame(calls[call % calls.len()], &vec![at as u8; *size]);
            }
            Event::Piece(call) => {
                image.chunks(calls[call % calls.len()], &[&[at as u8; 100]], false);
            }
            Event::End(call) => {
                let epoch = calls[call % calls.len()];
                if !image.call_epoch(epoch).unwrap().has_ended {
                    image.end(epoch, 1);
                }
                let again = image.start("acme", &format!("call-{at}"), 8_000);
                let place = call % calls.len();
                calls[place] = again;
            }
            Event::Seal => image.seal(),
            Event::Fence(count) => image.fence(*count),
            Event::Pass(seconds) => image.pass(seconds * 1_000_000),
        }
    }
    image.seal();
    image
}

/// The slices of the only shard below a directory, until nothing more comes.
fn slices(dir: &Path, size: usize) -> Vec<Slice> {
    let journal = Journal::open(dir).unwrap();
    let mut source = ShardSlices::with_size(node(), &journal.shards()[0], size);
    rest(&mut source)
}

fn rest(source: &mut ShardSlices) -> Vec<Slice> {
    let mut slices = Vec::new();
    loop {
        match source.advance().unwrap() {
            Made::Slice(slice) => slices.push(slice),
            Made::Note(_) => {}
            Made::Pending | Made::End => return slices,
        }
    }
}

/// The records of a journal that count: those of its segments up to their fences. And the epochs
/// whose call record is in a segment.
fn records_of(dir: &Path) -> (usize, HashSet<(u64, Epoch)>) {
    let journal = Journal::open(dir).unwrap();
    let mut batches = journal.shards()[0].batches(Lsn(0));
    let (mut count, mut named) = (0, HashSet::new());
    loop {
        match batches.advance().unwrap() {
            Step::Batch => {
                let id = batches.segment().unwrap().id;
                for found in batches.records() {
                    count += 1;
                    if found.header.kind == RecordKind::Call {
                        named.insert((id, found.header.epoch));
                    }
                }
            }
            Step::End => return (count, named),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn slices_hold_the_whole_journal_and_their_indexes_find_every_record(events in events()) {
        let (dir, image) = (tempfile::tempdir().unwrap(), image_of(&events));
        image.store(dir.path()).unwrap();
        let slices = slices(dir.path(), SIZE);
        let (record_count, named) = records_of(dir.path());
        let mut records = 0;
        for slice in &slices {
            let verified = verify(&slice.bytes).unwrap();
            prop_assert_eq!(&verified.index.header, &slice.header);
            prop_assert!(verified.damages.is_empty());
            let SliceIndex { header, index } = verified.index;
            records += index.records;
            // The bytes are those of the segment.
            let segment = &image.segments()[header.segment.id as usize - 1];
            let offset = (header.first.0 - header.segment.start.0) as usize;
            let size = (header.end.0 - header.first.0) as usize;
            let batches = &slice.bytes[BLOCK_SIZE..BLOCK_SIZE + size];
            prop_assert!(batches == &segment.bytes[offset..offset + size]);
            for call_epoch in &index.epochs {
                // An image does not repeat the record of a call whose end it still has to write.
                let name = (header.segment.id, call_epoch.epoch);
                prop_assert_eq!(call_epoch.facts.is_some(), named.contains(&name));
                for place in call_epoch.places.as_ref().unwrap().iter() {
                    let record = &slice.bytes[place.offset as usize..];
                    let header =
                        crate::format::RecordHeader::decode(record.first_chunk().unwrap()).unwrap();
                    prop_assert_eq!(
                        (header.call, header.epoch, header.record_size() as u64),
                        (call_epoch.call, call_epoch.epoch, place.size)
                    );
                }
            }
        }
        prop_assert_eq!(records as usize, record_count);
    }

    /// However much of a live journal is there at each look, the slices are the same in the end.
    #[test]
    fn slices_are_the_same_whenever_they_are_made(
        events in events(),
        cuts in prop::collection::vec(0usize..SEGMENT_SIZE, 1..6),
    ) {
        let (dir, image) = (tempfile::tempdir().unwrap(), image_of(&events));
        let shard_dir = image.store(dir.path()).unwrap();
        let whole = slices(dir.path(), SIZE);
        // The last segment is written piece by piece, under its writer's lock.
        let last = image.segments().last().unwrap();
        let file = File::options().read(true).write(true).open(segment_path(&shard_dir, last.id));
        let file = file.unwrap();
        prop_assert!(lock::try_exclusive(&file).unwrap());
        file.write_all_at(&vec![0; last.bytes.len() - BLOCK_SIZE], BLOCK_SIZE as u64).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut source = ShardSlices::with_size(node(), &journal.shards()[0], SIZE);
        let (mut found, mut written) = (Vec::new(), BLOCK_SIZE);
        let mut cuts = cuts;
        cuts.sort_unstable();
        for cut in cuts.into_iter().map(|cut| cut.next_multiple_of(512)).chain([SEGMENT_SIZE]) {
            if cut > written {
                file.write_all_at(&last.bytes[written..cut], written as u64).unwrap();
                written = cut;
            }
            found.extend(rest(&mut source));
        }
        drop(file);
        found.extend(rest(&mut source));
        prop_assert!(found == whole, "{} and {} slices", found.len(), whole.len());
    }
}

#[test]
fn a_slice_ends_with_the_minute_and_with_its_size() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    let mut frames = |count: usize, seconds: u64| {
        for _ in 0..count {
            image.frame(epoch, &[1; 8_000]);
            image.seal();
        }
        image.pass(seconds * 1_000_000);
    };
    frames(2, 60);
    frames(3, 1);
    frames(4, 0);
    let dir = tempfile::tempdir().unwrap();
    image.store(dir.path()).unwrap();
    let batches: Vec<u64> = slices(dir.path(), SIZE)
        .iter()
        .map(|slice| verify(&slice.bytes).unwrap().index.index.batches)
        .collect();
    // A batch has two blocks, so six of them are 48 KiB.
    assert_eq!(batches, [2, 6, 1]);
    let all = slices(dir.path(), SLICE_SIZE);
    assert_eq!(all.len(), 2);
    assert_eq!(all.iter().map(|slice| slice.header.is_last).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn damage_goes_along_and_is_counted_where_it_is() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for number in 0..12u8 {
        image.frame(epoch, &[number; 8_000]);
        image.seal();
    }
    let (header, payload) =
        (image.segments()[0].batches[2].start + 9, image.segments()[0].batches[7].start + 500);
    let segment = &mut image.segments_mut()[0];
    segment.bytes[header] ^= 4;
    segment.bytes[payload] ^= 4;
    let dir = tempfile::tempdir().unwrap();
    image.store(dir.path()).unwrap();
    let found = slices(dir.path(), SIZE);
    let counts: Vec<u32> = found.iter().map(|slice| slice.damage_count).collect();
    assert_eq!(counts, [1, 1]);
    for slice in &found {
        let verified = verify(&slice.bytes).unwrap();
        assert_eq!(verified.damages.len() as u32, slice.damage_count);
    }
    let records: u64 =
        found.iter().map(|slice| verify(&slice.bytes).unwrap().index.index.records).sum();
    assert_eq!(records, 12, "the call and eleven of twelve frames");
}
