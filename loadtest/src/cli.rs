//! The command line, and the plan that follows from it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::audio::{Audio, Source};
use crate::plan::{CallIds, Plan};
use crate::schedule::{Clock, Schedule};
use crate::slo::Slo;
use crate::target::Target;
use crate::token::{Claims, Grant, Signer, TokenError};
use crate::{duration, host};

/// Calls a second where neither `--ramp` nor `--rate` is given.
const RATE_DEFAULT: f64 = 500.0;

/// Tokens are valid for the run's audio and this much longer, which covers hanging up.
const TOKEN_SPARE: Duration = Duration::from_secs(3_600);

/// Time for the workers to get ready before the first call.
pub const HEAD_START: Duration = Duration::from_millis(100);

/// Plays telephony calls at an ingest node in real time and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "exo-load", version, after_help = "Example:\n  JWT_TOKEN=… exo-load run --calls 1")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play calls and check them
    Run(Box<RunArgs>),
    /// Find the largest number of calls within the objectives
    Capacity(Box<CapacityArgs>),
    /// Hold a node's journal against what an earlier run sent, as run --verify does right away
    Verify(VerifyArgs),
    /// Show two runs' figures side by side
    Compare(CompareArgs),
    /// Add up the runs of several generators that played at one node at the same time
    Merge(MergeArgs),
    /// Write report.html of a run anew
    Report(ReportArgs),
    /// Say how many calls a node carries, and how many boxes a number of calls wants
    Plan(PlanArgs),
}

/// Flags of `capacity`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load capacity --calls 16000 --duration 30s --slo 'ack.p99.9<50ms' --key private.pem --cpus 1 --out steps

Each number of calls is a run of its own, a failing one is played twice; --out keeps their files by number and attempt,
and capacity.json. Exit: 0 found · 1 could not run · 2 not even the fewest calls passed · 3 no conclusion: the generator
was the bottleneck, or was stopped")]
pub struct CapacityArgs {
    /// Flags of the runs; --calls is the most to try
    #[command(flatten)]
    pub run: RunArgs,
    /// The number of calls to begin with
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub calls_min: u64,
    /// Done once the answer is this close
    #[arg(long, default_value = "5%", value_parser = percent)]
    pub resolution: f64,
}

/// Flags of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load plan at-1000 at-4000 --calls 50000 --cores 8

