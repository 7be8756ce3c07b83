//! Deadlines: at their tick, not before, whatever the wall clock does.

#![forbid(unsafe_code)]

use super::*;
use timers::TICK;

/// How late a timer may be here: a tick, and one more because a deadline is rounded up to the next.
const LATE: Duration = Duration::from_nanos(2 * TICK.as_nanos() as u64);

/// Lets time pass to just before `deadline` from now, then over it; returns what is said before and
/// after.
fn around(rig: &mut Rig, socket: Socket, deadline: Duration) -> (Vec<String>, Vec<String>) {
    rig.pass(deadline - Duration::from_nanos(1));
    let before = rig.said(socket);
    rig.pass(LATE);
    (before, rig.said(socket))
}

#[test]
fn a_head_that_is_not_complete_in_time_gets_408() {
    for part in [0, 1, 60] {
        let mut rig = Rig::tiny();
        let socket = rig.connect();
        rig.send(socket, &head("a")[..part]);
        rig.quiet();
        assert_eq!(
            around(&mut rig, socket, Limits::tiny().head_timeout),
            (vec![], vec!["408".to_owned()])
        );
        rig.end();
    }
}

#[test]
fn a_head_byte_by_byte_gets_no_more_time() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    rig.quiet();
    for byte in &head("a")[..50] {
        rig.send(socket, &[*byte]);
        rig.pass(millis(10));
    }
    rig.pass(LATE);
    assert_eq!(rig.said(socket), ["408"]);
    rig.end();
}

#[test]
fn the_timer_of_the_head_does_not_reach_the_session() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    rig.quiet();
    rig.pass(Limits::tiny().head_timeout - millis(1));
    assert_eq!(rig.ask(socket, &head("a")), ["101"]);
    // The wheel still holds the head's deadline.
    assert_eq!(around(&mut rig, socket, Limits::tiny().start_timeout).0, Vec::<String>::new());
    rig.end();
}

#[test]
fn each_timer_of_the_session_fires_at_its_tick() {
    let limits = Limits::tiny();
    let mut rig = Rig::tiny();
    let socket = rig.upgraded("a");
    let refused = |reason: &str| vec![format!("error {reason}"), "close 4408".to_owned()];
    assert_eq!(around(&mut rig, socket, limits.start_timeout), (vec![], refused("start_timeout")));
    rig.end();

    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    assert_eq!(around(&mut rig, socket, limits.ping_after), (vec![], vec!["ping".to_owned()]));
    rig.end();

    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    let (before, after) = around(&mut rig, socket, limits.idle_timeout);
    assert_eq!((before, after), (vec!["ping".to_owned()], refused("idle_timeout")));
    rig.end();
}

#[test]
fn a_peer_that_speaks_now_and_then_is_never_idle() {
    let mut rig = Rig::tiny();
    let socket = rig.call("a");
    for _ in 0..20 {
        rig.pass(Limits::tiny().ping_after - millis(20));
        rig.send(socket, &masked(0xa, b""));
        rig.quiet();
    }
    assert_eq!(rig.said(socket), Vec::<String>::new());
    rig.end();
}

#[test]
fn a_step_of_the_wall_clock_fires_nothing_and_keeps_nothing_from_firing() {
    for hours in [1, -1] {
        let mut rig = Rig::tiny();
        let (head_only, live) = (rig.connect(), rig.call("a"));
        rig.quiet();
        rig.world.step_wall_clock(hours * 3600);
        rig.quiet();
        assert_eq!((rig.said(head_only), rig.said(live)), (vec![], vec![]));
        assert_eq!(rig.ask(live, &frames(10, 10)), ["ack 10"]);
        rig.pass(Limits::tiny().head_timeout + LATE);
        assert_eq!(rig.said(head_only), ["408"]);
        rig.pass(Limits::tiny().idle_timeout + LATE);
        assert_eq!(rig.said(live), ["ping", "error idle_timeout", "close 4408"]);
        rig.end();
    }
}

#[test]
fn after_the_machine_has_stood_still_no_peer_that_spoke_in_time_is_idle() {
    // More completions wait than one turn reaps.
    let mut rig = Rig::with(|limits| limits.completions_per_turn = 2);
    let calls: Vec<_> = (0..8).map(|index| rig.call(&format!("call-{index}"))).collect();
    calls.iter().for_each(|socket| rig.send(*socket, &frames(10, 10)));
    rig.world.advance(Duration::from_secs(600));
    rig.quiet();
    for socket in calls {
        assert_eq!(rig.said(socket), ["ack 10"]);
    }
    rig.end();
}

#[test]
fn in_an_overload_that_lasts_timers_fire_all_the_same() {
    let mut rig = Rig::with(|limits| limits.completions_per_turn = 1);
    let (busy, silent) = (rig.call("busy"), rig.connect());
    rig.quiet();
    for _ in 0..200 {
        rig.send(busy, &masked(0xa, b"").repeat(2));
        rig.send(busy, &audio(10));
        rig.world.set_receive_size_max(6);
        rig.world.advance(millis(10));
        rig.turn();
    }
    assert!(rig.shard.clock.has_backlog());
    rig.world.set_receive_size_max(usize::MAX);
    rig.quiet();
    assert_eq!(rig.said(silent), ["408"]);
    rig.end();
}
