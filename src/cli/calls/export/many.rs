//! Recordings to files in a directory, one after the other.
//!
//! A file that is there is finished, because an unfinished one has another name. It is the same
//! recording if its time is the start of that recording: two recordings with one name started at
//! different times. It is complete if it has as much audio as the journal.

#![forbid(unsafe_code)]

use super::super::output::{Halt, JsonList, Lines, halted};
use super::super::time::{rfc3339, system_time};
use super::super::wav::HEADER_SIZE;
use super::super::{print, progress_line};
use super::paths::{file_path, make_dir, tenant_dir};
use super::*;
use crate::archive::recovery::counted;
use indicatif::HumanBytes;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Result of the export.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Files that were written.
    files: u64,
    frames: u64,
    /// Bytes of samples in them.
    bytes: u64,
    /// Recordings whose files were there already.
    skipped: u64,
    /// Live recordings that were left out.
    live: u64,
    /// Recordings whose audio was deleted.
    deleted: u64,
    /// Recordings with damage. They were written as far as they can be read.
    damaged: u64,
    /// Recordings that could not be written.
    failed: u64,
    /// A signal ended the export before all files were written.
    is_interrupted: bool,
}

#[derive(Serialize)]
struct Rest<'a> {
    directory: &'a Path,
    summary: &'a Summary,
}

/// A file that was written.
#[derive(Serialize)]
struct Written<'a> {
    call: &'a str,
    /// Number of the first epoch.
    epoch: usize,
    epochs: usize,
    started_at: String,
    output: &'a Path,
    sample_rate: u32,
    seconds: f64,
    #[serde(flatten)]
    exported: &'a Exported,
}

/// Exports recordings.
pub(super) fn export(
    args: &ExportArgs,
    journal: &Journal,
    calls: impl Iterator<Item = Result<Vec<Recording>, Failure>>,
) -> Result<(), Failure> {
    let dir = &args.output;
    let failed =
        |error: io::Error| Failure::Run(format!("cannot write to {}: {error}", dir.display()));
    make_dir(dir, true).map_err(failed)?;
    let stop = stop_on_signals().map_err(failed)?;
    let mut lines = Lines::new();
    let list = if args.json { Some(JsonList::begin(&mut lines, "recordings")) } else { None };
    let mut list = match list.transpose() {
        Ok(list) => list,
        Err(halt) => return halted(Err(halt)),
    };
    let bar = progress_line();
    let mut run = Run { args, journal, stop, summary: Summary::default(), bar };
    for recordings in calls {
        for recording in recordings?.into_iter().flat_map(|recording| parts(args, recording)) {
            run.take(&recording, list.as_mut())?;
        }
        if run.stop.load(Ordering::Relaxed) {
            run.summary.is_interrupted = true;
            break;
        }
    }
    run.bar.finish_and_clear();
    let summary = run.summary;
    match list {
        Some(list) => halted(list.end(&Rest { directory: dir, summary: &summary }))?,
        None => print(&summary.text(dir))?,
    }
    summary.outcome(dir)
}

/// An export under way.
struct Run<'a> {
    args: &'a ExportArgs,
    journal: &'a Journal,
    stop: Arc<AtomicBool>,
    summary: Summary,
    bar: ProgressBar,
}

/// The files of a recording: one for each sample rate, unless epochs were asked for.
fn parts(args: &ExportArgs, recording: Recording) -> Vec<Recording> {
    match args.epoch {
        Some(_) => vec![recording],
        None => recording.by_rate(),
    }
}

