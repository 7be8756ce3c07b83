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

/// Declares [`Counters`] once: fields, docs, and the list that prints them cannot drift apart.
macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident, )+) => {
        /// What one shard has counted since it started.
        #[derive(Debug, Default)]
        pub struct Counters {
            $( $(#[doc = $doc])+ pub $name: Counter, )+
        }

        impl Counters {
            /// Calls `visit(name, help, value)` for every counter, in order of declaration.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, &'static str, u64)) {
                $( visit(stringify!($name), concat!($($doc),+).trim(), self.$name.read()); )+
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted,
    /// Connections open now (gauge).
    connections_open,
    /// Accepts that failed for want of descriptors or memory.
    accept_failures,
    /// Connections turned away because the shard had no slot left for them.
    connections_shed,
    /// Requests answered with an HTTP status other than 101.
    requests_refused,
    /// Upgrades answered with 101.
    upgrades,
    /// Calls that sent a valid `start`.
    calls_started,
    /// Calls that ended after a valid `start`.
    calls_ended,
    /// Audio frames complete in the frame ring.
    frames,
    /// Audio bytes in the frame ring.
    audio_bytes,
    /// Records appended to the frame ring for audio; divided by frames, the pieces a frame came in.
    audio_records,
    /// Frames of odd length, whose last byte was dropped.
    frames_odd,
    /// Audio messages that came after `stop`, ignored.
    frames_after_stop,
    /// Texts with an `event` we do not know, ignored.
    events_unknown,
    /// ACK events queued to peers.
    acks,
    /// Pings we sent.
    pings_sent,
    /// Control frames received.
    controls_received,
    /// Protocol violations and refusals after the upgrade (closes with a code other than 1000 and 1001).
    sessions_refused,
    /// Calls closed because a later connection took them over.
    calls_superseded,
    /// Receive completions handled.
    receives,
    /// Times a socket's receive was armed: once for each connection, and after each end of a multishot receive.
    receives_armed,
    /// Times the kernel found no free receive buffer.
    receive_buffers_exhausted,
    /// Receive completions put off because the frame ring was full.
    receives_deferred,
    /// Sends submitted.
    sends,
    /// Sends the socket had no room for at once.
    sends_blocked,
    /// Turns of the shard's loop.
    turns,
    /// System calls the shard made (ring enters, and the few others).
    system_calls,
    /// Bytes of the frame ring in use (gauge).
    ring_used_bytes,
    /// Batches sealed.
    batches_sealed,
    /// Bytes written to the journal, headers and padding included.
    journal_bytes,
    /// Writes to the journal.
    journal_writes,
    /// Syncs of the journal that succeeded.
    journal_syncs,
    /// Segments begun.
    journal_segments,
    /// Segments given up because a write or sync of them failed.
    journal_fences,
    /// Milliseconds for which the disk has made no progress although there is something to do (gauge).
    journal_stalled_ms,
    /// Whether new calls are refused for want of disk (gauge).
    journal_refuses_calls,
    /// Mailbox messages handled.
    mailbox_messages,
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
}
