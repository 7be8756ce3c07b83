//! The two charts of a run: latency by percentile, and by second.

use hdrhistogram::Histogram;

use super::chart::{Chart, Series};
use crate::results::{Interval, RunDir, number};
use crate::stats::Metric;

/// Points of a percentile line.
const STEPS: u32 = 120;

/// Seconds between two ticks: the first for which there are at most twelve.
const TICKS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0];

/// Percentiles over how rare they are: 90 %, 99 %, 99.9 % … are equally far apart.
pub fn percentiles(title: &'static str, histograms: &[(Metric, &Histogram<u64>)]) -> Chart {
    let rarity = |quantile: f64| -(1.0 - quantile).log10();
    let series = histograms.iter().filter(|(_, histogram)| !histogram.is_empty()).map(
        |(metric, histogram)| {
            // The rarest quantile that this number of samples has.
            let last = (histogram.len() as f64).log10().clamp(0.5, 6.0);
            let point = |step: u32| {
                let x = last * f64::from(step) / f64::from(STEPS);
                (x, histogram.value_at_quantile(1.0 - 10f64.powf(-x)) as f64)
            };
            // The slowest of n samples has no percentile below 100. It is drawn at one in n.
            let slowest = (last, histogram.max() as f64);
            Series { name: metric.name(), points: (0..STEPS).map(point).chain([slowest]).collect() }
        },
    );
    let tick = |(quantile, name): (f64, &str)| (rarity(quantile), name.to_owned());
    let ticks = [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
    ];
    Chart { title, series: series.collect(), ticks: ticks.map(tick).to_vec(), marks: Vec::new() }
}

/// ACK latencies of each second since the start.
pub fn seconds(run: &RunDir) -> Chart {
    let acks: Vec<&Interval> =
        run.intervals.iter().filter(|interval| interval.metric == Metric::Ack).collect();
    let line = |name, percentile| {
        let point = |interval: &&Interval| {
            (interval.start, interval.histogram.value_at_percentile(percentile) as f64)
        };
        Series { name, points: acks.iter().map(point).collect() }
    };
    let events = [
        ("/run/steady_s/0", "ramp ends"),
        ("/storm/at_s", "storm"),
        ("/run/steady_s/1", "audio ends"),
    ];
    let marks: Vec<(f64, &str)> = events
        .into_iter()
        .filter_map(|(pointer, name)| Some((number(&run.result, pointer)?, name)))
        .collect();
    let times = acks.iter().map(|interval| interval.start).chain(marks.iter().map(|(at, _)| *at));
    let end = times.fold(1.0, f64::max);
    let step = TICKS.into_iter().find(|step| end / step <= 12.0).unwrap_or(3_600.0);
    let ticks = (0..=(end / step) as u32)
        .map(|tick| (f64::from(tick) * step, format!("{} s", f64::from(tick) * step)));
    let series =
        vec![line("max", 100.0), line("p99.9", 99.9), line("p99", 99.0), line("p50", 50.0)];
    Chart { title: "ACK latency by second", series, ticks: ticks.collect(), marks }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_percentile_line_ends_with_the_slowest() {
        let mut histogram = Histogram::new(3).unwrap();
        (0..59).for_each(|_| histogram.record(2_000_000).unwrap());
        histogram.record(900_000_000).unwrap();
        let chart = percentiles("title", &[(Metric::Ack, &histogram)]).to_string();
        let points = chart.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        let heights: Vec<f64> = points
            .split_whitespace()
            .map(|point| point.split_once(',').unwrap().1.parse().unwrap())
            .collect();
        // In SVG a smaller y is higher up.
        assert!(heights.last() < heights.first(), "{points}");
    }

    #[test]
    fn seconds_are_marked_where_the_judged_part_begins_and_ends() {
        let mut histogram = Histogram::new(3).unwrap();
        (1..=100).for_each(|n| histogram.record(n * 10_000).unwrap());
        let metric = Metric::Ack;
        let chart = |result: Value| {
            let histogram = histogram.clone();
            let interval = Interval { start: 1.0, start_unix: 1.0, length: 1.0, metric, histogram };
            seconds(&RunDir { path: "x".into(), result, intervals: vec![interval] }).to_string()
        };
        let marked = chart(json!({"run": {"steady_s": [2.0, 9.5]}}));
        for part in ["ramp ends", "audio ends", ">8 s<"] {
            assert!(marked.contains(part), "{marked}");
        }
        assert!(!chart(json!({"run": {"steady_s": null}})).contains("ends"));
    }
}
