//! ACKs that wait for a message engine: reports of it, durability, timeouts and ends of calls in
//! every order.

#![forbid(unsafe_code)]

use super::random::patient;
use super::*;
use crate::ack_level::{AckLevel, CallLevels};
use crate::journal::writer::Backlog;
use crate::session::Session;
use mailbox::ReplicatedFrames;

const TIMEOUT: Duration = Duration::from_secs(5);

const STALL: Duration = Duration::from_secs(20);

const GIVEN_UP: [&str; 2] = ["error engine", "close 1013"];

/// A call, as the engine names it.
#[derive(Clone, Copy)]
struct Named {
    socket: Socket,
    number: u64,
    epoch: CallEpoch,
}

fn rig_with(on_timeout: OnTimeout, levels: CallLevels, count: usize) -> Vec<Rig> {
    let limits = Limits { max_ahead: None, ..patient() };
    let settings = IngestSettings { has_journal: true, levels, ..settings(limits) };
    let replication =
        Some(ReplicationSettings { timeout: TIMEOUT, on_timeout, stall_timeout: STALL });
    let disk = DiskSettings {
        level: AckLevel::Durable,
        segment_size: 1 << 20,
        backlog: Backlog::production(),
        replication,
    };
    rigs_on(count, settings, Some(disk))
}

fn rig(on_timeout: OnTimeout) -> Rig {
    let levels = CallLevels::replicated_for(vec![TENANT.into()]);
    rig_with(on_timeout, levels, 1).pop().expect("one was asked for")
}

impl Rig {
    /// A live call, and what the journal calls it.
    fn named_call(&mut self, interaction: &str) -> Named {
        let socket = self.call(interaction);
        let identity = CallIdentity { tenant: TENANT.into(), interaction: interaction.into() };
        let now = self.world.now();
        let connections = &mut self.shard.connections;
        let ids: Vec<_> = connections.ids().collect();
        let epochs = ids.into_iter().filter_map(|id| match &connections.get(id)?.stage {
            Stage::Open(open) => open
                .session
                .status(now)
                .filter(|status| *status.identity == identity)
                .map(|status| status.epoch),
            _ => None,
        });
        let epoch = epochs.max().expect("the call is live");
        Named { socket, number: identity.key().record_number(), epoch }
    }

    /// The engine has the frames of a call up to `seq`. Returns what its peer hears of that.
    fn report(&mut self, call: Named, seq: u64) -> Vec<String> {
        self.mail_report(call, seq);
        self.quiet();
        self.said(call.socket)
    }

    fn mail_report(&self, call: Named, seq: u64) {
        self.mail_stretch(call, 1, seq);
    }

    fn mail_stretch(&self, call: Named, first: u64, last: u64) {
        let Named { number: call, epoch, .. } = call;
        let (first, last) = (Seq(first), Seq(last));
        let frames = vec![ReplicatedFrames { call, epoch, first, last }];
        let sender = self.shard.mail.sender(self.shard.index);
        sender.try_send(Message::Replicated(frames)).expect("a test's mailbox has room");
    }

    /// Lets the disk finish everything that there is, with the time that takes.
    fn sync(&mut self) {
        self.world.hold_file_operations(false);
        while self.world.finish_file_operation(0) {}
        self.quiet();
        self.pass(millis(100));
    }

    /// What a peer hears of this once the disk has it.
    fn hear(&mut self, socket: Socket, bytes: &[u8]) -> Vec<String> {
        self.send(socket, bytes);
        self.sync();
        self.said(socket)
    }

    /// Lets time pass in which a peer shows that it is there.
    fn wait_with(&mut self, socket: Socket, duration: Duration) -> Vec<String> {
        let mut heard = Vec::new();
        let mut left = duration;
        while !left.is_zero() {
            let step = left.min(Duration::from_secs(1));
            self.pass(step);
            if !self.world.is_closed(socket) {
                self.send(socket, &masked(0xa, b""));
                self.quiet();
            }
            heard.extend(self.said(socket));
            left -= step;
        }
        heard.retain(|word| word != "ping");
        heard
    }

