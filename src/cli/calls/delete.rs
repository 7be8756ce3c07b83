//! `exo-ingest calls delete`.

#![forbid(unsafe_code)]

use super::chosen::{Choice, Chosen};
use super::filter::Filter;
use super::name::display;
use super::output::{Halt, JsonList, Lines, halted};
use super::recording::Recording;
use super::seal::ask;
use super::source::Source;
use super::{DataDir, Failure, print, progress_line, remark, stop_on_signals};
use crate::archive::erase::{EraseError, Erased, erase};
use crate::archive::reader::{Call, CallEpoch, EpochState, Journal, JournalError};
use crate::archive::recovery::{NamedDamage, counted};
use crate::call::CallIdentity;
use crate::cli::archive::files::compacted_names;
use crate::handover::erasures::{Asked, AskedSink};
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Erase the audio of calls for good: overwrites it in place
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct DeleteArgs {
    #[command(flatten)]
    choice: Choice,
    /// Only show what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before many calls are deleted
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// How long to wait for a node to close the segments that hold the calls
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = humantime::parse_duration
    )]
    seal_timeout: Duration,
    #[command(flatten)]
    pub(super) data_dir: DataDir,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest calls delete acme/call-1 --data-dir /var/lib/exo-ingest
  exo-ingest calls delete --tenant acme --until 30d --dry-run --config exo.toml
  exo-ingest calls delete --tenant acme --until 30d --yes --config exo.toml

The call's ids, times, sizes and the caller's address stay, so `list` shows the call and that its \
audio was deleted. They go with the segment that holds them. The command refuses a live call; \
filters leave it out. If a call is over, but a node still writes into its segment, the node is \
asked to close it first. A call that cannot be deleted is named, the others are deleted, and the \
exit code is 1.

Filters need an answer before anything is deleted, or --yes where no terminal can be asked. They \
choose whole recordings (see `calls list --help`). A call by its name is deleted with all of its \
recordings.

If the journal goes to an archive or a message engine, the node erases the call there, too, as soon \
as they can be reached; without a node, `exo-ingest ship` does. See docs/handover.md.

The command cannot erase backups, nor overwritten blocks that a disk or a copy-on-write \
filesystem keeps.";

/// A call whose audio was erased, or would be.
#[derive(Serialize)]
struct Item {
    call: String,
    /// Numbers of its epochs.
    epochs: Vec<usize>,
    #[serde(flatten)]
    erased: Erased,
    /// Sinks that were asked to erase it, too.
    sinks: Vec<AskedSink>,
}

/// Sum over all calls.
#[derive(Debug, Default, Serialize)]
struct Summary {
    calls: u64,
    frames: u64,
    bytes: u64,
    /// Live recordings that were left out.
    live: u64,
    /// Calls that could not be deleted.
    failed: u64,
    /// Calls whose audio the disk cannot read or write in part.
    damaged: u64,
    /// Sinks that were asked to erase calls, too.
    sinks: BTreeSet<String>,
}

#[derive(Serialize)]
struct Rest<'a> {
    is_dry_run: bool,
    summary: &'a Summary,
}

/// Some epochs of a call, with their numbers.
struct Target {
    call: Call,
    numbers: Vec<usize>,
}

/// Erases the audio, and prints how much.
pub(super) fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    match args.choice.chosen()? {
        Chosen::One(identity) => one(args, &identity),
        Chosen::Many(filter) if filter.live => {
            Err(Failure::Usage("a live call cannot be deleted: leave --live out".into()))
        }
        Chosen::Many(filter) => many(args, filter),
    }
}

fn one(args: &DeleteArgs, identity: &CallIdentity) -> Result<(), Failure> {
    let source = args.data_dir.source()?;
    let target = Target::whole(source.expect(identity)?);
    let name = display(identity);
    if target.is_live() {
        return Err(Failure::Run(format!("{name} is live: delete it once it has ended")));
    }
    let (erased, sinks) = if args.dry_run {
        (target.expected(), Vec::new())
    } else {
        match everywhere(source.journal(), &target.call, Duration::ZERO) {
            Ok(done) => done,
            Err(DeleteError::Journal(EraseError::Held(_) | EraseError::HeldLater(_))) => {
                let bar = progress_line();
                bar.set_message("waiting until the segments of the call are closed");
                bar.tick();
                ask(source.journal().data_dir(), args.seal_timeout)?;
                drop(source);
                let source = args.data_dir.source()?;
                let target = Target::whole(source.expect(identity)?);
                let done = everywhere(source.journal(), &target.call, args.seal_timeout)?;
                bar.finish_and_clear();
                done
            }
            Err(error) => return Err(error.into()),
        }
    };
    let failed = unreadable(&name, &erased);
    if args.json {
        super::print_json(&Item { call: name, epochs: target.numbers, erased, sinks })?;
    } else {
        print(&format!("{}\n", sentence(&name, &erased, args.dry_run)))?;
        sinks.iter().try_for_each(|AskedSink { sink }| {
            print(&format!("{sink} is asked to erase it, too\n"))
        })?;
    }
    failed.map_or(Ok(()), Err)
}

