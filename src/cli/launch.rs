#![forbid(unsafe_code)]
//! From a configuration to a running node, the same way for `serve` and `dev`.

use super::{Failure, forward, live, reload};
use crate::config::Config;
use crate::config::settings::{OnExpiry, Settings};
use crate::config::{cpus, ring_size};
use crate::constants::COMMIT;
use crate::control::admin::NodeInfo;
use crate::control::{Control, ControlConfig, ControlError, notify::Notifier, signals};
use crate::doctor::outage::{self, Outage};
use crate::handover::forward::Forwarder;
use crate::handover::live::forward::LiveForwarder;
use crate::io::probe::probe;
use crate::io::socket;
use crate::logging::{self, Log};
use crate::node::{Node, NodeConfig};
use crate::session::ingest::IngestSettings;
use rustix::fd::OwnedFd;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// A running node, and its control plane.
pub(super) struct Launch {
    node: Node,
    control: Control,
    node_info: NodeInfo,
    notifier: Notifier,
    /// Send the journal to archives.
    forwarders: Vec<Forwarder>,
    /// Hands calls over to a message engine.
    live: Option<LiveForwarder>,
    /// Last: it writes what the others log while they end.
    _log: Log,
}

impl Launch {
    /// Starts the log, reads the keys, starts the node. [`Launch::announce`] reports on `ready`.
    /// `passed` is used instead of the configured address.
    pub(crate) fn start(
        config: &Config,
        ready: Option<File>,
        passed: Option<OwnedFd>,
    ) -> Result<Launch, Failure> {
        let settings = &config.settings;
        let Some(key_path) = settings.jwt_key.clone() else {
            return Err(Failure::Usage(MISSING_KEY.into()));
        };
        let log = logging::start(settings.log, settings.log_level);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        // Before the node, so that a signal during the start is not lost.
        let signals = signals::listen()
            .map_err(|error| Failure::Run(format!("cannot handle signals: {error}")))?;
        let control_config = ControlConfig {
            settings: reload::settings_file(config),
            keys: key_path,
            policy: settings.token_policy.clone(),
            tls: settings.tls.settings(),
            admin: settings.admin,
            drain: settings.drain,
            drain_grace: settings.drain_grace,
        };
        let prepared = Control::prepare(control_config, signals);
        let (control, prepared) = prepared.map_err(|error| control_failure(settings, &error))?;
        let mut node_config = node_config(settings)?;
        node_config.passed = passed.map(Arc::new);
        node_config.tls = prepared.tls.map(|loaded| loaded.config);
        let shards = node_config.shards.clone();
        let forward_configs = forward::configs(settings, &mut node_config)?;
        let live_config = live::config(settings, &mut node_config)?;
        let is_shared = node_config.passed.is_none() && socket::is_taken(settings.listen);
        let node = Node::start(node_config, Arc::new(prepared.verifier));
        let mut node = node.map_err(|error| failure(error.to_string(), error.may_pass()))?;
        if is_shared {
            tracing::warn!(
                "another process listens on {} too, and gets a part of the new connections. If its \
                 keys differ, it refuses calls that are meant for this node. This is meant for the \
                 moment of an upgrade only",
                settings.listen
            );
        }
        log_start(settings, &node, &shards, control.admin_address());
        let start = |config| forward::start(config, &mut node);
        let forwarders = forward_configs.into_iter().map(start).collect::<Result<_, _>>()?;
        let live = live_config.map(|config| live::start(config, &node)).transpose()?;
        live.iter().for_each(|live| node.add_sink(live.view()));
        let node_info = NodeInfo {
            ack: settings.ack_level().name(),
            calls_max: settings.limits.calls_max,
            log_lines_dropped: logging::dropped_lines,
        };
        let notifier = Notifier::new(ready);
        Ok(Launch { node, control, node_info, notifier, forwarders, live, _log: log })
    }

    /// Address of the node, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.node.address()
    }

    /// Address of its admin listener, if it has one.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.control.admin_address()
    }

    /// Announces once that the node serves: one line on standard output, and to a supervisor that
    /// waits for it.
    pub(crate) fn announce(&self) {
        let line = format!("listening on {}\n", self.node.address());
        let mut stdout = std::io::stdout().lock();
        if let Err(error) = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
            tracing::warn!("cannot write to standard output: {error}");
        }
    }

    /// Serves until a signal.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.notifier.ready(self.node.address());
        let outcome = self.control.run(self.node, self.node_info, &self.notifier);
        // All of them send their rest at the same time.
        self.live.iter().for_each(LiveForwarder::begin_end);
        forward::end(self.forwarders);
        if let Some(live) = self.live {
            live.end();
        }
        let dropped = logging::dropped_lines();
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "some lines of this log could not be written to standard error"
            );
        }
        outcome.map_err(|error| Failure::Run(error.to_string()))
    }
}

