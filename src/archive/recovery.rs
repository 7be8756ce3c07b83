//! The contents of a data directory in numbers, after a crash for example.
//!
//! [`recover`] runs when a node starts, and reads only segments without an index. [`verify`] reads
//! everything again. Neither changes a segment: torn tails and damage stay as they are. They write
//! only the missing index of a segment, and recovery missing call tables. So both can be
//! interrupted anywhere, and repeated.

#![forbid(unsafe_code)]

use super::call_table;
use super::index::SegmentIndex;
use super::layout::{RunName, shard_dir};
use super::lock::{self, RECOVERY_WAIT};
use super::marks::{self, FoundMarks};
use super::reader::{
    Absence, CallEpoch, CallGatherer, EpochState, GapReason, Journal, JournalError, Listed,
    Listing, ShardJournal,
};
use super::scan::{Corruption, Damage, Unread};
use super::source::is_of_medium;
use crate::call::CallIdentity;
use crate::format::{FormatError, Lsn};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

mod report;

pub(crate) use report::counted;
pub use report::{CallLoss, LostSegments, MissingFrames, NamedDamage, RecoveryReport, TornTail};

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
        let mut gatherer = CallGatherer::new(journal);
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
                    gatherer.add(position, segment, index, is_live)?;
                }
                progress();
            }
        }
        if !self.reads_all {
            let others = journal.shards().iter();
            others
                .filter(|shard| self.own.as_ref() != Some(shard.run()))
                .for_each(|shard| call_table::make_missing(shard.dir(), shard.ids()));
        }
        let others = |shard: &&ShardJournal| self.own.as_ref() != Some(shard.run());
        let others: Vec<&ShardJournal> = journal.shards().iter().filter(others).collect();
        for run in others.chunk_by(|one, next| one.run() == next.run()) {
            name_lost(run, journal.unlisted(), &mut report)?;
        }
        report.damages.extend(journal.unlisted().iter().map(|JournalError { path, error }| {
            let what = format!("the disk cannot list it ({error}): what is in it is left out");
            NamedDamage { file: path.clone(), offset: 0, what, call: None }
        }));
        count(journal, gatherer.finish()?, &lossy, &mut report)?;
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
            call: None,
        };
        match shard.summarize(position)? {
            Ok(summary) => {
                report.segments_read += 1;
                report.segments_live += u64::from(summary.is_live);
                report.records_salvaged += summary.salvaged;
                let index = &summary.index;
                report.damages.extend(
                    summary.damages.iter().map(|damage| NamedDamage {
                        call: call_of(damage, index),
                        ..name(*damage)
                    }),
                );
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
            Err(Some(Unread::Lost(fault))) if !has_lost && fault != FormatError::Unreadable => {
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

/// The call that a damaged record belongs to, if the rest of the segment says so.
fn call_of(damage: &Damage, index: &SegmentIndex) -> Option<(String, String)> {
    let Corruption::Payload { call, epoch, .. } = damage.what else { return None };
    let mut epochs = index.epochs.iter();
    let found = epochs.find(|found| (found.call, found.epoch) == (call, epoch))?;
    let identity = &found.facts.as_ref()?.identity;
    Some((identity.tenant.to_string(), identity.interaction.to_string()))
}

/// Names the segments, directories and marks of a run that are lost. Directories that cannot be
/// listed are there.
fn name_lost(
    run: &[&ShardJournal],
    unlisted: &[JournalError],
    report: &mut RecoveryReport,
) -> Result<(), JournalError> {
    let (mut shard_count, mut has_marks, mut without) = (0, false, Vec::new());
    for shard in run {
        let damage = |what: &str| NamedDamage {
            file: marks::path(shard.dir()),
            offset: 0,
            what: what.into(),
            call: None,
        };
        match shard.marks()? {
            FoundMarks::Sound(marks) => {
                has_marks = true;
                shard_count = shard_count.max(marks.shard_count);
                for (first, last) in shard.lost() {
                    let directory = shard.dir().to_owned();
                    report.lost.push(LostSegments { directory, first, last });
                }
            }
            FoundMarks::Damaged => {
                has_marks = true;
                report.damages.push(damage("which segments have expired is not known: damaged"));
            }
            FoundMarks::Missing if shard.segment_count() > 0 => {
                without.push(damage("which segments have expired is not known: it is missing"));
            }
            FoundMarks::Missing => {}
        }
    }
    if has_marks || run.iter().any(|shard| !shard.is_first_format()) {
        report.damages.append(&mut without);
    }
    // A run makes all directories before its first segment, and retention removes them after its
    // last one.
    let Some(run_dir) = run.first().and_then(|shard| shard.dir().parent()) else { return Ok(()) };
    if run.iter().any(|shard| shard.segment_count() > 0) {
        let is_there = |shard: &u16| run.iter().any(|one| one.shard() == *shard);
        let missing = (0..shard_count).filter(|shard| !is_there(shard));
        let missing = missing.map(|shard| shard_dir(run_dir, shard));
        for file in missing.filter(|dir| unlisted.iter().all(|error| error.path != *dir)) {
            report.damages.push(NamedDamage {
                file,
                offset: 0,
                what: "the directory of a shard is missing, with all of its segments".into(),
                call: None,
            });
        }
    }
    Ok(())
}

/// `lossy` lists, by shard, the segments that lost data which was not durable.
fn count(
    journal: &Journal,
    listing: Listing<'_>,
    lossy: &HashSet<(usize, usize)>,
    report: &mut RecoveryReport,
) -> Result<(), JournalError> {
    for listed in listing {
        match listed? {
            Listed::Call(call) => {
                report.calls += 1;
                for (place, call_epoch) in call.epochs.iter().enumerate() {
                    report.count_epoch(journal, Some(&call.identity), place + 1, call_epoch, lossy);
                }
            }
            Listed::Nameless(call_epoch) => {
                report.epochs_nameless += 1;
                report.count_epoch(journal, None, 1, &call_epoch, lossy);
            }
        }
    }
    Ok(())
}

impl RecoveryReport {
    /// Counts an epoch. Those of a call come one after the other.
    fn count_epoch(
        &mut self,
        journal: &Journal,
        identity: Option<&CallIdentity>,
        epoch: usize,
        call_epoch: &CallEpoch,
        lossy: &HashSet<(usize, usize)>,
    ) {
        self.epochs += 1;
        self.frames += call_epoch.frames.count();
        self.audio_bytes += call_epoch.bytes;
        self.frames_erased += call_epoch.erased;
        self.frames_cut += call_epoch.cut;
        self.frames_double += call_epoch.doubles;
        let is_torn = !lossy.is_empty()
            && call_epoch
                .parts
                .iter()
                .any(|part| lossy.contains(&(call_epoch.shard, part.segment)));
        let tenant = identity.map_or("?", |identity| &identity.tenant).to_owned();
        let interaction = identity.map_or("?", |identity| &identity.interaction).to_owned();
        let mut frames = 0u64;
        for gap in &call_epoch.gaps {
            match gap.reason {
                GapReason::Expired | GapReason::Erased => self.frames_expired += gap.range.count(),
                GapReason::Damaged if is_torn => self.frames_torn += gap.range.count(),
                GapReason::Damaged | GapReason::Lost => {
                    frames += gap.range.count();
                    self.missing.push(MissingFrames {
                        tenant: tenant.clone(),
                        interaction: interaction.clone(),
                        epoch,
                        first: gap.range.first,
                        last: gap.range.last,
                    });
                }
            }
        }
        let is_cut = call_epoch.state == EpochState::Cut && ends_before_a_lost(journal, call_epoch);
        if frames == 0 && !is_cut {
            return;
        }
        match self.losses.last_mut() {
            Some(loss) if (&loss.tenant, &loss.interaction) == (&tenant, &interaction) => {
                loss.frames += frames;
                loss.is_cut |= is_cut;
            }
            _ => self.losses.push(CallLoss { tenant, interaction, frames, is_cut }),
        }
    }
}

/// Whether the segment after the last one of an epoch is lost.
fn ends_before_a_lost(journal: &Journal, call_epoch: &CallEpoch) -> bool {
    let Some(shard) = journal.shards().get(call_epoch.shard) else { return false };
    let last = call_epoch.parts.last().and_then(|part| shard.id(part.segment));
    last.is_some_and(|last| {
        let next = last.saturating_add(1);
        next <= shard.last_id() && shard.absence(next, next) == Absence::Lost
    })
}

/// Whether no process writes a segment; retries until the deadline. A removed segment is free.
fn is_free(path: &Path, deadline: Instant) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        // It has no writer that could write.
        Err(error) if is_of_medium(&error) => return Ok(true),
        opened => opened?,
    };
    lock::shared_within(
        &file,
        deadline.checked_duration_since(Instant::now()).unwrap_or(Duration::ZERO),
    )
}

#[cfg(test)]
mod tests;
