//! Flags of `run`, and the times that follow from them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::play::PlayArgs;
use super::storms::StormArgs;
use super::tls::TlsArgs;
use super::{duration, percent};
use crate::audio::Source;
use crate::schedule::{Churn, Schedule};
use crate::slo::Slo;

/// Calls a second where neither `--ramp` nor `--rate` is given.
const RATE_DEFAULT: f64 = 500.0;

/// Longest ramp, seconds: a day. A longer one is a mistake.
const RAMP_SECONDS_MAX: f64 = 86_400.0;

/// What ACKs of a node can promise.
const ACK_LEVELS: [&str; 4] = ["replicated", "durable", "written", "received"];

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  JWT_TOKEN=… exo-load run --calls 1
  exo-load run --calls 4000 --ramp 10s --duration 60s --key private.pem --cpus 1 \\
      --slo 'ack.p99.9<50ms' --server-pid $(pidof exo-ingest) --out result
  exo-load run --url wss://127.0.0.1:8443/v1/ingest --ca ca.pem --calls 100 --key private.pem
  exo-load run --url wss://127.0.0.1:8443/v1/ingest --ca ca.pem --key private.pem \\
      --calls 10000 --ramp 30s --duration 90s --cpus 1 --reconnect-all-at 60s \\
      --reconnect-share 0.9 --slo 'storm_back.max<60s' --slo 'ack_during.p99<2*ack_before.p99'
  exo-load run --calls 1000 --duration 5m --churn 20 --key private.pem

Exit: 0 pass · 1 could not run · 2 an SLO or a check failed · 3 invalid: the generator was late,
used too much of its CPUs, or no ACK was due · 4 worse than --baseline · 130 interrupted by Ctrl-C;
the results so far are written")]
pub struct RunArgs {
    /// Number of calls
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub calls: u64,
    /// How long all calls are up together, after the ramp. Then they hang up at the pace of the
    /// ramp, within 10 s
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    pub duration: Duration,
    /// Time in which the calls open [default: 500 calls a second]
    #[arg(long, value_parser = duration::parse, conflicts_with = "rate")]
    pub ramp: Option<Duration>,
    /// Calls opened a second
    #[arg(long, value_name = "CALLS_PER_SEC")]
    pub rate: Option<f64>,
    /// Flags that `run` and `abuse` share
    #[command(flatten)]
    pub play: PlayArgs,
    /// Samples a second
    #[arg(long, default_value_t = 24_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1_000..=192_000))]
    pub sample_rate: u32,
    /// Start of the calls' names; their number follows [default: load-; a single call with a given
    /// token has its interaction_id]
    #[arg(long)]
    pub interaction_prefix: Option<String>,
    /// Number of the first call. If several generators play at one node, each needs its own range
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=4_000_000_000))]
    pub first_call: u64,
    /// Audio of the calls: prng (each frame is different), sine, or a WAV file. Each call plays the
    /// file from its start, over and over; silence fills the last frame
    #[arg(long, default_value = "prng", value_name = "FILE.wav|prng|sine")]
    pub audio: Source,
    /// After a loss connect again, with exponential backoff and jitter. The loss is then counted
    /// and does not fail the run
    #[arg(long)]
    pub reconnect: bool,
    /// First wait before a call connects again
    #[arg(long, default_value = "2s", value_parser = duration::parse)]
    pub reconnect_interval: Duration,
    /// A bound to check, such as 'ack.p99.9<50ms'; repeatable. Figures: setup, connect, tls,
    /// upgrade, started, ack, sendlag; in a storm also storm_setup, storm_back, ack_before,
    /// ack_during, ack_after; with --churn also churn_setup. The bound can be another figure:
    /// 'ack_during.p99<2*ack_before.p99'
    #[arg(long, value_name = "BOUND")]
    pub slo: Vec<Slo>,
    /// Directory for result.json, report.html, latency.hlog, *.hgrm, intervals.csv, ledger.json and
    /// env.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write to --out even if it holds something else than an earlier result. Files with other
    /// names stay
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Compare with the --out directory of an earlier run. Exit 4 if ack p50, p99 or p99.9, setup
    /// p99, or (if both runs have it) the server's CPU time a frame is worse by more than the
    /// margin. A figure needs enough samples to be judged
    #[arg(long, value_name = "DIR")]
    pub baseline: Option<PathBuf>,
    /// How much worse than the baseline a figure may be
    #[arg(long, default_value = "10%", value_parser = percent)]
    pub baseline_margin: f64,
    /// The node's ack level, for the record. Runs of different levels are not compared
    #[arg(long, value_name = "LEVEL", value_parser = ACK_LEVELS)]
    pub ack_level: Option<String>,
    /// Start at this Unix time (seconds), together with other generators: $(($(date +%s) + 20))
    #[arg(long, value_name = "SECONDS")]
    pub start_at: Option<u64>,
    /// End calls with a Close instead of `stop`
    #[arg(long)]
    pub no_stop: bool,
    /// An ack that comes this long after its frame was due is a failure
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    pub ack_timeout: Duration,
    /// Longest time for connect, TLS, upgrade and `started` together
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub setup_timeout: Duration,
    /// Longest time until the node confirms the end of a call
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub stop_timeout: Duration,
    /// The node's admin address, to keep its --max-calls with the result [default: what its command
    /// line says]. `capacity` also reads the node's disk, shards and refusals there
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// The run is invalid if the generator uses more of its cores than this, percent
    #[arg(long, default_value_t = 85.0)]
    pub cpu_max: f64,
    /// Flags of wss:// URLs
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Calls that come and go
    #[command(flatten)]
    pub storm: StormArgs,
}

