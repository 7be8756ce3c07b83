//! The last seconds of a shard: quantiles of its latencies, and how fast its frame ring fills.
//!
//! Shards hand over what they have measured since they were last asked. A slot holds what came
//! within a second, and slots are forgotten after the [`WINDOW`]. A slot keeps values with their
//! counts, not whole histograms: there are some hundred of them.

use super::document::Quantiles;
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How far it looks back. Ten seconds of 1,000 calls are 5,000 ACKs: enough for a p99.9.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// The time that a slot is open for.
const SLOT: Duration = Duration::from_secs(1);

/// Upper bounds of the buckets of ACK latencies, microseconds: eight for each decade, from 100 us
/// to 10 s. More would not be seen in a heat map.
pub(super) const BOUNDS_US: [u64; 41] = [
    100, 133, 178, 237, 316, 422, 562, 750, 1_000, 1_334, 1_778, 2_371, 3_162, 4_217, 5_623, 7_499,
    10_000, 13_335, 17_783, 23_714, 31_623, 42_170, 56_234, 74_989, 100_000, 133_352, 177_828,
    237_137, 316_228, 421_697, 562_341, 749_894, 1_000_000, 1_333_521, 1_778_279, 2_371_374,
    3_162_278, 4_216_965, 5_623_413, 7_498_942, 10_000_000,
];

/// What one shard did lately.
#[derive(Debug)]
pub(super) struct Recent {
    ack: Values,
    sync: Values,
    /// ACKs since the start, by bucket.
    ack_counts: [u64; BOUNDS_US.len() + 1],
    /// Bytes that have come into the frame ring, at some moments.
    fill: VecDeque<(Instant, u64)>,
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            ack: Values::default(),
            sync: Values::default(),
            ack_counts: [0; BOUNDS_US.len() + 1],
            fill: VecDeque::new(),
        }
    }
}

impl Recent {
    /// Takes in what the shard has measured since the last time.
    pub(super) fn add(&mut self, now: Instant, ack: &Histogram<u64>, sync: &Histogram<u64>) {
        self.ack.add(now, ack);
        self.sync.add(now, sync);
        for step in ack.iter_recorded() {
            let value = ack.lowest_equivalent(step.value_iterated_to());
            let bucket = BOUNDS_US.partition_point(|bound| *bound < value);
            self.ack_counts[bucket] += step.count_at_value();
        }
    }

    /// So many bytes have come into the frame ring since the start.
    pub(super) fn note_fill(&mut self, now: Instant, bytes: u64) {
        if self.fill.back().is_none_or(|(at, _)| now - *at >= SLOT) {
            self.fill.push_back((now, bytes));
        }
        // One entry is kept from before the window, so that all of it is covered.
        while self.fill.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.fill.pop_front();
        }
    }

    /// Bytes that come into the frame ring in a second: `bytes` have come up to now.
    pub(super) fn fill_rate(&self, now: Instant, bytes: u64) -> f64 {
        let Some((at, before)) = self.fill.front() else { return 0.0 };
        let seconds = (now - *at).as_secs_f64();
        if seconds > 0.0 { bytes.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }

    pub(super) fn ack(&self, now: Instant) -> Quantiles {
        self.ack.quantiles(now)
    }

    pub(super) fn sync(&self, now: Instant) -> Quantiles {
        self.sync.quantiles(now)
    }

    pub(super) fn ack_counts(&self) -> &[u64] {
        &self.ack_counts
    }
}

/// Values of the last seconds, with their counts.
#[derive(Debug, Default)]
struct Values(VecDeque<Slot>);

#[derive(Debug)]
struct Slot {
    opened: Instant,
    values: Vec<(u64, u64)>,
}

