//! A data directory that the first version of the program left: segments with headers of version 1,
//! one of them in a recycled file, and no marks. It can still be listed, exported, checked, and
//! deleted from.

use crate::EXO_INGEST;
use exo_ingest::archive::layout::{index_path, segment_path};
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::{recover, verify};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The call `acme/one` is in a segment of its own, and in what a recycled file held before.
const SAID: &[u8] = b"what was said, and by whom, for a while; 64 bytes and a few more";

/// A copy of the directory, and that of the shard with the recycled file.
fn copy(has_indexes: bool) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/journal-v1");
    copy_all(&from, dir.path(), has_indexes);
    let shard_dir = dir.path().join("run-1-1800001000000000-1/shard-0");
    (dir, shard_dir)
}

fn copy_all(from: &Path, to: &Path, has_indexes: bool) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_all(&path, &copy, has_indexes);
        } else if has_indexes || path.extension().is_none_or(|end| end != "index") {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}

fn calls(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(EXO_INGEST);
    let command = command.arg("calls").args(args).env_clear().env("EXO_INGEST_DATA_DIR", dir);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

#[test]
fn it_is_read_as_before() {
    for has_indexes in [true, false] {
        let (dir, shard_dir) = copy(has_indexes);
        let segment = |id| std::fs::read(segment_path(&shard_dir, id)).unwrap();
        assert_eq!(segment(2)[8..10], [1, 0], "the version");
        let list = calls(dir.path(), &["list"]);
        for name in ["acme/one", "acme/other", "acme/two-0", "acme/two-1", "Bank/odd"] {
            assert!(list.contains(name), "{name}: {list}");
        }
        let wav = dir.path().join("two.wav");
        calls(dir.path(), &["export", "acme/two-1", "-o", wav.to_str().unwrap()]);
        let bytes = std::fs::read(&wav).unwrap();
        let expected: Vec<u8> = (1..=9u8).flat_map(|round| vec![round; 1_920]).collect();
        assert!(bytes[44..] == expected);
        let before = segment(3);
        for round in 0..2 {
            if round == 1 {
                recover(dir.path(), &mut || {}).unwrap();
            }
            let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
            assert_eq!(
                (report.segments, report.calls, report.epochs, report.frames),
                (10, 5, 6, 38),
                "{report}"
            );
            assert_eq!((report.frames_double, report.frames_expired), (2, 80), "{report}");
            assert!(report.is_sound(), "{report}");
        }
        assert!(segment(3) == before, "what a recycled file held stays until a delete");
        assert!(index_path(&shard_dir, 2).exists());
    }
}

#[test]
fn what_a_recycled_file_held_of_a_call_is_deleted_with_it() {
    for has_indexes in [true, false] {
        let (dir, shard_dir) = copy(has_indexes);
        let count = || {
            let bytes = std::fs::read(segment_path(&shard_dir, 3)).unwrap();
            bytes.windows(SAID.len()).filter(|window| *window == SAID).count()
        };
        assert!(count() > 20, "{}", count());
        let text = calls(dir.path(), &["delete", "acme/one"]);
        assert!(text.contains("64 bytes of audio erased in 1 segment"), "{text}");
        assert_eq!(count(), 0);
        let text = calls(dir.path(), &["delete", "acme/one"]);
        assert!(text.contains("0 bytes of audio erased in 0 segments"), "{text}");
        let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
        assert_eq!((report.frames, report.frames_erased, report.is_sound()), (38, 1, true));
    }
}
