//! `--verify` and `verify`: what a real node wrote passes, and no damage does that cost a promised
//! byte.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use exo_ingest_harness::TENANT;
use serde_json::Value;

use crate::journal::{Image, Sharded, copy, node, node_binary, run, segments, verify};

/// Some 20 MB of audio in two seconds, in segments of 4 MiB.
const MUCH: [&str; 10] = [
    "--calls",
    "100",
    "--ramp",
    "100ms",
    "--duration",
    "2s",
    "--sample-rate",
    "48000",
    "--frame-ms",
    "105",
];

/// Bytes of a frame of [`MUCH`]: no whole number of lines.
const FRAME_SIZE: usize = 10_080;

fn count(json: &Value, name: &str) -> u64 {
    json[name].as_u64().unwrap_or_else(|| panic!("no {name} in {json:#}"))
}

#[test]
fn beside_a_live_node_all_of_it_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let node = node(&data_dir, &["--set", "limits.calls_max=200"]);
    let flags = ["--verify", data_dir.to_str().unwrap(), "--duration", "1s", "--frame-ms", "20"];
    for round in 0..2 {
        // The second time with the same ids: what the first run left is not this one's.
        let (code, json) = run(node.address(), &[&flags[..], &["--calls", "20"]].concat());
        assert_eq!(code, 0, "round {round}: {json:#}");
        let verified = &json["verify"];
        assert_eq!(
            count(verified, "frames_promised"),
            count(&json["counts"], "frames"),
            "stopped promises all"
        );
        assert_eq!(
            count(verified, "frames_equal"),
            count(verified, "frames_promised"),
            "{verified:#}"
        );
        assert_eq!(count(verified, "bytes_equal"), 960 * count(verified, "frames_equal"));
        assert_eq!(verified["faults"], serde_json::json!({}));
    }
    // Without `stop` only acks promise; what came after the last one may be on its way to the disk.
    let (code, json) = run(node.address(), &[&flags[..], &["--calls", "20", "--no-stop"]].concat());
    assert_eq!(code, 0, "{json:#}");
    let (equal, beyond) =
        (count(&json["verify"], "frames_equal"), count(&json["verify"], "frames_beyond"));
    assert_eq!(equal, 10 * count(&json["counts"], "acks"));
    assert!(equal + beyond <= count(&json["counts"], "frames"), "{json:#}");
    // Audio without numbers in it verifies too, and the result says that it proves less.
    let (code, json) = run(node.address(), &[&flags[..], &["--audio", "sine"]].concat());
    assert_eq!((code, &json["verify"]["audio_is_distinct"]), (0, &Value::Bool(false)), "{json:#}");
}

#[test]
fn all_shards_of_a_node_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let node = Sharded::start(&data_dir, 3);
    let flags = [
        "--calls",
        "30",
        "--duration",
        "1s",
        "--frame-ms",
        "20",
        "--verify",
        data_dir.to_str().unwrap(),
    ];
    let (code, json) = run(node.address, &flags);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(
        count(&json["verify"], "frames_equal"),
        count(&json["counts"], "frames"),
        "{json:#}"
    );
    assert!(count(&json["verify"], "segments") >= 2, "30 calls on one of three shards: {json:#}");
}

#[test]
fn another_nodes_journal_verifies_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (directory.path().join("ours"), directory.path().join("other"));
    let (node, _other) = (node(&ours, &[]), node(&other, &[]));
    let (code, json) =
        run(node.address(), &["--verify", other.to_str().unwrap(), "--duration", "500ms"]);
    assert_eq!(code, 2, "{json:#}");
    assert_eq!(
        (count(&json["verify"], "frames_equal"), json["verdict"].as_str()),
        (0, Some("fail"))
    );
}

#[test]
fn what_a_killed_node_promised_is_found_by_a_later_verify() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, out) = (directory.path().join("data"), directory.path().join("out"));
    let node = node(&data_dir, &[]);
    let address = node.address();
    let much = [
        "--calls",
        "100",
        "--ramp",
        "100ms",
        "--duration",
        "6s",
        "--sample-rate",
        "48000",
        "--frame-ms",
        "105",
    ];
    let flags = [&much[..], &["--out", out.to_str().unwrap()]].concat();
    let (code, json) = thread::scope(|scope| {
        let playing = scope.spawn(|| run(address, &flags));
        // One is kept ready ahead: three are full, and ten frames of each call are acked in the
        // second.
        exo_ingest_harness::eventually("audio fills three segments", || {
            segments(&data_dir).len() > 4
        });
        node.kill();
        playing.join().unwrap()
    });
    assert_eq!(code, 2, "{json:#}");
    let (code, json) = verify(&out, &data_dir, &[]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(count(&json, "frames_equal"), count(&json, "frames_promised"), "{json:#}");
}

