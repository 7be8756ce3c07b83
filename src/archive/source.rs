//! Where the bytes of a segment come from: a file, or an image in memory.
//!
//! Files are read around the page cache (O_DIRECT) if the filesystem allows it. So the bytes are
//! those on the disk. Reading a terabyte of recordings does not evict a live node's memory from the
//! cache.

#![forbid(unsafe_code)]

use super::lock;
pub(crate) use super::medium::is_of_medium;
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::format::SegmentHeader;
use crate::io::memory::Region;
use rustix::fs::{AtFlags, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, statx};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes in one read: a few batches, so that the disk is busy while a batch is checked.
const WINDOW_SIZE: usize = 4 * BATCH_SIZE_MAX;

/// Bytes in one read of a reader that expects little: the end of a segment that is being written.
const SHORT_READ: usize = 32 * 1024;

/// Bytes that can be read at an offset.
pub trait Source {
    /// Number of bytes.
    fn size(&self) -> u64;

    /// Reads into a buffer that starts on a page. Returns the number of bytes read, 0 at the end.
    /// The offset and the buffer's size are multiples of the block size, or of
    /// [`SegmentFile::read_alignment`].
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let size = rest.len().min(into.len());
        into[..size].copy_from_slice(&rest[..size]);
        Ok(size)
    }
}

/// A source with blocks that cannot be read, for tests.
#[cfg(any(test, feature = "test-doubles"))]
#[derive(Clone, Debug)]
pub struct Faulty<S> {
    /// What is read elsewhere.
    pub source: S,
    /// The bytes that no read may touch, offsets.
    pub unreadable: Vec<Range<u64>>,
}

#[cfg(any(test, feature = "test-doubles"))]
impl<S: Source> Source for Faulty<S> {
    fn size(&self) -> u64 {
        self.source.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let end = (offset + into.len() as u64).min(self.size());
        if self.unreadable.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(Errno::IO.into());
        }
        self.source.read_at(offset, into)
    }
}

/// What holds a segment's file when a reader opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Only readers. As long as this reader has it open, it does not change.
    Readers,
    /// A writer: more bytes may follow those read.
    Writer,
}

/// A segment's file, open for reading.
#[derive(Debug)]
pub struct SegmentFile {
    file: File,
    path: PathBuf,
    size: u64,
    holder: Holder,
}

impl SegmentFile {
    /// Opens the file and takes a reader's lock if it can. `NotFound` means that retention removed
    /// it first.
    pub(crate) fn open(path: &Path) -> io::Result<SegmentFile> {
        let file = open_direct(path)?;
        let holder = if lock::try_shared(&file)? { Holder::Readers } else { Holder::Writer };
        if !lock::is_still(path, &file)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(SegmentFile { size: file.metadata()?.len(), file, path: path.to_owned(), holder })
    }

    /// Opens a file without a lock, for a caller that has locked it already.
    pub(super) fn of_owner(path: &Path) -> io::Result<SegmentFile> {
        let file = open_direct(path)?;
        let size = file.metadata()?.len();
        Ok(SegmentFile { size, file, path: path.to_owned(), holder: Holder::Readers })
    }

    /// What held the file when it was opened, or at the last [`SegmentFile::refresh`].
    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }

    /// Whether the file's name is gone, or names another file.
    pub(crate) fn is_gone(&self) -> io::Result<bool> {
        lock::is_still(&self.path, &self.file).map(|is_still| !is_still)
    }

    /// What offsets and sizes of reads must be a multiple of, bytes: the logical block of the disk,
    /// 512 bytes on most, if the kernel says so. At most [`BLOCK_SIZE`].
    pub(super) fn read_alignment(&self) -> io::Result<u64> {
        let asked = statx(&self.file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
        let said = match asked {
            Ok(found) if found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
                u64::from(found.stx_dio_offset_align)
            }
            // Linux before 6.1, or a filesystem that does not say.
            Ok(_) | Err(Errno::NOSYS | Errno::INVAL) => 0,
            Err(error) => return Err(error.into()),
        };
        let block = BLOCK_SIZE as u64;
        let is_usable = said.is_power_of_two() && (512..=block).contains(&said);
        Ok(if is_usable { said } else { block })
    }

    /// Checks again what holds the file, and how large it is.
    pub(crate) fn refresh(&mut self) -> io::Result<Holder> {
        self.size = self.file.metadata()?.len();
        if self.holder == Holder::Writer && lock::try_shared(&self.file)? {
            self.holder = Holder::Readers;
        }
        Ok(self.holder)
    }
}

