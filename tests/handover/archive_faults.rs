//! A node whose archive fails in every way that we know: what was acked is in it afterwards, once,
//! byte for byte, and calls went on.

use crate::EXO_INGEST;
use crate::journal::{CALLS, Journal};
use crate::proxy::{Mode, Proxy};
use crate::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use exo_ingest_harness::{LoopDisk, NodeProcess, Played, Player, TENANT, audio, audit, eventually};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

const URL: &str = "s3://recordings/exo";
const NODE: &str = "edge-7";

/// A node that sends to an archive, and the calls that it takes.
struct Scene {
    dir: TempDir,
    url: String,
    /// Options of the store for commands, which find it where it is.
    options: Vec<String>,
    node: NodeProcess,
    players: Vec<Player>,
}

impl Scene {
    /// `direct`: the options for commands; `options`: those for the node.
    fn start(url: &str, direct: Vec<String>, options: &[String]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("archive.options={}", options.join(","));
        let mut args = vec!["--archive", url, "--set", "journal.segment_age=2s"];
        args.extend(["--set", "forward.node=edge-7"]);
        // A directory has no options.
        if !direct.is_empty() {
            args.extend(["--set", &options]);
        }
        let node = NodeProcess::start(EXO_INGEST, &dir.path().join("data"), &args);
        let pause = Duration::from_millis(8);
        let players = ["one", "two", "three"].into_iter().enumerate();
        let players = players.map(|(seed, name)| node.play(name, seed as u64, pause)).collect();
        let scene = Scene { dir, url: url.to_owned(), options: direct, node, players };
        scene.await_objects(1.0);
        scene
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn metric(&self, name: &str) -> f64 {
        let series = format!("exo_ingest_sink_{name}{{sink=\"archive\"}}");
        self.node.admin().metrics().value(&series)
    }

    /// Waits until the archive has acknowledged so many objects more.
    fn await_objects(&self, more: f64) {
        let before = self.metric("objects_total");
        eventually("the archive takes objects", || self.metric("objects_total") >= before + more);
    }

    /// Waits until `/ready` says this of the archive.
    fn await_told(&self, words: &str) {
        eventually(&format!("/ready says {words:?}"), || {
            // A node on a busy disk may be not ready for a moment.
            let ready = self.node.admin().request("GET", "/ready").body;
            ready.contains("sink_fails") && ready.contains(words)
        });
    }

    /// Waits until each call has some ACKs more: the archive does not hold it up.
    fn assert_calls_go_on(&self) {
        let before: Vec<u64> = self.players.iter().map(Player::acked).collect();
        eventually("the calls go on", || {
            self.players.iter().zip(&before).all(|(player, acked)| player.acked() >= acked + 30)
        });
    }

    /// Waits until nothing fails any more, ends the node, and checks the journal and the archive.
    fn finish(self) {
        eventually("the archive takes the journal again", || self.metric("failing") == 0.0);
        self.await_objects(1.0);
        let Scene { dir, url, options, node, players } = self;
        assert!(node.terminate().success());
        let played: Vec<Played> = players.into_iter().map(Player::finish).collect();
        let data_dir = dir.path().join("data");
        assert!(audit(&data_dir, &played).acked > 100);
        // A node that ends waits for ten seconds. The rest is for the next start, or for this.
        ship(&data_dir, &url, &options, None);
        assert_in_archive(&url, &options, &played);
    }
}

/// Runs a command with the options of a store.
fn exo_ingest(args: &[&str], options: &[String]) -> Output {
    let options = options.iter().flat_map(|option| ["--sink-option", option]);
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(args).args(options).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sends what the archive lacks. Returns how many slices these were.
fn ship(data_dir: &Path, url: &str, options: &[String], cursor: Option<&Path>) -> u64 {
    let args = ["ship", "--data-dir", data_dir.to_str().unwrap(), "--to", url, "--node", NODE];
    let cursor = cursor.map(|path| ["--cursor", path.to_str().unwrap()]);
    let cursor = cursor.iter().flatten().copied();
    let args: Vec<&str> = args.into_iter().chain(["--json"]).chain(cursor).collect();
    let output = exo_ingest(&args, options);
    assert_code(&output, 0);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["slices"].as_u64().unwrap()
}

/// Every acked frame is in the archive once, in order, byte for byte, and the archive is sound.
#[track_caller]
fn assert_in_archive(url: &str, options: &[String], played: &[Played]) {
    assert_code(&exo_ingest(&["archive", "verify", "--from", url], options), 0);
    for call in played {
        let name = format!("{TENANT}/{}", call.interaction);
        let output = exo_ingest(&["archive", "export", &name, "--from", url, "-o", "-"], options);
        assert_code(&output, 0);
        let start = output.stdout.windows(4).position(|word| word == b"data").unwrap();
        let mut found = &output.stdout[start + 8..];
        let mut frames = 0;
        for seq in 1..=call.sent {
            let sent = audio(call.seed, seq);
            // Whole samples are kept.
            let sent = &sent[..sent.len() & !1];
            let Some(rest) = found.strip_prefix(sent) else { break };
            (found, frames) = (rest, seq);
            if found.is_empty() && frames >= call.acked {
                break;
            }
        }
        assert!(frames >= call.acked, "LOST: {name} ends with frame {frames}: {call:?}");
        assert!(found.is_empty(), "CHANGED: {name} has {} bytes more", found.len());
    }
}

/// The options for a server behind a proxy.
fn through(proxy: &Proxy, store: &Seaweed) -> Vec<String> {
    let endpoint = format!("endpoint=http://127.0.0.1:{}", proxy.port());
    let others = store.options().into_iter().filter(|option| !option.starts_with("endpoint="));
    others.chain([endpoint]).collect()
}

/// A node before a store behind a proxy. A request waits two seconds for its answer.
fn behind_a_proxy(store: &Seaweed) -> (Scene, Proxy) {
    let proxy = Proxy::start(store.port(), Mode::Pass);
    let mut options = through(&proxy, store);
    options.push("timeout=2s".to_owned());
    (Scene::start(URL, store.options(), &options), proxy)
}

#[test]
fn a_store_that_is_away_for_long_gets_everything_after_its_return() {
    let Some(store) = Seaweed::start() else { return };
    let mut options = store.options();
    options.push("timeout=2s".to_owned());
    let scene = Scene::start(URL, store.options(), &options);
    let pid = Pid::from_raw(store.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    scene.await_told("operation timed out");
    scene.assert_calls_go_on();
    // Longer than some requests and the pauses between them.
    std::thread::sleep(Duration::from_secs(6));
    scene.assert_calls_go_on();
    kill_process(pid, Signal::CONT).unwrap();
    scene.finish();
}

#[test]
fn a_store_that_is_slow_gets_everything_in_the_end() {
    let Some(store) = Seaweed::start() else { return };
    let proxy = Proxy::start(store.port(), Mode::Pass);
    let scene = Scene::start(URL, store.options(), &through(&proxy, &store));
    let (bytes, began) = (scene.metric("acknowledged_bytes_total"), std::time::Instant::now());
    scene.await_objects(2.0);
    let rate = (scene.metric("acknowledged_bytes_total") - bytes) / began.elapsed().as_secs_f64();
    proxy.set(Mode::Slow((rate / 10.0) as u64));
    scene.assert_calls_go_on();
    std::thread::sleep(Duration::from_secs(4));
    scene.assert_calls_go_on();
    assert!(proxy.hits() > 0);
    proxy.set(Mode::Pass);
    scene.finish();
}

#[test]
fn answers_that_are_errors_are_told_and_waited_out() {
    let Some(store) = Seaweed::start() else { return };
    let (scene, proxy) = behind_a_proxy(&store);
    for (status, code, words) in [
        ("500 Internal Server Error", "InternalError", "HTTP 500, InternalError"),
        ("429 Too Many Requests", "SlowDown", "HTTP 429, SlowDown"),
        ("507 Insufficient Storage", "InsufficientStorage", "HTTP 507, InsufficientStorage"),
        ("403 Forbidden", "AccessDenied", "check the credentials"),
        ("404 Not Found", "NoSuchBucket", "create the bucket"),
        ("400 Bad Request", "RequestTimeTooSkewed", "RequestTimeTooSkewed"),
    ] {
        proxy.set(Mode::Answer(status, code));
        scene.await_told(words);
        assert!(proxy.hits() > 0);
        scene.assert_calls_go_on();
        proxy.set(Mode::Pass);
        scene.await_objects(1.0);
    }
    scene.finish();
}

#[test]
fn a_store_that_never_answers_is_told_and_waited_out() {
    let Some(store) = Seaweed::start() else { return };
    let (scene, proxy) = behind_a_proxy(&store);
    proxy.set(Mode::Silent);
    scene.await_told("operation timed out");
    scene.assert_calls_go_on();
    assert!(proxy.hits() > 0);
    proxy.set(Mode::Pass);
    scene.finish();
}

#[test]
fn a_store_that_ignores_create_only_has_the_same_bytes_after_two_senders() {
    let Some(store) = Seaweed::start_open() else { return };
    // Slow, so that both have asked what is there before one of them has sent all.
    let proxy = Proxy::start(store.port(), Mode::Slow(20_000));
    // Without a signature: it would cover the header that is dropped.
    let options = [&through(&proxy, &store)[..], &["skip_signature=true".to_owned()]].concat();
    let journal = Journal::new(60);
    let (data_dir, sent) = (journal.data(), Mutex::new(0));
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let (cursor, sent) = (journal.beside(name), &sent);
            let (data_dir, options) = (&data_dir, &options);
            scope.spawn(move || {
                let slices = ship(data_dir, URL, options, Some(&cursor));
                *sent.lock().unwrap() += slices;
            });
        }
        std::thread::sleep(Duration::from_secs(3));
        proxy.set(Mode::DropCreateOnly);
    });
    assert!(proxy.hits() > 0, "the header was there");
    let output = exo_ingest(&["archive", "verify", "--from", URL, "--json"], &options);
    assert_code(&output, 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(sent.into_inner().unwrap() > report["slices"].as_u64().unwrap(), "some came twice");
    for call in CALLS {
        let output = exo_ingest(&["archive", "export", call, "--from", URL, "-o", "-"], &options);
        assert_code(&output, 0);
        assert!(output.stdout == journal.wav(call), "{call}");
    }
}

#[test]
fn a_full_disk_of_the_archive_is_waited_out() {
    let Some(disk) = LoopDisk::make(160 << 20, "") else { return };
    let archive = disk.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let url = format!("file://{}", archive.display());
    let scene = Scene::start(&url, Vec::new(), &[]);
    let filler = disk.path().join("filler");
    fill_up(&filler);
    scene.await_told("No space left");
    scene.assert_calls_go_on();
    std::fs::remove_file(&filler).unwrap();
    scene.await_objects(1.0);
    scene.finish();
    let left = crate::journal::files(&archive);
    let kinds = ["exo", "ended"];
    let is_ours =
        |path: &PathBuf| kinds.iter().any(|kind| path.extension().is_some_and(|it| it == *kind));
    assert!(left.iter().all(is_ours), "nothing half written is left: {left:?}");
}

#[test]
fn a_store_whose_disk_is_full_is_waited_out() {
    let Some(disk) = LoopDisk::make(2 << 30, "") else { return };
    let Some(mut store) = Seaweed::start_on(&disk.path()) else { return };
    let scene = Scene::start(URL, store.options(), &store.options());
    let filler = disk.path().join("filler");
    fill_up(&filler);
    scene.await_told("HTTP 5");
    scene.assert_calls_go_on();
    std::fs::remove_file(&filler).unwrap();
    // It looks at its disk once a minute, and when it starts.
    store.kill();
    store.restart();
    scene.await_objects(1.0);
    scene.finish();
}

/// Takes all room of a disk, also what is kept for root.
fn fill_up(filler: &Path) {
    let (file, piece) = (File::create(filler).unwrap(), 1 << 20);
    let more = |at| fallocate(&file, FallocateFlags::empty(), at * piece, piece).is_ok();
    assert!((0..).take_while(|at| more(*at)).count() > 0);
}

#[test]
fn a_store_that_loses_what_it_acknowledged_is_found_out_and_gets_it_again() {
    let Some(mut store) = Seaweed::start() else { return };
    let scene = Scene::start(URL, store.options(), &store.options());
    scene.await_objects(1.0);
    store.kill();
    let copy = store.copy_files();
    store.restart();
    // These are acknowledged, and lost.
    scene.await_objects(3.0);
    store.kill();
    store.roll_back(&copy);
    store.restart();
    scene.await_objects(2.0);
    let options = store.options();
    let found = exo_ingest(&["archive", "verify", "--from", URL, "--json"], &options);
    assert_code(&found, 3);
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    let holes = report["holes"].as_array().unwrap();
    assert!(holes.iter().any(|hole| hole["reason"] == "missing"), "{report}");
    // The node's cursor says that it is there. Without one the store is asked.
    let cursor = scene.dir.path().join("new.cursor");
    assert!(ship(&scene.data_dir(), URL, &options, Some(&cursor)) > 0);
    scene.finish();
}

#[test]
fn keys_that_change_while_a_node_runs_are_read_from_their_files() {
    let Some(mut store) = Seaweed::start() else { return };
    let keys = tempfile::tempdir().unwrap();
    let secret = keys.path().join("secret");
    std::fs::write(&secret, format!("{SECRET_KEY}\n")).unwrap();
    let rest = store.options().into_iter().filter(|option| !option.contains("_key"));
    let mut options: Vec<String> = rest.collect();
    options.push(format!("access_key_id={ACCESS_KEY}"));
    options.push(format!("secret_access_key=@{}", secret.display()));
    let scene = Scene::start(URL, options.clone(), &options);
    store.kill();
    store.change_secret("another secret of tests");
    store.restart();
    scene.await_told("check the credentials");
    scene.assert_calls_go_on();
    std::fs::write(&secret, "another secret of tests\n").unwrap();
    scene.await_objects(1.0);
    scene.finish();
}
