//! Request heads: judged within a budget, after the live calls; what comes after a head waits
//! with it, in order.

#![forbid(unsafe_code)]

use super::*;
use connections::EARLY_SIZE_MAX;

#[test]
fn heads_are_judged_two_a_turn_and_a_live_calls_frames_come_first() {
    let mut rig = Rig::tiny();
    let live = rig.call("live");
    let sockets: Vec<_> = (0..7).map(|_| rig.connect()).collect();
    rig.quiet();
    for (index, socket) in sockets.iter().enumerate() {
        rig.send(*socket, &head(&format!("new-{index}")));
    }
    rig.send(live, &frames(10, 10));
    let upgrades_before = rig.counters.upgrades.read();
    rig.turn();
    assert_eq!(rig.counters.frames.read(), 10);
    assert_eq!(rig.counters.upgrades.read() - upgrades_before, 2);
    assert_eq!(rig.counters.heads_waiting.read(), 5);
    for expected in [4, 6, 7] {
        assert_eq!(rig.shard.next_wait(), Wait::No, "heads are waiting");
        rig.turn();
        assert_eq!(rig.counters.upgrades.read() - upgrades_before, expected);
    }
    rig.quiet();
    assert_eq!(rig.said(live), ["ack 10"]);
    for socket in sockets {
        assert_eq!(rig.said(socket), ["101"]);
    }
    rig.end();
}

/// Connections whose heads stand in the queue before one more: they keep it waiting for that many
/// turns.
fn queue(rig: &mut Rig, count: usize) {
    for _ in 0..count {
        let socket = rig.connect();
        rig.send(socket, &head("queue"));
    }
}

/// A head, a start and `count` frames of `size` bytes, which wait together, and what comes back.
fn early(rig: &mut Rig, count: usize, size: usize) -> (Socket, Vec<u8>) {
    let socket = rig.connect();
    rig.send(socket, &head("early"));
    let after = [start("early"), frames(count, size)].concat();
    rig.send(socket, &after);
    (socket, after)
}

#[test]
fn early_bytes_are_consumed_in_order_once_the_head_is_judged() {
    let mut rig = Rig::tiny();
    queue(&mut rig, 5);
    let (socket, _) = early(&mut rig, 25, 100);
    rig.quiet();
    assert_eq!(rig.said(socket), ["101", "started", "ack 10", "ack 20"]);
    assert_eq!((rig.counters.frames.read(), rig.counters.audio_bytes.read()), (25, 2500));
    rig.end();
}

#[test]
fn early_bytes_beyond_their_limit_stay_in_the_socket_and_nothing_is_lost() {
    // The frames are of a kilobyte; the last one is cut so that the total is exact.
    for total in [
        EARLY_SIZE_MAX - 1,
        EARLY_SIZE_MAX,
        EARLY_SIZE_MAX + 1,
        3 * EARLY_SIZE_MAX,
        5 * EARLY_SIZE_MAX + 77,
    ] {
        let mut rig = Rig::with(|limits| limits.max_ahead = None);
        queue(&mut rig, 6);
        let socket = rig.connect();
        rig.send(socket, &head("early"));
        rig.turn();
        let mut after = start("early");
        let mut count = 0;
        while after.len() + 2 * 1032 <= total {
            after.extend(audio(1024));
            count += 1;
        }
        // What is left is more than a frame and less than three.
        let half = (total - after.len()) / 2;
        let sizes = [half, total - after.len() - half]
            .map(|wire| if wire < 132 { wire - 6 } else { wire - 8 });
        sizes.into_iter().for_each(|size| after.extend(audio(size)));
        assert_eq!(after.len(), total);
        for part in after.chunks(10_000) {
            rig.send(socket, part);
        }
        rig.turn();
        let id = rig.shard.connections.ids().last().unwrap();
        let connection = rig.shard.connections.get(id).unwrap();
        assert!(matches!(connection.stage, Stage::Waiting(_)), "the queue before it is too short");
        let most = EARLY_SIZE_MAX + crate::constants::RECEIVE_BUFFER_SIZE * 2;
        assert!(connection.early.len() < most, "{}", connection.early.len());
        rig.quiet();
        assert_eq!(rig.counters.frames.read(), count + 2, "{total}");
        let bytes = count * 1024 + (sizes[0] + sizes[1]) as u64;
        assert_eq!(rig.counters.audio_bytes.read(), bytes, "{total}");
        assert!(rig.world.is_reading(socket));
        rig.end();
    }
}

#[test]
fn a_peer_that_sends_on_and_on_while_it_waits_is_not_read_on_and_on() {
    let mut rig = Rig::with(|limits| limits.handshakes_per_turn = 0);
    let socket = rig.connect();
    rig.send(socket, &head("early"));
    rig.quiet_while_waiting();
    for _ in 0..10 {
        rig.send(socket, &[0; EARLY_SIZE_MAX / 2]);
        rig.quiet_while_waiting();
    }
    let id = rig.shard.connections.ids().next().unwrap();
    let connection = rig.shard.connections.get(id).unwrap();
    assert_eq!(connection.early.len(), EARLY_SIZE_MAX);
    assert!(!rig.world.is_reading(socket));
    rig.shard.limits.handshakes_per_turn = 1;
    rig.quiet();
    assert_eq!(rig.said(socket), ["101", "close 1002"]);
    rig.end();
}

impl Rig {
    /// A few turns, for shards that are never through with their queue.
    fn quiet_while_waiting(&mut self) {
        (0..5).for_each(|_| self.turn());
    }
}

#[test]
fn early_bytes_are_dropped_with_a_connection_whose_token_is_bad() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    let bad = head_with_token(&token_signed(other_signing_key(), "early"));
    rig.send(socket, &[bad, start("early"), frames(10, 100)].concat());
    rig.quiet();
    assert_eq!(rig.said(socket), ["401"]);
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_started.read()), (0, 0));
    assert_eq!(rig.shard.ring.used_size(), 0);
    rig.world.peer_finishes(socket);
    rig.quiet();
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_fin_after_early_bytes_stays_after_them() {
    let mut rig = Rig::tiny();
    queue(&mut rig, 5);
    let (socket, _) = early(&mut rig, 12, 100);
    rig.world.peer_finishes(socket);
    rig.quiet();
    assert_eq!(rig.counters.frames.read(), 12);
    assert_eq!(rig.counters.calls_ended.read(), 1);
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_reset_while_the_head_waits_frees_the_slot_and_the_frames_before_it_count() {
    let mut rig = Rig::tiny();
    queue(&mut rig, 5);
    let (socket, _) = early(&mut rig, 12, 100);
    rig.turn();
    rig.world.peer_resets(socket);
    rig.quiet();
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (12, 1));
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn new_keys_apply_to_the_next_head_and_not_to_live_calls() {
    let mut rig = Rig::tiny();
    let live = rig.call("live");
    rig.shard.mail.sender(0).try_send(Message::Keys(verifier(other_signing_key()))).unwrap();
    rig.quiet();
    let old = rig.connect();
    assert_eq!(rig.ask(old, &head("old")), ["401"]);
    let new = rig.connect();
    assert_eq!(rig.ask(new, &head_with_token(&token_signed(other_signing_key(), "new"))), ["101"]);
    assert_eq!(rig.ask(live, &frames(10, 10)), ["ack 10"]);
    rig.end();
}
