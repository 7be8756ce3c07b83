//! Ends of a call that the peer causes: `stop`, Close, and the end of its connection.

#![forbid(unsafe_code)]

use super::*;
use crate::ack_level::CallLevels;

#[test]
fn stop_waits_for_the_promise_of_the_last_frame() {
    let mut call = Harness::live_with(|settings| settings.has_journal = true);
    call.promises_at_once = false;
    call.frames(12, 960);
    let head = call.ring.head();
    assert_eq!(call.text(STOP), b"");
    assert!(call.ring.head() > head, "the end record directly follows the audio");
    call.assert_ended(Ending::Stopped);
    assert_eq!(call.questions, [10, 12]);
    assert!(call.session.is_live(), "it is still owed an answer");
    assert_eq!(call.promise(10), ack(10));
    call.sync();
    assert_eq!(call.promise(12), [stopped(12, 11_520, 240, "12"), close(1000, "")].concat());
    call.assert_finished();
    assert_eq!(call.counters.sessions_refused.read(), 0);
}

#[test]
fn stop_after_a_multiple_of_ten_asks_nothing_new() {
    let mut call = Harness::owing(10);
    assert_eq!(call.text(STOP), b"");
    assert_eq!(call.questions, [10]);
    assert_eq!(call.promise(10), [ack(10), stopped(10, 20, 0, "null"), close(1000, "")].concat());
}

#[test]
fn stop_without_audio_is_answered_at_once() {
    for (has_journal, durable_seq) in [(false, "null"), (true, "0")] {
        let mut call = Harness::live_with(|settings| settings.has_journal = has_journal);
        call.promises_at_once = false;
        assert_eq!(call.text(STOP), [stopped(0, 0, 0, durable_seq), close(1000, "")].concat());
        assert!(call.questions.is_empty());
        call.assert_finished();
    }
}

/// If acks promise less than a sync, `stopped` is sent when they hold, and says how far the disk
/// is.
#[test]
fn stopped_says_up_to_which_frame_the_call_is_known_to_be_durable() {
    // Frames before the sync, frames after it, and what is known then.
    for (before, after, known) in
        [(0, 0, "0"), (0, 5, "0"), (12, 0, "12"), (25, 3, "20"), (30, 10, "30"), (9, 9, "0")]
    {
        let mut call = Harness::live_with(|settings| settings.has_journal = true);
        call.frames(before, 2);
        call.sync();
        call.frames(after, 2);
        let seq = (before + after) as u64;
        assert_eq!(
            call.text(STOP),
            [stopped(seq, seq * 2, seq * 2 / 48, known), close(1000, "")].concat()
        );
        call.assert_finished();
        assert_eq!(call.summary().durable, Some(Seq(known.parse().unwrap())));
        call.sync();
        assert_eq!(call.summary().durable, Some(Seq(seq)), "the end is a mark, too");
    }
}

/// A call that is faster than the disk: each batch is sealed at once, and becomes durable several
/// batches later.
#[test]
fn the_known_durable_frame_lags_and_is_never_ahead() {
    let mut call = Harness::live_with(|settings| settings.has_journal = true);
    let mut sealed = std::collections::VecDeque::new();
    let (mut known, mut truth) = (0, 0);
    for tens in 1..=30 {
        call.frames(10, 2);
        call.ring.seal();
        while call.ring.poll_sealed().is_some() {}
        sealed.push_back((tens * 10, call.ring.sealed()));
        if sealed.len() > 4 {
            let (seq, end) = sealed.pop_front().unwrap();
            call.ring.set_written(end);
            call.ring.set_durable(end);
            truth = seq;
        }
        let answer = call.session.durable_seq(call.ring.durable()).unwrap();
        assert!(
            (known..=truth).contains(&answer) && answer + 50 >= truth,
            "{answer} of {truth}, {known} before"
        );
        known = answer;
    }
    assert_eq!(truth, 260);
    let answer = call.text(STOP);
    assert_eq!(answer, [stopped(300, 600, 12, &known.to_string()), close(1000, "")].concat());
}

