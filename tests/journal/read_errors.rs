//! A disk with sectors that it cannot read, wherever they are in a journal: everything else can
//! still be listed, exported and deleted, and what is lost is named. The disk is a FUSE filesystem,
//! so these tests need root.

use crate::EXO_INGEST;
use exo_ingest::archive::image::{self, Image, Segment};
use exo_ingest::archive::layout::{index_path, segment_path};
use exo_ingest::archive::recovery::recover;
use exo_ingest::call::Epoch;
use exo_ingest_harness::BadDisk;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SEGMENT_SIZE: usize = 128 * 1024;

const BLOCK: u64 = 4_096;

/// Frames of each call.
const FRAMES: usize = 40;

/// Three calls over many segments, on a disk that a test damages.
struct Sample {
    disk: BadDisk,
    image: Image,
    /// The data directory on the disk with bad sectors, and the directory of its segments in it.
    data_dir: PathBuf,
    shard_dir: PathBuf,
    directory: tempfile::TempDir,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

fn audio(call: usize, seq: usize) -> Vec<u8> {
    (0..9_600).map(|at| (at as u8).wrapping_mul(3) ^ (call * 41 + seq) as u8).collect()
}

fn sample() -> Option<Sample> {
    let directory = tempfile::tempdir().unwrap();
    let (real, mounted) = (directory.path().join("real"), directory.path().join("mounted"));
    std::fs::create_dir(&mounted).unwrap();
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epochs: Vec<Epoch> = NAMES.iter().map(|name| image.start("acme", name, 8_000)).collect();
    for seq in 0..FRAMES {
        image.pass(600_000);
        for (call, epoch) in epochs.iter().enumerate() {
            image.frame(*epoch, &audio(call, seq));
        }
        image.seal();
    }
    epochs.into_iter().for_each(|epoch| image.end(epoch, 1));
    image.seal();
    assert!(image.segments().len() > 10);
    let real_shard = image.store(&real).unwrap();
    let shard_dir = mounted.join(real_shard.strip_prefix(&real).unwrap());
    let disk = BadDisk::mount(&real, &mounted)?;
    Some(Sample { disk, image, data_dir: mounted, shard_dir, directory })
}

impl Sample {
    fn segment(&self, id: u64) -> &Segment {
        &self.image.segments()[id as usize - 1]
    }

    fn damage(&self, file: &Path, bytes: Range<u64>) {
        self.disk.damage(file.strip_prefix(&self.data_dir).unwrap(), bytes);
    }

    fn calls(&self, args: &[&str]) -> Output {
        let mut command = Command::new(EXO_INGEST);
        let command = command.arg("calls").args(args).env_clear();
        command.env("EXO_INGEST_DATA_DIR", &self.data_dir).output().unwrap()
    }

    /// What a command prints, which must end like this.
    fn output(&self, args: &[&str], code: i32) -> String {
        let output = self.calls(args);
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8_lossy(&all).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {all}");
        all
    }

