//! `exo-ingest calls export`: a call's audio as a WAV file.

#![forbid(unsafe_code)]

use super::name::{CallName, display};
use super::view::seconds;
use super::wav::{DATA_SIZE_MAX, header};
use super::{DataDir, Failure, find, print_json, progress, remark};
use crate::journal::reader::{Call, GapReason, Journal, Turn};
use audio::{Audio, Exported, Stop};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

mod audio;

/// Write a call's audio to a WAV file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    name: CallName,
    /// The file to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// One epoch by its number in `calls list`, or all of them in order
    #[arg(long, value_name = "N|all", default_value = "all", value_parser = parse_epoch)]
    epoch: Epochs,
    /// What to put where audio is missing
    #[arg(long, value_name = "WHAT", default_value = "none")]
    gaps: Gaps,
    #[command(flatten)]
    data_dir: DataDir,
    /// What was written and what is missing, as JSON on standard output
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest calls export acme/call-1 -o call.wav --data-dir /var/lib/exo-ingest
  exo-ingest calls export --tenant acme --interaction a/b -o - | ffmpeg -i - call.ogg

The file has a header of 44 bytes and the audio as it came: nothing is inserted where some is missing, unless \
--gaps silence fills it by the time at which audio was received.";

/// Which epochs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Epochs {
    All,
    One(usize),
}

/// What to put where audio is missing.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Gaps {
    /// Nothing
    None,
    /// Silence, by the time at which audio was received
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
        return Err(Failure::Usage(
            "standard output takes the audio or the JSON: give -o a file, or leave --json out".into(),
        ));
    }
    let (journal, catalog) = args.data_dir.catalog()?;
    let call = find(&catalog, &args.name)?;
    let name = display(&call.identity);
    let turns = chosen(call, args.epoch, &name)?;
    let sample_rate = common_rate(&turns)?;
    let audio = Audio { journal: &journal, turns: &turns, sample_rate, fills: args.gaps == Gaps::Silence };
    let exported = if to_stdout { to_pipe(&audio)? } else { to_file(&audio, &args.output)? };
    for gap in &exported.gaps {
        remark(&gap.to_string());
    }
    for damage in &exported.damages {
        remark(&format!("damage: {damage}"));
    }
    let seconds = seconds(exported.bytes, sample_rate);
    if args.json {
        return print_json(&Document { call: &name, output: &args.output, sample_rate, seconds, exported: &exported });
    }
    if !to_stdout {
        remark(&format!("{name}: {seconds:.1} s at {sample_rate} Hz in {}", args.output.display()));
    }
    Ok(())
}

/// The turns that were asked for, with their numbers. A call that was deleted has no audio to give.
fn chosen<'a>(call: &'a Call, epochs: Epochs, name: &str) -> Result<Vec<(usize, &'a Turn)>, Failure> {
    let mut turns: Vec<(usize, &Turn)> = call.turns.iter().enumerate().map(|(place, turn)| (place + 1, turn)).collect();
    if let Epochs::One(number) = epochs {
        turns.retain(|(epoch, _)| *epoch == number);
        if turns.is_empty() {
            let count = call.turns.len();
            return Err(Failure::Run(format!("{name} has no epoch {number}: it has {count}, counted from 1")));
        }
    }
    let (frames, erased) =
        turns.iter().fold((0, 0), |(frames, erased), (_, turn)| (frames + turn.frames.count(), erased + turn.erased));
    if frames > 0 && frames == erased {
        return Err(Failure::Run(format!("the audio of {name} was deleted: there is nothing to export")));
    }
    Ok(turns)
}

fn common_rate(turns: &[(usize, &Turn)]) -> Result<u32, Failure> {
    let rate = |turn: &Turn| turn.facts.as_ref().map_or(0, |facts| facts.sample_rate);
    let first = turns.first().map_or(0, |(_, turn)| rate(turn));
    if turns.iter().all(|(_, turn)| rate(turn) == first) {
        return Ok(first);
    }
    let rates: Vec<String> = turns.iter().map(|(epoch, turn)| format!("epoch {epoch}: {} Hz", rate(turn))).collect();
    Err(Failure::Run(format!(
        "a WAV file has one rate and this call has more: pick one with --epoch ({})",
        rates.join(", ")
    )))
}

/// Whole or not at all: a file that is not finished has another name.
fn to_file(audio: &Audio<'_>, path: &Path) -> Result<Exported, Failure> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let failed = |error: io::Error| Failure::Run(format!("cannot write {}: {error}", path.display()));
    // Recordings are nobody else's business.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
    let done = write_file(audio, &file).and_then(|exported| {
        std::fs::rename(&part, path).map_err(failed)?;
        Ok(exported)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

fn write_file(audio: &Audio<'_>, file: &File) -> Result<Exported, Failure> {
    let failed = |error: io::Error| Failure::Run(format!("cannot write the file: {error}"));
    let bar = progress(audio.frame_count(), "exporting frames");
    let mut out = BufWriter::new(file);
    out.write_all(&header(audio.sample_rate, 0)).map_err(failed)?;
    let exported = audio.write(&mut |bytes| out.write_all(bytes), &bar)?;
    out.flush().map_err(failed)?;
    file.write_all_at(&header(audio.sample_rate, exported.bytes), 0).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    bar.finish_and_clear();
    Ok(exported)
}

/// The header comes first, and says how much follows: so the audio is read twice.
fn to_pipe(audio: &Audio<'_>) -> Result<Exported, Failure> {
    let bar = progress(2 * audio.frame_count(), "exporting frames");
    let counted = audio.write(&mut |_| Ok(()), &bar)?;
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut left = counted.bytes;
    let announced = stdout.write_all(&header(audio.sample_rate, counted.bytes)).map_err(Stop::Output);
    let result = announced.and_then(|()| {
        // A live call has more by now: what was announced is written.
        let mut write = |bytes: &[u8]| {
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            left -= size as u64;
            stdout.write_all(&bytes[..size])
        };
        audio.write(&mut write, &bar)?;
        stdout.flush().map_err(Stop::Output)
    });
    bar.finish_and_clear();
    match result {
        // A reader that has heard enough is no failure.
        Err(Stop::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(counted),
        Err(stop) => Err(stop.into()),
        Ok(()) if left > 0 => Err(Failure::Run(format!("{left} bytes of audio expired while they were exported"))),
        Ok(()) => Ok(counted),
    }
}
