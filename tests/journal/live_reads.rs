//! Reading a call that is live costs what the call is long, beside others in the same segment. The
//! index of a segment that is being written may be missing, old, damaged or left by a crash.

use crate::EXO_INGEST;
use exo_ingest::archive::reader::{Call, EpochFollow, EpochState, Journal, Polled};
use exo_ingest::call::CallIdentity;
use exo_ingest_harness::{NodeProcess, PATIENCE, Peer, TENANT, eventually, wire};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CALLS: u64 = 40;
const FRAME_SIZE: usize = 9_600;
const ARGS: [&str; 4] = ["--set", "journal.reserve=1MiB", "--set", "journal.segment_size=64MiB"];

/// What finding a call and the end of the segment may cost: headers, the index, and the shortest
/// reads of what comes after it.
const LOOKUP: u64 = 256 * 1024;

fn name(call: u64) -> String {
    format!("call-{call}")
}

fn frame(call: u64, seq: u64) -> Vec<u8> {
    (0..FRAME_SIZE as u64).map(|at| (call * 31 + seq * 7 + at * (seq + 1)) as u8).collect()
}

/// Each call sends its frames in turn with the others.
fn send(peers: &mut [Peer], seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        for (call, peer) in peers.iter_mut().enumerate() {
            peer.send(&wire::binary(&frame(call as u64, seq)));
            if seq % 10 == 0 {
                peer.expect_ack(seq);
            }
        }
    }
}

/// Bytes that this thread has read from files so far.
fn read_so_far() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").expect("it is ours");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a field of it");
    line.parse().expect("a number")
}

fn find(data_dir: &Path, call: u64) -> (Journal, Call) {
    let identity = CallIdentity { tenant: TENANT.into(), interaction: name(call).as_str().into() };
    let journal = Journal::open(data_dir).expect("a journal");
    let found = journal.find(&identity).expect("it can be read").expect("the call is there");
    (journal, found)
}

/// The frames of a call that can be read; each is as it was sent.
fn frames(data_dir: &Path, call: u64) -> Vec<u64> {
    let (journal, found) = find(data_dir, call);
    let (mut frames, mut seqs) = (journal.frames(&found.epochs[0]), Vec::new());
    while let Some(read) = frames.next_frame().expect("it can be read") {
        assert!(read.audio == frame(call, read.seq.0), "frame {}", read.seq.0);
        seqs.push(read.seq.0);
    }
    assert!(frames.damages().is_empty(), "{:?}", frames.damages());
    seqs
}

/// The only shard's directory.
fn shard_dir(data_dir: &Path) -> PathBuf {
    let journal = Journal::open(data_dir).expect("a journal");
    journal.shards().last().expect("a shard").dir().to_owned()
}

fn live_index(data_dir: &Path) -> PathBuf {
    shard_dir(data_dir).join(format!("{:016x}.live", 1))
}

/// Waits until finding a call costs little: the live index covers all that was sent.
fn await_live_index(data_dir: &Path) {
    eventually("the live index covers what was sent", || {
        let before = read_so_far();
        live_index(data_dir).exists() && {
            find(data_dir, 0);
            read_so_far() - before < LOOKUP
        }
    });
}

fn start(data_dir: &Path) -> (NodeProcess, Vec<Peer>) {
    let node = NodeProcess::start(EXO_INGEST, data_dir, &ARGS);
    let peers = (0..CALLS).map(|call| node.call_as(TENANT, &name(call))).collect();
    (node, peers)
}

/// Polls until so many frames were heard.
fn hear(follow: &mut EpochFollow, heard: &mut Vec<u64>, call: u64, count: usize) {
    let begin = Instant::now();
    while heard.len() < count {
        let polled = follow.poll(|read| {
            assert!(read.audio == frame(call, read.seq.0), "frame {}", read.seq.0);
            heard.push(read.seq.0);
        });
        match polled.expect("it can be read") {
            Polled::Records => {}
            Polled::Pending => std::thread::sleep(Duration::from_millis(100)),
            Polled::End => panic!("the call goes on"),
        }
        assert!(begin.elapsed() < PATIENCE, "{heard:?}");
    }
}