#[test]
fn a_flood_after_a_stop_without_audio_is_counted() {
    let mut call = Harness::live();
    call.step_without_output(|session, now, context| {
        let mut stop = STOP.as_bytes().to_vec();
        KEY.apply(&mut stop);
        let payload = &mut stop[..];
        session.handle_data(now, whole(MessageKind::Text, payload), context);
        for (kind, last) in
            [(MessageKind::Binary, true), (MessageKind::Binary, false), (MessageKind::Binary, true)]
        {
            session.handle_data(now, DataPiece { last, ..whole(kind, &mut []) }, context);
        }
        let kind = MessageKind::Text;
        session.handle_data(now, whole(kind, &mut []), context);
    });
    assert_eq!(
        (call.counters.frames_after_stop.read(), call.shared.counters.texts_after_stop.read()),
        (2, 1)
    );
    assert_eq!(call.transmit(), [stopped(0, 0, 0, "null"), close(1000, "")].concat());
    call.assert_ended(Ending::Stopped);
}

#[test]
fn data_after_stop_is_ignored_and_counted() {
    let mut call = Harness::owing(1);
    call.text(STOP);
    let head = call.ring.head();
    assert_eq!(call.frames(3, 2), b"");
    assert_eq!(call.piece(MessageKind::Binary, true, false, 0, &[1]), b"");
    assert_eq!(call.piece(MessageKind::Binary, false, true, 1, &[1]), b"");
    for ignored in [STOP, START, "no JSON", r#"{"event":"mark"}"#] {
        assert_eq!(call.text(ignored), b"");
    }
    assert_eq!(
        (call.counters.frames_after_stop.read(), call.shared.counters.texts_after_stop.read()),
        (4, 4)
    );
    assert_eq!((call.ring.head(), call.counters.events_unknown.read()), (head, 0));
    assert_eq!(call.control(Control::Ping(b"?")), frame(0xA, b"?"), "pings are still answered");
    assert_eq!(call.promise(1), [stopped(1, 2, 0, "null"), close(1000, "")].concat());
    call.assert_ended(Ending::Stopped);
}

#[test]
fn a_call_that_has_stopped_is_not_taken_over_nor_drained() {
    let mut call = Harness::owing(1);
    call.text(STOP);
    assert_eq!(call.notice(Notice::Superseded), b"");
    assert_eq!(call.notice(Notice::Draining), b"");
    assert_eq!(call.promise(1), [stopped(1, 2, 0, "null"), close(1000, "")].concat());

    for (notice, closing) in
        [(Notice::Storage, Closing::Storage), (Notice::Engine, Closing::Engine)]
    {
        let mut call = Harness::owing(1);
        call.text(STOP);
        assert_eq!(call.notice(notice), refusal_of(closing), "no promise, no stopped");
        call.assert_ended(Ending::Stopped);
    }
}

