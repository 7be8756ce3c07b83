//! The main thread while calls are played: collects once a second, looks at both processes at the ends of the steady
//! part, shows progress.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::host::{self, HostError, ServerSample};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::stats::{Metric, Recorder, Stats};

/// Nanoseconds from one collection to the next.
const INTERVAL: u64 = 1_000_000_000;

/// In a pipe, a line of progress at most this often.
const LINE_EVERY: u64 = 10 * INTERVAL;

/// What a run brought.
pub struct Outcome {
    /// From the first connect to the last Close.
    pub whole: Stats,
    /// Only from the end of the ramp to the end of the audio.
    pub steady: Stats,
    /// At the steady part's ends; none if the run did not get there.
    pub steady_samples: Option<(Sample, Sample)>,
    /// The server before the first call.
    pub server_idle: Option<ServerSample>,
    /// Most calls that were up at once.
    pub calls_up_max: i64,
    /// `latency.hlog`.
    pub log: Vec<u8>,
    /// `intervals.csv`.
    pub csv: String,
    /// Ctrl-C ended it.
    pub cut: bool,
    /// What each connection sent, and was promised. Filled in once all workers are gone.
    pub ledger: Ledger,
}

/// A look at both processes.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Nanoseconds since the start.
    pub at: u64,
    /// CPU time of the generator, nanoseconds.
    pub own_cpu: u64,
    /// Resident memory of the generator, bytes.
    pub own_rss: u64,
    /// The server.
    pub server: Option<ServerSample>,
}

/// Watches until the workers are gone: they hold the senders of `done`.
pub fn watch(
    plan: &Plan,
    recorders: &[Arc<Recorder>],
    done: &Receiver<()>,
    server_pid: Option<u32>,
) -> Result<Outcome, Box<dyn std::error::Error>> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = Vec::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Logged with exo-load; values in nanoseconds]")
        .with_base_time(SystemTime::now())
        .with_start_time(SystemTime::now())
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut log, &mut serializer)?;
    let mut watcher = Watcher::new(plan, server_pid)?;
    let progress = Progress::new(plan);
    let mut finished = false;
    while !finished {
        let wait = watcher.next_look().saturating_sub(plan.clock.now());
        finished = done.recv_timeout(Duration::from_nanos(wait)) == Err(RecvTimeoutError::Disconnected);
        let (begin, now) = watcher.look(recorders, finished)?;
        let window = &watcher.window;
        for metric in [Metric::Ack, Metric::Setup, Metric::Sendlag] {
            if !window.latency(metric).is_empty() {
                let (start, length) = (Duration::from_nanos(begin), Duration::from_nanos(now - begin));
                writer.write_histogram(window.latency(metric), start, length, Tag::new(metric.name()))?;
            }
        }
        progress.show(&watcher, now);
        watcher.close_window();
    }
    progress.bar.finish_and_clear();
    let mut outcome = watcher.outcome;
    outcome.log = log;
    outcome.cut = plan.is_cut();
    Ok(outcome)
}

struct Watcher<'a> {
    plan: &'a Plan,
    server_pid: Option<u32>,
    outcome: Outcome,
    /// The current interval, all workers together.
    window: Stats,
    spare: Stats,
    window_begin: u64,
    calls_up: i64,
    steady_begin: Option<Sample>,
    own_cpu: u64,
}

impl<'a> Watcher<'a> {
    fn new(plan: &'a Plan, server_pid: Option<u32>) -> Result<Self, HostError> {
        let outcome = Outcome {
            whole: Stats::new(),
            steady: Stats::new(),
            steady_samples: None,
            server_idle: server_pid.map(host::sample_server).transpose()?,
            calls_up_max: 0,
            log: Vec::new(),
            csv: CSV_HEAD.to_owned(),
            cut: false,
            ledger: Ledger::default(),
        };
        let mut watcher = Self {
            plan,
            server_pid,
            outcome,
            window: Stats::new(),
            spare: Stats::new(),
            window_begin: 0,
            calls_up: 0,
            steady_begin: None,
            own_cpu: host::own_cpu(),
        };
        if plan.schedule.ramp == 0 {
            watcher.steady_begin = Some(watcher.sample(0)?);
        }
        Ok(watcher)
    }

    /// The next full second, or an end of the steady part before it.
    fn next_look(&self) -> u64 {
        let begin = self.window_begin;
        let second = (begin / INTERVAL + 1) * INTERVAL;
        let ends = [self.plan.schedule.ramp, self.plan.schedule.end];
        ends.into_iter().filter(|at| *at > begin).fold(second, u64::min)
    }

