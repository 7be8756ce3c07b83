//! A call that is deleted from a journal is erased in its sinks, too.

use crate::journal::{CALLS, Journal, archive, files, json, run, slices};
use crate::{EXO_INGEST, programs};
use exo_ingest::archive::image;
use exo_ingest::format::Lsn;
use exo_ingest::handover::cursor::Cursor;
use exo_ingest::handover::slice::{self, NodeName};
use exo_ingest_harness::{NatsCluster, NodeProcess, Player, TENANT, eventually};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// `calls delete` of one call.
pub(crate) fn delete(data_dir: &Path, call: &str) -> Command {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["calls", "delete", call, "--json", "--data-dir"]).arg(data_dir);
    command
}

/// Deletes a call that may have ended this moment: until its end is in the journal, it counts as
/// live. Returns what is said of it.
pub(crate) fn delete_ended(data_dir: &Path, call: &str) -> Value {
    let mut deleted = Value::Null;
    eventually("the call is deleted", || {
        let output = delete(data_dir, &format!("{TENANT}/{call}")).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || told.contains("is live"), "{told}");
        deleted = serde_json::from_slice(&output.stdout).unwrap_or_default();
        output.status.success()
    });
    deleted
}

/// How often a frame of the first call is in the files of an archive.
fn count_of_audio(dir: &Path) -> usize {
    let frame = [45u8; 1_600];
    let count = |path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(frame.len()).step_by(2).filter(|window| *window == frame).count()
    };
    files(dir).into_iter().map(count).sum()
}

/// The batches of a slice, once every byte of it was checked.
fn batches(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let header = slice::verify(&bytes).unwrap().index.header;
    let size = (header.end.0 - header.first.0) as usize;
    bytes.drain(..4_096);
    bytes.truncate(size);
    bytes
}

/// Ships the journal to a new archive, and checks that the archive has the same batches, byte for
/// byte: those of the journal that calls were deleted from.
pub(crate) fn assert_as_new(dir: &Path, data_dir: &Path, node: &str, archive: &Path) {
    let expected = dir.join("expected");
    let _ = std::fs::remove_dir_all(&expected);
    let url = format!("file://{}", expected.display());
    let mut ship = Command::new(EXO_INGEST);
    ship.env_clear().args(["ship", "--node", node, "--to", &url, "--data-dir"]).arg(data_dir);
    run(ship.arg("--cursor").arg(dir.join("expected.cursor")), 0);
    std::fs::remove_file(dir.join("expected.cursor")).unwrap();
    let (there, expected) = (slices(archive), slices(&expected));
    assert!(!there.is_empty() && there.len() == expected.len());
    for (there, expected) in there.iter().zip(expected) {
        assert_eq!(there.file_name(), expected.file_name());
        assert!(batches(there) == batches(&expected), "{} differs", there.display());
    }
}

#[test]
fn a_deleted_call_leaves_the_archive_with_the_next_ship() {
    let journal = Journal::new(8);
    let (from, dir) = (journal.archive(), journal.beside("archive"));
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut archive(&from, &["compact", "--all"]), 0);
    assert_eq!(count_of_audio(&dir), 2, "in a slice and in a WAV file");
    let deleted = json(&mut delete(&journal.data(), CALLS[0]), 0);
    assert_eq!(deleted["sinks"][0]["sink"], from.as_str());
    let shipped = json(&mut journal.ship(&from, &[]), 0);
    assert_eq!((&shipped["calls_erased"], &shipped["erasures_waiting"]), (&1.into(), &0.into()));
    assert_eq!(count_of_audio(&dir), 0);
    assert_as_new(&journal.beside(""), &journal.data(), "node-1", &dir);
    run(&mut archive(&from, &["verify"]), 0);
    let left: Vec<_> = files(&dir.join("calls")).into_iter().collect();
    assert_eq!(left.len(), 4, "the WAV files and receipts of the other calls: {left:?}");
    // Deleted again, it is asked for again, and nothing is left to do.
    let times = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before: Vec<_> = slices(&dir).iter().map(|path| times(path)).collect();
    run(&mut delete(&journal.data(), CALLS[0]), 0);
    assert_eq!(json(&mut journal.ship(&from, &[]), 0)["calls_erased"], 1);
    assert_eq!(slices(&dir).iter().map(|path| times(path)).collect::<Vec<_>>(), before);
}

