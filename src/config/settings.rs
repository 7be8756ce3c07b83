#![forbid(unsafe_code)]
//! The settings of a node: one struct, and one table with the name, flag, format and meaning of
//! each. Help, errors, files, variables and the reference all come from this table.
//!
//! The key of a setting is its name (`limits.message_size_max`). A file writes it as `[limits]
//! message_size_max = …`, the environment as `EXO_INGEST_LIMITS_MESSAGE_SIZE_MAX`, the command line
//! as `--set limits.message_size_max=…`. Stable settings also have a flag (`--message-size-max`).
//! The name of the flag, with underscores, is valid wherever the key is: `message_size_max = …`,
//! `EXO_INGEST_MESSAGE_SIZE_MAX`, `--set message_size_max=…`.

use super::choices::{
    ACK_LEVELS, CLAIM_MATCH, CLIENT_AUTH, CLIENT_TENANT, KERNEL_FEATURES, LOG_FORMAT, LOG_LEVEL,
    ON_EXPIRY,
};
pub use super::choices::{LogFormat, LogLevel, OnExpiry};
use super::format;
use super::tls::{FILES, TlsChoices};
pub use crate::ack_level::AckLevel;
use crate::auth::TokenPolicy;
use crate::io::probe::KernelFeatures;
use crate::journal::settings::JournalSettings;
use crate::limits::Limits;
use crate::session::ingest::ClaimMatch;
use crate::store::JournalConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// All settings in effect.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `listen`.
    pub listen: SocketAddr,
    /// `admin`: address of readiness and metrics; `None` is `off`.
    pub admin: Option<SocketAddr>,
    /// `jwt.key`: PEM or JWKS.
    pub jwt_key: Option<PathBuf>,
    /// `jwt.*`, but for the key.
    pub token_policy: TokenPolicy,
    /// `tls.*`.
    pub tls: TlsChoices,
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
    /// `journal.*`.
    pub journal: JournalSettings,
    /// `ack` as set; [`Settings::ack_level`] is the level in effect.
    pub ack: Option<AckLevel>,
    /// `drain`: the time over which a draining node closes its calls.
    pub drain: Duration,
    /// `drain_grace`: the time before that, in which the node still answers.
    pub drain_grace: Duration,
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
    /// The promise of an ACK: the level that was set; otherwise `durable` with a journal and
    /// `received` without.
    pub fn ack_level(&self) -> AckLevel {
        self.ack.unwrap_or(if self.no_journal { AckLevel::Received } else { AckLevel::Durable })
    }

    /// Configuration of the journal; `None` if there is none, or if no directory was given.
    pub fn journal(&self) -> Option<JournalConfig> {
        let data_dir = self.data_dir.clone().filter(|_| !self.no_journal)?;
        Some(JournalConfig { data_dir, level: self.ack_level(), settings: self.journal })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)),
            admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))),
            jwt_key: None,
            token_policy: TokenPolicy::default(),
            tls: TlsChoices::default(),
            claim_match: ClaimMatch::Strict,
            on_expiry: OnExpiry::Keep,
            allowed_origins: None,
            cpus: None,
            shards: None,
            no_journal: false,
            data_dir: None,
            journal: JournalSettings::default(),
            ack: None,
            drain: Duration::from_secs(30),
            // Orchestrators and load balancers need a second or two to send calls elsewhere.
            drain_grace: Duration::from_secs(5),
            log: LogFormat::Text,
            log_level: LogLevel::Info,
            kernel_features: KernelFeatures::Newest,
            allow_unregistered: false,
            limits: Limits::production(),
        }
    }
}

/// One row of the table.
pub struct Setting {
    /// Its key, such as `limits.calls_max`.
    pub key: &'static str,
    /// Its flag besides `--set`, without the leading dashes, such as `max-calls`.
    pub flag: Option<&'static str>,
    /// Placeholder of its value in help, such as `SIZE` or `strict|tenant|off`.
    pub shape: &'static str,
    /// The flag may be given without a value, which means `true`.
    pub is_switch: bool,
    /// The flag may be given several times; its values are joined with commas.
    pub is_repeatable: bool,
    /// Its help: a sentence without the full stop.
    pub help: &'static str,
    /// Sets it from text. The error says what to write instead.
    pub(super) assign: fn(&mut Settings, &str) -> Result<(), String>,
    /// Its value as text; `None` if it is not set.
    pub(super) show: fn(&Settings) -> Option<String>,
}

