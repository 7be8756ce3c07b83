//! The budget of required sinks: refusals that begin and end, and the oldest segments that go.

use super::removing::ended_run;
use super::*;

/// A store on six old segments with a budget in halves of segments, and two sinks that have taken
/// nothing yet.
fn start(over: OverBudget, budget: u64) -> (Fixture, PathBuf, [Arc<Pins>; 2]) {
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("data");
    let run = RunName { boot: 1, started_at: UnixMicros(1), pid: 1 };
    let dir = ended_run(&data_dir, run, &[100, 200, 300, 400, 500, 600]);
    let pins: [Arc<Pins>; 2] = Default::default();
    // A filesystem may count a block of its own with a file.
    let bytes = budget * SEGMENT_SIZE / 2;
    let fixture = Fixture::start_with(data, |config| {
        config.pins = pins.to_vec();
        config.budget = Some(Budget { bytes, over });
    });
    (fixture, dir, pins)
}

#[test]
fn calls_are_refused_past_the_budget_until_every_sink_has_taken_enough() {
    let (mut fixture, dir, pins) = start(OverBudget::Refuse, 9);
    let view = fixture.store.as_ref().unwrap().view();
    eventually("all of it waits", || view.journal().pinned_bytes >= 6 * SEGMENT_SIZE);
    pins[0].settle();
    assert!(fixture.told.recv_timeout(2 * keeper::TICK).is_err(), "the other sink looks yet");
    pins[1].settle();
    assert!(matches!(fixture.told(), StoreEvent::Budget { is_over: true }));
    pins[0].raise(&dir, 6);
    assert!(fixture.told.recv_timeout(2 * keeper::TICK).is_err(), "the other sink lacks it");
    // Four are left: within the budget, and not by an eighth of it.
    pins[1].raise(&dir, 3);
    eventually("less waits", || view.journal().pinned_bytes < 9 * SEGMENT_SIZE / 2);
    assert!(fixture.told.recv_timeout(2 * keeper::TICK).is_err(), "calls would come and go");
    pins[1].raise(&dir, 4);
    assert!(matches!(fixture.told(), StoreEvent::Budget { is_over: false }));
    assert_eq!(layout::segments(&dir).unwrap().len(), 6, "nothing was removed");
    assert_eq!([pins[0].dropped_bytes(), pins[1].dropped_bytes()], [0, 0]);
    fixture.end();
}

#[test]
fn the_oldest_go_past_the_budget_and_each_sink_counts_what_it_lacked() {
    let (mut fixture, dir, pins) = start(OverBudget::DropOldest, 7);
    pins[0].raise(&dir, 2);
    pins.iter().for_each(|pins| pins.settle());
    let left = || layout::segments(&dir).unwrap();
    eventually("as much is left as may be", || left() == [4, 5, 6]);
    assert!(pins[0].dropped_bytes() >= 2 * SEGMENT_SIZE);
    assert!(pins[1].dropped_bytes() >= 3 * SEGMENT_SIZE);
    assert!(pins[1].dropped_bytes() > pins[0].dropped_bytes());
    assert!(Marks::load(&dir).unwrap().unwrap().removed_to == 3, "they are expired, and not lost");
    fixture.end();
    assert_eq!(left(), [4, 5, 6]);
}
