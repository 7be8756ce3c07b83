//! Control frames, notices, and the order of the last bytes.

#![forbid(unsafe_code)]

use super::*;

#[test]
fn a_ping_is_answered_with_its_payload_and_only_the_latest() {
    let mut call = Harness::with(|settings| settings.limits.control_burst = 6);
    let payload = [0xA5; CONTROL_PAYLOAD_SIZE_MAX];
    assert_eq!(call.control(Control::Ping(b"")), frame(0xA, b""));
    assert_eq!(call.control(Control::Ping(&payload)), frame(0xA, &payload));
    for ping in [&b"one"[..], b"two", &payload, b"3"] {
        call.step_without_output(|session, now, context| {
            session.handle_control(now, Control::Ping(ping), context)
        });
    }
    assert_eq!(call.transmit(), frame(0xA, b"3"));
    assert_eq!(call.counters.controls_received.read(), 6);
}

#[test]
fn a_flood_of_control_frames_is_a_violation() {
    let mut call = Harness::live_with(|settings| settings.limits.control_burst = 5);
    for _ in 0..2 {
        assert_eq!(call.control(Control::Pong(b"")), b"");
        assert_eq!(call.control(Control::Ping(b"x")), frame(0xA, b"x"));
    }
    assert_eq!(call.control(Control::Pong(b"")), b"");
    call.pass(millis(100) - NANO);
    assert_eq!(call.control(Control::Pong(b"")), close(1008, ""));
    call.assert_ended(Ending::Violation);

    let mut call = Harness::live_with(|settings| settings.limits.control_burst = 1);
    for _ in 0..100 {
        assert_eq!(call.control(Control::Ping(b"x")), frame(0xA, b"x"));
        call.pass(millis(100));
    }
}

#[test]
fn a_close_is_heard_even_in_a_flood() {
    let mut call = Harness::live_with(|settings| settings.limits.control_burst = 1);
    call.control(Control::Pong(b""));
    assert_eq!(call.peer_close(Some(1000)), close(1000, ""));
}

#[test]
fn text_that_is_not_utf8_fails_within_the_message() {
    let mut call = Harness::live();
    assert_eq!(
        call.piece(MessageKind::Text, true, false, 0, b"{\"event\":\"\xff"),
        close(1007, "")
    );
    call.assert_ended(Ending::Violation);
    call.assert_finished();
}

#[test]
fn the_last_bytes_follow_promised_acks_and_nothing_follows_them() {
    let mut call = Harness::new();
    let mut start = START.as_bytes().to_vec();
    KEY.apply(&mut start);
    call.step_without_output(|session, now, context| {
        let payload = &mut start[..];
        let piece = whole(MessageKind::Text, payload);
        session.handle_data(now, piece, context);
    });
    for _ in 0..20 {
        call.step_without_output(|session, now, context| {
            let piece = whole(MessageKind::Binary, &mut []);
            session.handle_data(now, piece, context);
        });
    }
    call.step_without_output(|session, now, context| {
        session.handle_control(now, Control::Ping(b"x"), context)
    });
    call.step_without_output(|session, now, context| {
        session.handle_notice(now, Notice::Draining, context)
    });
    let pong = [&[0x8a, 1][..], b"x"].concat();
    assert_eq!(
        call.transmit(),
        [text(STARTED), pong, ack(10), ack(20), refusal_of(Closing::Draining)].concat()
    );
    call.assert_ended(Ending::Drained);
}

#[test]
fn a_promise_during_the_last_bytes_does_not_interrupt_them() {
    let mut call = Harness::owing(10);
    call.step_without_output(|session, now, context| {
        session.handle_notice(now, Notice::Storage, context)
    });
    let mut out = [0; 64];
    assert_eq!(call.session.poll_transmit(call.now, &mut out), 64);
    let mut all = out.to_vec();
    call.out_size = 256;
    all.extend(call.promise(10));
    assert_eq!(all, refusal_of(Closing::Storage));
    call.assert_finished();
}

