//! The charts of a run: latency by percentile, and figures by second.

use hdrhistogram::Histogram;
use serde_json::Value;

use super::chart::{Chart, Scale, Series};
use super::seconds::Second;
use crate::duration::show;
use crate::results::{Interval, RunDir, items, number};
use crate::slo::Slo;
use crate::stats::Metric;

/// Points of a percentile line.
const STEPS: u32 = 120;

/// Seconds between two ticks: the first for which there are at most twelve.
const TICKS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0];

/// Percentiles over how rare they are: 90 %, 99 %, 99.9 % … are equally far apart. The objectives
/// of these figures are lines across.
pub fn percentiles(
    title: &'static str,
    histograms: &[(Metric, &Histogram<u64>)],
    slos: &Value,
) -> Chart {
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
            let points = (0..STEPS).map(point).chain([slowest]).collect();
            Series { name: metric.name(), points, is_dotted: false }
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
    Chart {
        title,
        scale: Scale::Latency,
        series: series.collect(),
        ticks: ticks.map(tick).to_vec(),
        marks: Vec::new(),
        bounds: bounds(slos, |metric| histograms.iter().any(|(drawn, _)| *drawn == metric)),
    }
}

/// The objectives of some figures that are bounded by a time, with their texts.
fn bounds(slos: &Value, is_drawn: impl Fn(Metric) -> bool) -> Vec<(f64, String)> {
    let bound = |result: &Value| {
        let text = result["slo"].as_str()?;
        let slo: Slo = text.parse().ok()?;
        let bound = slo.bound_ns().filter(|_| is_drawn(slo.metric()))?;
        let missed = if result["held"] == false { ": MISSED" } else { "" };
        Some((bound as f64, format!("{text}{missed}")))
    };
    items(slos).filter_map(bound).collect()
}

/// ACK latencies of each second since the start.
pub fn seconds(run: &RunDir) -> Chart {
    let lines = [("max", 100.0), ("p99.9", 99.9), ("p99", 99.0), ("p50", 50.0)];
    let series = lines.map(|(name, percentile)| by_second(run, Metric::Ack, name, percentile));
    let bounds = bounds(&run.result["slos"], |metric| metric == Metric::Ack);
    over_time("ACK latency by second", Scale::Latency, series.into(), bounds, &run.result)
}

/// The generator's own delay in each second, with the limit from which a frame is late.
pub fn send_lag(run: &RunDir) -> Chart {
    let lines = [("max", 100.0), ("p99.9", 99.9)];
    let series = lines.map(|(name, percentile)| by_second(run, Metric::Sendlag, name, percentile));
    let limit = number(&run.result, "/generator/sendlag_max_ns");
    let bounds = limit.map(|limit| (limit, format!("late above {}", show(limit as u64))));
    let (title, bounds) = ("Send lag by second", bounds.into_iter().collect());
    over_time(title, Scale::Latency, series.into(), bounds, &run.result)
}

fn by_second(run: &RunDir, metric: Metric, name: &'static str, percentile: f64) -> Series {
    let intervals = run.intervals.iter().filter(|interval| interval.metric == metric);
    let point = |interval: &Interval| {
        (interval.start, interval.histogram.value_at_percentile(percentile) as f64)
    };
    Series { name, points: intervals.map(point).collect(), is_dotted: false }
}

/// Frames that were sent in each second.
pub fn throughput(seconds: &[Second], result: &Value) -> Chart {
    let frames = seconds.iter().map(|second| (second.at, second.frames_per_second));
    let frames = Series { name: "frames", points: frames.collect(), is_dotted: false };
    over_time("Frames a second", Scale::Linear(""), vec![frames], Vec::new(), result)
}

/// CPU of both processes in each second, percent of one core.
pub fn cpu(seconds: &[Second], result: &Value) -> Chart {
    let line = |name, of: fn(&Second) -> Option<f64>| {
        let points = seconds.iter().filter_map(|second| Some((second.at, of(second)?)));
        Series { name, points: points.collect(), is_dotted: false }
    };
    let lines = vec![
        line("node", |second| second.server_cpu_percent),
        line("exo-load", |second| second.generator_cpu_percent),
    ];
    over_time("CPU by second", Scale::Linear(" %"), lines, Vec::new(), result)
}

/// A chart over the seconds of a run, with its events.
fn over_time(
    title: &'static str,
    scale: Scale,
    series: Vec<Series>,
    bounds: Vec<(f64, String)>,
    result: &Value,
) -> Chart {
    let events = [
        ("/run/steady_s/0", "ramp ends"),
        ("/storm/at_s", "storm"),
        ("/run/steady_s/1", "audio ends"),
    ];
    let marks: Vec<(f64, &str)> = events
        .into_iter()
        .filter_map(|(pointer, name)| Some((number(result, pointer)?, name)))
        .collect();
    let times = series.iter().flat_map(|series| &series.points).map(|(at, _)| *at);
    let end = times.chain(marks.iter().map(|(at, _)| *at)).fold(1.0, f64::max);
    let step = TICKS.into_iter().find(|step| end / step <= 12.0).unwrap_or(3_600.0);
    let ticks = (0..=(end / step) as u32)
        .map(|tick| (f64::from(tick) * step, format!("{} s", f64::from(tick) * step)));
    Chart { title, scale, series, ticks: ticks.collect(), marks, bounds }
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
        let chart = percentiles("title", &[(Metric::Ack, &histogram)], &Value::Null).to_string();
        let points = chart.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        let heights: Vec<f64> = points
            .split_whitespace()
            .map(|point| point.split_once(',').unwrap().1.parse().unwrap())
            .collect();
        // In SVG a smaller y is higher up.
        assert!(heights.last() < heights.first(), "{points}");
    }

    #[test]
    fn an_objective_is_a_line_across_the_figures_that_it_bounds() {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(2_000_000).unwrap();
        let slos = json!([
            {"slo": "ack.p99<50ms", "held": false},
            {"slo": "setup.p99<1s", "held": true},
            {"slo": "ack.p99<2*ack.p50", "held": true},
        ]);
        let chart = percentiles("title", &[(Metric::Ack, &histogram)], &slos).to_string();
        assert!(chart.contains("ack.p99&#60;50ms: MISSED"), "{chart}");
        assert_eq!(chart.matches("<line class=\"bound\"").count(), 1, "{chart}");
        // It is within the picture, although every sample is faster.
        assert!(chart.contains(">100 ms<"), "{chart}");
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

    #[test]
    fn values_that_are_no_latencies_start_at_zero() {
        let second = |at, frames_per_second| Second {
            at,
            frames_per_second,
            server_cpu_percent: None,
            generator_cpu_percent: Some(7.0),
        };
        let all = [second(0.0, 900.0), second(1.0, 4_100.0)];
        let chart = throughput(&all, &Value::Null).to_string();
        for label in [">0<", ">2000<", ">6000<"] {
            assert!(chart.contains(label), "{label}: {chart}");
        }
        let chart = cpu(&all, &Value::Null).to_string();
        assert!(chart.contains(">exo-load<") && !chart.contains(">node<"), "{chart}");
        assert!(chart.contains(">8 %<"), "{chart}");
    }
}
