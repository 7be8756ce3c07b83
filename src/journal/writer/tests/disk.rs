//! A disk that works: pacing, segments, levels, the end.

use super::*;
use crate::archive::layout::RunName;
use crate::archive::scan::{Advance, Place, ScanOptions, SegmentScan};

#[test]
fn no_promise_is_kept_before_the_sync_that_covers_it() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    let call = journal.start();
    journal.turns(2);
    assert!(journal.frame(call, 9_600));
    journal.world.hold_file_operations(true);
    let survives_nothing = |journal: &Journal| journal.after_power_loss(|| false);
    for step in ["header and call", "batch", "sync"] {
        journal.turn();
        journal.turn();
        assert_eq!(journal.world.file_operation_count(), 1, "{step}");
        assert!(journal.kept.is_empty() && survives_nothing(&journal).is_empty(), "{step}");
        journal.world.finish_file_operation(0);
    }
    journal.turn();
    assert_eq!(journal.kept, BTreeSet::from([(call, 1)]));
    assert_eq!(survives_nothing(&journal), journal.kept);
    assert_eq!(journal.writer.stats().syncs, 1);
}

#[test]
fn syncs_keep_their_distance_and_each_has_a_reason() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    let call = journal.start();
    journal.turns(2);
    for millis in 0..1000u64 {
        if millis % 3 == 0 {
            assert!(journal.frame(call, 160));
        }
        journal.turns(3);
        journal.world.advance(Duration::from_millis(1));
    }
    assert_eq!(journal.writer.stats().syncs, 50, "one in 20 ms");
    journal.settle();
    let syncs = journal.writer.stats().syncs;
    for _ in 0..5_000 {
        journal.turns(3);
        journal.world.advance(Duration::from_millis(1));
    }
    assert_eq!(journal.writer.stats().syncs, syncs, "no promise waits");
    assert_eq!(journal.writer.poll_timeout(), None, "an idle journal wakes no thread");
    assert!(!journal.writer.is_in_trouble(journal.world.now().moment));
}

#[test]
fn records_without_a_promise_become_durable_within_a_second_or_two() {
    for level in [AckLevel::Durable, AckLevel::Written, AckLevel::Received] {
        let mut journal = Journal::new(level, 1 << 20);
        journal.start();
        let head = journal.ring.head();
        let start = journal.world.now().moment;
        loop {
            journal.turns(8);
            let now = journal.world.now().moment;
            assert!(now.since(start) <= 2 * pace::AGE_MAX + SYNC_INTERVAL, "{level:?}");
            if journal.ring.durable() >= head {
                break;
            }
            // Sleep as a shard would: to the moment that the writer names.
            let wake = journal.writer.poll_timeout().expect("there is something to wait for");
            assert!(wake > now);
            journal.world.advance(wake.since(now));
        }
    }
}

#[test]
fn a_sync_under_way_does_not_stop_writes_and_covers_none_of_them() {
    let mut journal = Journal::new(AckLevel::Durable, 8 << 20);
    let call = journal.start();
    journal.settle();
    journal.frame(call, 100);
    journal.turns(5);
    journal.settle();
    journal.world.advance(SYNC_INTERVAL);
    journal.world.hold_file_operations(true);
    journal.frame(call, 100);
    journal.settle_until_sync();
    let before = journal.kept.clone();
    // A full megabyte seals itself, and is written beside the sync.
    for _ in 0..6 {
        assert!(journal.frame(call, 250_000));
    }
    journal.turns(2);
    assert_eq!(journal.world.file_operation_count(), 2, "the sync and a write");
    journal.world.finish_file_operation(1);
    journal.turns(2);
    journal.world.finish_file_operation(0);
    journal.turn();
    journal.turn();
    assert_eq!(
        journal.kept.len(),
        before.len() + 1,
        "the sync was submitted before the write had completed"
    );
    journal.world.hold_file_operations(false);
    while journal.world.finish_file_operation(0) {}
    journal.settle();
    assert!(journal.after_power_loss(|| false).is_superset(&journal.kept));
}

