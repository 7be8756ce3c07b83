//! Flags of `abuse`, and the run of live calls that follows from them.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};

use super::play::PlayArgs;
use super::tls::TlsArgs;
use super::{Cli, Command, RunArgs};
use crate::abuse::endings::LATE_MAX;
use crate::abuse::kind::Kind;
use crate::abuse::times::Times;
use crate::duration;
use crate::schedule::Schedule;
use crate::slo::Slo;

/// Each of the three parts begins with a second of the log, so each may wait for up to a second.
const ROUNDING: Duration = Duration::from_secs(3);

/// More connections a second than any machine makes.
const RATE_MAX: f64 = 1e6;

/// Flags of `abuse`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  exo-load abuse slowloris --calls-live 1000 --key private.pem --cpus 1
  exo-load abuse bad-tokens --rate 5000 --calls-live 1000 --key private.pem --cpus 1 \\
      --server-pid $(pidof exo-ingest) --admin 127.0.0.1:9464 --out bad-tokens

Live calls come up. They are measured in calm, during the attack, and after it. Each second a new
call is made. The checks:
- The live calls' ACK p99 during the attack is at most twice that of the calm before. Up to 20 ms is
  never too much. --slo replaces this check.
- No live call fails, and no new call fails.
- The node ends each hostile peer in time, and in the way that the contract says.

Peers run on one thread at low priority. With two CPUs, give one to the node and one to exo-load.

