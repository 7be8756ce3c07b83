//! What waits for sinks on a node's disk: several archives, the lag while a store stands still, the
//! budget, and what is printed of secrets.

use crate::EXO_INGEST;
use crate::forward::{FAST, exo_ingest, segments, text};
use crate::seaweed::{SECRET_KEY, Seaweed};
use exo_ingest_harness::{NodeProcess, Player, TENANT, eventually};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: f64 = 1_048_576.0;

fn start(data_dir: &Path, args: &[&str]) -> NodeProcess {
    NodeProcess::start(EXO_INGEST, data_dir, &[&FAST[..], args].concat())
}

/// A value of a sink; 0 before it is there.
fn of_sink(node: &NodeProcess, name: &str, sink: &str) -> f64 {
    node.admin().metrics().value(&format!("exo_ingest_sink_{name}{{sink=\"{sink}\"}}"))
}

fn pinned(node: &NodeProcess) -> f64 {
    node.admin().metrics().value("exo_ingest_journal_pinned_bytes")
}

/// A directory that takes objects, and one that takes none until it is freed.
fn directories(dir: &Path) -> [String; 2] {
    ["good", "bad"].map(|name| {
        std::fs::create_dir(dir.join(name)).unwrap();
        if name == "bad" {
            // Not a directory: every put fails.
            std::fs::write(dir.join("bad/v1"), "").unwrap();
        }
        format!("file://{}/{name}", dir.display())
    })
}

fn free(dir: &Path) {
    std::fs::remove_file(dir.join("bad/v1")).unwrap();
}

/// Names of the objects below a directory that end so.
fn objects(dir: &Path, end: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let counts = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            objects(&path, end)
        } else {
            path.to_str().unwrap().ends_with(end).into()
        }
    });
    counts.sum()
}

/// Whether all that was acked is in the archive.
fn assert_all_in(url: &str, players: Vec<Player>, names: &[&str], options: &[String]) {
    for (player, name) in players.into_iter().zip(names) {
        let (played, call) = (player.finish(), format!("{TENANT}/{name}"));
        let args = ["archive", "export", &call, "--from", url, "--epoch", "all", "-o", "-"];
        let options = options.iter().flat_map(|option| ["--sink-option", option]);
        let output = exo_ingest(&args.into_iter().chain(options).collect::<Vec<_>>(), &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let sizes =
            (1..=played.acked).map(|seq| exo_ingest_harness::audio(played.seed, seq).len() / 2);
        let acked = sizes.sum::<usize>() * 2;
        assert!(output.stdout.len() >= acked, "{call}: {} of {acked}", output.stdout.len());
    }
}

#[test]
fn an_optional_archive_that_is_away_pins_nothing_and_gets_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, [good, bad]) = (dir.path().join("data"), directories(dir.path()));
    let second = format!("archive2.url={bad}");
    // Few uploads at a time: what is on its way expires later than what is only in the journal.
    let sets = ["--set", second.as_str(), "--set", "archive2.jobs=1"];
    let args = [&["--archive", good.as_str(), "--retain-bytes", "32MiB"][..], &sets].concat();
    let node = start(&data_dir, &args);
    let players = ["one", "two"].map(|name| node.play(name, 1, Duration::from_millis(3)));
    eventually("the second one is named", || {
        node.admin().request("GET", "/ready").body.contains("the archive2 ")
    });
    eventually("retention goes on", || {
        node.admin().metrics().value("exo_ingest_journal_segments_removed_total") > 4.0
    });
    assert_eq!(of_sink(&node, "required", "archive"), 1.0);
    assert_eq!(of_sink(&node, "required", "archive2"), 0.0);
    assert_eq!(of_sink(&node, "failing", "archive"), 0.0);
    assert_eq!(of_sink(&node, "failing", "archive2"), 1.0);
    assert!(of_sink(&node, "lag_bytes", "archive2") > of_sink(&node, "lag_bytes", "archive"));
    free(dir.path());
    eventually("it takes what is left", || of_sink(&node, "objects_total", "archive2") > 2.0);
    // What comes after its first object and expires gets a note.
    let (shard, aside) = hide(&dir.path().join("bad"));
    let removed = || node.admin().metrics().value("exo_ingest_journal_segments_removed_total");
    let before = removed();
    eventually("retention goes on", || removed() > before + 16.0);
    restore(&shard, &aside);
    eventually("there is a note", || objects(&dir.path().join("bad"), ".expired") > 0);
    assert!(node.terminate().success());
    assert_eq!(objects(&dir.path().join("good"), ".expired"), 0);
    assert!(objects(&dir.path().join("bad"), ".exo") > 0);
    assert_all_in(&good, players.into(), &["one", "two"], &[]);
}

