//! The end of a shard: accepting stops, calls are closed evenly over a window, and with none left it is over.
//!
//! How long that can take beyond the window: the last call's Close waits for its ACKs and then for room in its socket,
//! `limits.close_timeout` at most each; then for the peer's FIN, two seconds at most. A peer that answers costs a round trip. The
//! last wait is not cut short for a shard's end: the sockets would be closed on peers that still send, and reset by what comes,
//! 1001 unread.
#![forbid(unsafe_code)]

use super::connections::Stage;
use super::{Accepting, Shard};
use crate::clock::Now;
use crate::io::{Io, OpKind, UserData};
use crate::proto::handshake::{Answer, Refusal};
use crate::session::{Notice, Service, Session};
use std::time::Duration;

impl<I: Io, S: Service> Shard<I, S> {
    pub(super) fn start_drain(&mut self, now: Now, window: Duration) {
        if self.draining {
            return;
        }
        self.draining = true;
        match self.accepting {
            Accepting::Armed => {
                self.accepting = Accepting::Stopping;
                self.io.cancel(UserData::lone(OpKind::Accept), UserData::lone(OpKind::Cancel));
            }
            Accepting::Paused(_) => {
                self.accepting = Accepting::Stopped;
                self.io.close_listener();
            }
            Accepting::Stopping | Accepting::Stopped => {}
        }
        let ids: Vec<_> = self.connections.ids().collect();
        let mut live = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(connection) = self.connections.get(id) else { continue };
            match &connection.stage {
                Stage::Head(_) => {
                    connection.answer(Answer::refused(Refusal::Draining, false));
                    self.service.handle_refusal(Refusal::Draining, &self.counters);
                }
                Stage::Open(open) if open.session.is_live() => live.push(id),
                // No call has begun: there is nothing to spread.
                Stage::Open(_) => {
                    self.with_session(id, |session, context| session.handle_notice(now, Notice::Draining, context))
                }
                Stage::Waiting(_) | Stage::Done => {}
            }
            self.settle(now, id);
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

    pub(super) fn is_finished(&self) -> bool {
        self.has_drained() && self.journal_is_finished
    }
}
