#![forbid(unsafe_code)]
//! The control plane: one unpinned thread that watches signals and keys and tells the node. It never touches a connection.

pub mod keeper;
pub mod notify;
pub mod reload;
pub mod signals;

use crate::auth::Verifier;
use crate::node::{Node, NodeError};
use notify::Notifier;
use reload::{KeyFile, KeyFileError};
use signals::Signal;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often the node is asked whether it has ended by itself.
const TICK: Duration = Duration::from_millis(250);

/// The same while it drains: a node without calls exits at once, and scripts wait for that.
const TICK_DRAINING: Duration = Duration::from_millis(10);

/// How often the key file is looked at.
const KEY_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What the control thread listens to.
pub struct Control {
    /// Signals, from [`signals::listen`].
    pub signals: Receiver<Signal>,
    /// The keys in use.
    pub keys: KeyFile,
    /// The time over which a draining node closes its calls.
    pub drain: Duration,
}

/// How a node ended that nobody asked to.
#[derive(Debug)]
pub enum ControlError {
    /// A shard failed.
    Failed(NodeError),
    /// Every shard ended although no signal asked for it.
    Ended,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Failed(error) => write!(f, "{error}"),
            ControlError::Ended => f.write_str("the node ended though nobody asked it to: see the log for the reason"),
        }
    }
}

impl std::error::Error for ControlError {}

impl Control {
    /// Serves until the node has ended: after a signal and its drain, or because a shard failed.
    pub fn run(mut self, node: Node, notifier: &Notifier) -> Result<(), ControlError> {
        let mut draining = false;
        let mut keys_polled = Instant::now();
        while !node.is_stopped() {
            match self.signals.recv_timeout(if draining { TICK_DRAINING } else { TICK }) {
                Ok(Signal::Terminate) if !draining => {
                    tracing::info!(calls = node.calls_live(), window = ?self.drain, "draining; a second signal ends it");
                    draining = true;
                    notifier.stopping();
                    node.drain(self.drain);
                }
                Ok(Signal::Terminate) => {}
                Ok(Signal::Hangup) => apply(&node, self.keys.reload()),
                Err(RecvTimeoutError::Timeout) => {}
                // The signal thread does not end; if it did, the tick must not spin.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK_DRAINING),
            }
            if keys_polled.elapsed() >= KEY_POLL_INTERVAL {
                keys_polled = Instant::now();
                if let Some(outcome) = self.keys.poll() {
                    apply(&node, outcome);
                }
            }
        }
        log_summary(&node);
        node.wait().map_err(ControlError::Failed)?;
        if draining { Ok(()) } else { Err(ControlError::Ended) }
    }
}

/// Swaps the whole set, or keeps the old one.
fn apply(node: &Node, outcome: Result<Verifier, KeyFileError>) {
    match outcome {
        Ok(verifier) => {
            node.set_keys(Arc::new(verifier));
            tracing::info!("keys reloaded");
        }
        Err(error) => tracing::warn!("keys not reloaded, the old ones stay: {error}"),
    }
}

fn log_summary(node: &Node) {
    let sum =
        |read: fn(&crate::metrics::Counters) -> u64| node.counters().iter().map(|counters| read(counters)).sum::<u64>();
    tracing::info!(
        calls = sum(|counters| counters.calls_started.read()),
        frames = sum(|counters| counters.frames.read()),
        audio_bytes = sum(|counters| counters.audio_bytes.read()),
        acks = sum(|counters| counters.acks.read()),
        refused = sum(|counters| counters.requests_refused.read() + counters.sessions_refused.read()),
        records = sum(|counters| counters.audio_records.read()),
        receives = sum(|counters| counters.receives.read()),
        turns = sum(|counters| counters.turns.read()),
        system_calls = sum(|counters| counters.system_calls.read()),
        "stopped"
    );
}
