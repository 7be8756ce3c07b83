//! The end of a connection: our last words, FIN, the peer's FIN or a while, close.

#![forbid(unsafe_code)]

use super::*;

/// A call that has been refused, its Close read.
fn refused(rig: &mut Rig) -> Socket {
    let socket = rig.call("a");
    assert_eq!(rig.ask(socket, &text("{")), ["error invalid_start", "close 4400"]);
    socket
}

#[test]
fn after_our_close_comes_our_fin_and_after_the_peers_fin_the_socket_is_closed() {
    let mut rig = Rig::tiny();
    let socket = refused(&mut rig);
    assert!(rig.world.is_shut_down(socket) && rig.world.is_reading(socket));
    assert!(!rig.world.is_closed(socket), "a close now could reset what the peer has yet to read");
    rig.ask(socket, &close(4400));
    assert!(!rig.world.is_closed(socket));
    rig.world.peer_finishes(socket);
    rig.quiet();
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_peer_that_never_sends_its_fin_is_closed_after_a_while() {
    let mut rig = Rig::tiny();
    let socket = refused(&mut rig);
    let linger = Limits::tiny().close_timeout;
    rig.pass(linger - millis(1));
    assert!(!rig.world.is_closed(socket));
    let wakes = rig.pass(millis(20));
    rig.assert_closed(socket);
    assert!(wakes < 10, "{wakes}");
    rig.end();
}

#[test]
fn a_peer_that_keeps_sending_is_read_for_a_megabyte_and_cut_when_its_time_is_over() {
    let mut rig = Rig::tiny();
    let socket = refused(&mut rig);
    for _ in 0..16 {
        rig.send(socket, &[0; 64 * 1024]);
        rig.quiet();
        assert!(rig.world.is_reading(socket));
    }
    rig.send(socket, &[0; 1]);
    rig.quiet();
    rig.send(socket, &[0; 1]);
    rig.quiet();
    assert!(!rig.world.is_reading(socket), "TCP pushes back");
    assert_eq!(rig.world.unread_size(socket), 1);
    assert!(!rig.world.is_closed(socket), "a reset now would overtake the reason");
    let wakes = rig.pass(Limits::tiny().close_timeout + millis(20));
    rig.assert_closed(socket);
    assert!(wakes < 10, "{wakes}");
    rig.end();
}

#[test]
fn a_reset_frees_the_slot_at_every_stage() {
    let good = head("a");
    let stages: [(&str, Vec<u8>); 8] = [
        ("silent", Vec::new()),
        ("half a head", good[..100].to_vec()),
        ("a bad head", b"GET / HTTP/9.9\r\n\r\n".to_vec()),
        ("answered", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("upgraded", good.clone()),
        ("live", [good.clone(), start("a"), frames(3, 100)].concat()),
        ("mid-frame", [good.clone(), start("a"), audio(100)[..50].to_vec()].concat()),
        ("refused", [good, start("a"), text("{")].concat()),
    ];
    for (stage, bytes) in stages {
        for turns_before in 0..6 {
            let mut rig = Rig::tiny();
            let socket = rig.connect();
            rig.send(socket, &bytes);
            (0..turns_before).for_each(|_| rig.turn());
            rig.world.peer_resets(socket);
            rig.quiet();
            assert!(rig.world.is_closed(socket), "{stage}, after {turns_before} turns");
            assert_eq!(
                rig.counters.calls_started.read(),
                rig.counters.calls_ended.read(),
                "{stage}"
            );
            rig.end();
        }
    }
}

#[test]
fn an_http_answer_goes_out_whole_before_the_connection_ends() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    rig.send(socket, b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n");
    rig.quiet();
    let answer = String::from_utf8(rig.world.peer_reads(socket)).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n")
            && answer.ends_with(r#"{"status":"ok","service":"ingest"}"#),
        "{answer}"
    );
    assert!(rig.world.is_shut_down(socket) && !rig.world.is_closed(socket));
    rig.world.peer_finishes(socket);
    rig.quiet();
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_half_closed_http_client_still_gets_its_answer() {
    for path in ["/health", "/nowhere", "/v1/ingest"] {
        let mut rig = Rig::tiny();
        let socket = rig.connect();
        rig.world.set_window(socket, Some(10));
        rig.send(socket, format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes());
        rig.world.peer_finishes(socket);
        rig.quiet();
        assert!(!rig.world.is_closed(socket), "the answer is not out");
        rig.world.set_window(socket, None);
        rig.quiet();
        let answer = String::from_utf8(rig.world.peer_reads(socket)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 ") && answer.ends_with('}'), "{answer}");
        rig.assert_closed(socket);
        rig.end();
    }
}

#[test]
fn a_fin_ends_a_live_call_and_the_frames_before_it_count() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.send(socket, &frames(3, 100));
    rig.world.peer_finishes(socket);
    rig.quiet();
    assert_eq!(rig.counters.frames.read(), 3);
    assert_eq!(rig.counters.calls_ended.read(), 1);
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_close_is_answered_and_then_both_fins_meet() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    rig.send(socket, &[frames(12, 100), close(1000)].concat());
    rig.world.peer_finishes(socket);
    rig.quiet();
    assert_eq!(rig.said(socket), ["ack 10", "close 1000"]);
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn a_peer_that_stops_reading_before_our_last_words_is_cut_after_a_while() {
    for (what, bytes) in
        [("refused", text("{")), ("answered", close(1000)), ("stopped", text(STOP))]
    {
        let mut rig = Rig::tiny();
        let socket = rig.call("a");
        rig.world.set_window(socket, Some(3));
        rig.send(socket, &bytes);
        rig.quiet();
        rig.pass(millis(400));
        assert!(!rig.world.is_closed(socket), "{what}: it has time");
        let wakes = rig.pass(Duration::from_secs(2));
        assert!(rig.world.is_closed(socket), "{what}");
        assert!(wakes < 20, "{what}: {wakes}");
        rig.end();
    }
}

/// A completion that waits in the queue while its cancel goes out: both come, in this order, and
/// neither is lost.
#[test]
fn a_cancel_that_comes_too_late_does_no_harm() {
    for advance in [millis(490), millis(505), millis(510)] {
        let mut rig = Rig::with(|limits| limits.completions_per_turn = 1);
        let (socket, other) = (rig.call("a"), rig.call("b"));
        rig.world.set_window(socket, Some(3));
        assert_eq!(rig.ask(socket, &text("{")).len(), 1);
        rig.world.advance(advance);
        // Its window opens and its bytes come in the very turn in which it is given up.
        rig.send(other, &frames(1, 10));
        rig.send(socket, b"more");
        rig.world.set_window(socket, None);
        rig.turn();
        rig.world.advance(millis(20));
        rig.turn();
        rig.world.advance(millis(520));
        rig.quiet();
        rig.pass(millis(1000));
        rig.assert_closed(socket);
        assert!(!rig.world.is_closed(other));
        rig.end();
    }
}

#[test]
fn a_slot_is_used_again_under_another_name() {
    let mut rig = Rig::tiny();
    for round in 0..100 {
        let socket = rig.call("a");
        assert_eq!(rig.connections(), 1, "{round}");
        assert_eq!(rig.ask(socket, &text(STOP)), ["stopped 0", "close 1000"]);
        rig.world.peer_finishes(socket);
        rig.quiet();
    }
    assert_eq!(rig.shard.connections.ids().count(), 0);
    rig.end();
}
