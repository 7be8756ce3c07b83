#![forbid(unsafe_code)]
//! The live indexes of the segments that shards are writing: see
//! [`index/live`](crate::archive::index). The shards note their records anyway. This reads the
//! notes, and no shard waits for it. If it is late or fails, readers read more of the segment.

use super::remove_if_there;
use super::run::Run;
use crate::archive::index::{LiveIndexWriter, NotedIndex};
use crate::archive::layout::live_index_path;
use crate::format::SegmentUuid;
use crate::journal::frame_ring::HeadersView;
use std::io;
use std::time::{Duration, Instant};

/// How often notes are taken in. A follower of a call hears it so much later.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// How many times as long as it has worked it rests.
const REST: u32 = 20;

/// A larger step waits until it is small beside what it covers, but for the first of a segment.
const SMALL_STEP: u64 = 64 * 1024;

/// A large step covers at least so many times its own bytes.
const SHARE: u64 = 8;

/// A segment that is being written, or that is prepared.
#[derive(Debug)]
struct LiveSegment {
    shard: usize,
    id: u64,
    view: HeadersView,
    noted: NotedIndex,
    writer: Option<LiveIndexWriter>,
    /// Its notes cannot be read, or its file cannot be written.
    has_failed: bool,
}

/// All segments that are being written.
#[derive(Debug)]
pub(super) struct LiveIndexes {
    segments: Vec<LiveSegment>,
    due_at: Instant,
    has_warned: bool,
}

impl LiveIndexes {
    pub(super) fn new() -> LiveIndexes {
        LiveIndexes { segments: Vec::new(), due_at: Instant::now(), has_warned: false }
    }

    /// A shard gets a segment.
    pub(super) fn add(&mut self, shard: usize, id: u64, view: HeadersView) {
        let (noted, writer, has_failed) = (NotedIndex::new(), None, false);
        self.segments.push(LiveSegment { shard, id, view, noted, writer, has_failed });
    }

    /// How long until the next step is due.
    pub(super) fn pause(&self) -> Duration {
        self.due_at.saturating_duration_since(Instant::now())
    }

    /// Takes in what shards have noted, if it is time.
    pub(super) fn write_if_due(&mut self, run: &Run) {
        let start = Instant::now();
        if start < self.due_at {
            return;
        }
        for segment in &mut self.segments {
            if let Err(error) = segment.write(run) {
                segment.has_failed = true;
                segment.remove_file(run);
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(
                        "cannot write the index of a live segment: {error}; reading a live call \
                         takes longer"
                    );
                }
            }
        }
        self.due_at = Instant::now() + INTERVAL.max(start.elapsed() * REST);
    }

    /// A shard has finished a segment. Returns what was taken in of it, if it is still this use of
    /// its file.
    pub(super) fn take(&mut self, shard: usize, id: u64, uuid: SegmentUuid) -> Option<NotedIndex> {
        let is_it = |segment: &LiveSegment| (segment.shard, segment.id) == (shard, id);
        let segment = self.segments.swap_remove(self.segments.iter().position(is_it)?);
        let is_usable = segment.view.segment() == uuid && !segment.has_failed;
        is_usable.then_some(segment.noted)
    }

    /// The node ends.
    pub(super) fn end(&mut self, run: &Run) {
        self.segments.drain(..).for_each(|segment| segment.remove_file(run));
    }
}

impl LiveSegment {
    fn write(&mut self, run: &Run) -> io::Result<()> {
        if self.has_failed || self.view.count() <= self.noted.note_count() {
            return Ok(());
        }
        let notes = self.view.notes(self.noted.note_count());
        self.noted.add(&notes).ok_or(io::ErrorKind::InvalidData)?;
        let covered = self.writer.as_ref().map_or(0, LiveIndexWriter::end);
        let step = LiveIndexWriter::step_size(&self.noted);
        let is_small = covered == 0 || step <= SMALL_STEP;
        if !is_small && self.noted.end() - covered < SHARE * step {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let place = (run.name.number(), self.shard as u16, self.id);
                let segment = (self.view.segment(), self.view.start());
                let created = LiveIndexWriter::create(&run.shard_dirs[self.shard], place, segment)?;
                none.insert(created)
            }
        };
        writer.append(&mut self.noted)
    }

    fn remove_file(&self, run: &Run) {
        if self.writer.is_some() {
            // If this fails, the next start removes it.
            let _ = remove_if_there(&live_index_path(&run.shard_dirs[self.shard], self.id));
        }
    }
}
