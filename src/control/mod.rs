#![forbid(unsafe_code)]
//! The control plane: one unpinned thread with a tokio-uring runtime. It passes signals and new
//! keys to the node, and answers on the admin listener. It never touches a connection of the node.
//!
//! ```text
//!  signals ──channel──► serve ──► Node: drain, keys, TLS, limits    one task for each;
//!  files (tokio_uring::fs) ──channel──┘                             none waits for another
//!  admin (hyper on tokio::net) ──► Status ◄── once a second: latencies, turns
//! ```
//! The [store](crate::store) and its indexer have separate threads on purpose. They lock, list, cut
//! and allocate files, and for most of that neither io_uring nor tokio-uring has an operation. Here
//! it would block this thread, and `/ready` must answer above all when the disk does not.

pub(crate) mod admin;
pub(crate) mod expiry;
pub(crate) mod notify;
pub(crate) mod reload;
pub(crate) mod settings_file;
pub mod signals;
pub(crate) mod tls_files;
mod watch;
mod watched;

use crate::auth::{TokenPolicy, Verifier};
use crate::node::{Node, NodeError};
use crate::tls::load::{Loaded, LoadedCertificate, TlsSettings};
use admin::{AdminError, AdminListener, KeyCounts, NodeInfo, Status};
use notify::Notifier;
use reload::{KeyFile, KeyFileError};
use settings_file::SettingsFile;
use signals::Signal;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tls_files::{TlsFileError, TlsFiles};
use tokio::sync::mpsc::{UnboundedReceiver, channel};
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};
use watch::{Files, Outcome, apply, count_keys, watch};

/// How often to check whether the node has ended by itself.
const TICK: Duration = Duration::from_millis(250);

/// The same during a drain: a node without calls exits at once, and scripts wait for that.
const TICK_DRAINING: Duration = Duration::from_millis(10);

/// How often to collect the shards' latencies, and to check that the shards run.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Entries of the runtime's submission queue: one or two file operations are under way.
const SUBMISSIONS: u32 = 16;

/// What the control plane needs at its start.
#[derive(Debug)]
pub(crate) struct ControlConfig {
    /// Public keys: PEM or JWKS.
    pub(crate) keys: PathBuf,
    /// The rules for tokens.
    pub(crate) policy: TokenPolicy,
    /// Certificates and other files of TLS; `None`: the port speaks plain HTTP.
    pub(crate) tls: Option<TlsSettings>,
    /// The configuration file, if there is one.
    pub(crate) settings: Option<SettingsFile>,
    /// `admin`; `None`: no admin listener.
    pub(crate) admin: Option<SocketAddr>,
    /// The time in which a draining node closes its calls.
    pub(crate) drain: Duration,
    /// The time before that, in which calls continue and new ones get 503.
    pub(crate) drain_grace: Duration,
}

/// The control plane of a node that has not started yet.
pub(crate) struct Control {
    runtime: tokio_uring::Runtime,
    parts: Parts,
}

/// What it serves with.
struct Parts {
    signals: UnboundedReceiver<Signal>,
    files: Files,
    key_counts: KeyCounts,
    certificates: Vec<LoadedCertificate>,
    listener: Option<AdminListener>,
    drain: Duration,
    drain_grace: Duration,
    /// Whether an operation on one of the files is under way.
    is_reading: Rc<Cell<bool>>,
}

/// The files read for a node that has not started yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Checks tokens.
    pub(crate) verifier: Verifier,
    /// For TLS handshakes; `None`: the port speaks plain HTTP.
    pub(crate) tls: Option<Loaded>,
}

