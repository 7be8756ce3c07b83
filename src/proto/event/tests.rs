#![forbid(unsafe_code)]

use super::*;

const RATES: &[u32] = &[8_000, 24_000];

fn start_with(rest: &str) -> String {
    format!(r#"{{"event":"start","interaction_id":"call-123","tenant_id":"tenant-abc",{rest}}}"#)
}

fn parsed(text: &str) -> Result<PeerEvent<'_>, EventError> {
    parse(text, RATES)
}

/// The sentence a peer gets for `text`.
fn complaint(text: &str) -> String {
    parsed(text).expect_err(text).to_string()
}

#[test]
fn the_start_of_the_quick_reference_is_read_without_a_copy() {
    let text = "{\n  \"event\": \"start\",\n  \"interaction_id\": \"call-123\",\n  \
                \"tenant_id\": \"tenant-abc\",\n  \
                \"sample_rate\": 24000,\n  \"encoding\": \"pcm16\"\n}";
    let Ok(PeerEvent::Start(start)) = parsed(text) else { panic!("{:?}", parsed(text)) };
    assert_eq!(
        (&*start.interaction_id, &*start.tenant_id, start.sample_rate),
        ("call-123", "tenant-abc", 24_000)
    );
    assert!(matches!(start.interaction_id, Cow::Borrowed(_)));
    assert!(matches!(start.tenant_id, Cow::Borrowed(_)));
}

#[test]
fn member_order_escapes_and_unknown_members_do_not_matter() {
    let text = r#" {"x":[{"event":1}],"encoding":"pcm\u0031\u0036","sample_rate":8000,
        "tenant_id":"\u00e9\"",
        "ev\u0065nt":"st\u0061rt","interaction_id":"a/b","x":null} "#;
    let Ok(PeerEvent::Start(start)) = parsed(text) else { panic!("{:?}", parsed(text)) };
    assert_eq!(
        (&*start.interaction_id, &*start.tenant_id, start.sample_rate),
        ("a/b", "é\"", 8_000)
    );
}

