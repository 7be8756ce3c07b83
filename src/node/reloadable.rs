//! Settings that change while a node runs: told to all of its threads, each takes them over at its
//! next turn or tick. Live calls go on, whatever the settings are.
#![forbid(unsafe_code)]

use super::Node;
use crate::journal::settings::JournalSettings;
use crate::limits::Limits;
use crate::shard::ReplicationSettings;
use crate::shard::mailbox::Message;

/// Settings of a node. Some of them may change while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReloadableSettings {
    /// The limits.
    pub limits: Limits,
    /// How the journal is kept.
    pub journal: JournalSettings,
    /// How long ACKs wait for the message engine, at the level `replicated`.
    pub replication: Option<ReplicationSettings>,
}

impl Node {
    /// Takes over the settings that may change. The others equal those of the start.
    pub fn set_settings(&self, settings: &ReloadableSettings) {
        let limits = &settings.limits;
        if let Some(tenants) = &self.tenants {
            tenants.set_limits(limits.calls_max, limits.calls_per_tenant_max);
        }
        let (rate, burst) = (limits.address_rate, limits.address_burst);
        self.tell_all(|| Message::AddressRate { rate, burst });
        if let Some(replication) = settings.replication {
            self.tell_all(|| Message::Replication(replication));
        }
        if let Some(store) = &self.store {
            let age_max = settings.journal.segment_age_max();
            self.tell_all(|| Message::SegmentAge(age_max));
            store.set_settings(settings.journal);
        }
    }
}
