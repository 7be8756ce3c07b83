//! A frame ring without room, and a kernel without receive buffers: no connection is read, nothing
//! is lost, and it is not held against the peers.

#![forbid(unsafe_code)]

use super::disk::STALL_TIMEOUT;
use super::*;
use crate::ack_level::AckLevel;
use crate::constants::ring_size_min;
use crate::journal::writer::Backlog;
use crate::journal::writer::pace::AGE_MAX;

/// Room for next to nothing: for no more than a few small frames.
const LITTLE: usize = 8 * 1024;

/// A live call on a ring that is held and full.
fn held() -> (Rig, Socket) {
    let mut rig = Rig::with(|limits| limits.max_ahead = None);
    rig.hold_ring();
    let socket = rig.call("a");
    rig.fill_ring(LITTLE);
    (rig, socket)
}

#[test]
fn a_full_ring_defers_what_came_and_stops_reading() {
    let (mut rig, socket) = held();
    let other = rig.call_on_a_full_ring();
    let sent = [frames(9, 1000), text("x"), frames(30, 1000)].concat();
    assert_eq!(rig.ask(socket, &sent), Vec::<String>::new());
    assert!(!rig.world.is_reading(socket), "the receive is cancelled: TCP pushes back");
    assert!(rig.world.is_reading(other), "nothing has come from it");
    assert_eq!(
        (rig.counters.receives_deferred.read(), rig.counters.deferred_waiting.read()),
        (1, 1)
    );
    assert_eq!(rig.counters.ring_size_bytes.read(), Limits::tiny().ring_size as u64);
    assert_eq!(rig.counters.frames.read(), 0);
    rig.send(socket, &frames(10, 500));
    rig.quiet();
    assert_eq!(rig.shard.io.outstanding(), 1, "the second lot stays in the socket");
    let wakes = rig.pass(Duration::from_secs(1));
    assert!(wakes <= 4, "it spins: {wakes}");
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.counters.deferred_waiting.read(), 0);
    assert_eq!(rig.counters.frames.read(), 9, "then the bad text came, in its place");
    assert_eq!(rig.said(socket), ["error invalid_start", "close 4400"]);
    rig.end();
}

impl Rig {
    /// A connection that has been upgraded, and no more.
    fn call_on_a_full_ring(&mut self) -> Socket {
        self.upgraded("other")
    }
}

#[test]
fn deferred_frames_keep_their_order_and_are_acked_at_once_when_there_is_room() {
    let (mut rig, first) = held();
    let second = rig.upgraded("b");
    for _ in 0..4 {
        rig.send(first, &frames(5, 900));
        rig.send(second, &[start("b"), frames(3, 900)].concat());
        rig.quiet();
    }
    assert_eq!(rig.said(first), Vec::<String>::new());
    assert_eq!(rig.said(second), Vec::<String>::new());
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.said(first), ["ack 10", "ack 20"]);
    assert_eq!(rig.said(second), ["started", "started", "started", "started", "ack 10"]);
    assert_eq!(rig.counters.frames.read(), 32);
    assert!(rig.world.is_reading(first) && rig.world.is_reading(second));
    assert_eq!(rig.shard.io.outstanding(), 0);
    rig.end();
}

#[test]
fn a_fin_after_deferred_bytes_stays_after_them() {
    for reset in [false, true] {
        let (mut rig, socket) = held();
        rig.send(socket, &frames(15, 900));
        match reset {
            true => rig.world.peer_resets(socket),
            false => rig.world.peer_finishes(socket),
        }
        rig.quiet();
        assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (0, 0));
        assert!(!rig.world.is_closed(socket));
        rig.let_ring_go();
        rig.quiet();
        assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (15, 1));
        rig.assert_closed(socket);
        rig.end();
    }
}

