//! Flags of `capacity`.

use clap::Args;

use super::{RunArgs, percent};

/// Flags of `capacity`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load capacity --calls 16000 --duration 30s --slo 'ack.p99.9<50ms' \\
      --key private.pem --cpus 1 --out steps

For each number of calls it plays one run. A run that fails or is invalid is played once more.
There is no second run if the node's own limit has refused calls with 503. --out keeps the files of
each run, by number of calls and attempt, and capacity.json.

Exit: 0 found · 1 could not run · 2 not even the fewest calls passed · 3 no conclusion: runs were
invalid · 130 interrupted")]
pub struct CapacityArgs {
    /// The number of calls to begin with: fewer are not tried
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub calls_min: u64,
    /// End when the answer is this close
    #[arg(long, default_value = "5%", value_parser = percent)]
    pub resolution: f64,
    // Last: flags after these would appear under their headings.
    /// Flags of the runs; --calls is the most to try
    #[command(flatten)]
    pub run: RunArgs,
}
