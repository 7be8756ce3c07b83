//! What other threads may see of a sink: how far it is, and what fails.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The same failure is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// How often the position is noted, to tell the lag in time.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Positions that are noted: an hour. A longer lag shows as an hour.
const NOTES_MAX: usize = 3_600;

/// See the module.
#[derive(Debug)]
pub struct SinkView {
    kind: &'static str,
    url: String,
    objects: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    resent: AtomicU64,
    lag_bytes: AtomicU64,
    lag_ms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What fails now, and since when.
    failure: Option<(String, Instant)>,
    logged_at: Option<Instant>,
    /// What its settings may lose, one sentence each.
    risks: Vec<String>,
    /// When a position was reached in the journal, oldest first. The first one is the last that
    /// the sink has.
    notes: VecDeque<(Instant, u64)>,
}

impl SinkView {
    /// A sink that has nothing yet.
    pub(crate) fn new(kind: &'static str, url: &str) -> SinkView {
        SinkView {
            kind,
            url: url.to_owned(),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// `archive` or `engine`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Objects that it has acknowledged since the start.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Bytes that it has acknowledged since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Requests that failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Messages that were sent again since the start.
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// What the settings of the sink may lose, one sentence each.
    pub fn risks(&self) -> Vec<String> {
        self.lock().risks.clone()
    }

    /// Bytes of the journal that were read and that the sink does not have.
    pub fn lag_bytes(&self) -> u64 {
        self.lag_bytes.load(Ordering::Relaxed)
    }

    /// How long the oldest of them has been in the journal, at least.
    pub fn lag(&self) -> Duration {
        Duration::from_millis(self.lag_ms.load(Ordering::Relaxed))
    }

    /// What fails now, and for how long.
    pub fn failure(&self) -> Option<(String, Duration)> {
        self.lock().failure.as_ref().map(|(told, since)| (told.clone(), since.elapsed()))
    }

    /// A sentence about what fails, if something does.
    pub fn notice(&self) -> Option<String> {
        let (told, time) = self.failure()?;
        let (kind, url, seconds) = (self.kind, &self.url, time.as_secs());
        let lag = self.lag_bytes();
        Some(format!(
            "the {kind} {url} has taken nothing for {seconds} s ({told}): {lag} bytes of the \
             journal that were read wait for it"
        ))
    }

    /// A request failed. The sentence says why.
    pub(crate) fn fail(&self, told: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let since = state.failure.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        state.failure = Some((told.to_owned(), since));
        if state.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            state.logged_at = Some(Instant::now());
            drop(state);
            tracing::warn!(sink = self.kind, "the {} does not take the journal: {told}", self.kind);
        }
    }

    /// So many more messages were sent again.
    pub(crate) fn add_resent(&self, count: u64) {
        self.resent.fetch_add(count, Ordering::Relaxed);
    }

    /// From now on its settings are known to risk this.
    pub(crate) fn set_risks(&self, risks: Vec<String>) {
        self.lock().risks = risks;
    }

    /// The sink has acknowledged an object.
    pub(crate) fn acknowledge(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.recover();
    }

    /// The sink answers again.
    pub(crate) fn recover(&self) {
        let mut state = self.lock();
        if let Some((_, since)) = state.failure.take() {
            state.logged_at = None;
            drop(state);
            let seconds = since.elapsed().as_secs();
            tracing::info!(sink = self.kind, seconds, "the {} takes the journal again", self.kind);
        }
    }

    /// The journal was read up to `read`, and the sink lacks the last `lag_bytes` of that. Both are
    /// sums over all shards.
    pub(crate) fn measure(&self, now: Instant, read: u64, lag_bytes: u64) {
        self.lag_bytes.store(lag_bytes, Ordering::Relaxed);
        let mut state = self.lock();
        let notes = &mut state.notes;
        let is_due = notes.back().is_none_or(|(at, position)| {
            now.duration_since(*at) >= NOTE_INTERVAL && *position < read
        });
        if is_due && notes.len() < NOTES_MAX {
            notes.push_back((now, read));
        }
        let has = read.saturating_sub(lag_bytes);
        // The first position that the sink lacks tells how old the oldest byte is.
        while notes.front().is_some_and(|(_, position)| *position <= has) {
            notes.pop_front();
        }
        let oldest = notes.front().map_or(now, |(at, _)| *at);
        let lag = if lag_bytes == 0 { Duration::ZERO } else { now.duration_since(oldest) };
        self.lag_ms.store(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A panic while it was held leaves whole values.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_age_of_the_oldest_byte_that_the_sink_lacks() {
        let (view, start) = (SinkView::new("archive", "file:///a"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        view.measure(at(0), 100, 100);
        assert_eq!((view.lag(), view.lag_bytes()), (Duration::ZERO, 100));
        view.measure(at(10), 200, 200);
        view.measure(at(20), 300, 300);
        assert_eq!(view.lag(), Duration::from_secs(20));
        view.measure(at(21), 300, 200);
        assert_eq!(view.lag(), Duration::from_secs(11));
        view.measure(at(22), 300, 150);
        assert_eq!(view.lag(), Duration::from_secs(12));
        view.measure(at(23), 300, 0);
        assert_eq!((view.lag(), view.lag_bytes()), (Duration::ZERO, 0));
    }

    #[test]
    fn a_failure_shows_until_the_sink_acknowledges() {
        let view = SinkView::new("archive", "file:///a");
        view.fail("HTTP 503");
        view.fail("HTTP 500");
        assert_eq!(view.failure().map(|(told, _)| told).as_deref(), Some("HTTP 500"));
        view.acknowledge(5);
        assert_eq!((view.failure(), view.failures(), view.bytes()), (None, 2, 5));
    }
}
