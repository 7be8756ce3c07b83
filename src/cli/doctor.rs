#![forbid(unsafe_code)]
//! `exo-ingest doctor`: whether this host can hold N calls, and what to change if not.

mod report;
mod watch;

use super::flags::SettingFlags;
use super::{Failure, print};
use crate::auth::TokenPolicy;
use crate::config::Config;
use crate::config::settings::Settings;
use crate::control::{ControlError, try_keys, try_tls};
use crate::doctor::check::{Severity, Topic};
use crate::doctor::cpu::allowed_in;
use crate::doctor::files::FileFacts;
use crate::doctor::plan::Plan;
use crate::doctor::root::Root;
use crate::doctor::script::script;
use crate::doctor::{self, Facts, Look, Summary};
use crate::io::affinity::allowed_cpus;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Check whether this host can hold N calls, and print what to change
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    mut_args = |arg: clap::Arg| {
        let is_shown = SHOWN.iter().any(|name| arg.get_id() == name);
        if is_shown { arg } else { arg.hide_short_help(true) }
    }
)]
pub(super) struct DoctorArgs {
    #[command(subcommand)]
    command: Option<DoctorCommand>,
    /// Calls that the host must hold
    #[arg(
        long,
        value_name = "N",
        required = true,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    calls: Option<u32>,
    /// Print JSON; with --watch a line for each change
    #[arg(long)]
    json: bool,
    /// Exit with 2 on a warning too
    #[arg(long)]
    strict: bool,
    /// Look again every SECONDS, and print what changes, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "5",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    watch: Option<u64>,
    /// Print a shell script with the fixes that commands can do; it is not run
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    output_script: bool,
    /// Read /proc and /sys below DIR, and ask the kernel nothing: for images and tests
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
}

/// Flags in the short help (`-h`); `--help` shows those of all settings.
const SHOWN: [&str; 18] = [
    "calls",
    "json",
    "strict",
    "watch",
    "output_script",
    "root",
    "config",
    "set",
    "data-dir",
    "no-journal",
    "jwt-key",
    "tls-cert",
    "tls-key",
    "cpus",
    "shards",
    "listen",
    "retain-bytes",
    "retain-age",
];

#[derive(Debug, Subcommand)]
enum DoctorCommand {
    /// Say why a check matters, where its limit comes from, and how to check and fix it by hand
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// The id of a check; without it all ids are listed
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest doctor --calls 8000
  exo-ingest doctor --calls 8000 --config /etc/exo-ingest/exo-ingest.toml --strict
  exo-ingest doctor --calls 8000 --data-dir /var/lib/exo-ingest --json > host.json
  exo-ingest doctor --calls 8000 --watch 10
  exo-ingest doctor --calls 8000 --output-script > fix.sh
  exo-ingest doctor explain net.tcp_mem

With --data-dir it writes to that disk for two seconds, to a file without a name. It does not if a \
node uses the directory.
Limits of the process are those of this command: run it the way the node runs, as its user.
Exit codes: 0 no fatal check failed, 1 could not run, 2 a fatal check failed (with --strict: or a \
warning), or wrong usage.";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  exo-ingest doctor explain
  exo-ingest doctor explain limits.open_files";

/// Runs the command.
pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    if let Some(DoctorCommand::Explain { id }) = &args.command {
        return explain(id.as_deref());
    }
    // clap requires it without a subcommand.
    let calls = args.calls.unwrap_or(1) as usize;
    let config = args.flags.load("doctor", Vec::new())?;
    let examination = Examination::new(args, &config, calls)?;
    let progress = progress(&examination.plan);
    let facts = examination.look(Look::FULL);
    progress.finish_and_clear();
    if let Some(seconds) = args.watch {
        return watch::watch(&examination, facts, Duration::from_secs(seconds), args.json);
    }
    let checks = doctor::checks(&facts, &examination.plan);
    let text = match (args.json, args.output_script) {
        (true, _) => report::json(&checks, &facts.host(), calls)?,
        (_, true) => script(&checks, calls),
        _ => report::text(&checks, calls),
    };
    print(&text)?;
    verdict(Summary::of(&checks), args.strict)
}

/// What is looked at, and for which node.
struct Examination {
    root: Root,
    plan: Plan,
    /// CPUs that this process may use.
    allowed: Vec<usize>,
    settings: Settings,
}

impl Examination {
    fn new(args: &DoctorArgs, config: &Config, calls: usize) -> Result<Examination, Failure> {
        if let Some(missing) = args.root.as_deref().filter(|root| !root.is_dir()) {
            return Err(Failure::Usage(format!(
                "--root {} is not a directory: give one with a proc and a sys below it",
                missing.display()
            )));
        }
        let root = args.root.as_deref().map_or_else(Root::live, Root::copy);
        let allowed = match root.is_live() {
            // More than 1,024 CPUs: shards are not pinned there.
            true => allowed_cpus().unwrap_or_default(),
            false => allowed_in(&root),
        };
        let plan = Plan::new(&config.settings, calls, &allowed).map_err(Failure::Usage)?;
        Ok(Examination { root, plan, allowed, settings: config.settings.clone() })
    }

