//! What is to run on the host: the settings of a node that matter to the doctor, for N calls.

use crate::ack_level::AckLevel;
use crate::config::cpus;
use crate::config::settings::Settings;
use crate::io::probe::KernelFeatures;
use crate::journal::settings::JournalSettings;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A node for N calls.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// N.
    pub(crate) calls: usize,
    /// The CPU of each shard; `None`: not pinned.
    pub(crate) shards: Vec<Option<usize>>,
    /// `limits.calls_max`.
    pub(crate) calls_max: usize,
    /// `limits.connections_max`.
    pub(crate) connections_max: usize,
    /// `limits.ring_size`, bytes.
    pub(crate) ring_size: usize,
    pub(crate) allow_unregistered: bool,
    pub(crate) kernel_features: KernelFeatures,
    pub(crate) listen: SocketAddr,
    pub(crate) has_journal: bool,
    /// What an ACK needs of the journal.
    pub(crate) level: AckLevel,
    pub(crate) journal: JournalSettings,
    /// Retention waits for an archive or a message engine.
    pub(crate) has_required_sink: bool,
    /// `forward.budget`.
    pub(crate) budget: Option<u64>,
    /// `None`: not given, or no journal.
    pub(crate) data_dir: Option<PathBuf>,
}

impl Plan {
    /// `allowed` are the CPUs that this process may use. The error names the setting to change.
    pub(crate) fn new(
        settings: &Settings,
        calls: usize,
        allowed: &[usize],
    ) -> Result<Plan, String> {
        Ok(Plan {
            calls,
            shards: cpus::place(settings.cpus.as_deref(), settings.shards, allowed)?,
            calls_max: settings.limits.calls_max,
            connections_max: settings.limits.connections_max,
            ring_size: settings.limits.ring_size,
            allow_unregistered: settings.allow_unregistered,
            kernel_features: settings.kernel_features,
            listen: settings.listen,
            has_journal: !settings.no_journal,
            level: settings.ack_level().of_journal(),
            journal: settings.journal,
            has_required_sink: settings.has_required_sink(),
            budget: settings.forward_budget,
            data_dir: settings.data_dir.clone().filter(|_| !settings.no_journal),
        })
    }

    /// CPUs of the shards, in their order; empty if they are not pinned.
    pub(super) fn cpus(&self) -> Vec<usize> {
        self.shards.iter().copied().flatten().collect()
    }

    /// Calls of one shard, if the kernel spreads them evenly.
    pub(super) fn calls_of_shard(&self) -> usize {
        self.calls.div_ceil(self.shards.len().max(1))
    }

    #[cfg(test)]
    pub(super) fn of_calls(calls: usize) -> Plan {
        let settings = Settings { data_dir: Some("/data".into()), ..Settings::default() };
        Plan {
            ring_size: 900 << 20,
            listen: "0.0.0.0:8443".parse().unwrap(),
            ..Plan::new(&settings, calls, &[0, 1, 2]).unwrap()
        }
    }
}