impl Setting {
    /// Its other name, if that is not the key: the name of its flag, with underscores.
    pub fn alias(&self) -> Option<String> {
        self.flag.map(|flag| flag.replace('-', "_")).filter(|alias| alias != self.key)
    }

    /// Its variable.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// Its value as text for `--set`; `None` if it is not set.
    pub fn value(&self, settings: &Settings) -> Option<String> {
        (self.show)(settings)
    }
}

/// Prefix of this program's variables.
pub const VARIABLE_PREFIX: &str = "EXO_INGEST_";

/// The variable for a name.
pub(super) fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_ascii_uppercase())
}

/// A row whose value has its own field.
macro_rules! setting {
    ($key:literal, $flag:expr, $format:expr, $($field:ident).+, $help:literal) => {
        Setting {
            key: $key,
            flag: $flag,
            shape: $format.shape,
            is_switch: matches!($format.shape.as_bytes(), b"BOOL"),
            is_repeatable: matches!($format.shape.as_bytes(), b"FILE[,FILE]"),
            help: $help,
            assign: |settings, text| {
                settings.$($field).+ = ($format.parse)(text)?;
                Ok(())
            },
            show: |settings| ($format.show)(&settings.$($field).+),
        }
    };
}

/// All settings, in the order of help and tables.
pub static SETTINGS: &[Setting] = &[
    setting!(
        "listen",
        Some("listen"),
        format::ADDRESS,
        listen,
        "Address and port to listen on; port 0 takes a free port"
    ),
    setting!(
        "admin",
        Some("admin"),
        format::ADDRESS_OR_OFF,
        admin,
        "Address and port of `/ready`, `/metrics` and `/debug/latency.*`; port 0 takes a free port"
    ),
    setting!(
        "jwt.key",
        Some("jwt-key"),
        format::PATH,
        jwt_key,
        "Public keys to check tokens with: PEM or JWKS"
    ),
    setting!(
        "jwt.issuer",
        Some("jwt-issuer"),
        format::TEXT,
        token_policy.issuer,
        "Required `iss` of a token; unset: not checked"
    ),
    setting!(
        "jwt.audience",
        Some("jwt-audience"),
        format::TEXT,
        token_policy.audience,
        "Required value in the `aud` of a token; unset: not checked"
    ),
    setting!(
        "jwt.leeway",
        Some("jwt-leeway"),
        format::DURATION_OR_ZERO,
        token_policy.leeway,
        "Clock tolerance for the times in a token"
    ),
    setting!(
        "tls.cert",
        Some("tls-cert"),
        FILES,
        tls.certs,
        "Certificate and chain for wss://, PEM; repeatable: SNI picks one, else the first; unset: \
         plain ws://"
    ),
    setting!(
        "tls.key",
        Some("tls-key"),
        FILES,
        tls.keys,
        "Private key of each `tls.cert`, in the same order: PEM"
    ),
    setting!(
        "tls.ticket_keys",
        None,
        format::PATH,
        tls.ticket_keys,
        "Shared session ticket keys, one base64 key per line, newest first; unset: the process \
         makes its own"
    ),
    setting!(
        "tls.client_ca",
        None,
        format::PATH,
        tls.client_ca,
        "CAs to check client certificates against: PEM"
    ),
    setting!(
        "tls.client_auth",
        None,
        CLIENT_AUTH,
        tls.client_auth,
        "Whether clients must show a certificate, when `tls.client_ca` is set"
    ),
    setting!(
        "tls.client_tenant",
        None,
        CLIENT_TENANT,
        tls.client_tenant,
        "Name in a client certificate that must equal the `tenant_id`: common name, DNS name, URI"
    ),
    setting!(
        "tls.allow_plain",
        None,
        format::SWITCH,
        limits.allow_plain,
        "Also accept plain ws:// on a port that speaks TLS"
    ),
    setting!(
        "claim_match",
        Some("claim-match"),
        CLAIM_MATCH,
        claim_match,
        "Which ids must match between token and `start`: both, the tenant, none"
    ),
    setting!(
        "on_expiry",
        None,
        ON_EXPIRY,
        on_expiry,
        "What happens to a live call whose token expires"
    ),
    setting!(
        "allowed_origins",
        Some("allowed-origins"),
        format::LIST,
        allowed_origins,
        "Origins that may connect, separated by commas; unset: `Origin` is ignored"
    ),
    setting!(
        "cpus",
        Some("cpus"),
        format::CPUS,
        cpus,
        "CPUs such as 2-9,12, with one pinned reactor each; unset: all but the lowest, if there \
         are more than two"
    ),
    setting!(
        "shards",
        Some("shards"),
        format::COUNT_OPTIONAL,
        shards,
        "Number of reactors, instead of a list of CPUs"
    ),
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
        "Directory of the journal, created if missing; required without --no-journal"
    ),
    Setting {
        key: "ack",
        flag: Some("ack"),
        shape: "durable|written|received",
        is_switch: false,
        is_repeatable: false,
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
        journal.retain_bytes,
        "Maximum size of the journal: its oldest segments make room for new ones"
    ),
    setting!(
        "journal.retain_age",
        Some("retain-age"),
        format::DURATION_OR_OFF,
        journal.retain_age,
        "Age after which segments of the journal are deleted"
    ),
    setting!(
        "journal.reserve",
        None,
        format::RESERVE,
        journal.reserve,
        "Free space below which new calls get 503; off: none; unset: 5 % of the filesystem, at \
         least 1GiB"
    ),
    setting!(
        "journal.segment_size",
        None,
        format::SIZE_U64,
        journal.segment_size,
        "Size of a segment of the journal"
    ),
    setting!(
        "journal.sync_interval",
        None,
        format::DURATION_OR_ZERO,
        journal.sync_interval,
        "Minimum time between two syncs of a shard"
    ),
    setting!(
        "journal.stall_timeout",
        None,
        format::DURATION,
        journal.stall_timeout,
        "How long the disk may make no progress before calls are closed"
    ),
    setting!(
        "journal.prefill",
        None,
        format::SWITCH,
        journal.prefill,
        "Fill segments with zeros before use: cheaper syncs, but twice the bytes to disk"
    ),
    setting!(
        "drain",
        Some("drain"),
        format::DURATION_OR_ZERO,
        drain,
        "Time over which a draining node closes its calls"
    ),
    setting!(
        "drain_grace",
        Some("drain-grace"),
        format::DURATION_OR_ZERO,
        drain_grace,
        "Time before `drain`: calls go on, new ones get 503, `/health` answers; 0s: the port \
         closes at once"
    ),
    setting!(
        "proxy_protocol.from",
        None,
        format::NETWORKS,
        limits.proxy_from,
        "Networks whose connections must begin with a PROXY protocol version 2 header, separated \
         by commas; off: none"
    ),
    setting!("log", Some("log"), LOG_FORMAT, log, "Form of the log lines on stderr"),
    setting!("log_level", None, LOG_LEVEL, log_level, "Lowest severity of the log lines to write"),
    setting!(
        "kernel_features",
        Some("kernel-features"),
        KERNEL_FEATURES,
        kernel_features,
        "Newest kernel features to use; 6.1 selects the older code paths on any kernel"
    ),
    setting!(
        "allow_unregistered",
        Some("allow-unregistered"),
        format::SWITCH,
        allow_unregistered,
        "Run without registered memory if the limit on locked memory is too low"
    ),
    setting!(
        "limits.message_size_max",
        Some("message-size-max"),
        format::SIZE,
        limits.message_size_max,
        "Largest audio message"
    ),
    setting!(
        "limits.text_size_max",
        None,
        format::SIZE,
        limits.text_size_max,
        "Largest text message"
    ),
    setting!(
        "limits.fragments_max",
        None,
        format::count::<u32>(),
        limits.fragments_max,
        "Most WebSocket frames in one message"
    ),
    setting!(
        "limits.control_rate",
        None,
        format::count::<u32>(),
        limits.control_rate,
        "Control frames per second that a peer may send on average"
    ),
    setting!(
        "limits.control_burst",
        None,
        format::count::<u32>(),
        limits.control_burst,
        "Control frames that a peer may send at once"
    ),
    setting!(
        "limits.text_rate",
        None,
        format::count::<u32>(),
        limits.text_rate,
        "Text messages per second that a peer may send on average; each 4 KiB of one count as one \
         more"
    ),
    setting!(
        "limits.text_burst",
        None,
        format::count::<u32>(),
        limits.text_burst,
        "Text messages that a peer may send at once, counted the same way"
    ),
    setting!(
        "limits.output_size_max",
        None,
        format::SIZE,
        limits.output_size_max,
        "Bytes that may wait until one peer reads them"
    ),
    setting!(
        "limits.max_ahead",
        Some("max-ahead"),
        format::DURATION_OR_OFF,
        limits.max_ahead,
        "How far audio may run ahead of real time"
    ),
    setting!(
        "limits.frame_time_min",
        None,
        format::DURATION_OR_ZERO,
        limits.frame_time_min,
        "Minimum audio time that each fragment of a frame counts as for `max_ahead`"
    ),
    setting!(
        "limits.sample_rates",
        None,
        format::RATES,
        limits.sample_rates,
        "Sample rates a `start` may name, Hz"
    ),
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
        "Most calls on the node; more upgrades get 503"
    ),
    setting!(
        "limits.calls_per_tenant_max",
        None,
        format::COUNT_OR_OFF,
        limits.calls_per_tenant_max,
        "Most calls of one tenant on the node; more upgrades get 429"
    ),
    setting!(
        "limits.connections_max",
        None,
        format::count::<usize>(),
        limits.connections_max,
        "Most upgraded connections of one shard; more upgrades get 503"
    ),
    setting!(
        "limits.heads_max",
        None,
        format::count::<usize>(),
        limits.heads_max,
        "Most connections of one shard with an incomplete request; with more, the oldest get 408"
    ),
    setting!(
        "limits.address_rate",
        None,
        format::COUNT_OR_OFF,
        limits.address_rate,
        "New connections per second from one address (IPv6: one /64), on average, per shard; more \
         get 429"
    ),
    setting!(
        "limits.address_burst",
        None,
        format::count::<u32>(),
        limits.address_burst,
        "New connections from one address at once, when their rate is limited"
    ),
    setting!(
        "limits.handshakes_per_turn",
        None,
        format::count::<usize>(),
        limits.handshakes_per_turn,
        "Most tokens a shard verifies before it serves its live calls again"
    ),
    setting!(
        "limits.completions_per_turn",
        None,
        format::count::<usize>(),
        limits.completions_per_turn,
        "Completions a shard reaps before it submits and acknowledges"
    ),
    setting!(
        "limits.ring_size",
        None,
        format::SIZE,
        limits.ring_size,
        "Frame ring of one shard; unset: 2 s of audio of its calls, limited by a quarter of the \
         memory and by the memory lock limit"
    ),
    setting!(
        "limits.spill_buffers",
        None,
        format::count::<usize>(),
        limits.spill_buffers,
        "Partly received TLS records of one shard, with a buffer of 16 KiB each"
    ),
    setting!(
        "limits.send_slot_size",
        None,
        format::SIZE,
        limits.send_slot_size,
        "Size of one pooled send buffer"
    ),
    setting!(
        "limits.send_slot_count",
        None,
        format::count::<usize>(),
        limits.send_slot_count,
        "Pooled send buffers of one shard"
    ),
    setting!(
        "timeouts.head",
        None,
        format::DURATION,
        limits.head_timeout,
        "Time from accept to the end of the request head"
    ),
    setting!(
        "timeouts.start",
        None,
        format::DURATION,
        limits.start_timeout,
        "Time from the upgrade to a valid `start`"
    ),
    setting!(
        "timeouts.ping",
        None,
        format::DURATION,
        limits.ping_after,
        "Silence after which the node sends a ping"
    ),
    setting!(
        "timeouts.idle",
        None,
        format::DURATION,
        limits.idle_timeout,
        "Silence after which the node closes the connection"
    ),
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
        "How long a Close waits for ACKs that are already due"
    ),
    setting!(
        "timeouts.wait",
        None,
        format::DURATION,
        limits.wait,
        "How long a shard gathers completions before it wakes"
    ),
];
