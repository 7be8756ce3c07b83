//! Forms of `start` that libraries send on their own: after a byte order mark, or as a binary
//! message.

use exo_ingest_harness::{INTERACTION, Message, TENANT, TestNode, on_both_kernels, wire};

#[test]
fn a_start_after_a_byte_order_mark_is_taken_and_one_as_a_binary_message_is_named() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |_| {});
        let start = wire::start_text(TENANT, INTERACTION);
        let mut marked = node.upgrade();
        marked.send(&wire::text(&format!("\u{feff}{start}")));
        let Message::Text(text) = marked.receive() else { panic!("an event comes first") };
        assert!(text.starts_with(r#"{"event":"started""#), "{text}");
        marked.send_frames(10, 960);
        marked.expect_ack(10);

        for (payload, words) in [
            (start.clone().into_bytes(), "binary message"),
            (format!("\u{feff} {start}").into_bytes(), "binary message"),
            (vec![0; 960], "send a start event first"),
            (b"{{{{{{{{".to_vec(), "send a start event first"),
        ] {
            let mut peer = node.upgrade();
            peer.send(&wire::binary(&payload));
            let Message::Text(text) = peer.receive() else { panic!("an event comes first") };
            assert!(
                text.contains(r#""reason":"start_required""#) && text.contains(words),
                "{text}"
            );
            peer.expect_close(4400, "start_required");
        }
    });
}
