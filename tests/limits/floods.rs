//! A valid call that floods the node with frames without audio, or with texts. The node closes it
//! soon, and what it costs the journal until then is bounded.

use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::limits::Limits;
use exo_ingest::store::JournalConfig;
use exo_ingest_harness::wire::{self, BINARY, CONTINUATION, FIN};
use exo_ingest_harness::{INTERACTION, Message, TENANT, TestNode, on_both_kernels};
use std::io::Write;
use std::net::Shutdown;
use std::time::Instant;

/// Bytes of one send: the message many times.
const CHUNK_SIZE: usize = 64 * 1024;

/// Bytes of the journal for a record with little or no audio.
const RECORD_SIZE: u64 = 128;

/// Floods a fresh call with `message` until the node has closed it; returns the words before the
/// Close, and its code.
fn flood(node: &TestNode, message: &[u8]) -> (Option<String>, Option<u16>) {
    let mut peer = node.call();
    let mut socket = peer.socket().try_clone().expect("a descriptor");
    let chunk = message.repeat(CHUNK_SIZE / message.len());
    // Several times the limit, but not without end: the node also has to drop the rest, and acks
    // that are due go out first.
    let chunks = (60_000 * message.len()).clamp(CHUNK_SIZE, 8 << 20) / CHUNK_SIZE;
    let flooding = std::thread::spawn(move || {
        let _ = (0..chunks).try_for_each(|_| socket.write_all(&chunk));
    });
    let mut words = None;
    let code = loop {
        match peer.receive() {
            Message::Text(text) => words = Some(text),
            Message::Close(code, _) => break code,
            other => panic!("{other:?}"),
        }
    };
    // The node drops what still comes for a while.
    peer.socket().shutdown(Shutdown::Both).expect("a TCP socket");
    flooding.join().expect("the flood ends");
    (words, code)
}

#[test]
fn frames_without_audio_end_the_call_that_floods_them() {
    let fragmented = [
        wire::frame(BINARY, &[7]),
        wire::frame(CONTINUATION, &[7]),
        wire::frame(FIN | CONTINUATION, &[7]),
    ];
    let floods = [
        ("empty", wire::binary(&[])),
        ("one byte", wire::binary(&[7])),
        ("fragments", fragmented.concat()),
    ];
    let limits = Limits::production();
    let (ahead, least) = (limits.max_ahead.expect("it is on"), limits.frame_time_min);
    on_both_kernels(|features| {
        for (name, message) in &floods {
            let dir = tempfile::tempdir().expect("a directory");
            let journal = JournalConfig::new(
                dir.path().join("data"),
                JournalSettings {
                    segment_size: 16 << 20,
                    reserve: Some(1),
                    ..JournalSettings::default()
                },
            );
            let node = TestNode::start(features, |setup| setup.journal = Some(journal));
            let start = Instant::now();
            let (words, code) = flood(&node, message);
            let records_max =
                ((ahead + start.elapsed()).as_micros() / least.as_micros()) as u64 + 1;
            assert_eq!(code, Some(4429), "{name}");
            assert!(words.is_some_and(|text| text.contains(r#""reason":"too_fast""#)), "{name}");
            let records = node.count(|counters| &counters.audio_records);
            assert!(
                records >= 1000 && records <= records_max,
                "{name}: {records} records of {records_max}"
            );
            let (batches, bytes) = (
                node.count(|counters| &counters.batches_sealed),
                node.count(|counters| &counters.journal_bytes),
            );
            // Each batch ends on a block, and a segment starts with two.
            let bytes_max = records_max * RECORD_SIZE + (batches + 3) * 4096;
            assert!(bytes <= bytes_max, "{name}: {bytes} bytes of {bytes_max}");
            println!("{name}: {records} records, {bytes} bytes of journal");
        }
    });
}

#[test]
fn texts_end_the_call_that_floods_them() {
    let start = wire::text(&wire::start_text(TENANT, INTERACTION));
    let long = wire::text(&format!(r#"{{"event":"mark","x":"{}"}}"#, "x".repeat(20_000)));
    on_both_kernels(|features| {
        for (name, message) in
            [("start", &start), ("unknown", &wire::text(r#"{"event":"mark"}"#)), ("long", &long)]
        {
            let node = TestNode::start(features, |_| {});
            let (words, code) = flood(&node, message);
            assert_eq!(code, Some(1008), "{name}");
            assert!(
                words.is_none_or(|text| text.contains("started")),
                "{name}: no event comes before 1008"
            );
            assert!(node.count(|counters| &counters.events_unknown) <= 10_000, "{name}");
        }
    });
}
