//! What is in a data directory after whatever happened to it, in numbers.
//!
//! [`recover`] runs when a node starts and looks only at what nobody has looked at since it was written; [`verify`] reads
//! everything again. Neither changes a segment: what is torn stays torn, what is damaged stays damaged, and the one thing
//! written is the index of a segment that has none. So both may be interrupted anywhere, and repeated.

#![forbid(unsafe_code)]

use super::format::Lsn;
use super::index::SegmentIndex;
use super::layout::RunName;
use super::lock::{self, RECOVERY_WAIT};
use super::reader::{Catalog, CatalogBuilder, GapReason, Journal, JournalError, ShardJournal};
use super::scan::{Damage, Harm, Unread};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A place in a file that is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedDamage {
    /// The file.
    pub file: PathBuf,
    /// Byte in it.
    pub offset: u64,
    /// What is wrong, in words.
    pub what: String,
}

/// A segment whose writer was interrupted. Nothing that was promised is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Byte in it.
    pub offset: u64,
}

/// Frames that should be there and are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingFrames {
    /// The customer.
    pub tenant: String,
    /// The call.
    pub interaction: String,
    /// Its turn, from 1.
    pub epoch: usize,
    /// The first frame.
    pub first: u64,
    /// The last frame.
    pub last: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Runs that have a directory, one that is left alone not counted.
    pub runs: u64,
    /// Segments there are.
    pub segments: u64,
    /// Segments read from end to end this time; of the others there was an index.
    pub segments_read: u64,
    /// Segments that are being written.
    pub segments_live: u64,
    /// Segments that were allocated and not begun.
    pub segments_unbegun: u64,
    /// Indexes that were missing and were written.
    pub indexes_written: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Batches.
    pub batches: u64,
    /// Records.
    pub records: u64,
    /// Records that were found although their batch was bad.
    pub records_salvaged: u64,
    /// Calls.
    pub calls: u64,
    /// Turns at them.
    pub epochs: u64,
    /// Turns of which no record says whose they are.
    pub epochs_nameless: u64,
    /// Complete frames, each counted once.
    pub frames: u64,
    /// Bytes of whole samples in them.
    pub audio_bytes: u64,
    /// Frames that were erased on demand.
    pub frames_erased: u64,
    /// Frames that were never completed.
    pub frames_cut: u64,
    /// Frames that are there twice.
    pub frames_double: u64,
    /// Frames whose segments have been removed.
    pub frames_expired: u64,
    /// Frames lost with a torn tail or with what was not durable when power went, never acked as durable.
    pub frames_torn: u64,
    /// Bytes of batches that were not durable when power went, and came to the disk in part although later ones came whole.
    pub bytes_unsynced: u64,
    /// Torn tails.
    pub torn_tails: Vec<TornTail>,
    /// Damage that was named this time.
    pub damages: Vec<NamedDamage>,
    /// Damaged places that an index counts, in segments that were not read this time.
    pub damages_known: u64,
    /// Frames that should be there and are not.
    pub missing: Vec<MissingFrames>,
}

impl RecoveryReport {
    /// Whether all that was promised is there, as far as checksums and numbers tell.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty() && self.damages_known == 0 && self.missing.is_empty()
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self;
        writeln!(
            formatter,
            "{} segments of {} runs ({} read, {} being written, {} not begun), {} indexes written",
            report.segments,
            report.runs,
            report.segments_read,
            report.segments_live,
            report.segments_unbegun,
            report.indexes_written,
        )?;
        writeln!(formatter, "{} batches, {} records, {} bytes", report.batches, report.records, report.bytes)?;
        writeln!(
            formatter,
            "{} calls, {} epochs, {} frames, {} bytes of audio",
            report.calls, report.epochs, report.frames, report.audio_bytes
        )?;
        for (count, what) in [
            (report.frames_cut, "frames were never completed"),
            (report.frames_double, "frames are there twice"),
            (report.frames_erased, "frames were erased on demand"),
            (report.frames_expired, "frames have expired with their segments"),
            (report.frames_torn, "frames were lost that were not durable when power went, none of them acked as durable"),
            (report.bytes_unsynced, "bytes of batches were lost before a sync: not damage, they were not durable yet"),
            (report.epochs_nameless, "epochs whose call is not known"),
            (report.records_salvaged, "records were found although their batch is bad"),
        ] {
            if count > 0 {
                writeln!(formatter, "{count} {what}")?;
            }
        }
        for TornTail { file, offset } in &report.torn_tails {
            writeln!(formatter, "torn tail: {} from byte {offset} on: its writer was interrupted", file.display())?;
        }
        for NamedDamage { file, offset, what } in &report.damages {
            writeln!(formatter, "damage: {} at byte {offset}: {what}", file.display())?;
        }
        if report.damages_known > 0 {
            let count = report.damages_known;
            writeln!(formatter, "damage: {count} places known from before; `calls verify` names them")?;
        }
        for MissingFrames { tenant, interaction, epoch, first, last } in &report.missing {
            writeln!(formatter, "missing: {tenant}/{interaction} epoch {epoch}: frames {first} to {last}")?;
        }
        formatter.write_str(if report.is_sound() { "sound" } else { "damaged" })
    }
}

