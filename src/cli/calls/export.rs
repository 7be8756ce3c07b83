//! `exo-ingest calls export`: the audio of calls as WAV files.

#![forbid(unsafe_code)]

use super::chosen::{Choice, Chosen};
use super::name::display;
use super::recording::{Recording, recordings, sample_rate};
use super::source::Source;
use super::view::seconds;
use super::wav::{DATA_SIZE_MAX, header};
use super::{DataDir, Failure, print_json, progress, remark, stop_on_signals};
use crate::archive::reader::{Call, CallEpoch, GapReason, Journal};
use audio::{Audio, Exported, Stop, Why};
use clap::{Args, ValueEnum};
use exo_output::Output;
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub(in crate::cli) mod audio;
mod many;
pub(in crate::cli) mod paths;

/// Write the audio of a call to a WAV file, or of many calls to files in a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ExportCommand {
    #[command(flatten)]
    args: ExportArgs,
    #[command(flatten)]
    pub(super) data_dir: DataDir,
}

/// What to export, where, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    choice: Choice,
    /// File to write, readable by this user only; a pipe or device is written to as it is; - is
    /// standard output; a directory (DIR/) gets a file for each recording
    #[arg(short, long, value_name = "FILE|DIR/")]
    output: PathBuf,
    /// One epoch of a call, by its number in `calls list`, or all of them in one file
    #[arg(long, value_name = "N|all", value_parser = parse_epoch)]
    epoch: Option<Epochs>,
    /// What to write where audio is missing
    #[arg(long, value_name = "WHAT", default_value = "none")]
    gaps: Gaps,
    /// In a directory: write files again that are there already
    #[arg(long)]
    overwrite: bool,
    /// Print what was written and what is missing, as JSON on standard output
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest calls export acme/call-1 -o call.wav --data-dir /var/lib/exo-ingest
  exo-ingest calls export --tenant acme --interaction a/b -o - | ffmpeg -i - call.ogg
  exo-ingest calls export --tenant acme --since 2026-11-30 -o recordings/ --config exo.toml

A file has a header of 44 bytes and the audio as received. Missing audio leaves no gap in the \
file. With --gaps silence, silence fills the gaps; its length comes from the times at which audio \
was received.

Epochs that follow each other within 10 minutes are one recording and go to one file. If an id \
was used again later, each recording has its own file: DIR/TENANT/INTERACTION-EPOCH.wav, with the \
number of its first epoch. The time of a file is the start of its recording. A new sample rate \
begins a new file too.

Exporting many calls can be interrupted: the same command goes on with the files that are not \
there yet. It leaves out live calls, unless --live asks for them. Damaged calls are written as far \
as they can be read, and the exit code is 3.";

/// The epochs to export.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Epochs {
    All,
    One(usize),
}

/// What to write where audio is missing.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Gaps {
    /// Nothing
    None,
    /// Silence, as long as the times at which audio was received say
    Silence,
}

