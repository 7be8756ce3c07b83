//! A run in three parts: before the attack, during it, after it.

#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::probe::Probed;
use super::times::Times;
use super::watch::Seen;
use crate::report::figures;
use crate::results::Interval;
use crate::stats::{Metric, Stats};

/// One part.
pub struct Phase {
    /// ACK latencies and send lag of the live calls, setup times of new calls.
    pub stats: Stats,
    /// Failures of live calls.
    pub failures: u64,
    /// Why new calls failed.
    pub new_calls_failed: Vec<String>,
    /// CPU in percent of a core, and memory.
    pub node: Option<(f64, u64)>,
}

/// Sorts all figures into the three parts.
pub fn sort(
    times: &Times,
    intervals: &[Interval],
    csv: &str,
    probed: &[Probed],
    seen: &Seen,
) -> [Phase; 3] {
    let mut phases = times.parts().map(|(from, until)| Phase {
        stats: Stats::new(),
        failures: 0,
        new_calls_failed: Vec::new(),
        node: seen.between(from, until),
    });
    for interval in intervals {
        // The times in the log are rounded to milliseconds, so allow for one at both ends.
        let begin = (interval.start * 1e9) as u64 + 1_000_000;
        let end = begin + (interval.length * 1e9) as u64 - 2_000_000;
        if interval.metric != Metric::Setup
            && let Some(part) = times.part_of(begin, end)
        {
            phases[part].stats.add_latency(interval.metric, &interval.histogram);
        }
    }
    for (end, failures) in failures_by_second(csv) {
        let part = if end <= times.attack {
            0
        } else {
            1 + usize::from(end > times.settled + 1_000_000_000)
        };
        phases[part].failures += failures;
    }
    for probe in probed {
        let Some(part) =
            times.parts().iter().position(|(from, until)| (*from..*until).contains(&probe.at))
        else {
            continue;
        };
        match &probe.setup {
            Ok(setup) => phases[part].stats.record(Metric::Setup, setup.as_nanos() as u64),
            Err(why) => phases[part].new_calls_failed.push(why.clone()),
        }
    }
    phases
}

/// The end of each line of `intervals.csv`, and its failures.
fn failures_by_second(csv: &str) -> Vec<(u64, u64)> {
    let mut lines = csv.lines();
    let Some(place) =
        lines.next().and_then(|head| head.split(',').position(|name| name == "failures"))
    else {
        return Vec::new();
    };
    let line = |line: &str| {
        let mut fields = line.split(',');
        let end = (fields.next()?.parse::<f64>().ok()? * 1e9) as u64;
        Some((end, line.split(',').nth(place)?.parse().ok()?))
    };
    lines.filter_map(line).collect()
}

impl Phase {
    /// For `abuse.json`.
    pub fn to_json(&self, (from, until): (u64, u64)) -> Value {
        json!({
            "from_s": from as f64 / 1e9,
            "until_s": until as f64 / 1e9,
            "ack_ns": figures(self.stats.latency(Metric::Ack)),
            "sendlag_ns": figures(self.stats.latency(Metric::Sendlag)),
            "failures": self.failures,
            "new_call_setup_ns": figures(self.stats.latency(Metric::Setup)),
            "new_calls_failed": self.new_calls_failed,
            "node_cpu_percent": self.node.map(|(cpu, _)| cpu),
            "node_rss_bytes": self.node.map(|(_, rss)| rss),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn times() -> Times {
        Times { calm: S, attack: 4 * S, attack_end: 6 * S, settled: 7 * S, end: 9 * S }
    }

    fn interval(second: u64) -> Interval {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(second * 1_000_000).unwrap();
        let start = second as f64 - 0.0004;
        Interval { start, start_unix: start, length: 1.0, metric: Metric::Ack, histogram }
    }

    #[test]
    fn each_second_counts_to_its_part() {
        let intervals: Vec<Interval> = (0..10).map(interval).collect();
        let csv = "seconds,calls_up,failures\n2.000,1,1\n5.000,1,10\n7.900,1,20\n9.000,1,100\n";
        let probed = [
            Probed { at: S, setup: Ok(Duration::from_millis(3)) },
            Probed { at: 5 * S, setup: Err("x: status_503".to_owned()) },
            Probed { at: 8 * S, setup: Ok(Duration::from_millis(4)) },
        ];
        let phases = sort(&times(), &intervals, csv, &probed, &Seen::default());
        let acks = phases.each_ref().map(|phase| phase.stats.latency(Metric::Ack).len());
        assert_eq!(acks, [3, 2, 2], "seconds 1 to 3, 4 and 5, 7 and 8");
        assert_eq!(phases.each_ref().map(|phase| phase.failures), [1, 30, 100]);
        assert_eq!(
            phases.each_ref().map(|phase| phase.stats.latency(Metric::Setup).len()),
            [1, 0, 1]
        );
        assert_eq!(phases[1].new_calls_failed, ["x: status_503"]);
    }
}
