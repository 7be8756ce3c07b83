//! Files of a journal that somebody removed, by hand or by accident. What retention removed is
//! expired; everything else that is missing is lost, and named.

use crate::EXO_INGEST;
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::layout::segment_path;
use exo_ingest::archive::marks::{self, Marks};
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::{RecoveryReport, recover, verify};
use std::path::{Path, PathBuf};
use std::process::Command;

const FRAMES: u64 = 30;

/// A call over ten segments or more, three frames in each, that has ended; returns the directory of
/// the segments.
fn store(data_dir: &Path, shard: u16, name: &str) -> (PathBuf, u64) {
    store_version(data_dir, shard, name, 2)
}

/// As [`store`], with segment headers of this version.
fn store_version(data_dir: &Path, shard: u16, name: &str, version: u16) -> (PathBuf, u64) {
    let mut image = Image::with_version(image::run(1), shard, 64 * 1024, version).unwrap();
    let epoch = image.start("acme", name, 8_000);
    for frame in 1..=FRAMES {
        image.pass(100_000);
        image.frame(epoch, &[frame as u8; 1_600]);
        image.seal();
        if frame % 3 == 0 && frame < FRAMES {
            image.roll();
        }
    }
    image.end(epoch, 1);
    image.seal();
    (image.store(data_dir).unwrap(), image.segments().len() as u64)
}

/// What `calls` prints, and its exit code.
fn calls(data_dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(EXO_INGEST);
    let command = command.arg("calls").args(args).env_clear();
    let output = command.env("EXO_INGEST_DATA_DIR", data_dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn report(data_dir: &Path) -> RecoveryReport {
    verify(&Journal::open(data_dir).unwrap(), &mut || {}).unwrap()
}

fn remove(shard_dir: &Path, ids: impl IntoIterator<Item = u64>) {
    ids.into_iter().for_each(|id| std::fs::remove_file(segment_path(shard_dir, id)).unwrap());
}

fn mark(shard_dir: &Path, removed_to: u64, ended: Option<u64>) {
    Marks { shard_count: 1, removed_to, ended }.store(shard_dir).unwrap();
}

#[test]
fn files_removed_by_hand_are_lost_and_those_that_retention_removed_are_expired() {
    let dir = tempfile::tempdir().unwrap();
    let (shard_dir, last) = store(dir.path(), 0, "one");
    assert_eq!(last, 10);
    mark(&shard_dir, 2, Some(last));
    assert!(report(dir.path()).is_sound());
    remove(&shard_dir, [1, 2]);
    let expired = report(dir.path());
    assert!(expired.is_sound() && expired.frames_expired == 6, "{expired}");
    remove(&shard_dir, [5, 6, 8]);
    let lost = report(dir.path());
    let ranges: Vec<_> = lost.lost.iter().map(|lost| (lost.first, lost.last)).collect();
    assert_eq!((ranges, lost.segments_lost()), (vec![(5, 6), (8, 8)], 3), "{lost}");
    assert_eq!((lost.frames, lost.frames_expired), (FRAMES - 6 - 9, 6));
    assert_eq!((lost.losses.len(), lost.losses[0].frames), (1, 9), "{lost}");

    let (code, text) = calls(dir.path(), &["verify"]);
    let shown = shard_dir.display();
    for part in [
        format!("segments 5 to 6 are missing in {shown}"),
        format!("segment 8 is missing in {shown}"),
        "call: acme/one lost 9 frames\n".into(),
        "1 call checked, 1 with losses".into(),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text}");
    }
    assert_eq!(code, Some(3));
    let wav = dir.path().join("one.wav");
    let (code, text) = calls(dir.path(), &["export", "acme/one", "-o", wav.to_str().unwrap()]);
    assert!(text.contains("frames 13 to 18: lost") && text.contains("1 to 6: expired"), "{text}");
    assert_eq!(code, Some(3));
}

#[test]
fn missing_ends_directories_and_marks_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (shard_dir, last) = store(dir.path(), 0, "one");
    let (other_dir, _) = store(dir.path(), 1, "two");
    let both = |removed_to| {
        for dir in [&shard_dir, &other_dir] {
            Marks { shard_count: 2, removed_to, ended: Some(last) }.store(dir).unwrap();
        }
    };
    both(0);
    assert!(report(dir.path()).is_sound());
    // The last segments: nothing after them shows it, but the run ended with them.
    remove(&shard_dir, [last - 1, last]);
    let found = report(dir.path());
    assert_eq!(found.lost.len(), 1, "{found}");
    assert_eq!((found.lost[0].first, found.lost[0].last), (last - 1, last));
    assert!(found.losses.iter().any(|loss| loss.is_cut), "{found}");
    // A crash takes no such mark: then the run ends where it ends.
    Marks { shard_count: 2, removed_to: 0, ended: None }.store(&shard_dir).unwrap();
    assert!(report(dir.path()).is_sound());

    std::fs::write(marks::path(&shard_dir), "exo-ingest marks 1\nremoved-to 99\n").unwrap();
    let found = report(dir.path());
    assert_eq!(found.damages.len(), 1, "{found}");
    assert_eq!(found.damages[0].file, marks::path(&shard_dir));
    std::fs::remove_file(marks::path(&shard_dir)).unwrap();
    let found = report(dir.path());
    assert_eq!(found.damages.len(), 1, "another shard of the run has marks: {found}");
    both(last);

    std::fs::remove_dir_all(&shard_dir).unwrap();
    let found = report(dir.path());
    assert_eq!(found.damages.len(), 1, "{found}");
    assert_eq!(found.damages[0].file, shard_dir);
    // Retention removes the directories of a run that is empty, one after the other.
    remove(&other_dir, 1..=last);
    assert!(report(dir.path()).is_sound());
}

