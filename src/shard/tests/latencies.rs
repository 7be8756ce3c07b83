//! What a shard measures, to the microsecond of the script's clock.

#![forbid(unsafe_code)]

use super::*;
use crate::latency::{Latencies, Latency, LatencyCollector};

/// What a shard has measured since it was last asked; `turn` lets it take a turn.
pub(super) fn collect(mailbox: MailboxSender, mut turn: impl FnMut()) -> Latencies {
    let mut collector = LatencyCollector::new(1, move |_, request| {
        mailbox.try_send(Message::Latencies(request)).expect("a test's mailbox has room");
        Ok(())
    });
    collector.request();
    turn();
    assert!(collector.collect(), "a turn reads all mail");
    collector.totals().clone()
}

/// Exactly these values, milliseconds, each so many times (or several times in the list).
#[track_caller]
pub(super) fn assert_values(latency: &Latency, expected: &[(u64, u64)]) {
    let expected =
        expected.iter().map(|(millis, count)| (millis * 1_000, *count)).collect::<Vec<_>>();
    assert_micros(latency, &expected);
}

#[track_caller]
fn assert_micros(latency: &Latency, expected: &[(u64, u64)]) {
    let histogram = latency.histogram();
    let found: Vec<_> = histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect();
    for (value, _) in expected {
        let alike = expected.iter().filter(|(other, _)| histogram.equivalent(*other, *value));
        let count = alike.map(|(_, count)| count).sum::<u64>();
        assert_eq!(histogram.count_at(*value), count, "{value} us in {found:?}");
    }
    assert_eq!(histogram.len(), expected.iter().map(|(_, count)| count).sum::<u64>(), "{found:?}");
}

impl Rig {
    fn latencies(&mut self) -> Latencies {
        let mailbox = self.shard.mail.sender(self.shard.index).clone();
        collect(mailbox, || self.turn())
    }
}

#[test]
fn the_phases_of_a_setup() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    rig.quiet();
    let head = head("a");
    let (first, rest) = head.split_at(100);
    for part in [first, rest] {
        rig.world.advance(millis(30));
        rig.send(socket, part);
        rig.quiet();
    }
    assert_eq!(rig.said(socket), ["101"]);
    rig.world.advance(millis(500));
    let start = start("a");
    let (first, rest) = start.split_at(20);
    for part in [first, rest] {
        rig.world.advance(millis(100));
        rig.send(socket, part);
        rig.quiet();
    }
    assert_eq!(rig.said(socket), ["started"]);
    // A second `start` is answered and begins nothing.
    assert_eq!(rig.ask(socket, &start), ["started"]);
    let measured = rig.latencies();
    assert_values(&measured.setup_head, &[(60, 1)]);
    assert_values(&measured.setup_upgrade, &[(0, 1)]);
    assert_values(&measured.setup_start, &[(700, 1)]);
    assert_values(&measured.setup, &[(760, 1)]);
    rig.end();
}

#[test]
fn the_wait_for_the_budget_of_handshakes_is_in_the_upgrade() {
    let mut rig = Rig::tiny();
    let sockets: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    rig.quiet();
    for (number, socket) in sockets.iter().enumerate() {
        rig.send(*socket, &head(&number.to_string()));
    }
    for _ in 0..3 {
        rig.turn();
        rig.world.advance(millis(10));
    }
    let measured = rig.latencies();
    assert_values(&measured.setup_head, &[(0, 5)]);
    assert_values(&measured.setup_upgrade, &[(0, 2), (10, 2), (20, 1)]);
    assert!(measured.setup.histogram().is_empty());
    rig.end();
}

#[test]
fn a_start_that_came_with_the_head_is_measured_too() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    rig.quiet();
    rig.world.advance(millis(25));
    let answer = rig.ask(socket, &[head("a"), start("a"), frames(10, 100)].concat());
    assert_eq!(answer, ["101", "started", "ack 10"]);
    let measured = rig.latencies();
    assert_values(&measured.setup, &[(25, 1)]);
    assert_values(&measured.setup_start, &[(0, 1)]);
    assert_values(&measured.frame_ring, &[(0, 10)]);
    assert_values(&measured.ack, &[(0, 1)]);
    rig.end();
}

#[test]
fn a_turn_and_the_frames_in_it() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.latencies();
    // The set that is given away in a turn lacks that turn, whose end is yet to come.
    rig.world.set_tick(Duration::from_micros(50));
    rig.send(socket, &frames(10, 100));
    rig.turn();
    rig.world.set_tick(Duration::ZERO);
    let measured = rig.latencies();
    // A look at the clock when the submit returns, one after the frames, one at the end.
    assert_micros(&measured.frame_ring, &[(50, 10)]);
    assert_micros(&measured.frame_received, &[(0, 10)]);
    // The turn in which it was asked the first time, then this one.
    assert_micros(&measured.turn, &[(0, 1), (100, 1)]);
    // From the start of the turn to its end.
    assert_micros(&measured.ack, &[(100, 1)]);
    rig.end();
}

