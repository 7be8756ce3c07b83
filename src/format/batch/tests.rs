use super::*;
use crate::call::{Epoch, Seq};
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;
use crate::format::record::header_crc;
use crate::format::{Lsn, SegmentUuid, Unsynced};
use proptest::prelude::*;

const NUMBER: u64 = 0x1_0000_0007;

fn audio(seq: u64, payload: &[u8]) -> RecordHeader {
    RecordHeader {
        payload_crc: crc32c::crc32c(payload),
        length: payload.len() as u32,
        kind: RecordKind::Audio,
        last: true,
        erased: false,
        call: 42,
        epoch: Epoch { boot: 1, micros: 2, shard: 3 },
        seq: Seq(seq),
        offset: 0,
        batch: NUMBER as u32,
        received_at: UnixMicros(5),
    }
}

/// Builds a batch as the format says, independently of the frame ring.
fn build(records: &[(RecordHeader, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_SIZE];
    for (header, payload) in records {
        bytes.extend(header.encode());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(64), 0);
    }
    let end = bytes.len().next_multiple_of(BLOCK_SIZE);
    if end > bytes.len() {
        bytes.extend(RecordHeader::pad(end - bytes.len(), NUMBER as u32).encode());
        bytes.resize(end, 0);
    }
    finish(&mut bytes, records.len() as u16);
    bytes
}

/// Writes the batch header that fits the records.
fn finish(bytes: &mut [u8], record_count: u16) {
    let (mut records_crc, mut offset) = (0, HEADER_SIZE);
    while offset < bytes.len() {
        let encoded = bytes[offset..offset + HEADER_SIZE].try_into().unwrap();
        records_crc = chain_crc(records_crc, header_crc(encoded));
        offset +=
            RecordHeader::decode(encoded).map_or(usize::MAX / 2, |header| header.record_size());
    }
    let header = BatchHeader {
        size: bytes.len() as u32,
        record_count,
        unsynced: Unsynced::UNKNOWN,
        segment: SegmentUuid([7; 16]),
        number: NUMBER,
        lsn: Lsn(8192),
        sealed_at: UnixMicros(9),
        records_crc,
    };
    bytes[..HEADER_SIZE].copy_from_slice(&header.encode());
}

fn sample() -> Vec<u8> {
    let records: Vec<_> = [(1, 9_600), (2, 0), (3, 1), (4, 64), (5, 100)]
        .into_iter()
        .map(|(seq, size)| vec![seq as u8; size])
        .enumerate()
        .map(|(index, payload)| (audio(index as u64 + 1, &payload), payload))
        .collect();
    build(&records)
}

fn seqs(bytes: &[u8]) -> Vec<Result<u64, FormatError>> {
    let reader = BatchReader::open(bytes).unwrap();
    reader
        .map(|record| record.map(|record| record.header.seq.0).map_err(|damage| damage.fault))
        .collect()
}

#[test]
fn records_come_back_in_order_with_their_bytes() {
    let bytes = sample();
    assert_eq!(bytes.len(), 12_288);
    let records: Vec<_> = BatchReader::open(&bytes).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        records.iter().map(|record| record.payload.len()).collect::<Vec<_>>(),
        [9_600, 0, 1, 64, 100]
    );
    assert_eq!(
        records.iter().map(|record| record.offset).collect::<Vec<_>>(),
        [64, 9_728, 9_792, 9_920, 10_048]
    );
    assert!(records[4].payload.iter().all(|byte| *byte == 5));
    let reader = BatchReader::open(&bytes).unwrap();
    assert_eq!((reader.header().number, reader.header().record_count), (NUMBER, 5));
    // Bytes after the batch do not matter.
    assert_eq!(seqs(&[bytes, vec![0xFF; 100]].concat()).len(), 5);
}

#[test]
fn a_batch_that_ends_with_its_block_needs_no_pad() {
    let payload = vec![1; BLOCK_SIZE - 2 * HEADER_SIZE];
    let bytes = build(&[(audio(1, &payload), payload)]);
    assert_eq!(bytes.len(), BLOCK_SIZE);
    assert_eq!(seqs(&bytes), [Ok(1)]);
}

#[test]
fn a_damaged_payload_is_named_and_the_other_records_still_come() {
    let mut bytes = sample();
    bytes[64 + 64 + 5_000] ^= 1;
    assert_eq!(seqs(&bytes), [Err(FormatError::PayloadCrc), Ok(2), Ok(3), Ok(4), Ok(5)]);
    let mut bytes = sample();
    bytes[9_792 + 64 + 1] = 1;
    assert_eq!(seqs(&bytes), [Ok(1), Ok(2), Err(FormatError::Padding), Ok(4), Ok(5)]);
}

