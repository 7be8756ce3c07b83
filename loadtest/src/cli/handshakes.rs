//! Flags of `handshakes`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;
use super::tls::TlsArgs;

/// Which handshakes are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kinds {
    /// With certificate and signature
    Full,
    /// With tickets
    Resumed,
    /// First the full ones, then the resumed ones
    Both,
}

/// Flags of `handshakes`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  exo-load handshakes --ca ca.pem --cpus 1 --server-pid $(pidof exo-ingest)
  exo-load handshakes --url wss://127.0.0.1:8443/ --insecure --tls-versions 1.2 --json

Closed loop: each client connects, does the handshake, sends close_notify and waits until the node
closes. There is no token and no call. A client needs longer to verify a P-256 certificate than the
node needs to sign: skip that with --insecure, or give the generator more CPUs. With --server-pid
the result has the node's CPU time for each handshake. From it follows how many handshakes one core
of the node does a second, even if the generator was the slower side.

Exit: 0 done · 1 could not run · 2 handshakes failed, or none was of the kind asked for ·
130 interrupted")]
pub struct HandshakesArgs {
    /// The node's WebSocket URL; its host and port are used
    #[arg(long, default_value = "wss://127.0.0.1:8443/v1/ingest")]
    pub url: String,
    /// Which handshakes to do
    #[arg(long, value_enum, default_value_t = Kinds::Both)]
    pub kinds: Kinds,
    /// Number of clients at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// Time for each kind
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub duration: Duration,
    /// Longest time for a handshake and the node's close together
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    pub timeout: Duration,
    /// CPUs to run on, one pinned thread each [default: one thread, not pinned]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// Process id of the node on this machine: its CPU time is measured
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Print the result as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Flags of TLS
    #[command(flatten)]
    pub tls: TlsArgs,
}
