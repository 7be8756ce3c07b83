//! Every way in which a node closes an upgraded connection by itself, seen from the socket: the
//! error event, if there is one, then the code and the reason of the Close.
//!
//! `cargo test --test protocol refusals_after_upgrade -- --nocapture` prints the tables.
//!
//! 1013 `storage` and `engine` are not here: without a journal nothing can fail to be stored. The
//! session's own tests have both, and `tests/handover` plays `engine` with a real one.

use exo_ingest::limits::Limits;
use exo_ingest::proto::close::Closing;
use exo_ingest::session::ingest::{ClaimMatch, Ending};
use exo_ingest_harness::wire::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT};
use exo_ingest_harness::{
    INTERACTION, Message, Setup, TENANT, TestNode, now_secs, on_both_kernels, sign,
};
use std::time::Duration;

/// What a peer sends, and the Close that it gets. The error event's message must contain `names`.
struct Row {
    case: &'static str,
    /// Sent after `start` and its answer, or instead.
    started: bool,
    bytes: Vec<u8>,
    closing: Closing,
    names: &'static str,
}

fn fresh(case: &'static str, bytes: Vec<u8>, closing: Closing) -> Row {
    Row { case, started: false, bytes, closing, names: "" }
}

fn live(case: &'static str, bytes: Vec<u8>, closing: Closing) -> Row {
    Row { case, started: true, bytes, closing, names: "" }
}

/// The usual `start` with `from` replaced by `to`. The message must contain `names`.
fn start(case: &'static str, from: &str, to: &str, names: &'static str) -> Row {
    let text = wire::start_text(TENANT, INTERACTION);
    assert!(text.contains(from), "{from}");
    Row { names, ..fresh(case, wire::text(&text.replacen(from, to, 1)), Closing::InvalidStart) }
}

/// Plays every row on a connection of its own, prints and checks what comes back.
fn check(node: &TestNode, rows: &[Row]) {
    for Row { case, started, bytes, closing, names } in rows {
        let mut peer = if *started { node.call() } else { node.upgrade() };
        // The node may close before it has read all of it.
        let _ = peer.try_send(bytes);
        println!("  {case:58} {} {}", closing.code(), closing.reason());
        if closing.code() >= 4000 {
            let message =
                peer.expect_refusal(closing.code(), closing.reason(), closing.is_retryable());
            assert!(message.contains(names), "{case}: {message:?} does not name {names}");
        } else {
            peer.expect_close(closing.code(), "");
        }
    }
    node.await_count(rows.len() as u64, |counters| &counters.sessions_refused);
    for closing in Closing::ALL {
        let expected = rows.iter().filter(|row| row.closing == closing).count() as u64;
        assert_eq!(
            node.count_ingest(|counters| &counters.closes[closing.index()]),
            expected,
            "{closing:?}"
        );
    }
    let ended = rows.iter().filter(|row| row.started).count() as u64;
    assert_eq!(node.count(|counters| &counters.calls_ended), ended);
    node.await_no_connections();
    assert_eq!(node.node().calls_live(), 0);
}