impl Journal {
    /// Completes writes until only a sync is under way.
    fn settle_until_sync(&mut self) {
        let syncs = |journal: &Journal| journal.world.sync_count(journal.file(0));
        let before = syncs(self);
        for _ in 0..10 {
            if syncs(self) > before {
                assert_eq!(self.world.file_operation_count(), 1);
                return;
            }
            self.turns(2);
            if syncs(self) == before {
                self.world.finish_file_operation(0);
            }
        }
        panic!("the writer makes no sync");
    }
}

#[test]
fn each_batch_says_what_was_durable_when_it_was_stamped() {
    let mut journal = Journal::new(AckLevel::Durable, 8 << 20);
    let call = journal.start();
    for _ in 0..2 {
        journal.frame(call, 100);
        journal.settle();
        journal.world.advance(SYNC_INTERVAL);
    }
    journal.world.hold_file_operations(true);
    journal.frame(call, 100);
    journal.settle_until_sync();
    // Two full batches go out as one write, beside the sync.
    for _ in 0..10 {
        assert!(journal.frame(call, 250_000));
    }
    journal.turns(2);
    assert_eq!(journal.world.file_operation_count(), 2, "the sync and a write");
    journal.world.finish_file_operation(1);
    journal.turns(2);
    journal.world.finish_file_operation(0);
    journal.world.hold_file_operations(false);
    while journal.world.finish_file_operation(0) {}
    journal.settle();
    let claims = claims_in(&journal.world.durable_image(journal.file(0)));
    let offsets: Vec<u64> = claims.iter().map(|(_, offset, _)| *offset).collect();
    let ends: Vec<u64> =
        claims.iter().take(5).filter_map(|(.., durable_end)| *durable_end).collect();
    assert!(claims.len() > 5, "{claims:?}");
    // One sync covered the header and the first batch. The sync under way does not count yet.
    assert_eq!(ends, [0, offsets[1], offsets[2], offsets[2], offsets[2]], "{claims:?}");
}

#[test]
fn segments_follow_each_other_and_can_each_be_read_alone() {
    let mut journal = Journal::new(AckLevel::Durable, 64 * 1024);
    let (long, short) = (journal.start(), journal.start());
    for round in 0..40 {
        assert!(journal.frame(long, 9_600));
        match round {
            0..20 => assert!(journal.frame(short, 160)),
            20 => journal.end(short),
            _ => {}
        }
        journal.settle();
    }
    assert!(journal.files.len() > 6, "{}", journal.files.len());
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    let mut end = Lsn(0);
    let mut predecessor = SegmentUuid::default();
    for (index, request) in journal.retired.iter().enumerate() {
        let image = journal.world.durable_image(journal.file(index));
        let header = SegmentHeader::decode(image.first_chunk().unwrap()).unwrap();
        assert_eq!(
            (header.predecessor, header.predecessor_end, header.start),
            (predecessor, end, end)
        );
        let used = BLOCK_SIZE + batches_in(&image).iter().map(|(_, size)| size).sum::<usize>();
        assert!(used <= 64 * 1024);
        assert!(matches!(
            request,
            SegmentRequest::Retire { id, size, is_fenced: false, .. }
                if (*id, *size) == (header.id, used as u64)
        ));
        (predecessor, end) = (header.uuid, Lsn(header.start.0 + used as u64));
    }
    let numbers: Vec<u64> = (0..journal.files.len())
        .flat_map(|index| batches_in(&journal.world.durable_image(journal.file(index))))
        .map(|(number, _)| number)
        .filter(|number| *number > 0)
        .collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
}

/// What a reader finds in a segment that ended there: batches, call records, and damaged places.
fn scanned(image: &[u8], size: u64) -> (u64, u64, usize) {
    let header = SegmentHeader::decode(image.first_chunk().unwrap()).unwrap();
    let run = RunName { boot: 1, started_at: UnixMicros(RUN), pid: 1 };
    let place = Place {
        run,
        shard: header.shard,
        id: header.id,
        after: None,
        end: Some(Lsn(header.start.0 + size)),
        is_fresh: true,
    };
    let mut scan = SegmentScan::open(image, place, ScanOptions::default()).unwrap().unwrap();
    let mut calls = 0;
    while scan.advance().unwrap() == Advance::Batch {
        calls +=
            scan.records().filter(|found| found.header.kind == RecordKind::Call).count() as u64;
    }
    (scan.stats().batches, calls, scan.damages().len())
}

