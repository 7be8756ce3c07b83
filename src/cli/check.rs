#![forbid(unsafe_code)]
//! `serve --check`: everything that a start depends on, one line each. It serves nothing, and
//! leaves nothing bound or written.
//!
//! All checks run, even after a failure: an operator needs to see all faults at once.

use super::launch::{self, MISSING_KEY};
use super::{Failure, forward, live, print};
use crate::config::Config;
use crate::config::ring_size;
use crate::config::settings::Settings;
use crate::control::expiry;
use crate::control::{ControlError, try_keys, try_tls};
use crate::doctor::outage::{self, Outage};
use crate::io::host::Host;
use crate::io::probe::HostError;
use crate::io::socket;
use crate::node::{self, NodeConfig, StartError};
use crate::store;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::SystemTime;

/// Checks what `serve` would start with, and prints the results. Fails if `serve` would not start.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let settings = &config.settings;
    let mut report = Report::default();
    report.fine("configuration", &describe(config));
    config.warnings.iter().for_each(|warning| report.warn("configuration", warning));
    keys(settings, &mut report);
    tls(settings, &mut report);
    data_dir(config, &mut report);
    for (archive, outcome) in forward::probe(settings) {
        match outcome {
            Ok(found) => report.fine(archive, &found),
            Err(failure) => report.fail(archive, &failure),
        }
    }
    match outage::look(settings) {
        Some(Outage { sentence, is_well: true }) => report.fine("sinks", &sentence),
        Some(Outage { sentence, is_well: false }) => report.warn("sinks", &sentence),
        None => {}
    }
    match live::probe(settings) {
        Some(Ok((found, safety))) => {
            report.fine("message engine", &found);
            for told in safety.risks.iter().chain(&safety.unknown) {
                report.warn("message engine", told);
            }
        }
        Some(Err(failure)) => report.fail("message engine", &failure),
        None => {}
    }
    host(settings, &mut report);
    addresses(settings, &mut report);
    report.finish()
}

/// Results so far.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    /// Number of faults that a retry may not have, and of faults that last.
    passing: usize,
    lasting: usize,
}

impl Report {
    fn fine(&mut self, what: &str, found: &str) {
        self.line("ok", what, found);
    }

    fn warn(&mut self, what: &str, found: &str) {
        self.line("warn", what, found);
    }

    fn fail(&mut self, what: &str, failure: &Failure) {
        match failure {
            Failure::Usage(_) => self.lasting += 1,
            _ => self.passing += 1,
        }
        self.line("FAIL", what, &failure.to_string());
    }

    fn line(&mut self, verdict: &str, what: &str, found: &str) {
        self.lines.push(format!("{verdict:5} {what}: {found}\n"));
    }

    fn finish(self) -> Result<(), Failure> {
        print(&self.lines.concat())?;
        let count = self.lasting + self.passing;
        let checks = if count == 1 { "1 check" } else { &format!("{count} checks") };
        let sentence = format!("{checks} failed: the lines that begin with FAIL say what to do");
        match (self.lasting, self.passing) {
            (0, 0) => Ok(()),
            (0, _) => Err(Failure::Run(sentence)),
            _ => Err(Failure::Usage(sentence)),
        }
    }
}

fn describe(config: &Config) -> String {
    let given = config.given_count();
    let settings = &config.settings;
    let acks = settings.ack_level().name();
    format!("{given} settings given, the others have their defaults; an ACK means {acks}")
}

fn keys(settings: &Settings, report: &mut Report) {
    let Some(path) = settings.jwt_key.clone() else {
        return report.fail("token keys", &Failure::Usage(MISSING_KEY.into()));
    };
    let shown = path.display().to_string();
    match try_keys(path, settings.token_policy.clone()) {
        Ok(verifier) => {
            let keys = verifier.keys();
            report.fine(
                "token keys",
                &format!("{shown}: {} used, {} skipped", keys.key_count(), keys.skipped().len()),
            );
            for skipped in keys.skipped().iter().filter(|key| key.is_faulty()) {
                report.warn("token keys", &skipped.to_string());
            }
        }
        Err(error) => report.fail("token keys", &launch::control_failure(settings, &error)),
    }
}

