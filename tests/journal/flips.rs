//! Ten thousand flips and cuts of a segment in memory, and every byte of every header. Each one is
//! found and named, or hits bytes without a meaning. Every record that was not hit can be read, and
//! nothing can be read that was not written.
//!
//! Then the same with blocks that the disk cannot read.
//!
//! After a crash, a hit beyond what was durable may look like a write that the power cut short. It
//! is then counted as one.
//!
//! This makes a million of them and prints the counts:
//!
//! ```text
//! EXO_INGEST_FLIPS=1000000 cargo test --release --test journal flips -- --nocapture
//! ```

use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::index::{IndexBuilder, SegmentIndex};
use exo_ingest::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use exo_ingest::archive::source::{Faulty, Source};
use exo_ingest::call::Epoch;
use exo_ingest::constants::BLOCK_SIZE;
use exo_ingest::format::{HEADER_SIZE, Lsn, RecordKind};
use std::collections::BTreeMap;
use std::ops::Range;

const SEGMENT_SIZE: usize = 24 * 1024;

/// Flips and cuts of a normal run.
const FLIPS: u64 = 10_000;

fn flips() -> u64 {
    std::env::var("EXO_INGEST_FLIPS")
        .ok()
        .map_or(FLIPS, |flips| flips.parse().expect("EXO_INGEST_FLIPS is a number"))
}

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn within(&mut self, range: Range<usize>) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (mixed ^ (mixed >> 31)) as usize % range.len()
    }
}

/// Prints the number of the flip or cut if the test fails there.
struct Note<'a>(&'a str, u64);

impl Drop for Note<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was {} number {}", self.0, self.1);
        }
    }
}

/// A record: its kind, all of its bytes with padding, and where the payload ends.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    kind: RecordKind,
    range: Range<usize>,
    encoded: Vec<u8>,
    payload: Vec<u8>,
}

/// A segment and its records.
struct Sample {
    place: Place,
    /// Bytes that were durable by its batches. All of them, if the next segment says where this one
    /// ends.
    durable_end: usize,
    bytes: Vec<u8>,
    batches: Vec<Range<usize>>,
    known: BTreeMap<usize, Known>,
}

/// What a scan found: records by offset, named places, and whether the segment could be read at
/// all.
struct Found {
    records: BTreeMap<usize, (RecordKind, Vec<u8>, Vec<u8>)>,
    named: Vec<u64>,
    durable_end: u64,
    /// Bad bytes pass for bytes that were not durable.
    is_lossy: bool,
    is_read: bool,
}

fn scan(source: impl Source, place: Place) -> Found {
    let (records, named) = (BTreeMap::new(), Vec::new());
    let mut found = Found { records, named, durable_end: 0, is_lossy: false, is_read: false };
    let Ok(mut scan) =
        SegmentScan::open(source, place, ScanOptions::default()).expect("memory can be read")
    else {
        return found;
    };
    found.is_read = true;
    while scan.advance().expect("memory can be read") == Advance::Batch {
        for record in scan.records() {
            let value =
                (record.header.kind, record.header.encode().to_vec(), record.payload.to_vec());
            assert!(
                found.records.insert(record.offset as usize, value).is_none(),
                "a record comes twice"
            );
        }
    }
    (found.durable_end, found.is_lossy) = (scan.durable_end(), scan.stats().is_lossy);
    found.named = scan.damages().iter().map(|damage| damage.offset).chain(scan.torn_at()).collect();
    found
}

fn audio(epoch: Epoch, seq: usize) -> Vec<u8> {
    let size = [320, 0, 161, 700, 64, 1][seq % 6];
    (0..size).map(|at| (epoch.micros as usize * 13 + seq * 5 + at) as u8).collect()
}

/// Two segments with three calls each. The second one is the last, so nothing says where it ends.
/// Then the same two as a crash leaves them if only the first sync of each completed.
fn samples() -> Vec<Sample> {
    [false, true].into_iter().flat_map(samples_of).collect()
}

