//! The node's latency measurements on a real disk. Every frame, ACK and call is measured once,
//! whenever the results are collected.

use exo_ingest::journal::settings::JournalSettings;
use exo_ingest::latency::{Latencies, LatencyCollector};
use exo_ingest::store::JournalConfig;
use exo_ingest_harness::{TENANT, TestNode, eventually, on_both_kernels};

const CALLS: usize = 4;
const FRAMES: usize = 100;

fn count(latencies: &Latencies, wanted: &str) -> u64 {
    let mut found = None;
    latencies
        .for_each(|tag, _, histogram| found = found.or((tag == wanted).then_some(histogram.len())));
    found.expect("a tag that is declared")
}

fn is_collected(collector: &mut LatencyCollector, wanted: &[(&str, u64)]) -> bool {
    collector.request();
    collector.collect();
    wanted.iter().all(|(tag, wanted)| count(collector.totals(), tag) == *wanted)
}

#[test]
fn every_frame_and_every_ack_is_measured_once() {
    on_both_kernels(|features| {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalConfig::new(
            dir.path().join("data"),
            JournalSettings {
                segment_size: 16 << 20,
                reserve: Some(1 << 20),
                ..JournalSettings::default()
            },
        );
        let node = TestNode::start(features, |setup| {
            setup.shards = 2;
            setup.limits.max_ahead = None;
            setup.journal = Some(journal);
        });
        let mut collector = node.node().latency_collector();
        let mut peers: Vec<_> =
            (0..CALLS).map(|call| node.call_as(TENANT, &format!("call-{call}"))).collect();
        for round in 0..FRAMES / 10 {
            peers.iter_mut().for_each(|peer| peer.send_frames(10, 9600));
            // Frames that are under way at this request are in a later collection.
            collector.request();
            peers.iter_mut().for_each(|peer| peer.expect_ack(10 * (round as u64 + 1)));
            collector.collect();
        }
        let (calls, frames) = (CALLS as u64, (CALLS * FRAMES) as u64);
        let acks = frames / 10;
        assert_eq!(
            (node.count(|counters| &counters.frames), node.count(|counters| &counters.acks)),
            (frames, acks)
        );
        let wanted = [
            ("setup", calls),
            ("setup.head", calls),
            ("setup.upgrade", calls),
            ("setup.start", calls),
            ("frame.ring", frames),
            ("frame.durable", frames),
            ("ack", acks),
            ("ack.sent", acks),
        ];
        eventually("everything has been collected", || is_collected(&mut collector, &wanted));
        let totals = collector.totals();
        assert_eq!((count(totals, "frame.received"), count(totals, "frame.written")), (0, 0));
        assert!(count(totals, "journal.write") > 0 && count(totals, "journal.sync") > 0);
        let turns = count(totals, "turn");
        assert!(turns > 0 && turns <= node.count(|counters| &counters.turns), "{turns}");
        // An ACK waits until its frame is durable, and no real step takes zero time.
        assert!(totals.ack.histogram().max() >= totals.frame_durable.histogram().min());
        assert!(totals.journal_sync.histogram().max() > 0 && totals.turn.histogram().max() > 0);
        node.finish(std::time::Duration::ZERO).unwrap();
        // Shards that have ended do not answer, and the collector does not wait for them.
        collector.request();
        collector.collect();
        assert_eq!(count(collector.totals(), "ack"), acks);
    });
}
