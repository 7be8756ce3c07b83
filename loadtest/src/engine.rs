//! One run, from its plan to its verdict. `run` does it once, `capacity` several times.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::RunArgs;
use crate::ledger::Ledger;
use crate::live::Live;
use crate::monitor::Outcome;
use crate::plan::{HEAD_START, Plan};
use crate::report::Report;
use crate::stats::Recorder;
use crate::verdict::INTERRUPTED;
use crate::{admin, files, host, monitor, player, results, ring, tls, verify};

/// A run that is over.
pub struct Played {
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its result.
    pub report: Report,
}

/// The flag that Ctrl-C sets: the calls stop in order, and the run still reports. A second Ctrl-C
/// ends the process at once. SIGTERM does the same, so that `timeout` does not lose the results.
pub fn cut_on_interrupt() -> std::io::Result<Arc<AtomicBool>> {
    let cut = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(INTERRUPTED),
            cut.clone(),
        )?;
        signal_hook::flag::register(signal, cut.clone())?;
    }
    Ok(cut)
}

/// Plays, verifies, judges and writes the files of `--out`.
pub fn play_and_judge(
    args: &RunArgs,
    cut: &Arc<AtomicBool>,
    baseline: Option<&Value>,
) -> Result<Played, Box<dyn Error>> {
    if let Some(directory) = &args.out {
        files::prepare(directory, files::Holds::Run, args.force)?;
    }
    args.play.check()?;
    let plan = Arc::new(Plan::new(args, cut.clone())?);
    if !plan.cpus.is_empty() {
        // The main thread too: it must not take time from a server on the other CPUs.
        host::pin(&plan.cpus).map_err(host::HostError::Cpus)?;
    }
    knock(&plan, args)?;
    let node_tls =
        plan.tls.as_ref().and(args.admin.as_deref()).map(admin::tls_counters).transpose()?;
    if args.start_at.is_some() {
        await_start(&plan);
    }
    let mut outcome = play(&plan, args)?;
    if let (Some(before), Some(address)) = (node_tls, &args.admin) {
        // If the node does not answer any more, its calls have failed and say so.
        outcome.node_tls =
            admin::tls_counters(address).ok().map(|after| admin::growth(&before, &after));
    }
    let mut report = judge(args, &plan, &outcome);
    if let Some(baseline) = baseline {
        report.compare(baseline, args.baseline_margin)?;
    }
    if let Some(directory) = &args.out {
        files::write(directory, &report, &outcome, args.play.note.as_deref())?;
        results::html::write(directory)?;
    }
    Ok(Played { plan, report })
}

/// Compares the journal with what was sent, if `--verify` is given, and judges the run.
pub fn judge(args: &RunArgs, plan: &Plan, outcome: &Outcome) -> Report {
    let data_dir = args.play.verify.as_deref();
    let verification =
        data_dir.map(|dir| verify::verify(dir, &outcome.ledger, &plan.audio, plan.workers()));
    Report::new(args, plan, outcome, verification)
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

/// Connects once before thousands of calls do: is there a node, and with TLS, can it be trusted?
pub fn knock(plan: &Plan, args: &RunArgs) -> Result<(), String> {
    if args.tls.insecure {
        eprintln!(
            "exo-load: --insecure: the node's certificate is not checked, so an impostor could \
             take the tokens"
        );
    }
    tls::knock(&plan.target, plan.tls.as_deref(), plan.setup_timeout)
}

/// Plays a plan's calls to their end.
pub fn play(plan: &Arc<Plan>, args: &RunArgs) -> Result<Outcome, Box<dyn Error>> {
    let (done_tx, done_rx) = mpsc::channel::<()>();
    let recorders: Vec<_> = (0..plan.workers()).map(|_| Arc::new(Recorder::new())).collect();
    let mut threads = Vec::new();
    for (index, recorder) in recorders.iter().enumerate() {
        let (plan, recorder, done) = (plan.clone(), recorder.clone(), done_tx.clone());
        let body = move || {
            let result = player::run(plan, recorder, index);
            drop(done);
            result
        };
        threads.push(std::thread::Builder::new().name(format!("exo-load-{index}")).spawn(body)?);
    }
    drop(done_tx);
    host::yield_to_workers();
    let over = plan.schedule.end + plan.schedule.hang_up();
    let calls = plan.schedule.calls;
    let live = Live::new(calls, over, args.play.title.as_deref(), args.play.quiet);
    let outcome = monitor::watch(plan, &recorders, &done_rx, args.play.server_pid, live);
    if outcome.is_err() {
        plan.cut.store(true, Ordering::Relaxed);
    }
    for thread in threads {
        let result =
            thread.join().map_err(|_| "a worker thread failed; this is a fault of exo-load")?;
        result.map_err(ring::no_ring)?;
    }
    let mut outcome = outcome?;
    let entries = recorders.iter().flat_map(|recorder| recorder.take_entries()).collect();
    outcome.ledger = Ledger::new(plan.expected_audio(&args.audio), entries);
    Ok(outcome)
}