impl RunArgs {
    /// When calls open, speak and hang up, with a ramp of this length.
    pub fn schedule(&self, ramp: Duration) -> Result<Schedule, String> {
        let replaced = self.storm.replaced(self.duration);
        let interval = self.storm.churn.map_or(0, |rate| (1e9 / rate) as u64);
        let lifetime = Duration::from_nanos(interval.saturating_mul(self.calls));
        if replaced > 0 && lifetime < Duration::from_secs(1) {
            return Err(format!(
                "--churn: each call would last only {lifetime:?}; give a lower rate or more --calls"
            ));
        }
        let ramp = ramp.as_nanos() as u64;
        Ok(Schedule {
            calls: self.calls,
            ramp,
            end: ramp.saturating_add(self.duration.as_nanos() as u64),
            interval: self.play.frame_ms * 1_000_000,
            churn: Churn { calls: replaced, interval },
        })
    }

    /// Time in which the calls open.
    pub fn ramp(&self) -> Result<Duration, String> {
        if let Some(ramp) = self.ramp {
            return Ok(ramp);
        }
        let rate = self.rate.unwrap_or(RATE_DEFAULT);
        let seconds = self.calls as f64 / rate;
        // False too for a negative rate, and for one that is no number.
        if !(rate > 0.0 && seconds <= RAMP_SECONDS_MAX) {
            return Err(format!("--rate {rate}: give a number of calls a second above zero"));
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Bytes of a frame.
    pub fn frame_size(&self) -> Result<usize, String> {
        let samples_by_1000 = u64::from(self.sample_rate) * self.play.frame_ms;
        let size = samples_by_1000 / 1_000 * 2;
        if !samples_by_1000.is_multiple_of(1_000) || size < 16 {
            return Err(format!(
                "--frame-ms {} at --sample-rate {}: a frame must hold a whole number of samples, \
                 at least 8",
                self.play.frame_ms, self.sample_rate
            ));
        }
        Ok(size as usize)
    }
}

#[cfg(test)]
pub mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    /// What these flags of `run` say.
    pub fn args(flags: &[&str]) -> RunArgs {
        let all = ["exo-load", "run"].iter().chain(flags);
        let Command::Run(args) = Cli::try_parse_from(all).unwrap().command else {
            panic!("{flags:?}")
        };
        *args
    }

    #[test]
    fn frames_hold_whole_samples() {
        assert_eq!(args(&[]).frame_size(), Ok(9_600));
        assert_eq!(args(&["--sample-rate", "8000", "--frame-ms", "20"]).frame_size(), Ok(320));
        assert!(args(&["--sample-rate", "44100", "--frame-ms", "1"]).frame_size().is_err());
        assert!(args(&["--sample-rate", "1000", "--frame-ms", "1"]).frame_size().is_err());
    }

    #[test]
    fn a_storm_comes_while_all_calls_are_up() {
        let storm = |at: &str| {
            let args = args(&[
                "--ramp",
                "10s",
                "--duration",
                "20s",
                "--reconnect-all-at",
                at,
                "--reconnect-share",
                "90%",
            ]);
            args.storm.storm(&args.schedule(args.ramp().unwrap()).unwrap())
        };
        for (at, is_right) in [("9s", false), ("10s", true), ("29s", true), ("30s", false)] {
            assert_eq!(storm(at).is_ok(), is_right, "{at}");
        }
        assert_eq!(
            storm("15s").unwrap().map(|storm| (storm.at, storm.share)),
            Some((15_000_000_000, 0.9))
        );
    }

    #[test]
    fn churn_replaces_calls_until_the_end() {
        let schedule = |flags: &[&str]| args(flags).schedule(Duration::from_secs(10));
        let churn = schedule(&["--calls", "100", "--churn", "4", "--duration", "10s"]).unwrap();
        assert_eq!((churn.churn.calls, churn.churn.interval), (39, 250_000_000));
        assert!(churn.opens_at(churn.calls_in_all() - 1) < churn.end, "the last one comes up");
        assert_eq!(schedule(&["--calls", "100"]).unwrap().churn.calls, 0);
        assert!(
            schedule(&["--calls", "100", "--churn", "200"]).unwrap_err().contains("--churn"),
            "half a second each"
        );
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

    #[test]
    fn the_schema_knows_every_ack_level() {
        let schema: serde_json::Value = serde_json::from_str(crate::files::SCHEMA).unwrap();
        let levels = &schema["properties"]["run"]["properties"]["ack_level"]["enum"];
        let named: Vec<&str> =
            levels.as_array().unwrap().iter().filter_map(serde_json::Value::as_str).collect();
        assert_eq!(named, ACK_LEVELS);
        let replicated = args(&["--ack-level", "replicated"]);
        assert_eq!(replicated.ack_level.as_deref(), Some("replicated"));
    }
}
