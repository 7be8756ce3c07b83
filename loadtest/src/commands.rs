//! The commands, each from its flags to its exit code.

use std::error::Error;
use std::path::Path;

use serde_json::json;

use crate::capacity::{self, Search, Step};
use crate::cli::{
    CapacityArgs, CompareArgs, HandshakesArgs, MergeArgs, PlanArgs, ReportArgs, RunArgs, VerifyArgs,
};
use crate::ledger::Ledger;
use crate::plural::counted;
use crate::results::compare::Comparison;
use crate::results::sizing::{self, Question};
use crate::results::{self, RunDir};
use crate::verdict::Verdict;
use crate::{engine, files, handshakes, host, verify};

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

/// `capacity`.
pub fn capacity(args: &CapacityArgs) -> Done {
    let RunArgs { calls: calls_max, slo, .. } = &args.run;
    if slo.is_empty() {
        return Err("capacity: within what? give an objective, like --slo 'ack.p99.9<50ms'".into());
    }
    if *calls_max < 2 {
        return Err("capacity: give the most calls to try with --calls".into());
    }
    if args.run.baseline.is_some() || args.run.start_at.is_some() {
        return Err("capacity: --baseline and --start-at are for a single run".into());
    }
    if let Some(out) = &args.run.out {
        files::prepare(out, files::Holds::Search, args.run.force)?;
    }
    let cut = engine::cut_on_interrupt()?;
    let play = |calls: u64, attempt: u32| -> Result<Option<Step>, Box<dyn Error>> {
        let mut run = args.run.clone();
        run.calls = calls;
        run.out = args.run.out.as_ref().map(|out| out.join(format!("{calls}-{attempt}")));
        let played = engine::play_and_judge(&run, &cut, None)?;
        if played.plan.is_cut() {
            return Ok(None);
        }
        let step = Step::new(calls, &played.report);
        if !args.run.play.json {
            let line = format!(
                "{}: {:?} {}",
                counted(calls, "call"),
                step.verdict,
                step.reason.as_deref().unwrap_or_default()
            );
            eprintln!("{}", line.trim_end());
        }
        Ok(Some(step))
    };
    let found = capacity::find(Search::new(args.calls_min, *calls_max, args.resolution), play)?;
    let json = serde_json::to_value(&found)?;
    if let Some(out) = &args.run.out {
        files::save(&out.join(files::OF_SEARCH), format!("{json:#}\n"))?;
    }
    if args.run.play.json {
        println!("{json:#}");
    } else {
        print!("{}", found.table());
    }
    Ok(found.exit_code())
}

/// `plan`.
pub fn plan(args: &PlanArgs) -> Done {
    let read =
        |path: &std::path::PathBuf| Ok((path.display().to_string(), results::read_result(path)?));
    let results = args.runs.iter().map(read).collect::<Result<Vec<_>, String>>()?;
    let question = Question {
        calls: args.calls,
        cores: args.cores,
        cpu_max: args.core_cpu_max,
        max_calls: args.max_calls,
        disk_mb_s: args.disk_mb_s,
        network_gbit_s: args.network_gbit_s,
    };
    let answer = sizing::size(&results, question)?;
    if args.json {
        println!("{:#}", serde_json::to_value(&answer)?);
    } else {
        print!("{}", answer.table(question));
    }
    Ok(0)
}
