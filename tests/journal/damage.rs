//! Damage to a journal. Wherever it is, it is found and named, and all other audio can be read.

use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::layout::{index_path, segment_path};
use exo_ingest::archive::reader::{EpochState, Journal};
use exo_ingest::archive::recovery::{RecoveryReport, verify};
use exo_ingest::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use exo_ingest::call::Epoch;
use exo_ingest::constants::BLOCK_SIZE;
use exo_ingest::format::HEADER_SIZE;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SEGMENT_SIZE: usize = 32 * 1024;

/// Frame `seq` of an epoch: all differ, some are odd or empty.
fn audio(epoch: Epoch, seq: u64) -> Vec<u8> {
    let size = [320, 0, 161, 700][seq as usize % 4];
    (0..size).map(|at| (epoch.micros as usize * 13 + seq as usize * 5 + at) as u8).collect()
}

/// Two calls over three segments with several batches each, and the epoch and number of each frame.
struct Sample {
    image: Image,
    epochs: [Epoch; 2],
    all: BTreeSet<(Epoch, u64)>,
}

fn sample() -> Sample {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epochs = [image.start("acme", "one", 8_000), image.start("acme", "two", 8_000)];
    let mut all = BTreeSet::new();
    for round in 1..=12 {
        image.pass(100_000);
        for epoch in epochs {
            let bytes = audio(epoch, round);
            let (front, back) = bytes.split_at(bytes.len() / 2);
            if round % 3 == 0 {
                image.chunks(epoch, &[front, back], true)
            } else {
                image.frame(epoch, &bytes)
            }
            all.insert((epoch, round));
        }
        if round % 2 == 0 {
            image.seal();
        }
        if round % 4 == 0 && round < 12 {
            image.roll();
        }
    }
    epochs.into_iter().for_each(|epoch| image.end(epoch, 1));
    image.seal();
    Sample { image, epochs, all }
}

/// The frames that can be read, each with its bytes, and the report of `verify`.
fn read(dir: &Path) -> (BTreeSet<(Epoch, u64)>, RecoveryReport) {
    let journal = Journal::open(dir).unwrap();
    let report = verify(&journal, &mut || {}).unwrap();
    let catalog = journal.catalog(&mut || {}).unwrap();
    let mut found = BTreeSet::new();
    for call_epoch in catalog.calls.iter().flat_map(|call| &call.epochs).chain(&catalog.nameless) {
        let mut frames = journal.frames(call_epoch);
        while let Some(frame) = frames.next_frame().unwrap() {
            assert!(
                frame.audio == audio(call_epoch.epoch, frame.seq.0),
                "frame {} of {:?}",
                frame.seq.0,
                call_epoch.epoch
            );
            assert!(
                found.insert((call_epoch.epoch, frame.seq.0)),
                "frame {} comes twice",
                frame.seq.0
            );
        }
    }
    (found, report)
}

/// Puts a segment back as it was.
fn restore(shard_dir: &Path, segment: &image::Segment) {
    std::fs::write(segment_path(shard_dir, segment.id), &segment.bytes).unwrap();
    let _ = std::fs::remove_file(index_path(shard_dir, segment.id));
}

fn store(sample: &Sample) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let shard_dir = sample.image.store(dir.path()).unwrap();
    (dir, shard_dir)
}

/// Offsets of all headers in a segment: its own, those of its batches, those of its records.
fn headers(image: &Image, segment: &image::Segment) -> Vec<(usize, bool)> {
    let place = Place {
        run: *image.run(),
        shard: image.shard(),
        id: segment.id,
        after: None,
        end: None,
        is_fresh: false,
    };
    let mut scan =
        SegmentScan::open(&segment.bytes[..], place, ScanOptions::default()).unwrap().unwrap();
    let mut headers = vec![(0, false)];
    headers.extend(segment.batches.iter().map(|batch| (batch.start, false)));
    while scan.advance().unwrap() == Advance::Batch {
        headers.extend(scan.records().map(|found| (found.offset as usize, true)));
    }
    headers
}

#[test]
fn a_flip_in_any_header_is_named_and_costs_its_own_record_at_most() {
    let sample = sample();
    let (dir, shard_dir) = store(&sample);
    assert_eq!(read(dir.path()).0, sample.all);
    let mut flips = 0;
    for segment in sample.image.segments() {
        let path = segment_path(&shard_dir, segment.id);
        for (header, is_record) in headers(&sample.image, segment) {
            // The scan's own tests flip every byte of every header. Here it is one byte of each
            // field.
            for byte in [0, 5, 8, 13, 17, 33, 41, 49, 57, 63] {
                let at = header + byte;
                let file = File::options().write(true).open(&path).unwrap();
                file.write_all_at(&[segment.bytes[at] ^ 0x81], at as u64).unwrap();
                drop(file);
                let _ = std::fs::remove_file(index_path(&shard_dir, segment.id));
                let (found, report) = read(dir.path());
                let lost = sample.all.difference(&found).count();
                assert!(
                    found.is_subset(&sample.all) && lost <= usize::from(is_record),
                    "byte {at}: {lost} lost"
                );
                let places = report.damages.iter().map(|damage| (&damage.file, damage.offset));
                let mut places =
                    places.chain(report.torn_tails.iter().map(|torn| (&torn.file, torn.offset)));
                let near =
                    |offset: u64| (offset..offset + BLOCK_SIZE as u64).contains(&(at as u64));
                assert!(
                    places.any(|(file, offset)| *file == path && near(offset)),
                    "byte {at} is not named: {report}"
                );
                restore(&shard_dir, segment);
                flips += 1;
            }
        }
    }
    assert!(flips >= 500, "{flips}");
    assert!(read(dir.path()).1.is_sound());
}

