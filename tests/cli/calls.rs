//! `exo-ingest calls`: list a journal, export audio, delete audio.

use crate::EXO_INGEST;
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::layout::segment_path;
use exo_ingest::archive::lock;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const SEGMENT_SIZE: usize = 64 * 1024;

/// A frame of 100 ms at 8 kHz with one value in all bytes.
pub(crate) fn frame(value: u8) -> Vec<u8> {
    vec![value; 1_600]
}

pub(crate) fn calls(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(EXO_INGEST);
    command.arg("calls").args(args).env_clear().env("EXO_INGEST_DATA_DIR", dir).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Standard output of a command that must succeed.
pub(crate) fn good(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = calls(dir, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    output.stdout
}

pub(crate) fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_slice(&good(dir, &[args, &["--json"]].concat())).unwrap()
}

struct Journal {
    dir: tempfile::TempDir,
    shard_dir: PathBuf,
    image: Image,
}

/// Call `acme/one` with two epochs, 10 frames and then, half a second after the first one has
/// ended, 3; call `a/b`, call `c`, of two rates. Each epoch in a segment of its own.
fn journal() -> Journal {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let one = image.start("acme", "one", 8_000);
    for value in 1..=10 {
        image.pass(100_000);
        image.frame(one, &frame(value));
    }
    image.end(one, 5);
    image.seal();
    image.roll();
    image.pass(500_000);
    let again = image.start("acme", "one", 8_000);
    for value in 11..=13 {
        image.pass(100_000);
        image.frame(again, &[frame(value), vec![0xEE]].concat());
    }
    image.end(again, 1);
    image.seal();
    image.roll();
    for rate in [8_000, 16_000] {
        let mixed = image.start("a/b", "c", rate);
        image.frame(mixed, &frame(rate as u8));
        image.seal();
    }
    let shard_dir = image.store(dir.path()).unwrap();
    Journal { dir, shard_dir, image }
}

fn wav(dir: &Path, args: &[&str]) -> (u32, Vec<u8>) {
    let bytes = good(dir, &[&["export", "-o", "-"], args].concat());
    let (header, samples) = bytes.split_at(44);
    assert_eq!(
        (&header[..4], &header[8..16], &header[36..40]),
        (&b"RIFF"[..], &b"WAVEfmt "[..], &b"data"[..])
    );
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!((word(4) as usize, word(40) as usize), (samples.len() + 36, samples.len()));
    (word(24), samples.to_vec())
}

#[test]
fn a_list_has_a_row_for_each_epoch() {
    let journal = journal();
    let dir = journal.dir.path();
    let output = good(dir, &["list"]);
    let rows: Vec<Vec<&str>> =
        text(&output).lines().map(|line| line.split_whitespace().collect()).collect();
    let headings = "CALL EPOCH START END RATE SECONDS FRAMES GAPS PEER ENDED";
    assert_eq!(rows[0].join(" "), headings);
    let shown = |row: &[&str]| [&row[..2], &row[4..]].concat().join(" ");
    let shown: Vec<String> = rows[1..].iter().map(|row| shown(row)).collect();
    assert_eq!(
        shown,
        [
            "acme/one 1 8000 1.0 10 0 - superseded",
            "acme/one 2 8000 0.3 3 0 - stopped",
            "a%2Fb/c 1 8000 0.1 1 0 - cut",
            "a%2Fb/c 2 16000 0.1 1 0 - cut"
        ]
    );
    assert_eq!(rows[1][2..4], ["2027-01-15T08:16:40.000Z", "2027-01-15T08:16:41.000Z"]);
    assert_eq!(rows[2][2..4], ["2027-01-15T08:16:41.500Z", "2027-01-15T08:16:41.800Z"]);
    assert_eq!(text(&good(dir, &["list", "--tenant", "a/b"])).lines().count(), 3);

    let document = json(dir, &["list"]);
    let epoch = &document["calls"][0]["epochs"][1];
    assert_eq!(
        (&epoch["epoch"], &epoch["frames"], &epoch["bytes"]),
        (&2.into(), &3.into(), &4_800.into())
    );
    assert_eq!((&epoch["ended"], &epoch["seconds"]), (&"stopped".into(), &0.3.into()));
    let document = json(dir, &["show", "a%2Fb/c"]);
    assert_eq!(
        (&document["tenant"], document["epochs"].as_array().unwrap().len()),
        (&"a/b".into(), 2)
    );
    assert_eq!(document["files"][0], segment_path(&journal.shard_dir, 3).to_str().unwrap());
    assert!(
        text(&good(dir, &["show", "acme/one"]))
            .contains("audio    10 frames, 16000 bytes, 1.000 s")
    );
}

#[test]
fn an_export_has_44_bytes_of_header_and_the_audio_as_it_came() {
    let journal = journal();
    let dir = journal.dir.path();
    let expected: Vec<u8> = (1..=13).flat_map(frame).collect();
    assert_eq!(wav(dir, &["acme/one"]), (8_000, expected.clone()));
    assert_eq!(wav(dir, &["acme/one", "--epoch", "2"]), (8_000, expected[16_000..].to_vec()));
    assert_eq!(
        wav(dir, &["--tenant", "a/b", "--interaction", "c", "--epoch", "2"]),
        (16_000, frame(128))
    );

    let path = dir.join("call.wav");
    let output = calls(dir, &["export", "acme/one", "-o", path.to_str().unwrap(), "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["frames"], &document["bytes"], &document["bytes_silence"]),
        (&13.into(), &20_800.into(), &0.into())
    );
    // The first epoch's audio was received 0.5 s and 1 us before, and a frame's receive time is its
    // end.
    let gap = &document["gaps"][0];
    assert_eq!(
        (&gap["reason"], &gap["epoch"], &gap["frames"]),
        (&"between_epochs".into(), &2.into(), &Value::Null)
    );
    assert!((gap["seconds"].as_f64().unwrap() - 0.5).abs() < 1e-4, "{gap}");
    assert!(
        text(&output.stderr).contains("gap: 0.500 s before epoch 2"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(std::fs::read(&path).unwrap()[44..], expected);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!dir.join("call.wav.part").exists());

    let (_, filled) = wav(dir, &["acme/one", "--gaps", "silence"]);
    assert_eq!(filled.len(), expected.len() + 8_000);
    assert_eq!(filled[16_000..24_000], [0; 8_000]);
}

#[test]
fn what_cannot_be_exported_says_what_to_do() {
    let journal = journal();
    for (args, code, words) in [
        (&["export", "a%2Fb/c", "-o", "-"][..], 1, "(epoch 1: 8000 Hz, epoch 2: 16000 Hz)"),
        (&["export", "acme/one", "-o", "-", "--epoch", "3"], 1, "it has 2"),
        (&["export", "acme/on", "-o", "-"], 1, "did you mean acme/one?"),
        (&["export", "no/such", "-o", "-"], 1, "exo-ingest calls list"),
        (&["export", "a/b/c", "-o", "-"], 2, "%2F"),
        (&["export", "acme/one", "-o", "-", "--json"], 2, "--json"),
        (&["export", "acme/one", "-o", "/nonexistent/call.wav"], 1, "/nonexistent/call.wav"),
        (&["export", "-o", "-"], 2, "TENANT/INTERACTION"),
        (&["export", "acme/one", "-o", "-", "--epoch", "0"], 2, "from 1 on"),
        (&["follow", "acme/one"], 1, "exo-ingest calls export acme/one"),
        (&["list", "--data-dir", "/nonexistent"], 1, "--data-dir"),
    ] {
        let output = calls(journal.dir.path(), args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(words), "{args:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn damage_is_3_and_named_and_the_rest_is_exported() {
    let journal = journal();
    let dir = journal.dir.path();
    let report = json(dir, &["verify"]);
    assert_eq!(
        (&report["is_sound"], &report["frames"], &report["segments"]),
        (&true.into(), &15.into(), &3.into())
    );
    assert_eq!(text(&good(dir, &["verify"])).lines().last(), Some("sound"));

    let path = segment_path(&journal.shard_dir, 1);
    let file = File::options().write(true).open(&path).unwrap();
    // In the payload of frame 3: header, call record, two frames, its own header.
    let at = journal.image.segments()[0].batches[0].start + 64 + 192 + 2 * (64 + 1_600) + 64 + 5;
    file.write_all_at(b"x", at as u64).unwrap();
    let output = calls(dir, &["verify"]);
    assert_eq!(output.status.code(), Some(3));
    let found = text(&output.stdout);
    assert!(
        found.contains(path.to_str().unwrap())
            && found.contains("audio of frame 3: payload checksum wrong"),
        "{found}"
    );
    assert!(found.starts_with("acme/one: 1 frame missing in epoch 1\n"), "{found}");
    let output = calls(dir, &["verify", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let incomplete = serde_json::json!([{
        "call": "acme/one", "epochs": [1], "frames_missing": 1
    }]);
    assert_eq!((output.status.code(), &document["calls_incomplete"]), (Some(3), &incomplete));
    assert!(
        text(&output.stderr).contains("in 1 place, with 1 frame missing"),
        "{}",
        text(&output.stderr)
    );
    // The index of an earlier command does not show it. The audio itself does.
    let (file, export) = (dir.join("a.wav"), ["export", "acme/one", "--epoch", "1", "-o"]);
    let args = [&export[..], &[file.to_str().unwrap(), "--json"]].concat();
    let output = calls(dir, &args);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the rest was written"), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["frames"], &document["gaps"][0]["reason"]),
        (&9.into(), &"damaged".into())
    );
    assert_eq!(
        (&document["gaps"][0]["frames"], &document["gaps"][0]["seconds"]),
        (&vec![3, 3].into(), &0.1.into())
    );
    let output = calls(dir, &[&export[..], &["-", "--gaps", "silence"]].concat());
    assert_eq!(output.status.code(), Some(3));
    let filled = &output.stdout[44..];
    assert_eq!((filled.len(), &filled[3_200..4_800]), (16_000, &[0; 1_600][..]));
}

#[test]
fn a_deleted_call_is_gone_and_its_neighbour_is_not() {
    let journal = journal();
    let dir = journal.dir.path();
    let before = wav(dir, &["--tenant", "a/b", "--interaction", "c", "--epoch", "1"]);
    let document = json(dir, &["delete", "acme/one"]);
    assert_eq!(
        (&document["bytes"], &document["segments"], &document["records"]),
        (&20_803.into(), &2.into(), &13.into())
    );
    let output = calls(dir, &["export", "acme/one", "-o", "-"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("was deleted"), "{}", text(&output.stderr));
    assert!(text(&good(dir, &["list"])).contains("superseded, 10 frames deleted"));
    assert_eq!(json(dir, &["verify"])["frames_erased"], 13);
    assert_eq!(wav(dir, &["--tenant", "a/b", "--interaction", "c", "--epoch", "1"]), before);
    for id in 1..=2 {
        let bytes = std::fs::read(segment_path(&journal.shard_dir, id)).unwrap();
        assert!(
            (1..=13).all(|value| !bytes.windows(200).any(|window| window == &frame(value)[..200]))
        );
    }
}

#[test]
fn a_live_call_is_heard_as_it_comes_and_cannot_be_deleted() {
    let journal = journal();
    let dir = journal.dir.path().to_owned();
    let mut live = Image::new(image::run(9), 1, SEGMENT_SIZE).unwrap();
    let epoch = live.start("acme", "live", 8_000);
    live.frame(epoch, &frame(1));
    live.seal();
    let shard_dir = live.store(&dir).unwrap();
    let writer = File::options().write(true).open(segment_path(&shard_dir, 1)).unwrap();
    assert!(lock::try_exclusive(&writer).unwrap());

    assert!(text(&good(&dir, &["list"])).contains("live"));
    let output = calls(&dir, &["delete", "acme/live"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("acme/live is live"), "{}", text(&output.stderr));

    let mut listener = Command::new(EXO_INGEST)
        .args(["calls", "follow", "acme/live", "--from-start", "--data-dir"])
        .arg(&dir)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut heard = listener.stdout.take().unwrap();
    for value in 1..=5 {
        let mut samples = [0; 1_600];
        heard.read_exact(&mut samples).unwrap();
        assert_eq!(samples[..], frame(value));
        if value < 5 {
            live.frame(epoch, &frame(value + 1));
        } else {
            live.end(epoch, 1);
        }
        live.seal();
        let segment = &live.segments()[0];
        let batch = segment.batches.last().unwrap().clone();
        writer.write_all_at(&segment.bytes[batch.clone()], batch.start as u64).unwrap();
    }
    let mut rest = Vec::new();
    heard.read_to_end(&mut rest).unwrap();
    assert_eq!((rest.len(), listener.wait().unwrap().code()), (0, Some(0)));

    // A call that is over, in a segment that another process holds.
    let held = File::open(segment_path(&journal.shard_dir, 1)).unwrap();
    assert!(lock::try_exclusive(&held).unwrap());
    let output = calls(&dir, &["delete", "acme/one"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing was erased"), "{}", text(&output.stderr));
}