#[test]
fn only_the_recording_that_was_deleted_loses_its_files() {
    let journal = Journal::change(2, |image| {
        for value in [7, 9] {
            image.pass(11 * 60_000_000);
            let call = image.start("acme", "again", 8_000);
            image.frame(call, &[value; 1_600]);
            image.end(call, 1);
            image.seal();
        }
    });
    let (from, dir) = (journal.archive(), journal.beside("archive"));
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut archive(&from, &["compact", "--all"]), 0);
    let wavs = || {
        let mut names = files(&dir.join("calls/acme"));
        names.retain(|path| path.to_str().unwrap().contains("again"));
        names
    };
    let all = wavs();
    assert_eq!(all.len(), 4, "{all:?}");
    // The first one only: the second began later.
    let document: Value = {
        let mut list = Command::new(EXO_INGEST);
        list.env_clear().args(["calls", "list", "--json", "--data-dir"]).arg(journal.data());
        json(&mut list, 0)
    };
    let calls = document["calls"].as_array().unwrap();
    let again = calls.iter().find(|call| call["call"] == "acme/again").unwrap();
    let second = again["epochs"][1]["started_at"].as_str().unwrap();
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["calls", "delete", "--prefix", "again", "--until", second, "--yes"]);
    command.args(["--json", "--data-dir"]).arg(journal.data());
    assert_eq!(json(&mut command, 0)["summary"]["calls"], 1);
    assert_eq!(json(&mut journal.ship(&from, &[]), 0)["calls_erased"], 1);
    let left = wavs();
    assert_eq!(left.len(), 2, "{left:?}");
    let wav = left.iter().find(|path| path.extension().unwrap() == "wav").unwrap();
    assert!(std::fs::read(wav).unwrap().ends_with(&[9; 1_600]));
    // Its name stays its own, so it is not written again.
    let again = json(&mut archive(&from, &["compact", "--all", "--json"]), 0);
    assert_eq!((&again["recordings"], &again["deleted"]), (&0.into(), &1.into()));
    assert_eq!(wavs(), left);
}

/// A cursor that knows nothing of what was sent: everything is sent again.
fn write_old_cursor(journal: &Journal, url: &str) {
    let mut cursor = Cursor::new(url, NodeName::parse("node-1").unwrap());
    cursor.advance((image::run(1), 0), Lsn(0));
    cursor.store(&Cursor::path(&journal.data(), url)).unwrap();
}

#[test]
fn slices_that_were_sent_before_a_crash_and_erased_since_are_replaced() {
    let journal = Journal::new(8);
    let (from, dir) = (journal.archive(), journal.beside("archive"));
    run(&mut journal.ship(&from, &[]), 0);
    // The cursor did not reach the disk, so nothing was asked of the archive.
    journal.forget();
    let deleted = json(&mut delete(&journal.data(), CALLS[0]), 0);
    assert_eq!(deleted["sinks"], Value::Array(Vec::new()));
    assert_eq!(count_of_audio(&dir), 1);
    write_old_cursor(&journal, &from);
    run(&mut journal.ship(&from, &[]), 0);
    assert_eq!(count_of_audio(&dir), 0);
    assert_as_new(&journal.beside(""), &journal.data(), "node-1", &dir);
}

#[test]
fn slices_that_differ_in_anything_else_stay_as_they_are() {
    let (journal, other) = (Journal::new(8), Journal::change(8, |_| {}));
    let (from, dir) = (journal.archive(), journal.beside("archive"));
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut archive(&from, &["delete", CALLS[0]]), 0);
    let before: Vec<_> = slices(&dir).iter().map(|path| std::fs::read(path).unwrap()).collect();
    // Here the audio is in the journal, and not in the archive.
    write_old_cursor(&journal, &from);
    let output = run(&mut journal.ship(&from, &[]), 1);
    assert!(String::from_utf8(output.stderr).unwrap().contains("with other bytes"));
    // Here one call was erased in the archive, and another one in the journal.
    run(&mut delete(&other.data(), CALLS[1]), 0);
    write_old_cursor(&other, &from);
    let output = run(&mut other.ship(&from, &[]), 1);
    assert!(String::from_utf8(output.stderr).unwrap().contains("with other bytes"));
    let after: Vec<_> = slices(&dir).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(before == after);
}

