//! Chunks and events from records.

use super::*;
use crate::call::Seq;
use crate::format::payload::CALL_SIZE_MAX;
use proptest::prelude::*;

const NODE: &str = "node-1";

/// Records of a shard, as a journal would give them.
#[derive(Clone, Default)]
struct Records(Vec<(RecordHeader, Vec<u8>, Lsn, bool)>);

impl Records {
    fn push(&mut self, header: RecordHeader, payload: Vec<u8>, is_known: bool) {
        let header = RecordHeader { length: payload.len() as u32, ..header };
        let lsn = Lsn(64 * self.0.len() as u64);
        self.0.push((header, payload, lsn, is_known));
    }

    fn header(kind: RecordKind, call: u64) -> RecordHeader {
        let epoch = Epoch { boot: 1, micros: call, shard: 0 };
        RecordHeader { kind, call, epoch, ..RecordHeader::pad(64, 0) }
    }

    fn call(&mut self, call: u64, tenant: &str, is_known: bool) {
        let interaction = format!("call-{call}");
        let record = CallRecord {
            call: crate::call::CallKey(u128::from(call)),
            tenant,
            interaction: &interaction,
            sample_rate: 8_000,
            started_at: UnixMicros(call),
            token_issued_at: 0,
            token_expires_at: 0,
            peer: None,
        };
        let mut out = [0; CALL_SIZE_MAX];
        let size = record.encode(&mut out);
        self.push(Records::header(RecordKind::Call, call), out[..size].to_vec(), is_known);
    }

    fn piece(&mut self, call: u64, seq: u64, offset: u32, payload: &[u8], last: bool) {
        let received_at = UnixMicros(1_000_000 * seq);
        let header = Records::header(RecordKind::Audio, call);
        let header = RecordHeader { seq: Seq(seq), offset, last, received_at, ..header };
        self.push(header, payload.to_vec(), false);
    }

    fn frame(&mut self, call: u64, seq: u64) {
        self.piece(call, seq, 0, &frame(call, seq), true);
    }

    fn erased(&mut self, call: u64, seq: u64) {
        self.piece(call, seq, 0, &[0; 4], true);
        self.0.last_mut().expect("a record").0.erased = true;
    }

    fn end(&mut self, call: u64, frames: u64) {
        let end = EndRecord {
            frames,
            bytes: 4 * frames,
            ending: crate::session::ingest::Ending::Stopped.number(),
            ended_at: UnixMicros(9_000_000),
        };
        self.push(Records::header(RecordKind::End, call), end.encode().to_vec(), false);
    }

    fn give(&self, chunker: &mut Chunker) {
        for (header, payload, lsn, is_known) in &self.0 {
            chunker.handle_record(header, payload, *lsn, *is_known);
        }
    }

    fn messages(&self) -> Vec<LiveMessage> {
        let mut chunker = Chunker::new(NODE, AudioOf::All);
        self.give(&mut chunker);
        drain(&mut chunker)
    }
}

fn frame(call: u64, seq: u64) -> [u8; 4] {
    [call as u8, seq as u8, 0, 0]
}

fn drain(chunker: &mut Chunker) -> Vec<LiveMessage> {
    std::iter::from_fn(|| chunker.poll_message()).collect()
}

/// Messages in short: `started 0`, `1..=10`, `gap 3`.
fn short(messages: &[LiveMessage]) -> Vec<String> {
    let name = |message: &LiveMessage| match &message.content {
        Content::Audio(chunk) => {
            format!("{}..={}", chunk.seq, chunk.seq + chunk.sizes.count() - 1)
        }
        Content::Event { name, seq, .. } => format!("{name} {seq}"),
    };
    messages.iter().map(name).collect()
}

#[test]
fn a_chunk_is_what_one_ack_covers() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    (1..=25).for_each(|seq| records.frame(1, seq));
    records.end(1, 25);
    let messages = records.messages();
    assert_eq!(short(&messages), ["started 0", "1..=10", "11..=20", "21..=25", "ended 0"]);
    let audio: Vec<u8> = (11..=20).flat_map(|seq| frame(1, seq)).collect();
    assert_eq!(messages[2].payload(), audio);
    let ended: serde_json::Value = serde_json::from_slice(&messages[4].payload()).expect("JSON");
    assert_eq!(ended["reason"], "stopped");
    assert_eq!((&ended["frames"], &ended["last_seq"]), (&25.into(), &25.into()));
    assert_eq!((&ended["tenant"], &ended["interaction"]), (&"acme".into(), &"call-1".into()));
}

