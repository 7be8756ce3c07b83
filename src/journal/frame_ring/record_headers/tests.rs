use super::super::note::{Noted, NotedChunk};
use super::*;
use crate::call::{Epoch, Seq};
use crate::format::{FormatError, HEADER_SIZE, RecordKind};

/// The size of each batch, bytes.
const BATCH: usize = 12_288;

fn header(kind: RecordKind, seq: u64, length: u32) -> RecordHeader {
    let epoch = Epoch { boot: 1, micros: 2, shard: 3 };
    let (last, erased) = (kind == RecordKind::Audio, false);
    RecordHeader {
        payload_crc: 0,
        length,
        kind,
        last,
        erased,
        call: 42,
        epoch,
        seq: Seq(seq),
        offset: 0,
        batch: 1,
        received_at: UnixMicros(9),
    }
}

fn push_chunk(notes: &mut PendingHeaders, seq: u64) {
    let header = header(RecordKind::Audio, seq, 9_600);
    notes.push_chunk(&header, &header.encode());
}

/// The numbers of the frames in record headers; `None` if they are incomplete.
fn frames(headers: &RecordHeaders) -> Option<Vec<u64>> {
    let seq = |record: Result<Noted<'_>, FormatError>| match record.unwrap() {
        Noted::Chunk(NotedChunk { seq, .. }) => Some(seq),
        Noted::Record(header, _) => Some(header.seq.0),
        Noted::Batch(size) => {
            assert_eq!(size, BATCH as u64);
            None
        }
    };
    Some(headers.notes(0)?.records().filter_map(seq).collect())
}

fn room(notes: usize) -> usize {
    notes * NOTE_SIZE
}

#[test]
fn notes_go_to_the_record_headers_of_the_segment_that_their_batch_goes_to() {
    // Two blocks, each used many times.
    let mut notes = PendingHeaders::with_room(room(2 * BLOCK_NOTES));
    for count in 1..=500u64 {
        let mut headers = RecordHeaders::with_room(4096);
        headers.begin(SegmentUuid([7; 16]), Lsn(99));
        headers.note(&header(RecordKind::Call, 0, 5).encode(), b"facts");
        (1..=30).for_each(|seq| push_chunk(&mut notes, seq));
        let first = notes.close();
        notes.push_record(&header(RecordKind::End, 31, 3).encode(), b"end");
        (32..=40).for_each(|seq| push_chunk(&mut notes, seq));
        let beyond = RecordHeader { seq: Seq(1 << 60), ..header(RecordKind::Audio, 0, 1) };
        notes.push_chunk(&beyond, &beyond.encode());
        let second = notes.close();
        assert_eq!((first, second), (Some(31), Some(6 + 10 + 5)), "each batch begins with a time");
        push_chunk(&mut notes, 77);
        notes.hand_over(first, BATCH, &mut headers);
        assert_eq!((frames(&headers), headers.batches()), (Some((0..=30).collect()), 1), "{count}");
        notes.hand_over(second, BATCH, &mut headers);
        assert_eq!(
            (frames(&headers), headers.batches()),
            (Some((0..=40).chain([1 << 60]).collect()), 2)
        );
        let noted = headers.notes(0).unwrap();
        let records = noted.records().filter_map(|record| match record.unwrap() {
            Noted::Record(_, payload) => Some(payload),
            Noted::Chunk(_) | Noted::Batch(_) => None,
        });
        assert_eq!(records.collect::<Vec<_>>(), [&b"facts"[..], b"end", b""]);
        assert_eq!((headers.segment(), headers.start()), (SegmentUuid([7; 16]), Lsn(99)));
        let third = notes.close();
        notes.hand_over(third, BATCH, &mut headers);
    }
    assert!(notes.free.len() + notes.blocks.len() == 2 && notes.count == 0);
}

#[test]
fn times_and_offsets_are_noted_when_they_change() {
    let mut notes = PendingHeaders::with_room(4096);
    let facts = [(0, 5), (0, 5), (100, 5), (0, 6), (7, 6)];
    for batch in 0..2 {
        for (offset, time) in facts {
            let header = RecordHeader {
                offset,
                received_at: UnixMicros(time),
                ..header(RecordKind::Audio, batch, 1)
            };
            notes.push_chunk(&header, &header.encode());
        }
        assert_eq!(notes.close(), Some(5 + 2 + 2), "the next batch may go to another segment");
    }
    let mut headers = RecordHeaders::with_room(4096);
    for _ in 0..2 {
        notes.hand_over(Some(9), BATCH, &mut headers);
    }
    let noted = headers.notes(0).unwrap();
    let read = noted.records().filter_map(|record| match record.unwrap() {
        Noted::Chunk(chunk) => Some((chunk.offset as u32, chunk.received_at.0)),
        Noted::Batch(_) => None,
        Noted::Record(..) => unreachable!(),
    });
    assert!(read.eq(facts.into_iter().chain(facts)));
}

