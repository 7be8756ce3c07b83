#![forbid(unsafe_code)]
//! Segments on which a write or sync failed, and what happens to their files.
//!
//! Bytes that were durable before the failure stay, and nothing else must: the writer first puts
//! the rest into the next segments. Until it is durable there, the fenced file may hold the only
//! copy outside memory. `ack=written` promises that copy if the process is killed. So the file
//! stays as it is until two more segments of the shard are sealed. Sealed segments are durable to
//! their end. They begin with what the fenced segment lost, and two of them have room for all of
//! it. Then the file is cut to its durable end. That frees the blocks allocated for it. A file
//! without a durable byte becomes empty and keeps its name: a missing one would count as lost.
//!
//! The cut is not synced: a disk that failed may fail again, and nothing depends on the cut.

use crate::archive::{layout, lock};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Number of sealed segments that surely hold what a fenced one lost.
const SEALED_BEHIND: u8 = 2;

/// The fenced segments of a run.
#[derive(Debug, Default)]
pub(super) struct Fenced {
    /// By shard and id.
    segments: HashMap<(usize, u64), State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It will be cut.
    Waiting { durable: u64, sealed_behind: u8 },
    /// It was cut, or cannot be.
    Done,
}

impl Fenced {
    /// Adds a segment whose first `durable` bytes count.
    pub(super) fn add(&mut self, shard: usize, id: u64, durable: u64) {
        self.segments.insert((shard, id), State::Waiting { durable, sealed_behind: 0 });
    }

    /// Handles a sealed segment of the shard: cuts the earlier fenced ones that are no longer
    /// needed whole. Returns those that were cut and hold data.
    pub(super) fn handle_retired(
        &mut self,
        directory: &Path,
        shard: usize,
        retired: u64,
    ) -> Vec<u64> {
        let mut cut = Vec::new();
        for ((_, id), state) in
            self.segments.iter_mut().filter(|((of, id), _)| *of == shard && *id < retired)
        {
            let State::Waiting { durable, sealed_behind } = state else { continue };
            *sealed_behind = sealed_behind.saturating_add(1);
            if *sealed_behind < SEALED_BEHIND {
                continue;
            }
            match shorten(directory, *id, *durable) {
                // A reader has it open: try again after the next segment.
                Ok(false) => continue,
                Ok(true) if *durable > 0 => cut.push(*id),
                Ok(true) => {}
                Err(error) => tracing::warn!(
                    shard,
                    segment = *id,
                    "cannot cut a segment that failed: {error}"
                ),
            }
            *state = State::Done;
        }
        cut.sort_unstable();
        cut
    }
}

/// Cuts a segment to its durable end. `false` if it is locked.
fn shorten(directory: &Path, id: u64, durable: u64) -> io::Result<bool> {
    let path = layout::segment_path(directory, id);
    let file = match File::options().write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    if !lock::try_exclusive(&file)? {
        return Ok(false);
    }
    // An index made meanwhile counts bytes that are cut off.
    super::remove_if_there(&layout::index_path(directory, id))?;
    file.set_len(durable)?;
    Ok(true)
}
