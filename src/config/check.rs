#![forbid(unsafe_code)]
//! Whether the settings go together: rules over more than one of them, and bounds the rest of the node is written against.

use super::format::{show_duration, show_size};
use super::settings::{self, AckLevel};
use super::{Config, ConfigError};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE, ring_size_min};
use std::net::IpAddr;
use std::time::Duration;

/// The frame ring takes four batches at least.
const RING_SIZE_MIN: usize = 4 * BATCH_SIZE_MAX;

/// The kernel registers no larger buffer in one piece (`SZ_1G` in io_uring/rsrc.c).
const RING_SIZE_MAX: usize = 1 << 30;

/// A segment takes some batches at least, and call records in front of them.
const SEGMENT_SIZE_MIN: usize = 4 * BATCH_SIZE_MAX;

/// Beyond this nothing is saved by fewer files, and retention goes in great steps.
const SEGMENT_SIZE_MAX: usize = 1 << 30;

/// Syncs rarer than this would show as ACKs that come late.
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Under this a disk that is merely slow would look dead.
const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(2);

/// Under this a short stall of a disk or a consumer is felt by peers.
const RING_SIZE_RECOMMENDED: usize = 64 << 20;

/// A message has to fit the ring beside what is being sealed, written and released.
const RING_SHARE_OF_MESSAGE: usize = 8;

/// An HTTP answer has to fit a send slot, and what may wait for one peer.
const SEND_SLOT_SIZE_MIN: usize = 512;

/// Sends are named by 16 bits, connections by 20.
const SEND_SLOT_COUNT_MAX: usize = 1 << 16;
const CONNECTIONS_MAX: usize = 1 << 20;

/// A wait over this would show in the time to a `started`.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Checks every rule; the first that is broken is the error. What is allowed but unwise comes back as sentences.
pub(super) fn check(config: &Config) -> Result<Vec<String>, ConfigError> {
    let check = Check { config };
    check.sizes()?;
    check.counts()?;
    check.times()?;
    check.promise()?;
    check.journal()?;
    check.addresses()?;
    Ok(check.warnings())
}

struct Check<'a> {
    config: &'a Config,
}

impl Check<'_> {
    /// `limits.ring_size (64MiB, --set limits.ring_size)`.
    fn describe(&self, key: &str) -> String {
        let Some(setting) = settings::find(key) else { return key.to_owned() };
        let value = setting.value(&self.config.settings).unwrap_or_else(|| "unset".into());
        format!("{key} ({value}, {})", self.config.source(setting))
    }

    fn require(&self, holds: bool, key: &str, demand: impl FnOnce() -> String) -> Result<(), ConfigError> {
        match holds {
            true => Ok(()),
            false => Err(ConfigError::Conflict(format!("{} has to be {}", self.describe(key), demand()))),
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
        self.require(limits.send_slot_count <= SEND_SLOT_COUNT_MAX, "limits.send_slot_count", || {
            format!("at most {SEND_SLOT_COUNT_MAX}")
        })?;
        let shards = self.config.settings.shards.unwrap_or(1);
        self.require(shards <= super::cpus::SHARD_COUNT_MAX, "shards", || {
            format!("at most {}", super::cpus::SHARD_COUNT_MAX)
        })
    }

    fn times(&self) -> Result<(), ConfigError> {
        let limits = &self.config.settings.limits;
        self.require(limits.ping_after < limits.idle_timeout, "timeouts.ping", || {
            format!("shorter than {}, or no ping is ever answered in time", self.describe("timeouts.idle"))
        })?;
        self.require(limits.wait <= WAIT_MAX, "timeouts.wait", || format!("at most {}", show_duration(WAIT_MAX)))
    }

    fn promise(&self) -> Result<(), ConfigError> {
        let settings = &self.config.settings;
        match !settings.no_journal || settings.ack_level() == AckLevel::Received {
            true => Ok(()),
            false => Err(ConfigError::Conflict(format!(
                "{} promises what only a journal can keep, and {} leaves it out: give --ack received",
                self.describe("ack"),
                self.describe("no_journal")
            ))),
        }
    }

    fn journal(&self) -> Result<(), ConfigError> {
        let settings = &self.config.settings;
        let (segment, range) = ("journal.segment_size", SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX);
        self.require(range.contains(&settings.segment_size), segment, || {
            format!("between {} and {}", show_size(SEGMENT_SIZE_MIN), show_size(SEGMENT_SIZE_MAX))
        })?;
        self.require(settings.segment_size.is_multiple_of(BLOCK_SIZE), segment, || {
            format!("a multiple of {}", show_size(BLOCK_SIZE))
        })?;
        self.require(settings.sync_interval <= SYNC_INTERVAL_MAX, "journal.sync_interval", || {
            format!("at most {}", show_duration(SYNC_INTERVAL_MAX))
        })?;
        self.require(settings.stall_timeout >= STALL_TIMEOUT_MIN, "journal.stall_timeout", || {
            format!("at least {}", show_duration(STALL_TIMEOUT_MIN))
        })
    }

    fn addresses(&self) -> Result<(), ConfigError> {
        let settings = &self.config.settings;
        let Some(admin) = settings.admin else { return Ok(()) };
        let (ip, listen) = (admin.ip(), settings.listen.ip());
        let overlaps = ip == listen || ip.is_unspecified() || listen.is_unspecified();
        self.require(admin.port() == 0 || admin.port() != settings.listen.port() || !overlaps, "admin", || {
            format!("another address and port than {}", self.describe("listen"))
        })
    }

    fn warnings(&self) -> Vec<String> {
        let settings = &self.config.settings;
        let limits = &settings.limits;
        let mut warnings = Vec::new();
        if limits.ring_size < RING_SIZE_RECOMMENDED {
            warnings.push(format!(
                "{} is small for production: under {} a short stall already holds peers back",
                self.describe("limits.ring_size"),
                show_size(RING_SIZE_RECOMMENDED)
            ));
        }
        if limits.calls_per_tenant_max.is_some_and(|quota| quota > limits.calls_max) {
            warnings.push(format!(
                "{} has no effect: it is over {}",
                self.describe("limits.calls_per_tenant_max"),
                self.describe("limits.calls_max")
            ));
        }
        if settings.admin.is_some_and(|admin| !is_private(admin.ip())) {
            warnings.push(format!(
                "{} can be reached from other networks, and asks nobody who they are: give a loopback or private address, or off",
                self.describe("admin")
            ));
        }
        warnings
    }
}

/// Whether only this host and its own network can reach it.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
