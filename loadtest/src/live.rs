//! What a run shows while it is played: a block of lines that is redrawn each second on a terminal,
//! and a line every ten seconds in a pipe.

use std::collections::VecDeque;
use std::io::IsTerminal as _;

use hdrhistogram::Histogram;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::duration::show;
use crate::plural::{counted, grouped};
use crate::stats::{Metric, Stats};

const SECOND: u64 = 1_000_000_000;

/// Time between two lines of progress where stderr is not a terminal.
const LINE_EVERY: u64 = 10 * SECOND;

/// Seconds that the latencies on a terminal are of. A single call has an ACK every two seconds.
const RECENT: usize = 5;

/// What is known at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Nanoseconds since the start, and the start of the window.
    pub now: u64,
    /// Start of the window.
    pub window_begin: u64,
    /// When the audio ends.
    pub end: u64,
    /// When the ramp ends.
    pub ramp: u64,
    /// Calls that are up.
    pub calls_up: u64,
    /// Failures since the start.
    pub failures: u64,
    /// Calls that lost their connection and came back, since the start.
    pub reconnects: u64,
    /// Figures of the window.
    pub window: &'a Stats,
    /// CPU of exo-load in the window before this, percent of a core.
    pub own_cpu_percent: Option<f64>,
    /// CPU of the node in the window before this, percent of a core, if it is measured.
    pub server_cpu_percent: Option<f64>,
}

/// The view.
pub struct Live {
    kind: Kind,
    /// Calls of the run.
    calls: u64,
    /// When the last call hangs up.
    over: u64,
}

enum Kind {
    /// `--quiet`.
    Silent,
    /// Not a terminal.
    Lines,
    Block(Box<Block>),
}

struct Block {
    /// Keeps the lines together.
    _lines: MultiProgress,
    bar: ProgressBar,
    rows: Vec<ProgressBar>,
    acks: Recent,
    lags: Recent,
}

/// Histograms of the last windows.
struct Recent {
    metric: Metric,
    windows: VecDeque<Histogram<u64>>,
}

impl Live {
    /// A view of a run of `calls` calls that ends at `over`. `title` is a line above it.
    pub fn new(calls: u64, over: u64, title: Option<&str>, is_quiet: bool) -> Self {
        let kind = match (is_quiet, std::io::stderr().is_terminal()) {
            (true, _) => Kind::Silent,
            (false, false) => Kind::Lines,
            (false, true) => Kind::Block(Box::new(Block::new(over, title))),
        };
        Self { kind, calls, over }
    }

    /// Shows a moment.
    pub fn show(&mut self, moment: &Moment<'_>) {
        match &mut self.kind {
            Kind::Silent => {}
            Kind::Lines => {
                if moment.now / LINE_EVERY != moment.window_begin / LINE_EVERY {
                    eprintln!("{:>5} s  {}", moment.now / SECOND, line(moment));
                }
            }
            Kind::Block(block) => block.show(moment, self.calls, self.over),
        }
    }

    /// Takes the block away: the result is printed where it was.
    pub fn finish(self) {
        if let Kind::Block(block) = self.kind {
            block.rows.iter().for_each(ProgressBar::finish_and_clear);
            block.bar.finish_and_clear();
        }
    }
}

impl Block {
    fn new(over: u64, title: Option<&str>) -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let row = || {
            let row = lines.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{wide_msg}");
            row.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            row
        };
        let title = title.map(|title| {
            let row = row();
            row.set_message(title.to_owned());
            row
        });
        let bar = lines.add(ProgressBar::new(over / SECOND));
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut rows: Vec<ProgressBar> = (0..ROWS).map(|_| row()).collect();
        rows.extend(title);
        Self {
            _lines: lines,
            bar,
            rows,
            acks: Recent::new(Metric::Ack),
            lags: Recent::new(Metric::Sendlag),
        }
    }

    fn show(&mut self, moment: &Moment<'_>, calls: u64, over: u64) {
        let [acks, lags] = [&mut self.acks, &mut self.lags].map(|it| it.add(moment.window));
        self.bar.set_position((moment.now / SECOND).min(over / SECOND));
        self.bar.set_message(phase(moment, over));
        for (row, text) in self.rows.iter().zip(rows(moment, calls, &acks, &lags)) {
            row.set_message(text);
        }
    }
}

impl Recent {
    fn new(metric: Metric) -> Self {
        Self { metric, windows: VecDeque::new() }
    }

    /// Adds a window. Returns the sum of the last ones.
    fn add(&mut self, window: &Stats) -> Histogram<u64> {
        if self.windows.len() == RECENT {
            self.windows.pop_front();
        }
        self.windows.push_back(window.latency(self.metric).clone());
        let mut sum = window.latency(self.metric).clone();
        for earlier in self.windows.iter().rev().skip(1) {
            // All have the bounds of Stats.
            let _ = sum.add(earlier);
        }
        sum
    }
}

/// Lines below the bar.
const ROWS: usize = 5;