/// Why there is no control plane, with the exit code that tells a supervisor whether to retry.
pub(super) fn control_failure(settings: &Settings, error: &ControlError) -> Failure {
    let sentence = match error {
        // A host without io_uring: the probe names best what is missing.
        ControlError::Runtime(_) => probe(settings.kernel_features)
            .err()
            .map_or(error.to_string(), |error| error.to_string()),
        error => error.to_string(),
    };
    failure(sentence, error.may_pass())
}

/// Exit code 1 if a retry may succeed, 2 if something must be changed first.
fn failure(sentence: String, may_pass: bool) -> Failure {
    if may_pass { Failure::Run(sentence) } else { Failure::Usage(sentence) }
}

pub(super) const MISSING_KEY: &str = "there are no keys to check tokens with: give --jwt-key \
                                      FILE, a PEM or JWKS with public keys (`exo-ingest keygen \
                                      --out DIR` makes a pair)";

/// A node stores audio on disk by default, so it must know where.
pub(super) fn require_data_dir(config: &Config) -> Result<(), Failure> {
    match config.settings.no_journal || config.settings.data_dir.is_some() {
        true => Ok(()),
        false => Err(Failure::Usage(
            "there is no directory for the audio: give --data-dir DIR, or --no-journal (an ACK \
             then promises only that the audio is in memory, in order)"
                .into(),
        )),
    }
}

/// Somebody who names a directory expects audio in it.
pub(super) fn refuse_contradiction(config: &Config) -> Result<(), Failure> {
    match config.settings.no_journal && config.settings.data_dir.is_some() {
        false => Ok(()),
        true => Err(Failure::Usage(
            "--no-journal and --data-dir contradict each other: with --no-journal no audio is \
             stored. Give one of them"
                .into(),
        )),
    }
}

pub(super) fn node_config(settings: &Settings) -> Result<NodeConfig, Failure> {
    let shards = cpus::place(settings.cpus.as_deref(), settings.shards, &allowed_cpus())
        .map_err(Failure::Usage)?;
    Ok(NodeConfig {
        listen: settings.listen,
        passed: None,
        tls: None,
        shards,
        limits: settings.limits.clone(),
        ingest: IngestSettings {
            limits: settings.limits.clone(),
            claim_match: settings.claim_match,
            allowed_origins: settings.allowed_origins.clone(),
            close_on_expiry: settings.on_expiry == OnExpiry::Close,
            expiry_leeway: settings.token_policy.leeway,
            client_tenant: settings.tls.client_tenant,
            has_journal: settings.journal().is_some(),
            levels: settings.call_levels(),
        },
        journal: settings.journal(),
        replication: settings.replication(),
        kernel_features: settings.kernel_features,
        allow_unregistered: settings.allow_unregistered,
    })
}

/// The CPUs that this process may use, ascending; empty if the kernel does not say (more than 1,024
/// CPUs). Then the reactors are not pinned.
fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

fn log_start(
    settings: &Settings,
    node: &Node,
    shards: &[Option<usize>],
    admin: Option<SocketAddr>,
) {
    let pinned: Vec<usize> = shards.iter().copied().flatten().collect();
    let cpus = if pinned.is_empty() { "any".to_owned() } else { cpus::show(&pinned) };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = COMMIT,
        address = %node.address(),
        admin = %admin.map_or("off".to_owned(), |admin| admin.to_string()),
        shards = shards.len(),
        cpus = %cpus,
        ack = settings.ack_level().name(),
        calls_max = settings.limits.calls_max,
        "serving"
    );
    tracing::info!("{}", ring_size::describe(settings, shards.len()));
    for note in node.notes() {
        tracing::info!("{note}");
    }
    match outage::look(settings) {
        Some(Outage { sentence, is_well: true }) => tracing::info!("{sentence}"),
        Some(Outage { sentence, is_well: false }) => tracing::warn!("{sentence}"),
        None => {}
    }
    if let Some(seconds) = getrlimit(Resource::Cpu).current {
        tracing::warn!(
            seconds,
            "the CPU time of this process is limited, and the node drains at the limit: remove it \
             with `ulimit -t unlimited`"
        );
    }
}
