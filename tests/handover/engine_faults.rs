//! A message engine that fails in every way that we know: it has all calls afterwards, once, byte
//! for byte.

use crate::live::{
    assert_all_there, forget_cursor, journal, read, run, ship, ship_args, ship_during, text,
};
use crate::programs;
use crate::proxy::{Mode, Proxy};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{self, Context};
use exo_ingest::archive::image::{self, Image};
use exo_ingest_harness::{NatsCluster, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Asks the engine something, as its operator would.
pub(crate) fn operate<T>(url: &str, operation: impl AsyncFn(Context) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let addresses: Vec<_> = url.split(',').collect();
        let client = async_nats::connect(addresses).await.unwrap();
        operation(jetstream::new(client)).await
    })
}

/// A stream that refuses what does not fit into `max_bytes`; -1: as much as the disk takes.
pub(crate) fn stream(name: &str, subject: &str, max_bytes: i64) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        discard: DiscardPolicy::New,
        max_bytes,
        ..Config::default()
    }
}

/// The number of the server that leads the first stream of audio. After a loss it is chosen anew.
pub(crate) fn leader(url: &str) -> usize {
    let mut found = None;
    eventually("the stream has a leader", || {
        found = operate(url, async |context| {
            let stream = context.get_stream("EXO_AUDIO_0").await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        });
        found.is_some()
    });
    found.unwrap().strip_prefix('n').unwrap().parse().unwrap()
}

#[test]
fn a_stream_that_loses_its_leader_again_and_again_gets_everything() {
    let Some(mut engine) = NatsCluster::start(&programs(), 3) else { return };
    let (journal, url) = (journal(), engine.url());
    ship(journal.path(), &url, "3");
    ship_during(journal.path(), &url, "3", || {
        for _ in 0..2 {
            let leader = leader(&url);
            engine.kill(leader);
            std::thread::sleep(Duration::from_millis(600));
            engine.restart(leader);
            std::thread::sleep(Duration::from_millis(600));
        }
    });
    assert_all_there(journal.path(), &url);
}

#[test]
fn a_cluster_whose_servers_are_all_killed_at_once_gets_everything() {
    let Some(mut engine) = NatsCluster::start(&programs(), 3) else { return };
    let (journal, url) = (journal(), engine.url());
    ship_during(journal.path(), &url, "3", || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(700));
            (0..3).for_each(|number| engine.kill(number));
            (0..3).for_each(|number| engine.restart(number));
        }
    });
    assert_all_there(journal.path(), &url);
}

#[test]
fn a_leader_that_stands_still_holds_up_no_more_than_an_election() {
    let Some(engine) = NatsCluster::start(&programs(), 3) else { return };
    let (journal, url) = (journal(), engine.url());
    ship(journal.path(), &url, "3");
    let pid = Pid::from_raw(engine.pid(leader(&url)) as i32).unwrap();
    ship_during(journal.path(), &url, "3", || {
        kill_process(pid, Signal::STOP).unwrap();
        // Longer than an election, and than the wait for an acknowledgement.
        std::thread::sleep(Duration::from_secs(8));
        kill_process(pid, Signal::CONT).unwrap();
    });
    assert_all_there(journal.path(), &url);
}

#[test]
fn an_engine_that_is_slow_gets_everything_in_the_end() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let journal = journal();
    let port = engine.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let proxy = Proxy::start(port, Mode::Pass);
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let began = Instant::now();
    let bytes = ship(journal.path(), &url, "1")["bytes"].as_u64().unwrap();
    let rate = bytes as f64 / began.elapsed().as_secs_f64();
    proxy.set(Mode::Slow((rate / 10.0) as u64));
    ship_during(journal.path(), &url, "1", || {
        std::thread::sleep(Duration::from_secs(7));
        assert!(proxy.hits() > 0);
        proxy.set(Mode::Pass);
    });
    assert_all_there(journal.path(), &engine.url());
}