fn samples_of(holds_syncs: bool) -> Vec<Sample> {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).expect("memory");
    let epochs = ["one", "two", "three"].map(|name| image.start("acme", name, 8_000));
    for round in 1..=12 {
        image.pass(100_000);
        for epoch in epochs {
            let bytes = audio(epoch, round);
            let (front, back) = bytes.split_at(bytes.len() / 2);
            match round % 3 {
                0 => image.chunks(epoch, &[front, back], true),
                _ => image.frame(epoch, &bytes),
            }
        }
        if round % 2 == 0 {
            image.seal();
        }
        if holds_syncs && (round == 2 || round == 8) {
            image.hold_syncs(false);
            image.hold_syncs(true);
        }
        if round == 6 {
            image.roll();
        }
    }
    epochs.into_iter().for_each(|epoch| image.end(epoch, 1));
    image.seal();
    let segments = image.segments();
    assert_eq!(segments.len(), 2);
    let start = |id: u64| Lsn((id - 1) * SEGMENT_SIZE as u64);
    let sample = |segment: &image::Segment| {
        let after = (segment.id > 1).then(|| start(segment.id - 1));
        let end =
            (segment.id < 2).then(|| Lsn(start(segment.id).0 + segment.end_of_batches() as u64));
        let place = Place {
            run: *image.run(),
            shard: image.shard(),
            id: segment.id,
            after,
            end,
            is_fresh: false,
        };
        let found = scan(&segment.bytes[..], place);
        assert!(found.is_read && found.named.is_empty());
        let durable_end = found.durable_end as usize;
        assert!(holds_syncs || durable_end >= segment.batches.last().unwrap().start);
        let known = found.records.into_iter().map(|(at, (kind, encoded, payload))| {
            let end = at + HEADER_SIZE + payload.len().next_multiple_of(HEADER_SIZE);
            (at, Known { kind, range: at..end, encoded, payload })
        });
        Sample {
            place,
            durable_end,
            bytes: segment.bytes.clone(),
            batches: segment.batches.clone(),
            known: known.collect(),
        }
    };
    segments.iter().map(sample).collect()
}

impl Sample {
    /// Whether the byte has no meaning: after all batches, or in the padding of one.
    fn is_unread(&self, at: usize) -> bool {
        let Some(batch) = self.batches.iter().find(|batch| batch.contains(&at)) else {
            return at >= self.end();
        };
        let records_end = self
            .known
            .range(batch.clone())
            .next_back()
            .map_or(batch.start, |(_, known)| known.range.end);
        at >= records_end + HEADER_SIZE
    }

    fn end(&self) -> usize {
        self.batches.last().expect("it has batches").end
    }

    /// Reads bytes that were hit at these places; returns how many records are lost.
    fn check(&self, bytes: &[u8], hits: &[usize]) -> usize {
        let found = scan(bytes, self.place);
        for (at, (kind, encoded, payload)) in &found.records {
            let known = self
                .known
                .get(at)
                .unwrap_or_else(|| panic!("a record at {at} that was not written"));
            assert!(
                (known.kind, &known.encoded, &known.payload) == (*kind, encoded, payload),
                "another record at {at}"
            );
        }
        let is_cut = |known: &Known| known.range.end > bytes.len();
        let is_hit =
            |known: &Known| is_cut(known) || hits.iter().any(|at| known.range.contains(at));
        let lost: Vec<_> = self
            .known
            .values()
            .filter(|known| !found.records.contains_key(&known.range.start))
            .collect();
        for known in &lost {
            assert!(
                is_hit(known),
                "the record at {} was not hit by {hits:?}, {} bytes left",
                known.range.start,
                bytes.len()
            );
        }
        // Every hit is named, close to its place.
        for at in hits.iter().copied().filter(|at| !self.is_unread(*at) && *at < bytes.len()) {
            let batch =
                self.batches.iter().find(|batch| batch.contains(&at)).cloned().unwrap_or(0..1);
            let is_near = |offset: &u64| batch.contains(&(*offset as usize));
            // A hit may remove the last batch as a whole. Then its calls have no end record.
            let is_last = self.place.end.is_none() && batch.end == self.end();
            let is_unsynced = self.place.end.is_none() && at >= self.durable_end;
            let is_gone =
                is_last && !found.records.keys().any(|at| batch.contains(at)) && hits.len() > 2;
            assert!(
                is_gone || found.named.iter().any(is_near) || (is_unsynced && found.is_lossy),
                "the hit at {at} of {hits:?} has no name: {:?}",
                found.named
            );
        }
        lost.len()
    }
}