/// Erases a call in the journal, and asks its sinks to erase it, too. Waits this long for readers
/// of its segments.
fn everywhere(
    journal: &Journal,
    call: &Call,
    patience: Duration,
) -> Result<(Erased, Vec<AskedSink>), DeleteError> {
    let start = Instant::now();
    // First: the requests must not be lost with this process once the audio is gone.
    let asked = Asked::write(journal, call, &compacted_names(call)).map_err(DeleteError::Ask)?;
    loop {
        match erase(journal, call, &mut || {}) {
            Ok(erased) => return Ok((erased, asked.sinks().to_vec())),
            // A forwarder that sees the requests closes the segment.
            Err(EraseError::Held(_)) if start.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error @ EraseError::Held(_)) => {
                asked.withdraw().map_err(DeleteError::Withdraw)?;
                return Err(error.into());
            }
            // Some of it is gone. What was asked stays asked.
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why a call was not deleted.
#[derive(Debug)]
enum DeleteError {
    /// The journal.
    Journal(EraseError),
    /// The sinks cannot be asked. Nothing was erased.
    Ask(JournalError),
    /// Nothing was erased, and the sinks are asked all the same.
    Withdraw(std::io::Error),
}

impl fmt::Display for DeleteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeleteError::Journal(error) => error.fmt(formatter),
            DeleteError::Ask(error) => write!(
                formatter,
                "nothing was erased: a sink has the call and cannot be asked to erase it: {error}"
            ),
            DeleteError::Withdraw(error) => write!(
                formatter,
                "the journal has the call still, and its sinks will erase it, since they cannot be \
                 told otherwise ({error}): run the command again"
            ),
        }
    }
}

impl From<EraseError> for DeleteError {
    fn from(error: EraseError) -> DeleteError {
        DeleteError::Journal(error)
    }
}

impl From<DeleteError> for Failure {
    fn from(error: DeleteError) -> Failure {
        Failure::Run(error.to_string())
    }
}

/// Names the places of a call that the disk cannot read or write, and says what that means.
fn unreadable(name: &str, erased: &Erased) -> Option<Failure> {
    for NamedDamage { file, offset, what, .. } in &erased.unreadable {
        remark(&format!("damage: {} at byte {offset}: {what}", file.display()));
    }
    let places = counted(erased.unreadable.len() as u64, "place");
    (!erased.unreadable.is_empty()).then(|| {
        Failure::Damaged(format!(
            "the disk cannot read or write {places} in segments of {name}: some of its audio may \
             remain there"
        ))
    })
}

fn sentence(name: &str, erased: &Erased, is_dry_run: bool) -> String {
    let (bytes, segments) = (counted(erased.bytes, "byte"), counted(erased.segments, "segment"));
    match is_dry_run {
        true => {
            let frames = counted(erased.records, "frame");
            format!("{name}: {frames} would be deleted, {bytes} of audio in {segments}")
        }
        false => format!("{name}: {bytes} of audio erased in {segments}"),
    }
}

