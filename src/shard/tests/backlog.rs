//! Many sockets that are readable at once, after a stall of whatever kind: all are read in their
//! turn, few receives end without a buffer, and no call is closed for the time in which the node
//! did not read.

#![forbid(unsafe_code)]

use super::*;
use crate::constants::{READ_BUFFER_COUNT, RECEIVE_BUFFER_COUNT, TURN_SIZE_MAX};

/// As many as a test takes a few seconds for.
const CALLS: usize = 600;

const FRAMES: usize = 25;

/// Bytes on the wire of a frame of [`frames`] with this payload.
fn wire_size(payload: usize) -> usize {
    frames(1, payload).len()
}

/// A shard with many live calls, and the kernel's receive buffers counted.
fn crowd() -> (Rig, Vec<Socket>) {
    let mut rig = Rig::with(|limits| {
        limits.calls_max = CALLS;
        limits.connections_max = CALLS + 8;
        limits.completions_per_turn = 256;
        limits.handshakes_per_turn = 64;
        limits.send_slot_count = 512;
        limits.ring_size = 64 << 20;
        limits.max_ahead = Some(Duration::from_secs(30));
    });
    let calls: Vec<_> = (0..CALLS).map(|_| rig.connect()).collect();
    for (index, socket) in calls.iter().enumerate() {
        let interaction = format!("call-{index}");
        rig.send(*socket, &[head(&interaction), start(&interaction)].concat());
    }
    rig.quiet();
    for socket in &calls {
        assert_eq!(rig.said(*socket), ["101", "started"]);
    }
    rig.world.set_receive_buffers_free(Some(usize::from(RECEIVE_BUFFER_COUNT)));
    (rig, calls)
}

/// Turns until everything is read, each turn 20 ms long; after each, no call may be more than so
/// many reads ahead of another.
fn drain(rig: &mut Rig, calls: &[Socket], read_size: usize, spread_max: usize) {
    rig.world.set_tick(millis(10));
    let turns_max = 3 * calls.len() * FRAMES;
    for turn in 0..turns_max {
        let reads = rig.counters.reads.read();
        rig.turn();
        if rig.counters.reads.read() > reads {
            assert_eq!(rig.shard.next_wait(), Wait::No, "turn {turn} waits with reads under way");
        }
        let left: Vec<_> = calls.iter().map(|socket| rig.world.unread_size(*socket)).collect();
        let (least, most) = (*left.iter().min().unwrap(), *left.iter().max().unwrap());
        if most == 0 {
            rig.world.set_tick(Duration::ZERO);
            rig.quiet();
            return;
        }
        assert!(
            (most - least).div_ceil(read_size) <= spread_max,
            "turn {turn}: {least} and {most} bytes left"
        );
    }
    panic!("no progress in {turns_max} turns");
}

#[test]
fn a_crowd_that_is_readable_at_once_is_drained_in_order_with_few_receives_in_vain() {
    let (mut rig, calls) = crowd();
    let read_size = 5 * wire_size(960);
    rig.world.set_receive_size_max(read_size);
    calls.iter().for_each(|socket| rig.send(*socket, &frames(FRAMES, 960)));
    // The first turn gives all buffers of armed receives to a few. From then on it is one read for
    // each in turn.
    drain(&mut rig, &calls, read_size, 5);
    let frames = (CALLS * FRAMES) as u64;
    assert_eq!(rig.counters.frames.read(), frames);
    let in_vain = rig.counters.receive_buffers_exhausted.read();
    assert!(in_vain > 0, "buffers were never short: this shows nothing");
    assert!(in_vain * 10 < frames, "{in_vain} receives without a buffer, {frames} frames");
    assert!(rig.counters.reads_waited_max_ms.read() > 0);
    assert_eq!(
        (rig.counters.reads_waiting.read(), rig.counters.reads_longest_wait_ms.read()),
        (0, 0)
    );
    assert_eq!((rig.counters.sessions_refused.read(), rig.counters.calls_ended.read()), (0, 0));
    for socket in &calls {
        assert!(rig.world.is_reading(*socket));
        assert_eq!(rig.said(*socket), ["ack 10", "ack 20"]);
    }
    rig.end();
}

#[test]
fn a_crowd_that_waits_for_a_full_ring_is_drained_in_order_and_no_call_is_closed() {
    let (mut rig, calls) = crowd();
    rig.hold_ring();
    rig.fill_ring(8 * 1024);
    // Half of the calls stop in the middle of a frame.
    let read_size = 5 * wire_size(960);
    rig.world.set_receive_size_max(read_size);
    let whole = frames(FRAMES, 960);
    for (index, socket) in calls.iter().enumerate() {
        rig.send(*socket, &whole[..whole.len() - index % 2 * 500]);
    }
    rig.quiet();
    // Far longer than any timer of the peers.
    let wakes = rig.pass(Duration::from_secs(60));
    assert!(wakes < 50, "it spins: {wakes}");
    rig.let_ring_go();
    drain(&mut rig, &calls, read_size, 6);
    assert_eq!(rig.counters.frames.read(), (CALLS * FRAMES - CALLS / 2) as u64);
    assert!(rig.counters.receive_buffers_exhausted.read() * 10 < rig.counters.frames.read());
    assert!(rig.counters.reads_waited_max_ms.read() >= 60_000);
    assert_eq!((rig.counters.sessions_refused.read(), rig.counters.calls_ended.read()), (0, 0));
    rig.world.set_receive_size_max(usize::MAX);
    for (index, socket) in calls.iter().enumerate() {
        rig.send(*socket, &whole[whole.len() - index % 2 * 500..]);
    }
    rig.quiet();
    assert_eq!(rig.counters.frames.read(), (CALLS * FRAMES) as u64);
    rig.end();
}

