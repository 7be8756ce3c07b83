use super::*;
use crate::archive::image::{self, Image};
use crate::archive::layout::index_path;
use crate::archive::lock;
use crate::archive::marks::Marks;
use crate::archive::recovery::{recover, verify};
use crate::call::{CallIdentity, Epoch};
use crate::constants::BLOCK_SIZE;
use crate::format::RecordKind;
use std::fs::File;
use std::os::unix::fs::FileExt;

const SEGMENT_SIZE: usize = 128 * 1024;

fn identity(interaction: &str) -> CallIdentity {
    CallIdentity { tenant: "acme".into(), interaction: interaction.into() }
}

/// The audio of frame `seq` of an epoch: different for each frame.
fn audio(epoch: Epoch, seq: u64, size: usize) -> Vec<u8> {
    (0..size).map(|at| (epoch.micros as usize * 31 + seq as usize * 7 + at) as u8).collect()
}

fn append(image: &mut Image, epoch: Epoch, count: u64, size: usize) {
    for _ in 0..count {
        image.pass(20_000);
        let seq = image.call_epoch(epoch).unwrap().frames + 1;
        let bytes = audio(epoch, seq, size);
        let (one, other) = bytes.split_at(size / 3);
        if seq.is_multiple_of(2) {
            image.frame(epoch, &bytes)
        } else {
            image.chunks(epoch, &[one, other], true)
        }
    }
}

fn catalog(dir: &Path) -> (Journal, Catalog) {
    let journal = Journal::open(dir).unwrap();
    let catalog = journal.catalog(&mut || {}).unwrap();
    (journal, catalog)
}

/// The frames of an epoch; each has its own bytes.
fn seqs(journal: &Journal, call_epoch: &CallEpoch, size: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    let mut frames = journal.frames(call_epoch);
    while let Some(frame) = frames.next_frame().unwrap() {
        assert!(
            frame.audio == audio(call_epoch.epoch, frame.seq.0, size),
            "bytes of frame {}",
            frame.seq.0
        );
        seqs.push(frame.seq.0);
    }
    seqs
}

#[test]
fn calls_come_back_across_segments_shards_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let mut second = Image::new(image::run(2), 5, SEGMENT_SIZE).unwrap();
    let (one, other) = (first.start("acme", "one", 8_000), first.start("acme", "other", 8_000));
    for _ in 0..20 {
        append(&mut first, one, 5, 3_201);
        append(&mut first, other, 1, 160);
        first.seal();
    }
    first.end(other, 1);
    first.chunks(one, &[&[0; 100]], false);
    first.seal();
    let again = second.start("acme", "one", 8_000);
    append(&mut second, again, 7, 3_201);
    second.end(again, 3);
    second.seal();
    assert!(first.segments().len() > 2);
    // The later run is stored first, but must not be listed first.
    second.store(dir.path()).unwrap();
    let shard_dir = first.store(dir.path()).unwrap();

    let (journal, found) = catalog(dir.path());
    let call = found.call(&identity("one")).unwrap();
    assert_eq!((found.calls.len(), found.nameless.len(), call.epochs.len()), (2, 0, 2));
    let [call_epoch, later] = &call.epochs[..] else { panic!() };
    assert_eq!(
        (call_epoch.epoch, call_epoch.frames.count(), call_epoch.bytes, call_epoch.cut),
        (one, 100, 100 * 3_200, 1)
    );
    assert_eq!(
        (call_epoch.state, call_epoch.parts.len(), call_epoch.gaps.len()),
        (EpochState::Cut, first.segments().len(), 0)
    );
    assert_eq!(seqs(&journal, call_epoch, 3_201), (1..=100).collect::<Vec<_>>());
    assert_eq!(seqs(&journal, later, 3_201), (1..=7).collect::<Vec<_>>());
    let EpochState::Ended(end) = later.state else { panic!() };
    assert_eq!((end.frames, end.bytes, end.ending), (7, 7 * 3_200, 3));
    let indexes = (1..=first.segments().len() as u64)
        .filter(|id| index_path(&shard_dir, *id).exists())
        .count();
    assert_eq!(indexes, first.segments().len(), "the next listing does not read them again");
    let (_, again) = catalog(dir.path());
    assert_eq!(format!("{:?}", again.calls), format!("{:?}", found.calls));
}

