//! `calls delete` of many calls, and `calls seal`.

use crate::EXO_INGEST;
use crate::calls::{calls, frame, good, json, text};
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::layout::segment_path;
use exo_ingest::archive::lock;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const MINUTE: u64 = 60_000_000;

/// Calls of `acme` and one of `other`, each in a segment of its own: `one`, 20 minutes later `one`
/// again, `two`, `three`, and the live call `live`.
fn journal() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, 64 * 1024).unwrap();
    for (tenant, interaction, pause) in [
        ("acme", "one", 20 * MINUTE),
        ("acme", "one", 0),
        ("acme", "two", 0),
        ("other", "three", 0),
        ("acme", "live", 0),
    ] {
        let call = image.start(tenant, interaction, 8_000);
        for value in 1..=3 {
            image.pass(100_000);
            image.frame(call, &frame(value));
        }
        if interaction != "live" {
            image.end(call, 1);
            image.seal();
            image.roll();
        }
        image.pass(pause);
    }
    image.seal();
    let shard_dir = image.store(dir.path()).unwrap();
    (dir, shard_dir)
}

/// Holds a segment like its writer.
fn hold(shard_dir: &Path, id: u64) -> File {
    let writer = File::options().write(true).open(segment_path(shard_dir, id)).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());
    writer
}

/// Frames that are deleted, by call and epoch.
fn deleted(dir: &Path) -> Vec<(String, u64, u64)> {
    let document = json(dir, &["list"]);
    let calls = document["calls"].as_array().unwrap();
    calls
        .iter()
        .flat_map(|call| {
            let name = call["call"].as_str().unwrap().to_owned();
            let epochs = call["epochs"].as_array().unwrap().iter();
            epochs.map(move |epoch| {
                let number = |name: &str| epoch[name].as_u64().unwrap();
                (name.clone(), number("epoch"), number("frames_erased"))
            })
        })
        .filter(|(_, _, frames)| *frames > 0)
        .collect()
}

#[test]
fn filters_choose_what_is_deleted_and_a_dry_run_changes_nothing() {
    let (journal, shard_dir) = journal();
    let dir = journal.path();
    let _live = hold(&shard_dir, 5);
    let dry = calls(dir, &["delete", "--tenant", "acme", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}", text(&dry.stderr));
    let shown: Vec<&str> = text(&dry.stdout).lines().collect();
    assert_eq!(
        shown,
        [
            "acme/one: 6 frames would be deleted, 9600 bytes of audio in 2 segments",
            "acme/two: 3 frames would be deleted, 4800 bytes of audio in 1 segment",
            "would be deleted: 2 calls, 9 frames, 14400 bytes",
            "1 live recording left out"
        ]
    );
    assert!(text(&dry.stderr).contains("acme/live is live"), "{}", text(&dry.stderr));
    assert_eq!(deleted(dir), []);

    // An id that was used again: only the recording that was asked for.
    let early = ["delete", "--tenant", "acme", "--until", "2027-01-15T08:30Z", "--yes"];
    let document = json(dir, &early);
    assert_eq!(document["calls"][0]["epochs"], Value::from(vec![1]));
    assert_eq!(deleted(dir), [("acme/one".to_owned(), 1, 3)]);
    let output = calls(dir, &["delete", "--tenant", "acme", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let last = "deleted: 2 calls, 6 frames, 9600 bytes\n1 live recording left out\n";
    assert!(text(&output.stdout).ends_with(last), "{}", text(&output.stdout));
    let expected = [("acme/one", 1), ("acme/one", 2), ("acme/two", 1)];
    assert_eq!(deleted(dir), expected.map(|(call, epoch)| (call.to_owned(), epoch, 3)));
    let again = good(dir, &["delete", "--tenant", "acme", "--yes"]);
    assert!(text(&again).starts_with("deleted: 0 calls"), "{}", text(&again));
}

#[test]
fn many_calls_are_not_deleted_without_an_answer() {
    let (journal, _) = journal();
    for (args, words) in [
        (&["--tenant", "acme"][..], "--yes"),
        (&["--all"], "--yes"),
        (&["--all", "--json"], "--yes"),
        (&[], "--all"),
        (&["--live", "--yes"], "--live"),
        (&["--all", "--yes", "--dry-run"], "--dry-run"),
    ] {
        let mut command = Command::new(EXO_INGEST);
        command.args(["calls", "delete"]).args(args).env_clear().stdin(Stdio::null());
        let output = command.arg("--data-dir").arg(journal.path()).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    }
    assert_eq!(deleted(journal.path()), []);
}

#[test]
fn a_held_call_is_named_and_the_others_are_deleted() {
    let (journal, shard_dir) = journal();
    let dir = journal.path();
    let held = hold(&shard_dir, 3);
    let delete = ["delete", "--ended", "stopped", "--yes"];
    let output = calls(dir, &delete);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("acme/two: nothing was erased"), "{error}");
    assert!(error.contains("1 call could not be deleted"), "{error}");
    let before: Vec<String> = deleted(dir).into_iter().map(|(call, ..)| call).collect();
    assert_eq!(before, ["acme/one", "acme/one", "other/three"]);
    drop(held);
    let document = json(dir, &delete);
    assert_eq!(
        (&document["summary"]["calls"], &document["calls"][0]["call"]),
        (&1.into(), &"acme/two".into())
    );
}

/// Does what a node does when it is asked to close a segment: lets it go, and removes the request.
fn close_when_asked(run_dir: PathBuf, writer: File) -> std::thread::JoinHandle<()> {
    let node = File::open(&run_dir).unwrap();
    assert!(lock::try_exclusive(&node).unwrap());
    std::thread::spawn(move || {
        while !run_dir.join("seal").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(writer);
        std::fs::remove_file(run_dir.join("seal")).unwrap();
        drop(node);
    })
}

#[test]
fn a_segment_that_a_node_still_writes_is_closed_first() {
    for args in [&["acme/two"][..], &["--prefix", "two", "--yes"]] {
        let (journal, shard_dir) = journal();
        let run_dir = shard_dir.parent().unwrap().to_owned();
        let node = close_when_asked(run_dir, hold(&shard_dir, 3));
        let document = json(journal.path(), &[&["delete"], args].concat());
        node.join().unwrap();
        assert!(document.to_string().contains("4800"), "{document}");
        assert_eq!(deleted(journal.path()), [("acme/two".to_owned(), 1, 3)]);
    }
}

#[test]
fn seal_waits_for_the_nodes_and_names_one_that_is_late() {
    let (journal, shard_dir) = journal();
    let run_dir = shard_dir.parent().unwrap().to_owned();
    assert_eq!(json(journal.path(), &["seal"])["nodes"], 0);
    assert!(!run_dir.join("seal").exists());
    let node = close_when_asked(run_dir.clone(), hold(&shard_dir, 5));
    assert_eq!(text(&good(journal.path(), &["seal"])), "1 node closed the open segments\n");
    node.join().unwrap();

    let late = File::open(&run_dir).unwrap();
    assert!(lock::try_exclusive(&late).unwrap());
    let output = calls(journal.path(), &["seal", "--timeout", "100ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("within 100ms"), "{}", text(&output.stderr));
}
