//! The end of a shard: it takes no new calls and closes its calls evenly over a window. When none
//! is left, the shard is over.
//!
//! ```text
//!   SIGTERM ─────── grace ───────► ───────── window ──────────► no call left ──► port closed, over
//!     calls go on, new ones get 503  closed one after another
//!     `/health` is 200 .............................................│
//! ```
//! A balancer learns only after a while that the node goes, from `/ready` or the orchestrator. It
//! would send calls that are closed earlier to this node again. So nothing is closed during the
//! grace. As long as there are calls, `/health` is answered, because an orchestrator kills a node
//! whose liveness probe finds no listener, with all its calls. Without a grace the port closes at
//! once: another process has it already.
//!
//! A drain can take longer than its window. The Close of the last call waits for its ACKs and then
//! for room in its socket, at most `limits.close_timeout` each, and then at most two seconds for
//! the peer's FIN. A peer that answers takes one round trip. The last wait is not cut short: the
//! socket of a peer that still sends would be reset, and the peer could not read its 1001.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::Stage;
use super::journal::ShardJournal;
use crate::clock::{Moment, Now};
use crate::io::Io;
use crate::session::{Notice, Service, Session};
use std::time::Duration;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// There is none.
    NotBegun,
    /// The grace: calls go on until then, and are closed over this window.
    Grace { until: Moment, window: Duration },
    /// Calls are being closed. The port is open until the last one has gone.
    ClosingCalls,
    /// The port is closed, or about to be.
    PortClosed,
}

impl Drain {
    /// Whether new calls are refused.
    pub(super) fn has_begun(self) -> bool {
        self != Drain::NotBegun
    }

    /// When [`Shard::drive_drain`] has something to do, whatever else happens.
    pub(super) fn poll_timeout(self) -> Option<Moment> {
        match self {
            Drain::Grace { until, .. } => Some(until),
            Drain::NotBegun | Drain::ClosingCalls | Drain::PortClosed => None,
        }
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    pub(super) fn start_drain(&mut self, now: Now, grace: Duration, window: Duration) {
        if self.drain.has_begun() {
            return;
        }
        if grace.is_zero() {
            self.close_port(now);
            return self.close_calls(now, window);
        }
        self.drain = Drain::Grace { until: now.moment + grace, window };
    }

    /// Once a turn: closes the calls when the grace is over, and the port when the last of them has
    /// gone.
    pub(super) fn drive_drain(&mut self, now: Now) {
        if let Drain::Grace { until, window } = self.drain
            && until <= now.moment
        {
            self.drain = Drain::ClosingCalls;
            self.close_calls(now, window);
        }
        if self.drain == Drain::ClosingCalls && self.connections.upgraded_count() == 0 {
            self.close_port(now);
        }
    }

    /// The port closes. Connections that have not sent their request are told at once.
    fn close_port(&mut self, now: Now) {
        self.drain = Drain::PortClosed;
        if !self.admission.stop(&mut self.io) {
            return;
        }
        let ids: Vec<_> = self.connections.ids().collect();
        for id in ids {
            if self.connections.get(id).is_some_and(|it| matches!(it.stage, Stage::Head(_))) {
                self.turn_back(now, id);
                self.settle(now, id);
            }
        }
    }

    fn close_calls(&mut self, now: Now, window: Duration) {
        let ids: Vec<_> = self.connections.ids().collect();
        let mut live = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(connection) = self.connections.get(id) else { continue };
            let Stage::Open(open) = &mut connection.stage else { continue };
            if open.session.is_live() {
                live.push(id);
            } else {
                // No call has begun: there is nothing to spread.
                self.with_session(id, |session, context| {
                    session.handle_notice(now, Notice::Draining, context)
                });
                self.settle(now, id);
            }
        }
        // Clients that reconnect elsewhere do so one after another, not as a herd.
        let step = window.checked_div(live.len() as u32).unwrap_or_default();
        for (place, id) in (0u32..).zip(live) {
            if let Some(connection) = self.connections.get(id) {
                connection.drain_at = Some(now.moment + step * place);
                self.settle(now, id);
            }
        }
    }

    /// Whether nothing more can come into the ring.
    pub(super) fn has_drained(&self) -> bool {
        self.admission.has_stopped() && self.connections.count() == 0
    }

    /// Whether the shard is over: nothing more comes, and what came is durable.
    pub(super) fn is_finished(&self) -> bool {
        self.has_drained() && self.journal.as_ref().is_none_or(ShardJournal::is_finished)
    }
}
