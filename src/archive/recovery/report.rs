//! What a recovery or a check of the journal has found, as numbers and as text.

#![forbid(unsafe_code)]

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// A damaged place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedDamage {
    /// The file.
    pub file: PathBuf,
    /// Offset in it, bytes.
    pub offset: u64,
    /// The fault, in words.
    pub what: String,
    /// The call that lost a record there, if that is known: its tenant and interaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<(String, String)>,
}

/// Segments whose files are gone although retention did not remove them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostSegments {
    /// The shard's directory.
    pub directory: PathBuf,
    /// The first one's id.
    pub first: u64,
    /// The last one's id.
    pub last: u64,
}

/// What a call lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallLoss {
    /// The customer.
    pub(crate) tenant: String,
    /// The call.
    pub(crate) interaction: String,
    /// Frames that should be there but are missing.
    pub frames: u64,
    /// A segment is lost where the call went on, and nothing after it says how far.
    pub is_cut: bool,
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
    /// Segments whose files are gone, although retention did not remove them.
    pub lost: Vec<LostSegments>,
    /// The calls that lost something, in order of their first record.
    pub losses: Vec<CallLoss>,
}

impl RecoveryReport {
    /// Whether everything that was promised is there, as far as checksums and numbers tell.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
            && self.damages_known == 0
            && self.missing.is_empty()
            && self.lost.is_empty()
            && self.losses.is_empty()
    }

    /// Segments whose files are gone.
    pub fn segments_lost(&self) -> u64 {
        let count = |lost: &LostSegments| (lost.last - lost.first).saturating_add(1);
        self.lost.iter().map(count).fold(0, u64::saturating_add)
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
        for NamedDamage { file, offset, what, call } in &report.damages {
            write!(formatter, "damage: {} at byte {offset}: {what}", file.display())?;
            match call {
                Some((tenant, interaction)) => writeln!(formatter, " of {tenant}/{interaction}")?,
                None => writeln!(formatter)?,
            }
        }
        for LostSegments { directory, first, last } in &report.lost {
            let which = if first == last {
                format!("segment {first} is")
            } else {
                format!("segments {first} to {last} are")
            };
            writeln!(
                formatter,
                "lost: {which} missing in {}: retention did not remove that. Calls of which \
                 nothing else is left are not listed below",
                directory.display()
            )?;
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
        for CallLoss { tenant, interaction, frames, is_cut } in &report.losses {
            let frames = counted(*frames, "frame");
            let more = if *is_cut { ", and all after its last frame here" } else { "" };
            writeln!(formatter, "call: {tenant}/{interaction} lost {frames}{more}")?;
        }
        if !report.losses.is_empty() {
            writeln!(
                formatter,
                "{} checked, {} with losses",
                counted(report.calls, "call"),
                report.losses.len()
            )?;
        }
        formatter.write_str(if report.is_sound() { "sound" } else { "damaged" })
    }
}

/// A number with its noun: `1 frame`, `2 frames`, `2 batches`, `2 epochs`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = match number {
        1 => "",
        _ if noun.ends_with(['x', 'h']) && noun != "epoch" => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}