    fn stopped(&mut self, socket: Socket) -> serde_json::Value {
        let bytes = self.world.peer_reads(socket);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let start = text.find(r#"{"event":"stopped""#).unwrap_or_else(|| panic!("{text:?}"));
        let end = text[start..].find('}').expect("JSON") + start;
        serde_json::from_str(&text[start..=end]).expect("events are JSON")
    }

    fn gauges(&self) -> [u64; 3] {
        let counters = &self.counters;
        [&counters.engine_calls_waiting, &counters.engine_late, &counters.engine_degrades]
            .map(|gauge| gauge.read())
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn an_ack_waits_for_the_disk_and_for_the_engine_in_any_order() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    // Durable first.
    assert_eq!(rig.ask(call.socket, &frames(25, 100)), NOTHING);
    rig.sync();
    assert_eq!(rig.said(call.socket), NOTHING);
    assert_eq!(rig.gauges(), [1, 0, 0]);
    assert_eq!(rig.report(call, 10), ["ack 10"]);
    assert_eq!(rig.report(call, 10), NOTHING, "once more");
    assert_eq!(rig.report(call, 7), NOTHING, "late");
    assert_eq!(rig.report(call, 20), ["ack 20"]);
    assert_eq!(rig.gauges(), [0, 0, 0]);
    // The engine first: nothing before the disk.
    rig.world.hold_file_operations(true);
    assert_eq!(rig.ask(call.socket, &frames(5, 100)), NOTHING);
    assert_eq!(rig.report(call, 30), NOTHING);
    rig.sync();
    assert_eq!(rig.said(call.socket), ["ack 30"]);
    // A part of what is durable, and a report that ends within ten frames.
    rig.ask(call.socket, &frames(30, 100));
    rig.sync();
    assert_eq!(rig.report(call, 39), NOTHING);
    assert_eq!(rig.report(call, 55), ["ack 40", "ack 50"]);
    assert_eq!(rig.report(call, 60), ["ack 60"]);
    assert_eq!((rig.counters.acks.read(), rig.counters.acks_degraded.read()), (6, 0));
    rig.end();
}

#[test]
fn a_report_that_came_before_the_sync_covers_its_part_after_it() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.world.hold_file_operations(true);
    rig.ask(call.socket, &frames(20, 100));
    assert_eq!(rig.report(call, 10), NOTHING);
    rig.sync();
    assert_eq!(rig.said(call.socket), ["ack 10"]);
    assert_eq!(rig.report(call, 20), ["ack 20"]);
    rig.end();
}

#[test]
fn reports_for_other_calls_and_epochs_do_nothing() {
    let mut rig = rig(OnTimeout::Hold);
    let (old, other) = (rig.named_call("a"), rig.named_call("b"));
    rig.ask(old.socket, &frames(10, 100));
    rig.sync();
    // The call connects again: the promise of the old connection is still owed.
    let new = rig.named_call("a");
    assert!(new.epoch > old.epoch);
    rig.ask(new.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.said(old.socket), NOTHING, "its Close waits for the ack");
    assert_eq!(rig.report(Named { number: other.number, ..new }, 10), NOTHING);
    assert_eq!(rig.report(old, 10), ["ack 10", "error superseded", "close 4409"]);
    assert_eq!(rig.said(new.socket), NOTHING);
    assert_eq!(rig.report(new, 10), ["ack 10"]);
    rig.world.peer_finishes(old.socket);
    rig.quiet();
    // The old connection is gone: its slot serves another call now.
    let next = rig.named_call("c");
    rig.ask(next.socket, &frames(10, 100));
    rig.sync();
    rig.mail_report(old, 50);
    rig.quiet();
    assert_eq!(rig.said(next.socket), NOTHING);
    rig.end();
}

#[test]
fn the_close_of_a_superseded_call_waits_no_longer_than_its_time() {
    let mut rig = rig(OnTimeout::Hold);
    let old = rig.named_call("a");
    rig.ask(old.socket, &frames(10, 100));
    rig.sync();
    rig.named_call("a");
    rig.pass(rig.shard.limits.close_timeout + millis(50));
    assert_eq!(rig.said(old.socket), ["error superseded", "close 4409"]);
    rig.end();
}

#[test]
fn stopped_waits_for_the_last_frame_and_says_at_which_level_it_holds() {
    for (on_timeout, level) in [(OnTimeout::Hold, "replicated"), (OnTimeout::Degrade, "durable")] {
        let mut rig = rig(on_timeout);
        let call = rig.named_call("a");
        rig.ask(call.socket, &[frames(23, 100), text(STOP)].concat());
        rig.sync();
        assert_eq!(rig.report(call, 20), ["ack 10", "ack 20"]);
        match on_timeout {
            OnTimeout::Hold => rig.mail_report(call, 23),
            OnTimeout::Degrade => _ = rig.pass(TIMEOUT),
        }
        rig.quiet();
        let stopped = rig.stopped(call.socket);
        assert_eq!((&stopped["seq"], &stopped["level"]), (&23.into(), &level.into()));
        assert_eq!(stopped["durable_seq"], 23);
        rig.end();
    }
}

#[test]
fn a_call_without_frames_needs_no_engine() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.send(call.socket, &text(STOP));
    rig.quiet();
    assert_eq!(rig.stopped(call.socket)["level"], "replicated");
    rig.end();
}

