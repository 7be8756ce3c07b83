//! The number of writes under way, and the length of cycles: in calm, in a backlog, and when one of
//! many writes fails or ends last.

use super::*;
use crate::archive::layout::RunName;
use crate::archive::scan::{Advance, Place, ScanOptions, SegmentScan};

/// As in production, but a quarter of its size: a write of 1 MiB is a full batch.
const BACKLOG: Backlog = Backlog {
    write_size_max: 1 << 20,
    write_count_max: WRITES_MAX,
    write_count_syncing_max: WRITES_MAX,
    cycle_size_max: 8 << 20,
};

/// A ring whose cycle, a quarter of it, is 6 MiB.
const LARGE_RING: usize = 24 << 20;

/// Waiting bytes in it: 20 batches, and a part of one more.
const WAITING: usize = 20 << 20;

impl Journal {
    /// A journal with [`WAITING`] bytes waiting and as many writes under way as allowed. No write
    /// completes by itself.
    fn behind() -> (Journal, u64) {
        let mut journal = Journal::with(AckLevel::Durable, 32 << 20, BACKLOG, LARGE_RING);
        let call = journal.start();
        // Until the header is durable and a segment is prepared.
        journal.frame(call, 100);
        journal.settle();
        journal.world.hold_file_operations(true);
        for _ in 0..WAITING / 250_000 {
            assert!(journal.frame(call, 250_000));
        }
        journal.submit();
        assert_eq!(journal.writes_under_way(), WRITES_MAX);
        (journal, call)
    }

    /// One turn. The operations that it gives out are under way.
    fn submit(&mut self) {
        self.turn();
        self.io.submit(Wait::No).unwrap();
    }

    fn finish(&mut self, place: usize) {
        assert!(self.world.finish_file_operation(place));
        self.submit();
    }

    fn writes_under_way(&self) -> usize {
        self.writer.writes.under_way_count()
    }

    fn is_syncing(&self) -> bool {
        self.writer.syncing.is_some()
    }

    fn finish_all(&mut self) {
        self.world.hold_file_operations(false);
        while self.world.finish_file_operation(0) {}
        self.settle();
        assert!(self.after_power_loss(|| false).is_superset(&self.kept));
    }
}

#[test]
fn in_calm_there_is_one_write_at_a_time_and_a_sync_in_each_interval() {
    let mut journal = Journal::with(AckLevel::Durable, 32 << 20, Backlog::production(), LARGE_RING);
    let call = journal.start();
    journal.frame(call, 100);
    journal.settle();
    journal.turns(2);
    journal.world.advance(SYNC_INTERVAL);
    let before = journal.writer.stats();
    journal.world.hold_file_operations(true);
    for _ in 0..500 {
        // 100 MB/s, on a disk that takes a millisecond for every operation.
        for _ in 0..10 {
            assert!(journal.frame(call, 9_600));
        }
        journal.submit();
        assert!(journal.writes_under_way() <= 1);
        journal.world.advance(Duration::from_millis(1));
        while journal.world.finish_file_operation(0) {}
    }
    let after = journal.writer.stats();
    assert_eq!(after.syncs - before.syncs, 25, "one each 20 ms");
    assert!(after.writes - before.writes <= 80, "one for each full batch: {after:?}");
}

#[test]
fn a_backlog_is_written_with_many_writes_and_a_sync_beside_them() {
    let (mut journal, _) = Journal::behind();
    let begun = journal.writer.stats();
    // Each write that completes in a turn is replaced in that turn.
    for count in [1, 3, 3] {
        assert!(!journal.is_syncing());
        (0..count).for_each(|_| assert!(journal.world.finish_file_operation(0)));
        journal.submit();
        assert_eq!(journal.writes_under_way(), WRITES_MAX);
    }
    let after = journal.writer.stats();
    assert_eq!(after.writes - begun.writes, 7);
    assert!(after.bytes - begun.bytes > 6_900_000, "a full batch each: {after:?}");
    // A quarter of the ring is written by now. That is a cycle, and the other writes continue.
    assert!(journal.is_syncing());
    assert_eq!(journal.world.file_operation_count(), WRITES_MAX + 1);
    let durable = journal.ring.durable();
    journal.finish(WRITES_MAX);
    let freed = (journal.ring.durable().0 - durable.0) as usize;
    assert!((LARGE_RING / 4..LARGE_RING / 2).contains(&freed), "{freed}");
    // The depth follows what is left, and the last bytes need only one write.
    let mut depths = Vec::new();
    while !journal.asked.is_empty() {
        depths.push(journal.writes_under_way());
        journal.world.finish_file_operation(0);
        journal.submit();
        journal.world.advance(Duration::from_millis(1));
    }
    let lone = depths.iter().skip_while(|depth| **depth > 1);
    assert!(
        depths.contains(&(WRITES_MAX / 2)) && lone.copied().all(|depth| depth <= 1),
        "{depths:?}"
    );
    journal.finish_all();
}

