//! SIGKILL at random moments under load, with the same call ids each time. Every acked frame is in
//! the journal, byte for byte. The test prints how soon the next node serves.
//!
//! `EXO_INGEST_ROUNDS` is the number of kills:
//!
//! ```text
//! EXO_INGEST_ROUNDS=100 cargo test --release --test journal kill_rounds -- --nocapture
//! ```

use crate::EXO_INGEST;
use exo_ingest_harness::{Audit, NodeProcess, Played, Player, audit, heavy_test};
use std::path::Path;
use std::time::{Duration, Instant};

const CALL_COUNT: u64 = 20;

/// The longest a node serves before it is killed.
const SERVICE_MS_MAX: u64 = 600;

/// After so many kills, everything written since the first of them is checked again.
const ROUNDS_PER_CHECK: u64 = 10;

fn rounds() -> u64 {
    std::env::var("EXO_INGEST_ROUNDS")
        .ok()
        .map_or(5, |rounds| rounds.parse().expect("EXO_INGEST_ROUNDS is a number"))
}

/// Runs a node and kills it at a random moment. Returns what the peers saw, and how long the node
/// took to serve.
fn play_to_the_kill(data_dir: &Path, round: u64, random: u64) -> (Vec<Played>, Duration) {
    let start = Instant::now();
    let node = NodeProcess::start(EXO_INGEST, data_dir, &["--set", "journal.reserve=1MiB"]);
    let ready = start.elapsed();
    let players: Vec<Player> = (0..CALL_COUNT)
        .map(|call| {
            let pause = Duration::from_micros(if call == 0 { 300 } else { 2000 });
            node.play(&format!("call-{call}"), round * CALL_COUNT + call, pause)
        })
        .collect();
    std::thread::sleep(Duration::from_micros(random % (SERVICE_MS_MAX * 1000)));
    node.kill();
    (players.into_iter().map(Player::finish).collect(), ready)
}

#[test]
fn nothing_acked_is_lost_when_the_node_is_killed() {
    let _turn = heavy_test();
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    println!("random numbers from {random:#x}");
    let (mut total, mut history, mut ready_max) = (Audit::default(), Vec::new(), Duration::ZERO);
    for round in 0..rounds() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (played, ready) = play_to_the_kill(&data_dir, round, random);
        ready_max = ready_max.max(ready);
        total += audit(&data_dir, &played);
        history.extend(played);
        if (round + 1) % ROUNDS_PER_CHECK == 0 {
            audit(&data_dir, &history);
            history.clear();
            std::fs::remove_dir_all(&data_dir).expect("a data directory");
        }
    }
    let Audit { calls, acked, beyond, bytes } = total;
    assert!(acked > 0, "nothing was acked: nothing was tested");
    println!(
        "{} kills, {calls} calls, {acked} acked frames, 0 lost, 0 changed; \
         {beyond} more were there, {bytes} bytes compared; \
         ready again within {ready_max:.0?}",
        rounds()
    );
}
