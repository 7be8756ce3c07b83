//! Promises and reports without a shard: a model that keeps every promise is the judge.

#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

const START: Moment = Moment::from_nanos(1_000_000_000_000);

const TIMEOUT: Duration = Duration::from_secs(5);

const STALL: Duration = Duration::from_secs(20);

fn replication(on_timeout: OnTimeout) -> Replication {
    Replication::new(ReplicationSettings { timeout: TIMEOUT, on_timeout, stall_timeout: STALL })
}

fn id(index: u32) -> ConnectionId {
    ConnectionId { index, generation: 1 }
}

fn epoch(number: u64) -> Epoch {
    Epoch { boot: 1, micros: number, shard: 0 }
}

fn start(replication: &mut Replication, index: u32) {
    replication.handle_start(id(index), CallKey(7), epoch(u64::from(index) + 1));
}

fn report(index: u32, seq: u64) -> ReplicatedFrames {
    stretch(index, 1, seq)
}

fn stretch(index: u32, first: u64, last: u64) -> ReplicatedFrames {
    let epoch = epoch(u64::from(index) + 1);
    ReplicatedFrames { call: 7, epoch, first: Seq(first), last: Seq(last) }
}

fn all_due(replication: &mut Replication, now: Moment) -> Vec<Due> {
    std::iter::from_fn(|| replication.poll_due(now)).collect()
}

#[test]
fn a_promise_of_a_call_that_waits_for_nothing_holds_at_once() {
    let mut replication = replication(OnTimeout::Hold);
    let kept = replication.handle_durable(START, id(3), (Seq(10), START));
    assert_eq!(kept, Some(Kept { seq: Seq(10), since: START, level: AckLevel::Durable }));
    start(&mut replication, 3);
    assert_eq!(replication.handle_durable(START, id(3), (Seq(10), START)), None);
    let other = ConnectionId { generation: 2, ..id(3) };
    assert!(replication.handle_durable(START, other, (Seq(10), START)).is_some());
}

#[test]
fn a_report_names_call_and_epoch() {
    let mut replication = replication(OnTimeout::Hold);
    start(&mut replication, 0);
    replication.handle_durable(START, id(0), (Seq(10), START));
    let right = report(0, 10);
    assert_eq!(replication.handle_report(ReplicatedFrames { call: 8, ..right }), None);
    let of_another_boot = Epoch { boot: 2, ..right.epoch };
    assert_eq!(
        replication.handle_report(ReplicatedFrames { epoch: of_another_boot, ..right }),
        None
    );
    let kept = Kept { seq: Seq(10), since: START, level: AckLevel::Replicated };
    assert_eq!(replication.handle_report(right), Some((id(0), kept)));
}

#[test]
fn timeouts_count_from_the_sync_and_acks_from_their_frames() {
    let mut replication = replication(OnTimeout::Degrade);
    start(&mut replication, 0);
    let asked = START;
    let durable = START + SECOND * 4;
    assert_eq!(replication.handle_durable(durable, id(0), (Seq(10), asked)), None);
    assert_eq!(replication.poll_timeout(), Some(durable + TIMEOUT));
    assert_eq!(all_due(&mut replication, asked + TIMEOUT), []);
    let kept = Kept { seq: Seq(10), since: asked, level: AckLevel::Durable };
    assert_eq!(
        all_due(&mut replication, durable + TIMEOUT),
        [Due::Late { calls: 1 }, Due::Degraded(id(0), kept)]
    );
}

#[test]
fn looks_at_all_calls_are_rare() {
    for on_timeout in [OnTimeout::Hold, OnTimeout::Degrade] {
        let mut replication = replication(on_timeout);
        for index in 0..100 {
            start(&mut replication, index);
        }
        let (mut looks, mut now) = (0, START);
        for step in 0..20_000u64 {
            now = now + Duration::from_millis(1);
            let index = (step % 100) as u32;
            replication.handle_durable(now, id(index), (Seq(step / 100 + 1), now));
            // One call in two is acknowledged.
            if index.is_multiple_of(2) {
                replication.handle_report(report(index, step / 100 + 1));
            }
            looks += usize::from(replication.poll_timeout().is_some_and(|at| at <= now));
            all_due(&mut replication, now);
        }
        assert!((1..=20_000 / 50 + 1).contains(&looks), "{on_timeout:?}: {looks} looks");
    }
}

/// What a step of a play does to one of a few calls.
#[derive(Clone, Debug)]
enum Step {
    /// So many more frames become durable.
    Durable(u64),
    /// The engine has this share of the durable frames, in hundredths. Over a hundred: also frames
    /// that are not durable here.
    Report(u64),
    /// The journal lost the next frames, and the engine has later ones.
    Lose,
    /// So many milliseconds pass.
    Pass(u64),
    StandStill(u64),
    /// Another call takes its slot.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<(u32, Step)>> {
    let step = prop_oneof![
        4 => (1u64..30).prop_map(Step::Durable),
        4 => (0u64..130).prop_map(Step::Report),
        1 => Just(Step::Lose),
        3 => (1u64..4_000).prop_map(Step::Pass),
        1 => (1_000u64..100_000).prop_map(Step::StandStill),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec((0u32..4, step), 1..150)
}

/// What a simple bookkeeper knows of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    durable: u64,
    covered: u64,
    told: u64,
    generation: u32,
    epoch: u64,
    /// When the first frame became durable that the engine lacks, standstills moved.
    lacks_since: Option<Moment>,
    has_gap: bool,
    is_given_up: bool,
}

