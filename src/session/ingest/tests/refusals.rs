//! The table "After the upgrade" of `docs/protocol.md`, row by row. `cargo test -- --nocapture
//! after_the_upgrade` prints the answers.

#![forbid(unsafe_code)]

use super::*;

struct Row {
    case: &'static str,
    closing: Closing,
    /// Text of the error event, if it is not the usual message of `closing`.
    message: Option<&'static str>,
    provoke: fn() -> (Harness, Vec<u8>),
}

fn with_text(text: &str) -> (Harness, Vec<u8>) {
    let mut call = Harness::new();
    let out = call.text(text);
    (call, out)
}

fn live(provoke: impl FnOnce(&mut Harness) -> Vec<u8>) -> (Harness, Vec<u8>) {
    let mut call = Harness::live();
    let out = provoke(&mut call);
    (call, out)
}

fn waiting(provoke: impl FnOnce(&mut Harness) -> Vec<u8>) -> (Harness, Vec<u8>) {
    let mut call = Harness::new();
    let out = provoke(&mut call);
    (call, out)
}

const fn row(
    case: &'static str,
    closing: Closing,
    message: Option<&'static str>,
    provoke: fn() -> (Harness, Vec<u8>),
) -> Row {
    Row { case, closing, message, provoke }
}

const INVALID_STARTS: [Row; 10] = [
    row(
        "text that is not JSON",
        Closing::InvalidStart,
        Some("the text is not JSON (line 1, column 1): send one JSON object per text message"),
        || with_text("hello"),
    ),
    row(
        "JSON that is not an object",
        Closing::InvalidStart,
        Some("the text is JSON but no object: send an object with an event member"),
        || with_text("[]"),
    ),
    row("no event", Closing::InvalidStart, Some("event is missing: add it"), || with_text("{}")),
    row(
        "start without interaction_id",
        Closing::InvalidStart,
        Some("interaction_id is missing: add it"),
        || {
            with_text(concat!(
                r#"{"event":"start","tenant_id":"tenant-abc","sample_rate":24000,"#,
                r#""encoding":"pcm16"}"#
            ))
        },
    ),
    row(
        "tenant_id of a wrong type",
        Closing::InvalidStart,
        Some("tenant_id is a number: send a string"),
        || with_text(&START.replace(r#""tenant-abc""#, "7")),
    ),
    row(
        "sample_rate with a fraction",
        Closing::InvalidStart,
        Some(
            "sample_rate is a number with a fraction or exponent: send an integer without quotes \
             or fraction",
        ),
        || with_text(&START.replace("24000", "24000.0")),
    ),
    row(
        "sample_rate outside of the allowed set",
        Closing::InvalidStart,
        Some("sample_rate 44100 is not supported: send one of 8000, 16000, 24000, 48000"),
        || with_text(&START.replace("24000", "44100")),
    ),
    row(
        "another encoding",
        Closing::InvalidStart,
        Some("encoding opus is not supported: send pcm16"),
        || with_text(&START.replace("pcm16", "opus")),
    ),
    row(
        "an empty id",
        Closing::InvalidStart,
        Some("interaction_id has to be 1 to 256 bytes without control characters: send another id"),
        || with_text(&START.replace("call-123", "")),
    ),
    row(
        "a member twice, in a live call",
        Closing::InvalidStart,
        Some("event appears twice: send it once"),
        || live(|call| call.text(r#"{"event":"stop","event":"stop"}"#)),
    ),
];

const OTHERS: [Row; 21] = [
    row("binary before start", Closing::StartRequired, None, || {
        waiting(|call| call.piece(MessageKind::Binary, true, false, 0, &[0]))
    }),
    row(
        "a start as a binary message",
        Closing::StartRequired,
        Some(
            "the call has not started: the start event came as a binary message, send it as a \
             text message",
        ),
        || waiting(|call| call.piece(MessageKind::Binary, true, false, 0, &START.as_bytes()[..9])),
    ),
    row("stop before start", Closing::StartRequired, None, || with_text(STOP)),
    row("a different second start", Closing::AlreadyStarted, None, || {
        live(|call| call.text(&START.replace("24000", "8000")))
    }),
    row("claims and start disagree", Closing::ClaimMismatch, None, || {
        with_text(&START.replace("call-123", "call-124"))
    }),
    row("the same call connects again", Closing::Superseded, None, || {
        live(|call| call.notice(Notice::Superseded))
    }),
    row("no start in time", Closing::StartTimeout, None, || {
        waiting(|call| call.pass(millis(1000)))
    }),
    row("nothing at all in time", Closing::IdleTimeout, None, || {
        let mut call = Harness::live();
        call.pass(millis(1500));
        let out = call.pass(millis(1500));
        (call, out)
    }),
    row("acks are not read", Closing::AckStalled, None, || {
        live(|call| {
            call.output(Output::Blocked);
            call.pass(millis(1000));
            call.audio(&[]);
            call.pass(millis(500))
        })
    }),
    row("audio too far ahead", Closing::TooFast, None, || {
        // At 24,000 Hz, in the third second.
        live(|call| call.frames(97, 1000)[9 * ack(10).len()..].to_vec())
    }),
    row("the journal cannot take more", Closing::Storage, None, || {
        live(|call| call.notice(Notice::Storage))
    }),
    row("the message engine does not answer", Closing::Engine, None, || {
        live(|call| call.notice(Notice::Engine))
    }),
    row("an odd frame under strict_pcm", Closing::OddLength, None, || {
        let mut call = Harness::live_with(|settings| settings.limits.strict_pcm = true);
        let out = call.audio(&[0]);
        (call, out)
    }),
    row("the token runs out, where that closes", Closing::TokenExpired, None, || {
        let mut call = Harness::live_with(|settings| {
            settings.close_on_expiry = true;
            settings.expiry_leeway = Duration::ZERO;
        });
        let out = call.pass(millis(1000));
        (call, out)
    }),
    row("unmasked frame, RSV bit, bad opcode …", Closing::Protocol, None, || {
        live(|call| call.violation(Violation::Protocol("unmasked frame")))
    }),
    row("text that is not UTF-8", Closing::NotUtf8, None, || {
        live(|call| call.piece(MessageKind::Text, true, false, 0, b"\xc0"))
    }),
    row("a close reason that is not UTF-8", Closing::NotUtf8, None, || {
        waiting(|call| call.violation(Violation::NotUtf8))
    }),
    row("message, text or fragments over limit", Closing::TooBig, None, || {
        live(|call| call.violation(Violation::TooBig("message")))
    }),
    row("ping flood", Closing::Flood, None, || {
        live(|call| (0..6).fold(Vec::new(), |_, _| call.control(Control::Ping(b""))))
    }),
    row("drain", Closing::Draining, None, || live(|call| call.notice(Notice::Draining))),
    row("stop", Closing::Normal, None, || {
        live(|call| {
            let out = call.text(STOP);
            let stopped = stopped(0, 0, 0, "null");
            assert_eq!(out[..stopped.len()], stopped);
            out[stopped.len()..].to_vec()
        })
    }),
];

#[test]
fn every_row_after_the_upgrade_gets_its_close() {
    let mut seen = [false; Closing::COUNT];
    println!("{:<40} {:>5}  {:<16} error event", "case", "close", "reason");
    for Row { case, closing, message, provoke } in INVALID_STARTS.into_iter().chain(OTHERS) {
        let (call, out) = provoke();
        let expected = match closing.has_event() {
            true => {
                let message = message.unwrap_or(closing.message());
                refusal(closing.code(), closing.reason(), message, closing.is_retryable())
            }
            false => close(closing.code(), ""),
        };
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "{case}");
        assert_eq!(out, expected, "{case}");
        call.assert_finished();
        assert_eq!(
            call.shared.counters.closes.iter().map(|counter| counter.read()).sum::<u64>(),
            1
        );
        assert_eq!(call.shared.counters.closes[closing.index()].read(), 1, "{case}");
        let refused = u64::from(!matches!(closing.code(), 1000 | 1001));
        assert_eq!(call.counters.sessions_refused.read(), refused, "{case}");
        seen[closing.index()] = true;
        let reason = if closing.reason().is_empty() { "-" } else { closing.reason() };
        let event = if closing.has_event() { closing.event_code().to_string() } else { "-".into() };
        println!("{case:<40} {:>5}  {reason:<16} {event}", closing.code());
    }
    for closing in Closing::ALL {
        assert!(seen[closing.index()], "{closing:?} has no row here");
    }
}
