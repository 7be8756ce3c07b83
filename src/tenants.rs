//! The tenants of a node and their calls: how many each has, and whether one more is allowed. All
//! shards share one table.
//!
//! A shard uses it when it upgrades a connection and when that ends, and then takes a lock for some
//! nanoseconds. Frames never do: a call adds up its frames, and once per ACK interval adds the sums
//! to plain atomics.
//!
//! Memory is bounded, whatever tenants the tokens name. The first [`TENANT_COUNT_MAX`] − 1 tenants
//! have their own counters while the node runs. Later tenants share those of
//! [`TenantIndex::OTHERS`], but each still has its exact quota while it has calls.

#![forbid(unsafe_code)]

use crate::constants::TENANT_COUNT_MAX;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A tenant's index in the node's counters: small, and constant while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantIndex(pub u16);

impl TenantIndex {
    /// All tenants that came after the table was full, together.
    pub(crate) const OTHERS: TenantIndex = TenantIndex(0);
}

/// The tenant is at its quota: the answer is 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaExceeded;

/// Use of the node by a tenant so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TenantUse {
    /// Calls connected now.
    pub(crate) calls_live: usize,
    /// Calls connected since the node started.
    pub(crate) calls: u64,
    /// Audio frames.
    pub(crate) frames: u64,
    /// Bytes of whole samples in them.
    pub(crate) bytes: u64,
    /// Calls refused because the tenant was at its quota.
    pub(crate) refused: u64,
}

#[derive(Debug, Default)]
struct Usage {
    calls_live: AtomicUsize,
    calls: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
}