Reads runs with --server-pid, two or more of different numbers of calls, and lays a straight line through the node's CPU.")]
pub struct PlanArgs {
    /// The --out directories of runs
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Calls in all
    #[arg(long)]
    pub calls: Option<u64>,
    /// Cores of a box that carry calls
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub cores: u64,
    /// Load that a core may have
    #[arg(long, default_value = "70%", value_parser = percent)]
    pub core_cpu_max: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load compare before after")]
pub struct CompareArgs {
    /// The --out directory of the earlier run
    pub before: PathBuf,
    /// That of the later one
    pub after: PathBuf,
    /// What grew by more than this is marked
    #[arg(long, default_value = "10%", value_parser = percent)]
    pub margin: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `merge`.
#[derive(Debug, Args)]
#[command(after_help = "Example, 16,000 calls from two processes:
  AT=$(($(date +%s) + 60))
  exo-load run --calls 8000 --start-at $AT --out a … & exo-load run --calls 8000 --first-call 8000 --start-at $AT --out b …
  wait; exo-load merge a b --out both

Exit: that of the worst run; SLOs are checked again on the sum")]
pub struct MergeArgs {
    /// Their --out directories
    #[arg(required = true, num_args = 2..)]
    pub runs: Vec<PathBuf>,
    /// Directory for the sum
    #[arg(long)]
    pub out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `report`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load report result && xdg-open result/report.html")]
pub struct ReportArgs {
    /// The --out directory of a run
    pub run: PathBuf,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load verify result --data-dir /var/lib/exo-ingest

For what has to survive something that happens after the run: a killed node, a power cut, a copy to another disk.

Exit: 0 everything promised is there · 1 could not run · 2 something is missing, different or was never sent")]
pub struct VerifyArgs {
    /// The --out directory of the run
    pub run: PathBuf,
    /// The node's data directory
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Threads; each reads a shard at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub threads: u16,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  JWT_TOKEN=… exo-load run --calls 1
  exo-load run --calls 4000 --ramp 10s --duration 60s --key private.pem --cpus 1 \\
      --slo 'ack.p99.9<50ms' --server-pid $(pidof exo-ingest) --out result

Exit: 0 pass · 1 could not run · 2 an SLO or a check failed · 3 invalid: the generator was the
bottleneck · 4 worse than --baseline")]
pub struct RunArgs {
    /// The node's WebSocket URL
    #[arg(long, default_value = "ws://127.0.0.1:8443/v1/ingest")]
    pub url: String,
    /// Number of calls
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub calls: u64,
    /// How long all calls are up together, after the ramp; they then hang up at the pace of the ramp, within 10 s
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    pub duration: Duration,
    /// Time in which the calls open [default: 500 calls a second]
    #[arg(long, value_parser = duration::parse, conflicts_with = "rate")]
    pub ramp: Option<Duration>,
    /// Calls opened a second
    #[arg(long, value_name = "CALLS_PER_SEC")]
    pub rate: Option<f64>,
    /// Length of an audio frame, milliseconds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub frame_ms: u64,
    /// Samples a second
    #[arg(long, default_value_t = 24_000, value_parser = clap::value_parser!(u32).range(1_000..=192_000))]
    pub sample_rate: u32,
    /// Private key (PEM) to mint a token for each call with
    #[arg(long, value_name = "PRIVATE.pem", conflicts_with = "token")]
    pub key: Option<PathBuf>,
    /// Key id for the tokens' header
    #[arg(long, requires = "key")]
    pub kid: Option<String>,
    /// One token for all calls [else: the variable JWT_TOKEN]
    #[arg(long, value_name = "JWT")]
    pub token: Option<String>,
    /// Tenant of the calls [default: the token's, or load]
    #[arg(long)]
    pub tenant: Option<String>,
    /// Calls are named by this and their number [default: load-; a single call with a given token: its interaction_id]
    #[arg(long)]
    pub interaction_prefix: Option<String>,
    /// Number of the first call; several generators at one node each need their own range
    #[arg(long, default_value_t = 0, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(..=4_000_000_000))]
    pub first_call: u64,
    /// What is said: prng (every frame distinct), sine, or a WAV file
    #[arg(long, default_value = "prng", value_name = "FILE.wav|prng|sine")]
    pub audio: Source,
    /// Connect again after a loss, with exponential backoff and jitter; a loss is then counted, not failed
    #[arg(long)]
    pub reconnect: bool,
    /// First wait before connecting again
    #[arg(long, default_value = "2s", value_parser = duration::parse)]
    pub reconnect_interval: Duration,
    /// CPUs to run on, one pinned thread each: 1 or 2-5 or 0,2 [default: one thread, not pinned]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// Run those threads at real-time priority (SCHED_FIFO 1): what else runs on the generator's CPUs then no longer delays
    /// frames. Wants root, CAP_SYS_NICE or `ulimit -r 1`; give the generator CPUs of its own (--cpus), or it goes before the node
    #[arg(long)]
    pub realtime: bool,
    /// A bound to hold, like 'ack.p99.9<50ms'; repeatable. Of setup, connect, upgrade, started, ack, sendlag
    #[arg(long, value_name = "BOUND")]
    pub slo: Vec<Slo>,
    /// Data directory of the node: afterwards every acked byte must be in its journal (ack level durable or written).
    /// With --audio prng any exchange of frames, calls or runs shows; other audio repeats itself
    #[arg(long, value_name = "DATA_DIR")]
    pub verify: Option<PathBuf>,
    /// Directory for result.json, report.html, latency.hlog, *.hgrm, intervals.csv, ledger.json and env.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Compare with an earlier run's --out directory: exit 4 where ack p50, p99 or p99.9, setup p99 or (if both runs have
    /// it) the server's CPU time a frame is worse by more than the margin
    #[arg(long, value_name = "DIR")]
    pub baseline: Option<PathBuf>,
    /// How much worse than the baseline is still as good
    #[arg(long, default_value = "10%", value_parser = percent)]
    pub baseline_margin: f64,
    /// The node's ack level, for the record: runs of different levels are not compared
    #[arg(long, value_name = "LEVEL", value_parser = ["durable", "written", "received"])]
    pub ack_level: Option<String>,
    /// Start at this Unix time (seconds), at which other generators start too: $(($(date +%s) + 20))
    #[arg(long, value_name = "SECONDS")]
    pub start_at: Option<u64>,
    /// Kept in env.json and report.html: which node this was, say, "node at $(git describe --always --dirty)"
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print the result as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// End calls with a Close instead of `stop`
    #[arg(long)]
    pub no_stop: bool,
    /// An ack this long after its frame was due is a failure
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    pub ack_timeout: Duration,
    /// Connect, upgrade and `started` together may take this long
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub setup_timeout: Duration,
    /// The end of a call must be confirmed within this
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub stop_timeout: Duration,
    /// Process of the node on this machine: its CPU and memory are measured over the steady part
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// The run is invalid if the generator's own send lag p99.9 is above this
    #[arg(long, default_value = "5ms", value_parser = duration::parse)]
    pub sendlag_max: Duration,
    /// The run is invalid if the generator uses more of its cores than this, percent
    #[arg(long, default_value_t = 85.0)]
    pub cpu_max: f64,
}

impl RunArgs {
    /// Checks what clap cannot, and settles the plan. Minting tokens takes a millisecond each.
    pub fn plan(&self, cut: Arc<AtomicBool>) -> Result<Plan, Box<dyn std::error::Error>> {
        let target = Target::parse(&self.url)?;
        let cpus = self.cpus.as_deref().map(host::parse_cpus).transpose().map_err(|e| format!("--cpus: {e}"))?;
        host::make_room_for(self.calls)?;
        let ramp = self.ramp()?;
        if self.verify.is_some() && self.reconnect && self.audio != Source::Prng {
            return Err(
                "--verify with --reconnect: give --audio prng, other audio does not tell a call's connections apart".into(),
            );
        }
        // Told apart by the microsecond: what an earlier run left in the journal must not pass for this one's.
        let run = unix_micros() as u32;
        let audio = Audio::prepare(&self.audio, self.sample_rate, self.frame_size()?, run)?;
        let calls = self.call_ids(ramp)?;
        let ramp = ramp.as_nanos() as u64;
        let wait = match self.start_at {
            None => HEAD_START,
            Some(seconds) => Duration::from_micros((seconds.saturating_mul(1_000_000)).saturating_sub(unix_micros())),
        };
        if wait < HEAD_START {
            return Err(
                "--start-at: that moment has passed; tokens take a millisecond a call to mint, leave time for them".into()
            );
        }
        Ok(Plan {
            target,
            calls,
            schedule: Schedule {
                calls: self.calls,
                ramp,
                end: ramp.saturating_add(self.duration.as_nanos() as u64),
                interval: self.frame_ms * 1_000_000,
            },
            clock: Clock::new(Instant::now() + wait),
            started_at: unix_micros() + wait.as_micros() as u64,
            first_call: self.first_call,
            audio,
            run,
            sample_rate: self.sample_rate,
            ack_timeout: self.ack_timeout.as_nanos() as u64,
            setup_timeout: self.setup_timeout,
            stop_timeout: self.stop_timeout,
            reconnect: self.reconnect.then_some(self.reconnect_interval),
            stop: !self.no_stop,
            cpus: cpus.unwrap_or_default(),
            realtime: self.realtime,
            cut,
        })
    }

