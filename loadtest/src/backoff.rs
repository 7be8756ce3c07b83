//! How long a call waits before it connects again. The wait is exponential with jitter, so that not
//! all calls come at once when a node is back.

use std::time::Duration;

/// The longest wait, before jitter.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Waits of one call.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    attempts: u32,
}

impl Backoff {
    /// `base` is the quick reference's `reconnectInterval`.
    pub fn new(base: Duration) -> Self {
        Self { base, attempts: 0 }
    }

    /// The next wait: `base`, doubled with each attempt up to half a minute, times 0.5 to 1.5
    /// (`jitter` in 0..1). It is at least what the node asked for in `Retry-After`.
    pub fn next(&mut self, jitter: f64, retry_after: Option<Duration>) -> Duration {
        let wait =
            self.base.saturating_mul(1 << self.attempts.min(16)).min(WAIT_MAX.max(self.base));
        self.attempts += 1;
        let wait = wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0));
        wait.max(retry_after.unwrap_or_default())
    }

    /// A connection came up: the next loss starts from `base` again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_limit_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(2));
        let waits: Vec<u64> = (0..7).map(|_| backoff.next(0.5, None).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 30, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.next(0.5, None), Duration::from_secs(2));
    }

    #[test]
    fn jitter_spreads_and_retry_after_is_kept() {
        let base = Duration::from_secs(2);
        assert_eq!(Backoff::new(base).next(0.0, None), Duration::from_secs(1));
        assert_eq!(Backoff::new(base).next(1.0, None), Duration::from_secs(3));
        assert_eq!(
            Backoff::new(base).next(0.0, Some(Duration::from_secs(7))),
            Duration::from_secs(7)
        );
    }
}
