//! A call that goes well, seen by a client that knows only the quick reference. It gets exactly the
//! messages of that page, byte for byte, wherever its own bytes are cut.

use exo_ingest_harness::wire::{self, BINARY, CONTINUATION, FIN, PING, PONG, TEXT};
use exo_ingest_harness::{INTERACTION, Message, Peer, TENANT, TestNode, mint, on_both_kernels};
use std::time::Duration;

const STOP: &str = r#"{"event":"stop"}"#;

fn stopped(seq: u64, bytes: u64, duration_ms: u64) -> String {
    let numbers =
        format!(r#""seq":{seq},"bytes":{bytes},"duration_ms":{duration_ms},"durable_seq":null,"#);
    format!(r#"{{"event":"stopped","interaction_id":"{INTERACTION}",{numbers}"level":"received"}}"#)
}

/// Sends `stop` and reads the totals of the call.
#[track_caller]
fn stop(peer: &mut Peer, seq: u64, bytes: u64, duration_ms: u64) {
    peer.send(&wire::text(STOP));
    peer.expect_text(&stopped(seq, bytes, duration_ms));
    peer.expect_close(1000, "");
}

#[test]
fn the_quick_reference_byte_for_byte() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.upgrade();
        peer.expect_silence();
        peer.send(&wire::text(&wire::start_text(TENANT, INTERACTION)));
        peer.expect_bytes(b"\x81\x2d{\"event\":\"started\",\"interaction_id\":\"call-1\"}");
        for tens in 1..=3 {
            peer.send_frames(9, 9600);
            peer.expect_silence();
            peer.send_frames(1, 9600);
            peer.expect_bytes(
                &[b"\x81\x18", format!(r#"{{"event":"ack","seq":{tens}0}}"#).as_bytes()].concat(),
            );
        }
    });
}

#[test]
fn each_tenth_frame_is_acked_none_skipped_and_none_merged() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.max_ahead = None);
        let mut peer = node.call();
        peer.send_frames(5009, 320);
        peer.expect_acks(10, 5000);
        peer.expect_silence();
        peer.send_frames(1, 320);
        peer.expect_ack(5010);
        assert_eq!(node.count(|counters| &counters.acks), 501);
        stop(&mut peer, 5010, 5010 * 320, 5010 * 320 / 48);
    });
}

#[test]
fn an_identical_second_start_is_answered_again_and_seq_goes_on() {
    let start = wire::text(&wire::start_text(TENANT, INTERACTION));
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        peer.send_frames(7, 320);
        peer.send(&start);
        peer.expect_started(INTERACTION);
        peer.send_frames(3, 320);
        peer.expect_ack(10);
        peer.send(&start.repeat(3));
        (0..3).for_each(|_| peer.expect_started(INTERACTION));
        peer.send_frames(10, 320);
        peer.expect_ack(20);
        assert_eq!(node.count(|counters| &counters.calls_started), 1);
        stop(&mut peer, 20, 6400, 133);
    });
}

#[test]
fn stop_says_what_was_kept() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        stop(&mut node.call(), 0, 0, 0);
        let mut peer = node.call();
        // 24,000 Hz are 48 bytes each millisecond. Empty frames count, a single last byte does not.
        for size in [47, 0, 1, 2, 0, 3, 96, 46, 9599] {
            peer.send(&wire::binary(&vec![7; size]));
        }
        let kept = 46 + 2 + 2 + 96 + 46 + 9598;
        stop(&mut peer, 9, kept, kept / 48);
        assert_eq!(node.count(|counters| &counters.frames_odd), 4);
        node.await_count(2, |counters| &counters.calls_ended);
    });
}

