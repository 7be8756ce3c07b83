//! The ACK level `replicated` with real NATS servers: what is acked is in the engine, whatever
//! happens to the node, and an engine that does not answer is told to peers and operators.

#![forbid(unsafe_code)]

use crate::erase::delete_ended;
use crate::{EXO_INGEST, programs};
use exo_ingest_harness::{
    Message, NatsCluster, NodeProcess, Peer, TENANT, audio, eventually, wire,
};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const STOP: &str = r#"{"event":"stop"}"#;

fn node(data_dir: &Path, nats: &NatsCluster, replicas: usize, args: &[&str]) -> NodeProcess {
    let (url, replicas) = (nats.url(), format!("live.replicas={replicas}"));
    let live = ["--live", &url, "--set", &replicas, "--set", "live.create_streams=2"];
    NodeProcess::start(EXO_INGEST, data_dir, &[&["--ack", "replicated"], &live[..], args].concat())
}

/// The audio of a call in the engine: what follows the header of the WAV file.
fn read(url: &str, call: &str) -> Vec<u8> {
    let args = ["read", "--from", url, "--call", &format!("{TENANT}/{call}"), "-o", "-"];
    let mut command = Command::new(EXO_INGEST);
    let output = command.args(args).env_clear().stdin(Stdio::null()).output().unwrap();
    let data = output.stdout.windows(4).position(|four| four == b"data");
    let data = data.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    output.stdout[data + 8..].to_vec()
}

/// The audio of a call's first frames, as readers give it: without the odd byte of a frame.
fn sent(seed: u64, frames: u64) -> Vec<u8> {
    let whole = |seq| {
        let mut audio = audio(seed, seq);
        audio.truncate(audio.len() / 2 * 2);
        audio
    };
    (1..=frames).flat_map(whole).collect()
}

/// Reads until `stopped` and returns it.
fn stopped(peer: &mut Peer) -> Value {
    loop {
        match peer.receive() {
            Message::Text(text) if text.starts_with(r#"{"event":"stopped""#) => {
                return serde_json::from_str(&text).unwrap();
            }
            Message::Text(_) | Message::Ping(_) => {}
            other => panic!("{other:?} before `stopped`"),
        }
    }
}

/// Plays a whole call and returns its `stopped`.
fn whole_call(node: &NodeProcess, tenant: &str, call: &str, frames: usize) -> Value {
    let mut peer = node.call_as(tenant, call);
    peer.send_frames(frames, 9_600);
    peer.send(&wire::text(STOP));
    stopped(&mut peer)
}

fn warns(node: &NodeProcess, name: &str) -> bool {
    node.admin().request("GET", "/ready").body.contains(&format!(r#""warning":"{name}""#))
}

fn metric(node: &NodeProcess, name: &str) -> f64 {
    node.admin().metrics().sum(&format!("exo_ingest_{name}"))
}

#[test]
fn what_is_acked_is_in_the_engine_after_the_loss_of_the_node_and_its_disk() {
    let Some(nats) = NatsCluster::start(&programs(), 3) else { return };
    for round in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path(), &nats, 3, &["--live-audio", "all"]);
        let names = ["one", "two", "three"].map(|name| format!("{name}-{round}"));
        let pause = Duration::from_millis(5);
        let play = |(seed, name): (usize, &String)| node.play(name, seed as u64, pause);
        let players: Vec<_> = names.iter().enumerate().map(play).collect();
        eventually("acks come", || players.iter().all(|player| player.acked() > 100 + 50 * round));
        node.kill();
        let played: Vec<_> = players.into_iter().map(|player| player.finish()).collect();
        std::fs::remove_dir_all(dir.path()).unwrap();
        for call in played {
            let found = read(&nats.url(), &call.interaction);
            let acked = sent(call.seed, call.acked);
            assert!(found.len() >= acked.len() && found[..acked.len()] == acked, "LOST: {call:?}");
            let all = sent(call.seed, call.sent);
            assert!(found.len() <= all.len() && found == all[..found.len()], "{call:?}");
        }
    }
}

#[test]
fn stopped_and_the_log_say_which_level_held() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &nats, 1, &["--live-audio", TENANT]);
    let of_engine = whole_call(&node, TENANT, "in-engine", 13);
    assert_eq!(
        (&of_engine["level"], &of_engine["durable_seq"]),
        (&"replicated".into(), &13.into())
    );
    assert_eq!(read(&nats.url(), "in-engine").len(), 13 * 9_600);
    assert_eq!(whole_call(&node, "another", "not-there", 13)["level"], "durable");
    eventually("both calls are logged", || {
        let log = node.log().join("\n");
        log.contains("ack_level=\"replicated\"") && log.contains("ack_level=\"durable\"")
    });
    assert!(node.admin().get("/ready").contains(r#""ack":"replicated""#));
    assert_eq!(metric(&node, "acks_degraded_total"), 0.0);
    assert!(node.terminate().success());
}

#[test]
fn with_hold_acks_wait_for_an_engine_that_is_away() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let timeout = ["--set", "forward.replicated_timeout=1s", "--live-audio", "all"];
    let node = node(dir.path(), &nats, 1, &timeout);
    let mut peer = node.call_as(TENANT, "patient");
    peer.send_frames(10, 9_600);
    peer.expect_ack(10);
    nats.kill(0);
    peer.send_frames(15, 9_600);
    peer.send(&wire::text(STOP));
    eventually("/ready says that ACKs wait", || warns(&node, "engine_late"));
    peer.expect_silence();
    assert_eq!(metric(&node, "engine_late"), 1.0);
    nats.restart(0);
    peer.expect_ack(20);
    assert_eq!(stopped(&mut peer)["level"], "replicated");
    eventually("/ready is calm again", || !warns(&node, "engine_late"));
    assert_eq!(metric(&node, "acks_degraded_total"), 0.0);
    assert!(node.terminate().success());
}

