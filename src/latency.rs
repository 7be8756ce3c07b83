//! How long things take. Each shard records into histograms; the collector merges those of all
//! shards.
//!
//! ```text
//!   collector ──(mailbox) an empty set──► shard: swaps it with its own
//!       ▲                                   │
//!       └──────────── the full one ─────────┘   merged, emptied, sent with the next request
//! ```
//! A set belongs to one thread at a time, so it needs no locks and no atomics. A shard hands its
//! set over by swapping two pointers, and allocates nothing. Values that are not collected stay
//! with the shard: nothing is lost before the shard ends.
//!
//! Values are microseconds, kept to two digits (1 %). So a histogram is 20 KB, and a shard touches
//! only the few cache lines of the values it meets. Three digits would take 139 KB each, and eight
//! times as many cache lines. A set is 270 KB. Each shard has two sets, one of them for the
//! exchange. The collector has two for all shards.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use hdrhistogram::Histogram;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Smallest value that differs from zero, microseconds.
pub(crate) const LATENCY_MIN_US: u64 = 1;

/// Largest value, microseconds. Anything that takes longer counts as this.
pub(crate) const LATENCY_MAX_US: u64 = 60_000_000;

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

    /// Records one thing that took from `since` until `until`. Never allocates. A value outside the
    /// bounds counts as the bound.
    #[inline]
    pub fn record(&mut self, since: Moment, until: Moment) {
        self.record_n(since, until, 1);
    }

    /// Records `count` things with the same times.
    #[inline]
    pub fn record_n(&mut self, since: Moment, until: Moment, count: u64) {
        let nanos = until.as_nanos().saturating_sub(since.as_nanos());
        self.0.saturating_record_n(nanos / 1_000, count);
    }

    /// The histogram of everything recorded.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    fn add(&mut self, other: &Latency) {
        // `add` fails on values out of bounds, but all histograms here have the same bounds.
        let added = self.0.add(&other.0);
        debug_assert!(added.is_ok());
    }

    fn reset(&mut self) {
        if !self.0.is_empty() {
            self.0.reset();
        }
    }
}

/// Declares [`Latencies`] once, so that its fields, their help, their tags and the list always
/// agree.
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
            pub(crate) fn add(&mut self, other: &Latencies) {
                $( self.$name.add(&other.$name); )+
            }

            /// Forgets everything.
            pub(crate) fn reset(&mut self) {
                $( self.$name.reset(); )+
            }

            /// Calls `visit(tag, help, histogram)` for every histogram, in order of declaration.
            pub fn for_each(
                &self,
                mut visit: impl FnMut(&'static str, &'static str, &Histogram<u64>),
            ) {
                $( visit($tag, concat!($($doc),+).trim(), &self.$name.0); )+
            }
        }
    };
}

latencies! {
    /// From accept to `started`, as the shard sees them.
    setup = "setup",
    /// From accept to the complete request head, without the time that a connection waits in the
    /// kernel to be accepted.
    setup_head = "setup.head",
    /// From the complete request head to the 101: the wait in the queue, and the verification of
    /// the token.
    setup_upgrade = "setup.upgrade",
    /// From the 101 to `started`: mostly the peer's time.
    setup_start = "setup.start",
    /// From the start of the loop turn that received a frame's first payload byte until its last
    /// byte is in the frame ring. A frame in pieces includes the peer's time. Time in the kernel's
    /// socket buffer and gathering time are not included.
    frame_ring = "frame.ring",
    /// From a frame complete in the frame ring until it may be acked, on a node that acks received
    /// frames.
    frame_received = "frame.received",
    /// From a frame complete in the frame ring until it may be acked, on a node that acks written
    /// frames.
    frame_written = "frame.written",
    /// From a frame complete in the frame ring until it may be acked, on a node that acks durable
    /// frames.
    frame_durable = "frame.durable",
    /// From the start of the loop turn that completes a frame for which an ACK is due until the ACK
    /// goes to the kernel.
    ack = "ack",
    /// As `ack`, until the kernel has taken the whole ACK into the socket's buffer.
    ack_sent = "ack.sent",
    /// A write to the journal, from its submit to the loop turn that receives its completion.
    journal_write = "journal.write",
    /// A sync of the journal, from its submit to the loop turn that receives its completion.
    journal_sync = "journal.sync",
    /// The work of one loop turn: from the return of one submit to the start of the next.
    turn = "turn",
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new()
    }
}