#[test]
fn an_engine_that_is_full_is_told_and_waited_for() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    operate(&url, async |context| {
        let events = stream("EXO_EVENTS", "exo.events.>", -1);
        context.create_stream(events).await.unwrap();
        let audio = stream("EXO_AUDIO_0", "exo.audio.0.>", 2 << 20);
        context.create_stream(audio).await.unwrap();
    });
    let dir = journal.path().to_str().unwrap();
    let args = ["ship", "--data-dir", dir, "--to", &url, "--give-up-after", "1s"];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("maximum bytes exceeded"), "{told}");
    std::thread::scope(|scope| {
        let shipping = scope.spawn(|| run(&["ship", "--data-dir", dir, "--to", &url]));
        std::thread::sleep(Duration::from_secs(2));
        operate(&url, async |context| {
            let audio = stream("EXO_AUDIO_0", "exo.audio.0.>", -1);
            context.update_stream(audio).await.unwrap();
        });
        let output = shipping.join().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    });
    assert_all_there(journal.path(), &url);
}

/// Copies a directory, in place of another one.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn an_engine_that_loses_its_newest_messages_gets_them_again() {
    let Some(mut engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    let kept = tempfile::tempdir().unwrap();
    let kept = kept.path().join("kept");
    // A part of the journal is there when the copy is made.
    let mut child = Command::new(crate::EXO_INGEST);
    let mut child = child.env_clear().args(ship_args(journal.path(), &url, "1")).spawn().unwrap();
    let has_some = || engine.data(0).join("jetstream/$G/streams/EXO_AUDIO_0/msgs").exists();
    eventually("audio arrives", has_some);
    child.kill().unwrap();
    child.wait().unwrap();
    engine.kill(0);
    copy(&engine.data(0), &kept);
    engine.restart(0);
    ship(journal.path(), &url, "1");
    assert_all_there(journal.path(), &url);
    engine.kill(0);
    copy(&kept, &engine.data(0));
    engine.restart(0);
    // The end of each call is lost. What is there says so, or nothing is there at all.
    let lost = read(&url, 3);
    assert!(matches!(lost.status.code(), Some(1 | 3)), "{}", text(&lost.stderr));
    forget_cursor(journal.path());
    ship(journal.path(), &url, "1");
    assert_all_there(journal.path(), &url);
}

#[test]
fn a_call_that_two_nodes_took_is_read_as_one() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let url = engine.url();
    let frame = |node: u8, seq: u8| vec![node ^ seq.wrapping_mul(5); 1_600];
    let mut expected = Vec::new();
    // The call moves to the other node after 25 frames, and back again.
    let moves = [(0, 25u8), (1, 13), (0, 7)];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut images = [1, 2].map(|run| Image::new(image::run(run), 0, 1 << 20).unwrap());
    for (place, (node, frames)) in moves.into_iter().enumerate() {
        let image = &mut images[node];
        // The second run has begun a thousand seconds after the first one.
        image.pass(2_000_000_000 * u64::from(place == 2));
        let call = image.start("acme", "moves", 8_000);
        for seq in 1..=frames {
            image.frame(call, &frame(place as u8, seq));
            expected.extend(frame(place as u8, seq));
        }
        image.end(call, 5);
        image.seal();
    }
    for (number, (image, dir)) in images.iter().zip(&dirs).enumerate() {
        image.store(dir.path()).unwrap();
        let node = format!("n{number}");
        let dir = dir.path().to_str().unwrap();
        let args = ["ship", "--data-dir", dir, "--to", &url, "--node", &node];
        let streams = ["--create-streams", "2", "--replicas", "1"];
        let output = run(&[&args[..], &streams].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let output = run(&["read", "--from", &url, "acme/moves", "-o", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout.ends_with(&expected));
    assert_eq!(output.stdout.len(), expected.len() + 44);
    let file = dirs[0].path().join("moves.wav");
    let file = file.to_str().unwrap();
    let output = run(&["read", "--from", &url, "acme/moves", "--json", "-o", file]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["epochs"].as_array().map(Vec::len), Some(3), "{document}");
}