#[test]
fn every_changed_byte_is_noticed() {
    let good = sample();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        if let Ok(mut reader) = BatchReader::open(&bytes) {
            assert!(reader.any(|record| record.is_err()), "byte {at}");
        }
    }
}

#[test]
fn erasing_a_record_leaves_the_batch_whole() {
    let mut bytes = sample();
    let header = RecordHeader::decode(bytes[64..].first_chunk().unwrap()).unwrap();
    bytes[64..128].copy_from_slice(&header.erase().encode());
    assert_eq!(seqs(&bytes), [Err(FormatError::Erasure), Ok(2), Ok(3), Ok(4), Ok(5)]);
    bytes[128..128 + 9_600].fill(0);
    assert_eq!(seqs(&bytes), [Ok(1), Ok(2), Ok(3), Ok(4), Ok(5)]);
}

#[test]
fn a_batch_cut_short_is_noticed_wherever() {
    let bytes = sample();
    for size in (0..bytes.len()).step_by(32) {
        assert_eq!(BatchReader::open(&bytes[..size]).unwrap_err().fault, FormatError::Truncated);
    }
}

#[test]
fn an_older_batch_showing_through_is_noticed() {
    // The old batch has the same place, size and number, and is whole in itself. Only the chain of
    // checksums shows it.
    let mut bytes = sample();
    let older = audio(9, &[5; 100]).encode();
    bytes[10_048..10_112].copy_from_slice(&older);
    assert_eq!(
        BatchReader::open(&bytes).unwrap_err(),
        Damage { offset: 0, fault: FormatError::RecordsCrc }
    );

    let other = RecordHeader { batch: 6, ..audio(5, &[5; 100]) }.encode();
    bytes[10_048..10_112].copy_from_slice(&other);
    assert_eq!(
        BatchReader::open(&bytes).unwrap_err(),
        Damage { offset: 10_048, fault: FormatError::Batch }
    );

    bytes[10_048..].fill(0);
    assert_eq!(
        BatchReader::open(&bytes).unwrap_err(),
        Damage { offset: 10_048, fault: FormatError::HeaderCrc }
    );
}

#[test]
fn a_record_beyond_its_batch_or_a_wrong_count_is_noticed() {
    let mut bytes = sample();
    let long = RecordHeader { length: 60_000, ..audio(5, &[5; 100]) }.encode();
    bytes[10_048..10_112].copy_from_slice(&long);
    let damage = BatchReader::open(&bytes).unwrap_err();
    assert_eq!(damage, Damage { offset: 10_048, fault: FormatError::Size(60_000) });
    assert_eq!(damage.to_string(), "at byte 10048 of the batch: impossible size 60000");

    let mut bytes = sample();
    finish(&mut bytes, 6);
    assert_eq!(BatchReader::open(&bytes).unwrap_err().fault, FormatError::RecordCount);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        changes in prop::collection::vec((0usize..12_288, any::<u8>()), 0..20),
        heal: bool,
        cut in 0usize..12_289,
    ) {
        let mut bytes = sample();
        for (at, value) in changes {
            bytes[at] = value;
        }
        if heal {
            finish(&mut bytes, 5);
        }
        if let Ok(reader) = BatchReader::open(&bytes[cut.min(64)..]) {
            prop_assert!(reader.count() <= 6, "five records, and a pad");
        }
        if let Ok(reader) = BatchReader::open(&bytes) {
            prop_assert!(reader.count() <= 6, "five records, and a pad");
        }
        if let Some(header) = bytes.get(cut..).and_then(|rest| rest.first_chunk()) {
            let _decoded = (RecordHeader::decode(header), BatchHeader::decode(header));
        }
    }

    #[test]
    fn any_valid_batch_is_read(sizes in prop::collection::vec(0usize..3_000, 0..30)) {
        let payloads = sizes.iter().enumerate().map(|(index, size)| vec![index as u8; *size]);
        let records: Vec<_> = payloads
            .map(|payload| (audio(payload.len() as u64, &payload), payload))
            .collect();
        let bytes = build(&records);
        let read: Vec<_> = BatchReader::open(&bytes)
            .unwrap()
            .map(|record| record.unwrap().payload.to_vec())
            .collect();
        prop_assert_eq!(read, records.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>());
    }
}
