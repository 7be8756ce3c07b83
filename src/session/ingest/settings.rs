//! What the sessions of a node agree on, and what those of a shard count together.

#![forbid(unsafe_code)]

use super::Ending;
use crate::auth::TokenError;
use crate::limits::Limits;
use crate::metrics::Counter;
use crate::proto::close::Closing;
use crate::proto::handshake::Refusal;
use std::sync::Arc;
use std::time::Duration;

/// How far a `start` has to agree with the token's claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimMatch {
    /// In both ids.
    #[default]
    Strict,
    /// In the tenant.
    Tenant,
    /// Not at all. The tenant's quota and counters stay with the token's tenant.
    Off,
}

/// The node's choices about its calls.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestSettings {
    /// Limits and timers.
    pub limits: Limits,
    /// `--claim-match`.
    pub claim_match: ClaimMatch,
    /// `--allowed-origins`: an `Origin` outside of these is refused; `None` ignores it.
    pub allowed_origins: Option<Vec<String>>,
    /// `on_expiry = "close"`: close a call with 4401 when its token runs out.
    pub close_on_expiry: bool,
    /// Tolerance past `exp` before that: the same that the token was admitted with, else a token within it would be admitted
    /// and closed at once.
    pub expiry_leeway: Duration,
    /// A journal keeps what comes: `stopped` then says up to which frame it is known to be durable, whatever acks promise.
    pub has_journal: bool,
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
            has_journal: false,
        }
    }
}

/// What the ingest sessions of one shard have counted, by cause; like [`crate::metrics::Counters`], written by that shard
/// alone.
#[derive(Debug, Default)]
pub struct IngestCounters {
    /// Requests refused, by [`Refusal::index`].
    pub refusals: [Counter; Refusal::COUNT],
    /// Tokens refused, by [`TokenError::index`].
    pub token_failures: [Counter; TokenError::COUNT],
    /// Closes sent on our own account, by [`Closing::index`]; answers to a peer's Close are not among them.
    pub closes: [Counter; Closing::COUNT],
    /// Calls ended, by [`Ending::index`].
    pub endings: [Counter; Ending::COUNT],
    /// Texts that came after `stop`, ignored.
    pub texts_after_stop: Counter,
    /// Calls whose end the frame ring had no room for: in the journal they look cut.
    pub ends_unrecorded: Counter,
}

impl IngestCounters {
    /// Calls `visit(family, label, value)` for every counter that is kept by cause.
    pub fn for_each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
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

/// What all sessions of a shard share: one pointer in each.
#[derive(Debug)]
pub struct IngestShared {
    /// The node's choices.
    pub settings: Arc<IngestSettings>,
    /// The shard's counters.
    pub counters: IngestCounters,
}

impl IngestShared {
    /// For one shard.
    pub fn new(settings: Arc<IngestSettings>) -> Arc<IngestShared> {
        Arc::new(IngestShared { settings, counters: IngestCounters::default() })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }
}