fn many(args: &DeleteArgs, filter: &Filter) -> Result<(), Failure> {
    let is_asked = !args.dry_run && !args.yes;
    if is_asked && (args.json || !std::io::stdin().is_terminal()) {
        return Err(Failure::Usage(
            "this deletes the audio of many calls, and there is no terminal to ask: give --yes, \
             or --dry-run to see which"
                .into(),
        ));
    }
    let source = args.data_dir.source()?;
    if is_asked && !confirmed(&source, filter)? {
        return Err(Failure::Run("nothing was deleted".into()));
    }
    let stop = stop_on_signals()
        .map_err(|error| Failure::Run(format!("cannot watch for signals: {error}")))?;
    let mut lines = Lines::new();
    let mut run = Run { args, summary: Summary::default(), bar: progress_line() };
    let mut report = Report { list: None };
    if args.json {
        match JsonList::begin(&mut lines, "calls") {
            Ok(list) => report.list = Some(list),
            Err(halt) => return halted(Err(halt)),
        }
    }
    let held = run.first_pass(&source, filter, &mut report, &stop)?;
    if !held.is_empty() && !stop.load(Ordering::Relaxed) {
        run.second_pass(source, held, &mut report, &stop)?;
    }
    run.bar.finish_and_clear();
    let summary = run.summary;
    match report.list {
        Some(list) => {
            halted(list.end(&Rest { is_dry_run: args.dry_run, summary: &summary }))?;
        }
        None => print(&summary.text(args.dry_run))?,
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Run(format!(
            "a signal ended the command after {}: the same command goes on with the rest",
            counted(summary.calls, "call")
        )));
    }
    match summary.failed {
        0 if summary.damaged > 0 => Err(Failure::Damaged(format!(
            "the disk cannot read or write parts of {}: some of their audio may remain there",
            counted(summary.damaged, "call")
        ))),
        0 => Ok(()),
        failed => Err(Failure::Run(format!("{} could not be deleted", counted(failed, "call")))),
    }
}

/// Counts what would be deleted and asks on the terminal.
fn confirmed(source: &Source, filter: &Filter) -> Result<bool, Failure> {
    let mut summary = Summary::default();
    for call in source.calls()? {
        if let Some(target) = Target::of(filter.recordings(call?), &mut |_| {}) {
            summary.add(&target, &target.expected());
        }
    }
    if summary.calls == 0 {
        return Ok(true);
    }
    // A question is no result: it goes to standard error.
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "Delete the audio of {}? Type yes: ", summary.counts());
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::Run(format!("cannot read the answer: {error}")))?;
    Ok(answer.trim() == "yes")
}

/// Where the results go, call by call.
struct Report<'a> {
    list: Option<JsonList<'a>>,
}

impl Report<'_> {
    fn tell(
        &mut self,
        target: &Target,
        (erased, sinks): (Erased, Vec<AskedSink>),
        is_dry_run: bool,
    ) -> Result<(), Failure> {
        let call = display(&target.call.identity);
        let told = match &mut self.list {
            Some(list) => list.item(&Item { call, epochs: target.numbers.clone(), erased, sinks }),
            None => {
                return print(&format!("{}\n", sentence(&call, &erased, is_dry_run)));
            }
        };
        // Without a reader the calls are deleted all the same.
        match told {
            Err(Halt::Failed(failure)) => Err(failure),
            _ => Ok(()),
        }
    }
}

/// A deletion under way.
struct Run<'a> {
    args: &'a DeleteArgs,
    summary: Summary,
    bar: ProgressBar,
}

impl Run<'_> {
    /// Erases what it can. Returns the calls in segments that are held.
    fn first_pass(
        &mut self,
        source: &Source,
        filter: &Filter,
        report: &mut Report<'_>,
        stop: &AtomicBool,
    ) -> Result<Vec<(CallIdentity, Vec<usize>)>, Failure> {
        let mut held = Vec::new();
        for call in source.calls()? {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut leave_out = |live: &Recording| {
                self.summary.live += 1;
                remark(&format!("{} is live: it was left out", display(&live.identity)));
            };
            let Some(target) = Target::of(filter.recordings(call?), &mut leave_out) else {
                continue;
            };
            if self.args.dry_run {
                let expected = target.expected();
                self.summary.add(&target, &expected);
                report.tell(&target, (expected, Vec::new()), true)?;
            } else if !self.erase(source.journal(), &target, report, None)? {
                held.push((target.call.identity.clone(), target.numbers));
            }
        }
        Ok(held)
    }

    /// Asks the nodes to close the segments, and erases the calls in them.
    fn second_pass(
        &mut self,
        source: Source,
        held: Vec<(CallIdentity, Vec<usize>)>,
        report: &mut Report<'_>,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        self.bar.set_message("waiting until segments are closed");
        self.bar.tick();
        // Another reader may hold a segment, so the calls are tried whatever comes of this.
        if let Err(failure) = ask(source.journal().data_dir(), self.args.seal_timeout) {
            remark(&failure.to_string());
        }
        drop(source);
        let source = self.args.data_dir.source()?;
        for (identity, numbers) in held {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Retention may have removed it meanwhile.
            let Some(call) = source.find(&identity)? else { continue };
            let target = Target::numbered(call, &numbers);
            let patience = Some(self.args.seal_timeout);
            self.erase(source.journal(), &target, report, patience)?;
        }
        Ok(())
    }

    /// Erases a call. `false` if a segment is held and it may be tried again. The last try has
    /// patience.
    fn erase(
        &mut self,
        journal: &Journal,
        target: &Target,
        report: &mut Report<'_>,
        patience: Option<Duration>,
    ) -> Result<bool, Failure> {
        match everywhere(journal, &target.call, patience.unwrap_or_default()) {
            Ok((erased, sinks)) => {
                self.summary.add(target, &erased);
                self.summary.damaged +=
                    u64::from(unreadable(&display(&target.call.identity), &erased).is_some());
                sinks.iter().for_each(|asked| {
                    self.summary.sinks.insert(asked.sink.clone());
                });
                report.tell(target, (erased, sinks), false)?;
            }
            Err(DeleteError::Journal(EraseError::Held(_) | EraseError::HeldLater(_)))
                if patience.is_none() =>
            {
                return Ok(false);
            }
            Err(error) => {
                self.summary.failed += 1;
                remark(&format!("{}: {error}", display(&target.call.identity)));
            }
        }
        self.bar.set_message(format!("deleted: {}", self.summary.counts()));
        self.bar.tick();
        Ok(true)
    }
}

