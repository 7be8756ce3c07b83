#![forbid(unsafe_code)]
//! The settings of a node: one table with the name, flag, format and meaning of each, and the
//! struct of their values. Help, errors, files, variables and the reference all come from this
//! table.
//!
//! The key of a setting is its name (`limits.message_size_max`). A file writes it as `[limits]
//! message_size_max = …`, the environment as `EXO_INGEST_LIMITS_MESSAGE_SIZE_MAX`, the command line
//! as `--set limits.message_size_max=…`. Stable settings also have a flag (`--message-size-max`).
//! The name of the flag, with underscores, is valid wherever the key is: `message_size_max = …`,
//! `EXO_INGEST_MESSAGE_SIZE_MAX`, `--set message_size_max=…`.
//!
//! A row declares everything about a setting (`src/declare.rs`). The rows of limits, of the
//! journal, of tokens and of TLS stand with the structs that hold them.

use super::choices::*;
pub(crate) use super::choices::{LogFormat, LogLevel, OnExpiry};
use super::format::*;
use super::tls::{FILES, TlsChoices, tls_settings};
pub(crate) use crate::ack_level::AckLevel;
use crate::ack_level::CallLevels;
use crate::auth::{TokenPolicy, token_settings};
use crate::declare::documentation;
use crate::handover::live::earlier::LiveFrom;
use crate::handover::secrets;
use crate::io::probe::KernelFeatures;
use crate::journal::settings::{JournalSettings, journal_settings};
use crate::limits::{Limits, limit_settings};
use crate::session::ingest::ClaimMatch;
use crate::shard::{OnTimeout, ReplicationSettings};
use crate::store::{Budget, JournalConfig, OverBudget};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// A row of [`SETTINGS`], from the place of its value in [`Settings`] and from its declaration.
macro_rules! setting {
    ($($field:ident).+ {
        $key:literal $(flag $flag:literal)?, $format:ident, $help:literal $(, $reload:ident)?
    }) => {
        Setting {
            key: $key,
            flag: optional!($($flag)?),
            shape: $format.shape,
            is_switch: matches!($format.shape.as_bytes(), b"BOOL"),
            is_repeatable: matches!($format.shape.as_bytes(), b"FILE[,FILE]"),
            help: $help,
            is_reloadable: is_reloadable!($($reload)?),
            assign: |settings, text| {
                settings.$($field).+ = ($format.parse)(text)?;
                Ok(())
            },
            show: |settings| ($format.show)(&settings.$($field).+),
            take: |from, to| to.$($field).+.clone_from(&from.$($field).+),
        }
    };
}

macro_rules! optional {
    () => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}

macro_rules! is_reloadable {
    () => {
        false
    };
    (reloadable) => {
        true
    };
}

/// The rows of the struct in this field of [`Settings`].
macro_rules! settings_rows {
    ($group:ident; $(
        $(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr; $row:tt
    )+) => {
        &[$( setting!($group.$field $row), )+]
    };
}

const TOKEN_POLICY: &[Setting] = token_settings! { settings_rows! token_policy; };
const TLS: &[Setting] = tls_settings! { settings_rows! tls; };
const JOURNAL: &[Setting] = journal_settings! { settings_rows! journal; };
const LIMITS: &[Setting] = limit_settings! { settings_rows! limits; };

/// If it is not set, its value is the level in effect.
const ACK: &[Setting] = &[Setting {
    show: |settings| Some(settings.ack_level().name().to_owned()),
    ..setting!(ack {
        "ack" flag "ack", ACK_OPTIONAL,
        "What an ACK promises; unset: durable with a journal, received without"
    })
}];

/// The limits with keys that begin with `section`.
fn limits(section: &str) -> impl Iterator<Item = &'static Setting> {
    LIMITS.iter().filter(move |row| row.key.starts_with(section))
}

/// Declares [`Settings`] and [`SETTINGS`]. A field has a row of its own, or the rows in brackets.
/// Those after `+` follow it in the table.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])*
        $field:ident: $type:ty = $default:expr; $rows:tt $(+ $more:tt)?
    )+) => {
        /// All settings in effect.
        #[derive(Clone, Debug)]
        pub(crate) struct Settings {
            $(
                #[doc = documentation!($rows)]
                $(#[doc = $doc])*
                pub $field: $type,
            )+
        }

        impl Default for Settings {
            fn default() -> Self {
                Settings { $( $field: $default, )+ }
            }
        }

        /// All settings, in the order of help and tables.
        pub(crate) static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
            let mut rows = Vec::new();
            $( add_rows!(rows $field $rows); $( add_rows!(rows $field $more); )? )+
            rows
        });
    };
}

