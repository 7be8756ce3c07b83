#![forbid(unsafe_code)]
//! From settings to the threads that send the journal to an archive.

use super::Failure;
use super::store::node_name;
use crate::archive::pins::Pins;
use crate::config::settings::Settings;
use crate::handover::forward::{ForwardConfig, Forwarder};
use crate::handover::slice::NodeName;
use crate::io::affinity::allowed_cpus;
use crate::node::NodeConfig;
use std::sync::Arc;

/// What to send, and where to; `None` without an archive.
fn config_of(
    settings: &Settings,
    shards: &[Option<usize>],
) -> Result<Option<ForwardConfig>, Failure> {
    let Some(url) = settings.archive_url.clone() else { return Ok(None) };
    let Some(journal) = settings.journal() else {
        return Err(Failure::Usage(
            "--archive sends the journal, and there is none: give --data-dir DIR".into(),
        ));
    };
    let name = settings.forward_node.as_deref().map(NodeName::parse).transpose();
    let name = name.map_err(|told| Failure::Usage(format!("forward.node: {told}")))?;
    let given = settings.archive_options.iter().flatten();
    let options = given
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::Usage(format!(
                "archive.options has {text:?}: write KEY=VALUE, separated by commas"
            ))),
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(Some(ForwardConfig {
        data_dir: journal.data_dir,
        node: node_name(name.as_ref())?,
        url,
        options,
        jobs: settings.archive_jobs.clamp(1, 256),
        pins: None,
        cpus: settings.forward_cpus.clone().unwrap_or_else(|| free_cpus(shards)),
    }))
}

/// What to send, and where to; `None` without an archive. A required archive pins the node's
/// segments from now on.
pub(super) fn config(
    settings: &Settings,
    node: &mut NodeConfig,
) -> Result<Option<ForwardConfig>, Failure> {
    let Some(mut config) = config_of(settings, &node.shards)? else { return Ok(None) };
    config.pins = settings.archive_required.then(|| Arc::new(Pins::default()));
    if let Some(journal) = &mut node.journal {
        journal.pins.extend(config.pins.clone());
    }
    Ok(Some(config))
}

/// Whether the archive takes, gives and deletes a small object. `None` without an archive.
pub(super) fn probe(settings: &Settings) -> Option<Result<String, Failure>> {
    let config = config_of(settings, &[]).transpose()?;
    Some(config.and_then(|config| {
        config.probe()?;
        let ForwardConfig { url, node, .. } = config;
        Ok(format!("{url} takes, gives and deletes an object; the node is {node}"))
    }))
}

/// CPUs without a reactor; empty if there are none, or if the reactors are not pinned.
pub(super) fn free_cpus(shards: &[Option<usize>]) -> Vec<usize> {
    let is_taken = |cpu: &usize| shards.contains(&Some(*cpu));
    match shards.iter().any(Option::is_some) {
        true => {
            allowed_cpus().unwrap_or_default().into_iter().filter(|cpu| !is_taken(cpu)).collect()
        }
        false => Vec::new(),
    }
}

/// Starts to send. A store that does not answer is no reason not to serve: the journal waits.
pub(super) fn start(config: ForwardConfig) -> Result<Forwarder, Failure> {
    tracing::info!(url = config.url, node = %config.node, "sending the journal to an archive");
    Ok(Forwarder::start(config)?)
}