fn parse_epoch(text: &str) -> Result<Epochs, String> {
    match text.parse() {
        _ if text == "all" => Ok(Epochs::All),
        Ok(number) if number > 0 => Ok(Epochs::One(number)),
        _ => Err("an epoch is a number from 1 on, or all".into()),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    call: &'a str,
    output: &'a Path,
    sample_rate: u32,
    seconds: f64,
    #[serde(flatten)]
    exported: &'a Exported,
}

/// Makes the audio of recordings readable, just before it is read.
pub(in crate::cli) type Prepare<'a> = &'a mut dyn FnMut(&[Recording]) -> Result<(), Failure>;

/// Writes the files.
pub(super) fn export(command: &ExportCommand) -> Result<(), Failure> {
    export_calls(&command.args, || command.data_dir.source(), &mut |_| Ok(()))
}

/// Writes files from a journal that `open` opens.
pub(in crate::cli) fn export_calls(
    args: &ExportArgs,
    open: impl FnOnce() -> Result<Source, Failure>,
    prepare: Prepare<'_>,
) -> Result<(), Failure> {
    let is_directory = args.output.as_os_str().as_bytes().ends_with(b"/") || args.output.is_dir();
    match args.choice.chosen()? {
        Chosen::One(identity) if is_directory => {
            let source = open()?;
            let recordings = chosen(source.expect(&identity)?, args.epoch)?;
            prepare(&recordings)?;
            many::export(args, source.journal(), std::iter::once(Ok(recordings)))
        }
        Chosen::One(identity) => {
            if args.output == Path::new("-") && args.json {
                return Err(both_on_stdout());
            }
            let source = open()?;
            let recordings = chosen(source.expect(&identity)?, args.epoch)?;
            prepare(&recordings)?;
            one(args, source.journal(), recordings)
        }
        Chosen::Many(_) if args.epoch.is_some() => {
            Err(Failure::Usage("--epoch is for one call: name it as TENANT/INTERACTION".into()))
        }
        Chosen::Many(_) if args.output == Path::new("-") || args.output.is_file() => {
            Err(Failure::Usage("many calls go to a directory: -o DIR/".into()))
        }
        Chosen::Many(filter) => {
            let source = open()?;
            let recordings = source.calls()?.map(|call| {
                let recordings = filter.recordings(call?);
                prepare(&recordings)?;
                Ok(recordings)
            });
            many::export(args, source.journal(), recordings)
        }
    }
}

/// Writes a call to one file.
fn one(args: &ExportArgs, journal: &Journal, recordings: Vec<Recording>) -> Result<(), Failure> {
    let mut recordings = recordings.into_iter();
    let (Some(recording), others) = (recordings.next(), recordings.len()) else { return Ok(()) };
    let name = display(&recording.identity);
    if others > 0 {
        let numbers: Vec<String> =
            recordings.map(|recording| recording.number().to_string()).collect();
        return Err(Failure::Run(format!(
            "the id of {name} was used again more than 10 minutes later (epoch {}): choose one \
             with --epoch N, take all in one file with --epoch all, or give -o DIR/ for a file \
             each",
            numbers.join(", ")
        )));
    }
    if recording.is_erased() {
        return Err(Failure::Run(format!(
            "the audio of {name} was deleted: there is nothing to export"
        )));
    }
    let audio = audio(&recording, journal, args.gaps)?;
    let to_stdout = args.output == Path::new("-");
    let exported =
        if to_stdout { to_pipe(&audio, io::stdout().lock())? } else { to_path(&audio, args)? };
    tell(None, &exported);
    let (sample_rate, seconds) = (audio.sample_rate, seconds(exported.bytes, audio.sample_rate));
    if args.json {
        let (call, output) = (&name, &args.output);
        print_json(&Document { call, output, sample_rate, seconds, exported: &exported })?;
    } else if !to_stdout {
        remark(&format!("{name}: {seconds:.1} s at {sample_rate} Hz in {}", args.output.display()));
    }
    if exported.is_damaged() {
        return Err(Failure::Damaged(format!(
            "audio of {name} is damaged or lost: the rest was written, and `exo-ingest calls verify` \
             checks the whole journal"
        )));
    }
    Ok(())
}

/// Says what is missing, and in which call if several are exported.
fn tell(call: Option<&str>, exported: &Exported) {
    let call = call.map(|call| format!("{call}: ")).unwrap_or_default();
    for gap in &exported.gaps {
        // Between many calls, only what should be there is worth a line.
        if call.is_empty() || gap.reason != Why::BetweenEpochs {
            remark(&format!("{call}{gap}"));
        }
    }
    for damage in &exported.damages {
        remark(&format!("{call}damage: {damage}"));
    }
}

fn both_on_stdout() -> Failure {
    Failure::Usage(
        "standard output can take the audio or the JSON, not both: give -o a file, or omit --json"
            .into(),
    )
}

/// A recording is personal data, so the file is private. A pipe or device is written to as it is.
fn to_path(audio: &Audio<'_>, args: &ExportArgs) -> Result<Exported, Failure> {
    let path = &args.output;
    let failed =
        |error: io::Error| Failure::Run(format!("cannot write {}: {error}", path.display()));
    let stop = stop_on_signals().map_err(failed)?;
    let output = Output::create(path, exo_output::PRIVATE).map_err(failed)?;
    if output.is_new() {
        let bar = progress(audio.frame_count(), "exporting frames");
        let exported = to_file(audio, output, path, None, &stop, &bar)?;
        bar.finish_and_clear();
        return Ok(exported);
    }
    if output.is_stdout() && args.json {
        return Err(both_on_stdout());
    }
    // There is nothing to clean up: the first signal ends it at once.
    stop.store(true, Ordering::Relaxed);
    to_pipe(audio, output.file())
}

/// The recordings of a call, or the epochs that were asked for as one recording.
fn chosen(call: Call, epochs: Option<Epochs>) -> Result<Vec<Recording>, Failure> {
    let Some(epochs) = epochs else { return Ok(recordings(call)) };
    let (identity, count) = (call.identity.clone(), call.epochs.len());
    let numbered = call.epochs.into_iter().enumerate();
    let mut numbered: Vec<(usize, CallEpoch)> =
        numbered.map(|(place, call_epoch)| (place + 1, call_epoch)).collect();
    if let Epochs::One(number) = epochs {
        numbered.retain(|(epoch, _)| *epoch == number);
        if numbered.is_empty() {
            return Err(Failure::Run(format!(
                "{} has no epoch {number}: it has {count}, counted from 1",
                display(&identity)
            )));
        }
    }
    Ok(vec![Recording { identity, epochs: numbered }])
}

/// The audio of a recording, which must have one sample rate.
fn audio<'a>(
    recording: &'a Recording,
    journal: &'a Journal,
    gaps: Gaps,
) -> Result<Audio<'a>, Failure> {
    let sample_rate = common_rate(&recording.epochs)?;
    let fills = gaps == Gaps::Silence;
    Ok(Audio { journal, epochs: &recording.epochs, sample_rate, fills })
}

