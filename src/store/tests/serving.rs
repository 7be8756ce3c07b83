//! Shards are served without waiting for each other, for old segments, or for the disk.

use super::*;
use crate::archive::seal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn each_shard_has_a_segment_before_it_starts() {
    let data = tempfile::tempdir().unwrap();
    let settings = JournalSettings { segment_size: SEGMENT_SIZE, ..JournalSettings::default() };
    let run = begin(data.path(), settings, 3);
    let directories = run.shard_dirs.clone();
    let (_requests, receiver) = sync_channel(8);
    let (store, first) = run.start(receiver, |_, _| Ok(())).unwrap();
    for (directory, first) in directories.iter().zip(first) {
        assert_eq!(first.unwrap().id, 1);
        assert!(layout::segment_path(directory, 1).exists());
    }
    drop(_requests);
    store.join();
}

#[test]
fn a_shard_that_takes_no_mail_makes_no_other_wait() {
    let data = tempfile::tempdir().unwrap();
    let settings = JournalSettings {
        segment_size: SEGMENT_SIZE,
        reserve: Some(0),
        ..JournalSettings::default()
    };
    let run = begin(data.path(), settings, 2);
    let (is_full, (tell, told)) = (Arc::new(AtomicBool::new(true)), channel());
    let (requests, receiver) = sync_channel(8);
    let full = Arc::clone(&is_full);
    let tell = move |shard, event| {
        if shard == 0 && full.load(Ordering::Relaxed) {
            return Err(event);
        }
        let _ = tell.send((shard, event));
        Ok(())
    };
    let (store, _first) = run.start(receiver, tell).unwrap();
    let next = || told.recv_timeout(Duration::from_secs(60)).unwrap();
    for id in 2..=20 {
        requests.send((0, SegmentRequest::Prepare)).unwrap();
        requests.send((1, SegmentRequest::Prepare)).unwrap();
        let (1, StoreEvent::Segment(segment)) = next() else { panic!("it belongs to the other") };
        assert_eq!(segment.id, id);
    }
    is_full.store(false, Ordering::Relaxed);
    for id in 2..=20 {
        let (0, StoreEvent::Segment(segment)) = next() else { panic!("only these are left") };
        assert_eq!(segment.id, id, "in their order");
    }
    drop(requests);
    store.join();
}

#[test]
fn a_request_to_seal_is_answered_once_every_shard_has_sealed_and_its_index_is_there() {
    let mut fixture = Fixture::start(|config| config.reserve = Some(0));
    fixture.segment();
    fixture.begin(1);
    let data_dir = fixture.data_dir();
    let asking =
        std::thread::spawn(move || seal::request(&data_dir, Duration::from_secs(60)).unwrap());
    assert!(matches!(fixture.told(), StoreEvent::Seal));
    let sealing = seal::sealing_path(fixture.shard_dir.parent().unwrap());
    assert!(sealing.exists());
    fixture.ask(SegmentRequest::Sealed);
    let report = asking.join().unwrap();
    assert_eq!((report.sealed.len(), report.late.len()), (1, 0));
    assert!(!sealing.exists());
    fixture.end();
    // Without a node everything is sealed.
    let report = seal::request(&fixture.data_dir(), Duration::from_secs(60)).unwrap();
    assert_eq!(report, seal::SealReport::default());
}

#[test]
fn two_runs_on_one_directory_know_of_each_other() {
    let mut one = Fixture::start(|_| ());
    let run = one.run();
    let dir = layout::run_dir(&one.data_dir(), &run);
    assert!(seal::is_alive(&dir).unwrap());
    let other = begin(&one.data_dir(), JournalSettings::default(), 1);
    assert!(other.name > run && seal::is_alive(&other.dir).unwrap());
    drop(other);
    assert!(one.path(1).exists(), "it is not tidied up by the other");
    one.segment();
    one.begin(1);
    one.end();
    assert!(!seal::is_alive(&dir).unwrap() && dir.exists());
}
