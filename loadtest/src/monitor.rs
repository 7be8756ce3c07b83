//! The main thread while calls are played. It collects figures once a second, samples both
//! processes at the start and the end of the steady part, and has [`Live`] show progress.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::host::{self, HostError, ServerSample};
use crate::ledger::Ledger;
use crate::live::{Live, Moment};
use crate::plan::Plan;
use crate::stats::{LOGGED, Metric, Recorder, Stats};

/// Nanoseconds from one collection to the next.
const INTERVAL: u64 = 1_000_000_000;

/// What was measured in a run.
pub struct Outcome {
    /// From the first connect to the last Close.
    pub whole: Stats,
    /// From the end of the ramp to the end of the audio.
    pub steady: Stats,
    /// At the start and the end of the steady part; none if the run did not get there.
    pub steady_samples: Option<(Sample, Sample)>,
    /// The server before the first call.
    pub server_idle: Option<ServerSample>,
    /// At the start of the steady part, at the storm, and when the storm was over.
    pub storm_samples: Option<([StormSample; 2], Option<StormSample>)>,
    /// The growth of the node's own counters of TLS, with `--admin`. Filled in at the end.
    pub node_tls: Option<BTreeMap<String, u64>>,
    /// Most calls that were up at once.
    pub calls_up_max: i64,
    /// `latency.hlog`.
    pub log: Vec<u8>,
    /// `intervals.csv`.
    pub csv: String,
    /// Ctrl-C ended it.
    pub cut: bool,
    /// What each connection sent, and what was promised. Filled in when all workers have ended.
    pub ledger: Ledger,
}

/// Both processes at one moment.
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

/// Both processes at one moment, and the frames of the steady part that were sent by then.
#[derive(Debug, Clone, Copy)]
pub struct StormSample {
    /// The processes.
    pub sample: Sample,
    /// Frames.
    pub frames: u64,
}

impl Outcome {
    /// Nothing measured yet.
    pub fn new(server_idle: Option<ServerSample>) -> Self {
        Self {
            whole: Stats::new(),
            steady: Stats::new(),
            steady_samples: None,
            server_idle,
            storm_samples: None,
            node_tls: None,
            calls_up_max: 0,
            log: Vec::new(),
            csv: CSV_HEAD.to_owned(),
            cut: false,
            ledger: Ledger::default(),
        }
    }
}

/// Watches until the workers have ended: they hold the senders of `done`.
pub fn watch(
    plan: &Plan,
    recorders: &[Arc<Recorder>],
    done: &Receiver<()>,
    server_pid: Option<u32>,
    mut live: Live,
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
    let mut finished = false;
    while !finished {
        let wait = watcher.next_look().saturating_sub(plan.clock.now());
        finished =
            done.recv_timeout(Duration::from_nanos(wait)) == Err(RecvTimeoutError::Disconnected);
        let (begin, now) = watcher.look(recorders, finished)?;
        let window = &watcher.window;
        for metric in LOGGED {
            if !window.latency(metric).is_empty() {
                let (start, length) =
                    (Duration::from_nanos(begin), Duration::from_nanos(now - begin));
                writer.write_histogram(
                    window.latency(metric),
                    start,
                    length,
                    Tag::new(metric.name()),
                )?;
            }
        }
        live.show(&watcher.moment(now));
        watcher.close_window();
    }
    live.finish();
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
    /// CPU time of the server at the start of the window, nanoseconds.
    server_cpu: Option<u64>,
    /// CPU of exo-load and of the server in the last window, percent of a core.
    cpu_percent: [Option<f64>; 2],
}

