//! The configuration file of a running node, read again: what may change changes at once and is
//! named, what takes a restart is named, and a bad file changes nothing.

use crate::EXO_INGEST;
use exo_ingest::archive::layout;
use exo_ingest_harness::{
    INTERACTION, NodeProcess, PATIENCE, Peer, Player, TENANT, eventually, mint, wire,
};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A node with a configuration file.
struct Place {
    node: NodeProcess,
    file: PathBuf,
    directory: tempfile::TempDir,
}

impl Place {
    fn start(text: &str) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("exo.toml");
        std::fs::write(&file, text).unwrap();
        let args = ["--set", "journal.reserve=0", "--config", file.to_str().unwrap()];
        let node = NodeProcess::start(EXO_INGEST, &directory.path().join("data"), &args);
        Place { node, file, directory }
    }

    /// Moves another text over the file: it is never half written.
    fn write(&self, text: &str) {
        let next = self.directory.path().join("next.toml");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }

    fn hang_up(&self) {
        let pid = i32::try_from(self.node.pid()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }

    /// Lines of the log so far that hold all of these words.
    fn lines(&self, words: &[&str]) -> Vec<String> {
        let mut log = self.node.log();
        log.retain(|line| words.iter().all(|word| line.contains(word)));
        log
    }

    /// The one line that holds all of these words, once it is there.
    fn line(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?}"), || !self.lines(words).is_empty());
        let mut lines = self.lines(words);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines.remove(0)
    }

    /// Writes another text, asks for a reload, and waits until the node says how it went.
    fn reload(&self, text: &str) {
        let before = self.outcomes();
        self.write(text);
        self.hang_up();
        eventually("the settings are read", || self.outcomes() > before);
    }

    fn outcomes(&self) -> f64 {
        let metrics = self.node.admin().metrics();
        ["taken", "refused"].map(|outcome| metrics.value(&reloads(outcome))).iter().sum()
    }

    /// The status that an upgrade of this tenant gets.
    fn status(&self, tenant: &str) -> u16 {
        let mut peer = Peer::connect(self.node.address());
        peer.send(wire::upgrade_request(&mint(tenant, INTERACTION)).as_bytes());
        peer.response().status
    }

    fn await_status(&self, tenant: &str, status: u16) {
        eventually(&format!("{status} for {tenant}"), || self.status(tenant) == status);
    }

    fn call(&self, interaction: &str) -> Peer {
        let mut peer = Peer::connect(self.node.address());
        peer.upgrade(&mint(TENANT, interaction));
        peer.start(TENANT, interaction);
        peer
    }
}

