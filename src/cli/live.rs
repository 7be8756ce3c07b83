#![forbid(unsafe_code)]
//! From settings to the thread that hands calls over to a message engine.

use super::Failure;
use super::forward::free_cpus;
use super::store::node_name;
use crate::archive::pins::Pins;
use crate::config::settings::{ALL_TENANTS, AckLevel, Settings};
use crate::handover::live::chunker::AudioOf;
use crate::handover::live::earlier::{self, LiveFrom};
use crate::handover::live::engine::{EngineConfig, StreamPlan};
use crate::handover::live::forward::LiveForwarder;
use crate::handover::live::safety::Safety;
use crate::handover::live::shared::LiveConfig;
use crate::handover::secrets;
use crate::handover::slice::NodeName;
use crate::node::{Node, NodeConfig};
use std::collections::HashSet;
use std::sync::Arc;

/// What to hand over, and where to; `None` without an engine.
fn config_of(settings: &Settings, shards: &[Option<usize>]) -> Result<Option<LiveConfig>, Failure> {
    let Some(url) = settings.live_url.clone() else { return Ok(None) };
    let Some(journal) = settings.journal() else {
        return Err(Failure::Usage(
            "--live hands the journal over, and there is none: give --data-dir DIR".into(),
        ));
    };
    if !url.split(',').all(|server| is_engine(server.trim())) {
        return Err(Failure::Usage(
            "--live is not the URL of a message engine: give nats://HOST:4222, or tls://…".into(),
        ));
    }
    let name = settings.forward_node.as_deref().map(NodeName::parse).transpose();
    let name = name.map_err(|told| Failure::Usage(format!("forward.node: {told}")))?;
    let plan = settings.live_create_streams.map(|slots| StreamPlan {
        slots: u16::try_from(slots).unwrap_or(u16::MAX).max(1),
        replicas: settings.live_replicas,
        max_age: settings.live_stream_age,
    });
    Ok(Some(LiveConfig {
        data_dir: journal.data_dir,
        node: node_name(name.as_ref())?,
        engine: EngineConfig {
            url,
            credentials: settings.live_credentials.clone(),
            ca: settings.live_ca.clone(),
        },
        plan,
        monitors: settings.live_monitor.clone().unwrap_or_default(),
        audio_of: audio_of(settings.live_audio.as_deref().unwrap_or_default()),
        earlier: HashSet::new(),
        reports: settings.ack_level() == AckLevel::Replicated,
        pins: None,
        cpus: settings.forward_cpus.clone().unwrap_or_else(|| free_cpus(shards)),
    }))
}

/// Whether a URL is that of a message engine.
pub(super) fn is_engine(url: &str) -> bool {
    ["nats://", "tls://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Whose audio is handed over.
pub(super) fn audio_of(tenants: &[String]) -> AudioOf {
    match tenants {
        [all] if all == ALL_TENANTS => AudioOf::All,
        tenants => AudioOf::Tenants(tenants.iter().map(|tenant| tenant.as_str().into()).collect()),
    }
}

/// What to hand over, and where to; `None` without an engine. A required engine pins the node's
/// segments from now on.
pub(super) fn config(
    settings: &Settings,
    node: &mut NodeConfig,
) -> Result<Option<LiveConfig>, Failure> {
    let Some(mut config) = config_of(settings, &node.shards)? else { return Ok(None) };
    let url = &config.engine.url;
    if settings.live_from == LiveFrom::Now {
        config.earlier = earlier::runs(&config.data_dir, url).map_err(|error| {
            let dir = config.data_dir.display();
            Failure::Run(format!("cannot note what of the journal in {dir} is older: {error}"))
        })?;
    }
    config.pins = settings.live_required.then(|| Arc::new(Pins::default()));
    if let Some(journal) = &mut node.journal {
        journal.pins.extend(config.pins.clone());
    }
    Ok(Some(config))
}

/// Whether the engine takes messages, and what its settings risk. `None` without an engine.
pub(super) fn probe(settings: &Settings) -> Option<Result<(String, Safety), Failure>> {
    let config = config_of(settings, &[]).transpose()?;
    Some(config.and_then(|config| {
        let safety = config.probe()?;
        let LiveConfig { engine, node, .. } = config;
        let url = secrets::hide_in_url(&engine.url);
        Ok((format!("{url} takes messages in all streams; the node is {node}"), safety))
    }))
}

/// Starts to hand over. An engine that does not answer is no reason not to serve: the journal
/// waits.
pub(super) fn start(config: LiveConfig, node: &Node) -> Result<LiveForwarder, Failure> {
    tracing::info!(
        url = secrets::hide_in_url(&config.engine.url),
        node = %config.node,
        "handing calls over to a message engine"
    );
    if !config.earlier.is_empty() {
        tracing::info!(
            runs = config.earlier.len(),
            "the journal of starts before the first one with this engine is not handed over \
             (live.from=now): `exo-ingest ship --to` sends it"
        );
    }
    let Some(links) = node.links() else {
        return Err(Failure::Usage("--live needs a journal: give --data-dir DIR".into()));
    };
    LiveForwarder::start(config, Arc::new(links))
        .map_err(|error| Failure::Run(format!("cannot start a thread: {error}")))
}