/// What a node does before it serves: gives each segment that nobody writes any more an index. Waits up to 5 s for one that
/// is still held: a process that was killed a moment ago may have operations to finish. One held for longer belongs to
/// another node on the directory and is left alone. `progress` is told after each segment.
pub fn recover(data_dir: &Path, progress: &mut dyn FnMut()) -> Result<RecoveryReport, JournalError> {
    recover_all_but(None, data_dir, progress)
}

/// [`recover`] for a node that has begun its own run already, which is left alone.
pub fn recover_all_but(
    own: Option<RunName>,
    data_dir: &Path,
    progress: &mut dyn FnMut(),
) -> Result<RecoveryReport, JournalError> {
    let deadline = Some(Instant::now() + RECOVERY_WAIT);
    Recovery { reads_all: false, deadline, own }.run(&Journal::open(data_dir)?, progress)
}

/// Reads everything and checks every checksum and sequence, live segments as far as they are written.
pub fn verify(journal: &Journal, progress: &mut dyn FnMut()) -> Result<RecoveryReport, JournalError> {
    Recovery { reads_all: true, deadline: None, own: None }.run(journal, progress)
}

struct Recovery {
    /// Whether segments that have an index are read as well.
    reads_all: bool,
    /// Until when to wait for segments that are held, and then leave them; `None`: they are read as they are.
    deadline: Option<Instant>,
    /// A run that is left alone.
    own: Option<RunName>,
}

impl Recovery {
    fn run(&self, journal: &Journal, progress: &mut dyn FnMut()) -> Result<RecoveryReport, JournalError> {
        let mut report = RecoveryReport::default();
        let mut builder = CatalogBuilder::default();
        let mut lossy = HashSet::new();
        let others = journal.shards().iter().map(ShardJournal::run).filter(|run| self.own.as_ref() != Some(*run));
        let mut runs: Vec<_> = others.collect();
        runs.dedup();
        report.runs = runs.len() as u64;
        for (position, shard) in journal.shards().iter().enumerate() {
            if self.own.as_ref() == Some(shard.run()) {
                continue;
            }
            // Where what was read so far ends; known from the first segment on.
            let mut end = (shard.id(0) == Some(1)).then_some(Lsn(0));
            for segment in 0..shard.segment_count() {
                report.segments += 1;
                if let Some((index, is_live)) = self.segment(shard, segment, end, &mut report)? {
                    end = Some(Lsn(index.start.0.saturating_add(index.end)));
                    if let Some(offset) = index.torn_at {
                        report.torn_tails.push(TornTail { file: shard.path(segment), offset });
                    }
                    if index.is_lossy {
                        lossy.insert((position, segment));
                    }
                    builder.add(position, segment, index, is_live);
                }
                progress();
            }
        }
        count(&journal.complete(builder)?, &lossy, &mut report);
        Ok(report)
    }

