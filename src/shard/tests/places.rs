//! More connections than there are places: the oldest incomplete requests give way, health checks
//! are always answered, calls never notice; and what one address may do.

#![forbid(unsafe_code)]

use super::*;
use crate::constants::{VISITORS_MIN, visitors_max};
use crate::proto::handshake::Refusal;

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n";

/// Few places, and no other limit on calls.
fn full(calls: usize) -> (Rig, Vec<Socket>) {
    let mut rig = Rig::with(|limits| {
        (limits.connections_max, limits.calls_max) = (calls, 1000);
        limits.head_timeout = Duration::from_secs(60);
        limits.idle_timeout = Duration::from_secs(3600);
    });
    let calls = (0..calls).map(|number| rig.call(&format!("call-{number}"))).collect();
    (rig, calls)
}

fn refused(rig: &Rig, refusal: Refusal) -> u64 {
    rig.ingest.counters.refusals[refusal.index()].read()
}

#[test]
fn a_full_shard_answers_health_and_says_503_to_calls_until_one_is_gone() {
    let (mut rig, calls) = full(4);
    for round in 0..50 {
        rig.pass(millis(10));
        let (probe, late) = (rig.connect(), rig.connect());
        assert_eq!(rig.ask(probe, HEALTH), ["200"], "{round}");
        let answer = String::from_utf8(rig.ask_raw(late, &head("late"))).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "),
            "{answer}"
        );
        assert!(answer.contains(r#""error":"capacity""#), "{answer}");
        // A connection that does not end its side gives way in the end.
        if round % 2 == 0 {
            [probe, late].into_iter().for_each(|socket| rig.world.peer_finishes(socket));
        }
    }
    assert!(rig.connections() <= 4 + VISITORS_MIN);
    assert_eq!(rig.ask(calls[0], &frames(10, 10)), ["ack 10"]);
    rig.world.peer_resets(calls[1]);
    rig.quiet();
    rig.call("next");
    rig.end();
}

impl Rig {
    fn ask_raw(&mut self, socket: Socket, bytes: &[u8]) -> Vec<u8> {
        self.send(socket, bytes);
        self.quiet();
        self.world.peer_reads(socket)
    }
}

/// `flood` is what each of a thousand connections sends, and leaves it at that.
fn health_is_answered_during(flood: &[u8]) {
    let (mut rig, calls) = full(4);
    for round in 0..50 {
        let slow: Vec<_> = (0..20).map(|_| rig.connect()).collect();
        slow.iter().for_each(|socket| rig.send(*socket, flood));
        let probe = rig.connect();
        rig.send(probe, HEALTH);
        rig.quiet();
        rig.pass(millis(25));
        assert_eq!(rig.said(probe), ["200"], "{round}");
        assert!(rig.connections() <= 4 + VISITORS_MIN, "{}", rig.connections());
        for socket in slow {
            let heard = rig.said(socket);
            // It stays, or is told why it does not.
            assert_eq!(rig.world.is_closed(socket), heard == ["408"], "{heard:?}");
        }
    }
    let displaced = rig.counters.connections_shed.read();
    assert!((900..=1000).contains(&displaced), "{displaced} gave way");
    assert_eq!(refused(&rig, Refusal::HeadTimeout), displaced);
    for call in &calls {
        assert_eq!(rig.ask(*call, &frames(10, 10)), ["ack 10"]);
    }
    // Nothing gives way without need.
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.counters.connections_shed.read(), displaced);
    rig.end();
}

#[test]
fn silent_connections_give_way_and_health_is_answered() {
    health_is_answered_during(b"");
}

#[test]
fn slow_requests_give_way_and_health_is_answered() {
    health_is_answered_during(b"G");
}

#[test]
fn the_oldest_give_way_whether_they_have_begun_or_not() {
    let (mut rig, _calls) = full(4);
    let sockets: Vec<_> = (0..12).map(|_| rig.connect()).collect();
    rig.quiet();
    sockets.iter().step_by(2).for_each(|socket| rig.send(*socket, b"GET /hea"));
    rig.pass(millis(20));
    assert_eq!(rig.counters.connections_shed.read(), 0, "there are places");
    let more: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    rig.quiet();
    let closed =
        |rig: &Rig| sockets.iter().map(|socket| rig.world.is_closed(*socket)).collect::<Vec<_>>();
    assert_eq!(closed(&rig), [vec![true; 3], vec![false; 9]].concat());
    // A request that has begun, on a connection that is still there, can finish.
    assert_eq!(rig.ask(sockets[4], b"lth HTTP/1.1\r\nHost: node\r\n\r\n"), ["200"]);
    assert!(more.iter().all(|socket| rig.world.is_reading(*socket)));
    rig.end();
}

/// What was accepted a moment ago may have its request in the socket already.
#[test]
fn no_connection_gives_way_in_the_first_moment() {
    let (mut rig, _calls) = full(4);
    let herd: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    herd.iter().for_each(|socket| rig.send(*socket, &head("late")));
    rig.quiet();
    rig.pass(Duration::from_secs(1));
    assert!(herd.iter().all(|socket| rig.said(*socket) == ["503"]));
    assert_eq!(rig.counters.connections_shed.read(), 0);
    rig.end();
}

