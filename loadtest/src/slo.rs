//! Service level objectives on the command line: `ack.p99.9<50ms`, `setup.max<=2s`. The bound can
//! be another figure of the same run: `ack_during.p99<2*ack_before.p99`.

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;

use crate::duration;
use crate::stats::{Metric, Stats};

/// Samples beyond a percentile that it takes to judge it. With fewer, one late ACK would decide.
const SAMPLES_BEYOND: u64 = 10;

/// A bound on one figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    text: String,
    metric: Metric,
    figure: Figure,
    /// `<=` rather than `<`.
    inclusive: bool,
    bound: Bound,
}

/// What a figure is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// Nanoseconds.
    Time(u64),
    /// A multiple of another figure.
    Times(f64, Metric, Figure),
}

/// The figure of a histogram that is bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    Percentile(f64),
    Mean,
    Max,
}

/// The outcome of a bound.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SloResult {
    /// As it was written.
    pub slo: String,
    /// The figure in nanoseconds; none if nothing was measured.
    pub value_ns: Option<u64>,
    /// Whether it held. A figure that was not measured does not hold.
    pub held: bool,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help =
            || format!("'{text}' is no objective; write one like ack.p99.9<50ms or setup.max<=2s");
        let figure = |name: &str| figure(name, text, help);
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = compact.split_once('<').ok_or_else(help)?;
        let (right, inclusive) =
            right.strip_prefix('=').map_or((right, false), |right| (right, true));
        let (metric, measured) = figure(left)?;
        let bound = match right.split_once('*') {
            None => Bound::Time(duration::parse(right)?.as_nanos() as u64),
            Some((times, other)) => {
                let times =
                    times.parse::<f64>().ok().filter(|times| *times > 0.0 && times.is_finite());
                let (metric, figure) = figure(other)?;
                Bound::Times(times.ok_or_else(help)?, metric, figure)
            }
        };
        Ok(Self { text: compact, metric, figure: measured, inclusive, bound })
    }
}

/// Reads a figure such as `ack.p99`, a part of `text`.
fn figure(name: &str, text: &str, help: impl Fn() -> String) -> Result<(Metric, Figure), String> {
    let (name, figure) = name.split_once('.').ok_or_else(help)?;
    let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name).ok_or_else(|| {
        let names = Metric::ALL.map(Metric::name).join(", ");
        format!("'{name}' in '{text}' is not measured; the figures are {names}")
    })?;
    let figure = match figure {
        "mean" => Figure::Mean,
        "max" => Figure::Max,
        percentile => {
            let number = percentile.strip_prefix('p').and_then(|number| number.parse::<f64>().ok());
            let valid = number.filter(|number| (0.0..=100.0).contains(number));
            Figure::Percentile(valid.ok_or_else(|| {
                format!("'{figure}' in '{text}' is none of p50 … p99.99, mean, max")
            })?)
        }
    };
    Ok((metric, figure))
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Slo {
    /// Compares the measured figure to the bound.
    pub fn check(&self, stats: &Stats) -> SloResult {
        let measured = |metric: Metric, figure: Figure| {
            let histogram = stats.latency(metric);
            (!histogram.is_empty()).then(|| figure.of(histogram))
        };
        let value_ns = measured(self.metric, self.figure);
        let bound = match self.bound {
            Bound::Time(nanos) => Some(nanos),
            Bound::Times(times, metric, figure) => {
                measured(metric, figure).map(|other| (other as f64 * times) as u64)
            }
        };
        let is_within =
            |(value, bound)| if self.inclusive { value <= bound } else { value < bound };
        let held = value_ns.zip(bound).is_some_and(is_within);
        SloResult { slo: self.text.clone(), value_ns, held }
    }
}

/// How much a run has to say about a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Samples of the figure.
    pub samples: u64,
    /// Samples that it takes to say that the bound holds: ten beyond the percentile.
    pub samples_min: u64,
    /// Samples beyond the bound.
    pub beyond: u64,
    /// So many beyond the bound say that it does not hold, however few samples there are.
    pub beyond_min: u64,
}

impl Slo {
    /// The time that bounds it; none if another figure does.
    pub fn bound_ns(&self) -> Option<u64> {
        match self.bound {
            Bound::Time(nanos) => Some(nanos),
            Bound::Times(..) => None,
        }
    }