#[test]
fn what_comes_after_stop_is_ignored_and_counted() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        let frame = wire::binary(&[0; 480]);
        peer.send(
            &[frame.repeat(13), wire::text(STOP), frame.repeat(12), wire::text("not JSON")]
                .concat(),
        );
        peer.expect_ack(10);
        peer.expect_text(&stopped(13, 6240, 130));
        peer.expect_close(1000, "");
        assert_eq!(node.count(|counters| &counters.frames), 13);
        assert_eq!(node.count(|counters| &counters.frames_after_stop), 12);
        assert_eq!(node.count_ingest(|counters| &counters.texts_after_stop), 1);
        // A call without a frame has nothing to wait for. Messages that came with its `stop` are
        // still counted.
        let mut peer = node.call();
        peer.send(&[wire::text(STOP), frame.repeat(5), wire::text("not JSON")].concat());
        peer.expect_text(&stopped(0, 0, 0));
        peer.expect_close(1000, "");
        assert_eq!(node.count(|counters| &counters.frames_after_stop), 17);
        assert_eq!(node.count_ingest(|counters| &counters.texts_after_stop), 2);
    });
}

#[test]
fn a_close_is_answered_with_its_code_after_the_acks_due() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        for code in [1000, 1001, 1011, 3000, 4000, 4999] {
            let mut peer = node.call();
            peer.send(&[wire::binary(&[0; 320]).repeat(25), wire::close(code)].concat());
            peer.expect_acks(10, 20);
            peer.expect_close(code, "");
        }
        let mut peer = node.call();
        peer.send(&wire::frame(FIN | wire::CLOSE, &[]));
        assert_eq!(peer.receive(), Message::Close(None, String::new()));
        peer.expect_end();
        let mut peer = node.upgrade();
        peer.send(&wire::close(1000));
        peer.expect_close(1000, "");
        assert_eq!(node.count(|counters| &counters.sessions_refused), 0);
    });
}

/// The peer ends its side after its last message, without waiting.
#[test]
fn a_half_closed_connection_still_gets_what_is_due() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        peer.send(&[wire::binary(&[0; 320]).repeat(20), wire::close(1000)].concat());
        peer.end();
        peer.expect_acks(10, 20);
        peer.expect_close(1000, "");
        let mut peer = node.call();
        peer.send(&[wire::binary(&[0; 320]).repeat(20), wire::text(STOP)].concat());
        peer.end();
        peer.expect_acks(10, 20);
        peer.expect_text(&stopped(20, 6400, 133));
        peer.expect_close(1000, "");
    });
}

#[test]
fn bytes_may_come_one_by_one() {
    let script = [
        wire::upgrade_request(&mint(TENANT, INTERACTION)).into_bytes(),
        wire::text(&wire::start_text(TENANT, INTERACTION)),
        wire::frame(FIN | PING, b"hello"),
        wire::binary(b"").repeat(3),
        wire::binary(b"ab"),
        [wire::frame(BINARY, b"a"), wire::frame(CONTINUATION, b""), wire::frame(FIN, b"b")]
            .concat(),
        wire::binary(&[0; 130]),
        wire::binary(b"abcdef").repeat(4),
        wire::text(r#"{"event":"later"}"#),
        wire::text(STOP),
    ]
    .concat();
    let answer = |peer: &mut Peer| {
        peer.expect_switching();
        peer.expect_started(INTERACTION);
        assert_eq!(peer.receive(), Message::Pong(b"hello".to_vec()));
        peer.expect_ack(10);
        peer.expect_text(&stopped(10, 2 + 2 + 130 + 24, 3));
        peer.expect_close(1000, "");
    };
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.connect();
        for byte in &script {
            peer.send(std::slice::from_ref(byte));
            // Otherwise the node reads several bytes at once.
            std::thread::sleep(Duration::from_micros(300));
        }
        answer(&mut peer);
        let head_size = script.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        for cut in head_size - 2..script.len() {
            let mut peer = node.connect();
            let (before, after) = script.split_at(cut);
            peer.send(before);
            std::thread::sleep(Duration::from_micros(300));
            peer.send(after);
            answer(&mut peer);
        }
    });
}

