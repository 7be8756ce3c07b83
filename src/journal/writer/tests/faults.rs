//! A disk that fails: fences, short writes, no room, stalls.

use super::*;

#[test]
fn a_failed_sync_fences_the_segment_and_everything_is_written_again_elsewhere() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    let (call, gone) = (journal.start(), journal.start());
    journal.frame(call, 9_600);
    journal.frame(gone, 9_600);
    journal.settle();
    let first = journal.file(0);
    let syncs = journal.world.sync_count(first);
    journal.world.advance(SYNC_INTERVAL);
    journal.frame(call, 9_600);
    journal.frame(gone, 9_600);
    journal.end(gone);
    journal.world.fail_sync(first, Errno::IO);
    journal.settle();
    assert_eq!(journal.world.sync_count(first), syncs + 1, "a fenced file gets no more syncs");
    assert_eq!(journal.writer.stats().fences, 1);
    // The second segment holds what the first one lost. It has the records of both calls, although
    // one has ended.
    let second = journal.world.durable_image(journal.file(1));
    assert_eq!(frames_in(&second), [(call, 2), (gone, 2)]);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    let SegmentRequest::Retire { id: 1, size, is_fenced: true, .. } = journal.retired[0] else {
        panic!("{:?}", journal.retired)
    };
    let header = SegmentHeader::decode(second.first_chunk().unwrap()).unwrap();
    assert_eq!(header.predecessor_end, Lsn(size), "durable bytes count");
    assert!(header.start > header.predecessor_end, "no position has two meanings");
    assert_eq!(header.predecessor, SegmentUuid([1; 16]));
}

#[test]
fn a_failed_write_fences_too_and_waits_for_the_sync_beside_it() {
    for error in [Errno::NOSPC, Errno::IO] {
        let mut journal = Journal::new(AckLevel::Durable, 8 << 20);
        let call = journal.start();
        journal.frame(call, 100);
        journal.settle();
        journal.world.advance(SYNC_INTERVAL);
        journal.frame(call, 100);
        journal.turns(2);
        journal.world.hold_file_operations(true);
        for _ in 0..5 {
            journal.frame(call, 250_000);
        }
        journal.turns(3);
        assert_eq!(journal.world.file_operation_count(), 2, "a sync and a write");
        journal.world.fail_write(journal.file(0), error);
        journal.world.finish_file_operation(1);
        journal.turns(3);
        assert_eq!(journal.writer.stats().fences, 1);
        assert_eq!(journal.world.file_operation_count(), 1, "the writer waits for the sync");
        journal.world.finish_file_operation(0);
        journal.world.hold_file_operations(false);
        journal.settle();
        assert_eq!(journal.after_power_loss(|| false), journal.kept);
        let again = frames_in(&journal.world.durable_image(journal.file(1)));
        assert!(
            !again.contains(&(call, 2)),
            "the sync succeeded: what it covered is not written again"
        );
    }
}

#[test]
fn short_and_interrupted_writes_continue_where_they_stopped() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    let call = journal.start();
    journal.frame(call, 1);
    journal.settle();
    let file = journal.file(0);
    for (place, size) in [4096, 12_288, 5_000, 8_191].into_iter().enumerate() {
        journal.world.shorten_write(file, size);
        journal.frame(call, 9_600 + place);
        journal.settle();
    }
    for error in [Errno::INTR, Errno::AGAIN] {
        journal.world.fail_write(file, error);
        journal.frame(call, 9_600);
        journal.settle();
    }
    assert_eq!(journal.writer.stats().fences, 0);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    journal.world.shorten_write(file, 100);
    journal.frame(call, 9_600);
    journal.settle();
    assert_eq!(journal.writer.stats().fences, 1, "a write without progress has failed");
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
}

