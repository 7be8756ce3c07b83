//! A node that keeps the contract passes, and what it was sent is what the report says.

use std::collections::{HashMap, HashSet};

use crate::faulty::{Fault, Node, exo_load, result};

#[test]
fn a_right_node_passes() {
    let node = Node::start(Fault::None);
    let (code, json) = result(&node, &[]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["verdict"], "pass");
    assert_eq!(json["schema"], serde_json::json!({"name": "exo-load/result", "version": 2}));
    assert_eq!(json["counts"]["calls_completed"], 3);
    assert_eq!(json["counts"]["calls_failed"], 0);
    assert_eq!(json["failures"], serde_json::json!({}));
    assert_eq!(json["latency_ns"]["setup"]["count"], 3);
    let frames = json["counts"]["frames"].as_u64().unwrap();
    // 990 ms of 20 ms frames, less what a busy machine takes to set a call up.
    assert!((3 * 30..=3 * 51).contains(&frames), "{frames}");
    assert_eq!(json["counts"]["bytes"], frames * (960 + 8));
    let heard = node.heard.lock().unwrap();
    assert_eq!(heard.len() as u64, frames);
    let per_call = |name: &str| heard.iter().filter(|(call, _)| call == name).count() / 10;
    let acks = ["load-0", "load-1", "load-2"].map(per_call).iter().sum::<usize>();
    assert_eq!(json["counts"]["acks"], acks);
}

#[test]
fn every_frame_of_every_call_is_distinct_and_in_order() {
    let node = Node::start(Fault::None);
    assert_eq!(result(&node, &["--interaction-prefix", "call/", "--first-call", "1000"]).0, 0);
    let heard = node.heard.lock().unwrap();
    let distinct: HashSet<&[u8]> = heard.iter().map(|(_, audio)| audio.as_slice()).collect();
    assert_eq!(distinct.len(), heard.len());
    let mut numbers: HashMap<&str, u64> = HashMap::new();
    for (call, audio) in heard.iter() {
        let number = numbers.entry(call).or_default();
        *number += 1;
        assert_eq!(
            audio[..4],
            call.strip_prefix("call/").unwrap().parse::<u32>().unwrap().to_le_bytes()
        );
        assert_eq!(audio[8..16], number.to_le_bytes());
    }
    let mut calls: Vec<&str> = numbers.into_keys().collect();
    calls.sort_unstable();
    assert_eq!(calls, ["call/1000", "call/1001", "call/1002"]);
}

#[test]
fn a_single_call_takes_its_names_from_the_token() {
    let node = Node::start(Fault::None);
    assert_eq!(result(&node, &["--calls", "1"]).0, 0);
    assert!(node.heard.lock().unwrap().iter().all(|(call, _)| call == "i"));
}

#[test]
fn pings_are_answered() {
    let (code, json) = result(&Node::start(Fault::Ping), &[]);
    assert_eq!(code, 0, "{json:#}");
}

#[test]
fn a_bare_close_ends_a_call_too() {
    let (code, json) = result(&Node::start(Fault::None), &["--no-stop"]);
    assert_eq!(code, 0, "{json:#}");
    assert!(json["counts"]["acks"].as_u64() >= Some(3), "{json:#}");
    assert_eq!(json["run"]["end"], "close");
}

#[test]
fn two_pinned_workers_share_the_calls() {
    // CPU 0 twice is one worker; machines with a single CPU run this too.
    let cpus = if std::thread::available_parallelism().unwrap().get() > 1 { "0,1" } else { "0" };
    let (code, json) =
        result(&Node::start(Fault::None), &["--cpus", cpus, "--calls", "8", "--audio", "sine"]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["counts"]["calls_completed"], 8);
}

#[test]
fn the_table_ends_with_the_verdict() {
    let output =
        exo_load(&Node::start(Fault::None).url, &["--slo", "ack.p99<1h", "--slo", "setup.max<=1h"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.trim_end().ends_with("PASS"), "{table}");
    assert!(table.contains("ack.p99<1h") && table.contains("held"), "{table}");
}