#[test]
fn every_byte_of_every_header_is_named_and_costs_one_record_at_most() {
    let (mut flips, mut kinds) = (0, BTreeMap::new());
    for sample in samples() {
        let records = sample
            .known
            .values()
            .map(|known| (format!("{:?}", known.kind), known.range.start, HEADER_SIZE));
        let batches =
            sample.batches.iter().map(|batch| ("batch".to_owned(), batch.start, HEADER_SIZE));
        let pads = sample.batches.iter().filter_map(|batch| {
            let last = sample.known.range(batch.clone()).next_back()?.1.range.end;
            (last < batch.end).then(|| ("Pad".to_owned(), last, HEADER_SIZE))
        });
        let segment = [("segment".to_owned(), 0, sample.batches[0].start)];
        let headers: Vec<_> =
            segment.into_iter().chain(batches).chain(records).chain(pads).collect();
        for (kind, start, size) in headers {
            for at in start..start + size {
                let _note = Note("byte", at as u64);
                let mut bytes = sample.bytes.clone();
                bytes[at] ^= [0x01, 0x80, 0x10, 0xFF][flips as usize % 4];
                let lost = sample.check(&bytes, &[at]);
                assert!(
                    lost <= usize::from(sample.known.contains_key(&start)),
                    "{kind} header: {lost} lost"
                );
                flips += 1;
                *kinds.entry(kind.clone()).or_insert(0) += 1;
            }
        }
    }
    println!("{flips} bytes of headers flipped, one at a time: {kinds:?}");
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

#[test]
fn random_flips_cost_what_they_hit() {
    let (samples, mut dice) = (samples(), Dice(1));
    let (mut lost, mut unread) = (0, 0);
    for number in 0..flips() {
        let _note = Note("flip", number);
        let sample = &samples[dice.within(0..samples.len())];
        // One bit, one byte, a whole sector: so do disks fail.
        let mut bytes = sample.bytes.clone();
        // Small batches are mostly padding. Try a few places to find one that has a meaning.
        let anywhere = |dice: &mut Dice| dice.within(0..sample.bytes.len());
        let at = (0..4)
            .map(|_| anywhere(&mut dice))
            .find(|at| !sample.is_unread(*at))
            .unwrap_or(sample.bytes.len() - 1);
        let mut hits: Vec<usize> = match dice.within(0..8) {
            0 => (at - at % 512..(at - at % 512 + 512).min(bytes.len())).collect(),
            1 => (at..(at + dice.within(1..100)).min(bytes.len())).collect(),
            2 => vec![at, dice.within(0..sample.end())],
            _ => vec![at],
        };
        hits.dedup();
        for at in &hits {
            bytes[*at] ^=
                if hits.len() > 2 { dice.within(1..256) as u8 } else { 1 << dice.within(0..8) };
        }
        lost += sample.check(&bytes, &hits);
        unread += u64::from(hits.iter().all(|at| sample.is_unread(*at)));
    }
    println!(
        "{} random flips: {lost} records lost, all of them hit; {unread} hit padding",
        flips()
    );
}

#[test]
fn blocks_that_cannot_be_read_cost_what_is_in_them_and_are_named() {
    let (samples, mut dice) = (samples(), Dice(3));
    let (mut lost, mut unread) = (0, 0);
    for number in 0..flips() {
        let _note = Note("bad sector", number);
        let sample = &samples[dice.within(0..samples.len())];
        // Of a run of the second format: no batch in a file is another segment's.
        let place = Place { is_fresh: true, ..sample.place };
        let count = if dice.within(0..4) == 0 { dice.within(2..5) } else { 1 };
        let blocks: Vec<Range<usize>> = (0..count)
            .map(|_| dice.within(0..sample.bytes.len() / BLOCK_SIZE) * BLOCK_SIZE)
            .map(|block| block..block + BLOCK_SIZE)
            .collect();
        // One sector of each is bad: no byte of its block can be read.
        let bad = |block: &Range<usize>| {
            let sector = block.start + dice.within(0..BLOCK_SIZE / 512) * 512;
            sector as u64..sector as u64 + 512
        };
        let unreadable = blocks.iter().map(bad).collect();
        let found = scan(Faulty { source: &sample.bytes[..], unreadable }, place);
        let meets = |range: &Range<usize>| {
            blocks.iter().any(|block| block.start < range.end && range.start < block.end)
        };
        for (at, (kind, encoded, payload)) in &found.records {
            let known = sample.known.get(at).unwrap_or_else(|| panic!("a record at {at}"));
            assert!((known.kind, &known.encoded, &known.payload) == (*kind, encoded, payload));
        }
        for known in sample.known.values() {
            let is_found = found.records.contains_key(&known.range.start);
            let is_hit = meets(&known.range);
            assert!(is_found || is_hit, "the record at {:?} is not in {blocks:?}", known.range);
            lost += usize::from(!is_found);
        }
        for block in &blocks {
            // After the stated end of a segment there is nothing to lose.
            let is_over = place.end.is_some() && block.start >= sample.end();
            let is_named = found.named.contains(&(block.start as u64))
                || blocks.iter().any(|before| before.end == block.start);
            // Nothing of it can be read: whoever opens it says so.
            let is_lost = !found.is_read && sample.batches.iter().all(&meets) && meets(&(0..1));
            assert!(is_over || is_named || is_lost, "{block:?} of {blocks:?}: {:?}", found.named);
            unread += usize::from(is_over);
        }
        assert!(!found.is_lossy || sample.durable_end < sample.end(), "no power failed");
    }
    assert!(lost > 0);
    println!(
        "{} times bad blocks: {lost} records lost, all in them; {unread} after the end",
        flips()
    );
}

#[test]
fn a_cut_anywhere_costs_what_comes_after_it() {
    let (samples, mut dice) = (samples(), Dice(2));
    let mut lost = 0;
    let count = flips() / 4;
    for number in 0..count {
        let _note = Note("cut", number);
        let sample = &samples[dice.within(0..samples.len())];
        let size = dice.within(0..sample.end() + 1);
        let bytes = &sample.bytes[..size];
        lost += sample.check(bytes, &[]);
        let found = scan(bytes, sample.place);
        // If the last segment ends with a batch, nothing says that there was more. Its calls have
        // no end record.
        let is_border =
            sample.place.end.is_none() && (size == sample.batches[0].start || sample.ends_at(size));
        assert!(
            !found.is_read || is_border || size == sample.end() || !found.named.is_empty(),
            "cut at {size}: nothing is named"
        );
    }
    println!("{count} cuts: {lost} records lost, all of them after the cut");
}

impl Sample {
    fn ends_at(&self, size: usize) -> bool {
        self.batches.iter().any(|batch| batch.end == size)
    }
}

#[test]
fn an_index_with_any_byte_flipped_or_cut_off_is_none() {
    let sample = &samples()[1];
    let mut scan = SegmentScan::open(&sample.bytes[..], sample.place, ScanOptions::default())
        .unwrap()
        .unwrap();
    let mut builder = IndexBuilder::default();
    while scan.advance().unwrap() == Advance::Batch {
        scan.records().for_each(|found| builder.add(&found));
    }
    let encoded = builder.finish(sample.place.run.number(), 0, sample.place.id, &scan).encode();
    assert!(SegmentIndex::decode(&encoded).is_ok());
    for at in 0..encoded.len() {
        for bit in 0..8 {
            let mut flipped = encoded.clone();
            flipped[at] ^= 1 << bit;
            assert!(SegmentIndex::decode(&flipped).is_err(), "bit {bit} of byte {at}");
        }
        assert!(SegmentIndex::decode(&encoded[..at]).is_err(), "cut at {at}");
    }
    println!(
        "{} bits of an index flipped, one at a time, and {} cuts",
        encoded.len() * 8,
        encoded.len()
    );
}
