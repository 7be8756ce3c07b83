//! `exo-ingest calls export`: a call's audio as a WAV file.

#![forbid(unsafe_code)]

use super::name::{CallName, display};
use super::view::seconds;
use super::wav::{DATA_SIZE_MAX, header};
use super::{DataDir, Failure, find, print_json, progress, remark};
use crate::archive::reader::{Call, CallEpoch, GapReason, Journal};
use audio::{Audio, Exported, Stop};
use clap::{Args, ValueEnum};
use exo_output::Output;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod audio;

/// Write a call's audio to a WAV file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    name: CallName,
    /// File to write, readable by this user only; a pipe or device is written to as it is; - is
    /// standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// One epoch, by its number in `calls list`, or all of them in order
    #[arg(long, value_name = "N|all", default_value = "all", value_parser = parse_epoch)]
    epoch: Epochs,
    /// What to write where audio is missing
    #[arg(long, value_name = "WHAT", default_value = "none")]
    gaps: Gaps,
    #[command(flatten)]
    data_dir: DataDir,
    /// Print what was written and what is missing, as JSON on standard output
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest calls export acme/call-1 -o call.wav --data-dir /var/lib/exo-ingest
  exo-ingest calls export --tenant acme --interaction a/b -o - | ffmpeg -i - call.ogg

The file has a header of 44 bytes and the audio as received. Missing audio leaves no gap in the \
file. With --gaps silence, silence fills the gaps; its length comes from the times at which audio \
was received.";

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

/// Writes the file.
pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && args.json {
        return Err(both_on_stdout());
    }
    let (journal, catalog) = args.data_dir.catalog()?;
    let call = find(&catalog, &args.name)?;
    let name = display(&call.identity);
    let call_epochs = chosen(call, args.epoch, &name)?;
    let sample_rate = common_rate(&call_epochs)?;
    let audio = Audio {
        journal: &journal,
        epochs: &call_epochs,
        sample_rate,
        fills: args.gaps == Gaps::Silence,
    };
    let exported =
        if to_stdout { to_pipe(&audio, io::stdout().lock())? } else { to_path(&audio, args)? };
    for gap in &exported.gaps {
        remark(&gap.to_string());
    }
    for damage in &exported.damages {
        remark(&format!("damage: {damage}"));
    }
    let seconds = seconds(exported.bytes, sample_rate);
    if args.json {
        return print_json(&Document {
            call: &name,
            output: &args.output,
            sample_rate,
            seconds,
            exported: &exported,
        });
    }
    if !to_stdout {
        remark(&format!("{name}: {seconds:.1} s at {sample_rate} Hz in {}", args.output.display()));
    }
    Ok(())
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
        return to_file(audio, output, path, &stop);
    }
    if output.is_stdout() && args.json {
        return Err(both_on_stdout());
    }
    // There is nothing to clean up: the first signal ends it at once.
    stop.store(true, Ordering::Relaxed);
    to_pipe(audio, output.file())
}

/// The chosen epochs, with their numbers. A deleted call has no audio to export.
fn chosen<'a>(
    call: &'a Call,
    epochs: Epochs,
    name: &str,
) -> Result<Vec<(usize, &'a CallEpoch)>, Failure> {
    let mut call_epochs: Vec<(usize, &CallEpoch)> =
        call.epochs.iter().enumerate().map(|(place, call_epoch)| (place + 1, call_epoch)).collect();
    if let Epochs::One(number) = epochs {
        call_epochs.retain(|(epoch, _)| *epoch == number);
        if call_epochs.is_empty() {
            let count = call.epochs.len();
            return Err(Failure::Run(format!(
                "{name} has no epoch {number}: it has {count}, counted from 1"
            )));
        }
    }
    let (frames, erased) = call_epochs.iter().fold((0, 0), |(frames, erased), (_, call_epoch)| {
        (frames + call_epoch.frames.count(), erased + call_epoch.erased)
    });
    if frames > 0 && frames == erased {
        return Err(Failure::Run(format!(
            "the audio of {name} was deleted: there is nothing to export"
        )));
    }
    Ok(call_epochs)
}

/// The rate of all epochs that hold audio. The others do not matter for the file.
fn common_rate(call_epochs: &[(usize, &CallEpoch)]) -> Result<u32, Failure> {
    let rate =
        |call_epoch: &CallEpoch| call_epoch.facts.as_ref().map_or(0, |facts| facts.sample_rate);
    let heard: Vec<_> = call_epochs.iter().filter(|(_, call_epoch)| call_epoch.bytes > 0).collect();
    let first = heard
        .first()
        .copied()
        .or(call_epochs.first())
        .map_or(0, |(_, call_epoch)| rate(call_epoch));
    if heard.iter().all(|(_, call_epoch)| rate(call_epoch) == first) {
        return Ok(first);
    }
    let rates: Vec<String> = heard
        .iter()
        .map(|(epoch, call_epoch)| format!("epoch {epoch}: {} Hz", rate(call_epoch)))
        .collect();
    Err(Failure::Run(format!(
        "a WAV file has one sample rate and this call has several: choose an epoch with --epoch \
         ({})",
        rates.join(", ")
    )))
}

/// Complete or not at all: the file has another name until it is finished.
fn to_file(
    audio: &Audio<'_>,
    output: Output,
    path: &Path,
    stop: &AtomicBool,
) -> Result<Exported, Failure> {
    let failed =
        |error: io::Error| Failure::Run(format!("cannot write {}: {error}", path.display()));
    let bar = progress(audio.frame_count(), "exporting frames");
    let mut out = BufWriter::new(output.file());
    out.write_all(&header(audio.sample_rate, 0)).map_err(failed)?;
    let mut write = |bytes: &[u8]| match stop.load(Ordering::Relaxed) {
        true => {
            Err(io::Error::other("a signal ended the export, and no part of the file was kept"))
        }
        false => out.write_all(bytes),
    };
    let exported = audio.write(&mut write, &bar)?;
    out.flush().map_err(failed)?;
    drop(out);
    output.file().write_all_at(&header(audio.sample_rate, exported.bytes), 0).map_err(failed)?;
    output.finish().map_err(failed)?;
    bar.finish_and_clear();
    Ok(exported)
}

/// Becomes true at the first signal that asks this process to end, so that half a recording is not
/// left. The second signal ends the process at once.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_default(signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
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
