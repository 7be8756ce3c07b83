//! `ship` and `archive` on a real object store with the interface of S3.

use crate::journal::{CALLS, Journal, archive, json, run};
use crate::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const URL: &str = "s3://recordings/exo";

/// The flags and credentials for a server at this port.
pub(crate) fn with(port: u16, command: &mut Command) -> &mut Command {
    let endpoint = format!("endpoint=http://127.0.0.1:{port}");
    command.args(["--sink-option", &endpoint, "--sink-option", "allow_http=true"]);
    command.args(["--sink-option", "region=us-east-1"]);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
}

pub(crate) fn ship(server: &Seaweed, journal: &Journal, args: &[&str]) -> Command {
    let mut command = journal.ship(URL, args);
    with(server.port(), &mut command);
    command
}

pub(crate) fn read(server: &Seaweed, args: &[&str]) -> Command {
    let mut command = archive(URL, args);
    with(server.port(), &mut command);
    command
}

/// All calls are in the archive, byte for byte, in as many slices as there must be.
fn assert_complete(server: &Seaweed, journal: &Journal) {
    let report = json(&mut read(server, &["verify", "--json"]), 0);
    let other = format!("file://{}", journal.beside("compared").display());
    let sent = json(&mut journal.ship(&other, &[]), 0);
    assert_eq!((&report["slices"], &report["bytes"]), (&sent["slices"], &sent["bytes"]));
    for call in CALLS {
        let found = run(&mut read(server, &["export", call, "-o", "-"]), 0).stdout;
        assert!(found == journal.wav(call), "{call}");
    }
}

#[test]
fn two_that_send_at_once_store_each_slice_once() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::new(30);
    let cursors = ["one", "two"].map(|name| journal.beside(name));
    let children = cursors.map(|cursor| {
        let mut command = ship(&server, &journal, &["--cursor", cursor.to_str().unwrap()]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    });
    let mut sent = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        sent += document["slices"].as_u64().unwrap();
    }
    // The store refused what was there: create-only.
    let report = json(&mut read(&server, &["verify", "--json"]), 0);
    assert_eq!(report["slices"], sent);
    assert_complete(&server, &journal);
}

#[test]
fn a_sender_that_is_killed_goes_on_and_loses_nothing() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::new(120);
    for round in 0..8u64 {
        let mut command = ship(&server, &journal, &["--jobs", "2"]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + 35 * round));
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run(&mut ship(&server, &journal, &[]), 0);
    assert_complete(&server, &journal);
}

#[test]
fn a_store_that_is_killed_and_comes_back_is_waited_for() {
    let Some(mut server) = Seaweed::start() else { return };
    let journal = Journal::new(200);
    let mut command = ship(&server, &journal, &["--jobs", "4"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(150));
    server.kill();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = errors.next().expect("a line about the retry").unwrap();
    assert!(told.contains("trying again in"), "{told}");
    server.restart();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_complete(&server, &journal);
}

#[test]
fn a_store_that_forgets_is_found_out_and_healed() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::new(10);
    run(&mut ship(&server, &journal, &[]), 0);
    let dry = json(&mut ship(&server, &journal, &["--dry-run", "--cursor", "none"]), 0);
    assert_eq!(dry["slices"], 0);
    let report = json(&mut read(&server, &["verify", "--json"]), 0);
    let other = format!("file://{}", journal.beside("compared").display());
    run(&mut journal.ship(&other, &[]), 0);
    let there = crate::journal::slices(&journal.beside("compared"));
    let name = there[3].strip_prefix(journal.beside("compared")).unwrap().to_str().unwrap();
    server.lose(name);
    let found = json(&mut read(&server, &["verify", "--json"]), 3);
    assert_eq!(found["holes"][0]["object"], name);
    journal.forget();
    assert_eq!(json(&mut ship(&server, &journal, &[]), 0)["slices"], 1);
    let healed = json(&mut read(&server, &["verify", "--json"]), 0);
    assert_eq!((&healed["slices"], &healed["bytes"]), (&report["slices"], &report["bytes"]));
}

#[test]
fn a_long_recording_is_stored_in_parts() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::change(1, |image| {
        let call = image.start("acme", "long", 8_000);
        for value in 0..200 {
            image.frame(call, &[value; 60_000]);
            image.seal();
        }
        image.end(call, 1);
        image.seal();
    });
    run(&mut ship(&server, &journal, &[]), 0);
    for recordings in [1, 0] {
        let done = json(&mut read(&server, &["compact", "acme/long", "--json"]), 0);
        assert_eq!(done["recordings"], recordings);
    }
    let path = "/buckets/recordings/exo/calls/acme/2027-01-15/long.wav";
    assert!(server.file(path).ends_with(&journal.wav("acme/long")));
}

#[test]
fn a_refusal_is_one_clear_sentence() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::new(2);
    for (url, key, expected) in [
        (URL, "wrong", "check the credentials"),
        ("s3://nowhere/exo", SECRET_KEY, "create the bucket"),
    ] {
        let mut command = journal.ship(url, &[]);
        with(server.port(), &mut command).env("AWS_SECRET_ACCESS_KEY", key);
        let output = run(&mut command, 1);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
}

/// Forwards connections to a server, but answers the first ones with faults.
fn faulty(upstream: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let faults = ["429 Too Many Requests", "500 Internal Server Error", "", "503 Slow Down"];
        for (number, client) in listener.incoming().flatten().enumerate() {
            std::thread::spawn(move || match faults.get(number) {
                Some(status) => refuse(client, status),
                None => forward(client, upstream),
            });
        }
    });
    port
}

/// Answers one request with a status, or with nothing.
fn refuse(mut client: TcpStream, status: &str) {
    let mut head = [0; 4096];
    let _ = client.read(&mut head);
    if !status.is_empty() {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = client.write_all(answer.as_bytes());
    }
    let _ = client.shutdown(Shutdown::Both);
}

fn forward(client: TcpStream, upstream: u16) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { return };
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn faults_that_pass_are_told_and_tried_again() {
    let Some(server) = Seaweed::start() else { return };
    let journal = Journal::new(6);
    let mut command = journal.ship(URL, &["--jobs", "1"]);
    let output = run(with(faulty(server.port()), &mut command), 0);
    let errors = String::from_utf8(output.stderr).unwrap();
    for status in ["HTTP 429", "HTTP 500", "HTTP 503"] {
        assert!(errors.contains(status), "{status} in {errors}");
    }
    assert_complete(&server, &journal);
}
