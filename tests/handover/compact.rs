//! `archive compact`: a WAV file and a receipt for each recording.

use crate::journal::{CALLS, Journal, archive, files, json, run};
use exo_ingest_harness::NatsCluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Everything that is published below a subject, as `Nats-Msg-Id` and payload: by the engine's wire
/// protocol, past its client.
struct Listener {
    heard: std::sync::Arc<std::sync::Mutex<Vec<(String, Value)>>>,
}

impl Listener {
    fn start(url: &str, subject: &str) -> Listener {
        let mut socket = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
        let hello =
            format!("CONNECT {{\"headers\":true,\"verbose\":false}}\r\nSUB {subject} 1\r\n");
        socket.write_all(format!("{hello}PING\r\n").as_bytes()).unwrap();
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (told, mut reader) = (heard.clone(), BufReader::new(socket.try_clone().unwrap()));
        let mut line = String::new();
        // The answer to the ping says that the subscription is there.
        while line != "PONG\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        std::thread::spawn(move || {
            loop {
                line.clear();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if line.starts_with("PING") {
                    let _ = socket.write_all(b"PONG\r\n");
                }
                let Some(sizes) = line.strip_prefix("HMSG ") else { continue };
                let mut sizes = sizes.split_whitespace().rev().map(|it| it.parse::<usize>());
                let (all, head) = (sizes.next().unwrap().unwrap(), sizes.next().unwrap().unwrap());
                let mut bytes = vec![0; all + 2];
                reader.read_exact(&mut bytes).unwrap();
                let heads = String::from_utf8_lossy(&bytes[..head]).into_owned();
                let id = heads.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id: "));
                let body = serde_json::from_slice(&bytes[head..all]).unwrap();
                told.lock().unwrap().push((id.unwrap().to_owned(), body));
            }
        });
        Listener { heard }
    }

    fn heard(&self) -> Vec<(String, Value)> {
        self.heard.lock().unwrap().clone()
    }
}

/// A journal with 30 more calls, in an archive and in an engine with streams.
fn announced(engine: &NatsCluster) -> (Journal, String) {
    let journal = Journal::change(2, |image| {
        for number in 0..30 {
            let call = image.start("acme", &format!("more-{number}"), 8_000);
            image.frame(call, &[number; 1_600]);
            image.end(call, 1);
        }
        image.seal();
    });
    let from = journal.archive();
    run(&mut journal.ship(&from, &[]), 0);
    run(&mut journal.ship(&engine.url(), &["--create-streams", "1", "--replicas", "1"]), 0);
    (journal, from)
}

#[test]
fn each_recording_is_announced_to_the_engine_once() {
    let Some(engine) = NatsCluster::start(&crate::programs(), 1) else { return };
    let (journal, from) = announced(&engine);
    // One has its receipt from a run without an engine.
    run(&mut archive(&from, &["compact", CALLS[1]]), 0);
    let listener = Listener::start(&engine.url(), "exo.events.>");
    let args = ["compact", "--all", "--json", "--events", &engine.url()];
    let done = json(&mut archive(&from, &args), 0);
    assert_eq!((&done["recordings"], &done["events"]), (&32.into(), &33.into()));
    exo_ingest_harness::eventually("all are heard", || listener.heard().len() >= 33);
    for (id, event) in listener.heard() {
        assert!(id.ends_with(".recording_ready.0"), "{id}");
        assert_eq!(
            (&event["event"], &event["node"]),
            (&"recording_ready".into(), &"node-1".into())
        );
        let object = journal.beside("archive").join(event["object"].as_str().unwrap());
        assert_eq!(event["sha256"], sha256(&object));
        let receipt = journal.beside("archive").join(event["receipt"].as_str().unwrap());
        let receipt: Value = serde_json::from_slice(&fs::read(receipt).unwrap()).unwrap();
        for field in ["frames", "seconds", "sample_rate", "started_at", "tenant", "interaction"] {
            assert_eq!(event[field], receipt[field], "{field}");
        }
        assert_eq!(
            (&event["archive"], &event["is_complete"]),
            (&from.as_str().into(), &true.into())
        );
    }
    let again = json(&mut archive(&from, &args), 0);
    assert_eq!((&again["events"], &again["recordings_before"]), (&0.into(), &33.into()));
    assert_eq!(listener.heard().len(), 33);
    // An archive without a call has no mark of it either.
    run(&mut archive(&from, &["delete", CALLS[1]]), 0);
    let left = files(&journal.beside("archive/calls"));
    assert!(left.iter().all(|path| !path.to_str().unwrap().contains("call-1.")), "{left:?}");
}

#[test]
fn a_run_that_is_killed_loses_no_event() {
    let Some(engine) = NatsCluster::start(&crate::programs(), 1) else { return };
    let (journal, from) = announced(&engine);
    let listener = Listener::start(&engine.url(), "exo.events.>");
    let args = ["compact", "--all", "--json", "--events", &engine.url()];
    for delay_ms in [150, 180, 210, 240, 270, 300, 330, 360] {
        let mut command = archive(&from, &args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        // What was heard has its receipt already.
        for (_, event) in listener.heard() {
            let receipt = event["receipt"].as_str().unwrap();
            assert!(journal.beside("archive").join(receipt).exists(), "{receipt}");
        }
    }
    run(&mut archive(&from, &args), 0);
    let ids = || listener.heard().into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>();
    exo_ingest_harness::eventually("all are heard", || ids().len() >= 33);
    assert_eq!(ids().len(), 33, "an event that was sent again has its old id");
    assert_eq!(json(&mut archive(&from, &args), 0)["events"], 0);
}
