//! `calls export -o DIR/`: a file for each recording, and what happens if there is one already.

use crate::EXO_INGEST;
use crate::calls::{calls, frame, good, json, text};
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::layout::segment_path;
use exo_ingest::archive::lock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

const MINUTE: u64 = 60_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The files below a directory with their sizes, sorted.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            assert_eq!(metadata.mode() & 0o077, 0, "{path:?} is private");
            match metadata.is_dir() {
                true => left.push(path),
                false => {
                    let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                    found.push((name, metadata.len()));
                }
            }
        }
    }
    found.sort();
    found
}

fn size(frames: u64) -> u64 {
    44 + 1_600 * frames
}

fn call(image: &mut Image, tenant: &str, interaction: &str, rate: u32, frames: u8) {
    let call = image.start(tenant, interaction, rate);
    for value in 1..=frames {
        image.pass(100_000);
        image.frame(call, &frame(value));
    }
    image.end(call, 1);
}

/// `acme/one` twice within 10 minutes, and again later. `../x` of a tenant `..` with two rates.
fn journal() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, 256 * 1024).unwrap();
    call(&mut image, "acme", "one", 8_000, 3);
    image.pass(9 * MINUTE);
    call(&mut image, "acme", "one", 8_000, 2);
    image.pass(11 * MINUTE);
    call(&mut image, "acme", "one", 8_000, 1);
    call(&mut image, "..", "../x", 8_000, 4);
    call(&mut image, "..", "../x", 16_000, 5);
    image.seal();
    image.store(&dir.path().join("data")).unwrap();
    dir
}

#[test]
fn each_recording_has_a_private_file_of_its_own_with_its_time() {
    let journal = journal();
    let (data, out) = (journal.path().join("data"), journal.path().join("out/new"));
    let target = format!("{}/", out.display());
    let output = good(&data, &["export", "--all", "-o", &target]);
    let summary = format!("4 recordings in {target}: 15 frames, 24000 bytes\n");
    assert_eq!(text(&output), summary);
    let expected = [
        ("%2E./%2E.%2Fx-1.wav".to_owned(), size(4)),
        ("%2E./%2E.%2Fx-2.wav".to_owned(), size(5)),
        ("acme/one-1.wav".to_owned(), size(5)),
        ("acme/one-3.wav".to_owned(), size(1)),
    ];
    assert_eq!(files(&out), expected);
    let audio: Vec<u8> = [1, 2, 3, 1, 2].into_iter().flat_map(frame).collect();
    assert_eq!(fs::read(out.join("acme/one-1.wav")).unwrap()[44..], audio);
    let started = out.join("acme/one-3.wav").metadata().unwrap().modified().unwrap();
    let started = started.duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let listed = json(&data, &["list", "--tenant", "acme"]);
    let shown = listed["calls"][0]["epochs"][2]["started_at"].as_str().unwrap().to_owned();
    let shown = humantime::parse_rfc3339(&shown).unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(started / 1_000, shown.as_millis() as u64);

    // Everything is there. What is asked for again is written again.
    let again = json(&data, &["export", "--all", "-o", &target]);
    let numbers = |document: &Value| {
        let summary = &document["summary"];
        (summary["files"].as_u64().unwrap(), summary["skipped"].as_u64().unwrap())
    };
    assert_eq!((numbers(&again), &again["recordings"]), ((0, 4), &Value::Array(Vec::new())));
    let again = json(&data, &["export", "--all", "--overwrite", "-o", &target]);
    assert_eq!(numbers(&again), (4, 0));
    let again = json(&data, &["export", "acme/one", "--overwrite", "-o", &target]);
    assert_eq!(numbers(&again), (2, 0));
    let written = &again["recordings"][0];
    assert_eq!(
        (&written["call"], &written["epoch"], &written["epochs"], &written["frames"]),
        (&"acme/one".into(), &1.into(), &2.into(), &5.into())
    );
}

