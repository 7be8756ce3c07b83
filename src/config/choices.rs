#![forbid(unsafe_code)]
//! The settings that take one of a few words, and those words.

use super::format::{self, Format};
use crate::ack_level::AckLevel;
use crate::auth::ClientTenant;
use crate::io::probe::KernelFeatures;
use crate::session::ingest::ClaimMatch;
use crate::tls::client_auth::ClientAuth;

/// What happens to a live call when its token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// Nothing: the token was valid at the upgrade.
    Keep,
    /// Close 4401.
    Close,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Lowest severity of log lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
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

const CLAIM_MATCHES: &[(&str, ClaimMatch)] =
    &[("strict", ClaimMatch::Strict), ("tenant", ClaimMatch::Tenant), ("off", ClaimMatch::Off)];
pub(super) const CLAIM_MATCH: Format<ClaimMatch> = Format {
    shape: "strict|tenant|off",
    parse: |text| format::parse_choice(text, CLAIM_MATCHES),
    show: |value| format::show_choice(*value, CLAIM_MATCHES),
};

const ON_EXPIRIES: &[(&str, OnExpiry)] = &[("keep", OnExpiry::Keep), ("close", OnExpiry::Close)];
pub(super) const ON_EXPIRY: Format<OnExpiry> = Format {
    shape: "keep|close",
    parse: |text| format::parse_choice(text, ON_EXPIRIES),
    show: |value| format::show_choice(*value, ON_EXPIRIES),
};

const ACK_LEVELS: &[(&str, AckLevel)] = &[
    ("durable", AckLevel::Durable),
    ("written", AckLevel::Written),
    ("received", AckLevel::Received),
];
pub(super) const ACK_LEVEL: Format<Option<AckLevel>> = Format {
    shape: "durable|written|received",
    parse: |text| format::parse_choice(text, ACK_LEVELS).map(Some),
    show: |value| value.and_then(|level| format::show_choice(level, ACK_LEVELS)),
};

const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
pub(super) const LOG_FORMAT: Format<LogFormat> = Format {
    shape: "text|json",
    parse: |text| format::parse_choice(text, LOG_FORMATS),
    show: |value| format::show_choice(*value, LOG_FORMATS),
};

const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
pub(super) const LOG_LEVEL: Format<LogLevel> = Format {
    shape: "error|warn|info|debug|trace",
    parse: |text| format::parse_choice(text, LOG_LEVELS),
    show: |value| format::show_choice(*value, LOG_LEVELS),
};

const KERNEL_FEATURE_SETS: &[(&str, KernelFeatures)] =
    &[("newest", KernelFeatures::Newest), ("6.1", KernelFeatures::V6_1)];
pub(super) const KERNEL_FEATURES: Format<KernelFeatures> = Format {
    shape: "newest|6.1",
    parse: |text| format::parse_choice(text, KERNEL_FEATURE_SETS),
    show: |value| format::show_choice(*value, KERNEL_FEATURE_SETS),
};

const CLIENT_AUTHS: &[(&str, ClientAuth)] =
    &[("required", ClientAuth::Required), ("optional", ClientAuth::Optional)];
pub(super) const CLIENT_AUTH: Format<ClientAuth> = Format {
    shape: "required|optional",
    parse: |text| format::parse_choice(text, CLIENT_AUTHS),
    show: |value| format::show_choice(*value, CLIENT_AUTHS),
};

const CLIENT_TENANTS: &[(&str, ClientTenant)] = &[
    ("off", ClientTenant::Off),
    ("cn", ClientTenant::CommonName),
    ("dns", ClientTenant::DnsName),
    ("uri", ClientTenant::Uri),
];
pub(super) const CLIENT_TENANT: Format<ClientTenant> = Format {
    shape: "off|cn|dns|uri",
    parse: |text| format::parse_choice(text, CLIENT_TENANTS),
    show: |value| format::show_choice(*value, CLIENT_TENANTS),
};
