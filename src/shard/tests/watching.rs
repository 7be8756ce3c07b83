//! The calls that a shard names when it is asked which wait the longest.

#![forbid(unsafe_code)]

use super::disk::DiskSettings;
use super::*;
use crate::ack_level::AckLevel;
use crate::journal::writer::Backlog;
use crate::worst_calls::{CallsCollector, LiveCall, NAMED_MAX, PAGE_SIZE};

impl Rig {
    /// The worst calls, the worst first. Returns how many turns it took to find them, too.
    pub(super) fn worst_calls(&mut self) -> (Vec<LiveCall>, usize) {
        let mailbox = self.shard.mail.sender(self.shard.index).clone();
        let mut collector = CallsCollector::new(1, move |_, request| {
            mailbox.try_send(Message::Calls(request)).expect("a test's mailbox has room");
            Ok(())
        });
        collector.request();
        for turns in 1..100 {
            self.turn();
            if collector.collect() {
                let mut calls: Vec<_> = collector.found().cloned().collect();
                calls.sort_by_key(|call| std::cmp::Reverse(call.wait()));
                return (calls, turns);
            }
        }
        panic!("a turn reads all mail");
    }
}

fn names(calls: &[LiveCall]) -> Vec<&str> {
    calls.iter().map(|call| &*call.interaction).collect()
}

#[test]
fn a_silent_call_comes_first_with_all_that_is_known_of_it() {
    let mut rig = Rig::tiny();
    let silent = rig.call("silent");
    assert_eq!(rig.ask(silent, &frames(12, 480)), ["ack 10"]);
    rig.pass(millis(300));
    let lively = rig.call("lively");
    rig.pass(millis(400));
    rig.ask(lively, &frames(1, 480));
    rig.upgraded("not started");
    let (calls, turns) = rig.worst_calls();
    assert_eq!((names(&calls), turns), (vec!["silent", "lively"], 1));
    let expected = LiveCall {
        tenant: TENANT.into(),
        interaction: "silent".into(),
        shard: 0,
        epoch: calls[0].epoch,
        lasted: millis(700),
        audio: millis(120),
        frames: 12,
        acked: 10,
        ack_wait: Duration::ZERO,
        silent: millis(700),
    };
    assert_eq!(calls[0], expected);
    assert_eq!((calls[1].silent, calls[1].frames, calls[1].acked), (Duration::ZERO, 1, 0));
    assert!(calls[0].epoch < calls[1].epoch, "the later call has the later epoch");
    // A call that has ended is not live.
    assert_eq!(rig.ask(silent, &text(STOP)), ["stopped 12", "close 1000"]);
    assert_eq!(names(&rig.worst_calls().0), ["lively"]);
    rig.end();
}

#[test]
fn an_ack_waits_from_its_frame_until_the_disk_and_the_peer_have_taken_it() {
    let limits = Limits { max_ahead: None, ..Limits::tiny() };
    let disk = DiskSettings {
        level: AckLevel::Durable,
        segment_size: 1 << 20,
        backlog: Backlog::production(),
        replication: None,
    };
    let mut rig = rigs_on(1, settings(limits), Some(disk)).pop().expect("one was asked for");
    let socket = rig.call("a");
    rig.quiet();
    let wait = |rig: &mut Rig| rig.worst_calls().0[0].ack_wait;
    assert_eq!(wait(&mut rig), Duration::ZERO);
    rig.world.hold_file_operations(true);
    rig.send(socket, &frames(9, 100));
    rig.turn();
    rig.world.advance(millis(30));
    assert_eq!(wait(&mut rig), Duration::ZERO, "no ack is due");
    rig.send(socket, &frames(1, 100));
    rig.turn();
    rig.world.advance(millis(50));
    assert_eq!(wait(&mut rig), millis(50));
    // Later frames do not make it younger.
    rig.send(socket, &frames(10, 100));
    rig.turn();
    rig.world.advance(millis(50));
    assert_eq!(wait(&mut rig), millis(100));
    // Now the disk takes it, and the peer does not.
    rig.world.set_window(socket, Some(0));
    rig.world.hold_file_operations(false);
    while rig.world.finish_file_operation(0) {
        rig.turn();
    }
    for _ in 0..20 {
        rig.turn();
    }
    rig.world.advance(millis(50));
    assert_eq!(wait(&mut rig), millis(150), "the socket has no room for it");
    rig.world.set_window(socket, None);
    rig.quiet();
    assert_eq!(rig.said(socket), ["ack 10", "ack 20"]);
    assert_eq!(wait(&mut rig), Duration::ZERO);
    rig.end();
}

#[test]
fn a_full_table_is_looked_at_page_by_page_and_a_bounded_number_is_named() {
    let count = PAGE_SIZE + 3;
    let mut rig = Rig::with(|limits| {
        limits.connections_max = count;
        limits.calls_max = count;
    });
    let sockets: Vec<_> = (0..count).map(|number| rig.call(&number.to_string())).collect();
    // The worst are on both pages: the last ones, then the first ones.
    let (first, last) = (sockets.iter().take(NAMED_MAX), sockets.iter().rev().take(2));
    let silent: Vec<_> = last.chain(first).collect();
    for socket in &sockets {
        rig.world.advance(Duration::from_micros(10));
        if !silent.contains(&socket) {
            rig.send(*socket, &frames(1, 100));
        }
        rig.turn();
    }
    let (calls, turns) = rig.worst_calls();
    assert_eq!(turns, 2, "one for each page");
    assert_eq!(calls.len(), NAMED_MAX);
    assert!(calls.iter().all(|call| call.frames == 0), "{calls:?}");
    rig.end();
}