/// Why there is no control plane, or why a node ended unexpectedly.
#[derive(Debug)]
pub enum ControlError {
    /// The runtime cannot be made.
    Runtime(io::Error),
    /// It cannot listen on the admin address.
    Admin(AdminError),
    /// There are no keys at the start.
    Keys(KeyFileError),
    /// There are no certificates at the start.
    Tls(TlsFileError),
    /// A thread cannot be started.
    Thread(io::Error),
    /// A shard failed.
    Failed(NodeError),
    /// Every shard ended without a signal.
    Ended,
    /// It drained because the process had little CPU time left.
    CpuLimit,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Runtime(error) => {
                let remedy = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                    Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                        "raise the limit on open files (`ulimit -n`)"
                    }
                    Some(rustix::io::Errno::NOMEM) => {
                        "raise the limit on locked memory (`ulimit -l`), or free memory"
                    }
                    Some(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => {
                        "allow io_uring (sysctl kernel.io_uring_disabled, the container's seccomp \
                         filter)"
                    }
                    _ => "it needs io_uring, an epoll descriptor and a little memory",
                };
                write!(f, "the control plane's runtime cannot be made ({error}): {remedy}")
            }
            ControlError::Admin(error) => error.fmt(f),
            ControlError::Keys(error) => error.fmt(f),
            ControlError::Tls(error) => error.fmt(f),
            ControlError::Thread(error) => {
                write!(
                    f,
                    "a thread cannot be started: {error}: raise the limit on tasks (`ulimit -u`)"
                )
            }
            ControlError::Failed(error) => error.fmt(f),
            ControlError::Ended => {
                f.write_str("the node ended unexpectedly: see the log for the reason")
            }
            ControlError::CpuLimit => f.write_str(
                "the node drained because it reached the limit on its CPU time: remove the limit \
                 (`ulimit -t unlimited`, systemd's LimitCPU=infinity)",
            ),
        }
    }
}

impl std::error::Error for ControlError {}

impl ControlError {
    /// Whether another start may succeed without a change of a setting or of a file that one names.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            ControlError::Keys(error) => error.may_pass(),
            ControlError::Tls(error) => error.may_pass(),
            _ => true,
        }
    }
}

impl Control {
    /// Binds the admin address, reads keys and certificates. Start the node after this, and serve
    /// it by [`Control::run`] on this thread.
    pub(crate) fn prepare(
        config: ControlConfig,
        signals: UnboundedReceiver<Signal>,
    ) -> Result<(Control, Prepared), ControlError> {
        let runtime = runtime()?;
        // Permanent errors first: another attempt cannot avoid them.
        let (mut files, prepared) = read_files(&runtime, config.keys, config.policy, config.tls)?;
        files.settings = config.settings;
        let listener =
            config.admin.map(AdminListener::bind).transpose().map_err(ControlError::Admin)?;
        let key_counts = count_keys(&prepared.verifier);
        if let Some(loaded) = &prepared.tls {
            watch::log_tls(loaded);
        }
        let certificates =
            prepared.tls.as_ref().map_or_else(Vec::new, |loaded| loaded.certificates.clone());
        let parts = Parts {
            signals,
            files,
            key_counts,
            certificates,
            listener,
            drain: config.drain,
            drain_grace: config.drain_grace,
            is_reading: Rc::default(),
        };
        Ok((Control { runtime, parts }, prepared))
    }

    /// The admin address with its real port.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.parts.listener.as_ref().map(AdminListener::address)
    }

    /// Serves until the node has ended: after a signal and its drain, or because a shard failed.
    pub(crate) fn run(
        self,
        node: Node,
        node_info: NodeInfo,
        notifier: &Notifier,
    ) -> Result<(), ControlError> {
        let Control { runtime, parts } = self;
        let is_reading = Rc::clone(&parts.is_reading);
        let outcome = runtime.block_on(serve(node, parts, node_info, notifier));
        if is_reading.get() {
            // Dropping it would wait for a read that a dead disk may never finish. The process ends
            // next.
            std::mem::forget(runtime);
        }
        outcome
    }
}

/// The control plane's runtime, which also reads files.
fn runtime() -> Result<tokio_uring::Runtime, ControlError> {
    tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS))
        .map_err(ControlError::Runtime)
}

/// Reads keys and certificates for the first time.
fn read_files(
    runtime: &tokio_uring::Runtime,
    keys: PathBuf,
    policy: TokenPolicy,
    tls: Option<TlsSettings>,
) -> Result<(Files, Prepared), ControlError> {
    let (keys, verifier) =
        runtime.block_on(KeyFile::open(keys, policy)).map_err(ControlError::Keys)?;
    let tls = tls
        .map(|settings| runtime.block_on(TlsFiles::open(settings)))
        .transpose()
        .map_err(ControlError::Tls)?;
    let (tls_files, tls) = tls.unzip();
    let files = Files { keys, tls: tls_files, settings: None };
    Ok((files, Prepared { verifier, tls }))
}

/// Reads the key file as a node does at its start.
pub fn try_keys(keys: PathBuf, policy: TokenPolicy) -> Result<Verifier, ControlError> {
    let runtime = runtime()?;
    runtime
        .block_on(KeyFile::open(keys, policy))
        .map(|(_, verifier)| verifier)
        .map_err(ControlError::Keys)
}