impl Target {
    /// A call with all of its epochs.
    fn whole(call: Call) -> Target {
        let numbers = (1..=call.epochs.len()).collect();
        Target { call, numbers }
    }

    /// The epochs with these numbers.
    fn numbered(call: Call, numbers: &[usize]) -> Target {
        let Call { identity, epochs } = call;
        let numbered = epochs.into_iter().zip(1..);
        let (epochs, numbers) = numbered.filter(|(_, number)| numbers.contains(number)).unzip();
        Target { call: Call { identity, epochs }, numbers }
    }

    /// The recordings that can be deleted: not the live ones, nor those that are deleted already.
    fn of(mut recordings: Vec<Recording>, leave_out: &mut dyn FnMut(&Recording)) -> Option<Target> {
        recordings.retain(|recording| {
            if recording.is_live() {
                leave_out(recording);
            }
            !recording.is_live() && !recording.is_erased()
        });
        let identity = recordings.first()?.identity.clone();
        let epochs = recordings.into_iter().flat_map(|recording| recording.epochs);
        let (numbers, epochs) = epochs.unzip();
        Some(Target { call: Call { identity, epochs }, numbers })
    }

    fn is_live(&self) -> bool {
        let mut epochs = self.call.epochs.iter();
        epochs.any(|epoch| epoch.state == EpochState::Live)
    }

    /// Frames that are not erased yet.
    fn frames(&self) -> u64 {
        let left = |epoch: &CallEpoch| epoch.frames.count().saturating_sub(epoch.erased);
        self.call.epochs.iter().map(left).sum()
    }

    /// What erasing it would erase, as far as the listing knows.
    fn expected(&self) -> Erased {
        let mut segments: Vec<(usize, usize)> = Vec::new();
        let mut expected = Erased { records: self.frames(), ..Erased::default() };
        for epoch in &self.call.epochs {
            expected.bytes += if epoch.erased == 0 { epoch.bytes } else { 0 };
            segments.extend(epoch.parts.iter().map(|part| (epoch.shard, part.segment)));
        }
        segments.sort_unstable();
        segments.dedup();
        expected.segments = segments.len() as u64;
        expected
    }
}

impl Summary {
    fn add(&mut self, target: &Target, erased: &Erased) {
        self.calls += 1;
        self.frames += target.frames();
        self.bytes += erased.bytes;
    }

    fn counts(&self) -> String {
        let [calls, frames, bytes] =
            [(self.calls, "call"), (self.frames, "frame"), (self.bytes, "byte")]
                .map(|(count, what)| counted(count, what));
        format!("{calls}, {frames}, {bytes}")
    }

    fn text(&self, is_dry_run: bool) -> String {
        let mut text = match is_dry_run {
            true => format!("would be deleted: {}\n", self.counts()),
            false => format!("deleted: {}\n", self.counts()),
        };
        if self.live > 0 {
            text += &format!("{} left out\n", counted(self.live, "live recording"));
        }
        for sink in &self.sinks {
            text += &format!("{sink} is asked to erase them, too\n");
        }
        text
    }
}
