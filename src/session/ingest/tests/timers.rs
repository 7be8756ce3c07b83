//! Every timer to the nanosecond: nothing a nanosecond before the deadline, everything at it.

#![forbid(unsafe_code)]

use super::*;

const PING: [u8; 2] = [0x89, 0];

/// Asserts that `out` comes after exactly `duration`.
fn assert_at(call: &mut Harness, duration: Duration, out: &[u8]) {
    assert_eq!(call.pass(duration - NANO), b"", "a nanosecond early");
    assert_eq!(call.pass(NANO), out);
}

#[test]
fn start_must_come_in_time() {
    let mut call = Harness::new();
    call.pass(millis(900));
    call.control(Control::Pong(b""));
    call.text(r#"{"event":"mark"}"#);
    assert_at(&mut call, millis(100), &refusal_of(Closing::StartTimeout));
    assert!(call.actions.is_empty());
    call.assert_finished();

    let mut call = Harness::new();
    call.pass(millis(1000) - NANO);
    assert_eq!(call.text(START), text(STARTED));
    assert_eq!(call.pass(millis(400)), b"");
}

#[test]
fn silence_is_pinged_and_then_closed() {
    let mut call = Harness::live();
    assert_at(&mut call, millis(1500), &PING);
    assert_eq!(call.counters.pings_sent.read(), 1);
    assert_at(&mut call, millis(1500), &refusal_of(Closing::IdleTimeout));
    call.assert_ended(Ending::IdleTimeout);
    call.assert_finished();
}

#[test]
fn a_long_silence_is_pinged_again_and_again() {
    let mut call = Harness::live_with(|settings| settings.limits.idle_timeout = millis(5000));
    for _ in 0..3 {
        assert_at(&mut call, millis(1500), &PING);
    }
    assert_at(&mut call, millis(500), &refusal_of(Closing::IdleTimeout));
}

#[test]
fn any_input_ends_the_silence() {
    let mut call = Harness::live();
    type Sign = fn(&mut Harness) -> Vec<u8>;
    let signs: [Sign; 5] = [
        |call| call.control(Control::Pong(b"")),
        |call| call.piece(MessageKind::Binary, true, false, 0, &[1]),
        |call| call.piece(MessageKind::Binary, false, true, 1, &[]),
        |call| call.piece(MessageKind::Text, true, false, 0, b" "),
        |call| call.piece(MessageKind::Text, false, true, 1, START.as_bytes()),
    ];
    for sign in signs {
        assert_eq!(call.pass(millis(1500)), PING);
        assert_eq!(call.pass(millis(1500) - NANO), b"");
        sign(&mut call);
    }
    assert_eq!(call.pass(millis(3000)), [&PING[..], &refusal_of(Closing::IdleTimeout)].concat());
}

#[test]
fn a_streaming_call_sleeps_for_a_ping_time_at_a_time() {
    let mut call = Harness::live();
    let mut wakes = 0;
    for _ in 0..300 {
        let before = call.session.poll_timeout();
        call.frames(1, 2);
        assert_eq!(call.session.poll_timeout(), before, "audio moves no timer");
        call.pass(millis(100));
        wakes += u32::from(call.session.poll_timeout() != before);
    }
    assert!((15..=25).contains(&wakes), "{wakes} wake-ups in 30 s of audio");
    assert_eq!(call.counters.pings_sent.read(), 0);
}

#[test]
fn a_peers_timers_stand_still_while_we_do_not_read() {
    let mut call = Harness::new();
    call.pass(millis(400));
    call.reading(false);
    assert_eq!(call.pass(millis(60_000)), b"");
    call.reading(true);
    assert_at(&mut call, millis(600), &refusal_of(Closing::StartTimeout));

    let mut call = Harness::live();
    call.pass(millis(1000));
    call.reading(false);
    call.reading(false);
    assert_eq!(call.pass(millis(60_000)), b"");
    call.reading(true);
    assert_at(&mut call, millis(500), &PING);
    call.pass(millis(1000));
    call.reading(false);
    call.pass(millis(60_000));
    call.reading(true);
    call.reading(true);
    assert_at(&mut call, millis(500), &refusal_of(Closing::IdleTimeout));
}

#[test]
fn input_during_a_pause_counts_at_most_from_its_end() {
    let mut call = Harness::live();
    call.pass(millis(1000));
    call.reading(false);
    call.pass(millis(10_000));
    call.audio(&[1, 2]);
    call.pass(millis(10_000));
    call.reading(true);
    assert_at(&mut call, millis(1500), &PING);
}

#[test]
fn a_peer_that_does_not_read_is_closed_unless_bytes_are_sent() {
    let mut call = Harness::live();
    call.output(Output::Progressed);
    call.output(Output::Blocked);
    call.pass(millis(1000));
    call.audio(&[1, 2]);
    call.output(Output::Blocked);
    call.pass(millis(499));
    call.output(Output::Progressed);
    call.pass(millis(1000));
    call.audio(&[1, 2]);
    assert_at(&mut call, millis(500), &refusal_of(Closing::AckStalled));
    call.assert_ended(Ending::AckStalled);

    let mut call = Harness::live();
    call.output(Output::Blocked);
    call.pass(millis(1499));
    call.output(Output::Drained);
    call.audio(&[1, 2]);
    assert_eq!(call.pass(millis(1499)), b"");
}

#[test]
fn a_stalled_peer_is_closed_though_we_do_not_read_it() {
    let mut call = Harness::live();
    call.output(Output::Blocked);
    call.reading(false);
    assert_at(&mut call, millis(1500), &refusal_of(Closing::AckStalled));
}

#[test]
fn unread_last_bytes_are_dropped_in_the_end() {
    let mut call = Harness::live();
    call.output(Output::Blocked);
    call.step_without_output(|session, now, context| {
        session.handle_notice(now, Notice::Draining, context)
    });
    let wake = |call: &mut Harness| {
        call.step_without_output(|session, now, context| session.handle_timeout(now, context))
    };
    call.set_time(call.now.moment + (millis(500) - NANO));
    wake(&mut call);
    assert!(!call.session.is_finished() && call.session.is_live());
    call.set_time(call.now.moment + NANO);
    wake(&mut call);
    call.assert_finished();
    assert_eq!(call.transmit(), b"");
}

#[test]
fn expiry_closes_calls_if_it_is_set_to() {
    // The token has a second left, and the leeway after that.
    let mut call = Harness::live_with(|settings| {
        settings.close_on_expiry = true;
        settings.expiry_leeway = millis(250);
    });
    assert_at(&mut call, millis(1250), &refusal_of(Closing::TokenExpired));
    call.assert_ended(Ending::TokenExpired);

    let mut call = Harness::live_with(|settings| settings.expiry_leeway = Duration::ZERO);
    assert_eq!(call.pass(millis(2999)), PING, "a live call is not cut by default");
}

#[test]
fn expiry_comes_before_start_too_and_not_after_stop() {
    let expiring = |settings: &mut IngestSettings| {
        settings.close_on_expiry = true;
        settings.expiry_leeway = Duration::ZERO;
        settings.limits.start_timeout = millis(2000);
    };
    let mut call = Harness::with(expiring);
    assert_at(&mut call, millis(1000), &refusal_of(Closing::TokenExpired));

    let mut call = Harness::live_with(expiring);
    call.promises_at_once = false;
    call.audio(&[1, 2]);
    call.text(STOP);
    assert_eq!(call.pass(millis(1400)), b"");
    assert_eq!(call.promise(1), [stopped(1, 2, 0, "null"), close(1000, "")].concat());
}

#[test]
fn a_timeout_of_nothing_does_not_spin() {
    let mut call = Harness::live_with(|settings| settings.limits.ping_after = Duration::ZERO);
    assert_eq!(call.pass(NANO), PING);
    assert_eq!(call.pass(NANO), PING);
}