#[test]
fn connections_that_do_not_end_after_their_answer_give_way() {
    let (mut rig, _calls) = full(4);
    for _ in 0..200 {
        let socket = rig.connect();
        rig.send(socket, &head("late"));
        rig.quiet();
        rig.pass(millis(10));
        assert_eq!(rig.said(socket), ["503"]);
    }
    assert_eq!(rig.counters.connections_shed.read(), 0, "they had their answer");
    assert!(rig.connections() <= 4 + VISITORS_MIN);
    rig.end();
}

#[test]
fn incomplete_requests_are_bounded_by_their_own_limit() {
    let mut rig = Rig::with(|limits| (limits.connections_max, limits.heads_max) = (500, 24));
    let sockets: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    rig.quiet();
    assert_eq!((rig.connections(), rig.counters.heads_incomplete.read()), (24, 24));
    let told = sockets.iter().filter(|socket| rig.said(**socket) == ["408"]).count();
    assert_eq!((told, rig.counters.connections_shed.read()), (76, 76));
    assert!(sockets[76..].iter().all(|socket| !rig.world.is_closed(*socket)), "the newest stay");
    rig.end();
}

/// Requests that wait for their turn do not give way: then none is let in, and none is turned
/// away.
#[test]
fn without_any_place_connections_wait_in_the_backlog() {
    let mut rig = Rig::with(|limits| {
        (limits.connections_max, limits.handshakes_per_turn, limits.calls_max) = (4, 0, 99)
    });
    let places = 4 + visitors_max(4);
    let sockets: Vec<_> = (0..3 * places).map(|_| rig.connect()).collect();
    sockets.iter().for_each(|socket| rig.send(*socket, &head("herd")));
    (0..20).for_each(|_| rig.turn());
    assert_eq!(
        (rig.connections(), rig.counters.connections_accepted.read()),
        (places, places as u64)
    );
    rig.shard.limits.handshakes_per_turn = 2;
    rig.pass(Duration::from_secs(1));
    let answers: Vec<_> = sockets.iter().flat_map(|socket| rig.said(*socket)).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "101").count(), 4);
    assert_eq!(answers.iter().filter(|answer| *answer == "503").count(), 3 * places - 4);
    rig.end();
}

#[test]
fn a_health_check_does_not_wait_for_tokens() {
    let mut rig =
        Rig::with(|limits| (limits.connections_max, limits.handshakes_per_turn) = (64, 1));
    let herd: Vec<_> = (0..30).map(|_| rig.connect()).collect();
    rig.quiet();
    herd.iter().for_each(|socket| rig.send(*socket, &head("herd")));
    let probe = rig.connect();
    rig.send(probe, HEALTH);
    (0..6).for_each(|_| rig.turn());
    assert_eq!(rig.said(probe), ["200"]);
    assert!(rig.counters.heads_waiting.read() > 15);
    rig.quiet();
    rig.end();
}

/// Each token takes a millisecond of this world.
#[test]
fn a_turn_ends_when_tokens_have_had_their_time() {
    let mut rig =
        Rig::with(|limits| (limits.connections_max, limits.handshakes_per_turn) = (64, 16));
    let herd: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    rig.quiet();
    herd.iter().for_each(|socket| rig.send(*socket, &head("herd")));
    rig.turn();
    rig.world.set_tick(millis(1));
    let judged = |rig: &Rig| rig.counters.upgrades.read() + refused(rig, Refusal::Quota);
    let mut before = judged(&rig);
    while before < 8 {
        rig.turn();
        let now = judged(&rig);
        assert!((1..=2).contains(&(now - before)), "{} in one turn", now - before);
        before = now;
    }
    rig.world.set_tick(Duration::ZERO);
    rig.quiet();
    rig.end();
}

#[test]
fn an_address_that_connects_too_often_gets_429_and_others_do_not() {
    let mut rig = Rig::with(|limits| (limits.address_rate, limits.address_burst) = (Some(2), 4));
    let ask = |rig: &mut Rig, address: &str, bytes: &[u8]| {
        let socket = rig.world.connect(address);
        rig.sockets.borrow_mut().push(socket);
        let answer = String::from_utf8_lossy(&rig.ask_raw(socket, bytes)).into_owned();
        rig.world.peer_finishes(socket);
        rig.quiet();
        assert!(!answer.contains(" 429 ") || answer.contains("\r\nRetry-After: "), "{answer}");
        answer[9..12].to_owned()
    };
    let bad = head_with_token("a.b.c");
    let from_one =
        |rig: &mut Rig| (0..6).map(|_| ask(rig, "[2001:db8::1]:1", &bad)).collect::<Vec<_>>();
    assert_eq!(from_one(&mut rig), ["401", "401", "401", "401", "429", "429"]);
    assert_eq!(ask(&mut rig, "[2001:db8::ffff]:1", &bad), "429", "it is the same network");
    assert_eq!(ask(&mut rig, "[2001:db8:0:1::1]:1", &bad), "401");
    assert_eq!(ask(&mut rig, "[2001:db8::1]:1", HEALTH), "200");
    assert_eq!(rig.counters.connections_over_rate.read(), 4);
    rig.world.advance(Duration::from_secs(1));
    assert_eq!(from_one(&mut rig)[..3], ["401", "401", "429"]);
    rig.end();
}