/// Ways to be refused during a live call, each with its refusal.
type Refused = (fn(&mut Harness) -> Vec<u8>, Closing, Ending);

const REFUSED: [Refused; 9] = [
    (|call| call.text(&START.replace("24000", "8000")), Closing::AlreadyStarted, Ending::Refused),
    (|call| call.audio(&[0; 1_000_000]), Closing::TooFast, Ending::TooFast),
    (|call| call.notice(Notice::Superseded), Closing::Superseded, Ending::Superseded),
    (|call| call.notice(Notice::Draining), Closing::Draining, Ending::Drained),
    (
        |call| call.violation(Violation::Protocol("bad opcode")),
        Closing::Protocol,
        Ending::Violation,
    ),
    (|call| call.violation(Violation::TooBig("message")), Closing::TooBig, Ending::Violation),
    (
        |call| call.piece(MessageKind::Text, true, true, 0, b"\xff"),
        Closing::NotUtf8,
        Ending::Violation,
    ),
    (
        |call| (0..6).fold(Vec::new(), |_, _| call.control(Control::Pong(b""))),
        Closing::Flood,
        Ending::Violation,
    ),
    (|call| call.pass(millis(1000)), Closing::TokenExpired, Ending::TokenExpired),
];

/// A live call of 25 frames, the first ten acked, that is refused.
fn refused_with_acks_due(provoke: fn(&mut Harness) -> Vec<u8>) -> Harness {
    let mut call = Harness::live_with(|settings| {
        settings.close_on_expiry = true;
        settings.expiry_leeway = Duration::ZERO;
    });
    call.promises_at_once = false;
    call.frames(25, 2);
    assert_eq!(call.promise(10), ack(10));
    assert_eq!(provoke(&mut call), b"", "the ack of frame 20 goes first");
    call
}

#[test]
fn frames_that_were_complete_before_a_refusal_are_acked_before_it() {
    for (provoke, closing, ending) in REFUSED {
        let mut call = refused_with_acks_due(provoke);
        let close_frames = match closing.has_event() {
            true => refusal_of(closing),
            false => close(closing.code(), ""),
        };
        assert_eq!(call.questions, [10, 20], "no partial ack, so no question about the tail");
        assert!(call.session.is_live());
        assert_eq!(
            (call.frames(10, 2), call.text(STOP), call.peer_close(Some(1000))),
            (vec![], vec![], vec![])
        );
        assert_eq!(call.notice(Notice::Draining), b"");
        assert_eq!(call.disconnect(Disconnect::Finished), b"", "it can still read");
        assert_eq!(call.promise(20), [ack(20), close_frames].concat(), "{closing:?}");
        call.assert_ended(ending);
        call.assert_finished();
        assert_eq!(call.counters.frames.read(), 25);
        let summary = call.summary();
        assert_eq!(
            (summary.frames, summary.acked, summary.close),
            (25, Seq(20), Some(closing.code()))
        );
        assert_eq!((summary.ending, summary.reason), (ending.label(), Some(closing.label())));
    }
}

#[test]
fn a_refusal_waits_a_limited_time_for_acks() {
    let mut call = refused_with_acks_due(REFUSED[0].0);
    assert_eq!(call.pass(millis(500) - NANO), b"");
    assert_eq!(call.pass(NANO), refusal_of(Closing::AlreadyStarted));
    call.assert_finished();

    let mut call = refused_with_acks_due(REFUSED[0].0);
    assert_eq!(
        call.notice(Notice::Storage),
        refusal_of(Closing::AlreadyStarted),
        "there is nothing left to wait for"
    );
    call.assert_ended(Ending::Refused);
    call.assert_finished();

    let mut call = refused_with_acks_due(REFUSED[0].0);
    assert_eq!(call.disconnect(Disconnect::Reset), b"");
    call.assert_finished();
    assert_eq!(call.promise(20), b"");
    assert_eq!(call.summary().acked, Seq(10));
}