/// The rate of all epochs that hold audio. The others do not matter for the file.
fn common_rate(epochs: &[(usize, CallEpoch)]) -> Result<u32, Failure> {
    let heard: Vec<_> = epochs.iter().filter(|(_, call_epoch)| call_epoch.bytes > 0).collect();
    let first = heard.first().copied().or(epochs.first());
    let first = first.map_or(0, |(_, call_epoch)| sample_rate(call_epoch));
    if heard.iter().all(|(_, call_epoch)| sample_rate(call_epoch) == first) {
        return Ok(first);
    }
    let rates: Vec<String> = heard
        .iter()
        .map(|(epoch, call_epoch)| format!("epoch {epoch}: {} Hz", sample_rate(call_epoch)))
        .collect();
    Err(Failure::Run(format!(
        "a WAV file has one sample rate and this call has several: choose an epoch with --epoch, \
         or give -o DIR/ ({})",
        rates.join(", ")
    )))
}

/// Writes a recording of one sample rate to a file that is empty.
pub(in crate::cli) fn write_wav(
    recording: &Recording,
    journal: &Journal,
    file: &File,
) -> Result<Exported, Failure> {
    let failed = |error: io::Error| Failure::Run(format!("cannot write a temporary file: {error}"));
    let audio = audio(recording, journal, Gaps::None)?;
    let mut out = BufWriter::new(file);
    out.write_all(&header(audio.sample_rate, 0)).map_err(failed)?;
    let exported = audio.write(&mut |bytes| out.write_all(bytes), &ProgressBar::hidden())?;
    out.flush().map_err(failed)?;
    drop(out);
    file.write_all_at(&header(audio.sample_rate, exported.bytes), 0).map_err(failed)?;
    Ok(exported)
}

/// Complete or not at all: the file has another name until it is finished.
fn to_file(
    audio: &Audio<'_>,
    output: Output,
    path: &Path,
    time: Option<SystemTime>,
    stop: &AtomicBool,
    bar: &ProgressBar,
) -> Result<Exported, Failure> {
    let failed =
        |error: io::Error| Failure::Run(format!("cannot write {}: {error}", path.display()));
    let mut out = BufWriter::new(output.file());
    out.write_all(&header(audio.sample_rate, 0)).map_err(failed)?;
    let mut write = |bytes: &[u8]| match stop.load(Ordering::Relaxed) {
        true => {
            Err(io::Error::other("a signal ended the export, and no part of the file was kept"))
        }
        false => out.write_all(bytes),
    };
    let exported = audio.write(&mut write, bar)?;
    out.flush().map_err(failed)?;
    drop(out);
    output.file().write_all_at(&header(audio.sample_rate, exported.bytes), 0).map_err(failed)?;
    if let Some(time) = time {
        output.file().set_modified(time).map_err(failed)?;
    }
    output.finish().map_err(failed)?;
    Ok(exported)
}

/// The header comes first and says how much follows, so the audio is read twice.
fn to_pipe(audio: &Audio<'_>, out: impl Write) -> Result<Exported, Failure> {
    let bar = progress(2 * audio.frame_count(), "exporting frames");
    let counted = audio.write(&mut |_| Ok(()), &bar)?;
    let mut out = BufWriter::new(out);
    let mut left = counted.bytes;
    let announced = out.write_all(&header(audio.sample_rate, counted.bytes)).map_err(Stop::Output);
    let result = announced.and_then(|()| {
        // A live call has more by now: only the announced size is written.
        let mut write = |bytes: &[u8]| {
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            left -= size as u64;
            out.write_all(&bytes[..size])
        };
        audio.write(&mut write, &bar)?;
        out.flush().map_err(Stop::Output)
    });
    bar.finish_and_clear();
    match result {
        // A reader that has read enough is not a failure.
        Err(Stop::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(counted),
        Err(stop) => Err(stop.into()),
        Ok(()) if left > 0 => {
            Err(Failure::Run(format!("{left} bytes of audio expired while they were exported")))
        }
        Ok(()) => Ok(counted),
    }
}
