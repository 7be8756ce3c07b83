//! The contents of a data directory in numbers, after a crash for example.
//!
//! [`recover`] runs when a node starts, and reads only segments without an index. [`verify`] reads
//! everything again. Neither changes a segment: torn tails and damage stay as they are. They write
//! only the missing index of a segment. So both can be interrupted anywhere, and repeated.

#![forbid(unsafe_code)]

use super::index::SegmentIndex;
use super::layout::RunName;
use super::lock::{self, RECOVERY_WAIT};
use super::reader::{Catalog, CatalogBuilder, GapReason, Journal, JournalError, ShardJournal};
use super::scan::{Corruption, Damage, Unread};
use crate::format::Lsn;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A damaged place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedDamage {
    /// The file.
    pub file: PathBuf,
    /// Offset in it, bytes.
    pub offset: u64,
    /// The fault, in words.
    pub what: String,
}

/// A segment whose writer was interrupted. No byte after this offset was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Offset in it, bytes.
    pub offset: u64,
}

/// Frames that should be there but are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingFrames {
    /// The customer.
    pub(crate) tenant: String,
    /// The call.
    pub(crate) interaction: String,
    /// The epoch's number in the call, from 1.
    pub(crate) epoch: usize,
    /// The first frame.
    pub(crate) first: u64,
    /// The last frame.
    pub(crate) last: u64,
}

/// The numbers of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Runs with a directory. A run that was left alone does not count.
    pub runs: u64,
    /// Segments.
    pub segments: u64,
    /// Segments read from end to end this time. The others had an index.
    pub segments_read: u64,
    /// Segments that are being written.
    pub segments_live: u64,
    /// Segments that were allocated but not begun.
    pub segments_unbegun: u64,
    /// Missing indexes that were written.
    pub indexes_written: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Batches.
    pub batches: u64,
    /// Records.
    pub records: u64,
    /// Records that were found in bad batches.
    pub records_salvaged: u64,
    /// Calls.
    pub calls: u64,
    /// Epochs of these calls.
    pub epochs: u64,
    /// Epochs with no record that names their call.
    pub epochs_nameless: u64,
    /// Complete frames, each counted once.
    pub frames: u64,
    /// Bytes of whole samples in them.
    pub audio_bytes: u64,
    /// Frames that were erased on demand.
    pub frames_erased: u64,
    /// Frames that were never completed.
    pub frames_cut: u64,
    /// Frames that occur twice.
    pub frames_double: u64,
    /// Frames whose segments have been removed.
    pub frames_expired: u64,
    /// Frames in torn tails or in batches that were not durable when power failed. They were never
    /// acked as durable.
    pub frames_torn: u64,
    /// Bytes of batches that were not durable when power failed, and are bad although later ones
    /// are whole.
    pub bytes_unsynced: u64,
    /// Torn tails.
    pub torn_tails: Vec<TornTail>,
    /// Damage found this time.
    pub damages: Vec<NamedDamage>,
    /// Damaged places according to indexes, in segments that were not read this time.
    pub damages_known: u64,
    /// Frames that should be there but are missing.
    pub missing: Vec<MissingFrames>,
}

