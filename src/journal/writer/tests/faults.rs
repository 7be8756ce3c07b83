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
    assert_eq!(journal.world.sync_count(first), syncs + 1, "a fenced file is never synced again");
    assert_eq!(journal.writer.tally().fences, 1);
    // The second segment holds what the first lost, with the records of both calls, one of which has ended.
    let second = journal.world.durable_image(journal.file(1));
    assert_eq!(frames_in(&second), [(call, 2), (gone, 2)]);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    let SegmentRequest::Retire { id: 1, size, is_fenced: true, .. } = journal.retired[0] else {
        panic!("{:?}", journal.retired)
    };
    let header = SegmentHeader::decode(second.first_chunk().unwrap()).unwrap();
    assert_eq!(header.predecessor_end, Lsn(size), "what was durable counts");
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
        assert_eq!(journal.writer.tally().fences, 1);
        assert_eq!(journal.world.file_operation_count(), 1, "the sync is waited for");
        journal.world.finish_file_operation(0);
        journal.world.hold_file_operations(false);
        journal.settle();
        assert_eq!(journal.after_power_loss(|| false), journal.kept);
        let again = frames_in(&journal.world.durable_image(journal.file(1)));
        assert!(!again.contains(&(call, 2)), "the sync was good: what it covered is not written again");
    }
}

#[test]
fn short_and_interrupted_writes_go_on_where_they_stopped() {
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
    assert_eq!(journal.writer.tally().fences, 0);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
    journal.world.shorten_write(file, 100);
    journal.frame(call, 9_600);
    journal.settle();
    assert_eq!(journal.writer.tally().fences, 1, "a write that makes no progress has failed");
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
}

#[test]
fn without_room_promises_wait_and_are_kept_once_there_is_some() {
    let mut journal = Journal::new(AckLevel::Durable, 64 * 1024);
    journal.segments_left = 1;
    let call = journal.start();
    journal.frame(call, 20_000);
    journal.settle();
    let now = |journal: &Journal| journal.world.now().moment;
    assert!(!journal.writer.is_in_trouble(now(&journal)), "the segment at hand is not full");
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
fn a_disk_that_does_not_move_is_trouble_after_a_while_until_it_does() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    let call = journal.start();
    journal.frame(call, 9_600);
    journal.settle();
    journal.world.advance(Duration::from_secs(3_600));
    journal.turns(2);
    let now = |journal: &Journal| journal.world.now().moment;
    assert_eq!(journal.writer.stalled_for(now(&journal)), Duration::ZERO, "with nothing to do there is no stall");
    journal.world.hold_file_operations(true);
    journal.frame(call, 9_600);
    journal.turns(2);
    journal.world.advance(STALL_TIMEOUT - Duration::from_nanos(1));
    journal.turn();
    assert!(!journal.writer.is_in_trouble(now(&journal)));
    assert_eq!(journal.writer.poll_timeout(), Some(now(&journal) + Duration::from_nanos(1)), "it wakes for that");
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
    assert_eq!(journal.writer.tally().fences, 6, "at 0, 0, 1, 3, 7 and 15 seconds");
    assert!(journal.writer.is_in_trouble(journal.world.now().moment));
    assert!(journal.kept.is_empty());
}

#[test]
fn a_segment_of_which_nothing_was_durable_is_passed_over_by_the_next_header() {
    let mut journal = Journal::new(AckLevel::Durable, 64 * 1024);
    let call = journal.start();
    while journal.files.len() < 3 {
        assert!(journal.frame(call, 9_600));
        journal.settle();
    }
    // The one at hand fails as soon as it is synced.
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
    assert_eq!((behind.predecessor, behind.predecessor_end), (before.uuid, Lsn(before.start.0 + size)));
    assert!(header(at_hand).is_err() && behind.start > behind.predecessor_end);
    assert_eq!(journal.after_power_loss(|| false), journal.kept);
}