impl Usage {
    fn read(&self) -> TenantUse {
        TenantUse {
            calls_live: self.calls_live.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// One row of the table; or the shared row, with one tenant's calls.
#[derive(Debug)]
struct Tenant {
    index: TenantIndex,
    usage: Arc<Usage>,
    /// Current calls of this tenant, changed under the lock of the table. It differs from the
    /// number in `usage` if that row is shared.
    calls_live: AtomicUsize,
    /// Name in the table, if this entry must be removed after its last call.
    shared_name: Option<Box<str>>,
}

/// All tenants that the node has seen, and its number of calls.
#[derive(Debug)]
pub struct Tenants {
    by_name: Mutex<HashMap<Box<str>, Arc<Tenant>>>,
    others: Arc<Usage>,
    calls_live: AtomicUsize,
    calls_max: AtomicUsize,
    /// [`usize::MAX`] where there is no quota.
    calls_per_tenant_max: AtomicUsize,
}

impl Tenants {
    /// For a node that accepts `calls_max` calls, and `calls_per_tenant_max` of each tenant.
    pub fn new(calls_max: usize, calls_per_tenant_max: Option<usize>) -> Arc<Tenants> {
        Arc::new(Tenants {
            by_name: Mutex::default(),
            others: Arc::default(),
            calls_live: AtomicUsize::new(0),
            calls_max: AtomicUsize::new(calls_max),
            calls_per_tenant_max: AtomicUsize::new(calls_per_tenant_max.unwrap_or(usize::MAX)),
        })
    }

    /// The node takes so many calls from now on. Calls that are live beyond that go on.
    pub(crate) fn set_limits(&self, calls_max: usize, calls_per_tenant_max: Option<usize>) {
        self.calls_max.store(calls_max, Ordering::Relaxed);
        let quota = calls_per_tenant_max.unwrap_or(usize::MAX);
        self.calls_per_tenant_max.store(quota, Ordering::Relaxed);
    }

    /// Calls connected now, on all shards.
    pub(crate) fn calls_live(&self) -> usize {
        self.calls_live.load(Ordering::Relaxed)
    }

    /// Whether the node is at its limit of calls, so that upgrades get 503. Shards that ask at the
    /// same moment may each admit one more.
    pub(crate) fn is_full(&self) -> bool {
        self.calls_live() >= self.calls_max.load(Ordering::Relaxed)
    }

    /// Counts a call of `tenant` while the permit lives.
    pub fn admit(self: &Arc<Self>, tenant: &str) -> Result<CallPermit, QuotaExceeded> {
        let quota = self.calls_per_tenant_max.load(Ordering::Relaxed);
        let mut by_name = self.lock();
        let entry = match by_name.get(tenant) {
            Some(entry) => Arc::clone(entry),
            None if quota == 0 => {
                self.others.refused.fetch_add(1, Ordering::Relaxed);
                return Err(QuotaExceeded);
            }
            None => self.insert(&mut by_name, tenant),
        };
        let calls_live = entry.calls_live.load(Ordering::Relaxed);
        if calls_live >= quota {
            entry.usage.refused.fetch_add(1, Ordering::Relaxed);
            return Err(QuotaExceeded);
        }
        entry.calls_live.store(calls_live + 1, Ordering::Relaxed);
        drop(by_name);
        entry.usage.calls_live.fetch_add(1, Ordering::Relaxed);
        entry.usage.calls.fetch_add(1, Ordering::Relaxed);
        self.calls_live.fetch_add(1, Ordering::Relaxed);
        Ok(CallPermit { tenants: Arc::clone(self), tenant: entry })
    }

    /// Calls `visit(index, name, use)` for every tenant with its own counters, in no order, and
    /// once with `None` for all others. Takes the lock, so only the control plane calls it, at its
    /// own rate.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(TenantIndex, Option<&str>, TenantUse)) {
        visit(TenantIndex::OTHERS, None, self.others.read());
        let by_name = self.lock();
        for (name, tenant) in
            by_name.iter().filter(|(_, tenant)| tenant.index != TenantIndex::OTHERS)
        {
            visit(tenant.index, Some(name), tenant.usage.read());
        }
    }

    fn insert(&self, by_name: &mut HashMap<Box<str>, Arc<Tenant>>, name: &str) -> Arc<Tenant> {
        // Own rows are never removed, and shared ones come only after the last own row. So, before
        // that, the length of the table is the number of rows in use.
        let next = by_name.len() + 1;
        let tenant = Arc::new(match u16::try_from(next) {
            Ok(index) if next < TENANT_COUNT_MAX => Tenant {
                index: TenantIndex(index),
                usage: Arc::default(),
                calls_live: AtomicUsize::new(0),
                shared_name: None,
            },
            _ => Tenant {
                index: TenantIndex::OTHERS,
                usage: Arc::clone(&self.others),
                calls_live: AtomicUsize::new(0),
                shared_name: Some(name.into()),
            },
        });
        by_name.insert(name.into(), Arc::clone(&tenant));
        tenant
    }

    /// A panic elsewhere leaves the table between two statements here, and it is valid after each
    /// of them.
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Tenant>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's share of the limits of its tenant and of the node; returned when it is dropped.
#[derive(Debug)]
pub struct CallPermit {
    tenants: Arc<Tenants>,
    tenant: Arc<Tenant>,
}

impl CallPermit {
    /// Tenant of the call.
    pub fn tenant(&self) -> TenantIndex {
        self.tenant.index
    }

    /// Adds to the counters of the tenant: sums over an ACK interval or the rest of a call, not
    /// single frames.
    pub(crate) fn add(&self, frames: u64, bytes: u64) {
        self.tenant.usage.frames.fetch_add(frames, Ordering::Relaxed);
        self.tenant.usage.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.tenants.calls_live.fetch_sub(1, Ordering::Relaxed);
        self.tenant.usage.calls_live.fetch_sub(1, Ordering::Relaxed);
        let mut by_name = self.tenants.lock();
        let calls_live = self.tenant.calls_live.load(Ordering::Relaxed) - 1;
        self.tenant.calls_live.store(calls_live, Ordering::Relaxed);
        if let (0, Some(name)) = (calls_live, &self.tenant.shared_name) {
            by_name.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(tenants: &Tenants, index: TenantIndex) -> TenantUse {
        let mut found = None;
        tenants.for_each(|own, _, usage| {
            if own == index {
                found = Some(usage);
            }
        });
        found.expect("the tenant has a row")
    }

    #[test]
    fn permits_count_and_are_returned() {
        let tenants = Tenants::new(3, Some(2));
        let first = tenants.admit("acme").unwrap();
        let second = tenants.admit("acme").unwrap();
        assert_eq!(tenants.admit("acme").unwrap_err(), QuotaExceeded);
        assert!(!tenants.is_full());
        let other = tenants.admit("zeta").unwrap();
        assert!(tenants.is_full());
        assert_eq!(tenants.calls_live(), 3);
        assert_eq!(first.tenant(), second.tenant());
        assert_ne!(first.tenant(), other.tenant());

        first.add(10, 96_000);
        second.add(1, 2);
        let index = first.tenant();
        drop((first, other));
        assert_eq!(
            usage(&tenants, index),
            TenantUse { calls_live: 1, calls: 2, frames: 11, bytes: 96_002, refused: 1 }
        );
        let again = tenants.admit("acme").unwrap();
        assert_eq!(again.tenant(), index, "a tenant keeps its index");
        drop((second, again));
        assert_eq!((tenants.calls_live(), usage(&tenants, index).calls_live), (0, 0));
    }

    #[test]
    fn limits_that_change_hold_for_the_next_call_and_end_none() {
        let tenants = Tenants::new(9, None);
        let calls: Vec<_> = (0..3).map(|_| tenants.admit("acme").unwrap()).collect();
        tenants.set_limits(3, Some(2));
        assert!(tenants.is_full());
        assert_eq!(tenants.admit("acme").unwrap_err(), QuotaExceeded);
        assert!(tenants.admit("zeta").is_ok());
        tenants.set_limits(4, Some(4));
        assert!(!tenants.is_full());
        let fourth = tenants.admit("acme").unwrap();
        assert_eq!(tenants.admit("acme").unwrap_err(), QuotaExceeded);
        tenants.set_limits(9, None);
        assert!(tenants.admit("acme").is_ok());
        drop((calls, fourth));
        assert_eq!(tenants.calls_live(), 0);
    }

    #[test]
    fn a_quota_of_zero_refuses_and_keeps_no_entry() {
        let tenants = Tenants::new(1, Some(0));
        assert!(tenants.admit("acme").is_err());
        assert!(tenants.lock().is_empty());
    }

    #[test]
    fn a_full_table_shares_counters_but_not_quotas_and_stays_bounded() {
        let tenants = Tenants::new(usize::MAX, Some(1));
        let own: Vec<_> = (1..TENANT_COUNT_MAX)
            .map(|number| tenants.admit(&number.to_string()).unwrap())
            .collect();
        assert!(own.iter().all(|permit| permit.tenant() != TenantIndex::OTHERS));
        drop(own);
        let late = tenants.admit("late").unwrap();
        let later = tenants.admit("later").unwrap();
        assert_eq!((late.tenant(), later.tenant()), (TenantIndex::OTHERS, TenantIndex::OTHERS));
        assert!(tenants.admit("late").is_err(), "its own quota");
        late.add(1, 2);
        later.add(3, 4);
        let others = usage(&tenants, TenantIndex::OTHERS);
        assert_eq!(others, TenantUse { calls_live: 2, calls: 2, frames: 4, bytes: 6, refused: 1 });
        drop((late, later));
        for number in 0..100 {
            tenants.admit(&format!("visitor {number}")).unwrap();
        }
        assert_eq!(tenants.lock().len(), TENANT_COUNT_MAX - 1);
        assert_eq!(
            tenants.admit("1").unwrap().tenant(),
            TenantIndex(1),
            "rows of their own are kept"
        );
    }

    #[test]
    fn quotas_hold_between_threads() {
        let tenants = Tenants::new(usize::MAX, Some(5));
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100).filter_map(|_| tenants.admit("acme").ok()).collect::<Vec<_>>()
                    })
                })
                .collect();
            let permits: Vec<_> =
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            permits.len()
        });
        assert_eq!((admitted, tenants.calls_live()), (5, 0));
    }
}
