//! A journal with a size limit, under load. It never exceeds the limit, no call waits for room, and
//! the audio that remains is right, also after a kill and after a power cut.
//!
//! Some of these tests need root.

use crate::EXO_INGEST;
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::recover;
use exo_ingest::call::CallIdentity;
use exo_ingest_harness::{
    Cut, LoopDisk, NodeProcess, Played, Player, assert_sound, audio, eventually, heavy_test,
};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SEGMENT_SIZE: u64 = 4 << 20;

/// Eight segments; two of them are in use.
const LIMIT: u64 = 8 * SEGMENT_SIZE;

/// Bytes that files may take beyond the limit. The index of a segment is stored after room was made
/// for the next segment, and a segment that is being indexed stays for one more.
const SLACK: u64 = SEGMENT_SIZE + (1 << 20);

/// Bytes on disk of everything below a directory. A file that is removed meanwhile does not count.
fn held(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |path: std::path::PathBuf| match std::fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => held(&path),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(|entry| size(entry.path())).sum()
}

/// Measures a directory's size all the time.
struct Watch {
    is_over: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start(directory: &Path) -> Watch {
        let (is_over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (directory, over, max) =
            (directory.to_owned(), Arc::clone(&is_over), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                max.fetch_max(held(&directory), Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Watch { is_over, most, thread }
    }

    /// The largest size that it measured.
    fn finish(self) -> u64 {
        self.is_over.store(true, Ordering::Release);
        self.thread.join().expect("it panics for nothing");
        self.most.load(Ordering::Acquire)
    }
}

fn play(node: &NodeProcess, name: &str, seed: u64) -> Vec<Player> {
    let start = |call| {
        // Two calls as fast as possible, and one that lasts over many segments.
        let pause = if call < 2 { Duration::ZERO } else { Duration::from_millis(5) };
        node.play(&format!("{name}-{call}"), seed + call, pause)
    };
    (0..3).map(start).collect()
}

/// The end of each call is left: every frame in order and right, at least up to the last one that
/// was acked. Some later frames may be there too.
///
/// One older segment may be there before a gap. Retention does not take a segment that the indexer
/// is reading, and takes the next. The indexer has the lowest priority, so on a busy machine that
/// can last.
fn check(data_dir: &Path, played: &[Played]) -> u64 {
    let journal = Journal::open(data_dir).unwrap_or_else(|error| panic!("{error}"));
    let catalog = journal.catalog(&mut || ()).unwrap_or_else(|error| panic!("{error}"));
    let mut count = 0;
    for call in played {
        let identity = CallIdentity {
            tenant: exo_ingest_harness::TENANT.into(),
            interaction: (*call.interaction).into(),
        };
        let Some(found) = catalog.call(&identity) else {
            assert_eq!(call.acked, 0, "LOST: nothing is left of {call:?}");
            continue;
        };
        let [call_epoch] = &found.epochs[..] else {
            panic!("{call:?} was played once: {:#?}", found.epochs)
        };
        let (mut frames, mut last) = (journal.frames(call_epoch), None);
        let (mut bytes, mut gaps) = (0, 0);
        while let Some(frame) = frames.next_frame().unwrap_or_else(|error| panic!("{error}")) {
            let seq = frame.seq.0;
            let in_order =
                last.is_none_or(|last| seq == last + 1 || (seq > last && last >= call.acked));
            if !in_order {
                gaps += 1;
                let is_after_one_segment = last < Some(seq) && gaps == 1 && bytes <= SEGMENT_SIZE;
                assert!(is_after_one_segment, "LOST: frame {seq} after {last:?} of {call:?}");
            }
            bytes += frame.audio.len() as u64;
            assert!(
                seq <= call.sent && frame.audio == audio(call.seed, seq),
                "CHANGED: frame {seq} of {call:?}"
            );
            last = Some(seq);
            count += 1;
        }
        assert!(
            last.unwrap_or(0) >= call.acked,
            "LOST: {call:?} ends with {last:?}: {:?}",
            frames.damages()
        );
    }
    count
}

/// Plays until the journal has been written over `laps` times.
fn play_laps(node: &NodeProcess, name: &str, seed: u64, laps: u64) -> Vec<Player> {
    let players = play(node, name, seed);
    let sent = || players.iter().map(Player::sent_bytes).sum::<u64>();
    eventually("so much is played", || {
        assert!(!players.iter().any(Player::is_over), "a call was ended: {:#?}", node.log());
        sent() >= laps * LIMIT
    });
    players
}

fn keep_within_the_limit(data_dir: &Path, args: &[&str], laps: u64) {
    let limit = LIMIT.to_string();
    let args: Vec<&str> = [&["--retain-bytes", &limit], args].concat();
    let watch = Watch::start(data_dir);
    let mut seed = 0;
    // The node is killed three times, then drained.
    for round in 0..4 {
        let node = NodeProcess::start(EXO_INGEST, data_dir, &args);
        let players = play_laps(&node, &format!("round-{round}"), seed, laps);
        seed += 10;
        node.await_upgrade_status(101);
        let log = node.log();
        let played: Vec<Played> = if round < 3 {
            node.kill();
            players.into_iter().map(Player::finish).collect()
        } else {
            let played: Vec<Played> = players.into_iter().map(Player::finish).collect();
            assert!(played.iter().all(|call| call.close == Some(1000)), "{played:#?}");
            assert!(node.terminate().success());
            played
        };
        // Two warnings are about this machine: its memory, and the CPU that others took.
        let is_bad = |line: &String| {
            line.contains("ERROR")
                || (line.contains("WARN")
                    && !line.contains("limits.ring_size")
                    && !line.contains("the shard did not run"))
        };
        assert!(!log.iter().any(is_bad), "{log:#?}");
        assert_sound(data_dir);
        let count = check(data_dir, &played);
        println!(
            "round {round}: {count} frames of {} left, {} bytes",
            played.len(),
            held(data_dir)
        );
    }
    let most = watch.finish();
    println!("{most} bytes at most, of {LIMIT}");
    assert!(most <= LIMIT + SLACK, "{most} bytes");
}

#[test]
fn under_load_and_after_kills_a_journal_stays_within_its_limit_and_what_is_left_is_right() {
    let _turn = heavy_test();
    let directory = tempfile::tempdir().expect("a directory");
    keep_within_the_limit(&directory.path().join("data"), &["--set", "journal.reserve=off"], 3);
}

#[test]
fn on_a_disk_hardly_larger_than_the_limit_no_call_lacks_room() {
    let _turn = heavy_test();
    let Some(disk) = LoopDisk::make(LIMIT + 2 * SLACK + (8 << 20), "loop") else { return };
    keep_within_the_limit(&disk.path().join("data"), &["--set", "journal.reserve=off"], 2);
}

#[test]
fn after_the_power_fails_what_is_left_is_right() {
    let _turn = heavy_test();
    let Some(mut disk) = LoopDisk::make(LIMIT + 2 * SLACK + (8 << 20), "loop") else { return };
    let data_dir = disk.path().join("data");
    let (limit, mut acked) = (LIMIT.to_string(), 0);
    for round in 0..6 {
        let node = NodeProcess::start(
            EXO_INGEST,
            &data_dir,
            &["--retain-bytes", &limit, "--set", "journal.reserve=off"],
        );
        let players = play_laps(&node, &format!("round-{round}"), 100 + round * 10, 1);
        // At some place in a segment, or while one is being made.
        std::thread::sleep(Duration::from_millis(round * 13 % 40));
        disk.shut_down(if round % 3 == 0 { Cut::LogFlush } else { Cut::NoLogFlush });
        std::thread::sleep(Duration::from_millis(100));
        node.kill();
        let played: Vec<Played> = players.into_iter().map(Player::finish).collect();
        disk.unmount();
        disk.mount();
        let report = recover(&data_dir, &mut || ()).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.missing.is_empty(), "{report}");
        let count = check(&data_dir, &played);
        acked += played.iter().map(|call| call.acked).sum::<u64>();
        println!(
            "round {round}: {count} frames left, {} damaged places, {} torn",
            report.damages.len(),
            report.torn_tails.len()
        );
    }
    assert!(acked > 0, "nothing was acked: nothing was tested");
}
