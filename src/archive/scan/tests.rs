use super::*;
use crate::archive::image::{self, Image};
use crate::archive::layout::RunName;
use crate::archive::source::Faulty;
use crate::call::Seq;
use crate::clock::UnixMicros;
use proptest::prelude::*;

const SEGMENT_SIZE: usize = 256 * 1024;

/// A segment of six batches, each with some frames of two calls.
fn sample() -> Image {
    sample_held(6)
}

/// As [`sample`], but syncs complete only for the first `durable` batches.
fn sample_held(durable: usize) -> Image {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let calls = [image.start("acme", "one", 8_000), image.start("acme", "two", 8_000)];
    for batch in 0..6 {
        image.hold_syncs(batch >= durable);
        for (index, epoch) in calls.into_iter().enumerate() {
            image.pass(100_000);
            image.frame(epoch, &[index as u8 + 1; 1_000]);
            image.chunks(epoch, &[&[3; 100], &[4; 61]], true);
        }
        image.seal();
    }
    image
}

fn place(image: &Image, id: u64) -> Place {
    Place { run: *image.run(), shard: image.shard(), id, after: None, end: None, is_fresh: false }
}

/// The result of a scan: sequence number, offset and call of each audio record, damage, torn tail.
#[derive(Debug, PartialEq)]
struct Outcome {
    records: Vec<(u64, u32, u64)>,
    damages: Vec<Damage>,
    torn_at: Option<u64>,
    stats: ScanStats,
}

fn scan(source: impl Source, place: Place, options: ScanOptions) -> Result<Outcome, Unread> {
    let mut scan = SegmentScan::open(source, place, options).unwrap()?;
    let mut records = Vec::new();
    while scan.advance().unwrap() == Advance::Batch {
        let audio = scan.records().filter(|found| found.header.kind == RecordKind::Audio);
        records
            .extend(audio.map(|Found { header, .. }| (header.seq.0, header.offset, header.call)));
    }
    assert_eq!(scan.advance().unwrap(), Advance::End, "the end does not move");
    let (damages, torn_at, stats) = (scan.damages().to_vec(), scan.torn_at(), *scan.stats());
    Ok(Outcome { records, damages, torn_at, stats })
}

