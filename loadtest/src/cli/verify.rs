//! Flags of `verify`.

use std::path::PathBuf;

use clap::Args;

/// Flags of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  exo-load verify result --data-dir /var/lib/exo-ingest

Use it where audio has to survive something that happens after the run: a killed node, a power cut,
a copy to another disk.

Exit: 0 all promised audio is there · 1 could not run · 2 audio is missing, different, or was never
sent")]
pub struct VerifyArgs {
    /// The --out directory of the run
    pub run: PathBuf,
    /// The node's data directory
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Number of threads; each reads one shard at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub threads: u16,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