#[test]
fn the_level_is_that_of_the_last_promise_and_acks_at_a_lower_one_are_counted() {
    let promise = |call: &mut Harness, seq, level| {
        call.step(|session, now, context| {
            session.handle_promise(now, Seq(seq), level, context);
        })
    };
    let mut call = Harness::with(|settings| {
        settings.levels = CallLevels::replicated_for(vec!["tenant-abc".into()]);
    });
    call.promises_at_once = false;
    call.text(START);
    call.frames(25, 0);
    assert_eq!(promise(&mut call, 10, AckLevel::Replicated), ack(10));
    assert_eq!(promise(&mut call, 20, AckLevel::Durable), ack(20));
    // The engine has it in the end, and that of an earlier frame changes nothing.
    assert_eq!(promise(&mut call, 15, AckLevel::Replicated), b"");
    assert_eq!(call.session.level, AckLevel::Durable);
    assert_eq!(promise(&mut call, 20, AckLevel::Replicated), b"");
    assert_eq!(call.session.level, AckLevel::Replicated);
    call.text(STOP);
    let out = promise(&mut call, 25, AckLevel::Durable);
    assert!(String::from_utf8_lossy(&out).contains(r#""level":"durable""#));
    let summary = call.summary();
    assert_eq!((summary.level, summary.degraded_acks), (AckLevel::Durable, 1));
    assert_eq!(call.counters.acks_degraded.read(), 1);
}

#[test]
fn silence_counts_after_stop_unless_the_peer_cannot_send() {
    let mut call = Harness::owing(1);
    call.text(STOP);
    assert_eq!(call.pass(millis(3000)), [vec![0x89, 0], refusal_of(Closing::IdleTimeout)].concat());

    let mut call = Harness::owing(1);
    call.text(STOP);
    assert_eq!(call.disconnect(Disconnect::Finished), b"");
    assert_eq!(call.pass(millis(60_000)), b"");
    assert_eq!(call.promise(1), [stopped(1, 2, 0, "null"), close(1000, "")].concat());
    call.assert_ended(Ending::Stopped);
    call.assert_finished();
}

#[test]
fn a_peers_close_is_answered_with_its_code_after_the_acks_due() {
    for (code, answer) in
        [(Some(1000), close(1000, "")), (Some(4999), close(4999, "")), (None, frame(0x8, b""))]
    {
        let mut call = Harness::owing(25);
        assert_eq!(call.promise(10), ack(10));
        assert_eq!(call.peer_close(code), b"");
        call.assert_ended(Ending::PeerClosed);
        assert_eq!(call.questions, [10, 20], "no partial ack, so no question about the tail");
        assert_eq!(call.frames(10, 2), b"", "nothing counts after a Close");
        assert_eq!(call.control(Control::Ping(b"?")), b"");
        assert_eq!(call.violation(Violation::NotUtf8), b"");
        assert_eq!(call.notice(Notice::Draining), b"");
        assert_eq!(call.promise(20), [ack(20), answer].concat());
        assert_eq!(call.counters.frames.read(), 25);
        call.assert_finished();
    }
}

#[test]
fn a_peers_close_with_nothing_due_is_answered_at_once() {
    let mut call = Harness::live();
    call.frames(11, 2);
    assert_eq!(call.peer_close(Some(1001)), close(1001, ""));
    call.assert_finished();

    let mut call = Harness::new();
    assert_eq!(call.peer_close(None), frame(0x8, b""));
    assert!(call.actions.is_empty());
    call.assert_finished();
}

#[test]
fn our_close_waits_a_limited_time_for_acks() {
    let mut call = Harness::owing(25);
    call.peer_close(Some(1000));
    call.promise(10);
    assert_eq!(call.pass(millis(500) - NANO), b"");
    assert_eq!(call.pass(NANO), close(1000, ""));
    call.assert_finished();

    let mut call = Harness::owing(25);
    call.peer_close(Some(1000));
    assert_eq!(call.notice(Notice::Engine), close(1000, ""), "there is nothing left to wait for");
}

#[test]
fn a_close_after_stop_still_gets_its_stopped_in_time() {
    let mut call = Harness::owing(3);
    call.text(STOP);
    assert_eq!(call.peer_close(Some(1001)), b"");
    assert_eq!(call.promise(3), [stopped(3, 6, 0, "null"), close(1001, "")].concat());
    call.assert_ended(Ending::Stopped);

    let mut call = Harness::owing(3);
    call.text(STOP);
    call.peer_close(Some(1001));
    assert_eq!(call.pass(millis(500) - NANO), b"");
    assert_eq!(call.pass(NANO), close(1001, ""), "no promise is made that does not hold");
    call.assert_finished();
}

#[test]
fn a_lost_connection_ends_the_call_with_its_complete_frames() {
    for (disconnect, ending) in
        [(Disconnect::Finished, Ending::Finished), (Disconnect::Reset, Ending::Reset)]
    {
        let mut call = Harness::live();
        call.frames(2, 2);
        call.piece(MessageKind::Binary, true, false, 0, &[1, 2, 3, 4]);
        let head = call.ring.head();
        assert_eq!(call.disconnect(disconnect), b"");
        assert!(call.ring.head() > head);
        call.assert_ended(ending);
        call.assert_finished();
        assert_eq!(call.tenant_use().frames, 2, "the frame that was cut never counts");
    }
}

#[test]
fn a_lost_connection_before_start_leaves_nothing() {
    for disconnect in [Disconnect::Finished, Disconnect::Reset] {
        let mut call = Harness::new();
        let head = call.ring.head();
        assert_eq!(call.disconnect(disconnect), b"");
        assert!(call.actions.is_empty() && call.ring.head() == head);
        call.assert_finished();
    }
}

#[test]
fn a_peer_that_ends_its_side_after_its_close_still_gets_ours() {
    let mut call = Harness::owing(10);
    call.peer_close(Some(1000));
    assert_eq!(call.disconnect(Disconnect::Finished), b"");
    assert_eq!(call.promise(10), [ack(10), close(1000, "")].concat());
    call.assert_ended(Ending::PeerClosed);
}

#[test]
fn a_reset_while_we_wait_finishes_without_output() {
    let mut call = Harness::owing(1);
    call.text(STOP);
    assert_eq!(call.disconnect(Disconnect::Finished), b"");
    assert_eq!(call.disconnect(Disconnect::Reset), b"");
    call.assert_ended(Ending::Stopped);
    call.assert_finished();
    assert_eq!(call.promise(1), b"");
}
