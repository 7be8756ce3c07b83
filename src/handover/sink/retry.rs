//! Requests again after failures that pass.

#![forbid(unsafe_code)]

use crate::handover::ca;
use crate::handover::secrets::hide;
use object_store::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The first pause. Each one after it is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What is told of each retry: a sentence.
pub type OnRetry = Box<dyn Fn(&str) + Send + Sync>;

/// How long and how loudly requests are made again.
pub(super) struct Retry {
    /// Pauses of one request add up to this at most.
    give_up: Duration,
    on_retry: OnRetry,
    count: AtomicU64,
    /// The reason and the pause that were told last. Requests under way fail together, and one line
    /// is enough for all of them.
    told: Mutex<Option<(String, Duration)>>,
}

impl fmt::Debug for Retry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Retry").field("give_up", &self.give_up).finish_non_exhaustive()
    }
}

impl Retry {
    pub(super) fn new(give_up: Duration, on_retry: OnRetry) -> Retry {
        Retry { give_up, on_retry, count: AtomicU64::new(0), told: Mutex::new(None) }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Makes a request until it succeeds, fails for good, or has failed for too long.
    pub(super) async fn run<T>(
        &self,
        what: &str,
        operation: impl AsyncFn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (mut pause, mut waited) = (PAUSE_MIN, Duration::ZERO);
        loop {
            let error = match operation().await {
                Err(error) if passes(&error) && waited < self.give_up => error,
                done => {
                    if waited > Duration::ZERO && done.is_ok() {
                        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    }
                    return done;
                }
            };
            self.count.fetch_add(1, Ordering::Relaxed);
            self.tell(what, reason(&error), pause);
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn tell(&self, what: &str, reason: String, pause: Duration) {
        let line = format!("cannot {what}: {reason}; trying again in {:.1} s", pause.as_secs_f64());
        let now = Some((reason, pause));
        let before = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *told, now.clone())
        };
        if before != now {
            (self.on_retry)(&line);
        }
    }

    /// A sentence about an error that ended the work.
    pub(super) fn sentence(&self, url: &str, what: &str, error: &Error) -> String {
        let reason = reason(error);
        // Listings have no error of their own for these.
        match status(&error.to_string()) {
            Some(401 | 403) => format!(
                "the store refused to {what} at {url} ({reason}): check the credentials and what \
                 they permit"
            ),
            Some(404) => format!(
                "{url} does not exist ({reason}): create the bucket or container, or correct the \
                 URL"
            ),
            _ if is_of_certificate(error) => {
                let hint = ca::hint("--sink-option ca=FILE", "archive.ca");
                format!("cannot {what} at {url}: {reason}{hint}")
            }
            _ if passes(error) => format!(
                "cannot {what} at {url}: {reason}; gave up after pauses of {} s: the same command \
                 goes on from here",
                self.give_up.as_secs()
            ),
            _ => format!("cannot {what} at {url}: {reason}"),
        }
    }
}

/// Whether the same request may succeed later.
fn passes(error: &Error) -> bool {
    let Error::Generic { .. } = error else { return false };
    // The crate keeps the status to itself, so it is read from the text.
    match status(&error.to_string()) {
        Some(status) => status >= 500 || status == 429 || status == 408,
        // No answer: refused, reset, or too late. A local directory has other errors.
        None => is_of_network(error) && !is_of_certificate(error),
    }
}

/// Whether an error comes from the network, and not from files or from the configuration.
fn is_of_network(error: &Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.downcast_ref::<object_store::client::HttpError>().is_some() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Whether the store's certificate is not valid here.
fn is_of_certificate(error: &Error) -> bool {
    reason(error).contains(ca::UNTRUSTED)
}

/// The status of an answer in the text of an error.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// What the store said, in a few words.
fn reason(error: &Error) -> String {
    let text = error.to_string();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map(|(code, _)| format!(", {code}")).unwrap_or_default();
    if let Some(status) = status(&text) {
        return format!("HTTP {status}{code}");
    }
    // The innermost error says it best: "connection refused", "operation timed out".
    let mut source: &dyn std::error::Error = error;
    while let Some(cause) = source.source() {
        source = cause;
    }
    hide(&source.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn answered(status: &str) -> Error {
        let text = format!("Server returned non-2xx status code: {status}: <Code>Busy</Code>");
        Error::Generic { store: "S3", source: text.into() }
    }

    fn run(errors: &[&str], give_up: Duration) -> (Result<usize, Error>, Vec<String>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let on_retry: OnRetry = Box::new(move |text| heard.lock().unwrap().push(text.to_owned()));
        let retry = Retry::new(give_up, on_retry);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let count = Mutex::new(0);
        let result = runtime.block_on(retry.run("put x", async || {
            let mut count = count.lock().unwrap();
            *count += 1;
            errors.get(*count - 1).map_or(Ok(*count), |status| Err(answered(status)))
        }));
        let told = told.lock().unwrap().clone();
        (result, told)
    }

    #[test]
    fn what_passes_is_tried_again_and_told() {
        let (result, told) =
            run(&["503 Service Unavailable", "429 Too Many"], Duration::from_secs(5));
        assert_eq!(result.unwrap(), 3);
        assert_eq!(told[0], "cannot put x: HTTP 503, Busy; trying again in 0.2 s");
        assert_eq!(told.len(), 2);
        let (result, told) = run(&["500 x"; 9], Duration::from_millis(300));
        assert!(result.is_err());
        assert_eq!(told.len(), 2, "0.2 s and 0.4 s, and then it gave up");
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        for status in ["400 Bad Request", "411 Length Required"] {
            let (result, told) = run(&[status], Duration::from_secs(5));
            assert!(result.is_err() && told.is_empty());
        }
        let no_file = Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(std::io::Error::other("disk full")),
        };
        assert!(!passes(&no_file));
        assert_eq!(reason(&no_file), "disk full");
    }
}