impl Source for SegmentFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        read_direct(&self.file, offset, into)
    }
}

/// Opens a file for reads around the page cache, if its filesystem allows that.
fn open_direct(path: &Path) -> io::Result<File> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    match File::options().read(true).custom_flags(direct).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(path),
        opened => opened,
    }
}

/// Reads from a file of [`open_direct`] into memory that starts on a block.
fn read_direct(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read_at(into, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                // Some filesystems accept the flag but refuse the read, or refuse the short block
                // at the end of a cut file.
                let flags = fcntl_getfl(file)?;
                if !flags.contains(OFlags::DIRECT) {
                    return Err(error);
                }
                fcntl_setfl(file, flags - OFlags::DIRECT)?;
            }
            done => return done,
        }
    }
}

/// Memory for one block, aligned as direct reads need it.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_SIZE]);

const _: () = assert!(align_of::<Block>() == BLOCK_SIZE);

/// What the first block of a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    /// A segment's header.
    Header(SegmentHeader),
    /// Only zeros, or less than a block: allocated, and not begun.
    Blank,
    /// Anything else, or the disk cannot read it.
    Bad,
}

/// Reads the first block of a segment's file, around the page cache like everything else of it: a
/// page that a read leaves in the cache beside direct writes can make a later sync fail.
pub(crate) fn first_block(path: &Path) -> io::Result<FirstBlock> {
    let file = match open_direct(path) {
        Err(error) if is_of_medium(&error) => return Ok(FirstBlock::Bad),
        opened => opened?,
    };
    let mut block = Box::new(Block([0; BLOCK_SIZE]));
    let mut filled = 0;
    while filled < BLOCK_SIZE {
        match read_direct(&file, filled as u64, &mut block.0[filled..]) {
            Ok(0) => return Ok(FirstBlock::Blank),
            Ok(read) => filled += read,
            Err(error) if is_of_medium(&error) => return Ok(FirstBlock::Bad),
            Err(error) => return Err(error),
        }
    }
    Ok(match SegmentHeader::decode(&block.0) {
        Ok(header) => FirstBlock::Header(header),
        Err(_) if block.0.iter().all(|byte| *byte == 0) => FirstBlock::Blank,
        Err(_) => FirstBlock::Bad,
    })
}

/// The bytes in memory in place of those that cannot be read. No header and no checksum accepts
/// them.
const UNREADABLE: u8 = 0xBD;

/// A stretch of a source in memory; it moves along with reading.
///
/// A block that the medium cannot read does not end the reading. Other bytes stand for it, which
/// are never sound, and [`Window::unreadable`] lists it.
#[derive(Debug)]
pub(super) struct Window<S> {
    source: S,
    memory: Region,
    /// Offset in the source of the first byte in memory, and the number of bytes there.
    start: u64,
    filled: usize,
    /// Bytes to read at once, if fewer would do.
    read_size: usize,
    /// Bytes read so far.
    bytes_read: u64,
    /// Blocks that the medium cannot read, as offsets in the source: in order, none touches
    /// another. They are not read again: a failing disk takes seconds for each answer.
    unreadable: Vec<Range<u64>>,
}

impl<S: Source> Window<S> {
    pub(super) fn new(source: S) -> io::Result<Window<S>> {
        let wanted =
            usize::try_from(source.size()).unwrap_or(usize::MAX).clamp(BLOCK_SIZE, WINDOW_SIZE);
        let memory = Region::allocate(wanted.next_multiple_of(BLOCK_SIZE))?;
        let (read_size, unreadable) = (memory.len(), Vec::new());
        Ok(Window { source, memory, start: 0, filled: 0, read_size, bytes_read: 0, unreadable })
    }

    /// For a reader that needs what it asks for, and perhaps no more.
    pub(super) fn read_exactly(&mut self) {
        self.read_size = BLOCK_SIZE;
    }

    /// For a reader that expects little more than what it asks for.
    pub(super) fn read_little(&mut self) {
        self.read_size = SHORT_READ;
    }