#[test]
fn a_refusal_does_not_wait_for_a_deaf_peer_or_a_stalled_disk() {
    let stalled: fn(&mut Harness) -> Vec<u8> = |call| {
        call.output(Output::Blocked);
        call.pass(millis(1500))
    };
    let provocations = [
        (stalled, Closing::AckStalled),
        (|call| call.notice(Notice::Storage), Closing::Storage),
        (|call| call.notice(Notice::Engine), Closing::Engine),
    ];
    for (provoke, closing) in provocations {
        let mut call = Harness::owing(10);
        let out = provoke(&mut call);
        assert!(out.ends_with(&refusal_of(closing)), "{closing:?}");
        call.assert_finished();
    }
}

/// A refusal after `stop` leaves the earlier frames promised, and so they are acked.
#[test]
fn a_refusal_after_stop_waits_for_acks_too() {
    let mut call = Harness::owing(12);
    call.text(STOP);
    assert_eq!(call.violation(Violation::Protocol("unmasked frame")), b"");
    assert_eq!(call.promise(10), [ack(10), close(1002, "")].concat());
    call.assert_ended(Ending::Stopped);
    call.assert_finished();
}

#[test]
fn nothing_counts_after_the_last_bytes_are_decided() {
    let mut call = Harness::live();
    call.step_without_output(|session, now, context| {
        session.handle_notice(now, Notice::Superseded, context)
    });
    let head = call.ring.head();
    let verbs: [fn(&mut IngestSession, Now, &mut Context<'_>); 6] = [
        |session, now, context| {
            let piece = whole(MessageKind::Binary, &mut []);
            session.handle_data(now, piece, context);
        },
        |session, now, context| session.handle_control(now, Control::Ping(b"?"), context),
        |session, now, context| {
            session.handle_control(now, Control::Close { code: Some(1000), reason: "" }, context)
        },
        |session, now, context| session.handle_violation(now, Violation::Flood, context),
        |session, now, context| session.handle_notice(now, Notice::Storage, context),
        |session, now, context| session.handle_disconnect(now, Disconnect::Finished, context),
    ];
    for verb in verbs {
        call.step_without_output(verb);
    }
    assert_eq!(call.ring.head(), head);
    assert_eq!(call.transmit(), refusal_of(Closing::Superseded));
    call.assert_ended(Ending::Superseded);
    assert_eq!(call.counters.calls_superseded.read(), 1);
    call.assert_finished();
    let head = call.ring.head();
    for verb in verbs {
        call.step_without_output(verb);
    }
    assert_eq!((call.transmit(), call.ring.head()), (Vec::new(), head));
    call.assert_ended(Ending::Superseded);
}

#[test]
fn a_session_without_a_call_is_drained_but_not_superseded() {
    let mut call = Harness::new();
    assert_eq!(call.notice(Notice::Superseded), b"");
    assert_eq!(call.notice(Notice::Draining), refusal_of(Closing::Draining));
    assert_eq!((call.counters.calls_ended.read(), call.counters.sessions_refused.read()), (0, 0));
    call.assert_finished();
}

#[test]
fn output_does_not_grow_if_the_peer_does_not_read() {
    let mut call = Harness::live_with(|settings| {
        settings.limits.max_ahead = None;
        settings.limits.control_burst = 1_000_000;
        settings.limits.text_burst = 1_000_000;
    });
    let mut start = START.as_bytes().to_vec();
    KEY.apply(&mut start);
    for _ in 0..1000 {
        call.step_without_output(|session, now, context| {
            let mut payload = start.clone();
            let payload = &mut payload[..];
            let piece = whole(MessageKind::Text, payload);
            session.handle_data(now, piece, context);
            session.handle_control(now, Control::Ping(&[1; 125]), context);
        });
    }
    assert_eq!(
        call.session.outbox.size_on_heap(),
        CONTROL_PAYLOAD_SIZE_MAX + 1,
        "one pong, and numbers"
    );
    let out = call.transmit();
    assert_eq!(
        out,
        [text(STARTED).repeat(1000), frame(0xA, &[1; 125])].concat(),
        "and yet each start is answered"
    );
    assert_eq!(call.session.outbox.size_on_heap(), 0);
}
