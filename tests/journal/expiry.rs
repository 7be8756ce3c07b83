//! What goes and what stays: by the order in which audio was written, and not by the times of
//! files. Where nothing can be durable, nothing is promised. A failed start leaves nothing.

use crate::EXO_INGEST;
use exo_ingest::archive::layout;
use exo_ingest::archive::marks::Marks;
use exo_ingest::archive::seal;
use exo_ingest_harness::{NodeProcess, Player, assert_sound, audit, eventually, heavy_test};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const SEGMENT_SIZE: u64 = 4 << 20;

/// All segments in a data directory.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for run in layout::runs(data_dir).unwrap_or_default() {
        let run_dir = layout::run_dir(data_dir, &run);
        for shard in layout::shards(&run_dir).unwrap_or_default() {
            let shard_dir = layout::shard_dir(&run_dir, shard);
            let ids = layout::segments(&shard_dir).unwrap_or_default();
            found.extend(ids.into_iter().map(|id| layout::segment_path(&shard_dir, id)));
        }
    }
    found
}

fn segment_size() -> String {
    format!("journal.segment_size={SEGMENT_SIZE}")
}

/// Plays until so many bytes are sent, and ends the calls in order.
fn play(node: &NodeProcess, name: &str, bytes: u64) -> Vec<exo_ingest_harness::Played> {
    let start = |call: u64| node.play(&format!("{name}-{call}"), call, Duration::from_millis(1));
    let players: Vec<Player> = (0..2).map(start).collect();
    eventually("so much is played", || {
        players.iter().map(Player::sent_bytes).sum::<u64>() >= bytes
    });
    players.into_iter().map(Player::finish).collect()
}

#[test]
fn what_a_clock_that_was_ahead_wrote_goes_before_what_was_acked_just_now() {
    let _turn = heavy_test();
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let size = segment_size();
    let args = ["--set", &size, "--set", "journal.reserve=off"];
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &args);
    play(&node, "early", 6 * SEGMENT_SIZE);
    assert!(node.terminate().success());
    // As if the wall clock had been an hour ahead, and was then set back.
    let ahead = SystemTime::now() + Duration::from_secs(3_600);
    for path in segments(&data_dir) {
        File::options().write(true).open(path).and_then(|file| file.set_modified(ahead)).unwrap();
    }
    let limit = (8 * SEGMENT_SIZE).to_string();
    let args = ["--set", &size, "--set", "journal.reserve=off", "--retain-bytes", &limit];
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &args);
    let played = play(&node, "late", 4 * SEGMENT_SIZE);
    assert!(node.terminate().success());
    let audited = audit(&data_dir, &played);
    assert!(audited.acked > 0, "{audited:?}");
    assert_sound(&data_dir);
    let runs = layout::runs(&data_dir).unwrap();
    let first = layout::shard_dir(&layout::run_dir(&data_dir, &runs[0]), 0);
    let marks = Marks::load(&first).unwrap().expect("a run has marks");
    assert!(marks.removed_to > 0 && marks.ended.is_some(), "{marks:?}");
}

#[test]
fn a_quiet_segment_is_sealed_by_its_age_and_on_demand() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.segment_age=1s"]);
    play(&node, "short", 100_000);
    let has_index =
        || segments(&data_dir).iter().filter(|path| path.with_extension("index").exists()).count();
    eventually("it is sealed, and has an index", || has_index() == 1);
    assert!(node.terminate().success());
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &[]);
    play(&node, "other", 100_000);
    let report = seal::request(&data_dir, Duration::from_secs(60)).expect("it can be asked");
    assert_eq!((report.sealed.len(), report.late.len()), (1, 0));
    assert_eq!(has_index(), 2);
    assert!(node.terminate().success());
    assert_sound(&data_dir);
}

/// Runs the node to its end. Returns its exit code, and what it wrote to standard error.
fn serve(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(EXO_INGEST)
        .args(["serve", "--admin", "off", "--allow-unregistered", "--set", "limits.calls_max=10"])
        .args(["--jwt-key", "tests/keys/first-public.pem"])
        .args(args)
        .output()
        .expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_directory_in_memory_promises_nothing_durable() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let data_dir = directory.path().join("data").display().to_string();
    let (code, error) = serve(&["--listen", "127.0.0.1:0", "--data-dir", &data_dir]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("tmpfs is in memory") && error.contains("--ack written"), "{error}");
    assert!(segments(Path::new(&data_dir)).is_empty());
    let (code, error) =
        serve(&["--listen", "127.0.0.1:0", "--data-dir", &data_dir, "--no-journal"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("--no-journal and --data-dir"), "{error}");
}

#[test]
fn a_start_that_fails_leaves_no_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for _ in 0..3 {
        let (code, error) =
            serve(&["--listen", &address, "--data-dir", &data_dir.display().to_string()]);
        assert_eq!(code, Some(1), "{error}");
    }
    let entries: Vec<_> = std::fs::read_dir(&data_dir)
        .expect("it was made")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(entries, ["boot"]);
}

#[test]
fn two_nodes_on_one_directory_or_one_port_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let first = NodeProcess::start(EXO_INGEST, &data_dir, &[]);
    let second = NodeProcess::start(EXO_INGEST, &data_dir, &[]);
    assert!(
        second.log().iter().any(|line| line.contains("another node serves on")),
        "{:#?}",
        second.log()
    );
    assert!(!first.log().iter().any(|line| line.contains("another node serves on")));
    for node in [second, first] {
        assert!(node.terminate().success());
    }
}
