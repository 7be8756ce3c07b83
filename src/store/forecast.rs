#![forbid(unsafe_code)]
//! When the disk will be full, if the journal grows as in the last minutes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The growth of this time counts.
const WINDOW: Duration = Duration::from_secs(300);

/// The shortest time that tells a rate.
const HISTORY_MIN: Duration = Duration::from_secs(10);

/// Sizes of the journal in the last minutes: finished segments, so that files that are made in
/// advance do not show as growth.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    sizes: VecDeque<(Instant, u64)>,
}

impl Forecast {
    /// Notes the journal's size. Call it once a second.
    pub(super) fn note(&mut self, now: Instant, size: u64) {
        while self.sizes.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.sizes.pop_front();
        }
        self.sizes.push_back((now, size));
    }

    /// Time until `room` more bytes are used. `None`: the journal does not grow, or it is not known
    /// yet.
    pub(super) fn time_until(&self, room: u64) -> Option<Duration> {
        let ((from, before), (to, after)) = (*self.sizes.front()?, *self.sizes.back()?);
        let (time, growth) = (to.duration_since(from), after.checked_sub(before)?);
        if time < HISTORY_MIN || growth == 0 {
            return None;
        }
        Duration::try_from_secs_f64(room as f64 / growth as f64 * time.as_secs_f64()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_at_the_growth_of_the_last_minutes() {
        let (mut forecast, start) = (Forecast::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(forecast.time_until(1_000), None);
        forecast.note(at(0), 5_000);
        forecast.note(at(9), 5_900);
        assert_eq!(forecast.time_until(1_000), None, "too short to tell");
        forecast.note(at(10), 6_000);
        assert_eq!(forecast.time_until(1_000), Some(Duration::from_secs(10)));
        assert_eq!(forecast.time_until(0), Some(Duration::ZERO));
        forecast.note(at(20), 4_000);
        assert_eq!(forecast.time_until(1_000), None, "retention is faster");
        // What was before the window does not count.
        forecast.note(at(315), 4_590);
        assert_eq!(forecast.time_until(200), Some(Duration::from_secs(100)));
    }
}