/// Reads the files of TLS as a node does at its start.
pub fn try_tls(settings: TlsSettings) -> Result<Loaded, ControlError> {
    let runtime = runtime()?;
    runtime.block_on(TlsFiles::open(settings)).map(|(_, loaded)| loaded).map_err(ControlError::Tls)
}

async fn serve(
    node: Node,
    parts: Parts,
    node_info: NodeInfo,
    notifier: &Notifier,
) -> Result<(), ControlError> {
    let Parts {
        mut signals,
        files,
        key_counts,
        certificates,
        listener,
        mut drain,
        mut drain_grace,
        is_reading,
    } = parts;
    let status = Rc::new(Status::new(&node, node_info, key_counts));
    status.set_certificates(certificates);
    files.names().for_each(|what| status.read_at_start(what));
    let watched = Rc::clone(&status);
    tokio_uring::spawn(expiry::watch(move || watched.expiry_notices()));
    tokio_uring::spawn(look_after(Rc::clone(&status)));
    if let Some(listener) = listener {
        tokio_uring::spawn(admin::serve(listener, Rc::clone(&status)));
    }
    let hangup = Rc::new(Notify::new());
    let (sender, mut outcomes) = channel::<Outcome>(1);
    tokio_uring::spawn(watch(files, Rc::clone(&hangup), sender, is_reading));
    // Another thread waits for the last shard and the store, so that the admin listener answers
    // until then. Make the thread now: at the end memory or a limit may prevent it.
    let (ending, nodes) = std::sync::mpsc::channel::<Node>();
    let (sender, outcome) = oneshot::channel();
    let wait = move || nodes.recv().map(|node| sender.send(node.wait()));
    std::thread::Builder::new().name("ending".into()).spawn(wait).map_err(ControlError::Thread)?;
    let (mut is_draining, mut is_out_of_cpu) = (false, false);
    while !node.is_stopped() {
        tokio::select! {
            Some(signal) = signals.recv() => match signal {
                Signal::Terminate | Signal::CpuLimit if !is_draining => {
                    is_draining = true;
                    is_out_of_cpu = signal == Signal::CpuLimit;
                    // Tell readiness checks first, so that new calls go elsewhere.
                    status.drain();
                    tracing::info!(
                        calls = node.calls_live(),
                        grace = ?drain_grace,
                        window = ?drain,
                        "draining; a second signal ends it"
                    );
                    notifier.stopping();
                    node.drain_after(drain_grace, drain);
                }
                Signal::Terminate | Signal::CpuLimit => {}
                Signal::Hangup => {
                    // A stopping node reports nothing else.
                    if !is_draining {
                        notifier.reloading();
                    }
                    hangup.notify_one();
                }
            },
            Some(outcome) = outcomes.recv() => {
                let is_asked = outcome.is_asked;
                if let Some(times) = outcome.drain_times() {
                    (drain_grace, drain) = times;
                }
                let what = apply(&node, &status, outcome);
                if !is_draining {
                    notifier.files_read(is_asked, node.address(), &what);
                }
            }
            () = sleep(if is_draining { TICK_DRAINING } else { TICK }) => {}
        }
    }
    log_summary(&node);
    // The thread waits only for this. If it has ended, `outcome` says so.
    let _ = ending.send(node);
    match outcome.await {
        Ok(outcome) => outcome.map_err(ControlError::Failed)?,
        Err(_) => return Err(ControlError::Ended),
    }
    match (is_draining, is_out_of_cpu) {
        (_, true) => Err(ControlError::CpuLimit),
        (true, false) => Ok(()),
        (false, false) => Err(ControlError::Ended),
    }
}

async fn look_after(status: Rc<Status>) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        status.look().await;
    }
}

fn log_summary(node: &Node) {
    let sum = |read: fn(&crate::metrics::Counters) -> u64| {
        node.counters().iter().map(|counters| read(counters)).sum::<u64>()
    };
    tracing::info!(
        calls = sum(|counters| counters.calls_started.read()),
        frames = sum(|counters| counters.frames.read()),
        audio_bytes = sum(|counters| counters.audio_bytes.read()),
        acks = sum(|counters| counters.acks.read()),
        refused =
            sum(|counters| counters.requests_refused.read() + counters.sessions_refused.read()),
        records = sum(|counters| counters.audio_records.read()),
        receives = sum(|counters| counters.receives.read()),
        turns = sum(|counters| counters.turns.read()),
        system_calls = sum(|counters| counters.system_calls.read()),
        "stopped"
    );
}