#[test]
fn rewritten_batches_count_once_and_the_better_copy_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..6 {
        append(&mut image, epoch, 2, 1_000);
        image.seal();
    }
    image.fence(3);
    append(&mut image, epoch, 2, 1_000);
    image.seal();
    image.end(epoch, 1);
    image.seal();
    // Damage one copy of frame 8 in the fenced segment, and one copy of frame 9 in the new one.
    for (segment, batch, at) in [(0, 3, 1_354), (1, 1, 133)] {
        let segment = &mut image.segments_mut()[segment];
        let at = segment.batches[batch].start + at;
        segment.bytes[at] ^= 1;
    }
    image.store(dir.path()).unwrap();
    let (journal, found) = catalog(dir.path());
    let call_epoch = &found.calls[0].epochs[0];
    assert_eq!(seqs(&journal, call_epoch, 1_000), (1..=14).collect::<Vec<_>>());
    assert_eq!(
        (call_epoch.frames.count(), call_epoch.bytes, call_epoch.gaps.len()),
        (14, 14_000, 0)
    );
    assert!(call_epoch.doubles >= 4, "{}", call_epoch.doubles);
    let report = verify(&journal, &mut || {}).unwrap();
    assert_eq!(
        (report.frames, report.audio_bytes, report.frames_double),
        (14, 14_000, call_epoch.doubles)
    );
    assert_eq!(report.damages.len(), 1, "in the fenced stretch nothing counts: {report}");
}

#[test]
fn reasons_for_missing_frames_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..5 {
        append(&mut image, epoch, 4, 1_000);
        image.seal();
        append(&mut image, epoch, 4, 1_000);
        image.seal();
        image.roll();
    }
    image.end(epoch, 1);
    image.seal();
    let shard_dir = image.store(dir.path()).unwrap();
    std::fs::remove_file(segment_path(&shard_dir, 1)).unwrap();
    std::fs::remove_file(segment_path(&shard_dir, 3)).unwrap();
    Marks { removed_to: 3, ..Marks::new(1) }.store(&shard_dir).unwrap();
    let (journal, found) = catalog(dir.path());
    let call_epoch = &found.calls[0].epochs[0];
    let gaps: Vec<_> =
        call_epoch.gaps.iter().map(|gap| (gap.range.first, gap.range.last, gap.reason)).collect();
    assert_eq!(gaps, [(1, 8, GapReason::Expired), (17, 24, GapReason::Expired)]);
    assert_eq!(
        seqs(&journal, call_epoch, 1_000),
        [9..=16, 25..=40].into_iter().flatten().collect::<Vec<_>>()
    );
    let report = verify(&journal, &mut || {}).unwrap();
    assert_eq!((report.frames_expired, report.is_sound()), (16, true), "{report}");

    // Remove the second batch of audio in segment 4: frames 29 to 32.
    let path = segment_path(&shard_dir, 4);
    let file = File::options().write(true).open(&path).unwrap();
    let batch = image.segments()[3].batches[2].clone();
    file.write_all_at(&vec![0; batch.len()], batch.start as u64).unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let report = verify(&journal, &mut || {}).unwrap();
    assert!(!report.is_sound());
    let [damage] = &report.damages[..] else { panic!("{report}") };
    assert_eq!((damage.file.clone(), damage.offset), (path, batch.start as u64));
    assert_eq!(
        report.missing.iter().map(|missing| (missing.first, missing.last)).collect::<Vec<_>>(),
        [(29, 32)]
    );
    let text = report.to_string();
    let lines = "missing: acme/one epoch 1: frames 29 to 32\ncall: acme/one lost 4 frames\n";
    assert!(text.contains(lines) && text.ends_with("1 with losses\ndamaged"), "{text}");
}