#[test]
fn without_room_promises_wait_until_there_is_room() {
    let mut journal = Journal::new(AckLevel::Durable, 64 * 1024);
    journal.segments_left = 1;
    let call = journal.start();
    journal.frame(call, 20_000);
    journal.settle();
    let now = |journal: &Journal| journal.world.now().moment;
    assert!(!journal.writer.is_in_trouble(now(&journal)), "the prepared segment is not full");
    let kept = journal.kept.clone();
    for _ in 0..3 {
        journal.frame(call, 30_000);
    }
    for _ in 0..100 {
        journal.world.advance(Duration::from_millis(10));
        journal.turn();
    }
    assert!(journal.writer.is_in_trouble(now(&journal)));
    assert_eq!(journal.kept, kept);
    journal.segments_left = 5;
    journal.prepare();
    assert!(!journal.writer.is_in_trouble(now(&journal)));
    journal.settle();
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    assert_eq!(journal.kept.len(), 4);
}

#[test]
fn a_disk_without_progress_is_in_trouble_after_a_while() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    let call = journal.start();
    journal.frame(call, 9_600);
    journal.settle();
    journal.world.advance(Duration::from_secs(3_600));
    journal.turns(2);
    let now = |journal: &Journal| journal.world.now().moment;
    assert_eq!(
        journal.writer.stalled_for(now(&journal)),
        Duration::ZERO,
        "a disk without work does not stall"
    );
    journal.world.hold_file_operations(true);
    journal.frame(call, 9_600);
    journal.turns(2);
    journal.world.advance(STALL_TIMEOUT - Duration::from_nanos(1));
    journal.turn();
    assert!(!journal.writer.is_in_trouble(now(&journal)));
    assert_eq!(
        journal.writer.poll_timeout(),
        Some(now(&journal) + Duration::from_nanos(1)),
        "the writer wakes for that"
    );
    journal.world.advance(Duration::from_nanos(1));
    journal.turn();
    assert!(journal.writer.is_in_trouble(now(&journal)));
    journal.world.finish_file_operation(0);
    journal.turn();
    assert!(!journal.writer.is_in_trouble(now(&journal)));
}

#[test]
fn a_disk_that_always_fails_is_not_filled_with_segments() {
    let mut journal = Journal::new(AckLevel::Durable, 64 * 1024);
    let call = journal.start();
    journal.frame(call, 9_600);
    for _ in 0..20_000 {
        journal.files.iter().for_each(|(file, _)| journal.world.fail_sync(*file, Errno::IO));
        journal.turn();
        journal.world.advance(Duration::from_millis(1));
    }
    assert_eq!(journal.writer.stats().fences, 6, "at 0, 0, 1, 3, 7 and 15 seconds");
    assert!(journal.writer.is_in_trouble(journal.world.now().moment));
    assert!(journal.kept.is_empty());
}

#[test]
fn the_next_header_skips_a_segment_without_durable_data() {
    let mut journal = Journal::new(AckLevel::Durable, 64 * 1024);
    let call = journal.start();
    while journal.files.len() < 3 {
        assert!(journal.frame(call, 9_600));
        journal.settle();
    }
    // The prepared segment fails as soon as it is synced.
    let at_hand = journal.files.len() - 1;
    journal.world.fail_sync(journal.file(at_hand), Errno::IO);
    while journal.retired.len() <= at_hand {
        assert!(journal.frame(call, 9_600));
        journal.settle();
    }
    let SegmentRequest::Retire { size: 0, is_fenced: true, .. } = journal.retired[at_hand] else {
        panic!("{:?}", journal.retired);
    };
    journal.frame(call, 9_600);
    journal.settle();
    let header = |index| {
        let image = journal.world.durable_image(journal.file(index));
        SegmentHeader::decode(image.first_chunk().unwrap())
    };
    let (before, behind) = (header(at_hand - 1).unwrap(), header(at_hand + 1).unwrap());
    let SegmentRequest::Retire { size, is_fenced: false, .. } = journal.retired[at_hand - 1] else {
        panic!("{:?}", journal.retired);
    };
    assert_eq!(
        (behind.predecessor, behind.predecessor_end),
        (before.uuid, Lsn(before.start.0 + size))
    );
    assert!(header(at_hand).is_err() && behind.start > behind.predecessor_end);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
}
