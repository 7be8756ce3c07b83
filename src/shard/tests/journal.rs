//! From a peer's frames over the scripted disk to its ACKs, and what it is told when the disk takes
//! no more.

mod node;

use super::super::*;
use super::{latencies, millis};
use crate::ack_level::AckLevel;
use crate::archive::layout::{RunName, create_shard_dir, segment_path};
use crate::archive::marks::Marks;
use crate::archive::reader::Journal;
use crate::archive::recovery::verify;
use crate::call::Seq;
use crate::clock::UnixMicros;
use crate::constants::{ACK_INTERVAL_FRAMES, BLOCK_SIZE, RECORD_ALIGNMENT};
use crate::format::{Lsn, SegmentHeader, SegmentUuid};
use node::{Node, SEGMENT_SIZE};
use std::time::Duration;

#[test]
fn acks_wait_for_the_sync() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.world.hold_file_operations(true);
    node.frames(socket, 20);
    for step in ["the segment's start", "the batch", "the sync"] {
        node.turns(30);
        assert_eq!(node.read(socket), "", "before {step}");
        assert_eq!(node.durable_seq(), None);
        assert_eq!(node.counters.promises_waiting.read(), 1);
        assert_eq!(
            node.counters.journal_undurable_bytes.read(),
            node.counters.ring_used_bytes.read()
        );
        assert!(node.world.finish_file_operation(0), "{step}");
    }
    node.turns(3);
    let acks = node.read(socket);
    assert!(
        acks.contains(r#"{"event":"ack","seq":10}"#)
            && acks.contains(r#"{"event":"ack","seq":20}"#),
        "{acks}"
    );
    assert_eq!(node.durable_seq(), Some(Seq(20)));
    assert_eq!(node.counters.journal_syncs.read(), 1);
    assert_eq!(
        (node.counters.promises_waiting.read(), node.counters.journal_undurable_bytes.read()),
        (0, 0)
    );
    node.world.hold_file_operations(false);
    node.frames(socket, 3);
    node.send(socket, 0x81, br#"{"event":"stop"}"#);
    node.turns(40);
    let stopped = node.read(socket);
    assert!(
        stopped.contains(r#""seq":23"#) && stopped.contains(r#""durable_seq":23"#),
        "{stopped}"
    );
    assert_eq!(node.durable_seq(), Some(Seq(23)));
}

/// All in one read: frames, then what is refused. The acks of those frames wait for the disk, and
/// the refusal for them.
#[test]
fn a_refusal_goes_after_the_acks_of_the_frames_before_it() {
    for level in [AckLevel::Durable, AckLevel::Written, AckLevel::Received] {
        let mut node = Node::new(level);
        let socket = node.call();
        node.turns(30);
        node.world.hold_file_operations(level != AckLevel::Received);
        node.frames(socket, 25);
        node.send(socket, 0x81, b"{");
        node.turns(30);
        if level != AckLevel::Received {
            assert_eq!(node.read(socket), "", "{level:?}: nothing is promised yet");
            node.world.hold_file_operations(false);
            while node.world.finish_file_operation(0) {}
            node.turns(40);
        }
        let said = node.read(socket);
        let places =
            ["\"seq\":10}", "\"seq\":20}", "\"invalid_start\""].map(|words| said.find(words));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{level:?}: {said}");
        assert!(said.ends_with("invalid_start"), "the Close is the last: {said}");
        assert_eq!(said.matches("\"ack\"").count(), 2, "{said}");
    }
}

#[test]
fn a_refusal_does_not_wait_for_a_disk_for_ever() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.turns(30);
    node.world.hold_file_operations(true);
    node.frames(socket, 10);
    node.send(socket, 0x81, b"{");
    // `close_timeout` of the tiny limits is half a second.
    node.turns(490);
    assert_eq!(node.read(socket), "");
    node.turns(20);
    let said = node.read(socket);
    assert!(said.contains("invalid_start") && !said.contains("\"ack\""), "{said}");
}

/// Below `durable`, `stopped` does not wait for a sync, and says how far the last one came.
#[test]
fn stopped_knows_the_durable_frames_at_every_level() {
    for level in [AckLevel::Written, AckLevel::Received] {
        let mut node = Node::new(level);
        let socket = node.call();
        node.frames(socket, 20);
        // Long enough for the sync that no call waits for.
        node.turns(1200);
        assert_eq!(node.durable_seq(), Some(Seq(20)), "{level:?}");
        node.read(socket);
        node.frames(socket, 3);
        node.send(socket, 0x81, br#"{"event":"stop"}"#);
        node.turns(5);
        let stopped = node.read(socket);
        assert!(
            stopped.contains(r#""seq":23,"#) && stopped.contains(r#""durable_seq":20,"#),
            "{level:?}: {stopped}"
        );
    }
}

#[test]
fn the_way_of_a_frame_to_its_ack_is_measured() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.world.hold_file_operations(true);
    node.latencies();
    node.frames(socket, 12);
    node.turn();
    node.world.advance(millis(10));
    node.frames(socket, 8);
    node.turn();
    // The segment's start, the batch with the first twelve frames, its sync. One turn sees an end,
    // the next submits what follows.
    for (passes, turns) in [(20, 2), (30, 2), (40, 1)] {
        node.world.advance(millis(passes));
        assert!(node.world.finish_file_operation(0));
        (0..turns).for_each(|_| assert_eq!(node.turn(), Turn::More));
    }
    node.world.advance(millis(2));
    let measured = node.latencies();
    assert_eq!(node.read(socket).matches("ack").count(), 1);
    latencies::assert_values(&measured.journal_write, &[(30, 1), (30, 1)]);
    latencies::assert_values(&measured.journal_sync, &[(40, 1)]);
    latencies::assert_values(&measured.frame_durable, &[(100, 12)]);
    latencies::assert_values(&measured.ack, &[(100, 1)]);
    latencies::assert_values(&measured.ack_sent, &[(102, 1)]);
    assert!(
        measured.frame_written.histogram().is_empty()
            && measured.frame_received.histogram().is_empty()
    );
    // The rest follows, each frame once.
    node.world.hold_file_operations(false);
    while node.world.finish_file_operation(0) {}
    node.turns(50);
    assert_eq!(node.read(socket).matches("ack").count(), 1);
    let measured = node.latencies();
    assert_eq!((measured.frame_durable.histogram().len(), measured.ack.histogram().len()), (8, 1));
    assert_eq!(measured.journal_sync.histogram().len() + 1, node.counters.journal_syncs.read());
}

#[test]
fn on_each_level_a_frame_waits_for_what_is_promised() {
    for level in [AckLevel::Received, AckLevel::Written, AckLevel::Durable] {
        let mut node = Node::new(level);
        let socket = node.call();
        node.frames(socket, 10);
        node.turns(30);
        assert_eq!(node.read(socket).matches("ack").count(), 1);
        let measured = node.latencies();
        for (other, latency) in [
            (AckLevel::Received, &measured.frame_received),
            (AckLevel::Written, &measured.frame_written),
            (AckLevel::Durable, &measured.frame_durable),
        ] {
            assert_eq!(
                latency.histogram().len(),
                if other == level { 10 } else { 0 },
                "{other:?} on a node for {level:?}"
            );
        }
        assert_eq!((measured.ack.histogram().len(), measured.ack_sent.histogram().len()), (1, 1));
    }
}

#[test]
fn a_sync_that_fails_is_not_measured() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.world.fail_sync(node.files[0], rustix::io::Errno::IO);
    node.frames(socket, 10);
    node.turns(60);
    assert_eq!((node.counters.journal_fences.read(), node.counters.journal_syncs.read()), (1, 1));
    let measured = node.latencies();
    assert_eq!(
        (measured.journal_sync.histogram().len(), measured.frame_durable.histogram().len()),
        (1, 10)
    );
}

#[test]
fn a_segment_that_failed_before_any_of_it_was_durable_is_no_damage() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.world.fail_sync(node.files[0], rustix::io::Errno::IO);
    node.frames(socket, 20);
    node.turns(60);
    assert!(node.read(socket).contains(r#"{"event":"ack","seq":20}"#));
    let dir = tempfile::tempdir().unwrap();
    let run = RunName { boot: 4, started_at: UnixMicros(1), pid: 1 };
    let shard_dir = create_shard_dir(dir.path(), &run, 0).unwrap();
    Marks::new(1).store(&shard_dir).unwrap();
    let mut torn = vec![0; SEGMENT_SIZE];
    torn[..512].copy_from_slice(&node.world.live_image(node.files[1])[..512]);
    // Of the first one nothing has come to the disk, or a sector of its header.
    for first in [node.world.durable_image(node.files[0]), torn] {
        for (place, image) in
            [first, node.world.durable_image(node.files[1])].into_iter().enumerate()
        {
            std::fs::write(segment_path(&shard_dir, place as u64 + 1), image).unwrap();
        }
        let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
        assert!(report.is_sound() && report.frames == 20, "{report}");
    }
    // Where the next one says that it held something, it is.
    for id in [3, 4] {
        let image = node.world.durable_image(node.files[1]);
        let header = SegmentHeader::decode(image.first_chunk().unwrap()).unwrap();
        let (start, predecessor) =
            (Lsn(header.start.0 + SEGMENT_SIZE as u64), SegmentUuid([id as u8 - 1; 16]));
        let next = SegmentHeader { id, start, predecessor, predecessor_end: start, ..header };
        let mut block = [0; BLOCK_SIZE];
        next.encode(&mut block);
        std::fs::write(segment_path(&shard_dir, id), if id == 3 { [0; BLOCK_SIZE] } else { block })
            .unwrap();
    }
    let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
    assert!(
        report.damages.len() == 1 && report.damages[0].file.ends_with("0000000000000003.segment"),
        "{report}"
    );
}

#[test]
fn a_shard_sleeps_until_its_next_sync_is_due_and_no_longer() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.turns(30);
    let ring_was_ready = node.world.now().moment;
    for _ in 0..2 {
        node.frames(socket, 10);
        // Turns take no time here: the first ten are synced at once, the second have to wait.
        for _ in 0..10 {
            node.turn();
        }
    }
    assert_eq!(node.world.now().moment, ring_was_ready);
    assert_eq!(node.read(socket).matches("ack").count(), 1);
    let Some(Wait::Gather { limit: Some(limit), .. }) = node.world.last_wait() else { panic!() };
    assert_eq!(limit, Duration::from_millis(20));
    node.world.advance(limit);
    for _ in 0..10 {
        node.turn();
    }
    assert_eq!(node.read(socket).matches("ack").count(), 1);
}

#[test]
fn a_full_disk_closes_calls_and_refuses_new_ones_until_there_is_room() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.turns(3);
    node.has_room = false;
    // The segment at hand takes what it can; the next one is there already.
    for _ in 0..4 {
        for _ in 0..100 {
            node.frames(socket, 20);
            node.turns(1);
        }
        node.turns(25);
    }
    let goodbye = node.read(socket);
    assert!(goodbye.contains(r#""reason":"storage""#) && goodbye.contains("\u{3}"), "{goodbye}");
    let acked = goodbye.matches(r#""event":"ack""#).count() as u64 * 10;
    assert!(acked > 0 && node.durable_seq().is_some_and(|seq| seq.0 >= acked), "{acked}");
    let (_, answer) = node.connect();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(node.counters.journal_refuses_calls.read(), 1);
    node.has_room = true;
    node.give_segment();
    node.turns(30);
    let socket = node.call();
    node.frames(socket, 10);
    node.turns(60);
    assert!(node.read(socket).contains(r#"{"event":"ack","seq":10}"#), "it goes on");
}

#[test]
fn a_reserve_that_is_touched_refuses_new_calls_and_leaves_those_there_are() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.mailbox.try_send(Message::Reserve { is_low: true }).unwrap();
    node.turns(2);
    assert!(node.connect().1.starts_with("HTTP/1.1 503"));
    node.frames(socket, 10);
    node.turns(60);
    assert!(node.read(socket).contains(r#"{"event":"ack","seq":10}"#));
    node.mailbox.try_send(Message::Reserve { is_low: false }).unwrap();
    node.turns(2);
    node.call();
}

#[test]
fn a_budget_that_is_used_up_refuses_new_calls_and_counts_them() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.mailbox.try_send(Message::Budget { is_over: true }).unwrap();
    node.turns(2);
    let (_, answer) = node.connect();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After"), "{answer}");
    assert_eq!(node.counters.requests_over_budget.read(), 1);
    assert_eq!(node.counters.budget_refuses_calls.read(), 1);
    assert_eq!(node.counters.journal_refuses_calls.read(), 0, "the disk is well");
    node.frames(socket, 10);
    node.turns(60);
    assert!(node.read(socket).contains(r#"{"event":"ack","seq":10}"#));
    node.mailbox.try_send(Message::Budget { is_over: false }).unwrap();
    node.turns(2);
    node.call();
}

#[test]
fn a_stalled_disk_closes_calls_after_a_while() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.world.hold_file_operations(true);
    node.frames(socket, 10);
    node.turns(30);
    assert!(node.counters.journal_stalled_ms.read() > 0);
    for _ in 0..52 {
        node.send(socket, 0x8A, b"");
        node.world.advance(Duration::from_millis(100));
        node.turns(1);
    }
    let goodbye = node.read(socket);
    assert!(goodbye.contains(r#""reason":"storage""#) && !goodbye.contains("ack"), "{goodbye}");
    assert!(node.connect().1.starts_with("HTTP/1.1 503"));
    node.world.hold_file_operations(false);
    while node.world.finish_file_operation(0) {}
    node.turns(30);
    node.call();
}

#[test]
fn a_call_whose_promise_finds_no_room_is_closed_and_the_node_goes_on() {
    // The ring takes far more than the queue of promises believes: so that is full first.
    let limits = Limits {
        ring_size: 10 * ACK_INTERVAL_FRAMES as usize * RECORD_ALIGNMENT,
        ..Limits::tiny()
    };
    let room = promise_count_max(limits.ring_size, limits.connections_max);
    let mut node = Node::with(AckLevel::Durable, limits);
    node.world.hold_file_operations(true);
    // Calls that come and go, and leave their promises in the queue.
    for _ in 0..room {
        let socket = node.call();
        node.frames(socket, 10);
        node.turns(1);
        node.world.peer_resets(socket);
        node.turns(2);
    }
    assert_eq!(node.shard.promises.len(), room);
    let socket = node.call();
    node.frames(socket, 10);
    node.turns(2);
    let heard = node.world.peer_reads(socket);
    let goodbye = String::from_utf8_lossy(&heard);
    assert!(goodbye.contains(r#""reason":"storage""#) && !goodbye.contains("ack"), "{goodbye}");
    assert!(heard.windows(2).any(|code| code == 1013u16.to_be_bytes()), "{heard:?}");
    // The disk moves again: the queue empties, the node takes calls and keeps its promises.
    node.world.hold_file_operations(false);
    while node.world.finish_file_operation(0) {}
    node.turns(60);
    assert!(node.shard.promises.is_empty());
    let socket = node.call();
    node.frames(socket, 10);
    node.turns(60);
    assert!(node.read(socket).contains(r#"{"event":"ack","seq":10}"#));
}

#[test]
fn a_shard_that_drains_ends_once_everything_is_durable() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.frames(socket, 7);
    node.turns(2);
    node.world.hold_file_operations(true);
    node.mailbox
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    node.turns(4);
    node.world.peer_finishes(socket);
    for _ in 0..100 {
        assert_eq!(node.turn(), Turn::More, "frames are not durable yet");
        node.world.advance(Duration::from_millis(1));
    }
    node.world.hold_file_operations(false);
    while node.world.finish_file_operation(0) {}
    let ended = (0..20).any(|_| node.turn() == Turn::Finished);
    assert!(ended);
    assert_eq!(node.durable_seq(), Some(Seq(7)));
}

#[test]
fn a_shard_that_cannot_write_its_last_says_so() {
    let mut node = Node::new(AckLevel::Durable);
    let socket = node.call();
    node.world.hold_file_operations(true);
    node.frames(socket, 7);
    node.mailbox
        .try_send(Message::Drain { grace: Duration::ZERO, window: Duration::ZERO })
        .unwrap();
    node.world.peer_resets(socket);
    let mut error = None;
    for _ in 0..2_000 {
        match node.shard.turn() {
            Ok(Turn::More) => node.world.advance(Duration::from_millis(10)),
            Ok(Turn::Finished) => panic!("it ended as if all were well"),
            Err(found) => {
                error = Some(found.to_string());
                break;
            }
        }
    }
    assert!(error.is_some_and(|error| error.contains("were not written")));
}