#[test]
fn a_frame_in_pieces_counts_from_its_first() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.latencies();
    let bytes = frames(4, 1000);
    let frame = bytes.len() / 4;
    // Half of the first; the rest of it, the second, and a byte of the third (its payload has not
    // begun); that and the fourth.
    let cuts = [0, frame / 2, 2 * frame + 1, 4 * frame];
    for cut in cuts.windows(2) {
        rig.send(socket, &bytes[cut[0]..cut[1]]);
        rig.turn();
        rig.world.advance(millis(40));
    }
    let measured = rig.latencies();
    assert_values(&measured.frame_ring, &[(40, 1), (0, 3)]);
    assert_eq!(rig.counters.frames.read(), 4);
    rig.end();
}

#[test]
fn a_text_in_pieces_is_no_frame() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.latencies();
    let text = text(r#"{"event":"mark"}"#);
    for part in text.chunks(8) {
        rig.send(socket, part);
        rig.turn();
        rig.world.advance(millis(40));
    }
    assert_eq!(rig.counters.events_unknown.read(), 1);
    assert!(rig.latencies().frame_ring.histogram().is_empty());
    rig.end();
}

#[test]
fn frames_that_wait_for_room_in_the_ring_have_waited() {
    let mut rig = Rig::with(|limits| limits.max_ahead = None);
    rig.hold_ring();
    let socket = rig.call("a");
    rig.fill_ring(8 * 1024);
    rig.latencies();
    rig.send(socket, &frames(10, 1000));
    rig.quiet();
    assert_eq!(rig.counters.deferred_waiting.read(), 1);
    rig.world.advance(millis(300));
    rig.let_ring_go();
    rig.quiet();
    assert_eq!(rig.said(socket), ["ack 10"]);
    let measured = rig.latencies();
    assert_values(&measured.frame_ring, &[(300, 10)]);
    // The ack was due only then.
    assert_values(&measured.ack, &[(0, 1)]);
    rig.end();
}

#[test]
fn an_ack_is_sent_once_the_socket_has_taken_it() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.latencies();
    rig.world.set_window(socket, Some(7));
    rig.send(socket, &frames(20, 10));
    rig.quiet();
    let measured = rig.latencies();
    assert_values(&measured.ack, &[(0, 2)]);
    assert!(measured.ack_sent.histogram().is_empty());
    // Two more are owed meanwhile, and go out after the first.
    rig.world.advance(millis(100));
    rig.send(socket, &frames(20, 10));
    rig.quiet();
    rig.world.advance(millis(100));
    rig.world.set_window(socket, None);
    rig.quiet();
    assert_eq!(rig.said(socket).last().map(String::as_str), Some("ack 40"));
    let measured = rig.latencies();
    assert_values(&measured.ack, &[(100, 2)]);
    assert_values(&measured.ack_sent, &[(200, 2), (100, 2)]);
    rig.end();
}

#[test]
fn an_ack_that_finds_no_send_slot_waits_for_one() {
    let mut rig = Rig::with(|limits| limits.send_slot_count = 1);
    let calls = [rig.call("a"), rig.call("b")];
    rig.latencies();
    calls.iter().for_each(|socket| rig.send(*socket, &frames(10, 10)));
    rig.turn();
    rig.world.advance(millis(15));
    rig.quiet();
    let measured = rig.latencies();
    assert_values(&measured.ack, &[(0, 1), (15, 1)]);
    assert_eq!(measured.ack_sent.histogram().len(), 2);
    rig.end();
}

#[test]
fn acks_that_never_leave_are_not_measured() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.latencies();
    rig.world.set_window(socket, Some(0));
    rig.send(socket, &frames(10, 10));
    rig.quiet();
    rig.send(socket, &frames(10, 10));
    rig.quiet();
    rig.world.peer_resets(socket);
    rig.quiet();
    let measured = rig.latencies();
    assert_eq!(rig.counters.acks.read(), 2);
    assert_values(&measured.ack, &[(0, 1)]);
    assert!(measured.ack_sent.histogram().is_empty());
    rig.end();
}

#[test]
fn acks_that_fill_most_of_a_send_are_measured_as_soon_as_it_is_over() {
    // From one to as many as a slot holds; past half of it there is no room left to ask for more.
    for count in 1..=14 {
        let mut rig = Rig::with(|limits| limits.max_ahead = None);
        let socket = rig.call("a");
        rig.latencies();
        let sends = rig.counters.sends.read();
        rig.send(socket, &frames(10 * count, 1));
        rig.quiet();
        assert_eq!((rig.said(socket).len(), rig.counters.sends.read() - sends), (count, 1));
        rig.world.advance(millis(500));
        let measured = rig.latencies();
        assert_values(&measured.ack, &[(0, count as u64)]);
        assert_values(&measured.ack_sent, &[(0, count as u64)]);
        rig.end();
    }
}

#[test]
fn acks_that_take_two_sends_count_with_the_second() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.latencies();
    // A slot holds some 15 acks.
    rig.send(socket, &frames(200, 1));
    rig.turn();
    assert!(rig.latencies().ack.histogram().is_empty(), "some are still to be sent");
    rig.world.advance(millis(10));
    rig.quiet();
    assert_eq!(rig.said(socket).len(), 20);
    let measured = rig.latencies();
    assert_eq!((measured.ack.histogram().len(), measured.ack_sent.histogram().len()), (20, 20));
    rig.end();
}
