//! A refusal, whatever for, does not take back what came before it: frames that were complete are acked, at every level of
//! promise, before the error event and the Close.
#![forbid(unsafe_code)]

use exo_ingest::proto::close::Closing;
use exo_ingest_harness::wire::{self, BINARY, FIN, PING, TEXT};
use exo_ingest_harness::{INTERACTION, Message, NodeProcess, Peer, TENANT, TestNode, mint, on_both_kernels};
use std::time::Duration;

const BINARY_PATH: &str = env!("CARGO_BIN_EXE_exo-ingest");

/// What is refused in a live call.
fn provocations() -> Vec<(Closing, Vec<u8>)> {
    let other_start = wire::start_text(TENANT, INTERACTION).replace("24000", "8000");
    vec![
        (Closing::InvalidStart, wire::text("{")),
        (Closing::AlreadyStarted, wire::text(&other_start)),
        (Closing::Protocol, wire::unmasked(FIN | BINARY, &[0; 10])),
        (Closing::Protocol, wire::frame(FIN | 0x3, &[])),
        (Closing::NotUtf8, wire::frame(FIN | TEXT, b"\xff")),
        (Closing::TooBig, wire::announce(FIN | BINARY, 256 * 1024 + 1)),
        (Closing::Flood, wire::frame(FIN | PING, b"?").repeat(60)),
    ]
}

/// Everything up to the Close: pongs aside, acks in order from the one behind `acked`, then the refusal. Returns the last ack.
#[track_caller]
fn acks_then_refusal(peer: &mut Peer, closing: Closing) -> u64 {
    let mut acked = 0;
    loop {
        match peer.receive() {
            Message::Pong(_) | Message::Ping(_) => {}
            Message::Text(text) if text.starts_with(r#"{"event":"ack""#) => {
                acked += 10;
                assert_eq!(text, format!(r#"{{"event":"ack","seq":{acked}}}"#));
            }
            Message::Text(text) => {
                assert!(text.contains(&format!(r#""reason":"{}""#, closing.reason())), "{closing:?}: {text}");
                assert_eq!(peer.receive(), Message::Close(Some(closing.code()), closing.reason().to_owned()));
                break;
            }
            Message::Close(code, _) => {
                assert!(code == Some(closing.code()) && !closing.has_event(), "{closing:?}: {code:?}");
                break;
            }
            other => panic!("{closing:?}: {other:?}"),
        }
    }
    peer.expect_end();
    acked
}

#[test]
fn in_one_read_without_a_journal() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        for (closing, bytes) in provocations() {
            let mut peer = node.call();
            peer.send(&[wire::binary(&[0; 320]).repeat(25), bytes].concat());
            assert_eq!(acks_then_refusal(&mut peer, closing), 20, "{closing:?}");
        }
        let node = TestNode::start(features, |setup| setup.limits.max_ahead = Some(Duration::from_secs(5)));
        let mut peer = node.call();
        // 200 ms each; how many fit depends on how long this machine takes to read them.
        peer.send(&wire::binary(&[0; 9600]).repeat(60));
        let acked = acks_then_refusal(&mut peer, Closing::TooFast);
        let frames = node.count(|counters| &counters.frames);
        assert!(frames >= 25 && acked == frames - frames % 10, "{acked} of {frames}");
    });
}

#[test]
fn in_one_read_at_every_level_of_promise() {
    for level in ["durable", "written", "received"] {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(BINARY_PATH, dir.path(), &["--ack", level]);
        for (closing, bytes) in provocations() {
            let mut peer = Peer::connect(node.address());
            peer.upgrade(&mint(TENANT, INTERACTION));
            peer.start(TENANT, INTERACTION);
            peer.send(&[wire::binary(&[0; 320]).repeat(25), bytes].concat());
            assert_eq!(acks_then_refusal(&mut peer, closing), 20, "{level} {closing:?}");
        }
        assert!(node.terminate().success());
    }
}

fn call(node: &NodeProcess, interaction: &str) -> Peer {
    let mut peer = Peer::connect(node.address());
    peer.upgrade(&mint(TENANT, interaction));
    peer.start(TENANT, interaction);
    peer
}

#[test]
fn before_a_call_is_taken_over_and_before_a_node_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(BINARY_PATH, dir.path(), &["--drain", "0s"]);
    let mut old = call(&node, INTERACTION);
    old.send_frames(25, 9600);
    let mut new = call(&node, INTERACTION);
    assert_eq!(acks_then_refusal(&mut old, Closing::Superseded), 20);
    new.send_frames(25, 9600);
    let mut other = call(&node, "other");
    other.send_frames(35, 9600);
    // Each was read before the next one was answered.
    call(&node, "last");
    let ended = std::thread::spawn(move || node.terminate());
    assert_eq!(acks_then_refusal(&mut new, Closing::Draining), 20);
    assert_eq!(acks_then_refusal(&mut other, Closing::Draining), 30);
    assert!(ended.join().expect("it ends").success());
}

/// `stopped` goes when the level's promise holds; up to which frame the call is durable is another number.
#[test]
fn stopped_says_what_is_durable_where_acks_promise_less() {
    for level in ["written", "received"] {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(BINARY_PATH, dir.path(), &["--ack", level]);
        let stopped = |pause: Duration| {
            let mut peer = call(&node, INTERACTION);
            peer.send_frames(20, 320);
            peer.expect_acks(10, 20);
            std::thread::sleep(pause);
            peer.send_frames(3, 320);
            peer.send(&wire::text(r#"{"event":"stop"}"#));
            let Message::Text(text) = peer.receive() else { panic!("no `stopped`") };
            peer.expect_close(1000, "");
            let number = text.split_once(r#""seq":23,"bytes":7360,"duration_ms":153,"durable_seq":"#);
            let number = number.and_then(|(_, number)| number.strip_suffix('}')).unwrap_or_else(|| panic!("{text}"));
            number.parse::<u64>().unwrap_or_else(|_| panic!("{level}: {text}"))
        };
        // Syncs come at least once a second; on a machine that stands still, later.
        let known = (1..10).map(|seconds| stopped(Duration::from_millis(seconds * 300))).find(|known| *known >= 20);
        assert!(known.is_some_and(|known| known <= 23), "{level}: {known:?}");
        assert!(node.terminate().success());
    }
}
