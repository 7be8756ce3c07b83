use super::*;
use crate::address::PeerAddress;
use crate::archive::index::{IndexFile, LiveIndexWriter, NotedIndex, PlacesAt};
use crate::call::{CallKey, Seq};
use crate::constants::BLOCK_SIZE;
use crate::format::batch::BatchReader;
use crate::format::{Lsn, SegmentUuid, Unsynced};
use crate::io::memory::Region;
use crate::journal::frame_ring::{
    CallEnd, CallStart, Chunk, FrameRing, HeadersView, RING_SIZE_MIN, RecordHeaders,
};
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;
use proptest::prelude::*;

/// What is appended to a ring; all numbers are possible ones.
#[derive(Clone, Copy, Debug)]
struct Step {
    call: u64,
    /// Added to the number of the call's frame before.
    seq_step: u64,
    offset: u32,
    /// Whether the chunk continues where the one before ended.
    continues: bool,
    length: usize,
    last: bool,
    time_step: u64,
    seals: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0u64..4, 0u64..3, 0u32..3, prop::bool::weighted(0.8));
    let rest = (0usize..700, prop::bool::weighted(0.7), 0u64..3, prop::bool::weighted(0.1));
    (place, rest).prop_map(
        |((call, seq_step, offset, continues), (length, last, time_step, seals))| Step {
            call,
            seq_step,
            offset,
            continues,
            length,
            last,
            time_step,
            seals,
        },
    )
}

fn epoch(call: u64) -> Epoch {
    Epoch { boot: 1, micros: 100 + call, shard: 2 }
}

/// The same segment twice: as its writer noted it, and as a reader finds it.
fn noted_and_read(steps: &[Step], notes_size: usize) -> (Option<Vec<EpochIndex>>, Vec<EpochIndex>) {
    let mut ring = FrameRing::new(Region::allocate(RING_SIZE_MIN).unwrap(), Kernel::detect());
    ring.keep_headers(notes_size);
    let mut headers = RecordHeaders::with_room(1 << 20);
    headers.begin(SegmentUuid([3; 16]), Lsn(0));
    let (mut now, mut ends) = (UnixMicros(1000), [(0, 0); 4]);
    for call in 0..4 {
        let identity =
            CallIdentity { tenant: "acme".into(), interaction: format!("call-{call}").into() };
        let key = CallKey(u128::from(call) + 7);
        let (epoch, token) = (epoch(call), (5, 6));
        ring.append_call(&CallStart {
            call: key,
            identity: &identity,
            epoch,
            sample_rate: 8_000,
            started_at: now,
            token_issued_at: token.0,
            token_expires_at: token.1,
            peer: PeerAddress::parse(b"198.51.100.7:4000").filter(|_| call != 1),
        })
        .unwrap();
    }
    for step in steps {
        now = UnixMicros(now.0 + step.time_step);
        let (seq, end) = &mut ends[step.call as usize];
        let offset = if step.continues && step.seq_step == 0 { *end } else { step.offset };
        *seq += step.seq_step;
        *end = offset + step.length as u32;
        let (call, epoch) = (step.call + 7, epoch(step.call));
        let chunk =
            Chunk { call, epoch, seq: Seq(*seq), offset, last: step.last, received_at: now };
        ring.append_audio(chunk, &[9; 700][..step.length], MaskKey::default()).unwrap();
        if step.seals {
            ring.seal();
        }
    }
    let end = CallEnd { call: 7, epoch: epoch(0), frames: 1, bytes: 2, ending: 1, ended_at: now };
    ring.append_end(&end).unwrap();
    ring.seal();
    let (mut builder, mut at) = (IndexBuilder::default(), BLOCK_SIZE as u64);
    let mut live = Live::new(&headers);
    while let Some(batch) = ring.poll_sealed() {
        ring.stamp(&batch, SegmentUuid([3; 16]), Lsn(0), Unsynced::UNKNOWN);
        for record in BatchReader::open(ring.batch_bytes(&batch)).unwrap().map(Result::unwrap) {
            builder.add_record(&record.header, record.payload, at + record.offset as u64);
        }
        at += batch.size as u64;
        ring.hand_over_headers(&batch, &mut headers);
        headers.publish();
        live.take(batch.number.is_multiple_of(3));
    }
    live.take(true);
    let noted = IndexBuilder::of_headers(&headers, 1, 2, 3, at, UnixMicros(4));
    assert_eq!(IndexBuilder::of_headers(&headers, 1, 2, 3, at + 64, UnixMicros(4)), None);
    if let Some(noted) = &noted {
        live.check(noted);
    }
    (noted.map(|index| index.epochs), builder.into_epochs())
}

/// The live index of the same segment, written in steps.
struct Live {
    dir: tempfile::TempDir,
    view: HeadersView,
    noted: NotedIndex,
    writer: LiveIndexWriter,
    /// The places of the epochs 100 and 101 that a follower has read, part by part.
    followed: [(Option<PlacesAt>, Vec<RecordPlace>); 2],
}