macro_rules! add_rows {
    ($rows:ident $field:ident [$($more:expr),+]) => { $( $rows.extend($more); )+ };
    ($rows:ident $field:ident $row:tt) => { $rows.push(setting!($field $row)); };
}

settings! {
    listen: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443));
    { "listen" flag "listen", ADDRESS, "Address and port to listen on; port 0 takes a free port" }
    /// `None` is `off`.
    admin: Option<SocketAddr> = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)));
    {
        "admin" flag "admin", ADDRESS_OR_OFF,
        "Address and port of `/ready`, `/metrics` and `/debug/latency.*`; port 0 takes a free port"
    }
    jwt_key: Option<PathBuf> = None;
    { "jwt.key" flag "jwt-key", PATH, "Public keys to check tokens with: PEM or JWKS" }
    /// `jwt.*`, but for the key.
    token_policy: TokenPolicy = TokenPolicy::default();
    [TOKEN_POLICY]
    /// `tls.*`.
    tls: TlsChoices = TlsChoices::default();
    [TLS, limits("tls.")]
    claim_match: ClaimMatch = ClaimMatch::Strict;
    {
        "claim_match" flag "claim-match", CLAIM_MATCH,
        "Which ids must match between token and `start`: both, the tenant, none"
    }
    on_expiry: OnExpiry = OnExpiry::Keep;
    { "on_expiry", ON_EXPIRY, "What happens to a live call whose token expires" }
    allowed_origins: Option<Vec<String>> = None;
    {
        "allowed_origins" flag "allowed-origins", LIST,
        "Origins that may connect, separated by commas; unset: `Origin` is ignored"
    }
    cpus: Option<Vec<usize>> = None;
    {
        "cpus" flag "cpus", CPUS,
        "CPUs such as 2-9,12, with one pinned reactor each; unset: all but the lowest, if there \
         are more than two"
    }
    shards: Option<usize> = None;
    { "shards" flag "shards", COUNT_OPTIONAL, "Number of reactors, instead of a list of CPUs" }
    no_journal: bool = false;
    {
        "no_journal" flag "no-journal", SWITCH,
        "Keep audio in memory only: nothing is written to disk"
    }
    data_dir: Option<PathBuf> = None;
    {
        "data_dir" flag "data-dir", DIRECTORY,
        "Directory of the journal, created if missing; required without --no-journal"
    }
    /// `ack` as set; [`Settings::ack_level`] is the level in effect.
    ack: Option<AckLevel> = None;
    [ACK]
    /// `journal.*`.
    journal: JournalSettings = JournalSettings::default();
    [JOURNAL]
    archive_url: Option<String> = None;
    {
        "archive.url" flag "archive", URL,
        "Archive that gets the journal while the node serves: s3://BUCKET/PREFIX, gs://…, az://…, \
         or file:///DIR"
    }
    archive_options: Option<Vec<String>> = None;
    {
        "archive.options", LIST,
        "Options of the archive's store, such as endpoint=http://10.0.0.7:8333,allow_http=true"
    }
    archive_ca: Option<PathBuf> = None;
    {
        "archive.ca", PATH,
        "Certificates that the store's certificate may be signed by, besides those of the system"
    }
    archive_jobs: usize = 16;
    { "archive.jobs", COUNT, "Uploads to the archive at a time" }
    archive_required: bool = true;
    {
        "archive.required", SWITCH,
        "Retention leaves what the archive has not taken; false: the oldest audio goes even so"
    }
    archive2_url: Option<String> = None;
    { "archive2.url", URL, "A second archive, beside that of `archive.url`" }
    archive2_options: Option<Vec<String>> = None;
    { "archive2.options", LIST, "Options of the second archive's store" }
    archive2_ca: Option<PathBuf> = None;
    {
        "archive2.ca", PATH,
        "Certificates that the second store's certificate may be signed by, besides the system's"
    }
    archive2_jobs: usize = 16;
    { "archive2.jobs", COUNT, "Uploads to the second archive at a time" }
    archive2_required: bool = false;
    { "archive2.required", SWITCH, "Retention leaves what the second archive has not taken" }
    live_url: Option<String> = None;
    {
        "live.url" flag "live", URL,
        "NATS JetStream that gets calls while they go on: nats://HOST:4222, or tls://…; several \
         servers separated by commas"
    }
    live_audio: Option<Vec<String>> = None;
    {
        "live.audio" flag "live-audio", LIST,
        "Tenants whose audio the engine gets, or all; unset: none. Events go out for all calls"
    }
    live_credentials: Option<PathBuf> = None;
    {
        "live.credentials", PATH,
        "File with credentials for the engine: .creds, or a line USER:PASSWORD"
    }
    live_ca: Option<PathBuf> = None;
    {
        "live.ca", PATH,
        "Certificates that the engine's certificate must be signed by, instead of the system's"
    }
    live_create_streams: Option<usize> = None;
    {
        "live.create_streams", COUNT_OPTIONAL,
        "Make the streams that are missing: this many for audio; unset: they must be there"
    }
    live_replicas: usize = 3;
    { "live.replicas", COUNT, "Copies of each message in streams that are made" }
    live_stream_age: Duration = Duration::from_secs(24 * 60 * 60);
    { "live.stream_age", DURATION, "How long streams that are made keep messages" }
    live_monitor: Option<Vec<String>> = None;
    {
        "live.monitor", LIST,
        "Monitoring ports of the engine's servers, such as http://HOST:8222: they tell whether it \
         syncs what it acknowledges"
    }
    live_from: LiveFrom = LiveFrom::Oldest;
    {
        "live.from", LIVE_FROM,
        "What the first start with an engine hands over. oldest: the journal of earlier starts, \
         too; now: its own calls, and all later ones"
    }
    live_required: bool = false;
    {
        "live.required", SWITCH,
        "Retention leaves what the engine has not taken; false: the oldest audio goes even so"
    }
    forward_node: Option<String> = None;
    {
        "forward.node", TEXT,
        "Name of this node in the archive and in the engine; unset: the name of the host"
    }
    forward_cpus: Option<Vec<usize>> = None;
    {
        "forward.cpus", CPUS,
        "CPUs for the threads that send; unset: those without a reactor, if there are any"
    }
    forward_replicated_timeout: Duration = Duration::from_secs(5);
    {
        "forward.replicated_timeout", DURATION,
        "With --ack replicated: how long the message engine may take to acknowledge audio that is \
         durable here", reloadable
    }
    forward_on_timeout: OnTimeout = OnTimeout::Hold;
    {
        "forward.on_timeout", ON_TIMEOUT,
        "What happens to an ACK after that: it waits, and the call is closed after \
         journal.stall_timeout; or it goes out as durable", reloadable
    }
    forward_budget: Option<u64> = None;
    {
        "forward.budget", SIZE_OR_OFF,
        "How much of the journal may wait on the disk for required sinks"
    }
    forward_over_budget: OverBudget = OverBudget::Refuse;
    {
        "forward.over_budget", OVER_BUDGET,
        "Past the budget: new calls get 503, or the oldest audio goes though a sink lacks it"
    }
    drain: Duration = Duration::from_secs(30);
    {
        "drain" flag "drain", DURATION_OR_ZERO,
        "Time over which a draining node closes its calls", reloadable
    }
    // Orchestrators and load balancers need a second or two to send calls elsewhere.
    drain_grace: Duration = Duration::from_secs(5);
    {
        "drain_grace" flag "drain-grace", DURATION_OR_ZERO,
        "Time before `drain`: calls go on, new ones get 503, `/health` answers; 0s: the port \
         closes at once", reloadable
    } + [limits("proxy_protocol.")]
    log: LogFormat = LogFormat::Text;
    { "log" flag "log", LOG_FORMAT, "Form of the log lines on stderr" }
    log_level: LogLevel = LogLevel::Info;
    { "log_level", LOG_LEVEL, "Lowest severity of the log lines to write", reloadable }
    kernel_features: KernelFeatures = KernelFeatures::Newest;
    {
        "kernel_features" flag "kernel-features", KERNEL_FEATURES,
        "Newest kernel features to use; 6.1 selects the older code paths on any kernel"
    }
    allow_unregistered: bool = false;
    {
        "allow_unregistered" flag "allow-unregistered", SWITCH,
        "Run without registered memory if the limit on locked memory is too low"
    }
    /// `limits.*` and `timeouts.*`; also `proxy_protocol.from` and `tls.allow_plain`.
    limits: Limits = Limits::default();
    [limits("limits."), limits("timeouts.")]
}

