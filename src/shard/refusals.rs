//! What an operator sees of refusals: a line for each in the log, at a bounded rate.
//!
//! A line names the peer as far as it is known. What a refused token says is only a claim, because
//! such a token proves nothing. No line holds a token, a part of one, or more than a few words that
//! a peer wrote.
#![forbid(unsafe_code)]

use super::Shard;
use super::connections::{ConnectionId, Origin, Stage};
use super::ends::Ends;
use super::rates::Pace;
use crate::auth::ClientName;
use crate::call::{CallIdentity, Epoch};
use crate::clock::{Moment, Now};
use crate::io::Io;
use crate::proto::handshake::Refusal;
use crate::proto::proxy::Fault;
use crate::session::{Refused, Service, Summary, Suspect};

/// Lines a second of one shard over time, and lines at once. The next line counts the rest.
const LINES_RATE: usize = 10;
const LINES_BURST: u32 = 20;

/// Longest text of a peer in a line, bytes.
const TEXT_SIZE_MAX: usize = 64;

/// Decides which refusals make a line.
#[derive(Debug)]
pub(super) struct RefusalLog {
    pace: Pace,
    full_at: Moment,
    /// Refusals since the last line.
    suppressed: u64,
    /// All refusals that made no line.
    suppressed_count: u64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        RefusalLog {
            pace: Pace::new(LINES_RATE, LINES_BURST),
            full_at: Moment::ZERO,
            suppressed: 0,
            suppressed_count: 0,
        }
    }
}

impl RefusalLog {
    /// Whether this refusal makes a line. If so, returns how many made none since the last line.
    pub(super) fn admit(&mut self, now: Moment) -> Option<u64> {
        if self.pace.take(&mut self.full_at, now) {
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        self.suppressed_count += 1;
        None
    }

    /// Refusals that made no line.
    pub(super) fn suppressed_count(&self) -> u64 {
        self.suppressed_count
    }
}

impl<I: Io, S: Service> Shard<I, S> {
    /// Counts and logs a request that the shard has refused on its own.
    pub(super) fn note_refusal(&mut self, now: Now, id: ConnectionId, refusal: Refusal) {
        self.service.handle_refusal(refusal, &self.counters);
        let Some(connection) = self.connections.get(id) else { return };
        if let Some(suppressed) = self.refusal_log.admit(now.moment) {
            log_request(self.index, refusal, &connection.origin, &Suspect::default(), suppressed);
        }
    }

    /// Counts, logs and closes a connection that does not begin with the PROXY header it needs.
    pub(super) fn refuse_proxy(&mut self, now: Now, id: ConnectionId, fault: Fault) {
        self.counters.proxy_refused.add(1);
        self.counters.proxy_text_refused.add(u64::from(fault == Fault::Version1));
        let Some(connection) = self.connections.get(id) else { return };
        connection.ends = Ends::Broken;
        connection.stage = Stage::Done;
        if let Some(suppressed) = self.refusal_log.admit(now.moment) {
            let Origin { peer, .. } = connection.origin;
            tracing::info!(shard = self.index, reason = fault.label(), peer = %peer, suppressed, "connection refused");
        }
    }
}

/// Logs a refusal before the upgrade.
pub(super) fn log_request(
    shard: usize,
    refusal: Refusal,
    origin: &Origin,
    suspect: &Suspect,
    suppressed: u64,
) {
    tracing::info!(
        shard,
        status = refusal.status(),
        reason = refusal.label(),
        token = suspect.reason,
        peer = %origin.peer,
        kid = suspect.kid.as_deref().map(cut),
        claimed_tenant = suspect.tenant.as_deref().map(cut),
        traceparent = origin.trace.as_deref().map(tracing::field::display),
        suppressed,
        "request refused"
    );
}

/// Logs a refusal after the upgrade and before the call. A call has a line of its own.
pub(super) fn log_session(shard: usize, refused: &Refused<'_>, origin: &Origin, suppressed: u64) {
    tracing::info!(
        shard,
        close = refused.code,
        reason = refused.reason,
        peer = %origin.peer,
        tenant = &*refused.identity.tenant,
        interaction = &*refused.identity.interaction,
        traceparent = origin.trace.as_deref().map(tracing::field::display),
        suppressed,
        "session refused"
    );
}

/// Logs the start of a call, for a search for one call.
pub(super) fn log_start(shard: usize, identity: &CallIdentity, epoch: Epoch, origin: &Origin) {
    tracing::debug!(
        tenant = &*identity.tenant,
        interaction = &*identity.interaction,
        boot = epoch.boot,
        epoch = epoch.micros,
        shard,
        peer = %origin.peer,
        traceparent = origin.trace.as_deref().map(tracing::field::display),
        "call started"
    );
}

/// The one line of a call: formatted here, written by the log's own thread.
pub(super) fn log_end(
    shard: usize,
    summary: &Summary<'_>,
    origin: &Origin,
    client: Option<&ClientName>,
) {
    tracing::info!(
        tenant = &*summary.identity.tenant,
        interaction = &*summary.identity.interaction,
        boot = summary.epoch.boot,
        epoch = summary.epoch.micros,
        shard,
        peer = %origin.peer,
        frames = summary.frames,
        bytes = summary.bytes,
        seconds = summary.lasted.as_millis() as f64 / 1000.0,
        acked = summary.acked.0,
        durable = summary.durable.map(|seq| seq.0),
        ack_level = summary.level.name(),
        degraded_acks = (summary.degraded_acks > 0).then_some(summary.degraded_acks),
        ended = summary.ending,
        close = summary.close,
        reason = summary.reason,
        client = client.map(|client| &*client.subject),
        traceparent = origin.trace.as_deref().map(tracing::field::display),
        "call ended"
    );
}

/// As much of a peer's text as a line takes. The log escapes what could deceive in it.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_SIZE_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_makes_a_few_lines_and_the_next_one_says_how_many_made_none() {
        let mut log = RefusalLog::default();
        let start = Moment::from_nanos(1_000_000_000);
        let lines = (0..5000).filter_map(|_| log.admit(start)).collect::<Vec<_>>();
        assert_eq!(lines, [0; 20]);
        let next = start + Duration::from_millis(100);
        assert_eq!([log.admit(next), log.admit(next)], [Some(4980), None]);
        let later = start + Duration::from_secs(60);
        assert_eq!([log.admit(later), log.admit(later)], [Some(1), Some(0)]);
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(40)), "é".repeat(32));
        assert_eq!(cut(&format!("x{}", "é".repeat(40))), format!("x{}", "é".repeat(31)));
    }
}
