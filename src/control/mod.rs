#![forbid(unsafe_code)]
//! The control plane: one unpinned thread with a tokio-uring runtime. It watches signals and keys and tells the node; it answers on
//! the admin listener. It never touches a connection of the node's.
//!
//! ```text
//!  signals ──channel──► serve ──► Node: drain, keys        one task for each of these;
//!  keys (tokio_uring::fs) ──channel──┘                     none of them waits for another
//!  admin (hyper on tokio::net) ──► Status ◄── once a second: latencies, turns
//! ```
//! The [`keeper`] and its indexer are threads of their own, on purpose: what they do is locking, listing, cutting and allocating
//! files, for most of which neither io_uring nor tokio-uring has an operation. Done here it would block this thread, and `/ready`
//! has to answer just when the disk does not.

pub mod admin;
pub mod keeper;
pub mod notify;
pub mod reload;
pub mod signals;

use crate::auth::{TokenPolicy, Verifier};
use crate::node::{Node, NodeError};
use admin::{AdminError, AdminListener, Facts, Status};
use notify::Notifier;
use reload::{KeyFile, KeyFileError};
use signals::Signal;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel};
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often the node is asked whether it has ended by itself.
const TICK: Duration = Duration::from_millis(250);

/// The same while it drains: a node without calls exits at once, and scripts wait for that.
const TICK_DRAINING: Duration = Duration::from_millis(10);

/// How often the key file is looked at.
const KEY_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often the shards are asked for their latencies, and watched whether they turn.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Entries of the runtime's submission queue: it has a file or two under way.
const SUBMISSIONS: u32 = 16;

/// What the control plane is made from.
#[derive(Debug)]
pub struct ControlConfig {
    /// Public keys: PEM or JWKS.
    pub keys: PathBuf,
    /// What is demanded of tokens.
    pub policy: TokenPolicy,
    /// `admin`; `None`: there is no admin listener.
    pub admin: Option<SocketAddr>,
    /// The time over which a draining node closes its calls.
    pub drain: Duration,
}

/// The control plane of a node that is yet to start.
pub struct Control {
    runtime: tokio_uring::Runtime,
    signals: UnboundedReceiver<Signal>,
    keys: KeyFile,
    listener: Option<AdminListener>,
    drain: Duration,
}

/// Why there is no control plane, or how a node ended that nobody asked to.
#[derive(Debug)]
pub enum ControlError {
    /// The runtime cannot be made.
    Runtime(io::Error),
    /// The admin address cannot be listened on.
    Admin(AdminError),
    /// There are no keys to begin with.
    Keys(KeyFileError),
    /// A thread cannot be started.
    Thread(io::Error),
    /// A shard failed.
    Failed(NodeError),
    /// Every shard ended although no signal asked for it.
    Ended,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Runtime(error) => {
                let remedy = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                    Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                        "raise the limit on open files (`ulimit -n`)"
                    }
                    Some(rustix::io::Errno::NOMEM) => "raise the limit on locked memory (`ulimit -l`), or free memory",
                    Some(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => {
                        "allow io_uring (sysctl kernel.io_uring_disabled, the container's seccomp filter)"
                    }
                    _ => "it needs io_uring, an epoll descriptor and a little memory",
                };
                write!(f, "the control plane's runtime cannot be made ({error}): {remedy}")
            }
            ControlError::Admin(error) => error.fmt(f),
            ControlError::Keys(error) => error.fmt(f),
            ControlError::Thread(error) => {
                write!(f, "a thread cannot be started: {error}: raise the limit on tasks (`ulimit -u`)")
            }
            ControlError::Failed(error) => error.fmt(f),
            ControlError::Ended => f.write_str("the node ended though nobody asked it to: see the log for the reason"),
        }
    }
}

impl std::error::Error for ControlError {}

impl Control {
    /// Binds the admin address and reads the keys. The node is started after this and served by [`Control::run`], on this thread.
    pub fn prepare(config: ControlConfig, signals: UnboundedReceiver<Signal>) -> Result<(Control, Verifier), ControlError> {
        let listener = config.admin.map(AdminListener::bind).transpose().map_err(ControlError::Admin)?;
        let runtime =
            tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS)).map_err(ControlError::Runtime)?;
        let keys = runtime.block_on(KeyFile::open(config.keys, config.policy));
        let (keys, verifier) = keys.map_err(ControlError::Keys)?;
        Ok((Control { runtime, signals, keys, listener, drain: config.drain }, verifier))
    }

    /// The admin address with its real port.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(AdminListener::address)
    }

    /// Serves until the node has ended: after a signal and its drain, or because a shard failed.
    pub fn run(self, node: Node, facts: Facts, notifier: &Notifier) -> Result<(), ControlError> {
        let Control { runtime, signals, keys, listener, drain } = self;
        let is_reading = Rc::new(Cell::new(false));
        let outcome = runtime.block_on(serve(
            node,
            Parts { signals, keys, listener, drain, is_reading: Rc::clone(&is_reading) },
            facts,
            notifier,
        ));
        if is_reading.get() {
            // It would wait for a read that a dead disk may never finish. The process ends next.
            std::mem::forget(runtime);
        }
        outcome
    }
}

