//! Plans from runs that are made up.

use serde_json::json;

use super::*;

fn result(calls: u64, cpu: f64) -> (String, Value) {
    let run =
        json!({"calls": calls, "frame_bytes": 9_600, "frame_ms": 200, "ack_level": "durable"});
    (format!("run-{calls}"), json!({"verdict": "pass", "run": run, "server": {"cpu_percent": cpu}}))
}

const MACHINE: Machine = Machine { cores: Some(4), disk: None, network: None, memory: None };

const QUESTION: Question = Question {
    calls: Some(16_000),
    traffic: None,
    machine: MACHINE,
    cpu_max: 70.0,
    max_calls: None,
};

#[test]
fn a_line_through_the_runs_answers() {
    let sizing =
        size(&[result(1_000, 12.0), result(2_000, 22.0), result(14_000, 142.0)], QUESTION).unwrap();
    assert!(
        (sizing.idle_percent - 2.0).abs() < 1e-9 && (sizing.percent_per_call - 0.01).abs() < 1e-9,
        "{sizing:?}"
    );
    assert_eq!(
        (sizing.calls_per_core, sizing.calls_per_box, sizing.boxes),
        (6_800, 27_800, Some(1))
    );
    assert_eq!((sizing.limited_by, sizing.is_extrapolated), (Resource::Cpu, false));
    assert_eq!(sizing.bytes_per_second_per_box, 27_800 * 48_000);
    let text = sizing.table(QUESTION);
    assert!(
        text.contains("27,800 calls") && text.contains("1 box\n") && text.contains("straight line"),
        "{text}"
    );
    assert!(!text.contains("EXTRAPOLATED") && text.contains("not given: --max-calls"), "{text}");
}

#[test]
fn beyond_twice_the_largest_load_it_is_a_guess() {
    // Runs of 500 and 1,500 calls say nothing reliable about 87,500 calls.
    let machine = Machine { cores: Some(8), ..MACHINE };
    let question = Question { calls: Some(50_000), machine, ..QUESTION };
    let runs = [result(500, 3.2), result(1_500, 9.6)];
    let sizing = size(&runs, question).unwrap();
    assert!(
        sizing.is_extrapolated && (sizing.extrapolation_factor - 58.33).abs() < 0.01,
        "{sizing:?}"
    );
    let text = sizing.table(question);
    let warning = "EXTRAPOLATED: 87,500 calls a box is 58.3 times the largest load measured \
                   (1,500 calls)";
    assert!(text.contains(warning) && text.contains("1 box  EXTRAPOLATED"), "{text}");
    let json = serde_json::to_value(&sizing).unwrap();
    assert_eq!((&json["is_extrapolated"], &json["limited_by"]), (&true.into(), &"cpu".into()));
    assert!(json["extrapolation_factor"].as_f64().unwrap() > 58.0, "{json:#}");
    assert!(json["warnings"][0].as_str().unwrap().starts_with("EXTRAPOLATED"), "{json:#}");
    for (calls_max, is_extrapolated) in [(3_000, false), (3_001, true)] {
        let sizing = size(&runs, Question { max_calls: Some(calls_max), ..question }).unwrap();
        assert_eq!(sizing.is_extrapolated, is_extrapolated, "{calls_max}");
    }
}

