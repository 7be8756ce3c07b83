//! A refusal does not take back what came before it. Complete frames are acked before the error
//! event and the Close, at every ACK level.

use crate::EXO_INGEST;
use exo_ingest::proto::close::Closing;
use exo_ingest_harness::wire::{self, BINARY, FIN, PING, TEXT};
use exo_ingest_harness::{
    INTERACTION, Message, NodeProcess, Peer, TENANT, TestNode, on_both_kernels,
};
use std::time::Duration;

/// Messages that a live call must not send.
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

/// Reads up to the Close: acks in order, pongs between them, then the refusal. Returns the last
/// ack.
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
                assert!(
                    text.contains(&format!(r#""reason":"{}""#, closing.reason())),
                    "{closing:?}: {text}"
                );
                assert_eq!(
                    peer.receive(),
                    Message::Close(Some(closing.code()), closing.reason().to_owned())
                );
                break;
            }
            Message::Close(code, _) => {
                assert!(
                    code == Some(closing.code()) && !closing.has_event(),
                    "{closing:?}: {code:?}"
                );
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
        let node = TestNode::start(features, |setup| {
            setup.limits.max_ahead = Some(Duration::from_secs(5))
        });
        let mut peer = node.call();
        // 200 ms each. How many fit depends on how long this machine takes to read them.
        peer.send(&wire::binary(&[0; 9600]).repeat(60));
        let acked = acks_then_refusal(&mut peer, Closing::TooFast);
        let frames = node.count(|counters| &counters.frames);
        assert!(frames >= 25 && acked == frames - frames % 10, "{acked} of {frames}");
    });
}

#[test]
fn in_one_read_at_every_ack_level() {
    for level in ["durable", "written", "received"] {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(EXO_INGEST, dir.path(), &["--ack", level]);
        for (closing, bytes) in provocations() {
            let mut peer = node.call_as(TENANT, INTERACTION);
            peer.send(&[wire::binary(&[0; 320]).repeat(25), bytes].concat());
            assert_eq!(acks_then_refusal(&mut peer, closing), 20, "{level} {closing:?}");
        }
        assert!(node.terminate().success());
    }
}

#[test]
fn before_a_call_is_taken_over_and_before_a_node_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(EXO_INGEST, dir.path(), &["--drain", "0s"]);
    let mut old = node.call_as(TENANT, INTERACTION);
    old.send_frames(25, 9600);
    let mut new = node.call_as(TENANT, INTERACTION);
    assert_eq!(acks_then_refusal(&mut old, Closing::Superseded), 20);
    new.send_frames(25, 9600);
    let mut other = node.call_as(TENANT, "other");
    other.send_frames(35, 9600);
    // By now the node has read all frames before.
    node.call_as(TENANT, "last");
    let ended = std::thread::spawn(move || node.terminate());
    assert_eq!(acks_then_refusal(&mut new, Closing::Draining), 20);
    assert_eq!(acks_then_refusal(&mut other, Closing::Draining), 30);
    assert!(ended.join().expect("it ends").success());
}

/// The node sends `stopped` when the promise of its ACK level holds. The last durable frame may be
/// an earlier one.
#[test]
fn stopped_says_what_is_durable_where_acks_promise_less() {
    for level in ["written", "received"] {
        let dir = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(EXO_INGEST, dir.path(), &["--ack", level]);
        let stopped = |pause: Duration| {
            let mut peer = node.call_as(TENANT, INTERACTION);
            peer.send_frames(20, 320);
            peer.expect_acks(10, 20);
            std::thread::sleep(pause);
            peer.send_frames(3, 320);
            peer.send(&wire::text(r#"{"event":"stop"}"#));
            let Message::Text(text) = peer.receive() else { panic!("no `stopped`") };
            peer.expect_close(1000, "");
            let number =
                text.split_once(r#""seq":23,"bytes":7360,"duration_ms":153,"durable_seq":"#);
            let number = number
                .and_then(|(_, number)| number.split_once(','))
                .map(|(number, _)| number)
                .unwrap_or_else(|| panic!("{text}"));
            number.parse::<u64>().unwrap_or_else(|_| panic!("{level}: {text}"))
        };
        // A sync happens at least once a second, or later if the machine stands still.
        let known = (1..10)
            .map(|seconds| stopped(Duration::from_millis(seconds * 300)))
            .find(|known| *known >= 20);
        assert!(known.is_some_and(|known| known <= 23), "{level}: {known:?}");
        assert!(node.terminate().success());
    }
}
