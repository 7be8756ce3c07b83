//! Peers that read slowly or not at all, and send slots that run out.

#![forbid(unsafe_code)]

use super::*;

#[test]
fn what_a_full_socket_does_not_take_waits_and_goes_on_byte_by_byte() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.world.set_window(socket, Some(7));
    rig.send(socket, &frames(20, 10));
    rig.quiet();
    assert_eq!(rig.counters.sends_blocked.read(), 1);
    let mut heard = rig.world.peer_reads(socket);
    assert_eq!(heard.len(), 7);
    rig.send(socket, &frames(10, 10));
    rig.quiet();
    while said(&heard).last().is_none_or(|last| last != "ack 30") {
        rig.world.set_window(socket, Some(1));
        rig.quiet();
        let byte = rig.world.peer_reads(socket);
        assert_eq!(byte.len(), 1, "after {heard:?}");
        heard.extend(byte);
    }
    assert_eq!(said(&heard), ["ack 10", "ack 20", "ack 30"]);
    rig.world.set_window(socket, None);
    assert_eq!(rig.ask(socket, &frames(10, 10)), ["ack 40"]);
    rig.end();
}

#[test]
fn a_peer_that_does_not_read_is_cut_when_its_time_is_over() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.world.set_window(socket, Some(0));
    rig.send(socket, &frames(10, 10));
    rig.quiet();
    rig.pass(Limits::tiny().ack_stalled_timeout - millis(10));
    assert_eq!(rig.counters.calls_ended.read(), 0);
    rig.pass(millis(20));
    assert_eq!(rig.counters.calls_ended.read(), 1);
    let wakes = rig.pass(Duration::from_secs(3));
    rig.assert_closed(socket);
    assert!(wakes < 20, "{wakes}");
    rig.end();
}

#[test]
fn a_peer_that_reads_a_little_at_a_time_is_not_cut() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.world.set_window(socket, Some(0));
    for _ in 0..10 {
        rig.send(socket, &frames(1, 10));
        rig.pass(Limits::tiny().ack_stalled_timeout - millis(100));
        rig.world.set_window(socket, Some(1));
        rig.quiet();
    }
    assert_eq!(rig.counters.calls_ended.read(), 0);
    rig.end();
}

#[test]
fn peers_that_do_not_read_hold_no_send_slot() {
    let mut rig = Rig::tiny();
    let deaf: Vec<_> = (0..6).map(|index| rig.call(&format!("deaf-{index}"))).collect();
    let live = rig.call("live");
    for socket in &deaf {
        rig.world.set_window(*socket, Some(0));
        rig.send(*socket, &frames(10, 10));
    }
    rig.quiet();
    assert_eq!(rig.shard.io.slots_free(), 4, "all of them");
    for count in 1..=5 {
        assert_eq!(rig.ask(live, &frames(10, 10)), [format!("ack {}", count * 10)]);
    }
    for socket in deaf {
        rig.world.set_window(socket, None);
        rig.quiet();
        assert_eq!(rig.said(socket), ["ack 10"]);
    }
    rig.end();
}

#[test]
fn a_connection_that_finds_no_slot_free_gets_one_in_a_later_turn() {
    let mut rig = Rig::with(|limits| {
        limits.completions_per_turn = 64;
        limits.send_slot_count = 2;
    });
    let calls: Vec<_> = (0..8).map(|index| rig.call(&format!("call-{index}"))).collect();
    calls.iter().for_each(|socket| rig.send(*socket, &frames(10, 10)));
    rig.turn();
    assert_eq!((rig.shard.sends.len(), rig.counters.unsent_waiting.read()), (6, 6));
    rig.quiet();
    assert_eq!(rig.counters.unsent_waiting.read(), 0);
    for socket in calls {
        assert_eq!(rig.said(socket), ["ack 10"]);
    }
    rig.end();
}

#[test]
fn a_connection_with_much_to_send_does_not_keep_the_slots_from_others() {
    let mut rig = Rig::with(|limits| limits.send_slot_count = 1);
    let (talker, other) = (rig.call("talker"), rig.call("other"));
    // A slot holds some 15 acks.
    rig.send(talker, &frames(1000, 1));
    rig.turn();
    rig.send(other, &frames(10, 1));
    (0..4).for_each(|_| rig.turn());
    assert_eq!(rig.said(other), ["ack 10"]);
    rig.quiet();
    assert_eq!(rig.said(talker).last().unwrap(), "ack 1000");
    rig.end();
}

#[test]
fn many_acks_leave_in_one_send() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    let sends = rig.counters.sends.read();
    let heard = rig.ask(socket, &frames(100, 10));
    assert_eq!(heard, (1..=10).map(|count| format!("ack {}", count * 10)).collect::<Vec<_>>());
    assert_eq!(rig.counters.sends.read() - sends, 1);
    rig.end();
}

#[test]
fn what_waits_for_one_peer_is_bounded_however_much_it_asks_for() {
    let mut rig = Rig::with(|limits| {
        limits.max_ahead = None;
        (limits.control_burst, limits.text_burst) = (1_000_000, 1_000_000);
    });
    let socket = rig.call("a");
    rig.world.set_window(socket, Some(0));
    for _ in 0..50 {
        rig.send(
            socket,
            &[start("a"), frames(10, 1), masked(0x9, &[b'x'; 125])].concat().repeat(10),
        );
        rig.quiet();
    }
    assert_eq!(rig.shard.io.slots_free(), 4);
    rig.world.set_window(socket, None);
    rig.quiet();
    let heard = rig.said(socket);
    let acks: Vec<_> = heard.iter().filter(|word| word.starts_with("ack")).cloned().collect();
    assert_eq!(acks, (1..=500).map(|count| format!("ack {}", count * 10)).collect::<Vec<_>>());
    assert!(
        heard.iter().filter(|word| word.starts_with("pong")).count() <= 5,
        "only the latest pings are answered"
    );
    rig.end();
}

#[test]
fn a_hundred_calls_of_the_recommended_frames_on_the_limits_of_production() {
    let limits =
        Limits { ring_size: 16 * 1024 * 1024, connections_max: 200, ..Limits::production() };
    let mut rig = rigs(1, settings(limits)).pop().unwrap();
    let calls: Vec<_> = (0..100).map(|index| rig.call(&format!("call-{index}"))).collect();
    // As a network cuts them.
    rig.world.set_receive_size_max(1448);
    for second in 1..=4u64 {
        for socket in &calls {
            rig.send(*socket, &frames(5, 9_600));
        }
        rig.pass(Duration::from_secs(1));
        for socket in &calls {
            let acks = if second.is_multiple_of(2) {
                vec![format!("ack {}", second * 5)]
            } else {
                Vec::new()
            };
            assert_eq!(rig.said(*socket), acks);
        }
    }
    for socket in &calls {
        assert_eq!(rig.ask(*socket, &text(STOP)), ["stopped 20", "close 1000"]);
        rig.world.peer_finishes(*socket);
    }
    rig.quiet();
    assert_eq!((rig.counters.frames.read(), rig.counters.calls_ended.read()), (2000, 100));
    rig.end();
}
