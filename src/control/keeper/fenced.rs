#![forbid(unsafe_code)]
//! Segments on which a write or sync failed: what becomes of their files.
//!
//! What was durable before the failure stays, and nothing else needs to: the writer puts the rest into the segments behind it
//! first. But until that is durable there, what was merely written to the fenced file may be the only copy outside memory
//! (`ack=written` promises it for a process that is killed). So the file is left alone until two more segments of the shard
//! have been sealed: sealed ones are durable to their end, a segment takes less than the next two do, and they begin with what
//! it lost. Then it is cut to its durable end, or removed if it has none, which frees what was allocated for it.
//!
//! It is not synced: a disk that failed may do so again, and nothing depends on it. It is never recycled either.

use crate::journal::{layout, lock};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Sealed segments that surely hold what a fenced one lost.
const SEALED_BEHIND: u8 = 2;

/// The fenced segments of a run.
#[derive(Debug, Default)]
pub(super) struct Fenced {
    /// By shard and id.
    segments: HashMap<(usize, u64), State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It is to be cut.
    Waiting { durable: u64, sealed_behind: u8 },
    /// It is, or cannot be.
    Done,
}

impl Fenced {
    /// A segment whose first `durable` bytes count.
    pub(super) fn add(&mut self, shard: usize, id: u64, durable: u64) {
        self.segments.insert((shard, id), State::Waiting { durable, sealed_behind: 0 });
    }

    pub(super) fn contains(&self, shard: usize, id: u64) -> bool {
        self.segments.contains_key(&(shard, id))
    }

    /// A segment of the shard has been sealed: cuts those in front of it that nobody needs whole any more. Returns which ones
    /// were cut and not removed.
    pub(super) fn handle_retired(&mut self, directory: &Path, shard: usize, retired: u64) -> Vec<u64> {
        let mut cut = Vec::new();
        for ((_, id), state) in self.segments.iter_mut().filter(|((of, id), _)| *of == shard && *id < retired) {
            let State::Waiting { durable, sealed_behind } = state else { continue };
            *sealed_behind = sealed_behind.saturating_add(1);
            if *sealed_behind < SEALED_BEHIND {
                continue;
            }
            match shorten(directory, *id, *durable) {
                // Somebody reads it: at the next one.
                Ok(false) => continue,
                Ok(true) if *durable > 0 => cut.push(*id),
                Ok(true) => {}
                Err(error) => tracing::warn!(shard, segment = *id, "cannot cut a segment that failed: {error}"),
            }
            *state = State::Done;
        }
        cut.sort_unstable();
        cut
    }
}

/// Cuts a segment to its durable end, or removes it if it has none; `false` if somebody holds it.
fn shorten(directory: &Path, id: u64, durable: u64) -> io::Result<bool> {
    let path = layout::segment_path(directory, id);
    let file = match File::options().write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    if !lock::try_exclusive(&file)? {
        return Ok(false);
    }
    // An index made in the meantime counts what is cut off.
    super::remove_if_there(&layout::index_path(directory, id))?;
    if durable > 0 {
        file.set_len(durable)?
    } else {
        std::fs::remove_file(&path)?
    }
    Ok(true)
}
