//! Where the audio records of an epoch are in a segment's file.
//!
//! ```text
//! for each record, in the order of the file, as numbers of 7 bits a byte, low ones first:
//!   twice the lines (64 bytes) from the end of the record before, or from the start of the file;
//!   plus 1 if its size differs from that of the record before
//!   its size in lines, only then
//! ```
//! A frame of a call among 1,000 others takes two or three bytes.

#![forbid(unsafe_code)]

use crate::constants::RECORD_ALIGNMENT;
use crate::format::FormatError;

const LINE: u64 = RECORD_ALIGNMENT as u64;

/// A record in a segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    /// Offset of its header in the file, bytes.
    pub(crate) offset: u64,
    /// Its size with header and padding, bytes.
    pub(crate) size: u64,
}

/// The places of an epoch's audio records, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordPlaces {
    bytes: Vec<u8>,
    /// Where the last record ends, in lines.
    end: u64,
    /// Size of the last record, in lines.
    size: u64,
}

impl RecordPlaces {
    /// Adds a record after those that are there. `false`: it begins before the last one ends, or
    /// not on a line, so it was not added.
    pub(crate) fn add(&mut self, place: RecordPlace) -> bool {
        let RecordPlace { offset, size } = place;
        let Some(skipped) = (offset / LINE).checked_sub(self.end) else { return false };
        let size = size.div_ceil(LINE);
        if !offset.is_multiple_of(LINE) || size == 0 || skipped > u64::MAX / 2 {
            return false;
        }
        put(&mut self.bytes, 2 * skipped + u64::from(size != self.size));
        if size != self.size {
            put(&mut self.bytes, size);
        }
        (self.end, self.size) = (self.end + skipped + size, size);
        true
    }

    /// The bytes for the file.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The places that a file's bytes hold.
    pub(crate) fn decode(bytes: &[u8]) -> Result<RecordPlaces, FormatError> {
        let mut places = RecordPlaces { bytes: bytes.to_vec(), ..RecordPlaces::default() };
        let mut rest = Places { rest: bytes, end: 0, size: 0 };
        while !rest.rest.is_empty() {
            rest.read().ok_or(FormatError::Truncated)?;
        }
        (places.end, places.size) = (rest.end, rest.size);
        Ok(places)
    }

    /// The records.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RecordPlace> {
        self.cursor_at(Cursor::default())
    }

    /// The records from a place in the list on.
    pub(crate) fn cursor_at(&self, cursor: Cursor) -> Places<'_> {
        let Cursor { at, end, size } = cursor;
        Places { rest: self.bytes.get(at..).unwrap_or_default(), end, size }
    }

    /// The cursor of an iterator over these places.
    pub(crate) fn cursor_of(&self, places: &Places<'_>) -> Cursor {
        let at = self.bytes.len() - places.rest.len();
        Cursor { at, end: places.end, size: places.size }
    }
}

/// A place in the list, for a reader that cannot keep a reference to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    at: usize,
    end: u64,
    size: u64,
}

/// Iterates over places.
#[derive(Clone, Debug)]
pub(crate) struct Places<'a> {
    rest: &'a [u8],
    end: u64,
    size: u64,
}

impl Places<'_> {
    fn read(&mut self) -> Option<RecordPlace> {
        let first = take(&mut self.rest)?;
        if first % 2 == 1 {
            self.size = take(&mut self.rest)?;
        }
        let start = self.end.checked_add(first / 2)?;
        self.end = start.checked_add(self.size)?;
        let (offset, size) = (start.checked_mul(LINE)?, self.size.checked_mul(LINE)?);
        Some(RecordPlace { offset, size })
    }
}

impl Iterator for Places<'_> {
    type Item = RecordPlace;

    fn next(&mut self) -> Option<RecordPlace> {
        self.read()
    }
}

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Splits a number off; `None` if there is none.
pub(crate) fn take(rest: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0u64, 0);
    loop {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_read_back_as_they_were_added(
            steps in prop::collection::vec((0u64..1 << 40, 1u64..40_000, any::<bool>()), 0..50),
        ) {
            let (mut places, mut expected, mut end) = (RecordPlaces::default(), Vec::new(), 0);
            let mut last = 1;
            for (skipped, size, same) in steps {
                let size = if same { last } else { size };
                last = size;
                let place = RecordPlace { offset: end + skipped * LINE, size: size * LINE };
                prop_assert!(places.add(place));
                end = place.offset + place.size;
                expected.push(place);
            }
            prop_assert!(places.iter().eq(expected.iter().copied()));
            prop_assert_eq!(RecordPlaces::decode(places.as_bytes()), Ok(places.clone()));
            let mut first = places.cursor_at(Cursor::default());
            let half = expected.len() / 2;
            prop_assert!(first.by_ref().take(half).eq(expected[..half].iter().copied()));
            let rest = places.cursor_at(places.cursor_of(&first));
            prop_assert!(rest.eq(expected[half..].iter().copied()));
        }

        #[test]
        fn arbitrary_bytes_end_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(places) = RecordPlaces::decode(&bytes) {
                prop_assert!(places.iter().count() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_record_before_the_last_one_or_between_lines_is_refused() {
        let mut places = RecordPlaces::default();
        assert!(places.add(RecordPlace { offset: 128, size: 64 }));
        for (offset, size) in [(128, 64), (64, 64), (200, 64), (192, 0)] {
            assert!(!places.add(RecordPlace { offset, size }), "{offset}, {size}");
        }
        assert!(places.add(RecordPlace { offset: 192, size: 64 }));
        assert_eq!(places.as_bytes(), [5, 1, 0], "the second follows at once, with the same size");
    }
}