#[test]
fn recovery_is_idempotent_and_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..3 {
        append(&mut image, epoch, 20, 1_000);
        image.seal();
        image.roll();
    }
    append(&mut image, epoch, 20, 1_000);
    image.seal();
    let torn = image.segments()[3].batches[0].start + 9_000;
    image.segments_mut()[3].bytes[torn..].fill(0);
    let shard_dir = image.store(dir.path()).unwrap();
    let first = recover(dir.path(), &mut || {}).unwrap();
    assert_eq!((first.segments, first.segments_read, first.indexes_written), (4, 4, 4));
    assert_eq!((first.torn_tails.len(), first.is_sound()), (1, true), "{first}");
    assert!(first.frames >= 60 && first.frames < 80, "{first}");
    // Recovery that was interrupted after any of its steps comes to the same result.
    for left in 0..=4 {
        for id in left + 1..=4 {
            let _ = std::fs::remove_file(index_path(&shard_dir, id));
        }
        if left < 4 {
            std::fs::write(index_path(&shard_dir, left + 1), b"XJNINDEX cut").unwrap();
        }
        let again = recover(dir.path(), &mut || {}).unwrap();
        assert_eq!((again.segments_read, again.indexes_written), (4 - left, 4 - left));
        assert_eq!(
            (again.frames, again.records, &again.torn_tails),
            (first.frames, first.records, &first.torn_tails)
        );
    }
    for segment in image.segments() {
        assert!(std::fs::read(segment_path(&shard_dir, segment.id)).unwrap() == segment.bytes);
    }
    assert_eq!(
        verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap().frames,
        first.frames
    );
}

#[test]
fn a_segment_that_is_being_written_is_followed_batch_by_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    let header = image.segments()[0].bytes[..BLOCK_SIZE].to_vec();
    let shard_dir = image.store(dir.path()).unwrap();
    let open = |id| {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(segment_path(&shard_dir, id))
            .unwrap()
    };
    let mut writer = open(1);
    assert!(lock::try_exclusive(&writer).unwrap());
    writer.write_all_at(&header, 0).unwrap();

    let journal = Journal::open(dir.path()).unwrap();
    let mut follow = journal.shards()[0].follow(Lsn(0));
    let poll = |follow: &mut Follow| {
        let mut seqs = Vec::new();
        loop {
            let polled = follow.poll(|record| {
                if record.header.kind == RecordKind::Audio && record.header.last {
                    seqs.push(record.header.seq.0);
                }
            });
            match polled.unwrap() {
                Polled::Records => {}
                other => return (seqs, other),
            }
        }
    };
    assert_eq!(poll(&mut follow), (vec![], Polled::Pending));
    for round in 0..3u64 {
        append(&mut image, epoch, 2, 1_000);
        image.seal();
        let segment = &image.segments()[0];
        let batch = segment.batches[round as usize].clone();
        let (bytes, half) = (&segment.bytes[batch.clone()], batch.len() / 2);
        writer.write_all_at(&bytes[..half], batch.start as u64).unwrap();
        assert_eq!(poll(&mut follow), (vec![], Polled::Pending), "half a batch gives nothing");
        writer.write_all_at(bytes, batch.start as u64).unwrap();
        assert_eq!(poll(&mut follow), (vec![2 * round + 1, 2 * round + 2], Polled::Pending));
    }
    let (_, found) = catalog(dir.path());
    assert_eq!(
        (found.calls[0].epochs[0].state, found.calls[0].epochs[0].frames.count()),
        (EpochState::Live, 6)
    );
    assert!(!index_path(&shard_dir, 1).exists(), "a live segment has no index yet");
    let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
    assert_eq!((report.segments_live, report.frames, report.is_sound()), (1, 6, true), "{report}");

    // Move on to the next segment while the cursor still reads the old one.
    let lsn = follow.lsn();
    image.roll();
    append(&mut image, epoch, 2, 1_000);
    image.seal();
    let next = open(2);
    assert!(lock::try_exclusive(&next).unwrap());
    next.write_all_at(&image.segments()[1].bytes, 0).unwrap();
    writer = next;
    assert_eq!(poll(&mut follow), (vec![7, 8], Polled::Pending));
    let mut late = Journal::open(dir.path()).unwrap().shards()[0].follow(lsn);
    assert_eq!(poll(&mut late), (vec![7, 8], Polled::Pending), "from the other's position");
    drop(writer);
    assert_eq!(poll(&mut follow), (vec![], Polled::End));
}

