//! A killed node leaves segments that are allocated and hardly used. The next node gives their
//! space back, and changes nothing that a reader can see.

use crate::EXO_INGEST;
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::verify;
use exo_ingest_harness::{NodeProcess, audit, eventually};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The segments of a data directory, with their sizes and the bytes that they take on the disk.
fn segments(data_dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    let journal = Journal::open(data_dir).expect("a journal");
    let paths = journal.shards().iter().flat_map(|shard| {
        (0..shard.segment_count()).map(|position| shard.path(position)).collect::<Vec<_>>()
    });
    let sizes = paths.map(|path| {
        let metadata = std::fs::metadata(&path).expect("a segment");
        (path, metadata.len(), metadata.blocks() * 512)
    });
    sizes.collect()
}

fn allocated(data_dir: &Path) -> u64 {
    segments(data_dir).iter().map(|(_, _, allocated)| allocated).sum()
}

#[test]
fn what_a_killed_node_had_allocated_is_given_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let mut played = Vec::new();
    for round in 0..2 {
        let args = ["--set", "journal.reserve=1MiB"];
        let node = NodeProcess::start(EXO_INGEST, &data_dir, &args);
        let player = node.play(&format!("call-{round}"), round, Duration::from_millis(2));
        eventually("a segment holds audio", || {
            segments(&data_dir).iter().any(|(path, ..)| {
                let bytes = std::fs::read(path).expect("a segment");
                bytes.get(4_096..64 * 1_024).is_some_and(|part| part.iter().any(|byte| *byte != 0))
            })
        });
        std::thread::sleep(Duration::from_millis(300));
        node.kill();
        played.push(player.finish());
    }
    let (before, sizes) = (allocated(&data_dir), segments(&data_dir));
    let contents: Vec<Vec<u8>> =
        sizes.iter().map(|(path, ..)| std::fs::read(path).expect("a segment")).collect();
    let seen = verify(&Journal::open(&data_dir).expect("a journal"), &mut || ()).expect("readable");
    assert!(before > 2 << 20, "{before} bytes are allocated");

    // What each segment holds, in whole blocks. Its last batch may end with zeros of its own: at
    // most the largest batch, 1 MiB, stays.
    let held = |bytes: &Vec<u8>| {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end == 0 { 0 } else { end.next_multiple_of(4_096) + (1 << 20) }
    };
    let held: usize = contents.iter().map(held).sum();
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=1MiB"]);
    let of_the_dead = || {
        let blocks = |(path, ..): &(PathBuf, u64, u64)| {
            std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
        };
        sizes.iter().map(blocks).sum::<u64>()
    };
    eventually("the space is given back", || of_the_dead() <= held as u64);
    node.kill();
    assert!(of_the_dead() < before, "{before} bytes before, {} after", of_the_dead());
    for ((path, size, _), bytes) in sizes.iter().zip(&contents) {
        let now = std::fs::read(path).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        assert!(now.len() >= end && now.len() as u64 <= *size && now.len().is_multiple_of(4_096));
        assert!(now == bytes[..now.len()], "no byte of {} has changed", path.display());
    }
    let now = verify(&Journal::open(&data_dir).expect("a journal"), &mut || ()).expect("readable");
    assert!(now.is_sound(), "{now}");
    assert_eq!(
        (now.frames, now.batches, now.torn_tails),
        (seen.frames, seen.batches, seen.torn_tails)
    );
    audit(&data_dir, &played);
}
