//! A node that hands its calls over to real NATS servers while it serves.

use crate::{EXO_INGEST, programs};
use exo_ingest_harness::{NatsCluster, NodeProcess, Peer, Player, TENANT, eventually, wire};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Small segments, sealed soon: a test cannot wait for the usual ten minutes.
const FAST: [&str; 4] = ["--set", "journal.segment_size=4MiB", "--set", "journal.segment_age=2s"];

/// Makes two streams for audio.
const STREAMS: [&str; 2] = ["--set", "live.create_streams=2"];

pub(crate) fn start(data_dir: &Path, url: &str, replicas: usize, args: &[&str]) -> NodeProcess {
    let replicas = format!("live.replicas={replicas}");
    let live = ["--live", url, "--set", &replicas];
    NodeProcess::start(EXO_INGEST, data_dir, &[&FAST[..], &STREAMS, &live, args].concat())
}

/// A node that hands over the audio of all calls.
pub(crate) fn node(data_dir: &Path, url: &str) -> NodeProcess {
    start(data_dir, url, 1, &["--live-audio", "all", "--set", "forward.node=edge-7"])
}

fn exo_ingest(args: &[&str]) -> Output {
    Command::new(EXO_INGEST).args(args).env_clear().stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub(crate) fn read(url: &str, call: &str) -> Output {
    exo_ingest(&["read", "--from", url, &format!("{TENANT}/{call}"), "-o", "-"])
}

/// The epochs of a call in the engine: frames, and whether it has ended.
fn epochs(url: &str, call: &str) -> Vec<(u64, bool)> {
    let (name, output) = (format!("{TENANT}/{call}"), tempfile::NamedTempFile::new().unwrap());
    let path = output.path().to_str().unwrap();
    let output = exo_ingest(&["read", "--from", url, &name, "-o", path, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let epochs = document["epochs"].as_array().cloned().unwrap_or_default();
    let epoch =
        |epoch: &Value| (epoch["frames"].as_u64().unwrap(), epoch["ended"].as_bool().unwrap());
    epochs.iter().map(epoch).collect()
}

/// Frames of a call in the engine.
fn frames(url: &str, call: &str) -> u64 {
    epochs(url, call).iter().map(|(frames, _)| frames).sum()
}

pub(crate) fn export(data_dir: &Path, call: &str) -> Vec<u8> {
    let (name, dir) = (format!("{TENANT}/{call}"), data_dir.to_str().unwrap());
    let args = ["calls", "export", &name, "--data-dir", dir, "--epoch", "all", "-o", "-"];
    let output = exo_ingest(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    output.stdout
}

/// Whether the engine has a call as the journal has it, byte for byte.
#[track_caller]
pub(crate) fn assert_same(data_dir: &Path, url: &str, call: &str) {
    let read = read(url, call);
    assert_eq!(read.status.code(), Some(0), "{}", text(&read.stderr));
    let export = export(data_dir, call);
    assert!(export.len() > 100_000 && read.stdout == export, "{call} differs");
}

pub(crate) fn play(node: &NodeProcess, names: &[&str]) -> Vec<Player> {
    let pause = Duration::from_millis(5);
    names.iter().enumerate().map(|(seed, name)| node.play(name, seed as u64, pause)).collect()
}

pub(crate) fn await_acks(players: &[Player], more: u64) {
    let acked: Vec<u64> = players.iter().map(Player::acked).collect();
    eventually("enough audio", || {
        players.iter().zip(&acked).all(|(player, before)| player.acked() > before + more)
    });
}

/// The node's number with this name.
pub(crate) fn engine(node: &NodeProcess, name: &str) -> f64 {
    node.admin().metrics().value(&format!("exo_ingest_sink_{name}{{sink=\"engine\"}}"))
}

#[test]
fn calls_are_handed_over_while_they_go_on_and_the_rest_when_the_node_ends() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let node = node(dir.path(), &url);
    let names = ["one", "two", "three"];
    let players = play(&node, &names);
    eventually("audio arrives while the calls go on", || frames(&url, "one") > 50);
    await_acks(&players, 200);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    names.iter().for_each(|name| assert_same(dir.path(), &url, name));
}

fn send_frames(peer: &mut Peer, frames: std::ops::RangeInclusive<u8>) {
    frames.for_each(|seq| peer.send(&wire::binary(&[seq; 9_600])));
}

#[test]
fn the_end_of_a_lone_call_does_not_wait_for_later_audio() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let node = node(dir.path(), &url);
    let mut peer = node.call_as(TENANT, "lone");
    send_frames(&mut peer, 1..=10);
    eventually("the first frames arrive", || frames(&url, "lone") == 10);
    // Three frames are less than an ACK covers: they come after a while.
    send_frames(&mut peer, 11..=13);
    eventually("the last frames arrive", || frames(&url, "lone") == 13);
    eventually("nothing is missing there", || engine(&node, "lag_bytes") == 0.0);
    eventually("nothing waits", || engine(&node, "in_flight_objects") == 0.0);
}

#[test]
fn a_node_that_is_killed_hands_the_rest_over_after_its_next_start() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    for round in 0..4 {
        let node = node(dir.path(), &url);
        let names = [format!("{round}-one"), format!("{round}-two")];
        let players = play(&node, &[&names[0], &names[1]]);
        await_acks(&players, 40 + 60 * round);
        node.kill();
        players.into_iter().for_each(|player| drop(player.finish()));
    }
    let node = node(dir.path(), &url);
    for round in 0..4 {
        let name = format!("{round}-two");
        eventually("the engine knows that the call is over", || {
            epochs(&url, &name).iter().any(|(_, has_ended)| *has_ended)
        });
    }
    eventually("everything is handed over", || engine(&node, "lag_bytes") == 0.0);
    assert!(node.terminate().success());
    for round in 0..4 {
        assert_same(dir.path(), &url, &format!("{round}-one"));
        assert_same(dir.path(), &url, &format!("{round}-two"));
    }
}

#[test]
fn a_first_start_can_hand_over_only_what_is_live_from_then_on() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let played = |node: &NodeProcess, name| {
        let players = play(node, &[name]);
        await_acks(&players, 50);
        players
    };
    let finish = |players: Vec<Player>| players.into_iter().for_each(|it| drop(it.finish()));
    let before = NodeProcess::start(EXO_INGEST, dir.path(), &FAST);
    let players = played(&before, "before");
    before.kill();
    finish(players);
    // The engine never knew of the run that is killed here. Its calls are sent all the same.
    nats.kill(0);
    let args = ["--live-audio", "all", "--set", "forward.node=edge-7", "--set", "live.from=now"];
    let first = start(dir.path(), &url, 1, &args);
    let is_told = |node: &NodeProcess| node.log().iter().any(|line| line.contains("live.from=now"));
    eventually("it is told", || is_told(&first));
    let players = played(&first, "first");
    first.kill();
    finish(players);
    nats.restart(0);
    let second = start(dir.path(), &url, 1, &args);
    let players = played(&second, "second");
    eventually("the first one is over", || epochs(&url, "first").iter().any(|(_, ended)| *ended));
    assert!(is_told(&second) && second.terminate().success());
    finish(players);
    ["first", "second"].iter().for_each(|name| assert_same(dir.path(), &url, name));
    assert_eq!(epochs(&url, "before"), []);
    let data_dir = dir.path().to_str().unwrap();
    let shipped = exo_ingest(&["ship", "--data-dir", data_dir, "--to", &url, "--node", "edge-7"]);
    assert!(shipped.status.success(), "{}", text(&shipped.stderr));
    assert_same(dir.path(), &url, "before");
}