fn reloads(outcome: &str) -> String {
    format!(r#"exo_ingest_reloads_total{{what="settings",outcome="{outcome}"}}"#)
}

#[test]
fn limits_on_calls_change_and_live_calls_go_on() {
    let place = Place::start("[limits]\ncalls_per_tenant_max = 1\n");
    let mut first = place.call("first");
    assert_eq!(place.status(TENANT), 429);

    place.reload("# Two.\n[limits]\ncalls_per_tenant_max = 2\ntext_size_max = \"9KiB\"\n");
    let line = place.line(&["setting changed", "setting=\"limits.calls_per_tenant_max\""]);
    assert!(line.contains("from=\"1\" to=\"2\"") && line.contains("exo.toml:3"), "{line}");
    let line = place.line(&["setting takes a restart", "setting=\"limits.text_size_max\""]);
    assert!(line.contains("running=\"64KiB\" then=\"9KiB\""), "{line}");
    assert!(line.contains("WARN") && line.contains("exo.toml:4"), "{line}");
    let mut second = place.call("second");
    assert_eq!(place.status(TENANT), 429);

    // One fewer than there are: no call ends, and no other gets in.
    place.reload("[limits]\ncalls_max = 1\n");
    assert_eq!(place.status("another"), 503);
    assert_eq!(place.node.admin().metrics().value("exo_ingest_calls_max"), 1.0);
    let ready = place.node.admin().request("GET", "/ready");
    assert!(ready.status == 503 && ready.body.contains("\"calls_max\":1,"), "{}", ready.body);
    for call in [&mut first, &mut second] {
        call.send_frames(10, 960);
        call.expect_ack(10);
    }
    drop(second);
    assert_eq!(place.status("another"), 503);
    place.reload("");
    place.await_status("another", 101);
    first.send_frames(10, 960);
    first.expect_ack(20);
    assert!(place.node.terminate().success());
}

#[test]
fn the_log_level_and_the_rate_of_addresses_change() {
    let place = Place::start("[limits]\naddress_rate = 1\naddress_burst = 1\n");
    place.await_status(TENANT, 429);
    place.reload("log_level = \"debug\"\n[limits]\naddress_rate = 1\naddress_burst = 1000\n");
    assert_eq!([(); 20].map(|()| place.status(TENANT)), [101; 20]);
    place.reload("log_level = \"debug\"\n[limits]\naddress_rate = 1\naddress_burst = 1\n");
    place.await_status(TENANT, 429);
    place.reload("log_level = \"debug\"\n");
    let _call = place.call("call-1");
    place.line(&["DEBUG", "call started", "call-1"]);

    // The change itself is still written at the old level, and nothing after it.
    place.reload("log_level = \"error\"\n");
    place.line(&["setting changed", "log_level", "from=\"debug\" to=\"error\""]);
    place.reload("log_level = \"error\"\ndrain = \"1s\"\n");
    let _other = place.call("call-2");
    place.reload("log_level = \"debug\"\ndrain = \"1s\"\n");
    place.line(&["setting changed", "log_level", "from=\"error\" to=\"debug\""]);
    for words in ["call-2", "setting=\"drain\""] {
        assert!(place.lines(&[words]).is_empty(), "{:#?}", place.node.log());
    }
    assert!(place.node.terminate().success());
}

#[test]
fn a_bad_file_is_refused_and_the_old_settings_stay() {
    let good = "[limits]\ncalls_per_tenant_max = 1\n";
    let place = Place::start(good);
    let _call = place.call("first");
    let mut refused = 0.0;
    for (text, words) in [
        ("[limits]\ncalls_per_tenant_max = \"many\"\n", "exo.toml:2"),
        ("[limits]\ncalls_per_tenant_max = 2\ncals_max = 5\n", "did you mean `limits.calls_max`?"),
        ("[limits]\ncalls_per_tenant_max = 2\n[timeouts]\nping = \"1h\"\n", "timeouts.ping (1h"),
        ("calls_per_tenant_max = 2\n[limits\n", "is not TOML"),
    ] {
        place.reload(text);
        refused += 1.0;
        let line = place.line(&["settings not reloaded, the old ones stay", words]);
        assert!(line.contains("WARN"), "{line}");
        assert_eq!(place.status(TENANT), 429, "{text}");
        assert_eq!(place.node.admin().metrics().value(&reloads("refused")), refused);
    }
    assert!(place.lines(&["setting changed"]).is_empty());
    // Gone, and back.
    std::fs::remove_file(&place.file).unwrap();
    place.hang_up();
    place.line(&["settings not reloaded", "cannot read the configuration file"]);
    place.reload(good);
    assert_eq!(place.status(TENANT), 429);
    assert!(place.lines(&["setting changed"]).is_empty());
    assert!(place.node.terminate().success());
}

#[test]
fn a_change_is_seen_without_a_signal_and_a_drain_keeps_to_it() {
    let place = Place::start("drain = \"1h\"\n");
    let _calls = ["one", "two", "three"].map(|name| place.call(name));
    place.write("drain = \"0s\"\n");
    place.line(&["setting changed", "setting=\"drain\"", "from=\"1h\" to=\"0s\""]);
    place.line(&["settings reloaded"]);
    let start = Instant::now();
    assert!(place.node.terminate().success());
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_journal_that_grows_is_held_to_a_limit_it_did_not_begin_with() {
    let place = Place::start("");
    let node = (place.node.address(), place.node.pid());
    let player = Player::start(node, "long", 7, Duration::ZERO);
    // Eight segments of 4 MiB.
    eventually("there is a journal", || player.sent_bytes() > 32 << 20);
    assert!(place.lines(&["retention removed the oldest"]).is_empty());
    place.reload("[journal]\nretain_bytes = \"16MiB\"\n");
    eventually("the oldest go", || !place.lines(&["retention removed the oldest"]).is_empty());
    player.finish();
    assert!(place.node.terminate().success());
}

#[test]
fn a_segment_that_is_open_is_sealed_at_the_new_age() {
    let place = Place::start("[journal]\nsegment_age = \"1h\"\n");
    let mut call = place.call("quiet");
    call.send_frames(10, 960);
    call.expect_ack(10);
    let data_dir = place.directory.path().join("data");
    let indexes = || {
        let runs = layout::runs(&data_dir).unwrap();
        let dirs = runs.iter().map(|run| layout::run_dir(&data_dir, run));
        let shards = dirs.flat_map(|dir| {
            let shards = layout::shards(&dir).unwrap().into_iter();
            shards.map(move |shard| layout::shard_dir(&dir, shard)).collect::<Vec<_>>()
        });
        shards.filter(|dir| layout::index_path(dir, 1).exists()).count()
    };
    assert_eq!(indexes(), 0);
    place.reload("[journal]\nsegment_age = \"1s\"\n");
    place.line(&["setting changed", "setting=\"journal.segment_age\""]);
    eventually("it is sealed, and has an index", || indexes() == 1);
    call.send_frames(10, 960);
    call.expect_ack(20);
    // Retention by age seals segments too, and may be reloaded as well.
    place.reload("[journal]\nsegment_age = \"off\"\nretain_age = \"20s\"\n");
    place.line(&["setting changed", "setting=\"journal.retain_age\""]);
    assert!(place.node.terminate().success());
}
