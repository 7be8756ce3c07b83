//! Messages that cost more than their bytes are charged for: frames without audio, fragments,
//! texts.

#![forbid(unsafe_code)]

use super::*;

/// How many frames of `size` bytes a fresh call may send at once, and what it receives after them.
fn frames_at_once(size: usize, fragments: u32) -> (u64, Vec<u8>) {
    let mut call = Harness::live();
    loop {
        let out = call.fragment(MessageKind::Binary, true, true, 0, fragments, &vec![7; size]);
        if call.session.is_finished() {
            call.assert_ended(Ending::TooFast);
            return (call.counters.audio_records.read(), out);
        }
    }
}

#[test]
fn frames_without_audio_are_too_fast_like_any_other() {
    // Two seconds ahead, 2 ms a fragment, 24,000 Hz: 96 bytes are 2 ms.
    for (size, fragments, fits) in
        [(0, 1, 1000), (1, 1, 1000), (96, 1, 1000), (192, 1, 500), (192, 4, 250), (1000, 4, 96)]
    {
        let (records, heard) = frames_at_once(size, fragments);
        assert_eq!(records, fits, "{size} bytes in {fragments} fragments");
        assert_eq!(heard, refusal_of(Closing::TooFast));
    }
}

#[test]
fn a_message_is_charged_for_its_fragments_as_they_come() {
    let mut call = Harness::live_with(|settings| settings.limits.max_ahead = Some(millis(100)));
    for fragment in 1..=50 {
        assert_eq!(
            call.fragment(
                MessageKind::Binary,
                fragment == 1,
                false,
                fragment as usize - 1,
                fragment,
                &[7]
            ),
            b""
        );
    }
    assert_eq!(
        call.fragment(MessageKind::Binary, false, false, 50, 51, &[7]),
        refusal_of(Closing::TooFast)
    );
    assert_eq!(call.counters.audio_records.read(), 50);

    // However the network cuts it.
    let mut call = Harness::live_with(|settings| settings.limits.max_ahead = Some(millis(100)));
    for at in 0..1000 {
        assert_eq!(call.piece(MessageKind::Binary, at == 0, at == 999, at, &[7]), b"");
    }
    assert_eq!(call.counters.frames.read(), 1);
}

#[test]
fn a_call_in_real_time_is_never_too_fast_however_short_its_frames() {
    for (frame_time, size) in [(millis(10), 480), (Duration::from_micros(2667), 128)] {
        let mut call = Harness::live();
        for frame in 0..10_000 {
            call.audio(&vec![7; size]);
            call.pass(frame_time);
            if frame % 1000 == 0 {
                call.sync();
            }
        }
        // Nor after we did not read for longer than the call may be ahead.
        call.reading(false);
        call.pass(millis(2500));
        call.reading(true);
        call.frames((millis(2500).as_nanos() / frame_time.as_nanos()) as usize, size);
        assert!(call.session.is_live(), "{frame_time:?}");
    }
}

#[test]
fn a_flood_of_texts_is_refused_and_normal_texts_are_not() {
    let unknown = r#"{"event":"mark"}"#;
    for (words, is_live) in [(START, true), (unknown, true), (unknown, false)] {
        let fresh = || if is_live { Harness::live_with(generous) } else { Harness::with(generous) };
        // Two seconds' worth of them at once. The first `start` is free.
        let mut call = fresh();
        let heard: Vec<_> = (0..100).map(|_| call.text(words)).collect();
        assert!(
            heard.iter().all(|out| *out == heard[0])
                && call.shared.counters.closes.iter().all(|count| count.read() == 0)
        );
        assert_eq!(call.text(words), close(1008, ""), "{words}");
        call.assert_finished();

        // With every frame of 20 ms, for any length of time.
        let mut call = fresh();
        for _ in 0..400 {
            assert_eq!(call.text(words), heard[0]);
            call.pass(millis(20));
            if is_live {
                call.audio(&[7; 960]);
            }
        }
        assert_eq!(call.session.is_live(), is_live);
    }
}

/// Texts as often as frames of 20 ms.
fn generous(settings: &mut IngestSettings) {
    settings.limits = Limits {
        text_rate: 50,
        text_burst: 100,
        text_size_max: 64 * 1024,
        ..settings.limits.clone()
    };
    settings.limits.start_timeout = Duration::from_secs(60);
}

#[test]
fn a_long_text_counts_for_more() {
    let long = |size: usize| format!(r#"{{"event":"mark","x":"{}"}}"#, "x".repeat(size));
    let mut call = Harness::live_with(generous);
    // Five times 16 are 80, nine times 2 are 18.
    (0..5).for_each(|_| assert_eq!(call.text(&long(64 * 1024 - 30)), b""));
    (0..9).for_each(|_| assert_eq!(call.text(&long(4096)), b""));
    (0..2).for_each(|_| assert_eq!(call.text(&long(0)), b""));
    assert_eq!(call.text(&long(0)), close(1008, ""));
}

#[test]
fn a_refused_peer_is_not_decoded_while_its_close_is_sent() {
    let mut call = Harness::live();
    while !call.session.is_finished() {
        call.control(Control::Ping(b"ping"));
    }
    assert_eq!(
        call.session.summary(RingPosition(0)).map(|summary| summary.close),
        Some(Some(1008))
    );
    assert!(call.session.is_deaf(), "its socket may take a while for the Close");

    // After `stop` it is: texts beyond it are counted.
    let mut call = Harness::live();
    call.text(r#"{"event":"stop"}"#);
    assert!(call.session.is_finished() && !call.session.is_deaf());
}