/// Passes connections on, and cuts those in the first half second after 300 ms.
fn cutting_proxy(node: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let begun = AtomicU64::new(0);
        for stream in listener.incoming() {
            let (client, server) = (stream.unwrap(), TcpStream::connect(node).unwrap());
            // The first one is the knock; then each call's first connection.
            let is_cut = (1..=8).contains(&begun.fetch_add(1, Ordering::Relaxed));
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), client.try_clone().unwrap()),
            ] {
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
            if is_cut {
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(300));
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn each_connection_of_a_call_is_held_against_what_it_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, out) = (directory.path().join("data"), directory.path().join("out"));
    let node = node(&data_dir, &[]);
    let proxy = cutting_proxy(node.address());
    let flags = [
        "--reconnect",
        "--reconnect-interval",
        "50ms",
        "--calls",
        "8",
        "--frame-ms",
        "20",
        "--duration",
        "1500ms",
    ];
    let paths = ["--verify", data_dir.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let (code, json) = run(proxy, &[&flags[..], &paths].concat());
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(count(&json["counts"], "reconnects"), 8);
    let ledger: Value =
        serde_json::from_str(&fs::read_to_string(out.join("ledger.json")).unwrap()).unwrap();
    let entries = ledger["entries"].as_array().unwrap();
    assert!(entries.iter().filter(|entry| entry["frames_before"] != 0).count() >= 8, "{entries:?}");
    assert_eq!(
        count(&json["verify"], "frames_equal"),
        count(&json["verify"], "frames_promised"),
        "{json:#}"
    );
    // A ledger whose second connections have other frames matches nothing.
    edit_ledger(&out, |entry| {
        if entry["frames_before"] != 0 {
            entry["frames_before"] = (entry["frames_before"].as_u64().unwrap() + 1).into();
        }
    });
    let (code, json) = verify(&out, &data_dir, &[]);
    assert_eq!(code, 2, "{json:#}");
    assert!(count(&json, "frames_different") > 0, "{json:#}");
}

fn edit_ledger(out: &Path, mut edit: impl FnMut(&mut Value)) {
    let path = out.join("ledger.json");
    let mut ledger: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    ledger["entries"].as_array_mut().unwrap().iter_mut().for_each(&mut edit);
    fs::write(path, ledger.to_string()).unwrap();
}

#[test]
fn what_retention_removes_has_expired_and_is_not_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, out) = (directory.path().join("data"), directory.path().join("out"));
    let node = node(&data_dir, &["--retain-bytes", "8MiB"]);
    let (code, json) =
        run(node.address(), &[&MUCH[..], &["--out", out.to_str().unwrap()]].concat());
    assert_eq!(code, 0, "{json:#}");
    // Room was made while the calls went on: before each segment that the limit had none for.
    let (code, json) = verify(&out, &data_dir, &[]);
    assert_eq!(code, 0, "{json:#}");
    assert!(count(&json, "frames_expired") > 0, "{json:#}");
    let kept = count(&json, "frames_equal") + count(&json, "frames_expired");
    assert_eq!(kept, count(&json, "frames_promised"), "{json:#}");
}

#[test]
fn what_was_written_before_the_run_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let node = node(&data_dir, &[]);
    let flags = [&MUCH[..], &["--verify", data_dir.to_str().unwrap()]].concat();
    let (code, first) = run(node.address(), &flags);
    assert_eq!((code, count(&first["verify"], "segments_older")), (0, 0), "{first:#}");
    let (code, second) = run(node.address(), &flags);
    assert_eq!(code, 0, "{second:#}");
    let verified = &second["verify"];
    assert!(count(verified, "segments_older") >= 3, "{verified:#}");
    assert_eq!(count(verified, "frames_equal"), count(&second["counts"], "frames"), "{verified:#}");
}

/// A run's files and the journal of the node, which is gone, ready to be copied and damaged.
struct Recorded {
    directory: tempfile::TempDir,
    promised: u64,
}

impl Recorded {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (data_dir, out) = (directory.path().join("data"), directory.path().join("out"));
        let node = node(&data_dir, &[]);
        let (code, json) =
            run(node.address(), &[&MUCH[..], &["--out", out.to_str().unwrap()]].concat());
        assert_eq!(code, 0, "{json:#}");
        assert!(node.terminate().success());
        let (code, json) = verify(&out, &data_dir, &["--threads", "2"]);
        assert_eq!(code, 0, "{json:#}");
        let promised = count(&json, "frames_promised");
        assert_eq!(count(&json, "frames_equal"), promised);
        assert!(
            segments(&data_dir).len() >= 4,
            "too little audio to take a segment away: {json:#}"
        );
        Self { directory, promised }
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// Verifies a copy that `damage` was done to.
    fn after(&self, damage: impl FnOnce(&[PathBuf])) -> (i32, Value) {
        let copied = self.directory.path().join("copy");
        copy(&self.directory.path().join("data"), &copied);
        damage(&segments(&copied));
        let verified = verify(&self.out(), &copied, &[]);
        fs::remove_dir_all(copied).unwrap();
        verified
    }