#[test]
fn an_engine_that_stands_still_and_is_killed_gets_everything() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let node = node(dir.path(), &url);
    let players = play(&node, &["one", "two"]);
    await_acks(&players, 100);
    let pid = Pid::from_raw(nats.pid(0) as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    await_acks(&players, 100);
    eventually("the lag shows", || engine(&node, "lag_bytes") > 1e6);
    eventually("what waits for an answer shows", || {
        engine(&node, "in_flight_objects") > 1.0 && engine(&node, "in_flight_bytes") > 1e5
    });
    eventually("/ready says so", || {
        node.admin().request("GET", "/ready").body.contains("sink_fails")
    });
    kill_process(pid, Signal::CONT).unwrap();
    eventually("it takes the journal again", || engine(&node, "failing") == 0.0);
    nats.kill(0);
    await_acks(&players, 200);
    nats.restart(0);
    await_acks(&players, 100);
    assert!(engine(&node, "resent_total") > 0.0);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    ["one", "two"].iter().for_each(|name| assert_same(dir.path(), &url, name));
}

#[test]
fn a_cluster_that_loses_its_servers_one_by_one_gets_everything() {
    let Some(mut nats) = NatsCluster::start(&programs(), 3) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let node = start(dir.path(), &url, 3, &["--live-audio", "all"]);
    let players = play(&node, &["one", "two", "three"]);
    eventually("messages are acknowledged", || engine(&node, "objects_total") > 10.0);
    for number in 0..3 {
        nats.kill(number);
        await_acks(&players, 50);
        nats.restart(number);
        eventually("it takes the journal", || engine(&node, "failing") == 0.0);
    }
    eventually("it catches up", || engine(&node, "lag_bytes") < 1e6);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    ["one", "two", "three"].iter().for_each(|name| assert_same(dir.path(), &url, name));
}

#[test]
fn a_node_starts_without_its_engine_and_hands_over_once_it_is_there() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    nats.kill(0);
    let node = node(dir.path(), &url);
    let players = play(&node, &["one"]);
    await_acks(&players, 100);
    eventually("/ready says so", || {
        node.admin().request("GET", "/ready").body.contains("sink_fails")
    });
    eventually("the lag shows", || engine(&node, "lag_bytes") > 5e5);
    nats.restart(0);
    eventually("it catches up", || engine(&node, "failing") == 0.0);
    await_acks(&players, 50);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    assert_same(dir.path(), &url, "one");
}