/// Small segments, sealed soon.
const FAST: [&str; 6] = [
    "--set",
    "journal.segment_size=4MiB",
    "--set",
    "journal.segment_age=2s",
    "--set",
    "forward.node=edge-7",
];

fn node(data_dir: &Path, archive: &Path) -> NodeProcess {
    std::fs::create_dir_all(archive).unwrap();
    let url = format!("file://{}", archive.display());
    let args = [&FAST[..], &["--archive", &url]].concat();
    NodeProcess::start(EXO_INGEST, data_dir, &args)
}

fn waiting(node: &NodeProcess) -> f64 {
    node.admin().metrics().value("exo_ingest_sink_erasures_waiting{sink=\"archive\"}")
}

fn play(node: &NodeProcess, name: &str, seed: u64, frames: u64) -> Player {
    let player = node.play(name, seed, Duration::from_millis(5));
    eventually("enough audio", || player.acked() > frames);
    player
}

/// Whether the archive says of a call that it was deleted.
fn is_deleted_from(archive_dir: &Path, call: &str) -> bool {
    let from = format!("file://{}", archive_dir.display());
    let output = archive(&from, &["export", call, "-o", "-"]).output().unwrap();
    String::from_utf8_lossy(&output.stderr).contains("was deleted")
}

#[test]
fn a_node_erases_a_call_in_its_archive_while_other_calls_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, archive) = (dir.path().join("data"), dir.path().join("a"));
    let node = node(&data_dir, &archive);
    let other = play(&node, "other", 1, 50);
    drop(play(&node, "one", 2, 150).finish());
    // One is deleted when it is in the archive, and one as soon as it has ended.
    eventually("the call is in the archive", || slices(&archive).len() > 2);
    delete_ended(&data_dir, "one");
    drop(play(&node, "two", 3, 150).finish());
    delete_ended(&data_dir, "two");
    eventually("both are erased in the archive", || waiting(&node) == 0.0);
    let before = other.acked();
    eventually("the other call goes on", || other.acked() > before + 50);
    assert!(node.terminate().success());
    drop(other.finish());
    for call in ["one", "two"] {
        assert!(is_deleted_from(&archive, &format!("{TENANT}/{call}")), "{call}");
    }
    assert_as_new(dir.path(), &data_dir, "edge-7", &archive);
}

#[test]
fn an_archive_that_is_away_erases_the_call_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, archive) = (dir.path().join("data"), dir.path().join("a"));
    let first = node(&data_dir, &archive);
    let other = play(&first, "other", 1, 50);
    drop(play(&first, "one", 2, 150).finish());
    eventually("the call is in the archive", || slices(&archive).len() > 2);
    // A directory that is a file takes nothing and gives nothing.
    std::fs::rename(archive.join("v1"), dir.path().join("away")).unwrap();
    std::fs::write(archive.join("v1"), "").unwrap();
    drop(play(&first, "two", 3, 150).finish());
    for call in ["one", "two"] {
        let deleted = delete_ended(&data_dir, call);
        assert_eq!(deleted["sinks"].as_array().unwrap().len(), 1);
    }
    eventually("the requests are seen", || waiting(&first) == 2.0);
    let status: Value = serde_json::from_str(&first.admin().get("/status.json")).unwrap();
    assert_eq!(status["sinks"][0]["erasures_waiting"], 2);
    first.kill();
    drop(other.finish());
    std::fs::remove_file(archive.join("v1")).unwrap();
    std::fs::rename(dir.path().join("away"), archive.join("v1")).unwrap();
    let second = node(&data_dir, &archive);
    let requests = || files(&data_dir.join("sinks")).len() - 1;
    eventually("both are erased in the archive", || requests() == 0);
    assert!(second.terminate().success());
    for call in ["one", "two"] {
        assert!(is_deleted_from(&archive, &format!("{TENANT}/{call}")), "{call}");
    }
    assert_as_new(dir.path(), &data_dir, "edge-7", &archive);
}

