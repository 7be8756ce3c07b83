//! The commands, each from its flags to its exit code.

use std::error::Error;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use exo_manual::{CompletionsArgs, ManArgs};
use serde_json::json;

use crate::cli::{
    Cli, CompareArgs, HandshakesArgs, MergeArgs, PlanArgs, ReportArgs, RunArgs, VerifyArgs,
};
use crate::ledger::Ledger;
use crate::results::compare::Comparison;
use crate::results::sizing::machine::Machine;
use crate::results::sizing::{self, Question, Traffic};
use crate::results::{self, RunDir};
use crate::verdict::Verdict;
use crate::{engine, handshakes, host, verify};

/// An exit code, or why nothing was done.
type Done = Result<u8, Box<dyn Error>>;

/// `run`.
pub fn run(args: &RunArgs) -> Done {
    let baseline =
        args.baseline.as_deref().map(|directory| baseline(directory, args)).transpose()?;
    let played = engine::play_and_judge(args, &engine::cut_on_interrupt()?, baseline.as_ref())?;
    if args.play.json {
        println!("{:#}", played.report.json);
    } else {
        print!("{}", results::table::table(&played.report.json));
    }
    Ok(played.report.exit_code())
}

/// The result to compare with: refused before the run where it would prove nothing.
fn baseline(directory: &Path, args: &RunArgs) -> Result<serde_json::Value, String> {
    let baseline =
        results::read_result(directory).map_err(|error| format!("--baseline: {error}"))?;
    if let Some(objection) = results::objection(&baseline) {
        return Err(format!("--baseline: the run in {} {objection}", directory.display()));
    }
    let ours = json!({"run": {
        "calls": args.calls,
        "frame_bytes": args.frame_size()?,
        "frame_ms": args.play.frame_ms,
        "sample_rate": args.sample_rate,
        "ack_level": args.ack_level,
        "reconnect": args.reconnect,
        "realtime": args.play.realtime,
        "tls": args.play.url.starts_with("wss:"),
        "tls_resume": args.tls.tls_resume,
        "reconnect_all_at_s": args.storm.reconnect_all_at.map(|at| at.as_secs_f64()),
        "churn": args.storm.churn,
    }});
    let differences = results::compare::differences(&baseline, &ours);
    if !differences.is_empty() {
        let (directory, differences) = (directory.display(), differences.join("; "));
        return Err(format!(
            "--baseline: the run in {directory} was another one ({differences}); play the same, \
             or give another"
        ));
    }
    Ok(baseline)
}

/// `compare`.
pub fn compare(args: &CompareArgs) -> Done {
    let (before, after) = (results::read_result(&args.before)?, results::read_result(&args.after)?);
    let comparison = Comparison::new(&before, &after, args.margin);
    let json = serde_json::to_value(&comparison)?;
    if args.json {
        println!("{json:#}");
    } else {
        let mut table = String::new();
        results::compare::write(&mut table, &json)?;
        print!("{table}");
    }
    for (directory, result) in [(&args.before, &before), (&args.after, &after)] {
        if let Some(objection) = results::objection(result) {
            return Err(format!("compare: the run in {} {objection}", directory.display()).into());
        }
    }
    Ok(if comparison.is_worse { Verdict::Worse } else { Verdict::Pass }.exit_code())
}

/// `merge`.
pub fn merge(args: &MergeArgs) -> Done {
    let runs = args.runs.iter().map(|path| RunDir::read(path)).collect::<Result<Vec<_>, _>>()?;
    let result = results::merge::merge(&runs, &args.out, args.force)?;
    results::html::write(&args.out)?;
    if args.json {
        println!("{result:#}");
    } else {
        print!("{}", results::table::table(&result));
    }
    Ok(result["exit_code"]
        .as_u64()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(crate::COULD_NOT_RUN))
}

/// `handshakes`.
pub fn handshakes(args: &HandshakesArgs) -> Done {
    let measured = handshakes::measure(args, &engine::cut_on_interrupt()?)?;
    if args.json {
        println!("{:#}", measured.json);
    } else {
        print!("{}", handshakes::table(&measured.json));
    }
    Ok(measured.exit_code)
}

/// `verify`.
pub fn verify(args: &VerifyArgs) -> Done {
    verify::check(&args.data_dir)?;
    let ledger = Ledger::read(&args.run)?;
    host::make_room_for(0)?;
    let verification =
        verify::verify(&args.data_dir, &ledger, &ledger.audio.frames()?, usize::from(args.threads));
    let json = serde_json::to_value(&verification)?;
    if args.json {
        println!("{json:#}");
    } else {
        let mut table = String::new();
        results::table::verification(&mut table, &json)?;
        println!("{table}\n{}", if verification.holds() { "PASS" } else { "FAIL" });
    }
    Ok(if verification.holds() { Verdict::Pass } else { Verdict::Fail }.exit_code())
}

/// `report`.
pub fn report(args: &ReportArgs) -> Done {
    results::html::write(&args.run)?;
    Ok(0)
}

/// `plan`.
pub fn plan(args: &PlanArgs) -> Done {
    let read =
        |path: &std::path::PathBuf| Ok((path.display().to_string(), results::read_result(path)?));
    let results = args.runs.iter().map(read).collect::<Result<Vec<_>, String>>()?;
    let report = args.host_report.as_deref().map(host_report).transpose()?;
    let machine =
        Machine { cores: args.cores, disk: args.disk, network: args.network, memory: args.memory };
    let traffic = args.busy_hour_attempts.zip(args.hold_time);
    let question = Question {
        calls: args.calls,
        traffic: traffic
            .map(|(attempts, hold)| Traffic::new(attempts, hold.as_secs_f64(), args.blocking)),
        machine: machine.or(report.unwrap_or_default()),
        cpu_max: args.core_cpu_max,
        max_calls: args.max_calls,
    };
    let answer = sizing::size(&results, question)?;
    if args.json {
        println!("{:#}", serde_json::to_value(&answer)?);
    } else {
        print!("{}", answer.table(question));
    }
    Ok(0)
}

/// `completions`.
pub fn completions(args: &CompletionsArgs) -> Done {
    let script = args.script(Cli::command());
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(script.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that has read enough (`| head`) is not a failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("completions: cannot write to standard output: {error}").into())
        }
        _ => Ok(0),
    }
}

/// `man`.
pub fn manual(args: &ManArgs) -> Done {
    args.write(Cli::command())?;
    Ok(0)
}

/// The facts of a doctor's report.
fn host_report(path: &Path) -> Result<Machine, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--host-report: cannot read {}: {error}", path.display()))?;
    let report = serde_json::from_str(&text)
        .map_err(|error| format!("--host-report: {} is no JSON: {error}", path.display()))?;
    Machine::of_report(&report)
}
