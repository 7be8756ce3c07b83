//! Flags that `run` and `abuse` share.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::duration;
use crate::{host, verify};

/// Flags of every command that plays calls.
#[derive(Debug, Clone, Args)]
pub struct PlayArgs {
    /// The node's WebSocket URL: ws://, or wss:// for TLS
    #[arg(long, default_value = "ws://127.0.0.1:8443/v1/ingest")]
    pub url: String,
    /// Private key (PEM) that signs a token for each call
    #[arg(long, value_name = "PRIVATE.pem", conflicts_with = "token")]
    pub key: Option<PathBuf>,
    /// Key id for the header of the tokens
    #[arg(long, requires = "key")]
    pub kid: Option<String>,
    /// One token for all calls [default: the variable JWT_TOKEN]
    #[arg(long, value_name = "JWT")]
    pub token: Option<String>,
    /// Tenant of the calls [default: that of the token, or load]
    #[arg(long)]
    pub tenant: Option<String>,
    /// Length of an audio frame, milliseconds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub frame_ms: u64,
    /// CPUs to run on, with one pinned thread of calls on each: 1 or 2-5 or 0,2 [default: one
    /// thread, not pinned]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// Run those threads at real-time priority (SCHED_FIFO 1), so that other programs on their CPUs
    /// do not delay frames. This takes root, CAP_SYS_NICE or `ulimit -r 1`. Give the generator CPUs
    /// of its own (--cpus), or it also delays the node
    #[arg(long)]
    pub realtime: bool,
    /// The node's data directory: after the run its journal must hold every acked byte (at every
    /// ack level but received). Frames that changed places between calls or runs are found too,
    /// except with audio that repeats itself (--audio of run)
    #[arg(long, value_name = "DATA_DIR")]
    pub verify: Option<PathBuf>,
    /// Process id of the node on this machine: its CPU and memory are measured
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// A frame with more send lag is late. The run is invalid if more than one frame in 1,000 is
    /// late, and at least ten are. With fewer than 1,000 frames, more than half must be late
    #[arg(long, default_value = "5ms", value_parser = duration::parse)]
    pub sendlag_max: Duration,
    /// A text for env.json and report.html: which node this was, such as "node at $(git describe
    /// --always --dirty)"
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print the result as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Show no progress on stderr
    #[arg(long)]
    pub quiet: bool,
    /// A line above the progress of the run: where a search is.
    #[arg(skip)]
    pub title: Option<String>,
}

impl PlayArgs {
    /// Checks what the machine must offer, before anything is played.
    pub fn check(&self) -> Result<(), Box<dyn Error>> {
        if let Some(data_dir) = &self.verify {
            verify::check(data_dir)?;
        }
        if self.realtime {
            host::check_realtime()?;
        }
        Ok(())
    }
}
