#![forbid(unsafe_code)]
//! The settings of a node: one struct, and one table that gives each its name, flag, form and meaning. Help, errors, files,
//! variables and the reference are all made from this table.
//!
//! Names: a setting's key is its name (`limits.message_size_max`). A file writes it as `[limits] message_size_max = …`, the
//! environment as `EXO_INGEST_LIMITS_MESSAGE_SIZE_MAX`, the command line as `--set limits.message_size_max=…`. The stable
//! ones have a flag as well (`--message-size-max`), and a flag's own name with underscores stands for the key wherever a
//! name is written: `message_size_max = …`, `EXO_INGEST_MESSAGE_SIZE_MAX`, `--set message_size_max=…`.

use super::format::{self, Format};
pub use crate::ack::AckLevel;
use crate::control::keeper::JournalConfig;
use crate::io::probe::KernelFeatures;
use crate::limits::Limits;
use crate::session::ingest::ClaimMatch;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Everything an operator may set, in effect.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `listen`.
    pub listen: SocketAddr,
    /// `admin`: where readiness and metrics are served; `None` is `off`.
    pub admin: Option<SocketAddr>,
    /// `jwt.key`: PEM or JWKS.
    pub jwt_key: Option<PathBuf>,
    /// `jwt.issuer`.
    pub jwt_issuer: Option<String>,
    /// `jwt.audience`.
    pub jwt_audience: Option<String>,
    /// `jwt.leeway`.
    pub jwt_leeway: Duration,
    /// `claim_match`.
    pub claim_match: ClaimMatch,
    /// `on_expiry`: whether a call is closed when its token expires.
    pub on_expiry: OnExpiry,
    /// `allowed_origins`; `None`: `Origin` is ignored.
    pub allowed_origins: Option<Vec<String>>,
    /// `cpus`: one reactor pinned to each.
    pub cpus: Option<Vec<usize>>,
    /// `shards`: number of reactors.
    pub shards: Option<usize>,
    /// `no_journal`.
    pub no_journal: bool,
    /// `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `journal.segment_size`, bytes.
    pub segment_size: usize,
    /// `journal.sync_interval`.
    pub sync_interval: Duration,
    /// `journal.stall_timeout`.
    pub stall_timeout: Duration,
    /// `journal.retain_bytes`; `None` is `off`.
    pub retain_bytes: Option<u64>,
    /// `journal.retain_age`; `None` is `off`.
    pub retain_age: Option<Duration>,
    /// `journal.reserve`, bytes: 0 for none, `None` for what the node chooses.
    pub reserve: Option<u64>,
    /// `journal.prefill`.
    pub prefill: bool,
    /// `ack` as it was set; what holds is [`Settings::ack_level`].
    pub ack: Option<AckLevel>,
    /// `drain`: the time over which a draining node closes its calls.
    pub drain: Duration,
    /// `log`.
    pub log: LogFormat,
    /// `log_level`.
    pub log_level: LogLevel,
    /// `kernel_features`.
    pub kernel_features: KernelFeatures,
    /// `allow_unregistered`.
    pub allow_unregistered: bool,
    /// `limits.*` and `timeouts.*`.
    pub limits: Limits,
}

impl Settings {
    /// The promise an ACK makes: what was set, else `durable` with a journal and `received` without.
    pub fn ack_level(&self) -> AckLevel {
        self.ack.unwrap_or(if self.no_journal { AckLevel::Received } else { AckLevel::Durable })
    }

    /// How the journal is kept; `None` where there is to be none, or no directory was given for it.
    pub fn journal(&self) -> Option<JournalConfig> {
        let data_dir = self.data_dir.clone().filter(|_| !self.no_journal)?;
        Some(JournalConfig {
            data_dir,
            level: self.ack_level(),
            segment_size: self.segment_size as u64,
            sync_interval: self.sync_interval,
            stall_timeout: self.stall_timeout,
            retain_bytes: self.retain_bytes,
            retain_age: self.retain_age,
            reserve: self.reserve,
            prefill: self.prefill,
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)),
            admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            jwt_key: None,
            jwt_issuer: None,
            jwt_audience: None,
            jwt_leeway: Duration::from_secs(5),
            claim_match: ClaimMatch::Strict,
            on_expiry: OnExpiry::Keep,
            allowed_origins: None,
            cpus: None,
            shards: None,
            no_journal: false,
            data_dir: None,
            segment_size: 128 << 20,
            sync_interval: Duration::from_millis(20),
            stall_timeout: Duration::from_secs(60),
            retain_bytes: None,
            retain_age: None,
            reserve: None,
            prefill: false,
            ack: None,
            drain: Duration::from_secs(30),
            log: LogFormat::Text,
            log_level: LogLevel::Info,
            kernel_features: KernelFeatures::Newest,
            allow_unregistered: false,
            limits: Limits::production(),
        }
    }
}