#[test]
fn starts_that_are_not_valid() {
    let id = INTERACTION;
    let long = "x".repeat(257);
    let text = |text: &str| wire::text(text);
    let invalid = Closing::InvalidStart;
    let rows = [
        fresh("not JSON", text("hello"), invalid),
        fresh("JSON cut short", text(r#"{"event":"start""#), invalid),
        fresh("two JSON values", text(r#"{"event":"x"}{}"#), invalid),
        fresh("an empty text", text(""), invalid),
        fresh("a list", text("[]"), invalid),
        Row { names: "event", ..fresh("no event", text("{}"), invalid) },
        Row { names: "event", ..fresh("event is a number", text(r#"{"event":1}"#), invalid) },
        start("no interaction_id", &format!(r#""interaction_id":"{id}","#), "", "interaction_id"),
        start("no tenant_id", &format!(r#""tenant_id":"{TENANT}","#), "", "tenant_id"),
        start("no sample_rate", r#""sample_rate":24000,"#, "", "sample_rate"),
        start("no encoding", r#","encoding":"pcm16""#, "", "encoding"),
        start("interaction_id is a number", &format!(r#""{id}""#), "7", "interaction_id"),
        start("tenant_id is null", &format!(r#""{TENANT}""#), "null", "tenant_id"),
        start("sample_rate is a string", "24000", r#""24000""#, "sample_rate"),
        start("sample_rate has a fraction", "24000", "24000.0", "sample_rate"),
        start("sample_rate 44100", "24000", "44100", "sample_rate"),
        start("sample_rate -24000", "24000", "-24000", "sample_rate"),
        start("sample_rate beyond 64 bits", "24000", "99999999999999999999", "sample_rate"),
        start("encoding is a list", r#""pcm16""#, r#"["pcm16"]"#, "encoding"),
        start("encoding opus", "pcm16", "opus", "encoding"),
        start("encoding PCM16", "pcm16", "PCM16", "encoding"),
        start("interaction_id is empty", id, "", "interaction_id"),
        start("interaction_id of 257 bytes", id, &long, "interaction_id"),
        start("tenant_id with a control character", TENANT, r"a\nb", "tenant_id"),
        start(
            "sample_rate twice",
            r#""sample_rate""#,
            r#""sample_rate":8000,"sample_rate""#,
            "sample_rate",
        ),
        Row {
            names: "start",
            ..fresh("audio before start", wire::binary(&[0; 320]), Closing::StartRequired)
        },
        fresh("an empty frame before start", wire::binary(&[]), Closing::StartRequired),
        fresh("stop before start", text(r#"{"event":"stop"}"#), Closing::StartRequired),
        live("not JSON, in a call", text("hello"), invalid),
        Row {
            started: true,
            ..start("a second start that is not valid", "24000", "1", "sample_rate")
        },
        Row {
            started: true,
            closing: Closing::AlreadyStarted,
            ..start("a second start, another rate", "24000", "8000", "")
        },
        Row {
            started: true,
            closing: Closing::AlreadyStarted,
            ..start("a second start, another call", id, "x", "")
        },
        Row {
            closing: Closing::ClaimMismatch,
            ..start("another interaction than the token's", id, "x", "token")
        },
        Row {
            closing: Closing::ClaimMismatch,
            ..start("another tenant than the token's", TENANT, "x", "token")
        },
    ];
    on_both_kernels(|features| check(&TestNode::start(features, |_| {}), &rows));
}

#[test]
fn claims_are_compared_as_configured() {
    let mismatch =
        |case, from| Row { closing: Closing::ClaimMismatch, ..start(case, from, "x", "") };
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.ingest.claim_match = ClaimMatch::Tenant);
        check(&node, &[mismatch("claim_match tenant: another tenant", TENANT)]);
        node.upgrade().start(TENANT, "another");
        let node = TestNode::start(features, |setup| setup.ingest.claim_match = ClaimMatch::Off);
        node.upgrade().start("another", "another");
    });
}

#[test]
fn frames_that_break_rfc_6455() {
    let protocol = Closing::Protocol;
    let mut rows = Vec::new();
    for started in [false, true] {
        let row = |case, bytes| Row { started, ..fresh(case, bytes, protocol) };
        rows.extend([
            row("unmasked text", wire::unmasked(FIN | TEXT, b"{}")),
            row("unmasked audio", wire::unmasked(FIN | BINARY, &[0; 320])),
            row("unmasked ping", wire::unmasked(FIN | PING, b"")),
            row("unmasked Close", wire::unmasked(FIN | CLOSE, &1000u16.to_be_bytes())),
            row("RSV1 (deflate was declined)", wire::frame(FIN | 0x40 | BINARY, &[0; 320])),
            row("RSV2", wire::frame(FIN | 0x20 | BINARY, b"")),
            row("RSV3", wire::frame(FIN | 0x10 | TEXT, b"")),
            row("RSV1 on a ping", wire::frame(FIN | 0x40 | PING, b"")),
            row("opcode 3", wire::frame(FIN | 0x3, b"")),
            row("opcode 7", wire::frame(FIN | 0x7, b"")),
            row("opcode 11", wire::frame(FIN | 0xb, b"")),
            row("opcode 15", wire::frame(FIN | 0xf, b"")),
            row("ping in fragments", wire::frame(PING, b"")),
            row("ping of 126 bytes", wire::frame(FIN | PING, &[0; 126])),
            row("continuation of nothing", wire::frame(FIN | CONTINUATION, b"")),
            row("a message within a message", [wire::frame(TEXT, b"{"), wire::text("{}")].concat()),
            row("length not in its shortest form", vec![FIN | BINARY, 0x80 | 126, 0, 5]),
            row("length over 63 bits", [&[FIN | BINARY, 0x80 | 127, 0x80][..], &[0; 7]].concat()),
            row("Close of one byte", wire::frame(FIN | CLOSE, &[3])),
        ]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        rows.push(live("Close with a code that may not be sent", wire::close(code), protocol));
    }
    let head = [0x03, 0xe8, 0xff];
    rows.push(live(
        "Close with a reason that is not UTF-8",
        wire::frame(FIN | CLOSE, &head),
        Closing::NotUtf8,
    ));
    on_both_kernels(|features| check(&TestNode::start(features, |_| {}), &rows));
}

#[test]
fn texts_that_are_not_utf8_fail_at_the_first_bad_byte() {
    // Announced, but not sent as a whole: the answer does not wait for the rest.
    let cut = |payload: &[u8]| {
        let mut bytes = wire::announce(FIN | TEXT, 1000);
        bytes.extend_from_slice(&wire::frame(FIN | TEXT, payload)[6..]);
        bytes
    };
    let rows = [
        fresh("a bad byte", wire::frame(FIN | TEXT, b"{\"event\":\"\xff\"}"), Closing::NotUtf8),
        live("a bad byte, in a call", wire::frame(FIN | TEXT, b"\xc3\x28"), Closing::NotUtf8),
        live("a surrogate", wire::frame(FIN | TEXT, b"\xed\xa0\x80"), Closing::NotUtf8),
        live("an overlong slash", wire::frame(FIN | TEXT, b"\xc0\xaf"), Closing::NotUtf8),
        live("cut within a character", wire::frame(FIN | TEXT, b"{\xe2\x82"), Closing::NotUtf8),
        live("a bad byte, the rest never sent", cut(b"{\"a\":\"\xff"), Closing::NotUtf8),
        live("a bad byte in a first fragment", wire::frame(TEXT, b"\x80"), Closing::NotUtf8),
    ];
    on_both_kernels(|features| check(&TestNode::start(features, |_| {}), &rows));
}

/// Limits for the tests of sizes below.
fn shrink(limits: &mut Limits) {
    limits.message_size_max = 2000;
    limits.text_size_max = 500;
    limits.fragments_max = 4;
    limits.control_burst = 5;
}

#[test]
fn messages_over_their_limits() {
    let fragments = |first: u8, count: usize| {
        let mut bytes = wire::frame(first, b"");
        bytes.extend(wire::frame(CONTINUATION, b"").repeat(count - 1));
        bytes
    };
    let too_big = Closing::TooBig;
    let rows = [
        live("audio of one byte too many", wire::binary(&[0; 2001]), too_big),
        live(
            "audio of one byte too many, announced only",
            wire::announce(FIN | BINARY, 2001),
            too_big,
        ),
        live(
            "audio of 2^63 - 1 bytes, announced only",
            wire::announce(FIN | BINARY, usize::MAX / 2),
            too_big,
        ),
        live(
            "the fragment that is too much",
            [wire::frame(BINARY, &[0; 2000]), wire::announce(0, 1)].concat(),
            too_big,
        ),
        live("text of one byte too many", wire::text(&"a".repeat(501)), too_big),
        fresh("text of one byte too many, before start", wire::text(&"a".repeat(501)), too_big),
        live("five fragments, four may be", fragments(BINARY, 5), too_big),
        live("five fragments of text", fragments(TEXT, 5), too_big),
        live("pings, one too many", wire::frame(FIN | PING, b"").repeat(50), Closing::Flood),
        live("pongs, one too many", wire::frame(FIN | PONG, b"").repeat(50), Closing::Flood),
    ];
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| shrink(&mut setup.limits));
        let (sizes, floods) = rows.split_at(8);
        check(&node, sizes);
        for Row { case, bytes, closing, .. } in floods {
            let mut peer = node.call();
            peer.send(bytes);
            println!("  {case:58} {} {}", closing.code(), closing.reason());
            let close = std::iter::repeat_with(|| peer.receive())
                .find(|message| !matches!(message, Message::Pong(_)));
            let expected = Message::Close(Some(closing.code()), String::new());
            assert_eq!(close, Some(expected), "{case}");
            peer.expect_end();
        }
    });
}

#[test]
fn audio_that_does_not_fit_the_call() {
    let second = wire::binary(&vec![0; 48_000]);
    let rows = [
        live("audio of 3 s at once, 2 s ahead may be", second.repeat(3), Closing::TooFast),
        live("one frame of 3 s", wire::binary(&vec![0; 144_000]), Closing::TooFast),
    ];
    let odd = [Row {
        names: "odd",
        ..live("odd length, strict_pcm", wire::binary(&[0; 3]), Closing::OddLength)
    }];
    on_both_kernels(|features| {
        let ahead = |setup: &mut Setup| setup.limits.max_ahead = Some(Duration::from_secs(2));
        check(&TestNode::start(features, ahead), &rows);
        check(&TestNode::start(features, |setup| setup.limits.strict_pcm = true), &odd);
        let node = TestNode::start(features, |setup| setup.limits.max_ahead = None);
        let mut peer = node.call();
        peer.send(&second.repeat(40));
        peer.expect_acks(10, 40);
    });
}

#[test]
fn refusals_by_timers_by_other_connections_and_by_a_drain() {
    on_both_kernels(|features| {
        let refused = |case: &str, closing: Closing, node: &TestNode, ending: Option<Ending>| {
            println!("  {case:58} {} {}", closing.code(), closing.reason());
            assert_eq!(node.count_ingest(|counters| &counters.closes[closing.index()]), 1);
            if let Some(ending) = ending {
                assert_eq!(node.count_ingest(|counters| &counters.endings[ending.index()]), 1);
            }
        };
        let node = TestNode::start(features, |setup| {
            setup.limits.start_timeout = Duration::from_millis(200)
        });
        node.upgrade().expect_refusal(4408, "start_timeout", true);
        refused("no start in time", Closing::StartTimeout, &node, None);

        let node = TestNode::start(features, |setup| {
            setup.limits.ping_after = Duration::from_secs(600);
            setup.limits.idle_timeout = Duration::from_secs(1);
        });
        node.call().expect_refusal(4408, "idle_timeout", true);
        refused("nothing at all", Closing::IdleTimeout, &node, Some(Ending::IdleTimeout));

        let node = TestNode::start(features, |_| {});
        let mut old = node.call();
        let _new = node.call();
        old.expect_refusal(4409, "superseded", false);
        refused(
            "the same call connects again",
            Closing::Superseded,
            &node,
            Some(Ending::Superseded),
        );

        let node = TestNode::start(features, |setup| {
            setup.ingest.close_on_expiry = true;
            setup.ingest.expiry_leeway = Duration::ZERO;
        });
        let now = now_secs();
        let claims = format!(
            r#"{{"tenant_id":"acme","interaction_id":"call-1","iat":{now},"exp":{}}}"#,
            now + 2
        );
        let mut peer = node.connect();
        peer.upgrade(&sign(r#"{"alg":"RS256"}"#, &claims));
        peer.start(TENANT, INTERACTION);
        peer.expect_refusal(4401, "token_expired", false);
        refused(
            "the token runs out, on_expiry close",
            Closing::TokenExpired,
            &node,
            Some(Ending::TokenExpired),
        );

        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        node.node().drain(Duration::ZERO);
        peer.expect_refusal(1001, "draining", true);
        refused("drain", Closing::Draining, &node, Some(Ending::Drained));
    });
}
