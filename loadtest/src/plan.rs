//! What a run shall do, settled before it starts and read by everybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::audio::Audio;
use crate::schedule::{Clock, Schedule};
use crate::target::Target;

/// A run.
pub struct Plan {
    /// The node.
    pub target: Target,
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
    /// What is said.
    pub audio: Audio,
    /// Tells this run's `prng` audio from that of other runs.
    pub run: u32,
    /// Hz.
    pub sample_rate: u32,
    /// Nanoseconds after its due time at which an ack is late.
    pub ack_timeout: u64,
    /// For connect, upgrade and `started` together.
    pub setup_timeout: Duration,
    /// For the end of a call: `stopped` and Close.
    pub stop_timeout: Duration,
    /// Connect again after a loss, with this first wait.
    pub reconnect: Option<Duration>,
    /// End with `stop` (else with a bare Close).
    pub stop: bool,
    /// CPUs to pin the workers to, one each; empty for a single worker that floats.
    pub cpus: Vec<usize>,
    /// Workers run before all threads of ordinary priority.
    pub realtime: bool,
    /// Set by Ctrl-C: calls stop at their next frame, or hang up if there is none.
    pub cut: Arc<AtomicBool>,
}

/// Who a call is.
pub struct CallIds {
    /// `tenant_id`.
    pub tenant: Arc<str>,
    /// `interaction_id`.
    pub interaction: String,
    /// Bearer token.
    pub token: Arc<str>,
}

impl Plan {
    /// Address of the node.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.cpus.len().max(1)
    }

    /// The number that names call `index` of this run in its audio: several generators each have a range of their own.
    pub fn voice(&self, index: u64) -> u64 {
        self.first_call + index
    }

    /// True once the run was cut short.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}