#[test]
fn a_second_archive_that_is_required_pins_too() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, [good, bad]) = (dir.path().join("data"), directories(dir.path()));
    let second = format!("archive2.url={bad}");
    let args = ["--archive", &good, "--set", &second, "--set", "archive2.required=true"];
    let node = start(&data_dir, &[&args[..], &["--retain-bytes", "32MiB"]].concat());
    let players = ["one", "two"].map(|name| node.play(name, 1, Duration::from_millis(3)));
    eventually("more than the limit is kept", || segments(&data_dir) > 14);
    assert!(pinned(&node) > 32.0 * MIB);
    free(dir.path());
    eventually("retention goes on", || segments(&data_dir) < 12);
    assert!(node.terminate().success());
    for name in ["good", "bad"] {
        assert_eq!(objects(&dir.path().join(name), ".expired"), 0, "{name}");
    }
    let names = ["one", "two"];
    assert_all_in(&bad, players.into(), &names, &[]);
    assert!(objects(&dir.path().join("good"), ".exo") > 0);
}

#[test]
fn past_the_budget_new_calls_are_refused_and_nothing_that_was_acked_is_lost() {
    let Some(store) = Seaweed::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, url) = (dir.path().join("data"), "s3://recordings/exo".to_owned());
    let options = format!("archive.options={}", store.options().join(","));
    let args = ["--archive", &url, "--set", &options, "--set", "forward.budget=24MiB"];
    let node = start(&data_dir, &[&args[..], &["--retain-bytes", "32MiB"]].concat());
    let names = ["one", "two"];
    let players = names.map(|name| node.play(name, 1, Duration::from_millis(4)));
    eventually("the store takes it", || of_sink(&node, "objects_total", "archive") > 1.0);
    store.while_stopped(|| {
        eventually("new calls are refused", || {
            node.admin().ready().1.contains(&"sink_budget".to_owned())
        });
        assert_eq!(node.upgrade_status(), 503);
        let metrics = node.admin().metrics();
        assert!(metrics.sum("exo_ingest_requests_over_budget_total") >= 1.0);
        assert_eq!(metrics.value("exo_ingest_not_ready{reason=\"sink_budget\"}"), 1.0);
        let acked: Vec<u64> = players.iter().map(Player::acked).collect();
        // Nothing is read for sending any more, and the lag grows as the journal does.
        // It is measured by another thread than the budget.
        eventually("the lag shows", || of_sink(&node, "lag_bytes", "archive") > 24.0 * MIB);
        let lag = of_sink(&node, "lag_bytes", "archive");
        assert!(of_sink(&node, "lag_seconds", "archive") > 0.0);
        eventually("live calls go on, and the lag is right", || {
            let is_on =
                players.iter().zip(&acked).all(|(player, before)| player.acked() > before + 99);
            is_on && of_sink(&node, "lag_bytes", "archive") > lag + MIB
        });
        let durable = node.admin().metrics().sum("exo_ingest_journal_position_bytes");
        let taken = of_sink(&node, "acknowledged_bytes_total", "archive");
        // Objects are a little larger than the journal in them.
        eventually("it is the whole rest of the journal", || {
            of_sink(&node, "lag_bytes", "archive") + taken >= durable
        });
        let metrics = node.admin().metrics();
        let lag = metrics.value("exo_ingest_sink_lag_bytes{sink=\"archive\"}");
        assert!(lag < metrics.sum("exo_ingest_journal_position_bytes"), "{lag}");
    });
    eventually("new calls are taken again", || node.upgrade_status() == 101);
    assert!(node.terminate().success());
    assert_all_in(&url, players.into(), &names, &store.options());
}

