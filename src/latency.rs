//! How long things take: histograms that a shard records into, and the collector that brings those of all shards together.
//!
//! ```text
//!   collector ──(mailbox) an empty set──► shard: swaps it with its own
//!       ▲                                   │
//!       └──────────── the full one ─────────┘   merged, emptied, sent again at the next request
//! ```
//! A set belongs to one thread at a time, so nothing locks and nothing is atomic; a shard hands its set over by swapping two
//! pointers, and allocates nothing. What is not collected stays with the shard: nothing recorded is lost before its end.
//!
//! Values are microseconds, kept to two digits (1 %). A histogram then is 20 KB, of which a shard touches the few cache lines of
//! the values it meets; three digits would be 139 KB each, and the lines eight times as many. A set is 270 KB: a shard has one, its
//! exchange another, the collector two for all shards.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use hdrhistogram::Histogram;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Smallest value told apart from zero, microseconds.
pub const LATENCY_MIN_US: u64 = 1;

/// Largest value, microseconds: what took longer counts as this.
pub const LATENCY_MAX_US: u64 = 60_000_000;

/// Digits of a value that are kept.
const DIGITS: u8 = 2;

/// The histogram of one measured thing, in microseconds, rounded down.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Latency {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(LATENCY_MIN_US, LATENCY_MAX_US, DIGITS);
        Latency(histogram.expect("the bounds are ones that a histogram can have"))
    }

    /// Something took from `since` until `until`. Never allocates; what lies outside the bounds counts as the bound.
    #[inline]
    pub fn record(&mut self, since: Moment, until: Moment) {
        self.record_n(since, until, 1);
    }

    /// The same `count` times.
    #[inline]
    pub fn record_n(&mut self, since: Moment, until: Moment, count: u64) {
        let nanos = until.as_nanos().saturating_sub(since.as_nanos());
        self.0.saturating_record_n(nanos / 1_000, count);
    }

    /// What has been recorded.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    fn add(&mut self, other: &Latency) {
        // It fails on values that do not fit, and all histograms here have the same bounds.
        let added = self.0.add(&other.0);
        debug_assert!(added.is_ok());
    }

    fn reset(&mut self) {
        if !self.0.is_empty() {
            self.0.reset();
        }
    }
}

/// Declares [`Latencies`] once: fields, docs, tags, and the list that prints them cannot drift apart.
macro_rules! latencies {
    ($( $(#[doc = $doc:literal])+ $name:ident = $tag:literal, )+) => {
        /// A set of histograms, one for each thing that a shard measures.
        #[derive(Clone)]
        pub struct Latencies {
            $( $(#[doc = $doc])+ pub $name: Latency, )+
        }

        impl Latencies {
            /// A set with nothing in it.
            pub fn new() -> Self {
                Latencies { $( $name: Latency::new(), )+ }
            }

            /// Adds everything that `other` has.
            pub fn add(&mut self, other: &Latencies) {
                $( self.$name.add(&other.$name); )+
            }

            /// Forgets everything.
            pub fn reset(&mut self) {
                $( self.$name.reset(); )+
            }

            /// Calls `visit(tag, help, histogram)` for every histogram, in order of declaration.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, &'static str, &Histogram<u64>)) {
                $( visit($tag, concat!($($doc),+).trim(), &self.$name.0); )+
            }
        }
    };
}

latencies! {
    /// From accept to `started`, as the shard saw them.
    setup = "setup",
    /// From accept to the complete request head. The time a connection waited in the kernel to be accepted is not in it.
    setup_head = "setup.head",
    /// From the complete request head to the 101: its wait for its turn, and the verification of the token.
    setup_upgrade = "setup.upgrade",
    /// From the 101 to `started`: mostly the peer's time.
    setup_start = "setup.start",
    /// From the begin of the turn that reaped a frame's first byte of payload until its last was in the frame ring. A frame in
    /// pieces has the peer's time in it; the time in the kernel's socket buffer, and the gathering time after it, is not seen.
    frame_ring = "frame.ring",
    /// From a frame complete in the frame ring until it may be acked, on a node that acks what it has received.
    frame_received = "frame.received",
    /// From a frame complete in the frame ring until it may be acked, on a node that acks what is written.
    frame_written = "frame.written",
    /// From a frame complete in the frame ring until it may be acked, on a node that acks what is durable.
    frame_durable = "frame.durable",
    /// From the begin of the turn that completed the frame an ACK was due for until the ACK went to the kernel.
    ack = "ack",
    /// As ack, until the kernel had taken all of it into the socket's buffer.
    ack_sent = "ack.sent",
    /// A write to the journal, from the submit it went out with to the turn that reaped its completion.
    journal_write = "journal.write",
    /// A sync of the journal, likewise.
    journal_sync = "journal.sync",
    /// The work of a turn: from the return of one submit to the begin of the next.
    turn = "turn",
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new()
    }
}

impl fmt::Debug for Latencies {
    /// How often each thing was measured: the buckets would fill pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        self.for_each(|tag, _, histogram| {
            map.entry(&tag, &histogram.len());
        });
        map.finish()
    }
}