#[test]
fn pieces_become_frames_and_copies_are_dropped() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    records.piece(1, 1, 0, b"ab", false);
    records.piece(1, 1, 0, b"ab", false);
    records.piece(1, 1, 2, b"cd", true);
    records.piece(1, 1, 2, b"cd", true);
    records.piece(1, 1, 0, b"ab", false);
    records.piece(1, 2, 0, b"ef", true);
    records.end(1, 2);
    let messages = records.messages();
    assert_eq!(short(&messages), ["started 0", "1..=2", "ended 0"]);
    assert_eq!(messages[1].payload(), b"abcdef".as_slice());
}

#[test]
fn gaps_end_a_chunk_and_are_told() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    records.frame(1, 1);
    records.frame(1, 4);
    records.erased(1, 5);
    records.piece(1, 6, 2, b"cd", true);
    records.frame(1, 7);
    records.end(1, 7);
    let expected = ["started 0", "1..=1", "gap 2", "4..=4", "gap 5", "gap 6", "7..=7", "ended 0"];
    let messages = records.messages();
    assert_eq!(short(&messages), expected);
    let reason = |at: usize| {
        let gap: serde_json::Value = serde_json::from_slice(&messages[at].payload()).expect("JSON");
        (gap["first_seq"].as_u64(), gap["last_seq"].as_u64(), gap["reason"].to_string())
    };
    assert_eq!(reason(2), (Some(2), Some(3), "\"damaged\"".into()));
    assert_eq!(reason(4), (Some(5), Some(5), "\"erased\"".into()));
    assert_eq!(reason(5), (Some(6), Some(6), "\"damaged\"".into()));
}

#[test]
fn segments_that_are_gone_become_a_gap_of_each_call() {
    let mut records = Records::default();
    for call in [1, 2] {
        records.call(call, "acme", false);
        (1..=10).for_each(|seq| records.frame(call, seq));
    }
    let mut chunker = Chunker::new(NODE, AudioOf::All);
    records.give(&mut chunker);
    assert_eq!(drain(&mut chunker).len(), 4);
    chunker.handle_missing(GapReason::Expired);
    // The next segment begins with the calls that go on: not the second one, but a third one.
    let mut records = Records::default();
    records.call(1, "acme", true);
    records.call(3, "acme", true);
    for (call, seq) in [(1, 21), (3, 5), (1, 23)] {
        records.frame(call, seq);
        records.0.last_mut().expect("a record").0.batch = 7;
    }
    records.give(&mut chunker);
    chunker.handle_end(UnixMicros(1), Lsn(0));
    let told: Vec<String> = drain(&mut chunker)
        .iter()
        .map(|message| {
            let name = short(std::slice::from_ref(message)).remove(0);
            let json: serde_json::Value =
                serde_json::from_slice(&message.payload()).unwrap_or_default();
            format!("{} {name} {} {}", message.call, json["last_seq"], json["reason"])
        })
        .collect();
    let expected = [
        "3 started 0 null null",
        "2 gap 11 null \"expired\"",
        "2 ended 0 null \"unknown\"",
        "1 gap 11 20 \"expired\"",
        "3 gap 1 4 \"expired\"",
        "1 21..=21 null null",
        "1 gap 22 22 \"damaged\"",
        "1 23..=23 null null",
        "1 ended 0 23 \"cut\"",
        "3 5..=5 null null",
        "3 ended 0 5 \"cut\"",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_repeated_call_record_tells_no_start_and_no_gap() {
    let mut records = Records::default();
    records.call(1, "acme", true);
    (14..=20).for_each(|seq| records.frame(1, seq));
    records.call(1, "acme", true);
    assert_eq!(short(&records.messages()), ["14..=20"]);
}

#[test]
fn audio_goes_out_for_chosen_tenants_and_events_for_all() {
    let mut records = Records::default();
    for (call, tenant) in [(1, "acme"), (2, "other")] {
        records.call(call, tenant, false);
        (1..=10).for_each(|seq| records.frame(call, seq));
        records.end(call, 10);
    }
    let mut chunker = Chunker::new(NODE, AudioOf::Tenants(vec!["other".into()]));
    records.give(&mut chunker);
    let messages = drain(&mut chunker);
    assert_eq!(short(&messages), ["started 0", "ended 0", "started 0", "1..=10", "ended 0"]);
}

#[test]
fn a_silent_call_does_not_hold_the_position() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    records.frame(1, 1);
    let mut chunker = Chunker::new(NODE, AudioOf::All);
    records.give(&mut chunker);
    assert_eq!(short(&drain(&mut chunker)), ["started 0"]);
    let next = Lsn(4096);
    assert_eq!(chunker.position(next), Lsn(64));
    chunker.handle_time(UnixMicros(3_000_000));
    assert_eq!(short(&drain(&mut chunker)), [""; 0]);
    chunker.handle_time(UnixMicros(6_000_000));
    // Its message is not given out yet.
    assert_eq!(chunker.position(next), Lsn(64));
    assert_eq!(short(&drain(&mut chunker)), ["1..=1"]);
    assert_eq!(chunker.position(next), next);
}

#[test]
fn a_frame_without_its_end_holds_the_position() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    records.frame(1, 10);
    records.piece(1, 11, 0, b"ab", false);
    let mut chunker = Chunker::new(NODE, AudioOf::All);
    records.give(&mut chunker);
    drain(&mut chunker);
    assert_eq!(chunker.position(Lsn(4096)), Lsn(128));
}