#[test]
fn a_reader_takes_repeated_call_records_like_any_others() {
    // As many calls as two batches at the start of a segment hold, and few.
    for (call_count, repeated) in [(9_000, 2), (2, 1)] {
        let mut journal = Journal::new(AckLevel::Durable, 16 * 1024);
        let calls: Vec<u64> = (0..call_count).map(|_| journal.start()).collect();
        for _ in 0..4 {
            assert!(journal.frame(calls[0], 9_600));
            journal.settle();
        }
        let Some(SegmentRequest::Retire { size, .. }) = journal.retired.last() else {
            panic!("{:?}", journal.retired)
        };
        let mut image = journal.world.durable_image(journal.file(journal.retired.len() - 1));
        let batches = batches_in(&image);
        assert_eq!(batches.iter().filter(|(number, _)| *number == 0).count(), repeated);
        assert_eq!(scanned(&image, *size), (batches.len() as u64, call_count, 0));
        let repeats = claims_in(&image).into_iter().filter(|(number, ..)| *number == 0);
        assert!(
            repeats.into_iter().all(|(.., durable_end)| durable_end == Some(0)),
            "nothing of the segment was durable"
        );
        // Without a batch header its records are still found, and the damage is named.
        image[BLOCK_SIZE] ^= 1;
        assert_eq!(scanned(&image, *size), (batches.len() as u64 - 1, call_count, 1));
    }
}

#[test]
fn a_batch_larger_than_a_segment_and_thousands_of_calls_still_find_their_place() {
    let mut journal = Journal::new(AckLevel::Durable, 16 * 1024);
    let calls: Vec<u64> = (0..9_000).map(|_| journal.start()).collect();
    journal.settle();
    journal.frame(calls[0], 1);
    journal.settle();
    let segments = journal.files.len();
    for call in [calls[0], calls[8_999]] {
        journal.frame(call, 9_600);
        journal.settle();
    }
    assert!(journal.files.len() > segments);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    let last = journal.world.durable_image(journal.file(journal.files.len() - 2));
    let repeated: Vec<usize> = batches_in(&last)
        .iter()
        .filter(|(number, _)| *number == 0)
        .map(|(_, size)| *size)
        .collect();
    assert!(repeated.len() > 1 && repeated[0] > BATCH_SIZE_MAX - BLOCK_SIZE, "{repeated:?}");
}

#[test]
fn written_promises_wait_only_for_the_write_and_received_ones_for_nothing() {
    for level in [AckLevel::Written, AckLevel::Received] {
        let mut journal = Journal::new(level, 1 << 20);
        let call = journal.start();
        journal.turns(3);
        journal.frame(call, 9_600);
        journal.turns(8);
        assert_eq!(journal.kept.len(), 1);
        assert_eq!(journal.writer.stats().syncs, 0);
        let read = journal.read(|world, file| world.live_image(file));
        assert_eq!(
            read.len(),
            usize::from(level == AckLevel::Written),
            "written bytes survive a crash of the process"
        );
    }
}

#[test]
fn the_end_writes_and_syncs_everything_at_once() {
    for level in [AckLevel::Durable, AckLevel::Written, AckLevel::Received] {
        let mut journal = Journal::new(level, 1 << 20);
        let call = journal.start();
        journal.frame(call, 9_600);
        journal.settle();
        for _ in 0..3 {
            journal.frame(call, 9_600);
        }
        journal.end(call);
        assert!(!journal.writer.is_finished(&journal.ring));
        journal.writer.finish();
        journal.turns(8);
        assert!(journal.writer.is_finished(&journal.ring), "{level:?}");
        assert_eq!(journal.after_power_loss(|| false).len(), 4);
        assert!(matches!(
            journal.retired[..],
            [SegmentRequest::Retire { id: 1, is_fenced: false, .. }]
        ));
        assert_eq!(journal.files.len(), 2, "one was prepared and not needed");
    }
}
