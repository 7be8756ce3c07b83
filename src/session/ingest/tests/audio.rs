//! Frames in, promises asked for, acks out.

#![forbid(unsafe_code)]

use super::*;
use crate::journal::frame_ring::CallEnd;

#[test]
fn a_frame_counts_with_its_last_piece() {
    let mut call = Harness::live();
    let head = call.ring.head();
    call.piece(MessageKind::Binary, true, false, 0, b"");
    assert_eq!(call.ring.head(), head, "an empty piece is ignored");
    call.piece(MessageKind::Binary, false, false, 0, b"abc");
    call.piece(MessageKind::Binary, false, false, 3, b"d");
    assert!(call.ring.head() > head);
    assert_eq!((call.counters.frames.read(), call.counters.audio_records.read()), (0, 2));
    call.piece(MessageKind::Binary, false, true, 4, b"");
    assert_eq!((call.counters.frames.read(), call.counters.audio_records.read()), (1, 3));
    call.audio(b"");
    assert_eq!((call.counters.frames.read(), call.counters.audio_records.read()), (2, 4));
    assert_eq!((call.counters.audio_bytes.read(), call.counters.frames_odd.read()), (4, 0));
    assert_eq!(call.text(STOP), [stopped(2, 4, 0, "null"), close(1000, "")].concat());
}

#[test]
fn odd_frames_keep_the_call_and_their_whole_samples() {
    let mut call = Harness::live();
    call.frames(3, 481);
    call.frames(1, 1);
    assert_eq!((call.counters.frames.read(), call.counters.frames_odd.read()), (4, 4));
    assert_eq!(call.text(STOP), [stopped(4, 1440, 30, "null"), close(1000, "")].concat());
}

#[test]
fn strict_pcm_refuses_an_odd_frame_and_keeps_none_of_its_last_piece() {
    let mut call = Harness::live_with(|settings| settings.limits.strict_pcm = true);
    assert_eq!(call.audio(&[1, 2]), b"");
    call.piece(MessageKind::Binary, true, false, 0, &[1]);
    assert_eq!(
        call.piece(MessageKind::Binary, false, true, 1, &[2]),
        b"",
        "odd pieces make an even frame"
    );
    assert_eq!(call.audio(&[1, 2, 3]), refusal_of(Closing::OddLength));
    assert_eq!(call.counters.frames.read(), 2);
    call.assert_ended(Ending::Refused);
}

#[test]
fn every_tenth_frame_asks_once_and_is_acked_when_the_promise_holds() {
    let mut call = Harness::live();
    call.promises_at_once = false;
    assert_eq!(call.frames(35, 2), b"");
    assert_eq!(call.questions, [10, 20, 30]);
    assert_eq!(call.promise(10), ack(10));
    assert_eq!(call.promise(30), [ack(20), ack(30)].concat(), "none skipped, none merged");
    assert_eq!(call.promise(20), b"", "a late answer to an older question has no effect");
    assert_eq!(call.counters.acks.read(), 3);
}

#[test]
fn acks_owed_pass_through_small_buffers_whole() {
    let mut call = Harness::live();
    call.promises_at_once = false;
    call.frames(1000, 0);
    let expected: Vec<u8> = (1..=100).flat_map(|tenth| ack(tenth * 10)).collect();
    call.step_without_output(|session, now, context| {
        session.handle_promise(now, Seq(1000), AckLevel::Received, context);
    });
    let mut all = Vec::new();
    loop {
        let mut out = [0; 256];
        let size = call.session.poll_transmit(call.now, &mut out);
        if size == 0 {
            break;
        }
        let whole = out[..size]
            .chunk_by(|_, next| *next != 0x81)
            .all(|frame| frame.len() == usize::from(frame[1]) + 2);
        assert!(whole, "a send holds whole acks");
        all.extend_from_slice(&out[..size]);
    }
    assert_eq!(all, expected);
}

