//! `exo-ingest calls follow`.

#![forbid(unsafe_code)]

use super::name::{CallName, display};
use super::{DataDir, Failure, find, remark};
use crate::call::Epoch;
use crate::journal::reader::{Journal, Polled, Turn, TurnState};
use clap::Args;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

/// Play a live call: its PCM on standard output, as it comes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct FollowArgs {
    #[command(flatten)]
    name: CallName,
    #[command(flatten)]
    data_dir: DataDir,
    /// Begin with the first frame of the epoch that goes on, not with the next one
    #[arg(long)]
    from_start: bool,
    /// How long to wait for the call to begin
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

const EXAMPLES: &str = "\
Example:
  exo-ingest calls follow acme/call-1 --data-dir /var/lib/exo-ingest | aplay -t raw -f S16_LE -r 24000

Raw PCM, 16 bits, mono, little-endian, at the rate that is said on standard error. It ends with the call; where another \
connection takes the call over, it goes on with that one.";

/// How often new audio is looked for: frames of 200 ms do not come faster.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How often a call that has not begun is looked for.
const WAIT_INTERVAL: Duration = Duration::from_millis(200);

/// How long a call may be without a connection before it counts as ended: a client that reconnects needs some seconds.
const RECONNECT_WAIT: Duration = Duration::from_secs(3);

/// Writes audio until the call ends.
pub(super) fn follow(args: &FollowArgs) -> Result<(), Failure> {
    let name = display(&args.name.identity()?);
    let mut after = None;
    let mut deadline = Instant::now() + args.wait;
    loop {
        let (journal, catalog) = args.data_dir.catalog()?;
        let call = match find(&catalog, &args.name) {
            Ok(call) => call,
            Err(_) if Instant::now() < deadline => {
                std::thread::sleep(WAIT_INTERVAL);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        // The first time the turn that goes on; then whatever came behind the last one, live or over already.
        let next = match after {
            None => call.turns.iter().rfind(|turn| turn.state == TurnState::Live),
            Some(after) => call.turns.iter().find(|turn| turn.epoch > after),
        };
        match next {
            Some(turn) => {
                let is_first = after.is_none();
                let rate = turn.facts.as_ref().map_or(0, |facts| facts.sample_rate);
                remark(&format!("{name}: {rate} Hz, 16 bits, mono"));
                if play(&journal, turn, args.from_start || !is_first)? == Heard::Enough {
                    return Ok(());
                }
                after = Some(turn.epoch);
                // A call that was hung up does not come back.
                let is_over = call.turns.last().is_some_and(|last| last.epoch == turn.epoch);
                deadline =
                    Instant::now() + if is_over && hung_up(args, turn.epoch)? { Duration::ZERO } else { RECONNECT_WAIT };
            }
            None if Instant::now() < deadline => std::thread::sleep(WAIT_INTERVAL),
            None if after.is_none() => {
                return Err(Failure::Run(format!("{name} is not live: `exo-ingest calls export {name}` has its audio")));
            }
            None => return Ok(()),
        }
    }
}

/// Whether the turn ended by `stop`, as far as the journal says by now.
fn hung_up(args: &FollowArgs, epoch: Epoch) -> Result<bool, Failure> {
    let (_, catalog) = args.data_dir.catalog()?;
    let call = find(&catalog, &args.name)?;
    let turn = call.turns.iter().find(|turn| turn.epoch == epoch);
    let stopped = crate::session::ingest::Ending::Stopped.number();
    Ok(turn.is_some_and(|turn| matches!(turn.state, TurnState::Ended(end) if end.ending == stopped)))
}

#[derive(PartialEq)]
enum Heard {
    /// All of the turn.
    All,
    /// Whoever listened has gone.
    Enough,
}

/// Writes a turn's audio as it comes, until it ends.
fn play(journal: &Journal, turn: &Turn, from_start: bool) -> Result<Heard, Failure> {
    let Some(mut follow) = journal.follow_turn(turn) else { return Ok(Heard::All) };
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
            written => written.map_err(|error| Failure::Run(format!("cannot write to standard output: {error}")))?,
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
