//! What other threads may see of a sink: how far it is, and what fails.

#![forbid(unsafe_code)]

use super::secrets;
use crate::archive::pins::Pins;
use std::collections::BTreeMap;
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
    /// What fails now, and since when, by the part of the sink that fails: the name of a stream,
    /// or nothing for the whole of it. A part that works must not hide one that fails.
    failures: BTreeMap<String, (String, Instant)>,
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

    /// What fails now, and for how long. Of several parts: what has failed for the longest time.
    pub fn failure(&self) -> Option<(String, Duration)> {
        let state = self.lock();
        let (told, since) = state.failures.values().min_by_key(|(_, since)| *since)?;
        Some((told.clone(), since.elapsed()))
    }

    /// The streams that fail while the rest may work, separated by commas.
    fn failing_streams(&self) -> String {
        let state = self.lock();
        let names: Vec<&str> = state.failures.keys().map(String::as_str).collect();
        names.join(", ").trim_start_matches(", ").to_owned()
    }

    /// A sentence about what fails, if something does.
    pub fn notice(&self) -> Option<String> {
        let (told, time) = self.failure()?;
        let (kind, url, seconds) = (self.kind, &self.url, time.as_secs());
        let lag = self.lag_bytes();
        Some(match self.failing_streams() {
            streams if streams.is_empty() => format!(
                "the {kind} {url} has taken nothing for {seconds} s ({told}): {lag} bytes of the \
                 journal are not there"
            ),
            streams => format!(
                "the {kind} {url} has taken nothing in {streams} for {seconds} s ({told}): {lag} \
                 bytes of the journal are not there"
            ),
        })
    }

    /// A request failed. The sentence says why.
    pub(crate) fn fail(&self, told: &str) {
        self.fail_in("", told);
    }

    /// A stream does not take a message. The sentence says why.
    pub(crate) fn fail_in(&self, stream: &str, told: &str) {
        let told = &secrets::hide(told);
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let is_new = !state.failures.contains_key(stream);
        let failure = state.failures.entry(stream.to_owned());
        failure.or_insert_with(|| (String::new(), Instant::now())).0 = told.to_owned();
        if is_new || state.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            state.logged_at = Some(Instant::now());
            drop(state);
            let kind = self.kind;
            match stream {
                "" => tracing::warn!(sink = kind, "the {kind} does not take the journal: {told}"),
                stream => tracing::warn!(
                    sink = kind,
                    stream,
                    "a stream of the {kind} does not take its messages: {told}"
                ),
            }
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
        self.acknowledge_in("", bytes);
    }

    /// A stream has acknowledged a message.
    pub(crate) fn acknowledge_in(&self, stream: &str, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.recover_in(stream);
    }

    /// The sink answers again.
    pub(crate) fn recover(&self) {
        self.recover_in("");
    }

    /// A stream works, and so does the way to it.
    fn recover_in(&self, stream: &str) {
        let mut state = self.lock();
        let failures = &mut state.failures;
        if failures.is_empty() {
            return;
        }
        let recovered = [failures.remove(""), failures.remove(stream)].into_iter().flatten();
        let Some(since) = recovered.map(|(_, since)| since).min() else { return };
        let is_whole = failures.is_empty();
        if is_whole {
            state.logged_at = None;
        }
        drop(state);
        let (kind, seconds) = (self.kind, since.elapsed().as_secs());
        match is_whole {
            true => tracing::info!(sink = kind, seconds, "the {kind} takes the journal again"),
            false => tracing::info!(
                sink = kind,
                stream,
                seconds,
                "a stream of the {kind} takes its messages again, and others do not yet"
            ),
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

    #[test]
    fn a_stream_that_works_does_not_hide_one_that_fails() {
        let view = SinkView::new("engine", "nats://a");
        view.fail_in("EXO_AUDIO_1", "timed out");
        view.acknowledge_in("EXO_AUDIO_0", 5);
        let notice = view.notice().unwrap();
        assert!(notice.contains("nothing in EXO_AUDIO_1 for 0 s (timed out)"), "{notice}");
        view.fail_in("EXO_EVENTS", "timed out");
        view.fail("no connection");
        let notice = view.notice().unwrap();
        assert!(notice.contains("nothing in EXO_AUDIO_1, EXO_EVENTS for"), "{notice}");
        view.acknowledge_in("EXO_AUDIO_1", 5);
        assert!(view.notice().unwrap().contains("nothing in EXO_EVENTS for"));
        view.acknowledge_in("EXO_EVENTS", 5);
        assert_eq!((view.notice(), view.failures()), (None, 3));
    }
}