#[test]
fn a_whole_segment_comes_back_in_order() {
    let image = sample();
    let segment = &image.segments()[0];
    let all = scan(&segment.bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
    assert_eq!((all.records.len(), all.damages.len(), all.torn_at), (36, 0, None));
    assert_eq!((all.stats.batches, all.stats.first_batch, all.stats.last_batch), (6, 1, 6));
    assert_eq!((all.stats.records, all.stats.salvaged), (38, 0));
    let call = all.records[0].2;
    let one = scan(
        &segment.bytes[..],
        place(&image, 1),
        ScanOptions { call: Some(call), ..ScanOptions::default() },
    )
    .unwrap();
    assert_eq!(
        one.records,
        all.records.iter().copied().filter(|record| record.2 == call).collect::<Vec<_>>()
    );
}

#[test]
fn a_segment_cut_anywhere_keeps_what_is_before_the_cut() {
    let image = sample();
    let segment = &image.segments()[0];
    let whole = scan(&segment.bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
    for cut in (BLOCK_SIZE..segment.end_of_batches() + 200).step_by(512) {
        for zeroed in [false, true] {
            let mut bytes = segment.bytes.clone();
            if zeroed {
                bytes[cut..].fill(0)
            } else {
                bytes.truncate(cut)
            }
            let outcome = scan(&bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
            let batches = segment.batches.iter().filter(|batch| batch.end <= cut).count();
            assert_eq!(outcome.damages, [], "cut at {cut}");
            assert!(
                outcome.records.len() >= batches * 6,
                "cut at {cut}: {}",
                outcome.records.len()
            );
            assert!(whole.records.starts_with(&outcome.records), "cut at {cut}");
        }
    }
}

#[test]
fn a_cut_is_damage_if_the_next_segment_says_so() {
    let image = sample();
    let segment = &image.segments()[0];
    let end = segment.end_of_batches();
    let place = Place { end: Some(Lsn(end as u64)), ..place(&image, 1) };
    assert_eq!(scan(&segment.bytes[..], place, ScanOptions::default()).unwrap().damages, []);
    let last = segment.batches[5].start;
    let outcome = scan(&segment.bytes[..last], place, ScanOptions::default()).unwrap();
    let what = Corruption::Missing { size: (end - last) as u64 };
    assert_eq!(
        (outcome.damages, outcome.torn_at),
        (vec![Damage { offset: last as u64, what }], None)
    );
    // Bytes after its end do not count, whatever they are.
    let place = Place { end: Some(Lsn(last as u64)), ..place };
    let mut bytes = segment.bytes.clone();
    bytes[last + 100..].fill(0x55);
    let outcome = scan(&bytes[..], place, ScanOptions::default()).unwrap();
    assert_eq!((outcome.damages, outcome.torn_at, outcome.records.len()), (vec![], None, 30));
}

#[test]
fn each_flipped_header_byte_costs_one_record_at_most_and_is_named() {
    let image = sample();
    let segment = &image.segments()[0];
    let (place, options) = (place(&image, 1), ScanOptions::default());
    let whole = scan(&segment.bytes[..], place, options).unwrap();
    let mut headers: Vec<(usize, bool)> =
        (0..BLOCK_SIZE).step_by(7).map(|at| (at, false)).collect();
    for batch in &segment.batches {
        headers.extend((batch.start..batch.start + HEADER_SIZE).map(|at| (at, false)));
    }
    let mut reader = SegmentScan::open(&segment.bytes[..], place, options).unwrap().unwrap();
    while reader.advance().unwrap() == Advance::Batch {
        for found in reader.records() {
            headers.extend((0..HEADER_SIZE).map(|at| (found.offset as usize + at, true)));
        }
    }
    for (at, is_record) in headers {
        let mut bytes = segment.bytes.clone();
        bytes[at] ^= 0x24;
        let outcome = scan(&bytes[..], place, options).unwrap();
        assert!(
            !outcome.damages.is_empty() || outcome.torn_at.is_some(),
            "byte {at} is not noticed"
        );
        let named = outcome
            .damages
            .iter()
            .map(|damage| damage.offset)
            .chain(outcome.torn_at)
            .min()
            .unwrap();
        assert!(named <= at as u64 && named + 4096 > at as u64, "byte {at} is named as {named}");
        let lost: Vec<_> =
            whole.records.iter().filter(|record| !outcome.records.contains(record)).collect();
        assert!(lost.len() <= usize::from(is_record), "byte {at} costs {lost:?}");
        assert!(outcome.records.iter().all(|record| whole.records.contains(record)), "byte {at}");
    }
}

#[test]
fn a_damaged_payload_is_named_with_its_call_and_frame() {
    let image = sample();
    let segment = &image.segments()[0];
    let mut bytes = segment.bytes.clone();
    bytes[segment.batches[1].start + 64 + 64 + 10] ^= 1;
    let outcome = scan(&bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
    assert_eq!((outcome.records.len(), outcome.torn_at), (35, None));
    let [damage] = outcome.damages[..] else { panic!("{:?}", outcome.damages) };
    let Corruption::Payload { seq: Seq(3), fault: FormatError::PayloadCrc, .. } = damage.what
    else {
        panic!("{damage}")
    };
    let expected = format!(
        "at byte {}: audio of frame 3: payload checksum wrong",
        segment.batches[1].start + 64
    );
    assert_eq!(damage.to_string(), expected);
}

#[test]
fn a_lost_batch_is_named_and_what_follows_is_read() {
    let image = sample();
    let segment = &image.segments()[0];
    let mut bytes = segment.bytes.clone();
    let hole = segment.batches[2].clone();
    bytes[hole.clone()].fill(0);
    let outcome = scan(&bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
    let what = Corruption::Batch { size: hole.len() as u64, fault: FormatError::Magic };
    assert_eq!(outcome.damages, [Damage { offset: hole.start as u64, what }]);
    assert_eq!((outcome.records.len(), outcome.stats.batches), (30, 5));
}

/// The result for a segment with a stretch of zeros.
fn without(image: &Image, hole: std::ops::Range<usize>, place: Place) -> Outcome {
    let mut bytes = image.segments()[0].bytes.clone();
    bytes[hole].fill(0);
    scan(&bytes[..], place, ScanOptions::default()).unwrap()
}

#[test]
fn a_batch_without_a_sync_is_no_damage_if_a_later_batch_is_there() {
    let image = sample_held(2);
    let (batches, place) = (&image.segments()[0].batches, place(&image, 1));
    // Not one batch, nor two, nor a part of one.
    for (hole, records, bytes) in [
        (batches[2].clone(), 30, batches[2].len()),
        (batches[2].start..batches[4].end, 18, batches[4].end - batches[2].start),
        (batches[3].start..batches[3].start + 512, 30, batches[3].len()),
        (batches[3].start + 512..batches[3].end, 30, batches[3].len()),
    ] {
        let outcome = without(&image, hole.clone(), place);
        assert_eq!((&outcome.damages[..], outcome.torn_at), (&[][..], None), "{hole:?}");
        assert_eq!(
            (outcome.stats.bytes_unsynced, outcome.stats.is_lossy),
            (bytes as u64, true),
            "{hole:?}"
        );
        // Whole records are found, and so are all records of the other batches.
        assert!(outcome.records.len() >= records, "{hole:?}: {}", outcome.records.len());
        assert!(outcome.records.iter().any(|(seq, ..)| *seq == 12), "{hole:?}");
    }
    // The same for a payload in the batch.
    let payload = batches[3].start + HEADER_SIZE + HEADER_SIZE;
    let outcome = without(&image, payload..payload + 1, place);
    assert_eq!((outcome.damages.len(), outcome.stats.bytes_unsynced), (0, batches[3].len() as u64));
    assert_eq!(outcome.records.len(), 35);
    // The last batch is a torn tail.
    let outcome = without(&image, batches[5].clone(), place);
    assert_eq!((outcome.damages.len(), outcome.stats.bytes_unsynced), (0, 0));
}

#[test]
fn a_hole_before_the_durable_end_is_damage() {
    let image = sample_held(2);
    let (batches, alone) = (&image.segments()[0].batches, place(&image, 1));
    let named = |at: usize, size: usize| {
        let what = Corruption::Batch { size: size as u64, fault: FormatError::Magic };
        vec![Damage { offset: at as u64, what }]
    };
    let outcome = without(&image, batches[1].clone(), alone);
    assert_eq!(
        (outcome.damages, outcome.stats.bytes_unsynced),
        (named(batches[1].start, batches[1].len()), 0)
    );
    // A hole across the durable end is damage before it.
    let outcome = without(&image, batches[1].start..batches[3].end, alone);
    let behind = batches[3].end - batches[2].start;
    assert_eq!(outcome.damages, named(batches[1].start, batches[1].len()));
    assert_eq!((outcome.stats.bytes_unsynced, outcome.stats.batches), (behind as u64, 3));
    // The next segment says that the whole segment was durable.
    let end = image.segments()[0].end_of_batches() as u64;
    let outcome = without(&image, batches[3].clone(), Place { end: Some(Lsn(end)), ..alone });
    assert_eq!(
        (outcome.damages, outcome.stats.is_lossy),
        (named(batches[3].start, batches[3].len()), false)
    );
    // A later batch says that more was durable. What the first batches say does not change.
    let mut image = sample_held(2);
    image.hold_syncs(false);
    let epoch = image.start("acme", "three", 8_000);
    image.frame(epoch, &[9; 100]);
    image.seal();
    let batches = &image.segments()[0].batches;
    let outcome = without(&image, batches[1].start..batches[3].end, alone);
    assert_eq!(outcome.damages, named(batches[1].start, batches[3].end - batches[1].start));
    assert_eq!((outcome.stats.bytes_unsynced, outcome.stats.is_lossy), (0, false));
}

#[test]
fn the_header_of_a_segment_is_damaged_only_if_it_was_durable() {
    let mut image = sample();
    image.hold_syncs(true);
    image.roll();
    let epoch = image.start("acme", "three", 8_000);
    for _ in 0..2 {
        image.frame(epoch, &[9; 100]);
        image.seal();
    }
    let first = Lsn(0);
    for (id, damages, unsynced) in [(1, 1, 0), (2, 0, BLOCK_SIZE as u64)] {
        let mut bytes = image.segments()[id - 1].bytes.clone();
        bytes[..BLOCK_SIZE].fill(0);
        let place = Place { after: (id > 1).then_some(first), ..place(&image, id as u64) };
        let outcome = scan(&bytes[..], place, ScanOptions::default()).unwrap();
        assert_eq!(
            (outcome.damages.len(), outcome.stats.bytes_unsynced, outcome.torn_at),
            (damages, unsynced, None)
        );
    }
}

#[test]
fn bytes_known_to_be_durable_from_elsewhere_are_no_torn_tail() {
    let image = sample_held(2);
    let segment = &image.segments()[0];
    let (end, last) = (segment.end_of_batches() as u64, segment.batches[5].clone());
    let read = |hole: std::ops::Range<usize>| {
        let mut bytes = segment.bytes.clone();
        bytes[hole].fill(0);
        let mut scan = SegmentScan::open(&bytes[..], place(&image, 1), ScanOptions::default())
            .unwrap()
            .unwrap();
        scan.set_durable_end(end);
        while scan.advance().unwrap() == Advance::Batch {}
        (scan.damages().to_vec(), scan.torn_at(), scan.stats().is_lossy)
    };
    assert_eq!(read(0..0), (vec![], None, false));
    let missing = |at: usize| Damage {
        offset: at as u64,
        what: Corruption::Missing { size: end - at as u64 },
    };
    assert_eq!(read(last.clone()), (vec![missing(last.start)], None, false));
    assert_eq!(read(last.start..last.start + 8), (vec![missing(last.start)], None, false));
    let (damages, torn_at, is_lossy) = read(last.start + 128..last.start + 136);
    assert_eq!((damages.len(), torn_at, is_lossy), (1, None, false), "{damages:?}");
}

#[test]
fn the_earlier_contents_of_a_recycled_file_do_not_show() {
    // Of the same run, and of another shard.
    let (old, mut new) = (sample(), Image::new(image::run(1), 1, SEGMENT_SIZE).unwrap());
    let epoch = new.start("acme", "three", 8_000);
    new.frame(epoch, &[1; 20_000]);
    new.seal();
    let fresh = new.segments()[0].batches[0].end;
    let mut bytes = old.segments()[0].bytes.clone();
    let in_place = place(&new, 1);
    assert_eq!(
        scan(&bytes[..], in_place, ScanOptions::default()),
        Err(Unread::Unbegun),
        "the old header"
    );
    // The place of the first batch was zeroed, too.
    bytes[..BLOCK_SIZE].fill(0x11);
    bytes[BLOCK_SIZE..2 * BLOCK_SIZE].fill(0);
    assert_eq!(
        scan(&bytes[..], in_place, ScanOptions::default()),
        Err(Unread::Lost(FormatError::Magic)),
        "a torn header"
    );
    bytes[..fresh].copy_from_slice(&new.segments()[0].bytes[..fresh]);
    let outcome = scan(&bytes[..], in_place, ScanOptions::default()).unwrap();
    assert_eq!((outcome.records.len(), outcome.damages.len(), outcome.torn_at), (1, 0, None));
    // Neither its header nor its whole batch reached the disk. The old bytes that remain are sound
    // by themselves.
    for kept in (BLOCK_SIZE + 64..fresh).step_by(512) {
        let mut torn = old.segments()[0].bytes.clone();
        torn[..kept].copy_from_slice(&new.segments()[0].bytes[..kept]);
        let outcome = scan(&torn[..], in_place, ScanOptions::default()).unwrap();
        assert_eq!(
            (outcome.records.len(), outcome.damages.len()),
            (0, 0),
            "{kept}: {:?}",
            outcome.records
        );
    }
    assert_eq!(
        scan(&vec![0; SEGMENT_SIZE][..], in_place, ScanOptions::default()),
        Err(Unread::Unbegun)
    );
    assert_eq!(scan(&[][..], in_place, ScanOptions::default()), Err(Unread::Unbegun));
}

#[test]
fn after_a_lost_header_and_first_batch_only_certain_batches_are_trusted() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..2 {
        for _ in 0..3 {
            image.frame(epoch, &[5; 1_000]);
            image.seal();
        }
        image.roll();
    }
    let [one, two] = [0, 1].map(|position| {
        let mut bytes = image.segments()[position].bytes.clone();
        bytes[..2 * BLOCK_SIZE].fill(0x11);
        bytes
    });
    let starts = image
        .segments()
        .iter()
        .map(|segment| Lsn((segment.id - 1) * SEGMENT_SIZE as u64))
        .collect::<Vec<_>>();
    let end = Lsn(starts[1].0 + image.segments()[1].end_of_batches() as u64);
    let read = |bytes: &[u8], place| {
        scan(bytes, place, ScanOptions::default()).map(|outcome| outcome.records.len())
    };
    let lost = Err(Unread::Lost(FormatError::Magic));
    let alone = place(&image, 2);
    // Unchanged: a segment before or after it shows that it is in its place.
    assert_eq!(read(&two, Place { after: Some(starts[0]), ..alone }), Ok(3));
    assert_eq!(read(&two, Place { end: Some(end), ..alone }), Ok(3));
    assert_eq!(read(&two, alone), lost);
    // The file of the first one, recycled and begun in part.
    assert_eq!(read(&one, Place { after: Some(starts[0]), ..alone }), lost);
    assert_eq!(read(&one, Place { end: Some(end), ..alone }), lost);
    // The file of another shard's segment, whose positions prove nothing.
    let other = Place { shard: 1, after: Some(Lsn(1)), ..alone };
    assert_eq!(read(&two, other), lost);
    assert_eq!(read(&two, Place { shard: 0, ..other }), Ok(3));
}

#[test]
fn a_batch_being_written_is_pending_until_it_is_whole() {
    let image = sample();
    let segment = &image.segments()[0];
    let batch = segment.batches[2].clone();
    let options = ScanOptions { is_live: true, follows: true, ..ScanOptions::default() };
    for written in (batch.start..=batch.end).step_by(512) {
        let mut bytes = segment.bytes.clone();
        bytes[written..].fill(0);
        let mut scan = SegmentScan::open(&bytes[..], place(&image, 1), options).unwrap().unwrap();
        let mut batches = 0;
        while scan.advance().unwrap() == Advance::Batch {
            batches += 1;
        }
        assert_eq!(scan.advance().unwrap(), Advance::Pending);
        // The bytes after its last record are zeros anyway.
        let whole = batches == 3 && bytes[batch.clone()] == segment.bytes[batch.clone()];
        assert!(batches == 2 || whole, "{written} of {batch:?}: {batches} batches");
        assert_eq!(scan.damages(), []);
    }
}

#[test]
fn an_unfinished_write_before_a_finished_one_is_the_end_so_far() {
    let image = sample_held(2);
    let segment = &image.segments()[0];
    let options = ScanOptions { is_live: true, ..ScanOptions::default() };
    for (hole, batches, is_damaged) in [(1, 5, true), (2, 2, false), (4, 4, false)] {
        // A torn batch is still being written, and so is a missing one.
        for kept in [0, 64, 512] {
            let mut bytes = segment.bytes.clone();
            bytes[segment.batches[hole].start + kept..segment.batches[hole].end].fill(0);
            let live = scan(&bytes[..], place(&image, 1), options).unwrap();
            assert_eq!(
                (live.stats.batches, !live.damages.is_empty()),
                (batches, is_damaged),
                "{:?}",
                live.damages
            );
            assert!(!live.stats.is_lossy && live.torn_at.is_none(), "nothing is lost");
            assert_eq!(live.records.len(), 6 * batches as usize);
            // After its writer has ended, the later batches are read.
            let after = scan(&bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
            assert_eq!(
                (!after.damages.is_empty(), after.stats.is_lossy),
                (is_damaged, !is_damaged)
            );
            assert!(after.records.len() >= 30);
        }
    }
}

/// The blocks at these offsets cannot be read.
fn faulty<'a>(bytes: &'a [u8], blocks: &[usize]) -> Faulty<&'a [u8]> {
    let sector = |block: &usize| *block as u64 + 512..*block as u64 + 1_024;
    Faulty { source: bytes, unreadable: blocks.iter().map(sector).collect() }
}

#[test]
fn blocks_that_cannot_be_read_are_damage_and_everything_else_is_there() {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..3 {
        image.hold_syncs(true);
        image.frame(epoch, &[5; 9_600]);
        image.frame(epoch, &[6; 100]);
        image.seal();
    }
    let segment = &image.segments()[0];
    let (batches, end) = (segment.batches.clone(), segment.end_of_batches());
    let last = place(&image, 1);
    let followed = Place { end: Some(Lsn(end as u64)), ..last };
    let blocks = |blocks: &[usize], place| {
        scan(faulty(&segment.bytes, blocks), place, ScanOptions::default()).unwrap()
    };
    let seqs = |outcome: &Outcome| outcome.records.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>();
    let unreadable = |at: usize| Damage {
        offset: at as u64,
        what: Corruption::Unreadable { size: BLOCK_SIZE as u64 },
    };
    // No sync is known to have completed. A power failure does not make blocks unreadable.
    for place in [last, followed] {
        let header = blocks(&[0], place);
        let fault = Corruption::SegmentHeader(FormatError::Unreadable);
        assert_eq!(header.damages, [Damage { offset: 0, what: fault }, unreadable(0)]);
        assert_eq!(seqs(&header), [1, 2, 3, 4, 5, 6]);
        for (number, batch) in batches.iter().enumerate() {
            let middle = batch.start + BLOCK_SIZE;
            let audio = blocks(&[middle], place);
            let lost = 2 * number as u64 + 1;
            assert!(!seqs(&audio).contains(&lost) && audio.records.len() == 5, "{audio:?}");
            assert_eq!((audio.torn_at, audio.stats.is_lossy), (None, false));
            assert!(audio.damages.contains(&unreadable(middle)));
            assert!(audio.damages.iter().any(|damage| matches!(
                damage.what,
                Corruption::Payload { seq, fault: FormatError::Unreadable, .. } if seq.0 == lost
            )));
            // Without the header of the batch, what follows its first record is found again.
            let first = blocks(&[batch.start], place);
            let left: Vec<u64> = (1..=6).filter(|seq| *seq != lost).collect();
            assert_eq!((seqs(&first), first.torn_at), (left, None), "{:?}", first.damages);
            assert!(first.damages.contains(&unreadable(batch.start)), "{:?}", first.damages);
            assert!(!first.stats.is_lossy);
        }
    }
    // After the stated end nothing counts.
    assert_eq!(blocks(&[end], followed).damages, []);
    assert_eq!(blocks(&[end], last).damages, [unreadable(end)]);
    let all: Vec<usize> = (0..SEGMENT_SIZE).step_by(BLOCK_SIZE).collect();
    let none = scan(faulty(&segment.bytes, &all), last, ScanOptions::default());
    assert_eq!(none, Err(Unread::Lost(FormatError::Unreadable)));
}

#[test]
fn a_follower_waits_at_a_block_that_cannot_be_read_until_later_ones_are_durable() {
    let mut image = sample();
    let hole = image.segments()[0].batches[2].start;
    let options = ScanOptions { is_live: true, follows: true, ..ScanOptions::default() };
    let batches = |image: &Image| {
        let source = faulty(&image.segments()[0].bytes, &[hole]);
        let mut scan = SegmentScan::open(source, place(image, 1), options).unwrap().unwrap();
        let mut count = 0;
        while scan.advance().unwrap() == Advance::Batch {
            count += 1;
        }
        assert_eq!(scan.advance().unwrap(), Advance::Pending, "more will be written");
        count
    };
    // The stretch without a batch, and the three after it.
    assert_eq!(batches(&image), 6);
    let end = image.segments()[0].batches[2].end;
    image.segments_mut()[0].bytes[end..].fill(0);
    assert_eq!(batches(&image), 2);
}

#[test]
fn the_time_in_records_and_batches_decides_nothing() {
    let mut image = sample();
    // Salvage: no batch header is sound, and the wall clock was set back by an hour.
    let run = RunName {
        started_at: UnixMicros(image.run().started_at.0 + 3_600_000_000),
        ..*image.run()
    };
    let place = Place { run, is_fresh: true, ..place(&image, 1) };
    let all = {
        let segment = &mut image.segments_mut()[0];
        segment.bytes[..BLOCK_SIZE].fill(0x11);
        scan(&segment.bytes[..], place, ScanOptions::default()).unwrap()
    };
    assert_eq!(all.records.len(), 36);
    let hole = image.segments()[0].batches[2].start;
    image.segments_mut()[0].bytes[hole] ^= 1;
    let bytes = &image.segments()[0].bytes[..];
    let salvaged = scan(bytes, place, ScanOptions::default()).unwrap();
    assert_eq!((salvaged.records.len(), salvaged.stats.salvaged), (36, 6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_done_to_a_segment_the_scan_ends_and_invents_nothing(
        changes in prop::collection::vec((0usize..SEGMENT_SIZE / 4, 0u8..8), 0..12),
        cut in prop::option::of(0usize..SEGMENT_SIZE / 4),
        copied in prop::option::of((0usize..16, 0usize..16, 1usize..8)),
        is_live: bool,
    ) {
        let image = sample();
        let mut bytes = image.segments()[0].bytes.clone();
        let whole = scan(&bytes[..], place(&image, 1), ScanOptions::default()).unwrap();
        for (at, bit) in changes {
            bytes[at] ^= 1 << bit;
        }
        if let Some((from, to, count)) = copied {
            bytes.copy_within(from * BLOCK_SIZE..(from + count) * BLOCK_SIZE, to * BLOCK_SIZE);
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let options = ScanOptions { is_live, ..ScanOptions::default() };
        if let Ok(outcome) = scan(&bytes[..], place(&image, 1), options) {
            prop_assert!(outcome.records.iter().all(|record| whole.records.contains(record)));
        }
    }
}
