//! `ship` to a directory: what is there afterwards, twice, with and without a cursor.

use crate::journal::{Journal, files, json, run, slices};
use exo_ingest::archive::layout::segment_path;
use exo_ingest::archive::marks::Marks;
use exo_ingest_harness::{NodeProcess, eventually};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

#[test]
fn the_same_slices_have_the_same_bytes_whoever_sends_them() {
    let journal = Journal::new(8);
    let to = journal.archive();
    let sent = json(&mut journal.ship(&to, &[]), 0);
    let there = slices(&journal.beside("archive"));
    assert_eq!(sent["slices"], there.len());
    assert!(there.len() > 8 && journal.segments > 1);
    let mode = journal.beside("archive").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "recordings are private");
    let again = json(&mut journal.ship(&to, &[]), 0);
    assert_eq!((&again["slices"], &again["slices_before"]), (&0.into(), &0.into()));
    // Without its cursor it asks the archive, which has all whole segments.
    journal.forget();
    let again = json(&mut journal.ship(&to, &[]), 0);
    assert_eq!(again["slices"], 0);
    // Somewhere else, with another cursor: the same names, the same bytes.
    let cursor = journal.beside("cursor");
    let other = format!("file://{}", journal.beside("other").display());
    run(&mut journal.ship(&other, &["--cursor", cursor.to_str().unwrap()]), 0);
    for path in there {
        let name = path.strip_prefix(journal.beside("archive")).unwrap();
        let other = journal.beside("other").join(name);
        assert!(std::fs::read(&path).unwrap() == std::fs::read(other).unwrap(), "{name:?}");
    }
}

#[test]
fn a_dry_run_names_what_it_would_send_and_sends_nothing() {
    let journal = Journal::new(3);
    std::fs::create_dir(journal.beside("archive")).unwrap();
    let dry = json(&mut journal.ship(&journal.archive(), &["--dry-run"]), 0);
    let names: Vec<&str> =
        dry["objects"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(files(&journal.beside("archive")).is_empty());
    assert!(!journal.data().join("sinks").exists());
    run(&mut journal.ship(&journal.archive(), &[]), 0);
    let root = journal.beside("archive");
    let sent: Vec<_> = files(&root)
        .into_iter()
        .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, sent);
}

#[test]
fn another_object_of_the_name_is_never_replaced() {
    let journal = Journal::new(3);
    let to = journal.archive();
    run(&mut journal.ship(&to, &[]), 0);
    let there = slices(&journal.beside("archive"));
    let mut bytes = std::fs::read(&there[1]).unwrap();
    bytes.push(0);
    std::fs::write(&there[1], &bytes).unwrap();
    journal.forget();
    let output = run(&mut journal.ship(&to, &[]), 1);
    let error = String::from_utf8(output.stderr).unwrap();
    let name = there[1].file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name) && error.contains("other bytes"), "{error}");
    assert!(std::fs::read(&there[1]).unwrap() == bytes, "it is as it was");
}

#[test]
fn a_rescued_disk_is_read_without_being_written() {
    let journal = Journal::new(3);
    // As root, a mode does not keep anybody from writing: the cursor's place is a file.
    std::fs::write(journal.data().join("sinks"), "not a directory").unwrap();
    let before = files(&journal.data());
    let output = run(&mut journal.ship(&journal.archive(), &[]), 0);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--cursor FILE"), "{error}");
    assert_eq!(files(&journal.data()), before, "no index was written either");
    let again = json(&mut journal.ship(&journal.archive(), &[]), 0);
    assert_eq!(again["slices"], 0, "the archive says what it has");
}

#[test]
fn damage_and_losses_are_named_and_the_rest_is_sent() {
    let journal = Journal::change(40, |image| {
        let batch = image.segments()[0].batches[1].clone();
        image.segments_mut()[0].bytes[batch.start + 300] ^= 1;
    });
    assert!(journal.segments > 2);
    let marks = Marks { shard_count: 1, removed_to: 0, ended: Some(journal.segments) };
    marks.store(&journal.shard_dir).unwrap();
    std::fs::remove_file(segment_path(&journal.shard_dir, 2)).unwrap();
    let sent = json(&mut journal.ship(&journal.archive(), &[]), 3);
    assert_eq!(sent["damages"].as_array().unwrap().len(), 1, "{sent}");
    assert_eq!(sent["lost"].as_array().unwrap().len(), 1, "{sent}");
    assert!(sent["slices"].as_u64().unwrap() > 20);
    let notes = files(&journal.beside("archive"));
    let has = |extension: &str| notes.iter().any(|path| path.extension().unwrap() == extension);
    assert!(has("lost") && has("ended"), "{notes:?}");
}

#[test]
fn a_live_node_is_shipped_beside_and_the_rest_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (data, archive) = (dir.path().join("data"), dir.path().join("archive"));
    let node = NodeProcess::start(crate::EXO_INGEST, &data, &[]);
    let player = node.play("live", 7, Duration::from_millis(1));
    eventually("a few segments", || player.sent_bytes() > 9 << 20);
    let ship = || {
        let mut command = std::process::Command::new(crate::EXO_INGEST);
        command.env_clear().args(["ship", "--json", "--node", "n", "--data-dir"]).arg(&data);
        json(command.arg(format!("--to=file://{}", archive.display())), 0)
    };
    let first = ship();
    assert_eq!(first["shards_live"], 1);
    assert!(first["slices"].as_u64().unwrap() >= 1, "{first}");
    let played = player.finish();
    assert!(node.terminate().success());
    let second = ship();
    assert_eq!((&second["shards_live"], &second["slices_before"]), (&0.into(), &0.into()));
    assert!(second["slices"].as_u64().unwrap() >= 1);
    // Everything that was acknowledged is in the archive, byte for byte.
    let samples = |seq: u64| {
        let mut bytes = exo_ingest_harness::audio(played.seed, seq);
        bytes.truncate(bytes.len() / 2 * 2);
        bytes
    };
    let audio: Vec<u8> = (1..=played.acked).flat_map(samples).collect();
    let from = format!("file://{}", archive.display());
    let name = format!("{}/live", exo_ingest_harness::TENANT);
    let args = ["export", &name, "-o", "-"];
    let wav = run(&mut crate::journal::archive(&from, &args), 0).stdout;
    assert!(wav[44..].starts_with(&audio), "{} and {} bytes", wav.len(), audio.len());
    assert_eq!(std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o700);
    run(&mut crate::journal::archive(&from, &["verify"]), 0);
}