#[test]
fn stop_and_unknown_events_need_no_other_member() {
    assert_eq!(parsed(r#"{"event":"stop"}"#), Ok(PeerEvent::Stop));
    assert_eq!(parsed(r#"{"event":"stop","sample_rate":"?","why":{}}"#), Ok(PeerEvent::Stop));
    assert_eq!(parsed(r#"{"event":"mark"}"#), Ok(PeerEvent::Unknown));
    assert_eq!(parsed(r#"{"event":"","tenant_id":1,"tenant_id":2}"#), Ok(PeerEvent::Unknown));
}

#[test]
fn every_missing_or_mistyped_member_is_named() {
    let good = [
        ("event", r#""start""#),
        ("interaction_id", r#""i""#),
        ("tenant_id", r#""t""#),
        ("sample_rate", "24000"),
        ("encoding", r#""pcm16""#),
    ];
    let object = |changed: usize, value: Option<&str>| {
        let members = good.iter().enumerate().filter_map(|(index, (name, own))| {
            let value = if index == changed { value? } else { own };
            Some(format!("\"{name}\":{value}"))
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    };
    for (index, (name, _)) in good.iter().enumerate() {
        assert_eq!(complaint(&object(index, None)), format!("{name} is missing: add it"));
        let wrong = [
            ("null", "null"),
            ("true", "a boolean"),
            ("[1,[2]]", "a list"),
            (r#"{"a":{"b":1}}"#, "an object"),
        ];
        for (value, found) in wrong {
            assert!(
                complaint(&object(index, Some(value)))
                    .starts_with(&format!("{name} is {found}: send "))
            );
        }
    }
    for (index, name) in [(0, "event"), (1, "interaction_id"), (2, "tenant_id"), (4, "encoding")] {
        assert_eq!(
            complaint(&object(index, Some("7"))),
            format!("{name} is a number: send a string")
        );
    }
    for (value, found) in
        [(r#""24000""#, "a string"), ("24000.0", "a number with"), ("24e3", "a number with")]
    {
        assert!(
            complaint(&object(3, Some(value))).starts_with(&format!("sample_rate is {found}")),
            "{value}"
        );
    }
}

#[test]
fn unacceptable_values_are_named() {
    for rate in ["44100", "0", "-24000", "16000", "18446744073709551615"] {
        let text = start_with(&format!(r#""sample_rate":{rate},"encoding":"pcm16""#));
        assert!(matches!(parsed(&text), Err(EventError::BadRate { .. })), "{rate}");
    }
    let text = start_with(r#""sample_rate":44100,"encoding":"pcm16""#);
    assert_eq!(complaint(&text), "sample_rate 44100 is not supported: send one of 8000, 24000");
    let text = start_with(r#""sample_rate":24000,"encoding":"PCM16""#);
    assert_eq!(complaint(&text), "encoding PCM16 is not supported: send pcm16");
    let long = "é".repeat(200);
    let text = start_with(&format!(r#""sample_rate":24000,"encoding":"{long}""#));
    assert_eq!(
        complaint(&text),
        format!("encoding {} is not supported: send pcm16", "é".repeat(32))
    );
}

#[test]
fn invalid_ids_are_refused() {
    for (id, good) in [
        ("", false),
        (r"a\u0000b", false),
        (r"\u007f", false),
        (r"\u0085", false),
        ("日本/1", true),
    ] {
        for member in ["interaction_id", "tenant_id"] {
            let other = if member == "tenant_id" { "interaction_id" } else { "tenant_id" };
            let text = format!(
                r#"{{"event":"start","{member}":"{id}","{other}":"x","sample_rate":8000,
                    "encoding":"pcm16"}}"#
            );
            match parsed(&text) {
                Ok(event) => assert!(good && matches!(event, PeerEvent::Start(_)), "{text}"),
                Err(error) => {
                    assert!(!good && error.to_string().starts_with(member), "{text}: {error}")
                }
            }
        }
    }
}

#[test]
fn a_member_that_comes_twice_is_refused() {
    assert_eq!(
        complaint(r#"{"event":"stop","event":"stop"}"#),
        "event appears twice: send it once"
    );
    for member in ["interaction_id", "tenant_id", "sample_rate", "encoding"] {
        let text = start_with(r#""sample_rate":24000,"encoding":"pcm16","#);
        let value = if member == "sample_rate" { "24000" } else { r#""call-123""# };
        let thrice =
            format!("{}\"{member}\":{value},\"{member}\":{value}}}", &text[..text.len() - 1]);
        assert_eq!(complaint(&thrice), format!("{member} appears twice: send it once"));
    }
}

#[test]
fn texts_other_than_a_json_object_are_refused() {
    for text in
        ["", " ", "{", "{\"event\":\"stop\"", "{'event':'stop'}", "{\"event\":\"stop\"} x", "NaN"]
    {
        assert!(matches!(parsed(text), Err(EventError::NotJson { .. })), "{text:?}");
    }
    for text in [
        "{\"event\":\"a\tb\"}",
        r#"{"event":"\ud800"}"#,
        r#"{"event":1e999}"#,
        r#"{"event":"stop",}"#,
    ] {
        assert!(matches!(parsed(text), Err(EventError::NotJson { .. })), "{text:?}");
    }
    for text in [
        "[]",
        "[{\"event\":\"stop\"}]",
        "null",
        "true",
        "3",
        "-3",
        "1.5",
        "\"stop\"",
        r#""st\u006fp""#,
    ] {
        assert_eq!(parsed(text), Err(EventError::NotObject), "{text:?}");
    }
    assert_eq!(complaint("{}"), "event is missing: add it");
    assert_eq!(
        complaint("{\n\"event\" 1}"),
        "the text is not JSON (line 2, column 9): send one JSON object per text message"
    );
}

/// 64 KiB of opening brackets, anywhere in the text, are read without recursion.
#[test]
fn deep_nesting_costs_no_stack() {
    let deep = 30_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let bomb = open.repeat(deep);
        let closed = format!("{bomb}1{}", close.repeat(deep));
        for text in [bomb.clone(), format!("{{\"event\":{bomb}"), format!("{{\"x\":{bomb}")] {
            assert!(matches!(parsed(&text), Err(EventError::NotJson { .. })));
        }
        assert!(matches!(
            parsed(&format!("{{\"event\":\"stop\",\"x\":{closed}}}")),
            Ok(PeerEvent::Stop)
        ));
        let error = parsed(&format!("{{\"event\":{closed}}}")).unwrap_err();
        assert!(matches!(error, EventError::Mistyped { member: Member::Event, .. }), "{error:?}");
    }
}

#[test]
fn what_we_write_is_exactly_the_documented_text() {
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written(&|out| push_started("unique-call-id", out)),
        r#"{"event":"started","interaction_id":"unique-call-id"}"#
    );
    assert_eq!(
        written(&|out| push_started("a\"\\/é", out)),
        r#"{"event":"started","interaction_id":"a\"\\/é"}"#
    );
    let stopped = Stopped {
        interaction_id: "c",
        seq: 12,
        bytes: 115_200,
        duration_ms: 2_400,
        durable_seq: None,
        level: "received",
    };
    assert_eq!(
        written(&|out| push_stopped(&stopped, out)),
        concat!(
            r#"{"event":"stopped","interaction_id":"c","seq":12,"bytes":115200,"#,
            r#""duration_ms":2400,"durable_seq":null,"level":"received"}"#
        )
    );
    assert_eq!(
        written(&|out| push_stopped(
            &Stopped { durable_seq: Some(12), level: "replicated", ..stopped },
            out
        )),
        concat!(
            r#"{"event":"stopped","interaction_id":"c","seq":12,"bytes":115200,"#,
            r#""duration_ms":2400,"durable_seq":12,"level":"replicated"}"#
        )
    );
    assert_eq!(
        written(&|out| push_error(400, "invalid_start", "say \"x\"", false, out)),
        concat!(
            r#"{"event":"error","code":400,"reason":"invalid_start","message":"say \"x\"","#,
            r#""retryable":false}"#
        )
    );
}

#[test]
fn acks_fit_with_any_number() {
    for seq in [0, 10, 990, u64::MAX] {
        let mut out = [0; ACK_TEXT_SIZE_MAX];
        let size = write_ack(seq, &mut out);
        assert_eq!(
            std::str::from_utf8(&out[..size]).unwrap(),
            format!("{{\"event\":\"ack\",\"seq\":{seq}}}")
        );
    }
}

#[test]
fn a_byte_order_mark_before_an_event_is_ignored() {
    let text = r#"{"event":"stop"}"#;
    assert_eq!(parse(&format!("\u{feff}{text}"), &[]), Ok(PeerEvent::Stop));
    for text in [format!("\u{feff}\u{feff}{text}"), format!("{text}\u{feff}"), "\u{feff}".into()] {
        assert!(matches!(parse(&text, &[]), Err(EventError::NotJson { .. })), "{text:?}");
    }
}

#[test]
fn the_start_of_an_event_is_recognised_in_bytes() {
    for opening in ["{", "{\"", "{\"event\"", "  {", "\u{feff}{ \r\n \"event", "{\t"] {
        assert!(looks_like_event(opening.as_bytes()), "{opening:?}");
    }
    for opening in
        [&b""[..], b" ", b"\xef\xbb\xbf", b"{}", b"{\0", b"[{", b"\0{\"", b"\x7b\x01\x22"]
    {
        assert!(!looks_like_event(opening), "{opening:?}");
    }
}
