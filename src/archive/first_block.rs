//! The header of a segment's file, read alone and around the page cache.
//!
//! A buffered read would leave the block in the cache. A direct write to the same file must drop it
//! from there, and a write that cannot fails a later sync of the file.

#![forbid(unsafe_code)]

use crate::constants::BLOCK_SIZE;
use crate::format::SegmentHeader;
use crate::io::memory::Region;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What a segment's file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// A sound header.
    Header(SegmentHeader),
    /// Zeros, or nothing: the segment has not begun.
    Unbegun,
    /// Something else.
    Bad,
}

/// The header of a segment's file. `None` if there is no sound one.
pub(crate) fn header(path: &Path) -> io::Result<Option<SegmentHeader>> {
    Ok(match start(path)? {
        Start::Header(header) => Some(header),
        Start::Unbegun | Start::Bad => None,
    })
}

/// What a segment's file begins with.
pub(crate) fn start(path: &Path) -> io::Result<Start> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let open = |flags| File::options().read(true).custom_flags(flags).open(path);
    let file = match open(direct) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(0)?,
        opened => opened?,
    };
    let mut block = Region::allocate(BLOCK_SIZE)?;
    let read = match file.read_at(&mut block, 0) {
        // Some filesystems accept the flag and refuse the read.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            open(0)?.read_at(&mut block, 0)
        }
        read => read,
    }?;
    let block: &[u8; BLOCK_SIZE] = match block.first_chunk() {
        Some(block) if read == BLOCK_SIZE => block,
        _ if block[..read].iter().all(|byte| *byte == 0) => return Ok(Start::Unbegun),
        _ => return Ok(Start::Bad),
    };
    Ok(match SegmentHeader::decode(block) {
        Ok(header) => Start::Header(header),
        Err(_) if block.iter().all(|byte| *byte == 0) => Start::Unbegun,
        Err(_) => Start::Bad,
    })
}
