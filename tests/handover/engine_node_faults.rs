//! A node whose message engine fails while calls go on: it has all of them afterwards, once, byte
//! for byte.

use crate::engine_faults::{copy, leader, operate, stream};
use crate::live_node::{assert_same, await_acks, engine, node, play, read, start};
use crate::programs;
use crate::proxy::{Mode, Proxy};
use exo_ingest_harness::{NatsCluster, NodeProcess, Player, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Waits until nothing fails any more, ends the node, and compares the engine with the journal.
#[track_caller]
fn finish(data_dir: &Path, url: &str, node: NodeProcess, players: Vec<Player>) {
    eventually("the engine takes the journal", || engine(&node, "failing") == 0.0);
    await_acks(&players, 30);
    eventually("the engine catches up", || engine(&node, "lag_bytes") < 2e6);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    NAMES.iter().for_each(|name| assert_same(data_dir, url, name));
}

fn await_told(node: &NodeProcess, words: &str) {
    eventually(&format!("/ready says {words:?}"), || {
        let ready = node.admin().request("GET", "/ready").body;
        ready.contains("sink_fails") && ready.contains(words)
    });
}

/// A node that hands over all audio to three servers, and its calls.
fn on_a_cluster(data_dir: &Path, url: &str) -> (NodeProcess, Vec<Player>) {
    let node = start(data_dir, url, 3, &["--live-audio", "all"]);
    let players = play(&node, &NAMES);
    eventually("messages are acknowledged", || engine(&node, "objects_total") > 10.0);
    (node, players)
}

#[test]
fn all_servers_killed_at_once_again_and_again_lose_nothing() {
    let Some(mut nats) = NatsCluster::start(&programs(), 3) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let (node, players) = on_a_cluster(dir.path(), &url);
    for _ in 0..2 {
        (0..3).for_each(|number| nats.kill(number));
        await_acks(&players, 60);
        (0..3).for_each(|number| nats.restart(number));
        let before = engine(&node, "objects_total");
        eventually("it goes on", || engine(&node, "objects_total") > before + 10.0);
    }
    finish(dir.path(), &url, node, players);
}

#[test]
fn a_leader_that_stands_still_is_replaced_and_nothing_is_lost() {
    let Some(nats) = NatsCluster::start(&programs(), 3) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let (node, players) = on_a_cluster(dir.path(), &url);
    let pid = Pid::from_raw(nats.pid(leader(&url)) as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    await_acks(&players, 60);
    // Longer than an election, and than the wait for an acknowledgement.
    std::thread::sleep(Duration::from_secs(8));
    await_acks(&players, 60);
    kill_process(pid, Signal::CONT).unwrap();
    finish(dir.path(), &url, node, players);
}

#[test]
fn a_slow_engine_holds_up_no_call_and_gets_everything() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let port = nats.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let proxy = Proxy::start(port, Mode::Pass);
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let node = node(dir.path(), &url);
    let players = play(&node, &NAMES);
    let began = Instant::now();
    await_acks(&players, 100);
    let rate = engine(&node, "acknowledged_bytes_total") / began.elapsed().as_secs_f64();
    proxy.set(Mode::Slow((rate / 10.0) as u64 + 1));
    await_acks(&players, 100);
    std::thread::sleep(Duration::from_secs(6));
    await_acks(&players, 30);
    assert!(proxy.hits() > 0 && engine(&node, "lag_bytes") > 0.0);
    proxy.set(Mode::Pass);
    finish(dir.path(), &nats.url(), node, players);
}

#[test]
fn a_full_engine_is_told_and_holds_up_no_call() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    operate(&url, async |context| {
        for (name, subject, size) in [
            ("EXO_EVENTS", "exo.events.>", -1),
            ("EXO_AUDIO_0", "exo.audio.0.>", 1 << 20),
            ("EXO_AUDIO_1", "exo.audio.1.>", 1 << 20),
        ] {
            context.create_stream(stream(name, subject, size)).await.unwrap();
        }
    });
    let node = node(dir.path(), &url);
    let players = play(&node, &NAMES);
    await_told(&node, "maximum bytes exceeded");
    await_acks(&players, 60);
    operate(&url, async |context| {
        for slot in 0..2 {
            let (name, subject) = (format!("EXO_AUDIO_{slot}"), format!("exo.audio.{slot}.>"));
            context.update_stream(stream(&name, &subject, -1)).await.unwrap();
        }
    });
    finish(dir.path(), &url, node, players);
}

#[test]
fn a_stream_that_is_full_is_named_while_the_others_work() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    operate(&url, async |context| {
        for (name, subject, size) in [
            ("EXO_EVENTS", "exo.events.>", -1),
            ("EXO_AUDIO_0", "exo.audio.0.>", -1),
            // Enough for the message of the probe.
            ("EXO_AUDIO_1", "exo.audio.1.>", 32 << 10),
        ] {
            context.create_stream(stream(name, subject, size)).await.unwrap();
        }
    });
    let node = node(dir.path(), &url);
    let names: Vec<String> = (0..8).map(|number| format!("call-{number}")).collect();
    let players = play(&node, &names.iter().map(String::as_str).collect::<Vec<_>>());
    await_told(&node, "nothing in EXO_AUDIO_1 for");
    // Some of the calls are in the other stream, and the shard has room for them for a while.
    let before = engine(&node, "objects_total");
    eventually("the other stream works", || engine(&node, "objects_total") > before + 5.0);
    assert_eq!(engine(&node, "failing"), 1.0, "what works hides nothing");
    operate(&url, async |context| {
        context.update_stream(stream("EXO_AUDIO_1", "exo.audio.1.>", -1)).await.unwrap();
    });
    eventually("nothing fails", || engine(&node, "failing") == 0.0);
    await_acks(&players, 30);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    names.iter().for_each(|name| assert_same(dir.path(), &url, name));
}

#[test]
fn an_engine_that_is_set_back_gets_everything_from_a_node_without_a_cursor() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let kept = tempfile::tempdir().unwrap();
    let kept = kept.path().join("kept");
    let first = node(dir.path(), &url);
    let players = play(&first, &NAMES);
    await_acks(&players, 60);
    nats.kill(0);
    copy(&nats.data(0), &kept);
    nats.restart(0);
    // These are acknowledged, and lost.
    let before = engine(&first, "objects_total");
    eventually("more is taken", || engine(&first, "objects_total") > before + 20.0);
    nats.kill(0);
    copy(&kept, &nats.data(0));
    nats.restart(0);
    let before = engine(&first, "objects_total");
    eventually("it goes on", || engine(&first, "objects_total") > before + 20.0);
    first.kill();
    players.into_iter().for_each(|player| drop(player.finish()));
    let lost = read(&url, "one");
    assert_eq!(lost.status.code(), Some(3), "the hole is named");
    std::fs::remove_dir_all(dir.path().join("sinks")).unwrap();
    // Without a cursor it is a first start.
    let again = ["--set", "forward.node=edge-7", "--set", "live.from=oldest"];
    let second = start(dir.path(), &url, 1, &[&["--live-audio", "all"], &again[..]].concat());
    eventually("everything is handed over again", || {
        NAMES.iter().all(|name| read(&url, name).status.code() == Some(0))
    });
    eventually("nothing is left", || engine(&second, "lag_bytes") == 0.0);
    assert!(second.terminate().success());
    NAMES.iter().for_each(|name| assert_same(dir.path(), &url, name));
}