fn rows(
    moment: &Moment<'_>,
    calls: u64,
    acks: &Histogram<u64>,
    lags: &Histogram<u64>,
) -> [String; ROWS] {
    let seconds = (moment.now - moment.window_begin).max(1) as f64 / 1e9;
    let counts = &moment.window.counts;
    let frames = (counts.frames as f64 / seconds) as u64;
    let megabytes = counts.bytes as f64 / seconds / 1e6;
    let percent = |name: &str, value: Option<f64>| {
        value.map_or_else(String::new, |value| format!(", {name} {value:.0} % of a core"))
    };
    let reconnects = match moment.reconnects {
        0 => String::new(),
        number => format!(", {}", counted(number, "reconnect")),
    };
    [
        format!("  calls    {} of {} up", grouped(moment.calls_up), grouped(calls)),
        format!("  sent     {} frames/s, {megabytes:.1} MB/s", grouped(frames)),
        format!("  ack      {} (last {RECENT} s)", percentiles(acks, &[50.0, 99.0])),
        format!(
            "  lag      {}{}{}",
            percentiles(lags, &[99.9]),
            percent("exo-load", moment.own_cpu_percent),
            percent("node", moment.server_cpu_percent)
        ),
        format!("  errors   {}{reconnects}", grouped(moment.failures)),
    ]
}

/// Which part of the run it is, and the time left.
fn phase(moment: &Moment<'_>, over: u64) -> String {
    let name = match moment.now {
        now if now < moment.ramp => "calls come up",
        now if now < moment.end => "all calls are up",
        _ => "calls hang up",
    };
    let left = over.saturating_sub(moment.now).div_ceil(SECOND);
    format!("{name}, {left} s left")
}

/// A line for a pipe.
fn line(moment: &Moment<'_>) -> String {
    let up = counted(moment.calls_up, "call");
    let failures = counted(moment.failures, "failure");
    if moment.window_begin >= moment.end {
        return format!("{up} up, hanging up, {failures}");
    }
    let seconds = (moment.now - moment.window_begin).max(1) as f64 / 1e9;
    let acks = match percentiles(moment.window.latency(Metric::Ack), &[50.0, 99.9]) {
        none if none == NOTHING => "no acks".to_owned(),
        acks => format!("ack {acks}"),
    };
    format!(
        "{up} up, {:.0} frames/s, {acks}, {failures}",
        moment.window.counts.frames as f64 / seconds
    )
}

/// Nothing was measured. A zero would say that it took no time.
const NOTHING: &str = "-";

/// `p50 1.20 ms p99 3.40 ms`.
fn percentiles(histogram: &Histogram<u64>, wanted: &[f64]) -> String {
    if histogram.is_empty() {
        return NOTHING.to_owned();
    }
    let words = wanted.iter().map(|percentile| {
        format!("p{percentile} {}", show(histogram.value_at_percentile(*percentile)))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(window: &Stats) -> Moment<'_> {
        Moment {
            now: 12 * SECOND,
            window_begin: 11 * SECOND,
            end: 60 * SECOND,
            ramp: 10 * SECOND,
            calls_up: 4_000,
            failures: 2,
            reconnects: 0,
            window,
            own_cpu_percent: Some(31.4),
            server_cpu_percent: None,
        }
    }

    #[test]
    fn a_second_without_acks_shows_no_latency() {
        let mut stats = Stats::new();
        let moment_line = line(&moment(&stats));
        assert!(moment_line.contains("no acks") && !moment_line.contains("0 ns"), "{moment_line}");
        stats.record(Metric::Ack, 2_000_000);
        let line = line(&moment(&stats));
        assert!(line.contains("ack p50 2.00 ms p99.9 2.00 ms, 2 failures"), "{line}");
    }

    #[test]
    fn the_block_has_the_figures_of_the_last_seconds() {
        let mut recent = Recent::new(Metric::Ack);
        let mut stats = Stats::new();
        stats.record(Metric::Ack, 90_000_000);
        recent.add(&stats);
        let mut quick = Stats::new();
        quick.record(Metric::Ack, 1_000_000);
        quick.counts.frames = 20_000;
        quick.counts.bytes = 192_000_000;
        let acks = recent.add(&quick);
        let none = Histogram::new(3).unwrap();
        let text = rows(&moment(&quick), 4_000, &acks, &none).join("\n");
        for part in [
            "4,000 of 4,000 up",
            "20,000 frames/s, 192.0 MB/s",
            "p50 1.00 ms p99 90.0 ms",
            "lag      -, exo-load 31 % of a core",
            "errors   2",
        ] {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
        assert!(!text.contains("node"), "{text}");
        // Five windows later the slow one is forgotten.
        let last = (0..RECENT).map(|_| recent.add(&quick)).last().unwrap();
        assert_eq!((last.len(), last.max()), (RECENT as u64, quick.latency(Metric::Ack).max()));
    }

    #[test]
    fn the_time_left_goes_to_the_last_hang_up() {
        let stats = Stats::new();
        let at = |seconds| Moment { now: seconds * SECOND, ..moment(&stats) };
        assert_eq!(phase(&at(3), 70 * SECOND), "calls come up, 67 s left");
        assert_eq!(phase(&at(30), 70 * SECOND), "all calls are up, 40 s left");
        assert_eq!(phase(&at(75), 70 * SECOND), "calls hang up, 0 s left");
    }
}
