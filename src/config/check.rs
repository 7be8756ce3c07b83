#![forbid(unsafe_code)]
//! Checks that the settings fit together: rules about more than one of them, and bounds that other
//! modules rely on.

use super::format::{show_duration, show_size};
use super::names;
use super::ring_size::{RING_SHARE_OF_MESSAGE, RING_SIZE_MAX};
use super::settings::AckLevel;
use super::sources::Source;
use super::{Config, ConfigError};
use crate::auth::ClientTenant;
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE, SPILL_SHARE_OF_HEADS, ring_size_min};
use crate::tls::client_auth::ClientAuth;
use std::net::IpAddr;
use std::time::Duration;

/// The frame ring must hold at least four batches.
const RING_SIZE_MIN: usize = 4 * BATCH_SIZE_MAX;

/// A segment must hold several batches, and call records before them.
const SEGMENT_SIZE_MIN: usize = 4 * BATCH_SIZE_MAX;

/// A larger segment saves nothing, and retention would delete in large steps.
const SEGMENT_SIZE_MAX: usize = 1 << 30;

/// With rarer syncs, ACKs would be noticeably late.
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// With less, a slow disk would look dead.
const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(2);

/// With less, peers notice a short stall of a disk.
const RING_SIZE_RECOMMENDED: usize = 64 << 20;

/// An HTTP answer must fit a send slot, and the output limit of one peer.
const SEND_SLOT_SIZE_MIN: usize = 512;

/// 16 bits identify sends, and 20 bits connections.
const SEND_SLOT_COUNT_MAX: usize = 1 << 16;
const CONNECTIONS_MAX: usize = 1 << 20;

/// Requests may use a share of them, at least one. 65,536 are a gigabyte.
const SPILL_BUFFERS: std::ops::RangeInclusive<usize> = SPILL_SHARE_OF_HEADS..=1 << 16;

/// A longer wait would show in the time until `started`.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Checks all rules; the first broken rule is the error. Allowed but unwise values are returned as
/// sentences.
pub(super) fn check(config: &Config) -> Result<Vec<String>, ConfigError> {
    let check = Check { config };
    check.sizes()?;
    check.counts()?;
    check.times()?;
    check.promise()?;
    check.journal()?;
    check.addresses()?;
    check.tls()?;
    Ok(check.warnings())
}

struct Check<'a> {
    config: &'a Config,
}

