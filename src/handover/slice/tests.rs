use super::*;
use crate::archive::image::{self, Image};
use crate::archive::reader::Journal;
use crate::handover::shard_slices::{Made, ShardSlices};

/// A slice of two calls, with three frames of each.
pub(in crate::handover) fn slice() -> Slice {
    let mut image = Image::new(image::run(1), 7, 128 * 1024).unwrap();
    let (one, two) = (image.start("acme", "one", 8_000), image.start("acme", "a/b", 24_000));
    for number in 0..3u8 {
        image.frame(one, &[number; 700]);
        image.frame(two, &[number; 1_301]);
        image.seal();
    }
    let dir = tempfile::tempdir().unwrap();
    image.store(dir.path()).unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let node = NodeName::parse("node-1").unwrap();
    match ShardSlices::new(node, &journal.shards()[0], Lsn(0)).advance().unwrap() {
        Made::Slice(slice) => slice,
        made => panic!("{made:?}"),
    }
}

#[test]
fn a_lookup_needs_only_the_end_of_the_object() {
    let slice = slice();
    let size = slice.bytes.len() as u64;
    let tail = SliceTail::decode(slice.tail()).unwrap();
    assert_eq!(tail.object_size, size);
    let end = &slice.bytes[(size - tail.lookup_size()) as usize..];
    let found = SliceIndex::decode(end, size).unwrap();
    assert_eq!(found.header, slice.header);
    assert_eq!(found.index.epochs.len(), 2);
    // More bytes than needed do no harm; fewer are noticed.
    assert_eq!(SliceIndex::decode(&slice.bytes, size).as_ref(), Ok(&found));
    let cut = SliceIndex::decode(&end[1..], size);
    assert_eq!(cut, Err(SliceError::Tail(FormatError::Truncated)));
    assert_eq!(SliceIndex::decode(end, size - 1), Err(SliceError::Size(size)));
}

#[test]
fn every_flipped_byte_is_found() {
    let slice = slice();
    assert!(verify(&slice.bytes).is_ok());
    for at in 0..slice.bytes.len() {
        let mut bytes = slice.bytes.clone();
        bytes[at] ^= 0x10;
        assert!(verify(&bytes).is_err(), "byte {at}");
    }
    for size in 0..slice.bytes.len() {
        assert!(verify(&slice.bytes[..size]).is_err(), "cut to {size}");
    }
}

#[test]
fn a_header_has_its_fields_in_their_places() {
    let header = slice().header;
    let bytes = header.encode();
    assert_eq!(&bytes[..10], b"XJNSLICE\x01\0");
    assert_eq!((bytes[10], &bytes[124..130]), (7, &b"node-1"[..]));
    assert_eq!(bytes[28], 1, "the last slice of its segment");
    assert_eq!(bytes[96..104], 4_096u64.to_le_bytes());
    assert_eq!(bytes[104..112], header.end.0.to_le_bytes());
    assert_eq!(SliceHeader::decode(&bytes), Ok(header));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(SliceHeader::decode(&damaged).is_err(), "bit {bit}");
    }
}
