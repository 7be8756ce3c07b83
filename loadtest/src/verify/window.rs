//! Reads a segment file a few megabytes at a time, past the page cache where the filesystem allows
//! it. So the bytes are those on the disk, and the memory of a live node stays untouched.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::format::BLOCK_SIZE;

/// Opens a file for [`Window`]s.
pub fn open(path: &Path) -> io::Result<File> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    match File::options().read(true).custom_flags(direct).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(path),
        opened => opened,
    }
}

/// A stretch of one file, in one buffer that is used again and again.
#[derive(Debug)]
pub struct Window {
    buffer: Vec<u8>,
    /// Where the buffer's first whole block starts: direct reads need aligned memory.
    first: usize,
    size: usize,
    /// Where the bytes held are in the file, and how many there are.
    offset: u64,
    held: usize,
}

impl Window {
    /// One of `size` bytes, whole blocks.
    pub fn new(size: usize) -> Self {
        let buffer = vec![0; size + BLOCK_SIZE];
        let first = buffer.as_ptr().align_offset(BLOCK_SIZE);
        Self { buffer, first, size, offset: 0, held: 0 }
    }

    /// Drops what is held, before another file is read.
    pub fn forget(&mut self) {
        self.held = 0;
    }

    /// `size` bytes at `offset`, a multiple of the block size; fewer where the file ends.
    pub fn bytes(&mut self, file: &File, offset: u64, size: usize) -> io::Result<&[u8]> {
        let size = size.min(self.size);
        let skip = offset.checked_sub(self.offset).and_then(|skip| usize::try_from(skip).ok());
        let from = match skip.filter(|skip| *skip < self.held) {
            Some(skip) if skip + size <= self.held => skip,
            // Files are read forwards: whole blocks that are left move to the front, and the rest
            // is read after them.
            Some(skip) if skip.is_multiple_of(BLOCK_SIZE) => {
                self.buffer.copy_within(self.first + skip..self.first + self.held, self.first);
                self.held -= skip;
                self.offset = offset;
                self.fill(file)?;
                0
            }
            _ => {
                (self.offset, self.held) = (offset, 0);
                self.fill(file)?;
                0
            }
        };
        let to = (from + size).min(self.held);
        Ok(&self.buffer[self.first + from.min(to)..self.first + to])
    }

    /// Reads more after what is held, up to the window's size.
    fn fill(&mut self, file: &File) -> io::Result<()> {
        // A read that ended within a block was the file's last.
        while self.held < self.size && self.held.is_multiple_of(BLOCK_SIZE) {
            let into = &mut self.buffer[self.first + self.held..self.first + self.size];
            match file.read_at(into, self.offset + self.held as u64) {
                Ok(0) => break,
                Ok(count) => self.held += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // Some filesystems take the flag and refuse the read.
                    let flags = rustix::fs::fcntl_getfl(file)?;
                    if !flags.contains(OFlags::DIRECT) {
                        return Err(error);
                    }
                    rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stretch_is_the_files_own() {
        let named = tempfile::NamedTempFile::new_in(".").unwrap();
        let content: Vec<u8> = (0..10 * BLOCK_SIZE + 100).map(|i| (i / 64) as u8).collect();
        std::fs::write(named.path(), &content).unwrap();
        let file = open(named.path()).unwrap();
        let mut window = Window::new(4 * BLOCK_SIZE);
        let mut offsets: Vec<usize> = (0..12).collect();
        offsets.extend([3, 9, 0, 1, 1, 5, 4, 10, 11, 2]);
        for (block, blocks) in
            offsets.into_iter().flat_map(|block| (1..=4).map(move |blocks| (block, blocks)))
        {
            let (from, size) = (block * BLOCK_SIZE, blocks * BLOCK_SIZE);
            let to = (from + size).min(content.len());
            let bytes = window.bytes(&file, from as u64, size).unwrap();
            assert!(bytes == &content[from.min(to)..to], "{blocks} blocks at {block}");
        }
    }
}