impl Run<'_> {
    /// Exports a recording, or counts why not.
    fn take(
        &mut self,
        recording: &Recording,
        list: Option<&mut JsonList<'_>>,
    ) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            self.summary.is_interrupted = true;
            return Ok(());
        }
        let name = display(&recording.identity);
        // A call that was named is wanted as it is now.
        let takes_live = self.args.choice.takes_live();
        if recording.is_live() && !takes_live {
            self.summary.live += 1;
            remark(&format!("{name} is live: it was left out"));
            return Ok(());
        }
        if recording.is_erased() {
            self.summary.deleted += 1;
            return Ok(());
        }
        match self.write(recording, &name, list) {
            Ok(()) => {}
            Err(Halt::Enough) => self.stop.store(true, Ordering::Relaxed),
            Err(Halt::Failed(_)) if self.stop.load(Ordering::Relaxed) => {
                self.summary.is_interrupted = true;
            }
            Err(Halt::Failed(failure)) => {
                self.summary.failed += 1;
                remark(&format!("{name}: {failure}"));
            }
        }
        self.bar.set_message(format!(
            "{}, {}",
            counted(self.summary.files, "recording"),
            HumanBytes(self.summary.bytes)
        ));
        self.bar.tick();
        Ok(())
    }

    fn write(
        &mut self,
        recording: &Recording,
        call: &str,
        list: Option<&mut JsonList<'_>>,
    ) -> Result<(), Halt> {
        let dir = &self.args.output;
        let path = file_path(dir, recording);
        let failed =
            |error: io::Error| Failure::Run(format!("cannot write {}: {error}", path.display()));
        let time = system_time(recording.started_at());
        if !self.args.overwrite && is_there(recording, &path)? {
            self.summary.skipped += 1;
            self.summary.damaged += u64::from(recording.frames_damaged() > 0);
            return Ok(());
        }
        make_dir(&tenant_dir(dir, &recording.identity), false).map_err(failed)?;
        let audio = audio(recording, self.journal, self.args.gaps)?;
        let output = Output::create(&path, exo_output::PRIVATE).map_err(failed)?;
        if !output.is_new() {
            return Err(Failure::Run(format!("{} is no regular file", path.display())).into());
        }
        let exported = to_file(&audio, output, &path, time, &self.stop, &ProgressBar::hidden())?;
        self.summary.files += 1;
        self.summary.frames += exported.frames;
        self.summary.bytes += exported.bytes;
        self.summary.damaged += u64::from(exported.is_damaged());
        tell(Some(call), &exported);
        let Some(list) = list else { return Ok(()) };
        list.item(&Written {
            call,
            epoch: recording.number(),
            epochs: recording.epochs.len(),
            started_at: rfc3339(recording.started_at()),
            output: &path,
            sample_rate: audio.sample_rate,
            seconds: seconds(exported.bytes, audio.sample_rate),
            exported: &exported,
        })
    }
}

/// Whether the file of a recording is complete. A file that is something else is an error.
fn is_there(recording: &Recording, path: &Path) -> Result<bool, Failure> {
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        found => found,
    };
    let found = found
        .map_err(|error| Failure::Run(format!("cannot look at {}: {error}", path.display())))?;
    if !is_same(recording, &found) {
        return Err(Failure::Run(format!(
            "{} is there, and is not this recording: --overwrite replaces it",
            path.display()
        )));
    }
    // Erased and expired audio is not in the journal any more, but may be in the file.
    let is_reduced = recording.epochs.iter().any(|(_, call_epoch)| call_epoch.erased > 0);
    Ok(is_reduced || found.len() >= HEADER_SIZE as u64 + recording.bytes())
}

/// Filesystems may round times, to two seconds at most.
fn is_same(recording: &Recording, found: &Metadata) -> bool {
    let time = i128::from(found.mtime()) * 1_000_000 + i128::from(found.mtime_nsec() / 1_000);
    let distance = time.abs_diff(i128::from(recording.started_at().0));
    found.is_file() && distance <= 2_000_000
}

impl Summary {
    fn text(&self, dir: &Path) -> String {
        let (files, frames) = (counted(self.files, "recording"), counted(self.frames, "frame"));
        let mut text =
            format!("{files} in {}: {frames}, {}", dir.display(), counted(self.bytes, "byte"));
        for (count, what) in [
            (self.skipped, "there already"),
            (self.live, "live and left out"),
            (self.deleted, "deleted"),
            (self.damaged, "damaged"),
            (self.failed, "not written"),
        ] {
            if count > 0 {
                text += &format!("\n{} {what}", counted(count, "recording"));
            }
        }
        text + "\n"
    }

    fn outcome(&self, dir: &Path) -> Result<(), Failure> {
        if self.is_interrupted {
            return Err(Failure::Run(format!(
                "a signal ended the export after {}: the same command goes on with the rest",
                counted(self.files, "file")
            )));
        }
        if self.failed > 0 {
            return Err(Failure::Run(format!(
                "{} could not be written to {}",
                counted(self.failed, "recording"),
                dir.display()
            )));
        }
        if self.damaged > 0 {
            return Err(Failure::Damaged(format!(
                "{}: what can be read was written",
                match self.damaged {
                    1 => "1 recording is damaged".to_owned(),
                    count => format!("{count} recordings are damaged"),
                }
            )));
        }
        Ok(())
    }
}
