//! `exo-ingest archive compact`: a WAV file and a receipt for each recording, beside the slices.
//!
//! The receipt is stored after the WAV file. So a recording with a receipt is complete, and a run
//! that was interrupted goes on with those that have none.

#![forbid(unsafe_code)]

use super::announce::{Announcer, EventFlags};
use super::files::{ENDINGS, object_name};
use super::{ArchiveFlags, Failure, source};
use crate::archive::reader::Journal;
use crate::archive::recovery::counted;
use crate::cli::calls::chosen::{Choice, Chosen};
use crate::cli::calls::export::audio::{Exported, Missing};
use crate::cli::calls::export::write_wav;
use crate::cli::calls::recording::{Recording, recordings, sample_rate};
use crate::cli::calls::time::{Zone, rfc3339};
use crate::cli::calls::view::{CallView, EpochView, seconds};
use crate::cli::calls::{json_text, print_json, progress_line, remark, stop_on_signals};
use crate::cli::print;
use crate::handover::mirror::Mirror;
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Make a WAV file and a receipt of each recording in an archive, beside the slices
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct CompactArgs {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    archive: ArchiveFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    events: EventFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest archive compact --all --from s3://recordings/exo
  exo-ingest archive compact --tenant acme --since 2026-11-30 --from s3://recordings/exo
  exo-ingest archive compact --all --from s3://recordings/exo --events nats://engine:4222

Writes calls/TENANT/DATE/INTERACTION.wav and then the receipt, INTERACTION.json: frames, bytes, \
duration, epochs, gaps, and the SHA-256 of the WAV file. The date is that of the start, in UTC. If \
an id was used again that day, the later names end with -MICROSECONDS of their start.

Calls that may go on are left out until the next run. A recording with a receipt is complete and is \
not written again, so the command can be interrupted and repeated.

With --events, each recording that has its receipt is announced to a message engine, once: a mark, \
INTERACTION.ready, says that the engine has acknowledged the event. If a run ends between the two, \
the next one sends the same event with the same id.";

/// Version of the receipts.
const RECEIPT_VERSION: u32 = 1;

/// What a receipt says of a recording.
#[derive(Serialize)]
struct Receipt<'a> {
    version: u32,
    call: &'a str,
    tenant: &'a str,
    interaction: &'a str,
    /// The object with the audio.
    object: &'a str,
    sha256: String,
    started_at: String,
    sample_rate: u32,
    frames: u64,
    /// Of samples.
    bytes: u64,
    seconds: f64,
    epochs: &'a [EpochView],
    gaps: &'a [Missing],
    damages: &'a [String],
}

/// Result of the command.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Recordings that have a WAV file and a receipt now.
    recordings: u64,
    /// Bytes of samples in them.
    bytes: u64,
    /// Recordings that had a receipt before.
    recordings_before: u64,
    /// Recordings that may go on.
    live: u64,
    /// Recordings whose audio was deleted.
    deleted: u64,
    /// Recordings that miss audio. They were written as far as they can be read.
    damaged: u64,
    /// Events that a message engine has acknowledged.
    events: u64,
    is_interrupted: bool,
}

/// Writes the files.
pub(super) fn compact(args: &CompactArgs) -> Result<(), Failure> {
    let chosen = args.choice.chosen()?;
    // First: a wrong URL should not show after hours.
    let events = args.events.connect()?;
    let mirror = args.archive.mirror()?;
    let (source, journal) = (source(&mirror)?, mirror.journal()?);
    let stop = stop_on_signals()
        .map_err(|error| Failure::Run(format!("cannot wait for signals: {error}")))?;
    let bar = progress_line();
    let summary = Summary::default();
    let mut run = Run { mirror: &mirror, journal, events, stop: &stop, bar, summary };
    match chosen {
        Chosen::One(identity) => run.call(recordings(source.expect(&identity)?))?,
        Chosen::Many(filter) => {
            for call in source.calls()? {
                run.call(filter.recordings(call?))?;
                if run.summary.is_interrupted {
                    break;
                }
            }
        }
    }
    run.bar.finish_and_clear();
    let summary = run.summary;
    if args.json {
        print_json(&summary)?
    } else {
        print(&summary.text())?
    }
    summary.outcome()
}

/// Compaction under way.
struct Run<'a> {
    mirror: &'a Mirror,
    journal: Journal,
    events: Option<Announcer>,
    stop: &'a AtomicBool,
    bar: ProgressBar,
    summary: Summary,
}

