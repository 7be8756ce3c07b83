//! Flags of `capacity`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::{RunArgs, duration, percent};

/// Flags of `capacity`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  exo-load capacity --calls 16000 --duration 30s --slo 'ack.p99.9<50ms' \\
      --key private.pem --cpus 1 --server-pid $(pidof exo-ingest) --admin 127.0.0.1:9464 \\
      --out capacity
  exo-load capacity --calls 16000 --duration 30s --key private.pem --cpus 4-7 --out sweep \\
      --sweep cores=1,2,4 --node-dir /var/lib/measured \\
      --node 'exo-ingest serve --shards {cores} --listen 127.0.0.1:{port} \\
              --admin 127.0.0.1:{admin_port} --jwt-key public.pem --data-dir {dir}'

Every run is judged against all goals at once: no loss, at most --loss-max lost, and each --slo.
Each goal gets a bracket: the most calls that met it, and the fewest that missed it. The search
doubles the calls until every goal is missed, narrows the brackets, and plays each edge --repeats
times. At last it plays the answer for --hold. A percentile counts only with ten samples beyond it.

--out keeps the files of each run, by number of calls and attempt, and capacity.json,
capacity.schema.json, capacity.md and capacity.html. These four name no absolute path and no host.

Exit: 0 found · 1 could not run · 2 not even the fewest calls passed · 3 no conclusion: runs were
invalid or had too few samples · 130 interrupted")]
pub struct CapacityArgs {
    /// The number of calls to begin with: fewer are not tried
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub calls_min: u64,
    /// End when each bracket is this narrow
    #[arg(long, default_value = "5%", value_parser = percent)]
    pub resolution: f64,
    /// The most that may be lost of the calls, the frames or the ACKs, for the second goal and for
    /// a load to count as carried
    #[arg(long, default_value = "0.5%", value_parser = percent)]
    pub loss_max: f64,
    /// Runs at each edge of a bracket; the majority decides
    #[arg(long, default_value_t = 3, value_name = "RUNS", value_parser = repeats)]
    pub repeats: usize,
    /// Length of the last run, at the answer; 0s for none [default: three times --duration, and up
    /// to ten times that where a percentile takes more samples]
    #[arg(long, value_parser = duration::parse)]
    pub hold: Option<Duration>,
    /// Start this node for the search, and end it afterwards. {port}, {admin_port}, {dir} and
    /// {cores} are replaced; it must print `listening on ADDRESS`, as exo-ingest serve does
    #[arg(long, value_name = "COMMAND")]
    pub node: Option<String>,
    /// Where {dir} of --node is made; it is removed afterwards [default: the system's directory for
    /// temporary files]
    #[arg(long, value_name = "DIR", requires = "node")]
    pub node_dir: Option<PathBuf>,
    /// Search once for each number of shards, with a node of its own: cores=1,2,4
    #[arg(long, value_name = "cores=LIST")]
    pub sweep: Option<Sweep>,
    // Last: flags after these would appear under their headings.
    /// Flags of the runs; --calls is the most to try
    #[command(flatten)]
    pub run: RunArgs,
}

/// What is varied from search to search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Numbers of shards.
    pub cores: Vec<u64>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no sweep; write one like cores=1,2,4");
        let list = text.strip_prefix("cores=").ok_or_else(wrong)?;
        let number =
            |part: &str| part.trim().parse().ok().filter(|cores| (1..=1_024).contains(cores));
        let cores: Option<Vec<u64>> = list.split(',').map(number).collect();
        Ok(Self { cores: cores.ok_or_else(wrong)? })
    }
}

fn repeats(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=9).contains(number));
    number.ok_or_else(|| format!("'{text}': give 1 to 9 runs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_a_list_of_cores() {
        assert_eq!("cores=1,2, 4".parse(), Ok(Sweep { cores: vec![1, 2, 4] }));
        for wrong in ["1,2", "cores=", "cores=0", "cores=1,x", "cpus=1"] {
            assert!(wrong.parse::<Sweep>().unwrap_err().contains("cores=1,2,4"), "{wrong}");
        }
    }
}
