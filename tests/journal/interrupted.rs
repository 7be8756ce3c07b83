//! Recovery and `calls delete`, interrupted at every step and run again. The result is that of one
//! run without interruption.

use exo_ingest::archive::erase::erase;
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::layout::{index_path, segment_path};
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::{RecoveryReport, recover, verify};
use exo_ingest::call::Epoch;
use exo_ingest::format::HEADER_SIZE;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SEGMENT_SIZE: usize = 32 * 1024;

/// Frames by epoch and number; `None` where the audio is erased.
type Frames = BTreeMap<(Epoch, u64), Option<Vec<u8>>>;

/// Two calls over three segments; the last segment is torn.
struct Sample {
    dir: tempfile::TempDir,
    shard_dir: PathBuf,
    segments: Vec<Vec<u8>>,
    erased: Epoch,
}

fn sample() -> Sample {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).unwrap();
    let epochs = [image.start("acme", "one", 8_000), image.start("acme", "two", 8_000)];
    for round in 1..=9u8 {
        image.pass(100_000);
        for (call, epoch) in epochs.into_iter().enumerate() {
            let bytes: Vec<u8> =
                (0..700).map(|at| (at as u8 | 1) ^ (round << 4) ^ (call as u8) << 3).collect();
            let (front, back) = bytes.split_at(300);
            if round % 3 == 0 {
                image.chunks(epoch, &[front, back], true)
            } else {
                image.frame(epoch, &bytes)
            }
        }
        image.seal();
        if round % 3 == 0 && round < 9 {
            image.roll();
        }
    }
    let last = image.segments_mut().last_mut().unwrap();
    let torn = last.batches.last().unwrap().clone();
    last.bytes[torn.start + 1_024..torn.end].fill(0);
    // Recovery would give back what is allocated after the last byte.
    for segment in image.segments_mut() {
        segment.bytes.truncate(segment.end_of_batches());
    }
    let dir = tempfile::tempdir().unwrap();
    let shard_dir = image.store(dir.path()).unwrap();
    let segments = image.segments().iter().map(|segment| segment.bytes.clone()).collect();
    Sample { dir, shard_dir, segments, erased: epochs[0] }
}

impl Sample {
    fn put(&self, segments: &[Vec<u8>]) {
        for (place, bytes) in segments.iter().enumerate() {
            std::fs::write(segment_path(&self.shard_dir, place as u64 + 1), bytes).unwrap();
            let _ = std::fs::remove_file(index_path(&self.shard_dir, place as u64 + 1));
        }
    }

    fn read(&self, extension: fn(&Path, u64) -> PathBuf) -> Vec<Vec<u8>> {
        let ids = 1..=self.segments.len() as u64;
        ids.map(|id| std::fs::read(extension(&self.shard_dir, id)).unwrap_or_default()).collect()
    }

    fn frames(&self) -> Frames {
        let journal = Journal::open(self.dir.path()).unwrap();
        let catalog = journal.catalog(&mut || {}).unwrap();
        let mut all = Frames::new();
        for call_epoch in
            catalog.calls.iter().flat_map(|call| &call.epochs).chain(&catalog.nameless)
        {
            let mut frames = journal.frames(call_epoch);
            while let Some(frame) = frames.next_frame().unwrap() {
                let audio = (!frame.is_erased).then(|| frame.audio.to_vec());
                assert!(all.insert((call_epoch.epoch, frame.seq.0), audio).is_none());
            }
        }
        all
    }

    fn recover(&self) -> RecoveryReport {
        // The second run reads less.
        let report = recover(self.dir.path(), &mut || {}).unwrap();
        RecoveryReport { segments_read: 0, indexes_written: 0, records_salvaged: 0, ..report }
    }

    fn erase(&self) {
        let journal = Journal::open(self.dir.path()).unwrap();
        let catalog = journal.catalog(&mut || {}).unwrap();
        let call = catalog.calls.iter().find(|call| call.epochs[0].epoch == self.erased).unwrap();
        erase(&journal, call, &mut || {}).unwrap();
    }
}

