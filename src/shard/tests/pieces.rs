//! Conversations come out the same however their bytes are cut.

#![forbid(unsafe_code)]

use super::*;

/// A message in fragments: the first with its opcode, the others as continuations.
fn fragments(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let mut fragment = masked(if index == 0 { opcode } else { 0 }, part);
        fragment[0] &= if index + 1 == parts.len() { 0xff } else { 0x7f };
        bytes.extend(fragment);
    }
    bytes
}

/// Conversations by name: what a peer says.
pub(super) fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let opened = || [head("a"), start("a")].concat();
    let after = |rest: &[u8]| [opened(), rest.to_vec()].concat();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").into_bytes();
    let unmasked = vec![0x82, 0x01, 0x00];
    let bad_utf8 = masked(0x1, &[0xff]);
    let parts: [&[u8]; 3] = [&[1; 300], &[2; 1], &[3; 299]];
    vec![
        ("health", get("/health")),
        ("nowhere", get("/nowhere")),
        ("no upgrade", get("/v1/ingest")),
        ("not http", b"\x16\x03\x01\r\n\r\n".to_vec()),
        ("two requests", [get("/health"), get("/health")].concat()),
        ("bad token", [head_with_token("a.b.c"), start("a")].concat()),
        ("a whole call", after(&[frames(25, 960), text(STOP)].concat())),
        (
            "frames of every size",
            after(&[(0..130).flat_map(audio).collect(), close(1000)].concat()),
        ),
        ("closed by the peer", after(&[frames(10, 10), close(1001)].concat())),
        ("a close without a code", after(&masked(0x8, b""))),
        ("pings", after(&[masked(0x9, b"one"), frames(10, 2), masked(0xa, b"")].concat())),
        (
            "fragments",
            after(&[fragments(0x2, &parts).repeat(10), fragments(0x1, &[b"{}", b" "])].concat()),
        ),
        ("a ping between fragments", {
            let mut cut = fragments(0x2, &parts);
            cut.splice(308..308, masked(0x9, b"between"));
            after(&[cut, frames(9, 4)].concat())
        }),
        ("start twice", after(&start("a"))),
        ("unknown event", after(&[text(r#"{"event":"mark"}"#), frames(10, 1)].concat())),
        ("audio first", [head("a"), audio(10)].concat()),
        ("another call", [head("a"), start("b")].concat()),
        ("a bad start", [head("a"), text("nonsense")].concat()),
        ("another start", after(&start("b"))),
        ("unmasked", after(&unmasked)),
        ("not utf-8", after(&bad_utf8)),
        ("too big", after(&audio(1025))),
        ("too many fragments", after(&fragments(0x2, &[b"a", b"b", b"c", b"d", b"e"]))),
        ("a continuation of nothing", after(&fragments(0x0, &[b"a", b"b"]))),
        ("a flood of pings", after(&masked(0x9, b"").repeat(6))),
        ("too fast", after(&frames(52, 1000))),
        ("audio after stop", after(&[text(STOP), frames(10, 10)].concat())),
        ("cut mid-frame", after(&audio(500)[..300])),
    ]
}

/// What a conversation comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    pub(crate) heard: Vec<u8>,
    pub(crate) counted: [u64; 7],
}

pub(super) fn play(bytes: &[u8], receive_size_max: usize, finish: bool) -> Outcome {
    let mut rig = Rig::with(|limits| {
        limits.completions_per_turn = 100_000;
        limits.max_ahead = Some(Duration::from_secs(1));
    });
    rig.world.set_receive_size_max(receive_size_max);
    let socket = rig.connect();
    rig.send(socket, bytes);
    if finish {
        rig.world.peer_finishes(socket);
    }
    rig.quiet();
    let outcome = said_and_counted(rig.world.peer_reads(socket), &rig);
    rig.end();
    outcome
}

/// What was heard, with what a shard has counted.
pub(super) fn said_and_counted(heard: Vec<u8>, rig: &Rig) -> Outcome {
    let counters = &rig.counters;
    let counted = [
        counters.frames.read(),
        counters.audio_bytes.read(),
        counters.calls_started.read(),
        counters.calls_ended.read(),
        counters.sessions_refused.read(),
        counters.requests_refused.read(),
        counters.controls_received.read(),
    ];
    Outcome { heard, counted }
}

#[test]
fn one_byte_at_a_time_comes_out_as_in_one_piece() {
    for (name, bytes) in conversations() {
        let whole = play(&bytes, usize::MAX, false);
        assert!(name == "cut mid-frame" || !whole.heard.is_empty());
        for size in [1, 2, 3, 7, 64, 1000] {
            let cut = play(&bytes, size, false);
            assert_eq!(said(&cut.heard), said(&whole.heard), "{name}, by {size}");
            assert_eq!(cut, whole, "{name}, by {size}");
        }
    }
}

#[test]
fn with_a_fin_after_it_too() {
    for (name, bytes) in conversations() {
        let counted = play(&bytes, usize::MAX, true).counted;
        for size in [1, 333] {
            assert_eq!(play(&bytes, size, true).counted, counted, "{name}, by {size}");
        }
    }
}

#[test]
fn the_conversations_are_what_their_names_say() {
    let heard = |name: &str| {
        let (_, bytes) =
            conversations().into_iter().find(|(other, _)| *other == name).expect("there is one");
        said(&play(&bytes, usize::MAX, false).heard)
    };
    assert_eq!(heard("health"), ["200"]);
    assert_eq!(heard("nowhere"), ["404"]);
    assert_eq!(heard("no upgrade"), ["426"]);
    assert_eq!(heard("not http"), ["400"]);
    assert_eq!(heard("bad token"), ["401"]);
    assert_eq!(
        heard("a whole call"),
        ["101", "started", "ack 10", "ack 20", "stopped 25", "close 1000"]
    );
    assert_eq!(heard("closed by the peer"), ["101", "started", "ack 10", "close 1001"]);
    assert_eq!(heard("a close without a code"), ["101", "started", "close"]);
    assert_eq!(heard("fragments").last().unwrap(), "close 4400", "an object without an event");
    assert_eq!(heard("a ping between fragments"), ["101", "started", "pong between", "ack 10"]);
    assert_eq!(heard("start twice"), ["101", "started", "started"]);
    for (name, code) in [
        ("audio first", 4400),
        ("another call", 4403),
        ("a bad start", 4400),
        ("another start", 4400),
        ("unmasked", 1002),
        ("not utf-8", 1007),
        ("too big", 1009),
        ("too many fragments", 1009),
        ("a continuation of nothing", 1002),
        ("a flood of pings", 1008),
        ("too fast", 4429),
    ] {
        assert_eq!(heard(name).last().unwrap(), &format!("close {code}"), "{name}");
    }
}
