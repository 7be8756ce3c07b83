//! The histograms, and how they travel from shards to the collector and back.

#![forbid(unsafe_code)]

use super::*;
use std::sync::{Arc, Mutex};

fn at(micros: u64) -> Moment {
    Moment::from_nanos(micros * 1_000)
}

fn count(latencies: &Latencies, wanted: &str) -> u64 {
    let mut found = None;
    latencies
        .for_each(|tag, _, histogram| found = found.or((tag == wanted).then_some(histogram.len())));
    found.expect("a tag that is declared")
}

#[test]
fn every_histogram_has_a_tag_and_a_help_of_its_own() {
    let mut tags = Vec::new();
    Latencies::new().for_each(|tag, help, histogram| {
        assert!(help.ends_with('.') && !help.starts_with(' '), "{help}");
        assert!(histogram.is_empty() && !histogram.is_auto_resize());
        assert!(!tags.contains(&tag), "{tag} is there twice");
        tags.push(tag);
    });
    assert!(tags.contains(&"turn") && tags.contains(&"frame.durable"));
}

#[test]
fn values_outside_the_bounds_count_as_the_bound() {
    let mut latency = Latency::new();
    let size = latency.histogram().distinct_values();
    latency.record(at(5), at(5));
    latency.record(at(7), at(5));
    latency.record_n(at(0), at(3_600_000_000), 3);
    let histogram = latency.histogram();
    assert_eq!((histogram.len(), histogram.min(), histogram.count_at(0)), (5, 0, 2));
    assert!(histogram.equivalent(histogram.max(), LATENCY_MAX_US), "{}", histogram.max());
    assert_eq!(histogram.distinct_values(), size, "recording never makes it larger");
}

#[test]
fn a_set_is_as_large_as_the_module_header_says() {
    let mut size = 0;
    Latencies::new()
        .for_each(|_, _, histogram| size = histogram.distinct_values() * size_of::<u64>());
    assert_eq!(size, 20_480);
}

#[test]
fn values_are_kept_to_a_hundredth() {
    for micros in [1, 99, 100, 255, 1_234, 20_000, 999_999, 59_999_999] {
        let mut latency = Latency::new();
        latency.record(at(1), at(1 + micros));
        let found = latency.histogram().max();
        assert!(found.abs_diff(micros) <= micros / 100, "{micros} became {found}");
    }
}

#[test]
fn adding_and_resetting() {
    let (mut one, mut other) = (Latencies::new(), Latencies::new());
    one.turn.record_n(at(0), at(10), 2);
    other.turn.record(at(0), at(20));
    other.ack.record(at(0), at(30));
    one.add(&other);
    assert_eq!((count(&one, "turn"), count(&one, "ack"), count(&one, "setup")), (3, 1, 0));
    assert_eq!((one.turn.histogram().min(), one.turn.histogram().max()), (10, 20));
    one.reset();
    one.for_each(|tag, _, histogram| assert!(histogram.is_empty(), "{tag}"));
}

/// Shards as the collector sees them: mailboxes of one place.
type Mailboxes = Arc<Mutex<Vec<Option<LatencyRequest>>>>;

fn collector(count: usize) -> (LatencyCollector, Mailboxes) {
    let mailboxes: Mailboxes = Arc::new(Mutex::new((0..count).map(|_| None).collect()));
    let theirs = Arc::clone(&mailboxes);
    let send = move |shard: usize, request| match &mut theirs.lock().unwrap()[shard] {
        Some(_) => Err(request),
        place => {
            *place = Some(request);
            Ok(())
        }
    };
    (LatencyCollector::new(count, send), mailboxes)
}

#[test]
fn all_values_of_all_shards_are_collected() {
    let (mut collector, mailboxes) = collector(2);
    let mut shards = [Box::<Latencies>::default(), Box::default()];
    let answer = |shard: usize, own: &mut Box<Latencies>| {
        mailboxes.lock().unwrap()[shard].take().unwrap().answer(own)
    };
    let boxes = shards.each_ref().map(|own| &raw const **own);
    shards[0].turn.record(at(0), at(1));
    shards[1].turn.record(at(0), at(2));
    collector.request();
    answer(0, &mut shards[0]);
    assert!(!collector.collect(), "the other has not answered");
    assert_eq!(count(collector.totals(), "turn"), 1);
    // The second shard still has the first request. It is not asked again, and keeps its values.
    shards[0].turn.record(at(0), at(3));
    shards[1].turn.record(at(0), at(4));
    collector.request();
    shards.iter_mut().enumerate().for_each(|(shard, own)| answer(shard, own));
    assert!(collector.collect());
    assert_eq!(count(collector.totals(), "turn"), 4);
    assert!(shards.iter().all(|own| own.turn.histogram().is_empty()));
    // Sets are passed round; no new one is made.
    assert!(boxes.contains(&(&raw const **collector.empty[1].as_ref().unwrap())));
}

#[test]
fn a_full_mailbox_and_a_collector_that_is_gone_lose_nothing() {
    let (mut collector, mailboxes) = collector(1);
    let mut own = Box::<Latencies>::default();
    own.turn.record(at(0), at(1));
    let (answer, answers) = sync_channel(1);
    let other = || LatencyRequest { shard: 0, empty: Box::default(), answer: answer.clone() };
    mailboxes.lock().unwrap()[0] = Some(other());
    collector.request();
    assert!(collector.collect(), "the set came back at once");
    // First there is no room for the answer, then no receiver.
    answer.try_send((0, Box::default())).unwrap();
    mailboxes.lock().unwrap()[0].take().unwrap().answer(&mut own);
    assert_eq!(own.turn.histogram().len(), 1);
    let request = other();
    drop(answers);
    request.answer(&mut own);
    assert_eq!(own.turn.histogram().len(), 1);
    collector.request();
    mailboxes.lock().unwrap()[0].take().unwrap().answer(&mut own);
    assert!(collector.collect());
    assert_eq!((collector.totals().turn.histogram().len(), own.turn.histogram().len()), (1, 0));
}
