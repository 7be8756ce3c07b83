//! Data directories with very many small segments, as nodes leave them after days: for measuring,
//! and for tests of what must not grow with their number.

use exo_ingest::archive::call_table;
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::index::IndexBuilder;
use exo_ingest::archive::layout::{BOOT_FILE, index_path, segment_path};
use exo_ingest::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use exo_ingest::format::Lsn;
use std::io;
use std::path::Path;

/// Size of a segment before it is cut to its end, bytes.
const SEGMENT_SIZE: usize = 32 * 1024;

/// Segments that a call is in.
const SEGMENTS_OF_CALL: usize = 3;

/// A frame of 20 ms at 8 kHz.
const FRAME_SIZE: usize = 320;

/// Writes a run with `segment_count` sealed segments to a data directory, with their indexes and,
/// if `has_tables`, call tables. In each segment a call begins, and one of earlier ends. A call is
/// called `acme/call-<shard>-<number>`, counted from 1. Returns the number of calls.
pub fn many_segments(
    data_dir: &Path,
    shard: u16,
    segment_count: u64,
    has_tables: bool,
) -> io::Result<u64> {
    let mut image = Image::new(image::run(1), shard, SEGMENT_SIZE)?;
    let (mut live, mut shard_dir) = (Vec::new(), None);
    for number in 1..=segment_count {
        live.push(image.start("acme", &format!("call-{shard}-{number}"), 8_000));
        for call in &live {
            image.frame(*call, &[number as u8; FRAME_SIZE]);
            image.frame(*call, &[shard as u8; FRAME_SIZE]);
        }
        if live.len() == SEGMENTS_OF_CALL || number == segment_count {
            let count = if number == segment_count { live.len() } else { 1 };
            for call in live.drain(..count) {
                image.end(call, 1);
                image.forget(call);
            }
        }
        image.pass(20_000);
        image.seal();
        image.roll();
        if shard_dir.is_none() {
            shard_dir = Some(image.store(data_dir)?);
        }
        let Some(shard_dir) = &shard_dir else { continue };
        store_sealed(&mut image, number, shard_dir)?;
    }
    if let Some(shard_dir) = &shard_dir {
        // The last one has not begun.
        std::fs::remove_file(segment_path(shard_dir, segment_count + 1))
            .or_else(missing_is_fine)?;
        if has_tables {
            for group in 0..=call_table::group_of(segment_count) {
                call_table::make(shard_dir, group)?;
            }
        }
    }
    std::fs::write(data_dir.join(BOOT_FILE), "1\nmany-segments\n")?;
    Ok(segment_count)
}

/// Writes a segment and its index, and forgets its bytes.
fn store_sealed(image: &mut Image, id: u64, shard_dir: &Path) -> io::Result<()> {
    let (run, shard) = (*image.run(), image.shard());
    let segment = &mut image.segments_mut()[id as usize - 1];
    let end = segment.end_of_batches();
    let bytes = &std::mem::take(&mut segment.bytes)[..end];
    std::fs::write(segment_path(shard_dir, id), bytes)?;
    let lsn = Lsn((id - 1) * SEGMENT_SIZE as u64 + end as u64);
    let place = Place { run, shard, id, after: None, end: Some(lsn), is_fresh: true };
    let Ok(mut scan) = SegmentScan::open(bytes, place, ScanOptions::default())? else {
        return Err(io::Error::other("a segment with nothing to read"));
    };
    let mut builder = IndexBuilder::default();
    while scan.advance()? == Advance::Batch {
        scan.records().for_each(|found| builder.add(&found));
    }
    let index = builder.finish(run.number(), shard, id, &scan);
    std::fs::write(index_path(shard_dir, id), index.encode())
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
