//! Calls and epochs without audio. The journal has them, lists show them, and they block nothing.

use crate::EXO_INGEST;
use exo_ingest_harness::{NodeProcess, Peer, TENANT, eventually, mint, wire};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn calls(data_dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(EXO_INGEST);
    command
        .arg("calls")
        .args(args)
        .env_clear()
        .env("EXO_INGEST_DATA_DIR", data_dir)
        .output()
        .expect("the binary")
}

/// The row of an epoch in `calls list`, in words.
fn row(data_dir: &Path, call: &str, epoch: &str) -> Option<Vec<String>> {
    let list = String::from_utf8(calls(data_dir, &["list"]).stdout).expect("UTF-8");
    let mut rows =
        list.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.find(|row| row[0] == call && row[1] == epoch)
}

/// A started call with this sample rate.
fn start(node: &NodeProcess, interaction: &str, rate: u32) -> Peer {
    let mut peer = Peer::connect(node.address());
    peer.upgrade(&mint(TENANT, interaction));
    let text = wire::start_text(TENANT, interaction).replace("24000", &rate.to_string());
    peer.send(&wire::text(&text));
    peer.receive();
    peer
}

fn stop(mut peer: Peer) {
    peer.send(&wire::text(r#"{"event":"stop"}"#));
    peer.receive();
    peer.expect_close(1000, "");
}

#[test]
fn a_call_without_frames_is_listed_while_it_lives_after_its_end_and_from_a_sealed_segment() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=0"]);
    stop(start(&node, "stopped", 24_000));
    drop(start(&node, "hung-up", 24_000));
    let live = start(&node, "live", 24_000);
    let ends =
        |call: &str| row(&data_dir, call, "1").map(|row| (row[6].clone(), row[9..].join(" ")));
    let expected =
        [("acme/stopped", "stopped"), ("acme/hung-up", "finished"), ("acme/live", "live")];
    for (call, ended) in expected {
        eventually("it is listed", || ends(call) == Some(("0".into(), ended.into())));
    }
    // Three segments of 4 MiB: the first ones are sealed and have an index.
    let player = node.play("long", 1, Duration::ZERO);
    eventually("some segments are full", || player.acked() >= 1_000 || player.is_over());
    player.finish();
    drop(live);
    assert!(node.terminate().success());
    for (call, ended) in
        [("acme/stopped", "stopped"), ("acme/hung-up", "finished"), ("acme/live", "finished")]
    {
        assert_eq!(ends(call), Some(("0".into(), ended.into())), "{call}");
        let name = call.replace('/', "-") + ".wav";
        let wav = directory.path().join(name);
        let output = calls(&data_dir, &["export", call, "-o", wav.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::metadata(&wav).expect("a file").len(), 44, "{call}");
    }
}

#[test]
fn an_epoch_without_audio_at_another_rate_does_not_block_an_export() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=0"]);
    for (rate, frames) in [(8_000, 0), (24_000, 10), (16_000, 0)] {
        let mut peer = start(&node, "one", rate);
        if frames > 0 {
            peer.send_frames(frames, 960);
            peer.expect_acks(10, 10);
        }
        stop(peer);
    }
    assert!(node.terminate().success());
    let rates: Vec<_> = ["1", "2", "3"]
        .iter()
        .map(|epoch| row(&data_dir, "acme/one", epoch).expect("it is listed")[4].clone())
        .collect();
    assert_eq!(rates, ["8000", "24000", "16000"]);
    let wav = directory.path().join("one.wav");
    let wav = wav.to_str().expect("UTF-8");
    let output = calls(&data_dir, &["export", "acme/one", "-o", wav]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(wav).expect("a file");
    assert_eq!((bytes.len(), &bytes[24..28]), (44 + 9_600, &24_000u32.to_le_bytes()[..]));
    // The export of a silent epoch alone is a file without samples, with its own rate.
    let output = calls(&data_dir, &["export", "acme/one", "--epoch", "3", "-o", wav]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(wav).expect("a file");
    assert_eq!((bytes.len(), &bytes[24..28]), (44, &16_000u32.to_le_bytes()[..]));
}
