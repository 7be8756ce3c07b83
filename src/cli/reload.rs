#![forbid(unsafe_code)]
//! The configuration file of a running node, read again: what has changed is named in the log, one
//! line a setting, and what may change at run time is handed to the control plane.

use crate::config::Config;
use crate::config::reload::Change;
use crate::config::settings::Settings;
use crate::control::settings_file::{ReadOutcome, SettingsFile};
use crate::logging;
use crate::node::reloadable::ReloadableSettings;

/// What a setting is called in the log that has no value.
const UNSET: &str = "unset";

/// The file that `config` was read from, if there is one; the node runs with `config`.
pub(super) fn settings_file(config: &Config) -> Option<SettingsFile> {
    let path = config.file()?.to_owned();
    let mut running = config.clone();
    Some(SettingsFile::new(path, Box::new(move |text| read(&mut running, text))))
}

/// Takes over what may change, and logs it. After an error nothing has changed.
fn read(running: &mut Config, text: &str) -> Result<ReadOutcome, String> {
    let found = running.with_file_text(text).map_err(|error| error.to_string())?;
    let level_before = running.settings.log_level;
    let changes = running.take_reloadable(&found);
    let level = running.settings.log_level;
    // The lines below are written at the more verbose of both levels.
    logging::set_level(level.max(level_before));
    for change in &changes.applied {
        let Change { key, source, .. } = change;
        let [from, to] = values(change);
        tracing::info!(setting = key, from, to, %source, "setting changed");
    }
    for change in &changes.pending {
        let Change { key, source, .. } = change;
        let [running, then] = values(change);
        tracing::warn!(setting = key, running, then, %source, "setting takes a restart");
    }
    for warning in found.warnings.iter().filter(|warning| !running.warnings.contains(warning)) {
        tracing::warn!("{warning}");
    }
    running.warnings = found.warnings;
    logging::set_level(level);
    Ok(outcome(&running.settings, changes.applied.len(), changes.pending.len()))
}

fn values(change: &Change) -> [&str; 2] {
    [&change.from, &change.to].map(|value| value.as_deref().unwrap_or(UNSET))
}

fn outcome(settings: &Settings, applied: usize, pending: usize) -> ReadOutcome {
    ReadOutcome {
        settings: ReloadableSettings {
            limits: settings.limits.clone(),
            journal: settings.journal,
            replication: settings.replication(),
        },
        drain: settings.drain,
        drain_grace: settings.drain_grace,
        applied,
        pending,
    }
}