#[test]
fn one_file_takes_one_recording_and_an_error_names_the_choice() {
    let journal = journal();
    let data = journal.path().join("data");
    let output = calls(&data, &["export", "acme/one", "-o", "-"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let error = text(&output.stderr);
    for words in ["used again", "(epoch 3)", "--epoch N", "--epoch all", "-o DIR/"] {
        assert!(error.contains(words), "{error}");
    }
    for (epoch, frames) in [("1", 3), ("2", 2), ("3", 1), ("all", 6)] {
        let output = good(&data, &["export", "acme/one", "-o", "-", "--epoch", epoch]);
        assert_eq!(output.len() as u64, size(frames), "{epoch}");
    }
    // Into a directory, by their first epoch.
    let out = journal.path().join("out");
    let target = format!("{}/", out.display());
    good(&data, &["export", "acme/one", "--epoch", "2", "-o", &target]);
    good(&data, &["export", "acme/one", "--epoch", "all", "-o", &target]);
    let expected = [("acme/one-1.wav".to_owned(), size(6)), ("acme/one-2.wav".into(), size(2))];
    assert_eq!(files(&out), expected);
}

#[test]
fn a_file_that_is_something_else_is_kept_and_one_that_is_short_is_replaced() {
    let journal = journal();
    let (data, out) = (journal.path().join("data"), journal.path().join("out"));
    let export = |more: &[&str]| {
        let target = out.to_str().unwrap();
        calls(&data, &[&["export", "--tenant", "acme", "-o", target], more].concat())
    };
    assert_eq!(export(&[]).status.code(), Some(0));
    let (one, three) = (out.join("acme/one-1.wav"), out.join("acme/one-3.wav"));
    // As if an epoch had come since.
    let time = one.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(&one).unwrap();
    file.set_len(size(3)).unwrap();
    file.set_modified(time).unwrap();
    // As if the user had a file of this name.
    fs::write(&three, "mine").unwrap();
    let output = export(&[]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("one-3.wav is there") && error.contains("--overwrite"), "{error}");
    assert_eq!(
        (one.metadata().unwrap().len(), fs::read(&three).unwrap()),
        (size(5), b"mine".into())
    );
    assert_eq!(export(&["--overwrite"]).status.code(), Some(0));
    assert_eq!(three.metadata().unwrap().len(), size(1));

    // A link in place of a tenant's directory is not followed.
    fs::remove_dir_all(out.join("acme")).unwrap();
    symlink(journal.path(), out.join("acme")).unwrap();
    let output = export(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no directory"), "{}", text(&output.stderr));
    assert!(!journal.path().join("one-1.wav").exists());
}

#[test]
fn what_cannot_be_exported_to_a_directory_says_what_to_do() {
    let journal = journal();
    let data = journal.path().join("data");
    fs::write(journal.path().join("file"), "mine").unwrap();
    let file = journal.path().join("file").to_str().unwrap().to_owned();
    for (args, code, words) in [
        (&["--tenant", "acme", "-o", "-"][..], 2, "-o DIR/"),
        (&["--tenant", "acme", "-o", &file], 2, "-o DIR/"),
        (&["--tenant", "acme", "-o", "/proc/exo/"], 1, "/proc/exo/"),
        (&["--tenant", "acme", "--epoch", "1", "-o", "out/"], 2, "TENANT/INTERACTION"),
        (&["acme/one", "--tenant", "acme", "-o", "out/"], 2, "--tenant"),
        (&["acme/one", "--since", "2h", "-o", "out/"], 2, "--since"),
        (&["--all", "--tenant", "acme", "-o", "out/"], 2, "--tenant"),
        (&["--interaction", "one", "-o", "out/"], 2, "--tenant"),
        (&["-o", "out/"], 2, "--all"),
    ] {
        let output = calls(&data, &[&["export"], args].concat());
        let error = text(&output.stderr);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(code), 0),
            "{args:?}: {error}"
        );
        assert!(error.contains(words), "{args:?}: {error}");
    }
    assert_eq!(fs::read(file).unwrap(), b"mine");
}

#[test]
fn damage_to_one_call_is_3_and_the_others_are_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    let mut image = Image::new(image::run(1), 0, 256 * 1024).unwrap();
    for interaction in ["one", "two", "three"] {
        call(&mut image, "acme", interaction, 8_000, 4);
        image.seal();
    }
    let shard_dir = image.store(&data).unwrap();
    let file = File::options().write(true).open(segment_path(&shard_dir, 1)).unwrap();
    // In the payload of a frame of the second call.
    let at = image.segments()[0].batches[1].start + 64 + 192 + 2 * (64 + 1_600) + 64 + 5;
    file.write_all_at(b"x", at as u64).unwrap();
    for round in ["first", "again"] {
        let target = out.to_str().unwrap();
        let output = calls(&data, &["export", "--all", "--json", "-o", target]);
        assert_eq!(output.status.code(), Some(3), "{round}: {}", text(&output.stderr));
        let error = text(&output.stderr);
        if round == "first" {
            assert!(error.contains("acme/two: damage") && error.contains("1 recording"), "{error}");
        }
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["summary"]["damaged"], 1, "{round}");
    }
    let expected = [("acme/one-1.wav", 4), ("acme/three-1.wav", 4), ("acme/two-1.wav", 3)];
    assert_eq!(files(&out), expected.map(|(name, frames)| (name.to_owned(), size(frames))));
}

