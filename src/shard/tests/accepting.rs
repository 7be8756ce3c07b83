//! Accepts that fail. What happens when places run short is in `places`.

#![forbid(unsafe_code)]

use super::*;
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
        assert!(rig.shard.admission.is_accepting());
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
fn a_shard_without_anything_to_do_sleeps_until_something_comes() {
    let mut rig = Rig::tiny();
    rig.quiet();
    assert_eq!(rig.shard.next_wait(), gather_for(None));
    assert_eq!(rig.pass(Duration::from_secs(3600)), 1);
    rig.end();
}