/// The samples of a WAV file.
fn samples(wav: &[u8]) -> &[u8] {
    let start = wav.windows(4).position(|four| four == b"data").expect("a WAV file");
    &wav[start + 8..]
}

#[test]
fn a_call_that_goes_on_at_another_node_is_the_union_of_both() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = nats.url();
    let first = node(one.path(), &url);
    let players = play(&first, &["call"]);
    await_acks(&players, 100);
    let again = ["--live-audio", "all", "--set", "forward.node=edge-8"];
    let second = start(other.path(), &url, 1, &again);
    let more = play(&second, &["call"]);
    // For a while both nodes have the call.
    await_acks(&more, 50);
    await_acks(&players, 50);
    first.kill();
    await_acks(&more, 50);
    players.into_iter().chain(more).for_each(|player| drop(player.finish()));
    assert!(second.terminate().success());
    // What the first node had not handed over comes with its next start.
    let first = node(one.path(), &url);
    eventually("both epochs are over", || {
        let epochs = epochs(&url, "call");
        epochs.len() == 2 && epochs.iter().all(|(_, has_ended)| *has_ended)
    });
    assert!(first.terminate().success());
    let read = read(&url, "call");
    assert_eq!(read.status.code(), Some(0), "{}", text(&read.stderr));
    let (one, other) = (export(one.path(), "call"), export(other.path(), "call"));
    assert!(samples(&read.stdout) == [samples(&one), samples(&other)].concat());
}

#[test]
fn a_tenant_that_is_not_chosen_has_events_only() {
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), nats.url());
    let node = start(dir.path(), &url, 1, &["--live-audio", "another"]);
    let players = play(&node, &["one"]);
    await_acks(&players, 100);
    players.into_iter().for_each(|player| drop(player.finish()));
    assert!(node.terminate().success());
    assert_eq!(epochs(&url, "one"), [(0, true)]);
}

#[test]
fn retention_waits_for_a_required_engine_only() {
    let Some(mut nats) = NatsCluster::start(&programs(), 1) else { return };
    let url = nats.url();
    nats.kill(0);
    let segments =
        |dir: &Path| exo_ingest::archive::reader::Journal::open(dir).unwrap().segment_count();
    let limit = ["--live-audio", "all", "--retain-bytes", "32MiB"];
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let required = [&limit[..], &["--set", "live.required=true"]].concat();
    let required = start(dir.path(), &url, 1, &required);
    let optional = start(other.path(), &url, 1, &limit);
    let players = play(&required, &["one", "two", "three"]);
    let others = play(&optional, &["other-one", "other-two", "other-three"]);
    eventually("more than the limit is kept", || segments(dir.path()) > 14);
    eventually("as much is written", || others.iter().all(|other| other.sent_bytes() > 20 << 20));
    assert!(segments(other.path()) < 12);
    nats.restart(0);
    eventually("the engine takes it, and retention goes on", || segments(dir.path()) < 12);
    let log = "retention was faster than the message engine";
    eventually("the other one lacks the oldest audio, and says so", || {
        let is_told = optional.log().iter().any(|line| line.contains(log));
        is_told && text(&read(&url, "other-one").stderr).contains("gap: frames 1 to ")
    });
    assert!(required.terminate().success());
    optional.kill();
    let played: Vec<_> = players.into_iter().map(Player::finish).collect();
    others.into_iter().for_each(|other| drop(other.finish()));
    for (played, name) in played.iter().zip(["one", "two", "three"]) {
        let output = read(&url, name);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(output.stdout.len() as u64 > played.acked * 2_000, "all of it is in the engine");
    }
}

#[test]
fn a_check_says_what_is_wrong_with_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.pem");
    std::fs::write(&key, exo_ingest_harness::Keys::First.public_pem()).unwrap();
    let data_dir = dir.path().join("data");
    let check = |url: &str, more: &[&str]| {
        let args = ["serve", "--check", "--listen", "127.0.0.1:0", "--admin", "off"];
        let paths = ["--jwt-key", key.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
        let live = ["--allow-unregistered", "--live", url];
        let output = exo_ingest(&[&args[..], &paths, &live, more].concat());
        (output.status.code(), text(&output.stdout).to_owned() + text(&output.stderr))
    };
    let (code, told) = check("s3://bucket", &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("FAIL  message engine: --live is not the URL"), "{told}");
    let (code, told) = check("nats://127.0.0.1:1", &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("FAIL  message engine: cannot use the message engine at"), "{told}");
    let Some(nats) = NatsCluster::start(&programs(), 1) else { return };
    let (code, told) = check(&nats.url(), &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("lacks streams: make them with --create-streams (for serve: live"),
        "{told}"
    );
    let one = [&STREAMS[..], &["--set", "live.replicas=1"]].concat();
    let (code, told) = check(&nats.url(), &one);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("takes messages in all streams"), "{told}");
    assert!(told.contains("warn  message engine: the stream EXO_AUDIO_1 has 1 of 3"), "{told}");
    assert!(told.contains("is not known"), "{told}");
}