fn tls(settings: &Settings, report: &mut Report) {
    let Some(tls) = settings.tls.settings() else {
        return report.fine("TLS", "none: the port speaks plain ws://");
    };
    let loaded = match try_tls(tls) {
        Ok(loaded) => loaded,
        Err(error) => return report.fail("TLS", &launch::control_failure(settings, &error)),
    };
    for certificate in &loaded.certificates {
        let said = &certificate.certificate;
        let (path, key, until) =
            (certificate.path.display(), said.key_kind.name(), expiry::date(said.not_after));
        report.fine("certificate", &format!("{path}: {} ({key}), until {until}", said.label()));
    }
    let notices = expiry::notices(&loaded.certificates, SystemTime::now());
    loaded.warnings.iter().chain(&notices).for_each(|warning| report.warn("certificate", warning));
    report.fine(
        "session tickets",
        &match (loaded.ticket_keys, loaded.client_cas.is_empty()) {
            (_, false) => "none, because clients show certificates".into(),
            (None, true) => "keys of this process".into(),
            (Some(count), true) => format!("{count} from the file of tls.ticket_keys"),
        },
    );
    for authority in &loaded.client_cas {
        report.fine("client CA", authority);
    }
}

fn data_dir(config: &Config, report: &mut Report) {
    let what = "data directory";
    let usable = launch::refuse_contradiction(config);
    if let Err(failure) = usable.and_then(|()| launch::require_data_dir(config)) {
        return report.fail(what, &failure);
    }
    let Some(directory) =
        config.settings.data_dir.as_deref().filter(|_| !config.settings.no_journal)
    else {
        return report.fine(what, "none: audio is kept in memory only");
    };
    match store::try_directory(directory, config.settings.ack_level().of_journal()) {
        Ok(found) => report.fine(what, &format!("{}: {found}", directory.display())),
        Err(error) => report.fail(what, &Failure::Run(error.to_string())),
    }
}

fn host(settings: &Settings, report: &mut Report) {
    let config = match launch::node_config(settings) {
        Ok(config) => config,
        Err(failure) => return report.fail("CPUs", &failure),
    };
    let shards = config.shards.len();
    match node::require_host(&config) {
        Ok((features, limits)) => {
            report.fine("io_uring", &features.describe());
            let sockets = limits.connections_max;
            report.fine(
                "open files",
                &format!("enough for {sockets} connections a shard, shards: {shards}"),
            );
        }
        Err(error) => report.fail("host", &Failure::Run(error.to_string())),
    }
    match require_locked_memory(&config) {
        Ok(()) => report.fine("memory", &ring_size::describe(settings, shards)),
        Err(error) => report.fail("memory", &Failure::Run(error.to_string())),
    }
}

/// All frame rings are registered, and count as locked memory.
fn require_locked_memory(config: &NodeConfig) -> Result<(), StartError> {
    let wanted =
        ring_size::locked_size(config.limits.ring_size).saturating_mul(config.shards.len() as u64);
    match Host::read().locked {
        Some(limit) if limit < wanted && !config.allow_unregistered => {
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            Err(HostError::LockedMemory { wanted, limit: Some(limit) }.into())
        }
        _ => Ok(()),
    }
}

/// Checks whether it is possible to listen on the addresses. An address in use is not a fault: a
/// running node may be about to be restarted.
fn addresses(settings: &Settings, report: &mut Report) {
    address("address", settings.listen, report, |error| {
        StartError::Listen { address: settings.listen, error }.to_string()
    });
    if let Some(admin) = settings.admin {
        address("admin address", admin, report, |error| {
            ControlError::Admin(crate::control::admin::AdminError::new(admin, error)).to_string()
        });
    }
}

fn address(
    what: &str,
    address: SocketAddr,
    report: &mut Report,
    sentence: impl FnOnce(std::io::Error) -> String,
) {
    match socket::try_address(address) {
        Ok(()) => report.fine(what, &format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            report.warn(
                what,
                &format!("{address} is in use by a running node or by another program"),
            );
        }
        Err(error) => report.fail(what, &Failure::Run(sentence(error))),
    }
}
