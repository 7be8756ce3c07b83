//! The message engine: `ship` and `read` against real NATS servers.

use crate::{EXO_INGEST, programs};
use exo_ingest::archive::image::{self, Image};
use exo_ingest_harness::{NatsCluster, SetOnDrop};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SEGMENT_SIZE: usize = 4 << 20;

/// Calls of the journal, and frames of each.
const CALLS: usize = 40;
const FRAMES: u64 = 57;

/// A journal of calls whose frames differ, in several segments. The first call has two epochs.
pub(crate) fn journal() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let mut calls: Vec<_> =
        (0..CALLS).map(|call| image.start("acme", &name(call), 24_000)).collect();
    for seq in 1..=FRAMES {
        for (number, call) in calls.iter_mut().enumerate() {
            if seq == 31 && number == 0 {
                image.end(*call, 5);
                *call = image.start("acme", &name(0), 24_000);
            }
            image.frame(*call, &frame(number as u8, seq as u8));
        }
        image.pass(200_000);
        image.seal();
        if seq % 13 == 0 {
            image.roll();
        }
    }
    calls.iter().for_each(|call| image.end(*call, 1));
    image.seal();
    image.store(dir.path()).unwrap();
    dir
}

fn name(call: usize) -> String {
    format!("call.{call}/*")
}

fn frame(call: u8, seq: u8) -> Vec<u8> {
    let byte = |place: usize| call.wrapping_mul(31) ^ seq.wrapping_mul(7) ^ (place / 64) as u8;
    (0..9_600).map(byte).collect()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(EXO_INGEST);
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

pub(crate) fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub(crate) fn ship_args<'a>(dir: &'a Path, url: &'a str, replicas: &'a str) -> Vec<&'a str> {
    let dir = dir.to_str().unwrap();
    let mut args = vec!["ship", "--data-dir", dir, "--to", url, "--node", "n1", "--json"];
    args.extend(["--create-streams", "2", "--replicas", replicas]);
    args
}

/// Ships everything, and returns the document.
pub(crate) fn ship(dir: &Path, url: &str, replicas: &str) -> Value {
    let output = run(&ship_args(dir, url, replicas));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Forgets how far the engine has come: everything is sent again.
pub(crate) fn forget_cursor(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir.join("sinks"));
}

/// A call as the engine gives it back.
pub(crate) fn read(url: &str, call: usize) -> Output {
    run(&["read", "--from", url, "--tenant", "acme", "--interaction", &name(call), "-o", "-"])
}

/// Whether the engine has each call as the journal has it, byte for byte.
pub(crate) fn assert_all_there(dir: &Path, url: &str) {
    for call in 0..CALLS {
        let read = read(url, call);
        assert_eq!(read.status.code(), Some(0), "{}", text(&read.stderr));
        let (dir, name) = (dir.to_str().unwrap(), name(call));
        let export = ["calls", "export", "--tenant", "acme", "--interaction", &name];
        let export =
            run(&[&export[..], &["--epoch", "all", "-o", "-", "--data-dir", dir]].concat());
        assert!(export.status.success());
        assert!(export.stdout.len() > 9_600 * FRAMES as usize);
        assert!(read.stdout == export.stdout, "call {call} differs");
    }
}

#[test]
fn calls_come_back_from_the_engine_as_the_journal_has_them() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    let first = ship(journal.path(), &url, "1");
    // For each call a start, an end, and six chunks; one has an epoch more.
    let expected = CALLS as u64 * 8 + 2;
    assert_eq!((&first["messages"], &first["known"]), (&expected.into(), &0.into()));
    assert_all_there(journal.path(), &url);
    // The cursor says that there is nothing to do.
    assert_eq!(ship(journal.path(), &url, "1")["messages"], 0);
    // Sent again, the messages are the same: the engine keeps none twice.
    forget_cursor(journal.path());
    let again = ship(journal.path(), &url, "1");
    assert_eq!((&again["messages"], &again["known"]), (&expected.into(), &expected.into()));
    let read = ["read", "--from", &url, "--tenant", "acme", "--interaction", "call.0/*"];
    let output = journal.path().join("call.wav");
    let read = run(&[&read[..], &["--json", "-o", output.to_str().unwrap()]].concat());
    let document: Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(document["epochs"].as_array().map(Vec::len), Some(2));
    assert_eq!((&document["doubles"], &document["foreign"]), (&0.into(), &0.into()));
}

