//! Limits that change while a node runs: told to all of its threads, each takes them over at its
//! next turn or tick. Live calls go on, whatever the limits are.
#![forbid(unsafe_code)]

use super::Node;
use crate::shard::mailbox::Message;
use crate::store::RetentionLimits;

/// The limits of a node that may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadableLimits {
    /// `limits.calls_max`.
    pub calls_max: usize,
    /// `limits.calls_per_tenant_max`.
    pub calls_per_tenant_max: Option<usize>,
    /// `limits.address_rate`.
    pub address_rate: Option<usize>,
    /// `limits.address_burst`.
    pub address_burst: u32,
    /// `journal.retain_bytes`, `journal.retain_age`, `journal.reserve`.
    pub retention: RetentionLimits,
}

impl Node {
    /// Holds itself and its peers to these limits from now on.
    pub fn set_limits(&self, limits: &ReloadableLimits) {
        let &ReloadableLimits {
            calls_max,
            calls_per_tenant_max,
            address_rate: rate,
            address_burst: burst,
            retention,
        } = limits;
        if let Some(tenants) = &self.tenants {
            tenants.set_limits(calls_max, calls_per_tenant_max);
        }
        self.tell_all(|| Message::AddressRate { rate, burst });
        if let Some(store) = &self.store {
            store.set_limits(retention);
        }
    }
}