#[test]
fn only_bytes_written_without_a_hole_count() {
    let (mut journal, call) = Journal::behind();
    let (written, kept) = (journal.ring.written(), journal.kept.len());
    // The oldest write ends last. The others are replaced while there are slots.
    for _ in 0..WRITE_SLOTS - 1 {
        journal.finish(1);
        assert!(!journal.is_syncing() && journal.ring.written() == written);
    }
    assert_eq!(journal.world.file_operation_count(), 1, "no slot is left");
    // A power loss leaves a hole, or takes what is after it. None of that is damage.
    let file = journal.file(0);
    for survives in [true, false] {
        let image = journal.world.crash_image(file, || survives);
        assert!(frames_in(&image).contains(&(call, 1)));
        assert_eq!(damages_in(&image), 0);
    }
    let image = journal.world.live_image(file);
    assert_eq!(damages_in(&image), 0, "as after a kill");
    assert_eq!(journal.kept.len(), kept);
    journal.finish(0);
    assert!(journal.ring.written() > written && journal.is_syncing());
    journal.finish_all();
}

#[test]
fn after_one_of_many_fails_no_write_goes_out_until_all_have_ended() {
    for place in [0, 3, WRITES_MAX - 1] {
        let (mut journal, _) = Journal::behind();
        journal.world.fail_write(journal.file(0), Errno::IO);
        journal.world.finish_file_operation(place);
        for left in (0..WRITES_MAX).rev() {
            journal.submit();
            journal.world.advance(SYNC_INTERVAL);
            assert_eq!(journal.writer.stats().segments, 1 + u64::from(left == 0));
            if left > 0 {
                assert_eq!(journal.world.file_operation_count(), left, "no new write goes out");
                journal.world.finish_file_operation(left / 2);
            }
        }
        assert_eq!(journal.writer.stats().fences, 1);
        assert_eq!(journal.writes_under_way(), WRITES_MAX, "to the next segment");
        journal.finish_all();
        assert_eq!(journal.after_power_loss(|| false), journal.kept);
    }
}

#[test]
fn one_of_many_that_is_short_or_interrupted_continues_alone() {
    for place in [0, 3, WRITES_MAX - 1] {
        let (mut journal, _) = Journal::behind();
        let file = journal.file(0);
        journal.world.shorten_write(file, 500_000);
        journal.finish(place);
        assert_eq!(journal.writes_under_way(), WRITES_MAX, "its rest, and no other");
        for error in [Errno::INTR, Errno::AGAIN] {
            journal.world.fail_write(file, error);
            journal.finish(WRITES_MAX - 1);
            assert_eq!(journal.writes_under_way(), WRITES_MAX);
        }
        journal.finish_all();
        assert_eq!(journal.writer.stats().fences, 0);
        assert_eq!(journal.after_power_loss(|| false), journal.kept);
    }
}

#[test]
fn the_next_segment_is_begun_as_soon_as_the_last_one_is_durable() {
    let mut journal = Journal::with(AckLevel::Durable, 6 << 20, BACKLOG, LARGE_RING);
    let call = journal.start();
    journal.frame(call, 100);
    journal.settle();
    journal.world.hold_file_operations(true);
    while journal.frame(call, 250_000) {}
    journal.submit();
    // All writes into it are under way; then its sync is due at once.
    let mut count = journal.writes_under_way();
    while count > 0 {
        assert!(count <= WRITES_MAX && !journal.is_syncing());
        journal.finish(count - 1);
        count = journal.writes_under_way();
    }
    assert!(journal.is_syncing() && journal.retired.is_empty());
    journal.finish(0);
    assert!(matches!(
        journal.retired[..],
        [SegmentRequest::Retire { id: 1, is_fenced: false, .. }]
    ));
    assert!(journal.writes_under_way() > 4, "its header and batches together");
    journal.finish_all();
}

/// Damaged places that the journal's reader names, in a segment whose end no other segment states.
pub(super) fn damages_in(image: &[u8]) -> usize {
    let Ok(header) = SegmentHeader::decode(image.first_chunk().unwrap()) else { return 0 };
    let run = RunName { boot: 1, started_at: UnixMicros(RUN), pid: 1 };
    let place =
        Place { run, shard: header.shard, id: header.id, after: None, end: None, is_fresh: false };
    let mut scan = SegmentScan::open(image, place, ScanOptions::default()).unwrap().unwrap();
    while scan.advance().unwrap() == Advance::Batch {}
    scan.damages().len()
}