#[test]
fn with_hold_a_call_is_closed_after_the_stall_timeout() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let times = ["--set", "forward.replicated_timeout=1s", "--set", "journal.stall_timeout=3s"];
    let node = node(dir.path(), &nats, 1, &[&times[..], &["--live-audio", "all"]].concat());
    let mut peer = node.call_as(TENANT, "given-up");
    peer.send_frames(10, 9_600);
    peer.expect_ack(10);
    nats.kill(0);
    peer.send_frames(10, 9_600);
    let message = peer.expect_refusal(1013, "engine", true);
    assert!(message.contains("engine does not answer"), "{message}");
    // What the node kept follows.
    nats.restart(0);
    eventually("the engine has it all", || read(&nats.url(), "given-up").len() == 20 * 9_600);
    assert!(node.terminate().success());
}

#[test]
fn acks_go_on_while_other_calls_are_erased_from_the_same_shard() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let segments = ["--set", "journal.segment_size=4MiB", "--set", "journal.segment_age=2s"];
    let node = node(dir.path(), &nats, 1, &[&segments[..], &["--live-audio", "all"]].concat());
    let player = node.play("stays", 1, Duration::from_millis(5));
    for round in 0..3 {
        let call = format!("{TENANT}/gone-{round}");
        whole_call(&node, TENANT, &format!("gone-{round}"), 13);
        // The work on the shard is broken off for it, and begins again at the cursor.
        delete_ended(dir.path(), &format!("gone-{round}"));
        eventually("the engine has erased it", || {
            let mut read = Command::new(EXO_INGEST);
            read.args(["read", "--from", &nats.url(), &call, "-o", "-"]).env_clear();
            String::from_utf8_lossy(&read.output().unwrap().stderr).contains("was deleted")
        });
        let acked = player.acked();
        eventually("acks go on", || player.acked() > acked + 100);
    }
    assert_eq!(metric(&node, "calls_engine_lacks_total"), 0.0);
    assert!(node.terminate().success());
    let played = player.finish();
    let (found, acked) = (read(&nats.url(), "stays"), sent(1, played.acked));
    assert!(found.len() >= acked.len() && found[..acked.len()] == acked, "LOST: {played:?}");
}

#[test]
fn calls_that_lost_audio_to_retention_do_not_keep_the_node_degraded() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let policy = ["--set", "forward.replicated_timeout=1s", "--set", "forward.on_timeout=degrade"];
    let limits = ["--set", "journal.segment_size=4MiB", "--retain-bytes", "24MiB"];
    let node =
        node(dir.path(), &nats, 1, &[&policy[..], &limits, &["--live-audio", "all"]].concat());
    let pause = Duration::from_millis(5);
    let players = [0, 1, 2].map(|seed| node.play(&format!("lossy-{seed}"), seed, pause));
    eventually("acks come", || players.iter().all(|player| player.acked() > 20));
    nats.kill(0);
    let before: u64 = players.iter().map(|player| player.sent_bytes()).sum();
    eventually("retention takes what the engine lacks", || {
        players.iter().map(|player| player.sent_bytes()).sum::<u64>() > before + (48 << 20)
    });
    assert!(warns(&node, "ack_degraded"));
    nats.restart(0);
    eventually("it is told that the engine cannot have it all", || {
        metric(&node, "calls_engine_lacks_total") == 3.0
    });
    // The calls go on.
    eventually("the node is not degraded any more", || !warns(&node, "ack_degraded"));
    assert_eq!(whole_call(&node, TENANT, "whole", 13)["level"], "replicated");
    let acked = players[0].acked();
    eventually("their acks go on", || players[0].acked() > acked + 20);
    assert!(node.log().join("\n").contains("their ACKs cannot mean replicated any more"));
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
}

#[test]
fn with_degrade_acks_go_out_as_durable_until_the_engine_is_back() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let policy = ["--set", "forward.replicated_timeout=1s", "--set", "forward.on_timeout=degrade"];
    let node = node(dir.path(), &nats, 1, &[&policy[..], &["--live-audio", "all"]].concat());
    let mut peer = node.call_as(TENANT, "degraded");
    peer.send_frames(10, 9_600);
    peer.expect_ack(10);
    nats.kill(0);
    peer.send_frames(10, 9_600);
    peer.expect_ack(20);
    let ready = node.admin().get("/ready");
    let is_told = ready.contains(r#""ack_degraded":true"#) && warns(&node, "ack_degraded");
    assert!(is_told, "{ready}");
    assert_eq!(node.admin().ready().0, 200, "the node stays ready");
    peer.send_frames(3, 9_600);
    peer.send(&wire::text(STOP));
    assert_eq!(stopped(&mut peer)["level"], "durable");
    assert_eq!(metric(&node, "acks_degraded_total"), 1.0);
    let status: Value = serde_json::from_str(&node.admin().get("/status.json")).unwrap();
    assert_eq!(status["node"]["ack_degraded"], true);
    nats.restart(0);
    eventually("ACKs are replicated again", || !warns(&node, "ack_degraded"));
    assert_eq!(whole_call(&node, TENANT, "replicated", 13)["level"], "replicated");
    let log = node.log().join("\n");
    for told in ["ACKs mean durable", "ACKs mean replicated", "degraded_acks=1"] {
        assert_eq!(log.matches(told).count(), 1, "{told}: {log}");
    }
    assert!(node.terminate().success());
}
