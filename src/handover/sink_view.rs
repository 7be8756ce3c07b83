//! What other threads may see of a sink: how far it is, and what fails.

#![forbid(unsafe_code)]

use super::secrets;
use crate::archive::pins::Pins;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The same failure is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct SinkView {
    kind: &'static str,
    url: String,
    objects: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    lag_bytes: AtomicU64,
    lag_ms: AtomicU64,
    in_flight_objects: AtomicU64,
    in_flight_bytes: AtomicU64,
    resent: AtomicU64,
    pins: OnceLock<Arc<Pins>>,
    erasures: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What fails now, and since when.
    failure: Option<(String, Instant)>,
    logged_at: Option<Instant>,
    /// What its settings may lose, one sentence each.
    risks: Vec<String>,
}

impl SinkView {
    /// A sink that has nothing yet.
    pub(crate) fn new(kind: &'static str, url: &str) -> SinkView {
        SinkView {
            kind,
            url: secrets::hide_in_url(url),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            in_flight_objects: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            pins: OnceLock::new(),
            erasures: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// `archive`, `archive2` or `engine`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Its URL, without a password.
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

    /// What the settings of the sink may lose, one sentence each.
    pub fn risks(&self) -> Vec<String> {
        self.lock().risks.clone()
    }

    /// Bytes of the journal that the sink does not have.
    pub fn lag_bytes(&self) -> u64 {
        self.lag_bytes.load(Ordering::Relaxed)
    }

    /// How long the oldest of them has been in the journal.
    pub fn lag(&self) -> Duration {
        Duration::from_millis(self.lag_ms.load(Ordering::Relaxed))
    }

    /// Objects that are sent and not acknowledged.
    pub fn in_flight_objects(&self) -> u64 {
        self.in_flight_objects.load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes.load(Ordering::Relaxed)
    }

    /// Messages that were sent again, and objects that it had already when they were sent again.
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// Whether retention waits for it.
    pub fn is_required(&self) -> bool {
        self.pins.get().is_some()
    }

    /// Bytes of segments that were removed although it had not taken them.
    pub fn dropped_bytes(&self) -> u64 {
        self.pins.get().map_or(0, |pins| pins.dropped_bytes())
    }

    /// Calls that were deleted from the journal and that the sink has not erased yet.
    pub fn erasures(&self) -> u64 {
        self.erasures.load(Ordering::Relaxed)
    }

    /// This many calls wait to be erased.
    pub(crate) fn wait_for_erasures(&self, count: u64) {
        self.erasures.store(count, Ordering::Relaxed);
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
             journal are not there"
        ))
    }

    /// A request failed. The sentence says why.
    pub(crate) fn fail(&self, told: &str) {
        let told = &secrets::hide(told);
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

    /// The sink lacks so much of the journal; `age` is that of the oldest byte.
    pub(crate) fn set_lag(&self, bytes: u64, age: Duration) {
        self.lag_bytes.store(bytes, Ordering::Relaxed);
        self.lag_ms.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// So much is sent and not acknowledged.
    pub(crate) fn set_in_flight(&self, objects: usize, bytes: usize) {
        self.in_flight_objects.store(objects as u64, Ordering::Relaxed);
        self.in_flight_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Retention waits for the sink, by these pins.
    pub(crate) fn set_pins(&self, pins: Arc<Pins>) {
        // Once, at the start.
        let _ = self.pins.set(pins);
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
    fn a_failure_shows_until_the_sink_acknowledges() {
        let view = SinkView::new("archive", "file:///a");
        view.fail("HTTP 503");
        view.fail("HTTP 500");
        assert_eq!(view.failure().map(|(told, _)| told).as_deref(), Some("HTTP 500"));
        view.acknowledge(5);
        assert_eq!((view.failure(), view.failures(), view.bytes()), (None, 2, 5));
    }
}
