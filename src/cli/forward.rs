#![forbid(unsafe_code)]
//! From settings to the threads that send the journal to archives.

use super::Failure;
use super::store::node_name;
use crate::archive::pins::Pins;
use crate::config::settings::Settings;
use crate::handover::forward::{ForwardConfig, Forwarder};
use crate::handover::secrets;
use crate::handover::sink::CA;
use crate::handover::slice::NodeName;
use crate::io::affinity::allowed_cpus;
use crate::node::{Node, NodeConfig};
use std::path::Path;
use std::sync::Arc;

/// The settings of an archive.
struct Archive<'a> {
    /// Its name, which is the section of its settings too.
    kind: &'static str,
    url: &'a str,
    options: &'a [String],
    ca: Option<&'a Path>,
    jobs: usize,
    is_required: bool,
}

/// The archives that are set.
fn archives(settings: &Settings) -> impl Iterator<Item = Archive<'_>> {
    let first = settings.archive_url.as_deref().map(|url| Archive {
        kind: "archive",
        url,
        options: settings.archive_options.as_deref().unwrap_or_default(),
        ca: settings.archive_ca.as_deref(),
        jobs: settings.archive_jobs,
        is_required: settings.archive_required,
    });
    let second = settings.archive2_url.as_deref().map(|url| Archive {
        kind: "archive2",
        url,
        options: settings.archive2_options.as_deref().unwrap_or_default(),
        ca: settings.archive2_ca.as_deref(),
        jobs: settings.archive2_jobs,
        is_required: settings.archive2_required,
    });
    [first, second].into_iter().flatten()
}

/// Splits options at their first `=`.
fn options_of(archive: &Archive<'_>) -> Result<Vec<(String, String)>, Failure> {
    let split = |(place, text): (usize, &String)| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        // The text may be a part of a secret.
        _ => Err(Failure::Usage(format!(
            "{}.options: item {} is not KEY=VALUE; items are separated by commas",
            archive.kind,
            place + 1
        ))),
    };
    let ca = archive.ca.map(|path| Ok((CA.to_owned(), path.display().to_string())));
    archive.options.iter().enumerate().map(split).chain(ca).collect()
}

/// What to send, and where to: for each archive.
fn configs_of(
    settings: &Settings,
    shards: &[Option<usize>],
) -> Result<Vec<(ForwardConfig, bool)>, Failure> {
    let mut configs = Vec::new();
    for archive in archives(settings) {
        let Some(journal) = settings.journal() else {
            return Err(Failure::Usage(
                "--archive sends the journal, and there is none: give --data-dir DIR".into(),
            ));
        };
        let name = settings.forward_node.as_deref().map(NodeName::parse).transpose();
        let name = name.map_err(|told| Failure::Usage(format!("forward.node: {told}")))?;
        let config = ForwardConfig {
            kind: archive.kind,
            data_dir: journal.data_dir,
            node: node_name(name.as_ref())?,
            url: archive.url.to_owned(),
            options: options_of(&archive)?,
            jobs: archive.jobs.clamp(1, 256),
            pins: None,
            cpus: settings.forward_cpus.clone().unwrap_or_else(|| free_cpus(shards)),
            own: None,
        };
        configs.push((config, archive.is_required));
    }
    Ok(configs)
}

/// What to send, and where to: for each archive. A required one pins the node's segments from now
/// on.
pub(super) fn configs(
    settings: &Settings,
    node: &mut NodeConfig,
) -> Result<Vec<ForwardConfig>, Failure> {
    let mut configs = Vec::new();
    for (mut config, is_required) in configs_of(settings, &node.shards)? {
        config.pins = is_required.then(Arc::<Pins>::default);
        if let Some(journal) = &mut node.journal {
            journal.pins.extend(config.pins.clone());
        }
        configs.push(config);
    }
    Ok(configs)
}

/// For each archive its name, and whether it takes, gives and deletes a small object.
pub(super) fn probe(settings: &Settings) -> Vec<(&'static str, Result<String, Failure>)> {
    let configs = match configs_of(settings, &[]) {
        Ok(configs) => configs,
        Err(failure) => return vec![("archive", Err(failure))],
    };
    let probe = |(config, _): (ForwardConfig, bool)| {
        let ForwardConfig { kind, url, node, .. } = &config;
        let found = || {
            let url = secrets::hide_in_url(url);
            format!("{url} takes, gives and deletes an object; the node is {node}")
        };
        (*kind, config.probe().map(|()| found()).map_err(Failure::from))
    };
    configs.into_iter().map(probe).collect()
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
pub(super) fn start(config: ForwardConfig, node: &mut Node) -> Result<Forwarder, Failure> {
    let url = secrets::hide_in_url(&config.url);
    tracing::info!(url, node = %config.node, "sending the journal to an {}", config.kind);
    let own = node.links().map(|links| links.own_shards());
    let forwarder = Forwarder::start(ForwardConfig { own, ..config })?;
    node.add_sink(forwarder.view());
    Ok(forwarder)
}

/// Lets all of them send the rest at the same time, for some seconds at most.
pub(super) fn end(forwarders: Vec<Forwarder>) {
    forwarders.iter().for_each(Forwarder::stop);
    forwarders.into_iter().for_each(Forwarder::end);
}