impl Values {
    fn add(&mut self, now: Instant, histogram: &Histogram<u64>) {
        while self.0.front().is_some_and(|slot| now - slot.opened > WINDOW) {
            self.0.pop_front();
        }
        if histogram.is_empty() {
            return;
        }
        if self.0.back().is_none_or(|slot| now - slot.opened >= SLOT) {
            self.0.push_back(Slot { opened: now, values: Vec::new() });
        }
        let Some(slot) = self.0.back_mut() else { return };
        let found = histogram.iter_recorded();
        slot.values.extend(found.map(|step| (step.value_iterated_to(), step.count_at_value())));
    }

    fn quantiles(&self, now: Instant) -> Quantiles {
        let slots = self.0.iter().filter(|slot| now - slot.opened <= WINDOW);
        let mut values: Vec<_> = slots.flat_map(|slot| &slot.values).copied().collect();
        values.sort_unstable();
        let count: u64 = values.iter().map(|(_, count)| count).sum();
        let at = |per_mille: u64| {
            let wanted = (count * per_mille).div_ceil(1000).max(1);
            let mut seen = 0;
            let found = values.iter().find(|(_, count)| {
                seen += count;
                seen >= wanted
            });
            found.map_or(0, |(value, _)| *value)
        };
        let [p50_us, p99_us, p999_us, max_us] = [500, 990, 999, 1000].map(at);
        Quantiles { count, p50_us, p99_us, p999_us, max_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[(u64, u64)]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 2).unwrap();
        values.iter().for_each(|(value, count)| histogram.record_n(*value, *count).unwrap());
        histogram
    }

    fn second(number: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs(number)
    }

    #[test]
    fn quantiles_are_of_the_window_and_counts_since_the_start() {
        let (mut recent, none) = (Recent::default(), histogram(&[]));
        assert_eq!(recent.ack(second(0)), Quantiles::default());
        recent.add(second(0), &histogram(&[(100, 989), (101, 10), (90_000, 1)]), &none);
        let early = recent.ack(second(1));
        assert_eq!((early.count, early.p50_us, early.p99_us, early.p999_us), (1000, 100, 101, 101));
        assert!(early.max_us.abs_diff(90_000) < 900, "{early:?}");
        // Later values join until the early ones are too old.
        recent.add(second(8), &histogram(&[(20, 1000)]), &histogram(&[(7, 1)]));
        assert_eq!((recent.ack(second(9)).count, recent.ack(second(9)).p50_us), (2000, 20));
        assert_eq!((recent.ack(second(11)).count, recent.ack(second(11)).max_us), (1000, 20));
        assert_eq!(recent.sync(second(11)).p50_us, 7);
        assert_eq!(recent.ack(second(30)), Quantiles::default());
        assert_eq!(recent.ack_counts()[..2], [1000 + 989, 10]);
        assert_eq!(recent.ack_counts().iter().sum::<u64>(), 2000);
    }

    #[test]
    fn slots_are_bounded_however_often_values_come() {
        let mut values = Values::default();
        for step in 0..3_000 {
            values.add(second(0) + Duration::from_millis(10 * step), &histogram(&[(step + 1, 1)]));
        }
        assert!(values.0.len() <= 12, "{}", values.0.len());
        assert_eq!(values.quantiles(second(30)).max_us.abs_diff(3000) / 30, 0);
    }

    #[test]
    fn a_rate_is_of_the_window() {
        let mut recent = Recent::default();
        assert_eq!(recent.fill_rate(second(0), 5), 0.0);
        for number in 0..60 {
            // A hundred bytes a second, then ten.
            let bytes = if number < 40 { number * 100 } else { 4_000 + (number - 40) * 10 };
            recent.note_fill(second(number), bytes);
            assert!(recent.fill.len() <= 12);
        }
        assert_eq!(recent.fill_rate(second(59), 4_190), 10.0);
    }

    #[test]
    fn bounds_rise_by_the_same_factor() {
        for pair in BOUNDS_US.windows(2) {
            let factor = pair[1] as f64 / pair[0] as f64;
            assert!((factor - 10f64.powf(0.125)).abs() < 0.01, "{pair:?}");
        }
    }
}
