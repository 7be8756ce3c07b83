//! Flags of the commands that read results.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{duration, percent, positive, share, units};

/// Flags of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  exo-load run --calls 1000 --key private.pem --out at-1000 \\
      --server-pid $(pidof exo-ingest) --admin 127.0.0.1:9464
  exo-load run --calls 4000 --key private.pem --out at-4000 \\
      --server-pid $(pidof exo-ingest) --admin 127.0.0.1:9464
  exo-load plan at-1000 at-4000 --calls 50000 --cores 8 --disk 1.5GB/s --network 10Gbit/s \\
      --memory 64GiB
  exo-ingest doctor --calls 8000 --json > host.json
  exo-load plan at-1000 at-4000 --host-report host.json --busy-hour-attempts 120000 \\
      --hold-time 3m --blocking 0.1%

It reads runs with --server-pid, and fits a straight line to the node's CPU by its calls. The disk,
the network, the memory or the node's --max-calls may be the limit before the CPU is. An answer of
more than twice the largest measured load is marked EXTRAPOLATED. The range is that of the runs:
each run alone says how many calls a box carries. A single run has no range.")]
pub struct PlanArgs {
    /// The --out directories of runs
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Number of calls to carry, on all boxes together
    #[arg(long)]
    pub calls: Option<u64>,
    /// Attempts in the busy hour, instead of --calls: the calls at once follow by Erlang B
    #[arg(long, value_name = "ATTEMPTS", value_parser = positive)]
    #[arg(conflicts_with = "calls", requires = "hold_time")]
    pub busy_hour_attempts: Option<f64>,
    /// Mean length of a call, for --busy-hour-attempts
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    #[arg(requires = "busy_hour_attempts")]
    pub hold_time: Option<Duration>,
    /// Share of the attempts that may find no place, for --busy-hour-attempts
    #[arg(long, value_name = "SHARE", default_value = "0.1%", value_parser = share)]
    pub blocking: f64,
    /// Number of cores of a box that carry calls [default: those of --host-report, else 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub cores: Option<u64>,
    /// Highest load of a core
    #[arg(long, default_value = "70%", value_parser = percent)]
    pub core_cpu_max: f64,
    /// --max-calls of the planned nodes [default: that of the measured node, if the runs know it]
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_calls: Option<u64>,
    /// What the disk of a box can write for hours, such as 1.4GB/s
    #[arg(long, value_name = "BYTES/s", value_parser = units::bytes_per_second)]
    pub disk: Option<f64>,
    /// What the network of a box can receive, such as 10Gbit/s
    #[arg(long, value_name = "BITS/s", value_parser = units::bits_per_second)]
    pub network: Option<f64>,
    /// Memory of a box, such as 64GiB: a quarter of it is for frame rings of two seconds
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub memory: Option<f64>,
    /// What `exo-ingest doctor --json` printed on a box. The flags above come before it
    #[arg(long, value_name = "FILE")]
    pub host_report: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load compare before after --margin 5%

A figure is judged if both runs have enough samples: 20 for a p50, 1,000 for a p99, 10,000 for a
p99.9, and 1,000 frames for CPU time.

Exit: 0 as good · 1 could not compare, or a run did not pass · 4 worse")]
pub struct CompareArgs {
    /// The --out directory of the earlier run
    pub before: PathBuf,
    /// The --out directory of the later run
    pub after: PathBuf,
    /// A figure that grew by more than this is worse
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
  exo-load run --calls 8000 --start-at $AT --out a … &
  exo-load run --calls 8000 --first-call 8000 --start-at $AT --out b …
  wait; exo-load merge a b --out both

Exit: the code of the worst run; SLOs are checked again on the sum · 130 a run was interrupted")]
pub struct MergeArgs {
    /// The --out directories of the runs
    #[arg(required = true, num_args = 2..)]
    pub runs: Vec<PathBuf>,
    /// Directory for the sum
    #[arg(long)]
    pub out: PathBuf,
    /// Write to --out even if it holds something else. Files with other names stay
    #[arg(long)]
    pub force: bool,
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
