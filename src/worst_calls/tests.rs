//! Which calls a list keeps, and how a collector goes through the pages of its shards.

#![forbid(unsafe_code)]

use super::*;
use std::sync::mpsc::channel;

fn offer(worst: &mut WorstCalls, number: u64) {
    let silent = Duration::from_secs(number);
    worst.offer(silent, |call| {
        *call = LiveCall { interaction: number.to_string(), silent, ..LiveCall::default() };
    });
}

fn waits(calls: &[LiveCall]) -> Vec<u64> {
    let mut waits: Vec<u64> = calls.iter().map(|call| call.wait().as_secs()).collect();
    waits.sort_unstable();
    waits
}

#[test]
fn a_list_keeps_the_longest_waits() {
    let mut worst = WorstCalls::new();
    let count = 3 * NAMED_MAX as u64;
    // Neither rising nor falling: 7 has no common divisor with the count.
    (0..count).for_each(|step| offer(&mut worst, step * 7 % count));
    let longest: Vec<u64> = (count - NAMED_MAX as u64..count).collect();
    assert_eq!(waits(&worst.calls), longest);
}

#[test]
fn a_wait_is_the_longer_of_the_two() {
    let [short, long] = [1, 2].map(Duration::from_secs);
    let call = LiveCall { ack_wait: long, silent: short, ..LiveCall::default() };
    assert_eq!(call.wait(), long);
    let call = LiveCall { ack_wait: short, silent: long, ..LiveCall::default() };
    assert_eq!(call.wait(), long);
}

#[test]
fn the_oldest_promise_of_a_connection_counts_and_no_other_connection_gets_it() {
    let mut worst = WorstCalls::new();
    let at = Moment::from_nanos;
    worst.note_promise(3, 7, at(1));
    worst.note_promise(3, 7, at(2));
    assert_eq!((worst.promise(3, 7), worst.promise(3, 8)), (Some(at(1)), None));
    worst.begin_page();
    assert_eq!(worst.promise(3, 7), None);
}

#[test]
fn a_round_goes_through_all_pages_and_a_full_mailbox_delays_it() {
    let (requests, shard) = channel();
    let mut is_full = true;
    let mut collector = CallsCollector::new(2, move |index, request| {
        if std::mem::take(&mut is_full) {
            return Err(request);
        }
        requests.send((index, request)).unwrap();
        Ok(())
    });
    collector.request();
    assert!(!collector.collect());
    // Shard 0 has three pages, shard 1 has one.
    for _ in 0..4 {
        let (index, mut request) = shard.try_recv().expect("a request for each page");
        let (page, worst) = request.parts();
        offer(worst, 10 * index as u64 + page as u64);
        request.answer(index == 0 && page < 2);
        collector.collect();
    }
    assert!(collector.collect() && shard.try_recv().is_err());
    let found: Vec<LiveCall> = collector.found().cloned().collect();
    assert_eq!(waits(&found), [0, 1, 2, 10]);
    // The next round begins at the first page, with an empty list. Until it is complete, the
    // result of the last one stays.
    collector.request();
    for _ in 0..2 {
        let (_, mut request) = shard.try_recv().expect("a request for each shard");
        assert_eq!(request.parts().0, 0);
        request.answer(false);
        assert!(collector.found().count() > 0);
    }
    assert!(collector.collect());
    assert_eq!(collector.found().count(), 0);
}
