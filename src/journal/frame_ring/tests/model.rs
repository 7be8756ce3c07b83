//! The ring against a list of all records in it, by random steps over many laps.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// An appended record: a slice of the noise.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    kind: RecordKind,
    seq: u64,
    from: usize,
    size: usize,
}

/// The ring, and a list of all records in it.
struct Model {
    ring: FrameRing,
    appended: VecDeque<Expected>,
    held: VecDeque<(SealedBatch, Vec<Expected>)>,
    identity: CallIdentity,
    seq: u64,
    numbers: u64,
    expected: Vec<u8>,
    verified: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Audio { from: usize, size: usize },
    Call,
    End,
    Seal,
    Written { pick: usize },
    Durable { pick: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let audio = |sizes: std::ops::RangeInclusive<usize>| {
        (0usize..1_000_000, sizes).prop_map(|(from, size)| Step::Audio { from, size })
    };
    prop_oneof![
        12 => audio(0..=70_000),
        8 => audio(9_600..=9_600),
        4 => audio(0..=200),
        2 => audio(400_000..=700_000),
        1 => audio(PAYLOAD_SIZE_MAX..=PAYLOAD_SIZE_MAX),
        2 => Just(Step::Call),
        2 => Just(Step::End),
        3 => Just(Step::Seal),
        5 => (0usize..8).prop_map(|pick| Step::Written { pick }),
        5 => (0usize..8).prop_map(|pick| Step::Durable { pick }),
    ]
}

/// Bytes that no seal may use.
const RESERVE: usize = 8 * END_RECORD_SIZE;

impl Model {
    fn new() -> Model {
        let mut ring = ring_of(RING_SIZE_MIN + 3 * BLOCK_SIZE);
        ring.set_reserve(RESERVE);
        Model {
            ring,
            appended: VecDeque::new(),
            held: VecDeque::new(),
            identity: CallIdentity { tenant: "acme".into(), interaction: "call-1".into() },
            seq: 0,
            numbers: 0,
            expected: Vec::new(),
            verified: 0,
        }
    }

    fn append(&mut self, kind: RecordKind, from: usize, size: usize) {
        self.seq += 1;
        let (room, head) = (self.ring.free_size(), self.ring.head());
        let epoch = Epoch { boot: 1, micros: self.seq, shard: 3 };
        let (record_size, result) = match kind {
            RecordKind::Audio => (
                audio_size(size),
                self.ring.append_audio(chunk(self.seq), &noise()[from..from + size], KEY),
            ),
            RecordKind::Call => {
                let start = CallStart {
                    call: self.identity.key(),
                    identity: &self.identity,
                    epoch,
                    sample_rate: 8_000,
                    started_at: UnixMicros(self.seq),
                    token_issued_at: 0,
                    token_expires_at: 0,
                    peer: None,
                };
                (record_size(56 + 10), self.ring.append_call(&start))
            }
            _ => {
                let end = CallEnd {
                    call: 42,
                    epoch,
                    frames: self.seq,
                    bytes: 0,
                    ending: 0,
                    ended_at: UnixMicros(self.seq),
                };
                (END_RECORD_SIZE, self.ring.append_end(&end))
            }
        };
        assert_eq!(result.is_ok(), record_size <= room, "{record_size} bytes into {room}");
        if result.is_ok() {
            assert!(
                self.ring.free_size() + record_size >= room,
                "a series of appends finds the room promised at its start"
            );
            self.appended.push_back(Expected { kind, seq: self.seq, from, size });
        } else {
            assert_eq!(
                (self.ring.head(), self.ring.free_size()),
                (head, room),
                "a refused append changes nothing"
            );
        }
    }

    /// Takes the sealed batches and finds in them the appended records, in order.
    fn collect(&mut self) {
        while let Some(batch) = self.ring.poll_sealed() {
            self.numbers += 1;
            assert_eq!(batch.number, self.numbers);
            assert!(
                batch.start.0.is_multiple_of(BLOCK_SIZE as u64)
                    && batch.size.is_multiple_of(BLOCK_SIZE)
            );
            assert!(
                self.ring.batch_offset(&batch) + batch.size <= self.ring.memory().len(),
                "a batch never wraps"
            );
            assert!(batch.size <= BATCH_SIZE_MAX);
            let records = self.appended.drain(..batch.record_count as usize).collect();
            self.held.push_back((batch, records));
            self.verify(self.held.len() - 1);
        }
    }