impl Run<'_> {
    /// All chosen recordings of a call.
    fn call(&mut self, recordings: Vec<Recording>) -> Result<(), Failure> {
        let mut days = HashSet::new();
        for recording in recordings.into_iter().flat_map(Recording::by_rate) {
            if self.stop.load(Ordering::Relaxed) {
                self.summary.is_interrupted = true;
                return Ok(());
            }
            // First: a recording that is left out has its name all the same.
            let name = object_name(&recording, &mut days);
            let receipt = format!("{name}.json");
            if recording.is_live() {
                self.summary.live += 1;
                continue;
            }
            if recording.is_erased() {
                self.summary.deleted += 1;
                self.remove(&name)?;
                continue;
            }
            let mark = format!("{name}.ready");
            if self.events.is_some() && self.mirror.has(&mark)? {
                self.summary.recordings_before += 1;
                continue;
            }
            if self.mirror.has(&receipt)? {
                self.summary.recordings_before += 1;
            } else {
                self.recording(&recording, &name, &receipt)?;
            }
            if let Some(events) = &mut self.events {
                events.announce(self.mirror, &self.journal, &recording, &receipt)?;
                put_text(self.mirror, &mark, "announced\n")?;
                self.summary.events += 1;
            }
        }
        Ok(())
    }

    /// Removes the files of a recording that was deleted: a run that was interrupted, or that was
    /// under way then, may have left some.
    fn remove(&mut self, name: &str) -> Result<(), Failure> {
        for ending in ENDINGS {
            let object = format!("{name}.{ending}");
            if self.mirror.has(&object)? {
                self.mirror.remove(&object)?;
            }
        }
        Ok(())
    }

    fn recording(
        &mut self,
        recording: &Recording,
        name: &str,
        receipt: &str,
    ) -> Result<(), Failure> {
        for (_, call_epoch) in &recording.epochs {
            self.mirror.fetch(&self.journal, call_epoch)?;
        }
        let mut file = tempfile::tempfile().map_err(temporary)?;
        let exported = write_wav(recording, &self.journal, &file)?;
        for (_, call_epoch) in &recording.epochs {
            self.mirror.forget(&self.journal, call_epoch)?;
        }
        let object = format!("{name}.wav");
        let sha256 = sha256(&mut file).map_err(temporary)?;
        self.mirror.put_file(&object, &file)?;
        let text = receipt_text(recording, &object, sha256, &exported)?;
        put_text(self.mirror, receipt, &text)?;
        let is_damaged = exported.is_damaged();
        if is_damaged {
            remark(&format!("{object} misses audio: its receipt says where"));
        }
        self.summary.recordings += 1;
        self.summary.bytes += exported.bytes;
        self.summary.damaged += u64::from(is_damaged);
        self.bar.set_message(counted(self.summary.recordings, "recording"));
        self.bar.tick();
        Ok(())
    }
}

fn put_text(mirror: &Mirror, name: &str, text: &str) -> Result<(), Failure> {
    let mut file = tempfile::tempfile().map_err(temporary)?;
    file.write_all(text.as_bytes()).map_err(temporary)?;
    Ok(mirror.put_file(name, &file)?)
}

fn temporary(error: io::Error) -> Failure {
    Failure::Run(format!("cannot write a temporary file: {error}"))
}

fn sha256(file: &mut File) -> io::Result<String> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut bytes = vec![0; 256 * 1024];
    file.rewind()?;
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            size => context.update(&bytes[..size]),
        }
    }
    let digest = context.finish();
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn receipt_text(
    recording: &Recording,
    object: &str,
    sha256: String,
    exported: &Exported,
) -> Result<String, Failure> {
    let epochs = recording.epochs.iter().map(|(number, call_epoch)| (*number, call_epoch));
    let view = CallView::of_epochs(&recording.identity, epochs, Zone::default());
    let heard = recording.epochs.iter().find(|(_, call_epoch)| call_epoch.bytes > 0);
    let heard = heard.or(recording.epochs.first());
    let sample_rate = heard.map_or(0, |(_, call_epoch)| sample_rate(call_epoch));
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        call: &view.call,
        tenant: &view.tenant,
        interaction: &view.interaction,
        object,
        sha256,
        started_at: rfc3339(recording.started_at()),
        sample_rate,
        frames: exported.frames,
        bytes: exported.bytes,
        seconds: seconds(exported.bytes, sample_rate),
        epochs: &view.epochs,
        gaps: &exported.gaps,
        damages: &exported.damages,
    };
    Ok(json_text(&receipt)? + "\n")
}

impl Summary {
    fn text(&self) -> String {
        let (recordings, bytes) =
            (counted(self.recordings, "recording"), counted(self.bytes, "byte"));
        let mut text = format!("{recordings} written: {bytes}");
        for (count, what) in [
            (self.recordings_before, "there already"),
            (self.live, "left out: their calls may go on"),
            (self.deleted, "deleted"),
            (self.damaged, "with missing audio"),
            (self.events, "announced"),
        ] {
            if count > 0 {
                text += &format!("\n{} {what}", counted(count, "recording"));
            }
        }
        text + "\n"
    }

    fn outcome(&self) -> Result<(), Failure> {
        if self.is_interrupted {
            return Err(Failure::Run(
                "a signal ended the work early: the same command goes on with the rest".into(),
            ));
        }
        if self.damaged == 0 {
            return Ok(());
        }
        Err(Failure::Damaged(format!(
            "{} audio: what can be read was written",
            match self.damaged {
                1 => "1 recording misses".to_owned(),
                count => format!("{count} recordings miss"),
            }
        )))
    }
}
