#![forbid(unsafe_code)]
//! The settings that take one of a few words, and those words.

use super::format::{self, Format};
use crate::ack_level::AckLevel;
use crate::auth::ClientTenant;
use crate::handover::live::earlier::LiveFrom;
use crate::io::probe::KernelFeatures;
use crate::session::ingest::ClaimMatch;
use crate::shard::OnTimeout;
use crate::store::OverBudget;
use crate::tls::client_auth::ClientAuth;

/// What happens to a live call when its token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnExpiry {
    /// Nothing: the token was valid at the upgrade.
    Keep,
    /// Close 4401.
    Close,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Lowest severity of log lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    /// Data loss or a broken invariant.
    Error,
    /// Needs attention from an operator.
    Warn,
    /// Start, stop, reload.
    Info,
    /// Helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// Declares a format: its words, and the value that each stands for.
macro_rules! choices {
    ($name:ident: $type:ty = $first:literal $chosen:ident $(, $word:literal $value:ident)+) => {
        pub(super) const $name: Format<$type> = {
            const CHOICES: &[(&str, $type)] =
                &[($first, <$type>::$chosen), $( ($word, <$type>::$value) ),+];
            Format {
                shape: concat!($first $(, "|", $word)+),
                parse: |text| format::parse_choice(text, CHOICES),
                show: |value| format::show_choice(*value, CHOICES),
            }
        };
    };
}

choices!(CLAIM_MATCH: ClaimMatch = "strict" Strict, "tenant" Tenant, "off" Off);
choices!(ON_EXPIRY: OnExpiry = "keep" Keep, "close" Close);
choices!(
    ACK_LEVEL: AckLevel =
        "replicated" Replicated, "durable" Durable, "written" Written, "received" Received
);
choices!(ON_TIMEOUT: OnTimeout = "hold" Hold, "degrade" Degrade);
choices!(LOG_FORMAT: LogFormat = "text" Text, "json" Json);
choices!(
    LOG_LEVEL: LogLevel =
        "error" Error, "warn" Warn, "info" Info, "debug" Debug, "trace" Trace
);
choices!(KERNEL_FEATURES: KernelFeatures = "newest" Newest, "6.1" V6_1);
choices!(LIVE_FROM: LiveFrom = "now" Now, "oldest" Oldest);
choices!(OVER_BUDGET: OverBudget = "refuse" Refuse, "drop-oldest" DropOldest);
choices!(CLIENT_AUTH: ClientAuth = "required" Required, "optional" Optional);
choices!(
    CLIENT_TENANT: ClientTenant =
        "off" Off, "cn" CommonName, "dns" DnsName, "uri" Uri
);

/// A level, or nothing.
pub(super) const ACK_OPTIONAL: Format<Option<AckLevel>> = Format {
    shape: ACK_LEVEL.shape,
    parse: |text| (ACK_LEVEL.parse)(text).map(Some),
    show: |value| value.and_then(|level| (ACK_LEVEL.show)(&level)),
};