impl fmt::Debug for Latencies {
    /// Shows how often each thing was measured, because the buckets would fill pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        self.for_each(|tag, _, histogram| {
            map.entry(&tag, &histogram.len());
        });
        map.finish()
    }
}

/// Asks a shard for its set. Holds an empty set in exchange, and the channel for the full one.
#[derive(Debug)]
pub struct LatencyRequest {
    shard: usize,
    empty: Box<Latencies>,
    answer: SyncSender<(usize, Box<Latencies>)>,
}

impl LatencyRequest {
    /// Swaps `own` with the empty set and sends the full one back, without waiting. If it cannot be
    /// sent, `own` stays as it is.
    pub fn answer(self, own: &mut Box<Latencies>) {
        let LatencyRequest { shard, empty, answer } = self;
        let full = std::mem::replace(own, empty);
        if let Err(TrySendError::Full((_, full)) | TrySendError::Disconnected((_, full))) =
            answer.try_send((shard, full))
        {
            *own = full;
        }
    }
}

/// Passes a request on to the shard with this number, or returns it, without waiting.
type SendRequest = dyn FnMut(usize, LatencyRequest) -> Result<(), LatencyRequest> + Send;

/// Collects from all shards. Only the control plane has one: two would each see a part.
pub struct LatencyCollector {
    send: Box<SendRequest>,
    /// By shard: its empty set, or `None` while the shard has it.
    empty: Vec<Option<Box<Latencies>>>,
    answer: SyncSender<(usize, Box<Latencies>)>,
    answers: Receiver<(usize, Box<Latencies>)>,
    totals: Latencies,
}

impl LatencyCollector {
    /// A collector of `shard_count` shards. `send` passes a request on to a shard, or returns it if
    /// the mailbox is full.
    pub fn new(
        shard_count: usize,
        send: impl FnMut(usize, LatencyRequest) -> Result<(), LatencyRequest> + Send + 'static,
    ) -> Self {
        // Each shard has at most one set out, so an answer always finds room.
        let (answer, answers) = sync_channel(shard_count);
        LatencyCollector {
            send: Box::new(send),
            empty: (0..shard_count).map(|_| Some(Box::default())).collect(),
            answer,
            answers,
            totals: Latencies::new(),
        }
    }

    /// Asks every shard for what it has recorded. Does not wait. Skips a shard with a full mailbox
    /// or with an unanswered request; the next request gets what that shard has recorded.
    pub fn request(&mut self) {
        for (shard, place) in self.empty.iter_mut().enumerate() {
            let Some(empty) = place.take() else { continue };
            let request = LatencyRequest { shard, empty, answer: self.answer.clone() };
            if let Err(request) = (self.send)(shard, request) {
                *place = Some(request.empty);
            }
        }
    }

    /// Takes in the answers, without waiting. Returns whether every shard has answered. A shard
    /// that has ended never does.
    pub fn collect(&mut self) -> bool {
        self.collect_each(|_, _| {})
    }

    /// As [`LatencyCollector::collect`]. Calls `visit(shard, latencies)` with what each shard has
    /// recorded since its last answer.
    pub(crate) fn collect_each(&mut self, mut visit: impl FnMut(usize, &Latencies)) -> bool {
        while let Ok((shard, mut full)) = self.answers.try_recv() {
            visit(shard, &full);
            self.totals.add(&full);
            full.reset();
            self.empty[shard] = Some(full);
        }
        self.empty.iter().all(Option::is_some)
    }

    /// Everything collected so far.
    pub fn totals(&self) -> &Latencies {
        &self.totals
    }
}

#[cfg(test)]
mod tests;