#[test]
fn live_calls_are_left_out_unless_they_are_asked_for_and_grow_with_the_next_export() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    let mut image = Image::new(image::run(1), 0, 64 * 1024).unwrap();
    call(&mut image, "acme", "ended", 8_000, 1);
    let live = image.start("acme", "live", 8_000);
    image.frame(live, &frame(1));
    image.seal();
    let shard_dir = image.store(&data).unwrap();
    let writer = File::options().write(true).open(segment_path(&shard_dir, 1)).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());
    let target = out.to_str().unwrap();
    let output = calls(&data, &["export", "--all", "-o", target]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("acme/live is live"), "{}", text(&output.stderr));
    assert_eq!(files(&out), [("acme/ended-1.wav".to_owned(), size(1))]);

    for (frames, args) in [(1, &["--live"][..]), (2, &["--live"]), (3, &["acme/live"])] {
        good(&data, &[&["export", "-o", target], args].concat());
        assert_eq!(out.join("acme/live-1.wav").metadata().unwrap().len(), size(frames));
        image.frame(live, &frame(1));
        image.seal();
        let segment = &image.segments()[0];
        let batch = segment.batches.last().unwrap().clone();
        writer.write_all_at(&segment.bytes[batch.clone()], batch.start as u64).unwrap();
    }
}

#[test]
fn three_hundred_calls_go_in_one_go_and_after_an_interruption_the_rest_follows() {
    const CALLS: usize = 300;
    const FRAMES: u8 = 60;
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    let mut image = Image::new(image::run(1), 0, 4 * 1024 * 1024).unwrap();
    for number in 0..CALLS {
        call(&mut image, "acme", &format!("call-{number}"), 8_000, FRAMES);
        image.seal();
        if number % 30 == 29 {
            image.roll();
        }
    }
    image.store(&data).unwrap();
    let target = out.to_str().unwrap();
    let args = ["calls", "export", "--tenant", "acme", "--json", "-o", target, "--data-dir"];
    let child = Command::new(EXO_INGEST)
        .args(args)
        .arg(&data)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let count = || {
        let entries = fs::read_dir(out.join("acme")).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "wav"))
            .count()
    };
    while count() < 10 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("goes on with the rest"), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let done = document["summary"]["files"].as_u64().unwrap();
    let found = files(&out);
    assert_eq!(
        (found.len() as u64, document["recordings"].as_array().unwrap().len()),
        (done, done as usize)
    );
    assert!((10..CALLS as u64).contains(&done), "{done}");
    assert!(
        found
            .iter()
            .all(|(name, bytes)| { name.ends_with("-1.wav") && *bytes == size(u64::from(FRAMES)) })
    );

    let summary = json(&data, &["export", "--tenant", "acme", "-o", target])["summary"].clone();
    assert_eq!(
        (&summary["skipped"], &summary["files"]),
        (&done.into(), &(CALLS as u64 - done).into())
    );
    let audio: Vec<u8> = (1..=FRAMES).flat_map(frame).collect();
    let found = files(&out);
    assert_eq!(found.len(), CALLS);
    for (name, _) in found {
        assert_eq!(fs::read(out.join(name)).unwrap()[44..], audio);
    }
}
