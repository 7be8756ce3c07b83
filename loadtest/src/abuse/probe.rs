//! A new call each second: can it be made during the attack, and how long does that take?

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::bytes;
use super::ear::Ear;
use super::ending::Ending;
use super::peer::{Node, Options};
use crate::event;
use crate::identities::CallIds;
use crate::schedule::Clock;
use crate::target::Target;
use crate::tls::Tls;

/// From one new call to the next.
const EVERY: u64 = 1_000_000_000;

/// Longest wait for `started`, and for the first ACK.
const WAIT: Duration = Duration::from_secs(10);

/// Frames until the first ACK.
const FRAMES: usize = 10;

/// The new calls of a run.
pub struct Probe {
    /// The node.
    pub target: Target,
    /// With TLS, for a `wss://` URL.
    pub tls: Option<Arc<Tls>>,
    /// Ids and token of each.
    pub ids: Vec<CallIds>,
    /// The run's clock.
    pub clock: Clock,
    /// When the first is made, nanoseconds of the clock.
    pub from: u64,
    /// No call is made after this time.
    pub until: u64,
    /// Hz.
    pub sample_rate: u32,
    /// Ctrl-C.
    pub cut: Arc<AtomicBool>,
}

/// One new call.
#[derive(Debug, Clone)]
pub struct Probed {
    /// When it was due.
    pub at: u64,
    /// Time from then to `started`; or why there was no call, or no ACK.
    pub setup: Result<Duration, String>,
}

/// Makes the calls on the calling thread. Their times count from when they were due.
pub fn run(probe: &Probe) -> io::Result<Vec<Probed>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut probed = Vec::new();
        for (ids, at) in probe.ids.iter().zip((probe.from..probe.until).step_by(EVERY as usize)) {
            let due = Instant::from(probe.clock.instant(at));
            tokio::time::sleep_until(due).await;
            if probe.cut.load(Ordering::Relaxed) {
                break;
            }
            let setup = tokio::time::timeout(WAIT, probe.call(ids, due)).await;
            let setup = setup
                .unwrap_or_else(|_| Err(format!("no call or no ACK after {} s", WAIT.as_secs())));
            probed.push(Probed { at, setup });
        }
        Ok(probed)
    })
}

impl Probe {
    async fn call(&self, ids: &CallIds, due: Instant) -> Result<Duration, String> {
        let words = |ending: Ending| format!("{}: {ending}", ids.interaction);
        let node = Node { target: &self.target, tls: self.tls.as_deref() };
        let mut peer = node.connect(Options::default()).await.map_err(words)?;
        let (mut ear, request) = Ear::upgrading(&self.target, &ids.token).map_err(words)?;
        peer.write(&request).await.map_err(words)?;
        peer.await_that(&mut ear, WAIT, Ear::is_open).await.map_err(words)?;
        peer.write(&bytes::text(&event::start(&ids.interaction, &ids.tenant, self.sample_rate)))
            .await
            .map_err(words)?;
        peer.await_that(&mut ear, WAIT, |ear| ear.is_started).await.map_err(words)?;
        let setup = due.elapsed();
        peer.write(&bytes::frame(bytes::BINARY, &[3; 960]).repeat(FRAMES)).await.map_err(words)?;
        peer.await_that(&mut ear, WAIT, |ear| ear.acked >= FRAMES as u64).await.map_err(words)?;
        peer.write(&bytes::text(event::STOP)).await.map_err(words)?;
        match peer.listen(&mut ear, Instant::now() + WAIT).await {
            Ending::Close(1000) => Ok(setup),
            ending => Err(words(ending)),
        }
    }
}