    /// What it bounds.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Counts the samples that speak for it and against it.
    pub fn evidence(&self, stats: &Stats) -> Evidence {
        let histogram = stats.latency(self.metric);
        let samples = histogram.len();
        let (samples_min, beyond_min) = match self.figure {
            Figure::Max => (1, 1),
            Figure::Percentile(percentile) if percentile >= 100.0 => (1, 1),
            Figure::Mean => (SAMPLES_BEYOND * 2, u64::MAX),
            Figure::Percentile(percentile) => {
                let share = (1.0 - percentile / 100.0).max(1e-9);
                ((SAMPLES_BEYOND as f64 / share).round() as u64, SAMPLES_BEYOND)
            }
        };
        let within = self.bound_ns().map_or(samples, |bound| histogram.count_between(0, bound));
        Evidence { samples, samples_min, beyond: samples - within.min(samples), beyond_min }
    }
}

impl Figure {
    fn of(self, histogram: &Histogram<u64>) -> u64 {
        match self {
            Self::Percentile(percentile) => histogram.value_at_percentile(percentile),
            Self::Mean => histogram.mean() as u64,
            Self::Max => histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        let mut stats = Stats::new();
        (1..=1_000).for_each(|ms| stats.record(Metric::Ack, ms * 1_000_000));
        stats
    }

    #[test]
    fn bounds_are_compared_with_what_was_measured() {
        let stats = stats();
        for (slo, held) in [
            ("ack.p50<501ms", true),
            ("ack.p50<499ms", false),
            ("ack.p99.9 < 1.1s", true),
            ("ack.p99.9<998ms", false),
            ("ack.max<=1001ms", true),
            ("ack.max<900ms", false),
            ("ack.mean<501ms", true),
            ("ack.mean<400ms", false),
        ] {
            let slo: Slo = slo.parse().unwrap();
            let result = slo.check(&stats);
            assert_eq!(result.held, held, "{slo}: {:?}", result.value_ns);
        }
    }

    #[test]
    fn a_percentile_takes_ten_samples_beyond_it() {
        let stats = stats();
        for (slo, samples_min, beyond) in [
            ("ack.p50<501ms", 20, 500),
            ("ack.p99<2s", 1_000, 0),
            ("ack.p99.9<998ms", 10_000, 3),
            ("ack.max<1s", 1, 1),
            ("ack.mean<1s", 20, 1),
        ] {
            let evidence = slo.parse::<Slo>().unwrap().evidence(&stats);
            assert_eq!((evidence.samples, evidence.samples_min), (1_000, samples_min), "{slo}");
            // The histogram has three digits.
            assert!(evidence.beyond.abs_diff(beyond) <= 2, "{slo}: {evidence:?}");
        }
        assert_eq!("setup.p99<1s".parse::<Slo>().unwrap().evidence(&stats).samples, 0);
    }

    #[test]
    fn a_figure_may_bound_another() {
        let mut stats = stats();
        (1..=1_000).for_each(|ms| stats.record(Metric::AckBefore, ms * 400_000));
        for (slo, held) in [
            ("ack.p99<2*ack_before.p99", false),
            ("ack.p99<3*ack_before.p99", true),
            ("ack.p50 < 2.6 * ack_before.p50", true),
            ("ack.p50<2.4*ack_before.p50", false),
            ("ack_before.max<1*ack.max", true),
            ("ack.p99<9*ack_after.p99", false),
            ("ack_after.p99<9*ack.p99", false),
        ] {
            assert_eq!(slo.parse::<Slo>().unwrap().check(&stats).held, held, "{slo}");
        }
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let result = "setup.max<1h".parse::<Slo>().unwrap().check(&stats());
        assert!(!result.held && result.value_ns.is_none());
    }

    #[test]
    fn equality_only_where_it_is_asked_for() {
        let stats = stats();
        let max = stats.latency(Metric::Ack).max();
        assert!(format!("ack.max<={max}ns").parse::<Slo>().unwrap().check(&stats).held);
        assert!(!format!("ack.max<{max}ns").parse::<Slo>().unwrap().check(&stats).held);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("ack.p99.9>50ms", "write one like"),
            ("ack<50ms", "write one like"),
            ("akc.p99<50ms", "not measured"),
            ("ack.p101<50ms", "none of"),
            ("ack.pNaN<50ms", "none of"),
            ("ack.median<50ms", "none of"),
            ("ack.p99<50", "unit"),
            ("ack.p99<x*ack.p50", "write one like"),
            ("ack.p99<0*ack.p50", "write one like"),
            ("ack.p99<2*akc.p50", "not measured"),
            ("ack.p99<2*ack.median", "none of"),
            ("", "write one like"),
        ] {
            let error = text.parse::<Slo>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
