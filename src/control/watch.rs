#![forbid(unsafe_code)]
//! Reads keys, certificates and settings of a running node again: on SIGHUP, and when their files
//! change. Valid ones go to the node. Others are refused, counted and logged; then the old ones
//! stay.

use super::admin::{KeyCounts, Status};
use super::expiry;
use super::reload::{KeyFile, KeyFileError};
use super::settings_file::{ReadOutcome, SettingsFile};
use super::tls_files::{TlsFileError, TlsFiles};
use crate::auth::Verifier;
use crate::node::Node;
use crate::tls::load::Loaded;
use std::cell::Cell;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::time::{MissedTickBehavior, interval};

/// How often to check the files.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Most keys of one file that the log names: a file of a thousand must not flood it.
const FAULTY_KEYS_LOGGED_MAX: usize = 20;

/// The files of a node that may change while it runs.
#[derive(Debug)]
pub(super) struct Files {
    pub(crate) keys: KeyFile,
    /// The files of TLS, if the port speaks TLS.
    pub(crate) tls: Option<TlsFiles>,
    /// Where it was started with a configuration file.
    pub(crate) settings: Option<SettingsFile>,
}

/// The result of reading some of them.
#[derive(Debug)]
pub(super) struct Outcome {
    /// A signal asked for it.
    pub(crate) is_asked: bool,
    keys: Option<Result<Verifier, KeyFileError>>,
    tls: Option<Result<Loaded, TlsFileError>>,
    settings: Option<Result<ReadOutcome, String>>,
}

impl Outcome {
    /// Grace and window of a drain that begins from now on, where they were read.
    pub(crate) fn drain_times(&self) -> Option<(Duration, Duration)> {
        let read = self.settings.as_ref()?.as_ref().ok()?;
        Some((read.drain_grace, read.drain))
    }

    fn is_empty(&self) -> bool {
        self.keys.is_none() && self.tls.is_none() && self.settings.is_none()
    }
}

/// Reads the files when they change and on request, as long as the receiver of the results exists.
pub(super) async fn watch(
    mut files: Files,
    hangup: Rc<Notify>,
    outcomes: Sender<Outcome>,
    is_reading: Rc<Cell<bool>>,
) {
    let mut polls = interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked = tokio::select! {
            () = hangup.notified() => true,
            _ = polls.tick() => false,
        };
        is_reading.set(true);
        let outcome = files.read(is_asked).await;
        is_reading.set(false);
        if (is_asked || !outcome.is_empty()) && outcomes.send(outcome).await.is_err() {
            return;
        }
    }
}

impl Files {
    /// What there is of them, as reloads are counted.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        let certificates = self.tls.as_ref().map(|_| "certificates");
        let settings = self.settings.as_ref().map(|_| "settings");
        ["keys"].into_iter().chain(certificates).chain(settings)
    }

    async fn read(&mut self, is_asked: bool) -> Outcome {
        let keys = if is_asked { Some(self.keys.reload().await) } else { self.keys.poll().await };
        let tls = match &mut self.tls {
            Some(files) if is_asked => Some(files.reload().await),
            Some(files) => files.poll().await,
            None => None,
        };
        let settings = match &mut self.settings {
            Some(file) if is_asked => Some(file.reload().await),
            Some(file) => file.poll().await,
            None => None,
        };
        Outcome { is_asked, keys, tls, settings }
    }
}

/// Gives valid keys and certificates to the node. Returns a text with the result of each.
pub(super) fn apply(node: &Node, status: &Status, outcome: Outcome) -> String {
    let keys = outcome.keys.map(|outcome| apply_keys(node, status, outcome));
    let tls = outcome.tls.map(|outcome| apply_tls(node, status, outcome));
    let settings = outcome.settings.map(|outcome| apply_settings(node, status, outcome));
    keys.into_iter().chain(tls).chain(settings).collect::<Vec<_>>().join("; ")
}

/// Gives the node its new limits, or keeps the old ones. What has changed is in the log already.
fn apply_settings(node: &Node, status: &Status, outcome: Result<ReadOutcome, String>) -> String {
    status.count_reload("settings", outcome.is_ok());
    match outcome {
        Ok(read) => {
            node.set_settings(&read.settings);
            status.set_calls_max(read.settings.limits.calls_max);
            tracing::info!(changed = read.applied, pending = read.pending, "settings reloaded");
            match read.pending {
                0 => "settings reloaded".to_owned(),
                pending => format!("settings reloaded, {pending} take a restart: see the log"),
            }
        }
        Err(error) => keep_old("settings", &error),
    }
}

/// Replaces the whole set, or keeps the old one.
fn apply_keys(node: &Node, status: &Status, outcome: Result<Verifier, KeyFileError>) -> String {
    status.count_reload("keys", outcome.is_ok());
    match outcome {
        Ok(verifier) => {
            let counts = count_keys(&verifier);
            status.set_key_counts(counts);
            node.set_keys(Arc::new(verifier));
            tracing::info!(used = counts.used, skipped = counts.skipped, "keys reloaded");
            match counts.skipped {
                0 => "keys reloaded".to_owned(),
                skipped => format!("keys reloaded, {skipped} of them are not used: see the log"),
            }
        }
        Err(error) => keep_old("keys", &error),
    }
}

/// Replaces all certificates with their keys, ticket keys and client CAs, or keeps the old ones.
fn apply_tls(node: &Node, status: &Status, outcome: Result<Loaded, TlsFileError>) -> String {
    status.count_reload("certificates", outcome.is_ok());
    match outcome {
        Ok(loaded) => {
            log_tls(&loaded);
            node.set_tls(Arc::clone(&loaded.config));
            let count = loaded.certificates.len();
            expiry::notices(&loaded.certificates, SystemTime::now())
                .iter()
                .for_each(|notice| tracing::warn!("{notice}"));
            status.set_certificates(loaded.certificates);
            tracing::info!(count, "certificates reloaded");
            "certificates reloaded".to_owned()
        }
        Err(error) => keep_old("certificates", &error),
    }
}

/// Logs why the old ones stay, and returns the same sentence.
fn keep_old(what: &str, error: &dyn Display) -> String {
    let sentence = format!("{what} not reloaded, the old ones stay: {error}");
    tracing::warn!("{sentence}");
    sentence
}

/// Logs a line for each certificate, and one for each thing that looks wrong.
pub(super) fn log_tls(loaded: &Loaded) {
    for certificate in &loaded.certificates {
        let said = &certificate.certificate;
        tracing::info!(
            file = %certificate.path.display(),
            names = said.dns_names.join(","),
            key = said.key_kind.name(),
            expires = expiry::date(said.not_after),
            "certificate"
        );
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

/// Counts the keys of a file, and logs the faulty ones, whose tokens are refused.
pub(super) fn count_keys(verifier: &Verifier) -> KeyCounts {
    let keys = verifier.keys();
    for key in keys.skipped().iter().filter(|key| key.is_faulty()).take(FAULTY_KEYS_LOGGED_MAX) {
        tracing::warn!("{key}");
    }
    KeyCounts { used: keys.key_count(), skipped: keys.skipped().len() }
}