#[test]
fn the_first_limit_is_named_with_the_room_under_the_others() {
    let mut runs = [result(4_000, 42.0), result(14_000, 142.0)];
    let bound = |runs: &[(String, Value)], question| {
        let sizing = size(runs, question).unwrap();
        assert!(sizing.calls_per_core <= sizing.max_calls.unwrap_or(u64::MAX), "{sizing:?}");
        (sizing.limited_by, sizing.calls_per_box)
    };
    let with = |machine: Machine| Question { machine, ..QUESTION };
    assert_eq!(bound(&runs, QUESTION), (Resource::Cpu, 27_800));
    let disk = Machine { disk: Some(483.2e6), ..MACHINE };
    assert_eq!(bound(&runs, with(disk)), (Resource::Disk, 10_000), "48,320 bytes a second");
    let network = Machine { network: Some(1e9), ..disk };
    assert_eq!(bound(&runs, with(network)), (Resource::Network, 2_441), "7 segments a frame");
    // Two seconds of audio in a quarter of the memory: 96,640 bytes a call.
    let memory = Machine { memory: Some(4.0 * 96_640.0 * 3_000.0), ..MACHINE };
    assert_eq!(bound(&runs, with(memory)), (Resource::Memory, 3_000));
    let both = Machine { network: Some(1e10), disk: Some(2e9), ..MACHINE };
    let limited = Question { max_calls: Some(6_000), ..with(both) };
    assert_eq!(bound(&runs, limited), (Resource::MaxCalls, 6_000));
    // The runs know the limit of their node. A limit in the question replaces it.
    runs[0].1["server"]["calls_max"] = 5_000.into();
    assert_eq!(bound(&runs, with(both)), (Resource::MaxCalls, 5_000));
    assert_eq!(bound(&runs, limited), (Resource::MaxCalls, 6_000));
    let sizing = size(&runs, with(both)).unwrap();
    let cpu = sizing.bounds[0];
    assert_eq!((cpu.resource, cpu.calls, cpu.room_calls), (Resource::Cpu, 27_800, 22_800));
    let text = sizing.table(with(both));
    for part in ["limited by the node's --max-calls", "4 boxes", "18 % used, room for 22,800"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn memory_counts_what_the_runs_measured_for_a_call() {
    let mut runs = [result(4_000, 42.0), result(14_000, 142.0)];
    let machine = Machine { memory: Some(4.0 * 96_640.0 * 3_000.0), ..MACHINE };
    let question = Question { machine, ..QUESTION };
    runs[1].1["server"]["bytes_per_call"] = 10_000.into();
    assert_eq!(size(&runs, question).unwrap().calls_per_box, 3_000, "the rings are the limit");
    runs[1].1["server"]["bytes_per_call"] = (9 * 96_640).into();
    assert_eq!(size(&runs, question).unwrap().calls_per_box, 1_200, "ten rings a call");
}

#[test]
fn a_range_comes_from_the_spread_of_the_runs_and_a_single_run_has_none() {
    let runs = [result(4_000, 40.0), result(8_000, 80.0), result(8_000, 100.0)];
    let question = Question { calls: Some(60_000), ..QUESTION };
    let sizing = size(&runs, question).unwrap();
    let [low, high] = sizing.calls_per_box_range.unwrap();
    assert_eq!((low, high), (22_400, 28_000), "by the dearest run and the cheapest one");
    assert!((low..=high).contains(&sizing.calls_per_box), "{sizing:?}");
    assert_eq!(sizing.boxes_range, Some([3, 3]));
    let text = sizing.table(question);
    assert!(text.contains("by the spread of the runs       22,400 to 28,000 calls"), "{text}");
    // A limit that is not measured has no spread.
    let capped = Question { max_calls: Some(9_000), ..question };
    assert_eq!(size(&runs, capped).unwrap().calls_per_box_range, Some([9_000, 9_000]));
    let one = size(&runs[..1], question).unwrap();
    assert_eq!((one.calls_per_box, one.calls_per_box_range), (28_000, None));
    assert!(one.table(question).contains("no range: a single run has no spread"));
}

#[test]
fn a_spare_box_carries_on_when_one_is_down() {
    let runs = [result(4_000, 42.0), result(14_000, 142.0)];
    let question = Question { calls: Some(30_000), max_calls: Some(10_000), ..QUESTION };
    let sizing = size(&runs, question).unwrap();
    assert_eq!((sizing.boxes, sizing.boxes_with_spare), (Some(3), Some(4)));
    let text = sizing.table(question);
    assert!(text.contains("the same with one box down      4 boxes"), "{text}");
}

#[test]
fn a_busy_hour_says_how_many_calls_there_are_at_once() {
    // 2,000 attempts of three minutes are 100 Erlang: 117 places for 1 %.
    let traffic = Traffic::new(2_000.0, 180.0, 0.01);
    assert_eq!((traffic.erlangs, traffic.calls), (100.0, 117));
    let runs = [result(10, 1.0), result(60, 6.0)];
    let question =
        Question { calls: None, traffic: Some(traffic), max_calls: Some(50), ..QUESTION };
    let sizing = size(&runs, question).unwrap();
    assert_eq!(
        (sizing.calls, sizing.boxes, sizing.boxes_with_spare),
        (Some(117), Some(3), Some(4))
    );
    let text = sizing.table(question);
    assert!(text.contains("117 calls at once: 100.0 Erlang of 180 s, 1 % blocked"), "{text}");
}

#[test]
fn a_disk_that_is_half_used_is_warned_of() {
    let runs = [result(4_000, 42.0), result(14_000, 142.0)];
    let with = |disk: f64| {
        let machine = Machine { disk: Some(disk), ..MACHINE };
        size(&runs, Question { machine, max_calls: Some(10_000), ..QUESTION }).unwrap().warnings
    };
    let warned = |warnings: &[String]| warnings.iter().any(|it| it.contains("catches up slowly"));
    assert!(warned(&with(600e6)) && !warned(&with(2e9)));
}

#[test]
fn what_cannot_answer_is_refused() {
    let refused = |results: &[(String, Value)]| size(results, QUESTION).unwrap_err();
    assert!(refused(&[result(1_000, 12.0), result(2_000, 11.0)]).contains("does not grow"));
    let mut other = result(2_000, 22.0);
    other.1["run"]["frame_ms"] = 20.into();
    assert!(refused(&[result(1_000, 12.0), other.clone()]).contains("frame_ms is 20"));
    other = result(2_000, 22.0);
    other.1["verdict"] = "invalid".into();
    assert!(refused(&[result(1_000, 12.0), other.clone()]).contains("did not pass"));
    other = result(2_000, 22.0);
    other.1["interrupted"] = true.into();
    assert!(refused(&[result(1_000, 12.0), other.clone()]).contains("was interrupted"));
    other = result(2_000, 22.0);
    other.1["server"] = Value::Null;
    assert!(refused(&[result(1_000, 12.0), other]).contains("--server-pid"));
}