/// What happens to a live call when its token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// Nothing: the token was good at the upgrade.
    Keep,
    /// Close 4401.
    Close,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least severe log lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Data loss or a broken invariant.
    Error,
    /// What an operator should look at.
    Warn,
    /// Start, stop, reload.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// One row of the table.
pub struct Setting {
    /// Its name: `limits.calls_max`.
    pub key: &'static str,
    /// The flag it has beside `--set`, without dashes in front: `max-calls`.
    pub flag: Option<&'static str>,
    /// Placeholder of its value in help: `SIZE`, `strict|tenant|off`.
    pub shape: &'static str,
    /// Whether the flag may stand without a value, meaning `true`.
    pub is_switch: bool,
    /// What it does, as a sentence without its full stop.
    pub help: &'static str,
    /// Sets it from text. The error says what to write instead.
    pub(super) assign: fn(&mut Settings, &str) -> Result<(), String>,
    /// Its value as text; `None` where it is not set.
    pub(super) show: fn(&Settings) -> Option<String>,
}

impl Setting {
    /// The other name it goes by: its flag's, with underscores, where that is not the key.
    pub fn alias(&self) -> Option<String> {
        self.flag.map(|flag| flag.replace('-', "_")).filter(|alias| alias != self.key)
    }

    /// Its variable.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// Its value as text, as `--set` takes it; `None` where it is not set.
    pub fn value(&self, settings: &Settings) -> Option<String> {
        (self.show)(settings)
    }
}

/// What the variables of this program start with.
pub const VARIABLE_PREFIX: &str = "EXO_INGEST_";

/// The variable of a name.
pub(super) fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_ascii_uppercase())
}

/// A row whose value has a field of its own.
macro_rules! setting {
    ($key:literal, $flag:expr, $format:expr, $($field:ident).+, $help:literal) => {
        Setting {
            key: $key,
            flag: $flag,
            shape: $format.shape,
            is_switch: matches!($format.shape.as_bytes(), b"BOOL"),
            help: $help,
            assign: |settings, text| {
                settings.$($field).+ = ($format.parse)(text)?;
                Ok(())
            },
            show: |settings| ($format.show)(&settings.$($field).+),
        }
    };
}

const CLAIM_MATCHES: &[(&str, ClaimMatch)] =
    &[("strict", ClaimMatch::Strict), ("tenant", ClaimMatch::Tenant), ("off", ClaimMatch::Off)];
const CLAIM_MATCH: Format<ClaimMatch> = Format {
    shape: "strict|tenant|off",
    parse: |text| format::parse_choice(text, CLAIM_MATCHES),
    show: |value| format::show_choice(*value, CLAIM_MATCHES),
};

const ON_EXPIRIES: &[(&str, OnExpiry)] = &[("keep", OnExpiry::Keep), ("close", OnExpiry::Close)];
const ON_EXPIRY: Format<OnExpiry> = Format {
    shape: "keep|close",
    parse: |text| format::parse_choice(text, ON_EXPIRIES),
    show: |value| format::show_choice(*value, ON_EXPIRIES),
};

const ACK_LEVELS: &[(&str, AckLevel)] =
    &[("durable", AckLevel::Durable), ("written", AckLevel::Written), ("received", AckLevel::Received)];

