//! Calls hang up at the pace at which they came up, once the audio of all has ended; Ctrl-C ends
//! them at once.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::faulty::{Fault, Node, command, result};

const CALLS: u32 = 8;
const RAMP: Duration = Duration::from_secs(2);
const DURATION: Duration = Duration::from_millis(300);

/// Plays [`CALLS`] calls; no call may hang up before its time, counted from before the run.
fn assert_spread(more: &[&str]) {
    let (node, begin) = (Node::start(Fault::None), Instant::now());
    let (code, json) =
        result(&node, &[&["--calls", "8", "--ramp", "2s", "--duration", "300ms"], more].concat());
    assert_eq!((code, &json["run"]["hang_up_s"]), (0, &Value::from(2.0)), "{json:#}");
    assert_eq!(json["counts"]["calls_completed"], CALLS);
    let hung_up = node.hung_up.lock().unwrap();
    let times: HashMap<&str, Instant> =
        hung_up.iter().map(|(call, at)| (call.as_str(), *at)).collect();
    assert_eq!((hung_up.len(), times.len()), (CALLS as usize, CALLS as usize), "{hung_up:?}");
    for number in 0..CALLS {
        let earliest = RAMP + DURATION + RAMP * number / CALLS;
        let after = times[format!("load-{number}").as_str()].duration_since(begin);
        assert!(
            after >= earliest,
            "call {number} hung up {after:?} after the start, before {earliest:?}"
        );
    }
    // Their audio ended together: the later a call came up, the less it said, at 20 ms a frame.
    let heard = node.heard.lock().unwrap();
    for number in 0..CALLS {
        let frames = heard.iter().filter(|(call, _)| *call == format!("load-{number}")).count();
        let frames_max = (DURATION + RAMP - RAMP * number / CALLS).as_millis() as usize / 20 + 1;
        assert!((1..=frames_max).contains(&frames), "call {number}: {frames} of {frames_max}");
    }
}

#[test]
fn by_stop_at_the_pace_of_the_ramp() {
    assert_spread(&[]);
}

#[test]
fn by_close_at_the_pace_of_the_ramp() {
    assert_spread(&["--no-stop"]);
}

/// A time-out that is shorter than the time of hanging up: it counts from each call's own hang-up.
#[test]
fn an_end_is_confirmed_in_time_whenever_it_comes() {
    let node = Node::start(Fault::None);
    let (code, json) = result(
        &node,
        &["--calls", "2", "--ramp", "4s", "--duration", "100ms", "--stop-timeout", "1s"],
    );
    assert_eq!((code, &json["counts"]["calls_completed"]), (0, &Value::from(2)), "{json:#}");
}

#[test]
fn a_cut_run_hangs_up_at_once() {
    let (node, begin) = (Node::start(Fault::None), Instant::now());
    let flags = ["--calls", "2", "--ramp", "6s", "--duration", "100ms", "--json"];
    let child = command(&node.url, &flags).stdout(Stdio::piped()).spawn().expect("exo-load starts");
    let hung_up = || node.hung_up.lock().unwrap().clone();
    while hung_up().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no call hangs up");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The second call would wait for three seconds more.
    rustix::process::kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("its output");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    crate::schema::check(&json);
    assert_eq!(
        (&json["interrupted"], &json["counts"]["calls_completed"]),
        (&true.into(), &2.into()),
        "{json:#}"
    );
    assert_eq!(
        (output.status.code(), &json["exit_code"], &json["verdict"]),
        (Some(130), &130.into(), &"pass".into())
    );
    let after = hung_up()[1].1.duration_since(begin);
    assert!(
        after < Duration::from_millis(9_100),
        "hung up {after:?} after the start, at its own time"
    );
}