#[test]
fn the_answer_to_a_close_waits_for_acks_that_are_due() {
    let mut rig = rig(OnTimeout::Hold);
    let [first, second] = ["a", "b"].map(|name| rig.named_call(name));
    for call in [first, second] {
        rig.ask(call.socket, &[frames(13, 100), close(1000)].concat());
    }
    rig.sync();
    assert_eq!(rig.report(first, 10), ["ack 10", "close 1000"]);
    rig.pass(rig.shard.limits.close_timeout + millis(50));
    assert_eq!(rig.said(second.socket), ["close 1000"], "no longer than its time");
    rig.end();
}

#[test]
fn with_hold_acks_wait_and_come_later() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.wait_with(call.socket, TIMEOUT + Duration::from_secs(1)), NOTHING);
    assert_eq!(rig.gauges(), [1, 1, 0]);
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.report(call, 20), ["ack 10", "ack 20"]);
    rig.pass(millis(60));
    assert_eq!(rig.gauges(), [0, 0, 0]);
    assert_eq!(rig.counters.acks_degraded.read(), 0);
    rig.end();
}

#[test]
fn with_hold_a_call_is_closed_after_the_stall_timeout() {
    let mut rig = rig(OnTimeout::Hold);
    let [live, leaving, stopping, covered] =
        ["live", "leaving", "stopping", "covered"].map(|name| rig.named_call(name));
    for call in [live, stopping, covered] {
        rig.ask(call.socket, &frames(10, 100));
    }
    rig.sync();
    rig.ask(stopping.socket, &text(STOP));
    assert_eq!(rig.report(covered, 10), ["ack 10"]);
    // Later promises do not make the oldest one younger, and reports of a part do not help.
    rig.wait_with(live.socket, STALL / 2);
    for call in [live, stopping, covered, leaving] {
        rig.send(call.socket, &masked(0xa, b""));
    }
    rig.ask(live.socket, &frames(10, 100));
    rig.sync();
    rig.report(live, 9);
    assert_eq!(rig.wait_with(live.socket, STALL / 2 - millis(1_000)), NOTHING);
    rig.ask(leaving.socket, &[frames(10, 100), close(1000)].concat());
    rig.pass(Duration::from_secs(2));
    for call in [live, stopping] {
        assert_eq!(
            rig.said(call.socket).iter().filter(|it| *it != "ping").collect::<Vec<_>>(),
            GIVEN_UP
        );
    }
    assert_eq!(rig.said(leaving.socket), ["close 1000"]);
    assert!(!rig.said(covered.socket).iter().any(|word| word.starts_with("close")));
    assert_eq!(rig.counters.acks.read(), 1);
    rig.end();
}

