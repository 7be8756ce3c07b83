//! The plan of a run: settled from the flags before it starts, then only read.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::audio::{Audio, Source};
use crate::cli::RunArgs;
use crate::identities::{self, CallIds};
use crate::ledger::ExpectedAudio;
use crate::schedule::{Clock, Schedule};
use crate::storm::Storm;
use crate::target::Target;
use crate::tls::Tls;
use crate::{admin, host};

/// Time for the workers to get ready before the first call.
pub const HEAD_START: Duration = Duration::from_millis(100);

/// A run.
pub struct Plan {
    /// The node.
    pub target: Target,
    /// How TLS is done; none for a `ws://` URL.
    pub tls: Option<Arc<Tls>>,
    /// Each call's ids and token, by number.
    pub calls: Vec<CallIds>,
    /// When things are due.
    pub schedule: Schedule,
    /// The run's clock.
    pub clock: Clock,
    /// The clock's zero as Unix time, microseconds.
    pub started_at: u64,
    /// Added to a call's place among this run's calls: its number in names and audio.
    pub first_call: u64,
    /// The audio of all calls.
    pub audio: Audio,
    /// Number of the run: its `prng` audio differs from that of other runs.
    pub run: u32,
    /// Hz.
    pub sample_rate: u32,
    /// Nanoseconds after its due time at which an ack is late.
    pub ack_timeout: u64,
    /// For connect, TLS, upgrade and `started` together.
    pub setup_timeout: Duration,
    /// For the end of a call: `stopped` and Close.
    pub stop_timeout: Duration,
    /// Connect again after a loss.
    pub reconnect: bool,
    /// The first wait before that.
    pub reconnect_wait: Duration,
    /// Calls lose their connections at one moment.
    pub storm: Option<Storm>,
    /// End with `stop` (else with a bare Close).
    pub stop: bool,
    /// CPUs to pin the workers to, one each; empty for a single worker that is not pinned.
    pub cpus: Vec<usize>,
    /// Workers run at real-time priority.
    pub realtime: bool,
    /// The most calls that the node takes, where that is known.
    pub server_calls_max: Option<u64>,
    /// Set by Ctrl-C: calls stop at their next frame, or hang up if there is none.
    pub cut: Arc<AtomicBool>,
}

impl Plan {
    /// Checks what clap cannot, and settles the plan. Minting the tokens takes a millisecond each.
    pub fn new(args: &RunArgs, cut: Arc<AtomicBool>) -> Result<Self, Box<dyn Error>> {
        let target = Target::parse(&args.play.url)?;
        let cpus = host::cpus_of("--cpus", args.play.cpus.as_deref())?;
        let ramp = args.ramp()?;
        let schedule = args.schedule(ramp)?;
        // A call that ends and the one that replaces it are up together for a moment.
        let overlap = schedule.churn.calls.min(args.storm.churn.unwrap_or(0.0).ceil() as u64);
        host::make_room_for(args.calls + overlap)?;
        let tls = Tls::new(&args.tls, &target, args.calls)?;
        if args.play.verify.is_some() && args.reconnect && args.audio != Source::Prng {
            return Err("--verify with --reconnect needs --audio prng: other audio does not tell \
                        the connections of a call apart"
                .into());
        }
        // The microsecond tells runs apart: frames that an earlier run left in the journal must not
        // pass for frames of this one.
        let run = unix_micros() as u32;
        let audio = Audio::prepare(&args.audio, args.sample_rate, args.frame_size()?, run)?;
        let calls = identities::of_calls(args, ramp, schedule.calls_in_all())?;
        let wait = match args.start_at {
            None => HEAD_START,
            Some(seconds) => Duration::from_micros(
                (seconds.saturating_mul(1_000_000)).saturating_sub(unix_micros()),
            ),
        };
        if wait < HEAD_START {
            return Err("--start-at: that moment has passed; leave time to mint the tokens, a \
                        millisecond for each call"
                .into());
        }
        Ok(Self {
            target,
            tls,
            calls,
            schedule,
            clock: Clock::new(Instant::now() + wait),
            started_at: unix_micros() + wait.as_micros() as u64,
            first_call: args.first_call,
            audio,
            run,
            sample_rate: args.sample_rate,
            ack_timeout: args.ack_timeout.as_nanos() as u64,
            setup_timeout: args.setup_timeout,
            stop_timeout: args.stop_timeout,
            reconnect: args.reconnect,
            reconnect_wait: args.reconnect_interval,
            storm: args.storm.storm(&schedule)?.map(|storm| Storm::new(storm, args.calls)),
            stop: !args.no_stop,
            cpus,
            realtime: args.play.realtime,
            server_calls_max: server_calls_max(args)?,
            cut,
        })
    }

    /// Address of the node.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.cpus.len().max(1)
    }

    /// The number that names call `index` of this run in its audio. Each generator has its own
    /// range.
    pub fn voice(&self, index: u64) -> u64 {
        self.first_call + index
    }

    /// True once the run was cut short.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The audio that a journal should hold after this run, for the ledger.
    pub fn expected_audio(&self, source: &Source) -> ExpectedAudio {
        ExpectedAudio {
            started_at: self.started_at,
            sample_rate: self.sample_rate,
            interval: self.schedule.interval,
            frame_size: self.audio.payload_size(),
            audio: source.to_string(),
            run: self.run,
            from_start: true,
            first_call: self.first_call,
            tenant: self.calls.first().map_or(String::new(), |ids| ids.tenant.to_string()),
            interactions: self.calls.iter().map(|ids| ids.interaction.clone()).collect(),
        }
    }
}

fn server_calls_max(args: &RunArgs) -> Result<Option<u64>, String> {
    match (&args.admin, args.play.server_pid) {
        (Some(address), _) => admin::calls_max(address).map(Some),
        (None, Some(pid)) => Ok(host::calls_max_of(pid)),
        (None, None) => Ok(None),
    }
}

fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
