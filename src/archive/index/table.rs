//! Sorted rows of a fixed size in blocks, and how to find the rows of a call without reading all of
//! them.
//!
//! ```text
//! block    rows …, each with the call's number in its first 8 bytes; zeros; u32 crc at 4,092
//! fences   u32 stride, then u64 for every stride-th block: the call in its first row
//! ```
//! The fences are in a file's header. With up to [`FENCES_MAX`] blocks there is one for each, and a
//! lookup reads the header and one block, or two if the call's rows are in two.

#![forbid(unsafe_code)]

use crate::constants::BLOCK_SIZE;
use crate::format::FormatError;

/// Most fences in a header.
pub(crate) const FENCES_MAX: usize = 480;

/// Bytes of the fences in a header.
pub(crate) const FENCES_SIZE: usize = 8 + 8 * FENCES_MAX;

/// Offset of the checksum of a block.
pub(crate) const CRC_AT: usize = BLOCK_SIZE - 4;

/// A block of a file.
pub(crate) type Block = [u8; BLOCK_SIZE];

/// Number of rows of `N` bytes in a block.
pub(crate) const fn rows_of_block<const N: usize>() -> usize {
    CRC_AT / N
}

/// Number of blocks of `count` rows.
pub(crate) const fn block_count<const N: usize>(count: u64) -> u64 {
    count.div_ceil(rows_of_block::<N>() as u64)
}

/// Sets the checksum of a block. `seed` differs for each file, and `number` for each block.
pub(crate) fn seal(block: &mut Block, seed: u32, number: u64) {
    let crc = crc(block, seed, number);
    block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Whether the checksum of a block is right.
pub(crate) fn check(block: &Block, seed: u32, number: u64) -> Result<(), FormatError> {
    let is_sound = block[CRC_AT..] == crc(block, seed, number).to_le_bytes();
    if is_sound { Ok(()) } else { Err(FormatError::HeaderCrc) }
}

fn crc(block: &Block, seed: u32, number: u64) -> u32 {
    crc32c::crc32c_append(seed ^ number as u32, &block[..CRC_AT])
}

/// The call's number in a row.
pub(crate) fn call_of(row: &[u8]) -> u64 {
    row.first_chunk().map_or(0, |call| u64::from_le_bytes(*call))
}

/// Puts sorted rows into blocks, one block after the other.
#[derive(Debug)]
pub(crate) struct TableWriter<const N: usize> {
    block: Box<Block>,
    row_count: u64,
    seed: u32,
    /// The call in the first row of each block.
    calls: Vec<u64>,
}

impl<const N: usize> TableWriter<N> {
    /// For a table without rows.
    pub(crate) fn new(seed: u32) -> Self {
        TableWriter { block: Box::new([0; BLOCK_SIZE]), row_count: 0, seed, calls: Vec::new() }
    }

    /// Adds a row; not less than the one before. Passes a full block to `write`.
    pub(crate) fn add<E>(
        &mut self,
        row: &[u8; N],
        mut write: impl FnMut(&Block) -> Result<(), E>,
    ) -> Result<(), E> {
        let per_block = rows_of_block::<N>() as u64;
        let (number, at) = (self.row_count / per_block, (self.row_count % per_block) as usize);
        if at == 0 {
            self.calls.push(call_of(row));
        }
        self.block[at * N..(at + 1) * N].copy_from_slice(row);
        self.row_count += 1;
        if at + 1 == per_block as usize { self.write_block(number, &mut write) } else { Ok(()) }
    }

    /// Passes the last block to `write`. Returns the fences and the number of rows.
    pub(crate) fn finish<E>(
        mut self,
        mut write: impl FnMut(&Block) -> Result<(), E>,
    ) -> Result<(Fences, u64), E> {
        let per_block = rows_of_block::<N>() as u64;
        if !self.row_count.is_multiple_of(per_block) {
            self.write_block(self.row_count / per_block, &mut write)?;
        }
        let stride = self.calls.len().div_ceil(FENCES_MAX).max(1);
        let calls = self.calls.into_iter().step_by(stride).collect();
        Ok((Fences { stride: stride as u32, calls }, self.row_count))
    }

    fn write_block<E>(
        &mut self,
        number: u64,
        write: &mut impl FnMut(&Block) -> Result<(), E>,
    ) -> Result<(), E> {
        seal(&mut self.block, self.seed, number);
        write(&self.block)?;
        self.block.fill(0);
        Ok(())
    }
}

/// The call in the first row of every so many blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fences {
    stride: u32,
    calls: Vec<u64>,
}

impl Fences {
    /// Writes them to the start of `out`.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.stride.to_le_bytes());
        for (at, call) in self.calls.iter().take(FENCES_MAX).enumerate() {
            out[8 + at * 8..16 + at * 8].copy_from_slice(&call.to_le_bytes());
        }
    }

    /// Reads those of a table of `block_count` blocks.
    pub(crate) fn decode(bytes: &[u8], block_count: u64) -> Result<Fences, FormatError> {
        let (stride, rest) = bytes.split_first_chunk().ok_or(FormatError::Truncated)?;
        let stride = u32::from_le_bytes(*stride);
        if stride == 0 {
            return Err(FormatError::Size(0));
        }
        let count = block_count.div_ceil(u64::from(stride));
        let count = usize::try_from(count).ok().filter(|count| *count <= FENCES_MAX);
        let count = count.ok_or(FormatError::Size(block_count))?;
        let calls = rest.get(4..).ok_or(FormatError::Truncated)?.chunks_exact(8).take(count);
        Ok(Fences { stride, calls: calls.map(call_of).collect() })
    }

    /// The first block that may hold a row of `call`.
    fn first_block(&self, call: u64) -> u64 {
        let place = self.calls.partition_point(|first| *first < call);
        place.saturating_sub(1) as u64 * u64::from(self.stride)
    }
}

