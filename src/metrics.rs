//! Counters of a shard. The shard's thread alone writes them; any thread may read them. No locks.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

mod tls_failure;

pub use tls_failure::TlsFailure;

/// A number that only its shard changes and any thread may read.
///
/// Adding is a plain load and store, not an atomic addition: one writer cannot lose an update, and
/// a locked instruction costs more.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Call it from the one thread that owns the counter.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets a gauge. Call it from the one thread that owns the counter.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The latest value, or one from a moment ago.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows while its shard lives.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts values by their size. No [`Counter`] does.
    Histogram,
    /// It never changes, and its labels tell something. No [`Counter`] does.
    Info,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things, named by the counter.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// 1 for yes, 0 for no.
    Flag,
}

/// A counter as readers see it: name, help, kind and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Its field's name.
    pub(crate) name: &'static str,
    /// Help text: a sentence or two.
    pub(crate) help: &'static str,
    /// Whether it only grows.
    pub(crate) kind: Kind,
    /// What it counts.
    pub(crate) unit: Unit,
}

/// Resident memory of a shard by its owner, bytes. Gauges.
#[derive(Debug, Default)]
pub struct MemorySizes {
    /// Receive buffers, send slots and their rings.
    pub io_buffers: Counter,
    /// The part of the table of connections that was ever used.
    pub connections: Counter,
    /// Spill buffers that were ever used.
    pub spill_buffers: Counter,
}