struct Parts {
    signals: UnboundedReceiver<Signal>,
    keys: KeyFile,
    listener: Option<AdminListener>,
    drain: Duration,
    /// Whether an operation on the key file is under way.
    is_reading: Rc<Cell<bool>>,
}

async fn serve(node: Node, parts: Parts, facts: Facts, notifier: &Notifier) -> Result<(), ControlError> {
    let Parts { mut signals, keys, listener, drain, is_reading } = parts;
    let status = Rc::new(Status::new(&node, facts));
    tokio_uring::spawn(look_after(Rc::clone(&status)));
    if let Some(listener) = listener {
        tokio_uring::spawn(admin::serve(listener, Rc::clone(&status)));
    }
    let hangup = Rc::new(Notify::new());
    let (sender, mut verifiers) = channel(1);
    tokio_uring::spawn(watch_keys(keys, Rc::clone(&hangup), sender, is_reading));
    let mut is_draining = false;
    while !node.is_stopped() {
        tokio::select! {
            Some(signal) = signals.recv() => match signal {
                Signal::Terminate if !is_draining => {
                    is_draining = true;
                    // First of all: who asks is to send new calls elsewhere.
                    status.drain();
                    tracing::info!(calls = node.calls_live(), window = ?drain, "draining; a second signal ends it");
                    notifier.stopping();
                    node.drain(drain);
                }
                Signal::Terminate => {}
                Signal::Hangup => {
                    // A node that stops says nothing else any more.
                    if !is_draining {
                        notifier.reloading();
                    }
                    hangup.notify_one();
                }
            },
            Some((is_asked, outcome)) = verifiers.recv() => {
                let what = apply(&node, outcome);
                if !is_draining {
                    notifier.keys_read(is_asked, node.address(), &what);
                }
            }
            () = sleep(if is_draining { TICK_DRAINING } else { TICK }) => {}
        }
    }
    log_summary(&node);
    // Elsewhere, so that the admin listener answers until the last shard and the keeper have ended.
    let (sender, outcome) = oneshot::channel();
    let wait = move || {
        let _ = sender.send(node.wait());
    };
    std::thread::Builder::new().name("ending".into()).spawn(wait).map_err(ControlError::Thread)?;
    match outcome.await {
        Ok(outcome) => outcome.map_err(ControlError::Failed)?,
        Err(_) => return Err(ControlError::Ended),
    }
    if is_draining { Ok(()) } else { Err(ControlError::Ended) }
}

async fn look_after(status: Rc<Status>) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        status.look().await;
    }
}

/// Reads the key file when it changes and when it is asked to, for as long as somebody takes what comes of it, with whether it
/// was asked.
async fn watch_keys(
    mut keys: KeyFile,
    hangup: Rc<Notify>,
    outcomes: Sender<(bool, Result<Verifier, KeyFileError>)>,
    is_reading: Rc<Cell<bool>>,
) {
    let mut polls = interval(KEY_POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked = tokio::select! {
            () = hangup.notified() => true,
            _ = polls.tick() => false,
        };
        is_reading.set(true);
        let outcome = if is_asked { Some(keys.reload().await) } else { keys.poll().await };
        is_reading.set(false);
        if let Some(outcome) = outcome
            && outcomes.send((is_asked, outcome)).await.is_err()
        {
            return;
        }
    }
}

/// Swaps the whole set, or keeps the old one; says which.
fn apply(node: &Node, outcome: Result<Verifier, KeyFileError>) -> String {
    match outcome {
        Ok(verifier) => {
            node.set_keys(Arc::new(verifier));
            tracing::info!("keys reloaded");
            "keys reloaded".to_owned()
        }
        Err(error) => {
            tracing::warn!("keys not reloaded, the old ones stay: {error}");
            format!("keys not reloaded, the old ones stay: {error}")
        }
    }
}

fn log_summary(node: &Node) {
    let sum =
        |read: fn(&crate::metrics::Counters) -> u64| node.counters().iter().map(|counters| read(counters)).sum::<u64>();
    tracing::info!(
        calls = sum(|counters| counters.calls_started.read()),
        frames = sum(|counters| counters.frames.read()),
        audio_bytes = sum(|counters| counters.audio_bytes.read()),
        acks = sum(|counters| counters.acks.read()),
        refused = sum(|counters| counters.requests_refused.read() + counters.sessions_refused.read()),
        records = sum(|counters| counters.audio_records.read()),
        receives = sum(|counters| counters.receives.read()),
        turns = sum(|counters| counters.turns.read()),
        system_calls = sum(|counters| counters.system_calls.read()),
        "stopped"
    );
}