/// In `live.audio`: the audio of all tenants.
pub(crate) const ALL_TENANTS: &str = "all";

impl Settings {
    /// The promise of an ACK: the level that was set; otherwise `durable` with a journal and
    /// `received` without.
    pub(crate) fn ack_level(&self) -> AckLevel {
        self.ack.unwrap_or(if self.no_journal { AckLevel::Received } else { AckLevel::Durable })
    }

    /// What the ACKs of each call promise.
    pub(crate) fn call_levels(&self) -> CallLevels {
        match (self.ack_level(), self.live_audio.as_deref()) {
            (AckLevel::Replicated, Some([all])) if all == ALL_TENANTS => {
                CallLevels::all(AckLevel::Replicated)
            }
            (AckLevel::Replicated, tenants) => {
                let tenants = tenants.unwrap_or_default();
                CallLevels::replicated_for(tenants.iter().map(|it| it.as_str().into()).collect())
            }
            (level, _) => CallLevels::all(level),
        }
    }

    /// How long ACKs wait for the message engine; `None`: they do not.
    pub(crate) fn replication(&self) -> Option<ReplicationSettings> {
        (self.ack_level() == AckLevel::Replicated).then_some(ReplicationSettings {
            timeout: self.forward_replicated_timeout,
            on_timeout: self.forward_on_timeout,
            stall_timeout: self.journal.stall_timeout,
        })
    }