    fn ramp(&self) -> Result<Duration, String> {
        if let Some(ramp) = self.ramp {
            return Ok(ramp);
        }
        let rate = self.rate.unwrap_or(RATE_DEFAULT);
        let seconds = self.calls as f64 / rate;
        // A day: longer ramps are a mistake, and negative or endless ones no number at all.
        if !(rate > 0.0 && seconds <= 86_400.0) {
            return Err(format!("--rate {rate}: give a number of calls a second above zero"));
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Bytes of a frame.
    pub fn frame_size(&self) -> Result<usize, String> {
        let samples_by_1000 = u64::from(self.sample_rate) * self.frame_ms;
        let size = samples_by_1000 / 1_000 * 2;
        if !samples_by_1000.is_multiple_of(1_000) || size < 16 {
            return Err(format!(
                "--frame-ms {} at --sample-rate {}: a frame must hold a whole number of samples, at least 8",
                self.frame_ms, self.sample_rate
            ));
        }
        Ok(size as usize)
    }

    fn call_ids(&self, ramp: Duration) -> Result<Vec<CallIds>, Box<dyn std::error::Error>> {
        if let Some(path) = &self.key {
            let text =
                fs::read_to_string(path).map_err(|error| format!("--key: cannot read {}: {error}", path.display()))?;
            return Ok(self.minted(&Signer::from_pem(&text, self.kid.as_deref())?, ramp)?);
        }
        let given = self.token.clone().or_else(|| std::env::var("JWT_TOKEN").ok());
        let token = given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let token = token.ok_or(
            "no token: give --key PRIVATE.pem, --token, or the variable JWT_TOKEN ('exo-ingest token mint' makes one)",
        )?;
        let claims = Claims::of(&token)?;
        let tenant: Arc<str> = self.tenant.clone().or(claims.tenant_id).unwrap_or_else(|| "load".to_owned()).into();
        let token: Arc<str> = token.into();
        let only = claims.interaction_id.filter(|_| self.calls == 1 && self.interaction_prefix.is_none());
        let ids = |number| CallIds {
            tenant: tenant.clone(),
            interaction: only.clone().unwrap_or_else(|| self.interaction(number)),
            token: token.clone(),
        };
        Ok((0..self.calls).map(ids).collect())
    }

    fn interaction(&self, number: u64) -> String {
        format!("{}{}", self.interaction_prefix.as_deref().unwrap_or("load-"), self.first_call + number)
    }

    /// A token for each call, minted before the run on all CPUs: during it, it would cost send lag.
    fn minted(&self, signer: &Signer, ramp: Duration) -> Result<Vec<CallIds>, TokenError> {
        let tenant: Arc<str> = self.tenant.as_deref().unwrap_or("load").into();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // With `--start-at` the run may be hours away.
        let begin = self.start_at.unwrap_or(now).max(now);
        let exp = begin.saturating_add((ramp + self.duration + TOKEN_SPARE).as_secs());
        let progress = indicatif::ProgressBar::new(self.calls).with_message("minting tokens");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let mint = |number: u64| {
            let interaction = self.interaction(number);
            let grant = Grant { tenant_id: &tenant, interaction_id: &interaction, iat: now, exp };
            let token = signer.mint(&grant)?.into();
            progress.inc(1);
            Ok((number, CallIds { tenant: tenant.clone(), interaction, token }))
        };
        let work = || {
            let numbers = std::iter::from_fn(|| {
                let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                (number < self.calls).then_some(number)
            });
            numbers.map(mint).collect::<Result<Vec<_>, TokenError>>()
        };
        let mut calls = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut calls = Vec::with_capacity(self.calls as usize);
            for thread in threads {
                calls.extend(thread.join().map_err(|_| TokenError::Sign)??);
            }
            Ok::<_, TokenError>(calls)
        })?;
        progress.finish_and_clear();
        calls.sort_unstable_by_key(|(number, _)| *number);
        Ok(calls.into_iter().map(|(_, ids)| ids).collect())
    }
}

/// Reads `10%` or `10`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
    number
        .filter(|number| (0.0..=1_000.0).contains(number))
        .ok_or_else(|| format!("'{text}' is no margin; write one like 10%"))
}

fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// The command line with the values of secret flags taken out.
pub fn redact(args: impl Iterator<Item = String>) -> Vec<String> {
    const SECRET: [&str; 2] = ["--token", "--key"];
    let mut hide = false;
    let redact = |arg: String| {
        if std::mem::take(&mut hide) {
            return "…".to_owned();
        }
        hide = SECRET.contains(&arg.as_str());
        let with_value = SECRET.iter().find(|flag| arg.strip_prefix(**flag).is_some_and(|rest| rest.starts_with('=')));
        with_value.map_or(arg, |flag| format!("{flag}=…"))
    };
    args.map(redact).collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn args(flags: &[&str]) -> RunArgs {
        let all = ["exo-load", "run"].iter().chain(flags);
        let Command::Run(args) = Cli::try_parse_from(all).unwrap().command else { panic!("{flags:?}") };
        *args
    }

    #[test]
    fn secrets_stay_out_of_the_record() {
        let line = ["run", "--token", "a.b.c", "--calls", "1", "--key=/k.pem", "--keyword", "x", "--token=a.b.c"];
        let redacted = redact(line.iter().map(|arg| (*arg).to_owned()));
        assert_eq!(redacted, ["run", "--token", "…", "--calls", "1", "--key=…", "--keyword", "x", "--token=…"]);
    }

    #[test]
    fn a_tokens_claims_name_a_single_call() {
        // {"tenant_id":"t1","interaction_id":"i1"}
        let token = "e30.eyJ0ZW5hbnRfaWQiOiJ0MSIsImludGVyYWN0aW9uX2lkIjoiaTEifQ.AA";
        let names = |flags: &[&str]| {
            let flags: Vec<&str> = ["--token", token].iter().chain(flags).copied().collect();
            let calls = args(&flags).call_ids(Duration::ZERO).unwrap();
            calls.iter().map(|ids| format!("{}/{}", ids.tenant, ids.interaction)).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["t1/i1"]);
        assert_eq!(names(&["--calls", "2"]), ["t1/load-0", "t1/load-1"]);
        assert_eq!(names(&["--interaction-prefix", "x", "--tenant", "t2"]), ["t2/x0"]);
    }

    #[test]
    fn tokens_hold_until_an_hour_after_the_audio_whenever_it_begins() {
        use rsa::pkcs8::EncodePrivateKey as _;
        let key = rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap();
        let signer = Signer::from_pem(&key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap(), None).unwrap();
        let now = unix_micros() / 1_000_000;
        let expires = |flags: &[&str]| {
            let calls = args(flags).minted(&signer, Duration::from_secs(10)).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(calls[0].token.split('.').nth(1).unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["exp"].as_u64().unwrap()
        };
        let lasting = 10 + 60 + 3_600;
        assert!(expires(&["--duration", "60s"]) >= now + lasting);
        let later = now + 86_400;
        assert_eq!(expires(&["--duration", "60s", "--start-at", &later.to_string()]), later + lasting);
    }

    #[test]
    fn frames_hold_whole_samples() {
        assert_eq!(args(&[]).frame_size(), Ok(9_600));
        assert_eq!(args(&["--sample-rate", "8000", "--frame-ms", "20"]).frame_size(), Ok(320));
        assert!(args(&["--sample-rate", "44100", "--frame-ms", "1"]).frame_size().is_err());
        assert!(args(&["--sample-rate", "1000", "--frame-ms", "1"]).frame_size().is_err());
    }

    #[test]
    fn the_ramp_follows_from_rate_or_flag() {
        assert_eq!(args(&["--calls", "4000"]).ramp(), Ok(Duration::from_secs(8)));
        assert_eq!(args(&["--calls", "100", "--rate", "50"]).ramp(), Ok(Duration::from_secs(2)));
        assert_eq!(args(&["--ramp", "3s"]).ramp(), Ok(Duration::from_secs(3)));
        for rate in ["0", "-1", "NaN", "1e-9"] {
            assert!(args(&[&format!("--rate={rate}")]).ramp().is_err(), "{rate}");
        }
    }
}
