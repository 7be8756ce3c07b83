//! `archive list`, `export` and `verify`: as `calls` on the journal, and what is missing is named.

use crate::journal::{CALLS, Journal, archive, files, json, run, slices};
use std::fs;
use std::path::Path;

/// A journal of three calls, and its archive.
fn shipped() -> (Journal, String) {
    let journal = Journal::new(12);
    let to = journal.archive();
    run(&mut journal.ship(&to, &[]), 0);
    (journal, to)
}

#[test]
fn the_list_is_that_of_the_journal() {
    let (journal, from) = shipped();
    let mut calls = std::process::Command::new(crate::EXO_INGEST);
    calls.env_clear().args(["calls", "list", "--json", "--data-dir"]).arg(journal.data());
    let mut expected = json(&mut calls, 0);
    let mut found = json(&mut archive(&from, &["list", "--json"]), 0);
    assert_eq!(found["calls"].as_array().unwrap().len(), 3);
    for document in [&mut expected, &mut found] {
        for call in document["calls"].as_array_mut().unwrap() {
            for epoch in call["epochs"].as_array_mut().unwrap() {
                // How many segments and slices hold it is not the same.
                epoch.as_object_mut().unwrap().remove("segments");
            }
        }
    }
    assert_eq!(found, expected);
    let one = json(&mut archive(&from, &["list", "--json", "--tenant", "b/c"]), 0);
    assert_eq!(one["calls"].as_array().unwrap().len(), 1);
}

#[test]
fn an_export_is_that_of_the_journal_byte_for_byte() {
    let (journal, from) = shipped();
    for call in CALLS {
        let expected = journal.wav(call);
        assert!(expected.len() > 60 * 1_600);
        let found = run(&mut archive(&from, &["export", call, "-o", "-"]), 0).stdout;
        assert!(found == expected, "{call}");
    }
    // All calls, to files.
    let out = journal.beside("out");
    let target = format!("{}/", out.display());
    run(&mut archive(&from, &["export", "--all", "-o", &target]), 0);
    let written = files(&out);
    assert_eq!(written.len(), 3);
    for path in written {
        let bytes = fs::read(&path).unwrap();
        assert!(CALLS.iter().any(|call| journal.wav(call) == bytes), "{path:?}");
    }
}

#[test]
fn a_slice_that_went_is_named_and_sent_again() {
    let (journal, from) = shipped();
    assert_eq!(json(&mut archive(&from, &["verify", "--json"]), 0)["is_sound"], true);
    let there = slices(&journal.beside("archive"));
    for gone in [1, 5, there.len() - 1] {
        let bytes = fs::read(&there[gone]).unwrap();
        fs::remove_file(&there[gone]).unwrap();
        let report = json(&mut archive(&from, &["verify", "--json"]), 3);
        let holes = report["holes"].as_array().unwrap();
        let name = there[gone].strip_prefix(journal.beside("archive")).unwrap();
        assert_eq!(holes.len(), 1, "{report}");
        assert_eq!(Path::new(holes[0]["object"].as_str().unwrap()), name);
        assert_eq!(holes[0]["reason"], "missing");
        if gone < there.len() - 1 {
            assert_eq!(report["calls_incomplete"].as_array().unwrap().len(), 3);
            run(&mut archive(&from, &["export", CALLS[0], "-o", "-"]), 3);
        }
        // The cursor says that it is there. Without it, the archive is asked.
        assert_eq!(json(&mut journal.ship(&from, &[]), 0)["slices"], 0);
        journal.forget();
        assert_eq!(json(&mut journal.ship(&from, &[]), 0)["slices"], 1);
        assert!(fs::read(&there[gone]).unwrap() == bytes);
        run(&mut archive(&from, &["verify"]), 0);
    }
}

#[test]
fn a_flipped_byte_in_the_archive_is_named() {
    let (journal, from) = shipped();
    let path = &slices(&journal.beside("archive"))[4];
    let bytes = fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    for at in [100, 5_000, bytes.len() / 2, bytes.len() - 700, bytes.len() - 30] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        fs::write(path, damaged).unwrap();
        let report = json(&mut archive(&from, &["verify", "--json"]), 3);
        let bad = report["bad_objects"].as_array().unwrap();
        assert_eq!(bad.len(), 1, "byte {at}: {report}");
        assert!(bad[0]["object"].as_str().unwrap().ends_with(name));
    }
}

#[test]
fn what_is_no_archive_is_an_error_of_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let from = format!("file://{}", dir.path().display());
    for (from, code) in [(from.as_str(), 1), ("file:///nowhere/at/all", 1), ("nonsense", 2)] {
        let output = run(&mut archive(from, &["list"]), code);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn what_it_shows_of_a_call_is_what_the_journal_shows_and_the_slices_of_it() {
    let (journal, from) = shipped();
    let mut calls = std::process::Command::new(crate::EXO_INGEST);
    calls.env_clear().args(["calls", "show", CALLS[0], "--json", "--data-dir"]).arg(journal.data());
    let (mut expected, mut found) =
        (json(&mut calls, 0), json(&mut archive(&from, &["show", CALLS[0], "--json"]), 0));
    let listed = found["files"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 13, "one for each minute, and one for the ends");
    for name in listed {
        assert!(journal.beside("archive").join(name.as_str().unwrap()).is_file(), "{name}");
    }
    for document in [&mut expected, &mut found] {
        document.as_object_mut().unwrap().remove("files");
    }
    assert_eq!(found, expected);
}

#[test]
fn an_index_that_was_read_before_is_not_read_again() {
    let (journal, from) = shipped();
    let cache = journal.beside("cache");
    let list = || {
        let flags = ["list", "--json", "--index-cache", cache.to_str().unwrap()];
        json(&mut archive(&from, &flags), 0)
    };
    let cached = || files(&cache);
    let first = list();
    assert_eq!(cached().len(), 13);
    let (other, all) = (slices(&journal.beside("archive"))[3].clone(), cached());
    let bytes = fs::read(&all[3]).unwrap();
    let at = bytes.windows(6).position(|window| window == b"call-1").unwrap();
    // A damaged file counts for nothing.
    let mut damaged = bytes.clone();
    damaged[at + 5] = b'7';
    fs::write(&all[3], &damaged).unwrap();
    assert_eq!(list(), first);
    assert_eq!(fs::read(&all[3]).unwrap(), bytes, "it was read again");
    // A slice that is gone from the store has no index here.
    fs::remove_file(&other).unwrap();
    list();
    assert_eq!(cached().len(), 12);
    assert!(!cached().contains(&all[3]));
    // A slice that was replaced is read again.
    let before = cached();
    run(&mut archive(&from, &["delete", CALLS[2]]), 0);
    list();
    let after = cached();
    assert_eq!(after.len(), 12);
    let same = before.iter().filter(|path| after.contains(path)).count();
    assert_eq!(same, 1, "only the slice with the ends had no audio of it");
    // The others are read from here.
    let times = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let written: Vec<_> = after.iter().map(|path| times(path)).collect();
    list();
    assert_eq!(cached().iter().map(|path| times(path)).collect::<Vec<_>>(), written);
}