#[test]
fn notes_without_room_make_record_headers_incomplete_and_never_wrong() {
    let mut notes = PendingHeaders::with_room(room(2 * BLOCK_NOTES));
    let whole_count = BLOCK_NOTES as u64 + 9;
    (1..=whole_count).for_each(|seq| push_chunk(&mut notes, seq));
    let whole = notes.close();
    (1..=BLOCK_NOTES as u64).for_each(|seq| push_chunk(&mut notes, seq));
    let cut = notes.close();
    push_chunk(&mut notes, 5);
    let next = notes.close();
    assert_eq!(
        (whole, cut, next),
        (Some(whole_count as u32 + 1), None, Some(2)),
        "dropped notes give their room back"
    );

    let mut headers = RecordHeaders::with_room(8192);
    notes.hand_over(whole, BATCH, &mut headers);
    assert_eq!(frames(&headers), Some((1..=whole_count).collect()));
    notes.hand_over(cut, BATCH, &mut headers);
    assert_eq!(frames(&headers), None);
    headers.begin(SegmentUuid([8; 16]), Lsn(0));
    notes.hand_over(next, BATCH, &mut headers);
    assert_eq!(frames(&headers), Some(vec![5]), "the next segment is complete again");

    // Record headers without room for them: the notes are removed all the same.
    let mut small = RecordHeaders::with_room(room(2));
    (6..=7).for_each(|seq| push_chunk(&mut notes, seq));
    let count = notes.close();
    notes.hand_over(count, BATCH, &mut small);
    assert_eq!((frames(&small), notes.count), (None, 0));
    assert_eq!(frames(&RecordHeaders::default()), Some(vec![]));
    // Notes without any room.
    let mut none = PendingHeaders::default();
    push_chunk(&mut none, 1);
    none.push_record(&header(RecordKind::End, 31, 3).encode(), b"end");
    assert_eq!((none.close(), none.count), (None, 0));
}

#[test]
fn a_dropped_batch_takes_nothing_that_is_freed_meanwhile() {
    let mut notes = PendingHeaders::with_room(room(BLOCK_NOTES));
    (1..BLOCK_NOTES as u64).for_each(|seq| push_chunk(&mut notes, seq));
    let whole = notes.close();
    assert_eq!(whole, Some(BLOCK_NOTES as u32));
    push_chunk(&mut notes, 1);
    notes.hand_over(whole, BATCH, &mut RecordHeaders::with_room(8192));
    push_chunk(&mut notes, 2);
    assert_eq!((notes.close(), notes.count, notes.free.len()), (None, 0, 1));
}

#[test]
fn another_thread_reads_whole_batches_while_the_writer_goes_on() {
    const BATCHES: u64 = 2_000;
    let mut headers = RecordHeaders::with_room(room(12 * BATCHES as usize));
    headers.begin(SegmentUuid([7; 16]), Lsn(99));
    let view = headers.view();
    assert_eq!(view.count(), 0);
    let reading = std::thread::spawn(move || {
        let (mut count, mut seqs) = (0, 0);
        while seqs < 10 * BATCHES {
            let notes = view.notes(count);
            count += notes.count();
            let mut is_batch_end = true;
            for record in notes.records() {
                is_batch_end = match record.unwrap() {
                    Noted::Chunk(chunk) => {
                        seqs += 1;
                        assert_eq!(chunk.seq, seqs);
                        false
                    }
                    Noted::Batch(size) => size == BATCH as u64,
                    Noted::Record(..) => unreachable!(),
                };
            }
            assert!(is_batch_end, "only whole batches are published");
        }
        assert_eq!((view.start(), view.segment()), (Lsn(99), SegmentUuid([7; 16])));
    });
    let mut notes = PendingHeaders::with_room(1 << 16);
    for batch in 0..BATCHES {
        (1..=10).for_each(|seq| push_chunk(&mut notes, 10 * batch + seq));
        let count = notes.close();
        notes.hand_over(count, BATCH, &mut headers);
        headers.publish();
    }
    reading.join().unwrap();
}

#[test]
fn incomplete_notes_are_not_published_any_more() {
    let mut headers = RecordHeaders::with_room(room(3));
    let (view, mut notes) = (headers.view(), PendingHeaders::with_room(4096));
    for expected in [3, 3] {
        push_chunk(&mut notes, 1);
        let count = notes.close();
        notes.hand_over(count, BATCH, &mut headers);
        headers.publish();
        assert_eq!(view.count(), expected);
    }
    assert!(headers.notes(0).is_none());
    headers.begin(SegmentUuid([8; 16]), Lsn(0));
    assert_eq!(view.count(), 0);
}

#[test]
fn in_calm_the_same_little_memory_is_used_again() {
    let mut notes = PendingHeaders::with_room(1 << 20);
    let mut headers = RecordHeaders::with_room(8192);
    for _ in 0..1000 {
        (1..=100).for_each(|seq| push_chunk(&mut notes, seq));
        let count = notes.close();
        headers.begin(SegmentUuid::default(), Lsn(0));
        notes.hand_over(count, BATCH, &mut headers);
    }
    let touched = notes.memory.iter().filter(|note| **note != [0; NOTE_SIZE]).count();
    assert!(touched <= 2 * BLOCK_NOTES, "{touched} notes");
}

#[test]
fn a_manifest_in_bad_memory_says_so_and_stops() {
    let mut headers = RecordHeaders::with_room(1024);
    headers.note(&header(RecordKind::Call, 0, 5).encode(), b"facts");
    headers.note(&header(RecordKind::Audio, 1, 9_600).encode(), &[]);
    for at in 0..NOTE_SIZE + HEADER_SIZE {
        let mut bad = headers.notes(0).unwrap();
        bad.0[at / NOTE_SIZE][at % NOTE_SIZE] ^= 0x10;
        let records: Vec<_> = bad.records().collect();
        assert!(records.len() == 1 && records[0].is_err(), "byte {at}: {records:?}");
    }
    headers.count = 3;
    let cut = headers.notes(0).unwrap();
    assert_eq!(cut.records().next(), Some(Err(FormatError::Truncated)));
}
