//! `archive delete`: the audio of a call is gone, and nothing else.

use crate::journal::{CALLS, Journal, archive, files, json, run, slices};
use std::fs;
use std::process::Command;

/// How often a stretch of audio of the first call is in the files of an archive.
fn count_of_audio(journal: &Journal) -> usize {
    // Frame 1 of minute 3 of the first call has this value.
    let frame = [45u8; 1_600];
    let count = |path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(frame.len()).step_by(2).filter(|window| *window == frame).count()
    };
    files(&journal.beside("archive")).into_iter().map(count).sum()
}

#[test]
fn the_audio_is_gone_and_everything_else_is_as_it_was() {
    let journal = Journal::new(8);
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut archive(&from, &["compact", "--all"]), 0);
    assert_eq!(count_of_audio(&journal), 2, "in a slice and in a WAV file");
    let done = json(&mut archive(&from, &["delete", CALLS[0], "--json"]), 0);
    assert_eq!((&done["bytes"], &done["files"]), (&(40 * 1_600).into(), &2.into()));
    assert_eq!(count_of_audio(&journal), 0);
    // The archive is sound, and the other calls are whole.
    run(&mut archive(&from, &["verify"]), 0);
    for call in &CALLS[1..] {
        let found = run(&mut archive(&from, &["export", call, "-o", "-"]), 0).stdout;
        assert!(found == journal.wav(call), "{call}");
    }
    let output = run(&mut archive(&from, &["export", CALLS[0], "-o", "-"]), 1);
    assert!(String::from_utf8(output.stderr).unwrap().contains("was deleted"));
    // Again: there is nothing left to do, and compaction does not bring it back.
    let again = json(&mut archive(&from, &["delete", CALLS[0], "--json"]), 0);
    assert_eq!((&again["slices"], &again["files"]), (&0.into(), &0.into()));
    let compacted = json(&mut archive(&from, &["compact", "--all", "--json"]), 0);
    assert_eq!((&compacted["recordings"], &compacted["deleted"]), (&0.into(), &1.into()));
}

#[test]
fn the_slices_are_those_of_a_journal_that_it_was_deleted_from() {
    let journal = Journal::new(8);
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut archive(&from, &["delete", CALLS[2]]), 0);
    let mut delete = Command::new(crate::EXO_INGEST);
    delete.env_clear().args(["calls", "delete", CALLS[2], "--data-dir"]).arg(journal.data());
    run(&mut delete, 0);
    let other = format!("file://{}", journal.beside("other").display());
    run(&mut journal.ship(&other, &[]), 0);
    let (there, expected) = (slices(&journal.beside("archive")), slices(&journal.beside("other")));
    assert_eq!(there.len(), expected.len());
    for (there, expected) in there.iter().zip(expected) {
        assert!(fs::read(there).unwrap() == fs::read(expected).unwrap(), "{there:?}");
    }
    // So a sender without a cursor finds what it would send.
    journal.forget();
    assert_eq!(json(&mut journal.ship(&from, &[]), 0)["slices"], 0);
}