/// Asks a shard for its set: an empty one in exchange, and where to send the full one.
#[derive(Debug)]
pub struct LatencyRequest {
    shard: usize,
    empty: Box<Latencies>,
    answer: SyncSender<(usize, Box<Latencies>)>,
}

impl LatencyRequest {
    /// Swaps `own` with the empty set and sends it back, without waiting. Where that cannot be, `own` stays as it is.
    pub fn answer(self, own: &mut Box<Latencies>) {
        let LatencyRequest { shard, empty, answer } = self;
        let full = std::mem::replace(own, empty);
        if let Err(TrySendError::Full((_, full)) | TrySendError::Disconnected((_, full))) = answer.try_send((shard, full)) {
            *own = full;
        }
    }
}

/// Passes a request on to the shard with this number, or hands it back, without waiting.
type SendRequest = dyn FnMut(usize, LatencyRequest) -> Result<(), LatencyRequest> + Send;

/// Collects from all shards; owned by the control plane. A node has one: two would each see a part.
pub struct LatencyCollector {
    send: Box<SendRequest>,
    /// By shard: an empty set, unless it is out.
    empty: Vec<Option<Box<Latencies>>>,
    answer: SyncSender<(usize, Box<Latencies>)>,
    answers: Receiver<(usize, Box<Latencies>)>,
    totals: Latencies,
    interval: Latencies,
}

impl LatencyCollector {
    /// A collector of `shard_count` shards, which `send` passes requests on to (or hands them back, where a mailbox is full).
    pub fn new(
        shard_count: usize,
        send: impl FnMut(usize, LatencyRequest) -> Result<(), LatencyRequest> + Send + 'static,
    ) -> Self {
        // A shard has one set out at a time: an answer always finds room.
        let (answer, answers) = sync_channel(shard_count);
        LatencyCollector {
            send: Box::new(send),
            empty: (0..shard_count).map(|_| Some(Box::default())).collect(),
            answer,
            answers,
            totals: Latencies::new(),
            interval: Latencies::new(),
        }
    }

    /// Asks every shard for what it has recorded. Does not wait: passes over a shard that has not answered the last request yet,
    /// or whose mailbox is full; the next request gets what it has.
    pub fn request(&mut self) {
        for (shard, place) in self.empty.iter_mut().enumerate() {
            let Some(empty) = place.take() else { continue };
            let request = LatencyRequest { shard, empty, answer: self.answer.clone() };
            if let Err(request) = (self.send)(shard, request) {
                *place = Some(request.empty);
            }
        }
    }

    /// Takes in what has come back. Does not wait; returns whether every shard has answered. One that has ended never does.
    pub fn collect(&mut self) -> bool {
        while let Ok((shard, mut full)) = self.answers.try_recv() {
            self.totals.add(&full);
            self.interval.add(&full);
            full.reset();
            self.empty[shard] = Some(full);
        }
        self.empty.iter().all(Option::is_some)
    }

    /// Everything collected so far.
    pub fn totals(&self) -> &Latencies {
        &self.totals
    }

    /// What has been collected since the last time.
    pub fn take_interval(&mut self) -> Latencies {
        std::mem::take(&mut self.interval)
    }
}

#[cfg(test)]
mod tests;