    #[track_caller]
    fn fails(&self, kind: &str, damage: impl FnOnce(&[PathBuf])) -> Value {
        let (code, json) = self.after(damage);
        assert_eq!(code, 2, "{json:#}");
        assert!(json["faults"][kind]["count"].as_u64() > Some(0), "no {kind} in {json:#}");
        json
    }
}

/// The first example of a kind of fault.
fn example<'a>(json: &'a Value, kind: &str) -> &'a str {
    json["faults"][kind]["examples"][0].as_str().unwrap_or_else(|| panic!("no {kind} in {json:#}"))
}

#[test]
fn no_damage_passes_that_cost_a_promised_byte() {
    let recorded = Recorded::make();
    let (code, json) = recorded.after(|_| {});
    assert_eq!((code, count(&json, "frames_equal")), (0, recorded.promised), "{json:#}");
    flipped_bytes(&recorded);
    erased_audio(&recorded);
    damaged_headers(&recorded);
    missing_files(&recorded);
    what_was_never_sent(&recorded);
}

fn flipped_bytes(recorded: &Recorded) {
    for is_sealed in [false, true] {
        let mut seq = 0;
        let json = recorded.fails("different", |segments| {
            let mut image = Image::read(&segments[1]);
            let record = image.whole_frame(100_000, FRAME_SIZE);
            seq = record.seq;
            image.bytes[record.payload().start + 5_000] ^= 1;
            if is_sealed {
                image.seal(&record);
            }
            image.write();
        });
        let found = example(&json, "different");
        let fault = if is_sealed { "is not what was sent" } else { "payload's checksum wrong" };
        assert!(
            found.starts_with("load-") && found.contains(&format!("frame {seq} {fault}")),
            "{found}"
        );
        assert_eq!(
            (count(&json, "frames_different"), count(&json, "frames_missing")),
            (1, 0),
            "{json:#}"
        );
        assert_eq!(count(&json, "frames_equal"), recorded.promised - 1);
    }
    // Two calls' frames of one moment change places, all checksums right.
    let json = recorded.fails("different", |segments| {
        let mut image = Image::read(&segments[1]);
        let one = image.whole_frame(100_000, FRAME_SIZE);
        let is_other = |record: &&crate::journal::AudioRecord| {
            record.call != one.call && record.length == FRAME_SIZE
        };
        let other =
            *image.audio().iter().filter(|record| record.at > one.at).find(is_other).unwrap();
        let first = image.bytes[one.payload()].to_vec();
        image.bytes.copy_within(other.payload(), one.payload().start);
        image.bytes[other.payload()].copy_from_slice(&first);
        image.seal(&one);
        image.seal(&other);
        image.write();
    });
    assert_eq!(count(&json, "frames_different"), 2, "{json:#}");
    assert!(example(&json, "different").contains("it holds frame"), "{json:#}");
    // A byte after a payload is padding, and must be zero.
    let json = recorded.fails("different", |segments| {
        let mut image = Image::read(&segments[1]);
        let record = image.whole_frame(100_000, FRAME_SIZE);
        image.bytes[record.payload().end] ^= 1;
        image.write();
    });
    assert!(example(&json, "different").contains("padding is not zero"), "{json:#}");
}

fn erased_audio(recorded: &Recorded) {
    let json = recorded.fails("different", |segments| {
        let data_dir = segments[0].ancestors().nth(3).unwrap();
        let mut erase = Command::new(node_binary());
        erase
            .env_clear()
            .args(["calls", "delete", &format!("{TENANT}/load-3"), "--data-dir"])
            .arg(data_dir);
        assert!(erase.output().unwrap().status.success());
    });
    let found = example(&json, "different");
    assert!(found.starts_with("load-3: frame 1 erased"), "{found}");
    assert_eq!(count(&json, "frames_missing"), 0, "its headers are all sound: {json:#}");
    assert_eq!(
        count(&json, "frames_different") + count(&json, "frames_equal"),
        recorded.promised,
        "{json:#}"
    );
}

