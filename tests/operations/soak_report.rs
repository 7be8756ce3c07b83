//! `tests/scale/soak.py report`: the verdict on series whose answer is known. The run itself, with
//! a node and calls, is in `.ci/run`, also with a leak that is planted.

use serde_json::{Value, json};
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scale/soak.py");

/// An hour of samples, one each 10 s. `memory` and `descriptors` give the values at an hour's
/// fraction, before some noise.
fn soak(memory: impl Fn(f64) -> f64, descriptors: impl Fn(f64) -> f64) -> Value {
    let kinds = json!({"socket": 4, "journal": 3});
    let sample = |index: u32| {
        let share = f64::from(index) / 360.0;
        // A saw of six samples: allocations that come and go.
        let noise = f64::from(index % 6) - 2.5;
        json!({
            "at": index * 10, "counts": index >= 30, "calls": 4000, "started": index * 200,
            "rss": memory(share) + noise * 3e6, "pss": memory(share), "threads": 10,
            "fds": descriptors(share) + noise * 8.0, "journal": 17e9, "kinds": kinds,
            "ack_p99_ms": if index % 50 == 7 { Value::Null } else { json!(50.0) },
        })
    };
    let quiet = json!({"calls": 0, "fds": 7, "rss": 6e8, "kinds": kinds});
    json!({
        "version": 1, "commit": "exo-ingest 0.1.0", "kernel": "6.18",
        "settings": {
            "calls": 4000, "duration": 3900.0, "warm_up": 300.0, "ramp": 20.0, "churn": 20.0,
            "retain_bytes": "16GiB", "small": false, "leak": false,
        },
        "idle": quiet, "after": quiet,
        "load": {
            "verdict": "pass",
            "counts": {"calls_completed": 9, "calls_failed": 0, "frames": 90, "acks": 9},
        },
        "samples": (0..390).map(sample).collect::<Vec<_>>(),
    })
}

fn report(soak: &Value) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("soak.json"), soak.to_string()).expect("a file");
    let output: Output = Command::new("python3")
        .args([SCRIPT, "report"])
        .arg(directory.path())
        .output()
        .expect("python3");
    let page = std::fs::read_to_string(directory.path().join("soak.md"))
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), page)
}

#[track_caller]
fn assert_not_flat(soak: &Value, reason: &str) {
    let (code, page) = report(soak);
    assert_eq!(code, Some(1), "{page}");
    assert!(page.starts_with("# Soak: not flat\n") && page.contains(reason), "{page}");
}

#[test]
fn a_node_with_noise_alone_is_flat() {
    let (code, page) = report(&soak(|_| 1e9, |_| 4016.0));
    assert_eq!(code, Some(0), "{page}");
    assert!(page.starts_with("# Soak: flat\n"), "{page}");
    assert!(page.contains("| resident memory | 953.7 MiB |"), "{page}");
}

#[test]
fn a_leak_of_two_percent_in_an_hour_is_found_below_the_noise() {
    let leaks = |share: f64| 1e9 * (1.0 + 0.02 * share);
    assert_not_flat(&soak(leaks, |_| 4016.0), "resident memory changed by");
    // 80 of 4,000 descriptors: a socket that is not closed, each 45 s.
    assert_not_flat(&soak(|_| 1e9, |share| 4016.0 + 80.0 * share), "descriptors changed by 80");
    // What grows in the warm-up alone does not count.
    let warms_up = |share: f64| 1e9 * (1.0 + share.min(0.08));
    assert_eq!(report(&soak(warms_up, |_| 4016.0)).0, Some(0));
}

#[test]
fn what_is_left_after_the_calls_is_named() {
    let mut leaves = soak(|_| 1e9, |_| 4016.0);
    leaves["after"] = json!({
        "calls": 2, "fds": 10, "rss": 6e8, "kinds": {"socket": 6, "journal": 4},
    });
    assert_not_flat(&leaves, "2 calls are live after the end");
    assert_not_flat(&leaves, "6 descriptors of kind socket after the end, 4 before");
    let (_, page) = report(&leaves);
    assert!(!page.contains("of kind journal after"), "the next segment is kept ready: {page}");
}

#[test]
fn calls_that_failed_and_a_late_generator_are_told_apart() {
    let mut fails = soak(|_| 1e9, |_| 4016.0);
    fails["load"]["verdict"] = json!("invalid");
    assert_eq!(report(&fails).0, Some(0), "its latencies do not count, its memory does");
    fails["load"]["counts"]["calls_failed"] = json!(3);
    assert_not_flat(&fails, "3 calls failed");
    fails["load"] = Value::Null;
    assert_not_flat(&fails, "exo-load left no result");
}
