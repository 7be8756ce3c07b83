//! Settings that all sessions of a node share, and counters that those of one shard share.

#![forbid(unsafe_code)]

use super::Ending;
use crate::ack_level::{AckLevel, CallLevels};
use crate::auth::{ClientTenant, TokenError};
use crate::limits::Limits;
use crate::metrics::Counter;
use crate::proto::close::Closing;
use crate::proto::handshake::Refusal;
use std::sync::Arc;
use std::time::Duration;

/// How far a `start` must match the token's claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimMatch {
    /// Both ids must match.
    #[default]
    Strict,
    /// The tenant must match.
    Tenant,
    /// Nothing must match. Quota and counters use the token's tenant.
    Off,
}

/// Settings of the node for its calls.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestSettings {
    /// Limits and timeouts.
    pub limits: Limits,
    /// `--claim-match`.
    pub claim_match: ClaimMatch,
    /// `--allowed-origins`: any other `Origin` is refused; `None` ignores `Origin`.
    pub allowed_origins: Option<Vec<String>>,
    /// `on_expiry = "close"`: close a call with 4401 when its token expires.
    pub close_on_expiry: bool,
    /// Tolerance after `exp` before the close. It equals the tolerance at admission, so a token
    /// that was admitted within it is not closed at once.
    pub expiry_leeway: Duration,
    /// `tls.client_tenant`: which name of a client's certificate must equal the tenant of its
    /// calls.
    pub client_tenant: ClientTenant,
    /// There is a journal, so `stopped` says up to which frame the audio is known to be durable,
    /// whatever acks promise.
    pub has_journal: bool,
    /// What the ACKs of each call promise.
    pub levels: CallLevels,
}

impl IngestSettings {
    /// The defaults of a node without a journal, within `limits`.
    pub fn new(limits: Limits) -> Self {
        IngestSettings {
            limits,
            claim_match: ClaimMatch::Strict,
            allowed_origins: None,
            close_on_expiry: false,
            expiry_leeway: Duration::from_secs(5),
            client_tenant: ClientTenant::Off,
            has_journal: false,
            levels: CallLevels::all(AckLevel::Received),
        }
    }
}

/// Counters of the ingest sessions of one shard, by cause. Like [`crate::metrics::Counters`], only
/// that shard writes them.
#[derive(Debug, Default)]
pub struct IngestCounters {
    /// Requests refused, by [`Refusal::index`].
    pub refusals: [Counter; Refusal::COUNT],
    /// Tokens refused, by [`TokenError::index`].
    pub(crate) token_failures: [Counter; TokenError::COUNT],
    /// Closes that we decided on, by [`Closing::index`]; answers to a peer's Close are not counted.
    pub closes: [Counter; Closing::COUNT],
    /// Calls ended, by [`Ending::index`].
    pub endings: [Counter; Ending::COUNT],
    /// Texts after `stop`, which are ignored.
    pub texts_after_stop: Counter,
    /// Calls whose end record did not fit the frame ring: in the journal they look cut.
    pub(crate) ends_unrecorded: Counter,
}

impl IngestCounters {
    /// Calls `visit(family, label, value)` for every counter by cause.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
        for (refusal, counter) in Refusal::ALL.into_iter().zip(&self.refusals) {
            visit("refusals", refusal.label(), counter.read());
        }
        for (error, counter) in TokenError::ALL.into_iter().zip(&self.token_failures) {
            visit("token_failures", error.label(), counter.read());
        }
        for (closing, counter) in Closing::ALL.into_iter().zip(&self.closes) {
            visit("closes", closing.label(), counter.read());
        }
        for (ending, counter) in Ending::ALL.into_iter().zip(&self.endings) {
            visit("endings", ending.label(), counter.read());
        }
    }
}

/// What all sessions of a shard share: one pointer in each session.
#[derive(Debug)]
pub struct IngestShared {
    /// Settings of the node.
    pub(crate) settings: Arc<IngestSettings>,
    /// Counters of the shard.
    pub counters: IngestCounters,
}

impl IngestShared {
    /// Makes one for a shard.
    pub fn new(settings: Arc<IngestSettings>) -> Arc<IngestShared> {
        Arc::new(IngestShared { settings, counters: IngestCounters::default() })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }
}