#[test]
fn fragments_and_pings_may_be_interleaved() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        let before = node.count(|counters| &counters.controls_received);
        for number in 0..10 {
            peer.send(&wire::frame(BINARY, &[1; 100]));
            peer.send(&wire::frame(FIN | PING, &[number]));
            assert_eq!(peer.receive(), Message::Pong(vec![number]));
            peer.send(&wire::frame(CONTINUATION, &[2; 33]));
            peer.send(&wire::frame(FIN | PONG, b"unasked"));
            peer.send(&wire::frame(FIN | CONTINUATION, &[3; 67]));
        }
        peer.expect_ack(10);
        assert_eq!(node.count(|counters| &counters.controls_received) - before, 20);
        // A text in pieces, cut within a character.
        let text = r#"{"event":"ünknown"}"#.as_bytes();
        peer.send(&[wire::frame(TEXT, &text[..11]), wire::frame(FIN | PING, &[7; 125])].concat());
        assert_eq!(peer.receive(), Message::Pong(vec![7; 125]));
        peer.send(&wire::frame(FIN | CONTINUATION, &text[11..]));
        peer.send_frames(10, 0);
        peer.expect_ack(20);
        assert_eq!(node.count(|counters| &counters.events_unknown), 1);
        stop(&mut peer, 20, 2000, 41);
    });
}

#[test]
fn of_several_pings_at_once_the_latest_is_answered() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.call();
        let pings: Vec<u8> =
            (0..20).flat_map(|number| wire::frame(FIN | PING, &[number])).collect();
        peer.send(&pings);
        let mut last = None;
        while last != Some(19) {
            let Message::Pong(payload) = peer.receive() else { panic!("not a pong") };
            assert!(last < Some(payload[0]), "pongs go back");
            last = Some(payload[0]);
        }
        peer.expect_silence();
    });
}

#[test]
fn messages_as_large_as_they_may_be() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.limits.max_ahead = None);
        let mut peer = node.call();
        let size = 256 * 1024;
        peer.send_frames(9, size);
        // In as many fragments as there may be.
        let part = vec![9; size / 64];
        peer.send(&wire::frame(BINARY, &part));
        peer.send(&wire::frame(CONTINUATION, &part).repeat(62));
        peer.send(&wire::frame(FIN | CONTINUATION, &part));
        peer.expect_ack(10);
        let opening = r#"{"event":"x","padding":""#;
        let text = format!("{opening}{}\"}}", "é".repeat((64 * 1024 - opening.len() - 2) / 2));
        assert_eq!(text.len(), 64 * 1024);
        peer.send(&wire::text(&text));
        stop(&mut peer, 10, 10 * size as u64, 10 * size as u64 / 48);
        assert_eq!(node.count(|counters| &counters.events_unknown), 1);
    });
}

#[test]
fn starts_that_are_valid() {
    let call = |tenant: &str, interaction: &str, text: &str, echoed: &str, node: &TestNode| {
        let mut peer = node.connect();
        peer.upgrade(&mint(tenant, interaction));
        peer.send(&wire::text(text));
        peer.expect_text(&format!(r#"{{"event":"started","interaction_id":"{echoed}"}}"#));
    };
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let text = wire::start_text(TENANT, INTERACTION);
        for rate in ["8000", "16000", "24000", "48000"] {
            call(TENANT, INTERACTION, &text.replace("24000", rate), INTERACTION, &node);
        }
        let longest = "é".repeat(128);
        for id in ["a/b", "Zürich ☎", " ", longest.as_str()] {
            call(id, id, &wire::start_text(id, id), id, &node);
        }
        let quoted = wire::start_text(TENANT, r#"say \"hi\" \\ \u00e9"#);
        call(TENANT, r#"say "hi" \ é"#, &quoted, r#"say \"hi\" \\ é"#, &node);
        let more = text.replace(r#"{"event""#, r#" { "later" : [{"event":1}], "event" "#);
        call(TENANT, INTERACTION, &more, INTERACTION, &node);
    });
}

#[test]
fn extensions_and_subprotocols_are_declined_by_silence() {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n\
        Sec-WebSocket-Protocol: audio\r\nHost: node\r\n";
    let request =
        wire::upgrade_request(&mint(TENANT, INTERACTION)).replacen("Host: node\r\n", offer, 1);
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let mut peer = node.connect();
        peer.send(request.as_bytes());
        peer.expect_switching();
        peer.start(TENANT, INTERACTION);
    });
}
