//! The thread that plays all hostile peers. Each peer is a task; one count says how they ended.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::LocalSet;

use super::ending::Ending;
use super::endings::Endings;
use super::kind::Kind;
use super::pace::Pace;
use super::peer::Node;
use super::plays::{Play, Played};
use crate::host;
use crate::identities::CallIds;
use crate::schedule::Clock;
use crate::target::Target;
use crate::tls::Tls;

/// A peer waits this long after a failed connect: a flood of errors is not the attack.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The flag of Ctrl-C is read this often.
const CUT_POLL: Duration = Duration::from_millis(100);

/// Priority of the peers: live calls go first if both share a CPU.
const NICE: i32 = 15;

/// The attack.
pub struct Attack {
    /// Kind of the peers.
    pub kind: Kind,
    /// The node.
    pub target: Target,
    /// With TLS, for a `wss://` URL.
    pub tls: Option<Arc<Tls>>,
    /// Ids and token of each peer.
    pub ids: Vec<CallIds>,
    /// Peers at once.
    pub peers: u64,
    /// Connections a second.
    pub rate: f64,
    /// Time in which the node must end a peer.
    pub limit: Duration,
    /// The run's clock.
    pub clock: Clock,
    /// When the attack begins, and when no more peers connect; nanoseconds of the clock.
    pub from: u64,
    /// See `from`.
    pub until: u64,
    /// Hz, of calls.
    pub sample_rate: u32,
    /// CPUs to run on; empty for any.
    pub cpus: Vec<usize>,
    /// Ctrl-C.
    pub cut: Arc<AtomicBool>,
}

/// What the peers share.
struct Ring {
    attack: Attack,
    pace: Pace,
    endings: RefCell<Endings>,
    next: RefCell<u64>,
}

impl Ring {
    fn record(&self, played: &Played) {
        let mut endings = self.endings.borrow_mut();
        endings.record(&played.ending, played.after);
        endings.bytes += played.sent;
    }
}

/// Plays the attack on the calling thread.
pub fn run(attack: Attack) -> io::Result<Endings> {
    if !attack.cpus.is_empty() {
        host::pin(&attack.cpus)?;
    }
    host::yield_to_others(NICE);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let ring = Rc::new(Ring {
        pace: Pace::new(attack.clock, attack.from, attack.rate),
        endings: RefCell::new(Endings::new(attack.kind, attack.limit)),
        next: RefCell::new(0),
        attack,
    });
    let local = LocalSet::new();
    for peer in 0..ring.attack.peers {
        local.spawn_local(live(ring.clone(), peer as usize));
    }
    let cut = ring.attack.cut.clone();
    runtime.block_on(async {
        tokio::select! {
            () = local => {}
            () = until_cut(cut) => {}
        }
    });
    drop(runtime);
    let (kind, limit) = (ring.attack.kind, ring.attack.limit);
    Ok(ring.endings.replace(Endings::new(kind, limit)))
}

/// Plays one peer: it connects in its turn, over and over, until the attack ends.
async fn live(ring: Rc<Ring>, peer: usize) {
    let attack = &ring.attack;
    while ring.pace.turn(attack.until).await {
        let number = ring.next.replace_with(|next| *next + 1);
        let play = Play {
            kind: attack.kind,
            node: Node { target: &attack.target, tls: attack.tls.as_deref() },
            ids: &attack.ids[peer % attack.ids.len()],
            number,
            sample_rate: attack.sample_rate,
            limit: attack.limit,
        };
        let played = play.play().await;
        let is_failure = matches!(played.ending, Ending::NotConnected | Ending::NoRoom);
        ring.record(&played);
        if is_failure {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

async fn until_cut(cut: Arc<AtomicBool>) {
    while !cut.load(Ordering::Relaxed) {
        tokio::time::sleep(CUT_POLL).await;
    }
}