/// A connection can be told dead twice while its bytes wait: by its own FIN, and by a send that
/// fails.
#[test]
fn two_ends_after_deferred_bytes_are_one() {
    let (mut rig, socket) = held();
    rig.send(socket, &frames(10, 10));
    rig.quiet();
    rig.fill_ring(1);
    rig.send(socket, &[frames(15, 900)].concat());
    rig.world.peer_finishes(socket);
    rig.quiet();
    rig.said(socket);
    let id = rig.shard.connections.ids().next().unwrap();
    let now = rig.world.now();
    rig.shard.handle_end(now, id, crate::session::Disconnect::Finished);
    rig.world.peer_resets(socket);
    rig.shard.handle_end(now, id, crate::session::Disconnect::Reset);
    rig.shard.handle_end(now, id, crate::session::Disconnect::Reset);
    assert_eq!(rig.shard.deferred.len(), 5, "the bytes, and each end");
    rig.let_ring_go();
    rig.quiet();
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (25, 1));
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_peer_we_do_not_read_is_not_called_idle() {
    let (mut rig, deferred) = held();
    let silent = rig.upgraded("b");
    rig.send(deferred, &frames(15, 900));
    rig.quiet();
    let wakes = rig.pass(Duration::from_secs(60));
    assert!(wakes < 20, "{wakes}");
    assert_eq!(rig.said(deferred), Vec::<String>::new());
    assert_eq!(
        rig.said(silent),
        ["error start_timeout", "close 4408"],
        "we read this one: it says nothing"
    );
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.said(deferred), ["ack 10"]);
    rig.pass(Limits::tiny().idle_timeout - millis(10));
    assert_eq!(rig.said(deferred), ["ping"]);
    rig.pass(millis(20));
    assert_eq!(rig.said(deferred), ["error idle_timeout", "close 4408"]);
    rig.end();
}

#[test]
fn bytes_that_come_one_at_a_time_take_no_more_room_than_there_is() {
    let mut rig = Rig::with(|limits| {
        limits.max_ahead = None;
        limits.completions_per_turn = 256;
    });
    rig.hold_ring();
    let (one, other) = (rig.call("one"), rig.call("other"));
    rig.fill_ring(LITTLE);
    rig.world.set_receive_size_max(1);
    let sent = [start("one"), frames(21, 100), text(STOP)].concat();
    rig.send(one, &sent);
    rig.send(other, &frames(10, 100));
    rig.quiet();
    assert!(
        !rig.shard.deferred.is_empty(),
        "each byte is a record of two lines: the ring cannot hold them all"
    );
    assert_eq!(rig.counters.sessions_refused.read(), 0);
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.said(one), ["started", "ack 10", "ack 20", "stopped 21", "close 1000"]);
    assert_eq!(rig.said(other), ["ack 10"]);
    assert_eq!(rig.ingest.counters.ends_unrecorded.read(), 0);
    rig.end();
}

#[test]
fn the_end_of_every_call_fits_whatever_came_before() {
    let mut rig = Rig::with(|limits| {
        limits.max_ahead = None;
        limits.completions_per_turn = 256;
    });
    rig.hold_ring();
    let calls: Vec<_> = (0..6).map(|index| rig.call(&format!("call-{index}"))).collect();
    rig.fill_ring(LITTLE);
    rig.world.set_receive_size_max(1);
    calls.iter().for_each(|socket| rig.send(*socket, &frames(20, 50)));
    rig.quiet();
    let ended = |rig: &Rig| rig.counters.calls_ended.read();
    // Ended by the node, while their bytes wait.
    rig.shard
        .mail
        .sender(0)
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    rig.quiet();
    rig.pass(millis(20));
    assert_eq!((ended(&rig), rig.ingest.counters.ends_unrecorded.read()), (6, 0));
    rig.let_ring_go();
    rig.end();
}

#[test]
fn room_that_comes_with_the_end_of_a_turn_is_noticed() {
    // One turn's receives of one-byte frames are several rings full: what is deferred gets room
    // when the turn's batches are released, and nothing else happens then, for the peers do not
    // read their acks.
    let mut rig = Rig::with(|limits| {
        limits.max_ahead = None;
        limits.completions_per_turn = 256;
    });
    let sockets: Vec<_> = (0..8).map(|index| rig.call(&format!("call-{index}"))).collect();
    let count = 4 * 64 * 1024 / 7;
    for socket in &sockets {
        rig.world.set_window(*socket, Some(0));
        rig.send(*socket, &frames(count, 1));
    }
    rig.quiet();
    assert!(rig.counters.receives_deferred.read() > 0, "this test does not test what it says");
    assert_eq!(rig.counters.frames.read(), 8 * count as u64);
    assert!(sockets.iter().all(|socket| rig.world.is_reading(*socket)));
    rig.end();
}