    /// Collects the window; its begin and end.
    fn look(&mut self, recorders: &[Arc<Recorder>], finished: bool) -> Result<(u64, u64), HostError> {
        let now = self.plan.clock.now().max(self.window_begin + 1);
        for recorder in recorders {
            recorder.collect(&mut self.spare, &mut self.window);
        }
        self.calls_up = recorders.iter().map(|recorder| recorder.calls_up()).sum();
        self.outcome.calls_up_max = self.outcome.calls_up_max.max(self.calls_up);
        self.outcome.whole.merge(&self.window);
        let schedule = &self.plan.schedule;
        if self.steady_begin.is_some() && self.outcome.steady_samples.is_none() {
            self.outcome.steady.merge(&self.window);
        }
        if self.steady_begin.is_none() && now >= schedule.ramp && !finished {
            self.steady_begin = Some(self.sample(now)?);
        }
        if let Some(begin) = self.steady_begin
            && self.outcome.steady_samples.is_none()
            && (now >= schedule.end || finished || self.plan.is_cut())
            && begin.at < now
        {
            // A server that is gone by now has shown so in its calls.
            if let Ok(sample) = self.sample(now) {
                self.outcome.steady_samples = Some((begin, sample));
            }
        }
        Ok((self.window_begin, now))
    }

    /// How things are, for a person.
    fn message(&self, now: u64) -> String {
        let (calls_up, failures) = (self.calls_up, self.outcome.whole.failure_count());
        if self.window_begin >= self.plan.schedule.end {
            return format!("{calls_up} calls up, hanging up, {failures} failures");
        }
        let ack = self.window.latency(Metric::Ack);
        let seconds = (now - self.window_begin) as f64 / 1e9;
        format!(
            "{calls_up} calls up, {:.0} frames/s, {}, {failures} failures",
            self.window.counts.frames as f64 / seconds,
            ack_words(ack),
        )
    }

    fn sample(&self, at: u64) -> Result<Sample, HostError> {
        let server = self.server_pid.map(host::sample_server).transpose()?;
        Ok(Sample { at, own_cpu: host::own_cpu(), own_rss: host::own_rss(), server })
    }

    /// Writes the window's line and starts the next one.
    fn close_window(&mut self) {
        let now = self.plan.clock.now().max(self.window_begin + 1);
        let cpu = host::own_cpu();
        let busy = (cpu - self.own_cpu) as f64 * 100.0 / (now - self.window_begin) as f64;
        self.outcome.csv.push_str(&csv_line(now, self.calls_up, &self.window, busy));
        self.own_cpu = cpu;
        self.window.reset();
        self.window_begin = now;
    }
}

const CSV_HEAD: &str = "seconds,calls_up,frames,bytes,acks,failures,reconnects,pushbacks,\
    ack_p50_us,ack_p99_us,ack_p999_us,ack_max_us,setup_count,setup_p99_us,\
    sendlag_p999_us,sendlag_max_us,generator_cpu_percent\n";

fn csv_line(now: u64, calls_up: i64, window: &Stats, busy: f64) -> String {
    let us = |metric: Metric, percentile: f64| window.latency(metric).value_at_percentile(percentile) / 1_000;
    let counts = &window.counts;
    format!(
        "{:.3},{calls_up},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{busy:.1}\n",
        now as f64 / 1e9,
        counts.frames,
        counts.bytes,
        counts.acks,
        window.failure_count(),
        counts.reconnects,
        counts.pushbacks,
        us(Metric::Ack, 50.0),
        us(Metric::Ack, 99.0),
        us(Metric::Ack, 99.9),
        us(Metric::Ack, 100.0),
        window.latency(Metric::Setup).len(),
        us(Metric::Setup, 99.0),
        us(Metric::Sendlag, 99.9),
        us(Metric::Sendlag, 100.0),
    )
}

struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some((plan.schedule.end + plan.schedule.hang_up()) / INTERVAL), target);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} s  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, terminal }
    }

    fn show(&self, watcher: &Watcher<'_>, now: u64) {
        let full_line = now / LINE_EVERY != watcher.window_begin / LINE_EVERY;
        if !self.terminal && !full_line {
            return;
        }
        let message = watcher.message(now);
        if self.terminal {
            self.bar.set_position(now / INTERVAL);
            self.bar.set_message(message);
        } else {
            eprintln!("{:>5} s  {message}", now / INTERVAL);
        }
    }
}

/// The latencies of a second's acks. One call has them every two seconds: in between there are none, and 0 ns would be a lie.
fn ack_words(ack: &Histogram<u64>) -> String {
    if ack.is_empty() {
        return "no acks".to_owned();
    }
    let show = |percentile| crate::duration::show(ack.value_at_percentile(percentile));
    format!("ack p50 {} p99.9 {}", show(50.0), show(99.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_without_acks_shows_no_latency() {
        let mut ack = Histogram::new(3).unwrap();
        assert_eq!(ack_words(&ack), "no acks");
        ack.record(2_000_000).unwrap();
        assert_eq!(ack_words(&ack), "ack p50 2.00 ms p99.9 2.00 ms");
    }
}