#[test]
fn recovery_leaves_alone_what_another_process_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    append(&mut image, epoch, 2, 1_000);
    image.seal();
    let shard_dir = image.store(dir.path()).unwrap();
    let writer = File::open(segment_path(&shard_dir, 1)).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());
    // The lock ends soon, while recovery still waits.
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(writer);
    });
    let report = recover(dir.path(), &mut || {}).unwrap();
    thread.join().unwrap();
    assert_eq!((report.segments_read, report.segments_live, report.frames), (1, 0, 2));

    std::fs::remove_file(index_path(&shard_dir, 1)).unwrap();
    let writer = File::open(segment_path(&shard_dir, 1)).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());
    let report = recover(dir.path(), &mut || {}).unwrap();
    assert_eq!((report.segments_read, report.segments_live, report.indexes_written), (0, 1, 0));
}

#[test]
fn retention_waits_for_a_reader_and_a_reader_skips_removed_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..3 {
        append(&mut image, epoch, 4, 1_000);
        image.seal();
        image.roll();
    }
    let shard_dir = image.store(dir.path()).unwrap();
    let (journal, found) = catalog(dir.path());
    let call_epoch = &found.calls[0].epochs[0];
    let mut frames = journal.frames(call_epoch);
    assert_eq!(frames.next_frame().unwrap().unwrap().seq.0, 1);
    let retention = File::open(segment_path(&shard_dir, 1)).unwrap();
    assert!(!lock::try_exclusive(&retention).unwrap(), "it is being read");
    std::fs::remove_file(segment_path(&shard_dir, 2)).unwrap();
    let mut rest = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        rest.push(frame.seq.0);
    }
    assert_eq!(rest, [2, 3, 4, 9, 10, 11, 12]);
    drop(frames);
    assert!(lock::try_exclusive(&retention).unwrap());
}

#[test]
fn a_directory_that_is_no_journal_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("run-1-1-1"), "a file").unwrap();
    assert!(Journal::open(dir.path()).is_err());
    std::fs::remove_file(dir.path().join("run-1-1-1")).unwrap();
    std::fs::create_dir(dir.path().join("else")).unwrap();
    for (path, reason) in [(dir.path(), "holds no journal"), (Path::new("/nonexistent"), "")] {
        let error = Journal::open(path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains(reason), "{error}");
    }
    // A node has begun here, and no call has come yet.
    std::fs::write(dir.path().join(BOOT_FILE), "").unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().segment_count(), 0);
}

#[test]
fn a_segment_asks_its_neighbours_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, 4 * BLOCK_SIZE).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    for _ in 0..300 {
        append(&mut image, epoch, 1, 100);
        image.seal();
        image.roll();
    }
    let shard_dir = image.store(dir.path()).unwrap();
    let open = || ShardJournal::open(image::run(1), 0, shard_dir.clone()).unwrap();
    let (count, lsn) = (open().segment_count(), |id: u64| Lsn((id - 1) * 4 * BLOCK_SIZE as u64));
    assert!(count > 300);
    for position in [0, 1, 150, count - 2] {
        let (shard, id) = (open(), position as u64 + 1);
        let place = shard.place(position).unwrap();
        assert_eq!(place.after, (id > 1).then(|| lsn(id - 1)));
        assert!(place.end.is_some_and(|end| end > lsn(id) && end <= lsn(id + 1)), "{place:?}");
        assert!(place.is_fresh && shard.has_successor(position).unwrap());
        assert!(shard.headers_read() <= 3, "{}", shard.headers_read());
    }
    assert_eq!(open().place(count - 1).unwrap().end, None);
    assert!(!open().has_successor(count - 1).unwrap());
    // All headers are bad: what is known is less, and finding that out has an end.
    for id in 1..=count as u64 {
        let file = File::options().write(true).open(segment_path(&shard_dir, id)).unwrap();
        file.write_all_at(&[0x11; 64], 0).unwrap();
    }
    let shard = open();
    let place = shard.place(150).unwrap();
    assert_eq!((place.after, place.end), (None, None));
    assert!(shard.has_successor(150).unwrap() && !shard.has_successor(count - 1).unwrap());
    assert!(shard.headers_read() < 300, "{}", shard.headers_read());
}