#[test]
fn the_age_of_what_is_left_counts_after_a_report_of_a_part() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.wait_with(call.socket, Duration::from_secs(15)), NOTHING);
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.report(call, 10), ["ack 10"]);
    assert_eq!(rig.wait_with(call.socket, Duration::from_secs(19)), NOTHING);
    assert_eq!(rig.wait_with(call.socket, Duration::from_secs(2)), GIVEN_UP);
    rig.end();
}

#[test]
fn with_degrade_acks_go_out_after_the_timeout_and_at_once_until_the_engine_has_caught_up() {
    let mut rig = rig(OnTimeout::Degrade);
    let [first, second] = ["a", "b"].map(|name| rig.named_call(name));
    rig.ask(first.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.wait_with(first.socket, TIMEOUT - millis(200)), NOTHING);
    assert_eq!(rig.gauges(), [1, 0, 0]);
    rig.pass(millis(200));
    assert_eq!(rig.said(first.socket), ["ack 10"]);
    assert_eq!(rig.gauges(), [1, 1, 1]);
    // Another call does not wait at all.
    assert_eq!(rig.hear(second.socket, &frames(10, 100)), ["ack 10"]);
    assert_eq!((rig.counters.acks.read(), rig.counters.acks_degraded.read()), (2, 2));
    // The engine works, and still lacks what is older than the timeout.
    assert_eq!(rig.report(second, 10), NOTHING);
    rig.pass(millis(200));
    assert_eq!(rig.gauges(), [1, 1, 1]);
    assert_eq!(rig.hear(second.socket, &frames(10, 100)), ["ack 20"]);
    // It has caught up.
    assert_eq!(rig.report(first, 10), NOTHING, "what went out does not go out again");
    rig.pass(millis(100));
    assert_eq!(rig.gauges(), [1, 0, 0]);
    assert_eq!(rig.hear(first.socket, &frames(10, 100)), NOTHING);
    assert_eq!(rig.report(first, 20), ["ack 20"]);
    assert_eq!((rig.counters.acks.read(), rig.counters.acks_degraded.read()), (4, 3));
    rig.end();
}

#[test]
fn a_degraded_call_that_the_engine_has_in_the_end_is_replicated() {
    let mut rig = rig(OnTimeout::Degrade);
    let call = rig.named_call("a");
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.wait_with(call.socket, TIMEOUT + millis(100)), ["ack 10"]);
    rig.report(call, 10);
    rig.send(call.socket, &text(STOP));
    rig.quiet();
    assert_eq!(rig.stopped(call.socket)["level"], "replicated");
    rig.end();
}

/// Two calls with 20 durable frames each. The engine has the first ten of one of them.
fn with_two_calls(on_timeout: OnTimeout) -> (Rig, [Named; 2]) {
    let mut rig = rig(on_timeout);
    let calls @ [lossy, whole] = ["lossy", "whole"].map(|name| rig.named_call(name));
    for call in [lossy, whole] {
        rig.ask(call.socket, &frames(20, 100));
    }
    rig.sync();
    assert_eq!(rig.report(lossy, 10), ["ack 10"]);
    (rig, calls)
}

#[test]
fn with_degrade_a_call_that_the_engine_cannot_have_whole_is_degraded_alone() {
    let (mut rig, [lossy, whole]) = with_two_calls(OnTimeout::Degrade);
    // The journal lost the frames 11 to 15.
    rig.mail_stretch(lossy, 16, 20);
    rig.quiet();
    assert_eq!(rig.said(lossy.socket), ["ack 20"]);
    assert_eq!(rig.gauges(), [1, 0, 0]);
    assert_eq!(rig.hear(lossy.socket, &frames(10, 100)), ["ack 30"]);
    assert_eq!(rig.counters.acks_degraded.read(), 2);
    assert_eq!(rig.hear(whole.socket, &frames(10, 100)), NOTHING);
    rig.mail_stretch(lossy, 21, 30);
    assert_eq!(rig.report(whole, 30), ["ack 10", "ack 20", "ack 30"]);
    assert_eq!((rig.counters.acks_degraded.read(), rig.counters.calls_engine_lacks.read()), (2, 1));
    rig.send(lossy.socket, &text(STOP));
    rig.sync();
    assert_eq!(rig.stopped(lossy.socket)["level"], "durable");
    rig.end();
}