#[test]
fn a_live_call_costs_what_it_is_long() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let (node, mut peers) = start(&data_dir);
    send(&mut peers, 1..=40);
    await_live_index(&data_dir);
    let (call, own) = (7, 40 * FRAME_SIZE as u64);

    let before = read_so_far();
    let (journal, found) = find(&data_dir, call);
    let cost = read_so_far() - before;
    let call_epoch = &found.epochs[0];
    assert_eq!((call_epoch.state, call_epoch.bytes), (EpochState::Live, own));
    println!("found for {cost} bytes, of {} that all calls sent", own * CALLS);
    assert!(cost <= LOOKUP, "{cost}");

    let before = read_so_far();
    assert!(frames(&data_dir, call).into_iter().eq(1..=40));
    let cost = read_so_far() - before;
    println!("exported for {cost} bytes, its own are {own}");
    assert!(cost <= 2 * own + 2 * LOOKUP, "{cost}");

    let before = read_so_far();
    let mut follow = journal.follow_epoch(call_epoch).expect("it is there");
    let mut heard = Vec::new();
    hear(&mut follow, &mut heard, call, 40);
    let mut now = journal.follow_epoch_now(call_epoch).expect("it is there");
    assert_eq!(now.poll(|_| panic!("that is past")).expect("it can be read"), Polled::Pending);
    send(&mut peers, 41..=60);
    hear(&mut follow, &mut heard, call, 60);
    let cost = read_so_far() - before;
    assert!(heard.into_iter().eq(1..=60));
    println!("followed for {cost} bytes, {} by its own count", follow.bytes_read());
    // The pings and acks of the calls, and tokens, are read by this thread, too.
    assert!(follow.bytes_read() <= 2 * 60 * FRAME_SIZE as u64 + LOOKUP, "{follow:?}");
    assert!(follow.bytes_read() <= cost, "{cost}");
    let mut late = Vec::new();
    hear(&mut now, &mut late, call, 20);
    assert!(late.into_iter().eq(41..=60));

    // The segment is sealed: the follower goes on with its index, and ends with the call.
    peers.truncate(CALLS as usize / 2);
    send(&mut peers, 61..=70);
    drop(peers);
    assert!(node.terminate().success());
    let mut rest = Vec::new();
    let begin = Instant::now();
    loop {
        match follow.poll(|frame| rest.push(frame.seq.0)).expect("it can be read") {
            Polled::End => break,
            Polled::Records | Polled::Pending => {}
        }
        assert!(begin.elapsed() < PATIENCE, "{rest:?}");
    }
    assert!(rest.into_iter().eq(61..=70));
    assert!(!live_index(&data_dir).exists(), "the segment has its index");
}

#[test]
fn a_damaged_live_index_costs_time_and_no_frame() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let (node, mut peers) = start(&data_dir);
    send(&mut peers, 1..=10);
    await_live_index(&data_dir);
    let path = live_index(&data_dir);
    let good = std::fs::read(&path).expect("it is there");
    let file = std::fs::File::options().write(true).open(&path).expect("it is ours");
    // Nothing is sent, so the node leaves the file as it is.
    let some = (0..good.len()).step_by(good.len() / 60);
    for at in [0, 9, 24, 32, 56, 120, 128, 4_092].into_iter().chain(some) {
        file.write_all_at(&[good[at] ^ 0x11], at as u64).expect("it is ours");
        assert!(frames(&data_dir, 3).into_iter().eq(1..=10), "byte {at}");
        file.write_all_at(&good[at..=at], at as u64).expect("it is ours");
    }
    for size in [0, 100, 4_096, good.len() as u64 - 1] {
        file.set_len(size).expect("it is ours");
        assert!(frames(&data_dir, 3).into_iter().eq(1..=10), "cut to {size} bytes");
    }
    // One that is gone.
    std::fs::remove_file(&path).expect("it is ours");
    assert!(frames(&data_dir, 3).into_iter().eq(1..=10));
    let (journal, found) = find(&data_dir, 3);
    let mut follow = journal.follow_epoch(&found.epochs[0]).expect("it is there");
    let mut heard = Vec::new();
    hear(&mut follow, &mut heard, 3, 10);
    assert!(heard.into_iter().eq(1..=10), "as at a node that keeps no live index");
    drop(node);
}

#[test]
fn a_live_index_that_a_crash_left_is_not_used_and_goes_with_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let (node, mut peers) = start(&data_dir);
    send(&mut peers, 1..=20);
    await_live_index(&data_dir);
    let path = live_index(&data_dir);
    node.kill();
    drop(peers);
    let left = std::fs::read(&path).expect("the crash left it");
    let (_, found) = find(&data_dir, 5);
    assert_eq!(found.epochs[0].state, EpochState::Cut);
    assert!(frames(&data_dir, 5).into_iter().eq(1..=20));

    // It comes back although the reader has made the index, as from a backup.
    assert!(!path.exists(), "the reader has made the index");
    std::fs::write(&path, left).expect("it is ours");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &ARGS);
    eventually("the start removes it", || !path.exists());
    assert!(frames(&data_dir, 5).into_iter().eq(1..=20));
    assert!(node.terminate().success());
}
