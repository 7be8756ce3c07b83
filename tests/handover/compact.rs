//! `archive compact`: a WAV file and a receipt for each recording.

use crate::journal::{CALLS, Journal, archive, files, json, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// SHA-256 by the tool of the system.
fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// The files with this ending below `calls/`.
fn compacted(journal: &Journal, extension: &str) -> Vec<PathBuf> {
    let mut found = files(&journal.beside("archive/calls"));
    found.retain(|path| path.extension().unwrap() == extension);
    found
}

#[test]
fn each_recording_gets_its_wav_file_and_its_receipt_once() {
    let journal = Journal::new(12);
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    let done = json(&mut archive(&from, &["compact", "--all", "--json"]), 0);
    assert_eq!((&done["recordings"], &done["live"]), (&3.into(), &0.into()));
    let root = journal.beside("archive");
    for (wav, receipt) in compacted(&journal, "wav").iter().zip(compacted(&journal, "json")) {
        let receipt: Value = serde_json::from_slice(&fs::read(receipt).unwrap()).unwrap();
        let call = receipt["call"].as_str().unwrap();
        assert!(fs::read(wav).unwrap() == journal.wav(call), "{call}");
        assert_eq!(root.join(receipt["object"].as_str().unwrap()), *wav);
        assert_eq!(receipt["sha256"], sha256(wav));
        assert_eq!((&receipt["frames"], &receipt["bytes"]), (&60.into(), &(60 * 1_600).into()));
        assert_eq!(receipt["epochs"][0]["ended"], "stopped");
    }
    let names: Vec<_> = compacted(&journal, "wav")
        .iter()
        .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "calls/acme/2027-01-15/call-0.wav",
            "calls/acme/2027-01-15/call-1.wav",
            "calls/b%2Fc/2027-01-15/call%202.wav"
        ]
    );
    // A run that was interrupted before a receipt goes on with that recording.
    fs::remove_file(&compacted(&journal, "json")[1]).unwrap();
    let again = json(&mut archive(&from, &["compact", "--all", "--json"]), 0);
    assert_eq!((&again["recordings"], &again["recordings_before"]), (&1.into(), &2.into()));
    // The slices are as they were.
    run(&mut archive(&from, &["verify"]), 0);
}

#[test]
fn an_id_that_was_used_again_that_day_has_a_name_of_its_own() {
    let journal = Journal::change(2, |image| {
        for _ in 0..2 {
            image.pass(11 * 60_000_000);
            let call = image.start("acme", "again", 8_000);
            image.frame(call, &[7; 1_600]);
            image.end(call, 1);
            image.seal();
        }
    });
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut archive(&from, &["compact", "acme/again"]), 0);
    let names: Vec<_> = compacted(&journal, "wav")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[1], "again.wav");
    let micros = names[0].strip_prefix("again-").unwrap().strip_suffix(".wav").unwrap();
    assert!(micros.parse::<u64>().is_ok(), "{names:?}");
}

#[test]
fn a_call_that_may_go_on_is_left_out_until_it_has_ended() {
    let journal = Journal::change(2, |image| {
        let call = image.start("acme", "open", 8_000);
        image.frame(call, &[7; 1_600]);
        image.seal();
    });
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    // The note that says that no more will come.
    let note = files(&journal.beside("archive"));
    let note = note.iter().find(|path| path.extension().unwrap() == "ended").unwrap();
    let text = fs::read(note).unwrap();
    fs::remove_file(note).unwrap();
    let open = json(&mut archive(&from, &["compact", "--all", "--json"]), 0);
    assert_eq!((&open["recordings"], &open["live"]), (&3.into(), &1.into()));
    fs::write(note, text).unwrap();
    let ended = json(&mut archive(&from, &["compact", "--all", "--json"]), 0);
    assert_eq!((&ended["recordings"], &ended["recordings_before"]), (&1.into(), &3.into()));
}

#[test]
fn missing_audio_is_in_the_receipt() {
    let journal = Journal::new(12);
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    fs::remove_file(&crate::journal::slices(&journal.beside("archive"))[4]).unwrap();
    run(&mut archive(&from, &["compact", CALLS[0]]), 3);
    let receipt = fs::read(&compacted(&journal, "json")[0]).unwrap();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(receipt["gaps"][0]["reason"], "lost");
    assert_eq!(receipt["frames"], 55);
    let seconds = receipt["gaps"][0]["seconds"].as_f64().unwrap();
    assert!(seconds > 60.0, "the minute that is missing: {seconds}");
}
