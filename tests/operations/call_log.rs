//! The log of a node: one line for each call that has ended, with its result. A peer cannot forge a
//! line, no line holds a token, and a log without a reader delays nothing.

use crate::EXO_INGEST;
use exo_ingest_harness::wire::{self, BINARY, FIN};
use exo_ingest_harness::{
    INTERACTION, Message, NodeProcess, PATIENCE, Peer, SILENCE, TENANT, eventually, mint,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const STOP: &str = r#"{"event":"stop"}"#;

/// Interaction, ending, frames, bytes, acked, code and reason of the Close.
type Expected = (&'static str, &'static str, u64, u64, u64, Option<u64>, Option<&'static str>);

fn is_end(line: &str) -> bool {
    line.contains("call ended")
}

/// Waits for this number of lines of ended calls, and returns them.
fn ends(node: &NodeProcess, count: usize) -> Vec<String> {
    let found = || node.log().into_iter().filter(|line| is_end(line)).collect::<Vec<_>>();
    eventually("calls are logged", || found().len() >= count);
    std::thread::sleep(SILENCE);
    let found = found();
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

#[test]
fn each_call_makes_one_line_at_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(EXO_INGEST, dir.path(), &["--log", "json"]);

    let mut stops = node.call_as(TENANT, "stops");
    stops.send_frames(12, 321);
    stops.send(&wire::text(STOP));
    stops.expect_ack(10);
    assert!(matches!(stops.receive(), Message::Text(_)));
    stops.expect_close(1000, "");

    let mut resets = node.call_as(TENANT, "resets");
    resets.send_frames(25, 9600);
    resets.expect_acks(10, 20);
    resets.reset();

    let mut finishes = node.call_as(TENANT, "finishes");
    finishes.send_frames(3, 10);
    finishes.expect_end();

    let mut old = node.call_as(TENANT, "again");
    old.send_frames(10, 100);
    old.expect_ack(10);
    let mut new = node.call_as(TENANT, "again");
    old.expect_refusal(4409, "superseded", false);
    new.send(&wire::close(3001));
    new.expect_close(3001, "");

    let mut refused = node.call_as(TENANT, "refused");
    refused.send_frames(10, 100);
    refused.send(&wire::text(&wire::start_text(TENANT, "other")));
    refused.expect_ack(10);
    refused.expect_refusal(4400, "already_started", false);

    let mut breaks = node.call_as(TENANT, "breaks");
    breaks.send(&wire::unmasked(FIN | BINARY, &[1]));
    breaks.expect_close(1002, "");

    // None of these is a call.
    let mut never = Peer::connect(node.address());
    never.upgrade(&mint(TENANT, "never"));
    never.send(&wire::text("{"));
    never.expect_refusal(4400, "invalid_start", false);
    let mut unknown = Peer::connect(node.address());
    unknown.send(wire::upgrade_request("a.b.c").as_bytes());
    assert_eq!(unknown.response().status, 401);

    let lines = ends(&node, 7);
    let lines: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected: [Expected; 7] = [
        ("stops", "stopped", 12, 12 * 320, 10, Some(1000), None),
        ("resets", "reset", 25, 25 * 9600, 20, None, None),
        ("finishes", "finished", 3, 30, 0, None, None),
        ("again", "superseded", 10, 1000, 10, Some(4409), Some("superseded")),
        ("again", "peer_closed", 0, 0, 0, Some(3001), None),
        ("refused", "refused", 10, 1000, 10, Some(4400), Some("already_started")),
        ("breaks", "violation", 0, 0, 0, Some(1002), Some("protocol")),
    ];
    for (interaction, ended, frames, bytes, acked, close, reason) in expected {
        let of_call = |line: &&Value| line["interaction"] == interaction && line["ended"] == ended;
        let found: Vec<_> = lines.iter().filter(of_call).collect();
        let [line] = found[..] else {
            panic!("{interaction} {ended}: {} lines of {lines:#?}", found.len())
        };
        assert_eq!(line["tenant"], TENANT);
        assert_eq!(line["level"], "INFO");
        let numbers = ["frames", "bytes", "acked"].map(|name| line[name].as_u64().expect(name));
        assert_eq!(numbers, [frames, bytes, acked], "{line}");
        assert_eq!((line["close"].as_u64(), line["reason"].as_str()), (close, reason), "{line}");
        let durable = line["durable"].as_u64().expect("there is a journal");
        assert!((acked..=frames).contains(&durable), "an ack promises the disk here: {line}");
        assert!(ended != "stopped" || durable == frames, "{line}");
        assert!(
            line["seconds"].as_f64().is_some_and(|seconds| (0.0..600.0).contains(&seconds)),
            "{line}"
        );
        assert!(line["shard"] == 0, "{line}");
        assert!(
            line["epoch"].as_u64().is_some_and(|epoch| epoch > 0) && line["boot"].is_u64(),
            "{line}"
        );
    }
    let epoch = |ended: &str| {
        let line =
            lines.iter().find(|line| line["interaction"] == "again" && line["ended"] == ended);
        line.and_then(|line| line["epoch"].as_u64())
    };
    assert!(epoch("superseded") < epoch("peer_closed"), "the later turn is the greater");
    assert!(node.terminate().success());
}

#[test]
fn no_id_can_forge_or_hide_a_line() {
    let separators = ["\u{2028}", "\u{2029}", "\u{202e}", "\u{2066}"];
    let forged = r#"x" ended="stopped"}{"level":"ERROR","message":"forged\n\u{1b}[31m"#;
    let ids = separators
        .map(|separator| format!("a{separator}2030-01-01T00:00:00Z ERROR forged{separator}b"));
    let ids: Vec<String> = ids.into_iter().chain([forged.to_owned()]).collect();
    for format in ["json", "text"] {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(EXO_INGEST, dir.path(), &["--log", format]);
        for id in &ids {
            let quoted = Value::from(id.as_str()).to_string();
            let start = wire::start_text(TENANT, quoted.trim_matches('"'));
            let mut peer = Peer::connect(node.address());
            peer.upgrade(&mint(TENANT, id));
            peer.send(&[wire::text(&start), wire::text(STOP)].concat());
            let Message::Text(started) = peer.receive() else { panic!("{id:?} is not taken") };
            assert!(started.contains("started"), "{started}");
        }
        let lines = ends(&node, ids.len());
        for (line, id) in lines.iter().zip(&ids) {
            let deceives = |c: char| {
                c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert!(!line.contains(deceives), "{line:?}");
            match format {
                "json" => {
                    let line: Value = serde_json::from_str(line)
                        .unwrap_or_else(|error| panic!("{error}: {line}"));
                    assert_eq!(
                        (line["interaction"].as_str(), line["ended"].as_str()),
                        (Some(id.as_str()), Some("stopped"))
                    );
                    assert_eq!(line["level"], "INFO");
                }
                _ => assert!(line.contains(&format!("interaction={id:?}")), "{line}"),
            }
        }
        let log = node.log();
        assert!(!log.iter().any(|line| line.starts_with("2030")), "{log:#?}");
        assert!(node.terminate().success());
    }
}

#[test]
fn no_part_of_a_token_is_logged_at_any_level() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(EXO_INGEST, dir.path(), &["--set", "log_level=trace"]);
    let good = mint(TENANT, INTERACTION);
    let mut tokens = vec![
        good.clone(),
        mint(TENANT, "other"),
        format!("{good}x"),
        format!("{}.AAAA", &good[..40]),
    ];
    let parts: Vec<&str> = good.split('.').collect();
    tokens.push([parts[0], parts[1], &parts[2].chars().rev().collect::<String>()].join("."));
    for token in &tokens {
        let mut peer = Peer::connect(node.address());
        peer.send(wire::upgrade_request(token).as_bytes());
        if peer.try_response(false).expect("a response").status == 101 {
            // The token of the other call is wrong for this start.
            peer.send(
                &[wire::text(&wire::start_text(TENANT, INTERACTION)), wire::text(STOP)].concat(),
            );
            assert!(matches!(peer.receive(), Message::Text(_)));
        }
    }
    ends(&node, 1);
    let log = node.log().join("\n");
    for token in &tokens {
        for part in token.split('.').filter(|part| part.len() >= 8) {
            // The whole part, and each stretch of 16 characters.
            let stretches = part.as_bytes().chunks(16).filter(|stretch| stretch.len() >= 8);
            for stretch in stretches {
                let stretch = std::str::from_utf8(stretch).expect("ASCII");
                assert!(!log.contains(stretch), "{stretch:?} of a token is in the log:\n{log}");
            }
        }
    }
    assert!(node.terminate().success());
}

/// A pipe that is full to its last byte.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("its flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("a flag");
    let full = loop {
        if let Err(error) = writer.write_all(&[b'.'; 512]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    while writer.write(b".").is_ok() {}
    fcntl_setfl(&writer, flags).expect("a flag");
    (reader, writer)
}

#[test]
fn a_log_without_a_reader_delays_nothing() {
    let (reader, writer) = full_pipe();
    let (dir, key) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::NamedTempFile::new().expect("a file"),
    );
    std::fs::write(key.path(), exo_ingest_harness::Keys::First.public_pem()).expect("a file");
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--shards",
        "1",
        "--allow-unregistered",
        "--drain",
        "0s",
    ]);
    command.args(["--set", "limits.ring_size=16MiB", "--set", "log_level=trace"]);
    command.arg("--jwt-key").arg(key.path()).arg("--data-dir").arg(dir.path());
    let mut child = command.stdout(Stdio::piped()).stderr(writer).spawn().expect("the binary");
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let (said, lines) = channel();
    std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line))
    });
    let Ok(line) = lines.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        panic!("it waits for its log, and does not serve");
    };
    let address =
        line.strip_prefix("listening on ").expect("it serves").parse().expect("an address");
    // To fill the log's queue would take a minute of calls. A unit test shows that a full queue
    // drops lines.
    for number in 0..50 {
        let interaction = format!("call-{number}");
        let mut peer = Peer::connect(address);
        peer.upgrade(&mint(TENANT, &interaction));
        peer.start(TENANT, &interaction);
        peer.send_frames(20, 960);
        peer.expect_acks(10, 20);
        peer.send(&wire::text(STOP));
        assert!(matches!(peer.receive(), Message::Text(text) if text.contains("stopped")));
        peer.expect_close(1000, "");
    }
    let status = rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    );
    status.expect("it is ours");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it waits for its log");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
    assert_eq!(lines.iter().count(), 0, "standard output is for one line");
    drop(reader);
}