impl RecoveryReport {
    /// Whether everything that was promised is there, as far as checksums and numbers tell.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty() && self.damages_known == 0 && self.missing.is_empty()
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self;
        writeln!(
            formatter,
            "{} of {} ({} read, {} being written, {} not begun), {} written",
            counted(report.segments, "segment"),
            counted(report.runs, "run"),
            report.segments_read,
            report.segments_live,
            report.segments_unbegun,
            counted(report.indexes_written, "index"),
        )?;
        let [batches, records, bytes] =
            [(report.batches, "batch"), (report.records, "record"), (report.bytes, "byte")]
                .map(|(n, noun)| counted(n, noun));
        writeln!(formatter, "{batches}, {records}, {bytes}")?;
        let (calls, epochs) = (counted(report.calls, "call"), counted(report.epochs, "epoch"));
        let (frames, bytes) =
            (counted(report.frames, "frame"), counted(report.audio_bytes, "byte"));
        writeln!(formatter, "{calls}, {epochs}, {frames}, {bytes} of audio")?;
        for (count, noun, what) in [
            (report.frames_cut, "frame", "never completed"),
            (report.frames_double, "frame", "there twice"),
            (report.frames_erased, "frame", "erased on demand"),
            (report.frames_expired, "frame", "expired with their segments"),
            (
                report.frames_torn,
                "frame",
                "lost: not durable when power failed, and not acked as durable",
            ),
            (
                report.bytes_unsynced,
                "byte",
                "of batches lost before a sync: no damage, because they were not durable yet",
            ),
            (report.epochs_nameless, "epoch", "of unknown calls"),
            (report.records_salvaged, "record", "recovered from damaged batches"),
        ] {
            if count > 0 {
                writeln!(formatter, "{} {what}", counted(count, noun))?;
            }
        }
        for TornTail { file, offset } in &report.torn_tails {
            writeln!(
                formatter,
                "torn tail: {} from byte {offset} on: its writer was interrupted",
                file.display()
            )?;
        }
        for NamedDamage { file, offset, what } in &report.damages {
            writeln!(formatter, "damage: {} at byte {offset}: {what}", file.display())?;
        }
        if report.damages_known > 0 {
            let places = counted(report.damages_known, "place");
            writeln!(
                formatter,
                "damage: {places} found by an earlier scan; `calls verify` names them"
            )?;
        }
        for MissingFrames { tenant, interaction, epoch, first, last } in &report.missing {
            writeln!(
                formatter,
                "missing: {tenant}/{interaction} epoch {epoch}: frames {first} to {last}"
            )?;
        }
        formatter.write_str(if report.is_sound() { "sound" } else { "damaged" })
    }
}

/// A number with its noun: `1 frame`, `2 frames`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = match number {
        1 => "",
        _ if noun.ends_with(['x', 'h']) => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

/// Runs before a node serves: gives an index to each segment that is not being written any more.
/// Waits up to 5 s for a locked segment, because a killed process may still have operations to
/// finish. A segment locked for longer belongs to another node on the directory and is left alone.
/// Calls `progress` after each segment.
pub fn recover(
    data_dir: &Path,
    progress: &mut dyn FnMut(),
) -> Result<RecoveryReport, JournalError> {
    recover_all_but(None, data_dir, progress)
}

/// [`recover`] for a node that has already begun its own run, which is left alone.
pub(crate) fn recover_all_but(
    own: Option<RunName>,
    data_dir: &Path,
    progress: &mut dyn FnMut(),
) -> Result<RecoveryReport, JournalError> {
    let deadline = Some(Instant::now() + RECOVERY_WAIT);
    Recovery { reads_all: false, deadline, own }.run(&Journal::open(data_dir)?, progress)
}

/// Reads everything and checks every checksum and sequence. Live segments are read as far as they
/// are written.
pub fn verify(
    journal: &Journal,
    progress: &mut dyn FnMut(),
) -> Result<RecoveryReport, JournalError> {
    Recovery { reads_all: true, deadline: None, own: None }.run(journal, progress)
}

struct Recovery {
    /// Whether to read segments that have an index, too.
    reads_all: bool,
    /// How long to wait for locked segments, which are left alone after that. `None`: read them as
    /// they are.
    deadline: Option<Instant>,
    /// A run to leave alone.
    own: Option<RunName>,
}