impl Check<'_> {
    /// `limits.ring_size (64MiB, --set limits.ring_size)`.
    fn describe(&self, key: &str) -> String {
        let Some(setting) = names::find(key) else { return key.to_owned() };
        let value = setting.shown(&self.config.settings).unwrap_or_else(|| "unset".into());
        format!("{key} ({value}, {})", self.config.source(setting))
    }

    fn require(
        &self,
        holds: bool,
        key: &str,
        demand: impl FnOnce() -> String,
    ) -> Result<(), ConfigError> {
        match holds {
            true => Ok(()),
            false => {
                Err(ConfigError::Conflict(format!("{} has to be {}", self.describe(key), demand())))
            }
        }
    }

    fn sizes(&self) -> Result<(), ConfigError> {
        let limits = &self.config.settings.limits;
        let ring = "limits.ring_size";
        self.require((RING_SIZE_MIN..=RING_SIZE_MAX).contains(&limits.ring_size), ring, || {
            format!("between {} and {}", show_size(RING_SIZE_MIN), show_size(RING_SIZE_MAX))
        })?;
        self.require(limits.ring_size.is_multiple_of(BLOCK_SIZE), ring, || {
            format!("a multiple of {}", show_size(BLOCK_SIZE))
        })?;
        self.require(
            limits.message_size_max <= limits.ring_size / RING_SHARE_OF_MESSAGE,
            "limits.message_size_max",
            || format!("at most an eighth of {}", self.describe(ring)),
        )?;
        self.require(limits.send_slot_size >= SEND_SLOT_SIZE_MIN, "limits.send_slot_size", || {
            format!("at least {SEND_SLOT_SIZE_MIN}")
        })?;
        self.require(limits.output_size_max >= SEND_SLOT_SIZE_MIN, "limits.output_size_max", || {
            format!("at least {SEND_SLOT_SIZE_MIN}")
        })
    }

    fn counts(&self) -> Result<(), ConfigError> {
        let limits = &self.config.settings.limits;
        self.require(limits.connections_max <= CONNECTIONS_MAX, "limits.connections_max", || {
            format!("at most {CONNECTIONS_MAX}")
        })?;
        let least = ring_size_min(limits.connections_max);
        self.require(limits.ring_size >= least, "limits.ring_size", || {
            format!(
                "at least {} for {}",
                show_size(least.next_multiple_of(BLOCK_SIZE)),
                self.describe("limits.connections_max")
            )
        })?;
        self.require(
            limits.send_slot_count <= SEND_SLOT_COUNT_MAX,
            "limits.send_slot_count",
            || format!("at most {SEND_SLOT_COUNT_MAX}"),
        )?;
        self.require(
            SPILL_BUFFERS.contains(&limits.spill_buffers),
            "limits.spill_buffers",
            || format!("between {} and {}", SPILL_BUFFERS.start(), SPILL_BUFFERS.end()),
        )?;
        let shards = self.config.settings.shards.unwrap_or(1);
        self.require(shards <= super::cpus::SHARD_COUNT_MAX, "shards", || {
            format!("at most {}", super::cpus::SHARD_COUNT_MAX)
        })
    }

    fn times(&self) -> Result<(), ConfigError> {
        let limits = &self.config.settings.limits;
        self.require(limits.ping_after < limits.idle_timeout, "timeouts.ping", || {
            format!(
                "shorter than {}, or no answer to a ping can come in time",
                self.describe("timeouts.idle")
            )
        })?;
        self.require(limits.wait <= WAIT_MAX, "timeouts.wait", || {
            format!("at most {}", show_duration(WAIT_MAX))
        })
    }

    fn promise(&self) -> Result<(), ConfigError> {
        let settings = &self.config.settings;
        if settings.no_journal && settings.ack_level() != AckLevel::Received {
            return Err(ConfigError::Conflict(format!(
                "{} needs a journal, and {} turns it off: give --ack received",
                self.describe("ack"),
                self.describe("no_journal")
            )));
        }
        if settings.ack_level() != AckLevel::Replicated {
            return Ok(());
        }
        let needs = |missing: &str, remedy: &str| {
            Err(ConfigError::Conflict(format!(
                "{} needs {missing}, which is not set: {remedy}, or give --ack durable",
                self.describe("ack")
            )))
        };
        if settings.live_url.is_none() {
            return needs("live.url", "give --live URL, a message engine that ACKs wait for");
        }
        if settings.live_audio.is_none() {
            return needs("live.audio", "give --live-audio with tenants or all");
        }
        Ok(())
    }

    fn journal(&self) -> Result<(), ConfigError> {
        let journal = &self.config.settings.journal;
        let segment_size = usize::try_from(journal.segment_size).unwrap_or(usize::MAX);
        let (segment, range) = ("journal.segment_size", SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX);
        self.require(range.contains(&segment_size), segment, || {
            format!("between {} and {}", show_size(SEGMENT_SIZE_MIN), show_size(SEGMENT_SIZE_MAX))
        })?;
        self.require(segment_size.is_multiple_of(BLOCK_SIZE), segment, || {
            format!("a multiple of {}", show_size(BLOCK_SIZE))
        })?;
        self.require(journal.sync_interval <= SYNC_INTERVAL_MAX, "journal.sync_interval", || {
            format!("at most {}", show_duration(SYNC_INTERVAL_MAX))
        })?;
        self.require(journal.stall_timeout >= STALL_TIMEOUT_MIN, "journal.stall_timeout", || {
            format!("at least {}", show_duration(STALL_TIMEOUT_MIN))
        })
    }

    fn addresses(&self) -> Result<(), ConfigError> {
        let settings = &self.config.settings;
        let Some(admin) = settings.admin else { return Ok(()) };
        let (ip, listen) = (admin.ip(), settings.listen.ip());
        let overlaps = ip == listen || ip.is_unspecified() || listen.is_unspecified();
        self.require(
            admin.port() == 0 || admin.port() != settings.listen.port() || !overlaps,
            "admin",
            || format!("another address and port than {}", self.describe("listen")),
        )
    }

    fn tls(&self) -> Result<(), ConfigError> {
        let tls = &self.config.settings.tls;
        if tls.certs.len() != tls.keys.len() {
            return Err(ConfigError::Conflict(format!(
                "{} and {} name {} certificates and {} keys: give one --tls-key for each \
                 --tls-cert, in the same order",
                self.describe("tls.cert"),
                self.describe("tls.key"),
                tls.certs.len(),
                tls.keys.len()
            )));
        }
        let needs = |key: &str, missing: &str| {
            Err(ConfigError::Conflict(format!(
                "{} needs {missing}, which is not set: set it, or remove {key}",
                self.describe(key)
            )))
        };
        if tls.certs.is_empty() && tls.ticket_keys.is_some() {
            return needs("tls.ticket_keys", "tls.cert");
        }
        if tls.certs.is_empty() && tls.client_ca.is_some() {
            return needs("tls.client_ca", "tls.cert");
        }
        if tls.client_ca.is_none() && tls.client_tenant != ClientTenant::Off {
            return needs("tls.client_tenant", "tls.client_ca");
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let settings = &self.config.settings;
        let limits = &settings.limits;
        let mut warnings = Vec::new();
        // A computed size has its own warning, which says why.
        let is_set = names::find("limits.ring_size")
            .is_some_and(|row| *self.config.source(row) != Source::Computed);
        if is_set && limits.ring_size < RING_SIZE_RECOMMENDED {
            warnings.push(format!(
                "{} is small for production: below {} even a short stall of the disk slows peers \
                 down",
                self.describe("limits.ring_size"),
                show_size(RING_SIZE_RECOMMENDED)
            ));
        }
        if limits.calls_per_tenant_max.is_some_and(|quota| quota > limits.calls_max) {
            warnings.push(format!(
                "{} has no effect: it is higher than {}",
                self.describe("limits.calls_per_tenant_max"),
                self.describe("limits.calls_max")
            ));
        }
        let tls = &settings.tls;
        if tls.client_auth == ClientAuth::Optional && tls.client_tenant != ClientTenant::Off {
            warnings.push(format!(
                "{} does not cover clients without a certificate, which {} admits: for them only \
                 the token names the tenant",
                self.describe("tls.client_tenant"),
                self.describe("tls.client_auth")
            ));
        }
        if settings.admin.is_some_and(|admin| !is_private(admin.ip())) {
            warnings.push(format!(
                "other networks can reach {}, which has no authentication: give a loopback or \
                 private address, or off",
                self.describe("admin")
            ));
        }
        warnings
    }
}

/// Whether only this host and its private network can reach it.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