    /// For a reader that goes on to the end: the default.
    pub(super) fn read_much(&mut self) {
        self.read_size = self.memory.len();
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    pub(super) fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    pub(super) fn into_source(self) -> S {
        self.source
    }

    /// Makes the next look read again: the source may have more bytes by then.
    pub(super) fn forget(&mut self) {
        self.filled = 0;
    }

    /// The bytes of the source from `offset`, a multiple of the block size: `size` bytes (at most a
    /// batch's largest), fewer at its end.
    pub(super) fn bytes(&mut self, offset: u64, size: usize) -> io::Result<&[u8]> {
        let held = self.held(offset);
        let wanted = usize::try_from(self.source.size().saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(size);
        if held.len() < wanted {
            // The rest of the old stretch starts on a block, so it may stay.
            let kept = held.len() - held.len() % BLOCK_SIZE;
            let from = held.start;
            self.memory.copy_within(from..from + kept, 0);
            self.start = offset;
            self.filled = kept;
            self.fill(wanted)?;
        }
        let held = self.held(offset);
        Ok(&self.memory[held.start..held.end.min(held.start + size)])
    }

    /// Reads until `wanted` bytes or more are there, or the source ends. Steps over what cannot be
    /// read: after an error the reads become smaller until one block is left, and larger again
    /// after it.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let goal = wanted.max(self.read_size).next_multiple_of(BLOCK_SIZE).min(self.memory.len());
        let mut step = self.memory.len();
        while self.filled < goal {
            let at = self.start + self.filled as u64;
            let into = &mut self.memory[self.filled..goal];
            let next = self.unreadable.iter().find(|bad| bad.end > at).cloned();
            let size = next.as_ref().map_or(u64::MAX, |bad| {
                if bad.start <= at { bad.end - at } else { bad.start - at }
            });
            let size = usize::try_from(size).unwrap_or(usize::MAX).min(into.len());
            if next.is_some_and(|bad| bad.start <= at) {
                let left = self.source.size().saturating_sub(at);
                let size = size.min(usize::try_from(left).unwrap_or(usize::MAX));
                if size == 0 {
                    return Ok(());
                }
                into[..size].fill(UNREADABLE);
                self.filled += size;
                continue;
            }
            let size = size.min(step);
            match self.source.read_at(at, &mut into[..size]) {
                Ok(read) => {
                    self.filled += read;
                    self.bytes_read += read as u64;
                    if read == 0 || !self.filled.is_multiple_of(BLOCK_SIZE) {
                        return Ok(());
                    }
                    step = step.saturating_mul(2);
                }
                Err(error) if !is_of_medium(&error) => return Err(error),
                Err(_) if size > BLOCK_SIZE => {
                    step = (size / 2).next_multiple_of(BLOCK_SIZE).min(size - BLOCK_SIZE);
                }
                Err(_) => {
                    step = BLOCK_SIZE;
                    let left = self.source.size().saturating_sub(at);
                    if left == 0 {
                        return Ok(());
                    }
                    let size = size.min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.give_up(at..at + BLOCK_SIZE as u64);
                    self.memory[self.filled..self.filled + size].fill(UNREADABLE);
                    self.filled += size;
                }
            }
        }
        Ok(())
    }

    /// Notes a block that cannot be read.
    fn give_up(&mut self, block: Range<u64>) {
        let place = self.unreadable.partition_point(|bad| bad.end < block.start);
        let mut joined = block;
        while let Some(bad) = self.unreadable.get(place).filter(|bad| bad.start <= joined.end) {
            joined = bad.start.min(joined.start)..bad.end.max(joined.end);
            self.unreadable.remove(place);
        }
        self.unreadable.insert(place, joined);
    }

    /// What the medium could not read so far, as offsets in the source, in order.
    pub(super) fn unreadable(&self) -> &[Range<u64>] {
        &self.unreadable
    }

    /// Whether some of these bytes could not be read.
    pub(super) fn is_unreadable(&self, range: Range<u64>) -> bool {
        self.unreadable.iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// The bytes that [`Window::bytes`] has made available, without another read.
    pub(super) fn held_bytes(&self, offset: u64) -> &[u8] {
        &self.memory[self.held(offset)]
    }

    fn held(&self, offset: u64) -> Range<usize> {
        let skipped =
            offset.checked_sub(self.start).and_then(|skipped| usize::try_from(skipped).ok());
        let from = skipped.map_or(self.filled, |skipped| skipped.min(self.filled));
        from..self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at / BLOCK_SIZE * 7 + at) as u8).collect()
    }

