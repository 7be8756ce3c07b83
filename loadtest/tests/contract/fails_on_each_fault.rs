//! Each way to break the contract fails the run, with exit code 2 and the reason's name.

use crate::faulty::{Fault, Node, exo_load, result};

#[track_caller]
fn fails(fault: Fault, flags: &[&str], reason: &str) {
    let (code, json) = result(&Node::start(fault), flags);
    assert_eq!(code, 2, "{fault:?}: {json:#}");
    assert_eq!(json["verdict"], "fail");
    let tally = &json["failures"][reason];
    assert!(tally["count"].as_u64() >= Some(1), "{fault:?}: no {reason} in {:#}", json["failures"]);
    assert!(tally["examples"][0].as_str().unwrap().starts_with("load-"), "{tally}");
    assert_eq!(json["counts"]["calls_failed"], 3, "{fault:?}");
}

#[test]
fn a_wrong_ack() {
    fails(Fault::AckOffByOne, &[], "ack_wrong");
}

#[test]
fn a_missing_ack() {
    fails(Fault::AckMissing, &[], "ack_skipped");
}

#[test]
fn a_repeated_ack() {
    fails(Fault::AckTwice, &[], "ack_repeated");
}

#[test]
fn a_missing_last_ack() {
    fails(Fault::AckLastMissing, &[], "ack_missing");
}

#[test]
fn a_missing_last_ack_before_a_close() {
    fails(Fault::AckLastMissing, &["--no-stop"], "ack_missing");
}

#[test]
fn merged_acks() {
    fails(Fault::AckMerged, &[], "ack_skipped");
}

#[test]
fn a_late_ack() {
    fails(Fault::AckLate, &["--ack-timeout", "300ms"], "ack_late");
}

#[test]
fn no_acks_at_all() {
    fails(Fault::AckNone, &["--ack-timeout", "100ms"], "ack_late");
    fails(Fault::AckNone, &[], "ack_missing");
}

#[test]
fn a_foreign_started() {
    fails(Fault::StartedForeign, &[], "started_wrong");
}

#[test]
fn a_started_that_says_more() {
    fails(Fault::StartedMore, &[], "started_wrong");
}

#[test]
fn a_started_that_never_comes() {
    fails(Fault::StartedNever, &["--setup-timeout", "300ms"], "setup_timeout");
}

#[test]
fn refusals() {
    fails(Fault::Refuse(401), &[], "refused_401");
    fails(Fault::Refuse(503), &[], "refused_503");
}

#[test]
fn a_wrong_accept_key() {
    fails(Fault::AcceptWrong, &[], "upgrade_invalid");
}

#[test]
fn an_early_close() {
    fails(Fault::CloseEarly(4429), &[], "closed_4429");
    let output = exo_load(&Node::start(Fault::CloseEarly(4429)).url, &[]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("429 too_fast: slow down") && table.trim_end().ends_with("FAIL"),
        "{table}"
    );
}

#[test]
fn a_dropped_connection() {
    fails(Fault::DropEarly, &[], "dropped");
}

#[test]
fn a_wrong_stopped() {
    fails(Fault::StoppedFrames, &[], "stopped_wrong");
    fails(Fault::StoppedBytes, &[], "stopped_wrong");
    fails(Fault::StoppedNever, &[], "stopped_wrong");
}

#[test]
fn an_unanswered_stop() {
    fails(Fault::StopIgnored, &["--stop-timeout", "300ms"], "stop_timeout");
}

#[test]
fn a_wrong_last_close() {
    fails(Fault::CloseWrong, &[], "close_wrong");
}

#[test]
fn messages_nobody_asked_for() {
    fails(Fault::Chatter, &[], "unexpected_message");
    fails(Fault::ChatterBinary, &[], "unexpected_message");
}

#[test]
fn a_frame_the_rfc_forbids() {
    fails(Fault::Masked, &[], "protocol_error");
}

#[test]
fn a_missed_objective() {
    let (code, json) =
        result(&Node::start(Fault::None), &["--slo", "ack.p50<1ns", "--slo", "ack.p50<1h"]);
    assert_eq!(code, 2, "{json:#}");
    assert_eq!(json["failures"], serde_json::json!({}));
    assert_eq!(json["slos"][0]["held"], false);
    assert_eq!(json["slos"][1]["held"], true);
}
