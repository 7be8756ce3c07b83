//! `exo-ingest read`: a call out of the message engine.

#![forbid(unsafe_code)]

use super::Failure;
use super::calls::name::{CallName, display, parse};
use super::calls::view::seconds;
use super::calls::wav::{DATA_SIZE_MAX, header};
use super::calls::{print_json, remark};
use crate::handover::live::engine::{Engine, EngineConfig, EngineError};
use crate::handover::live::message::EpochName;
use crate::handover::live::reader::Received;
use crate::handover::live::union::{CallUnion, EpochUnion};
use clap::Args;
use exo_output::Output;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Write the audio of a call to a WAV file, from the message engine that it was handed over to
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    mut_arg("call", |call| call.required_unless_present("named")),
)]
pub(super) struct ReadArgs {
    /// The engine: nats://HOST:PORT or tls://HOST:PORT, several separated by commas
    #[arg(long = "from", value_name = "URL")]
    url: String,
    #[command(flatten)]
    name: CallName,
    /// The call by a flag, the same as TENANT/INTERACTION alone
    #[arg(
        id = "named",
        long = "call",
        value_name = "TENANT/INTERACTION",
        conflicts_with_all = ["call", "tenant"]
    )]
    named: Option<String>,
    /// File to write, readable by this user only; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// One connection of the call, by its number in the order of their starts
    #[arg(long, value_name = "N")]
    epoch: Option<usize>,
    /// File with credentials for the engine: .creds, or a line USER:PASSWORD
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Certificates that the engine's certificate must be signed by, in PEM, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print what was written and what is missing, as JSON on standard output
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest read --from nats://engine:4222 acme/call-1 -o call.wav

The file has all connections of the call in the order of their starts. A frame that the engine has \
twice is written once. If frames are missing, the rest is written, they are named, and the exit \
code is 3.";

/// Where a frame is in the temporary file.
#[derive(Clone, Copy, Debug)]
struct FramePlace {
    offset: u64,
    size: u32,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Document<'a> {
    call: &'a str,
    output: &'a Path,
    sample_rate: u32,
    seconds: f64,
    bytes: u64,
    epochs: Vec<EpochDocument>,
    /// Copies of frames that were left out.
    doubles: u64,
    /// Messages that were not ours.
    foreign: u64,
}

#[derive(Debug, Serialize)]
struct EpochDocument {
    epoch: usize,
    node: String,
    frames: u64,
    ended: bool,
    /// Its audio was deleted on demand.
    deleted: bool,
    missing: Vec<(u64, u64)>,
}

/// Reads the call and writes the file.
pub(super) fn read(args: &ReadArgs) -> Result<(), Failure> {
    let identity = match &args.named {
        Some(call) => parse(call)?,
        None => args.name.identity()?,
    };
    let name = display(&identity);
    if args.output == Path::new("-") && args.json {
        return Err(Failure::Usage(
            "standard output can take the audio or the JSON: give -o a file, or omit --json".into(),
        ));
    }
    let spool = tempfile::tempfile().map_err(|error| {
        Failure::Run(format!("cannot make a temporary file (set TMPDIR): {error}"))
    })?;
    let mut call = CallUnion::default();
    let foreign = runtime()?.block_on(async {
        let config = EngineConfig {
            url: args.url.clone(),
            credentials: args.credentials.clone(),
            ca: args.ca.clone(),
        };
        let mut engine = Engine::connect(&config).await?;
        engine.find_streams(None).await?;
        let mut end = 0;
        engine.read_call(&identity, |received| take(received, &mut call, &spool, &mut end)).await
    })?;
    let epochs: Vec<(usize, &EpochName, &EpochUnion<FramePlace>)> = call
        .epochs()
        .enumerate()
        .map(|(place, (name, epoch))| (place + 1, name, epoch))
        .filter(|(number, ..)| args.epoch.is_none_or(|chosen| chosen == *number))
        .collect();
    if epochs.is_empty() {
        return Err(Failure::Run(format!(
            "the engine has nothing of {name}: was its audio handed over, and has the stream kept it?"
        )));
    }
    if epochs.iter().all(|(_, _, epoch)| epoch.is_erased()) {
        return Err(Failure::Run(format!("the audio of {name} was deleted")));
    }
    let sample_rate = common_rate(&epochs)?;
    let bytes = write(args, &epochs, sample_rate, &spool)?;
    tell(args, &name, &epochs, Totals { sample_rate, bytes, doubles: call.doubles(), foreign })
}

/// Adds what was received to the call.
fn take(
    received: Received,
    call: &mut CallUnion<FramePlace>,
    spool: &File,
    end: &mut u64,
) -> io::Result<()> {
    match received {
        Received::Started(epoch) => {
            call.epoch(&epoch);
        }
        Received::Ended(epoch, last_seq) => call.epoch(&epoch).ended_at_seq = last_seq,
        Received::Erased(epoch) => call.erase(&epoch),
        Received::Audio(epoch, chunk) => {
            call.epoch(&epoch).sample_rate = Some(chunk.sample_rate);
            for (seq, audio) in chunk.frames() {
                call.add(&epoch, seq, || {
                    spool.write_all_at(&audio, *end)?;
                    let place = FramePlace { offset: *end, size: audio.len() as u32 };
                    *end += audio.len() as u64;
                    Ok::<FramePlace, io::Error>(place)
                })?;
            }
        }
    }
    Ok(())
}