    #[test]
    fn a_window_shows_the_bytes_of_the_source_at_every_position() {
        let bytes = noise(2 * WINDOW_SIZE + BLOCK_SIZE + 5);
        let mut window = Window::new(&bytes[..]).unwrap();
        let last = bytes.len() / BLOCK_SIZE;
        for block in [0, 1, 250, 1023, 1024, 3, 2047, 1500, last - 1, last, last + 1, 0] {
            for size in [64, BLOCK_SIZE, BATCH_SIZE_MAX] {
                let at = block * BLOCK_SIZE;
                let expected = bytes.get(at..).unwrap_or_default();
                let expected = &expected[..expected.len().min(size)];
                assert!(
                    window.bytes(at as u64, size).unwrap() == expected,
                    "block {block}, {size} bytes"
                );
            }
        }
    }

    #[test]
    fn a_block_that_cannot_be_read_is_stepped_over_and_listed() {
        struct Counted<S>(S, std::cell::Cell<u32>);
        impl<S: Source> Source for Counted<S> {
            fn size(&self) -> u64 {
                self.0.size()
            }
            fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read_at(offset, into);
                self.1.set(self.1.get() + u32::from(read.is_err()));
                read
            }
        }
        let bytes = noise(WINDOW_SIZE + 3 * BLOCK_SIZE + 100);
        let block = BLOCK_SIZE as u64;
        let last = bytes.len() as u64 / block;
        for blocks in
            [vec![0], vec![7], vec![7, 8, 9], vec![500, 1_023, 1_024], vec![last - 1, last]]
        {
            // A sector of each block is bad.
            let unreadable = blocks.iter().map(|at| at * block + 64..at * block + 66).collect();
            let source = Faulty { source: &bytes[..], unreadable };
            let mut window = Window::new(Counted(source, std::cell::Cell::new(0))).unwrap();
            for at in (0..=last).chain([0, 700]) {
                let from = (at * block) as usize;
                let expected = &bytes[from..bytes.len().min(from + BLOCK_SIZE)];
                let found = window.bytes(at * block, BLOCK_SIZE).unwrap();
                if blocks.contains(&at) {
                    assert!(found == vec![UNREADABLE; expected.len()], "block {at}");
                } else {
                    assert!(found == expected, "block {at}");
                }
                let range = at * block..(at + 1) * block;
                assert!(!blocks.contains(&at) || window.is_unreadable(range));
            }
            let listed = window.unreadable().iter().flat_map(|bad| bad.clone().step_by(BLOCK_SIZE));
            assert!(listed.map(|at| at / block).eq(blocks.iter().copied()));
            // Each failed read of a disk takes seconds.
            let failed = window.source().1.get();
            assert!(failed <= 25 * blocks.len() as u32, "{blocks:?}: {failed} reads failed");
        }
        // A device that is gone is no damage.
        struct Gone;
        impl Source for Gone {
            fn size(&self) -> u64 {
                BLOCK_SIZE as u64
            }
            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
                Err(Errno::NODEV.into())
            }
        }
        assert!(Window::new(Gone).unwrap().bytes(0, BLOCK_SIZE).is_err());
    }

    #[test]
    fn a_file_reads_as_memory_does_and_keeps_retention_away() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = noise(3 * BLOCK_SIZE + 100);
        std::fs::write(file.path(), &bytes).unwrap();
        let segment = SegmentFile::open(file.path()).unwrap();
        assert_eq!((segment.size(), segment.holder()), (bytes.len() as u64, Holder::Readers));
        let retention = File::open(file.path()).unwrap();
        assert!(!lock::try_exclusive(&retention).unwrap());
        let mut window = Window::new(segment).unwrap();
        assert!(window.bytes(0, BATCH_SIZE_MAX).unwrap() == bytes);
        assert!(
            window.bytes(2 * BLOCK_SIZE as u64, BATCH_SIZE_MAX).unwrap()
                == &bytes[2 * BLOCK_SIZE..]
        );
        drop(window);
        assert!(lock::try_exclusive(&retention).unwrap());
        let mut segment = SegmentFile::open(file.path()).unwrap();
        assert_eq!(segment.holder(), Holder::Writer);
        drop(retention);
        assert_eq!(segment.refresh().unwrap(), Holder::Readers);
    }

    #[test]
    fn a_file_that_was_recycled_while_it_was_open_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, recycled) = (dir.path().join("1.segment"), dir.path().join("2.preparing"));
        std::fs::write(&path, noise(BLOCK_SIZE)).unwrap();
        let retention = File::open(&path).unwrap();
        assert!(lock::try_exclusive(&retention).unwrap());
        let segment = SegmentFile::open(&path).unwrap();
        assert_eq!((segment.holder(), segment.is_gone().unwrap()), (Holder::Writer, false));
        std::fs::rename(&path, &recycled).unwrap();
        assert!(segment.is_gone().unwrap());
    }
}