/// Declares [`Counters`] once, so that its fields, their help and the list of them always agree.
macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident: $kind:ident $unit:ident, )+) => {
        /// What one shard has counted since it started.
        #[derive(Debug, Default)]
        pub struct Counters {
            $( $(#[doc = $doc])+ pub $name: Counter, )+
            /// Failed TLS connections, by [`TlsFailure::index`].
            pub tls_failures: [Counter; TlsFailure::COUNT],
            /// Its memory, beside the frame ring.
            pub memory: MemorySizes,
        }

        impl Counters {
            /// Calls `visit(description, value)` for every counter, in order of declaration.
            pub(crate) fn for_each(&self, mut visit: impl FnMut(Description, u64)) {
                $(
                    let (name, help) = (stringify!($name), concat!($($doc),+).trim());
                    let (kind, unit) = (Kind::$kind, Unit::$unit);
                    visit(Description { name, help, kind, unit }, self.$name.read());
                )+
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted: Counter Count,
    /// Connections open now.
    connections_open: Gauge Count,
    /// Accepts that failed because descriptors or memory ran out.
    accept_failures: Counter Count,
    /// Connections closed before their request was complete, to make room for newer ones.
    connections_shed: Counter Count,
    /// TLS handshakes completed in full: with a new signature, not from an earlier session.
    tls_handshakes_full: Counter Count,
    /// TLS handshakes completed that resumed an earlier session.
    tls_handshakes_resumed: Counter Count,
    /// TLS handshakes that wait to be computed.
    tls_handshakes_waiting: Gauge Count,
    /// TLS records that came in pieces and were joined in a spill buffer.
    tls_spills: Counter Count,
    /// Spill buffers in use.
    tls_spill_buffers_used: Gauge Count,
    /// TLS keys replaced by a KeyUpdate, sent or received.
    tls_key_updates: Counter Count,
    /// Connections refused because their address opened more than it may.
    connections_over_rate: Counter Count,
    /// Connections closed because they did not begin with the required PROXY header.
    proxy_refused: Counter Count,
    /// Connections closed because their PROXY header has version 1, which is text. Also counted in
    /// proxy_refused.
    proxy_text_refused: Counter Count,
    /// Requests answered with an HTTP status other than 101.
    requests_refused: Counter Count,
    /// Upgrades answered with 101.
    upgrades: Counter Count,
    /// Calls that sent a valid `start`.
    calls_started: Counter Count,
    /// Calls that ended after a valid `start`.
    calls_ended: Counter Count,
    /// Audio frames complete in the frame ring.
    frames: Counter Count,
    /// Audio bytes in the frame ring.
    audio_bytes: Counter Bytes,
    /// Audio records appended to the frame ring. Divide by frames to learn in how many pieces a
    /// frame comes.
    audio_records: Counter Count,
    /// Frames of odd length, whose last byte was dropped.
    frames_odd: Counter Count,
    /// Audio messages ignored because they came after `stop`.
    frames_after_stop: Counter Count,
    /// Text messages ignored because their `event` is unknown.
    events_unknown: Counter Count,
    /// ACK events queued to peers.
    acks: Counter Count,
    /// ACK events queued at the level `durable` although the level is `replicated`: the message
    /// engine did not answer in time, or can never have all frames of the call.
    acks_degraded: Counter Count,
    /// Calls with frames that the message engine can never have, because the journal lost them
    /// before they were handed over.
    calls_engine_lacks: Counter Count,
    /// Calls with durable frames that the message engine has not acknowledged.
    engine_calls_waiting: Gauge Count,
    /// Whether it has not acknowledged a call's frames for longer than forward.replicated_timeout.
    engine_late: Gauge Flag,
    /// Whether ACKs go out at the level `durable` because of that.
    engine_degrades: Gauge Flag,
    /// Pings sent to peers.
    pings_sent: Counter Count,
    /// WebSocket control frames received.
    controls_received: Counter Count,
    /// Sessions closed after the upgrade with a code other than 1000 and 1001: protocol violations
    /// and refusals.
    sessions_refused: Counter Count,
    /// Calls closed because a later connection took them over.
    calls_superseded: Counter Count,
    /// Receive completions handled.
    receives: Counter Count,
    /// Receives armed: one for each connection, and one each time a multishot receive ends.
    receives_armed: Counter Count,
    /// Socket reads that waited because receive buffers were short or the frame ring was full.
    reads: Counter Count,
    /// Receives that found no free receive buffer.
    receive_buffers_exhausted: Counter Count,
    /// Receive completions deferred because the frame ring was full.
    receives_deferred: Counter Count,
    /// Sends submitted.
    sends: Counter Count,
    /// Sends that had to wait for room in the socket.
    sends_blocked: Counter Count,
    /// Turns of the shard's loop.
    turns: Counter Count,
    /// Times the shard stood still: its process was stopped, or its CPU was taken away.
    standstills: Counter Count,
    /// System calls of the shard: io_uring enters and a few others.
    system_calls: Counter Count,
    /// Bytes of the frame ring in use.
    ring_used_bytes: Gauge Bytes,
    /// Size of the frame ring.
    ring_size_bytes: Gauge Bytes,
    /// Whether new calls are refused because the frame ring is nearly full: the disk is too slow.
    ring_refuses_calls: Gauge Flag,
    /// Connections whose request is not complete.
    heads_incomplete: Gauge Count,
    /// Refusals left out of the log because there were too many.
    refusals_unlogged: Counter Count,
    /// Connections whose complete request waits to be checked.
    heads_waiting: Gauge Count,
    /// Receive completions, early bytes and ends of connections that wait for room in the frame
    /// ring.
    deferred_waiting: Gauge Count,
    /// Connections that wait to be read.
    reads_waiting: Gauge Count,
    /// Time that the next connection to be read has waited.
    reads_longest_wait_ms: Gauge Milliseconds,
    /// Longest time that a connection has waited to be read.
    reads_waited_max_ms: Gauge Milliseconds,
    /// Connections that have something to send and wait for a send slot.
    unsent_waiting: Gauge Count,
    /// ACKs that wait for their audio to be written or durable. A call has at most one in each
    /// batch.
    promises_waiting: Gauge Count,
    /// Messages that the last turn found in the mailbox.
    mailbox_found: Gauge Count,
    /// Messages to other shards whose mailboxes were full.
    outbox_waiting: Gauge Count,
    /// Batches sealed.
    batches_sealed: Counter Count,
    /// Bytes written to the journal, headers and padding included.
    journal_bytes: Counter Bytes,
    /// Writes to the journal.
    journal_writes: Counter Count,
    /// Syncs of the journal that succeeded.
    journal_syncs: Counter Count,
    /// Segments begun.
    journal_segments: Counter Count,
    /// Segments abandoned because a write or sync failed.
    journal_fences: Counter Count,
    /// Bytes in the frame ring that are not durable yet, the open batch included.
    journal_undurable_bytes: Gauge Bytes,
    /// Position in the shard's journal up to which everything is durable; 0 if nothing is.
    journal_position_bytes: Gauge Bytes,
    /// Milliseconds for which the disk has made no progress although it has work to do.
    journal_stalled_ms: Gauge Milliseconds,
    /// Whether new calls are refused because the disk is full or fails.
    journal_refuses_calls: Gauge Flag,
    /// Whether new calls are refused because `forward.budget` is used up.
    budget_refuses_calls: Gauge Flag,
    /// Requests refused while `forward.budget` was used up. Also counted in refusals, as capacity.
    requests_over_budget: Counter Count,
    /// Mailbox messages handled.
    mailbox_messages: Counter Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_list_themselves_with_their_help() {
        let counters = Counters::default();
        counters.frames.add(2);
        counters.frames.add(3);
        let mut seen = Vec::new();
        counters.for_each(|Description { name, help, .. }, value| seen.push((name, help, value)));
        assert!(seen.contains(&("frames", "Audio frames complete in the frame ring.", 5)));
        assert!(seen.iter().all(|(_, help, _)| help.ends_with(['.', ')'])));
    }

    #[test]
    fn names_end_with_their_unit_and_kinds_are_told() {
        let mut kinds = std::collections::HashMap::new();
        Counters::default().for_each(|Description { name, unit, kind, .. }, _| {
            assert_eq!(unit == Unit::Bytes, name.ends_with("_bytes"), "{name}");
            assert_eq!(unit == Unit::Milliseconds, name.ends_with("_ms"), "{name}");
            assert!(kinds.insert(name, kind).is_none(), "{name} is there twice");
        });
        for (name, kind) in [
            ("frames", Kind::Counter),
            ("connections_open", Kind::Gauge),
            ("promises_waiting", Kind::Gauge),
        ] {
            assert_eq!(kinds[name], kind, "{name}");
        }
        // Depths and levels go down again.
        for (name, kind) in kinds {
            let is_level = ["_waiting", "_found", "_open", "_used_bytes", "_size_bytes"]
                .iter()
                .any(|end| name.ends_with(end));
            assert!(!is_level || kind == Kind::Gauge, "{name}");
        }
    }
}
