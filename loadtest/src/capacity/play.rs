//! The command: plays what the search asks for, and shows how far it is.

use std::error::Error;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::goal::{Goal, State};
use super::node::StartedNode;
use super::node_load::NodeWatch;
use super::search::{Limits, Next, Search, Why};
use super::setting::Setting;
use super::step::Step;
use super::{Answer, Capacity, SCHEMA, page, table};
use crate::cli::{CapacityArgs, RunArgs};
use crate::plural::counted;
use crate::{engine, files, host};

/// The long run is so many times as long as the others, unless `--hold` says otherwise.
const HOLD_TIMES: u32 = 3;

/// The long run may be so many times longer, to have enough samples.
const HOLD_LONGER_MAX: f64 = 10.0;

/// Seconds of a run besides its calls: getting ready, and judging.
const RUN_EXTRA: f64 = 1.5;

/// Seconds to mint a token.
const TOKEN_TIME: f64 = 0.001;

/// Calls hang up within this, seconds.
const HANG_UP_MAX: f64 = 10.0;

/// `capacity`: searches, writes the files, prints the answer. Returns the exit code.
pub fn run(args: &CapacityArgs) -> Result<u8, Box<dyn Error>> {
    check(args)?;
    if let Some(out) = &args.run.out {
        files::prepare(out, files::Holds::Search, args.run.force)?;
    }
    let cut = engine::cut_on_interrupt()?;
    let sweep: Vec<Option<u64>> = match &args.sweep {
        None => vec![None],
        Some(sweep) => sweep.cores.iter().copied().map(Some).collect(),
    };
    let mut searches = Vec::new();
    let mut failure = None;
    for cores in sweep {
        let mut session = Session::new(args, cores, &cut);
        let outcome = session.search();
        let is_over = outcome.is_err() || session.is_interrupted;
        if outcome.is_ok() || !session.steps.is_empty() {
            searches.push(session.conclude());
        }
        failure = outcome.err();
        if is_over {
            break;
        }
    }
    let setting = Setting::of_this_process(args.run.play.note.as_deref());
    let answer = Answer::new(setting, searches);
    // What was found before a failure is kept: it may have taken hours.
    if let Some(out) = args.run.out.as_ref().filter(|_| !answer.searches.is_empty()) {
        write(out, &answer)?;
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if args.run.play.json {
        println!("{:#}", serde_json::to_value(&answer)?);
    } else {
        print!("{}", answer.table());
    }
    Ok(answer.exit_code())
}

fn check(args: &CapacityArgs) -> Result<(), String> {
    if args.run.calls < 2 {
        return Err("capacity: give the most calls to try with --calls".into());
    }
    if args.run.baseline.is_some() || args.run.start_at.is_some() {
        return Err("capacity: --baseline and --start-at are for a single run".into());
    }
    if args.sweep.is_some() && args.node.is_none() {
        return Err(
            "capacity: --sweep starts a node for each step: give its command with --node, \
                    such as --node 'exo-ingest serve --shards {cores} --listen 127.0.0.1:{port} …'"
                .into(),
        );
    }
    if args.node.is_some() && (args.run.play.server_pid.is_some() || args.run.admin.is_some()) {
        return Err("capacity: --node starts the node itself and knows its process id; leave out \
                    --server-pid, and write --admin 127.0.0.1:{admin_port} into the command"
            .into());
    }
    Ok(())
}

fn write(out: &Path, answer: &Answer) -> Result<(), Box<dyn Error>> {
    let json = format!("{:#}\n", serde_json::to_value(answer)?);
    let page = page::page(answer)?;
    for (name, content) in [
        (files::OF_SEARCH, json.as_str()),
        ("capacity.schema.json", SCHEMA),
        ("capacity.md", &answer.markdown()),
        ("capacity.html", &page),
    ] {
        let path = out.join(name);
        files::save(&path, content)
            .map_err(|error| format!("--out: cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// One search.
struct Session<'a> {
    args: &'a CapacityArgs,
    cores: Option<u64>,
    cut: &'a Arc<AtomicBool>,
    goals: Vec<Goal>,
    hold: Duration,
    search: Search,
    steps: Vec<Step>,
    is_interrupted: bool,
}

impl<'a> Session<'a> {
    fn new(args: &'a CapacityArgs, cores: Option<u64>, cut: &'a Arc<AtomicBool>) -> Self {
        let goals = Goal::all(args.loss_max, &args.run.slo);
        let hold = args.hold.unwrap_or(args.run.duration * HOLD_TIMES);
        let limits = Limits {
            first: args.calls_min,
            max: args.run.calls,
            resolution_percent: args.resolution,
            repeats: args.repeats,
            hold: !hold.is_zero(),
        };
        let search = Search::new(limits, goals.len());
        Self { args, cores, cut, goals, hold, search, steps: Vec::new(), is_interrupted: false }
    }

    fn conclude(self) -> Capacity {
        Capacity::new(&self.search, &self.goals, self.steps, self.is_interrupted, self.cores)
    }

    /// Plays until the answer is known, or Ctrl-C.
    fn search(&mut self) -> Result<(), Box<dyn Error>> {
        let parent = self.args.node_dir.clone().unwrap_or_else(std::env::temp_dir);
        let command = self.args.node.as_deref();
        let node =
            command.map(|command| StartedNode::start(command, self.cores, &parent)).transpose()?;
        while let Some(next) = self.search.poll_next() {
            self.announce(next);
            let Some(step) = self.play(next, node.as_ref())? else {
                self.is_interrupted = true;
                return Ok(());
            };
            self.tell(&format!("  {}", line(&step, &self.goals)));
            self.search.handle_run(step.run());
            self.steps.push(step);
        }
        Ok(())
    }

    /// Plays one run. None if Ctrl-C ended it.
    fn play(&self, next: Next, node: Option<&StartedNode>) -> Result<Option<Step>, Box<dyn Error>> {
        let mut run = self.run_args(next, node);
        let directory = run.out.as_deref().and_then(Path::file_name);
        let directory = directory.map(|name| name.to_string_lossy().into_owned());
        run.play.title = Some(self.title(next));
        // The search has its own lines.
        run.play.quiet |= !std::io::stderr().is_terminal();
        let watch = run.admin.clone().map(NodeWatch::start).transpose()?;
        let played = engine::play_and_judge(&run, self.cut, None);
        let load = watch.and_then(NodeWatch::finish);
        let played = played?;
        if played.plan.is_cut() {
            return Ok(None);
        }
        let calls = played.plan.schedule.calls_in_all();
        let loss_max = self.args.loss_max;
        let mut step = Step::new(next, run.duration, calls, &played.report, &self.goals, loss_max);
        step.directory = directory;
        if run.play.server_pid.is_some() {
            step.memory_free_percent = host::memory_free_percent();
        }
        step.server_cpu_percent =
            step.server_cpu_percent.or(load.as_ref().and_then(|load| load.cpu_percent));
        step.node = load;
        Ok(Some(step))
    }

    /// The flags of one run.
    fn run_args(&self, next: Next, node: Option<&StartedNode>) -> RunArgs {
        let mut run = self.args.run.clone();
        run.calls = next.calls;
        run.duration = self.duration(next);
        let attempt = 1 + self.steps.iter().filter(|step| step.calls == next.calls).count();
        run.out = run.out.map(|out| {
            let out: PathBuf = match self.cores {
                None => out,
                Some(cores) => out.join(format!("cores-{cores}")),
            };
            out.join(format!("{}-{attempt}", next.calls))
        });
        if let Some(node) = node {
            run.play.url = with_authority(&run.play.url, &node.address);
            run.play.server_pid = Some(node.pid());
            run.admin.clone_from(&node.admin);
        }
        run
    }

    /// How long all calls of a run are up. The long run is lengthened until a percentile has
    /// enough samples, within limits, unless its length was asked for.
    fn duration(&self, next: Next) -> Duration {
        if next.why != Why::Hold {
            return self.args.run.duration;
        }
        let at = self.steps.iter().filter(|step| step.calls == next.calls);
        let needed = at.map(Step::seconds_needed).fold(0.0, f64::max);
        if self.args.hold.is_some() || needed <= self.hold.as_secs_f64() {
            return self.hold;
        }
        Duration::from_secs_f64(needed.min(self.hold.as_secs_f64() * HOLD_LONGER_MAX))
    }

    /// Seconds that a run takes.
    fn seconds_of(&self, next: Next) -> f64 {
        let mut run = self.args.run.clone();
        run.calls = next.calls;
        let ramp = run.ramp().unwrap_or_default().as_secs_f64();
        let calls = next.calls as f64 * TOKEN_TIME;
        ramp + self.duration(next).as_secs_f64() + ramp.min(HANG_UP_MAX) + calls + RUN_EXTRA
    }

    /// Where the search is: the run, and what is left.
    fn title(&self, next: Next) -> String {
        let [(least, fewest), (most, runs)] = self.search.estimate(|next| self.seconds_of(next));
        let done = self.steps.len();
        let cores =
            self.cores.map_or_else(String::new, |cores| format!("{}, ", counted(cores, "shard")));
        format!(
            "{cores}run {} of {} to {}: {} ({}), {} to {} left",
            done + 1,
            done + fewest,
            done + runs,
            counted(next.calls, "call"),
            table::why(next.why),
            minutes(least),
            minutes(most)
        )
    }

    /// Says what is played next, in a pipe; a terminal shows it with the run.
    fn announce(&self, next: Next) {
        if self.steps.is_empty() {
            let [(least, fewest), (most, runs)] =
                self.search.estimate(|next| self.seconds_of(next));
            self.tell(&format!(
                "capacity: {fewest} to {runs} runs, {} to {}",
                minutes(least),
                minutes(most)
            ));
            let names: Vec<String> = self.goals.iter().map(Goal::name).collect();
            self.tell(&format!("goals: {}", names.join("; ")));
        }
        if !std::io::stderr().is_terminal() {
            self.tell(&self.title(next));
        }
    }

    fn tell(&self, line: &str) {
        if !self.args.run.play.quiet {
            eprintln!("{line}");
        }
    }
}

/// What came of a run: the goals that it did not meet.
fn line(step: &Step, goals: &[Goal]) -> String {
    let judged = step.goals.iter().zip(goals);
    let words = judged.filter_map(|(judgement, goal)| match judgement.state {
        State::Met => None,
        State::Missed if judgement.is_not_carried() => None,
        State::Missed => Some(format!("{} MISSED ({})", goal.name(), judgement.measured)),
        State::TooFew | State::Unclear => {
            Some(format!("{} open ({})", goal.name(), judgement.measured))
        }
    });
    let words: Vec<String> = words.collect();
    let words = if words.is_empty() { "met every goal".to_owned() } else { words.join("; ") };
    format!("{}: {words}", counted(step.calls, "call"))
}

/// A URL with another host and port.
fn with_authority(url: &str, authority: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("ws", url));
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    format!("{scheme}://{authority}{path}")
}

fn minutes(seconds: f64) -> String {
    if seconds < 100.0 {
        return format!("{seconds:.0} s");
    }
    let minutes = seconds / 60.0;
    if minutes < 100.0 { format!("{minutes:.0} min") } else { format!("{:.1} h", minutes / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_the_search_replaces_only_the_address() {
        for (url, expected) in [
            ("ws://127.0.0.1:8443/v1/ingest", "ws://127.0.0.1:9/v1/ingest"),
            ("wss://localhost/x", "wss://127.0.0.1:9/x"),
            ("ws://host:1", "ws://127.0.0.1:9"),
        ] {
            assert_eq!(with_authority(url, "127.0.0.1:9"), expected);
        }
    }

    #[test]
    fn times_are_shown_for_people() {
        for (seconds, text) in [(0.0, "0 s"), (99.0, "99 s"), (600.0, "10 min"), (7_200.0, "2.0 h")]
        {
            assert_eq!(minutes(seconds), text);
        }
    }
}