#[test]
fn a_call_that_the_engine_cannot_have_whole_does_not_keep_its_shard_degraded() {
    let (mut rig, [lossy, whole]) = with_two_calls(OnTimeout::Degrade);
    rig.pass(TIMEOUT);
    assert_eq!((rig.said(lossy.socket), rig.gauges()), (vec!["ack 20".into()], [2, 1, 1]));
    assert_eq!(rig.said(whole.socket), ["ack 10", "ack 20"]);
    rig.report(whole, 20);
    rig.mail_stretch(lossy, 16, 20);
    rig.quiet();
    rig.pass(millis(100));
    assert_eq!(rig.gauges(), [0, 0, 0]);
    assert_eq!(rig.hear(whole.socket, &frames(10, 100)), NOTHING, "it waits for the engine");
    assert_eq!(rig.hear(lossy.socket, &frames(10, 100)), ["ack 30"]);
    rig.end();
}

#[test]
fn with_hold_a_call_that_the_engine_cannot_have_whole_is_closed_at_once() {
    let (mut rig, [lossy, whole]) = with_two_calls(OnTimeout::Hold);
    rig.mail_stretch(lossy, 16, 20);
    rig.quiet();
    assert_eq!(rig.said(lossy.socket), GIVEN_UP);
    // The engine is faster than the disk.
    rig.report(whole, 20);
    rig.world.hold_file_operations(true);
    rig.ask(whole.socket, &frames(20, 100));
    assert_eq!(rig.report(whole, 30), NOTHING);
    rig.mail_stretch(whole, 36, 40);
    rig.quiet();
    assert_eq!(rig.said(whole.socket), NOTHING);
    rig.sync();
    assert_eq!(rig.said(whole.socket), ["ack 30", "error engine", "close 1013"]);
    assert_eq!((rig.counters.acks_degraded.read(), rig.counters.calls_engine_lacks.read()), (0, 2));
    rig.end();
}

#[test]
fn a_shard_without_calls_stays_degraded_until_the_engine_acknowledges_something() {
    let mut rig = rig(OnTimeout::Degrade);
    let call = rig.named_call("a");
    rig.ask(call.socket, &[frames(10, 100), text(STOP)].concat());
    rig.sync();
    rig.pass(TIMEOUT);
    assert_eq!(rig.said(call.socket), ["ack 10", "stopped 10", "close 1000"]);
    rig.world.peer_finishes(call.socket);
    rig.quiet();
    assert_eq!((rig.connections(), rig.gauges()), (0, [0, 1, 1]));
    let wakes = rig.pass(Duration::from_secs(60));
    assert!(wakes < 10, "a shard without calls sleeps: {wakes}");
    assert_eq!(rig.gauges(), [0, 1, 1]);
    rig.mail_report(call, 10);
    rig.quiet();
    rig.pass(millis(100));
    assert_eq!(rig.gauges(), [0, 0, 0]);
    rig.end();
}

#[test]
fn calls_whose_audio_the_engine_does_not_get_are_acked_at_durable() {
    let levels = CallLevels::replicated_for(vec!["another".into()]);
    let mut rig = rig_with(OnTimeout::Hold, levels, 1).pop().expect("one was asked for");
    let socket = rig.call("a");
    assert_eq!(rig.hear(socket, &frames(13, 100)), ["ack 10"]);
    rig.send(socket, &text(STOP));
    rig.sync();
    assert_eq!(rig.stopped(socket)["level"], "durable");
    assert_eq!(rig.counters.acks_degraded.read(), 0);
    rig.end();
}

