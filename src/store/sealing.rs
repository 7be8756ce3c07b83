#![forbid(unsafe_code)]
//! Seal on demand, on the node's side: see [`crate::archive::seal`].

use crate::archive::layout::{index_path, segment_path};
use crate::archive::seal::{request_path, sealing_path};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// A seal under way.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    /// Shards that have not answered.
    shards: HashSet<usize>,
    /// Segments sealed meanwhile that have no index yet, by directory and id.
    unindexed: Vec<(PathBuf, u64)>,
}

impl Sealing {
    /// Begins if a request is there.
    pub(super) fn begin(run_dir: &Path, shard_count: usize) -> io::Result<Option<Sealing>> {
        match std::fs::rename(request_path(run_dir), sealing_path(run_dir)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(Sealing { shards: (0..shard_count).collect(), unindexed: Vec::new() }))
    }

    /// A shard's segments with data are all retired.
    pub(super) fn handle_sealed(&mut self, shard: usize) {
        self.shards.remove(&shard);
    }

    /// A segment was retired, and must be read for its index.
    pub(super) fn await_index(&mut self, directory: &Path, id: u64) {
        self.unindexed.push((directory.to_owned(), id));
    }

    /// Ends if everything is sealed and has an index. Returns whether it has ended.
    pub(super) fn try_end(&mut self, run_dir: &Path) -> io::Result<bool> {
        self.unindexed.retain(|(directory, id)| {
            segment_path(directory, *id).exists() && !index_path(directory, *id).exists()
        });
        let is_over = self.shards.is_empty() && self.unindexed.is_empty();
        if is_over {
            super::remove_if_there(&sealing_path(run_dir))?;
        }
        Ok(is_over)
    }
}

/// The node has ended, so everything is sealed.
pub(super) fn end_all(run_dir: &Path) -> io::Result<()> {
    super::remove_if_there(&request_path(run_dir))?;
    super::remove_if_there(&sealing_path(run_dir))
}