/// A table in a file.
#[derive(Clone, Debug)]
pub(crate) struct Table<const N: usize> {
    pub(crate) row_count: u64,
    pub(crate) seed: u32,
    pub(crate) fences: Fences,
}

impl<const N: usize> Table<N> {
    /// Number of its blocks.
    pub(crate) fn block_count(&self) -> u64 {
        block_count::<N>(self.row_count)
    }

    /// The rows of a call. `read` reads the block of this number.
    pub(crate) fn find<E: From<FormatError>>(
        &self,
        call: u64,
        mut read: impl FnMut(u64) -> Result<Box<Block>, E>,
    ) -> Result<Vec<[u8; N]>, E> {
        let mut found = Vec::new();
        for number in self.fences.first_block(call)..self.block_count() {
            let block = read(number)?;
            for row in self.rows(&block, number)? {
                match call_of(row).cmp(&call) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => found.push(*row),
                    std::cmp::Ordering::Greater => return Ok(found),
                }
            }
        }
        Ok(found)
    }

    /// The rows in a block.
    pub(crate) fn rows<'a>(
        &self,
        block: &'a Block,
        number: u64,
    ) -> Result<&'a [[u8; N]], FormatError> {
        check(block, self.seed, number)?;
        let per_block = rows_of_block::<N>() as u64;
        let count = self.row_count.saturating_sub(number * per_block).min(per_block) as usize;
        let (rows, rest) = block.split_at(count * N);
        if rest[..rest.len() - 4].iter().any(|byte| *byte != 0) {
            return Err(FormatError::Padding);
        }
        Ok(rows.as_chunks::<N>().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    type Row = [u8; 24];

    fn row(call: u64, number: u64) -> Row {
        let mut row = [0; 24];
        row[..8].copy_from_slice(&call.to_le_bytes());
        row[8..16].copy_from_slice(&number.to_be_bytes());
        row
    }

    fn table(rows: &[Row]) -> (Vec<Block>, Table<24>) {
        let (mut writer, mut blocks) = (TableWriter::<24>::new(7), Vec::new());
        let mut write = |block: &Block| -> Result<(), Infallible> {
            blocks.push(*block);
            Ok(())
        };
        for row in rows {
            writer.add(row, &mut write).unwrap();
        }
        let (fences, row_count) = writer.finish(&mut write).unwrap();
        let mut bytes = [0; FENCES_SIZE];
        fences.encode(&mut bytes);
        assert_eq!(Fences::decode(&bytes, block_count::<24>(row_count)), Ok(fences.clone()));
        (blocks, Table { row_count, seed: 7, fences })
    }

    proptest! {
        #[test]
        fn the_rows_of_a_call_are_found_as_in_a_list(
            mut calls in prop::collection::vec(0u64..300, 0..2_000), stride in 1usize..9,
        ) {
            calls.sort_unstable();
            let rows: Vec<Row> =
                calls.iter().enumerate().map(|(at, call)| row(*call, at as u64)).collect();
            let (blocks, mut table) = table(&rows);
            // As in a table with more blocks than fences.
            let calls = table.fences.calls.into_iter().step_by(stride).collect();
            table.fences = Fences { stride: stride as u32, calls };
            for call in 0..301 {
                let read = |number: u64| Ok::<_, FormatError>(Box::new(blocks[number as usize]));
                let found = table.find(call, read).unwrap();
                let expected = rows.iter().filter(|row| call_of(&row[..]) == call);
                prop_assert!(found.iter().eq(expected), "call {}", call);
            }
        }
    }

    #[test]
    fn a_lookup_in_a_full_table_reads_one_block_or_two() {
        let count = (FENCES_MAX * rows_of_block::<24>()) as u64;
        let rows: Vec<Row> = (0..count).map(|call| row(3 * call, 0)).collect();
        let (blocks, table) = table(&rows);
        for call in (0..3 * count).step_by(97) {
            let mut reads = 0;
            let read = |number: u64| {
                reads += 1;
                Ok::<_, FormatError>(Box::new(blocks[number as usize]))
            };
            assert_eq!(table.find(call, read).unwrap().len(), usize::from(call % 3 == 0));
            assert!(reads <= 2, "call {call}: {reads} reads");
        }
    }

    #[test]
    fn damage_and_a_block_at_another_place_are_noticed() {
        let rows: Vec<Row> = (0..400).map(|call| row(call, 0)).collect();
        let (blocks, table) = table(&rows);
        for at in 0..BLOCK_SIZE {
            let mut damaged = blocks[1];
            damaged[at] ^= 4;
            assert_eq!(table.rows(&damaged, 1), Err(FormatError::HeaderCrc), "byte {at}");
        }
        assert!(table.rows(&blocks[1], 1).is_ok() && table.rows(&blocks[1], 0).is_err());
        assert!(Table { seed: 8, ..table }.rows(&blocks[1], 1).is_err());
    }
}
