//! `exo-ingest calls follow`.

#![forbid(unsafe_code)]

use super::name::{CallName, display};
use super::{DataDir, Failure, remark};
use crate::archive::reader::{CallEpoch, EpochState, Journal, Polled};
use crate::call::{CallIdentity, Epoch};
use clap::Args;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

/// Play a live call: writes its PCM to standard output as it arrives
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct FollowArgs {
    #[command(flatten)]
    name: CallName,
    #[command(flatten)]
    pub(super) data_dir: DataDir,
    /// Begin with the first frame of the current epoch, not with the next frame
    #[arg(long)]
    from_start: bool,
    /// How long to wait for the call to begin
    #[arg(
        long,
        value_name = "TIME",
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    wait: Duration,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls follow acme/call-1 --data-dir /var/lib/exo-ingest \\
    | aplay -t raw -f S16_LE -r 24000

Writes raw PCM: 16 bits, mono, little-endian. Standard error shows the sample rate. The output \
ends with the call. If another connection takes the call over, the output continues with that \
connection.

The node says about twice a second where new audio is, so the output is up to a second late. Only \
the call's own audio is read.";

/// How often to look for new audio. The node names it twice a second.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How often to look for a call that has not begun.
const WAIT_INTERVAL: Duration = Duration::from_millis(200);

/// How long a call may have no connection before it counts as ended. A client needs some seconds to
/// reconnect.
const RECONNECT_WAIT: Duration = Duration::from_secs(3);

/// Writes audio until the call ends.
pub(super) fn follow(args: &FollowArgs) -> Result<(), Failure> {
    let identity = args.name.identity()?;
    let name = display(&identity);
    let mut after = None;
    let mut deadline = Instant::now() + args.wait;
    loop {
        let source = args.data_dir.source()?;
        let call = match source.find(&identity)? {
            Some(call) => call,
            None if Instant::now() < deadline => {
                std::thread::sleep(WAIT_INTERVAL);
                continue;
            }
            None => source.expect(&identity)?,
        };
        // The first time, the current epoch; after that, any epoch later than the last one, ended
        // or not.
        let next = match after {
            None => call.epochs.iter().rfind(|call_epoch| call_epoch.state == EpochState::Live),
            Some(after) => call.epochs.iter().find(|call_epoch| call_epoch.epoch > after),
        };
        match next {
            Some(call_epoch) => {
                let is_first = after.is_none();
                let rate = call_epoch.facts.as_ref().map_or(0, |facts| facts.sample_rate);
                remark(&format!("{name}: {rate} Hz, 16 bits, mono"));
                if play(source.journal(), call_epoch, args.from_start || !is_first)?
                    == Heard::Enough
                {
                    return Ok(());
                }
                after = Some(call_epoch.epoch);
                // A call that ended with `stop` does not come back.
                let is_over = call.epochs.last().is_some_and(|last| last.epoch == call_epoch.epoch);
                deadline = Instant::now()
                    + if is_over && hung_up(args, &identity, call_epoch.epoch)? {
                        Duration::ZERO
                    } else {
                        RECONNECT_WAIT
                    };
            }
            None if Instant::now() < deadline => std::thread::sleep(WAIT_INTERVAL),
            None if after.is_none() => {
                return Err(Failure::Run(format!(
                    "{name} is not live: `exo-ingest calls export {name}` has its audio"
                )));
            }
            None => return Ok(()),
        }
    }
}

/// Whether the epoch ended with `stop`, as far as the journal says now.
fn hung_up(args: &FollowArgs, identity: &CallIdentity, epoch: Epoch) -> Result<bool, Failure> {
    let call = args.data_dir.source()?.expect(identity)?;
    let call_epoch = call.epochs.iter().find(|call_epoch| call_epoch.epoch == epoch);
    let stopped = crate::session::ingest::Ending::Stopped.number();
    Ok(call_epoch.is_some_and(
        |call_epoch| matches!(call_epoch.state, EpochState::Ended(end) if end.ending == stopped),
    ))
}

#[derive(PartialEq)]
enum Heard {
    /// The whole epoch.
    All,
    /// The reader has closed its end.
    Enough,
}

/// Writes the audio of an epoch as it arrives, until it ends.
fn play(journal: &Journal, call_epoch: &CallEpoch, from_start: bool) -> Result<Heard, Failure> {
    let follow = match from_start {
        true => journal.follow_epoch(call_epoch),
        // What came before is not played, so it need not be read.
        false => journal.follow_epoch_now(call_epoch),
    };
    let Some(mut follow) = follow else { return Ok(Heard::All) };
    let mut stdout = std::io::stdout().lock();
    let mut audio = Vec::new();
    let mut has_caught_up = from_start;
    loop {
        let polled = follow.poll(|frame| {
            if has_caught_up {
                audio.extend_from_slice(&frame.audio[..frame.audio.len() - frame.audio.len() % 2]);
            }
        })?;
        match stdout.write_all(&audio).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Heard::Enough),
            written => written.map_err(|error| {
                Failure::Run(format!("cannot write to standard output: {error}"))
            })?,
        }
        audio.clear();
        match polled {
            Polled::Records => {}
            Polled::Pending => {
                has_caught_up = true;
                std::thread::sleep(POLL_INTERVAL);
            }
            Polled::End => return Ok(Heard::All),
        }
    }
}