#[test]
fn early_bytes_wait_for_room_too() {
    let mut rig = Rig::tiny();
    rig.hold_ring();
    rig.fill_ring(LITTLE);
    let socket = rig.connect();
    rig.send(socket, &[head("a"), start("a"), frames(10, 100)].concat());
    rig.quiet();
    assert_eq!(rig.said(socket), ["101"]);
    assert!(!rig.world.is_reading(socket));
    rig.pass(Duration::from_secs(10));
    rig.send(socket, &frames(10, 100));
    rig.world.peer_finishes(socket);
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.said(socket), ["started", "ack 10", "ack 20"]);
    assert_eq!(rig.counters.frames.read(), 20);
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn without_receive_buffers_a_receive_is_armed_again_at_the_end_of_the_turn() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.world.set_receive_buffers_free(Some(0));
    rig.send(socket, &frames(5, 100));
    rig.turn();
    assert_eq!(rig.counters.receive_buffers_exhausted.read(), 1);
    assert!(!rig.world.is_reading(socket));
    rig.world.set_receive_buffers_free(Some(1));
    rig.send(socket, &frames(5, 100));
    rig.quiet();
    assert_eq!(rig.said(socket), ["ack 10"]);
    rig.end();
}

#[test]
fn without_receive_buffers_and_without_room_calls_are_not_read_or_called_idle_and_requests_are_answered()
 {
    let (mut rig, hog) = held();
    let starved = rig.call_in_spite_of_the_ring("b");
    let late = rig.connect();
    rig.quiet();
    rig.world.set_receive_buffers_free(Some(1));
    rig.send(hog, &frames(30, 1000));
    rig.quiet();
    rig.send(starved, &frames(10, 100));
    rig.send(late, &head("c"));
    rig.quiet();
    assert_eq!(rig.counters.receive_buffers_exhausted.read(), 2);
    assert_eq!(rig.said(late), ["101"], "a request needs no room in the ring");
    assert!(!rig.world.is_reading(starved));
    let wakes = rig.pass(Duration::from_secs(60));
    assert!(wakes < 30, "{wakes}");
    assert!(!rig.world.is_reading(starved));
    assert_eq!(
        (rig.said(starved), rig.said(late)),
        (vec![], words(&["error start_timeout", "close 4408"]))
    );
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(
        (rig.said(hog), rig.said(starved)),
        (words(&["ack 10", "ack 20", "ack 30"]), words(&["ack 10"]))
    );
    rig.end();
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Rig {
    /// A live call, started with what little room there is.
    fn call_in_spite_of_the_ring(&mut self, interaction: &str) -> Socket {
        let socket = self.upgraded(interaction);
        assert_eq!(self.ask(socket, &start(interaction)), ["started"]);
        socket
    }
}

#[test]
fn a_connection_that_is_given_up_while_its_bytes_wait_costs_nothing_until_they_can_go() {
    let (mut rig, before) = held();
    let socket = rig.call_in_spite_of_the_ring("b");
    rig.world.set_window(socket, Some(0));
    rig.send(socket, &masked(0x9, b"?"));
    rig.quiet();
    rig.send(before, &frames(30, 900));
    rig.quiet();
    rig.send(socket, &frames(30, 900));
    rig.quiet();
    let wakes = rig.pass(Duration::from_secs(60));
    assert!(wakes < 20, "{wakes}");
    assert_eq!(rig.connections(), 2, "its bytes wait after the other's");
    assert!(
        rig.shard.deferred.len() <= 3,
        "its end is noted again and again: {}",
        rig.shard.deferred.len()
    );
    assert_eq!(rig.counters.calls_ended.read(), 1, "it did not read");
    rig.let_ring_go();
    rig.quiet();
    rig.assert_closed(socket);
    assert_eq!(rig.said(before).len(), 3);
    rig.end();
}

/// A node that is told to drain while its disk stands still: calls end one after another, and what
/// has come of them by then fills the ring. An end record whose batch is sealed after it would
/// take a block, and the reserve is a few lines for each.
#[test]
fn ends_that_come_one_by_one_fit_a_full_ring_whose_disk_stands_still() {
    for level in [AckLevel::Received, AckLevel::Written, AckLevel::Durable] {
        let (mut rig, calls) = calls_on_a_disk(level);
        rig.fill_ring(4 * LITTLE);
        rig.world.set_receive_size_max(1);
        calls.iter().for_each(|socket| rig.send(*socket, &frames(40, 1)));
        rig.quiet();
        assert!(!rig.shard.deferred.is_empty(), "the ring is full");
        // Longer than a record waits for its batch to be sealed, and too short for calls to be told
        // of the disk.
        let window = STALL_TIMEOUT * 3 / 4;
        assert!(window > AGE_MAX);
        rig.shard
            .mail
            .sender(0)
            .try_send(Message::Drain { grace: Duration::ZERO, window })
            .unwrap();
        rig.quiet();
        rig.pass(window);
        let unrecorded = rig.ingest.counters.ends_unrecorded.read();
        assert_eq!((rig.counters.calls_ended.read(), unrecorded), (16, 0), "{level:?}");

        rig.world.hold_file_operations(false);
        while rig.world.finish_file_operation(0) {}
        rig.pass(Duration::from_secs(5));
        assert_eq!(
            rig.shard.ring.durable(),
            rig.shard.ring.head(),
            "a disk that does as it should is written to"
        );
        assert!(rig.finished, "{level:?}");
    }
}

/// As [`ends_that_come_one_by_one_fit_a_full_ring_whose_disk_stands_still`], where batches are
/// sealed again and again: it is the flush that stands still, and each batch is written at once. A
/// reserve of a few blocks would not be enough.
#[test]
fn ends_that_come_one_by_one_fit_a_full_ring_whose_disk_does_not_flush() {
    for level in [AckLevel::Received, AckLevel::Written, AckLevel::Durable] {
        let (mut rig, calls) = calls_on_a_disk(level);
        rig.send(calls[0], &frames(10, 1));
        rig.quiet();
        rig.pass(AGE_MAX * 3 / 2);
        assert!(rig.world.finish_file_operation(0), "the write");
        rig.pass(millis(200));
        assert_eq!(rig.world.file_operation_count(), 1, "the flush");
        rig.fill_ring(4 * LITTLE);
        rig.world.set_receive_size_max(1);
        rig.send(calls[0], &frames(700, 1));
        rig.quiet();
        assert!(!rig.shard.deferred.is_empty(), "the ring is full");
        for socket in &calls[1..] {
            rig.world.peer_resets(*socket);
            rig.pass(millis(400));
            while rig.world.finish_file_operation(1) {
                rig.quiet();
            }
        }
        let unrecorded = rig.ingest.counters.ends_unrecorded.read();
        assert_eq!((rig.counters.calls_ended.read() >= 15, unrecorded), (true, 0), "{level:?}");

        rig.world.hold_file_operations(false);
        while rig.world.finish_file_operation(0) {}
        rig.pass(Duration::from_secs(5));
        assert_eq!(
            rig.shard.ring.durable(),
            rig.shard.ring.head(),
            "a disk that does as it should is written to"
        );
        assert_eq!(rig.ingest.counters.ends_unrecorded.read(), 0);
        rig.end();
    }
}

/// Sixteen calls whose disk has just stopped.
fn calls_on_a_disk(level: AckLevel) -> (Rig, Vec<Socket>) {
    let count = 16;
    let limits = Limits {
        max_ahead: None,
        completions_per_turn: 256,
        calls_max: count,
        ..random::patient()
    };
    let settings = IngestSettings { has_journal: true, ..settings(limits) };
    let (segment_size, backlog) = (16 << 20, Backlog::production());
    let disk = DiskSettings { level, segment_size, backlog, replication: None };
    let mut rig = rigs_on(1, settings, Some(disk)).pop().expect("one was asked for");
    let calls = (0..count).map(|index| rig.call(&format!("call-{index}"))).collect();
    rig.pass(Duration::from_secs(2));
    rig.world.hold_file_operations(true);
    (rig, calls)
}

/// While one call's bytes wait for room, others that find no receive buffers come and go.
#[test]
fn connections_that_come_and_go_while_the_ring_is_full_leave_nothing() {
    let (mut rig, hog) = held();
    let silent = rig.upgraded("b");
    rig.world.set_receive_buffers_free(Some(1));
    rig.send(hog, &frames(30, 1000));
    rig.quiet();
    rig.send(silent, b"x");
    rig.quiet();
    let noted = rig.shard.reads.capacity();
    // Beyond those there is place for, the others are turned away after a while.
    for _ in 0..20 {
        for _ in 0..40 {
            let socket = rig.connect();
            rig.send(socket, b"x");
        }
        rig.quiet();
        rig.pass(Duration::from_secs(3));
    }
    assert!(
        rig.counters.receive_buffers_exhausted.read() > 2 * noted as u64,
        "this test does not test what it says"
    );
    assert_eq!(rig.shard.reads.capacity(), noted);
    assert!(!rig.world.is_reading(silent));
    rig.let_ring_go();
    rig.quiet();
    assert!(
        rig.world.is_reading(hog) && rig.world.is_reading(silent),
        "connections that are still there are read again"
    );
    rig.end();
}

#[test]
fn the_rings_of_both_sets_of_limits_take_their_connections() {
    for limits in [Limits::tiny(), Limits::production()] {
        assert!(limits.ring_size >= ring_size_min(limits.connections_max), "{}", limits.ring_size);
    }
}