#[test]
fn peers_that_vanish_while_their_acks_wait_leave_nothing() {
    let mut rig = rig(OnTimeout::Hold);
    let [reset, finished, stays] = ["a", "b", "c"].map(|name| rig.named_call(name));
    for call in [reset, finished, stays] {
        rig.ask(call.socket, &frames(10, 100));
    }
    rig.sync();
    rig.world.peer_resets(reset.socket);
    rig.world.peer_finishes(finished.socket);
    rig.quiet();
    assert_eq!(rig.gauges(), [1, 0, 0]);
    assert_eq!(rig.report(reset, 10), NOTHING);
    assert_eq!(rig.report(stays, 10), ["ack 10"]);
    assert_eq!(rig.gauges(), [0, 0, 0]);
    rig.end();
}

#[test]
fn a_drain_waits_for_acks_that_are_due_as_long_as_a_close_does() {
    let mut rig = rig(OnTimeout::Hold);
    let [first, second] = ["a", "b"].map(|name| rig.named_call(name));
    for call in [first, second] {
        rig.ask(call.socket, &frames(10, 100));
    }
    rig.sync();
    let drain = Message::Drain { grace: Duration::ZERO, window: Duration::ZERO };
    rig.shard.mail.sender(0).try_send(drain).expect("a test's mailbox has room");
    rig.quiet();
    rig.pass(millis(50));
    assert_eq!(rig.report(first, 10), ["ack 10", "error draining", "close 1001"]);
    assert_eq!(rig.said(second.socket), NOTHING);
    rig.pass(rig.shard.limits.close_timeout + millis(50));
    assert_eq!(rig.said(second.socket), ["error draining", "close 1001"]);
    rig.pass(Duration::from_secs(5));
    assert!(rig.finished);
    rig.end();
}

#[test]
fn time_in_which_the_shard_stood_still_is_not_the_engines() {
    let mut rig = rig(OnTimeout::Degrade);
    let call = rig.named_call("a");
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    rig.world.advance(Duration::from_secs(3_600));
    rig.quiet();
    assert_eq!(rig.counters.standstills.read(), 1);
    assert_eq!((rig.said(call.socket), rig.gauges()), (vec![], [1, 0, 0]));
    // The report was on its way meanwhile.
    assert_eq!(rig.report(call, 10), ["ack 10"]);
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    assert_eq!(rig.wait_with(call.socket, TIMEOUT), ["ack 20"], "from here on it counts");
    rig.end();
}

#[test]
fn a_disk_in_trouble_closes_calls_whatever_the_engine_does() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.world.hold_file_operations(true);
    rig.ask(call.socket, &frames(10, 100));
    rig.report(call, 10);
    assert_eq!(rig.wait_with(call.socket, Duration::from_secs(4)), ["error storage", "close 1013"]);
    rig.sync();
    rig.end();
}

#[test]
fn the_policy_can_change_while_acks_wait() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    let tell = |rig: &mut Rig, on_timeout| {
        let settings = ReplicationSettings {
            timeout: Duration::from_secs(1),
            on_timeout,
            stall_timeout: STALL,
        };
        let sender = rig.shard.mail.sender(0);
        sender.try_send(Message::Replication(settings)).expect("a test's mailbox has room");
        rig.quiet();
    };
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.gauges(), [1, 0, 0]);
    tell(&mut rig, OnTimeout::Degrade);
    assert_eq!(rig.said(call.socket), ["ack 10"]);
    tell(&mut rig, OnTimeout::Hold);
    assert_eq!(rig.gauges(), [1, 1, 0]);
    assert_eq!(rig.hear(call.socket, &frames(10, 100)), NOTHING);
    assert_eq!(rig.report(call, 20), ["ack 20"]);
    rig.end();
}

#[test]
fn a_call_whose_ack_waits_for_the_engine_is_among_those_that_wait_the_longest() {
    let mut rig = rig(OnTimeout::Hold);
    let call = rig.named_call("a");
    rig.ask(call.socket, &frames(10, 100));
    rig.sync();
    rig.pass(Duration::from_secs(3));
    let (calls, _) = rig.worst_calls();
    assert!(calls[0].ack_wait >= Duration::from_secs(3), "{:?}", calls[0]);
    rig.report(call, 10);
    assert_eq!(rig.worst_calls().0[0].ack_wait, Duration::ZERO);
    rig.end();
}
