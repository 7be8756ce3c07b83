//! A disk that takes nothing while the frame ring fills: new calls are sent elsewhere before live
//! ones feel it.

#![forbid(unsafe_code)]

use super::disk::STALL_TIMEOUT;
use super::*;
use crate::ack_level::AckLevel;
use crate::constants::BATCH_SIZE_QUEUED;
use crate::journal::frame_ring::SealedBatch;
use crate::journal::writer::Backlog;

const RING_SIZE: usize = 32 << 20;

const FRAME_SIZE: usize = 32 * 1024;

/// A shard whose disk takes nothing from now on, with a live call.
fn stalled(ring_size: usize) -> (Rig, Socket) {
    let limits =
        Limits { ring_size, max_ahead: None, message_size_max: FRAME_SIZE, ..Limits::tiny() };
    let settings = IngestSettings { has_journal: true, ..settings(limits) };
    let disk = DiskSettings {
        level: AckLevel::Durable,
        segment_size: 8 << 20,
        backlog: Backlog::production(),
        replication: None,
    };
    let mut rig = rigs_on(1, settings, Some(disk)).pop().expect("one was asked for");
    let live = rig.call("live");
    rig.world.hold_file_operations(true);
    (rig, live)
}

impl Rig {
    /// Sends audio until so much of the ring is in use.
    fn fill_to(&mut self, socket: Socket, used: usize) {
        while (self.counters.ring_used_bytes.read() as usize) < used {
            self.send(socket, &frames(4, FRAME_SIZE));
            self.quiet();
        }
    }

    /// The answer to a request on a new connection.
    fn answer(&mut self, head: &[u8]) -> String {
        let socket = self.connect();
        self.send(socket, head);
        self.quiet();
        String::from_utf8_lossy(&self.world.peer_reads(socket)).into_owned()
    }

    fn let_disk_go(&mut self) {
        self.world.hold_file_operations(false);
        while self.world.finish_file_operation(0) {}
        self.quiet();
        self.pass(millis(100));
    }
}

#[test]
fn new_calls_get_503_before_the_ring_is_full_and_live_ones_go_on() {
    let (mut rig, live) = stalled(RING_SIZE);
    rig.fill_to(live, RING_SIZE / 2);
    rig.pass(millis(200));
    let other = rig.call("half");
    rig.fill_to(live, RING_SIZE * 3 / 4 + FRAME_SIZE);
    let third = rig.call("mark");
    assert_eq!(rig.counters.ring_refuses_calls.read(), 0, "it has not lasted");

    rig.pass(millis(60));
    let refused = rig.answer(&head("new"));
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nRetry-After: "),
        "{refused}"
    );
    let health = rig.answer(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    assert_eq!(
        (rig.counters.ring_refuses_calls.read(), rig.counters.journal_refuses_calls.read()),
        (1, 0)
    );
    let frames_before = rig.counters.frames.read();
    for socket in [live, other, third] {
        rig.send(socket, &frames(10, 1000));
    }
    rig.quiet();
    assert_eq!(rig.counters.frames.read(), frames_before + 30, "all live calls are read");
    assert_eq!(rig.counters.receives_deferred.read(), 0);
    for socket in [live, other, third] {
        assert_eq!(rig.said(socket), Vec::<String>::new());
        assert!(!rig.world.is_closed(socket));
    }

    rig.let_disk_go();
    assert_eq!(
        (rig.counters.ring_refuses_calls.read(), rig.counters.ring_used_bytes.read()),
        (0, 0)
    );
    rig.call("new");
    assert_eq!((rig.said(other), rig.said(third)), (vec!["ack 10".into()], vec!["ack 10".into()]));
    assert!(rig.said(live).len() > 50);
    rig.end();
}

/// The least ring has no room for a whole receive long before three quarters of it are in use.
#[test]
fn a_small_ring_that_is_full_refuses_new_calls_too() {
    let (mut rig, live) = stalled(Limits::tiny().ring_size);
    while rig.counters.receives_deferred.read() == 0 {
        rig.send(live, &frames(4, FRAME_SIZE));
        rig.quiet();
    }
    assert!(rig.counters.ring_used_bytes.read() < rig.counters.ring_size_bytes.read() * 3 / 4);
    rig.pass(millis(60));
    assert!(rig.answer(&head("new")).starts_with("HTTP/1.1 503 "));
    rig.let_disk_go();
    rig.call("new");
    assert_eq!(rig.counters.deferred_waiting.read(), 0);
    rig.end();
}

/// No wake-up tells a sleeping shard that the mark has been passed for long enough: the next
/// request finds it out.
#[test]
fn a_shard_that_has_slept_refuses_the_first_new_call() {
    let (mut rig, live) = stalled(RING_SIZE);
    rig.fill_to(live, RING_SIZE * 3 / 4 + FRAME_SIZE);
    rig.world.advance(STALL_TIMEOUT / 2);
    assert!(rig.answer(&head("new")).starts_with("HTTP/1.1 503 "));
    rig.let_disk_go();
    rig.call("new");
    rig.end();
}

/// The reason of a refusal waits for the ACKs that are due. What a flood sends meanwhile is dropped
/// undecoded, a megabyte of it.
#[test]
fn a_refused_peer_that_floods_on_hears_its_acks_and_the_reason() {
    let (mut rig, live) = stalled(RING_SIZE);
    rig.send(live, &[frames(25, 1000), text("{")].concat());
    rig.quiet();
    let frames_before = rig.counters.frames.read();
    for _ in 0..40 {
        rig.send(live, &frames(2, FRAME_SIZE));
        rig.quiet();
    }
    assert_eq!(rig.said(live), Vec::<String>::new(), "the disk takes nothing");
    assert_eq!(rig.counters.frames.read(), frames_before);
    assert!(rig.world.unread_size(live) > 0 && !rig.world.is_reading(live), "TCP pushes back");
    rig.let_disk_go();
    assert_eq!(rig.said(live), ["ack 10", "ack 20", "error invalid_start", "close 4400"]);
    rig.pass(Limits::tiny().close_timeout + millis(20));
    rig.assert_closed(live);
    rig.end();
}

/// What `tuning/README.md` says of the memory beside a ring, touched by and by: notes, promises,
/// and the batches of ring and writer.
#[test]
fn the_queues_beside_a_ring_take_an_eightieth_of_it() {
    let connections = Limits::production().connections_max;
    for (ring_size, expected) in [(800 << 20, 10), (4 << 30, 49)] {
        // Of frames of 9,600 bytes: see NOTES_SHARE.
        let notes = ring_size / 600;
        let promises =
            promise_count_usual(ring_size, connections) * size_of::<Promise<ConnectionId>>();
        let batches = 2 * ring_size / BATCH_SIZE_QUEUED * size_of::<SealedBatch>();
        let sum = notes + promises + batches;
        assert_eq!((sum + (1 << 19)) >> 20, expected, "{notes} {promises} {batches}");
        assert!(sum < ring_size / 80);
    }
}