#[test]
fn a_file_that_is_lost_costs_what_was_in_it() {
    let sample = sample();
    let (dir, shard_dir) = store(&sample);
    for segment in sample.image.segments() {
        let rounds = (segment.id - 1) * 4 + 1..=segment.id * 4;
        let left: BTreeSet<_> =
            sample.all.iter().copied().filter(|(_, seq)| !rounds.contains(seq)).collect();
        for content in
            [vec![], vec![0; SEGMENT_SIZE], vec![0xFF; SEGMENT_SIZE], b"XSEGMENT".repeat(1_000)]
        {
            std::fs::write(segment_path(&shard_dir, segment.id), content).unwrap();
            let _ = std::fs::remove_file(index_path(&shard_dir, segment.id));
            let (found, report) = read(dir.path());
            assert_eq!(found, left, "segment {}", segment.id);
            // Nothing else says that the last segment held anything.
            let is_known = report
                .damages
                .iter()
                .any(|damage| damage.file == segment_path(&shard_dir, segment.id));
            assert!(is_known || segment.id == 3, "segment {}: {report}", segment.id);
        }
        restore(&shard_dir, segment);
    }
}

#[test]
fn a_crash_anywhere_in_the_last_segment_loses_nothing_before_it() {
    let sample = sample();
    let (dir, shard_dir) = store(&sample);
    let last = &sample.image.segments()[2];
    let mut seen = BTreeSet::new();
    for cut in (0..=last.end_of_batches()).step_by(512) {
        let mut bytes = last.bytes.clone();
        bytes[cut..].fill(0);
        std::fs::write(segment_path(&shard_dir, last.id), &bytes).unwrap();
        let _ = std::fs::remove_file(index_path(&shard_dir, last.id));
        let (found, report) = read(dir.path());
        assert!(report.is_sound(), "cut at {cut}: {report}");
        // The first batch says which calls go on.
        let whole = last.batches.iter().skip(1).filter(|batch| batch.end <= cut).count() as u64;
        let promised = sample.all.iter().filter(|(_, seq)| *seq <= 8 + 2 * whole);
        assert!(promised.into_iter().all(|frame| found.contains(frame)), "cut at {cut}");
        seen.insert(found.len());
    }
    assert!(seen.len() > 3, "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_damage_never_invents_audio_and_never_goes_unnoticed(
        flips in prop::collection::vec((0usize..3, 0usize..SEGMENT_SIZE, 0u8..8), 1..6),
        cut in prop::option::of((0usize..3, 0usize..SEGMENT_SIZE)),
    ) {
        let sample = sample();
        let (dir, shard_dir) = store(&sample);
        let segments = sample.image.segments().iter();
        let mut files: Vec<Vec<u8>> = segments.map(|segment| segment.bytes.clone()).collect();
        for (file, at, bit) in flips {
            files[file][at] ^= 1 << bit;
        }
        if let Some((file, at)) = cut {
            files[file].truncate(at);
        }
        for (file, segment) in files.iter().zip(sample.image.segments()) {
            std::fs::write(segment_path(&shard_dir, segment.id), file).unwrap();
        }
        let (found, report) = read(dir.path());
        prop_assert!(found.is_subset(&sample.all));
        let lost = sample.all.len() - found.len();
        let is_noticed = !report.is_sound()
            || !report.torn_tails.is_empty()
            || report.segments_unbegun > 0;
        // A cut between two batches of the last segment looks like an end. The missing end record
        // shows it.
        let catalog = Journal::open(dir.path()).unwrap().catalog(&mut || {}).unwrap();
        let has_ends = sample.epochs.iter().all(|epoch| {
            let mut call_epochs = catalog.calls.iter().flat_map(|call| &call.epochs);
            call_epochs.any(|call_epoch| call_epoch.epoch == *epoch && call_epoch.state != EpochState::Cut)
        });
        prop_assert!(lost == 0 || is_noticed || !has_ends, "{lost} lost: {report}");
        let again = read(dir.path());
        prop_assert_eq!((again.0, again.1.damages), (found, report.damages));
    }
}

#[test]
fn headers_are_where_the_format_says() {
    let sample = sample();
    let segment = &sample.image.segments()[0];
    let found = headers(&sample.image, segment);
    assert!(found.iter().all(|(at, _)| at.is_multiple_of(HEADER_SIZE)));
    assert!(found.len() > 10);
}