impl<'a> Watcher<'a> {
    fn new(plan: &'a Plan, server_pid: Option<u32>) -> Result<Self, HostError> {
        let outcome = Outcome::new(server_pid.map(host::sample_server).transpose()?);
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
            server_cpu: None,
            cpu_percent: [None, None],
        };
        watcher.server_cpu = watcher.outcome.server_idle.map(|idle| idle.user_ns + idle.system_ns);
        if plan.schedule.ramp == 0 {
            watcher.steady_begin = Some(watcher.sample(0)?);
        }
        Ok(watcher)
    }

    /// The next full second, or the start or end of the steady part if that comes first.
    fn next_look(&self) -> u64 {
        let begin = self.window_begin;
        let second = (begin / INTERVAL + 1) * INTERVAL;
        let storm = self.plan.storm.as_ref().map(|storm| storm.plan.at);
        let ends = [self.plan.schedule.ramp, self.plan.schedule.end];
        ends.into_iter().chain(storm).filter(|at| *at > begin).fold(second, u64::min)
    }

    /// Collects the window. Returns its start and its end.
    fn look(
        &mut self,
        recorders: &[Arc<Recorder>],
        finished: bool,
    ) -> Result<(u64, u64), HostError> {
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
        self.look_at_storm(now)?;
        if let Some(begin) = self.steady_begin
            && self.outcome.steady_samples.is_none()
            && (now >= schedule.end || finished || self.plan.is_cut())
            && begin.at < now
        {
            // If the server has ended, its calls have failed and say so.
            if let Ok(sample) = self.sample(now) {
                self.outcome.steady_samples = Some((begin, sample));
            }
        }
        Ok((self.window_begin, now))
    }

    /// Samples the start and the end of the storm, to the second. The report subtracts the cost of
    /// the frames in between, by their number.
    fn look_at_storm(&mut self, now: u64) -> Result<(), HostError> {
        let Some(storm) = &self.plan.storm else { return Ok(()) };
        let frames = self.outcome.steady.counts.frames;
        match (self.steady_begin, self.outcome.storm_samples) {
            (Some(calm), None) if now >= storm.plan.at => {
                let begin = StormSample { sample: self.sample(now)?, frames };
                self.outcome.storm_samples =
                    Some(([StormSample { sample: calm, frames: 0 }, begin], None));
            }
            // If the server has ended, its calls have failed and say so.
            (_, Some((begun, None))) if storm.over_at().is_some_and(|over_at| now >= over_at) => {
                let end = self.sample(now).ok().map(|sample| StormSample { sample, frames });
                self.outcome.storm_samples = Some((begun, end));
            }
            _ => {}
        }
        Ok(())
    }

    /// What the view shows.
    fn moment(&self, now: u64) -> Moment<'_> {
        let schedule = &self.plan.schedule;
        Moment {
            now,
            window_begin: self.window_begin,
            end: schedule.end,
            ramp: schedule.ramp,
            calls_up: u64::try_from(self.calls_up).unwrap_or(0),
            failures: self.outcome.whole.failure_count(),
            reconnects: self.outcome.whole.counts.reconnects,
            window: &self.window,
            own_cpu_percent: self.cpu_percent[0],
            server_cpu_percent: self.cpu_percent[1],
        }
    }

    fn sample(&self, at: u64) -> Result<Sample, HostError> {
        let server = self.server_pid.map(host::sample_server).transpose()?;
        Ok(Sample { at, own_cpu: host::own_cpu(), own_rss: host::own_rss(), server })
    }

    /// Writes the window's line and starts the next one.
    fn close_window(&mut self) {
        let now = self.plan.clock.now().max(self.window_begin + 1);
        let cpu = host::own_cpu();
        let share = |cpu: u64| cpu as f64 * 100.0 / (now - self.window_begin) as f64;
        // If the server has ended, its calls have failed and say so.
        let server = self.server_pid.and_then(|pid| host::sample_server(pid).ok());
        let server = server.map(|sample| sample.user_ns + sample.system_ns);
        let server_share = server.zip(self.server_cpu);
        let server_share = server_share.map(|(now, before)| share(now.saturating_sub(before)));
        let busy = share(cpu - self.own_cpu);
        let line = csv_line(now, self.calls_up, &self.window, busy, server_share);
        self.outcome.csv.push_str(&line);
        (self.own_cpu, self.server_cpu) = (cpu, server);
        self.cpu_percent = [Some(busy), server_share];
        self.window.reset();
        self.window_begin = now;
    }
}

const CSV_HEAD: &str = "seconds,calls_up,frames,bytes,acks,failures,reconnects,pushbacks,\
    ack_p50_us,ack_p99_us,ack_p999_us,ack_max_us,setup_count,setup_p99_us,\
    sendlag_p999_us,sendlag_max_us,generator_cpu_percent,\
    storm_setup_count,storm_setup_p99_us,handshakes_full,handshakes_resumed,\
    server_cpu_percent\n";

fn csv_line(
    now: u64,
    calls_up: i64,
    window: &Stats,
    busy: f64,
    server_busy: Option<f64>,
) -> String {
    // Empty where nothing was measured: a zero would say that it took no time.
    let us = |metric: Metric, percentile: f64| {
        let histogram = window.latency(metric);
        let is_measured = !histogram.is_empty();
        if is_measured {
            (histogram.value_at_percentile(percentile) / 1_000).to_string()
        } else {
            String::new()
        }
    };
    let counts = &window.counts;
    format!(
        "{:.3},{calls_up},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{busy:.1},{},{},{},{},{}\n",
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
        window.latency(Metric::StormSetup).len(),
        us(Metric::StormSetup, 99.0),
        window.handshakes.full,
        window.handshakes.resumed,
        server_busy.map_or_else(String::new, |percent| format!("{percent:.1}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_without_acks_has_no_figures_in_the_csv() {
        let mut window = Stats::new();
        window.record(Metric::Sendlag, 2_000_000);
        let line = csv_line(1_000_000_000, 1, &window, 1.0, None);
        assert_eq!(line, "1.000,1,0,0,0,0,0,0,,,,,0,,2000,2000,1.0,0,,0,0,\n");
        assert!(csv_line(1, 1, &window, 1.0, Some(50.06)).ends_with(",50.1\n"));
        assert_eq!(line.split(',').count(), CSV_HEAD.split(',').count());
    }
}