    fn look(&self, look: Look) -> Facts {
        Facts::read(&self.root, &self.plan, &self.allowed, files(&self.settings), look)
    }
}

/// A spinner on a terminal, while the disk is measured.
fn progress(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(match plan.data_dir {
        Some(_) => "measuring the disk for two seconds",
        None => "counting for a second",
    });
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn verdict(summary: Summary, is_strict: bool) -> Result<(), Failure> {
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what} failed"),
        count => format!("{count} {what}s failed"),
    };
    match summary {
        Summary { fatal: 1.., .. } => Err(Failure::Usage(format!(
            "{}: fix what is marked FATAL; `exo-ingest doctor explain ID` says more",
            count(summary.fatal, "fatal check")
        ))),
        Summary { warnings: 1.., .. } if is_strict => Err(Failure::Usage(format!(
            "{} (--strict): `exo-ingest doctor explain ID` says more",
            count(summary.warnings, "warning")
        ))),
        _ => Ok(()),
    }
}

/// Keys and certificates as a node would read them.
fn files(settings: &Settings) -> FileFacts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token_keys = settings.jwt_key.clone().and_then(|path| {
        let policy: TokenPolicy = settings.token_policy.clone();
        told(try_keys(path, policy)).map(|read| read.map(|it| it.keys().key_count()))
    });
    let tls = settings.tls.settings();
    let secrets = tls.iter().flat_map(|tls| tls.secret_files().into_iter().cloned());
    let secrets = secrets.filter_map(|path| {
        let mode = std::fs::metadata(&path).ok()?.permissions().mode();
        Some((path, mode))
    });
    let secrets = secrets.collect();
    let certificates = tls.and_then(|tls| told(try_tls(tls)));
    FileFacts {
        token_keys,
        certificates: certificates.map(|read| read.map(|loaded| loaded.certificates)),
        secrets,
        now,
    }
}

/// The sentence of an error. Without io_uring no file can be read; another check says so.
fn told<T>(read: Result<T, ControlError>) -> Option<Result<T, String>> {
    match read {
        Err(ControlError::Runtime(_)) => None,
        read => Some(read.map_err(|error| error.to_string())),
    }
}

/// The line for the log of a node that has started, for as many calls as it admits. Its files are
/// read already. It takes some milliseconds, and never fails.
pub(super) fn log_line(settings: &Settings) -> String {
    let (allowed, calls) = (allowed_cpus().unwrap_or_default(), settings.limits.calls_max);
    let plan = match Plan::new(settings, calls, &allowed) {
        Ok(plan) => plan,
        Err(reason) => return format!("host check: none, because {reason}"),
    };
    let files = FileFacts::default();
    let facts = Facts::read(&Root::live(), &plan, &allowed, files, Look::LIGHT);
    doctor::log_line(&doctor::checks(&facts, &plan), calls)
}

fn explain(id: Option<&str>) -> Result<(), Failure> {
    let Some(id) = id else {
        let width = doctor::topics().map(|topic| topic.id.len()).max().unwrap_or(0);
        let mut text = String::new();
        for topic in doctor::topics() {
            let severity = topic.severity.name();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:width$}  {severity:7}  {}", topic.id, topic.condition);
        }
        return print(&text);
    };
    match doctor::topics().find(|topic| topic.id == id) {
        Some(topic) => print(&explanation(topic)),
        None => {
            let near = doctor::topics()
                .max_by(|a, b| strsim::jaro(a.id, id).total_cmp(&strsim::jaro(b.id, id)));
            let near = near.map_or("", |topic| topic.id);
            Err(Failure::Usage(format!(
                "there is no check {id}: did you mean {near}? `exo-ingest doctor explain` lists all"
            )))
        }
    }
}

fn explanation(topic: &Topic) -> String {
    let severity = match topic.severity {
        Severity::Fatal => "fatal: the node does not start, or cannot hold the calls",
        Severity::Warning => "warning: the node runs, but may lose calls or answer late",
        Severity::Info => "info: an improvement that may help",
    };
    let source = topic.source.to_string();
    let parts = [
        ("severity", severity),
        ("why", topic.why),
        ("source", &source),
        ("check", topic.by_hand),
        ("fix", topic.fix),
        ("see", topic.reference),
    ];
    let mut text = format!("{}\n{}.\n\n", topic.id, topic.condition);
    for (name, part) in parts {
        text += &report::paragraph(&format!("{name:10}"), part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_depends_on_the_severity() {
        let code = |fatal, warnings, is_strict| {
            let summary = Summary { fatal, warnings, infos: 3, ..Summary::default() };
            verdict(summary, is_strict).map_or_else(|failure| failure.exit_code(), |()| 0)
        };
        assert_eq!((code(0, 0, true), code(0, 2, false)), (0, 0));
        assert_eq!((code(0, 1, true), code(1, 0, false)), (2, 2));
    }
}