#[test]
fn past_the_budget_the_oldest_audio_goes_if_so_chosen_and_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, [_, bad]) = (dir.path().join("data"), directories(dir.path()));
    let sets =
        ["forward.budget=24MiB", "forward.over_budget=drop-oldest"].map(|set| ["--set", set]);
    let node = start(&data_dir, &[&["--archive", &bad][..], &sets.concat()].concat());
    // One object, so that what comes after it and is dropped gets a note.
    free(dir.path());
    let players = ["one", "two"].map(|name| node.play(name, 1, Duration::from_millis(3)));
    eventually("an object is there", || objects(&dir.path().join("bad"), ".exo") > 0);
    let (shard, aside) = hide(&dir.path().join("bad"));
    eventually("audio is dropped", || {
        of_sink(&node, "dropped_bytes_total", "archive") > 16.0 * MIB
    });
    assert!(pinned(&node) < 40.0 * MIB);
    assert_eq!(node.upgrade_status(), 101, "new calls are taken");
    let is_told = |line: &String| line.contains("ERROR") && line.contains("drop-oldest");
    eventually("the log says so", || node.log().iter().any(is_told));
    restore(&shard, &aside);
    eventually("a note says so", || objects(&dir.path().join("bad"), ".expired") > 0);
    eventually("the archive takes it", || of_sink(&node, "failing", "archive") == 0.0);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    // The exit code says so, too.
    let verify = |more: &[&str]| {
        let output = exo_ingest(&[&["archive", "verify", "--from", &bad], more].concat(), &[]);
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let (code, told) = verify(&[]);
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("removed by retention before it was sent: v1/"), "{told}");
    assert_eq!(verify(&["--allow-expired"]).0, Some(0));
}

/// Puts the objects of a shard aside: every put fails until they are back.
fn hide(archive: &Path) -> (PathBuf, PathBuf) {
    let shard = find(archive, ".exo").unwrap().parent().unwrap().to_owned();
    let aside = shard.with_extension("aside");
    std::fs::rename(&shard, &aside).unwrap();
    std::fs::write(&shard, "").unwrap();
    (shard, aside)
}

fn restore(shard: &Path, aside: &Path) {
    std::fs::remove_file(shard).unwrap();
    std::fs::rename(aside, shard).unwrap();
}

fn find(dir: &Path, end: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    entries.map(|entry| entry.unwrap().path()).find_map(|path| match path.is_dir() {
        true => find(&path, end),
        false => path.to_str().unwrap().ends_with(end).then_some(path),
    })
}

#[test]
fn no_secret_is_in_a_log_or_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let url = "s3://recordings/exo?X-Amz-Signature=0f0f-signed";
    let options = format!(
        "archive.options=endpoint=http://127.0.0.1:9,allow_http=true,access_key_id=AKIA,\
         secret_access_key={SECRET_KEY}"
    );
    let node = start(&data_dir, &["--archive", url, "--set", &options]);
    let player = node.play("one", 1, Duration::from_millis(5));
    eventually("it fails", || of_sink(&node, "failing", "archive") == 1.0);
    let mut shown = node.log().concat();
    for page in ["/ready", "/status.json", "/metrics", "/"] {
        shown += &node.admin().get(page);
    }
    node.kill();
    drop(player.finish());
    assert!(shown.contains("X-Amz-Signature=***"), "{shown}");
    for secret in [SECRET_KEY, "0f0f-signed"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}