    /// Whether retention waits for a sink.
    pub(crate) fn has_required_sink(&self) -> bool {
        let archive = self.archive_url.is_some() && self.archive_required;
        let second = self.archive2_url.is_some() && self.archive2_required;
        archive || second || (self.live_url.is_some() && self.live_required)
    }

    /// How much may wait for required sinks.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.forward_budget.map(|bytes| Budget { bytes, over: self.forward_over_budget })
    }

    /// Configuration of the journal; `None` if there is none, or if no directory was given.
    pub(crate) fn journal(&self) -> Option<JournalConfig> {
        let data_dir = self.data_dir.clone().filter(|_| !self.no_journal)?;
        Some(JournalConfig {
            data_dir,
            level: self.ack_level().of_journal(),
            settings: self.journal,
            pins: Vec::new(),
            budget: self.budget(),
        })
    }
}

/// One row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    /// Its key, such as `limits.calls_max`.
    pub(crate) key: &'static str,
    /// Its flag besides `--set`, without the leading dashes, such as `max-calls`.
    pub(crate) flag: Option<&'static str>,
    /// Placeholder of its value in help, such as `SIZE` or `strict|tenant|off`.
    pub(crate) shape: &'static str,
    /// The flag may be given without a value, which means `true`.
    pub(crate) is_switch: bool,
    /// The flag may be given several times; its values are joined with commas.
    pub(crate) is_repeatable: bool,
    /// Its help: a sentence without the full stop.
    pub(crate) help: &'static str,
    /// Whether a reload changes it. The others size memory and files, open sockets, or decide what
    /// a live call was promised: they take a restart.
    pub(crate) is_reloadable: bool,
    /// Sets it from text. The error says what to write instead.
    pub(super) assign: fn(&mut Settings, &str) -> Result<(), String>,
    /// Its value as text; `None` if it is not set.
    pub(super) show: fn(&Settings) -> Option<String>,
    /// Sets it to its value in the first settings.
    pub(super) take: fn(&Settings, &mut Settings),
}

impl Setting {
    /// Its other name, if that is not the key: the name of its flag, with underscores.
    pub(crate) fn alias(&self) -> Option<String> {
        self.flag.map(|flag| flag.replace('-', "_")).filter(|alias| alias != self.key)
    }

    /// Its variable.
    pub(crate) fn variable(&self) -> String {
        variable(self.key)
    }

    /// Its value as text for `--set`; `None` if it is not set.
    pub(crate) fn value(&self, settings: &Settings) -> Option<String> {
        (self.show)(settings)
    }

    /// Its value as text for people, without secrets.
    pub(crate) fn shown(&self, settings: &Settings) -> Option<String> {
        self.value(settings).map(|text| self.hide(&text))
    }

    /// A text that was given for it, without secrets.
    pub(super) fn hide(&self, text: &str) -> String {
        match self.key.ends_with(".options") {
            true => text.split(',').map(secrets::hide_in_option).collect::<Vec<_>>().join(","),
            false => secrets::hide(text),
        }
    }
}

/// Prefix of this program's variables.
pub(crate) const VARIABLE_PREFIX: &str = "EXO_INGEST_";

/// The variable for a name.
pub(super) fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_ascii_uppercase())
}
