//! One run from its plan to its judgement: what `run` does once and `capacity` again and again.

use std::error::Error;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{HEAD_START, RunArgs};
use crate::ledger::{Ledger, Speech};
use crate::plan::Plan;
use crate::report::Report;
use crate::stats::Recorder;
use crate::{files, host, monitor, results, verify, worker};

/// A run that is over.
pub struct Played {
    /// What it set out to do.
    pub plan: Arc<Plan>,
    /// What came of it.
    pub report: Report,
}

/// The flag that Ctrl-C sets: calls stop in order and the run still reports. A second one ends the process at once.
pub fn cut_on_interrupt() -> std::io::Result<Arc<AtomicBool>> {
    let cut = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, cut.clone())?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, cut.clone())?;
    Ok(cut)
}

/// Plays, verifies, judges and writes the files of `--out`.
pub fn play_and_judge(args: &RunArgs, cut: &Arc<AtomicBool>, baseline: Option<&Value>) -> Result<Played, Box<dyn Error>> {
    if let Some(directory) = &args.out {
        files::prepare(directory)?;
    }
    if let Some(data_dir) = &args.verify {
        verify::check(data_dir)?;
    }
    if args.realtime {
        host::check_realtime()?;
    }
    let plan = Arc::new(args.plan(cut.clone())?);
    if !plan.cpus.is_empty() {
        // The main thread too: it must not take time from a server on the other CPUs.
        host::pin(&plan.cpus).map_err(host::HostError::Cpus)?;
    }
    knock(&plan)?;
    if args.start_at.is_some() {
        await_start(&plan);
    }
    let outcome = play(&plan, args)?;
    let verification =
        args.verify.as_deref().map(|data_dir| verify::verify(data_dir, &outcome.ledger, &plan.audio, plan.workers()));
    let mut report = Report::new(args, &plan, &outcome, verification);
    if let Some(baseline) = baseline {
        report.compare(baseline, args.baseline_margin)?;
    }
    if let Some(directory) = &args.out {
        files::write(directory, &report, &outcome, args.note.as_deref())?;
        results::html::write(directory)?;
    }
    Ok(Played { plan, report })
}

/// Waits for `--start-at`, less the time that workers need to get ready.
fn await_start(plan: &Plan) {
    while !plan.is_cut() {
        let remaining = plan.clock.instant(0).saturating_duration_since(Instant::now());
        let wait = remaining.saturating_sub(HEAD_START);
        if wait.is_zero() {
            return;
        }
        std::thread::sleep(wait.min(Duration::from_millis(100)));
    }
}

/// Finds out whether anybody listens, before thousands of calls do.
fn knock(plan: &Plan) -> Result<(), String> {
    let wait = plan.setup_timeout.clamp(Duration::from_millis(1), Duration::from_secs(5));
    TcpStream::connect_timeout(&plan.address(), wait)
        .map(drop)
        .map_err(|error| format!("nothing answers at {} ({error}); start a node there, or give its --url", plan.address()))
}

fn play(plan: &Arc<Plan>, args: &RunArgs) -> Result<monitor::Outcome, Box<dyn Error>> {
    let (done_tx, done_rx) = mpsc::channel::<()>();
    let recorders: Vec<_> = (0..plan.workers()).map(|_| Arc::new(Recorder::new())).collect();
    let mut threads = Vec::new();
    for (index, recorder) in recorders.iter().enumerate() {
        let (plan, recorder, done) = (plan.clone(), recorder.clone(), done_tx.clone());
        let body = move || {
            let result = worker::run(plan, recorder, index);
            drop(done);
            result
        };
        threads.push(std::thread::Builder::new().name(format!("exo-load-{index}")).spawn(body)?);
    }
    drop(done_tx);
    host::yield_to_workers();
    let outcome = monitor::watch(plan, &recorders, &done_rx, args.server_pid);
    if outcome.is_err() {
        plan.cut.store(true, Ordering::Relaxed);
    }
    for thread in threads {
        let result = thread.join().map_err(|_| "a worker thread failed; this is a fault of exo-load")?;
        result.map_err(|error| {
            format!(
                "cannot run on io_uring ({error}); check sysctl kernel.io_uring_disabled, the container's seccomp profile \
                 and the locked memory limit"
            )
        })?;
    }
    let mut outcome = outcome?;
    let entries = recorders.iter().flat_map(|recorder| recorder.take_entries()).collect();
    outcome.ledger = Ledger::new(Speech::of(plan, &args.audio), entries);
    Ok(outcome)
}
