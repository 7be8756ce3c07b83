//! A node that sends its journal while it serves.

use crate::EXO_INGEST;
use crate::seaweed::Seaweed;
use exo_ingest_harness::{NodeProcess, Player, eventually};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Small segments, sealed soon: a test cannot wait for the usual ten minutes.
pub(crate) const FAST: [&str; 6] = [
    "--set",
    "journal.segment_size=4MiB",
    "--set",
    "journal.segment_age=2s",
    "--set",
    "forward.node=edge-7",
];

fn node(data_dir: &Path, url: &str, args: &[&str]) -> NodeProcess {
    let archive = ["--archive", url];
    if let Some(dir) = url.strip_prefix("file://") {
        std::fs::create_dir_all(dir).unwrap();
    }
    NodeProcess::start(EXO_INGEST, data_dir, &[&FAST[..], &archive, args].concat())
}

pub(crate) fn exo_ingest(args: &[&str], variables: &[(&str, String)]) -> Output {
    let variables = variables.iter().map(|(name, value)| (*name, value.as_str()));
    let mut command = Command::new(EXO_INGEST);
    command.args(args).env_clear().envs(variables).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What a second forwarder, without a cursor, would still have to send: nothing.
fn assert_all_sent(dir: &TempDir, data_dir: &Path, url: &str) -> u64 {
    let cursor = dir.path().join("another.cursor");
    let _ = std::fs::remove_file(&cursor);
    let args = ["ship", "--data-dir", data_dir.to_str().unwrap(), "--to", url, "--node", "edge-7"];
    let cursor = ["--cursor", cursor.to_str().unwrap(), "--json"];
    let output = exo_ingest(&[&args[..], &cursor].concat(), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["slices"], 0, "{document}");
    document["slices_before"].as_u64().unwrap()
}

/// Whether a call in the archive equals the one in the journal.
fn assert_same_audio(data_dir: &Path, url: &str, call: &str) {
    let export = |args: &[&str]| {
        let output = exo_ingest(&[args, &["--epoch", "all", "-o", "-"]].concat(), &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    let journal = export(&["calls", "export", call, "--data-dir", data_dir.to_str().unwrap()]);
    let archive = export(&["archive", "export", call, "--from", url]);
    assert!(journal.len() > 100_000 && journal == archive, "{call} differs");
}

pub(crate) fn segments(data_dir: &Path) -> usize {
    let journal = exo_ingest::archive::reader::Journal::open(data_dir).unwrap();
    journal.segment_count()
}

fn play(node: &NodeProcess, names: &[&str]) -> Vec<Player> {
    let pause = Duration::from_millis(5);
    names.iter().enumerate().map(|(seed, name)| node.play(name, seed as u64, pause)).collect()
}

#[test]
fn a_node_sends_its_journal_while_it_serves_and_the_rest_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, url) = (dir.path().join("data"), format!("file://{}/a", dir.path().display()));
    let node = node(&data_dir, &url, &[]);
    let names = ["one", "two", "three"];
    let players = play(&node, &names);
    eventually("objects arrive while the calls go on", || dir.path().join("a/v1/edge-7").exists());
    eventually("enough audio", || players.iter().all(|player| player.acked() > 200));
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    assert!(assert_all_sent(&dir, &data_dir, &url) > 0);
    for name in names {
        let tenant = exo_ingest_harness::TENANT;
        assert_same_audio(&data_dir, &url, &format!("{tenant}/{name}"));
    }
}

#[test]
fn a_node_that_is_killed_sends_the_rest_after_its_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, url) = (dir.path().join("data"), format!("file://{}/a", dir.path().display()));
    for round in 0..4 {
        let node = node(&data_dir, &url, &[]);
        let names = [format!("{round}-one"), format!("{round}-two")];
        let players = play(&node, &[&names[0], &names[1]]);
        let enough = 40 + 60 * round;
        eventually("enough audio", || players.iter().all(|player| player.acked() > enough));
        node.kill();
        players.into_iter().for_each(|player| drop(player.finish()));
    }
    let node = node(&data_dir, &url, &[]);
    // The runs before have their last notes in the archive, once all of them is there.
    eventually("all runs are sent", || {
        let runs = std::fs::read_dir(dir.path().join("a/v1/edge-7")).unwrap();
        let ended = runs.filter(|run| {
            let shards = std::fs::read_dir(run.as_ref().unwrap().path()).unwrap();
            let is_ended = |shard: std::io::Result<std::fs::DirEntry>| {
                let mut objects = std::fs::read_dir(shard.unwrap().path()).unwrap();
                objects.any(|object| {
                    object.unwrap().path().extension().is_some_and(|kind| kind == "ended")
                })
            };
            shards.map(is_ended).filter(|is_ended| *is_ended).count() == 1
        });
        ended.count() >= 4
    });
    assert!(node.terminate().success());
    assert_all_sent(&dir, &data_dir, &url);
    for round in 0..4 {
        let tenant = exo_ingest_harness::TENANT;
        assert_same_audio(&data_dir, &url, &format!("{tenant}/{round}-one"));
    }
}