impl Live {
    fn new(headers: &RecordHeaders) -> Live {
        let (dir, view) = (tempfile::tempdir().unwrap(), headers.view());
        let place = (view.segment(), view.start());
        let writer = LiveIndexWriter::create(dir.path(), (1, 2, 3), place).unwrap();
        let followed = std::array::from_fn(|_| (None, Vec::new()));
        Live { dir, view, noted: NotedIndex::new(), writer, followed }
    }

    /// Takes in what is published, and writes it if `writes`.
    fn take(&mut self, writes: bool) {
        self.noted.add(&self.view.notes(self.noted.note_count())).unwrap();
        if !writes || self.noted.changed_count() == 0 {
            return;
        }
        self.writer.append(&mut self.noted).unwrap();
        let mut index = self.open();
        assert_eq!(index.head().end, self.noted.end());
        for (call, (known, places)) in self.followed.iter_mut().enumerate() {
            let found = index.find(call as u64 + 7).unwrap();
            let Some(at) = found[0].1 else { continue };
            places.extend(index.places_after(at, *known).unwrap().iter());
            *known = Some(at);
        }
    }

    fn open(&self) -> IndexFile {
        IndexFile::open_live(self.dir.path(), 3, self.view.segment()).unwrap()
    }

    /// It says the same as the index.
    fn check(&self, whole: &SegmentIndex) {
        let mut index = self.open();
        assert_eq!((index.head().end, index.head().records), (whole.end, whole.records));
        assert_eq!(self.open().into_epochs().unwrap().epochs.len(), whole.epochs.len());
        for expected in &whole.epochs {
            let (mut found, at) = index.find(expected.call).unwrap().remove(0);
            found.places = Some(at.map(|at| index.places(&at).unwrap()).unwrap_or_default());
            assert_eq!(found, *expected);
        }
        for (call, (_, followed)) in self.followed.iter().enumerate() {
            let ours = whole.epochs.iter().find(|found| found.call == call as u64 + 7).unwrap();
            let expected = ours.places.as_ref().unwrap();
            assert!(followed.iter().copied().eq(expected.iter()), "call {call}");
        }
    }
}

proptest! {
    #[test]
    fn notes_give_the_same_index_as_reading(steps in prop::collection::vec(step(), 0..200)) {
        let (noted, read) = noted_and_read(&steps, 1 << 20);
        prop_assert_eq!(noted, Some(read));
    }
}

#[test]
fn incomplete_notes_give_no_index() {
    let step = Step {
        call: 1,
        seq_step: 1,
        offset: 0,
        continues: false,
        length: 320,
        last: true,
        time_step: 0,
        seals: false,
    };
    let (noted, read) = noted_and_read(&[step; 5000], 1 << 20);
    assert_eq!(noted, Some(read));
    assert_eq!(
        noted_and_read(&[step; 5000], 4000 * 16).0,
        None,
        "a batch has no space for its notes"
    );

    // Two epochs with the same time, and a chunk of an unknown epoch.
    let mut headers = RecordHeaders::with_room(1 << 20);
    let record = RecordHeader {
        payload_crc: 0,
        length: 0,
        kind: RecordKind::Call,
        last: false,
        erased: false,
        call: 1,
        epoch: epoch(1),
        seq: Seq(0),
        offset: 0,
        batch: 0,
        received_at: UnixMicros(0),
    };
    let index = |headers: &RecordHeaders, batches: u64| {
        let end = (1 + batches) * BLOCK_SIZE as u64;
        IndexBuilder::of_headers(headers, 1, 2, 3, end, UnixMicros(0))
    };
    headers.note(&record.encode(), &[]);
    headers.end_batch(BLOCK_SIZE);
    assert!(index(&headers, 1).is_some());
    let mut wrong = headers.clone();
    wrong.end_batch(2 * BLOCK_SIZE);
    assert_eq!(index(&wrong, 3), None, "its records do not fill such a batch");
    headers.note(&RecordHeader { call: 2, ..record }.encode(), &[]);
    headers.end_batch(BLOCK_SIZE);
    assert_eq!(index(&headers, 2), None);
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    let mut builder = IndexBuilder::default();
    for seq in [0, 0, u64::MAX - 1, u64::MAX, u64::MAX, 0, 1] {
        let header = RecordHeader {
            payload_crc: 0,
            length: 2,
            kind: RecordKind::Audio,
            last: true,
            erased: false,
            call: 1,
            epoch: epoch(1),
            seq: Seq(seq),
            offset: 0,
            batch: 0,
            received_at: UnixMicros(0),
        };
        builder.add_record(&header, &[], 4096 + 128);
    }
    let call_epochs = builder.into_epochs();
    assert_eq!(
        (call_epochs[0].frames.count(), call_epochs[0].first_seq, call_epochs[0].doubles),
        (2, u64::MAX - 1, 4)
    );
    assert_eq!(call_epochs[0].places, None, "they are not in the order of the file");
}
