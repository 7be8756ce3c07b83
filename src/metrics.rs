//! Counters of a shard. Each has one writer, the shard's thread, and any number of readers; nothing here locks.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only its shard changes and anyone may read.
///
/// Adding is a plain load and store, not an atomic addition: with one writer nothing can be lost, and the bus stays unlocked.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Call it from the one thread that owns the counter.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets a gauge. Call it from the one thread that owns the counter.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value some moment ago.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while its shard lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things, named by the counter.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// 1 for yes, 0 for no.
    Flag,
}

/// A counter's place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its field's name.
    pub name: &'static str,
    /// A sentence or two.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
}

/// Declares [`Counters`] once: fields, docs, and the list that prints them cannot drift apart.
macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident: $kind:ident $unit:ident, )+) => {
        /// What one shard has counted since it started.
        #[derive(Debug, Default)]
        pub struct Counters {
            $( $(#[doc = $doc])+ pub $name: Counter, )+
        }

        impl Counters {
            /// Calls `visit(name, help, value)` for every counter, in order of declaration.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
                self.for_each_kind(|description, value| visit(description.name, description.help, value));
            }

            /// Calls `visit(description, value)` for every counter, in order of declaration.
            pub fn for_each_kind(&self, mut visit: impl FnMut(Description, u64)) {
                $(
                    let (name, help) = (stringify!($name), concat!($($doc),+).trim());
                    visit(Description { name, help, kind: Kind::$kind, unit: Unit::$unit }, self.$name.read());
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
    /// Accepts that failed for want of descriptors or memory.
    accept_failures: Counter Count,
    /// Connections turned away because the shard had no slot left for them.
    connections_shed: Counter Count,
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
    /// Records appended to the frame ring for audio; divided by frames, the pieces a frame came in.
    audio_records: Counter Count,
    /// Frames of odd length, whose last byte was dropped.
    frames_odd: Counter Count,
    /// Audio messages that came after `stop`, ignored.
    frames_after_stop: Counter Count,
    /// Texts with an `event` we do not know, ignored.
    events_unknown: Counter Count,
    /// ACK events queued to peers.
    acks: Counter Count,
    /// Pings we sent.
    pings_sent: Counter Count,
    /// Control frames received.
    controls_received: Counter Count,
    /// Protocol violations and refusals after the upgrade (closes with a code other than 1000 and 1001).
    sessions_refused: Counter Count,
    /// Calls closed because a later connection took them over.
    calls_superseded: Counter Count,
    /// Receive completions handled.
    receives: Counter Count,
    /// Times a socket's receive was armed: once for each connection, and after each end of a multishot receive.
    receives_armed: Counter Count,
    /// Times the kernel found no free receive buffer.
    receive_buffers_exhausted: Counter Count,
    /// Receive completions put off because the frame ring was full.
    receives_deferred: Counter Count,
    /// Sends submitted.
    sends: Counter Count,
    /// Sends the socket had no room for at once.
    sends_blocked: Counter Count,
    /// Turns of the shard's loop.
    turns: Counter Count,
    /// System calls the shard made (ring enters, and the few others).
    system_calls: Counter Count,
    /// Bytes of the frame ring in use.
    ring_used_bytes: Gauge Bytes,
    /// Size of the frame ring.
    ring_size_bytes: Gauge Bytes,
    /// Connections whose request head waits for its turn to be judged.
    heads_waiting: Gauge Count,
    /// Receive completions, early bytes and ends of connections that wait for room in the frame ring.
    deferred_waiting: Gauge Count,
    /// Connections that have something to send and wait for a send slot.
    unsent_waiting: Gauge Count,
    /// Promises asked for that do not hold yet. A call has at most one in each batch.
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
    /// Segments given up because a write or sync of them failed.
    journal_fences: Counter Count,
    /// Bytes in the frame ring that are not durable yet, the open batch included.
    journal_undurable_bytes: Gauge Bytes,
    /// Milliseconds for which the disk has made no progress although there is something to do.
    journal_stalled_ms: Gauge Milliseconds,
    /// Whether new calls are refused for want of disk.
    journal_refuses_calls: Gauge Flag,
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
        counters.for_each(|name, help, value| seen.push((name, help, value)));
        assert!(seen.contains(&("frames", "Audio frames complete in the frame ring.", 5)));
        assert!(seen.iter().all(|(_, help, _)| help.ends_with(['.', ')'])));
    }

    #[test]
    fn names_end_with_their_unit_and_kinds_are_told() {
        let mut kinds = std::collections::HashMap::new();
        Counters::default().for_each_kind(|Description { name, unit, kind, .. }, _| {
            assert_eq!(unit == Unit::Bytes, name.ends_with("_bytes"), "{name}");
            assert_eq!(unit == Unit::Milliseconds, name.ends_with("_ms"), "{name}");
            assert!(kinds.insert(name, kind).is_none(), "{name} is there twice");
        });
        for (name, kind) in [("frames", Kind::Counter), ("connections_open", Kind::Gauge), ("promises_waiting", Kind::Gauge)]
        {
            assert_eq!(kinds[name], kind, "{name}");
        }
        // Depths and levels go down again, whatever they are called.
        for (name, kind) in kinds {
            let is_level =
                ["_waiting", "_found", "_open", "_used_bytes", "_size_bytes"].iter().any(|end| name.ends_with(end));
            assert!(!is_level || kind == Kind::Gauge, "{name}");
        }
    }
}
