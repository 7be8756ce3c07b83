//! The rate at which hostile peers connect, all of them together.

#![forbid(unsafe_code)]

use crate::schedule::Clock;
use std::cell::Cell;

/// How much time late peers may catch up, nanoseconds. So not all peers of a second come at once.
const CATCH_UP: u64 = 10_000_000;

/// Gives out times to connect at, evenly spaced.
pub struct Pace {
    clock: Clock,
    interval: u64,
    next: Cell<u64>,
}

impl Pace {
    /// `rate` times a second, beginning at `from`.
    pub fn new(clock: Clock, from: u64, rate: f64) -> Self {
        Self { clock, interval: (1e9 / rate) as u64, next: Cell::new(from) }
    }

    /// Waits for this peer's turn. False if that would be after `until`.
    pub async fn turn(&self, until: u64) -> bool {
        let at = self.take(self.clock.now());
        if at >= until {
            return false;
        }
        tokio::time::sleep_until(self.clock.instant(at).into()).await;
        true
    }

    fn take(&self, now: u64) -> u64 {
        let at = self.next.get().max(now.saturating_sub(CATCH_UP));
        self.next.set(at + self.interval);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_evenly_spaced_and_late_ones_are_not_made_up_for() {
        let pace = Pace::new(Clock::new(std::time::Instant::now()), 1_000_000_000, 1_000.0);
        assert_eq!(
            [pace.take(0), pace.take(0), pace.take(0)],
            [1_000_000_000, 1_001_000_000, 1_002_000_000]
        );
        // Two seconds later ten of the two thousand come at once.
        let late = 3_000_000_000;
        let at_once = (0..100).filter(|_| pace.take(late) <= late).count();
        assert_eq!(at_once, 11);
    }
}
