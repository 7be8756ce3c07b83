//! Drain: accepting stops, what is not live goes at once, live calls over the window, and then the
//! shard is finished.

#![forbid(unsafe_code)]

use super::*;
use rustix::io::Errno;

fn drain(rig: &mut Rig, window: Duration) {
    rig.shard.mail.sender(0).try_send(Message::Drain { grace: Duration::ZERO, window }).unwrap();
    rig.quiet();
}

#[test]
fn an_idle_shard_is_finished_at_once_whether_it_accepts_or_pauses() {
    for pause in [false, true] {
        let mut rig = Rig::tiny();
        if pause {
            rig.world.fail_accept(Errno::MFILE);
        }
        rig.quiet();
        drain(&mut rig, Duration::from_secs(30));
        assert!(rig.finished && !rig.world.is_listening());
        rig.end();
    }
}

#[test]
fn each_stage_goes_in_its_own_way() {
    let mut rig = Rig::tiny();
    let live = rig.call("live");
    let (silent, half, upgraded) = (rig.connect(), rig.connect(), rig.upgraded("upgraded"));
    rig.send(half, &head("half")[..50]);
    rig.quiet();
    let waiting: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    rig.quiet();
    waiting.iter().for_each(|socket| rig.send(*socket, &head("waiting")));
    drain(&mut rig, Duration::from_secs(1));
    assert!(!rig.world.is_listening());
    for socket in [silent, half] {
        assert_eq!(rig.said(socket), ["503"]);
    }
    assert_eq!(rig.said(upgraded), ["error draining", "close 1001"]);
    let answers: Vec<_> = waiting.iter().flat_map(|socket| rig.said(*socket)).collect();
    // The mail is read before heads are judged.
    assert_eq!(answers, ["503", "503", "503"]);
    rig.pass(millis(10));
    assert_eq!(rig.said(live), ["error draining", "close 1001"]);
    assert!(!rig.finished);
    rig.pass(Duration::from_secs(2));
    assert!(rig.finished, "peers that do not end do not hold it up");
    rig.end();
}

#[test]
fn live_calls_are_closed_evenly_over_the_window() {
    let mut rig = Rig::tiny();
    let calls: Vec<_> = (0..8).map(|index| rig.call(&format!("call-{index}"))).collect();
    drain(&mut rig, millis(800));
    for gone in 1..=8 {
        rig.pass(millis(20));
        let closed = calls.iter().filter(|socket| rig.world.is_shut_down(**socket)).count();
        assert_eq!(closed, gone);
        rig.pass(millis(75));
        let closed = calls.iter().filter(|socket| rig.world.is_shut_down(**socket)).count();
        assert_eq!(closed, gone);
        rig.pass(millis(5));
        // Others go on as before.
        if let Some(socket) = calls.get(gone) {
            let heard = rig.ask(*socket, &frames(10, 10));
            assert_eq!(heard[0], "ack 10");
        }
    }
    calls.iter().for_each(|socket| rig.world.peer_finishes(*socket));
    rig.quiet();
    assert!(rig.finished);
    assert_eq!(rig.counters.calls_ended.read(), 8);
    rig.end();
}

/// A peer that reads its Close and never ends its side holds the end up so long and no longer,
/// whatever the settings.
#[test]
fn the_last_peer_is_waited_for_so_long_and_no_longer() {
    for (close_timeout, wait) in
        [(millis(300), millis(300)), (Duration::from_secs(3600), Duration::from_secs(2))]
    {
        let mut rig = Rig::with(|limits| {
            limits.close_timeout = close_timeout;
            limits.idle_timeout = Duration::from_secs(3600);
        });
        let (live, _upgraded, _silent) = (rig.call("a"), rig.upgraded("b"), rig.connect());
        rig.quiet();
        drain(&mut rig, Duration::ZERO);
        rig.pass(millis(10));
        assert_eq!(rig.said(live), ["error draining", "close 1001"]);
        rig.pass(wait - millis(20));
        assert!(!rig.finished, "it has time to read");
        rig.pass(millis(30));
        assert!(rig.finished, "after {close_timeout:?}");
        rig.end();
    }
}

#[test]
fn a_call_that_ends_by_itself_meanwhile_is_not_waited_for() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    let other = rig.call("b");
    drain(&mut rig, Duration::from_secs(3600));
    rig.pass(millis(10));
    let (gone, left) =
        if rig.world.is_shut_down(socket) { (socket, other) } else { (other, socket) };
    rig.world.peer_finishes(gone);
    assert_eq!(rig.ask(left, &text(STOP)), ["stopped 0", "close 1000"]);
    rig.world.peer_finishes(left);
    rig.quiet();
    assert!(rig.finished);
    rig.end();
}