#[test]
fn a_forwarder_that_is_killed_loses_and_doubles_nothing() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    for delay_ms in [0, 5, 20, 40, 60, 80, 120, 160, 200, 260, 330, 420] {
        let mut child: Child = command(&ship_args(journal.path(), &url, "1"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    ship(journal.path(), &url, "1");
    assert_all_there(journal.path(), &url);
}

/// Hands the journal over again and again while `harm` goes on, and once more after it.
pub(crate) fn ship_during(dir: &Path, url: &str, replicas: &str, harm: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let shipping = scope.spawn(|| {
            let mut resent = 0;
            while !is_over.load(Ordering::Relaxed) {
                forget_cursor(dir);
                resent += ship(dir, url, replicas)["resent"].as_u64().unwrap();
            }
            resent
        });
        let set = SetOnDrop(&is_over);
        harm();
        drop(set);
        println!("sent again: {}", shipping.join().unwrap());
    });
    forget_cursor(dir);
    ship(dir, url, replicas);
}

#[test]
fn an_engine_that_is_killed_and_comes_back_gets_everything() {
    let Some(mut engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    ship_during(journal.path(), &url, "1", || {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(150));
            engine.kill(0);
            engine.restart(0);
        }
    });
    assert_all_there(journal.path(), &url);
}

#[test]
fn a_cluster_that_loses_its_servers_one_by_one_gets_everything() {
    let Some(mut engine) = NatsCluster::start(&programs(), 3) else { return };
    let (journal, url) = (journal(), engine.url());
    ship_during(journal.path(), &url, "3", || {
        for number in 0..3 {
            std::thread::sleep(Duration::from_millis(500));
            engine.kill(number);
            std::thread::sleep(Duration::from_millis(500));
            engine.restart(number);
        }
    });
    assert_all_there(journal.path(), &url);
}

#[test]
fn an_engine_that_stands_still_gets_everything() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    let pid = Pid::from_raw(engine.pid(0) as i32).unwrap();
    ship_during(journal.path(), &url, "1", || {
        std::thread::sleep(Duration::from_millis(100));
        kill_process(pid, Signal::STOP).unwrap();
        // Longer than the wait for an acknowledgement.
        std::thread::sleep(Duration::from_secs(7));
        kill_process(pid, Signal::CONT).unwrap();
    });
    assert_all_there(journal.path(), &url);
}

#[test]
fn an_engine_that_forgets_what_it_acknowledged_is_found_out_and_mended() {
    let Some(mut engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (journal(), engine.url());
    ship(journal.path(), &url, "1");
    // Only the events are left.
    engine.kill(0);
    let streams = engine.data(0).join("jetstream/$G/streams");
    for slot in 0..2 {
        let blocks = streams.join(format!("EXO_AUDIO_{slot}/msgs"));
        std::fs::remove_dir_all(&blocks).unwrap();
        std::fs::create_dir(&blocks).unwrap();
    }
    engine.restart(0);
    let lost = read(&url, 3);
    assert_eq!(lost.status.code(), Some(3), "{}", text(&lost.stderr));
    assert!(
        text(&lost.stderr).contains("gap: frames 1 to 57 of epoch 1"),
        "{}",
        text(&lost.stderr)
    );
    forget_cursor(journal.path());
    ship(journal.path(), &url, "1");
    assert_all_there(journal.path(), &url);
}

#[test]
fn errors_say_what_to_do() {
    let journal = journal();
    let dir = journal.path().to_str().unwrap();
    let nobody = "nats://127.0.0.1:1";
    let output = run(&["ship", "--data-dir", dir, "--to", nobody]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.starts_with("error: cannot use the message engine at nats://127.0.0.1:1"),
        "{told}"
    );
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let url = engine.url();
    let output = run(&["ship", "--data-dir", dir, "--to", &url]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("lacks streams: make them with --create-streams"), "{told}");
    ship(journal.path(), &url, "1");
    let output = run(&["read", "--from", &url, "acme/never", "-o", "-"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the engine has nothing of acme/never"));
}