    /// The frames of a call that an export has, by their number from 0.
    fn exported(&self, call: usize, code: i32) -> Vec<usize> {
        let path = self.directory.path().join("out.wav");
        let name = format!("acme/{}", NAMES[call]);
        self.output(&["export", &name, "-o", path.to_str().unwrap()], code);
        let bytes = std::fs::read(&path).unwrap();
        let frames = bytes[44..].chunks(9_600);
        let seq = |frame: &[u8]| (0..FRAMES).find(|seq| audio(call, *seq) == frame);
        frames.map(|frame| seq(frame).expect("a frame as it was sent")).collect()
    }
}

fn without(lost: &[usize]) -> Vec<usize> {
    (0..FRAMES).filter(|seq| !lost.contains(seq)).collect()
}

#[test]
fn a_bad_sector_in_audio_costs_its_frame_and_is_named() {
    let Some(sample) = sample() else { return };
    let all = sample.output(&["verify"], 0);
    assert!(all.ends_with("sound\n"), "{all}");
    // The second frame of the call `two`: somewhere in the middle of it.
    let path = segment_path(&sample.shard_dir, 1);
    let bytes = &sample.segment(1).bytes;
    let at = place_of(bytes, &audio(1, 1)[..64]) as u64 + 5_000;
    let block = at / BLOCK * BLOCK;
    sample.damage(&path, at..at + 1);

    assert!(sample.output(&["list"], 0).contains("acme/two"));
    let verified = sample.output(&["verify"], 3);
    for part in [
        format!("{} at byte {block}: the disk cannot read 4096 bytes", path.display()),
        "audio of frame 2: the disk cannot read it of acme/two".into(),
        "missing: acme/two epoch 1: frames 2 to 2".into(),
        "call: acme/two lost 1 frame\n".into(),
        "3 calls checked, 1 with losses".into(),
    ] {
        assert!(verified.contains(&part), "{part:?} is not in {verified}");
    }
    assert_eq!(sample.exported(1, 3), without(&[1]));
    for call in [0, 2] {
        assert_eq!(sample.exported(call, 0), without(&[]));
    }
    assert!(recover(&sample.data_dir, &mut || {}).is_ok());
    // Where the disk cannot read, audio may remain. That is said, and everything else is erased.
    let deleted = sample.output(&["delete", "acme/two"], 3);
    assert!(deleted.contains(&format!("{} at byte {block}", path.display())), "{deleted}");
    let other = sample.output(&["delete", "acme/one"], 3);
    assert!(other.contains("bytes of audio erased"), "{other}");
    for file in std::fs::read_dir(&sample.shard_dir).unwrap().flatten() {
        if file.path() != path && file.path().extension().is_some_and(|end| end == "segment") {
            let bytes = std::fs::read(file.path()).unwrap();
            for (call, seq) in (0..2).flat_map(|call| (0..FRAMES).map(move |seq| (call, seq))) {
                assert!(!contains(&bytes, &audio(call, seq)[..64]), "{}", file.path().display());
            }
        }
    }
    sample.disk.heal();
    assert_eq!(sample.exported(2, 0), without(&[]));
}

#[test]
fn a_bad_sector_in_the_first_block_of_a_segment_costs_nothing() {
    let Some(sample) = sample() else { return };
    for (id, has_index) in [(1, false), (5, false), (5, true)] {
        sample.disk.heal();
        let path = segment_path(&sample.shard_dir, id);
        let index = index_path(&sample.shard_dir, id);
        if has_index {
            sample.output(&["list"], 0);
            assert!(index.exists());
        } else {
            let _ = std::fs::remove_file(&index);
        }
        sample.damage(&path, 100..101);
        assert!(sample.output(&["list"], 0).contains("acme/two"));
        assert!(sample.output(&["show", "acme/two"], 0).contains("acme/two"));
        for call in 0..3 {
            assert_eq!(sample.exported(call, 0), without(&[]), "segment {id}, call {call}");
        }
        let verified = sample.output(&["verify"], 3);
        let named = format!("{} at byte 0: segment header: the disk", path.display());
        assert!(verified.contains(&named), "{verified}");
        let report = recover(&sample.data_dir, &mut || {}).unwrap();
        assert_eq!((report.frames, report.missing.len()), (3 * FRAMES as u64, 0), "{report}");
    }
    let deleted = sample.output(&["delete", "acme/one"], 3);
    assert!(deleted.contains("at byte 0"), "{deleted}");
    assert!(deleted.contains(&format!("{} bytes of audio erased", FRAMES * 9_600)), "{deleted}");
    assert_eq!(sample.exported(1, 0), without(&[]));
}

#[test]
fn a_bad_sector_in_an_index_costs_a_look_at_the_segment() {
    let Some(sample) = sample() else { return };
    let before = sample.output(&["list"], 0);
    for id in 1..=sample.image.segments().len() as u64 {
        sample.damage(&index_path(&sample.shard_dir, id), 0..u64::MAX);
    }
    assert_eq!(sample.output(&["list"], 0), before);
    assert_eq!(sample.exported(0, 0), without(&[]));
    assert!(sample.output(&["verify"], 0).ends_with("sound\n"));
    assert!(recover(&sample.data_dir, &mut || {}).unwrap().is_sound());
    sample.output(&["delete", "acme/one"], 0);
    assert_eq!(sample.exported(1, 0), without(&[]));
}

#[test]
fn bad_sectors_in_many_segments_cost_what_is_in_them() {
    let Some(sample) = sample() else { return };
    let mut lost: [Vec<usize>; 3] = Default::default();
    for segment in sample.image.segments() {
        // The header, and the block in the middle of each batch.
        let path = segment_path(&sample.shard_dir, segment.id);
        sample.damage(&path, 0..1);
        for batch in segment.batches.iter().filter(|batch| batch.len() > 3 * BLOCK as usize) {
            let bad = (batch.start + batch.len() / 2) as u64 / BLOCK * BLOCK;
            sample.damage(&path, bad..bad + 1);
            for (call, lost) in lost.iter_mut().enumerate() {
                let is_hit = |seq: &usize| {
                    let audio = audio(call, *seq);
                    let found = find(&segment.bytes[batch.clone()], &audio[..64]);
                    found.is_some_and(|at| {
                        let start = (batch.start + at) as u64;
                        // With its header, which is a line.
                        start - 64 < bad + BLOCK && bad < start + 9_600
                    })
                };
                lost.extend((0..FRAMES).filter(is_hit));
            }
        }
    }
    assert!(lost.iter().map(Vec::len).sum::<usize>() >= FRAMES, "{lost:?}");
    sample.output(&["list"], 0);
    for (call, lost) in lost.iter().enumerate() {
        let code = if lost.is_empty() { 0 } else { 3 };
        assert_eq!(sample.exported(call, code), without(lost), "call {call}");
    }
    let verified = sample.output(&["verify"], 3);
    for segment in sample.image.segments() {
        let path = segment_path(&sample.shard_dir, segment.id);
        assert!(verified.contains(path.to_str().unwrap()), "{verified}");
    }
}

/// Three calls, one in each of two shards of a run and one in another run, on a disk that a test
/// damages.
fn sample_of_shards() -> Option<Sample> {
    let directory = tempfile::tempdir().unwrap();
    let (real, mounted) = (directory.path().join("real"), directory.path().join("mounted"));
    std::fs::create_dir(&mounted).unwrap();
    let places = [(1, 0), (1, 1), (2, 0)];
    let images = places.iter().zip(NAMES).enumerate().map(|(call, ((run, shard), name))| {
        let mut image = Image::new(image::run(*run), *shard, SEGMENT_SIZE).unwrap();
        let epoch = image.start("acme", name, 8_000);
        for seq in 0..FRAMES {
            image.frame(epoch, &audio(call, seq));
            image.seal();
        }
        image.end(epoch, 1);
        image.seal();
        let shard_dir = image.store(&real).unwrap();
        (image, mounted.join(shard_dir.strip_prefix(&real).unwrap()))
    });
    let (image, shard_dir) = images.collect::<Vec<_>>().swap_remove(0);
    let disk = BadDisk::mount(&real, &mounted)?;
    Some(Sample { disk, image, data_dir: mounted, shard_dir, directory })
}

#[test]
fn a_directory_that_cannot_be_listed_costs_what_is_in_it_and_is_named() {
    let Some(sample) = sample_of_shards() else { return };
    assert!(sample.output(&["verify"], 0).ends_with("sound\n"));
    let run_dir = sample.shard_dir.parent().unwrap().to_owned();
    for (bad, lost) in [(&sample.shard_dir, &[0][..]), (&run_dir, &[0, 1])] {
        sample.disk.heal();
        sample.damage(bad, 0..1);
        let named = bad.display().to_string();
        let list = sample.output(&["list"], 3);
        assert!(list.contains(&format!("damage: cannot read {named}: ")), "{list}");
        for (call, name) in NAMES.iter().enumerate() {
            let name = format!("acme/{name}");
            let is_lost = lost.contains(&call);
            assert_eq!(list.contains(&name), !is_lost, "{list}");
            if is_lost {
                let shown = sample.output(&["show", &name], 1);
                assert!(shown.contains(&named), "{shown}");
            } else {
                // More of the call may be in there.
                sample.output(&["show", &name], 3);
                assert_eq!(sample.exported(call, 3), without(&[]));
            }
        }
        let verified = sample.output(&["verify"], 3);
        let text = format!("damage: {named} at byte 0: the disk cannot list it");
        assert!(verified.contains(&text), "{verified}");
        let report = recover(&sample.data_dir, &mut || {}).unwrap();
        assert_eq!((report.calls, report.damages.len()), (3 - lost.len() as u64, 1), "{report}");
    }
    let deleted = sample.output(&["delete", "acme/three"], 3);
    assert!(deleted.contains(&format!("{} bytes of audio erased", FRAMES * 9_600)), "{deleted}");
    // Without the data directory itself there is nothing to read.
    sample.damage(&sample.data_dir, 0..1);
    let list = sample.output(&["list"], 1);
    assert!(list.contains(&format!("cannot read {}: ", sample.data_dir.display())), "{list}");
    sample.disk.heal();
    sample.output(&["list"], 0);
    assert_eq!(sample.exported(0, 0), without(&[]));
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    find(bytes, part).is_some()
}

fn place_of(bytes: &[u8], part: &[u8]) -> usize {
    find(bytes, part).expect("it is there")
}