    fn segment(
        &self,
        shard: &ShardJournal,
        position: usize,
        end_before: Option<Lsn>,
        report: &mut RecoveryReport,
    ) -> Result<Option<(SegmentIndex, bool)>, JournalError> {
        if !self.reads_all
            && let Some(index) = shard.stored_index(position)
        {
            report.damages_known += u64::from(index.damage_count);
            report.count(&index);
            return Ok(Some((index, false)));
        }
        let path = shard.path(position);
        if let Some(deadline) = self.deadline
            && !is_free(&path, deadline).map_err(|error| JournalError { path: path.clone(), error })?
        {
            report.segments_live += 1;
            return Ok(None);
        }
        // A segment that failed before any of it was durable: the one behind it goes on where the one before it ended.
        let was_empty = shard.place(position).end.zip(end_before).is_some_and(|(end, before)| end <= before);
        let has_lost = shard.has_successor(position) && !was_empty;
        let name = |Damage { offset, what }: Damage| NamedDamage { file: path.clone(), offset, what: what.to_string() };
        match shard.survey(position)? {
            Ok(survey) => {
                report.segments_read += 1;
                report.segments_live += u64::from(survey.is_live);
                report.records_salvaged += survey.salvaged;
                report.damages.extend(survey.damages.iter().copied().map(name));
                report.count(&survey.index);
                report.indexes_written += u64::from(shard.stored_index(position).is_none() && shard.keep(&survey));
                return Ok(Some((survey.index, survey.is_live)));
            }
            // Something was in it: the segment behind it would not have been begun before it was.
            Err(Some(Unread::Unbegun)) if has_lost => {
                let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                report.damages.push(name(Damage { offset: 0, what: Harm::Missing { size } }));
            }
            Err(Some(Unread::Unbegun)) => report.segments_unbegun += 1,
            // Nothing sound in it, and nothing behind it: interrupted while it was begun.
            Err(Some(Unread::Lost(_))) if !has_lost => {
                report.torn_tails.push(TornTail { file: path, offset: 0 });
            }
            Err(Some(Unread::Lost(fault))) => {
                report.damages.push(name(Damage { offset: 0, what: Harm::SegmentHeader(fault) }));
            }
            Err(None) => report.segments -= 1,
        }
        Ok(None)
    }
}

impl RecoveryReport {
    fn count(&mut self, index: &SegmentIndex) {
        self.batches += index.batches;
        self.records += index.records;
        self.bytes += index.end;
        self.bytes_unsynced += index.bytes_unsynced;
    }
}

/// `lossy` are the segments, by shard, that lost what was not durable.
fn count(catalog: &Catalog, lossy: &HashSet<(usize, usize)>, report: &mut RecoveryReport) {
    report.calls = catalog.calls.len() as u64;
    report.epochs_nameless = catalog.nameless.len() as u64;
    report.epochs = report.epochs_nameless + catalog.calls.iter().map(|call| call.turns.len() as u64).sum::<u64>();
    let named = catalog
        .calls
        .iter()
        .flat_map(|call| call.turns.iter().enumerate().map(move |(place, turn)| (Some(&call.identity), place + 1, turn)));
    for (identity, epoch, turn) in named.chain(catalog.nameless.iter().map(|turn| (None, 1, turn))) {
        report.frames += turn.frames.count();
        report.audio_bytes += turn.bytes;
        report.frames_erased += turn.erased;
        report.frames_cut += turn.cut;
        report.frames_double += turn.doubles;
        let is_torn = turn.parts.iter().any(|part| lossy.contains(&(turn.shard, part.segment)));
        for gap in &turn.gaps {
            match gap.reason {
                GapReason::Expired | GapReason::Erased => report.frames_expired += gap.range.count(),
                GapReason::Damaged if is_torn => report.frames_torn += gap.range.count(),
                GapReason::Damaged => report.missing.push(MissingFrames {
                    tenant: identity.map_or("?", |identity| &identity.tenant).to_owned(),
                    interaction: identity.map_or("?", |identity| &identity.interaction).to_owned(),
                    epoch,
                    first: gap.range.first,
                    last: gap.range.last,
                }),
            }
        }
    }
}

/// Whether nobody writes a segment, asked until the deadline. One that has gone is free.
fn is_free(path: &Path, deadline: Instant) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    lock::shared_within(&file, deadline.checked_duration_since(Instant::now()).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests;