/// A WAV file has one rate.
fn common_rate(epochs: &[(usize, &EpochName, &EpochUnion<FramePlace>)]) -> Result<u32, Failure> {
    let mut rates =
        epochs.iter().filter_map(|(number, _, epoch)| Some((*number, epoch.sample_rate?)));
    let Some((_, first)) = rates.next() else { return Ok(0) };
    match rates.find(|(_, rate)| *rate != first) {
        None => Ok(first),
        Some((number, rate)) => Err(Failure::Run(format!(
            "a WAV file has one sample rate, and the call begins with {first} Hz and has {rate} Hz \
             in epoch {number}: choose an epoch with --epoch N"
        ))),
    }
}

/// Writes the file. Returns the bytes of samples in it.
fn write(
    args: &ReadArgs,
    epochs: &[(usize, &EpochName, &EpochUnion<FramePlace>)],
    sample_rate: u32,
    spool: &File,
) -> Result<u64, Failure> {
    let failed =
        |error: io::Error| Failure::Run(format!("cannot write {}: {error}", args.output.display()));
    let frames = || epochs.iter().flat_map(|(_, _, epoch)| epoch.frames().map(|(_, frame)| *frame));
    // A sample has two bytes. A frame may have an odd one at its end.
    let whole = |frame: FramePlace| u64::from(frame.size - frame.size % 2);
    let bytes: u64 = frames().map(whole).sum();
    if bytes > DATA_SIZE_MAX {
        return Err(Failure::Run(
            "the call is longer than a WAV file can be: choose an epoch with --epoch N".into(),
        ));
    }
    let copy = |out: &mut dyn Write| -> io::Result<()> {
        out.write_all(&header(sample_rate, bytes))?;
        let mut buffer = Vec::new();
        for frame in frames() {
            buffer.resize(whole(frame) as usize, 0);
            spool.read_exact_at(&mut buffer, frame.offset)?;
            out.write_all(&buffer)?;
        }
        out.flush()
    };
    if args.output == Path::new("-") {
        return match copy(&mut BufWriter::new(io::stdout().lock())) {
            // A reader that has read enough is not a failure.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(failed(error)),
            _ => Ok(bytes),
        };
    }
    let output = Output::create(&args.output, exo_output::PRIVATE).map_err(failed)?;
    copy(&mut BufWriter::new(output.file())).map_err(failed)?;
    output.finish().map_err(failed)?;
    Ok(bytes)
}

/// Numbers about the whole call.
struct Totals {
    sample_rate: u32,
    bytes: u64,
    doubles: u64,
    foreign: u64,
}

/// Says what was written and what is missing.
fn tell(
    args: &ReadArgs,
    name: &str,
    epochs: &[(usize, &EpochName, &EpochUnion<FramePlace>)],
    totals: Totals,
) -> Result<(), Failure> {
    let Totals { sample_rate, bytes, doubles, foreign } = totals;
    let mut missing = 0;
    for (number, _, epoch) in epochs {
        for hole in epoch.holes() {
            missing += 1;
            remark(&format!("gap: frames {} to {} of epoch {number}", hole.start(), hole.end()));
        }
        if epoch.is_erased() {
            remark(&format!("the audio of epoch {number} was deleted"));
        } else if epoch.ended_at_seq.is_none() {
            remark(&format!("epoch {number} has not ended, or its end is not known"));
        }
    }
    let seconds = seconds(bytes, sample_rate);
    let document = |(number, name, epoch): &(usize, &EpochName, &EpochUnion<FramePlace>)| {
        let holes = epoch.holes();
        EpochDocument {
            epoch: *number,
            node: name.node.to_string(),
            frames: epoch.count(),
            ended: epoch.ended_at_seq.is_some(),
            deleted: epoch.is_erased(),
            missing: holes.iter().map(|hole| (*hole.start(), *hole.end())).collect(),
        }
    };
    if args.json {
        let epochs = epochs.iter().map(document).collect();
        let output = &args.output;
        let call = name;
        print_json(&Document {
            call,
            output,
            sample_rate,
            seconds,
            bytes,
            epochs,
            doubles,
            foreign,
        })?;
    } else if args.output != Path::new("-") {
        remark(&format!("{name}: {seconds:.1} s at {sample_rate} Hz in {}", args.output.display()));
    }
    if missing > 0 {
        return Err(Failure::Damaged(format!(
            "the engine lacks frames of {name}: the rest was written; hand the call over again \
             with `exo-ingest ship`"
        )));
    }
    Ok(())
}

/// The runtime of commands that use the network: one thread.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start the network's runtime: {error}")))
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        Failure::Run(error.to_string())
    }
}