const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const LOG_FORMAT: Format<LogFormat> = Format {
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
const LOG_LEVEL: Format<LogLevel> = Format {
    shape: "error|warn|info|debug|trace",
    parse: |text| format::parse_choice(text, LOG_LEVELS),
    show: |value| format::show_choice(*value, LOG_LEVELS),
};

const KERNEL_FEATURE_SETS: &[(&str, KernelFeatures)] = &[("newest", KernelFeatures::Newest), ("6.1", KernelFeatures::V6_1)];
const KERNEL_FEATURES: Format<KernelFeatures> = Format {
    shape: "newest|6.1",
    parse: |text| format::parse_choice(text, KERNEL_FEATURE_SETS),
    show: |value| format::show_choice(*value, KERNEL_FEATURE_SETS),
};

/// Every setting, in the order in which help and tables show them.
pub static SETTINGS: &[Setting] = &[
    setting!("listen", Some("listen"), format::ADDRESS, listen, "Address and port to serve on; port 0 takes a free one"),
    setting!(
        "admin",
        Some("admin"),
        format::ADDRESS_OR_OFF,
        admin,
        "Address and port of `/ready`, `/metrics` and `/debug/latency.*`; port 0 takes a free one"
    ),
    setting!("jwt.key", Some("jwt-key"), format::PATH, jwt_key, "Public keys that tokens are checked with: PEM or JWKS"),
    setting!(
        "jwt.issuer",
        Some("jwt-issuer"),
        format::TEXT,
        jwt_issuer,
        "What a token's `iss` has to be; unset: not checked"
    ),
    setting!(
        "jwt.audience",
        Some("jwt-audience"),
        format::TEXT,
        jwt_audience,
        "What a token's `aud` has to hold; unset: not checked"
    ),
    setting!("jwt.leeway", Some("jwt-leeway"), format::DURATION_OR_ZERO, jwt_leeway, "Tolerance for a token's times"),
    setting!(
        "claim_match",
        Some("claim-match"),
        CLAIM_MATCH,
        claim_match,
        "Which ids of token and `start` have to agree: both, the tenant, none"
    ),
    setting!("on_expiry", None, ON_EXPIRY, on_expiry, "What happens to a live call whose token expires"),
    setting!(
        "allowed_origins",
        Some("allowed-origins"),
        format::LIST,
        allowed_origins,
        "Origins that may connect, with commas between them; unset: `Origin` is ignored"
    ),
    setting!(
        "cpus",
        Some("cpus"),
        format::CPUS,
        cpus,
        "CPUs such as 2-9,12, one pinned reactor on each; unset: all but the lowest, where there are more than two"
    ),
    setting!("shards", Some("shards"), format::COUNT_OPTIONAL, shards, "Number of reactors instead of a list of CPUs"),
    setting!(
        "no_journal",
        Some("no-journal"),
        format::SWITCH,
        no_journal,
        "Keep audio in memory only: nothing is written to disk"
    ),
    setting!(
        "data_dir",
        Some("data-dir"),
        format::DIRECTORY,
        data_dir,
        "Directory of the journal, made where it is missing; unset: only with --no-journal"
    ),
    Setting {
        key: "ack",
        flag: Some("ack"),
        shape: "durable|written|received",
        is_switch: false,
        help: "What an ACK promises; unset: durable with a journal, received without",
        assign: |settings, text| {
            settings.ack = Some(format::parse_choice(text, ACK_LEVELS)?);
            Ok(())
        },
        show: |settings| Some(settings.ack_level().name().to_owned()),
    },
    setting!(
        "journal.retain_bytes",
        Some("retain-bytes"),
        format::SIZE_OR_OFF,
        retain_bytes,
        "Size the journal stays within: its oldest segments make room for new ones"
    ),
    setting!(
        "journal.retain_age",
        Some("retain-age"),
        format::DURATION_OR_OFF,
        retain_age,
        "Age beyond which segments of the journal are deleted"
    ),
    setting!(
        "journal.reserve",
        None,
        format::RESERVE,
        reserve,
        "Free space below which new calls get 503; off: none; unset: 5 % of the filesystem, at least 1GiB"
    ),
    setting!("journal.segment_size", None, format::SIZE, segment_size, "Size of a segment of the journal"),
    setting!(
        "journal.sync_interval",
        None,
        format::DURATION_OR_ZERO,
        sync_interval,
        "Least time between two syncs of a shard"
    ),
    setting!(
        "journal.stall_timeout",
        None,
        format::DURATION,
        stall_timeout,
        "How long the disk may make no progress before calls are closed"
    ),
    setting!(
        "journal.prefill",
        None,
        format::SWITCH,
        prefill,
        "Write zeros over segments before they are used: cheaper syncs, twice the bytes to disk"
    ),
    setting!("drain", Some("drain"), format::DURATION_OR_ZERO, drain, "Time over which a draining node closes its calls"),
    setting!("log", Some("log"), LOG_FORMAT, log, "Form of the log lines on stderr"),
    setting!("log_level", None, LOG_LEVEL, log_level, "Least severe log lines to write"),
    setting!(
        "kernel_features",
        Some("kernel-features"),
        KERNEL_FEATURES,
        kernel_features,
        "Newest kernel features to use; 6.1 takes the older paths on any kernel"
    ),
    setting!(
        "allow_unregistered",
        Some("allow-unregistered"),
        format::SWITCH,
        allow_unregistered,
        "Run without registered memory where locked memory is short"
    ),
    setting!(
        "limits.message_size_max",
        Some("message-size-max"),
        format::SIZE,
        limits.message_size_max,
        "Largest audio message"
    ),
    setting!("limits.text_size_max", None, format::SIZE, limits.text_size_max, "Largest text message"),
    setting!(
        "limits.fragments_max",
        None,
        format::count::<u32>(),
        limits.fragments_max,
        "Most WebSocket frames a message may come in"
    ),
    setting!(
        "limits.control_rate",
        None,
        format::count::<u32>(),
        limits.control_rate,
        "Control frames a second a peer may send for long"
    ),
    setting!(
        "limits.control_burst",
        None,
        format::count::<u32>(),
        limits.control_burst,
        "Control frames a peer may send at once"
    ),
    setting!(
        "limits.output_size_max",
        None,
        format::SIZE,
        limits.output_size_max,
        "Bytes that may wait for one peer to read them"
    ),
    setting!(
        "limits.max_ahead",
        Some("max-ahead"),
        format::DURATION_OR_OFF,
        limits.max_ahead,
        "How far audio may run ahead of the clock"
    ),
    setting!("limits.sample_rates", None, format::RATES, limits.sample_rates, "Sample rates a `start` may name, Hz"),
    setting!(
        "limits.strict_pcm",
        None,
        format::SWITCH,
        limits.strict_pcm,
        "Refuse a frame of odd length instead of dropping its last byte"
    ),
    setting!(
        "limits.calls_max",
        Some("max-calls"),
        format::count::<usize>(),
        limits.calls_max,
        "Calls on the whole node; beyond it upgrades get 503"
    ),
    setting!(
        "limits.calls_per_tenant_max",
        None,
        format::COUNT_OR_OFF,
        limits.calls_per_tenant_max,
        "Calls of one tenant on the whole node; beyond it upgrades get 429"
    ),
    setting!(
        "limits.connections_max",
        None,
        format::count::<usize>(),
        limits.connections_max,
        "Sockets of one shard, handshakes included"
    ),
    setting!(
        "limits.handshakes_per_turn",
        None,
        format::count::<usize>(),
        limits.handshakes_per_turn,
        "Tokens a shard verifies before it looks after its live calls again"
    ),
    setting!(
        "limits.completions_per_turn",
        None,
        format::count::<usize>(),
        limits.completions_per_turn,
        "Completions a shard reaps before it submits and acknowledges"
    ),
    setting!("limits.ring_size", None, format::SIZE, limits.ring_size, "Frame ring of one shard; 64MiB to 256MiB is usual"),
    setting!("limits.send_slot_size", None, format::SIZE, limits.send_slot_size, "Bytes of one pooled send"),
    setting!("limits.send_slot_count", None, format::count::<usize>(), limits.send_slot_count, "Pooled sends of one shard"),
    setting!("timeouts.head", None, format::DURATION, limits.head_timeout, "From accept to the end of the request head"),
    setting!("timeouts.start", None, format::DURATION, limits.start_timeout, "From the upgrade to a valid `start`"),
    setting!("timeouts.ping", None, format::DURATION, limits.ping_after, "Silence after which we ping"),
    setting!("timeouts.idle", None, format::DURATION, limits.idle_timeout, "Silence after which we close"),
    setting!(
        "timeouts.ack_stalled",
        None,
        format::DURATION,
        limits.ack_stalled_timeout,
        "How long a peer may leave its ACKs unread"
    ),
    setting!(
        "timeouts.close",
        None,
        format::DURATION,
        limits.close_timeout,
        "How long a Close waits for the ACKs already due"
    ),
    setting!("timeouts.wait", None, format::DURATION, limits.wait, "How long a shard gathers completions before it wakes"),
];

/// The setting that goes by `name`: its key or its alias.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == name || setting.alias().as_deref() == Some(name))
}

/// The setting whose variable (or whose alias's variable) is `name`.
pub(super) fn find_variable(name: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .find(|setting| setting.variable() == name || setting.alias().is_some_and(|alias| variable(&alias) == name))
}

/// The name among all keys and aliases, each passed through `spell`, that looks most like `name`, if any does.
pub(super) fn suggest(name: &str, spell: fn(&str) -> String) -> Option<String> {
    let names = SETTINGS.iter().flat_map(|setting| [Some(setting.key.to_owned()), setting.alias()]).flatten();
    let scored = names.map(|candidate| spell(&candidate)).map(|candidate| {
        // Winkler's bonus for a common start would let every `limits.` suggest every other.
        (strsim::normalized_damerau_levenshtein(name, &candidate), candidate)
    });
    scored.filter(|(score, _)| *score > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