fn play(on_timeout: OnTimeout, steps: Vec<(u32, Step)>) -> Result<(), TestCaseError> {
    let mut replication = replication(on_timeout);
    let mut calls = [Known::default(); 4];
    let (mut now, mut next_epoch) = (START, 0);
    for (index, step) in [0, 1, 2, 3].map(|index| (index, Step::Restart)).into_iter().chain(steps) {
        let known = &mut calls[index as usize];
        let connection = ConnectionId { index, generation: known.generation };
        let mut kept = Vec::new();
        match step {
            Step::Restart => {
                replication.handle_end(connection);
                next_epoch += 1;
                let generation = known.generation + 1;
                *known = Known { generation, epoch: next_epoch, ..Known::default() };
                let connection = ConnectionId { index, generation };
                replication.handle_start(connection, CallKey(7), epoch(next_epoch));
            }
            // A session that was told that it is given up asks for nothing more.
            Step::Durable(_) if known.is_given_up => {}
            Step::Durable(count) => {
                known.durable += count;
                if known.covered < known.durable {
                    known.lacks_since.get_or_insert(now);
                }
                let promise = (Seq(known.durable), now);
                kept.extend(
                    replication.handle_durable(now, connection, promise).map(|it| (connection, it)),
                );
            }
            Step::Report(share) => {
                let seq = known.durable * share / 100;
                if !known.has_gap {
                    known.covered = known.covered.max(seq);
                }
                if known.covered >= known.durable {
                    known.lacks_since = None;
                }
                let (first, last) = (Seq(1), Seq(seq));
                let report = ReplicatedFrames { call: 7, epoch: epoch(known.epoch), first, last };
                kept.extend(replication.handle_report(report));
            }
            Step::Lose => {
                known.has_gap = true;
                let (first, last) = (Seq(known.covered + 2), Seq(known.covered + 9));
                let report = ReplicatedFrames { call: 7, epoch: epoch(known.epoch), first, last };
                kept.extend(replication.handle_report(report));
            }
            Step::Pass(count) => now = now + Duration::from_millis(count),
            Step::StandStill(count) => {
                let gap = Duration::from_millis(count);
                now = now + gap;
                replication.handle_standstill(now, gap);
                for known in &mut calls {
                    known.lacks_since = known.lacks_since.map(|since| since + gap);
                }
            }
        }
        for due in all_due(&mut replication, now) {
            match due {
                Due::Degraded(id, promise) => kept.push((id, promise)),
                Due::GivenUp(id) => {
                    let known = &mut calls[id.index as usize];
                    prop_assert_eq!(on_timeout, OnTimeout::Hold);
                    prop_assert!(known.told < known.durable, "it waits for something");
                    let since = known.lacks_since.expect("the engine lacks something");
                    let is_time = known.has_gap || now.since(since) >= STALL;
                    prop_assert!(is_time, "not before its time");
                    known.is_given_up = true;
                }
                Due::Late { calls } => prop_assert!(calls > 0),
                Due::CaughtUp { .. } | Due::Gap => {}
            }
        }
        for (id, promise) in kept {
            let known = &mut calls[id.index as usize];
            prop_assert_eq!(id.generation, known.generation, "nobody is told of another's frames");
            prop_assert!(promise.seq.0 <= known.durable, "never before the disk");
            match promise.level {
                AckLevel::Replicated => prop_assert!(promise.seq.0 <= known.covered),
                _ => prop_assert_eq!(on_timeout, OnTimeout::Degrade),
            }
            known.told = known.told.max(promise.seq.0);
        }
        let behind =
            |known: &&Known| known.covered < known.durable && !known.has_gap && !known.is_given_up;
        prop_assert_eq!(replication.behind_count, calls.iter().filter(behind).count());
        let stuck = calls.iter().filter(|it| it.has_gap && it.told < it.durable);
        prop_assert!(stuck.clone().all(|it| it.is_given_up), "nothing waits for lost frames");
        for known in calls.iter().filter(|known| !known.is_given_up) {
            prop_assert!(known.told >= known.covered.min(known.durable), "what holds is told");
            // The next look is in time for each call that waits.
            if on_timeout == OnTimeout::Degrade && known.told < known.durable {
                let deadline = replication.poll_timeout().expect("a look is planned");
                prop_assert!(deadline <= now + TIMEOUT, "{:?}", deadline);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_promised_before_disk_and_engine_have_it(steps in steps()) {
        play(OnTimeout::Hold, steps)?;
    }

    #[test]
    fn with_degrade_nothing_waits_for_longer_than_the_timeout(steps in steps()) {
        play(OnTimeout::Degrade, steps)?;
    }
}
