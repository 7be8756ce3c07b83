//! Sealed segments get their indexes while the node serves. The next start makes missing ones.

use crate::EXO_INGEST;
use exo_ingest_harness::{NodeProcess, audit, eventually};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ARGS: [&str; 2] = ["--set", "journal.reserve=1MiB"];

/// Files below `directory` with this ending, without the ending.
fn files(directory: &Path, ending: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.insert(path.with_extension(""));
        }
    }
    found
}

/// Where an index says when its segment was ended, and where the checksum of its header is.
const ENDED_AT: std::ops::Range<usize> = 112..120;
const HEADER_CRC: std::ops::Range<usize> = 4092..4096;

/// Removes a segment's index. Returns its bytes, without the time when the segment was ended: only
/// its writer knows that.
fn take(segment: &Path) -> Vec<u8> {
    let path = segment.with_extension("index");
    let mut bytes = std::fs::read(&path).expect("an index");
    std::fs::remove_file(path).expect("an index");
    assert!(bytes[ENDED_AT].iter().any(|byte| *byte != 0), "it says when");
    bytes[ENDED_AT].fill(0);
    bytes[HEADER_CRC].fill(0);
    bytes
}

#[test]
fn sealed_segments_have_indexes_and_missing_ones_are_made_at_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &ARGS);
    let player = node.play("call-0", 1, Duration::from_micros(300));
    // While the node writes the next segment.
    eventually("two segments are sealed and indexed", || files(&data_dir, "index").len() >= 2);
    assert!(node.terminate().success());
    let played = [player.finish()];
    let (segments, indexes) = (files(&data_dir, "segment"), files(&data_dir, "index"));
    assert_eq!(segments, indexes, "every segment of a node that drained has an index");
    audit(&data_dir, &played);

    let noted: Vec<Vec<u8>> = indexes.iter().take(2).map(|segment| take(segment)).collect();
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &ARGS);
    eventually("the missing indexes are made", || files(&data_dir, "index").is_superset(&indexes));
    assert!(node.terminate().success());
    // The index that the node makes as it writes is the index that is made from the disk, to the
    // byte.
    let read: Vec<Vec<u8>> = indexes.iter().take(2).map(|segment| take(segment)).collect();
    assert!(noted == read, "an index of what was written is one of what is there");
    audit(&data_dir, &played);
}
