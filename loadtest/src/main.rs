//! `exo-load`: plays telephony calls at an ingest node in real time, and checks every answer.
//!
//! On purpose a second implementation of the protocol: nothing here comes from the node's crate. Sockets are
//! tokio-uring's, frames and handshake tungstenite's.
//!
//! The way of a call, and of this crate: [`cli`] settles a [`plan`]; [`worker`]s, one thread each, open calls by the
//! [`schedule`]; a [`call`] connects through [`wire`], reads [`event`]s and checks [`acks`], while its [`mod@line`] sends
//! [`audio`] as it falls due; all count into [`stats`], which [`monitor`] collects once a second; [`report`] judges,
//! [`files`] keeps. What calls sent and were promised goes into a [`ledger`], which [`verify`] holds the node's journal against.
//!
//! The schedule is open-loop: a frame's due time depends on nothing the node does, and an ack's latency counts from
//! when its tenth frame was due. So a node that stalls cannot hide the waiting it causes.

#![forbid(unsafe_code)]

mod acks;
mod audio;
mod backoff;
mod call;
mod cli;
mod duration;
mod event;
mod failure;
mod files;
mod host;
mod ledger;
mod line;
mod monitor;
mod plan;
mod report;
mod results;
mod schedule;
mod slo;
mod stats;
mod target;
mod token;
mod verify;
mod wire;
mod worker;

use std::error::Error;
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use crate::cli::{Cli, Command, CompareArgs, MergeArgs, RunArgs, VerifyArgs};
use crate::ledger::{Ledger, Speech};
use crate::report::{Report, Verdict};
use crate::results::RunDir;
use crate::results::compare::Comparison;
use crate::stats::Recorder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code where nothing was tested.
const COULD_NOT_RUN: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code for a wrong command line is 2, which here means that a check failed.
            let _ = error.print();
            return if error.use_stderr() { COULD_NOT_RUN.into() } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Verify(args) => verify_later(&args),
        Command::Compare(args) => compare(&args),
        Command::Merge(args) => merge(&args),
        Command::Report(args) => results::html::write(&args.run).map(|()| 0).map_err(Into::into),
    };
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("exo-load: {error}");
            COULD_NOT_RUN.into()
        }
    }
}

fn run(args: &RunArgs) -> Result<u8, Box<dyn Error>> {
    if let Some(directory) = &args.out {
        files::prepare(directory)?;
    }
    if let Some(data_dir) = &args.verify {
        verify::check(data_dir)?;
    }
    let baseline = args.baseline.as_deref().map(|directory| baseline(directory, args)).transpose()?;
    let plan = Arc::new(args.plan()?);
    if !plan.cpus.is_empty() {
        // The main thread too: it must not take time from a server on the other CPUs.
        host::pin(&plan.cpus).map_err(host::HostError::Cpus)?;
    }
    knock(&plan)?;
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, plan.cut.clone())?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, plan.cut.clone())?;
    while plan.clock.now() == 0 && args.start_at.is_some() && !plan.is_cut() {
        let remaining = plan.clock.instant(0).saturating_duration_since(Instant::now());
        let Some(wait) = remaining.checked_sub(cli::HEAD_START) else { break };
        std::thread::sleep(wait.min(Duration::from_millis(100)));
    }
    let outcome = play(&plan, args)?;
    let verification =
        args.verify.as_deref().map(|data_dir| verify::verify(data_dir, &outcome.ledger, &plan.audio, plan.workers()));
    let mut report = Report::new(args, &plan, &outcome, verification);
    if let Some(baseline) = &baseline {
        report.compare(baseline, args.baseline_margin)?;
    }
    if let Some(directory) = &args.out {
        files::write(directory, &report, &outcome)?;
        results::html::write(directory)?;
    }
    if args.json {
        println!("{:#}", report.json);
    } else {
        println!("{}", report.table(args, &plan));
    }
    Ok(report.verdict.exit_code())
}

/// The result to compare with: refused before the run where it would prove nothing.
fn baseline(directory: &Path, args: &RunArgs) -> Result<serde_json::Value, String> {
    let baseline = results::read_result(directory).map_err(|error| format!("--baseline: {error}"))?;
    let verdict = baseline["verdict"].as_str().and_then(Verdict::parse);
    if !matches!(verdict, Some(Verdict::Pass | Verdict::Worse)) {
        return Err(format!("--baseline: the run in {} did not pass: its figures prove nothing", directory.display()));
    }
    let ours = json!({"run": {
        "calls": args.calls,
        "frame_bytes": args.frame_size()?,
        "frame_ms": args.frame_ms,
        "sample_rate": args.sample_rate,
        "ack_level": args.ack_level,
        "reconnect": args.reconnect,
    }});
    let differences = results::compare::differences(&baseline, &ours);
    if !differences.is_empty() {
        let (directory, differences) = (directory.display(), differences.join("; "));
        return Err(format!(
            "--baseline: the run in {directory} was another one ({differences}); play the same, or give another"
        ));
    }
    Ok(baseline)
}

fn compare(args: &CompareArgs) -> Result<u8, Box<dyn Error>> {
    let (before, after) = (results::read_result(&args.before)?, results::read_result(&args.after)?);
    let comparison = Comparison::new(&before, &after, args.margin);
    if args.json {
        println!("{:#}", serde_json::to_value(&comparison)?);
    } else {
        let mut table = String::new();
        comparison.write(&mut table)?;
        print!("{table}");
    }
    Ok(0)
}

fn merge(args: &MergeArgs) -> Result<u8, Box<dyn Error>> {
    let runs = args.runs.iter().map(|path| RunDir::read(path)).collect::<Result<Vec<_>, _>>()?;
    let result = results::merge::merge(&runs, &args.out)?;
    results::html::write(&args.out)?;
    if args.json {
        println!("{result:#}");
    } else {
        print!("{}", results::html::table(&result));
    }
    Ok(result["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok()).unwrap_or(COULD_NOT_RUN))
}

fn verify_later(args: &VerifyArgs) -> Result<u8, Box<dyn Error>> {
    verify::check(&args.data_dir)?;
    let ledger = Ledger::read(&args.run)?;
    host::make_room_for(0)?;
    let verification = verify::verify(&args.data_dir, &ledger, &ledger.speech.audio()?, usize::from(args.threads));
    if args.json {
        println!("{:#}", serde_json::to_value(&verification)?);
    } else {
        let mut table = String::new();
        verification.write(&mut table)?;
        println!("{table}\n{}", if verification.holds() { "PASS" } else { "FAIL" });
    }
    Ok(if verification.holds() { Verdict::Pass } else { Verdict::Fail }.exit_code())
}

/// Finds out whether anybody listens, before thousands of calls do.
fn knock(plan: &plan::Plan) -> Result<(), String> {
    let wait = plan.setup_timeout.clamp(Duration::from_millis(1), Duration::from_secs(5));
    TcpStream::connect_timeout(&plan.address(), wait)
        .map(drop)
        .map_err(|error| format!("nothing answers at {} ({error}); start a node there, or give its --url", plan.address()))
}

fn play(plan: &Arc<plan::Plan>, args: &RunArgs) -> Result<monitor::Outcome, Box<dyn Error>> {
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
        plan.cut.store(true, std::sync::atomic::Ordering::Relaxed);
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
