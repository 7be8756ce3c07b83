//! `--reconnect`: a lost call comes back, and the loss is counted; what will never work is not
//! tried again.

use crate::faulty::{Fault, Node, result};

const RECONNECT: [&str; 7] =
    ["--reconnect", "--reconnect-interval", "50ms", "--duration", "1200ms", "--calls", "2"];

#[test]
fn a_dropped_call_comes_back() {
    let node = Node::start(Fault::DropFirst);
    let (code, json) = result(&node, &RECONNECT);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["counts"]["reconnects"], 1);
    assert_eq!(json["counts"]["calls_completed"], 2);
    assert_eq!(json["latency_ns"]["setup"]["count"], 3);
    // Frames 11 to 15 were never acked, and more fell due until the call was back.
    assert!(json["counts"]["frames_lost"].as_u64() >= Some(5), "{json:#}");
}

#[test]
fn a_call_that_is_lost_before_it_hangs_up_comes_back_too() {
    let node = Node::start(Fault::DropIdle);
    // The second call has said everything three seconds before its time to hang up.
    let (code, json) = result(
        &node,
        &[&RECONNECT[..3], &["--duration", "300ms", "--ramp", "6s", "--calls", "2"]].concat(),
    );
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(
        (&json["counts"]["reconnects"], &json["counts"]["calls_completed"]),
        (&1.into(), &2.into()),
        "{json:#}"
    );
    // Those after the last ack; after the end none was due.
    assert!(json["counts"]["frames_lost"].as_u64() <= Some(9), "{json:#}");
}

#[test]
fn without_the_flag_it_fails() {
    let (code, json) = result(&Node::start(Fault::DropFirst), &["--calls", "2"]);
    assert_eq!(code, 2, "{json:#}");
    assert_eq!(json["failures"]["dropped"]["count"], 1);
}

#[test]
fn a_busy_node_is_tried_again() {
    let (code, json) = result(&Node::start(Fault::RefuseFirst(3)), &RECONNECT);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["counts"]["reconnects"], 3);
}

#[test]
fn a_refused_token_is_not() {
    let (code, json) = result(&Node::start(Fault::Refuse(401)), &RECONNECT);
    assert_eq!(code, 2, "{json:#}");
    assert_eq!(json["counts"]["reconnects"], 0);
    assert_eq!(json["failures"]["refused_401"]["count"], 2);
}

#[test]
fn a_node_that_never_comes_back_fails() {
    let (code, json) = result(&Node::start(Fault::Refuse(503)), &RECONNECT);
    assert_eq!(code, 2, "{json:#}");
    assert_eq!(json["failures"]["not_connected"]["count"], 2);
}
