//! A call that is deleted from a node leaves its archive on a real object store, byte for byte,
//! while the node sends other calls there.

use crate::EXO_INGEST;
use crate::erase::{assert_as_new, delete_ended};
use crate::forward::FAST;
use crate::journal::{archive, files, json, run};
use crate::seaweed::Seaweed;
use exo_ingest_harness::{NodeProcess, Player, TENANT, audio, eventually};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const URL: &str = "s3://recordings/exo";

/// A node whose archive is this store.
fn node(store: &Seaweed, data_dir: &Path) -> NodeProcess {
    let options = format!("archive.options={}", store.options().join(","));
    let archive = ["--archive", URL, "--set", &options];
    NodeProcess::start(EXO_INGEST, data_dir, &[&FAST[..], &archive].concat())
}

/// A command on the archive.
fn read(store: &Seaweed, args: &[&str]) -> Command {
    let mut command = archive(URL, args);
    for option in store.options() {
        command.args(["--sink-option", &option]);
    }
    command
}

/// A copy of every object in the archive, made with another client than that of the program.
fn mirror(store: &Seaweed, into: &Path) -> PathBuf {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::new().with_url(URL);
    for option in store.options() {
        let (key, value) = option.split_once('=').unwrap();
        builder = builder.with_config(key.parse().unwrap(), value);
    }
    let store = builder.build().unwrap();
    let _ = std::fs::remove_dir_all(into);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let names: Vec<_> = store.list(Some(&"exo".into())).try_collect().await.unwrap();
        for object in names {
            let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
            let path = into.join(object.location.as_ref());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    });
    into.join("exo")
}

/// The files that have audio of one of the first frames of a player.
fn files_with(dir: &Path, seed: u64, frames: u64) -> Vec<PathBuf> {
    // No other player has these bytes. Short frames are left out.
    let part = |seq| Some(audio(seed, seq).get(512..544)?.to_vec());
    let parts: HashSet<Vec<u8>> = (1..=frames).filter_map(part).collect();
    // Most places are passed over by their first two bytes.
    let pair = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    let mut may_begin = vec![false; 1 << 16];
    parts.iter().for_each(|part| may_begin[pair(part)] = true);
    let has_one = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(32).any(|window| may_begin[pair(window)] && parts.contains(window))
    };
    files(dir).into_iter().filter(has_one).collect()
}

fn play(node: &NodeProcess, name: &str, seed: u64, frames: u64) -> Player {
    let player = node.play(name, seed, Duration::from_millis(5));
    eventually("enough audio", || player.acked() > frames);
    player
}

/// Makes the recordings of calls that have ended, once all of them are in the archive.
fn compact(store: &Seaweed, calls: &[&str]) {
    for call in calls {
        let call = format!("{TENANT}/{call}");
        eventually("the recording is made", || {
            let made = read(store, &["compact", &call, "--json"]).output().unwrap();
            let made = serde_json::from_slice::<serde_json::Value>(&made.stdout);
            made.is_ok_and(|made| made["recordings"] == 1)
        });
    }
}

fn waiting(node: &NodeProcess) -> f64 {
    node.admin().metrics().value("exo_ingest_sink_erasures_waiting{sink=\"archive\"}")
}

fn export(data_dir: &Path, call: &str) -> Vec<u8> {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["calls", "export", &format!("{TENANT}/{call}"), "-o", "-"]);
    run(command.arg("--data-dir").arg(data_dir), 0).stdout
}

/// Requests to erase that are not done. They are files beside the cursor.
fn requests(data_dir: &Path) -> usize {
    files(&data_dir.join("sinks")).len() - 1
}

/// The files of a call's recording in a mirror.
fn recording(mirror: &Path, call: &str) -> Vec<PathBuf> {
    let mut found = files(mirror);
    found.retain(|path| path.file_stem().is_some_and(|stem| stem == call));
    found
}

/// No object has audio of the call, and the program says of it that it was deleted.
#[track_caller]
fn assert_gone(store: &Seaweed, mirror: &Path, (call, seed): (&str, u64)) {
    let left = files_with(mirror, seed, 400);
    assert!(left.is_empty(), "audio of {call} is left in {left:?}");
    let left = recording(mirror, call);
    assert!(left.is_empty(), "{left:?}");
    let output = read(store, &["export", &format!("{TENANT}/{call}"), "-o", "-"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout.is_empty() && told.contains("was deleted"), "{told}");
}

#[test]
fn a_call_leaves_its_slices_and_its_recording_while_others_are_sent() {
    let Some(store) = Seaweed::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let node = node(&store, &data_dir);
    let other = play(&node, "other", 1, 50);
    drop(play(&node, "kept", 2, 150).finish());
    drop(play(&node, "gone", 3, 150).finish());
    compact(&store, &["kept", "gone"]);
    let before = mirror(&store, &copy);
    let kept = std::fs::read(&recording(&before, "kept")[1]).unwrap();
    assert!(kept == export(&data_dir, "kept"));
    assert_eq!(recording(&before, "gone").len(), 2);
    assert!(files_with(&before, 3, 400).len() > 1, "in a slice and in a WAV file");
    // Slices go out all the time.
    let sent = other.acked();
    delete_ended(&data_dir, "gone");
    // A call that is deleted the moment it has ended: its last slices are not sent yet.
    drop(play(&node, "short", 4, 30).finish());
    delete_ended(&data_dir, "short");
    eventually("both are erased in the archive", || requests(&data_dir) == 0);
    eventually("the other call goes on", || other.acked() > sent + 100);
    let after = mirror(&store, &copy);
    assert_gone(&store, &after, ("gone", 3));
    assert_gone(&store, &after, ("short", 4));
    assert!(std::fs::read(&recording(&after, "kept")[1]).unwrap() == kept);
    assert!(node.terminate().success());
    drop(other.finish());
    // Compaction brings nothing back.
    run(&mut read(&store, &["compact", "--all"]), 0);
    let after = mirror(&store, &copy);
    assert_gone(&store, &after, ("gone", 3));
    for call in ["other", "kept"] {
        assert!(std::fs::read(&recording(&after, call)[1]).unwrap() == export(&data_dir, call));
    }
    json(&mut read(&store, &["verify", "--json"]), 0);
    assert_as_new(dir.path(), &data_dir, "edge-7", &after);
}

#[test]
fn a_store_that_is_killed_meanwhile_erases_the_call_when_it_is_back() {
    let Some(mut store) = Seaweed::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let first = node(&store, &data_dir);
    let other = play(&first, "other", 1, 50);
    drop(play(&first, "gone", 2, 300).finish());
    compact(&store, &["gone"]);
    // Killed at another moment of the work each time.
    for pause_ms in [0, 60, 150] {
        delete_ended(&data_dir, "gone");
        std::thread::sleep(Duration::from_millis(pause_ms));
        store.kill();
        store.restart();
    }
    store.kill();
    drop(play(&first, "late", 3, 150).finish());
    delete_ended(&data_dir, "late");
    eventually("the request waits", || waiting(&first) >= 1.0);
    first.kill();
    drop(other.finish());
    store.restart();
    let second = node(&store, &data_dir);
    eventually("both are erased in the archive", || requests(&data_dir) == 0);
    assert!(second.terminate().success());
    let after = mirror(&store, &copy);
    assert_gone(&store, &after, ("gone", 2));
    assert_gone(&store, &after, ("late", 3));
    json(&mut read(&store, &["verify", "--json"]), 0);
    assert_as_new(dir.path(), &data_dir, "edge-7", &after);
}
