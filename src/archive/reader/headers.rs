//! The headers of a shard's segments, read when they are asked for. A shard may have hundreds of
//! thousands of segments, so only their ids stay in memory, and the headers used last.

#![forbid(unsafe_code)]

use crate::archive::layout::RunName;
use crate::archive::source::{FirstBlock, first_block};
use crate::format::SegmentHeader;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Headers that stay in memory. A reader that goes from one segment to the next asks for each of
/// them a few times.
const KEPT: usize = 32;

/// The headers that were used last, with the ids of their segments.
#[derive(Debug, Default)]
pub(super) struct Headers {
    kept: Mutex<VecDeque<(u64, FirstBlock)>>,
    #[cfg(test)]
    read_count: std::sync::atomic::AtomicUsize,
}

impl Headers {
    /// The first block of the segment `id`, whose file is at `path`. A header of another use of the
    /// file is that of a segment that is not begun.
    pub(super) fn read(
        &self,
        (run, shard, id): (&RunName, u16, u64),
        path: &Path,
    ) -> io::Result<FirstBlock> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.iter().find(|(known, _)| *known == id) {
            return Ok(*found);
        }
        #[cfg(test)]
        self.read_count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let is_of_segment = |header: &SegmentHeader| {
            (header.run, header.shard, header.id) == (run.number(), shard, id)
        };
        let found = match first_block(path) {
            Ok(FirstBlock::Header(header)) if !is_of_segment(&header) => FirstBlock::Blank,
            Ok(found) => found,
            // Retention removed it after the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => FirstBlock::Blank,
            Err(error) => return Err(error),
        };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((id, found));
        Ok(found)
    }

    /// Files that were read so far.
    #[cfg(test)]
    pub(super) fn read_count(&self) -> usize {
        self.read_count.load(std::sync::atomic::Ordering::Relaxed)
    }
}
