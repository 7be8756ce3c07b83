#![forbid(unsafe_code)]
//! From a configuration to a running node, the same way for `serve` and `dev`.

use super::Failure;
use crate::auth::TokenPolicy;
use crate::config::Config;
use crate::config::cpus;
use crate::config::settings::{OnExpiry, Settings};
use crate::control::admin::Facts;
use crate::control::{Control, ControlConfig, ControlError, notify::Notifier, signals};
use crate::io::probe::probe;
use crate::logging::{self, Log};
use crate::node::{Node, NodeConfig};
use crate::session::ingest::IngestSettings;
use rustix::thread::{CpuSet, sched_getaffinity};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// A node that serves, and what controls it.
pub(super) struct Launch {
    node: Node,
    control: Control,
    facts: Facts,
    notifier: Notifier,
    /// Last: it writes what the others log at their end.
    _log: Log,
}

impl Launch {
    /// Starts the log, reads the keys, starts the node. `ready` is told of it by [`Launch::announce`].
    pub fn start(config: &Config, ready: Option<File>) -> Result<Launch, Failure> {
        let settings = &config.settings;
        let Some(key_path) = settings.jwt_key.clone() else { return Err(Failure::Usage(MISSING_KEY.into())) };
        let log = logging::start(settings.log, settings.log_level);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        // Before the node, so that a signal that comes while it starts is not lost.
        let signals = signals::listen().map_err(|error| Failure::Run(format!("cannot handle signals: {error}")))?;
        let policy = TokenPolicy {
            issuer: settings.jwt_issuer.clone(),
            audience: settings.jwt_audience.clone(),
            leeway: settings.jwt_leeway,
        };
        let config = ControlConfig { keys: key_path, policy, admin: settings.admin, drain: settings.drain };
        let prepared = Control::prepare(config, signals).map_err(|error| match error {
            // A host without io_uring: the probe names best what is missing.
            ControlError::Runtime(_) => {
                probe(settings.kernel_features).err().map_or(error.to_string(), |lack| lack.to_string())
            }
            error => error.to_string(),
        });
        let (control, verifier) = prepared.map_err(Failure::Run)?;
        let node_config = node_config(settings)?;
        let shards = node_config.shards.clone();
        let node = Node::start(node_config, Arc::new(verifier)).map_err(|error| Failure::Run(error.to_string()))?;
        log_start(settings, &node, &shards, control.admin_address());
        let facts = Facts { ack: settings.ack_level().name(), calls_max: settings.limits.calls_max };
        Ok(Launch { node, control, facts, notifier: Notifier::new(ready), _log: log })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.node.address()
    }

    /// Where its admin listener is, if it has one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.admin_address()
    }

    /// Says, once, that the node serves: one line on standard output, and to whoever else waits for it.
    pub fn announce(&self) {
        let line = format!("listening on {}\n", self.node.address());
        let mut stdout = std::io::stdout().lock();
        if let Err(error) = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
            tracing::warn!("cannot write to standard output: {error}");
        }
    }

    /// Serves until a signal ends it.
    pub fn run(mut self) -> Result<(), Failure> {
        self.notifier.ready(self.node.address());
        let outcome = self.control.run(self.node, self.facts, &self.notifier);
        let dropped = logging::dropped_lines();
        if dropped > 0 {
            tracing::warn!(dropped, "standard error did not take all lines of this log");
        }
        outcome.map_err(|error| Failure::Run(error.to_string()))
    }
}

const MISSING_KEY: &str = "there are no keys to check tokens with: give --jwt-key FILE, a PEM or JWKS with public keys \
    (`exo-ingest keygen --out DIR` makes a pair)";

/// A node keeps audio on disk unless it is told not to: it has to know where.
pub(super) fn require_data_dir(config: &Config) -> Result<(), Failure> {
    match config.settings.no_journal || config.settings.data_dir.is_some() {
        true => Ok(()),
        false => Err(Failure::Usage(
            "there is no directory to keep audio in: give --data-dir DIR, or --no-journal, and an ACK promises only that the \
             audio is in memory, in order"
                .into(),
        )),
    }
}

fn node_config(settings: &Settings) -> Result<NodeConfig, Failure> {
    let shards = cpus::place(settings, &allowed_cpus()).map_err(Failure::Usage)?;
    Ok(NodeConfig {
        listen: settings.listen,
        shards,
        limits: settings.limits.clone(),
        ingest: IngestSettings {
            limits: settings.limits.clone(),
            claim_match: settings.claim_match,
            allowed_origins: settings.allowed_origins.clone(),
            close_on_expiry: settings.on_expiry == OnExpiry::Close,
            expiry_leeway: settings.jwt_leeway,
            has_journal: settings.journal().is_some(),
        },
        journal: settings.journal(),
        kernel_features: settings.kernel_features,
        allow_unregistered: settings.allow_unregistered,
    })
}

/// The CPUs this process may run on, ascending; none where the kernel does not say (over 1,024 of them), which leaves the
/// reactors unpinned.
fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

fn log_start(settings: &Settings, node: &Node, shards: &[Option<usize>], admin: Option<SocketAddr>) {
    let pinned: Vec<usize> = shards.iter().copied().flatten().collect();
    let cpus = if pinned.is_empty() { "any".to_owned() } else { cpus::show(&pinned) };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %node.address(),
        admin = %admin.map_or("off".to_owned(), |admin| admin.to_string()),
        shards = shards.len(),
        cpus = %cpus,
        ack = settings.ack_level().name(),
        calls_max = settings.limits.calls_max,
        "serving"
    );
    for note in node.notes() {
        tracing::info!("{note}");
    }
}
