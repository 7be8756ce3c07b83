//! The live calls that wait the longest: for their peer's bytes, or for an ACK. Shards find them
//! on request; the collector keeps those of each shard.
//!
//! ```text
//!   collector ──(mailbox) a page and its list──► shard: looks at the page's connections,
//!       ▲                                          │    keeps the worst in the list
//!       └──────────── the list, the next page ─────┘
//! ```
//! A shard looks at [`PAGE_SIZE`] connections for each request, and once through the promises that
//! wait. So the work in a turn is bounded, however many calls there are. Frames cost nothing more:
//! nothing is kept between requests. The lists belong to the collector, so a shard allocates only
//! for the ids of the calls that it names.
#![forbid(unsafe_code)]

use crate::clock::Moment;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Most calls that a shard names.
pub(crate) const NAMED_MAX: usize = 20;

/// Connections that a shard looks at for one request. A full shard of 8,000 calls has 32 pages, and
/// answers one in each turn.
pub(crate) const PAGE_SIZE: usize = 256;

/// A live call at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveCall {
    /// The call's tenant.
    pub tenant: String,
    /// The call's id.
    pub interaction: String,
    /// The shard of its connection.
    pub shard: usize,
    /// Its epoch, as the log names it: boot and microseconds.
    pub epoch: (u32, u64),
    /// Time since its start.
    pub lasted: Duration,
    /// Length of its audio.
    pub audio: Duration,
    /// Complete frames.
    pub frames: u64,
    /// The last frame whose ACK was written.
    pub acked: u64,
    /// Since when the oldest ACK is due that has not left.
    pub ack_wait: Duration,
    /// Since when nothing has come. Time in which the shard did not read does not count.
    pub silent: Duration,
}

impl LiveCall {
    /// The longer of the two waits: the worst calls are those with the longest.
    pub fn wait(&self) -> Duration {
        self.ack_wait.max(self.silent)
    }
}

/// The list of a shard's worst calls, in no order, with what a shard needs to fill it.
#[derive(Debug)]
pub struct WorstCalls {
    calls: Vec<LiveCall>,
    /// By place in the page: the generation of a connection, and since when its oldest promise
    /// waits.
    promises: Vec<Option<(u32, Moment)>>,
}

impl WorstCalls {
    pub(crate) fn new() -> Self {
        WorstCalls { calls: Vec::with_capacity(NAMED_MAX), promises: vec![None; PAGE_SIZE] }
    }

    /// Begins a page: forgets the promises of the one before.
    pub(crate) fn begin_page(&mut self) {
        self.promises.fill(None);
    }

    /// A promise waits since `since` for the connection at `place` of the page. The first one of a
    /// connection counts.
    pub(crate) fn note_promise(&mut self, place: usize, generation: u32, since: Moment) {
        self.promises[place].get_or_insert((generation, since));
    }

    /// Since when the oldest promise of the connection waits.
    pub(crate) fn promise(&self, place: usize, generation: u32) -> Option<Moment> {
        self.promises[place].filter(|(owner, _)| *owner == generation).map(|(_, since)| since)
    }

    /// Calls `fill` with the entry of a call that waits for `wait`, unless the list is full of
    /// calls that wait longer.
    pub(crate) fn offer(&mut self, wait: Duration, fill: impl FnOnce(&mut LiveCall)) {
        if self.calls.len() < NAMED_MAX {
            let mut call = LiveCall::default();
            fill(&mut call);
            return self.calls.push(call);
        }
        let least = self.calls.iter_mut().min_by_key(|call| call.wait());
        if let Some(least) = least.filter(|least| least.wait() < wait) {
            fill(least);
        }
    }
}

/// Asks a shard to look at one page of its connections.
#[derive(Debug)]
pub struct CallsRequest {
    shard: usize,
    /// The page, from 0.
    page: usize,
    worst: Box<WorstCalls>,
    answer: SyncSender<Answer>,
}

#[derive(Debug)]
struct Answer {
    shard: usize,
    /// The next page; `None` after the last one.
    next: Option<usize>,
    worst: Box<WorstCalls>,
}

impl CallsRequest {
    /// The page to look at, and the list to fill.
    pub(crate) fn parts(&mut self) -> (usize, &mut WorstCalls) {
        (self.page, &mut self.worst)
    }

    /// Sends the list back, without waiting. `has_more`: there is another page.
    pub(crate) fn answer(self, has_more: bool) {
        let CallsRequest { shard, page, worst, answer } = self;
        let next = has_more.then_some(page + 1);
        match answer.try_send(Answer { shard, next, worst }) {
            // There is room for an answer of each shard. A collector that has gone needs none.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// Passes a request on to the shard with this number, or returns it, without waiting.
type SendRequest = dyn FnMut(usize, CallsRequest) -> Result<(), CallsRequest> + Send;

/// Collects the worst calls of all shards.
pub struct CallsCollector {
    send: Box<SendRequest>,
    /// By shard: the list to fill, and the page to ask for; `None` while the shard has it.
    lists: Vec<Option<(usize, Box<WorstCalls>)>>,
    /// By shard: what the last complete round found.
    found: Vec<Vec<LiveCall>>,
    /// By shard: the round is not complete.
    under_way: Vec<bool>,
    answer: SyncSender<Answer>,
    answers: Receiver<Answer>,
}

impl CallsCollector {
    /// A collector of `shard_count` shards. `send` passes a request on to a shard, or returns it if
    /// the mailbox is full.
    pub fn new(
        shard_count: usize,
        send: impl FnMut(usize, CallsRequest) -> Result<(), CallsRequest> + Send + 'static,
    ) -> Self {
        let (answer, answers) = sync_channel(shard_count);
        CallsCollector {
            send: Box::new(send),
            lists: (0..shard_count).map(|_| Some((0, Box::new(WorstCalls::new())))).collect(),
            found: vec![Vec::new(); shard_count],
            under_way: vec![false; shard_count],
            answer,
            answers,
        }
    }

    /// Begins a round, on each shard whose last one is complete. Does not wait.
    pub fn request(&mut self) {
        self.under_way.fill(true);
        (0..self.lists.len()).for_each(|shard| self.ask(shard));
    }

    fn ask(&mut self, shard: usize) {
        if let Some((page, worst)) = self.lists[shard].take() {
            let request = CallsRequest { shard, page, worst, answer: self.answer.clone() };
            if let Err(request) = (self.send)(shard, request) {
                self.lists[shard] = Some((request.page, request.worst));
            }
        }
    }

    /// Takes in the answers and asks for the next pages, without waiting. Returns whether the round
    /// is complete on every shard.
    pub fn collect(&mut self) -> bool {
        while let Ok(Answer { shard, next, mut worst }) = self.answers.try_recv() {
            if next.is_none() {
                self.found[shard].clone_from(&worst.calls);
                worst.calls.clear();
                self.under_way[shard] = false;
            }
            self.lists[shard] = Some((next.unwrap_or(0), worst));
        }
        for shard in 0..self.lists.len() {
            if self.under_way[shard] {
                self.ask(shard);
            }
        }
        self.under_way.iter().all(|is_under_way| !is_under_way)
    }

    /// The worst calls of each shard, in no order.
    pub fn found(&self) -> impl Iterator<Item = &LiveCall> {
        self.found.iter().flatten()
    }
}

#[cfg(test)]
mod tests;