#[test]
fn retention_leaves_what_the_archive_has_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let url = format!("file://{}/a", dir.path().display());
    // Not a directory: every put fails.
    let obstacle = dir.path().join("a/v1");
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::write(&obstacle, "").unwrap();
    let limit = ["--retain-bytes", "32MiB"];
    let node = node(&data_dir, &url, &limit);
    let players = play(&node, &["one", "two", "three"]);
    eventually("more than the limit is kept", || segments(&data_dir) > 14);
    let ready = node.admin().get("/ready");
    assert!(ready.contains("sink_fails"), "{ready}");
    let status = node.admin().get("/status.json");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["sinks"][0]["name"], "archive");
    let failing = node.admin().metrics().value("exo_ingest_sink_failing{sink=\"archive\"}");
    assert_eq!(failing, 1.0);
    std::fs::remove_file(&obstacle).unwrap();
    eventually("the archive takes it, and retention goes on", || segments(&data_dir) < 12);
    assert!(node.terminate().success());
    let played: Vec<_> = players.into_iter().map(Player::finish).collect();
    for (played, name) in played.iter().zip(["one", "two", "three"]) {
        let tenant = exo_ingest_harness::TENANT;
        let call = format!("{tenant}/{name}");
        let output = exo_ingest(&["archive", "export", &call, "--from", &url, "-o", "-"], &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(output.stdout.len() as u64 > played.acked * 2_000, "all of it is in the archive");
    }
}

#[test]
fn an_object_store_that_is_killed_gets_everything_after_its_return() {
    let Some(mut store) = Seaweed::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, url) = (dir.path().join("data"), "s3://recordings/exo".to_owned());
    let options = format!("archive.options={}", store.options().join(","));
    let node = node(&data_dir, &url, &["--set", &options]);
    let players = play(&node, &["one", "two"]);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1_500));
        store.kill();
        std::thread::sleep(Duration::from_millis(500));
        store.restart();
    }
    let sent: Vec<u64> = players.iter().map(Player::acked).collect();
    eventually("the calls went on", || {
        players.iter().zip(&sent).all(|(player, before)| player.acked() > before + 50)
    });
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    let cursor = dir.path().join("another.cursor");
    let args = ["ship", "--data-dir", data_dir.to_str().unwrap(), "--to", &url, "--node", "edge-7"];
    let options = store.options();
    let options = options.iter().flat_map(|option| ["--sink-option", option]);
    let more = ["--cursor", cursor.to_str().unwrap(), "--json"];
    let args: Vec<&str> = args.into_iter().chain(options).chain(more).collect();
    let output = exo_ingest(&args, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["slices"], 0, "{document}");
}

#[test]
fn a_check_puts_gets_and_deletes_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.pem");
    std::fs::write(&key, exo_ingest_harness::Keys::First.public_pem()).unwrap();
    let url = format!("file://{}/a", dir.path().display());
    let data_dir = dir.path().join("data");
    let args = ["serve", "--check", "--listen", "127.0.0.1:0", "--admin", "off", "--archive", &url];
    let paths = ["--jwt-key", key.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    let args = [&args[..], &paths, &["--allow-unregistered"]].concat();
    let output = exo_ingest(&args, &[]);
    assert_eq!(output.status.code(), Some(1), "a disk that is not mounted");
    let told = text(&output.stdout);
    assert!(told.contains("FAIL  archive: "), "{told}");
    std::fs::create_dir(dir.path().join("a")).unwrap();
    let output = exo_ingest(&args, &[]);
    let told = text(&output.stdout);
    assert!(told.contains("ok    archive: file://"), "{told}");
    let left = std::fs::read_dir(dir.path().join("a/v1").join(""))
        .map(|dirs| dirs.flat_map(|node| std::fs::read_dir(node.unwrap().path()).unwrap()).count());
    assert_eq!(left.unwrap_or(0), 0, "nothing is left");
}
