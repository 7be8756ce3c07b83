//! A filesystem is cut off from its disk during calls, and ext4's own journal with it. After the
//! next mount every acked frame is there, byte for byte.
//!
//! `EXO_INGEST_ROUNDS` is the number of cuts of each test. Needs root.

use crate::EXO_INGEST;
use exo_ingest::archive::erase::erase;
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::reader::Journal;
use exo_ingest::archive::recovery::{RecoveryReport, recover};
use exo_ingest_harness::{Audit, Cut, LoopDisk, NodeProcess, Played, Player, audit, heavy_test};
use std::path::Path;
use std::time::{Duration, Instant};

/// The image is sparse: a test uses only what it writes.
const DISK_SIZE: u64 = 768 << 20;

/// Cuts of one filesystem. Each time everything written before is checked.
const CUTS_PER_DISK: u64 = 5;

const CALL_COUNT: u64 = 6;

/// The longest a node serves before the cut.
const SERVICE_MS_MAX: u64 = 700;

fn rounds() -> u64 {
    std::env::var("EXO_INGEST_ROUNDS")
        .ok()
        .map_or(5, |rounds| rounds.parse().expect("EXO_INGEST_ROUNDS is a number"))
}

/// Runs a node until just after the cut; returns what the peers saw.
fn play_to_the_cut(disk: &LoopDisk, round: u64, random: u64) -> Vec<Played> {
    let data_dir = disk.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=4KiB"]);
    let players: Vec<Player> = (0..CALL_COUNT)
        .map(|call| {
            // The same ids in each round. One call is as fast as possible, so that segments fill.
            let pause = Duration::from_micros(if call == 0 { 300 } else { 1500 });
            node.play(&format!("call-{call}"), round * CALL_COUNT + call, pause)
        })
        .collect();
    std::thread::sleep(Duration::from_micros(random % (SERVICE_MS_MAX * 1000)));
    disk.shut_down(if random.is_multiple_of(3) { Cut::LogFlush } else { Cut::NoLogFlush });
    // An ack may come after the cut only for what was durable before.
    std::thread::sleep(Duration::from_millis(100));
    node.kill();
    players.into_iter().map(Player::finish).collect()
}

fn recovered(data_dir: &Path) -> RecoveryReport {
    let first = recover(data_dir, &mut || ()).unwrap_or_else(|error| panic!("{error}"));
    let again = recover(data_dir, &mut || ()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (first.calls, first.epochs, first.frames),
        (again.calls, again.epochs, again.frames),
        "recovery repeats"
    );
    first
}

fn cut(name: &str, options: &'static str) {
    let start = Instant::now();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ std::process::id() as u64;
    println!("{name}: random numbers from {random:#x}");
    let (mut total, mut damages, mut disk, mut history) = (Audit::default(), 0, None, Vec::new());
    for round in 0..rounds() {
        if round % CUTS_PER_DISK == 0 {
            drop(disk.take());
            history.clear();
            disk = LoopDisk::make(DISK_SIZE, options);
        }
        let Some(disk) = &mut disk else { return };
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        history.extend(play_to_the_cut(disk, round, random));
        disk.unmount();
        disk.mount();
        let data_dir = disk.path().join("data");
        let report = recovered(&data_dir);
        damages += report.damages.len();
        for damage in &report.damages {
            println!(
                "round {round}: {} at {}: {}",
                damage.file.display(),
                damage.offset,
                damage.what
            );
        }
        assert!(report.is_sound(), "{report}");
        let (now, all) = (&history[history.len() - CALL_COUNT as usize..], &history[..]);
        total += audit(&data_dir, now);
        audit(&data_dir, all);
    }
    let Audit { calls, acked, beyond, bytes } = total;
    assert!(acked > 0, "nothing was acked: nothing was tested");
    println!(
        "{name}: {} cuts, {calls} calls, {acked} acked frames, 0 lost, 0 changed; \
         {beyond} more were there, {bytes} bytes compared, {damages} damaged places, {:.0?}",
        rounds(),
        start.elapsed()
    );
}

#[test]
fn nothing_acked_is_lost_on_ext4_as_it_comes() {
    let _turn = heavy_test();
    cut("data=ordered", "loop");
}

#[test]
fn nothing_acked_is_lost_on_ext4_that_journals_data() {
    let _turn = heavy_test();
    cut("data=journal", "loop,data=journal");
}

/// The index lists audio. If an old index came back, it would list erased audio.
#[test]
fn what_was_deleted_is_not_listed_after_a_power_loss() {
    let Some(mut disk) = LoopDisk::make(64 << 20, "loop") else { return };
    let data_dir = disk.path().join("data");
    let mut image = Image::new(image::run(1), 0, 1 << 20).expect("memory");
    let epoch = image.start("acme", "one", 8_000);
    (0..20).for_each(|_| image.frame(epoch, &[7; 9_600]));
    image.end(epoch, 1);
    image.seal();
    image.store(&data_dir).expect("it has room");
    recover(&data_dir, &mut || ()).expect("it can be read");
    rustix::fs::syncfs(std::fs::File::open(disk.path()).expect("it is mounted"))
        .expect("all of it is durable");
    let journal = Journal::open(&data_dir).expect("it can be read");
    let catalog = journal.catalog(&mut || ()).expect("it can be read");
    assert_eq!(
        erase(&journal, &catalog.calls[0], &mut || ()).expect("no process holds it").records,
        20
    );
    drop(journal);
    disk.shut_down(Cut::NoLogFlush);
    disk.unmount();
    disk.mount();
    let catalog = Journal::open(&data_dir)
        .expect("it can be read")
        .catalog(&mut || ())
        .expect("it can be read");
    assert_eq!(catalog.calls[0].epochs[0].erased, 20);
}