#[test]
fn a_deleted_call_leaves_the_engine_with_the_next_ship() {
    let Some(engine) = NatsCluster::start(&programs(), 1) else { return };
    let (journal, url) = (Journal::new(8), engine.url());
    let ship = || json(&mut journal.ship(&url, &["--create-streams", "2", "--replicas", "1"]), 0);
    ship();
    let read = |call: &str, code: i32| {
        let mut read = Command::new(EXO_INGEST);
        read.env_clear().args(["read", "--from", &url, call, "-o", "-"]);
        run(&mut read, code)
    };
    assert!(read(CALLS[0], 0).stdout == journal.wav(CALLS[0]));
    let deleted = json(&mut delete(&journal.data(), CALLS[0]), 0);
    assert_eq!(deleted["sinks"][0]["sink"], url.as_str());
    let shipped = ship();
    // 40 frames in chunks of ten.
    assert_eq!((&shipped["calls_erased"], &shipped["messages_erased"]), (&1.into(), &4.into()));
    let output = read(CALLS[0], 1);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("the audio of acme/call-0 was deleted"), "{told}");
    for call in &CALLS[1..] {
        assert!(read(call, 0).stdout == journal.wav(call), "{call}");
    }
    // Again: the same event, and nothing to delete.
    run(&mut delete(&journal.data(), CALLS[0]), 0);
    assert_eq!(ship()["messages_erased"], 0);
    // Everything is sent again after a cursor was lost, and has no audio of the call.
    journal.forget();
    ship();
    read(CALLS[0], 1);
}

fn live_node(data_dir: &Path, url: &str) -> NodeProcess {
    let live = ["--live", url, "--live-audio", "all", "--set", "live.replicas=1"];
    let streams = ["--set", "live.create_streams=2"];
    NodeProcess::start(EXO_INGEST, data_dir, &[&FAST[..], &live, &streams].concat())
}

fn read(url: &str, call: &str) -> std::process::Output {
    let mut read = Command::new(EXO_INGEST);
    read.env_clear().args(["read", "--from", url, &format!("{TENANT}/{call}"), "-o", "-"]);
    read.output().unwrap()
}

fn is_deleted_from_engine(url: &str, call: &str) -> bool {
    String::from_utf8_lossy(&read(url, call).stderr).contains("was deleted")
}

#[test]
fn a_node_erases_a_call_in_its_engine_also_after_kills_of_both() {
    let Some(mut engine) = NatsCluster::start(&programs(), 1) else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), engine.url());
    let first = live_node(dir.path(), &url);
    let other = play(&first, "other", 1, 50);
    for (seed, call) in [(2, "one"), (3, "two")] {
        drop(play(&first, call, seed, 100).finish());
    }
    eventually("audio is in the engine", || read(&url, "one").status.success());
    delete_ended(dir.path(), "one");
    eventually("the engine has erased it", || is_deleted_from_engine(&url, "one"));
    let before = other.acked();
    eventually("the other call goes on", || other.acked() > before + 50);
    // Now with the engine away, and the node killed.
    engine.kill(0);
    delete_ended(dir.path(), "two");
    first.kill();
    drop(other.finish());
    engine.restart(0);
    let second = live_node(dir.path(), &url);
    eventually("the engine has erased it", || is_deleted_from_engine(&url, "two"));
    let requests = || files(&dir.path().join("sinks")).len() - 1;
    eventually("nothing waits", || requests() == 0);
    assert!(second.terminate().success());
    let mut export = Command::new(EXO_INGEST);
    export.env_clear().args(["calls", "export", &format!("{TENANT}/other"), "--epoch", "all"]);
    let export = run(export.args(["-o", "-", "--data-dir"]).arg(dir.path()), 0);
    assert!(read(&url, "other").stdout == export.stdout, "the other call is whole");
}