#[test]
fn a_connection_accepted_while_the_drain_begins_gets_503() {
    let mut rig = Rig::tiny();
    rig.shard
        .mail
        .sender(0)
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    rig.turn();
    rig.finished = false;
    let socket = rig.world.connect(ADDRESS);
    rig.quiet();
    // It came after the cancel: the kernel refuses it when the listener is closed, and the script
    // keeps it in its backlog.
    assert!(!rig.world.is_reading(socket));

    let mut rig = Rig::with(|limits| limits.completions_per_turn = 1);
    let (_, late) = (rig.connect(), rig.connect());
    rig.shard
        .mail
        .sender(0)
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    rig.turn();
    rig.quiet();
    assert_eq!(rig.said(late), ["503"]);
    rig.world.peer_finishes(late);
    rig.quiet();
    rig.assert_closed(late);
    rig.end();
}

fn drain_after(rig: &mut Rig, grace: Duration, window: Duration) {
    rig.shard.mail.sender(0).try_send(Message::Drain { grace, window }).unwrap();
    rig.quiet();
}

#[test]
fn during_the_grace_calls_go_on_and_new_ones_get_503_and_health_200() {
    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n";
    let mut rig = Rig::tiny();
    let (live, silent, begun) = (rig.call("live"), rig.connect(), rig.upgraded("begun"));
    rig.quiet();
    drain_after(&mut rig, millis(400), millis(100));
    assert!(rig.world.is_listening());
    assert_eq!(rig.ask(live, &frames(10, 10)), ["ack 10"]);
    assert_eq!(rig.ask(begun, &start("begun")), ["started"], "its upgrade was in time");
    for _ in 0..5 {
        let (late, probe) = (rig.connect(), rig.connect());
        assert_eq!(rig.ask(late, &head("late")), ["503"]);
        assert_eq!(rig.ask(probe, HEALTH), ["200"]);
        [late, probe].into_iter().for_each(|socket| rig.world.peer_finishes(socket));
        rig.pass(millis(10));
    }
    // A probe that had connected before gets its answer too.
    assert_eq!(rig.ask(silent, HEALTH), ["200"]);
    rig.pass(millis(300));
    assert_eq!(rig.said(live), [""; 0]);
    rig.pass(millis(150));
    assert_eq!(
        [rig.said(live), rig.said(begun)],
        [(); 2].map(|()| vec!["error draining", "close 1001"])
    );
    // As long as a call is there, a liveness probe finds a listener.
    let probe = rig.connect();
    assert_eq!(rig.ask(probe, HEALTH), ["200"]);
    assert!(rig.world.is_listening() && !rig.finished);
    [live, begun, silent, probe].into_iter().for_each(|socket| rig.world.peer_finishes(socket));
    rig.quiet();
    assert!(rig.finished && !rig.world.is_listening());
    rig.end();
}

#[test]
fn without_calls_it_is_over_with_the_grace_and_not_before() {
    let mut rig = Rig::with(|limits| limits.head_timeout = Duration::from_secs(60));
    let silent = rig.connect();
    rig.quiet();
    drain_after(&mut rig, millis(400), Duration::from_secs(30));
    rig.pass(millis(390));
    assert!(!rig.finished && rig.world.is_listening());
    rig.pass(millis(20));
    assert!(!rig.world.is_listening());
    assert_eq!(rig.said(silent), ["503"]);
    rig.world.peer_finishes(silent);
    rig.quiet();
    assert!(rig.finished);
    rig.end();
}

#[test]
fn calls_that_end_during_the_grace_do_not_end_it() {
    let mut rig = Rig::tiny();
    let live = rig.call("live");
    drain_after(&mut rig, millis(400), Duration::ZERO);
    assert_eq!(rig.ask(live, &text(STOP)), ["stopped 0", "close 1000"]);
    rig.world.peer_finishes(live);
    rig.pass(millis(300));
    assert!(!rig.finished && rig.world.is_listening(), "a balancer may still send calls");
    rig.pass(millis(120));
    assert!(rig.finished);
    rig.end();
}

#[test]
fn a_second_drain_changes_nothing() {
    let mut rig = Rig::tiny();
    let calls = [rig.call("a"), rig.call("b")];
    drain(&mut rig, Duration::from_secs(10));
    drain(&mut rig, Duration::ZERO);
    rig.pass(millis(20));
    assert_eq!(calls.iter().filter(|socket| rig.world.is_shut_down(**socket)).count(), 1);
    rig.end();
}