impl Recovery {
    fn run(
        &self,
        journal: &Journal,
        progress: &mut dyn FnMut(),
    ) -> Result<RecoveryReport, JournalError> {
        let mut report = RecoveryReport::default();
        let mut builder = CatalogBuilder::default();
        let mut lossy = HashSet::new();
        let others = journal
            .shards()
            .iter()
            .map(ShardJournal::run)
            .filter(|run| self.own.as_ref() != Some(*run));
        let mut runs: Vec<_> = others.collect();
        runs.dedup();
        report.runs = runs.len() as u64;
        for (position, shard) in journal.shards().iter().enumerate() {
            if self.own.as_ref() == Some(shard.run()) {
                continue;
            }
            // Where the bytes read so far end; known from the first segment on.
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
            && !is_free(&path, deadline)
                .map_err(|error| JournalError { path: path.clone(), error })?
        {
            report.segments_live += 1;
            return Ok(None);
        }
        // The segment failed before any of it was durable: the one after it continues where the one
        // before it ended.
        let was_empty =
            shard.place(position)?.end.zip(end_before).is_some_and(|(end, before)| end <= before);
        let has_lost = shard.has_successor(position)? && !was_empty;
        let name = |Damage { offset, what }: Damage| NamedDamage {
            file: path.clone(),
            offset,
            what: what.to_string(),
        };
        match shard.summarize(position)? {
            Ok(summary) => {
                report.segments_read += 1;
                report.segments_live += u64::from(summary.is_live);
                report.records_salvaged += summary.salvaged;
                report.damages.extend(summary.damages.iter().copied().map(name));
                report.count(&summary.index);
                report.indexes_written +=
                    u64::from(shard.stored_index(position).is_none() && shard.keep(&summary));
                return Ok(Some((summary.index, summary.is_live)));
            }
            // It had data: a later segment is begun only after this one.
            Err(Some(Unread::Unbegun)) if has_lost => {
                let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                report.damages.push(name(Damage { offset: 0, what: Corruption::Missing { size } }));
            }
            Err(Some(Unread::Unbegun)) => report.segments_unbegun += 1,
            // It has no sound batch and no later segment: its start was interrupted.
            Err(Some(Unread::Lost(_))) if !has_lost => {
                report.torn_tails.push(TornTail { file: path, offset: 0 });
            }
            Err(Some(Unread::Lost(fault))) => {
                report
                    .damages
                    .push(name(Damage { offset: 0, what: Corruption::SegmentHeader(fault) }));
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

/// `lossy` lists, by shard, the segments that lost data which was not durable.
fn count(catalog: &Catalog, lossy: &HashSet<(usize, usize)>, report: &mut RecoveryReport) {
    report.calls = catalog.calls.len() as u64;
    report.epochs_nameless = catalog.nameless.len() as u64;
    report.epochs = report.epochs_nameless
        + catalog.calls.iter().map(|call| call.epochs.len() as u64).sum::<u64>();
    let named = catalog.calls.iter().flat_map(|call| {
        call.epochs
            .iter()
            .enumerate()
            .map(move |(place, call_epoch)| (Some(&call.identity), place + 1, call_epoch))
    });
    for (identity, epoch, call_epoch) in
        named.chain(catalog.nameless.iter().map(|call_epoch| (None, 1, call_epoch)))
    {
        report.frames += call_epoch.frames.count();
        report.audio_bytes += call_epoch.bytes;
        report.frames_erased += call_epoch.erased;
        report.frames_cut += call_epoch.cut;
        report.frames_double += call_epoch.doubles;
        let is_torn =
            call_epoch.parts.iter().any(|part| lossy.contains(&(call_epoch.shard, part.segment)));
        for gap in &call_epoch.gaps {
            match gap.reason {
                GapReason::Expired | GapReason::Erased => {
                    report.frames_expired += gap.range.count()
                }
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

/// Whether no process writes a segment; retries until the deadline. A removed segment is free.
fn is_free(path: &Path, deadline: Instant) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    lock::shared_within(
        &file,
        deadline.checked_duration_since(Instant::now()).unwrap_or(Duration::ZERO),
    )
}

#[cfg(test)]
mod tests;