fn damaged_headers(recorded: &Recorded) {
    for (what, at_of) in [
        (
            "record header's checksum",
            (|record| record.at + 40) as fn(&crate::journal::AudioRecord) -> usize,
        ),
        ("batch header's checksum", |record| record.batch + 33),
        ("checksum over the record headers", |record| record.batch + 56),
        ("segment header's checksum", |_| 100),
    ] {
        let json = recorded.fails("missing", |segments| {
            let mut image = Image::read(&segments[1]);
            let record = image.whole_frame(100_000, FRAME_SIZE);
            let at = at_of(&record);
            image.bytes[at] ^= 1;
            if what.contains("over the record headers") {
                let crc = crc32c::crc32c(&image.bytes[record.batch..record.batch + 60]);
                image.bytes[record.batch + 60..record.batch + 64]
                    .copy_from_slice(&crc.to_le_bytes());
            }
            image.write();
        });
        assert!(example(&json, "damaged").contains(what), "{json:#}");
        assert!(example(&json, "missing").starts_with("load-"), "{json:#}");
        assert_eq!(
            count(&json, "frames_equal") + count(&json, "frames_missing"),
            recorded.promised,
            "{json:#}"
        );
    }
}

fn missing_files(recorded: &Recorded) {
    let json = recorded.fails("missing", |segments| fs::remove_file(&segments[1]).unwrap());
    assert!(example(&json, "damaged").contains("segments 2 to 2 are not there"), "{json:#}");
    assert_eq!(count(&json, "frames_expired"), 0, "{json:#}");

    // Nor has what is lost at the beginning of a first segment that is still there.
    let json = recorded.fails("missing", |segments| {
        let mut image = Image::read(&segments[0]);
        let batches = image.batches();
        for (at, _) in &batches[..batches.len() / 2] {
            image.bytes[*at] ^= 1;
        }
        image.write();
    });
    assert_eq!(count(&json, "frames_expired"), 0, "{json:#}");

    // What retention takes away is the oldest.
    let (code, json) = recorded
        .after(|segments| segments[..2].iter().for_each(|path| fs::remove_file(path).unwrap()));
    assert_eq!(code, 0, "{json:#}");
    assert!(count(&json, "frames_expired") > 0, "{json:#}");
    assert_eq!(
        count(&json, "frames_equal") + count(&json, "frames_expired"),
        recorded.promised,
        "{json:#}"
    );

    // Audio that is lost later than that has not expired, even where nothing older of its call is
    // left.
    let json = recorded.fails("missing", |segments| {
        fs::remove_file(&segments[0]).unwrap();
        let mut image = Image::read(&segments[1]);
        let batches = image.batches();
        for (at, _) in &batches[batches.len() / 2..] {
            image.bytes[*at] ^= 1;
        }
        image.write();
    });
    assert!(count(&json, "frames_expired") > 0, "{json:#}");

    // The last segment that holds audio. There may be a prepared one after it.
    let last = |segments: &[PathBuf]| {
        segments.iter().rposition(|path| !Image::read(path).audio().is_empty()).unwrap()
    };
    let json = recorded.fails("missing", |segments| {
        let path = &segments[last(segments)];
        // After its last audio there may be batches with the ends of calls alone.
        let at = Image::read(path).audio().last().unwrap().batch;
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(at as u64 + 1_000).unwrap();
    });
    assert_eq!(count(&json, "frames_expired"), 0, "{json:#}");
    recorded.fails("missing", |segments| fs::remove_file(&segments[last(segments)]).unwrap());

    let (code, json) =
        recorded.after(|segments| segments.iter().for_each(|path| fs::remove_file(path).unwrap()));
    assert_eq!((code, count(&json, "frames_equal")), (2, 0), "{json:#}");
    assert_eq!(
        count(&json, "frames_missing"),
        recorded.promised,
        "nothing says that it has expired: {json:#}"
    );
}

fn what_was_never_sent(recorded: &Recorded) {
    let text = fs::read_to_string(recorded.out().join("ledger.json")).unwrap();
    // On a slow machine a call may have sent nothing: take one that sent as much as any.
    let ledger: Value = serde_json::from_str(&text).unwrap();
    let sent = |entry: &&Value| entry["sent"].as_u64().unwrap();
    let most = ledger["entries"].as_array().unwrap().iter().max_by_key(sent).unwrap();
    let call = most["call"].as_u64().unwrap();
    edit_ledger(&recorded.out(), |entry| {
        if entry["call"] == call {
            let sent = entry["sent"].as_u64().unwrap() - 2;
            (entry["sent"], entry["promised"]) = (sent.into(), sent.into());
        }
    });
    let json = recorded.fails("unexpected", |_| {});
    assert_eq!(
        (count(&json, "frames_unexpected"), count(&json, "frames_missing")),
        (2, 0),
        "{most}: {json:#}"
    );
    assert!(example(&json, "unexpected").starts_with(&format!("load-{call}: frame ")), "{json:#}");
    fs::write(recorded.out().join("ledger.json"), text).unwrap();
}