Exit: 0 pass · 1 could not run · 2 a check failed · 3 invalid: the generator was late ·
130 interrupted")]
pub struct AbuseArgs {
    /// What the peers do
    #[arg(value_enum)]
    pub kind: Kind,
    /// Number of live calls; all are checked
    #[arg(long, default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub calls_live: u64,
    /// Number of hostile peers at once. A peer whose connection was ended connects again [default:
    /// by kind, see docs/abuse.md]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub peers: Option<u64>,
    /// Connections a second, of all peers together [default: by kind]
    #[arg(long, value_name = "PER_SEC", value_parser = rate)]
    pub rate: Option<f64>,
    /// How long peers connect [default: 20s]
    #[arg(long, value_parser = duration::parse)]
    pub duration: Option<Duration>,
    /// The node must end a peer within this time; 1 s more is accepted [default: by kind]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub close_within: Option<Duration>,
    /// Time to measure the live calls before the attack, and again after it
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub calm: Duration,
    /// Flags that `run` and `abuse` share
    #[command(flatten)]
    pub play: PlayArgs,
    /// CPUs for the peers [default: those of --cpus]
    #[arg(long, value_name = "LIST")]
    pub peer_cpus: Option<String>,
    /// A bound to check during the attack, such as 'ack.p99<50ms', instead of twice the calm ACK
    /// p99. Figures: ack, sendlag, and setup, which is that of new calls
    #[arg(long, value_name = "BOUND")]
    pub slo: Vec<Slo>,
    /// The node's admin address: its CPU, its memory and the counters that went up are shown
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Directory for abuse.json, and for the files that run writes about the live calls
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write to --out even if it holds something else
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Flags of wss://
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl AbuseArgs {
    /// Peers at once.
    pub fn peers(&self) -> u64 {
        self.peers.unwrap_or(self.kind.profile().peers)
    }

    /// Connections a second.
    pub fn rate(&self) -> f64 {
        self.rate.unwrap_or(self.kind.profile().rate)
    }

    /// How long peers connect.
    pub fn duration(&self) -> Duration {
        self.duration.unwrap_or(self.kind.profile().duration)
    }

    /// The node's time to end a peer.
    pub fn limit(&self) -> Duration {
        self.close_within.unwrap_or(self.kind.profile().limit)
    }

    /// Length of the attack. If peers take their whole time, it lasts until the last one is ended.
    fn attack(&self) -> Duration {
        self.duration() + if self.kind.is_patient() { self.limit() } else { Duration::ZERO }
    }

    /// From the end of the attack until the wait for late peers is over, and a second more.
    fn settling(&self) -> Duration {
        let rest = if self.kind.is_patient() { Duration::ZERO } else { self.limit() };
        rest + LATE_MAX + Duration::from_secs(1)
    }

    /// The live calls, as `run` plays them.
    pub fn live(&self) -> RunArgs {
        // Flags that `abuse` does not have keep the default of `run`.
        let Ok(Cli { command: Command::Run(run) }) = Cli::try_parse_from(["exo-load", "run"])
        else {
            unreachable!("run has no flag that must be given");
        };
        RunArgs {
            play: self.play.clone(),
            calls: self.calls_live,
            duration: self.calm + self.attack() + self.settling() + self.calm + ROUNDING,
            interaction_prefix: Some("live-".to_owned()),
            // The CPU share proves nothing here: peers take what is left of the cores.
            cpu_max: f64::INFINITY,
            tls: self.tls.clone(),
            ..*run
        }
    }

    /// `calls` more calls under other names, for peers and new calls.
    pub fn others(&self, prefix: &str, calls: u64) -> RunArgs {
        RunArgs { calls, interaction_prefix: Some(prefix.to_owned()), ..self.live() }
    }

    /// When each part begins, in a run with this schedule: with a new second of the log.
    pub fn times(&self, schedule: &Schedule) -> Times {
        const SECOND: u64 = 1_000_000_000;
        let nanos = |time: Duration| time.as_nanos() as u64;
        let attack = (schedule.ramp + nanos(self.calm)).next_multiple_of(SECOND);
        let attack_end = (attack + nanos(self.attack())).next_multiple_of(SECOND);
        let settled = (attack_end + nanos(self.settling())).next_multiple_of(SECOND);
        Times { calm: schedule.ramp, attack, attack_end, settled, end: schedule.end.max(settled) }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
    number.ok_or_else(|| format!("'{text}' is no number of connections a second above zero"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &[&str]) -> AbuseArgs {
        let all = ["exo-load", "abuse"].iter().chain(flags);
        let Command::Abuse(args) = Cli::try_parse_from(all).unwrap().command else {
            panic!("{flags:?}")
        };
        *args
    }

    #[test]
    fn what_is_not_said_follows_from_the_kind() {
        let args = args(&["slowloris"]);
        assert_eq!(
            (args.peers(), args.rate(), args.limit()),
            (10_000, 2_000.0, Duration::from_secs(5))
        );
        let args = self::args(&[
            "bad-tokens",
            "--peers",
            "7",
            "--rate",
            "3",
            "--close-within",
            "2s",
            "--duration",
            "1s",
        ]);
        assert_eq!((args.peers(), args.rate(), args.limit()), (7, 3.0, Duration::from_secs(2)));
        assert_eq!(args.duration(), Duration::from_secs(1));
    }

    #[test]
    fn the_live_calls_last_through_all_parts() {
        for kind in ["slowloris", "pings", "zero-window"] {
            let args = args(&[kind, "--calls-live", "1000", "--duration", "4s", "--calm", "3s"]);
            let live = args.live();
            assert_eq!((live.calls, live.interaction_prefix.as_deref()), (1_000, Some("live-")));
            let ramp = 1_500_000_000;
            let end = ramp + live.duration.as_nanos() as u64;
            let times = args.times(&Schedule { ramp, end, ..schedule() });
            assert_eq!(times.attack, 5_000_000_000, "a whole second, after the calm");
            assert!(
                times.attack < times.attack_end && times.attack_end < times.settled,
                "{times:?}"
            );
            assert!(
                times.end >= times.settled + 3_000_000_000,
                "{kind}: time is left to see them calm again: {times:?}"
            );
        }
    }

    fn schedule() -> Schedule {
        let live = args(&["pings"]).live();
        live.schedule(Duration::ZERO).unwrap()
    }

    #[test]
    fn mistakes_are_named() {
        for flags in [
            &["teardrop"][..],
            &["pings", "--rate", "0"],
            &["pings", "--rate", "x"],
            &["pings", "--peers", "0"],
            &[],
        ] {
            let all = ["exo-load", "abuse"].iter().chain(flags);
            assert!(Cli::try_parse_from(all).is_err(), "{flags:?}");
        }
    }
}
