//! Segments that end before they are full: by their age, and on demand.

use super::*;

/// Ids of the segments that were retired, and how often the writer said that it has sealed.
fn retired(journal: &Journal) -> (Vec<u64>, usize) {
    let id = |request: &SegmentRequest| match request {
        SegmentRequest::Retire { id, is_fenced: false, .. } => Some(*id),
        _ => None,
    };
    let ids = journal.retired.iter().filter_map(id).collect();
    let sealed = journal.retired.iter().filter(|request| **request == SegmentRequest::Sealed);
    (ids, sealed.count())
}

#[test]
fn a_segment_is_retired_once_it_is_old_whether_audio_follows_or_not() {
    let age = Duration::from_secs(600);
    for is_quiet in [true, false] {
        let mut journal = Journal::new(AckLevel::Durable, 8 << 20);
        journal.writer.handle_segment_age(Some(age));
        let call = journal.start();
        journal.turns(2);
        assert!(journal.frame(call, 160));
        journal.settle();
        journal.turns(3);
        let begun = journal.world.now().moment;
        for _ in 0..590 {
            if !is_quiet {
                assert!(journal.frame(call, 160));
            }
            journal.world.advance(Duration::from_secs(1));
            journal.turns(4);
        }
        assert_eq!(retired(&journal), (vec![], 0));
        if is_quiet {
            let wake_at = journal.writer.poll_timeout().expect("it must wake by itself");
            assert!(wake_at <= begun + age && wake_at > journal.world.now().moment);
        }
        journal.world.advance(Duration::from_secs(11));
        journal.turns(4);
        if !is_quiet {
            assert!(journal.frame(call, 160));
            journal.settle();
        }
        assert_eq!(retired(&journal), (vec![1], 0));
        // A segment that has not begun has no age.
        journal.world.advance(Duration::from_secs(3_600));
        journal.turns(4);
        if is_quiet {
            assert_eq!(journal.writer.poll_timeout(), None);
            assert_eq!(retired(&journal), (vec![1], 0));
        }
        let kept = journal.kept.len() as u64;
        assert_eq!(kept, journal.frames[&call]);
    }
}

#[test]
fn another_age_holds_for_the_segment_that_is_open() {
    let mut journal = Journal::new(AckLevel::Durable, 8 << 20);
    let call = journal.start();
    journal.turns(2);
    assert!(journal.frame(call, 160));
    journal.settle();
    journal.world.advance(Duration::from_secs(3_600));
    journal.turns(4);
    assert_eq!(retired(&journal), (vec![], 0));
    journal.writer.handle_segment_age(Some(Duration::from_secs(600)));
    journal.turns(4);
    assert_eq!(retired(&journal), (vec![1], 0));
}

#[test]
fn on_demand_everything_received_so_far_is_sealed_and_then_the_writer_says_so() {
    for level in [AckLevel::Durable, AckLevel::Written, AckLevel::Received] {
        let mut journal = Journal::new(level, 1 << 20);
        // Nothing is open: there is nothing to wait for.
        let seal = |journal: &mut Journal| {
            let head = journal.ring.head();
            journal.writer.handle_seal(head);
        };
        seal(&mut journal);
        journal.turns(3);
        assert_eq!(retired(&journal), (vec![], 1));
        let call = journal.start();
        journal.turns(2);
        for round in 1..=3 {
            assert!(journal.frame(call, 9_600));
            // Still in the ring, not even sealed there.
            seal(&mut journal);
            let head = journal.ring.head();
            for _ in 0..400 {
                journal.turns(3);
                journal.world.advance(Duration::from_millis(10));
            }
            assert!(journal.ring.durable() >= head);
            let (ids, sealed) = retired(&journal);
            assert!(ids.into_iter().eq(1..=round), "{level:?}, {round}");
            assert_eq!(sealed as u64, 1 + round);
        }
        assert_eq!(journal.writer.poll_timeout(), None);
    }
}

#[test]
fn the_time_in_a_header_is_that_of_its_first_write_and_not_of_its_preparation() {
    let mut journal = Journal::new(AckLevel::Durable, 1 << 20);
    journal.writer.settings.clock = JournalClock::new(1_000);
    journal.turns(2);
    journal.world.advance(Duration::from_secs(3_600));
    let call = journal.start();
    journal.turns(2);
    assert!(journal.frame(call, 160));
    journal.settle();
    let image = journal.world.durable_image(journal.files[0].0);
    let header = SegmentHeader::decode(image.first_chunk().unwrap()).unwrap();
    assert!(header.created_at.0 >= 3_600_001_000, "{header:?}");
    assert!(header.created_at <= journal.writer.settings.clock.at(journal.world.now().moment));
}