#[test]
fn a_recovery_that_was_interrupted_is_completed_by_the_next() {
    let sample = sample();
    let report = sample.recover();
    let (indexes, frames) = (sample.read(index_path), sample.frames());
    assert!(
        report.is_sound()
            && report.torn_tails.len() == 1
            && indexes.iter().all(|index| !index.is_empty()),
        "{report}"
    );
    let mut steps = 0;
    for reached in 0..indexes.len() {
        let (good, path) = (&indexes[reached], index_path(&sample.shard_dir, reached as u64 + 1));
        // Step 0: a temporary file, written up to any byte. Steps 1 and 2: the index under its
        // name; a power loss leaves any length of it, without and with zeros. Later indexes are
        // still missing.
        for length in (0..good.len()).step_by(7).chain([good.len()]) {
            for step in 0..3 {
                sample.put(&sample.segments);
                for (before, index) in indexes[..reached].iter().enumerate() {
                    std::fs::write(index_path(&sample.shard_dir, before as u64 + 1), index)
                        .unwrap();
                }
                let mut left = good[..length].to_vec();
                match step {
                    0 => std::fs::write(path.with_extension("index-1"), &left).unwrap(),
                    1 => std::fs::write(&path, &left).unwrap(),
                    _ => {
                        left.resize(good.len(), 0);
                        std::fs::write(&path, &left).unwrap();
                    }
                }
                for _ in 0..2 {
                    assert_eq!(
                        sample.recover(),
                        report,
                        "segment {}, {length} bytes, step {step}",
                        reached + 1
                    );
                    assert!(sample.read(index_path) == indexes && sample.frames() == frames);
                }
                steps += 1;
            }
        }
        let _ = std::fs::remove_file(path.with_extension("index-1"));
    }
    assert!(sample.read(segment_path) == sample.segments, "recovery changes no segment");
    println!("{steps} interruptions of recovery");
}

/// The writes of an erasure into a segment, each with its place: headers first, then payloads.
fn writes(before: &[u8], after: &[u8]) -> [Vec<(usize, Vec<u8>)>; 2] {
    let changed = before
        .chunks(HEADER_SIZE)
        .zip(after.chunks(HEADER_SIZE))
        .enumerate()
        .filter(|(_, (old, new))| old != new);
    let lines = changed.map(|(line, (_, new))| (line * HEADER_SIZE, new.to_vec()));
    let (payloads, headers) = lines.partition(|(_, new)| new.iter().all(|byte| *byte == 0));
    [headers, payloads]
}

#[test]
fn a_delete_that_was_interrupted_is_completed_by_the_next() {
    let sample = sample();
    sample.recover();
    let before = sample.frames();
    sample.erase();
    let (after, erased) = (sample.read(segment_path), sample.frames());
    assert!(erased.iter().all(|((epoch, _), audio)| audio.is_none() == (*epoch == sample.erased)));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut some = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.is_multiple_of(2)
    };
    let mut steps = 0;
    for reached in 0..after.len() {
        let mut left = sample.segments.clone();
        left[..reached].clone_from_slice(&after[..reached]);
        let [headers, payloads] = writes(&sample.segments[reached], &after[reached]);
        assert!(headers.len() >= 3 && payloads.len() >= 3);
        for phase in [headers, payloads] {
            // First the writes in order up to each one. Then any of them, as a power loss leaves
            // them.
            for cut in 0..=2 * phase.len() {
                let mut now = left.clone();
                for (place, (at, line)) in phase.iter().enumerate() {
                    if if cut < phase.len() { place < cut } else { some() } {
                        now[reached][*at..*at + line.len()].copy_from_slice(line);
                    }
                }
                check_deletion(&sample, &now, (&before, &erased, &after));
                steps += 1;
            }
            for (at, line) in phase {
                left[reached][at..at + line.len()].copy_from_slice(&line);
            }
        }
        assert!(left[reached] == after[reached]);
    }
    println!("{steps} interruptions of a deletion");
}

fn check_deletion(
    sample: &Sample,
    now: &[Vec<u8>],
    (before, erased, after): (&Frames, &Frames, &[Vec<u8>]),
) {
    sample.put(now);
    let report = sample.recover();
    let frames = sample.frames();
    for (frame, audio) in &frames {
        assert!(
            *audio == before[frame] || *audio == erased[frame],
            "neither what it was nor nothing"
        );
    }
    for (frame, audio) in before.iter().filter(|((epoch, _), _)| *epoch != sample.erased) {
        assert!(frames.get(frame) == Some(audio), "the other call is untouched");
    }
    // In the very last batches, bytes that do not fit together pass for a torn tail.
    let is_last = now.last() != sample.segments.last();
    assert!(frames.len() == before.len() || !report.is_sound() || is_last, "{report}");
    assert_eq!(sample.recover().frames, report.frames);
    sample.erase();
    assert!(sample.read(segment_path) == after, "twice is once");
    assert!(sample.frames() == *erased);
    assert!(verify(&Journal::open(sample.dir.path()).unwrap(), &mut || {}).unwrap().is_sound());
}
