use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn promise(position: u64, handle: u64, seq: u64) -> Promise<u64> {
    Promise {
        position: RingPosition(position),
        handle,
        seq: Seq(seq),
        since: Moment::from_nanos(position),
    }
}

fn drain(queue: &mut PromiseQueue<u64>, watermark: u64) -> Vec<(u64, u64)> {
    std::iter::from_fn(|| queue.pop_ready(RingPosition(watermark)))
        .map(|promise| (promise.handle, promise.seq.0))
        .collect()
}

#[test]
fn a_promise_holds_once_the_watermark_has_come_to_it() {
    let mut queue = PromiseQueue::new(1, 4);
    let (mut a, mut b) = Default::default();
    queue.push(promise(100, 1, 10), &mut a).unwrap();
    queue.push(promise(200, 2, 20), &mut b).unwrap();
    assert_eq!(drain(&mut queue, 99), []);
    assert_eq!(drain(&mut queue, 100), [(1, 10)]);
    assert_eq!(drain(&mut queue, 5_000), [(2, 20)]);
    assert!(queue.is_empty());
}

#[test]
fn a_connection_has_one_entry_per_group() {
    let mut queue = PromiseQueue::new(1, 3);
    let (mut a, mut b) = Default::default();
    queue.push(promise(100, 1, 10), &mut a).unwrap();
    queue.push(promise(150, 2, 10), &mut b).unwrap();
    queue.push(promise(200, 1, 20), &mut a).unwrap();
    assert_eq!(queue.len(), 2);
    queue.begin_group(RingPosition(256));
    queue.push(promise(400, 1, 30), &mut a).unwrap();
    queue.push(promise(500, 1, 40), &mut a).unwrap();
    assert_eq!(queue.len(), 3);
    assert_eq!(drain(&mut queue, 256), [(1, 20), (2, 10)]);
    assert_eq!(drain(&mut queue, 512), [(1, 40)]);
}

#[test]
fn a_promise_that_replaces_others_keeps_the_time_of_the_first() {
    let mut queue = PromiseQueue::new(1, 3);
    let mut ticket = Default::default();
    for position in [100, 200, 300] {
        queue.push(promise(position, 1, position / 10), &mut ticket).unwrap();
    }
    queue.begin_group(RingPosition(350));
    queue.push(promise(400, 1, 40), &mut ticket).unwrap();
    let first = queue.pop_ready(RingPosition(350)).unwrap();
    assert_eq!((first.seq, first.since), (Seq(30), Moment::from_nanos(100)));
    assert_eq!(queue.pop_ready(RingPosition(400)).unwrap().since, Moment::from_nanos(400));
}

#[test]
fn a_full_queue_returns_the_promise_but_still_moves_entries() {
    let mut queue = PromiseQueue::new(1, 1);
    let (mut a, mut b) = Default::default();
    queue.push(promise(1, 1, 10), &mut a).unwrap();
    assert_eq!(queue.push(promise(2, 2, 10), &mut b), Err(PromisesFull(promise(2, 2, 10))));
    assert_eq!(b, PromiseTicket::default());
    queue.push(promise(3, 1, 20), &mut a).unwrap();
    assert_eq!(drain(&mut queue, 3), [(1, 20)]);
    queue.push(promise(4, 2, 10), &mut b).unwrap();
    assert_eq!(drain(&mut queue, 4), [(2, 10)]);
}

#[test]
fn a_ticket_left_over_from_another_connection_does_no_harm() {
    let mut queue = PromiseQueue::new(1, 4);
    let mut ticket = PromiseTicket::default();
    queue.push(promise(1, 1, 10), &mut ticket).unwrap();
    // The slot has a new connection, which did not reset the ticket.
    queue.push(promise(2, 9, 50), &mut ticket).unwrap();
    assert_eq!(drain(&mut queue, 1), [(1, 10)]);
    queue.push(promise(3, 9, 60), &mut ticket).unwrap();
    assert_eq!(drain(&mut queue, 3), [(9, 60)]);
    queue.push(promise(4, 9, 70), &mut ticket).unwrap();
    assert_eq!(drain(&mut queue, 4), [(9, 70)], "a kept promise is not found again");
}

#[test]
fn the_largest_queue_a_ring_needs() {
    assert_eq!(promise_count_max(64 * 1024 * 1024, 1_000), 104_857 + 1_000);
}

#[derive(Clone, Debug)]
enum Step {
    Ask { connection: u64, bytes: u64 },
    Seal,
    Watermark { back: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..5, 0u64..300).prop_map(|(connection, bytes)| Step::Ask { connection, bytes }),
        1 => Just(Step::Seal),
        2 => (0u64..4).prop_map(|back| Step::Watermark { back }),
    ]
}

proptest! {
    /// Compares with a model that remembers every promise. An answer never comes early and never
    /// goes back. Once a sealed batch has arrived, no promise in it waits.
    #[test]
    fn answers_are_never_early_and_never_forgotten(steps in prop::collection::vec(step(), 1..300)) {
        let mut queue = PromiseQueue::new(1, 12);
        let mut tickets: HashMap<u64, PromiseTicket> = HashMap::new();
        // By connection: (position, seq).
        let mut asked: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
        let mut answered: HashMap<u64, u64> = HashMap::new();
        let (mut head, mut ends, mut seq, mut watermark) = (0, vec![0], 0, 0);
        for step in steps {
            match step {
                Step::Ask { connection, bytes } => {
                    head += bytes;
                    seq += 1;
                    let full = queue.len() == 12;
                    let asks = promise(head, connection, seq);
                    match queue.push(asks, tickets.entry(connection).or_default()) {
                        Ok(()) => asked.entry(connection).or_default().push((head, seq)),
                        Err(PromisesFull(back)) => prop_assert!(full && back == asks),
                    }
                }
                Step::Seal => {
                    head += 64;
                    ends.push(head);
                    queue.begin_group(RingPosition(head));
                }
                Step::Watermark { back } => {
                    watermark = watermark.max(ends[ends.len().saturating_sub(1 + back as usize)]);
                    while let Some(ready) = queue.pop_ready(RingPosition(watermark)) {
                        let Promise { handle: connection, seq, .. } = ready;
                        let questions = &asked[&connection];
                        let (position, _) =
                            questions.iter().find(|question| question.1 == seq.0).unwrap();
                        prop_assert!(*position <= watermark, "early");
                        let before = answered.insert(connection, seq.0);
                        prop_assert!(before.is_none_or(|before| before < seq.0), "went back");
                    }
                    for (connection, questions) in &asked {
                        let arrived = questions.iter().filter(|question| question.0 <= watermark);
                        let due = arrived.map(|question| question.1).max();
                        prop_assert!(
                            answered.get(connection).copied() >= due,
                            "forgotten: {connection}"
                        );
                    }
                }
            }
            prop_assert!(queue.len() <= 12);
        }
    }
}