#[test]
fn a_run_without_marks_is_of_the_first_format_and_what_it_misses_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let (shard_dir, _) = store_version(dir.path(), 0, "one", 1);
    assert!(!marks::path(&shard_dir).exists());
    remove(&shard_dir, [1, 2, 5]);
    let found = report(dir.path());
    assert!(found.is_sound() && found.frames_expired == 9, "{found}");
    let wav = dir.path().join("one.wav");
    let (code, text) = calls(dir.path(), &["export", "acme/one", "-o", wav.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("frames 1 to 6: expired"), "{text}");
}

#[test]
fn a_run_of_the_second_format_that_has_lost_all_its_marks_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let shards = [store(dir.path(), 0, "one").0, store(dir.path(), 1, "two").0];
    assert!(report(dir.path()).is_sound());
    for shard_dir in &shards {
        std::fs::remove_file(marks::path(shard_dir)).unwrap();
    }
    remove(&shards[0], [1, 4]);
    for round in 0..2 {
        if round == 1 {
            // A node's recovery finds the same, and hides nothing from those after it.
            assert!(!recover(dir.path(), &mut || {}).unwrap().is_sound());
        }
        let found = report(dir.path());
        let files: Vec<_> = found.damages.iter().map(|damage| damage.file.clone()).collect();
        assert_eq!(files, shards.each_ref().map(|shard_dir| marks::path(shard_dir)), "{found}");
        assert_eq!((found.frames_expired, found.losses.len()), (0, 1), "{found}");
        let (code, text) = calls(dir.path(), &["verify"]);
        assert_eq!(code, Some(3), "{text}");
        for part in [
            format!("damage: {} at byte 0: which segments", marks::path(&shards[0]).display()),
            "call: acme/one lost 6 frames\n".into(),
        ] {
            assert!(text.contains(&part), "{part:?} is not in {text}");
        }
    }
    let wav = dir.path().join("one.wav");
    let (code, text) = calls(dir.path(), &["export", "acme/one", "-o", wav.to_str().unwrap()]);
    assert!(code == Some(3) && text.contains("frames 10 to 12: lost"), "{text}");
    // A damaged file says as little as none.
    std::fs::write(marks::path(&shards[0]), "exo-ingest marks 1\n").unwrap();
    assert_eq!(report(dir.path()).losses.len(), 1);
}

#[test]
fn a_directory_that_is_no_journal_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["list"][..], &["verify"], &["show", "a/b"], &["export", "a/b", "-o", "-"]] {
        let mut command = Command::new(EXO_INGEST);
        let command = command.arg("calls").args(args).arg("--data-dir").arg(dir.path());
        let output = command.env_clear().output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.contains("it holds no journal; give the same --data-dir"), "{text}");
    }
}