#[test]
fn the_end_of_a_run_ends_its_calls() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    (1..=3).for_each(|seq| records.frame(1, seq));
    let mut chunker = Chunker::new(NODE, AudioOf::All);
    records.give(&mut chunker);
    chunker.handle_end(UnixMicros(5), Lsn(999));
    let messages = drain(&mut chunker);
    assert_eq!(short(&messages), ["started 0", "1..=3", "ended 0"]);
    let ended: serde_json::Value = serde_json::from_slice(&messages[2].payload()).expect("JSON");
    assert_eq!((&ended["reason"], &ended["frames"]), (&"cut".into(), &serde_json::Value::Null));
}

#[test]
fn frames_without_a_call_record_are_counted() {
    let mut records = Records::default();
    records.frame(1, 1);
    let mut chunker = Chunker::new(NODE, AudioOf::All);
    records.give(&mut chunker);
    assert_eq!((drain(&mut chunker), chunker.nameless()), (vec![], 1));
}

#[test]
fn a_chunk_stays_below_the_engines_limit() {
    let mut records = Records::default();
    records.call(1, "acme", false);
    (1..=4).for_each(|seq| records.piece(1, seq, 0, &vec![0; 200 << 10], true));
    records.end(1, 4);
    assert_eq!(short(&records.messages()), ["started 0", "1..=2", "3..=4", "ended 0"]);
}

proptest! {
    /// A forwarder that starts again at a position it had saved sends everything that was not
    /// acknowledged, and what it sends twice is the same message.
    #[test]
    fn a_new_start_loses_nothing(
        lengths in proptest::collection::vec(1u64..35, 1..6),
        order in proptest::collection::vec(0usize..6, 0..150),
        stop in 0usize..200,
        acknowledged in 0usize..200,
    ) {
        let mut records = Records::default();
        let mut sent = vec![0; lengths.len()];
        let calls = 1..=lengths.len() as u64;
        calls.clone().for_each(|call| records.call(call, "acme", false));
        for place in order.iter().map(|place| place % lengths.len()) {
            if sent[place] < lengths[place] {
                sent[place] += 1;
                records.frame(place as u64 + 1, sent[place]);
            }
        }
        calls.clone().for_each(|call| records.end(call, sent[call as usize - 1]));
        let whole = records.messages();

        let stop = stop.min(records.0.len());
        let mut chunker = Chunker::new(NODE, AudioOf::All);
        Records(records.0[..stop].to_vec()).give(&mut chunker);
        let next = Lsn(64 * stop as u64);
        let given = drain(&mut chunker);
        let acknowledged = acknowledged.min(given.len());
        let waiting = given[acknowledged..].iter().map(|message| message.from);
        let position = waiting.fold(chunker.position(next), Lsn::min);

        let mut again = records.clone();
        for (_, _, lsn, is_known) in &mut again.0 {
            *is_known = *lsn < position;
        }
        let again = again.messages();
        let mut union: Vec<LiveMessage> = given[..acknowledged].to_vec();
        for message in again {
            if !union.iter().any(|known| known.id() == message.id()) {
                union.push(message);
            }
        }
        for message in &whole {
            let found = union.iter().find(|known| known.id() == message.id());
            prop_assert_eq!(found, Some(message));
        }
    }
}
