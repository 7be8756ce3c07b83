//! Accepts that fail, and more connections than there are slots.

#![forbid(unsafe_code)]

use super::*;
use crate::constants::SHED_CONNECTIONS_MAX;
use rustix::io::Errno;

#[test]
fn out_of_descriptors_accepting_pauses_and_does_not_spin() {
    for error in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL] {
        let mut rig = Rig::tiny();
        rig.world.fail_accept(error);
        rig.quiet();
        assert_eq!(rig.counters.accept_failures.read(), 1);
        let waiting = rig.connect();
        assert_eq!(rig.shard.next_wait(), gather_for(Some(millis(100))));
        let turns = rig.counters.turns.read();
        rig.pass(millis(99));
        assert!(rig.counters.turns.read() - turns <= 2, "{error}: it spins");
        assert_eq!(rig.connections(), 0);
        rig.pass(millis(1));
        assert_eq!(rig.connections(), 1, "{error}");
        assert!(rig.world.is_reading(waiting));
        rig.end();
    }
}

fn gather_for(limit: Option<Duration>) -> Wait {
    let limits = Limits::tiny();
    Wait::Gather { want: limits.completions_per_turn as u32 / 2, gather: limits.wait, limit }
}

#[test]
fn a_peer_that_gave_up_in_the_queue_does_not_keep_the_next_one_waiting() {
    for error in [Errno::CONNABORTED, Errno::PROTO, Errno::INTR] {
        let mut rig = Rig::tiny();
        rig.world.fail_accept(error);
        rig.connect();
        rig.quiet();
        assert_eq!(rig.connections(), 1, "{error}");
        assert_eq!(rig.shard.accepting, Accepting::Armed);
        rig.end();
    }
}

#[test]
fn a_peer_that_is_gone_before_it_was_looked_at_takes_no_slot() {
    let mut rig = Rig::tiny();
    let socket = rig.connect();
    rig.world.peer_resets(socket);
    rig.quiet();
    assert_eq!(rig.connections(), 0);
    rig.assert_closed(socket);
    rig.end();
}

#[test]
fn with_all_slots_taken_a_connection_gets_503_until_one_is_free() {
    let mut rig = Rig::tiny();
    let sockets: Vec<_> = (0..16).map(|_| rig.connect()).collect();
    rig.quiet();
    let late = rig.connect();
    rig.quiet();
    let answer = String::from_utf8(rig.world.peer_reads(late)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    assert!(rig.world.is_shut_down(late) && !rig.world.is_closed(late), "its request is still to come");
    rig.send(late, &head("late"));
    rig.world.peer_finishes(late);
    rig.quiet();
    rig.assert_closed(late);
    assert_eq!((rig.counters.connections_shed.read(), rig.counters.requests_refused.read()), (1, 1));
    rig.world.peer_resets(sockets[3]);
    rig.quiet();
    let next = rig.connect();
    rig.quiet();
    assert!(rig.world.is_reading(next) && rig.connections() == 16);
    rig.end();
}

/// They hold no more sockets than there are places for them, and those not for long; nobody goes without an answer.
#[test]
fn a_flood_of_those_who_are_shed_is_bounded_in_number_and_time() {
    let mut rig = Rig::tiny();
    for _ in 0..16 {
        rig.connect();
    }
    rig.quiet();
    let flood: Vec<_> = (0..3 * SHED_CONNECTIONS_MAX).map(|_| rig.connect()).collect();
    rig.quiet();
    assert!(flood.iter().all(|socket| rig.said(*socket) == ["503"]));
    let open = flood.iter().filter(|socket| !rig.world.is_closed(**socket)).count();
    assert_eq!((open, rig.connections()), (SHED_CONNECTIONS_MAX, 16 + SHED_CONNECTIONS_MAX));
    rig.pass(Limits::tiny().close_timeout + millis(20));
    assert!(flood.iter().all(|socket| rig.world.is_closed(*socket)), "they never end, and are closed");
    assert_eq!(rig.counters.connections_shed.read(), flood.len() as u64);
    let next = rig.connect();
    rig.quiet();
    assert!(rig.said(next) == ["503"] && !rig.world.is_closed(next), "there is a place again");
    rig.end();
}

#[test]
fn a_shard_without_anything_to_do_sleeps_until_something_comes() {
    let mut rig = Rig::tiny();
    rig.quiet();
    assert_eq!(rig.shard.next_wait(), gather_for(None));
    assert_eq!(rig.pass(Duration::from_secs(3600)), 1);
    rig.end();
}