#[test]
fn audio_may_run_ahead_by_the_limit_and_no_more() {
    // 8,000 Hz: 16,000 bytes a second, two seconds ahead; 62.5 µs a byte.
    let start = START.replace("24000", "8000");
    let mut call = Harness::with(|settings| settings.limits.frame_time_min = Duration::ZERO);
    call.text(&start);
    assert_eq!(call.frames(32, 1000), [ack(10), ack(20), ack(30)].concat());
    call.pass(Duration::from_nanos(124_999));
    let records = call.counters.audio_records.read();
    assert_eq!(
        call.piece(MessageKind::Binary, true, false, 0, &[1, 2]),
        refusal_of(Closing::TooFast)
    );
    assert_eq!(call.counters.audio_records.read(), records, "audio beyond the limit is not stored");
    call.assert_ended(Ending::TooFast);

    let mut call = Harness::with(|settings| settings.limits.frame_time_min = Duration::ZERO);
    call.text(&start);
    call.frames(32, 1000);
    call.pass(Duration::from_nanos(125_000));
    assert_eq!(call.piece(MessageKind::Binary, true, true, 0, &[1, 2]), b"");
}

#[test]
fn time_in_which_we_did_not_read_counts_as_elapsed() {
    let mut call = Harness::new();
    call.text(&START.replace("24000", "8000"));
    call.frames(32, 1000);
    call.reading(false);
    call.pass(millis(1000));
    call.reading(true);
    assert_eq!(call.frames(16, 1000), ack(40));
    assert_eq!(call.audio(&[0, 0]), refusal_of(Closing::TooFast));
}

#[test]
fn max_ahead_may_be_off() {
    let mut call = Harness::live_with(|settings| settings.limits.max_ahead = None);
    call.frames(1000, 1000);
    assert!(call.session.is_live());
}

#[test]
fn the_tenants_counters_follow_by_ack_interval_and_at_the_end() {
    let mut call = Harness::live();
    call.frames(9, 3);
    assert_eq!((call.tenant_use().frames, call.tenant_use().bytes), (0, 0));
    call.frames(2, 3);
    assert_eq!((call.tenant_use().frames, call.tenant_use().bytes), (10, 20));
    call.disconnect(Disconnect::Reset);
    let expected =
        TenantUse { calls_live: 0, calls: 1, frames: 11, bytes: 22, ..TenantUse::default() };
    assert_eq!(call.tenant_use(), expected);
}

#[test]
fn a_full_ring_ends_the_call_without_a_promise() {
    let mut call = Harness::live_with(|settings| settings.limits.max_ahead = None);
    call.promises_at_once = false;
    let out = (0..100_000).find_map(|_| Some(call.audio(&[0; 1000])).filter(|out| !out.is_empty()));
    assert_eq!(out, Some(refusal_of(Closing::Storage)));
    call.assert_ended(Ending::Storage);
    call.assert_finished();

    // The next call on this shard does not even start.
    let claims_identity =
        CallIdentity { tenant: "tenant-abc".into(), interaction: "call-123".into() };
    let claims = Claims {
        identity: claims_identity,
        issued_at: 0,
        expires_at: 0,
        allowed_tenants: Default::default(),
    };
    while call.ring.append_end(&END).is_ok() {}
    let permit = call.tenants.admit("tenant-abc").unwrap();
    call.session = IngestSession::new(call.now, claims, permit, Arc::clone(&call.shared));
    call.actions.clear();
    assert_eq!(call.text(START), refusal_of(Closing::Storage));
    assert!(call.actions.is_empty());
    assert_eq!(call.counters.calls_started.read(), 1);
}

const END: CallEnd = CallEnd {
    call: 0,
    epoch: Epoch { boot: 0, micros: 0, shard: 0 },
    frames: 0,
    bytes: 0,
    ending: 1,
    ended_at: UnixMicros(0),
};