#[test]
fn one_connection_takes_no_more_than_its_share_of_a_turn() {
    let mut rig = Rig::with(|limits| {
        limits.completions_per_turn = 256;
        limits.ring_size = 64 << 20;
        limits.max_ahead = None;
    });
    let (greedy, modest) = (rig.call("greedy"), rig.call("modest"));
    let frame = frames(1, 1000);
    rig.world.set_receive_size_max(frame.len() * 16);
    rig.send(greedy, &frames(3 * TURN_SIZE_MAX / 1000, 1000));
    // It is cut short as soon as its share is used up, and waits among the others.
    rig.turn();
    assert!(rig.counters.reads_waiting.read() > 0 || !rig.world.is_reading(greedy));
    rig.send(modest, &frames(10, 1000));
    rig.quiet();
    assert_eq!(rig.said(modest), ["ack 10"]);
    assert!(rig.world.is_reading(greedy) && rig.world.is_reading(modest));
    assert_eq!(rig.world.unread_size(greedy), 0);
    rig.end();
}

#[test]
fn a_peer_that_is_gone_while_it_waits_to_be_read_is_noticed_in_its_turn() {
    let (mut rig, calls) = crowd();
    rig.hold_ring();
    rig.fill_ring(8 * 1024);
    calls.iter().for_each(|socket| rig.send(*socket, &frames(FRAMES, 960)));
    rig.quiet();
    calls.iter().take(CALLS / 2).for_each(|socket| rig.world.peer_resets(*socket));
    rig.quiet();
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(
        rig.counters.frames.read(),
        (CALLS * FRAMES) as u64,
        "what came before the reset counts"
    );
    assert_eq!(rig.connections(), CALLS - CALLS / 2);
    rig.end();
}

#[test]
fn pings_of_the_time_in_which_a_call_was_not_read_are_no_flood() {
    let mut rig = Rig::tiny();
    let (steady, flooding) = (rig.call("a"), rig.call("b"));
    rig.hold_ring();
    rig.fill_ring(8 * 1024);
    [steady, flooding].iter().for_each(|socket| rig.send(*socket, &frames(15, 900)));
    rig.quiet();
    assert_eq!(rig.counters.reads_waiting.read(), 2);
    rig.pass(Duration::from_secs(3));
    // As many as may come in that time, and twice as many.
    let in_three_seconds = 3 * Limits::tiny().control_rate as usize;
    rig.send(steady, &masked(0x9, b"?").repeat(in_three_seconds));
    rig.send(flooding, &masked(0x9, b"?").repeat(2 * in_three_seconds));
    rig.let_ring_go();
    rig.quiet();
    let is_refused = |said: Vec<String>| said.iter().any(|word| word.starts_with("close"));
    let said = rig.said(steady);
    assert!(!is_refused(said.clone()), "{said:?}");
    assert!(is_refused(rig.said(flooding)), "more than the rate is a flood, whenever it is read");
    rig.abandon();
}

#[test]
fn a_shard_that_stood_still_reads_first_and_counts_the_time_against_no_peer() {
    let mut rig = Rig::tiny();
    let (talker, silent) = (rig.call("talker"), rig.call("silent"));
    let half_head = rig.connect();
    rig.send(half_head, &head("c")[..20]);
    let unstarted = rig.upgraded("d");
    rig.pass(millis(100));
    rig.send(talker, &frames(10, 100));
    // The whole of it passes between two turns, as when the process is stopped.
    rig.world.advance(Duration::from_secs(600));
    rig.quiet();
    assert_eq!(rig.counters.standstills.read(), 1);
    assert_eq!(rig.said(talker), ["ack 10"]);
    for socket in [silent, half_head, unstarted] {
        assert_eq!(rig.world.peer_reads(socket), b"", "nothing is held against a peer");
    }
    // From then on time counts as if nothing had been.
    let limits = Limits::tiny();
    rig.pass(limits.head_timeout - millis(150));
    assert_eq!(rig.world.peer_reads(half_head), b"");
    rig.pass(millis(100));
    assert!(rig.world.peer_reads(half_head).starts_with(b"HTTP/1.1 408"));
    rig.pass(limits.ping_after - limits.head_timeout);
    assert_eq!(rig.said(silent), ["ping"], "a quiet peer is asked before it is cut");
    assert_eq!(rig.said(unstarted), ["error start_timeout", "close 4408"]);
    rig.pass(limits.idle_timeout);
    assert_eq!(rig.said(silent), ["error idle_timeout", "close 4408"]);
    rig.end();
}

#[test]
fn the_time_of_a_standstill_is_not_held_against_a_drain_or_a_peer_that_must_read() {
    let mut rig = Rig::tiny();
    let (reader, other) = (rig.call("a"), rig.call("b"));
    rig.world.set_window(reader, Some(0));
    rig.send(reader, &frames(10, 100));
    rig.quiet();
    rig.pass(millis(100));
    rig.world.advance(Duration::from_secs(600));
    rig.quiet();
    rig.world.set_window(reader, None);
    rig.quiet();
    assert_eq!(rig.said(reader), ["ack 10"], "it had no chance to read");
    rig.shard
        .mail
        .sender(0)
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::from_secs(10) })
        .unwrap();
    rig.quiet();
    rig.pass(millis(20));
    let first = rig.said(reader).len() + rig.said(other).len();
    assert!(first > 0, "one call goes at once");
    rig.world.advance(Duration::from_secs(600));
    rig.quiet();
    assert_eq!(rig.connections(), 2, "the other is still spread over the window");
    rig.pass(Duration::from_secs(11));
    rig.abandon();
}

const _: () = assert!(CALLS > 4 * READ_BUFFER_COUNT as usize);