    fn verify(&mut self, index: usize) {
        let (batch, expected) = &self.held[index];
        let records = BatchReader::open(self.ring.batch_bytes(batch)).unwrap();
        assert_eq!(records.header().record_count as usize, expected.len());
        for (record, expected) in records.map(Result::unwrap).zip(expected) {
            assert_eq!(record.header.kind, expected.kind);
            if expected.kind == RecordKind::Audio {
                assert_eq!((record.header.seq.0, record.header.last), (expected.seq, true));
                let masked = &noise()[expected.from..expected.from + expected.size];
                assert!(record.payload.len() == masked.len(), "length of frame {}", expected.seq);
                assert_eq!(record.header.payload_crc, crc32c::crc32c(record.payload));
                self.expected.resize(masked.len(), 0);
                self.expected.copy_from_slice(masked);
                mask::unmask_in_place(&mut self.expected, KEY);
                assert!(record.payload == self.expected, "bytes of frame {}", expected.seq);
            } else {
                assert_eq!(record.header.received_at.0, expected.seq);
            }
            self.verified += 1;
        }
    }

    /// The end of one of the batches in the ring that lie in `after..=limit`.
    fn pick(&self, pick: usize, after: RingPosition, limit: RingPosition) -> Option<RingPosition> {
        let ends: Vec<_> = self
            .held
            .iter()
            .map(|(batch, _)| batch.end())
            .filter(|end| (after..=limit).contains(end))
            .collect();
        ends.get(pick.min(ends.len().saturating_sub(1))).copied()
    }

    /// Checks all records that are about to be released once more, and then releases them.
    fn forget_up_to(&mut self, position: RingPosition) {
        while self.held.front().is_some_and(|(batch, _)| batch.end() <= position) {
            self.verify(0);
            self.held.pop_front();
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Audio { from, size } => self.append(RecordKind::Audio, from, size),
            Step::Call => self.append(RecordKind::Call, 0, 0),
            Step::End => self.append(RecordKind::End, 0, 0),
            Step::Seal => {
                let room = self.ring.free_size();
                let sealed = self.ring.sealed();
                self.ring.seal();
                assert!(self.ring.free_size() + SEAL_SIZE_MAX >= room, "the most a seal costs");
                match self.ring.open_since() {
                    None => assert!(
                        self.ring.sealed() == sealed || self.ring.free_size() >= RESERVE,
                        "the reserve is left"
                    ),
                    Some(_) => {
                        assert!(room < RESERVE + SEAL_SIZE_MAX, "deferred only for the reserve")
                    }
                }
            }
            Step::Written { pick } => {
                if let Some(end) = self.pick(pick, self.ring.written(), self.ring.sealed()) {
                    self.ring.set_written(end);
                }
            }
            Step::Durable { pick } => {
                if let Some(end) = self.pick(pick, self.ring.durable(), self.ring.written()) {
                    self.forget_up_to(end);
                    self.ring.set_durable(end);
                }
            }
        }
        self.collect();
        let released = self.held.front().map_or(self.ring.sealed(), |(batch, _)| batch.start);
        assert!(self.ring.released() <= released, "bytes in use are not released");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn everything_appended_comes_back_and_nothing_is_overwritten_before(
        steps in prop::collection::vec(step(), 100..500),
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        let settle = [Step::Seal, Step::Written { pick: 99 }, Step::Durable { pick: 99 }];
        // Twice: the first seal may have to wait for room.
        for step in settle.clone().into_iter().chain(settle) {
            let moment = Moment::ZERO + Duration::from_secs(1);
            model.ring.set_now(Now { moment, unix: UnixMicros(1) });
            for _ in 0..64 {
                model.step(&step);
            }
        }
        prop_assert_eq!(
            (model.appended.len(), model.held.len(), model.ring.used_size()),
            (0, 0, 0)
        );
        prop_assert!(model.verified > 0);
    }
}
